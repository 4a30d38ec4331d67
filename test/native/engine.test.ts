/** What the engine computes: against the plain reference, and the same bits in whatever company it is computed. */
import { describe, expect, test } from 'vitest';
import {
  copyRuns,
  createEngine,
  createStore,
  Direction,
  destroyEngine,
  destroyStore,
  engineInfo,
  isas,
  stepLogits,
} from '../../src/native/index.js';
import type { EngineOptions, EngineSpec } from '../../src/native/spec.js';
import { FAMILIES, integer, makeModel, OPTIONS, type Part, planOf, resultFor, seeded, TINY, type Tiny } from './engine-models.js';
import { referenceLogits } from './reference.js';

const BLOCKS = 200;

interface Bench {
  readonly spec: EngineSpec;
  /** One step; answers the logits of each sampling part. */
  run(parts: readonly Part[]): Float32Array[];
  swap(direction: Direction, runs: readonly number[]): void;
  close(): void;
}

function open(spec: EngineSpec, options: Partial<EngineOptions>): Bench {
  const engine = createEngine(spec, { ...OPTIONS, ...options });
  const store = createStore(engineInfo(engine).blockBytes, BLOCKS, BLOCKS);
  return {
    spec,
    run(parts) {
      const samples = parts.filter((part) => part.sample ?? true).length;
      const logits = new Float32Array(samples * spec.vocabulary);
      stepLogits(engine, store, planOf(parts), resultFor(parts.length), logits);
      return Array.from({ length: samples }, (_, i) => logits.slice(i * spec.vocabulary, (i + 1) * spec.vocabulary));
    },
    swap: (direction, runs) => void copyRuns(store, direction, Int32Array.from(runs)),
    close() {
      destroyEngine(engine);
      destroyStore(store);
    },
  };
}

const randomTokens = (random: () => number, count: number, vocabulary: number): number[] =>
  Array.from({ length: count }, () => integer(random, 0, vocabulary - 1));

const range = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);

/** Logits after every position, one token a step, alone: the bits that everything else must repeat. */
function alone(bench: Bench, tokens: readonly number[]): Float32Array[] {
  const blocks = range(0, Math.ceil(tokens.length / 16));
  return tokens.map((token, start) => bench.run([{ tokens: [token], start, blocks }])[0] as Float32Array);
}

