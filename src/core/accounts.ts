/** The tenants: their weights, what each has had, and where one that comes begins. */

export interface Account {
  readonly tenant: string;
  /** Its share, above 0. */
  weight: number;
  /** The service it has had, in priced tokens over its weight at that time: its counter. It never falls. */
  served: number;
  /** Its requests that are alive; and of these, the ones that are off the device or on their way out. */
  live: number;
  waiting: number;
  /** Ties between equal counters: counted up as tenants become active. */
  order: number;
}

/** Tenants without live requests that are remembered: clients may make up as many names as they like. */
const IDLE_MAX = 4096;

export class Accounts {
  readonly #all = new Map<string, Account>();
  readonly #live = new Set<Account>();
  /** Without live requests and remembered; least counter first. */
  readonly #idle: Account[] = [];
  #activations = 0;
  #floor = 0;

  get size(): number {
    return this.#all.size;
  }

  get(tenant: string): Account | undefined {
    return this.#all.get(tenant);
  }

  /** Those with live requests. */
  live(): Iterable<Account> {
    return this.#live;
  }

  /** A request of this tenant has come. */
  open(tenant: string, weight: number): Account {
    const known = this.#all.get(tenant);
    const account = known ?? { tenant, weight, served: 0, live: 0, waiting: 0, order: 0 };
    if (known === undefined) this.#all.set(tenant, account);
    if (account.live === 0) {
      if (known !== undefined) this.#idle.splice(this.#idle.indexOf(account), 1);
      this.#activations += 1;
      account.order = this.#activations;
      this.#live.add(account);
    }
    account.weight = weight;
    account.live += 1;
    return account;
  }

  /** A request of its has ended. `remember`: what it has had matters when it comes back. */
  close(account: Account, remember: boolean): void {
    account.live -= 1;
    if (account.live > 0) return;
    this.#live.delete(account);
    if (!remember) return void this.#all.delete(account.tenant);
    let at = this.#idle.length;
    while (at > 0 && (this.#idle[at - 1] as Account).served > account.served) at -= 1;
    this.#idle.splice(at, 0, account);
    if (this.#idle.length > IDLE_MAX) this.#forgetFirst();
  }

  /**
   * The counter at which whoever comes begins, at least: the least of those who wait, since nobody may save up; where
   * nobody waits, the greatest of all, since nobody was kept from anything, and what one had then is no debt. It never
   * falls. Who is idle and not above it is forgotten: coming back it would begin there too.
   */
  floor(): number {
    let least = Number.POSITIVE_INFINITY;
    let most = this.#idle[this.#idle.length - 1]?.served ?? 0;
    for (const { served, waiting } of this.#live) {
      if (waiting > 0) least = Math.min(least, served);
      most = Math.max(most, served);
    }
    this.#floor = Math.max(this.#floor, least < Number.POSITIVE_INFINITY ? least : most);
    let forgotten = 0;
    while (forgotten < this.#idle.length && (this.#idle[forgotten] as Account).served <= this.#floor) forgotten += 1;
    for (const { tenant } of this.#idle.splice(0, forgotten)) this.#all.delete(tenant);
    return this.#floor;
  }

  /** The one that is least above the others: it gains least by it. */
  #forgetFirst(): void {
    const first = this.#idle.shift();
    if (first !== undefined) this.#all.delete(first.tenant);
  }
}
