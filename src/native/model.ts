/**
 * A Hugging Face model folder (config.json, generation_config.json, safetensors) checked and flattened into the
 * `EngineSpec` that crosses into the native engine. Reads headers and configs only; the weights stay in their files.
 * Not here: tokenizer and chat template (`http/tokenizer.ts`).
 */
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import {
  type Json,
  type ModelConfig,
  readEndTokens,
  readModelConfig,
  readSamplingDefaults,
  refuseMultimodal,
  type SamplingDefaults,
} from './model-config.js';
import {
  badModel,
  type Checkpoint,
  openCheckpoint,
  type PlacedTensor,
  parseObject,
  quoted,
  readSmallFile,
  sampleFile,
} from './safetensors.js';
import type { EngineSpec, TensorRole, TensorSpec } from './spec.js';

const CONFIG_BYTES_MAX = 4 << 20;
const FINGERPRINT_SAMPLES = 64;
const FINGERPRINT_SAMPLE_BYTES = 1024;
/** Names listed in one message; the rest are counted. */
const LISTED_MAX = 5;

export interface LoadedModel {
  readonly spec: EngineSpec;
  /** Name of the folder. */
  readonly name: string;
  /** As transformers names it: `LlamaForCausalLM`, ... */
  readonly architecture: string;
  /** Of the largest share of the weights; single tensors may differ. */
  readonly dtype: TensorSpec['dtype'];
  readonly bosToken: number | null;
  /** Any of these ends a generation; empty where the files name none. */
  readonly eosTokens: readonly number[];
  /** Where a request does not say how to sample. */
  readonly sampling: SamplingDefaults;
  /** Same as `spec.positions`. */
  readonly positions: number;
  /**
   * sha256 (hexadecimal) of the configuration as understood, the safetensors headers and sizes, and samples of the
   * bytes: the same model gives the same value wherever it lies and whichever transformers wrote its config.
   */
  readonly fingerprint: string;
  /** Numbers in the weights; a tied head counts once. */
  readonly parameters: number;
  /** What was ignored or is doubtful, in sentences for the log. */
  readonly warnings: readonly string[];
}

export interface LoadOptions {
  /** Most positions to allow; 0: the model's own. */
  readonly maxContext: number;
  /** `dummy`: no weights are read, the engine draws random ones of the same shapes. */
  readonly load?: 'auto' | 'dummy';
}

const DUMMY = { warnings: ['the weights are random (--load dummy): answers mean nothing'] };

/** A tensor that the architecture demands. */
interface Wanted {
  readonly role: TensorRole;
  readonly layer: number;
  readonly name: string;
  readonly shape: readonly [number] | readonly [rows: number, columns: number];
}

const DTYPES: ReadonlyMap<string, TensorSpec['dtype']> = new Map([
  ['F32', 'f32'],
  ['BF16', 'bf16'],
  ['F16', 'f16'],
]);

/**
 * Reads and checks a model folder.
 * @throws FastswitchError `bad_model`, saying which file, key or tensor is wrong and what to do.
 */
export function loadModel(folder: string, options: LoadOptions): LoadedModel {
  const path = resolve(folder);
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw badModel(`${path} is no folder; give the folder of a model that holds config.json and *.safetensors`);
  const json = readJson(path, 'config.json') ?? missingConfig(path);
  refuseMultimodal(json);
  const config = readModelConfig(json);
  const generation = readJson(path, 'generation_config.json');
  const ends = readEndTokens(json, generation, config.vocabulary);
  const defaults = readSamplingDefaults(generation);
  const checkpoint = options.load === 'dummy' ? null : openCheckpoint(path);
  const warnings = [...config.warnings, ...ends.warnings, ...defaults.warnings, ...(checkpoint ?? DUMMY).warnings];
  const tiedHead = checkpoint === null ? config.tied : isTied(config, checkpoint, warnings);
  const wanted = wantedTensors(config, tiedHead);
  const tensors = checkpoint === null ? randomTensors(wanted, json) : pickTensors(wanted, checkpoint, warnings);
  const positions = limitPositions(config.positions, options.maxContext, warnings);
  const spec: EngineSpec = {
    vocabulary: config.vocabulary,
    hidden: config.hidden,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    intermediate: config.intermediate,
    rmsEps: config.rmsEps,
    positions,
    ropeInverseFrequencies: config.rope.inverseFrequencies,
    ropeScale: config.rope.scale,
    // A window that no context can fill is none: the engine then takes its simpler path.
    ...(config.window >= positions
      ? { window: 0, windowFromLayer: 0 }
      : { window: config.window, windowFromLayer: config.windowFromLayer }),
    tiedHead,
    files: (checkpoint?.files ?? []).map((file) => file.path),
    tensors,
  };
  return {
    spec,
    positions,
    warnings,
    name: basename(path),
    architecture: config.architecture,
    dtype: commonDtype(tensors),
    bosToken: ends.bosToken,
    eosTokens: ends.eosTokens,
    sampling: defaults.sampling,
    fingerprint: fingerprint(config, tiedHead, checkpoint),
    parameters: tensors.reduce((sum, tensor) => sum + tensor.rows * tensor.columns, 0),
  };
}

