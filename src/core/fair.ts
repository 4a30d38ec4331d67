/**
 * Virtual token counters that preempt: our form of VTC, and the server's default. Why it is made like this, its bound and
 * how well it holds are in `docs/evaluation/fairness.md`.
 *
 * - A counter for each tenant: what it has had, in priced tokens over its weight. A token is paid for in the step that
 *   computes it, once: prompt tokens that were found cost nothing (nobody waited for them), and neither does what is
 *   computed again (it lost its KV for another's sake).
 * - The requests of a tenant line up: whoever starved, then by priority, then in order of arrival. Each has a tag, where the
 *   counter will be when its turn comes if everybody before it in the line gets a quantum of tokens and the rest of its
 *   prompt. Requests are served in order of their tags, so a batch is shared by weight even before anybody has paid.
 * - A request preempts one of another tenant if it could be served for a quantum and would still have the lower tag. So two
 *   that are level leave each other alone, and after a switch it takes a quantum each until the next.
 * - Within a tenant whoever is later in the line gives way: with a single tenant this is first come, first served.
 */
import type { Account, Accounts } from './accounts.js';
import { Ageing, byLift } from './ageing.js';
import type { Policy, Quantum, Ranked } from './fairness.js';
import type { PolicyLimits } from './policies.js';

export function fair(accounts: Accounts, { mechanism, maxRunning }: PolicyLimits): Policy {
  const { promptPrice, tokenPrice } = mechanism;
  const lines = new Map<Account, Ranked[]>();
  const ageing = new Ageing(mechanism.starvationSeconds, maxRunning, ({ account }) => account);
  let quantum = tokenPrice;

  const tag = ({ served, weight }: Account, line: Ranked[]) => {
    line.sort(inLine);
    let at = served;
    for (let place = 0; place < line.length; place += 1) {
      const request = line[place] as Ranked;
      request.place = place;
      request.tag = at;
      at += (promptPrice * Math.max(0, request.promptTokens - request.paid) + quantum) / weight;
    }
  };

  return {
    name: 'fair',
    compare: (a, b) => a.tag - b.tag || a.account.order - b.account.order || a.place - b.place,
    outranks(a, b) {
      if (a.account === b.account) return a.place < b.place;
      return a.tag < b.tag && a.tag + quantum / a.account.weight <= b.tag;
    },
    accounting: {
      remembers: true,
      arrived(request) {
        const { account } = request;
        const floor = accounts.floor();
        // Nobody saves up: neither while it is away, nor while all that it wants is running.
        if (account.waiting === 0) account.served = Math.max(account.served, floor);
        const line = lines.get(account);
        if (line === undefined) lines.set(account, [request]);
        else line.push(request);
      },
      admitted(request) {
        request.paid = Math.max(request.paid, request.computed); // found, not computed
        return false;
      },
      served(request, service) {
        const { account, promptTokens, computed, paid } = request;
        const fresh = Math.min(computed, promptTokens) - Math.max(paid, computed - service.computed);
        account.served += (promptPrice * Math.max(0, fresh) + tokenPrice * service.sampled) / account.weight;
        request.paid = Math.max(paid, computed);
        ageing.served(request, service);
      },
      waited: (request, now) => ageing.waited(request, now),
      ended(request) {
        ageing.ended(request);
        const line = lines.get(request.account) as Ranked[];
        if (line.length === 1) lines.delete(request.account);
        else line.splice(line.indexOf(request), 1);
      },
      rank({ tokens }: Quantum) {
        quantum = tokenPrice * Math.max(1, tokens);
        ageing.settle();
        accounts.floor();
        for (const [account, line] of lines) tag(account, line);
      },
    },
  };
}

function inLine(a: Ranked, b: Ranked): number {
  return byLift(a, b) ?? (a.priority - b.priority || a.id - b.id);
}
