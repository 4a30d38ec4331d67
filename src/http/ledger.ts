/**
 * What each tenant was served, and how far apart that is: counted at the edge, where tenants, their weights and their
 * objectives are known, from tokens as they go out. Service is counted as virtual token counters do (Sheng et al., OSDI
 * 2024), in the prices that the scheduler has: of a prompt, when its first token is there, and of a generated token.
 *
 * Times are milliseconds of a clock that only goes forward.
 */

/** As the preset of the server has them. */
export interface Prices {
  readonly promptPrice: number;
  readonly tokenPrice: number;
}

/** For the index of fairness: how long what was served is remembered, as the time in which it fades to 37 %. */
const FADING_MILLIS = 60_000;

/** Choices that had an objective, and met it or not. */
interface Attainment {
  met: number;
  missed: number;
}

/** Of one tenant. */
export class Service {
  weight = 1;
  promptTokens = 0;
  generatedTokens = 0;
  /** Choices alive, and those of them that wait: for their first admission, or because they were preempted. */
  live = 0;
  waiting = 0;
  /** Of those that wait: in the scheduler, and not in their tenant's own line. */
  queued = 0;
  readonly attained: Readonly<Record<'ttft' | 'tbt', Attainment>> = { ttft: { met: 0, missed: 0 }, tbt: { met: 0, missed: 0 } };
  /** Service by weight; lifted to the least of those who wait when it begins to wait, so that nobody saves up. */
  counter = 0;
  #recent = 0;
  #recentAt = 0;
  readonly #prices: Prices;

  constructor(prices: Prices) {
    this.#prices = prices;
  }

  serve(promptTokens: number, generatedTokens: number, now: number): void {
    const amount = this.#priced(promptTokens, generatedTokens);
    this.promptTokens += promptTokens;
    this.generatedTokens += generatedTokens;
    this.counter += amount / this.weight;
    this.#recent = this.#faded(now) + amount;
    this.#recentAt = now;
  }

  /** One more of its choices waits. */
  waits(all: readonly Service[]): void {
    this.waiting += 1;
    if (this.waiting > 1) return;
    let least = Number.POSITIVE_INFINITY;
    for (const other of all) if (other !== this && other.waiting > 0) least = Math.min(least, other.counter);
    if (least < Number.POSITIVE_INFINITY) this.counter = Math.max(this.counter, least);
  }

  /** Whether a choice met its objective; null: it had none. */
  judge(kind: 'ttft' | 'tbt', seconds: number, objectiveSeconds: number | null): void {
    if (objectiveSeconds === null) return;
    this.attained[kind][seconds <= objectiveSeconds ? 'met' : 'missed'] += 1;
  }

  /** In VTC's units, from the start. */
  get served(): number {
    return this.#priced(this.promptTokens, this.generatedTokens);
  }

  /** By weight, of the last minute or so. */
  recent(now: number): number {
    return this.#faded(now) / this.weight;
  }

  #priced(promptTokens: number, generatedTokens: number): number {
    return this.#prices.promptPrice * promptTokens + this.#prices.tokenPrice * generatedTokens;
  }

  #faded(now: number): number {
    return this.#recent * Math.exp((this.#recentAt - now) / FADING_MILLIS);
  }
}

export interface Dispersion {
  /** Jain's index over the recent service by weight of those who wait; 1: all alike, or fewer than two wait. */
  readonly jain: number;
  /** Most minus least of the counters of those who wait: tokens of weight 1. */
  readonly gap: number;
}

export function dispersionOf(services: readonly Service[], now: number): Dispersion {
  const waiting = services.filter((service) => service.waiting > 0);
  if (waiting.length < 2) return { jain: 1, gap: 0 };
  const recent = waiting.map((service) => service.recent(now));
  const sum = recent.reduce((a, b) => a + b, 0);
  const squares = recent.reduce((a, b) => a + b * b, 0);
  const counters = waiting.map(({ counter }) => counter);
  return { jain: squares === 0 ? 1 : sum ** 2 / (recent.length * squares), gap: Math.max(...counters) - Math.min(...counters) };
}
