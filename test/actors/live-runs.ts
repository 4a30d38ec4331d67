/** Runs of the real engine, with the real swap workers, under a load that swaps, aborts, reprioritises and reweights. */
import { fileURLToPath } from 'node:url';
import { openLive } from '../../src/actors/live.js';
import type { Answer, Hands, JournalPort, Unstamped } from '../../src/actors/ports.js';
import { Runtime, type SubmitRequest } from '../../src/actors/system.js';
import { type Config, DEFAULTS, GREEDY } from '../../src/core/config.js';
import type { MetricsSnapshot } from '../../src/core/metrics.js';
import type { Limits } from '../../src/core/state.js';
import type { AbortReason, EmittedToken, RequestId } from '../../src/core/types.js';

const BLOCK_BYTES = 4096;
const CONFIG: Config = {
  ...DEFAULTS,
  model: fileURLToPath(new URL('../fixtures/models/llama3', import.meta.url)),
  deviceKvBytes: 24 * BLOCK_BYTES,
  hostKvBytes: 40 * BLOCK_BYTES,
  maxRunning: 6,
  maxBatchTokens: 48,
  maxQueued: 12,
  threads: 1,
};

/** Numbers in [0, 1) that are the same in every run (mulberry32). */
export function chances(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A request that shares a beginning with others; some are sampled and tell their logprobs. */
function drawRequest(chance: () => number, tokensMax: number): SubmitRequest {
  const whole = (below: number) => Math.floor(below * chance());
  const shared = 16 * whole(4);
  const own = 1 + whole(40);
  const stem = whole(2);
  // Some are promised a pace: half of these only that of the first token.
  const deadlines = { ttftMicros: 2000 * own, tbtMicros: own % 2 === 0 ? 4000 : null };
  const token = (position: number) => 8 + (position < shared ? (7 * stem + position) % 50 : whole(50));
  const sampling = chance() < 0.3 ? { ...GREEDY, temperature: 1, seed: BigInt(own), topLogprobs: 1 } : GREEDY;
  return {
    content: {
      promptTokens: Int32Array.from({ length: shared + own }, (_, position) => token(position)),
      stopTokens: chance() < 0.2 ? [9, 10, 11] : [],
      sampling,
      cacheSalt: '',
    },
    // Now and then more than the device holds: refused.
    maxTokens: chance() < 0.05 ? 400 : 1 + whole(tokensMax),
    priority: whole(8) / 2,
    ...tenantOf(whole(3)),
    ...(own % 3 === 0 ? {} : { deadlines }),
    labels: [`chatcmpl-${whole(1e6)}`],
  };
}

/** Of weights 1, 2 and 4. */
function tenantOf(number: number): { readonly tenant: string; readonly weight: number } {
  return { tenant: `tenant-${number}`, weight: 2 ** number };
}

export interface LiveLoad {
  readonly config: Partial<Config>;
  readonly requests: number;
  /** Of an answer, at most. */
  readonly tokensMax: number;
  /** Goes on until each of these events was taken in and effects decided on so often, or for so many requests. */
  readonly wanted?: { readonly types: readonly string[]; readonly times: number; readonly requestsMax: number };
  /** Of steps and of copies that are said to have failed. */
  readonly faults?: number;
  readonly journal: (limits: Limits) => JournalPort;
}

export interface LiveRun {
  readonly limits: Limits;
  /** How often each event came and each effect was decided. */
  readonly seen: ReadonlyMap<string, number>;
  readonly metrics: MetricsSnapshot;
  readonly seconds: number;
}

/** Fault injection: hands whose engine and copies now and then say that they failed, at what they have done in truth. */
function faultyHands(makeHands: (answer: Answer) => Hands, chance: () => number, share: number): (answer: Answer) => Hands {
  const failed = (event: Unstamped): Unstamped => {
    if (event.type === 'stepped') return { type: 'stepFailed', step: event.step, error: 'injected fault: a step' };
    if (event.type === 'landed') return { type: 'transferFailed', transfer: event.transfer, error: 'injected fault: a copy' };
    return event;
  };
  return (answer) => makeHands((event) => answer(chance() < share ? failed(event) : event));
}

const REASONS: readonly AbortReason[] = ['client', 'stop', 'stalled', 'operator'];

/**
 * About a dozen requests are alive; some leave before their end, and everybody's priority, some deadlines and the weight of a
 * tenant are drawn anew now and then.
 */
export async function runLive({ config, requests, tokensMax, wanted, faults = 0, journal }: LiveLoad): Promise<LiveRun> {
  const chance = chances(1);
  const { limits, makeHands } = openLive({ ...CONFIG, ...config });
  const seen = new Map<string, number>();
  const leavesAt = new Map<RequestId, number>();
  let submitted = 0;
  let generated = 0;
  let stop: (error: Error | null) => void = () => {};
  const over = new Promise<Error | null>((resolve) => {
    stop = resolve;
  });
  const lacks = () => wanted?.types.some((type) => (seen.get(type) ?? 0) < wanted.times) === true;
  const arrive = () => {
    const target = lacks() ? (wanted?.requestsMax ?? 0) : requests;
    while (submitted < target && leavesAt.size < 8 + 9 * chance()) {
      submitted += 1;
      leavesAt.set(submitted, chance() < 0.15 ? 5 : Number.POSITIVE_INFINITY);
      runtime.submit(submitted, drawRequest(chance, tokensMax));
    }
    if (leavesAt.size === 0) stop(null);
  };
  const reshuffle = () => {
    const some = [...leavesAt.keys()].filter(() => chance() < 0.5);
    const drawn = (id: RequestId) => ({ id, priority: Math.floor(8 * chance()) / 2 });
    const deadlines = { ttftMicros: null, tbtMicros: 10_000 };
    runtime.deliver({ type: 'reprioritized', items: some.map((id) => (id % 4 === 0 ? { ...drawn(id), deadlines } : drawn(id))) });
    runtime.reweight(`tenant-${generated % 3}`, 1 + (generated % 5));
  };
  // What clients do comes between two decisions, not from inside one.
  const tokens = (items: readonly EmittedToken[]) => {
    for (const { id, index } of items) {
      const reason = REASONS[id % REASONS.length] as AbortReason;
      if (index === leavesAt.get(id)) setImmediate(() => runtime.deliver({ type: 'aborted', id, reason }));
    }
    generated += items.length;
    if (generated % 40 < items.length) setImmediate(reshuffle);
  };
  const end = (id: RequestId) => {
    leavesAt.delete(id);
    setImmediate(arrive);
  };
  const runtime: Runtime = new Runtime({
    limits,
    makeHands: faults === 0 ? makeHands : faultyHands(makeHands, chances(2), faults),
    sink: { tokens, end, failed: stop },
    journal: journal(limits),
    witness(event, effects) {
      for (const { type } of [event, ...effects]) seen.set(type, (seen.get(type) ?? 0) + 1);
    },
  });
  const started = performance.now();
  arrive();
  const failure = await over;
  if (failure !== null) throw failure;
  await runtime.close();
  return { limits, seen, metrics: runtime.snapshot(), seconds: (performance.now() - started) / 1000 };
}
