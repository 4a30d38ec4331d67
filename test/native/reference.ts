/**
 * The model in the plainest form there is: one sequence, float64, no cache, no batching. It is the step between
 * transformers and the native engine: where the two differ, this tells which one left the formulas.
 */
import { readFileSync } from 'node:fs';
import type { EngineSpec, TensorRole, TensorSpec } from '../../src/native/spec.js';

/**
 * How the matrices meet their inputs. `bf16`: inputs are rounded to bf16, as the AVX-512 kernels do for bf16 weights.
 * `q8`: weights and inputs in eight bits, a scale for every 32 of a row, as kernels.h and weights.cc define it.
 */
export type Arithmetic = 'exact' | 'bf16' | 'q8';

const Q8_GROUP = 32;

type Matrix = { readonly rows: number; readonly columns: number; readonly values: Float64Array };

interface Model {
  readonly spec: EngineSpec;
  tensor(role: TensorRole, layer: number): Matrix;
  optional(role: TensorRole, layer: number): Matrix | null;
  /** A row of inputs as a matrix meets it. */
  input(row: Float64Array): Float64Array;
}

/** Logits [tokens][vocabulary] after each of `tokens`. */
export function referenceLogits(spec: EngineSpec, tokens: readonly number[], arithmetic: Arithmetic = 'exact'): Float64Array[] {
  const model = readModel(spec, arithmetic);
  const embed = model.tensor('embed', -1);
  const rows = tokens.map((token) => embed.values.slice(token * spec.hidden, (token + 1) * spec.hidden));
  for (let layer = 0; layer < spec.layers; layer += 1) {
    const attended = attention(
      model,
      layer,
      rows.map((row) => normalised(model, 'attentionNorm', layer, row)),
    );
    for (const [at, row] of rows.entries()) addTo(row, attended[at] as Float64Array);
    for (const row of rows) {
      const input = model.input(normalised(model, 'mlpNorm', layer, row));
      const gate = times(model.tensor('gate', layer), input);
      const up = times(model.tensor('up', layer), input);
      const gated = gate.map((value, index) => (value / (1 + Math.exp(-value))) * (up[index] as number));
      addTo(row, times(model.tensor('down', layer), model.input(gated)));
    }
  }
  return rows.map((row) => times(model.tensor('head', -1), model.input(normalised(model, 'finalNorm', -1, row))));
}

function attention(model: Model, layer: number, rows: Float64Array[]): Float64Array[] {
  const { spec } = model;
  const inputs = rows.map((row) => model.input(row));
  const [queries, keys] = (['q', 'k'] as const).map((role) =>
    inputs.map((input, position) =>
      headsOf(model, role, layer, input).map((head) => {
        const norm = `${role}Norm` as const;
        return rotated(spec, model.optional(norm, layer) === null ? head : normalised(model, norm, layer, head), position);
      }),
    ),
  ) as [Float64Array[][], Float64Array[][]];
  const values = inputs.map((input) => headsOf(model, 'v', layer, input));
  const windowed = spec.window > 0 && layer >= spec.windowFromLayer;
  return queries.map((query, position) => {
    const first = windowed ? Math.max(0, position - spec.window + 1) : 0;
    const mixed = query.flatMap((head, index) => {
      const shared = Math.floor(index / (spec.heads / spec.kvHeads));
      const of = (all: Float64Array[][]): Float64Array[] =>
        all.slice(first, position + 1).map((heads) => heads[shared] as Float64Array);
      return [...mix(head, of(keys), of(values))];
    });
    const out = times(model.tensor('o', layer), model.input(Float64Array.from(mixed)));
    const bias = model.optional('oBias', layer);
    if (bias !== null) addTo(out, bias.values);
    return out;
  });
}

/** What one query reads: the values, each by the softmax of its key's product with the query. */
function mix(query: Float64Array, keys: Float64Array[], values: Float64Array[]): Float64Array {
  const scores = keys.map((key) => dot(query, key) / Math.sqrt(query.length));
  const top = Math.max(...scores);
  const shares = scores.map((score) => Math.exp(score - top));
  const total = shares.reduce((sum, share) => sum + share, 0);
  const mixed = new Float64Array(query.length);
  for (const [at, value] of values.entries()) {
    const share = (shares[at] as number) / total;
    addTo(
      mixed,
      value.map((part) => share * part),
    );
  }
  return mixed;
}

function headsOf(model: Model, role: 'q' | 'k' | 'v', layer: number, input: Float64Array): Float64Array[] {
  const flat = times(model.tensor(role, layer), input);
  const bias = model.optional(`${role}Bias`, layer);
  if (bias !== null) addTo(flat, bias.values);
  const { headDim } = model.spec;
  return Array.from({ length: flat.length / headDim }, (_, head) => flat.slice(head * headDim, (head + 1) * headDim));
}

