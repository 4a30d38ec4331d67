/**
 * What a run is judged by: latencies exactly, throughput, preemptions and bytes; overall and for each tenant, and how evenly
 * the tenants fared. The same for a recorded run and for one in virtual time. Plain data, as it is printed with --json.
 */
import type { Effect, Event, Micros, Outcome, RequestId } from '../core/types.js';
import type { Spread } from '../simulation/result.js';
import { nearestRank, Samples } from '../simulation/samples.js';
import { RunWitness } from '../simulation/witness.js';

/** Of all requests, or of one tenant's. */
export interface Figures {
  /** That arrived, and how those ended that have. */
  readonly requests: number;
  readonly ended: Readonly<Record<Outcome, number>>;
  readonly generatedTokens: number;
  /** Generated tokens per second of the run, from its first arrival to its last token. */
  readonly tokensPerSecond: number;
  /** Arrival to first token; one token of a request to its next; arrival to end of those that ended by themselves. */
  readonly ttftMs: Spread;
  readonly tbtMs: Spread;
  readonly requestMs: Spread;
  readonly preemptions: { readonly swap: number; readonly recompute: number };
  /** Mean, over the requests that ended by themselves, of arrival to end for each generated token; 0 where none did. */
  readonly msPerToken: number;
}

/**
 * Jain's index over the tenants' `msPerToken`: 1 where all wait as long for a token, 1 / tenants where one waits for all. Of
 * tenants none of whose requests ended by itself nothing is known; null where fewer than two are left.
 */
export interface Fairness {
  readonly jain: number;
  readonly best: { readonly tenant: string; readonly msPerToken: number };
  readonly worst: { readonly tenant: string; readonly msPerToken: number };
}

export interface RunFigures extends Figures {
  readonly seconds: number;
  readonly steps: number;
  readonly transfers: number;
  readonly bytesOut: number;
  readonly bytesIn: number;
  readonly fairness: Fairness | null;
  /** TTFT at 0, 1, ... 100 % of the requests that had a token, milliseconds. */
  readonly ttftSharesMs: readonly number[];
  /** By name, in order of their first arrival. */
  readonly tenants: Readonly<Record<string, Figures>>;
}

const MICROS_PER_MS = 1000;

interface Live {
  readonly tenant: Group;
  readonly arrivedAt: Micros;
  /** -1: no token yet. */
  lastTokenAt: Micros;
  tokens: number;
}

/** Adds up one group of requests. */
class Group {
  readonly ttft = new Samples();
  readonly tbt = new Samples();
  readonly request = new Samples();
  readonly ended: Record<Outcome, number> = { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 };
  readonly preemptions = { swap: 0, recompute: 0 };
  requests = 0;
  /** Sum, over the requests that ended by themselves, of micros for each token; and how many that were. */
  tokenMicros = 0;
  paced = 0;

  figures(seconds: number): Figures {
    const generatedTokens = this.ttft.length + this.tbt.length;
    return {
      requests: this.requests,
      ended: { ...this.ended },
      generatedTokens,
      tokensPerSecond: seconds === 0 ? 0 : generatedTokens / seconds,
      ttftMs: this.ttft.spread(MICROS_PER_MS),
      tbtMs: this.tbt.spread(MICROS_PER_MS),
      requestMs: this.request.spread(MICROS_PER_MS),
      preemptions: { ...this.preemptions },
      msPerToken: this.paced === 0 ? 0 : this.tokenMicros / this.paced / MICROS_PER_MS,
    };
  }
}

/** Folds the decisions of a run, in order. */
export class FiguresFold {
  readonly #witness: RunWitness;
  readonly #all = new Group();
  readonly #tenants = new Map<string, Group>();
  readonly #live = new Map<RequestId, Live>();

  /** `blockBytes`: bytes of one block, all layers. */
  constructor(blockBytes: number) {
    this.#witness = new RunWitness(blockBytes);
  }

  see(event: Event, effects: readonly Effect[]): void {
    this.#witness.see(event, effects);
    if (event.type === 'arrived') this.#arrive(event);
    for (const effect of effects) this.#follow(effect, event.at);
  }

  /** Generated so far. */
  get tokens(): number {
    return this.#witness.tokens;
  }

