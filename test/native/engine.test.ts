/** What the engine computes: against the plain reference, and the same bits in whatever company it is computed. */
import { describe, expect, test } from 'vitest';
import { isas } from '../../src/native/index.js';
import type { EngineOptions } from '../../src/native/spec.js';
import { FAMILIES, integer, makeModel, seeded, TINY, type Tiny } from './engine-models.js';
import { alone, BLOCKS, difference, type Member, mixed, open, randomTokens, range, sameBits } from './engine-runs.js';
import { referenceLogits } from './reference.js';

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
