/** Values over seeds, and ratios of them, as the report shows them: a middle and the range. */

export interface Band {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

export const ZERO: Band = { mean: 0, low: 0, high: 0 };

/** Mean, least and greatest. */
export function bandOf(values: readonly number[]): Band {
  if (values.length === 0) return ZERO;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, low: Math.min(...values), high: Math.max(...values) };
}

/** The same of what a run is reduced to, over the runs of one case. */
export function bandBy<Run>(runs: readonly Run[], value: (run: Run) => number): Band {
  return bandOf(runs.map(value));
}

/**
 * How many times larger `over` is than `under`, seed by seed: the geometric mean of the ratios, and their range. Runs of
 * one seed met the same load, so pairs differ by less than means do.
 */
export function ratioBand<Run>(over: readonly Run[], under: readonly Run[], value: (run: Run) => number): Band {
  const ratios = over.map((run, k) => safeRatio(value(run), value(under[k] as Run)));
  const mean = Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length);
  return { mean, low: Math.min(...ratios), high: Math.max(...ratios) };
}

/** Nothing beside nothing is equal; where one of them is nothing, a ratio says only which. */
function safeRatio(over: number, under: number): number {
  if (over === under) return 1;
  const least = 1e-6 * Math.max(over, under);
  return Math.max(over, least) / Math.max(under, least);
}

/** The range of all bands together, and the mean of their means. */
export function union(bands: readonly Band[]): Band {
  return {
    mean: bandOf(bands.map(({ mean }) => mean)).mean,
    low: Math.min(...bands.map(({ low }) => low)),
    high: Math.max(...bands.map(({ high }) => high)),
  };
}
