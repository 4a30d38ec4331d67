/**
 * What the model files say, checked and flattened for the native engine: the one description that crosses the
 * border when an engine is made. TypeScript validates it (`model.ts`), C++ asserts it.
 */

/** Matrices are [rows, columns] = [outputs, inputs], row-major, as transformers stores them; vectors have one row. */
export interface TensorSpec {
  readonly role: TensorRole;
  /** Layer index from 0; -1 for tensors of no layer. */
  readonly layer: number;
  /** Index into `EngineSpec.files`. */
  readonly file: number;
  /** First byte in the file. */
  readonly offset: number;
  readonly dtype: 'f32' | 'bf16' | 'f16';
  readonly rows: number;
  readonly columns: number;
}

export type TensorRole =
  | 'embed'
  | 'finalNorm'
  | 'head'
  | 'attentionNorm'
  | 'mlpNorm'
  | 'q'
  | 'k'
  | 'v'
  | 'o'
  | 'qBias'
  | 'kBias'
  | 'vBias'
  | 'oBias'
  | 'qNorm'
  | 'kNorm'
  | 'gate'
  | 'up'
  | 'down';

export interface EngineSpec {
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly rmsEps: number;
  /** Most positions (after the config's limit and ours). */
  readonly positions: number;
  /** [headDim / 2] inverse frequencies after rope scaling (linear, llama3, yarn: all resolved in TypeScript). */
  readonly ropeInverseFrequencies: Float32Array;
  /** Factor on cos and sin (yarn's attention factor); 1 otherwise. */
  readonly ropeScale: number;
  /** 0: full attention in all layers; else layers >= `windowFromLayer` see the last `window` tokens only. */
  readonly window: number;
  readonly windowFromLayer: number;
  /** The head is the embedding; no tensor of role `head` then. */
  readonly tiedHead: boolean;
  readonly files: readonly string[];
  readonly tensors: readonly TensorSpec[];
}

export interface EngineOptions {
  /** -1: the CPU; else the number of a GPU. */
  readonly device: number;
  /** On a GPU: the same bits whatever is computed beside. The CPU always does that. */
  readonly batchInvariant: boolean;
  /** On a GPU: decode steps are captured once a size and launched as one. */
  readonly graphs: boolean;
  /** Compute threads, the calling one included; at least 1. */
  readonly threads: number;
  readonly quantize: 'none' | 'q8';
  readonly kvDtype: 'f32' | 'bf16';
  readonly isa: 'auto' | 'avx512' | 'avx2' | 'portable';
  /** Most tokens (rows) in one step; scratch memory is sized once. */
  readonly maxBatchTokens: number;
  /** Most sequences in one step. */
  readonly maxSequences: number;
}
