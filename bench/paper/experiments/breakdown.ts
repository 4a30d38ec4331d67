/** Experiment 2: how much of an iteration is computing and how much is waiting, from the middle to the tail. */
import type { RunResult } from '../../../src/simulation/result.js';
import { CELLS, cellName } from '../cases.js';
import { type Experiment, type Lab, MAIN_PRESETS, type Plot, seedsLine } from '../experiment.js';
import { type Series, SHADES } from '../plots.js';
import { bandBy, union } from '../statistics.js';
import { figure, percent, spread, table } from '../words.js';

const PERCENTILES = [
  ['p50', 'P50'],
  ['p95', 'P95'],
  ['p99', 'P99'],
  ['p999', 'P99.9'],
] as const;
const PUBLISHED = 0.599;

export const breakdown: Experiment = {
  name: 'breakdown',
  title: 'Where an iteration goes: inference and stall',
  write(lab) {
    const shares = (preset: string) => CELLS.map((cell) => bandBy(lab.runs(cell, preset), ({ stallShareP99 }) => stallShareP99));
    const together = (preset: string) => spread(union(shares(preset)), percent);
    const calibrated = lab.calibration.date !== null;
    const near = shares('vllm-0.3').filter(({ mean }) => Math.abs(mean - PUBLISHED) <= 0.05).length;
    return {
      findings: [
        {
          what: 'Stall share of the iterations at and above P99, vllm-0.3',
          published: 'up to 59.9 % of P99 latency under high stress [F]',
          ours: together('vllm-0.3'),
          verdict: calibrated
            ? `Within 5 points of it in ${near} of ${CELLS.length} cells. It is what the load was calibrated on, so this shows no more than that the calibration holds at this scale.`
            : `Within 5 points of it in ${near} of ${CELLS.length} cells; the load has not been calibrated.`,
        },
        {
          what: 'The same under fastswitch, and under default',
          published: '-',
          ours: `${together('fastswitch')}; ${together('default')}`,
          verdict: 'Not published as a number; swaps that are not awaited leave little to wait for.',
        },
      ],
      body: [
        "An iteration is the time from one step's return to the next step's return while anyone was there to be computed; its stall is the part before the step was launched. The pictures show percentiles of the iterations and, taken apart from them, percentiles of the stalls; the share at P99 in the table is of the same iterations.",
        ...MAIN_PRESETS.map((preset) => plot(lab, preset)),
        rows(lab),
      ],
    };
  },
};

function plot(lab: Lab, preset: string): Plot {
  return {
    file: `breakdown-${preset}`,
    chart: {
      title: `${preset}: iterations and stalls from P50 to P99.9`,
      about: `What a stall leaves of an iteration is inference. ${seedsLine(lab)}`,
      columns: 2,
      panelHeight: 230,
      panels: CELLS.map((cell) => {
        const runs = lab.runs(cell, preset);
        const series: Series[] = (
          [
            ['iteration', ({ iterationMs }: RunResult) => iterationMs],
            ['stall', ({ stallMs }: RunResult) => stallMs],
          ] as const
        ).map(([name, of], k) => ({
          name,
          type: 'bar',
          colour: SHADES[k] as string,
          points: PERCENTILES.map(([key], x) => ({ x, band: bandBy(runs, (run) => of(run)[key]) })),
        }));
        return {
          title: cellName(cell),
          x: { name: '', categories: PERCENTILES.map(([, title]) => title) },
          y: { name: 'milliseconds' },
          series,
        };
      }),
    },
  };
}

function rows(lab: Lab): string {
  return table(
    ['scenario, pattern', 'preset', 'iteration P50 ms', 'P99 ms', 'P99.9 ms', 'stall P99 ms', 'stall share at P99'],
    CELLS.flatMap((cell) =>
      MAIN_PRESETS.map((preset) => {
        const runs = lab.runs(cell, preset);
        return [
          cellName(cell),
          preset,
          ...(['p50', 'p99', 'p999'] as const).map((key) => figure(bandBy(runs, ({ iterationMs }) => iterationMs[key]).mean)),
          figure(bandBy(runs, ({ stallMs }) => stallMs.p99).mean),
          spread(
            bandBy(runs, ({ stallShareP99 }) => stallShareP99),
            percent,
          ),
        ];
      }),
    ),
    2,
  );
}
