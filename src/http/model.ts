/** The model as clients see it. */
import { createHash } from 'node:crypto';
import { basename, resolve } from 'node:path';
import type { Config } from '../core/config.js';
import type { Sampling } from '../core/types.js';

/** Where a request does not say how to sample. */
export type SamplingDefaults = Pick<Sampling, 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty'>;

/** What the checkpoint's files say, as far as clients notice. */
export interface ModelFiles {
  /** End tokens by the checkpoint's configuration. */
  readonly eosTokens: readonly number[];
  readonly sampling: SamplingDefaults;
  readonly fingerprint: string;
}

export interface ModelInfo {
  /** Name in /v1/models and in every answer. */
  readonly name: string;
  /** Tokens that end a turn (config.json, generation_config.json and the tokenizer's end of sequence). */
  readonly stopTokens: readonly number[];
  readonly sampling: SamplingDefaults;
  /** Seconds since 1970 at which it was loaded. */
  readonly created: number;
  /** `cpu` or `cuda:N`. */
  readonly device: string;
  /** Changes with everything that may change an answer to the same request and seed. */
  readonly fingerprint: string;
  /** The name, or the name of its folder. */
  isCalled(name: string): boolean;
}

/** @param eosToken The tokenizer's end of sequence, where it names one. */
export function modelInfo(config: Config, version: string, files: ModelFiles, eosToken: number | null): ModelInfo {
  const folder = basename(resolve(config.model));
  const name = config.servedModelName === '' ? folder : config.servedModelName;
  const { quantize, kvDtype, isa, batchInvariant } = config;
  // Which GPU it is does not matter here, that it is one does.
  const gpu = config.device.startsWith('cuda') ? ['cuda', batchInvariant] : [];
  const digest = createHash('sha256')
    .update(JSON.stringify([files.fingerprint, version, quantize, kvDtype, isa, ...gpu]))
    .digest('hex');
  return {
    name,
    stopTokens: [...new Set([...files.eosTokens, ...(eosToken === null ? [] : [eosToken])])],
    sampling: files.sampling,
    created: Math.floor(Date.now() / 1000),
    device: config.device,
    fingerprint: `fp_${digest.slice(0, 12)}`,
    isCalled: (asked) => asked === name || asked === folder,
  };
}
