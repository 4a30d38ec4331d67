import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockMemory } from '../../src/core/blocks.js';

/** Owners 1..n with `length` blocks each, one behind the other from block 0. */
function packed(total: number, lengths: readonly number[]): BlockMemory {
  const memory = new BlockMemory(total);
  lengths.forEach((length, k) => {
    expect(memory.grow(k + 1, length)).toBe(true);
  });
  return memory;
}

describe('a memory of blocks', () => {
  it('is one free run at first', () => {
    const memory = new BlockMemory(10);
    expect([memory.total, memory.free, memory.moving]).toEqual([10, 10, 0]);
    expect(memory.freeRuns()).toEqual([{ first: 0, length: 10 }]);
    expect(memory.table(1)).toEqual([]);
    expect(memory.release(1)).toBe(0);
    memory.checkIntegrity();
  });

  it('may be empty', () => {
    const memory = new BlockMemory(0);
    expect(memory.grow(1, 0)).toBe(true);
    expect(memory.grow(1, 1)).toBe(false);
    memory.checkIntegrity();
    expect(() => new BlockMemory(1.5)).toThrow('a memory of 1.5 blocks');
  });

  it('gives contiguous blocks in order of position, in an array that stays the same', () => {
    const memory = new BlockMemory(10);
    memory.grow(7, 3);
    const table = memory.table(7);
    memory.grow(7, 2);
    memory.truncate(7, 4);
    expect(memory.table(7)).toBe(table);
    expect(table).toEqual([0, 1, 2, 3]);
    expect(memory.free).toBe(6);
    memory.release(7);
    memory.grow(7, 1);
    expect(memory.table(7)).not.toBe(table);
  });

  it('changes nothing when there is no room', () => {
    const memory = packed(10, [4, 4]);
    expect(memory.grow(1, 3)).toBe(false);
    expect(memory.grow(3, 3)).toBe(false);
    expect([memory.table(1).length, memory.table(3).length, memory.free]).toEqual([4, 0, 2]);
    memory.checkIntegrity();
  });

  it('merges what is released with the free runs on both sides', () => {
    const memory = packed(10, [2, 2, 2, 2]);
    memory.release(1);
    memory.release(3);
    expect(memory.freeRuns()).toEqual([
      { first: 0, length: 2 },
      { first: 4, length: 2 },
      { first: 8, length: 2 },
    ]);
    expect(memory.release(2)).toBe(2);
    expect(memory.freeRuns()[0]).toEqual({ first: 0, length: 6 });
    memory.checkIntegrity();
  });
});

describe('growing', () => {
  it('stays in place while the blocks behind the last one are free', () => {
    const memory = packed(20, [4, 4]);
    memory.release(1);
    memory.grow(2, 3);
    expect(memory.runs(2)).toEqual([{ first: 4, length: 7 }]); // the four blocks in front would be the tighter fit
  });

  it('takes the smallest free run that holds all of it', () => {
    const memory = packed(20, [5, 1, 3, 1, 10]);
    memory.release(1);
    memory.release(3);
    memory.grow(6, 2);
    expect(memory.runs(6)).toEqual([{ first: 6, length: 2 }]);
    memory.grow(7, 3);
    expect(memory.runs(7)).toEqual([{ first: 0, length: 3 }]);
  });

  it('takes the longest free runs first where none holds all, and the smallest that holds the rest', () => {
    const memory = packed(20, [2, 1, 4, 1, 3, 1, 6, 2]);
    for (const owner of [1, 3, 5, 7]) memory.release(owner);
    memory.grow(9, 8);
    expect(memory.runs(9)).toEqual([
      { first: 12, length: 6 },
      { first: 0, length: 2 },
    ]);
    memory.checkIntegrity();
  });
});

