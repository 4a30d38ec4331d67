import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { runsBetween } from '../../src/core/transfers.js';

/** Block tables of equal length, made of short contiguous stretches so that both sides sometimes agree. */
const tables = fc
  .array(
    fc.record({
      length: fc.integer({ min: 1, max: 6 }),
      from: fc.integer({ min: 0, max: 40 }),
      to: fc.integer({ min: 0, max: 40 }),
    }),
    { maxLength: 12 },
  )
  .map((stretches) => ({
    from: stretches.flatMap(({ length, from }) => Array.from({ length }, (_, k) => from + k)),
    to: distinct(stretches.flatMap(({ length, to }) => Array.from({ length }, (_, k) => to + k))),
  }));

/** The same numbers, with every repeated one replaced by one that is not in use (a target is written once). */
function distinct(blocks: readonly number[]): number[] {
  const seen = new Set<number>();
  return blocks.map((block) => {
    let unused = block;
    while (seen.has(unused)) unused += 50;
    seen.add(unused);
    return unused;
  });
}

describe('runs between two block tables', () => {
  it('are one copy where both sides are contiguous', () => {
    expect(runsBetween([4, 5, 6], [10, 11, 12])).toEqual([{ from: 4, to: 10, blocks: 3 }]);
  });

  it('end where either side is not contiguous', () => {
    expect(runsBetween([4, 5, 6, 9], [10, 20, 21, 22])).toEqual([
      { from: 4, to: 10, blocks: 1 },
      { from: 5, to: 20, blocks: 2 },
      { from: 9, to: 22, blocks: 1 },
    ]);
  });

  it('do not join descending or repeated blocks', () => {
    expect(runsBetween([3, 2, 1], [1, 2, 3])).toHaveLength(3);
    expect(runsBetween([7, 7], [1, 2])).toHaveLength(2);
  });

  it('are none for empty tables', () => {
    expect(runsBetween([], [])).toEqual([]);
    expect(runsBetween([], [])).toHaveLength(0);
  });

  it('refuse tables of different lengths', () => {
    expect(() => runsBetween([1, 2], [1])).toThrow('2 blocks onto 1');
  });

  it('copy what a copy block by block copies, in as many runs as counted, none of which could be joined', () => {
    fc.assert(
      fc.property(tables, ({ from, to }) => {
        const source = Array.from({ length: 100 }, (_, block) => `data ${block}`);
        const expected: string[] = [];
        from.forEach((block, position) => {
          expected[to[position] as number] = source[block] as string;
        });
        const runs = runsBetween(from, to);
        const actual: string[] = [];
        for (const run of runs) {
          for (let k = 0; k < run.blocks; k++) actual[run.to + k] = source[run.from + k] as string;
        }
        expect(actual).toEqual(expected);
        runs.slice(1).forEach((run, k) => {
          const before = runs[k] as (typeof runs)[number];
          expect(before.from + before.blocks === run.from && before.to + before.blocks === run.to).toBe(false);
        });
      }),
    );
  });
});
