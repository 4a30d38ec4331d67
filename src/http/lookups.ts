/**
 * How often a tenant may ask about requests or change one: each time the engine's own thread has to stop and look, which
 * takes from everybody's next step. So there is a rate of its own, apart from that of completions.
 *
 * An admin has ten times as much, because it looks after everybody, and not all that it likes: a script that runs wild costs
 * the others the same whoever wrote it. Without keys all are one tenant: a connection of one's own is had for nothing.
 */
import type { FastifyInstance } from 'fastify';
import { FastswitchError } from '../errors.js';
import type { Caller } from './access.js';
import { Bucket } from './bucket.js';
import { clipped, rateHeaders, spelled } from './rates.js';
import type { Tenant } from './tenants.js';

const PER_MINUTE = 600;
const ADMIN_TIMES = 10;
/** Of a minute's worth, what may come at once. */
const BURST_SHARE = 0.1;

/** By the route, of which there is one for all spellings of a path. */
function isLookup(route: string | undefined): boolean {
  return route === '/v1/requests' || route === '/v1/requests/*' || route?.startsWith('/board/requests/') === true;
}

export class Lookups {
  readonly #now: () => number;
  readonly #buckets = new WeakMap<Tenant, Bucket>();

  /** @param now Milliseconds of a clock that only goes forward. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** @throws FastswitchError rate_limit_exceeded with the time until the next. */
  take(caller: Caller): void {
    const now = this.#now();
    const bucket = this.#bucketOf(caller, now);
    const seconds = bucket.secondsUntil(1, now);
    if (seconds === 0) return bucket.take(1, now);
    throw new FastswitchError(
      'rate_limit_exceeded',
      `Tenant '${caller.tenant.name}' may ask about requests ${bucket.perMinute} times a minute, ${bucket.holds} at once. Try again in ${spelled(seconds)}.`,
      null,
      clipped(seconds),
    );
  }

  headers(caller: Caller): Record<string, string> {
    const now = this.#now();
    const bucket = this.#bucketOf(caller, now);
    return rateHeaders('requests', bucket.holds, bucket.level(now), bucket.secondsUntilFull(now));
  }

  #bucketOf({ tenant, admin }: Caller, now: number): Bucket {
    const perMinute = tenant.settings.lookupsPerMinute ?? PER_MINUTE * (admin ? ADMIN_TIMES : 1);
    const known = this.#buckets.get(tenant);
    if (known?.perMinute === perMinute) return known;
    const holds = Math.max(1, Math.ceil(perMinute * BURST_SHARE));
    const bucket = known === undefined ? new Bucket(perMinute, now, holds) : known.resized(perMinute, now, holds);
    this.#buckets.set(tenant, bucket);
    return bucket;
  }
}

/** Charged before a body is read; what is left stands on every answer. After `registerAccess`. */
export function registerLookups(server: FastifyInstance, lookups: Lookups): void {
  server.addHook('onRequest', async ({ caller, routeOptions }) => {
    if (caller !== null && isLookup(routeOptions.url)) lookups.take(caller);
  });
  server.addHook('onSend', async ({ caller, routeOptions }, reply) => {
    if (caller !== null && isLookup(routeOptions.url)) reply.headers(lookups.headers(caller));
  });
}
