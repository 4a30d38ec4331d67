/**
 * fold(event, effects, state) -> the life of each request: how long it was in each state, who took its place and why, what
 * was copied for it. Pure: time is the `at` of the events, so a replay tells the same lives as the server did.
 *
 * It remembers who lives and the last that ended. Nothing is allocated for a token, and no list of waiting requests is
 * looked at, unless a request is watched (in a replay): then what it waits for is asked after every event.
 */
import {
  CHANGES,
  closeSpell,
  copyless,
  enter,
  firstToken,
  type Life,
  type LivingPhase,
  lifeOf,
  newPulse,
  noteReason,
  type Open,
  type OpenLife,
  type Pulse,
  preempted,
  type Swap,
  shorten,
} from './life.js';
import type { State } from './state.js';
import type {
  Arrival,
  Deadlines,
  Effect,
  EmittedToken,
  Event,
  Micros,
  Outcome,
  Reprioritized,
  RequestId,
  StepItem,
  SteppedItem,
  TransferId,
} from './types.js';
import { whyWaiting } from './waiting.js';

/** Of lives that ended; a life of the longest kind takes some 20 KiB. */
const ENDED_MAX = 1000;

export class Lives {
  readonly endedMax: number;
  readonly #live = new Map<RequestId, Pulse>();
  /** Oldest first. */
  readonly #ended = new Map<RequestId, Pulse>();
  readonly #byLabel = new Map<string, Pulse[]>();
  readonly #flights = new Map<TransferId, { readonly life: OpenLife; readonly swap: Open<Swap> }>();
  /** Who is in the step in flight, in its order: they seldom change, so they are not looked up again for each token. */
  readonly #stepping: (Pulse | undefined)[] = [];
  /** What the last step took, and tokens that were computed in it. */
  #stepMicros: Micros = 0;
  #stepTokens = 0;
  readonly #toWatch = new Set<string>();
  /** Watched, of those who live. */
  readonly #watched = new Set<OpenLife>();

  /** `endedMax`: lives that are remembered after their end. */
  constructor(endedMax: number = ENDED_MAX) {
    this.endedMax = endedMax;
  }

  /**
   * For replays, before its arrival: asks after every event what this request (its number, or a label) waits for, and
   * remembers it however many end after it.
   */
  watch(name: string | RequestId): void {
    this.#toWatch.add(String(name));
  }

