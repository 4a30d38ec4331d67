/** The queue of copies: its order, its chunks, and that every transfer is answered once, never too early. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHUNK_BYTES, type Chunk, type ChunkDone, GATHERED_BYTES, Link } from '../../src/actors/link.js';
import type { TransferEffect, Unstamped } from '../../src/actors/ports.js';
import type { Direction, Run } from '../../src/core/types.js';

/** Four blocks to a chunk. */
const BLOCK_BYTES = CHUNK_BYTES / 4;

/** A link whose copies end when told to. */
function testLink(
  duplex = true,
  blockBytes = BLOCK_BYTES,
  onAnswer: (event: Unstamped) => void = () => {},
  gather: ((go: () => void) => void) | null = null,
) {
  const chunks: Chunk[] = [];
  const pending: { chunk: Chunk; done: ChunkDone }[] = [];
  const answers: Unstamped[] = [];
  const link: Link = new Link({
    duplex,
    blockBytes,
    perform(chunk, done) {
      chunks.push(chunk);
      pending.push({ chunk, done });
    },
    answer(event) {
      answers.push(event);
      onAnswer(event);
    },
    gather,
  });
  const finish = (result: number | Error = 10) => pending.shift()?.done(result);
  const finishAll = () => {
    while (pending.length > 0) finish();
  };
  return { link, chunks, pending, answers, finish, finishAll };
}

const blocksOf = (runs: readonly Run[]) => runs.reduce((sum, { blocks }) => sum + blocks, 0);

function transfer(number: number, type: TransferEffect['type'], runs: readonly Run[], way?: Direction): TransferEffect {
  const direction = way ?? (type === 'swapIn' || type === 'prefetch' ? 'in' : 'out');
  const copies = { transfer: number, direction, runs, blocks: blocksOf(runs) };
  if (type === 'mirror') return { type, ids: [number], ...copies };
  if (type === 'prefetch') return { type, id: number, ...copies };
  if (type === 'swapOut') return { type, id: number, held: 0, cause: { why: 'outranked', by: 9 }, ...copies };
  return { type, id: number, held: 0, cachedTokens: 0, ...copies };
}

const run = (from: number, to: number, blocks: number): Run => ({ from, to, blocks });
const landed = (number: number, micros: number): Unstamped => ({ type: 'landed', transfer: number, micros });
/** The first block of each chunk: tells the transfers apart. */
const starts = (chunks: readonly Chunk[]) => chunks.map(({ runs }) => runs[0]?.from);

describe('chunks', () => {
  it('a transfer that fits one chunk goes as it is', () => {
    const { link, chunks, answers, finish } = testLink();
    const runs = [run(0, 9, 1), run(5, 3, 3)];
    link.start(transfer(1, 'swapOut', runs));
    expect(chunks).toEqual([{ direction: 'out', runs, blocks: 4 }]);
    expect(answers).toEqual([]);
    finish(33);
    expect(answers).toEqual([landed(1, 33)]);
  });

  it('a longer one is cut, runs too, and takes the time of its chunks together', () => {
    const { link, chunks, answers, finish } = testLink();
    link.start(transfer(1, 'swapIn', [run(0, 100, 3), run(10, 200, 6), run(20, 300, 1)]));
    expect(chunks).toHaveLength(1);
    finish(7);
    finish(8);
    expect(answers).toEqual([]);
    finish(9);
    expect(chunks.map(({ runs, blocks }) => [blocks, ...runs])).toEqual([
      [4, run(0, 100, 3), run(10, 200, 1)],
      [4, run(11, 201, 4)],
      [2, run(15, 205, 1), run(20, 300, 1)],
    ]);
    expect(answers).toEqual([landed(1, 24)]);
  });

  it('a block larger than a chunk goes alone', () => {
    const { link, chunks, finishAll } = testLink(true, 3 * CHUNK_BYTES);
    link.start(transfer(1, 'swapOut', [run(0, 0, 3)]));
    finishAll();
    expect(chunks.map(({ blocks }) => blocks)).toEqual([1, 1, 1]);
  });

  it('moves every block of any runs once, in order, in whole chunks', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 11 }), { minLength: 1, maxLength: 12 }), (lengths) => {
        const { link, chunks, finishAll } = testLink();
        const runs = lengths.map((blocks, k) => run(100 * k, 100 * k + 50, blocks));
        link.start(transfer(1, 'swapOut', runs));
        finishAll();
        const each = (all: readonly Run[]) =>
          all.flatMap(({ from, to, blocks }) => Array.from({ length: blocks }, (_, k) => [from + k, to + k]));
        expect(chunks.flatMap((chunk) => each(chunk.runs))).toEqual(each(runs));
        for (const chunk of chunks) expect(chunk.blocks).toBe(blocksOf(chunk.runs));
        const full = chunks.slice(0, -1).map(({ blocks }) => blocks);
        expect(full).toEqual(full.map(() => 4));
      }),
    );
  });

  it('refuses a transfer of nothing', () => {
    expect(() => testLink().link.start(transfer(1, 'swapOut', []))).toThrow(/nothing to copy/);
  });
});

