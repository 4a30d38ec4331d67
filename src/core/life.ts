/**
 * One life: what is known of a request from its arrival to its end, as plain data, and as it grows while the request lives.
 * `lives.ts` says when.
 */
import type { Request, State } from './state.js';
import type {
  AbortReason,
  Arrival,
  Cause,
  Deadlines,
  Direction,
  Effect,
  Micros,
  Outcome,
  Phase,
  RequestId,
  TransferId,
} from './types.js';
import type { Waiting, WaitingKind } from './waiting.js';

export type LivingPhase = Exclude<Phase, 'done'>;

/** What the policies compare, of one request at one moment. */
export interface Standing {
  readonly id: RequestId;
  readonly priority: number;
  readonly tenant: string;
  /** Its tenant's counter: priced tokens over its weight; counted under `vtc` and `fair` only. */
  readonly served: number;
  /** Where that counter will be when its turn comes; under `fair` only. */
  readonly tag: number;
  /** When its next token is due; under `edf` only, and null where nothing was promised. */
  readonly due: Micros | null;
  /** It had waited too long and went first. */
  readonly lifted: boolean;
  /** Of the feedback queue; 0 under any policy but `mlfq`. */
  readonly level: number;
}

/** How a spell off the device began: why, for whom, and both their ranks. Null: not alive at that moment. */
export interface Preemption extends Cause {
  readonly own: Standing | null;
  readonly other: Standing | null;
}

/** A swap of its, one way. */
export interface Swap {
  readonly direction: Direction;
  /** Null: nothing had to be copied. */
  readonly transfer: TransferId | null;
  /** Copied, and what the other side had already. */
  readonly blocks: number;
  readonly held: number;
  readonly bytes: number;
  readonly runs: number;
  /** Of the copying alone, without waiting for the link; null: it has not landed. */
  readonly micros: Micros | null;
  /** Why it failed; null: it did not. */
  readonly error: string | null;
}

/** Its place is reserved: `cachedTokens` of the `contextTokens` that are known were found in the two memories. */
export interface Admission {
  readonly first: boolean;
  readonly cachedTokens: number;
  readonly contextTokens: number;
}

/** One reason to wait, for as long as it was the same kind; as it was at first, and as it was at last. */
export interface Wait {
  readonly kind: WaitingKind;
  readonly from: Micros;
  /** Null: it lasts. */
  readonly to: Micros | null;
  readonly first: Waiting;
  readonly last: Waiting;
}

/** A stretch of a life in one state. Spells follow each other without a gap. */
export interface Spell {
  readonly phase: LivingPhase;
  readonly from: Micros;
  /** Null: it lasts. */
  readonly to: Micros | null;
  /** Tokens generated while it lasted. */
  readonly tokens: number;
  /** It began by leaving the device, or by losing its KV. */
  readonly preemption: Preemption | null;
  /** Of those, whose KV was given up: tokens that will be computed again, as far as they are not found. */
  readonly lostTokens: number;
  readonly swap: Swap | null;
  readonly admission: Admission | null;
  /** Of a watched request: all its reasons to wait, the first few and the latest. Else empty. */
  readonly waits: readonly Wait[];
  readonly waitsLeftOut: number;
  /** Of a watched request: how long each kind of reason held, of the waits that are over. */
  readonly waited: Readonly<Partial<Record<WaitingKind, Micros>>>;
}

/** Swaps of one direction; blocks and micros of those that landed. */
export interface SwapTotals {
  readonly transfers: number;
  readonly blocks: number;
  readonly bytes: number;
  readonly runs: number;
  readonly micros: Micros;
  readonly failed: number;
  /** Swaps for which nothing was copied, and blocks that the other side had already, of all swaps. */
  readonly withoutCopy: number;
  readonly held: number;
}

