import { describe, expect, it } from 'vitest';
import { whyWaiting } from '../../src/core/waiting.js';
import { Bench, type BenchOptions } from './bench.js';

/** What is copied lands, and the step comes back. */
function advance(bench: Bench): void {
  while (bench.transfers.length > 0) bench.land();
  bench.step();
}

/** Two places, and a priority that changes with every step. */
function churn(options: BenchOptions, steps: number) {
  const bench = new Bench({ policy: 'priority', maxRunning: 2, deviceBlocks: 40, maxQueued: 20, ...options });
  for (let id = 1; id <= 6; id += 1) bench.arrive(id, 100, { maxTokens: 400 });
  const counts = { switches: 0, tokens: 0 };
  for (let n = 0; n < steps; n += 1) {
    while (bench.transfers.length > 0) bench.land();
    bench.prioritize([1 + (n % 6), -n]);
    advance(bench);
    for (const type of ['swapOut', 'park', 'recompute'] as const) counts.switches += bench.told(type).length;
    for (const { items } of bench.told('tokens')) counts.tokens += items.length;
  }
  bench.finishAll();
  return counts;
}

describe('a switch is weighed against what it brings', () => {
  it('and made at once where copies cost next to nothing', () => {
    const options = { hostBlocks: 100, costs: { block: 1 } };
    const [rash, weighed] = [churn(options, 100), churn({ ...options, mechanism: { weighed: true } }, 100)];
    expect(weighed.switches).toBeGreaterThan(0.95 * rash.switches);
  });

  it('so that who can only be computed again gets somewhere before it is sent away', () => {
    const options = { hostBlocks: 0, costs: { promptToken: 1000 } };
    const [rash, weighed] = [churn(options, 150), churn({ ...options, mechanism: { weighed: true } }, 150)];
    expect(weighed.switches).toBeLessThan(rash.switches / 3);
    expect(weighed.tokens).toBeGreaterThan(2 * rash.tokens);
  });

  it('and not in the midst of what would be lost', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, hostBlocks: 0, deviceBlocks: 40, mechanism: { weighed: true } });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    bench.arrive(2, 8, { priority: 0 });
    bench.step();
    expect(whyWaiting(bench.state, 2)).toMatchObject({ kind: 'worth', victim: 1 });
    bench.until(() => bench.phase(1) === 'decoding');
    const since = bench.at;
    bench.until(() => bench.phase(2) !== 'queued');
    // The twenty milliseconds that its prompt takes to be computed again, by the step that was under way then.
    expect(bench.at - since).toBeGreaterThan(200 * 100);
    expect(bench.at - since).toBeLessThan(210 * 100 + 2 * 10_000);
    expect(bench.told('recompute')).toMatchObject([{ id: 1, cause: { why: 'outranked', by: 2 } }]);
  });

  it('so that a feedback queue that lifts the starving comes to an end where nothing can be kept', () => {
    const bench = new Bench({
      policy: 'mlfq',
      maxRunning: 2,
      hostBlocks: 0,
      deviceBlocks: 30,
      costs: { step: 100_000, promptToken: 10_000 },
      mechanism: { weighed: true },
    });
    for (let id = 1; id <= 6; id += 1) bench.arrive(id, 200, { maxTokens: 30 });
    bench.until(() => bench.state.requests.size === 0);
  });
});

