/** Exact samples of a run, without a bucket and without an object each, and their percentiles. */
import type { Spread } from './result.js';

export class Samples {
  #values = new Float64Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const larger = new Float64Array(2 * this.#length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.#length] = value;
    this.#length += 1;
  }

  /** In the order of arrival. Borrowed until the next push. */
  values(): Float64Array {
    return this.#values.subarray(0, this.#length);
  }

  /** Percentiles, divided by `unit`. With `low` from the other end: p95 then is exceeded by 95 % of the samples. */
  spread(unit: number, end: 'high' | 'low' = 'high'): Spread {
    const sorted = this.values().slice().sort();
    const at = (percent: number) => nearestRank(sorted, end === 'high' ? percent : 100 - percent) / unit;
    return { p50: at(50), p95: at(95), p99: at(99), p999: at(99.9) };
  }
}

/** The least of the sorted values that at least `percent` of them do not exceed; 0 where there are none. */
export function nearestRank(sorted: Float64Array, percent: number): number {
  // In thousandths, which are whole for the percents in use: 99.9 % of 1,000 is 999 and not a little more.
  const rank = Math.ceil((Math.round(percent * 1000) * sorted.length) / 100_000);
  return sorted[Math.max(0, rank - 1)] ?? 0;
}
