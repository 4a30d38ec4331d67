import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BlockMemory, type BlockRun } from '../../src/core/blocks.js';

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

  it('takes any integers as owners', () => {
    const memory = new BlockMemory(10);
    for (const owner of [0, -3, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER]) memory.grow(owner, 2);
    expect(memory.table(-3)).toEqual([2, 3]);
    expect(memory.release(Number.MIN_SAFE_INTEGER)).toBe(2);
    memory.checkIntegrity();
  });

  it('refuses numbers of blocks that are none', () => {
    const memory = packed(10, [4]);
    expect(() => memory.grow(1, -1)).toThrow('grows by -1');
    expect(() => memory.grow(1, 1, 0.5)).toThrow('a reserve of 0.5');
    expect(() => memory.truncate(1, 5)).toThrow('owner 1 with 4 blocks is cut to 5');
    expect(() => memory.truncate(2, 1)).toThrow('owner 2 with 0 blocks is cut to 1');
    expect(memory.table(1)).toEqual([0, 1, 2, 3]);
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

  it('takes of equal runs the one that became free last', () => {
    const memory = packed(20, [3, 1, 3, 1, 3, 9]);
    for (const owner of [3, 5, 1]) memory.release(owner);
    for (const owner of [7, 8, 9]) memory.grow(owner, 3);
    expect([7, 8, 9].map((owner) => memory.table(owner)[0])).toEqual([0, 8, 4]);
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
  it('are counted as moving and cannot be given back', () => {
    const memory = packed(10, [4]);
    memory.hold(1);
    expect([memory.moving, memory.heldTo(1)]).toEqual([4, 4]);
    expect(() => memory.release(1)).toThrow('owner 1 gives blocks away while they are in a transfer');
    expect(() => memory.truncate(1, 2)).toThrow('in a transfer');
    expect(() => memory.split(1, 2, 2)).toThrow('in a transfer');
    expect(() => memory.join(1, 2)).toThrow('in a transfer');
    memory.checkIntegrity();
    memory.settle(1);
    expect([memory.moving, memory.heldTo(1)]).toEqual([0, 0]);
    expect(memory.release(1)).toBe(4);
  });

  it('are held once and settled once', () => {
    const memory = packed(10, [4]);
    expect(() => memory.hold(2)).toThrow('has no blocks');
    expect(() => memory.settle(1)).toThrow('was not held');
    memory.hold(1);
    expect(() => memory.hold(1)).toThrow('held twice');
    memory.settle(1);
    expect(() => memory.settle(1)).toThrow('was not held');
  });

  it('may be a part of the table: what lies behind them may go', () => {
    const memory = packed(10, [6]);
    memory.hold(1, 1, 3);
    expect([memory.moving, memory.heldTo(1)]).toEqual([2, 3]);
    expect(() => memory.truncate(1, 2)).toThrow('in a transfer');
    expect(() => memory.truncate(1, 0)).toThrow('in a transfer');
    expect(memory.split(1, 5, 2)).toBe(1);
    memory.truncate(1, 3);
    expect(memory.table(1)).toEqual([0, 1, 2]);
    memory.checkIntegrity();
    memory.settle(1);
    expect(memory.moving).toBe(0);
  });

  it('are a range of the table with something in it', () => {
    const memory = packed(10, [6]);
    for (const [from, to] of [
      [2, 2],
      [3, 2],
      [-1, 2],
      [0, 7],
      [0.5, 2],
    ]) {
      expect(() => memory.hold(1, from, to)).toThrow(`positions [${from}, ${to}) of owner 1 with 6 blocks`);
    }
    expect(memory.moving).toBe(0);
  });

  it('do not keep their owner from growing', () => {
    const memory = packed(10, [4]);
    memory.hold(1);
    expect(memory.grow(1, 2, 2)).toBe(true);
    expect([memory.table(1).length, memory.moving, memory.heldTo(1)]).toEqual([6, 4, 4]);
    memory.truncate(1, 5);
    memory.checkIntegrity();
    memory.settle(1);
    expect(memory.moving).toBe(0);
  });

  it('do not keep the unused tail behind them from others', () => {
    const memory = new BlockMemory(8);
    memory.grow(1, 2, 6);
    memory.hold(1);
    expect(memory.grow(2, 6)).toBe(true);
    memory.checkIntegrity();
  });
});

describe('a table in other hands', () => {
  it('keeps its blocks, its tail and its transfer under another name', () => {
    const memory = new BlockMemory(12);
    memory.grow(1, 4, 3);
    const table = memory.table(1);
    memory.hold(1, 0, 2);
    memory.rename(1, -1);
    expect(memory.table(-1)).toBe(table);
    expect([memory.table(1).length, memory.heldTo(1), memory.heldTo(-1), memory.moving]).toEqual([0, 0, 2, 2]);
    expect(() => memory.settle(1)).toThrow('was not held');
    memory.grow(2, 1);
    memory.grow(-1, 3);
    expect(memory.runs(-1)).toEqual([{ first: 0, length: 7 }]);
    memory.checkIntegrity();
    memory.settle(-1);
    expect(memory.release(-1)).toBe(7);
  });

  it('is not given to one who has a table', () => {
    const memory = packed(10, [3, 3]);
    expect(() => memory.rename(1, 2)).toThrow('owner 2 gets a table and has one');
    expect(() => memory.rename(1, 1)).toThrow('owner 1 gets a table and has one');
    expect(() => memory.split(1, 1, 2)).toThrow('owner 2 gets a table and has one');
    expect(() => memory.join(1, 1)).toThrow('joined to itself');
    expect([memory.table(1), memory.table(2)]).toEqual([
      [0, 1, 2],
      [3, 4, 5],
    ]);
  });

  it('is split behind some positions, and the tail becomes free', () => {
    const memory = new BlockMemory(12);
    memory.grow(1, 6, 4);
    expect(memory.split(1, 2, 9)).toBe(4);
    expect([memory.table(1), memory.table(9)]).toEqual([
      [0, 1],
      [2, 3, 4, 5],
    ]);
    expect(memory.freeRuns()).toEqual([{ first: 6, length: 6 }]);
    memory.checkIntegrity();
    memory.grow(9, 1);
    expect(memory.table(9)).toEqual([2, 3, 4, 5, 6]);
  });

  it('is split at its ends into itself and nothing', () => {
    const memory = packed(12, [6]);
    expect(memory.split(1, 6, 2)).toBe(0);
    expect(memory.split(1, 0, 2)).toBe(6);
    expect([memory.table(1).length, memory.table(2).length]).toEqual([0, 6]);
    memory.rename(2, 1); // there is nothing of 1 left that would be in the way
    expect(() => memory.split(1, 7, 2)).toThrow('owner 1 with 6 blocks is cut to 7');
    memory.checkIntegrity();
  });

  it('is joined behind another, and both tails become free', () => {
    const memory = new BlockMemory(20);
    memory.grow(1, 3, 2);
    memory.grow(2, 4, 5);
    memory.join(1, 2);
    expect([memory.table(1), memory.table(2)]).toEqual([[], [5, 6, 7, 8, 0, 1, 2]]);
    expect(memory.freeRuns()).toEqual([
      { first: 3, length: 2 },
      { first: 9, length: 11 },
    ]);
    memory.checkIntegrity();
    memory.grow(2, 1);
    expect(memory.table(2)[7]).toBe(3);
  });

  it('may be joined behind one that is in a transfer', () => {
    const memory = packed(10, [3, 3]);
    memory.hold(1, 1, 3);
    memory.join(2, 1);
    expect([memory.table(1), memory.heldTo(1), memory.moving]).toEqual([[0, 1, 2, 3, 4, 5], 3, 2]);
    memory.checkIntegrity();
  });

  it('is whole again after split and join', () => {
    const memory = packed(10, [7]);
    memory.split(1, 3, 2);
    memory.join(2, 1);
    expect(memory.runs(1)).toEqual([{ first: 0, length: 7 }]);
    memory.join(1, 3);
    expect(memory.runs(3)).toEqual([{ first: 0, length: 7 }]);
  });

  it('that is empty can be passed on, split, joined and released for nothing', () => {
    const memory = packed(10, [3]);
    memory.truncate(1, 0);
    memory.rename(1, 2);
    expect(memory.split(1, 0, 2)).toBe(0);
    memory.join(1, 2);
    expect(memory.release(1)).toBe(0);
    expect(memory.table(2)).toEqual([]);
    expect(memory.freeRuns()).toEqual([{ first: 0, length: 10 }]);
    memory.checkIntegrity();
  });
});

type Operation =
  | { readonly type: 'grow'; readonly owner: number; readonly count: number; readonly reserve: number }
  | { readonly type: 'truncate'; readonly owner: number; readonly part: number }
  | { readonly type: 'hold'; readonly owner: number; readonly from: number; readonly to: number }
  | { readonly type: 'settle'; readonly owner: number }
  | { readonly type: 'release'; readonly owner: number }
  | { readonly type: 'rename'; readonly owner: number; readonly to: number }
  | { readonly type: 'split'; readonly owner: number; readonly part: number; readonly to: number }
  | { readonly type: 'join'; readonly owner: number; readonly to: number };

const OWNERS = [1, 2, 3, 0, -1, -7];
const owner = fc.constantFrom(...OWNERS);
const part = fc.double({ min: 0, max: 1, noNaN: true });

/** Operations on a memory in which a growth by up to `most` blocks is a large one. */
function operationsOn(most: number): fc.Arbitrary<Operation> {
  const count = fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: most }));
  const reserve = fc.integer({ min: 0, max: Math.ceil(most / 3) });
  const grow = fc.record({ type: fc.constant('grow' as const), owner, count, reserve });
  return fc.oneof(
    { weight: 8, arbitrary: grow },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('truncate' as const), owner, part }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('hold' as const), owner, from: part, to: part }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('settle' as const), owner }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('release' as const), owner }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('rename' as const), owner, to: owner }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('split' as const), owner, part, to: owner }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('join' as const), owner, to: owner }) },
  );
}