/** Plain data, of one moment: what happens later does not change it. */
export interface Life {
  readonly id: RequestId;
  readonly labels: readonly string[];
  readonly tenant: string;
  readonly promptTokens: number;
  readonly maxTokens: number;
  readonly priority: number;
  /** Of its tenant, as its arrival said. */
  readonly weight: number;
  readonly deadlines: Deadlines;
  readonly arrivedAt: Micros;
  readonly phase: Phase;
  /** Null, all four: it lives. */
  readonly endedAt: Micros | null;
  readonly outcome: Outcome | null;
  readonly error: string | null;
  readonly rejectCode: Extract<Effect, { type: 'reject' }>['code'] | null;
  /** Who asked for its end, and when; what was in flight for it had to come back first. */
  readonly asked: { readonly at: Micros; readonly by: AbortReason } | null;
  readonly generated: number;
  readonly firstTokenAt: Micros | null;
  readonly lastTokenAt: Micros | null;
  /** The longest time between two tokens, when it ended, and the step that ended it: how long it was, what it computed. */
  readonly longestPause: {
    readonly micros: Micros;
    readonly at: Micros;
    readonly stepMicros: Micros;
    readonly stepTokens: number;
  } | null;
  /** Tokens of its prompt that were found at its first admission; null: it was not admitted. */
  readonly cachedTokens: number | null;
  /** Steps that it was in, and tokens that were computed in them: more than it has, where some were lost. */
  readonly steps: number;
  readonly computedTokens: number;
  /** Time by state, of the spells that are over; and up to the first token, where there is one. */
  readonly micros: Readonly<Record<LivingPhase, Micros>>;
  readonly microsToFirstToken: Readonly<Record<LivingPhase, Micros>> | null;
  readonly preemptions: Readonly<Record<Cause['why'], number>>;
  readonly swaps: Readonly<Record<Direction, SwapTotals>>;
  /** The first few and the latest; the totals count all. */
  readonly spells: readonly Spell[];
  readonly spellsLeftOut: number;
  readonly priorities: readonly { readonly at: Micros; readonly from: number; readonly to: number }[];
  readonly prioritiesLeftOut: number;
  readonly deadlineChanges: readonly { readonly at: Micros; readonly from: Deadlines; readonly to: Deadlines }[];
  readonly deadlineChangesLeftOut: number;
}

export type Open<T> = { -readonly [K in keyof T]: T[K] };
type Totals = Record<LivingPhase, Micros>;

export interface OpenSpell extends Open<Omit<Spell, 'swap' | 'waits' | 'waited' | 'tokens'>> {
  swap: Open<Swap> | null;
  waits: Open<Wait>[];
  waited: Partial<Record<WaitingKind, Micros>>;
  /** Tokens generated when it began, and when it ended; -1: it lasts. */
  generatedBefore: number;
  generatedAfter: number;
}

/** What changes with every token and every step: numbers alone, apart, so that nothing is allocated. -1: none yet. */
export interface Pulse {
  readonly id: RequestId;
  readonly life: OpenLife;
  steps: number;
  computedTokens: number;
  /** Tokens whose KV it has. */
  kept: number;
  generated: number;
  firstTokenAt: Micros;
  lastTokenAt: Micros;
  pauseMicros: Micros;
  pauseAt: Micros;
  pauseStepMicros: Micros;
  pauseStepTokens: number;
}

type Counted = 'steps' | 'computedTokens' | 'generated' | 'firstTokenAt' | 'lastTokenAt' | 'longestPause';
type Changing = 'micros' | 'preemptions' | 'swaps' | 'spells' | 'priorities' | 'deadlineChanges';

/** A life that goes on. */
export interface OpenLife extends Open<Omit<Life, Changing | Counted>> {
  readonly micros: Totals;
  readonly preemptions: Record<Cause['why'], number>;
  readonly swaps: Readonly<Record<Direction, Open<SwapTotals>>>;
  readonly spells: OpenSpell[];
  readonly priorities: { at: Micros; from: number; to: number }[];
  readonly deadlineChanges: { at: Micros; from: Deadlines; to: Deadlines }[];
  /** Where it goes on when it is back on the device. */
  resumeAs: 'prefilling' | 'decoding';
  readonly watched: boolean;
}

