/** The policies: who is served first, and who may preempt whom. Ours, the server's default, is in `fair.ts`. */
import type { Accounts } from './accounts.js';
import { Ageing, byLift } from './ageing.js';
import { fair } from './fair.js';
import type { Accounting, Policy, Quantum, Ranked } from './fairness.js';
import type { Mechanism } from './presets.js';
import type { Micros, PolicyName } from './types.js';

/** What policies are told at the start. */
export interface PolicyLimits {
  readonly mechanism: Mechanism;
  readonly maxRunning: number;
}

export function policyOf(name: PolicyName, limits: PolicyLimits, accounts: Accounts): Policy {
  switch (name) {
    case 'fcfs':
      return FCFS;
    case 'priority':
      return limits.mechanism.starvationSeconds === 0 ? PRIORITY : ageingPriority(limits);
    case 'vtc':
      return vtc(accounts, limits.mechanism);
    case 'fair':
      return fair(accounts, limits);
    case 'mlfq':
      return MLFQ;
    case 'edf':
      return edf(limits.mechanism);
  }
}

const nobody = () => false;

const NOTES_NOTHING: Accounting = {
  remembers: false,
  arrived() {},
  admitted: nobody,
  served() {},
  waited() {},
  ended() {},
  rank() {},
};

const FCFS: Policy = {
  name: 'fcfs',
  compare: (a, b) => a.id - b.id,
  outranks: (a, b) => a.id < b.id,
  accounting: null,
};

const PRIORITY: Policy = {
  name: 'priority',
  compare: (a, b) => a.priority - b.priority || a.id - b.id,
  outranks: (a, b) => a.priority < b.priority,
  accounting: null,
};

/** Strict priority, but for those who starve: all requests share the few places that these have. */
function ageingPriority({ mechanism, maxRunning }: PolicyLimits): Policy {
  const ageing = new Ageing(mechanism.starvationSeconds, maxRunning, () => null);
  return {
    name: 'priority',
    compare: (a, b) => byLift(a, b) ?? (a.priority - b.priority || a.id - b.id),
    outranks: (a, b) => (a.lifted === b.lifted ? !a.lifted && a.priority < b.priority : a.lifted),
    accounting: {
      ...NOTES_NOTHING,
      served: (request, service) => ageing.served(request, service),
      waited: (request, now) => ageing.waited(request, now),
      ended: (request) => ageing.ended(request),
      rank: () => ageing.settle(),
    },
  };
}

/**
 * Virtual token counters (Sheng et al., OSDI 2024): the tenant that was served least goes first. A tenant that comes back is
 * lifted to the least of those that stayed, so that it cannot save up. A prompt is paid for when it is admitted. Never
 * preempts for fairness: the published form.
 */
function vtc(accounts: Accounts, { promptPrice, tokenPrice }: Mechanism): Policy {
  return {
    name: 'vtc',
    compare: (a, b) => a.account.served - b.account.served || a.id - b.id,
    outranks: nobody,
    accounting: {
      ...NOTES_NOTHING,
      remembers: true,
      arrived({ account }) {
        if (account.live > 1) return;
        let least = Number.POSITIVE_INFINITY;
        for (const other of accounts.live()) if (other !== account) least = Math.min(least, other.served);
        if (least < Number.POSITIVE_INFINITY) account.served = Math.max(account.served, least);
      },
      admitted({ account, promptTokens }) {
        account.served += (promptPrice * promptTokens) / account.weight;
        return true;
      },
      served({ account }, { sampled }) {
        account.served += (tokenPrice * sampled) / account.weight;
      },
    },
  };
}

/** Of FastServe (Wu et al., 2023): the first level's quantum, doubled at each next one; and what counts as starving. */
const QUANTUM_MICROS = 10_000;
const LEVEL_MAX = 20;
const STARVING_MICROS = 3_000_000;

function quantumOf(level: number): Micros {
  return QUANTUM_MICROS * 2 ** level;
}

/** Skip-join multi-level feedback queue: joins where its prefill fits the quantum, sinks as it is served, rises when it starves. */
const MLFQ: Policy = {
  name: 'mlfq',
  compare: (a, b) => a.level - b.level || a.id - b.id,
  outranks: (a, b) => a.level < b.level,
  accounting: {
    ...NOTES_NOTHING,
    arrived(request, prefillMicros) {
      while (request.level < LEVEL_MAX && quantumOf(request.level) < prefillMicros) request.level += 1;
    },
    served(request, { micros }) {
      request.levelMicros += micros;
      if (request.levelMicros < quantumOf(request.level) || request.level === LEVEL_MAX) return;
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

/**
 * Earliest deadline first: the first token is due at the promised TTFT, each next one at its place in the promised pace, so
 * that whoever is ahead of its pace can do without the device for a while. Who was promised nothing is due when it would
 * starve, or last where nobody starves.
 */
function edf({ starvationSeconds }: Mechanism): Policy {
  const patience = starvationSeconds > 0 ? starvationSeconds * 1e6 : Number.POSITIVE_INFINITY;
  let margin: Micros = 0;
  const dueOf = ({ deadlines: { ttftMicros, tbtMicros }, arrivedAt, servedAt, firstTokenAt, generated }: Ranked) => {
    if (generated === 0) return ttftMicros === null ? arrivedAt + patience : arrivedAt + ttftMicros;
    return tbtMicros === null ? servedAt + patience : firstTokenAt + generated * tbtMicros;
  };
  const live = new Set<Ranked>();
  return {
    name: 'edf',
    compare: (a, b) => (a.due === b.due ? a.id - b.id : a.due < b.due ? -1 : 1),
    outranks: (a, b) => a.due + margin < b.due,
    accounting: {
      ...NOTES_NOTHING,
      arrived: (request) => void live.add(request),
      ended: (request) => void live.delete(request),
      rank({ micros }: Quantum) {
        margin = micros;
        for (const request of live) request.due = dueOf(request);
      },
    },
  };
}
