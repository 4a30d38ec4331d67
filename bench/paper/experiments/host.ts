/** Experiment 10: how much host memory is needed. */
import type { RunResult } from '../../../src/simulation/result.js';
import { type Cell, cellName, RANDOM_CELLS } from '../cases.js';
import { type Experiment, type Lab, MAIN_PRESETS, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { bandBy, ratioBand } from '../statistics.js';
import { figure, percent, spread, table, times } from '../words.js';

const FACTORS = [0, 1 / 8, 1 / 4, 1 / 2, 1, 2] as const;
const NAMES = ['0', '1/8', '1/4', '1/2', '1', '2'];

export const host: Experiment = {
  name: 'host',
  title: 'Host memory',
  write(lab) {
    const worst = RANDOM_CELLS.map(
      (cell) => ratioBand(runs(lab, cell, 'default', 1 / 8), runs(lab, cell, 'default', 1), ttft).mean,
    );
    const none = RANDOM_CELLS.map((cell) => ratioBand(runs(lab, cell, 'vllm-0.3', 0), runs(lab, cell, 'default', 0), ttft).mean);
    return {
      findings: [
        {
          what: 'TTFT P99 of default with an eighth of the host memory',
          published: 'limited host memory lets copies be overwritten [F]; figures not known to us',
          ours: RANDOM_CELLS.map((cell, k) => `${times(worst[k] as number)} that with all of it on ${cell.scenario}`).join(', '),
          verdict:
            Math.max(...worst) < 1.2
              ? 'It degrades little: by less than 1.2x.'
              : 'It degrades where copies no longer fit, and does not break: every request ends.',
        },
        {
          what: 'TTFT P99 without host memory, default over vllm-0.3',
          published: '-',
          ours: RANDOM_CELLS.map((cell, k) => `${times(none[k] as number)} on ${cell.scenario}`).join(', '),
          verdict:
            Math.min(...none) >= 1
              ? 'Not behind: both compute again whoever is preempted.'
              : `Behind: whoever is preempted is computed again, ${RANDOM_CELLS.map((cell) => `${recomputes(lab, cell, 'default')} times against ${recomputes(lab, cell, 'vllm-0.3')} on ${cell.scenario}`).join(', ')}.`,
        },
      ],
      body: [
        `Host blocks as a share of the scenario's (60 GiB), pattern random, ${lab.scale.sweepConversations} conversations. With none, whoever is preempted is computed again.`,
        {
          file: 'host',
          chart: {
            title: 'Tail latency by host memory',
            about: `TTFT P99, logarithmic. ${seedsLine(lab)}`,
            columns: 2,
            panelHeight: 290,
            panels: RANDOM_CELLS.map((cell) => ({
              title: cellName(cell),
              x: { name: 'host memory, times that of the scenario', categories: NAMES },
              y: { name: 'seconds', log: true },
              series: MAIN_PRESETS.map((preset) => ({
                name: preset,
                colour: colourOf(preset),
                type: 'line' as const,
                points: FACTORS.map((factor, x) => ({ x, band: bandBy(runs(lab, cell, preset, factor), ttft) })),
              })),
            })),
          },
        },
        table(
          ['scenario', 'preset', 'host memory', 'TTFT P99 s', 'TBT P99.9 s', 'tokens/s', 'recomputed', 'cached prompt tokens'],
          RANDOM_CELLS.flatMap((cell) =>
            MAIN_PRESETS.flatMap((preset) =>
              FACTORS.map((factor, k) => {
                const all = runs(lab, cell, preset, factor);
                return [
                  cell.scenario,
                  preset,
                  NAMES[k] as string,
                  spread(bandBy(all, ttft)),
                  spread(bandBy(all, ({ tbtMs }) => tbtMs.p999 / 1e3)),
                  spread(bandBy(all, ({ throughputTokensPerSecond }) => throughputTokensPerSecond)),
                  figure(bandBy(all, ({ preemptions }) => preemptions.recompute).mean),
                  percent(bandBy(all, ({ cachedTokens, promptTokens }) => cachedTokens / Math.max(1, promptTokens)).mean),
                ];
              }),
            ),
          ),
          3,
        ),
      ],
    };
  },
};

/** Without host memory. */
function recomputes(lab: Lab, cell: Cell, preset: string): string {
  return figure(bandBy(runs(lab, cell, preset, 0), ({ preemptions }) => preemptions.recompute).mean);
}

function ttft({ ttftMs }: RunResult): number {
  return ttftMs.p99 / 1e3;
}

function runs(lab: Lab, cell: Cell, preset: string, factor: number): readonly RunResult[] {
  return lab.runs(cell, preset, {
    conversations: lab.scale.sweepConversations,
    scenario: (scenario) => ({ ...scenario, hostBlocks: Math.round(factor * scenario.hostBlocks) }),
  });
}