/** Of a list that grows: how many of its first and of all entries are kept. */
const SPELLS = { first: 8, most: 64 };
/** Of priorities and of deadlines. */
export const CHANGES = { first: 4, most: 16 };
const WAITS = { first: 16, most: 128 };

const SWAPS_NONE: SwapTotals = {
  transfers: 0,
  blocks: 0,
  bytes: 0,
  runs: 0,
  micros: 0,
  failed: 0,
  withoutCopy: 0,
  held: 0,
};

function noMicros(): Totals {
  return { queued: 0, prefilling: 0, decoding: 0, 'swapping-out': 0, swapped: 0, 'swapping-in': 0 };
}

function standingOf({ id, priority, account, level, tag, due, lifted }: Request): Standing {
  const { tenant, served } = account;
  return { id, priority, tenant, served, tag, due: due === Number.POSITIVE_INFINITY ? null : due, lifted, level };
}

/** Takes what is too much out of the middle; answers how many that were. */
export function shorten(list: unknown[], { first, most }: { readonly first: number; readonly most: number }): number {
  return list.length > most ? list.splice(first, list.length - most).length : 0;
}

export function newPulse(
  { id, labels, tenant, promptTokens, maxTokens, priority, weight, ttftMicros, tbtMicros }: Arrival,
  at: Micros,
  watched: boolean,
): Pulse {
  const life: OpenLife = {
    id,
    labels,
    tenant,
    promptTokens,
    maxTokens,
    priority,
    weight,
    deadlines: { ttftMicros, tbtMicros },
    watched,
    arrivedAt: at,
    phase: 'queued',
    endedAt: null,
    outcome: null,
    error: null,
    rejectCode: null,
    asked: null,
    cachedTokens: null,
    micros: noMicros(),
    microsToFirstToken: null,
    preemptions: { outranked: 0, growth: 0, crowded: 0, host: 0, failed: 0 },
    swaps: { out: { ...SWAPS_NONE }, in: { ...SWAPS_NONE } },
    spells: [],
    spellsLeftOut: 0,
    priorities: [],
    prioritiesLeftOut: 0,
    deadlineChanges: [],
    deadlineChangesLeftOut: 0,
    resumeAs: 'prefilling',
  };
  // Written out: objects made by spreading others were an order of magnitude slower to count on.
  const pulse: Pulse = {
    id,
    life,
    steps: 0,
    computedTokens: 0,
    kept: 0,
    generated: 0,
    firstTokenAt: -1,
    lastTokenAt: -1,
    pauseMicros: -1,
    pauseAt: -1,
    pauseStepMicros: 0,
    pauseStepTokens: 0,
  };
  enter(pulse, 'queued', at);
  return pulse;
}

/** What a spell may begin with, beside its state. */
type Beginning = Partial<Pick<OpenSpell, 'preemption' | 'lostTokens' | 'swap' | 'admission'>>;

/** Another state from now on. */
export function enter(pulse: Pulse, phase: LivingPhase, at: Micros, beginning: Beginning = {}): void {
  const { life, generated } = pulse;
  closeSpell(pulse, at);
  life.phase = phase;
  life.spells.push({
    phase,
    from: at,
    to: null,
    preemption: null,
    lostTokens: 0,
    swap: null,
    admission: null,
    waits: [],
    waitsLeftOut: 0,
    waited: {},
    generatedBefore: generated,
    generatedAfter: -1,
    ...beginning,
  });
  life.spellsLeftOut += shorten(life.spells, SPELLS);
}

/** The last spell, if there is one, is over. */
export function closeSpell({ life, generated }: Pulse, at: Micros): void {
  const spell = life.spells[life.spells.length - 1];
  if (spell === undefined || spell.to !== null) return;
  closeWait(spell, at);
  spell.to = at;
  spell.generatedAfter = generated;
  life.micros[spell.phase] += at - spell.from;
}