describe('the reserve behind the last block', () => {
  it('is no part of the table, counts as free, and is grown into', () => {
    const memory = new BlockMemory(30);
    memory.grow(1, 4, 3);
    memory.grow(2, 4);
    expect(memory.table(1)).toEqual([0, 1, 2, 3]);
    expect(memory.runs(2)).toEqual([{ first: 7, length: 4 }]);
    expect(memory.free).toBe(22);
    memory.grow(1, 3);
    expect(memory.runs(1)).toEqual([{ first: 0, length: 7 }]);
    memory.checkIntegrity();
  });

  it('makes a run with room for it preferable to a tighter one', () => {
    const memory = packed(30, [4, 1, 8, 17]);
    memory.release(1);
    memory.release(3);
    memory.grow(5, 4, 4);
    expect(memory.runs(5)).toEqual([{ first: 5, length: 4 }]);
    memory.grow(6, 4, 4);
    expect(memory.runs(6)).toEqual([{ first: 0, length: 4 }]);
    memory.checkIntegrity();
  });

  it('does not send a request to the longest run where none has room for it', () => {
    const memory = packed(20, [5, 1, 8, 6]);
    memory.release(1);
    memory.release(3);
    memory.grow(5, 4, 9);
    expect(memory.runs(5)).toEqual([{ first: 0, length: 4 }]);
  });

  it('is made up to its size with each growth and not beyond', () => {
    const memory = new BlockMemory(30);
    memory.grow(1, 4, 3);
    memory.grow(1, 1, 3);
    expect(memory.freeRuns()).toEqual([{ first: 8, length: 22 }]);
    memory.grow(1, 1, 1);
    memory.grow(1, 1);
    expect(memory.freeRuns()).toEqual([{ first: 8, length: 22 }]);
  });

  it('goes to others when nothing else is free, the back half of the longest first', () => {
    const memory = new BlockMemory(20);
    memory.grow(1, 2, 8);
    memory.grow(2, 2, 4);
    memory.grow(3, 4);
    memory.grow(4, 2);
    expect(memory.runs(4)).toEqual([{ first: 6, length: 2 }]);
    memory.checkIntegrity();
    memory.grow(1, 4);
    expect(memory.runs(1)).toEqual([{ first: 0, length: 6 }]);
  });

  it('goes to others down to the last block', () => {
    const memory = new BlockMemory(16);
    memory.grow(1, 1, 7);
    memory.grow(2, 1, 7);
    expect(memory.grow(3, 15)).toBe(false);
    expect(memory.grow(3, 14)).toBe(true);
    expect(memory.free).toBe(0);
    memory.checkIntegrity();
  });

  it('goes back with what is released or truncated', () => {
    const memory = new BlockMemory(16);
    memory.grow(1, 4, 4);
    memory.grow(2, 1);
    memory.truncate(1, 2);
    expect(memory.freeRuns()[0]).toEqual({ first: 2, length: 6 });
    memory.grow(1, 1, 4);
    memory.release(1);
    expect(memory.freeRuns()[0]).toEqual({ first: 0, length: 8 });
    memory.checkIntegrity();
  });
});

describe('blocks in a transfer', () => {
  it('are counted as moving and can be neither given back nor added to', () => {
    const memory = packed(10, [4]);
    memory.hold(1);
    expect(memory.moving).toBe(4);
    expect(() => memory.release(1)).toThrow('owner 1 gives blocks back while they are in a transfer');
    expect(() => memory.truncate(1, 2)).toThrow('in a transfer');
    expect(() => memory.grow(1, 1)).toThrow('in a transfer');
    memory.checkIntegrity();
    memory.settle(1);
    expect(memory.moving).toBe(0);
    expect(memory.release(1)).toBe(4);
  });

  it('are held once and settled once', () => {
    const memory = packed(10, [4]);
    expect(() => memory.hold(2)).toThrow('has no blocks');
    expect(() => memory.settle(1)).toThrow('was not held');
    memory.hold(1);
    expect(() => memory.hold(1)).toThrow('held twice');
  });

  it('do not keep the unused tail behind them from others', () => {
    const memory = new BlockMemory(8);
    memory.grow(1, 2, 6);
    memory.hold(1);
    expect(memory.grow(2, 6)).toBe(true);
    memory.checkIntegrity();
  });
});

