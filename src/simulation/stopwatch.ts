/** Wall time that the runtime itself takes, without what the simulation does inside it: the hands, the witness, the sink. */
import type { Stopwatch } from '../actors/system.js';

const MICROS_PER_MS = 1e3;

export class OwnTime implements Stopwatch {
  /** Kept by the runtime: `decide`, and sending events to charts (with the hands that these call). */
  decideMicros = 0;
  actorMicros = 0;
  #inside = 0;
  #outside = 0;

  now(): number {
    return performance.now() * MICROS_PER_MS;
  }

  /** Times a call into the runtime; such calls are not nested. */
  inside(call: () => void): void {
    const started = this.now();
    call();
    this.#inside += this.now() - started;
  }

  /** Takes a call that the runtime makes out of its time; such calls are not nested either. */
  outside<T>(call: () => T): T {
    const started = this.now();
    const result = call();
    this.#outside += this.now() - started;
    return result;
  }

  /** Everything of the runtime but `decide`: the door, the metrics, the charts, making and ending actors. */
  get restMicros(): number {
    return Math.max(0, this.#inside - this.#outside - this.decideMicros);
  }
}