  /** Takes in an outside fact, what the core decided on it, and the state after that. */
  apply(event: Event, effects: readonly Effect[], state: State): void {
    this.#observe(event);
    for (const effect of effects) this.#follow(effect, event.at, state);
    for (const life of this.#watched) noteReason(life, event.at, whyWaiting(state, life.id));
  }

  /** Those of this number (in digits) or label, in order of arrival; a label may be that of several. */
  find(name: string | RequestId): Life[] {
    const text = String(name);
    const found = new Set(this.#byLabel.get(text));
    const id = /^[1-9]\d{0,15}$/.test(text) ? Number(text) : 0;
    const numbered = this.#live.get(id) ?? this.#ended.get(id);
    if (numbered !== undefined) found.add(numbered);
    return [...found].sort((a, b) => a.id - b.id).map(lifeOf);
  }

  /** What the world calls a request that is remembered; else nothing. */
  labelsOf(id: RequestId): readonly string[] {
    return (this.#live.get(id) ?? this.#ended.get(id))?.life.labels ?? [];
  }

  #observe(event: Event): void {
    switch (event.type) {
      case 'arrived':
        return this.#begin(event, event.at);
      case 'aborted': {
        const life = this.#live.get(event.id)?.life;
        if (life !== undefined) life.asked ??= { at: event.at, by: event.reason };
        return;
      }
      case 'stepped':
        this.#stepMicros = event.micros;
        return this.#stepped(event.items);
      case 'landed':
        return this.#land(event.transfer, event.micros, null);
      case 'transferFailed':
        return this.#land(event.transfer, null, event.error);
      case 'reprioritized':
        for (const item of event.items) this.#reprioritize(item, event.at);
        return;
    }
  }

  #follow(effect: Effect, at: Micros, state: State): void {
    if (effect.type === 'tokens') return this.#tokens(effect.items, at);
    if (effect.type === 'step') return this.#step(effect.items);
    const pulse = 'id' in effect ? this.#live.get(effect.id) : undefined;
    if (pulse !== undefined) this.#change(pulse, effect, at, state);
  }

  #change(pulse: Pulse, effect: Effect, at: Micros, state: State): void {
    const { life } = pulse;
    switch (effect.type) {
      case 'admit':
        return admit(pulse, 'prefilling', effect.cachedTokens, null, at);
      case 'prefilled':
        life.resumeAs = 'decoding';
        return enter(pulse, 'decoding', at);
      case 'swapOut': {
        const preemption = preempted(life, effect.cause, state);
        return enter(pulse, 'swapping-out', at, { preemption, swap: this.#swap(life, effect, state) });
      }
      case 'park': {
        const preemption = preempted(life, effect.cause, state);
        return enter(pulse, 'swapped', at, { preemption, swap: copyless(life, 'out', effect.held) });
      }
      case 'swapIn': {
        const swap = this.#swap(life, effect, state);
        if (life.phase === 'queued') return admit(pulse, 'swapping-in', effect.cachedTokens, swap, at);
        return enter(pulse, 'swapping-in', at, { swap });
      }
      case 'resume':
        return enter(pulse, life.resumeAs, at, { swap: copyless(life, 'in', effect.held) });
      case 'settled':
        return enter(pulse, life.phase === 'swapping-out' ? 'swapped' : life.resumeAs, at);
      case 'recompute': {
        const lostTokens = pulse.kept;
        pulse.kept = 0;
        return enter(pulse, 'queued', at, { preemption: preempted(life, effect.cause, state), lostTokens });
      }
      case 'finish':
        life.error = effect.error;
        return this.#end(pulse, effect.outcome, at);
      case 'reject':
        life.spells.length = 0; // it never waited
        life.rejectCode = effect.code;
        return this.#end(pulse, 'rejected', at);
    }
  }

  #begin(arrival: Arrival, at: Micros): void {
    const names = [String(arrival.id), ...arrival.labels];
    const watched = this.#toWatch.size > 0 && names.some((name) => this.#toWatch.has(name));
    const pulse = newPulse(arrival, at, watched);
    this.#live.set(pulse.id, pulse);
    if (watched) this.#watched.add(pulse.life);
    for (const label of arrival.labels) {
      const namesakes = this.#byLabel.get(label);
      if (namesakes === undefined) this.#byLabel.set(label, [pulse]);
      else namesakes.push(pulse);
    }
  }

  #end(pulse: Pulse, outcome: Outcome, at: Micros): void {
    const { life } = pulse;
    closeSpell(pulse, at);
    life.phase = 'done';
    life.endedAt = at;
    life.outcome = outcome;
    this.#live.delete(life.id);
    this.#watched.delete(life);
    this.#ended.set(life.id, pulse);
    if (this.#ended.size <= this.endedMax) return;
    for (const oldest of this.#ended.values()) {
      if (oldest.life.watched) continue;
      this.#forget(oldest);
      return;
    }
  }

  #forget(pulse: Pulse): void {
    this.#ended.delete(pulse.id);
    for (const label of pulse.life.labels) {
      const others = this.#byLabel.get(label)?.filter((other) => other !== pulse);
      if (others === undefined || others.length === 0) this.#byLabel.delete(label);
      else this.#byLabel.set(label, others);
    }
  }

