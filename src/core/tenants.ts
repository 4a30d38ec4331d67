/** What each tenant has had: of those with live requests, and of the last that went. */

/** Live: it goes on counting. */
export interface TenantCount {
  readonly tenant: string;
  live: number;
  generatedTokens: number;
}

/** Tenants without live requests that are remembered: clients may make up as many names as they like. */
const GONE_MAX = 256;

export class TenantCounts {
  readonly #live = new Map<string, TenantCount>();
  /** Longest gone first. */
  readonly #gone = new Map<string, TenantCount>();

  /** A request of this tenant has come. */
  came(tenant: string): TenantCount {
    const count = this.#live.get(tenant) ?? this.#gone.get(tenant) ?? { tenant, live: 0, generatedTokens: 0 };
    if (count.live === 0) {
      this.#gone.delete(tenant);
      this.#live.set(tenant, count);
    }
    count.live += 1;
    return count;
  }

  /** A request of its has ended. */
  went(count: TenantCount): void {
    count.live -= 1;
    if (count.live > 0) return;
    this.#live.delete(count.tenant);
    this.#gone.set(count.tenant, count);
    if (this.#gone.size <= GONE_MAX) return;
    for (const oldest of this.#gone.keys()) {
      this.#gone.delete(oldest);
      return;
    }
  }

  all(): readonly TenantCount[] {
    return [...this.#live.values(), ...this.#gone.values()];
  }
}
