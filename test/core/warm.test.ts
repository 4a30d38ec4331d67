import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockMemory } from '../../src/core/blocks.js';
import { type Warm, WarmBlocks } from '../../src/core/warm.js';

/** The names of the first blocks of a text: of 'abc' they are 'a', 'ab', 'abc'. */
const names = (text: string) => Array.from(text, (_, index) => text.slice(0, index + 1));

/** A device with warm blocks; requests are positive owners. */
function device(blocks: number) {
  const memory = new BlockMemory(blocks);
  const warm = new WarmBlocks(memory);
  let owners = 0;
  /** A request has computed this text and ended. */
  const keep = (text: string): Warm => {
    owners -= 1;
    if (!memory.grow(99, text.length)) throw new Error(`no room for ${text}`);
    return warm.keep(99, names(text), owners);
  };
  const found = (...texts: string[]) => {
    warm.checkIntegrity();
    memory.checkIntegrity();
    return texts.map((text) => warm.find(names(text), text.length)?.blocks ?? 0);
  };
  return { memory, warm, keep, found };
}

describe('warm blocks', () => {
  it('are found as far as the text is the same', () => {
    const { keep, warm, found } = device(10);
    const kept = keep('abc');
    expect(found('abc', 'abcd', 'abx', 'b', '')).toEqual([3, 3, 2, 0, 0]);
    expect(warm.find(names('abcd'), 2)).toEqual({ warm: kept, blocks: 2 });
    expect(warm.blocks).toBe(3);
  });

  it('are adopted where they are: the first ones as the table of the request, the others free', () => {
    const { keep, memory, warm, found } = device(10);
    const kept = keep('abcd');
    const table = memory.table(kept.owner).slice();
    warm.adopt(kept, 3, 7);
    expect(memory.table(7)).toEqual(table.slice(0, 3));
    expect([memory.free, warm.blocks, warm.has(kept.owner)]).toEqual([7, 0, false]);
    expect(found('abcd')).toEqual([0]);
  });

  it('of whoever has the most are found', () => {
    const { keep, found } = device(20);
    keep('abc');
    keep('abcdef');
    keep('abx');
    expect(found('abcdef', 'abc', 'abx')).toEqual([6, 3, 3]);
  });

  it('are taken from whom least is lost with them', () => {
    const { keep, warm } = device(20);
    keep('abcdef');
    const shorter = keep('abx');
    keep('abcd');
    expect(warm.find(names('aby'), 3)).toEqual({ warm: shorter, blocks: 2 });
  });

  it('that a transfer reads are not found and not given up', () => {
    const { keep, memory, warm, found } = device(10);
    const kept = keep('abcde');
    memory.hold(kept.owner, 1, 3);
    expect(found('abcde')).toEqual([0]);
    expect(warm.evict(10)).toBe(2); // the two behind what is read; what lies before it stays too
    expect(found('abcde')).toEqual([0]);
    memory.settle(kept.owner);
    expect(found('abcde')).toEqual([3]);
    expect(warm.evict(10)).toBe(3);
    expect([memory.free, warm.blocks]).toEqual([10, 0]);
  });

  it('are given up oldest first, each from its tail', () => {
    const { keep, warm, found } = device(10);
    for (const text of ['abc', 'def', 'ghi']) keep(text);
    expect(warm.evict(2)).toBe(2);
    expect(found('abc', 'def', 'ghi')).toEqual([1, 3, 3]);
    expect(warm.evict(3)).toBe(3);
    expect(found('abc', 'def', 'ghi')).toEqual([0, 1, 3]);
    expect(warm.evict(99)).toBe(4);
    expect(warm.blocks).toBe(0);
  });

  it('are still found where those of a newer request with the same start have gone', () => {
    const { keep, warm, found } = device(20);
    keep('abcd');
    const newer = keep('abx');
    warm.adopt(newer, 3, 7);
    expect(found('abcd')).toEqual([4]);
  });

  it('are asked for the host once', () => {
    const { keep, warm } = device(10);
    const [a, b] = [keep('ab'), keep('cd')];
    expect([...warm.unmirrored()]).toEqual([a, b]);
    warm.mirrored(a);
    expect([...warm.unmirrored()]).toEqual([b]);
    warm.evict(4);
    expect([...warm.unmirrored()]).toEqual([]);
  });

  it('are as many as their names', () => {
    const { memory, warm } = device(10);
    memory.grow(99, 3);
    expect(() => warm.keep(99, names('ab'), -1)).toThrow('2 names for other blocks');
  });
});

interface Op {
  readonly kind: 'keep' | 'adopt' | 'evict' | 'hold' | 'settle';
  readonly text: string;
  readonly count: number;
}

const operations = fc.array(
  fc.record<Op>({
    kind: fc.constantFrom('keep', 'keep', 'adopt', 'evict', 'hold', 'settle'),
    text: fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 7 }),
    count: fc.integer({ min: 1, max: 8 }),
  }),
  { maxLength: 60, size: 'max' },
);

describe('any order of what happens to warm blocks', () => {
  it('keeps them true: what is found is what was kept under these names, and all of it can be had again', () => {
    fc.assert(
      fc.property(operations, (ops) => {
        const { memory, warm, keep, found } = device(24);
        const kept: Warm[] = [];
        const held = new Set<Warm>();
        /** What the blocks of the memory hold, by the names under which they were kept. */
        const contents = new Map<number, string>();
        for (const { kind, text, count } of ops) {
          const prefix = warm.find(names(text), text.length);
          if (kind === 'keep' && text.length <= memory.free) {
            const entry = keep(text);
            kept.push(entry);
            memory.table(entry.owner).forEach((block, index) => {
              contents.set(block, names(text)[index] as string);
            });
          } else if (kind === 'adopt' && prefix !== null) {
            warm.adopt(prefix.warm, prefix.blocks, 7);
            expect(memory.table(7).map((block) => contents.get(block))).toEqual(names(text).slice(0, prefix.blocks));
            memory.release(7);
          } else if (kind === 'evict') {
            const { free } = memory;
            const given = warm.evict(count);
            expect(given).toBeLessThanOrEqual(count);
            expect(memory.free).toBe(free + given);
          } else if (kind === 'hold') {
            const entry = kept.filter((other) => warm.has(other.owner) && !held.has(other))[count];
            if (entry === undefined) continue;
            memory.hold(entry.owner, 0, Math.min(count, entry.names.length));
            held.add(entry);
          } else if (kind === 'settle') {
            const [entry] = held;
            if (entry === undefined) continue;
            memory.settle(entry.owner);
            held.delete(entry);
          }
          for (const entry of kept) {
            if (warm.has(entry.owner)) expect(memory.table(entry.owner).map((block) => contents.get(block))).toEqual(entry.names);
          }
          const first = warm.find(names(text), text.length);
          // What is found is what its owner holds, and no more than was asked for.
          if (first !== null) expect(first.warm.names.slice(0, first.blocks)).toEqual(names(text).slice(0, first.blocks));
          found(text);
        }
        for (const entry of held) memory.settle(entry.owner);
        warm.evict(24);
        expect(memory.free).toBe(24);
        expect(found('a', 'b')).toEqual([0, 0]);
      }),
      { numRuns: 300 },
    );
  });
});
