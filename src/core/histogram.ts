/** Histograms as Prometheus has them. */

/** counts[i] values were <= bounds[i] and > bounds[i - 1]; the last count is the overflow. */
export interface Histogram {
  readonly bounds: readonly number[];
  readonly counts: number[];
  sum: number;
  count: number;
}

/** Collects integers, so that sums are exact, and reports them in a larger unit: microseconds as seconds, tokens as they are. */
export class Tally {
  readonly #bounds: readonly number[];
  readonly #unit: number;
  readonly #counts: number[];
  #sum = 0;
  #count = 0;

  /** `bounds`, ascending, in what is observed; `unit`: so much of it is one of what is reported. */
  constructor(bounds: readonly number[], unit: number) {
    this.#bounds = bounds;
    this.#unit = unit;
    this.#counts = new Array<number>(bounds.length + 1).fill(0);
  }

  /** A value that was seen so many times. */
  observe(value: number, times = 1): void {
    let low = 0;
    let high = this.#bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#bounds[middle] as number) < value) low = middle + 1;
      else high = middle;
    }
    (this.#counts[low] as number) += times;
    this.#sum += value * times;
    this.#count += times;
  }

  /** A copy that later values do not change. */
  histogram(): Histogram {
    return {
      bounds: this.#bounds.map((bound) => bound / this.#unit),
      counts: [...this.#counts],
      sum: this.#sum / this.#unit,
      count: this.#count,
    };
  }
}

/** Bounds in microseconds of what a step takes, what it costs beside the engine, and what a request takes. */
export const STEP_BOUNDS: readonly number[] = [
  250, 500, 1e3, 2.5e3, 5e3, 1e4, 2e4, 3e4, 5e4, 7.5e4, 1e5, 1.5e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7,
];
export const GAP_BOUNDS: readonly number[] = [25, 50, 100, 150, 200, 300, 500, 750, 1e3, 2e3, 5e3, 1e4, 2.5e4, 1e5];
export const REQUEST_BOUNDS: readonly number[] = [
  1e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7, 3e7, 6e7, 1.2e8, 3e8, 6e8,
];
/** Of tokens: in a step, and of a request. */
export const STEP_TOKENS_BOUNDS: readonly number[] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
export const LENGTH_BOUNDS: readonly number[] = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6,
];

export const MICROS_PER_SECOND = 1e6;
