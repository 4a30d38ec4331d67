/** Experiment 3: the tails of time to first token and of time between tokens, and how much shorter they become. */
import type { RunResult } from '../../../src/simulation/result.js';
import { CELLS, type Cell, cellName } from '../cases.js';
import { type Experiment, type Lab, MAIN_PRESETS, type Plot, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { type Band, bandBy, ratioBand } from '../statistics.js';
import { type Finding, figure, first, spread, table, times } from '../words.js';

interface Metric {
  readonly name: string;
  /** Seconds. */
  readonly value: (run: RunResult) => number;
}

export const TAILS: readonly Metric[] = [
  { name: 'TTFT P95', value: ({ ttftMs }) => ttftMs.p95 / 1e3 },
  { name: 'TTFT P99', value: ({ ttftMs }) => ttftMs.p99 / 1e3 },
  { name: 'TTFT P99.9', value: ({ ttftMs }) => ttftMs.p999 / 1e3 },
  { name: 'TBT P99', value: ({ tbtMs }) => tbtMs.p99 / 1e3 },
  { name: 'TBT P99.9', value: ({ tbtMs }) => tbtMs.p999 / 1e3 },
];
const TTFT = TAILS.slice(0, 3);
const TBT = TAILS.slice(4);

const WINDOWS = { ttft: [1.4, 5.8], all: [1.4, 11.2] } as const;

export const tails: Experiment = {
  name: 'tails',
  title: 'Tail latency by model and pattern',
  write(lab) {
    return {
      findings: [
        finding(lab, 'TTFT P95, P99, P99.9: fastswitch over vllm-0.3', '1.4x to 5.8x [F]', TTFT, WINDOWS.ttft),
        finding(lab, 'TBT P99.9: fastswitch over vllm-0.3', 'up to 11.2x [F], read as 1.4x to 11.2x', TBT, WINDOWS.all),
        against(lab, 'vllm-0.3'),
        against(lab, 'fastswitch'),
      ],
      body: [
        ...['llama8b-a10', 'qwen32b-a100'].map((scenario) => plot(lab, scenario)),
        'Seconds:',
        table(
          ['scenario, pattern', 'preset', ...TAILS.map(({ name }) => name)],
          CELLS.flatMap((cell) =>
            MAIN_PRESETS.map((preset) => [
              cellName(cell),
              preset,
              ...TAILS.map(({ value }) => spread(bandBy(lab.runs(cell, preset), value))),
            ]),
          ),
          2,
        ),
        'How many times shorter, seed by seed:',
        table(
          ['scenario, pattern', 'comparison', ...TAILS.map(({ name }) => name), 'throughput'],
          CELLS.flatMap((cell) =>
            (
              [
                ['fastswitch', 'vllm-0.3'],
                ['default', 'vllm-0.3'],
                ['default', 'fastswitch'],
              ] as const
            ).map(([better, worse]) => [
              cellName(cell),
              `${better} over ${worse}`,
              ...TAILS.map((metric) => spread(speedup(lab, cell, worse, better, metric), times)),
              spread(throughputGain(lab, cell, worse, better), times),
            ]),
          ),
          2,
        ),
        crowding(lab),
      ],
    };
  },
};

export function speedup(lab: Lab, cell: Cell, worse: string, better: string, { value }: Metric): Band {
  return ratioBand(lab.runs(cell, worse), lab.runs(cell, better), value);
}

function throughputGain(lab: Lab, cell: Cell, worse: string, better: string): Band {
  return ratioBand(lab.runs(cell, better), lab.runs(cell, worse), (run) => run.throughputTokensPerSecond);
}

function finding(
  lab: Lab,
  what: string,
  published: string,
  metrics: readonly Metric[],
  window: readonly [number, number],
): Finding {
  const [low, high] = window;
  const ratios = CELLS.flatMap((cell) => metrics.map((metric) => speedup(lab, cell, 'vllm-0.3', 'fastswitch', metric).mean));
  const below = ratios.filter((ratio) => ratio < low).length;
  const above = ratios.filter((ratio) => ratio > high).length;
  const inside = ratios.length - below - above;
  const outside = [
    ...(below > 0 ? [`${below} below`] : []),
    ...(above > 0 ? [`${above} above, which depends on how far the baseline is overloaded (see the end of this section)`] : []),
  ];
  return {
    what,
    published,
    ours: `${times(Math.min(...ratios))} to ${times(Math.max(...ratios))}`,
    verdict:
      outside.length === 0
        ? `Reproduced: all ${ratios.length} ratios are within the published range.`
        : `${inside === 0 ? 'Not reproduced' : 'Reproduced in part'}: ${inside} of ${ratios.length} ratios are within, ${outside.join('; ')}.`,
  };
}

/** Ours against another: where it is ahead, and where by little or not. */
function against(lab: Lab, other: string): Finding {
  const ratios = CELLS.flatMap((cell) =>
    TAILS.map((metric) => ({ where: `${metric.name} on ${cellName(cell)}`, ...speedup(lab, cell, other, 'default', metric) })),
  );
  const weak = ratios.filter(({ mean }) => mean < 1.2).sort((a, b) => a.mean - b.mean);
  const means = ratios.map(({ mean }) => mean);
  return {
    what: `All of these tails: default over ${other}`,
    published: '-',
    ours: `${times(Math.min(...means))} to ${times(Math.max(...means))}`,
    verdict:
      weak.length === 0
        ? 'Better by 1.2x or more everywhere.'
        : `Better by less than 1.2x, or worse, in ${weak.length} of ${ratios.length}: ${first(weak.map(({ where, mean }) => `${where} ${times(mean)}`))}.`,
  };
}

/** Ratios of queueing times say more about how long an overload lasts than about what overloads. */
function crowding(lab: Lab): string {
  const lines = CELLS.map((cell) => {
    const seconds = (preset: string) => bandBy(lab.runs(cell, preset), ({ virtualSeconds }) => virtualSeconds).mean;
    return `${cellName(cell)}: ${MAIN_PRESETS.map((preset) => `${preset} ${figure(seconds(preset))} s`).join(', ')}`;
  });
  return `Virtual time from the first arrival to the last token: ${lines.join('; ')}. Where the baseline takes much longer than the others for the same requests it cannot keep up with the arrivals: its queue grows to the end of the run, and the ratios of TTFT grow with the length of the run and not only with the cost of a context switch.`;
}

function plot(lab: Lab, scenario: string): Plot {
  const cells = CELLS.filter((cell) => cell.scenario === scenario);
  return {
    file: `tails-${scenario}`,
    chart: {
      title: `Tail latency on ${scenario}`,
      about: `${seedsLine(lab)} Logarithmic.`,
      columns: 2,
      panelHeight: 300,
      panels: cells.map((cell) => ({
        title: cellName(cell),
        x: { name: '', categories: TAILS.map(({ name }) => name) },
        y: { name: 'seconds', log: true },
        series: MAIN_PRESETS.map((preset) => ({
          name: preset,
          colour: colourOf(preset),
          type: 'bar' as const,
          points: TAILS.map(({ value }, x) => ({ x, band: bandBy(lab.runs(cell, preset), value) })),
        })),
      })),
    },
  };
}