/** Root of the mean square of the difference, in units of the reference's own. */
function difference(found: Float32Array, wanted: Float64Array): number {
  let error = 0;
  let size = 0;
  wanted.forEach((value, i) => {
    error += (value - (found[i] as number)) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(error / size);
}

const sameBits = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0;

describe('against the plain reference', () => {
  test.each(Object.entries(FAMILIES))('%s', (_, tiny) => {
    const tokens = randomTokens(seeded(5), 40, tiny.vocabulary);
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      const spec = makeModel({ ...tiny, dtype }, 11);
      const wanted = referenceLogits(spec, tokens).at(-1) as Float64Array;
      for (const isa of isas()) {
        for (const kvDtype of ['f32', 'bf16'] as const) {
          const bench = open(spec, { isa, kvDtype });
          const found = bench.run([{ tokens, start: 0, blocks: [3, 1, 2] }])[0] as Float32Array;
          // Rounding keys and values, or the inputs of bf16 products, to 8 bits of mantissa shows in the third digit.
          const tolerance = kvDtype === 'bf16' || (dtype === 'bf16' && isa === 'avx512') ? 0.04 : 2e-5;
          expect(difference(found, wanted), `${isa}, ${dtype} weights, ${kvDtype} KV`).toBeLessThan(tolerance);
          bench.close();
        }
      }
    }
  });

  test.each(Object.entries(FAMILIES))('%s, quantized: near it, and alike on all instruction sets', (_, tiny) => {
    const tokens = randomTokens(seeded(5), 40, tiny.vocabulary);
    const spec = makeModel({ ...tiny, dtype: 'bf16', spread: 0.1 }, 11);
    const wanted = referenceLogits(spec, tokens).at(-1) as Float64Array;
    const rows = isas().map((isa) => {
      const bench = open(spec, { isa, quantize: 'q8' });
      const found = bench.run([{ tokens, start: 0, blocks: [3, 1, 2] }])[0] as Float32Array;
      bench.close();
      return found;
    });
    expect(difference(rows[0] as Float32Array, wanted)).toBeLessThan(0.03);
    for (const row of rows) expect(difference(row, Float64Array.from(rows[0] as Float32Array))).toBeLessThan(0.01);
  });

  test.each([0, 300, 600])('a context of several chunks, window %i', (window) => {
    const spec = makeModel({ ...TINY, layers: 1, window }, 3);
    const tokens = randomTokens(seeded(8), 1100, spec.vocabulary);
    const wanted = referenceLogits(spec, tokens).at(-1) as Float64Array;
    for (const isa of isas()) {
      const bench = open(spec, { isa, maxBatchTokens: 1100 });
      const found = bench.run([{ tokens, start: 0, blocks: range(0, 69) }])[0] as Float32Array;
      expect(difference(found, wanted)).toBeLessThan(2e-5);
      bench.close();
    }
  });
});

/** One conversation in a random mix: where its KV lies now, and how far it is. */
interface Member {
  readonly tokens: readonly number[];
  readonly wanted: readonly Float32Array[];
  blocks: number[];
  done: number;
}

/** Moves a member's blocks to the host and back to other device blocks. */
function swapElsewhere(bench: Bench, member: Member, free: number[]): void {
  const used = member.blocks;
  const fresh = used.map(() => free.shift() as number);
  bench.swap(
    Direction.deviceToHost,
    used.flatMap((block, i) => [block, i, 1]),
  );
  bench.swap(
    Direction.hostToDevice,
    fresh.flatMap((block, i) => [i, block, 1]),
  );
  free.push(...used);
  member.blocks = fresh;
}

/** Runs the members to their ends in random batches and chunks; counts the logits rows whose bits differ from alone. */
function mixed(bench: Bench, members: readonly Member[], random: () => number, free: number[]): number {
  let different = 0;
  for (
    let left = members.filter((m) => m.done < m.tokens.length);
    left.length > 0;
    left = left.filter((m) => m.done < m.tokens.length)
  ) {
    const chosen = left.filter(() => random() < 0.7);
    let room = OPTIONS.maxBatchTokens;
    const parts: Part[] = [];
    const stepped: Member[] = [];
    for (const member of chosen) {
      const most = Math.min(room, member.tokens.length - member.done);
      if (most === 0) continue;
      const count = random() < 0.4 ? 1 : integer(random, 1, most);
      room -= count;
      if (random() < 0.2 && member.done > 0) swapElsewhere(bench, member, free);
      parts.push({ tokens: member.tokens.slice(member.done, member.done + count), start: member.done, blocks: member.blocks });
      member.done += count;
      stepped.push(member);
    }
    if (parts.length === 0) continue;
    const rows = bench.run(parts);
    stepped.forEach((member, i) => {
      if (!sameBits(rows[i] as Float32Array, member.wanted[member.done - 1] as Float32Array)) different++;
    });
  }
  return different;
}

const KINDS: [string, Partial<Tiny>, Partial<EngineOptions>][] = [
  ['f32 weights, f32 KV', { dtype: 'f32' }, { kvDtype: 'f32' }],
  ['bf16 weights, bf16 KV', { dtype: 'bf16' }, { kvDtype: 'bf16' }],
  ['q8 weights, bf16 KV', { dtype: 'bf16' }, { kvDtype: 'bf16', quantize: 'q8' }],
];

describe.each(isas())('on %s, with the same bits as alone', (isa) => {
  test.each(KINDS)('%s: any batch, chunks, threads and swaps', (_, change, options) => {
    const random = seeded(20);
    for (const [name, tiny] of Object.entries(FAMILIES)) {
      const spec = makeModel({ ...tiny, ...change }, 17);
      const one = open(spec, { ...options, isa });
      const two = open(spec, { ...options, isa, threads: 2 });
      const free = range(0, BLOCKS);
      const members = Array.from({ length: 6 }, (): Member => {
        const tokens = randomTokens(random, integer(random, 1, 60), spec.vocabulary);
        return { tokens, wanted: alone(one, tokens), blocks: free.splice(0, Math.ceil(tokens.length / 16)), done: 0 };
      });
      for (const bench of [one, two]) {
        for (const member of members) member.done = 0;
        expect(mixed(bench, members, random, free), name).toBe(0);
      }
      one.close();
      two.close();
    }
  });

  test('a long context in one prefill, in chunks, and token by token', () => {
    for (const window of [0, 300]) {
      const spec = makeModel({ ...TINY, layers: 1, window, dtype: 'bf16' }, 3);
      const tokens = randomTokens(seeded(8), 1100, spec.vocabulary);
      const bench = open(spec, { isa, maxBatchTokens: 1100, kvDtype: 'bf16', threads: 2 });
      const blocks = range(0, 69);
      const wanted = alone(bench, tokens).at(-1) as Float32Array;
      const whole = bench.run([{ tokens, start: 0, blocks }]);
      expect(sameBits(whole[0] as Float32Array, wanted)).toBe(true);
      for (let start = 0; start < tokens.length; start += 173) {
        const rows = bench.run([{ tokens: tokens.slice(start, start + 173), start, blocks }]);
        if (start + 173 >= tokens.length) expect(sameBits(rows[0] as Float32Array, wanted)).toBe(true);
      }
      bench.close();
    }
  });
});