/** Rotates pairs (i, i + headDim / 2), the order in which Hugging Face stores them. */
function rotated(spec: EngineSpec, head: Float64Array, position: number): Float64Array {
  const half = spec.headDim / 2;
  const out = new Float64Array(spec.headDim);
  for (let i = 0; i < half; i += 1) {
    // The product is rounded to float32 as everywhere; cos and sin are then as exact as can be.
    const angle = Math.fround(position * (spec.ropeInverseFrequencies[i] as number));
    const cos = Math.cos(angle) * spec.ropeScale;
    const sin = Math.sin(angle) * spec.ropeScale;
    const [a, b] = [head[i] as number, head[i + half] as number];
    out[i] = a * cos - b * sin;
    out[i + half] = b * cos + a * sin;
  }
  return out;
}

function normalised({ spec, tensor }: Model, role: TensorRole, layer: number, row: Float64Array): Float64Array {
  const weight = tensor(role, layer).values;
  const factor = 1 / Math.sqrt(dot(row, row) / row.length + spec.rmsEps);
  return row.map((value, index) => value * factor * (weight[index] as number));
}

function times({ rows, columns, values }: Matrix, input: Float64Array): Float64Array {
  return Float64Array.from({ length: rows }, (_, row) => dot(values.subarray(row * columns, (row + 1) * columns), input));
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function addTo(target: Float64Array, added: Float64Array): void {
  for (let i = 0; i < target.length; i += 1) target[i] = (target[i] as number) + (added[i] as number);
}

const PRODUCTS: ReadonlySet<TensorRole> = new Set(['q', 'k', 'v', 'o', 'gate', 'up', 'down', 'head']);

function readModel(spec: EngineSpec, arithmetic: Arithmetic): Model {
  const files = spec.files.map((path) => readFileSync(path));
  const matrices = new Map<string, Matrix>();
  for (const tensor of spec.tensors) {
    const matrix = decode(tensor, files[tensor.file] as Buffer);
    const packed = arithmetic === 'q8' ? { ...matrix, values: eightBitRows(matrix) } : matrix;
    matrices.set(`${tensor.role} ${tensor.layer}`, PRODUCTS.has(tensor.role) ? packed : matrix);
    // A tied head is the embedding as a product meets it; rows that are looked up keep their precision.
    if (tensor.role === 'embed' && spec.tiedHead) matrices.set('head -1', packed);
  }
  const optional = (role: TensorRole, layer: number): Matrix | null => matrices.get(`${role} ${layer}`) ?? null;
  const input = {
    exact: (row: Float64Array) => row,
    bf16: (row: Float64Array) => row.map(toBf16),
    q8: (row: Float64Array) => eightBit(row, Math.fround),
  }[arithmetic];
  return { spec, optional, input, tensor: (role, layer) => optional(role, layer) ?? fail(role, layer) };
}

/** Groups of 32 rounded to multiples of largest / 127, that scale itself stored by `store`. */
function eightBit(row: Float64Array, store: (scale: number) => number): Float64Array {
  const out = new Float64Array(row.length);
  for (let start = 0; start < row.length; start += Q8_GROUP) {
    const group = row.subarray(start, start + Q8_GROUP);
    const scale = store(Math.fround(Math.max(...group.map(Math.abs)) / 127));
    if (scale > 0)
      out.set(
        group.map((value) => scale * Math.max(-127, Math.min(127, toEven(value / scale)))),
        start,
      );
  }
  return out;
}

function eightBitRows({ rows, columns, values }: Matrix): Float64Array {
  const out = new Float64Array(values.length);
  for (let row = 0; row < rows; row += 1)
    out.set(eightBit(values.subarray(row * columns, (row + 1) * columns), toHalf), row * columns);
  return out;
}

/** To the nearest whole number, ties to the even one, as processors round. */
function toEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

/** A positive number rounded to f16. */
function toHalf(value: number): number {
  const step = 2 ** (Math.max(-14, Math.floor(Math.log2(value))) - 10);
  return value > 0 ? toEven(value / step) * step : 0;
}

/** Rounded to nearest, ties to even. */
function toBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] as number;
  return bitsToFloat((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000);
}

function decode({ dtype, offset, rows, columns }: TensorSpec, file: Buffer): Matrix {
  const read = {
    f32: (at: number) => file.readFloatLE(offset + 4 * at),
    bf16: (at: number) => bitsToFloat(file.readUInt16LE(offset + 2 * at) << 16),
    f16: (at: number) => halfToNumber(file.readUInt16LE(offset + 2 * at)),
  }[dtype];
  return { rows, columns, values: Float64Array.from({ length: rows * columns }, (_, at) => read(at)) };
}

function bitsToFloat(bits: number): number {
  return new Float32Array(Int32Array.of(bits).buffer)[0] as number;
}

function halfToNumber(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

function fail(role: string, layer: number): never {
  throw new Error(`the spec has no ${role} of layer ${layer}`);
}
