/**
 * fold(event, effects, record) -> where a run hung: the longest pauses between two tokens of a request, the longest waits for
 * a first token, the iterations with the longest stall before their step; and whom or what one has to ask about each.
 */
import type { Cause, Effect, Event, Micros, RequestId, StepId, TransferId } from '../core/types.js';
import type { Spread } from '../simulation/result.js';
import { Samples } from '../simulation/samples.js';

/** Why a request left the device, or lost its KV, and when that was. */
export interface Departure extends Cause {
  readonly type: 'swapOut' | 'park' | 'recompute';
  readonly record: number;
  readonly at: Micros;
}

/** A request that waited long for a token. */
export interface Pause {
  readonly id: RequestId;
  readonly labels: readonly string[];
  readonly tenant: string;
  readonly priority: number;
  readonly micros: Micros;
  /** Of these: how long it was off the device, or on its way there or back. */
  readonly awayMicros: Micros;
  readonly from: Micros;
  readonly to: Micros;
  /** What it ended with: the token, the end of the request, or of the recording (it may have lasted longer). */
  readonly endedBy: 'token' | 'end' | 'recording';
  /** That brought the token before, or the arrival; and that brought the token or the end, or is the last of the recording. */
  readonly fromRecord: number;
  readonly record: number;
  /** Tokens that it had before. */
  readonly tokens: number;
  /** What took it off the device meanwhile: the first of these, and how many there were; null: it stayed, or was never there. */
  readonly departure: Departure | null;
  readonly departures: number;
}

/** An iteration: from the return of one step (or the first arrival) to the return of the next while anyone was alive. */
export interface Stall {
  readonly step: StepId;
  /** From the beginning of the iteration to the launch of its step, and the whole. */
  readonly micros: Micros;
  readonly iterationMicros: Micros;
  readonly from: Micros;
  /** When the step was launched, the record upon which it was, and the event in that. */
  readonly launchedAt: Micros;
  readonly record: number;
  readonly upon: Launching;
}

/** The event that let a step start, and the transfer that it was about. */
export interface Launching {
  readonly type: Event['type'];
  readonly transfer: {
    readonly id: TransferId;
    readonly type: TransferEffect['type'];
    readonly requests: readonly RequestId[];
  } | null;
}

export interface Stalls {
  /** Longest first. At most one of each request. */
  readonly pauses: readonly Pause[];
  readonly firstTokens: readonly Pause[];
  readonly iterations: readonly Stall[];
  readonly iterationMs: Spread;
  readonly stallMs: Spread;
}

type TransferEffect = Extract<Effect, { runs: unknown }>;

interface Waiting {
  readonly id: RequestId;
  readonly labels: readonly string[];
  readonly tenant: string;
  priority: number;
  tokens: number;
  /** Of its last token, or its arrival. */
  since: Micros;
  sinceRecord: number;
  /** When it left the device; -1: it is there. */
  awaySince: Micros;
  awayMicros: Micros;
  /** It is on its way back. */
  arriving: boolean;
  departure: Departure | null;
  departures: number;
  longest: Pause | null;
}

/** Nobody is alive, so no iteration has begun. */
const IDLE = -1;
const THERE = -1;
const MICROS_PER_MS = 1000;

export class StallsFold {
  readonly #live = new Map<RequestId, Waiting>();
  readonly #transfers = new Map<TransferId, TransferEffect>();
  readonly #pauses: Longest<Pause>;
  readonly #firstTokens: Longest<Pause>;
  readonly #iterations: Longest<Stall>;
  readonly #iterationMicros = new Samples();
  readonly #stallMicros = new Samples();
  #iterationFrom: Micros = IDLE;
  #launch: { readonly step: StepId; readonly at: Micros; readonly record: number; readonly upon: Launching } | null = null;
  #at: Micros = 0;
  #record = 0;

  /** `most`: entries in each list. */
  constructor(most: number) {
    this.#pauses = new Longest(most);
    this.#firstTokens = new Longest(most);
    this.#iterations = new Longest(most);
  }

  see(event: Event, effects: readonly Effect[], record: number): void {
    const { at } = event;
    this.#at = at;
    this.#record = record;
    this.#observe(event, record);
    for (const effect of effects) this.#follow(effect, event, record);
    if (event.type === 'landed' || event.type === 'transferFailed') this.#transfers.delete(event.transfer);
    if (event.type === 'stepped' || event.type === 'stepFailed') this.#iterationFrom = this.#live.size > 0 ? at : IDLE;
  }

