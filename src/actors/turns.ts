/** Who computes and who waits, read from the core's state and effects for those who are to be told. */
import type { Account } from '../core/accounts.js';
import { position, type Ranked } from '../core/fairness.js';
import { type State, waitingCount } from '../core/state.js';
import type { Effect, Event, RequestId } from '../core/types.js';
import type { Turn } from './ports.js';

/** Whose turn an effect is, or is over; null where it is no such effect. Nothing for tokens. `state`: after the decision. */
export function turnOf(effect: Effect, { requests }: State): { readonly id: RequestId; readonly turn: Turn } | null {
  switch (effect.type) {
    case 'admit':
    case 'resume':
      return { id: effect.id, turn: 'running' };
    case 'settled': {
      // A swap in either direction has landed, and the request may have ended with that.
      const phase = requests.get(effect.id)?.phase;
      return phase === 'prefilling' || phase === 'decoding' ? { id: effect.id, turn: 'running' } : null;
    }
    case 'swapOut':
    case 'park':
    case 'recompute':
      return { id: effect.id, turn: 'preempted' };
    default:
      return null;
  }
}

/** As `System.places`. */
export function placesOf({ requests, queued, swapped, policy }: State, ids: readonly RequestId[]): number[] {
  return ids.map((id) => {
    const request = requests.get(id);
    if (request === undefined || (request.phase !== 'queued' && request.phase !== 'swapped')) return 0;
    return position(queued, request, policy) + position(swapped, request, policy) + 1;
  });
}

/** How many of those who wait rank above one that has just arrived, and was refused. Linear in those who live. */
export function aheadOf(state: State, event: Event): number {
  const { queued, swapped, policy } = state;
  const some = queued[0] ?? swapped[0];
  if (event.type !== 'arrived' || some === undefined) return waitingCount(state);
  const newcomer = { ...some, ...standingOf(state, event) };
  return position(queued, newcomer, policy) + position(swapped, newcomer, policy);
}

/** What policies would compare of a request if it had been taken in. */
function standingOf(state: State, arrival: Extract<Event, { type: 'arrived' }>): Partial<Ranked> & { readonly account: Account } {
  const { id, at, priority, promptTokens, ttftMicros, tbtMicros } = arrival;
  const account = accountOf(state, arrival);
  const { starvationSeconds } = state.limits.mechanism;
  const patience = starvationSeconds > 0 ? starvationSeconds * 1e6 : Number.POSITIVE_INFINITY;
  return {
    ...{
      id,
      priority,
      promptTokens,
      account,
      arrivedAt: at,
      servedAt: at,
      waitingSince: at,
      deadlines: { ttftMicros, tbtMicros },
    },
    ...{ firstTokenAt: -1, generated: 0, computed: 0, paid: 0, level: 0, levelMicros: 0, lifted: false, liftedMicros: 0 },
    ...turnOfNewcomer(state, account, priority),
    due: at + (ttftMicros ?? patience),
  };
}

/** A tenant of which nobody waits begins where the least served of the others stands, or further on. */
function accountOf({ accounts }: State, { tenant, weight }: Extract<Event, { type: 'arrived' }>): Account {
  const known = accounts.get(tenant);
  if (known !== undefined && known.waiting > 0) return known;
  let least = Number.POSITIVE_INFINITY;
  for (const { served, waiting } of accounts.live()) if (waiting > 0) least = Math.min(least, served);
  const served = Math.max(known?.served ?? 0, least === Number.POSITIVE_INFINITY ? 0 : least);
  return { live: 0, waiting: 0, order: Number.POSITIVE_INFINITY, ...known, tenant, weight, served };
}

/** Of `fair`: behind those of its tenant who are before it in the line, each with a quantum and the rest of its prompt. */
function turnOfNewcomer({ requests, limits, quantum }: State, account: Account, priority: number): Pick<Ranked, 'tag' | 'place'> {
  const { promptPrice, tokenPrice } = limits.mechanism;
  let [tag, place] = [account.served, 0];
  for (const before of requests.values()) {
    if (before.account.tenant !== account.tenant || !(before.lifted || before.priority <= priority)) continue;
    const prompt = promptPrice * Math.max(0, before.promptTokens - before.paid);
    tag = Math.max(tag, before.tag + (prompt + tokenPrice * Math.max(1, quantum.tokens)) / account.weight);
    place += 1;
  }
  return { tag, place };
}
