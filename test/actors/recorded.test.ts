/**
 * The live server and the simulator take the same decisions for the same events. A run of the real engine and the real
 * swap workers is written down, as a journal would hold it; then its events enter a fresh runtime whose hands only hold
 * the recorded clock, by the same door, and every decision is compared.
 */
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { openLive } from '../../src/actors/live.js';
import type { Unstamped } from '../../src/actors/ports.js';
import { Runtime, type SubmitRequest } from '../../src/actors/system.js';
import { type Config, DEFAULTS, GREEDY } from '../../src/core/config.js';
import type { MetricsSnapshot } from '../../src/core/metrics.js';
import type { Limits } from '../../src/core/state.js';
import type { Effect, EmittedToken, Event, PolicyName, RequestId, SteppedItem } from '../../src/core/types.js';

/** An event with its stamp, and what was decided on it. */
type Line = readonly [event: Event, effects: readonly Effect[]];

interface Recording {
  readonly limits: Limits;
  /** As text: nothing is compared that a file could not hold. */
  readonly lines: readonly string[];
  /** How often each event came and each effect was decided. */
  readonly seen: ReadonlyMap<string, number>;
  readonly metrics: MetricsSnapshot;
}

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
function chances(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A request that shares a beginning with others; some are sampled and tell their logprobs. */
function drawRequest(chance: () => number): SubmitRequest {
  const whole = (below: number) => Math.floor(below * chance());
  const shared = 16 * whole(4);
  const own = 1 + whole(40);
  const stem = whole(2);
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
    maxTokens: chance() < 0.05 ? 400 : 1 + whole(110),
    priority: whole(4),
    tenant: `tenant-${whole(3)}`,
  };
}

const REQUESTS_MIN = 120;
const REQUESTS_MAX = 3000;
/** How often each wanted effect is to be seen. Which copies are made ahead of need depends on timing. */
const TIMES = 5;

/**
 * Runs the real engine with about a dozen requests alive, some of which leave before their end, everybody's priority being
 * drawn anew now and then; until every effect that is wanted was decided some times.
 */
async function record(preset: string, policy: PolicyName, wanted: readonly string[]): Promise<Recording> {
  const chance = chances(1);
  const { limits, makeHands } = openLive({ ...CONFIG, preset, policy });
  const lines: string[] = [];
  const seen = new Map<string, number>();
  const leavesAt = new Map<RequestId, number>();
  let submitted = 0;
  let generated = 0;
  let stop: (error: Error | null) => void = () => {};
  const over = new Promise<Error | null>((resolve) => {
    stop = resolve;
  });
  const arrive = () => {
    const enough = submitted >= REQUESTS_MIN && wanted.every((type) => (seen.get(type) ?? 0) >= TIMES);
    while (!enough && submitted < REQUESTS_MAX && leavesAt.size < 8 + 9 * chance()) {
      submitted += 1;
      leavesAt.set(submitted, chance() < 0.15 ? 5 : Number.POSITIVE_INFINITY);
      runtime.submit(submitted, drawRequest(chance));
    }
    if (leavesAt.size === 0) stop(null);
  };
  const reshuffle = () => {
    const some = [...leavesAt.keys()].filter(() => chance() < 0.5);
    runtime.deliver({ type: 'reprioritized', items: some.map((id) => ({ id, priority: Math.floor(4 * chance()) })) });
  };
  // What clients do comes between two decisions, not from inside one.
  const tokens = (items: readonly EmittedToken[]) => {
    for (const { id, index } of items) {
      if (index === leavesAt.get(id)) setImmediate(() => runtime.deliver({ type: 'aborted', id, reason: 'client' }));
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
    makeHands,
    sink: { tokens, end, failed: stop },
    witness(...line: [...Line, unknown]) {
      const [event, effects] = line;
      lines.push(JSON.stringify([event, effects] satisfies Line));
      for (const { type } of [event, ...effects]) seen.set(type, (seen.get(type) ?? 0) + 1);
    },
  });
  arrive();
  const failure = await over;
  if (failure !== null) throw failure;
  await runtime.close();
  return { limits, lines, seen, metrics: runtime.snapshot() };
}

interface Replayed {
  /** Of the first decision that is another; null: they are all the same. */
  readonly divergence: number | null;
  readonly metrics: MetricsSnapshot;
}

/** Takes the same events in again. Nothing answers here: every answer is in the recording. */
function replay({ limits, lines }: Pick<Recording, 'limits' | 'lines'>): Replayed {
  let line: Line = JSON.parse(lines[0] as string) as Line;
  let decided = '';
  const runtime = new Runtime({
    limits,
    makeHands: () => ({
      engine: { open: () => (line[0].type === 'arrived' ? line[0].names : []), step() {}, close() {} },
      transfers: { start() {} },
      clock: { now: () => line[0].at },
      close: async () => {},
    }),
    sink: { tokens() {}, end() {}, failed() {} },
    witness(event, effects) {
      decided = JSON.stringify([event, effects] satisfies Line);
    },
  });
  let divergence: number | null = null;
  for (const [index, text] of lines.entries()) {
    line = JSON.parse(text) as Line;
    decided = '';
    enter(runtime, line[0]);
    if (decided === text) continue;
    divergence = index;
    break;
  }
  return { divergence, metrics: runtime.snapshot() };
}

