/**
 * The model in the plainest form there is: one sequence, float64, no cache, no batching. It is the step between
 * transformers and the native engine: where the two differ, this tells which one left the formulas.
 */
import { readFileSync } from 'node:fs';
import type { EngineSpec, TensorRole, TensorSpec } from '../../src/native/spec.js';

type Matrix = { readonly rows: number; readonly columns: number; readonly values: Float64Array };
type Weights = (role: TensorRole, layer: number) => Matrix | null;

/** Logits [tokens][vocabulary] after each of `tokens`. */
export function referenceLogits(spec: EngineSpec, tokens: readonly number[]): Float64Array[] {
  const weights = readWeights(spec);
  const need = (role: TensorRole, layer: number): Matrix => weights(role, layer) ?? fail(role, layer);
  const embed = need('embed', -1);
  const rows = tokens.map((token) => embed.values.slice(token * spec.hidden, (token + 1) * spec.hidden));
  for (let layer = 0; layer < spec.layers; layer += 1) {
    const normed = rows.map((row) => normalised(row, need('attentionNorm', layer), spec.rmsEps));
    const attended = attention(spec, layer, normed, weights, need);
    for (const [at, row] of rows.entries()) addTo(row, attended[at] as Float64Array);
    for (const row of rows) {
      const input = normalised(row, need('mlpNorm', layer), spec.rmsEps);
      const gate = times(need('gate', layer), input, null);
      const up = times(need('up', layer), input, null);
      addTo(
        row,
        times(
          need('down', layer),
          gate.map((value, index) => (value / (1 + Math.exp(-value))) * (up[index] as number)),
          null,
        ),
      );
    }
  }
  const head = spec.tiedHead ? embed : need('head', -1);
  return rows.map((row) => times(head, normalised(row, need('finalNorm', -1), spec.rmsEps), null));
}

function attention(
  spec: EngineSpec,
  layer: number,
  inputs: Float64Array[],
  weights: Weights,
  need: (role: TensorRole, layer: number) => Matrix,
): Float64Array[] {
  const { headDim, heads, kvHeads, rmsEps } = spec;
  const headsOf = (role: 'q' | 'k' | 'v', input: Float64Array): Float64Array[] => {
    const flat = times(need(role, layer), input, weights(`${role}Bias`, layer));
    return Array.from({ length: flat.length / headDim }, (_, head) => flat.slice(head * headDim, (head + 1) * headDim));
  };
  const placed = (role: 'q' | 'k', input: Float64Array, position: number): Float64Array[] => {
    const norm = weights(`${role}Norm`, layer);
    return headsOf(role, input).map((head) => rotated(spec, norm === null ? head : normalised(head, norm, rmsEps), position));
  };
  const queries = inputs.map((input, position) => placed('q', input, position));
  const keys = inputs.map((input, position) => placed('k', input, position));
  const values = inputs.map((input) => headsOf('v', input));
  const windowed = spec.window > 0 && layer >= spec.windowFromLayer;
  return queries.map((query, position) => {
    const first = windowed ? Math.max(0, position - spec.window + 1) : 0;
    const mixed = new Float64Array(heads * headDim);
    query.forEach((head, index) => {
      const shared = Math.floor(index / (heads / kvHeads));
      const seen = keys.slice(first, position + 1).map((key) => dot(head, key[shared] as Float64Array) / Math.sqrt(headDim));
      const top = Math.max(...seen);
      const shares = seen.map((score) => Math.exp(score - top));
      const total = shares.reduce((sum, share) => sum + share, 0);
      shares.forEach((share, at) => {
        const value = (values[first + at] as Float64Array[])[shared] as Float64Array;
        for (let i = 0; i < headDim; i += 1)
          mixed[index * headDim + i] = (mixed[index * headDim + i] as number) + (share / total) * (value[i] as number);
      });
    });
    return times(need('o', layer), mixed, weights('oBias', layer));
  });
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

function normalised(row: Float64Array, weight: Matrix, eps: number): Float64Array {
  const factor = 1 / Math.sqrt(dot(row, row) / row.length + eps);
  return row.map((value, index) => value * factor * (weight.values[index] as number));
}

function times(matrix: Matrix, input: Float64Array, bias: Matrix | null): Float64Array {
  return Float64Array.from({ length: matrix.rows }, (_, row) => {
    return dot(matrix.values.subarray(row * matrix.columns, (row + 1) * matrix.columns), input) + (bias?.values[row] ?? 0);
  });
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function addTo(target: Float64Array, added: Float64Array): void {
  for (let i = 0; i < target.length; i += 1) target[i] = (target[i] as number) + (added[i] as number);
}

function readWeights(spec: EngineSpec): Weights {
  const files = spec.files.map((path) => readFileSync(path));
  const decoded = new Map(
    spec.tensors.map((tensor) => [`${tensor.role} ${tensor.layer}`, decode(tensor, files[tensor.file] as Buffer)]),
  );
  return (role, layer) => decoded.get(`${role} ${layer}`) ?? null;
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
