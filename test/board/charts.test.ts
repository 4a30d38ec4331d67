/** The pictures of the charts are the machines: every state and way is there, and none else. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { getStateNodes } from 'xstate/graph';
import { requestMachine } from '../../statecharts/request.js';
import { serverMachine } from '../../statecharts/server.js';
import { chartOf } from '../../tools/charts/graph.js';

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');

describe.each([
  ['request', requestMachine],
  ['server', serverMachine],
] as const)('the picture of the %s chart', (name, machine) => {
  const svg = read(`dist/src/http/board/page/charts/${name}.svg`);

  it('has every state of the machine', () => {
    const drawn = [...svg.matchAll(/<g class="state \w+" data-state="([^"]+)">/g)].map(([, state]) => state as string);
    const nodes = getStateNodes(machine).filter((node) => node.parent !== undefined);
    expect(drawn.sort()).toEqual(nodes.map(({ key }) => key).sort());
  });

  it('has every way, with its events', () => {
    const drawn = [...svg.matchAll(/<g class="way[^"]*" data-flows="([^"]+)"><title>([^<]+)<\/title>/g)];
    expect(drawn.map(([, flows]) => flows)).toEqual(
      chartOf(machine).ways.map(({ flows }) => flows.join(' ').replaceAll('>', '&gt;')),
    );
    expect(svg.match(/<text class="event"/g)?.length).toBe(drawn.length);
    const events = new Set(drawn.flatMap(([, , title]) => title?.match(/\b[A-Z][A-Z_]+\b/g) ?? []));
    const moving = machine.events.filter((event) =>
      getStateNodes(machine).some((node) => (node.transitions.get(event) ?? []).some(({ target }) => target !== undefined)),
    );
    expect([...events].sort()).toEqual([...moving].sort());
  });

  it('brings no colours, styles, scripts or names of its own', () => {
    expect(svg).not.toMatch(/<style|<script|style=|\bid=|#[0-9a-f]{3}/);
  });
});

it('the ways of the request chart are those that a request can go', () => {
  const flows = new Set(chartOf(requestMachine).ways.flatMap((way) => way.flows));
  for (const flow of [
    'queued>prefilling',
    'decoding>swapping-out',
    'prefilling>swapped',
    'swapped>decoding',
    'swapping-in>prefilling',
  ])
    expect(flows).toContain(flow);
  for (const flow of ['queued>decoding', 'swapping-out>decoding', 'done>queued']) expect(flows).not.toContain(flow);
});

it('the chart files are literals that an editor can open', () => {
  for (const name of ['request', 'server']) {
    const text = read(`statecharts/${name}.ts`);
    expect(text.match(/setup\(\{[\s\S]*\}\)\.createMachine\(\{/g)?.length, name).toBe(1);
  }
});
