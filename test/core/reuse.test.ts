import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockMemory } from '../../src/core/blocks.js';
import { type Copy, type Evictable, HostCopies } from '../../src/core/reuse.js';
import { Bench, type BenchOptions } from './bench.js';

/** The names of the first blocks of a text: of 'abc' they are 'a', 'ab', 'abc'. */
const names = (text: string) => Array.from(text, (_, index) => text.slice(0, index + 1));

/** Host copies whose laws are checked at each look. */
function host(blocks: number) {
  const memory = new BlockMemory(blocks);
  const copies = new HostCopies(memory);
  /** Copies of `text` behind `after`, landed and wanted by nobody. */
  const keep = (text: string, after: Copy | null = null, from = 0): Copy[] => {
    const added = copies.add(after, names(text).slice(from), 0, 'unpinned');
    if (added === null) throw new Error(`no room for ${text}`);
    copies.land(added);
    for (const copy of added.slice().reverse()) copies.unpin(copy);
    return added;
  };
  const found = (...texts: string[]) => {
    copies.checkIntegrity();
    return texts.map((text) => copies.find(names(text), text.length));
  };
  const addNothingNamed = (count: number, evictable: Evictable = 'unpinned') =>
    copies.add(null, new Array<null>(count).fill(null), 0, evictable);
  return { memory, copies, keep, found, addNothingNamed };
}

describe('copies on the host', () => {
  it('are found by their names once they have landed, as far as the text is the same', () => {
    const { copies, found } = host(10);
    const added = copies.add(null, names('abcd'), 0, 'unpinned') as Copy[];
    expect(found('abcd')).toEqual([0]);
    copies.land(added);
    expect(found('abcd', 'abce', 'abcdef', 'b', '')).toEqual([4, 3, 4, 0, 0]);
    expect(copies.find(names('abcd'), 2)).toBe(2);
    expect(copies.copiesOf(names('abcd'), 1, 3)).toEqual(added.slice(1, 3));
    expect(() => copies.copiesOf(names('abce'), 0, 4)).toThrow('block 3 of 4 is not on the host');
  });

  it('of a common prefix are stored once: what differs forks', () => {
    const { memory, keep, found } = host(10);
    const abcd = keep('abcd');
    keep('abef', abcd[1] as Copy, 2);
    expect(memory.free).toBe(4);
    expect(found('abcd', 'abef', 'abx')).toEqual([4, 4, 2]);
  });

  it('that were added twice are found once: the second time they have no name', () => {
    const { keep, memory, found } = host(10);
    keep('ab');
    keep('abc');
    expect(found('abc')).toEqual([2]); // behind a copy that cannot be found nothing can be
    expect(memory.free).toBe(8);
  });

  it('of what continues them stay in one run where the blocks behind them are free', () => {
    const { copies, memory } = host(20);
    const first = copies.add(null, names('ab'), 4, 'unpinned') as Copy[];
    copies.add(null, names('x'), 4, 'unpinned');
    const more = copies.add(first[1] as Copy, names('abcd').slice(2), 4, 'unpinned') as Copy[];
    expect([...first, ...more].map(({ block }) => block)).toEqual([0, 1, 2, 3]);
    copies.checkIntegrity();
    expect(memory.free).toBe(15);
  });

  it('may be refused, and nothing is added then', () => {
    const { copies, keep, found, addNothingNamed } = host(5);
    const [a] = keep('abc') as [Copy];
    copies.pin(a);
    expect(copies.unpinned).toBe(2);
    expect(addNothingNamed(5)).toBeNull();
    expect(found('abc')).toEqual([3]);
    expect(addNothingNamed(4)).toHaveLength(4);
    expect(found('abc')).toEqual([1]);
  });

  it('are continued only while they are there', () => {
    const { copies, keep, addNothingNamed } = host(3);
    const abc = keep('abc');
    addNothingNamed(1);
    expect(() => copies.add(abc[2] as Copy, ['d'], 0, 'unpinned')).toThrow('continues a copy that was evicted');
  });

  it('are not evicted for what continues them', () => {
    const { copies, keep, found } = host(3);
    const abc = keep('abc');
    expect(copies.add(abc[2] as Copy, ['abcd'], 0, 'unpinned')).toBeNull();
    expect(found('abc')).toEqual([3]);
  });
});