/**
 * The same memory without any placement: it takes over which blocks a growth got, after it has made sure that they were
 * nobody's, and knows from then on where each of them must be.
 */
class Model {
  readonly #tables = new Map<number, readonly number[]>();
  readonly #holds = new Map<number, readonly [number, number]>();

  constructor(readonly memory: BlockMemory) {}

  table(of: number): readonly number[] {
    return this.#tables.get(of) ?? [];
  }

  get used(): Set<number> {
    return new Set([...this.#tables.values()].flat());
  }

  /** Does it to both; a mistake of the caller must be refused by the memory, and then nothing has changed. */
  apply(op: Operation): void {
    switch (op.type) {
      case 'grow':
        return this.#grow(op.owner, op.count, op.reserve);
      case 'hold':
        return this.#hold(op.owner, this.#position(op.owner, op.from), this.#position(op.owner, op.to));
      case 'settle':
        return this.#settle(op.owner);
      case 'rename':
        return this.#rename(op.owner, op.to);
      case 'split':
        return this.#split(op.owner, this.#position(op.owner, op.part), op.to);
      case 'join':
        return this.#join(op.owner, op.to);
      default:
        return this.#cut(op.owner, op.type === 'truncate' ? this.#position(op.owner, op.part) : null);
    }
  }

  /** From 0 to the length of the table. */
  #position(owner: number, part: number): number {
    return Math.floor(part * (this.table(owner).length + 0.99));
  }

  #heldTo(owner: number): number {
    return this.#holds.get(owner)?.[1] ?? 0;
  }

