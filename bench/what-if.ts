/**
 * The proof of `replay --what-if`: one open-loop load is really served under several settings, on the live engine, and each
 * of them is predicted from the recording of the first alone. Predicted beside measured, and what the difference of two runs
 * of one setting is, because machines are shared and drift: a prediction cannot be nearer than a repetition.
 *
 *   node dist/bench/what-if.js [--seconds 4] [--rounds 3] [--rate 50] [--device-kv 3MiB] [--seed 1] [--quick] [--json]
 *
 * Settings take turns (A B C A B C); in each round the run under `fcfs` predicts the others, once as it is and once on a
 * machine that is as many times slower as the measured run was for the same work (one number of that run, so that what is
 * left is the error of the method and not the drift of the machine). Errors are of each round; their median is reported. The
 * load is more than can be served: just below that, waits are anything on a machine that drifts. The texts are the same in every run: greedy, stop tokens ignored, lengths drawn, answers learned before.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { parseSize } from '../src/flags.js';
import { type ChangeFlags, parseChange } from '../src/replay/change.js';
import type { RunFigures } from '../src/replay/figures.js';
import type { Observed } from '../src/replay/observed.js';
import { Model, type WhatIfResult } from '../src/replay/what-if.js';
import { median } from './statistics.js';
import { drawLoad, learn, type Setting, serve } from './what-if/load.js';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    rounds: { type: 'string' },
    rate: { type: 'string', default: '50' },
    'device-kv': { type: 'string', default: '3MiB' },
    model: { type: 'string' },
    seed: { type: 'string', default: '1' },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const seconds = Number(values.seconds ?? (values.quick ? 2 : 4));
const rounds = Number(values.rounds ?? (values.quick ? 1 : 3));
const deviceKvBytes = parseSize(values['device-kv']) ?? 3 * 2 ** 20;
const lessKvBytes = Math.round(0.75 * deviceKvBytes);
/** Of models/demo. */
const LAYERS = 6;

const BASE: Setting = {
  model: values.model ?? fileURLToPath(new URL('../../models/demo', import.meta.url)),
  preset: 'default',
  policy: 'fcfs',
  deviceKvBytes,
  hostKvBytes: 2 ** 28,
  maxRunning: 64,
};

interface Case {
  readonly name: string;
  readonly setting: Partial<Setting>;
  readonly change: Partial<ChangeFlags>;
}

/** What is served, and how the same is asked of the recording. */
const CASES: readonly Case[] = [
  { name: 'priority', setting: { policy: 'priority' }, change: { policy: 'priority' } },
  { name: 'vtc', setting: { policy: 'vtc' }, change: { policy: 'vtc' } },
  { name: 'vllm-1', setting: { preset: 'vllm-1' }, change: { preset: 'vllm-1', policy: 'fcfs' } },
  { name: 'less memory', setting: { deviceKvBytes: lessKvBytes }, change: { set: [`device-kv=${lessKvBytes}`] } },
];

const METRICS: readonly { readonly title: string; readonly of: (figures: RunFigures) => number; readonly digits: number }[] = [
  { title: 'TTFT50 ms', of: ({ ttftMs }) => ttftMs.p50, digits: 1 },
  { title: 'TTFT95', of: ({ ttftMs }) => ttftMs.p95, digits: 0 },
  { title: 'TTFT99', of: ({ ttftMs }) => ttftMs.p99, digits: 0 },
  { title: 'TBT50 ms', of: ({ tbtMs }) => tbtMs.p50, digits: 2 },
  { title: 'TBT99', of: ({ tbtMs }) => tbtMs.p99, digits: 1 },
  { title: 'tokens/s', of: ({ tokensPerSecond }) => tokensPerSecond, digits: 0 },
  { title: 'preempted', of: ({ preemptions }) => preemptions.swap + preemptions.recompute, digits: 0 },
  { title: 'MiB out', of: ({ bytesOut }) => bytesOut / 2 ** 20, digits: 1 },
  { title: 'MiB in', of: ({ bytesIn }) => bytesIn / 2 ** 20, digits: 1 },
  { title: 'Jain', of: ({ fairness }) => fairness?.jain ?? 1, digits: 3 },
];

/** Of each round. */
interface Found {
  readonly measured: RunFigures[];
  readonly predicted: RunFigures[];
  /** With the speed that the machine had in the measured run. */
  readonly atSpeed: RunFigures[];
  readonly slowdowns: number[];
}

const nothing = (): Found => ({ measured: [], predicted: [], atSpeed: [], slowdowns: [] });

