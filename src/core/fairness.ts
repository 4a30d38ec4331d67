/**
 * Who goes first: a policy is a rank and nothing else. Placement (`placement.ts`) is the same for all of them; the policies
 * themselves are in `policies.ts` and `fair.ts`.
 *
 * Two relations, both strict: `compare` is a total order (ties by id) that says who is served first and who gives way
 * when running requests outgrow the memory; `outranks` says who may preempt whom to get in. The second is coarser, so
 * that a mere tie never makes two requests push each other out in turns.
 */
import type { Account } from './accounts.js';
import type { Deadlines, Micros, PolicyName, RequestId } from './types.js';

/** The part of a request that a policy may look at, and what it notes there. */
export interface Ranked {
  readonly id: RequestId;
  readonly promptTokens: number;
  readonly priority: number;
  readonly deadlines: Deadlines;
  readonly account: Account;
  readonly arrivedAt: Micros;
  /** -1: not yet. */
  readonly firstTokenAt: Micros;
  readonly generated: number;
  /** Tokens whose KV exists. */
  readonly computed: number;
  /** End of the last step that it was in; its arrival before that. */
  servedAt: Micros;
  /** Of a feedback queue; 0 is served first. */
  level: number;
  /** Micros in steps since it came to this level. */
  levelMicros: Micros;
  /** When it last began to wait. */
  waitingSince: Micros;
  /** Of `fair`: the counter that its tenant will have when its turn is due, and its place among its tenant's requests. */
  tag: number;
  place: number;
  /** Of `fair`: prompt tokens that are paid for, from the start on. */
  paid: number;
  /** Of `edf`: when its next token is due. */
  due: Micros;
  /** It has waited too long and goes first, until it has been served for so long. */
  lifted: boolean;
  liftedMicros: Micros;
}

export interface Policy {
  readonly name: PolicyName;
  /** Negative: `a` is served first. Zero only for a request and itself. */
  compare(a: Ranked, b: Ranked): number;
  /** `a` may preempt `b` in order to run. */
  outranks(a: Ranked, b: Ranked): boolean;
  /** What changes ranks by itself; null: only `reprioritized` does. */
  readonly accounting: Accounting | null;
}

/** How far apart ranks have to be for somebody to give way; `worth.ts` says why. */
export interface Quantum {
  readonly tokens: number;
  /** The time in which a request gets so many. */
  readonly micros: Micros;
}

/** What a request got in a step. */
export interface Service {
  /** Tokens computed, of its prompt or after it, and tokens sampled. */
  readonly computed: number;
  readonly sampled: number;
  /** Of the step, and when it came back. */
  readonly micros: Micros;
  readonly now: Micros;
}

/** Notes what happens. Ranks change when `rank` is called, after which all lists are sorted anew. */
export interface Accounting {
  /** What tenants had is remembered when they are idle. */
  readonly remembers: boolean;
  /** A request has come; its account counts it, and not yet among those who wait. */
  arrived(request: Ranked, prefillMicros: Micros): void;
  /** It was admitted for the first time. Answers whether that changes ranks at once. */
  admitted(request: Ranked): boolean;
  served(request: Ranked, service: Service): void;
  /** It waits, queued or swapped, at time `now`. */
  waited(request: Ranked, now: Micros): void;
  ended(request: Ranked): void;
  /** Puts everybody where they belong by all that was noted. */
  rank(quantum: Quantum): void;
}

/** Insert into a list that is sorted by the policy. O(log n) comparisons. */
export function insertRanked<T extends Ranked>(list: T[], item: T, policy: Policy): void {
  list.splice(position(list, item, policy), 0, item);
}

/** Remove from a list that is sorted by the policy; the item's rank must not have changed since it was inserted. */
export function removeRanked<T extends Ranked>(list: T[], item: T, policy: Policy): void {
  const at = position(list, item, policy);
  if (list[at] !== item) throw new Error(`request ${item.id} is not in its list: its rank changed while it was in it`);
  list.splice(at, 1);
}

/** How many of a list that is sorted by the policy rank above the item, which need not be in it. O(log n). */
export function position<T extends Ranked>(list: readonly T[], item: T, policy: Policy): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (policy.compare(list[middle] as T, item) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
