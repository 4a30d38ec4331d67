/**
 * A token bucket: so much may be taken at once, and it fills evenly, mostly a whole bucket a minute. What was taken may turn out
 * to have been more than there was: then it is below nothing for a while, and whoever comes next waits for that too.
 *
 * Times are milliseconds of any clock that only goes forward.
 */
const MINUTE_MILLIS = 60_000;

export class Bucket {
  readonly perMinute: number;
  /** What may be taken at once. */
  readonly holds: number;
  #level: number;
  #at: number;

  constructor(perMinute: number, now: number, holds: number = perMinute) {
    this.perMinute = perMinute;
    this.holds = holds;
    this.#level = holds;
    this.#at = now;
  }

  /** What may be taken now; below zero where too much was. */
  level(now: number): number {
    this.#level = Math.min(this.holds, this.#level + ((now - this.#at) / MINUTE_MILLIS) * this.perMinute);
    this.#at = now;
    return this.#level;
  }

  /** A negative amount is given back. */
  take(amount: number, now: number): void {
    this.#level = Math.min(this.holds, this.level(now) - amount);
  }

  /** Until so much is there; infinite for more than it holds. */
  secondsUntil(amount: number, now: number): number {
    if (amount > this.holds) return Number.POSITIVE_INFINITY;
    const seconds = ((amount - this.level(now)) / this.perMinute) * 60;
    // What is left by rounding is no time to wait.
    return seconds < 1e-6 ? 0 : seconds;
  }

  /** Until it is full. */
  secondsUntilFull(now: number): number {
    return this.secondsUntil(this.holds, now);
  }

  /** Of another size, as full as this one: a change of a limit is no gift and no fine. */
  resized(perMinute: number, now: number, holds: number = perMinute): Bucket {
    const other = new Bucket(perMinute, now, holds);
    other.take(holds - (this.level(now) / this.holds) * holds, now);
    return other;
  }
}