function closeWait(spell: OpenSpell, at: Micros): void {
  const wait = spell.waits[spell.waits.length - 1];
  if (wait === undefined || wait.to !== null) return;
  wait.to = at;
  spell.waited[wait.kind] = (spell.waited[wait.kind] ?? 0) + at - wait.from;
}

/** What it waits for from now on; null: for nothing. */
export function noteReason(life: OpenLife, at: Micros, reason: Waiting | null): void {
  const spell = life.spells[life.spells.length - 1] as OpenSpell;
  const wait = spell.waits[spell.waits.length - 1];
  if (wait !== undefined && wait.to === null && wait.kind === reason?.kind) {
    wait.last = reason;
    return;
  }
  closeWait(spell, at);
  if (reason === null) return;
  spell.waits.push({ kind: reason.kind, from: at, to: null, first: reason, last: reason });
  spell.waitsLeftOut += shorten(spell.waits, WAITS);
}

/** Counts why it leaves the device, or loses its KV, and notes both ranks, after the decision. */
export function preempted(life: OpenLife, { why, by }: Cause, { requests }: State): Preemption {
  const standing = (id: RequestId | null) => {
    const request = id === null ? undefined : requests.get(id);
    return request === undefined ? null : standingOf(request);
  };
  life.preemptions[why] += 1;
  return { why, by, own: standing(life.id), other: standing(by) };
}

/** A swap for which nothing has to be copied. */
export function copyless(life: OpenLife, direction: Direction, held: number): Open<Swap> {
  life.swaps[direction].withoutCopy += 1;
  life.swaps[direction].held += held;
  return { direction, transfer: null, blocks: 0, held, bytes: 0, runs: 0, micros: null, error: null };
}

export function firstToken(pulse: Pulse, at: Micros): void {
  const { life } = pulse;
  pulse.firstTokenAt = at;
  const spell = life.spells[life.spells.length - 1] as OpenSpell;
  const micros = { ...life.micros };
  micros[spell.phase] += at - spell.from;
  life.microsToFirstToken = micros;
}

/** A copy, as it is now. */
export function lifeOf({ life, ...pulse }: Pulse): Life {
  const { steps, computedTokens, generated, firstTokenAt, lastTokenAt, pauseMicros, pauseAt, pauseStepMicros, pauseStepTokens } =
    pulse;
  const { resumeAs: _, watched: __, ...same } = life;
  return {
    ...same,
    ...{ steps, computedTokens, generated },
    labels: [...life.labels],
    firstTokenAt: firstTokenAt < 0 ? null : firstTokenAt,
    lastTokenAt: lastTokenAt < 0 ? null : lastTokenAt,
    longestPause:
      pauseMicros < 0 ? null : { micros: pauseMicros, at: pauseAt, stepMicros: pauseStepMicros, stepTokens: pauseStepTokens },
    micros: { ...life.micros },
    preemptions: { ...life.preemptions },
    swaps: { out: { ...life.swaps.out }, in: { ...life.swaps.in } },
    spells: life.spells.map(({ generatedBefore, generatedAfter, ...spell }) => ({
      ...spell,
      tokens: (generatedAfter < 0 ? generated : generatedAfter) - generatedBefore,
      swap: spell.swap && { ...spell.swap },
      waits: spell.waits.map((wait) => ({ ...wait })),
      waited: { ...spell.waited },
    })),
    priorities: [...life.priorities],
    deadlineChanges: [...life.deadlineChanges],
  };
}

/** Time by state up to `now`, the spell that lasts included. */
export function microsByPhase({ micros, spells }: Life, now: Micros): Readonly<Record<LivingPhase, Micros>> {
  const last = spells[spells.length - 1];
  if (last === undefined || last.to !== null) return micros;
  return { ...micros, [last.phase]: micros[last.phase] + now - last.from };
}