function enter(runtime: Runtime, event: Event): void {
  if (event.type === 'arrived') {
    const { id, promptTokens, maxTokens, priority, tenant } = event;
    const content = { promptTokens: new Int32Array(promptTokens), stopTokens: [], sampling: GREEDY, cacheSalt: '' };
    runtime.submit(id, { content, maxTokens, priority, tenant });
  } else {
    const { at: _stamped, ...unstamped } = event;
    runtime.deliver(unstamped as Unstamped);
  }
}

/** What happens under every preset. */
const ALWAYS = ['admit', 'prefilled', 'finish', 'reject', 'aborted', 'ending', 'reprioritized'];
const SWAPS = ['swapOut', 'swapIn', 'settled'];
const recordings: [preset: string, policy: PolicyName, wanted: string[]][] = [
  ['default', 'priority', [...SWAPS, 'mirror', 'prefetch', 'resume']],
  ['default', 'vtc', [...SWAPS, 'mirror']],
  ['default+partial-paced', 'priority', [...SWAPS, 'mirror', 'park']],
  ['fastswitch', 'priority', [...SWAPS, 'recompute']],
  ['vllm-0.3', 'priority', SWAPS],
  ['vllm-1', 'priority', ['recompute']],
  ['fastserve', 'mlfq', [...SWAPS, 'prefetch']],
];

describe('the live server and the simulator take the same decisions for the same events', () => {
  it.each(recordings)('under %s by %s', { timeout: 120_000 }, async (preset, policy, more) => {
    const wanted = [...ALWAYS, ...more];
    const recording = await record(preset, policy, wanted);
    const { lines, seen, metrics } = recording;
    console.log(
      `${preset} by ${policy}: ${lines.length} events; ${[...seen].map(([type, count]) => `${count} ${type}`).join(', ')}`,
    );
    for (const type of wanted) expect(seen.get(type) ?? 0, type).toBeGreaterThanOrEqual(TIMES);
    expect(replay(recording)).toEqual({ divergence: null, metrics });
  });
});

describe('an event that is another', () => {
  let recording: Recording;
  let lines: Line[];
  beforeAll(async () => {
    recording = await record('default', 'priority', [...ALWAYS, ...SWAPS]);
    lines = recording.lines.map((text) => JSON.parse(text) as Line);
  }, 120_000);

  /** The first line of the second half whose event changes; what was decided on it stays as it was recorded. */
  function changed(change: (event: Event, effects: readonly Effect[]) => Event | null): { at: number; changed: string[] } {
    for (let at = lines.length >> 1; at < lines.length; at += 1) {
      const [event, effects] = lines[at] as Line;
      const other = change(event, effects);
      if (other !== null) return { at, changed: recording.lines.with(at, JSON.stringify([other, effects] satisfies Line)) };
    }
    throw new Error('nothing to change in the second half');
  }
  const divergenceOf = (changedLines: readonly string[]) => replay({ limits: recording.limits, lines: changedLines }).divergence;

  it('leads to another decision at once: a token that ends its request', () => {
    const { at, changed: other } = changed((event, effects) => {
      if (event.type !== 'stepped' || effects.some(({ type }) => type === 'finish')) return null;
      const ended = event.items.findIndex(({ token }) => token >= 0);
      return ended < 0
        ? null
        : { ...event, items: event.items.with(ended, { ...(event.items[ended] as SteppedItem), ended: true }) };
    });
    expect(divergenceOf(other)).toBe(at);
  });

  it('leads to another decision at once: a swap that fails', () => {
    const { at, changed: other } = changed((event, effects) => {
      if (event.type !== 'landed' || !effects.some(({ type }) => type === 'settled')) return null;
      return { type: 'transferFailed', at: event.at, transfer: event.transfer, error: 'flipped' };
    });
    expect(divergenceOf(other)).toBe(at);
  });

  it('leads to another decision then or later: a prompt that is longer', () => {
    const { at, changed: other } = changed((event, effects) => {
      const refused = effects.some(({ type }) => type === 'reject');
      // The names of its full blocks stay what they are.
      if (event.type !== 'arrived' || refused || event.promptTokens % 16 === 15) return null;
      return { ...event, promptTokens: event.promptTokens + 1 };
    });
    expect(divergenceOf(other)).toBeGreaterThanOrEqual(at);
  });

  it('leads to another decision then or later: an abort that never came', () => {
    const at = lines.findIndex(([{ type }, effects]) => type === 'aborted' && effects.length > 0);
    expect(divergenceOf(recording.lines.toSpliced(at, 1))).toBeGreaterThanOrEqual(at);
  });
});
