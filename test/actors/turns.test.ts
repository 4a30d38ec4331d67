/** Who computes and who waits, as those are told who ask for it. */
import { describe, expect, it } from 'vitest';
import type { Turn } from '../../src/actors/ports.js';
import { Runtime } from '../../src/actors/system.js';
import { aheadOf, placesOf } from '../../src/actors/turns.js';
import { GREEDY } from '../../src/core/config.js';
import type { Limits } from '../../src/core/state.js';
import type { Effect } from '../../src/core/types.js';
import { Bench, PLAIN } from '../core/bench.js';

const LIMITS: Limits = {
  policy: 'priority',
  mechanism: PLAIN,
  deviceBlocks: 16,
  hostBlocks: 32,
  blockBytes: 4096,
  maxBatchTokens: 64,
  maxRunning: 1,
  maxQueued: 4,
};

/** A runtime whose steps and transfers come back when the test says so. */
function runtimeOf(limits: Limits) {
  const turns: [number, Turn][] = [];
  const steps: Extract<Effect, { type: 'step' }>[] = [];
  const transfers: number[] = [];
  const retries = new Map<number, number | null>();
  let now = 0;
  const runtime = new Runtime({
    limits,
    makeHands: () => ({
      engine: { open: () => [], close() {}, step: (effect) => void steps.push(effect) },
      transfers: { start: ({ transfer }) => void transfers.push(transfer) },
      clock: { now: () => (now += 1000) },
      close: async () => {},
    }),
    sink: {
      tokens() {},
      turn: (id, turn) => void turns.push([id, turn]),
      end: (id, end) => void retries.set(id, end.retryAfterSeconds),
      failed(error) {
        throw error;
      },
    },
  });
  const submit = (id: number, priority: number, tenant = 'a', promptTokens = 8) =>
    runtime.submit(id, {
      content: { promptTokens: new Int32Array(promptTokens), stopTokens: [], sampling: GREEDY, cacheSalt: '' },
      ...{ maxTokens: 8, priority, tenant, labels: [] },
    });
  const step = () => {
    const effect = steps.shift();
    if (effect === undefined) throw new Error('no step is in flight');
    const items = effect.items.map(({ id, count, sample }) => ({
      ...{ id, count, token: sample ? 1 : -1, ended: false, logprobs: null, name: null },
    }));
    runtime.deliver({ type: 'stepped', step: effect.step, micros: 100_000, items });
  };
  const land = () => {
    const transfer = transfers.shift();
    if (transfer === undefined) throw new Error('no transfer is in flight');
    runtime.deliver({ type: 'landed', transfer, micros: 100 });
  };
  return { runtime, turns, submit, step, land, retries, transfers };
}

describe('turns', () => {
  it('are told when a request begins to compute, has to leave, and is back; nothing for tokens or for who waits', () => {
    const { turns, submit, step, land, transfers } = runtimeOf(LIMITS);
    submit(1, 5);
    expect(turns).toEqual([[1, 'running']]);
    step();
    step();
    submit(2, 1);
    submit(3, 9);
    expect(turns).toHaveLength(1);
    step();
    while (transfers.length > 0) land();
    // Who comes has its place before who goes has been copied.
    expect(turns.slice(1)).toEqual([
      [2, 'running'],
      [1, 'preempted'],
    ]);
    for (let left = 8; left > 0; left -= 1) step();
    while (transfers.length > 0) land();
    expect(turns.slice(3)).toEqual([[1, 'running']]);
  });
});

describe('places', () => {
  it('are counted from 1 by rank, over those who are queued and those who were preempted; 0 for who does not wait', () => {
    const { runtime, submit, step, land, transfers } = runtimeOf(LIMITS);
    submit(1, 5);
    step();
    submit(2, 1);
    step();
    while (transfers.length > 0) land();
    submit(3, 9);
    submit(4, 2);
    expect(runtime.places([1, 2, 3, 4, 77])).toEqual([2, 0, 3, 1, 0]);
    runtime.deliver({ type: 'reprioritized', items: [{ id: 3, priority: 0 }] });
    expect(runtime.places([4, 3])).toEqual([2, 1]);
    expect(runtime.places([])).toEqual([]);
  });
});

const PLAIN_STANDING = { weight: 1, ttftMicros: null, tbtMicros: null };

describe('a newcomer that is refused', () => {
  it('is told when one of its rank would have its turn', () => {
    const { submit, retries } = runtimeOf(LIMITS);
    submit(1, 1);
    for (const id of [2, 3, 4, 5]) submit(id, 5);
    submit(6, 9);
    submit(7, 2);
    // A second for each that ranks above it, before anything is known of how long requests take.
    expect([retries.get(6), retries.get(7)]).toEqual([5, 1]);
  });

  it('of a tenant that was served little is told less than one of the tenant that floods', () => {
    const bench = new Bench({ policy: 'vtc', maxRunning: 1, maxQueued: 8 });
    bench.arrive(1, 20, { tenant: 'flood', maxTokens: 40 });
    for (let left = 6; left > 0; left -= 1) bench.step();
    for (const id of [2, 3, 4]) bench.arrive(id, 20, { tenant: 'flood' });
    const { state } = bench;
    const arrived = {
      type: 'arrived',
      at: bench.state.now,
      labels: [],
      promptTokens: 8,
      maxTokens: 8,
      priority: 0,
      ...PLAIN_STANDING,
      names: [],
    } as const;
    // It begins where the other tenant stands, which goes on being served.
    bench.arrive(5, 4, { tenant: 'light' });
    bench.step();
    expect(placesOf(state, [5, 2, 1]).slice(0, 2)).toEqual([1, 2]);
    expect(aheadOf(state, { ...arrived, id: 9, tenant: 'flood' })).toBe(4);
    expect(aheadOf(state, { ...arrived, id: 9, tenant: 'light' })).toBe(1);
  });

  it.each(['fair', 'edf', 'vtc', 'priority', 'fcfs'] as const)('stands where it would have stood: %s', (policy) => {
    // The same arrival, once refused and once taken in.
    const full = (maxQueued: number) => {
      const bench = new Bench({ policy, maxRunning: 2, maxQueued });
      for (const id of [1, 2, 3]) bench.arrive(id, 20, { tenant: 'flood', priority: id % 2, ttftMicros: 1000 * id });
      for (let left = 9; left > 0; left -= 1) bench.step();
      bench.arrive(4, 20, { tenant: 'flood', priority: 1, ttftMicros: 9e6 });
      bench.arrive(5, 8, { tenant: 'light', ttftMicros: 5e6 });
      bench.arrive(6, 8, { tenant: 'light', weight: 2 });
      return bench;
    };
    const drawn = ['flood', 'light', 'new'].flatMap((tenant) =>
      [0, 1, 2].map((priority) => ({ tenant, priority, weight: tenant === 'light' ? 2 : 1, ttftMicros: 4e6 + priority })),
    );
    let waited = 0;
    for (const { tenant, priority, weight, ttftMicros } of drawn) {
      const bench = full(100);
      const event = { type: 'arrived', at: bench.at, id: 7, labels: [], promptTokens: 20, maxTokens: 8, names: [] } as const;
      const ahead = aheadOf(bench.state, { ...event, tenant, priority, weight, ttftMicros, tbtMicros: null });
      bench.arrive(7, 20, { tenant, priority, weight, ttftMicros });
      const [place] = placesOf(bench.state, [7]);
      if (place === 0) continue;
      waited += 1;
      expect([tenant, priority, ahead + 1]).toEqual([tenant, priority, place]);
    }
    expect(waited).toBeGreaterThan(3);
  });
});