  #step(items: readonly StepItem[]): void {
    const stepping = this.#stepping;
    for (let index = 0; index < items.length; index += 1) {
      const { id } = items[index] as StepItem;
      if (stepping[index]?.id !== id) stepping[index] = this.#live.get(id);
    }
    if (stepping.length > items.length) stepping.length = items.length;
  }

  #stepped(items: readonly SteppedItem[]): void {
    const stepping = this.#stepping;
    let tokens = 0;
    for (let index = 0; index < items.length; index += 1) {
      const { id, count } = items[index] as SteppedItem;
      tokens += count;
      const pulse = stepping[index];
      if (pulse?.id !== id) continue;
      pulse.steps += 1;
      pulse.computedTokens += count;
      pulse.kept += count;
    }
    this.#stepTokens = tokens;
  }

  /** Of some who were in the step, in its order. */
  #tokens(items: readonly EmittedToken[], at: Micros): void {
    const stepping = this.#stepping;
    let index = 0;
    for (const { id } of items) {
      let pulse = stepping[index];
      while (pulse?.id !== id && index < stepping.length) {
        index += 1;
        pulse = stepping[index];
      }
      if (pulse === undefined) return;
      pulse.generated += 1;
      if (pulse.lastTokenAt < 0) firstToken(pulse, at);
      else if (at - pulse.lastTokenAt > pulse.pauseMicros) {
        pulse.pauseMicros = at - pulse.lastTokenAt;
        pulse.pauseAt = at;
        pulse.pauseStepMicros = this.#stepMicros;
        pulse.pauseStepTokens = this.#stepTokens;
      }
      pulse.lastTokenAt = at;
      index += 1;
    }
  }

  #reprioritize({ id, priority, deadlines }: Reprioritized, at: Micros): void {
    const life = this.#live.get(id)?.life;
    if (life === undefined) return;
    if (deadlines !== undefined) promise(life, deadlines, at);
    if (life.priority === priority) return;
    life.priorities.push({ at, from: life.priority, to: priority });
    life.prioritiesLeftOut += shorten(life.priorities, CHANGES);
    life.priority = priority;
  }

  #swap(life: OpenLife, effect: Extract<Effect, { type: 'swapOut' | 'swapIn' }>, { limits }: State): Open<Swap> {
    const { transfer, direction, blocks, held, runs } = effect;
    const bytes = blocks * limits.blockBytes;
    const swap = { direction, transfer, blocks, held, bytes, runs: runs.length, micros: null, error: null };
    life.swaps[direction].held += held;
    this.#flights.set(transfer, { life, swap });
    return swap;
  }

  #land(transfer: TransferId, micros: Micros | null, error: string | null): void {
    const flight = this.#flights.get(transfer);
    if (flight === undefined) return; // copied ahead of need: no state of anybody
    this.#flights.delete(transfer);
    const { swap, life } = flight;
    swap.micros = micros;
    swap.error = error;
    const totals = life.swaps[swap.direction];
    if (micros === null) {
      totals.failed += 1;
      return;
    }
    totals.transfers += 1;
    totals.blocks += swap.blocks;
    totals.bytes += swap.bytes;
    totals.runs += swap.runs;
    totals.micros += micros;
  }
}

function promise(life: OpenLife, to: Deadlines, at: Micros): void {
  const from = life.deadlines;
  if (from.ttftMicros === to.ttftMicros && from.tbtMicros === to.tbtMicros) return;
  life.deadlineChanges.push({ at, from, to });
  life.deadlineChangesLeftOut += shorten(life.deadlineChanges, CHANGES);
  life.deadlines = to;
}

/** Its place is reserved: it computes at once, or when a copy of what was found has landed. */
function admit(pulse: Pulse, phase: LivingPhase, cachedTokens: number, swap: Open<Swap> | null, at: Micros): void {
  const { life, generated } = pulse;
  const admission = { first: life.cachedTokens === null, cachedTokens, contextTokens: life.promptTokens + generated };
  life.cachedTokens ??= Math.min(cachedTokens, life.promptTokens);
  life.resumeAs = 'prefilling';
  pulse.kept = cachedTokens;
  enter(pulse, phase, at, { admission, swap });
}