describe('order', () => {
  it('first come, first served, one chunk at a time in a direction', () => {
    const { link, chunks, pending, finishAll } = testLink();
    for (const k of [1, 2, 3]) link.start(transfer(k, 'swapOut', [run(k, k, 1)]));
    expect(pending).toHaveLength(1);
    finishAll();
    expect(starts(chunks)).toEqual([1, 2, 3]);
  });

  it('the directions do not wait for each other', () => {
    const { link, pending, answers } = testLink();
    link.start(transfer(1, 'swapOut', [run(1, 1, 9)]));
    link.start(transfer(2, 'swapIn', [run(2, 2, 1)]));
    expect(pending.map(({ chunk }) => chunk.direction)).toEqual(['out', 'in']);
    pending[1]?.done(5);
    expect(answers).toEqual([landed(2, 5)]);
  });

  it('but they do where there is one lane', () => {
    const { link, chunks, pending, finishAll } = testLink(false);
    link.start(transfer(1, 'swapOut', [run(1, 1, 1)]));
    link.start(transfer(2, 'swapIn', [run(2, 2, 1)]));
    link.start(transfer(3, 'swapOut', [run(3, 3, 1)]));
    expect(pending).toHaveLength(1);
    finishAll();
    expect(starts(chunks)).toEqual([1, 2, 3]);
  });

  it('what is needed overtakes what goes ahead of need, between chunks', () => {
    const { link, chunks, answers, finish, finishAll } = testLink();
    link.start(transfer(1, 'mirror', [run(0, 0, 12)]));
    finish(1);
    link.start(transfer(2, 'mirror', [run(100, 0, 1)]));
    link.start(transfer(3, 'swapOut', [run(200, 0, 8)]));
    link.start(transfer(4, 'swapOut', [run(300, 0, 1)]));
    finishAll();
    expect(starts(chunks)).toEqual([0, 4, 200, 204, 300, 8, 100]);
    expect(answers).toEqual([landed(3, 20), landed(4, 10), landed(1, 21), landed(2, 10)]);
  });

  it('so do those that the other direction needs, in one lane', () => {
    const { link, chunks, finishAll } = testLink(false);
    link.start(transfer(1, 'prefetch', [run(0, 0, 8)]));
    link.start(transfer(2, 'mirror', [run(100, 0, 1)]));
    link.start(transfer(3, 'swapOut', [run(200, 0, 1)]));
    finishAll();
    expect(starts(chunks)).toEqual([0, 200, 4, 100]);
  });

  it('what an answer asks for comes before copies ahead of need', () => {
    const test = testLink(true, BLOCK_BYTES, (event) => {
      if (event.type === 'landed' && event.transfer === 1) test.link.start(transfer(3, 'swapOut', [run(30, 0, 1)]));
    });
    test.link.start(transfer(1, 'swapOut', [run(10, 0, 1)]));
    test.link.start(transfer(2, 'mirror', [run(20, 0, 1)]));
    test.finishAll();
    expect(starts(test.chunks)).toEqual([10, 30, 20]);
  });
});