describe('whoever has waited too long', () => {
  /** Steps of a tenth of a second; two seconds without one are too long. */
  const options = {
    maxRunning: 1,
    deviceBlocks: 40,
    maxQueued: 20,
    costs: { step: 100_000, promptToken: 0 },
    mechanism: { starvationSeconds: 2 },
  } as const;

  /** The longest that one of these was in no step. */
  function longestWait(bench: Bench, ids: readonly number[], steps: number): number {
    const last = new Map(ids.map((id) => [id, bench.at]));
    let longest = 0;
    for (let n = 0; n < steps; n += 1) {
      while (bench.transfers.length > 0) bench.land();
      for (const [id] of bench.stepItems ?? []) if (last.has(id as number)) last.set(id as number, bench.at);
      bench.step();
      for (const [id, at] of last) if (bench.phase(id) !== 'done') longest = Math.max(longest, bench.at - at);
    }
    return longest;
  }

  it('goes first for a while, also behind an endless row of higher priority', () => {
    const starved = (mechanism: BenchOptions['mechanism']) => {
      const bench = new Bench({ policy: 'priority', ...options, ...(mechanism && { mechanism }) });
      bench.arrive(1, 8, { priority: 9, maxTokens: 500 });
      bench.step();
      for (let id = 2; id < 8; id += 1) bench.arrive(id, 8, { maxTokens: 500 });
      return longestWait(bench, [1], 200);
    };
    expect(starved({ starvationSeconds: 0 })).toBeGreaterThan(15e6);
    // The others of the row starve as well, and each may have begun to before it.
    expect(starved(options.mechanism)).toBeLessThan(2e6 + 6 * (0.3e6 + 0.2e6));
  });

  it('waits at most so long, and for those who have waited longer', () => {
    for (const policy of ['priority', 'fair'] as const) {
      const bench = new Bench({ policy, ...options });
      const ids = [1, 2, 3, 4, 5];
      for (const id of ids) bench.arrive(id, 8, { maxTokens: 500 });
      // Each of four before it is served for an eighth of two seconds, rounded up to steps, and two steps pass in between.
      expect(longestWait(bench, ids, 400)).toBeLessThan(2e6 + 4 * (0.3e6 + 0.2e6));
    }
  });

  it('gets an eighth of the places, however many starve', () => {
    const bench = new Bench({
      policy: 'priority',
      ...options,
      maxRunning: 16,
      maxQueued: 100,
      deviceBlocks: 200,
      hostBlocks: 400,
    });
    for (let id = 1; id <= 40; id += 1) bench.arrive(id, 8, { priority: 9, maxTokens: 500 });
    bench.step();
    for (let id = 41; id <= 70; id += 1) bench.arrive(id, 8, { maxTokens: 500 });
    for (let n = 0; n < 80; n += 1) {
      advance(bench);
      if (n > 20) expect(bench.state.active.filter(({ priority }) => priority === 9).length).toBeLessThanOrEqual(2);
    }
    expect(bench.state.active.filter(({ lifted }) => lifted).length).toBe(2);
  });

  it('takes nothing from other tenants', () => {
    const gap = (starvationSeconds: number) => {
      const bench = new Bench({ policy: 'fair', ...options, maxRunning: 2, mechanism: { starvationSeconds, quantumTokens: 16 } });
      for (let id = 1; id <= 12; id += 1)
        bench.arrive(id, 8, { tenant: id % 4 === 0 ? 'few' : 'many', priority: id % 3, maxTokens: 500 });
      let largest = 0;
      for (let n = 0; n < 400; n += 1) {
        advance(bench);
        const [few, many] = ['few', 'many'].map((tenant) => bench.state.accounts.get(tenant)?.served ?? 0) as [number, number];
        largest = Math.max(largest, Math.abs(few - many));
      }
      return largest;
    };
    expect(gap(2)).toBeLessThanOrEqual(gap(0) + 32);
  });
});

describe('earliest deadline first', () => {
  const edf = (options: BenchOptions = {}) => new Bench({ policy: 'edf', maxRunning: 1, deviceBlocks: 60, ...options });

  it('serves whose first token is due earliest, and those last who were promised nothing', () => {
    const bench = edf();
    bench.arrive(1, 8, { maxTokens: 1 });
    bench.arrive(2, 8);
    bench.arrive(3, 8, { ttftMicros: 2e6, maxTokens: 1 });
    bench.arrive(4, 8, { ttftMicros: 1e6, maxTokens: 1 });
    const order: number[] = [];
    bench.until(() => {
      for (const { id } of bench.told('finish')) order.push(id);
      return order.length === 3;
    });
    expect(order).toEqual([1, 4, 3]);
  });

  it('lets who is ahead of its pace wait for one whose token is due, and takes it back in time', () => {
    const bench = edf({ mechanism: { quantumTokens: 0 } });
    bench.arrive(1, 8, { ttftMicros: 50_000, tbtMicros: 50_000, maxTokens: 60 });
    for (let n = 0; n < 10; n += 1) bench.step();
    bench.arrive(2, 8, { ttftMicros: 100_000, tbtMicros: 50_000, maxTokens: 60 });
    bench.step();
    expect(bench.phases(1, 2)).toEqual(['swapping-out', 'prefilling']);
    bench.until(() => bench.phase(1) === 'decoding');
    expect(bench.request(2).due).toBeGreaterThan(bench.request(1).due - 50_000);
  });

  it('takes new deadlines at once, for who runs and for who waits', () => {
    const bench = edf();
    bench.arrive(1, 8, { ttftMicros: 1e6, tbtMicros: 1e5 });
    bench.arrive(2, 8, { ttftMicros: 5e6, tbtMicros: 1e5 });
    bench.step();
    bench.promise(2, 1, 1e5);
    bench.step();
    expect(bench.phases(1, 2)).toEqual(['swapping-out', 'prefilling']);
    bench.promise(1, 0, 0);
    bench.until(() => bench.phase(1) === 'decoding');
    expect(bench.phase(2)).not.toBe('decoding');
  });

  it('has those who were promised nothing due when they would starve', () => {
    const bench = edf({ mechanism: { starvationSeconds: 2 }, costs: { step: 100_000 } });
    bench.arrive(1, 8, { ttftMicros: 1e5, tbtMicros: 1e5, maxTokens: 500 });
    bench.arrive(2, 8, { maxTokens: 500 });
    bench.until(() => bench.request(2).generated > 0);
    expect(bench.at).toBeLessThan(2.5e6);
  });
});
