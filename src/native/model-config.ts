/**
 * config.json of a Hugging Face folder, as transformers 4 and 5 write it, read into the numbers the engine needs.
 * Defaults for missing keys are transformers' own, by model type. What the engine would compute wrongly is refused
 * here, by name; a key that changes nothing at inference is ignored.
 */
import { type Rope, readRope } from './rope.js';
import { badModel, isObject } from './safetensors.js';

export type Json = Readonly<Record<string, unknown>>;
type Family = 'llama' | 'mistral' | 'qwen2' | 'qwen3';

export interface ModelConfig {
  readonly family: Family;
  readonly architecture: string;
  readonly vocabulary: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly rmsEps: number;
  /** Positions the model was made for, rope scaling included. */
  readonly positions: number;
  readonly rope: Rope;
  /** 0: none. A token sees itself and the `window - 1` before it. */
  readonly window: number;
  readonly windowFromLayer: number;
  readonly tied: boolean;
  readonly qkvBias: boolean;
  readonly oBias: boolean;
  readonly qkNorm: boolean;
  readonly warnings: readonly string[];
}

interface Defaults {
  readonly architecture: string;
  readonly vocabulary: number;
  readonly intermediate: number;
  /** 0: as many as heads. */
  readonly kvHeads: number;
  /** 0: hidden / heads. */
  readonly headDim: number;
  readonly positions: number;
  readonly bosToken: number | null;
  readonly eosToken: number | null;
}

const DEFAULTS: Readonly<Record<Family, Defaults>> = {
  llama: {
    architecture: 'LlamaForCausalLM',
    vocabulary: 32_000,
    intermediate: 11_008,
    kvHeads: 0,
    headDim: 0,
    positions: 2_048,
    bosToken: 1,
    eosToken: 2,
  },
  mistral: {
    architecture: 'MistralForCausalLM',
    vocabulary: 32_000,
    intermediate: 14_336,
    kvHeads: 8,
    headDim: 0,
    positions: 131_072,
    bosToken: 1,
    eosToken: 2,
  },
  qwen2: {
    architecture: 'Qwen2ForCausalLM',
    vocabulary: 151_936,
    intermediate: 22_016,
    kvHeads: 32,
    headDim: 0,
    positions: 32_768,
    bosToken: null,
    eosToken: null,
  },
  qwen3: {
    architecture: 'Qwen3ForCausalLM',
    vocabulary: 151_936,
    intermediate: 22_016,
    kvHeads: 32,
    headDim: 128,
    positions: 32_768,
    bosToken: null,
    eosToken: null,
  },
};

/** What the engine accepts: beyond any model of these families, and a lying config makes nothing loop or overflow. */
const LIMITS = {
  vocabulary: 1 << 24,
  hidden: 1 << 20,
  layers: 4_096,
  heads: 4_096,
  headDim: 1_024,
  intermediate: 1 << 22,
  positions: 1 << 24,
};

/** Keys of models that are not plain decoders of these families, with the values that mean "not used". */
const FOREIGN: readonly { key: string; unused: readonly unknown[]; why: string }[] = [
  {
    key: 'quantization_config',
    unused: [null],
    why: 'quantised checkpoints cannot be run; use the original BF16 weights (the engine can quantise by itself)',
  },
  { key: 'mlp_bias', unused: [null, false], why: 'biases in the MLP are not implemented' },
  { key: 'use_mrope', unused: [null, false], why: 'multimodal rope is not implemented' },
  { key: 'is_causal', unused: [null, true], why: 'bidirectional models cannot generate' },
  { key: 'num_experts', unused: [null, 0], why: 'mixture-of-experts models are not implemented' },
  { key: 'num_local_experts', unused: [null, 0], why: 'mixture-of-experts models are not implemented' },
  { key: 'n_routed_experts', unused: [null, 0], why: 'mixture-of-experts models are not implemented' },
];

/**
 * @param config the parsed config.json.
 * @throws FastswitchError `bad_model` for other architectures and for options that are not implemented.
 */
