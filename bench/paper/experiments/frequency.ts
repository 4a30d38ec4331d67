/** Experiment 4: throughput, by how often priorities change. */
import { CELLS, type Cell, cellName } from '../cases.js';
import { type Experiment, type Lab, MAIN_PRESETS, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { type Band, bandBy, ratioBand } from '../statistics.js';
import { spread, table, times } from '../words.js';

const FREQUENCIES = [0.01, 0.02, 0.04, 0.08] as const;
const CELLS_HERE = CELLS.filter(({ pattern }) => pattern === 'random');
const PUBLISHED_MAX = 1.44;

export const frequency: Experiment = {
  name: 'frequency',
  title: 'Throughput by update frequency',
  write(lab) {
    const gains = CELLS_HERE.flatMap((cell) => FREQUENCIES.map((each) => gain(lab, cell, 'fastswitch', each).mean));
    const ours = CELLS_HERE.flatMap((cell) => FREQUENCIES.map((each) => gain(lab, cell, 'default', each).mean));
    const [least, most] = [Math.min(...gains), Math.max(...gains)];
    return {
      findings: [
        {
          what: 'Throughput, fastswitch over vllm-0.3',
          published: 'up to 1.44x [F]; 1.33x for 8B, 1.44x for 32B [R]',
          ours: `${times(least)} to ${times(most)}`,
          verdict: verdict(least, most),
        },
        {
          what: 'Throughput, default over vllm-0.3',
          published: '-',
          ours: `${times(Math.min(...ours))} to ${times(Math.max(...ours))}`,
          verdict: 'Of our own; the same runs, the same load.',
        },
      ],
      body: [
        `${lab.scale.sweepConversations} conversations. Tokens per second of virtual time, from the first arrival to the last token; where a preset keeps up with the arrivals its throughput is the load and cannot be more.`,
        {
          file: 'frequency',
          chart: {
            title: 'Throughput as priorities change more often',
            about: `Pattern random. ${seedsLine(lab)}`,
            columns: 2,
            panelHeight: 290,
            panels: CELLS_HERE.map((cell) => ({
              title: cellName(cell),
              x: { name: 'updates per iteration', categories: FREQUENCIES.map(String) },
              y: { name: 'tokens per second' },
              series: MAIN_PRESETS.map((preset) => ({
                name: preset,
                colour: colourOf(preset),
                type: 'line' as const,
                points: FREQUENCIES.map((each, x) => ({ x, band: bandBy(runs(lab, cell, preset, each), throughput) })),
              })),
            })),
          },
        },
        table(
          ['scenario, pattern', 'updates per iteration', 'vllm-0.3 tokens/s', 'fastswitch over it', 'default over it'],
          CELLS_HERE.flatMap((cell) =>
            FREQUENCIES.map((each) => [
              cellName(cell),
              String(each),
              spread(bandBy(runs(lab, cell, 'vllm-0.3', each), throughput)),
              spread(gain(lab, cell, 'fastswitch', each), times),
              spread(gain(lab, cell, 'default', each), times),
            ]),
          ),
        ),
      ],
    };
  },
};

function throughput({ throughputTokensPerSecond }: { readonly throughputTokensPerSecond: number }): number {
  return throughputTokensPerSecond;
}

function runs(lab: Lab, cell: Cell, preset: string, each: number) {
  return lab.runs(cell, preset, { conversations: lab.scale.sweepConversations, frequency: each });
}

function gain(lab: Lab, cell: Cell, preset: string, each: number): Band {
  return ratioBand(runs(lab, cell, preset, each), runs(lab, cell, 'vllm-0.3', each), throughput);
}

function verdict(least: number, most: number): string {
  if (least < 1) return `Not reproduced: at the lower end it loses throughput (${times(least)}).`;
  if (most > 1.5 * PUBLISHED_MAX) {
    return `Larger than published: the largest gain is ${times(most / PUBLISHED_MAX)} the published one. The simulated baseline spends more of its time on awaited copies than the measured one did.`;
  }
  if (most > 1.1 * PUBLISHED_MAX) return `Above 1 everywhere; the largest gain is more than the published one.`;
  if (most < 1.1)
    return 'Above 1 but small: at these loads the baseline keeps up with most arrivals, and throughput is the load.';
  return 'Reproduced: above 1 everywhere and up to about the published gain.';
}
