/** Experiment 7: blocks that need not be sent again, and tokens that need not be computed again. */
import type { RunResult } from '../../../src/simulation/result.js';
import { type Cell, cellName, RANDOM_CELLS } from '../cases.js';
import { type Experiment, type Lab, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { bandBy, ratioBand } from '../statistics.js';
import { figure, percent, spread, table } from '../words.js';

const PRESETS = ['fastswitch-reuse', 'fastswitch', 'default-reuse', 'default'] as const;
const PUBLISHED = 0.53;

export const reuse: Experiment = {
  name: 'reuse',
  title: 'KV cache reuse',
  write(lab) {
    const fewer = RANDOM_CELLS.map(
      (cell) => 1 - ratioBand(runs(lab, cell, 'fastswitch'), runs(lab, cell, 'fastswitch-reuse'), sent).mean,
    );
    const each = RANDOM_CELLS.map(
      (cell) => 1 - ratioBand(runs(lab, cell, 'fastswitch'), runs(lab, cell, 'fastswitch-reuse'), sentEach).mean,
    );
    return {
      findings: [
        {
          what: 'Blocks swapped out, fastswitch with reuse against without',
          published: '53 % fewer [R]',
          ours: `${fewer.map((share, k) => `${percent(share)} fewer on ${(RANDOM_CELLS[k] as Cell).scenario}`).join(', ')}; for each preemption: ${each.map((share) => `${percent(share)} fewer`).join(', ')}`,
          verdict: verdict(each),
        },
        {
          what: 'Prompt tokens found and not computed, default',
          published: '-',
          ours: RANDOM_CELLS.map(
            (cell) => `${percent(bandBy(runs(lab, cell, 'default'), cachedShare).mean)} on ${cell.scenario}`,
          ).join(', '),
          verdict: "A turn's prompt is the whole conversation before it, so most of it can be found while it is kept somewhere.",
        },
      ],
      body: [
        `Pattern random, ${lab.scale.sweepConversations} conversations. Blocks sent are those of swap-outs that somebody waits for; default also sends blocks ahead of need (mirrored), which is link time but nobody's waiting.`,
        {
          file: 'reuse',
          chart: {
            title: 'What a preemption sends, and what it finds on the host already',
            about: `Blocks for each preemption. ${seedsLine(lab)}`,
            columns: 2,
            panelHeight: 290,
            panels: RANDOM_CELLS.map((cell) => ({
              title: cellName(cell),
              x: { name: '', categories: PRESETS },
              y: { name: 'blocks for each preemption' },
              series: [
                {
                  name: 'sent',
                  slot: 'blocks',
                  type: 'bar' as const,
                  colour: colourOf('fastswitch'),
                  points: PRESETS.map((preset, x) => ({ x, band: bandBy(runs(lab, cell, preset), sentEach) })),
                },
                {
                  name: 'held already',
                  slot: 'blocks',
                  type: 'bar' as const,
                  colour: colourOf('default'),
                  points: PRESETS.map((preset, x) => {
                    const base = bandBy(runs(lab, cell, preset), sentEach).mean;
                    const held = bandBy(runs(lab, cell, preset), heldEach).mean;
                    return { x, base, band: { mean: base + held, low: base + held, high: base + held } };
                  }),
                },
              ],
            })),
          },
        },
        table(
          [
            'scenario',
            'preset',
            'preemptions',
            'blocks sent',
            'blocks held',
            'GiB out',
            'of it ahead',
            'GiB in',
            'prompt tokens cached',
            'prompt tokens computed',
          ],
          RANDOM_CELLS.flatMap((cell) =>
            PRESETS.map((preset) => {
              const band = (value: (run: RunResult) => number) => bandBy(runs(lab, cell, preset), value);
              return [
                cell.scenario,
                preset,
                figure(band(preemptions).mean),
                spread(band(sent)),
                figure(band(({ blocksHeld }) => blocksHeld).mean),
                figure(band(({ bytesOut }) => bytesOut / 2 ** 30).mean),
                figure(band(({ bytesMirrored }) => bytesMirrored / 2 ** 30).mean),
                figure(band(({ bytesIn }) => bytesIn / 2 ** 30).mean),
                spread(band(cachedShare), percent),
                figure(band(({ prefillTokensComputed }) => prefillTokensComputed).mean),
              ];
            }),
          ),
          2,
        ),
      ],
    };
  },
};

function preemptions({ preemptions: { swap, recompute } }: RunResult): number {
  return swap + recompute;
}

function sent({ blocksSent }: RunResult): number {
  return blocksSent;
}

function sentEach(run: RunResult): number {
  return run.blocksSent / Math.max(1, run.preemptions.swap);
}

function heldEach(run: RunResult): number {
  return run.blocksHeld / Math.max(1, run.preemptions.swap);
}

function cachedShare({ cachedTokens, promptTokens }: RunResult): number {
  return cachedTokens / Math.max(1, promptTokens);
}

function runs(lab: Lab, cell: Cell, preset: string): readonly RunResult[] {
  return lab.runs(cell, preset, { conversations: lab.scale.sweepConversations });
}

function verdict(each: readonly number[]): string {
  const [least, most] = [Math.min(...each), Math.max(...each)];
  if (Math.abs(least - PUBLISHED) <= 0.15 && Math.abs(most - PUBLISHED) <= 0.15) return 'Reproduced to within 15 points.';
  if (least > PUBLISHED) {
    return 'More is saved than published: a request is preempted again before it has grown much, so nearly all of its blocks are on the host already.';
  }
  if (most < PUBLISHED) return 'Not reproduced: less is saved than published.';
  return 'Reproduced in part: on both sides of the published figure, by scenario.';
}