export function readModelConfig(config: Json): ModelConfig {
  const family = readFamily(config);
  refuseForeign(config, family);
  const defaults = DEFAULTS[family];
  const hidden = size(config, 'hidden_size', 4_096, LIMITS.hidden);
  const layers = size(config, 'num_hidden_layers', 32, LIMITS.layers);
  const heads = size(config, 'num_attention_heads', 32, LIMITS.heads);
  // Missing is the family's default, an explicit null is "as many as heads", as in transformers.
  const kvHeads =
    config.num_key_value_heads === null ? heads : size(config, 'num_key_value_heads', defaults.kvHeads || heads, LIMITS.heads);
  const headDim = readHeadDim(config, defaults, hidden, heads);
  if (heads % kvHeads !== 0)
    throw badModel(
      `config.json: ${heads} attention heads cannot share ${kvHeads} key-value heads; the file is wrong, download it again`,
    );
  const stated = size(config, 'max_position_embeddings', defaults.positions, LIMITS.positions);
  const rope = readRope(config, headDim, stated);
  const attentionBias = flag(config, 'attention_bias');
  if (family === 'mistral' && attentionBias)
    throw badModel(
      'config.json: "attention_bias" is true, which transformers ignores for mistral; set it to false if the weights hold no biases',
    );
  return {
    family,
    hidden,
    layers,
    heads,
    kvHeads,
    headDim,
    rope,
    architecture: defaults.architecture,
    vocabulary: size(config, 'vocab_size', defaults.vocabulary, LIMITS.vocabulary),
    intermediate: size(config, 'intermediate_size', defaults.intermediate, LIMITS.intermediate),
    rmsEps: readEps(config),
    positions: Math.min(Math.max(stated, rope.reach), LIMITS.positions),
    ...readWindow(config, family, layers),
    tied: flag(config, 'tie_word_embeddings'),
    // Qwen2's q, k and v always have biases, its o never; the config key is not read for it.
    qkvBias: family === 'qwen2' || attentionBias,
    oBias: family !== 'qwen2' && attentionBias,
    qkNorm: family === 'qwen3',
    warnings: rope.warnings,
  };
}

/**
 * The tokens that begin and end a text. Both files may name several ends, and instruct models often name the end of
 * a turn in generation_config.json only: all of them end a generation.
 * @param generation generation_config.json, or null where the folder has none.
 */
export function readEndTokens(
  config: Json,
  generation: Json | null,
  vocabulary: number,
): { bosToken: number | null; eosTokens: number[]; warnings: string[] } {
  const defaults = DEFAULTS[readFamily(config)];
  const warnings: string[] = [];
  const known = (key: string, token: unknown): boolean => {
    if (!Number.isSafeInteger(token)) throw badModel(`${key} is ${JSON.stringify(token)}, expected a token id or a list of them`);
    if ((token as number) >= 0 && (token as number) < vocabulary) return true;
    warnings.push(`${key} ${String(token)} is outside the vocabulary of ${vocabulary} and was ignored`);
    return false;
  };
  const read = (key: string): number[] => {
    const found = [generation?.[key], config[key]].flat().filter((token) => token !== undefined && token !== null);
    return [...new Set(found as number[])].filter((token) => known(key, token));
  };
  const silent = (key: string): boolean => config[key] === undefined && (generation?.[key] ?? null) === null;
  const bos = read('bos_token_id')[0] ?? (silent('bos_token_id') ? defaults.bosToken : null);
  const eos = silent('eos_token_id') && defaults.eosToken !== null ? [defaults.eosToken] : read('eos_token_id');
  const eosTokens = eos.filter((token) => token < vocabulary);
  if (eosTokens.length === 0)
    warnings.push(
      'neither config.json nor generation_config.json names an end token; generations end by length or stop strings only',
    );
  return { bosToken: bos !== null && bos < vocabulary ? bos : null, eosTokens, warnings };
}

/** How a checkpoint wants to be sampled where a request says nothing. */
export interface SamplingDefaults {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
}

const SAMPLING_KEYS: readonly (readonly [keyof SamplingDefaults, key: string, neutral: number, min: number, max: number])[] = [
  ['temperature', 'temperature', 1, 0, 2],
  ['topK', 'top_k', 0, 0, 2 ** 31 - 1],
  ['topP', 'top_p', 1, 1e-6, 1],
  ['minP', 'min_p', 0, 0, 1],
  ['repetitionPenalty', 'repetition_penalty', 1, 1e-3, 2],
];

/**
 * Defaults from generation_config.json, as vLLM takes them; what it does not say is neutral. An explicit
 * `do_sample: false` means greedy, as in transformers. Values out of range are ignored with a warning.
 */
export function readSamplingDefaults(generation: Json | null): { sampling: SamplingDefaults; warnings: string[] } {
  const warnings: string[] = [];
  const values: Record<string, number> = {};
  for (const [name, key, neutral, min, max] of SAMPLING_KEYS) {
    const given = generation?.[key] ?? neutral;
    const fits = typeof given === 'number' && given >= min && given <= max;
    if (!fits) warnings.push(`generation_config.json: ${key} ${JSON.stringify(given)} is not between ${min} and ${max}; ignored`);
    values[name] = fits ? given : neutral;
  }
  if (generation?.do_sample === false) values.temperature = 0;
  return { sampling: values as unknown as SamplingDefaults, warnings };
}

function readFamily(config: Json): Family {
  const type = config.model_type;
  if (typeof type !== 'string' || !Object.hasOwn(DEFAULTS, type)) {
    throw badModel(
      `config.json: model_type is ${JSON.stringify(type) ?? 'missing'}; supported are ${Object.keys(DEFAULTS).join(', ')}`,
    );
  }
  return type as Family;
}