describe('answers', () => {
  it('a chunk that fails ends its transfer: answered once, the rest dropped, the next one goes', () => {
    const { link, chunks, answers, finish, finishAll } = testLink();
    link.start(transfer(1, 'swapOut', [run(0, 0, 12)]));
    link.start(transfer(2, 'swapOut', [run(100, 0, 1)]));
    finish();
    finish(new Error('no luck'));
    finishAll();
    expect(starts(chunks)).toEqual([0, 4, 100]);
    expect(answers).toEqual([{ type: 'transferFailed', transfer: 1, error: 'no luck' }, landed(2, 10)]);
  });

  it('a copier that answers before it has returned, or twice, is a mistake', () => {
    const early = new Link({ duplex: true, blockBytes: BLOCK_BYTES, perform: (_, done) => done(1), answer() {}, gather: null });
    expect(() => early.start(transfer(1, 'swapOut', [run(0, 0, 1)]))).toThrow(/too early or twice/);
    const { link, pending } = testLink();
    link.start(transfer(1, 'swapOut', [run(0, 0, 1)]));
    const done = pending[0]?.done as ChunkDone;
    done(1);
    expect(() => done(1)).toThrow(/too early or twice/);
  });

  it('nothing is sent or answered once it is closed', () => {
    const { link, chunks, answers, finishAll } = testLink();
    link.start(transfer(1, 'swapOut', [run(0, 0, 8)]));
    link.start(transfer(2, 'swapIn', [run(0, 0, 1)]));
    link.close();
    finishAll();
    link.start(transfer(3, 'swapIn', [run(0, 0, 1)]));
    expect(chunks).toHaveLength(2);
    expect(answers).toEqual([]);
  });

  it('any transfers are answered once each, never inside start, in order within their class and lane', () => {
    const types = ['swapOut', 'swapIn', 'mirror', 'prefetch'] as const;
    const step = fc.record({ type: fc.constantFrom(...types), blocks: fc.integer({ min: 1, max: 14 }), finishes: fc.nat(4) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), fc.boolean(), (steps, duplex) => {
        const { link, pending, answers, finish, finishAll } = testLink(duplex);
        for (const [k, { type, blocks, finishes }] of steps.entries()) {
          const before = answers.length;
          link.start(transfer(k, type, [run(0, 0, blocks)]));
          expect(answers.length).toBe(before);
          expect(pending.length).toBeLessThanOrEqual(duplex ? 2 : 1);
          for (let n = 0; n < finishes; n++) finish(k % 5 === 4 ? new Error('drawn') : 10);
        }
        finishAll();
        const numbers = answers.map((event) => ('transfer' in event ? event.transfer : -1));
        expect([...numbers].sort((a, b) => a - b)).toEqual(steps.map((_, k) => k));
        for (const type of types) {
          const same = numbers.filter((k) => steps[k]?.type === type);
          expect(same).toEqual([...same].sort((a, b) => a - b));
        }
        for (const event of answers) {
          if (event.type === 'landed') expect(event.micros).toBe(10 * Math.ceil((steps[event.transfer]?.blocks as number) / 4));
        }
      }),
    );
  });
});

