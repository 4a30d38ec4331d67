/**
 * What a recorded run tells beyond its decisions: the load that came in, what each step and each copy took, and how the
 * requests fared. Fed by a replay of a journal, or as the witness of a run that is still going.
 */
import type { Limits } from '../core/state.js';
import type {
  AbortReason,
  BlockName,
  Deadlines,
  Direction,
  Effect,
  Event,
  Micros,
  Outcome,
  Reprioritized,
  RequestId,
  StepItem,
  TransferId,
} from '../core/types.js';
import { FiguresFold, type RunFigures } from './figures.js';

/** The deadlines are those of its arrival. */
export interface ObservedRequest extends Deadlines {
  readonly id: RequestId;
  readonly arrivedAt: Micros;
  readonly tenant: string;
  readonly promptTokens: number;
  readonly maxTokens: number;
  /** At its arrival. */
  readonly priority: number;
  /** Of its tenant, as its arrival said. */
  readonly weight: number;
  /** Of the full blocks of its context: of its prompt and, further on, of what it generated. */
  readonly names: readonly BlockName[];
  readonly generated: number;
  /** Null: the recording ends before it does. */
  readonly outcome: Outcome | null;
}

/** An abort that had an effect. `stop` is not among them: a stop string is a matter of content, not of time. */
export interface ObservedAbort {
  readonly at: Micros;
  readonly id: RequestId;
  readonly reason: AbortReason;
}

/** A new weight of a tenant. */
export interface ObservedWeight {
  readonly at: Micros;
  readonly tenant: string;
  readonly weight: number;
}

/** What a step is made of, as far as it may matter for what it takes. */
export interface StepShape {
  /** Tokens and sequences of prompt chunks, which have at least two tokens. */
  readonly prefillTokens: number;
  readonly prefillSequences: number;
  readonly decodeSequences: number;
  /** Tokens of context that its sequences attend to, together. */
  readonly contextTokens: number;
  /** Pairs of a prompt token and a token it attends to. */
  readonly prefillPairs: number;
  /** Sequences that sample a token. */
  readonly samples: number;
}

export interface StepSample extends StepShape {
  readonly launchedAt: Micros;
  readonly returnedAt: Micros;
  /** The engine's own. */
  readonly micros: Micros;
  /** How long copies were on their way while it ran, both directions added. */
  readonly copyingMicros: Micros;
}

export interface CopySample {
  readonly direction: Direction;
  readonly type: 'swapOut' | 'swapIn' | 'mirror' | 'prefetch';
  readonly runs: number;
  readonly blocks: number;
  /** When it was decided, and when it had landed. */
  readonly startedAt: Micros;
  readonly landedAt: Micros;
  /** Of the copies themselves. */
  readonly micros: Micros;
  /** Its lane was busy when it was decided, so that it waited; a transfer in the other direction was in flight. */
  readonly waited: boolean;
  readonly both: boolean;
}

export function shapeOf(items: readonly Pick<StepItem, 'start' | 'count' | 'sample'>[]): StepShape {
  let [prefillTokens, prefillSequences, decodeSequences, contextTokens, prefillPairs, samples] = [0, 0, 0, 0, 0, 0];
  for (const { start, count, sample } of items) {
    if (count === 1) decodeSequences += 1;
    else {
      prefillSequences += 1;
      prefillTokens += count;
      prefillPairs += count * (start + (count + 1) / 2);
    }
    contextTokens += start + count;
    if (sample) samples += 1;
  }
  return { prefillTokens, prefillSequences, decodeSequences, contextTokens, prefillPairs, samples };
}

type TransferEffect = Extract<Effect, { runs: unknown }>;
type Changing<T> = { -readonly [K in keyof T]: T[K] };
type OpenRequest = Changing<ObservedRequest> & { readonly names: BlockName[] };
type OpenStep = Changing<StepSample>;
type OpenCopy = Omit<CopySample, 'landedAt' | 'micros'>;

/** Collects a run. `see` is told of every event with the effects that were decided on it, in order. */
export class Observed {
  readonly limits: Limits;
  /** In order of arrival. */
  readonly requests: readonly ObservedRequest[];
  readonly aborts: readonly ObservedAbort[];
  readonly reprioritized: readonly { readonly at: Micros; readonly items: readonly Reprioritized[] }[];
  readonly reweighted: readonly ObservedWeight[];
  readonly steps: readonly StepSample[];
  readonly copies: readonly CopySample[];
  /** Null: it never drained. */
  drainingAt: Micros | null = null;
  /** Of the last event. */
  endedAt: Micros = 0;
  stepsFailed = 0;
  copiesFailed = 0;

  readonly #requests: OpenRequest[] = [];
  readonly #aborts: ObservedAbort[] = [];
  readonly #reprioritized: { at: Micros; items: readonly Reprioritized[] }[] = [];
  readonly #reweighted: ObservedWeight[] = [];
  readonly #steps: OpenStep[] = [];
  readonly #copies: CopySample[] = [];
  readonly #figures: FiguresFold;
  readonly #live = new Map<RequestId, OpenRequest>();
  readonly #inFlight = new Map<TransferId, OpenCopy>();
  #step: OpenStep | null = null;

