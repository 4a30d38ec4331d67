import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Random } from '../../src/core/random.js';

const take = <T>(count: number, draw: () => T): T[] => Array.from({ length: count }, draw);
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const MANY = 20_000;

describe('random numbers', () => {
  it('are those of the published generator', () => {
    // Made with the reference implementation of xoshiro128** 1.1 from the state 1, 2, 3, 4; widely used as its test.
    const random = Random.fromState([1, 2, 3, 4]);
    expect(take(10, () => random.word())).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
  });

  it('start from the published seeding', () => {
    // SplitMix64 from 1234567 gives 6457827717110365317 and 3203168211198807973; low halves come first.
    const words = [6457827717110365317n, 3203168211198807973n].flatMap((word) => [word & 0xffffffffn, word >> 32n]);
    const expected = Random.fromState(words.map(Number) as [number, number, number, number]);
    const random = new Random(1234567);
    expect(take(5, () => random.word())).toEqual(take(5, () => expected.word()));
  });

  it('are the same for the same seed and others for another', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (seed) => {
        const [a, b, other] = [new Random(seed), new Random(seed), new Random(seed + 1n)];
        const numbers = take(4, () => a.word());
        expect(take(4, () => b.word())).toEqual(numbers);
        expect(take(4, () => other.word())).not.toEqual(numbers);
      }),
    );
  });

  it('stay in their range', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 2 ** 32 }), (seed, n) => {
        const random = new Random(seed);
        for (const value of take(20, () => random.next())) expect(value >= 0 && value < 1).toBe(true);
        for (const value of take(20, () => random.int(n))) expect(Number.isInteger(value) && value >= 0 && value < n).toBe(true);
        expect(random.exponential(3)).toBeGreaterThanOrEqual(0);
      }),
    );
    expect(() => new Random(1).int(0)).toThrow('an integer below 0');
    expect(() => new Random(1).int(1.5)).toThrow('an integer below 1.5');
    expect(() => new Random(1).pick([])).toThrow('an integer below 0');
  });

  it('have the distribution that their name says', () => {
    const random = new Random(11);
    const uniform = take(MANY, () => random.next());
    expect(mean(uniform)).toBeCloseTo(0.5, 1.5);
    const exponential = take(MANY, () => random.exponential(5));
    expect(mean(exponential)).toBeGreaterThan(4.85);
    expect(mean(exponential)).toBeLessThan(5.15);
    const beyondMean = exponential.filter((value) => value > 5).length / MANY;
    expect(Math.abs(beyondMean - Math.exp(-1))).toBeLessThan(0.015);
    const normal = take(MANY, () => random.normal());
    expect(Math.abs(mean(normal))).toBeLessThan(0.03);
    expect(Math.abs(mean(normal.map((value) => value * value)) - 1)).toBeLessThan(0.05);
    const within = normal.filter((value) => Math.abs(value) < 1).length / MANY;
    expect(Math.abs(within - 0.6827)).toBeLessThan(0.015);
  });

  it('favour no integer and no item', () => {
    const random = new Random(12);
    const counts = new Array<number>(6).fill(0);
    for (const value of take(MANY, () => random.int(6))) (counts[value] as number)++;
    const expected = MANY / 6;
    const chiSquare = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    expect(chiSquare).toBeLessThan(20.5); // 5 degrees of freedom: once in a thousand seeds
    expect(new Set(take(100, () => random.pick(['a', 'b', 'c'])))).toEqual(new Set(['a', 'b', 'c']));
  });
});

describe('a fork', () => {
  it('does not depend on what was drawn before, nor the parent on the fork', () => {
    fc.assert(
      fc.property(fc.integer(), fc.string(), fc.integer({ min: 0, max: 50 }), (seed, label, draws) => {
        const [early, late] = [new Random(seed), new Random(seed)];
        const fork = early.fork(label);
        take(draws, () => late.word());
        const lateFork = late.fork(label);
        expect(take(5, () => lateFork.word())).toEqual(take(5, () => fork.word()));
        take(draws, () => early.word());
        expect(early.word()).toBe(late.word());
      }),
    );
  });

  it('differs by its label and from its parent', () => {
    const parent = new Random(3);
    const streams = [parent, parent.fork('a'), parent.fork('b'), parent.fork('a').fork('a'), new Random(4).fork('a')];
    expect(new Set(streams.map((stream) => stream.word())).size).toBe(streams.length);
  });

  it('is uncorrelated with its siblings', () => {
    const parent = new Random(5);
    const [a, b] = [parent.fork('load'), parent.fork('faults')];
    const products = take(MANY, () => (a.next() - 0.5) * (b.next() - 0.5) * 12);
    expect(Math.abs(mean(products))).toBeLessThan(0.03);
  });
});
