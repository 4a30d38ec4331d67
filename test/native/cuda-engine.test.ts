/** The engine of a GPU: near the CPU's, the same bits in whatever company, and what it asks of the driver. */
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  createEngine,
  createStore,
  Direction,
  destroyEngine,
  destroyStore,
  engineInfo,
  step as stepEngine,
} from '../../src/native/index.js';
import { RESULT_RECORD } from '../../src/native/plan.js';
import type { EngineOptions, EngineSpec, TensorRole, TensorSpec } from '../../src/native/spec.js';
import { FAMILIES, integer, makeModel, OPTIONS, type Part, planOf, resultFor, seeded, TINY, type Tiny } from './engine-models.js';
import { alone, type Bench, BLOCKS, difference, type Member, mixed, open, randomTokens, range, sameBits } from './engine-runs.js';
import { referenceLogits } from './reference.js';
import { testGpu } from './standin/index.js';

const gpu = await testGpu();

const EXACT: Partial<EngineOptions> = { device: 0, batchInvariant: true };
const FAST: Partial<EngineOptions> = { device: 0, batchInvariant: false };
// Weights, inputs of products, keys and values have 8 bits of mantissa.
const TOLERANCE = 0.04;

function argmax(values: Float32Array): number {
  return values.reduce((best, value, i) => (value > (values[best] as number) ? i : best), 0);
}

/** How far the largest lies above the next, in units of the root of the mean square. */
function margin(values: Float32Array): number {
  const [first = 0, second = 0] = [...values].sort((a, b) => b - a);
  return (first - second) / Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

describe.skipIf(gpu.skip !== '')('near the CPU engine', () => {
  test.each(Object.entries(FAMILIES))('%s', (_, tiny) => {
    const tokens = randomTokens(seeded(5), 40, tiny.vocabulary);
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      const spec = makeModel({ ...tiny, dtype }, 11);
      const wanted = referenceLogits(spec, tokens);
      for (const options of dtype === 'bf16' ? [EXACT, FAST] : [EXACT]) {
        const bench = open(spec, options);
        const blocks = [3, 1, 2];
        const found = bench.run([{ tokens: tokens.slice(0, 38), start: 0, blocks }]);
        for (const start of [38, 39]) found.push(...bench.run([{ tokens: [tokens[start] as number], start, blocks }]));
        found.forEach((row, i) => {
          expect(difference(row, wanted[37 + i] as Float64Array), dtype).toBeLessThan(TOLERANCE);
        });
        bench.close();
      }
    }
  });

  test('the likeliest token is the same wherever it stands out', () => {
    const spec = makeModel({ ...TINY, dtype: 'bf16' }, 4);
    const tokens = randomTokens(seeded(6), 60, spec.vocabulary);
    const parts = tokens.map((_, i) => ({ tokens: tokens.slice(0, i + 1), start: 0, blocks: [0, 1, 2, 3] }));
    const benches = [open(spec, { device: -1 }), open(spec, FAST)] as const;
    let compared = 0;
    for (const part of parts.slice(20)) {
      const [wanted, found] = benches.map((bench) => bench.run([part])[0] as Float32Array) as [Float32Array, Float32Array];
      if (margin(wanted) < 4 * TOLERANCE) continue;
      compared++;
      expect(argmax(found)).toBe(argmax(wanted));
    }
    expect(compared).toBeGreaterThan(20);
    for (const bench of benches) bench.close();
  });

  test('random weights are those that the CPU draws', () => {
    const drawn = makeModel({ ...TINY, dtype: 'bf16', qkvBias: true, qkNorm: true, hidden: 40 }, 4);
    const spec = { ...drawn, files: [], tensors: drawn.tensors.map((tensor) => ({ ...tensor, file: -1, offset: 0 })) };
    const part = { tokens: randomTokens(seeded(6), 30, spec.vocabulary), start: 0, blocks: [0, 1] };
    const [wanted, found] = [{ device: -1 }, EXACT].map((options) => {
      const bench = open(spec, options);
      const row = bench.run([part])[0] as Float32Array;
      bench.close();
      return row;
    }) as [Float32Array, Float32Array];
    expect(difference(found, Float64Array.from(wanted))).toBeLessThan(TOLERANCE);
  });

  test.each([0, 200])('a context of several spans, window %i', (window) => {
    const spec = makeModel({ ...TINY, layers: 1, window, dtype: 'bf16' }, 3);
    const tokens = randomTokens(seeded(8), 600, spec.vocabulary);
    const wanted = referenceLogits(spec, tokens).at(-1) as Float64Array;
    const bench = open(spec, { ...FAST, maxBatchTokens: 600 });
    const found = bench.run([{ tokens, start: 0, blocks: range(0, 38) }])[0] as Float32Array;
    expect(difference(found, wanted)).toBeLessThan(TOLERANCE);
    bench.close();
  });
});

