/**
 * One flat, frozen configuration: defaults and the relations that must hold between values. Pure: where the values
 * come from (flags, environment, file) is `src/options.ts`.
 */
import type { PolicyName } from './types.js';

export interface Config {
  /** Folder of a Hugging Face checkpoint. */
  readonly model: string;
  /** Name under which /v1/models lists it; '' means the folder's name. */
  readonly servedModelName: string;
  readonly host: string;
  readonly port: number;
  readonly deviceKvBytes: number;
  readonly hostKvBytes: number;
  /** Most tokens computed in one step. */
  readonly maxBatchTokens: number;
  /** Most requests in one step. */
  readonly maxRunning: number;
  /** Most requests alive at once that wait (queued or swapped) before new ones get 429. */
  readonly maxQueued: number;
  /** Context limit in tokens; 0: what the model was made for. */
  readonly maxContext: number;
  readonly policy: PolicyName;
  /** Seed of requests that bring none. */
  readonly seed: number;
  /** Compute threads of the engine; 0: all cores. */
  readonly threads: number;
  readonly swapThreads: number;
  readonly quantize: 'none' | 'q8';
  readonly kvDtype: 'auto' | 'f32' | 'bf16';
  readonly isa: 'auto' | 'avx512' | 'avx2' | 'portable';
  readonly bodyLimitBytes: number;
  /** A stream whose client reads nothing for this long is aborted. */
  readonly stallSeconds: number;
  /** After SIGTERM running requests may finish for this long. */
  readonly drainSeconds: number;
  readonly logLevel: 'silent' | 'error' | 'warn' | 'info' | 'debug';
}

/** Tokens of KV in one block. */
export const BLOCK_TOKENS = 16;