describe('eviction', () => {
  it('takes what was idle longest, from its tail, one text to its end before the next', () => {
    const { keep, found, addNothingNamed } = host(9);
    for (const text of ['abc', 'def', 'ghi']) keep(text);
    for (const left of [
      [2, 3, 3],
      [1, 3, 3],
      [0, 3, 3],
      [0, 2, 3],
    ]) {
      addNothingNamed(1);
      expect(found('abc', 'def', 'ghi')).toEqual(left);
    }
  });

  it('counts as idle from when the last one let go', () => {
    const { copies, keep, found, addNothingNamed } = host(6);
    const [abc] = [keep('abc'), keep('def')];
    for (const copy of abc) copies.use(copy);
    for (const copy of abc.slice().reverse()) copies.unuse(copy);
    addNothingNamed(2);
    expect(found('abc', 'def')).toEqual([3, 1]);
  });

  it('takes what is used only when nothing is idle and only where that is allowed', () => {
    const { copies, keep, found, addNothingNamed } = host(6);
    for (const copy of keep('abc')) copies.use(copy);
    keep('def');
    expect(addNothingNamed(2, 'idle')).toHaveLength(2);
    expect(found('abc', 'def')).toEqual([3, 1]);
    expect(addNothingNamed(2, 'idle')).toBeNull();
    expect(found('abc')).toEqual([3]);
    expect(addNothingNamed(2, 'unpinned')).toHaveLength(2);
    expect(found('abc', 'def')).toEqual([2, 0]);
  });

  it('never takes what is pinned, nor what lies before it', () => {
    const { copies, keep, found, addNothingNamed } = host(4);
    const abcd = keep('abcd');
    copies.pin(abcd[2] as Copy);
    expect(addNothingNamed(2)).toBeNull();
    expect(found('abcd')).toEqual([3]);
    copies.unpin(abcd[2] as Copy);
    expect(addNothingNamed(3)).toHaveLength(3);
    expect(found('abcd')).toEqual([1]);
  });

  it('takes a fork before what it forked from', () => {
    const { keep, found, addNothingNamed } = host(6);
    const abcd = keep('abcd');
    keep('abef', abcd[1] as Copy, 2);
    addNothingNamed(3);
    expect(found('abcd', 'abef')).toEqual([2, 3]);
    addNothingNamed(1);
    expect(found('ab', 'abef')).toEqual([2, 2]);
    addNothingNamed(2);
    expect(found('ab')).toEqual([0]);
  });

  it('gives up copies without a name as soon as nobody needs them', () => {
    const { copies, memory, addNothingNamed } = host(6);
    const three = addNothingNamed(3) as Copy[];
    for (const copy of three) copies.use(copy);
    for (const copy of three) copies.unpin(copy);
    expect(memory.free).toBe(3);
    copies.unuse(three[1] as Copy); // one in the middle waits for those behind it
    expect(memory.free).toBe(3);
    copies.unuse(three[2] as Copy);
    expect(memory.free).toBe(5);
    copies.unuse(three[0] as Copy);
    expect(memory.free).toBe(6);
    copies.checkIntegrity();
  });
});

describe('a copy that failed', () => {
  it('is dropped with its names, and those before it stay', () => {
    const { copies, keep, memory, found } = host(6);
    const ab = keep('ab');
    const more = copies.add(ab[1] as Copy, names('abcd').slice(2), 2, 'unpinned') as Copy[];
    copies.drop(more);
    expect(found('abcd')).toEqual([2]);
    expect(memory.free).toBe(4);
    expect(more.map(({ chain }) => chain)).toEqual([null, null]);
    copies.land(copies.add(ab[1] as Copy, names('abcd').slice(2), 2, 'unpinned') as Copy[]);
    expect(found('abcd')).toEqual([4]);
  });

  it('is dropped also where it was let go meanwhile', () => {
    const { copies, memory, addNothingNamed } = host(6);
    const two = addNothingNamed(2) as Copy[];
    for (const copy of two.slice().reverse()) copies.unpin(copy);
    copies.drop(two);
    expect(memory.free).toBe(6);
    copies.checkIntegrity();
  });
});

/** Someone who uses copies as a request does: pinned while off the device, used always. */
interface Holder {
  readonly text: string;
  copies: Copy[];
  /** The last of them: on their way. */
  coming: number;
  pinned: boolean;
}

