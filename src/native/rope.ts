/**
 * Rotary position embedding: the inverse frequencies of a checkpoint, after whatever scaling its config asks for.
 * The engine multiplies positions by these and knows nothing of the scaling.
 *
 * Formulas and defaults are those of transformers' `modeling_rope_utils`, in its precision too: torch computes them
 * in float32, and at position 100,000 the rounding of a frequency is visible in the angle. So every step that torch
 * rounds is rounded here (`f32`).
 */
import { badModel, isObject } from './safetensors.js';

type Json = Readonly<Record<string, unknown>>;

export interface Rope {
  /** [headDim / 2], radians per position. */
  readonly inverseFrequencies: Float32Array;
  /** Factor on cos and sin. */
  readonly scale: number;
  /** Positions that the scaling reaches, where the config states the length before it; else 0. */
  readonly reach: number;
  readonly warnings: readonly string[];
}

const f32 = Math.fround;
const THETA_DEFAULT = 10_000;

/**
 * Reads `rope_scaling` with `rope_theta` (transformers 4) or `rope_parameters` (transformers 5) of a config.json.
 * @param config the whole config.
 * @param headDim even.
 * @param positions the config's `max_position_embeddings`.
 * @throws FastswitchError `bad_model` for scalings that depend on the length of the request, or missing numbers.
 */
export function readRope(config: Json, headDim: number, positions: number): Rope {
  const rope = computeRope(config, headDim, positions);
  // Numbers beyond float32 in the config would end as infinities in every logit.
  if (![...rope.inverseFrequencies, rope.scale].every(Number.isFinite)) {
    throw badModel('config.json: the rope settings give numbers that are not finite; the file is wrong, download it again');
  }
  return rope;
}

function computeRope(config: Json, headDim: number, positions: number): Rope {
  const block = ropeBlock(config);
  const rotary = block.partial_rotary_factor ?? config.partial_rotary_factor ?? 1;
  if (rotary !== 1)
    throw badModel(
      `config.json: partial_rotary_factor is ${JSON.stringify(rotary)}; only models that rotate the whole head (1) can be run`,
    );
  const theta = positive(block, 'rope_theta', null) ?? positive(config, 'rope_theta', THETA_DEFAULT);
  const periods = Float32Array.from({ length: headDim / 2 }, (_, pair) => f32(theta) ** f32((2 * pair) / headDim));
  const type: unknown = block.rope_type ?? block.type ?? 'default';
  const plain = { scale: 1, reach: 0, warnings: [] };
  switch (type) {
    case 'default':
      return { ...plain, inverseFrequencies: periods.map((period) => 1 / period) };
    case 'linear': {
      const factor = positive(block, 'factor', null) ?? missing(type, 'factor');
      return { ...plain, inverseFrequencies: periods.map((period) => f32(1 / period) / f32(factor)) };
    }
    case 'llama3':
      return {
        ...plain,
        inverseFrequencies: llama3(
          periods.map((period) => 1 / period),
          block,
          originalPositions(config, block) ?? positions,
        ),
      };
    case 'yarn':
      return yarn(periods, theta, headDim, config, block, positions);
    default:
      throw badModel(
        `config.json: rope type ${JSON.stringify(type)} is not supported (default, linear, llama3 and yarn are); other scalings change with the length of a request and would give wrong results`,
      );
  }
}

/** The one rope object of a config; transformers lets a `rope_scaling` that is not empty win. */
function ropeBlock(config: Json): Json {
  for (const key of ['rope_scaling', 'rope_parameters']) {
    const value = config[key] ?? {};
    if (!isObject(value)) throw badModel(`config.json: "${key}" is no object`);
    if (Object.keys(value).length === 0) continue;
    const nested = Object.keys(value).find((name) => isObject(value[name]));
    if (nested !== undefined)
      throw badModel(
        `config.json: "${key}" differs by layer type (${JSON.stringify(nested)}); models with more than one rope cannot be run`,
      );
    return value;
  }
  return {};
}

/** Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended by their wavelength. */
function llama3(inverse: Float32Array, block: Json, original: number): Float32Array {
  const factor = positive(block, 'factor', null) ?? missing('llama3', 'factor');
  const low = positive(block, 'low_freq_factor', null) ?? missing('llama3', 'low_freq_factor');
  const high = positive(block, 'high_freq_factor', null) ?? missing('llama3', 'high_freq_factor');
  if (high <= low) throw badModel(`config.json: rope's high_freq_factor (${high}) must be above low_freq_factor (${low})`);
  return inverse.map((frequency) => {
    const wavelength = f32(f32(2 * Math.PI) / frequency);
    if (wavelength > f32(original / low)) return f32(frequency / f32(factor));
    if (wavelength < f32(original / high)) return frequency;
    const smooth = f32(f32(f32(f32(original) / wavelength) - f32(low)) / f32(high - low));
    return f32(f32(f32(f32(1 - smooth) * frequency) / f32(factor)) + f32(smooth * frequency));
  });
}

/** YaRN (arXiv 2309.00071): interpolation for long waves, none for short ones, a ramp between; cos and sin scaled. */
function yarn(periods: Float32Array, theta: number, headDim: number, config: Json, block: Json, positions: number): Rope {
  const stated = originalPositions(config, block);
  const original = stated ?? positions;
  const factor = positive(block, 'factor', null) ?? positions / original;
  const [low, high] = yarnRange(theta, headDim, block, original);
  const width = f32(high - low);
  const inverseFrequencies = periods.map((period, pair) => {
    const ramp = Math.min(1, Math.max(0, f32(f32(pair - low) / width)));
    const extrapolated = f32(1 - ramp);
    return f32(f32(f32(1 / f32(f32(factor) * period)) * f32(1 - extrapolated)) + f32(f32(1 / period) * extrapolated));
  });
  const warnings: string[] = [];
  if (positions !== original && positions / original !== factor) {
    warnings.push(
      `config.json: yarn's factor is ${factor} but max_position_embeddings / original_max_position_embeddings is ${positions / original}; ${factor} is used, as by transformers 5`,
    );
  }
  return {
    inverseFrequencies,
    scale: yarnScale(factor, block),
    reach: stated === null ? 0 : Math.floor(original * factor),
    warnings,
  };
}

/** The pairs of dimensions between which the ramp runs. */
function yarnRange(theta: number, headDim: number, block: Json, original: number): [low: number, high: number] {
  // transformers writes these as `x or default`: null and zero both mean the default.
  const dimensionOf = (rotations: number): number =>
    (headDim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = dimensionOf(orDefault(block, 'beta_fast', 32));
  let high = dimensionOf(orDefault(block, 'beta_slow', 1));
  if (!('truncate' in block) || block.truncate) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, headDim - 1);
  if (!Number.isFinite(low) || !Number.isFinite(high))
    throw badModel(`config.json: yarn cannot be computed for rope_theta ${theta}`);
  return [low, low === high ? high + 0.001 : high];
}

function yarnScale(factor: number, block: Json): number {
  const given = block.attention_factor ?? null;
  if (given !== null) return positive(block, 'attention_factor', null) ?? 1;
  const grow = (mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const mscale = orDefault(block, 'mscale', 0);
  const mscaleAllDim = orDefault(block, 'mscale_all_dim', 0);
  return mscale !== 0 && mscaleAllDim !== 0 ? grow(mscale) / grow(mscaleAllDim) : grow(1);
}

function originalPositions(config: Json, block: Json): number | null {
  return positive(config, 'original_max_position_embeddings', null) ?? positive(block, 'original_max_position_embeddings', null);
}

function positive<T extends number | null>(object: Json, key: string, fallback: T): number | T {
  const value = object[key] ?? null;
  if (value === null) return fallback;
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
    throw badModel(`config.json: rope's "${key}" is ${JSON.stringify(value)}, expected a number above 0`);
  return value;
}

function orDefault(block: Json, key: string, fallback: number): number {
  return block[key] === 0 ? fallback : positive(block, key, fallback);
}

function missing(type: string, key: string): never {
  throw badModel(`config.json: rope type ${type} needs "${key}"; the file is incomplete, download it again`);
}