  result(): RunFigures {
    const { virtualSeconds: seconds, steps, transfers, bytesOut, bytesIn } = this.#witness.observed();
    const tenants = [...this.#tenants].map(([name, group]) => [name, group.figures(seconds)] as const);
    const ttft = this.#all.ttft.values().slice().sort();
    return {
      ...this.#all.figures(seconds),
      seconds,
      steps,
      transfers,
      bytesOut,
      bytesIn,
      fairness: fairnessOf(tenants),
      ttftSharesMs: Array.from({ length: 101 }, (_, percent) => nearestRank(ttft, percent) / MICROS_PER_MS),
      tenants: Object.fromEntries(tenants),
    };
  }

  #arrive({ id, at, tenant }: Extract<Event, { type: 'arrived' }>): void {
    const group = this.#tenants.get(tenant) ?? new Group();
    this.#tenants.set(tenant, group);
    this.#live.set(id, { tenant: group, arrivedAt: at, lastTokenAt: -1, tokens: 0 });
    for (const each of [this.#all, group]) each.requests += 1;
  }

  #follow(effect: Effect, at: Micros): void {
    switch (effect.type) {
      case 'tokens':
        for (const { id } of effect.items) this.#token(id, at);
        return;
      case 'swapOut':
      case 'park':
        return this.#each(effect.id, (group) => {
          group.preemptions.swap += 1;
        });
      case 'recompute':
        return this.#each(effect.id, (group) => {
          group.preemptions.recompute += 1;
        });
      case 'finish':
        return this.#end(effect.id, effect.outcome, at);
      case 'reject':
        return this.#end(effect.id, 'rejected', at);
    }
  }

  #each(id: RequestId, add: (group: Group) => void): void {
    add(this.#all);
    const live = this.#live.get(id);
    if (live !== undefined) add(live.tenant);
  }

  #token(id: RequestId, at: Micros): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    for (const { ttft, tbt } of [this.#all, live.tenant]) {
      if (live.lastTokenAt < 0) ttft.push(at - live.arrivedAt);
      else tbt.push(at - live.lastTokenAt);
    }
    live.lastTokenAt = at;
    live.tokens += 1;
  }

  #end(id: RequestId, outcome: Outcome, at: Micros): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    this.#live.delete(id);
    const micros = at - live.arrivedAt;
    for (const group of [this.#all, live.tenant]) {
      group.ended[outcome] += 1;
      if ((outcome !== 'stop' && outcome !== 'length') || live.tokens === 0) continue;
      group.request.push(micros);
      group.tokenMicros += micros / live.tokens;
      group.paced += 1;
    }
  }
}

function fairnessOf(tenants: readonly (readonly [tenant: string, figures: Figures])[]): Fairness | null {
  const paces = tenants
    .map(([tenant, { msPerToken }]) => ({ tenant, msPerToken }))
    .filter(({ msPerToken }) => msPerToken > 0)
    .sort((a, b) => a.msPerToken - b.msPerToken);
  const [best, worst] = [paces[0], paces.at(-1)];
  if (best === undefined || worst === undefined || paces.length < 2) return null;
  const sum = paces.reduce((total, { msPerToken }) => total + msPerToken, 0);
  const squares = paces.reduce((total, { msPerToken }) => total + msPerToken ** 2, 0);
  return { jain: sum ** 2 / (paces.length * squares), best, worst };
}

/** Of runs that differ in chance only: the median of every figure, the upper one of two. There is at least one. */
export function medianFigures(runs: readonly RunFigures[]): RunFigures {
  const median = medianOf(runs.map(({ fairness: _, ...figures }) => figures)) as Omit<RunFigures, 'fairness'>;
  return { ...median, fairness: fairnessOf(Object.entries(median.tenants)) };
}

/** Of data of one shape, in which all that differs are numbers. */
function medianOf(all: readonly unknown[]): unknown {
  const [first] = all;
  if (typeof first === 'number') return (all as number[]).toSorted((a, b) => a - b)[all.length >> 1];
  if (Array.isArray(first)) return first.map((_, k) => medianOf(all.map((each) => (each as unknown[])[k])));
  if (typeof first !== 'object' || first === null) return first;
  return Object.fromEntries(
    Object.keys(first).map((key) => [key, medianOf(all.map((each) => (each as Record<string, unknown>)[key]))]),
  );
}