interface Op {
  readonly kind: 'start' | 'extend' | 'land' | 'fail' | 'rest' | 'pin' | 'leave';
  readonly who: number;
  readonly text: string;
  readonly count: number;
  readonly named: boolean;
  readonly evictable: Evictable;
}

const operations = fc.array(
  fc.record<Op>({
    kind: fc.constantFrom('start', 'extend', 'extend', 'land', 'land', 'fail', 'rest', 'pin', 'leave'),
    who: fc.nat(),
    text: fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 8 }),
    count: fc.integer({ min: 1, max: 6 }),
    named: fc.boolean(),
    evictable: fc.constantFrom<Evictable>('idle', 'unpinned'),
  }),
  { maxLength: 60, size: 'max' },
);

/** What there must be, found out naively: every copy ever made is remembered. */
class Model {
  readonly memory: BlockMemory;
  readonly copies: HostCopies;
  readonly holders: Holder[] = [];
  readonly all: Copy[] = [];

  constructor(blocks: number) {
    this.memory = new BlockMemory(blocks);
    this.copies = new HostCopies(this.memory);
  }

  apply(op: Op): void {
    const holder = this.holders[op.who % Math.max(1, this.holders.length)];
    if (op.kind === 'start') return this.#start(op.text);
    if (holder === undefined) return;
    if (op.kind === 'extend') this.#extend(holder, op);
    else if (op.kind === 'land') this.#land(holder);
    else if (op.kind === 'fail') this.#fail(holder);
    else if (op.kind === 'rest') this.#unpin(holder);
    else if (op.kind === 'pin') this.#pin(holder);
    else this.#leave(holder);
  }

  #start(text: string): void {
    const found = this.copies.find(names(text), text.length);
    const copies = this.copies.copiesOf(names(text), 0, found);
    for (const copy of copies) {
      this.copies.pin(copy);
      this.copies.use(copy);
    }
    this.holders.push({ text, copies, coming: 0, pinned: true });
  }

  #extend(holder: Holder, { count, named, evictable }: Op): void {
    const from = holder.copies.length;
    const wanted = names(holder.text).slice(from, from + count);
    if (holder.coming > 0 || wanted.length === 0) return;
    this.#pin(holder);
    if (holder.copies.length < from) return;
    const free = this.memory.free;
    const pinnedBefore = this.all.filter(({ pins, chain }) => pins > 0 && chain !== null);
    const reserve = count % 3;
    const added = this.copies.add(holder.copies[from - 1] ?? null, named ? wanted : wanted.map(() => null), reserve, evictable);
    for (const copy of pinnedBefore) expect(copy.chain).not.toBeNull();
    if (added === null) return expect(free).toBeLessThan(wanted.length);
    for (const copy of added) this.copies.use(copy);
    holder.copies.push(...added);
    holder.coming = added.length;
    this.all.push(...added);
  }

  #land(holder: Holder): void {
    this.copies.land(holder.copies.slice(holder.copies.length - holder.coming));
    holder.coming = 0;
  }

  #fail(holder: Holder): void {
    const failed = holder.copies.splice(holder.copies.length - holder.coming);
    holder.coming = 0;
    for (const copy of failed) copy.users = 0;
    this.copies.drop(failed);
  }

  #unpin(holder: Holder): void {
    if (!holder.pinned || holder.coming > 0) return;
    holder.pinned = false;
    for (const copy of holder.copies.slice().reverse()) this.copies.unpin(copy);
  }

  /** As a request that is preempted: what was evicted meanwhile is forgotten, and all behind it. */
  #pin(holder: Holder): void {
    if (holder.pinned) return;
    holder.pinned = true;
    const gone = holder.copies.findIndex(({ chain }) => chain === null);
    const lost = gone < 0 ? [] : holder.copies.splice(gone);
    for (const copy of lost.reverse()) this.copies.unuse(copy);
    for (const copy of holder.copies) this.copies.pin(copy);
  }

  #leave(holder: Holder): void {
    if (holder.coming > 0) return;
    this.#unpin(holder);
    for (const copy of holder.copies.slice().reverse()) this.copies.unuse(copy);
    this.holders.splice(this.holders.indexOf(holder), 1);
  }

  check(): void {
    this.copies.checkIntegrity();
    const live = this.all.filter(({ chain }) => chain !== null);
    expect(new Set(live.map(({ block }) => block)).size).toBe(live.length);
    expect(this.copies.unpinned).toBe(live.filter(({ pins }) => pins === 0).length);
    const present = new Map(live.filter(({ name }) => name !== null).map((copy) => [copy.name as string, copy]));
    for (const [name, copy] of present) {
      // Whoever is found has all those before it.
      for (const earlier of names(name)) expect(present.has(earlier), `${earlier} before ${name}`).toBe(true);
      if (copy.valid) expect(this.copies.find(names(name), name.length)).toBe(name.length);
    }
    for (const { text, copies, pinned } of this.holders) {
      const naive = names(text).findIndex((name) => present.get(name)?.valid !== true);
      const found = this.copies.find(names(text), text.length);
      expect(found).toBe(naive < 0 ? text.length : naive);
      expect(this.copies.copiesOf(names(text), 0, found).map(({ name }) => name)).toEqual(names(text).slice(0, found));
      // Who is off the device has nothing else: none of its copies may go.
      if (pinned) for (const copy of copies) expect(copy.chain).not.toBeNull();
    }
    for (const { chain } of live) {
      const last = chain?.copies[chain.copies.length - 1];
      expect(last?.name !== null || last.pins + last.users > 0, 'a copy that nobody can find or needs').toBe(true);
    }
  }
}