/** Few tokens, since a stand-in takes its time. */
function memberOf(bench: Bench, random: () => number, free: number[], tokensMax: number): Member {
  const tokens = randomTokens(random, integer(random, 1, tokensMax), bench.spec.vocabulary);
  return { tokens, wanted: alone(bench, tokens), blocks: free.splice(0, Math.ceil(tokens.length / 16)), done: 0 };
}

describe.skipIf(gpu.skip !== '')('with the same bits as alone', () => {
  test.each(Object.entries(FAMILIES))('%s: any batch, chunks, swaps, with graphs and without', (_, tiny) => {
    const random = seeded(20);
    const spec = makeModel({ ...tiny, dtype: 'bf16' }, 17);
    const plain = open(spec, { ...EXACT, graphs: false });
    const captured = open(spec, EXACT);
    const free = range(0, BLOCKS);
    const members = Array.from({ length: 4 }, () => memberOf(plain, random, free, 24));
    for (const bench of [captured, plain]) {
      for (const member of members) member.done = 0;
      expect(mixed(bench, members, random, free)).toBe(0);
    }
    plain.close();
    captured.close();
  });

  test('decode in batches of every size, in graphs with room for more', () => {
    const random = seeded(21);
    const bench = open(makeModel({ ...TINY, dtype: 'bf16', qkvBias: true, oBias: true }, 17), EXACT);
    const free = range(0, BLOCKS);
    const members = range(0, 13).map(() => memberOf(bench, random, free, 20));
    for (const member of members) member.done = 0;
    for (;;) {
      const left = members.filter((member) => member.done < member.tokens.length);
      if (left.length === 0) break;
      const chosen = left.filter(() => random() < 0.6);
      if (chosen.length === 0) continue;
      const rows = bench.run(
        chosen.map(({ tokens, done, blocks }) => ({ tokens: tokens.slice(done, done + 1), start: done, blocks })),
      );
      for (const [i, member] of chosen.entries()) {
        expect(sameBits(rows[i] as Float32Array, member.wanted[member.done] as Float32Array)).toBe(true);
        member.done++;
      }
    }
    bench.close();
  });

  test.each([0, 200])('a long context in one prefill, in chunks, alone and among many, window %i', (window) => {
    const spec = makeModel({ ...TINY, layers: 2, window, windowFromLayer: 1, dtype: 'bf16' }, 3);
    const tokens = randomTokens(seeded(8), 420, spec.vocabulary);
    const bench = open(spec, { ...EXACT, maxBatchTokens: 420 });
    const blocks = range(0, 27);
    const whole = bench.run([{ tokens, start: 0, blocks }])[0] as Float32Array;
    for (let start = 0; start < tokens.length; start += 137) {
      const row = bench.run([{ tokens: tokens.slice(start, start + 137), start, blocks }])[0] as Float32Array;
      if (start + 137 >= tokens.length) expect(sameBits(row, whole)).toBe(true);
    }
    // One sequence leaves warps without work, so that its spans are computed apart; sixteen do not.
    const last = { tokens: tokens.slice(-1), start: tokens.length - 1, blocks };
    for (const others of [0, 0, 0, 1, 4, 15, 15, 15]) {
      const parts = range(0, others + 1).map(() => last);
      for (const row of bench.run(parts)) expect(sameBits(row, whole)).toBe(true);
    }
    bench.close();
  });

  test('a conversation that goes to the host and comes back to other blocks', () => {
    const spec = makeModel({ ...TINY, dtype: 'bf16' }, 3);
    const tokens = randomTokens(seeded(9), 70, spec.vocabulary);
    const bench = open(spec, EXACT);
    const wanted = bench.run([{ tokens: tokens.slice(0, 64), start: 0, blocks: [0, 1, 2, 3, 4] }]);
    for (let i = 64; i < 70; i++)
      wanted.push(...bench.run([{ tokens: [tokens[i] as number], start: i, blocks: [0, 1, 2, 3, 4] }]));
    bench.run([{ tokens: tokens.slice(0, 64), start: 0, blocks: [10, 11, 12, 13] }]);
    let at = [10, 11, 12, 13, 14];
    for (let i = 64; i < 70; i++) {
      const next = at.map((block) => block + 20);
      bench.swap(Direction.deviceToHost, [at[0] as number, 7, 5]);
      // Whoever has the blocks meanwhile leaves nothing behind.
      bench.run([{ tokens: tokens.slice(0, 60), start: 0, blocks: at }]);
      bench.swap(Direction.hostToDevice, [7, next[0] as number, 5]);
      const row = bench.run([{ tokens: [tokens[i] as number], start: i, blocks: next }])[0] as Float32Array;
      expect(sameBits(row, wanted[i - 63] as Float32Array)).toBe(true);
      at = next;
    }
    bench.close();
  });
});