function readJson(folder: string, name: string): Json | null {
  const path = join(folder, name);
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
  return parseObject(path, readSmallFile(path, CONFIG_BYTES_MAX));
}

function missingConfig(folder: string): never {
  throw badModel(
    `${folder} has no config.json; give the folder of a Hugging Face model (GGUF files and adapters cannot be read)`,
  );
}

function limitPositions(positions: number, maxContext: number, warnings: string[]): number {
  if (!Number.isSafeInteger(maxContext) || maxContext < 0)
    throw new RangeError(`maxContext must be a whole number of at least 0, not ${maxContext}`);
  if (maxContext > positions)
    warnings.push(`a context of ${maxContext} was asked for; the model was made for ${positions}, which is used`);
  return maxContext === 0 ? positions : Math.min(positions, maxContext);
}

/**
 * Whether the head is the embedding. A checkpoint that says "tied" and yet stores a head is run with the stored one,
 * as transformers 5 does: they are equal, or the config is wrong.
 */
function isTied(config: ModelConfig, checkpoint: Checkpoint, warnings: string[]): boolean {
  const stored = checkpoint.tensors.has('lm_head.weight');
  if (!config.tied && !stored)
    throw badModel(
      'the weights hold no "lm_head.weight" and config.json does not set tie_word_embeddings; set it to true if the head is the embedding, else download the model again',
    );
  if (config.tied && stored)
    warnings.push('config.json ties the head to the embedding, but the weights hold "lm_head.weight"; the stored head is used');
  return !stored;
}

/** Every tensor the engine will read, by transformers' names. */
function wantedTensors(config: ModelConfig, tiedHead: boolean): Wanted[] {
  const { hidden, intermediate, vocabulary, headDim } = config;
  const query = config.heads * headDim;
  const keyValue = config.kvHeads * headDim;
  const inLayer: [role: TensorRole, name: string, shape: Wanted['shape'], present: boolean][] = [
    ['attentionNorm', 'input_layernorm.weight', [hidden], true],
    ['q', 'self_attn.q_proj.weight', [query, hidden], true],
    ['k', 'self_attn.k_proj.weight', [keyValue, hidden], true],
    ['v', 'self_attn.v_proj.weight', [keyValue, hidden], true],
    ['qBias', 'self_attn.q_proj.bias', [query], config.qkvBias],
    ['kBias', 'self_attn.k_proj.bias', [keyValue], config.qkvBias],
    ['vBias', 'self_attn.v_proj.bias', [keyValue], config.qkvBias],
    ['qNorm', 'self_attn.q_norm.weight', [headDim], config.qkNorm],
    ['kNorm', 'self_attn.k_norm.weight', [headDim], config.qkNorm],
    ['o', 'self_attn.o_proj.weight', [hidden, query], true],
    ['oBias', 'self_attn.o_proj.bias', [hidden], config.oBias],
    ['mlpNorm', 'post_attention_layernorm.weight', [hidden], true],
    ['gate', 'mlp.gate_proj.weight', [intermediate, hidden], true],
    ['up', 'mlp.up_proj.weight', [intermediate, hidden], true],
    ['down', 'mlp.down_proj.weight', [hidden, intermediate], true],
  ];
  const wanted: Wanted[] = [{ role: 'embed', layer: -1, name: 'model.embed_tokens.weight', shape: [vocabulary, hidden] }];
  for (let layer = 0; layer < config.layers; layer += 1) {
    for (const [role, name, shape, present] of inLayer) {
      if (present) wanted.push({ role, layer, name: `model.layers.${layer}.${name}`, shape });
    }
  }
  wanted.push({ role: 'finalNorm', layer: -1, name: 'model.norm.weight', shape: [hidden] });
  if (!tiedHead) wanted.push({ role: 'head', layer: -1, name: 'lm_head.weight', shape: [vocabulary, hidden] });
  return wanted;
}

