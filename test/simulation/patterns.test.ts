import { describe, expect, it } from 'vitest';
import { Random } from '../../src/core/random.js';
import { type Pattern, Priorities, PriorityTrace, updatePeriod } from '../../src/simulation/patterns.js';

const RANDOM: Pattern = { type: 'random', phi: 0.3, frequency: 0.04 };
const MARKOV: Pattern = { type: 'markov', phi: 1, stay: 0.8, hotShare: 0.25, frequency: 0.02 };

const traces = (pattern: Pattern, count: number) => {
  const random = new Random(1);
  return Array.from({ length: count }, (_, k) => new PriorityTrace(pattern, random.fork(String(k))));
};
const share = (values: readonly boolean[]) => values.filter(Boolean).length / values.length;
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('the Random pattern', () => {
  it('redraws with probability phi, uniformly, and leaves the others as they were', () => {
    const all = traces(RANDOM, 10_000);
    const before = all.map((trace) => trace.priority);
    const changed = all.map((trace) => trace.update());
    expect(share(changed)).toBeCloseTo(0.3, 1);
    expect(all.map((trace, k) => trace.priority !== before[k])).toEqual(changed);
    for (const priorities of [before, all.map((trace) => trace.priority)]) {
      expect(mean(priorities)).toBeCloseTo(0.5, 1);
      expect(mean(priorities.map((priority) => (priority - 0.5) ** 2))).toBeCloseTo(1 / 12, 2);
      expect(Math.min(...priorities)).toBeGreaterThanOrEqual(0);
      expect(Math.max(...priorities)).toBeLessThanOrEqual(1);
    }
  });
});

describe('the Markov pattern', () => {
  it('keeps the promised share hot, from the start and in the long run', () => {
    const all = traces(MARKOV, 10_000);
    for (let update = 0; update < 20; update++) {
      expect(share(all.map((trace) => trace.hot))).toBeCloseTo(0.25, 1);
      for (const trace of all) trace.update();
    }
  });

  it('keeps a hot conversation hot with the given probability', () => {
    const hot = traces(MARKOV, 40_000).filter((trace) => trace.hot);
    for (const trace of hot) trace.update();
    expect(share(hot.map((trace) => trace.hot))).toBeCloseTo(0.8, 1);
  });

  it('serves every hot conversation before every cold one', () => {
    const all = traces(MARKOV, 2000);
    for (const trace of all) trace.update();
    const hot = all.filter((trace) => trace.hot).map((trace) => trace.priority);
    const cold = all.filter((trace) => !trace.hot).map((trace) => trace.priority);
    expect(Math.max(...hot)).toBeLessThanOrEqual(0.5);
    expect(Math.min(...cold)).toBeGreaterThan(0.5);
    expect(mean(hot)).toBeCloseTo(0.25, 1);
  });

  it('moves only the share phi of the conversations at an update', () => {
    const all = traces({ ...MARKOV, phi: 0.1 }, 10_000);
    expect(share(all.map((trace) => trace.update()))).toBeCloseTo(0.1, 1);
  });
});

describe('priorities of a run', () => {
  it('are updated every so many steps as the frequency says', () => {
    expect(updatePeriod(RANDOM)).toBe(25);
    expect(updatePeriod(MARKOV)).toBe(50);
    expect(updatePeriod({ ...RANDOM, frequency: 1 })).toBe(1);
    expect(updatePeriod({ type: 'none' })).toBe(0);
  });

  it('depend for each conversation on the seed and its own updates, not on who else is there', () => {
    const alone = new Priorities(RANDOM, 7);
    const crowded = new Priorities(RANDOM, 7);
    alone.open(5);
    for (let k = 0; k < 10; k++) crowded.open(k);
    for (let update = 0; update < 30; update++) {
      expect(alone.of(5)).toBe(crowded.of(5));
      alone.update();
      crowded.update();
      if (update < 5) crowded.close(update);
    }
    const other = new Priorities(RANDOM, 8);
    other.open(5);
    expect(other.of(5)).not.toBe(alone.of(5));
  });

  it('name who changed, and nobody who is gone', () => {
    const priorities = new Priorities({ ...RANDOM, phi: 1 }, 1);
    for (let k = 0; k < 4; k++) priorities.open(k);
    priorities.close(2);
    expect(priorities.update()).toEqual([0, 1, 3]);
    expect(() => priorities.of(2)).toThrow('not open');
  });

  it('are all equal without a pattern', () => {
    const priorities = new Priorities({ type: 'none' }, 1);
    for (let k = 0; k < 4; k++) priorities.open(k);
    expect(priorities.update()).toEqual([]);
    expect([0, 1, 2, 3].map((k) => priorities.of(k))).toEqual([0, 0, 0, 0]);
  });
});