describe('gathered', () => {
  /** Eight blocks at most go together. */
  const SHORT_BLOCK_BYTES = GATHERED_BYTES / 8;

  /** A link that gathers what is asked for until `decided` is called. */
  function gathering(duplex = true, onAnswer: (event: Unstamped) => void = () => {}) {
    const going: (() => void)[] = [];
    const test = testLink(duplex, SHORT_BLOCK_BYTES, onAnswer, (go) => going.push(go));
    const decided = () => {
      for (const go of going.splice(0)) go();
    };
    return { ...test, decided };
  }

  it('all short transfers of a decision go in one chunk, once it is complete, and share its time', () => {
    const { link, chunks, answers, finish, decided } = gathering();
    for (const k of [1, 2, 3]) link.start(transfer(k, 'swapIn', [run(10 * k, k, 1), run(10 * k + 5, k, k)]));
    expect(chunks).toEqual([]);
    decided();
    expect(chunks.map(({ blocks, runs }) => [blocks, runs.map(({ from }) => from)])).toEqual([[5, [10, 15, 20, 25]]]);
    finish(11);
    expect(answers).toEqual([landed(1, 4), landed(2, 7)]);
    expect(chunks[1]?.runs).toEqual([run(30, 3, 1), run(35, 3, 3)]);
    finish(9);
    expect(answers).toEqual([landed(1, 4), landed(2, 7), landed(3, 9)]);
  });

  it('many take as many round trips as they fill chunks, and not one each', () => {
    const { link, chunks, answers, finishAll, decided } = gathering();
    for (let k = 0; k < 18; k += 1) link.start(transfer(k, 'swapIn', [run(k, k, 1)]));
    decided();
    finishAll();
    expect(chunks.map(({ blocks }) => blocks)).toEqual([8, 8, 2]);
    expect(answers.map((event) => 'transfer' in event && event.transfer)).toEqual(Array.from({ length: 18 }, (_, k) => k));
  });

  it('what is needed does not wait for what goes ahead of need, nor one way for the other', () => {
    const { link, chunks, finishAll, decided } = gathering(false);
    link.start(transfer(1, 'mirror', [run(1, 0, 1)]));
    link.start(transfer(2, 'swapOut', [run(2, 0, 1)]));
    link.start(transfer(3, 'swapIn', [run(3, 0, 1)]));
    link.start(transfer(4, 'swapIn', [run(4, 0, 1)]));
    decided();
    finishAll();
    expect(chunks.map(({ runs }) => runs.map(({ from }) => from))).toEqual([[2], [3, 4], [1]]);
  });

  it('a long one is cut as ever and takes nobody along', () => {
    const { link, chunks, finishAll, decided } = gathering();
    link.start(transfer(1, 'swapOut', [run(0, 0, 9)]));
    link.start(transfer(2, 'swapOut', [run(100, 0, 1)]));
    decided();
    finishAll();
    expect(starts(chunks)).toEqual([0, 100]);
  });

  it('where the chunk fails, all of them have; what is asked for meanwhile goes next', () => {
    const test = gathering(true, (event) => {
      if (event.type === 'transferFailed' && event.transfer === 1) test.link.start(transfer(3, 'swapOut', [run(30, 0, 1)]));
    });
    for (const k of [1, 2]) test.link.start(transfer(k, 'swapOut', [run(k, 0, 1)]));
    test.decided();
    test.finish(new Error('no luck'));
    test.decided();
    test.finishAll();
    expect(starts(test.chunks)).toEqual([1, 30]);
    const failed = (number: number): Unstamped => ({ type: 'transferFailed', transfer: number, error: 'no luck' });
    expect(test.answers).toEqual([failed(1), failed(2), landed(3, 10)]);
  });

  it('any transfers are answered once each, in order within their class and lane, and their times add up', () => {
    const types = ['swapOut', 'swapIn', 'mirror', 'prefetch'] as const;
    const step = fc.record({ type: fc.constantFrom(...types), blocks: fc.integer({ min: 1, max: 14 }), decides: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), fc.boolean(), (steps, duplex) => {
        const { link, pending, chunks, answers, finishAll, decided } = gathering(duplex);
        for (const [k, { type, blocks, decides }] of steps.entries()) {
          link.start(transfer(k, type, [run(0, 0, blocks)]));
          if (decides) decided();
          expect(pending.length).toBeLessThanOrEqual(duplex ? 2 : 1);
          if (k % 3 === 2) finishAll();
        }
        decided();
        finishAll();
        const numbers = answers.map((event) => ('transfer' in event ? event.transfer : -1));
        expect([...numbers].sort((a, b) => a - b)).toEqual(steps.map((_, k) => k));
        for (const type of types) {
          const same = numbers.filter((k) => steps[k]?.type === type);
          expect(same).toEqual([...same].sort((a, b) => a - b));
        }
        const micros = answers.reduce((sum, event) => sum + (event.type === 'landed' ? event.micros : 0), 0);
        expect(micros).toBe(10 * chunks.length);
      }),
    );
  });
});