function line(name: string, cells: readonly string[]): void {
  console.log(name.padEnd(32) + cells.map((cell) => cell.padStart(10)).join(''));
}

function figureLine(name: string, runs: readonly RunFigures[]): void {
  line(
    name,
    METRICS.map(({ of, digits }) => median(runs.map(of)).toFixed(digits)),
  );
}

const percent = (share: number): string => `${share > 0 ? '+' : ''}${(100 * share).toFixed(1)} %`;

/** Median, over the rounds, of how far a run is from the measured one. */
function errorLine(name: string, truth: readonly RunFigures[], runs: readonly RunFigures[]): void {
  line(
    name,
    METRICS.map(({ of }) => {
      const errors = runs.flatMap((run, round) => {
        const real = of(truth[round] as RunFigures);
        return real === 0 ? [] : [of(run) / real - 1];
      });
      return errors.length === 0 ? '' : percent(median(errors));
    }),
  );
}

/** How far the worst round is from the median of the rounds: what a repetition is worth here. */
function spreadLine(name: string, runs: readonly RunFigures[]): void {
  line(
    name,
    METRICS.map(({ of }) => {
      const own = runs.map(of);
      const middle = median(own);
      return middle === 0 ? '' : `${(100 * Math.max(...own.map((value) => Math.abs(value / middle - 1)))).toFixed(1)} %`;
    }),
  );
}

function busyShare({ steps }: Observed, figures: RunFigures): number {
  return steps.reduce((sum, { launchedAt, returnedAt }) => sum + returnedAt - launchedAt, 0) / 1e6 / figures.seconds;
}

function progress(text: string): void {
  if (!values.json) process.stderr.write(`${text}\n`);
}

const turns = drawLoad({ seconds, rate: Number(values.rate), seed: Number(values.seed) });
const requests = await learn(turns, { ...BASE, deviceKvBytes: 2 ** 28 });
progress(`${requests.length} requests in ${seconds} s, ${rounds} rounds of ${CASES.length + 1} runs`);

const base = nothing();
const found = new Map<string, Found>(CASES.map(({ name }) => [name, nothing()]));
const fits: WhatIfResult['machine'][] = [];
for (let round = 0; round < rounds; round += 1) {
  const recording = await serve(requests, BASE);
  const others: Observed[] = [];
  for (const { setting } of CASES) others.push(await serve(requests, { ...BASE, ...setting }));
  // Asked when all is measured: nothing else computes while the engine does.
  const recorded = recording.figures();
  const model = new Model(recording, { layers: LAYERS });
  base.measured.push(recorded);
  for (const [k, { name, change }] of CASES.entries()) {
    const own = found.get(name) as Found;
    const other = others[k] as Observed;
    const none: ChangeFlags = { preset: null, policy: null, set: [] };
    const asked = parseChange({ ...none, ...change }, recording.limits);
    const slowdown = model.slowdown(other);
    const { changed, modelled, machine } = model.ask(asked);
    own.measured.push(other.figures());
    own.predicted.push(changed);
    own.atSpeed.push(model.ask(asked, slowdown).changed);
    own.slowdowns.push(slowdown);
    if (k > 0) continue;
    base.predicted.push(modelled);
    fits.push(machine);
  }
  const { drift, medianError } = (fits.at(-1) as WhatIfResult['machine']).steps;
  progress(
    `round ${round + 1}: fcfs ${recorded.tokensPerSecond.toFixed(0)} tokens/s, busy ${(100 * busyShare(recording, recorded)).toFixed(0)} %, ` +
      `steps fitted to ${(100 * medianError).toFixed(0)} % (median), drift ${drift.map((value) => value.toFixed(2)).join(' to ')}`,
  );
}

if (values.json) {
  console.log(JSON.stringify({ requests: requests.length, seconds, rounds, base, cases: Object.fromEntries(found), fits }));
} else {
  line(
    '',
    METRICS.map(({ title }) => title),
  );
  figureLine('fcfs, measured', base.measured);
  spreadLine('  worst round', base.measured);
  figureLine('  its own model', base.predicted);
  errorLine('  error', base.measured, base.predicted);
  for (const [name, { measured, predicted, atSpeed, slowdowns }] of found) {
    figureLine(`${name}, measured`, measured);
    spreadLine('  worst round', measured);
    figureLine('  predicted', predicted);
    errorLine('  error', measured, predicted);
    figureLine(`  at its speed (${slowdowns.map((value) => value.toFixed(2)).join(' ')})`, atSpeed);
    errorLine('  error', measured, atSpeed);
  }
}
