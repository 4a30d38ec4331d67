/**
 * The starvation bound: who has had no step for too long goes first for a while. By the server's own clock, so nothing that
 * a client says makes it come sooner; and a few at a time, so that a flood of requests that starve does not take over.
 */
import type { Ranked, Service } from './fairness.js';
import type { Micros } from './types.js';

/** Of the places in the batch: so many may be held at a time by those who were lifted (of one tenant, or of all). */
const PLACES_SHARE = 1 / 8;
/** Of the time after which one starves: it goes first until it was served for so long and got a token. */
const SERVED_SHARE = 1 / 8;

export class Ageing {
  readonly #afterMicros: Micros;
  readonly #most: number;
  readonly #domainOf: (request: Ranked) => unknown;
  readonly #lifted = new Map<unknown, number>();
  #starving: Ranked[] = [];

  /** `afterSeconds`: 0 is never. `domainOf`: each has its own places. */
  constructor(afterSeconds: number, maxRunning: number, domainOf: (request: Ranked) => unknown) {
    this.#afterMicros = afterSeconds > 0 ? afterSeconds * 1e6 : Number.POSITIVE_INFINITY;
    this.#most = Math.max(1, Math.floor(maxRunning * PLACES_SHARE));
    this.#domainOf = domainOf;
  }

  waited(request: Ranked, now: Micros): void {
    if (!request.lifted && now - request.servedAt >= this.#afterMicros) this.#starving.push(request);
  }

  served(request: Ranked, { micros, sampled }: Service): void {
    if (!request.lifted) return;
    request.liftedMicros += micros;
    if (request.liftedMicros >= SERVED_SHARE * this.#afterMicros && sampled > 0) this.ended(request);
  }

  ended(request: Ranked): void {
    if (!request.lifted) return;
    request.lifted = false;
    const domain = this.#domainOf(request);
    const left = (this.#lifted.get(domain) ?? 1) - 1;
    if (left > 0) this.#lifted.set(domain, left);
    else this.#lifted.delete(domain);
  }

  /** Lifts those of whom it was said since the last time that they wait, the longest waiting first. */
  settle(): void {
    if (this.#starving.length === 0) return;
    this.#starving.sort((a, b) => a.servedAt - b.servedAt || a.id - b.id);
    for (const request of this.#starving) {
      const domain = this.#domainOf(request);
      const held = this.#lifted.get(domain) ?? 0;
      if (held >= this.#most) continue;
      this.#lifted.set(domain, held + 1);
      request.lifted = true;
      request.liftedMicros = 0;
    }
    this.#starving = [];
  }
}

/** Among those of whom neither is before the other by anything else: the lifted first; null where that does not tell. */
export function byLift(a: Ranked, b: Ranked): number | null {
  if (a.lifted !== b.lifted) return a.lifted ? -1 : 1;
  return a.lifted ? a.id - b.id : null;
}
