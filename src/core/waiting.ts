/**
 * What a request that does not run waits for, right now: the questions that `placement.ts` asks before it starts somebody,
 * asked in its order and with its own arithmetic, and answered with the first that says no. Changes nothing.
 */
import { position } from './fairness.js';
import { betterLeaving, claimOf, linkIsFull, NOTHING_PROMISED, nextWaiting, victimsOf } from './placement.js';
import type { Flight, Request, State } from './state.js';
import type { Micros, RequestId, StepId, TransferId } from './types.js';
import { isRipe, ripeAt } from './worth.js';

/** Blocks of the device, as the first in line would have to find them. */
export interface Shortage {
  /** For all that is known of it and the token after it, less what it has there already. */
  readonly need: number;
  /** Free, or given up as soon as somebody asks. */
  readonly room: number;
  /** Of the room: kept for the growth of those who run. */
  readonly kept: number;
  /** Will be free when copies that are under way have landed. */
  readonly outgoing: number;
}

/** Why the first in line does not start, and why who swaps does not go on. */
export type Obstacle =
  /** Its own copy is under way, behind `before` others that share the link. `dueAt`: when it is expected to land. */
  | {
      readonly kind: 'copy';
      readonly transfer: TransferId;
      readonly what: Flight['type'];
      readonly before: number;
      readonly dueAt: Micros;
    }
  /** The next step, and whoever could join it, waits for copies that are nearly there. */
  | { readonly kind: 'copies'; readonly transfers: readonly TransferId[] }
  /** `by` ranks higher, is on its way out and will be first in line: nobody slips past. */
  | { readonly kind: 'leaving'; readonly by: RequestId }
  /** Enough is on its way out: those who leave are `leaving`. */
  | ({ readonly kind: 'outgoing'; readonly leaving: readonly RequestId[] } & Shortage)
  /** These give way to it, but not in the middle of a step. */
  | { readonly kind: 'step'; readonly step: StepId; readonly victims: readonly RequestId[] }
  /** They would give way, but the link has enough to bring in until the next step ends: `freeAt`. */
  | { readonly kind: 'link'; readonly victims: readonly RequestId[]; readonly freeAt: Micros }
  /** `victim` would give way, but its blocks are being copied ahead of need. */
  | { readonly kind: 'mirror'; readonly victim: RequestId; readonly transfer: TransferId }
  /** `victim` would give way, but has not had the device for long enough to be worth the copies: it has `at` that time. */
  | { readonly kind: 'worth'; readonly victim: RequestId; readonly at: Micros }
  /** As many run as may; it ranks above `outranked` of them, who cannot make room for it. */
  | { readonly kind: 'slot'; readonly running: number; readonly most: number; readonly outranked: number }
  /** Too few blocks; it ranks above `outranked` of those who run, and all that these have would not suffice. */
  | ({ readonly kind: 'room'; readonly running: number; readonly outranked: number } & Shortage)
  /** Nothing any more: it starts when the next event comes (as behind a swap-out, where KV goes one way between two steps). */
  | { readonly kind: 'event' };

export type Waiting =
  | Obstacle
  /** `ahead` others wait and rank higher; `first` of them is the next to start, and waits for this. */
  | { readonly kind: 'line'; readonly ahead: number; readonly first: RequestId; readonly obstacle: Obstacle };

export type WaitingKind = Waiting['kind'];

/** Null: it runs, or it is not alive. */
export function whyWaiting(state: State, id: RequestId): Waiting | null {
  const request = state.requests.get(id);
  if (request === undefined) return null;
  const counted = state.soonBlocks; // what is looked at is counted and remembered: not by a mere question
  try {
    return state.cost.asked(() => waitingOf(state, request));
  } finally {
    state.soonBlocks = counted;
  }
}

function waitingOf(state: State, request: Request): Waiting | null {
  if (request.phase === 'swapping-out' || request.phase === 'swapping-in') return ownCopy(state, request.flight as Flight);
  if (request.phase !== 'queued' && request.phase !== 'swapped') return null;
  const ahead = position(state.queued, request, state.policy) + position(state.swapped, request, state.policy);
  const first = nextWaiting(state, NOTHING_PROMISED) as Request;
  const obstacle = obstacleOf(state, first);
  return ahead === 0 ? obstacle : { kind: 'line', ahead, first: first.id, obstacle };
}

function ownCopy(state: State, { transfer, type, dueAt }: Flight): Obstacle {
  const inward = (what: Flight['type']) => what === 'swapIn' || what === 'prefetch';
  let before = 0;
  for (const other of state.flights.values()) {
    if (other.transfer >= transfer || state.ahead.has(other)) continue;
    if (!state.limits.mechanism.duplex || inward(other.type) === inward(type)) before += 1;
  }
  return { kind: 'copy', transfer, what: type, before, dueAt: Math.ceil(dueAt) };
}

/** Of the first in line. In the order in which placement looks. */
function obstacleOf(state: State, first: Request): Obstacle {
  if (state.awaited.size > 0) return { kind: 'copies', transfers: [...state.awaited] };
  if (first.flight !== null) return ownCopy(state, first.flight);
  const better = betterLeaving(state, first);
  if (better !== null) return { kind: 'leaving', by: better.id };
  const running = state.active.length + state.arriving;
  const most = state.limits.maxRunning;
  const claim = claimOf(state, first, running);
  const shortage: Shortage = { need: claim.need, room: claim.room, kept: claim.kept, outgoing: state.outgoingBlocks };
  if (running < most && claim.room >= claim.need + claim.kept) return { kind: 'event' };
  const victims = victimsOf(state, first, NOTHING_PROMISED, (victim) => victim.flight !== null || !isRipe(state, victim));
  if (victims !== null) return whyNotNow(state, first, victims, shortage);
  const kept = tooEarly(state, first) ?? heldUp(state, first);
  if (kept !== null) return kept;
  const outranked = state.active.filter((other) => state.policy.outranks(first, other)).length;
  if (running >= most) return { kind: 'slot', running, most, outranked };
  return { kind: 'room', running, outranked, ...shortage };
}

/** It could have its room by sending these off, or by waiting for what is on its way out where there are none. */
function whyNotNow(state: State, first: Request, victims: readonly Request[], shortage: Shortage): Obstacle {
  const ids = victims.map(({ id }) => id);
  if (ids.length === 0) return { kind: 'outgoing', leaving: state.leaving.map(({ id }) => id), ...shortage };
  if (state.limits.mechanism.paced && linkIsFull(state, first))
    return { kind: 'link', victims: ids, freeAt: Math.ceil(state.linkFreeAt.in) };
  return state.step === 0 ? { kind: 'event' } : { kind: 'step', step: state.step, victims: ids };
}

/** It could have its room if a victim had had the device for longer. */
function tooEarly(state: State, first: Request): Obstacle | null {
  const victims = victimsOf(state, first, NOTHING_PROMISED, () => false);
  const victim = victims?.find((candidate) => !isRipe(state, candidate));
  return victim === undefined ? null : { kind: 'worth', victim: victim.id, at: ripeAt(state, victim) };
}

/** It could have its room if a victim's blocks were not being mirrored. */
function heldUp(state: State, first: Request): Obstacle | null {
  const victims = victimsOf(state, first, NOTHING_PROMISED, () => false);
  const victim = victims?.find(({ flight }) => flight !== null);
  return victim?.flight ? { kind: 'mirror', victim: victim.id, transfer: victim.flight.transfer } : null;
}