function refuseForeign(config: Json, family: Family): void {
  const expected = DEFAULTS[family].architecture;
  const architectures = config.architectures ?? [expected];
  if (!Array.isArray(architectures) || !architectures.includes(expected)) {
    throw badModel(
      `config.json: architectures is ${JSON.stringify(architectures)}, expected ${expected} for model_type ${family}; only text generation models can be run`,
    );
  }
  const activation = config.hidden_act ?? 'silu';
  if (activation !== 'silu') throw badModel(`config.json: hidden_act is ${JSON.stringify(activation)}; only silu is implemented`);
  for (const { key, unused, why } of FOREIGN) {
    const value = config[key] ?? null;
    if (!unused.includes(value)) throw badModel(`config.json: "${key}" is set: ${why}`);
  }
}

function readHeadDim(config: Json, defaults: Defaults, hidden: number, heads: number): number {
  const given = config.head_dim ?? null;
  if (given === null && defaults.headDim === 0 && hidden % heads !== 0) {
    throw badModel(`config.json: hidden_size ${hidden} is no multiple of num_attention_heads ${heads} and head_dim is missing`);
  }
  const headDim = given === null ? defaults.headDim || hidden / heads : size(config, 'head_dim', 0, LIMITS.headDim);
  if (headDim % 2 !== 0 || headDim > LIMITS.headDim) {
    throw badModel(`config.json: head_dim is ${headDim}; rope needs an even number, the engine one up to ${LIMITS.headDim}`);
  }
  return headDim;
}

function readEps(config: Json): number {
  const eps = config.rms_norm_eps ?? 1e-6;
  if (typeof eps !== 'number' || !(eps > 0 && eps < 1))
    throw badModel(`config.json: rms_norm_eps is ${JSON.stringify(eps)}, expected a number between 0 and 1`);
  return eps;
}

/**
 * Sliding windows. Mistral: all layers, unless null. Qwen: where `use_sliding_window`, the layers from
 * `max_window_layers` on, or those that `layer_types` names; expressible when the windowed layers are the last ones.
 */
function readWindow(config: Json, family: Family, layers: number): { window: number; windowFromLayer: number } {
  const full = { window: 0, windowFromLayer: 0 };
  const types = readLayerTypes(config, layers);
  const uses = family === 'mistral' || (family !== 'llama' && flag(config, 'use_sliding_window'));
  const window = uses && config.sliding_window !== null ? size(config, 'sliding_window', 4_096, LIMITS.positions) : 0;
  const first = windowStart(config, family, layers, types);
  const sliding = types !== null && first < layers;
  if (sliding && window === 0)
    throw badModel(
      'config.json: layer_types names sliding_attention, but no sliding window is in use; set sliding_window and use_sliding_window, or layer_types to full_attention',
    );
  if (family === 'mistral' && types !== null && window !== 0 && first !== 0) {
    throw badModel(
      'config.json: layer_types and sliding_window contradict each other for mistral; remove layer_types, or set sliding_window to null',
    );
  }
  return window === 0 || first >= layers ? full : { window, windowFromLayer: first };
}

/** The first windowed layer, `layers` where none is; every layer after it is windowed too. */
function windowStart(config: Json, family: Family, layers: number, types: readonly string[] | null): number {
  if (types === null) return family === 'mistral' ? 0 : size(config, 'max_window_layers', 28, LIMITS.positions, 0);
  const first = types.indexOf('sliding_attention');
  if (first === -1) return layers;
  if (types.indexOf('full_attention', first) !== -1)
    throw badModel(
      'config.json: layer_types alternates full and sliding attention; only models whose last layers slide can be run',
    );
  return first;
}

function readLayerTypes(config: Json, layers: number): readonly string[] | null {
  const types = config.layer_types ?? null;
  if (types === null) return null;
  if (!Array.isArray(types) || types.length !== layers) throw badModel(`config.json: layer_types is no list of ${layers} names`);
  const other = types.find((type) => type !== 'full_attention' && type !== 'sliding_attention') as unknown;
  if (other !== undefined)
    throw badModel(
      `config.json: layer type ${JSON.stringify(other)} is not implemented; full_attention and sliding_attention are`,
    );
  return types as string[];
}

/** A whole number from `least` to `most`; `fallback` where the key is missing or null. */
function size(config: Json, key: string, fallback: number, most: number, least = 1): number {
  const value = config[key] ?? fallback;
  if (!Number.isSafeInteger(value) || (value as number) < least || (value as number) > most) {
    throw badModel(
      `config.json: "${key}" is ${JSON.stringify(value)}, expected a whole number from ${least} to ${most}; the file is wrong, download it again`,
    );
  }
  return value as number;
}

function flag(config: Json, key: string): boolean {
  const value = config[key] ?? false;
  if (typeof value !== 'boolean') throw badModel(`config.json: "${key}" is ${JSON.stringify(value)}, expected true or false`);
  return value;
}

/** @throws FastswitchError `bad_model` where `text_config` shows a model of several parts. */
export function refuseMultimodal(config: Json): void {
  if (isObject(config.text_config))
    throw badModel('config.json describes a multimodal model ("text_config"); only text models can be run');
}
