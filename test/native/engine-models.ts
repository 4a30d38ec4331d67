/** Small random models in files of their own, seeded randomness, and step plans written by hand: for engine tests. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Field, PLAN_HEADER, PLAN_RECORD, PLAN_VERSION, RESULT_RECORD } from '../../src/native/plan.js';
import type { EngineOptions, EngineSpec, TensorRole, TensorSpec } from '../../src/native/spec.js';

/** A seeded generator of uniform numbers in [0, 1) (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export const integer = (random: () => number, low: number, high: number): number => low + Math.floor(random() * (high - low + 1));

export interface Tiny {
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly positions: number;
  readonly dtype: TensorSpec['dtype'];
  readonly qkvBias: boolean;
  readonly oBias: boolean;
  readonly qkNorm: boolean;
  readonly window: number;
  readonly windowFromLayer: number;
  readonly tiedHead: boolean;
  /** Standard deviation of the weights. */
  readonly spread: number;
}

export const TINY: Tiny = {
  vocabulary: 101,
  hidden: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  intermediate: 96,
  positions: 2048,
  dtype: 'f32',
  qkvBias: false,
  oBias: false,
  qkNorm: false,
  window: 0,
  windowFromLayer: 0,
  tiedHead: true,
  spread: 0.2,
};

/** Models that between them have every feature, and sizes that fit no vector. */
export const FAMILIES: Record<string, Tiny> = {
  llama: TINY,
  'untied, many heads to one': { ...TINY, heads: 6, kvHeads: 1, headDim: 64, tiedHead: false },
  'mistral, window of 20': { ...TINY, window: 20, layers: 3 },
  'qwen2, biases, window from layer 1': { ...TINY, qkvBias: true, window: 33, windowFromLayer: 1, headDim: 32 },
  'qwen3, norms of heads': { ...TINY, qkNorm: true, headDim: 48, kvHeads: 4, oBias: true },
  'odd sizes': { ...TINY, hidden: 40, headDim: 20, heads: 3, kvHeads: 3, intermediate: 50, vocabulary: 77 },
  'head of 8': { ...TINY, hidden: 24, headDim: 8, heads: 6, kvHeads: 2, intermediate: 33, qkNorm: true },
};

const NORMS: readonly TensorRole[] = ['attentionNorm', 'mlpNorm', 'finalNorm', 'qNorm', 'kNorm'];

function shapes(tiny: Tiny): [TensorRole, number, number, number][] {
  const q = tiny.heads * tiny.headDim;
  const kv = tiny.kvHeads * tiny.headDim;
  const list: [TensorRole, number, number, number][] = [
    ['embed', -1, tiny.vocabulary, tiny.hidden],
    ['finalNorm', -1, 1, tiny.hidden],
  ];
  if (!tiny.tiedHead) list.push(['head', -1, tiny.vocabulary, tiny.hidden]);
  for (let layer = 0; layer < tiny.layers; layer++) {
    list.push(['attentionNorm', layer, 1, tiny.hidden], ['mlpNorm', layer, 1, tiny.hidden]);
    list.push(
      ['q', layer, q, tiny.hidden],
      ['k', layer, kv, tiny.hidden],
      ['v', layer, kv, tiny.hidden],
      ['o', layer, tiny.hidden, q],
    );
    list.push(['gate', layer, tiny.intermediate, tiny.hidden], ['up', layer, tiny.intermediate, tiny.hidden]);
    list.push(['down', layer, tiny.hidden, tiny.intermediate]);
    if (tiny.qkvBias) list.push(['qBias', layer, 1, q], ['kBias', layer, 1, kv], ['vBias', layer, 1, kv]);
    if (tiny.oBias) list.push(['oBias', layer, 1, tiny.hidden]);
    if (tiny.qkNorm) list.push(['qNorm', layer, 1, tiny.headDim], ['kNorm', layer, 1, tiny.headDim]);
  }
  return list;
}