describe('any order of what requests do', () => {
  it('keeps names true, sole copies safe and blocks in one place', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 30 }), operations, (blocks, ops) => {
        const model = new Model(blocks);
        for (const op of ops) {
          model.apply(op);
          model.check();
        }
        while (model.holders.length > 0) {
          const [holder] = model.holders as [Holder];
          holder.coming = 0;
          model.apply({ kind: 'leave', who: 0, text: '', count: 1, named: true, evictable: 'idle' });
          model.check();
        }
        // All that is left can be found, and can be had: in rounds, because forks go before what they forked from.
        expect(model.all.filter(({ chain, name }) => chain !== null && name === null)).toEqual([]);
        const { copies, memory } = model;
        for (let room = blocks; room > 0; room = memory.free + copies.unpinned) {
          if (copies.add(null, new Array<null>(memory.free + copies.unpinned).fill(null), 0, 'idle') === null)
            throw new Error('no room');
        }
        expect(model.memory.free).toBe(0);
      }),
      { numRuns: 400 },
    );
  });
});

describe('a request finds what there is of its context', () => {
  const KEEPING = { reuse: true, finished: 'warm', mirror: true } as const;
  const make = ({ mechanism, ...options }: BenchOptions = {}) =>
    new Bench({
      policy: 'priority',
      deviceBlocks: 100,
      hostBlocks: 100,
      maxBatchTokens: 600,
      mechanism: { ...KEEPING, ...mechanism },
      costs: { promptToken: 100, block: 300 },
      ...options,
    });
  const quiet = (bench: Bench) => bench.until(() => bench.transfers.length === 0);

  it('the second turn of a chat computes only what is new, on the blocks of the first', () => {
    const bench = make({ mechanism: { mirror: false } });
    bench.arrive(1, 200, { text: 'chat', maxTokens: 40 });
    bench.step();
    const table = bench.state.device.table(1).slice(0, 14);
    bench.until(() => bench.phase(1) === 'done');
    // 200 tokens and 40 more, of which the last was never computed: 14 full blocks.
    expect(bench.state.warm.blocks).toBe(14);
    bench.arrive(2, 300, { text: 'chat' });
    expect(bench.told('admit')).toEqual([{ type: 'admit', id: 2, cachedTokens: 14 * 16 }]);
    expect(bench.state.device.table(2).slice(0, 12)).toEqual(table.slice(0, 12));
    expect(bench.stepItems).toEqual([[2, 224, 76]]);
    bench.finishAll();
  });

  it('a prompt that is known to its end computes its last token at least, to sample from it', () => {
    const bench = make({ mechanism: { mirror: false } });
    bench.arrive(1, 160, { text: 'chat', maxTokens: 1 });
    bench.step();
    bench.arrive(2, 160, { text: 'chat' });
    expect(bench.stepItems).toEqual([[2, 144, 16]]);
    bench.finishAll();
  });

  it('on the host, where the device has given it up', () => {
    const bench = make({ deviceBlocks: 34 });
    bench.arrive(1, 200, { text: 'chat', maxTokens: 1 });
    bench.arrive(2, 100, { maxTokens: 100 });
    bench.step();
    quiet(bench);
    bench.arrive(3, 400, { maxTokens: 1 }); // takes the room of what was warm
    bench.until(() => bench.phase(3) === 'done' && bench.state.warm.find([bench.name(1, 0)], 1) === null);
    quiet(bench);
    bench.arrive(4, 250, { text: 'chat', maxTokens: 20 });
    bench.until(() => bench.phase(4) !== 'queued');
    expect(bench.phase(4)).toBe('swapping-in');
    expect(bench.request(4)).toMatchObject({ computed: 192, resumeAs: 'prefilling' });
    bench.until(() => bench.phase(4) === 'prefilling');
    bench.until(() => bench.phase(4) === 'decoding');
    bench.finishAll();
  });

  it('on both sides: what is warm stays where it is, and the host sends the rest', () => {
    const bench = make({ mechanism: { mirror: true } });
    bench.arrive(1, 320, { text: 'chat', maxTokens: 1 });
    bench.arrive(2, 8, { maxTokens: 200 });
    bench.step();
    bench.step();
    quiet(bench);
    const kept = bench.state.copies.find([bench.name(1, 19)], 1);
    expect(kept).toBe(1);
    bench.state.warm.evict(12);
    bench.arrive(3, 400, { text: 'chat' });
    expect(bench.told('swapIn')).toMatchObject([{ id: 3, held: 8, blocks: 12, cachedTokens: 320 }]);
    bench.finishAll();
  });

  it('not on a host that is slower than computing it again', () => {
    const bench = make({ costs: { promptToken: 100, block: 2000 } });
    const after = bench.state.copies.add(
      null,
      Array.from({ length: 10 }, (_, index) => `chat@${16 * index + 15}`),
      0,
      'idle',
    );
    bench.state.copies.land(after as Copy[]);
    for (const copy of (after as Copy[]).slice().reverse()) bench.state.copies.unpin(copy);
    bench.arrive(1, 200, { text: 'chat' });
    expect(bench.effects[0]).toEqual({ type: 'admit', id: 1, cachedTokens: 0 });
    bench.finishAll();
  });

  it('also of a system prompt that others have', () => {
    const bench = make({ mechanism: { mirror: false } });
    bench.arrive(1, 200, { system: 96, maxTokens: 1 });
    bench.arrive(2, 200, { system: 96, maxTokens: 1 });
    bench.until(() => bench.phases(1, 2).every((phase) => phase === 'done'));
    bench.arrive(3, 200, { system: 96 });
    expect(bench.told('admit')).toMatchObject([{ id: 3, cachedTokens: 96 }]);
    bench.arrive(4, 200, { system: 80 });
    expect(bench.told('admit')).toMatchObject([{ id: 4, cachedTokens: 80 }]);
    bench.finishAll();
  });

  it('of a failed request only what was right before', () => {
    const bench = make({ mechanism: { mirror: false } });
    bench.arrive(1, 200, { text: 'chat' });
    bench.step();
    bench.failStep();
    bench.arrive(2, 200, { text: 'chat' });
    expect(bench.told('admit')).toMatchObject([{ id: 2, cachedTokens: 0 }]);
    bench.finishAll();
  });

  it('which was saved when the earlier turn ended, where that is so', () => {
    const bench = make({ mechanism: { mirror: false, finished: 'save' } });
    bench.arrive(1, 200, { text: 'chat', maxTokens: 5 });
    bench.until(() => bench.phase(1) === 'done');
    expect(bench.transfers).toMatchObject([{ type: 'mirror', ids: [1], blocks: 12 }]);
    expect(bench.state.device.free).toBe(88);
    bench.land();
    expect(bench.state.device.free).toBe(100);
    bench.arrive(2, 300, { text: 'chat', maxTokens: 5 });
    expect(bench.told('swapIn')).toMatchObject([{ id: 2, held: 0, blocks: 12, cachedTokens: 192 }]);
    bench.until(() => bench.phase(2) === 'done');
    expect(bench.transfers).toMatchObject([{ type: 'mirror', ids: [2], blocks: 7 }]); // 19 full blocks, 12 of them known
    bench.finishAll();
  });

  it.each([
    ['with names', true],
    ['without', false],
  ])('and is saved only from the device: an abort of who is swapped saves nothing (%s)', (_, reuse) => {
    const bench = make({ maxRunning: 1, mechanism: { reuse, mirror: false, finished: 'save' } });
    bench.arrive(1, 200, { priority: 5, text: 'chat' });
    bench.step();
    bench.arrive(2, 200, { priority: 1, text: 'chat' });
    bench.step();
    bench.land();
    expect(bench.abort(1)).toEqual([{ type: 'finish', id: 1, outcome: 'aborted', error: null }]);
    bench.finishAll();
  });

  it('and of itself, when it was preempted to be computed again', () => {
    const bench = make({
      policy: 'priority',
      maxRunning: 1,
      mechanism: { preemption: 'recompute', reuse: false, mirror: false },
    });
    bench.arrive(1, 200, { priority: 5 });
    for (let n = 0; n < 5; n += 1) bench.step();
    bench.arrive(2, 8, { priority: 1, maxTokens: 2 });
    bench.step();
    expect(bench.told('recompute')).toEqual([{ type: 'recompute', id: 1, cause: { why: 'outranked', by: 2 } }]);
    bench.until(() => bench.phase(2) === 'done');
    // 206 tokens are known; 192 of them are in full blocks.
    expect(bench.told('admit')).toEqual([{ type: 'admit', id: 1, cachedTokens: 192 }]);
    expect(bench.stepItems).toEqual([[1, 192, 14]]);
    expect(bench.step()).toMatchObject([
      { type: 'prefilled' },
      { type: 'tokens', items: [{ id: 1, index: 6 }] },
      { type: 'step' },
    ]);
    bench.finishAll();
  });
});

