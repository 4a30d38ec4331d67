/** The pictures that the board shows, from the machines themselves; here is only where their states would best stand. */
import { requestMachine } from '../../statecharts/request.js';
import { serverMachine } from '../../statecharts/server.js';
import { chartOf } from './graph.js';
import { layOut, type Wish } from './layout.js';
import { svgOf } from './svg.js';

const REQUEST: Wish = {
  direction: 'TB',
  rows: [
    ['queued'],
    ['running.prefilling', '', 'swapping-in'],
    ['', 'running.resumed', 'swapped'],
    ['running.decoding', '', 'swapping-out'],
    ['done'],
  ],
  stateSize: [108, 52],
  gap: [60, 34],
};

const SERVER: Wish = {
  direction: 'LR',
  rows: [['starting'], ['ready'], ['draining'], ['stopped', 'failed']],
  stateSize: [74, 32],
  gap: [28, 62],
};

/** SVG by the name of the machine. */
export async function pictures(): Promise<Map<string, string>> {
  const drawn = new Map<string, string>();
  for (const [machine, wish] of [
    [requestMachine, REQUEST],
    [serverMachine, SERVER],
  ] as const) {
    const chart = chartOf(machine);
    drawn.set(chart.name, svgOf(chart, await layOut(chart, wish)));
  }
  return drawn;
}