type Operation =
  | { readonly type: 'grow'; readonly owner: number; readonly count: number; readonly reserve: number }
  | { readonly type: 'truncate'; readonly owner: number; readonly part: number }
  | { readonly type: 'hold'; readonly owner: number }
  | { readonly type: 'settle'; readonly owner: number }
  | { readonly type: 'release'; readonly owner: number };

const owner = fc.integer({ min: 1, max: 6 });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant('grow' as const),
      owner,
      count: fc.integer({ min: 0, max: 20 }),
      reserve: fc.integer({ min: 0, max: 8 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant('truncate' as const), owner, part: fc.double({ min: 0, max: 1, noNaN: true }) }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('hold' as const), owner }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('settle' as const), owner }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('release' as const), owner }) },
);

/** The same memory without any placement: how many blocks each owner has, and who is in a transfer. */
class Model {
  readonly #lengths = new Map<number, number>();
  readonly #held = new Set<number>();

  constructor(readonly total: number) {}

  length(of: number): number {
    return this.#lengths.get(of) ?? 0;
  }

  get free(): number {
    return [...this.#lengths.values()].reduce((left, length) => left - length, this.total);
  }

  get moving(): number {
    return [...this.#held].reduce((sum, holder) => sum + this.length(holder), 0);
  }

  /** Does it to both; a mistake of the caller must be refused by the memory. */
  apply(memory: BlockMemory, op: Operation): void {
    const held = this.#held.has(op.owner);
    const length = this.length(op.owner);
    if (op.type === 'grow') {
      const fits = op.count <= this.free;
      if (held && fits && op.count > 0) expect(() => memory.grow(op.owner, op.count, op.reserve)).toThrow('in a transfer');
      else {
        expect(memory.grow(op.owner, op.count, op.reserve)).toBe(fits);
        if (fits) this.#lengths.set(op.owner, length + op.count);
      }
    } else if (op.type === 'hold') {
      if (held || length === 0) return;
      memory.hold(op.owner);
      this.#held.add(op.owner);
    } else if (op.type === 'settle') {
      if (!this.#held.delete(op.owner)) expect(() => memory.settle(op.owner)).toThrow('not held');
      else memory.settle(op.owner);
    } else {
      const count = op.type === 'truncate' ? Math.floor(op.part * length) : 0;
      const act = () => (op.type === 'release' ? memory.release(op.owner) : memory.truncate(op.owner, count));
      if (held) expect(act).toThrow('in a transfer');
      else {
        expect(act()).toBe(op.type === 'release' ? length : undefined);
        this.#lengths.set(op.owner, count);
      }
    }
  }
}

describe('any sequence of operations', () => {
  it('keeps every block in one place and agrees with a memory that only counts', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 80 }), fc.array(operation, { maxLength: 60 }), (total, operations) => {
        const memory = new BlockMemory(total);
        const model = new Model(total);
        for (const op of operations) {
          const before = [...memory.table(op.owner)];
          model.apply(memory, op);
          memory.checkIntegrity();
          const after = memory.table(op.owner);
          expect(after.length).toBe(model.length(op.owner));
          const kept = Math.min(before.length, after.length);
          expect(after.slice(0, kept)).toEqual(before.slice(0, kept));
          expect(memory.free).toBe(model.free);
          expect(memory.moving).toBe(model.moving);
          const runs = memory.runs(op.owner).flatMap(({ first, length }) => Array.from({ length }, (_, k) => first + k));
          expect(runs).toEqual([...after]);
        }
      }),
      { numRuns: 400 },
    );
  });

  it('leads to the same blocks each time', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
        const tables = [1, 2].map(() => {
          const memory = new BlockMemory(60);
          const model = new Model(60);
          for (const op of operations) model.apply(memory, op);
          return [1, 2, 3, 4, 5, 6].map((holder) => [...memory.table(holder)]);
        });
        expect(tables[0]).toEqual(tables[1]);
      }),
      { numRuns: 50 },
    );
  });
});
