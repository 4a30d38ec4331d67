/**
 * Who is served: the tenants of the file, found by their keys, or one anonymous tenant where there is no file. A tenant may
 * name sub-tenants (its users); to the scheduler each of these is an account of its own, and together they have the tenant's
 * weight: more names do not make a larger share.
 */
import { FastswitchError } from '../errors.js';
import { Bucket } from './bucket.js';
import { KeyRing } from './keys.js';
import { type Prices, Service } from './ledger.js';
import { changedSettings, readTenants, SETTINGS_NONE, type TenantEntry, type TenantSettings } from './tenant-settings.js';

/** The anonymous tenant, and its account where a request names no user. */
export const DEFAULT_TENANT = 'default';

/** Users come and go all the time: the scheduler is told of what that does to the weights of the others this often. */
const SETTLE_MILLIS = 1000;
/** Less than this share is not worth telling. */
const SETTLE_SHARE = 0.1;

interface Account {
  /** Choices alive. */
  live: number;
  /** The weight that the scheduler knows. */
  told: number;
}

export class Tenant {
  readonly anonymous: boolean;
  /** What it was served, and how well. */
  readonly service: Service;
  /** Null: no such limit. */
  requests: Bucket | null = null;
  tokens: Bucket | null = null;
  /** Of those with choices alive. */
  readonly accounts = new Map<string, Account>();
  #settings: TenantSettings;

  constructor(settings: TenantSettings, anonymous: boolean, prices: Prices, now: number) {
    this.anonymous = anonymous;
    this.service = new Service(prices);
    this.#settings = settings;
    this.update(settings, now);
  }

  get name(): string {
    return this.#settings.name;
  }

  get settings(): TenantSettings {
    return this.#settings;
  }

  /** Other limits from now on. What was used of the old ones is used of the new ones too. */
  update(settings: TenantSettings, now: number): void {
    const sized = (bucket: Bucket | null, perMinute: number | null): Bucket | null => {
      if (perMinute === null) return null;
      return bucket === null ? new Bucket(perMinute, now) : bucket.resized(perMinute, now);
    };
    if (settings.requestsPerMinute !== this.requests?.perMinute) this.requests = sized(this.requests, settings.requestsPerMinute);
    if (settings.tokensPerMinute !== this.tokens?.perMinute) this.tokens = sized(this.tokens, settings.tokensPerMinute);
    this.#settings = settings;
    this.service.weight = settings.weight;
  }

  /** What the scheduler calls it, or a user of its. */
  accountOf(user: string): string {
    if (user === '') return this.name;
    return this.anonymous ? user : `${this.name}/${user}`;
  }

  /** One of its own, or of a user of its. */
  owns(account: string): boolean {
    return this.anonymous || account === this.name || account.startsWith(`${this.name}/`);
  }

  /** The weight of each of its accounts now. */
  get accountWeight(): number {
    return this.anonymous ? this.#settings.weight : this.#settings.weight / Math.max(1, this.accounts.size);
  }

  /** A choice of this account has come; answers with what weight. */
  came(account: string): number {
    const known = this.accounts.get(account) ?? { live: 0, told: 0 };
    this.accounts.set(account, known);
    known.live += 1;
    known.told = this.accountWeight;
    return known.told;
  }

  /** A choice of this account has ended. */
  went(account: string): void {
    const known = this.accounts.get(account);
    if (known === undefined) return;
    known.live -= 1;
    if (known.live === 0) this.accounts.delete(account);
  }

  /** Tells the weights that are others than the scheduler knows. */
  settle(share: number, tell: (account: string, weight: number) => void): void {
    const weight = this.accountWeight;
    for (const [account, known] of this.accounts) {
      if (Math.abs(known.told / weight - 1) <= share) continue;
      known.told = weight;
      tell(account, weight);
    }
  }
}

export class Tenants {
  /** Requests need keys. */
  readonly keyed: boolean;
  /** The scheduler is to know of another weight. */
  onReweighted: (account: string, weight: number) => void = () => {};
  /** What its service is counted in. */
  readonly prices: Prices;
  /** Milliseconds of the clock that all limits go by. */
  readonly now: () => number;
  readonly #path: string;
  #ring = new KeyRing<Tenant>();
  #byName = new Map<string, Tenant>();
  #settling: NodeJS.Timeout | null = null;
  /** What the operator should hear about the file. */
  warnings: readonly string[] = [];

  /**
   * @param path Of the file; '' for the anonymous tenant alone.
   * @param prices Those that the scheduler has.
   * @param now Milliseconds of a clock that only goes forward.
   * @throws FastswitchError bad_config
   */
  constructor(path: string, prices: Prices, now: () => number = () => performance.now()) {
    this.#path = path;
    this.prices = prices;
    this.now = now;
    this.keyed = path !== '';
    if (this.keyed) this.reload();
    else this.#byName.set(DEFAULT_TENANT, new Tenant({ name: DEFAULT_TENANT, ...SETTINGS_NONE }, true, prices, now()));
  }

  /** Who is served without a key; null where one is needed. */
  get anonymous(): Tenant | null {
    return this.keyed ? null : (this.#byName.get(DEFAULT_TENANT) as Tenant);
  }

  find(key: string): Tenant | null {
    return this.#ring.find(key);
  }

  named(name: string): Tenant | null {
    return this.#byName.get(name) ?? null;
  }

  all(): readonly Tenant[] {
    return [...this.#byName.values()];
  }

  /**
   * Reads the file again: who is still in it keeps what it has used; whose entry is gone is known no more, but what runs
   * for it goes on. What was changed by PATCH is as the file says again. Where the file is wrong, all stays as it was.
   * @throws FastswitchError bad_config
   */
  reload(): void {
    const { entries, warnings } = readTenants(this.#path);
    const ring = new KeyRing<Tenant>();
    const byName = new Map<string, Tenant>();
    for (const { settings, hashes } of entries as readonly TenantEntry[]) {
      const tenant = this.#byName.get(settings.name) ?? new Tenant(settings, false, this.prices, this.now());
      byName.set(settings.name, tenant);
      for (const hash of hashes) ring.add(hash, tenant);
    }
    this.#ring = ring;
    this.#byName = byName;
    this.warnings = warnings;
    for (const { settings } of entries) this.#update(byName.get(settings.name) as Tenant, settings);
  }

  /**
   * Changes some settings until the file is read again; what is left out stays.
   * @throws FastswitchError not_found, invalid_request
   */
  change(name: string, changes: Readonly<Record<string, unknown>>): Tenant {
    const tenant = this.named(name);
    if (tenant === null) throw new FastswitchError('not_found', `There is no tenant '${name.slice(0, 100)}'.`);
    this.#update(tenant, changedSettings(tenant.settings, changes));
    return tenant;
  }

  /** The number of a tenant's accounts may have changed: the others are told soon, and not at every coming and going. */
  changed(): void {
    if (this.keyed)
      this.#settling ??= setTimeout(() => {
        this.#settling = null;
        for (const tenant of this.all()) tenant.settle(SETTLE_SHARE, this.onReweighted);
      }, SETTLE_MILLIS).unref();
  }

  #update(tenant: Tenant, settings: TenantSettings): void {
    tenant.update(settings, this.now());
    tenant.settle(0, this.onReweighted);
  }
}