/** As the config says they would be stored; files and offsets there are none. */
function randomTensors(wanted: readonly Wanted[], json: Json): TensorSpec[] {
  const stated = String(json.dtype ?? json.torch_dtype);
  const dtype = stated.endsWith('float32') ? 'f32' : 'bf16';
  return wanted.map(({ role, layer, shape }) => {
    const [rows, columns] = extents(shape);
    return { role, layer, file: -1, offset: 0, dtype, rows, columns };
  });
}

/** Rows and columns; a vector has one row. */
function extents(shape: Wanted['shape']): readonly [rows: number, columns: number] {
  return shape.length === 2 ? shape : [1, shape[0]];
}

function pickTensors(wanted: readonly Wanted[], checkpoint: Checkpoint, warnings: string[]): TensorSpec[] {
  const absent: string[] = [];
  const picked = wanted.flatMap((one) => {
    const stored = checkpoint.tensors.get(one.name);
    if (stored === undefined) absent.push(one.name);
    return stored === undefined ? [] : [place(one, stored)];
  });
  if (absent.length > 0) {
    throw badModel(
      `the weights lack ${absent.length} tensors that config.json demands (${listed(absent)}); the download is incomplete or config.json is of another model`,
    );
  }
  const needed = new Set(wanted.map(({ name }) => name));
  // Rotary frequencies were once saved with the weights; they are computed from the config.
  const extra = [...checkpoint.tensors.keys()].filter((name) => !needed.has(name) && !name.endsWith('rotary_emb.inv_freq'));
  if (extra.length > 0)
    warnings.push(`${extra.length} tensors that the architecture does not have were ignored (${listed(extra)})`);
  return picked;
}

function place({ role, layer, name, shape }: Wanted, stored: PlacedTensor): TensorSpec {
  const where = `${stored.path}, tensor ${quoted(name)}`;
  const dtype = DTYPES.get(stored.dtype);
  if (dtype === undefined) {
    throw badModel(`${where} is ${quoted(stored.dtype)}; F32, BF16 and F16 can be read, convert the model to one of them`);
  }
  if (stored.shape.length !== shape.length || stored.shape.some((extent, axis) => extent !== shape[axis])) {
    throw badModel(
      `${where} has shape [${stored.shape.join(', ')}], config.json demands [${shape.join(', ')}]; the two are of different models`,
    );
  }
  const [rows, columns] = extents(shape);
  return { role, layer, file: stored.file, offset: stored.offset, dtype, rows, columns };
}

function listed(names: readonly string[]): string {
  const more = names.length > LISTED_MAX ? `, and ${names.length - LISTED_MAX} more` : '';
  return names.slice(0, LISTED_MAX).map(quoted).join(', ') + more;
}

function commonDtype(tensors: readonly TensorSpec[]): TensorSpec['dtype'] {
  const share = new Map<TensorSpec['dtype'], number>();
  for (const tensor of tensors) share.set(tensor.dtype, (share.get(tensor.dtype) ?? 0) + tensor.rows * tensor.columns);
  return [...share].reduce((most, next) => (next[1] > most[1] ? next : most))[0];
}

/** What decides the logits, and nothing else: not the folder, not the file names, not the context that was asked for. */
function fingerprint(config: ModelConfig, tiedHead: boolean, checkpoint: Checkpoint | null): string {
  const hash = createHash('sha256');
  const {
    family,
    vocabulary,
    hidden,
    layers,
    heads,
    kvHeads,
    headDim,
    intermediate,
    rmsEps,
    window,
    windowFromLayer,
    qkvBias,
    oBias,
    qkNorm,
  } = config;
  const numbers = [
    vocabulary,
    hidden,
    layers,
    heads,
    kvHeads,
    headDim,
    intermediate,
    rmsEps,
    window,
    windowFromLayer,
    config.rope.scale,
  ];
  hash.update(
    JSON.stringify([
      'fastswitch-model-1',
      family,
      numbers,
      [tiedHead, qkvBias, oBias, qkNorm],
      [...config.rope.inverseFrequencies],
    ]),
  );
  if (checkpoint === null) hash.update('\nrandom');
  for (const file of [...(checkpoint?.files ?? [])].sort((a, b) => (a.headerDigest < b.headerDigest ? -1 : 1))) {
    hash.update(`\n${file.headerDigest} ${file.bytes}\n`);
    hash.update(sampleFile(file.path, FINGERPRINT_SAMPLES, FINGERPRINT_SAMPLE_BYTES));
  }
  return hash.digest('hex');
}
