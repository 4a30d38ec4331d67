/**
 * Who goes first: a policy is a rank and nothing else. Placement (`placement.ts`) is the same for all of them.
 *
 * Two relations, both strict: `compare` is a total order (ties by id) that says who is served first and who gives way
 * when running requests outgrow the memory; `outranks` says who may preempt whom to get in. The second is coarser, so
 * that a mere tie never makes two requests push each other out in turns.
 */
import type { PolicyName, RequestId } from './types.js';

/** The part of a request that a policy may look at. */
export interface Ranked {
  readonly id: RequestId;
  readonly priority: number;
}

export interface Policy {
  readonly name: PolicyName;
  /** Negative: `a` is served first. Zero only for a request and itself. */
  compare(a: Ranked, b: Ranked): number;
  /** `a` may preempt `b` in order to run. */
  outranks(a: Ranked, b: Ranked): boolean;
}

const fcfs: Policy = {
  name: 'fcfs',
  compare: (a, b) => a.id - b.id,
  outranks: (a, b) => a.id < b.id,
};

const priority: Policy = {
  name: 'priority',
  compare: (a, b) => a.priority - b.priority || a.id - b.id,
  outranks: (a, b) => a.priority < b.priority,
};

export const POLICIES: Readonly<Record<PolicyName, Policy>> = { fcfs, priority };

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

function position<T extends Ranked>(list: readonly T[], item: T, policy: Policy): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (policy.compare(list[middle] as T, item) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