function halfBits(value: number): number {
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return (value < 0 ? 0x8000 : 0) | Math.round(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  const bits = Math.round((magnitude / 2 ** exponent - 1) * 1024) + ((exponent + 15) << 10);
  return (value < 0 ? 0x8000 : 0) | bits;
}

function write(buffer: Buffer, at: number, dtype: TensorSpec['dtype'], value: number): number {
  if (dtype === 'f32') return buffer.writeFloatLE(value, at);
  if (dtype === 'f16') return buffer.writeUInt16LE(halfBits(value), at);
  return buffer.writeUInt16LE((new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0) >>> 16, at);
}

/** Draws the weights, writes them to one file, and describes the model. */
export function makeModel(tiny: Tiny, seed: number): EngineSpec {
  const random = seeded(seed);
  const width = tiny.dtype === 'f32' ? 4 : 2;
  const list = shapes(tiny);
  const buffer = Buffer.alloc(list.reduce((bytes, [, , rows, columns]) => bytes + rows * columns * width, 0));
  let end = 0;
  const tensors = list.map(([role, layer, rows, columns]): TensorSpec => {
    const offset = end;
    const middle = NORMS.includes(role) ? 1 : 0;
    for (let i = 0; i < rows * columns; i++)
      end = write(buffer, end, tiny.dtype, middle + tiny.spread * 1.73 * (2 * random() - 1));
    return { role, layer, file: 0, offset, dtype: tiny.dtype, rows, columns };
  });
  const file = join(mkdtempSync(join(tmpdir(), 'fastswitch-engine-')), 'weights');
  writeFileSync(file, buffer);
  const half = tiny.headDim / 2;
  return {
    ...tiny,
    rmsEps: 1e-5,
    ropeInverseFrequencies: Float32Array.from({ length: half }, (_, i) => 10_000 ** (-i / half)),
    ropeScale: 1,
    files: [file],
    tensors,
  };
}

export const OPTIONS: EngineOptions = {
  device: -1,
  batchInvariant: true,
  graphs: true,
  threads: 1,
  quantize: 'none',
  kvDtype: 'f32',
  isa: 'auto',
  maxBatchTokens: 64,
  maxSequences: 16,
};

/** One sequence of a step: neutral sampling parameters unless given. */
export interface Part {
  readonly tokens: readonly number[];
  readonly start: number;
  readonly blocks: readonly number[];
  readonly sample?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly frequencyPenalty?: number;
  readonly presencePenalty?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: bigint;
  readonly draw?: number;
  readonly topLogprobs?: number;
  readonly bias?: readonly (readonly [number, number])[];
  readonly history?: readonly number[];
  readonly historyPrompt?: number;
}

/** The words of a step plan. */
export function planOf(parts: readonly Part[]): Int32Array {
  const lists = parts.reduce(
    (sum, p) => sum + p.tokens.length + p.blocks.length + 2 * (p.bias?.length ?? 0) + (p.history?.length ?? 0),
    0,
  );
  const words = new Int32Array(new SharedArrayBuffer(4 * (PLAN_HEADER + PLAN_RECORD * parts.length + lists)));
  const floats = new Float32Array(words.buffer);
  words.set([PLAN_VERSION, parts.length, words.length, 0]);
  let end = PLAN_HEADER + PLAN_RECORD * parts.length;
  const append = (list: readonly number[]): number => {
    words.set(list, end);
    end += list.length;
    return end - list.length;
  };
  parts.forEach((part, index) => {
    const record = PLAN_HEADER + PLAN_RECORD * index;
    const put = (field: keyof typeof Field, value: number): void => words.set([value], record + Field[field]);
    const putFloat = (field: keyof typeof Field, value: number): void => floats.set([value], record + Field[field]);
    put('count', part.tokens.length);
    put('start', part.start);
    put('tokens', append(part.tokens));
    put('blocks', append(part.blocks));
    put('blockCount', part.blocks.length);
    put('sample', (part.sample ?? true) ? 1 : 0);
    putFloat('temperature', part.temperature ?? 0);
    put('topK', part.topK ?? 0);
    putFloat('topP', part.topP ?? 1);
    putFloat('minP', part.minP ?? 0);
    putFloat('frequencyPenalty', part.frequencyPenalty ?? 0);
    putFloat('presencePenalty', part.presencePenalty ?? 0);
    putFloat('repetitionPenalty', part.repetitionPenalty ?? 1);
    const seed = part.seed ?? 0n;
    put('seedLow', Number(BigInt.asIntN(32, seed)));
    put('seedHigh', Number(BigInt.asIntN(32, seed >> 32n)));
    put('draw', part.draw ?? 0);
    put('topLogprobs', part.topLogprobs ?? -1);
    put('biasCount', part.bias?.length ?? 0);
    put('bias', end);
    for (const [token, bias] of part.bias ?? []) {
      words[end] = token;
      floats[end + 1] = bias;
      end += 2;
    }
    put('history', append(part.history ?? []));
    put('historyCount', part.history?.length ?? 0);
    put('historyPrompt', part.historyPrompt ?? 0);
  });
  return words;
}

export const resultFor = (sequences: number): Int32Array => new Int32Array(new SharedArrayBuffer(4 * RESULT_RECORD * sequences));