describe('a second preemption', () => {
  /** Request 1 of 200 tokens is pushed out by a short one, and comes back when that has ended. */
  const pushOut = (bench: Bench, id: number) => {
    bench.arrive(id, 8, { priority: 1, maxTokens: 2 });
    bench.until(() => bench.told('swapOut').length + bench.told('park').length > 0);
    const [out] = [...bench.told('swapOut'), ...bench.told('park')];
    bench.until(() => bench.phase(id) === 'done' && bench.phase(1) === 'decoding');
    return out;
  };
  const make = (reuse: boolean) => {
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 1,
      deviceBlocks: 40,
      hostBlocks: 40,
      maxBatchTokens: 600,
      mechanism: { reuse },
    });
    bench.arrive(1, 200, { priority: 5, maxTokens: 300 });
    bench.step();
    return bench;
  };

  it('sends only what the host lacks, and partly filled blocks again', () => {
    const bench = make(true);
    expect(pushOut(bench, 2)).toMatchObject({ held: 0, blocks: 13 });
    for (let n = 0; n < 40; n += 1) bench.step();
    const { computed } = bench.request(1);
    const out = pushOut(bench, 3);
    expect(out).toMatchObject({ held: 12, blocks: Math.ceil((computed + 1) / 16) - 12 });
    expect(pushOut(bench, 4)).toMatchObject({ held: Math.floor(bench.request(1).computed / 16) });
    bench.finishAll();
  });

  it('sends all of it where copies are not kept: they are gone as soon as they were read', () => {
    const bench = make(false);
    expect(pushOut(bench, 2)).toMatchObject({ held: 0, blocks: 13 });
    expect(bench.state.host.free).toBe(40);
    expect(pushOut(bench, 3)).toMatchObject({ held: 0, blocks: 13 });
    bench.finishAll();
  });

  it('puts what is new behind what the host has, in one run', () => {
    const bench = make(true);
    pushOut(bench, 2);
    for (let n = 0; n < 60; n += 1) bench.step();
    pushOut(bench, 3);
    const blocks = bench.request(1).copies.map(({ block }) => block);
    expect(blocks).toEqual(blocks.map((_, index) => (blocks[0] as number) + index));
    bench.finishAll();
  });

  it('finds what an equal request has left on the host, and adds only its own', () => {
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 2,
      deviceBlocks: 60,
      hostBlocks: 60,
      maxBatchTokens: 600,
      mechanism: { reuse: true },
    });
    for (const id of [1, 2]) bench.arrive(id, 200, { priority: 5, system: 160, maxTokens: 100 });
    bench.until(() => bench.phases(1, 2).every((phase) => phase === 'decoding'));
    bench.arrive(3, 8, { priority: 1 });
    bench.step();
    bench.land();
    bench.arrive(4, 8, { priority: 1 });
    bench.step();
    bench.land();
    expect(bench.phases(1, 2)).toEqual(['swapped', 'swapped']);
    // 13 blocks each, the first ten of them common.
    expect(bench.state.host.total - bench.state.host.free).toBe(16);
    expect(bench.request(1).copies.slice(0, 10)).toEqual(bench.request(2).copies.slice(0, 10));
    bench.abort(2);
    bench.abort(3);
    bench.until(() => bench.phase(1) === 'decoding');
    bench.finishAll();
  });
});

