/** Shapes of known models with random weights: for benchmarks and tests that need no files. */
import type { EngineSpec, TensorRole, TensorSpec } from './spec.js';

export interface Shape {
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly positions: number;
  readonly ropeTheta: number;
  readonly tiedHead: boolean;
  readonly qkvBias: boolean;
  readonly qkNorm: boolean;
}

export const SHAPES = {
  /** SmolLM2-135M. */
  smol: {
    vocabulary: 49_152,
    hidden: 576,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    headDim: 64,
    intermediate: 1536,
    positions: 8192,
    ropeTheta: 100_000,
    tiedHead: true,
    qkvBias: false,
    qkNorm: false,
  },
  /** Qwen2.5-0.5B. */
  qwen05: {
    vocabulary: 151_936,
    hidden: 896,
    layers: 24,
    heads: 14,
    kvHeads: 2,
    headDim: 64,
    intermediate: 4864,
    positions: 32_768,
    ropeTheta: 1_000_000,
    tiedHead: true,
    qkvBias: true,
    qkNorm: false,
  },
  /** Llama-3-8B. */
  llama8b: {
    vocabulary: 128_256,
    hidden: 4096,
    layers: 32,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    intermediate: 14_336,
    positions: 8192,
    ropeTheta: 500_000,
    tiedHead: false,
    qkvBias: false,
    qkNorm: false,
  },
} as const satisfies Record<string, Shape>;

const RANDOM = { file: -1, offset: 0 } as const;

function tensorsOf(shape: Shape, dtype: TensorSpec['dtype']): TensorSpec[] {
  const q = shape.heads * shape.headDim;
  const kv = shape.kvHeads * shape.headDim;
  const tensors: TensorSpec[] = [];
  const put = (layer: number, role: TensorRole, rows: number, columns: number): void => {
    tensors.push({ ...RANDOM, role, layer, dtype, rows, columns });
  };
  put(-1, 'embed', shape.vocabulary, shape.hidden);
  put(-1, 'finalNorm', 1, shape.hidden);
  if (!shape.tiedHead) put(-1, 'head', shape.vocabulary, shape.hidden);
  for (let layer = 0; layer < shape.layers; layer++) {
    put(layer, 'attentionNorm', 1, shape.hidden);
    put(layer, 'mlpNorm', 1, shape.hidden);
    put(layer, 'q', q, shape.hidden);
    put(layer, 'k', kv, shape.hidden);
    put(layer, 'v', kv, shape.hidden);
    put(layer, 'o', shape.hidden, q);
    put(layer, 'gate', shape.intermediate, shape.hidden);
    put(layer, 'up', shape.intermediate, shape.hidden);
    put(layer, 'down', shape.hidden, shape.intermediate);
    if (shape.qkvBias) {
      put(layer, 'qBias', 1, q);
      put(layer, 'kBias', 1, kv);
      put(layer, 'vBias', 1, kv);
    }
    if (shape.qkNorm) {
      put(layer, 'qNorm', 1, shape.headDim);
      put(layer, 'kNorm', 1, shape.headDim);
    }
  }
  return tensors;
}

/** A model of this shape whose weights `createEngine` draws from its seed. */
export function randomSpec(shape: Shape, dtype: TensorSpec['dtype'] = 'bf16'): EngineSpec {
  const half = shape.headDim / 2;
  return {
    vocabulary: shape.vocabulary,
    hidden: shape.hidden,
    layers: shape.layers,
    heads: shape.heads,
    kvHeads: shape.kvHeads,
    headDim: shape.headDim,
    intermediate: shape.intermediate,
    rmsEps: 1e-5,
    positions: shape.positions,
    ropeInverseFrequencies: Float32Array.from({ length: half }, (_, i) => shape.ropeTheta ** (-i / half)),
    ropeScale: 1,
    window: 0,
    windowFromLayer: 0,
    tiedHead: shape.tiedHead,
    files: [],
    tensors: tensorsOf(shape, dtype),
  };
}
