/**
 * Who goes first: a policy is a rank and nothing else. Placement (`placement.ts`) is the same for all of them.
 *
 * Two relations, both strict: `compare` is a total order (ties by id) that says who is served first and who gives way
 * when running requests outgrow the memory; `outranks` says who may preempt whom to get in. The second is coarser, so
 * that a mere tie never makes two requests push each other out in turns.
 */
import type { Micros, PolicyName, RequestId } from './types.js';

/** The service a tenant has had, in weighted tokens. */
export interface Account {
  readonly tenant: string;
  served: number;
  /** Requests alive. */
  live: number;
}

/** The part of a request that a policy may look at, and what it notes there. */
export interface Ranked {
  readonly id: RequestId;
  readonly promptTokens: number;
  readonly priority: number;
  readonly account: Account;
  /** Of a feedback queue; 0 is served first. */
  level: number;
  /** Micros in steps since it came to this level. */
  levelMicros: Micros;
  /** When it last began to wait. */
  waitingSince: Micros;
}

export interface Policy {
  readonly name: PolicyName;
  /** Negative: `a` is served first. Zero only for a request and itself. */
  compare(a: Ranked, b: Ranked): number;
  /** `a` may preempt `b` in order to run. */
  outranks(a: Ranked, b: Ranked): boolean;
  /** What changes ranks by itself; null: only `reprioritized` does. Ranks are sorted anew after each of these. */
  readonly accounting: Accounting | null;
}

export interface Accounting {
  /** A request has come; `accounts`: those of all tenants seen, this one's already among them. */
  arrived(request: Ranked, accounts: Iterable<Account>, prefillMicros: Micros): void;
  /** It was admitted for the first time. */
  admitted(request: Ranked): void;
  /** It was in a step of so many micros, in which it sampled so many tokens. */
  served(request: Ranked, sampled: number, micros: Micros): void;
  /** These wait at time `now`. */
  waited(request: Ranked, now: Micros): void;
}

const fcfs: Policy = {
  name: 'fcfs',
  compare: (a, b) => a.id - b.id,
  outranks: (a, b) => a.id < b.id,
  accounting: null,
};

const priority: Policy = {
  name: 'priority',
  compare: (a, b) => a.priority - b.priority || a.id - b.id,
  outranks: (a, b) => a.priority < b.priority,
  accounting: null,
};

/** Prices of VTC (Sheng et al., OSDI 2024): of a prompt token, and of a generated one. */
const PROMPT_PRICE = 1;
const GENERATED_PRICE = 2;

/**
 * Virtual token counters: the tenant that was served least goes first. A tenant that comes back is lifted to the least of
 * those that stayed, so that it cannot save up. Never preempts for fairness: the published form.
 */
const vtc: Policy = {
  name: 'vtc',
  compare: (a, b) => a.account.served - b.account.served || a.id - b.id,
  outranks: () => false,
  accounting: {
    arrived({ account }, accounts) {
      if (account.live > 1) return;
      let least = Number.POSITIVE_INFINITY;
      for (const other of accounts) if (other !== account && other.live > 0) least = Math.min(least, other.served);
      if (least < Number.POSITIVE_INFINITY) account.served = Math.max(account.served, least);
    },
    admitted({ account, promptTokens }) {
      account.served += PROMPT_PRICE * promptTokens;
    },
    served({ account }, sampled) {
      account.served += GENERATED_PRICE * sampled;
    },
    waited() {},
  },
};

/** Of FastServe (Wu et al., 2023): the first level's quantum, doubled at each next one; and what counts as starving. */
const QUANTUM_MICROS = 10_000;
const LEVEL_MAX = 20;
const STARVING_MICROS = 3_000_000;

function quantum(level: number): Micros {
  return QUANTUM_MICROS * 2 ** level;
}

/** Skip-join multi-level feedback queue: joins where its prefill fits the quantum, sinks as it is served, rises when it starves. */
const mlfq: Policy = {
  name: 'mlfq',
  compare: (a, b) => a.level - b.level || a.id - b.id,
  outranks: (a, b) => a.level < b.level,
  accounting: {
    arrived(request, _accounts, prefillMicros) {
      while (request.level < LEVEL_MAX && quantum(request.level) < prefillMicros) request.level += 1;
    },
    admitted() {},
    served(request, _sampled, micros) {
      request.levelMicros += micros;
      if (request.levelMicros < quantum(request.level) || request.level === LEVEL_MAX) return;
      request.level += 1;
      request.levelMicros = 0;
    },
    waited(request, now) {
      if (request.level === 0 || now - request.waitingSince < STARVING_MICROS) return;
      request.level = 0;
      request.levelMicros = 0;
      request.waitingSince = now;
    },
  },
};

export const POLICIES: Readonly<Record<PolicyName, Policy>> = { fcfs, priority, vtc, mlfq };
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