  /** `limits`: what the core of the run was told at its start. */
  constructor(limits: Limits) {
    this.limits = limits;
    this.requests = this.#requests;
    this.aborts = this.#aborts;
    this.reprioritized = this.#reprioritized;
    this.reweighted = this.#reweighted;
    this.steps = this.#steps;
    this.copies = this.#copies;
    this.#figures = new FiguresFold(limits.blockBytes);
  }

  /** How the run fared, so far. */
  figures(): RunFigures {
    return this.#figures.result();
  }

  see(event: Event, effects: readonly Effect[]): void {
    this.endedAt = event.at;
    this.#take(event, effects);
    for (const effect of effects) this.#follow(effect, event.at);
    this.#figures.see(event, effects);
  }

  #take(event: Event, effects: readonly Effect[]): void {
    switch (event.type) {
      case 'arrived':
        return this.#arrived(event);
      case 'aborted':
        if (event.reason !== 'stop' && effects.some((effect) => endsOf(effect) === event.id)) {
          this.#aborts.push({ at: event.at, id: event.id, reason: event.reason });
        }
        return;
      case 'stepped':
        return this.#stepped(event);
      case 'stepFailed':
        this.#step = null;
        this.stepsFailed += 1;
        return;
      case 'landed':
        return this.#landed(event.transfer, event.micros, event.at);
      case 'transferFailed':
        this.#inFlight.delete(event.transfer);
        this.copiesFailed += 1;
        return;
      case 'reprioritized':
        this.#reprioritized.push({ at: event.at, items: event.items });
        return;
      case 'reweighted':
        this.#reweighted.push({ at: event.at, tenant: event.tenant, weight: event.weight });
        return;
      case 'draining':
        this.drainingAt ??= event.at;
        return;
    }
  }

  #arrived({ type: _, at, labels: __, names, ...load }: Extract<Event, { type: 'arrived' }>): void {
    const request = { ...load, arrivedAt: at, names: names.slice(), generated: 0, outcome: null };
    this.#requests.push(request);
    this.#live.set(request.id, request);
  }

  #stepped({ at, micros, items }: Extract<Event, { type: 'stepped' }>): void {
    for (const { id, name } of items) if (name !== null) this.#live.get(id)?.names.push(name);
    const step = this.#step;
    if (step === null) return;
    step.returnedAt = at;
    step.micros = micros;
    this.#steps.push(step);
    this.#step = null;
  }

  #landed(transfer: TransferId, micros: Micros, at: Micros): void {
    const copy = this.#inFlight.get(transfer);
    if (copy === undefined) return;
    this.#inFlight.delete(transfer);
    this.#copies.push({ ...copy, landedAt: at, micros });
    // It was on its way for the last of the time before: that is counted with the steps that ran then.
    const from = at - micros;
    const beside = (step: OpenStep, until: Micros) => {
      step.copyingMicros += Math.max(0, until - Math.max(step.launchedAt, from));
    };
    if (this.#step !== null) beside(this.#step, at);
    for (let k = this.#steps.length - 1; k >= 0; k--) {
      const step = this.#steps[k] as OpenStep;
      if (step.returnedAt <= from) break;
      beside(step, step.returnedAt);
    }
  }

  #follow(effect: Effect, at: Micros): void {
    switch (effect.type) {
      case 'step':
        this.#step = { ...shapeOf(effect.items), launchedAt: at, returnedAt: at, micros: 0, copyingMicros: 0 };
        return;
      case 'tokens':
        for (const { id } of effect.items) {
          const request = this.#live.get(id);
          if (request !== undefined) request.generated += 1;
        }
        return;
      case 'swapOut':
      case 'swapIn':
      case 'mirror':
      case 'prefetch':
        return this.#start(effect, at);
      case 'finish':
        return this.#end(effect.id, effect.outcome);
      case 'reject':
        return this.#end(effect.id, 'rejected');
    }
  }

  #start({ type, transfer, direction, runs, blocks }: TransferEffect, startedAt: Micros): void {
    let waited = false;
    let both = false;
    for (const other of this.#inFlight.values()) {
      if (other.direction === direction || !this.limits.mechanism.duplex) waited = true;
      else both = true;
    }
    this.#inFlight.set(transfer, { direction, type, runs: runs.length, blocks, startedAt, waited, both });
  }

  #end(id: RequestId, outcome: Outcome): void {
    const request = this.#live.get(id);
    if (request === undefined) return;
    request.outcome = outcome;
    this.#live.delete(id);
  }
}

/** Whom an effect ends, at once or as soon as nothing of its is in flight; null: nobody. */
function endsOf(effect: Effect): RequestId | null {
  return effect.type === 'finish' || effect.type === 'ending' ? effect.id : null;
}
