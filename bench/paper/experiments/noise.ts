/** Experiment 12: decisions rest on predicted times; how they degrade as the machine departs from any prediction. */
import type { RunResult } from '../../../src/simulation/result.js';
import { type Cell, cellName, RANDOM_CELLS } from '../cases.js';
import { type Experiment, type Lab, MAIN_PRESETS, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { bandBy, ratioBand } from '../statistics.js';
import { spread, table, times } from '../words.js';

const DEVIATIONS = [0, 0.1, 0.3, 0.6, 1] as const;

export const noise: Experiment = {
  name: 'noise',
  title: 'Robustness against wrong predictions',
  write(lab) {
    const cell = RANDOM_CELLS[0] as Cell;
    const growth = (preset: string, value: (run: RunResult) => number) =>
      ratioBand(runs(lab, cell, preset, 1), runs(lab, cell, preset, 0), value).mean;
    const said = MAIN_PRESETS.map((preset) => `${preset} ${times(growth(preset, ttft))} and ${times(growth(preset, tbt))}`);
    const worse = Math.max(growth('default', ttft) / growth('vllm-0.3', ttft), growth('default', tbt) / growth('vllm-0.3', tbt));
    return {
      findings: [
        {
          what: 'TTFT P99 and TBT P99.9 with an error of 100 %, over those without error',
          published: '-',
          ours: said.join('; '),
          verdict:
            worse < 2
              ? `No decision breaks down: at its worst default suffers ${times(worse)} as much as the baseline, which predicts nothing and is made longer by the error as well.`
              : `default suffers ${times(worse)} as much as the baseline, which predicts nothing.`,
        },
      ],
      body: [
        `Every step and every chunk of a copy takes its modelled time multiplied by a normal factor around 1 with this standard deviation, cut at 0.1 (at 1.0 that also makes the mean about 10 % longer). Predictions are fitted on what was seen, so they carry the same error. ${cellName(cell)}, ${lab.scale.sweepConversations} conversations.`,
        {
          file: 'noise',
          chart: {
            title: 'Tails as the machine becomes unpredictable',
            about: `${cellName(cell)}. Logarithmic. ${seedsLine(lab)}`,
            columns: 2,
            panelHeight: 290,
            panels: [
              { title: 'TTFT P99', value: ttft },
              { title: 'TBT P99.9', value: tbt },
            ].map(({ title, value }) => ({
              title,
              x: { name: 'standard deviation of the error', categories: DEVIATIONS.map(String) },
              y: { name: 'seconds', log: true },
              series: MAIN_PRESETS.map((preset) => ({
                name: preset,
                colour: colourOf(preset),
                type: 'line' as const,
                points: DEVIATIONS.map((deviation, x) => ({ x, band: bandBy(runs(lab, cell, preset, deviation), value) })),
              })),
            })),
          },
        },
        table(
          ['preset', 'error', 'TTFT P99 s', 'TBT P99.9 s', 'tokens/s'],
          MAIN_PRESETS.flatMap((preset) =>
            DEVIATIONS.map((deviation) => {
              const all = runs(lab, cell, preset, deviation);
              return [
                preset,
                String(deviation),
                spread(bandBy(all, ttft)),
                spread(bandBy(all, tbt)),
                spread(bandBy(all, ({ throughputTokensPerSecond }) => throughputTokensPerSecond)),
              ];
            }),
          ),
        ),
      ],
    };
  },
};

function ttft({ ttftMs }: RunResult): number {
  return ttftMs.p99 / 1e3;
}

function tbt({ tbtMs }: RunResult): number {
  return tbtMs.p999 / 1e3;
}

function runs(lab: Lab, cell: Cell, preset: string, deviation: number): readonly RunResult[] {
  return lab.runs(cell, preset, { conversations: lab.scale.sweepConversations, noise: deviation });
}