  #hold(owner: number, from: number, to: number): void {
    const act = () => this.memory.hold(owner, from, to);
    if (this.table(owner).length === 0) return expect(act).toThrow('has no blocks');
    if (this.#holds.has(owner)) return expect(act).toThrow('held twice');
    if (from >= to) return expect(act).toThrow('positions');
    act();
    this.#holds.set(owner, [from, to]);
  }

  #settle(owner: number): void {
    const act = () => this.memory.settle(owner);
    if (!this.#holds.delete(owner)) return expect(act).toThrow('not held');
    act();
  }

  /** Truncates to `count` blocks; null: releases. */
  #cut(owner: number, count: number | null): void {
    const table = this.table(owner);
    const act = () => (count === null ? this.memory.release(owner) : this.memory.truncate(owner, count));
    if (this.#heldTo(owner) > (count ?? 0)) return expect(act).toThrow('in a transfer');
    expect(act()).toBe(count === null ? table.length : undefined);
    this.#tables.set(owner, table.slice(0, count ?? 0));
  }

  #rename(owner: number, to: number): void {
    const act = () => this.memory.rename(owner, to);
    if (this.table(to).length > 0) return expect(act).toThrow('has one');
    act();
    const table = this.table(owner);
    this.#tables.delete(owner);
    this.#tables.set(to, table);
    const hold = this.#holds.get(owner);
    this.#holds.delete(owner);
    if (hold !== undefined) this.#holds.set(to, hold);
  }

  #split(owner: number, count: number, to: number): void {
    const act = () => this.memory.split(owner, count, to);
    if (this.table(to).length > 0) return expect(act).toThrow('has one');
    if (this.#heldTo(owner) > count) return expect(act).toThrow('in a transfer');
    const table = this.table(owner);
    expect(act()).toBe(table.length - count);
    this.#tables.set(to, table.slice(count));
    if (owner !== to) this.#tables.set(owner, table.slice(0, count));
  }

  #join(owner: number, to: number): void {
    const act = () => this.memory.join(owner, to);
    if (owner === to) return expect(act).toThrow('itself');
    if (this.#heldTo(owner) > 0) return expect(act).toThrow('in a transfer');
    act();
    this.#tables.set(to, [...this.table(to), ...this.table(owner)]);
    this.#tables.delete(owner);
  }

  #grow(owner: number, count: number, reserve: number): void {
    const { memory, used } = this;
    const table = this.table(owner);
    const freeRuns = memory.freeRuns();
    const fits = count <= memory.total - used.size;
    expect(memory.grow(owner, count, reserve)).toBe(fits);
    if (!fits) return;
    const added = memory.table(owner).slice(table.length);
    expect(added.length).toBe(count);
    expect(added.filter((block) => used.has(block))).toEqual([]);
    this.#tables.set(owner, [...table, ...added]);
    if (table.length > 0) {
      // Whatever is nobody's right behind the last block is its own tail or free.
      const next = (table[table.length - 1] as number) + 1;
      let end = next;
      while (end < Math.min(memory.total, next + count) && !used.has(end)) end += 1;
      expect(added.slice(0, end - next)).toEqual(Array.from({ length: end - next }, (_, k) => next + k));
    } else if (count > 0 && sum(freeRuns.map(({ length }) => length)) >= count) {
      const lengths = freeRuns.map(({ length }) => length);
      const smallestOf = (least: number) => Math.min(...lengths.filter((length) => length >= least));
      const best = [smallestOf(count + reserve), smallestOf(count), Math.max(...lengths)].find(Number.isFinite);
      expect(freeRuns.find(({ first }) => first === added[0])?.length).toBe(best);
    }
  }

  check(): void {
    const { memory } = this;
    memory.checkIntegrity();
    for (const holder of OWNERS) {
      const table = this.table(holder);
      expect(memory.table(holder)).toEqual(table);
      expect(memory.heldTo(holder)).toBe(this.#heldTo(holder));
      const runs = memory.runs(holder);
      expect(runs.flatMap(({ first, length }) => Array.from({ length }, (_, k) => first + k))).toEqual(table);
      expect(runs.length).toBe(table.filter((block, k) => k === 0 || block !== (table[k - 1] as number) + 1).length);
    }
    const inTables = sum(OWNERS.map((holder) => this.table(holder).length));
    expect(this.used.size).toBe(inTables); // no two tables share a block
    expect(memory.free + inTables).toBe(memory.total);
    expect(memory.moving).toBe(sum([...this.#holds.values()].map(([from, to]) => to - from)));
    const freeRuns = memory.freeRuns();
    expect(sum(freeRuns.map(({ length }) => length))).toBeLessThanOrEqual(memory.free);
    expect(freeRuns.filter(({ first }, k) => k > 0 && first <= endOf(freeRuns[k - 1]))).toEqual([]); // no two meet
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
const endOf = (run: BlockRun | undefined): number => (run === undefined ? -1 : run.first + run.length);

const memories = fc
  .oneof(fc.integer({ min: 0, max: 100 }), fc.constantFrom(31, 32, 33, 63, 64, 1023, 1024, 3000))
  .chain((total) => fc.tuple(fc.constant(total), fc.array(operationsOn(Math.ceil(total / 3)), { maxLength: 60 })));

describe('any sequence of operations', () => {
  it('keeps every block in one place and agrees with a memory that only keeps the tables', () => {
    fc.assert(
      fc.property(memories, ([total, operations]) => {
        const model = new Model(new BlockMemory(total));
        for (const op of operations) {
          model.apply(op);
          model.check();
        }
      }),
      { numRuns: 400 },
    );
  });

  it('leads to the same blocks each time', () => {
    fc.assert(
      fc.property(fc.array(operationsOn(20), { maxLength: 40 }), (operations) => {
        const tables = [1, 2].map(() => {
          const model = new Model(new BlockMemory(60));
          for (const op of operations) model.apply(op);
          return OWNERS.map((holder) => [...model.memory.table(holder)]);
        });
        expect(tables[0]).toEqual(tables[1]);
      }),
      { numRuns: 50 },
    );
  });
});

describe('the cost of a call', () => {
  afterEach(() => {
    vi.unstubAllGlobals();
  });

  /** Accesses to the elements of typed arrays, which is where a memory keeps what is free. */
  function countAccesses(): { accesses: number } {
    const counter = { accesses: 0 };
    const counted = <T extends Int32Array | Uint8Array>(array: T): T =>
      new Proxy(array, {
        get: (target, key) => {
          const value: unknown = Reflect.get(target, key);
          if (typeof value === 'function') return value.bind(target);
          counter.accesses += 1;
          return value;
        },
        set: (target, key, value) => {
          counter.accesses += 1;
          return Reflect.set(target, key, value);
        },
      });
    for (const TypedArray of [Int32Array, Uint8Array]) {
      const construct = (_: unknown, [length]: unknown[]) => counted(new TypedArray(length as number));
      vi.stubGlobal(TypedArray.name, new Proxy(TypedArray, { construct }));
    }
    return counter;
  }

  /** The most that one call touched, in a memory of `total` blocks that has fallen into runs of all lengths. */
  function worstCall(total: number): number {
    const counter = countAccesses();
    const memory = new BlockMemory(total);
    let owners = 0;
    while (memory.free > total / 20) memory.grow(++owners, 1 + (owners % 29), owners % 5);
    for (let owner = 3; owner <= owners; owner += 3) memory.release(owner);
    let worst = 0;
    for (let owner = 1; owner <= owners; owner += Math.ceil(owners / 500)) {
      const calls = [
        () => memory.grow(owner, 1, 40),
        () => memory.hold(owner),
        () => memory.rename(owner, -owner),
        () => memory.settle(-owner),
        () => memory.split(-owner, 1, owner),
        () => memory.join(owner, -owner),
        () => memory.grow(owner, 1),
        () => memory.truncate(-owner, 1),
        () => memory.release(owner),
        () => memory.heldTo(owner) + memory.free + memory.moving,
      ];
      for (const call of calls) {
        counter.accesses = 0;
        call();
        worst = Math.max(worst, counter.accesses);
      }
    }
    vi.unstubAllGlobals();
    return worst;
  }

  it('grows no faster than the logarithm of the memory', () => {
    const [small, large] = [worstCall(1000), worstCall(100_000)];
    expect(small).toBeGreaterThan(10); // it does count
    expect(large).toBeLessThan(2 * small); // the logarithms are as 3 to 5
  });
});