/**
 * A model whose logits are the same to the bit on both: an embedding of ones and minus ones, which the norm leaves as they are,
 * layers that add nothing, and a head of few bits.
 */
function exactModel(): EngineSpec {
  const spec = makeModel({ ...TINY, dtype: 'bf16', layers: 1, vocabulary: 1009, tiedHead: false }, 1);
  const file = spec.files[0] as string;
  const bytes = readFileSync(file);
  const random = seeded(31);
  const values: Partial<Record<TensorRole, () => number>> = {
    embed: () => (random() < 0.5 ? -1 : 1),
    head: () => integer(random, -64, 64) / 128,
    finalNorm: () => 1,
    o: () => 0,
    down: () => 0,
  };
  for (const tensor of spec.tensors) {
    const value = values[tensor.role];
    for (let i = 0; value !== undefined && i < tensor.rows * tensor.columns; i++) {
      bytes.writeUInt16LE((new Uint32Array(Float32Array.of(value()).buffer)[0] as number) >>> 16, tensor.offset + 2 * i);
    }
  }
  writeFileSync(file, bytes);
  return { ...spec, rmsEps: 0 };
}

describe.skipIf(gpu.skip !== '')('samples as the CPU does, from the same logits', () => {
  const spec = exactModel();
  const history = randomTokens(seeded(2), 50, spec.vocabulary);
  const WAYS: [string, Partial<Part>][] = [
    ['the likeliest', {}],
    [
      'the likeliest, with a bias',
      {
        bias: [
          [17, 30],
          [18, -3],
        ],
      },
    ],
    [
      'the likeliest, with penalties',
      { history, historyPrompt: 20, repetitionPenalty: 1.3, frequencyPenalty: 0.5, presencePenalty: 0.4 },
    ],
    ['from all', { temperature: 1 }],
    ['from all, evenly', { temperature: 4 }],
    ['top_k', { temperature: 2, topK: 7 }],
    ['top_p', { temperature: 2, topP: 0.6 }],
    ['min_p', { temperature: 2, minP: 0.05 }],
    ['everything at once', { temperature: 1.5, topK: 50, topP: 0.9, minP: 0.01, history, presencePenalty: 1, bias: [[3, 5]] }],
  ];

  test.each(WAYS)('%s', (_, way) => {
    const words = [{ device: -1 }, EXACT].map((options) => {
      const engine = createEngine(spec, { ...OPTIONS, ...options });
      const store = createStore(engineInfo(engine).blockBytes, 16, 0, { device: options.device ?? -1, batchCopies: true });
      const records: Int32Array[] = [];
      for (let step = 0; step < 4; step++) {
        const parts = range(0, 16).map(
          (i): Part => ({ tokens: [7 * i], start: 0, blocks: [i], ...way, seed: BigInt(100 + i), draw: step, topLogprobs: i }),
        );
        const result = resultFor(16);
        stepEngine(engine, store, planOf(parts), result);
        for (let i = 0; i < 16; i++) records.push(result.slice(i * RESULT_RECORD, (i + 1) * RESULT_RECORD));
      }
      destroyEngine(engine);
      destroyStore(store);
      return records;
    }) as [Int32Array[], Int32Array[]];
    const [wanted, found] = words;
    // A draw that falls on the border of two tokens may fall to the other side.
    const others = wanted.filter((record, i) => record[0] !== found[i]?.[0]).length;
    expect(others).toBeLessThanOrEqual(way.temperature === undefined ? 0 : 1);
    for (const [i, record] of wanted.entries()) {
      const other = found[i] as Int32Array;
      expect(other[2]).toBe(record[2]);
      const [a, b] = [new Float32Array(record.buffer), new Float32Array(other.buffer)];
      for (let top = 0; top < (record[2] as number); top++) {
        expect(other[4 + 2 * top]).toBe(record[4 + 2 * top]);
        expect(b[5 + 2 * top]).toBeCloseTo(a[5 + 2 * top] as number, 4);
      }
      if (record[0] === other[0]) expect(b[1]).toBeCloseTo(a[1] as number, 4);
    }
  });

  test('logits that are no numbers are named by their sequence', () => {
    const broken = makeModel({ ...TINY, dtype: 'f32', layers: 1 }, 1);
    const bytes = readFileSync(broken.files[0] as string);
    bytes.writeFloatLE(Number.NaN, 4 * TINY.hidden * 5);
    writeFileSync(broken.files[0] as string, bytes);
    for (const graphs of [true, false]) {
      const bench = open(
        { ...broken, tiedHead: false, tensors: [...broken.tensors, { ...(broken.tensors[0] as TensorSpec), role: 'head' }] },
        { ...EXACT, graphs },
      );
      const parts: Part[] = [
        { tokens: [1], start: 0, blocks: [0], sample: false },
        { tokens: [2], start: 0, blocks: [1] },
      ];
      for (let i = 0; i < 3; i++) expect(() => bench.run(parts)).toThrow('the logits of sequence 1 are not finite');
      bench.close();
    }
  });
});

describe.skipIf(gpu.skip !== '')('what a GPU cannot hold is refused', () => {
  const TOO_MUCH: [string, Partial<Tiny>, Partial<EngineOptions>, string][] = [
    ['a head of 258', { headDim: 258 }, {}, 'head size 258'],
    ['17 query heads to one', { heads: 17, kvHeads: 1 }, {}, '17 query heads'],
    ['8 bits', {}, { quantize: 'q8' }, '8 bits'],
    ['a GPU that is not there', {}, { device: 99 }, 'there is no GPU 99'],
  ];
  test.each(TOO_MUCH)('%s', (_, change, options, message) => {
    expect(() => open(makeModel({ ...TINY, ...change, layers: 1 }, 1), { ...EXACT, ...options })).toThrow(message);
  });
});