describe('a host that is full', () => {
  it('gives up first what nobody uses, then what is used and on the device too, and at last lets the lowest rank compute again', () => {
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 1,
      deviceBlocks: 60,
      hostBlocks: 30,
      maxBatchTokens: 600,
      mechanism: { reuse: true },
    });
    const pinned = () => bench.state.host.total - bench.state.host.free - bench.state.copies.unpinned;
    bench.arrive(1, 150, { priority: 9 });
    bench.step();
    bench.arrive(2, 150, { priority: 8, maxTokens: 30 });
    bench.until(() => bench.phase(1) === 'swapped' && bench.phase(2) === 'decoding');
    expect(pinned()).toBe(10);
    bench.arrive(3, 150, { priority: 7 });
    bench.until(() => bench.phase(2) === 'swapped' && bench.phase(3) === 'decoding');
    expect([pinned(), bench.state.host.free]).toEqual([20, 10]);
    // A copy that nobody uses any more, of a request that ends while swapped: it is there as long as there is room.
    bench.abort(2);
    expect([pinned(), bench.state.copies.unpinned]).toEqual([10, 9]);
    bench.arrive(4, 150, { priority: 6 });
    bench.until(() => bench.phase(3) === 'swapped' && bench.phase(4) === 'decoding');
    expect([pinned(), bench.state.copies.unpinned]).toEqual([20, 9]);
    bench.arrive(5, 150, { priority: 5 });
    bench.until(() => bench.phase(4) === 'swapped' && bench.phase(5) === 'decoding');
    expect([pinned(), bench.state.copies.unpinned]).toEqual([30, 0]);
    // Only sole copies are left: those of the lowest rank go, it will be computed again.
    bench.arrive(6, 150, { priority: 4 });
    bench.until(() => bench.phase(5) === 'swapped' && bench.phase(6) === 'decoding');
    expect(bench.phases(1, 3, 4)).toEqual(['queued', 'swapped', 'swapped']);
    bench.finishAll();
  });

  it('lets nobody compute again in vain: what others need of its copies is no room', () => {
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 1,
      deviceBlocks: 60,
      hostBlocks: 14,
      maxBatchTokens: 600,
      mechanism: { reuse: true },
    });
    bench.arrive(1, 150, { priority: 9, system: 128 });
    bench.step();
    bench.arrive(2, 150, { priority: 8, system: 128 });
    bench.until(() => bench.phase(1) === 'swapped' && bench.phase(2) === 'decoding');
    bench.arrive(3, 150, { priority: 7 });
    bench.until(() => bench.phase(2) === 'swapped' && bench.phase(3) === 'decoding');
    // Ten blocks each, eight of them common.
    expect(bench.state.host.free).toBe(2);
    bench.prioritize([2, 1]);
    bench.step();
    bench.until(() => bench.phase(2) === 'decoding');
    expect(bench.phases(1, 3)).toEqual(['swapped', 'queued']);
    bench.finishAll();
  });

  it('lets several compute again whose common copies nobody else needs', () => {
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 1,
      deviceBlocks: 60,
      hostBlocks: 14,
      maxBatchTokens: 600,
      mechanism: { reuse: true },
    });
    bench.arrive(1, 150, { priority: 9, system: 128 });
    bench.step();
    bench.arrive(2, 150, { priority: 8, system: 128 });
    bench.until(() => bench.phase(1) === 'swapped' && bench.phase(2) === 'decoding');
    bench.arrive(3, 150, { priority: 7 });
    bench.until(() => bench.phase(2) === 'swapped' && bench.phase(3) === 'decoding');
    bench.arrive(4, 8, { priority: 1 });
    bench.until(() => bench.phase(4) === 'decoding');
    expect(bench.phases(1, 2, 3)).toEqual(['queued', 'queued', 'swapped']);
    bench.finishAll();
  });
});