  /** Up to the last event; who still waits then is in the lists too. */
  result(): Stalls {
    const pauses = this.#pauses.copy();
    const firstTokens = this.#firstTokens.copy();
    for (const request of this.#live.values()) {
      const unfinished = pauseOf(request, this.#at, this.#record, 'recording');
      if (request.tokens === 0) firstTokens.add(unfinished);
      else pauses.add(longer(request.longest, unfinished));
    }
    return {
      pauses: pauses.entries,
      firstTokens: firstTokens.entries,
      iterations: this.#iterations.entries,
      iterationMs: this.#iterationMicros.spread(MICROS_PER_MS),
      stallMs: this.#stallMicros.spread(MICROS_PER_MS),
    };
  }

  #observe(event: Event, record: number): void {
    if (event.type === 'arrived') {
      const { id, labels, tenant, priority, at } = event;
      if (this.#live.size === 0) this.#iterationFrom = at;
      const waiting = { id, labels, tenant, priority, tokens: 0, since: at, awaySince: at, awayMicros: 0, arriving: false };
      this.#live.set(id, { ...waiting, sinceRecord: record, departure: null, departures: 0, longest: null });
    } else if (event.type === 'reprioritized') {
      for (const { id, priority } of event.items) {
        const request = this.#live.get(id);
        if (request !== undefined) request.priority = priority;
      }
    } else if (event.type === 'stepped') {
      this.#stepped(event.at);
    }
  }

  #stepped(at: Micros): void {
    const launch = this.#launch;
    if (launch === null || this.#iterationFrom === IDLE) return;
    const from = this.#iterationFrom;
    const [micros, iterationMicros] = [launch.at - from, at - from];
    this.#iterationMicros.push(iterationMicros);
    this.#stallMicros.push(micros);
    if (micros === 0) return;
    const { step, at: launchedAt, record, upon } = launch;
    this.#iterations.add({ step, micros, iterationMicros, from, launchedAt, record, upon });
  }

  #follow(effect: Effect, event: Event, record: number): void {
    switch (effect.type) {
      case 'step':
        this.#launch = { step: effect.step, at: event.at, record, upon: this.#launching(event) };
        return;
      case 'tokens':
        for (const { id } of effect.items) this.#token(id, event.at, record);
        return;
      case 'swapOut':
      case 'park':
      case 'recompute':
        if (effect.type === 'swapOut') this.#transfers.set(effect.transfer, effect);
        return this.#departs(effect, event.at, record);
      case 'swapIn':
      case 'mirror':
      case 'prefetch':
        this.#transfers.set(effect.transfer, effect);
        if (effect.type === 'swapIn') this.#returns(effect.id, false, event.at);
        return;
      case 'admit':
      case 'resume':
        return this.#returns(effect.id, true, event.at);
      case 'settled':
        if (this.#live.get(effect.id)?.arriving === true) this.#returns(effect.id, true, event.at);
        return;
      case 'finish':
        return this.#end(effect.id, event.at, record);
      case 'reject':
        this.#live.delete(effect.id);
        return;
    }
  }

  #launching(event: Event): Launching {
    const transfer = event.type === 'landed' || event.type === 'transferFailed' ? this.#transfers.get(event.transfer) : undefined;
    if (transfer === undefined) return { type: event.type, transfer: null };
    const requests = transfer.type === 'mirror' ? transfer.ids : [transfer.id];
    return { type: event.type, transfer: { id: transfer.transfer, type: transfer.type, requests } };
  }

  #departs({ id, type, cause }: Extract<Effect, { cause: Cause }>, at: Micros, record: number): void {
    const request = this.#live.get(id);
    if (request === undefined) return;
    request.departure ??= { type, ...cause, record, at };
    request.departures += 1;
    request.arriving = false;
    if (request.awaySince === THERE) request.awaySince = at;
  }

  /** `there`: it is back on the device; else it is on its way. */
  #returns(id: RequestId, there: boolean, at: Micros): void {
    const request = this.#live.get(id);
    if (request === undefined) return;
    request.arriving = !there;
    if (!there || request.awaySince === THERE) return;
    request.awayMicros += at - request.awaySince;
    request.awaySince = THERE;
  }

  #token(id: RequestId, at: Micros, record: number): void {
    const request = this.#live.get(id);
    if (request === undefined) return;
    // Nothing is made of the many tokens that came in time.
    if (request.tokens === 0) this.#firstTokens.add(pauseOf(request, at, record, 'token'));
    else if (at - request.since > (request.longest?.micros ?? 0)) {
      request.longest = pauseOf(request, at, record, 'token');
    }
    request.tokens += 1;
    request.since = at;
    request.sinceRecord = record;
    request.awayMicros = 0;
    request.departure = null;
    request.departures = 0;
  }

  /** Who gave up waiting has waited too. */
  #end(id: RequestId, at: Micros, record: number): void {
    const request = this.#live.get(id);
    if (request === undefined) return;
    this.#live.delete(id);
    const last = pauseOf(request, at, record, 'end');
    if (request.tokens === 0) this.#firstTokens.add(last);
    else this.#pauses.add(longer(request.longest, last));
  }
}

function pauseOf(request: Waiting, to: Micros, record: number, endedBy: Pause['endedBy']): Pause {
  const { id, labels, tenant, priority, since, sinceRecord: fromRecord, tokens, awaySince, departure, departures } = request;
  const awayMicros = request.awayMicros + (awaySince === THERE ? 0 : to - awaySince);
  return {
    id,
    labels,
    tenant,
    priority,
    micros: to - since,
    awayMicros,
    from: since,
    to,
    endedBy,
    fromRecord,
    record,
    tokens,
    departure,
    departures,
  };
}

function longer(a: Pause | null, b: Pause): Pause {
  return a !== null && a.micros >= b.micros ? a : b;
}

/** The entries with the most micros, the longest first; of equals the first. */
class Longest<T extends { readonly micros: Micros }> {
  readonly entries: T[] = [];
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  add(entry: T): void {
    const { entries } = this;
    if (entry.micros === 0) return;
    const full = entries.length >= this.#most;
    if (full && entry.micros <= (entries.at(-1)?.micros ?? 0)) return;
    let at = entries.length;
    while (at > 0 && (entries[at - 1] as T).micros < entry.micros) at -= 1;
    entries.splice(at, 0, entry);
    if (full) entries.pop();
  }

  copy(): Longest<T> {
    const copy = new Longest<T>(this.#most);
    copy.entries.push(...this.entries);
    return copy;
  }
}
