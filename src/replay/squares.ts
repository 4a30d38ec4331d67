/**
 * Least squares for few features and many samples, none of whose coefficients is negative and to which samples that lie far
 * off mean little: times never shrink with more work, and a step during which the machine was taken away says nothing.
 */
import { dot, solveNotNegative } from '../core/solve.js';

/** Rounds in which what lies far off loses its weight. */
const ROUNDS = 6;
/** Relative residuals up to about this size are noise, not outliers. */
const NOISE = 0.02;
/** Of a feature that cannot be told from others: enough to settle it, no more. Features are scaled to about 1. */
const RIDGE = 1e-9;

export interface Sample {
  readonly features: readonly number[];
  /** Above 0. */
  readonly value: number;
}

/**
 * Coefficients, at least 0, with which features x coefficients comes closest to the values, by relative residuals. All
 * samples have as many features.
 */
export function fitNotNegative(samples: readonly Sample[]): readonly number[] {
  const size = samples[0]?.features.length ?? 0;
  const scale = Array.from({ length: size }, (_, k) => largest(samples, k) || 1);
  let coefficients: readonly number[] | null = null;
  for (let round = 0; round < ROUNDS; round++) coefficients = refit(samples, scale, coefficients);
  return coefficients ?? [];
}

function largest(samples: readonly Sample[], feature: number): number {
  return samples.reduce((most, { features }) => Math.max(most, features[feature] as number), 0);
}

/** One round: weights from the residuals of the last coefficients (Cauchy's), then least squares. */
function refit(samples: readonly Sample[], scale: readonly number[], last: readonly number[] | null): readonly number[] {
  const predicted = samples.map(({ features, value }) => (last === null ? value : Math.max(1e-6, dot(last, features))));
  const residuals = Float64Array.from(samples, ({ value }, k) => Math.abs(value / (predicted[k] as number) - 1));
  const width = Math.max(NOISE, 2 * quantile(residuals, 0.5));
  const size = scale.length;
  const rows = scale.map(() => new Float64Array(size + 1));
  const row = new Float64Array(size);
  for (const [k, { features, value }] of samples.entries()) {
    const weight = 1 / (1 + ((residuals[k] as number) / width) ** 2) / (predicted[k] as number) ** 2;
    for (let i = 0; i < size; i++) row[i] = (features[i] as number) / (scale[i] as number);
    for (let i = 0; i < size; i++) {
      const target = rows[i] as Float64Array;
      const weighted = weight * (row[i] as number);
      if (weighted === 0) continue;
      for (let j = 0; j < size; j++) (target[j] as number) += weighted * (row[j] as number);
      (target[size] as number) += weighted * value;
    }
  }
  for (let i = 0; i < size; i++) {
    const own = rows[i] as Float64Array;
    own[i] = (own[i] as number) * (1 + RIDGE) + Number.MIN_VALUE;
  }
  return solveNotNegative(rows).map((value, k) => value / (scale[k] as number));
}

/** Nearest rank below: the value at this share of the sorted ones; 0 where there are none. */
export function quantile(values: ArrayLike<number>, share: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}
