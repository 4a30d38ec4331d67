/**
 * What a decision costs: the core alone, on virtual answers, with N requests alive of which up to 256 run, under
 * memory pressure (so that it swaps). Prints decisions per second and how that grows with N.
 *
 *   node dist/bench/core.js [--quick] [--json]
 */
import { createHash } from 'node:crypto';
import { Random } from '../src/core/random.js';
import { decide } from '../src/core/scheduler.js';
import { checkState, createState, type State } from '../src/core/state.js';
import type { Effect, Event } from '../src/core/types.js';

const quick = process.argv.includes('--quick');
const STEPS = quick ? 300 : 1000;

interface Row {
  readonly live: number;
  readonly running: number;
  readonly policy: string;
  readonly microsPerStep: number;
  readonly decisionsPerSecond: number;
  readonly swaps: number;
  readonly hash: string;
}

/** Keeps `live` requests alive for `STEPS` steps; every transfer lands before the step that follows it ends. */
function measure(live: number, policy: 'fcfs' | 'priority'): Row {
  const running = Math.min(256, live);
  const random = new Random(live);
  const state = createState({
    policy,
    deviceBlocks: running * 7,
    hostBlocks: live * 24,
    maxBatchTokens: 1024,
    maxRunning: running,
    maxQueued: 10 * live,
  });
  const hash = createHash('sha256');
  const totals = { micros: 0, decisions: 0, steps: 0, swaps: 0 };
  let id = 0;
  let at = 0;
  let step: Extract<Effect, { type: 'step' }> | null = null;
  let transfers: number[] = [];
  const send = (event: Event) => {
    const started = process.hrtime.bigint();
    const effects = decide(state, event);
    totals.micros += Number(process.hrtime.bigint() - started) / 1000;
    totals.decisions += 1;
    for (const effect of effects) {
      if (effect.type === 'step') step = effect;
      if (effect.type === 'swapOut' || effect.type === 'swapIn') transfers.push(effect.transfer);
      if (effect.type === 'swapOut') totals.swaps += 1;
    }
    hash.update(`${effects.length} `);
  };
  const arrive = () => {
    id += 1;
    send({
      type: 'arrived',
      at,
      id,
      promptTokens: 10 + random.int(30),
      maxTokens: 50 + random.int(300),
      priority: random.int(8),
      tenant: '',
    });
  };
  const turn = () => {
    at += 10_000;
    while (state.requests.size < live) arrive();
    const landed = transfers;
    transfers = [];
    for (const transfer of landed) send({ type: 'landed', at, transfer, micros: 100 });
    // Priorities change while requests run, as in the paper: this is what makes preemption an everyday matter.
    if (policy === 'priority') send({ type: 'reprioritized', at, id: 1 + random.int(id), priority: random.int(8) });
    const done = step;
    step = null;
    if (done === null) return;
    const items = done.items.map((item) => ({
      id: item.id,
      count: item.count,
      token: item.sample ? 1 : -1,
      ended: false,
      logprobs: null,
    }));
    send({ type: 'stepped', at, step: done.step, micros: 10_000, items });
    totals.steps += 1;
  };
  for (let n = 0; n < STEPS / 5; n += 1) turn(); // warm up
  Object.assign(totals, { micros: 0, decisions: 0, steps: 0, swaps: 0 });
  for (let n = 0; n < STEPS; n += 1) turn();
  checkState(state satisfies State);
  if (totals.swaps === 0) throw new Error('this load does not swap: it would measure the easy half');
  return {
    live,
    running,
    policy,
    microsPerStep: totals.micros / totals.steps,
    decisionsPerSecond: totals.decisions / (totals.micros / 1e6),
    swaps: totals.swaps,
    hash: hash.digest('hex').slice(0, 12),
  };
}

const sizes = quick ? [64, 256] : [64, 256, 1024, 4096];
const rows = (['fcfs', 'priority'] as const).flatMap((policy) => sizes.map((live) => measure(live, policy)));
if (process.argv.includes('--json')) {
  console.log(JSON.stringify(rows));
} else {
  console.log('policy    live  running  us/step  decisions/s  swaps  hash');
  for (const row of rows) {
    const { policy, live, running, microsPerStep, decisionsPerSecond, swaps, hash } = row;
    console.log(
      `${policy.padEnd(8)} ${String(live).padStart(5)} ${String(running).padStart(8)} ${microsPerStep.toFixed(1).padStart(8)} ` +
        `${Math.round(decisionsPerSecond).toString().padStart(12)} ${String(swaps).padStart(6)}  ${hash}`,
    );
  }
}
