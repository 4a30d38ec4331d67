/** Experiment 13: how fast the simulation is. */
import type { RunResult } from '../../../src/simulation/result.js';
import { CELLS, cellName } from '../cases.js';
import { type Experiment, MAIN_PRESETS } from '../experiment.js';
import { bandBy, union } from '../statistics.js';
import { figure, spread, table } from '../words.js';

export const speed: Experiment = {
  name: 'speed',
  title: 'Simulated steps per second',
  write(lab) {
    const bands = CELLS.flatMap((cell) => MAIN_PRESETS.map((preset) => bandBy(lab.runs(cell, preset), stepsPerSecond)));
    const slowest = Math.max(...CELLS.flatMap((cell) => MAIN_PRESETS.flatMap((preset) => lab.runs(cell, preset).map(seconds))));
    return {
      findings: [
        {
          what: `${lab.scale.conversations} conversations in virtual time`,
          published: '-',
          ours: `${spread(union(bands), figure)} steps a second; the slowest run took ${figure(slowest)} s`,
          verdict: slowest < 60 ? 'Each run takes less than a minute.' : 'Not every run takes less than a minute.',
        },
      ],
      body: [
        'Wall time on the machine of this report, with as many runs at a time as it has cores. A step here is a whole turn of the real runtime: events in, decision, effects, charts.',
        table(
          ['scenario, pattern', 'preset', 'steps', 'steps per second', 'seconds', 'virtual seconds'],
          CELLS.flatMap((cell) =>
            MAIN_PRESETS.map((preset) => {
              const runs = lab.runs(cell, preset);
              return [
                cellName(cell),
                preset,
                figure(bandBy(runs, ({ steps }) => steps).mean),
                spread(bandBy(runs, stepsPerSecond)),
                spread(bandBy(runs, seconds)),
                figure(bandBy(runs, ({ virtualSeconds }) => virtualSeconds).mean),
              ];
            }),
          ),
          2,
        ),
      ],
    };
  },
};

function stepsPerSecond(run: RunResult): number {
  return run.stepsPerSecond;
}

function seconds({ steps, stepsPerSecond: rate }: RunResult): number {
  return steps / Math.max(1, rate);
}
