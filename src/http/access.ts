/**
 * Who is asking, and what that one may see. Without a tenants file everybody is the anonymous tenant; with one, everything
 * but /health and /ready needs a key, and what is everybody's (the board, other tenants' requests, changes) an admin's.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { FastswitchError } from '../errors.js';
import type { Tenant, Tenants } from './tenants.js';

export interface Caller {
  readonly tenant: Tenant;
  /** May see and change what is everybody's. */
  readonly admin: boolean;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Null where nobody has to say who they are. */
    caller: Caller | null;
  }
}

export interface AccessOptions {
  /** Without keys: whoever reaches the port is an admin. */
  readonly admin: boolean;
  /** /metrics needs a key, too, of an admin or one that may read metrics. */
  readonly privateMetrics: boolean;
}

/** Probes of load balancers have no keys. */
const OPEN = new Set(['/health', '/ready']);

type Need = 'nothing' | 'metrics' | 'key' | 'board';

/** The board shows what is everybody's. */
export function isBoard(route: string | undefined): boolean {
  return route === '/board' || route?.startsWith('/board/') === true;
}

/** By the route and not by the path, of which there may be several spellings. */
function needOf(route: string | undefined, { privateMetrics }: AccessOptions): Need {
  if (route === undefined) return 'key';
  if (OPEN.has(route)) return 'nothing';
  if (route === '/metrics') return privateMetrics ? 'metrics' : 'nothing';
  return isBoard(route) ? 'board' : 'key';
}

export function registerAccess(server: FastifyInstance, tenants: Tenants, options: AccessOptions): void {
  server.decorateRequest('caller', null);
  server.addHook('onRequest', async (request, reply) => {
    const { anonymous } = tenants;
    if (anonymous !== null) {
      request.caller = { tenant: anonymous, admin: options.admin };
      return;
    }
    const need = needOf(request.routeOptions.url, options);
    if (need === 'nothing') return;
    request.caller = identified(tenants, request, reply, need);
  });
}

function identified(tenants: Tenants, { headers }: FastifyRequest, reply: FastifyReply, need: Need): Caller {
  const key = keyIn(headers.authorization, headers['x-api-key'], need === 'board');
  const tenant = key === null ? null : tenants.find(key);
  if (tenant === null) {
    challenge(reply, need);
    throw new FastswitchError('invalid_api_key', key === null ? MISSING[need === 'board' ? 'board' : 'api'] : UNKNOWN);
  }
  const { admin, metrics } = tenant.settings;
  if (need === 'metrics' && !admin && !metrics)
    throw new FastswitchError('forbidden', 'This key may not read /metrics: its tenant has neither "metrics" nor "admin".');
  if (need === 'board' && !admin) {
    // A browser keeps a key that it was given until it is asked for another.
    challenge(reply, need);
    throw new FastswitchError(
      'invalid_api_key',
      'The board shows what is everybody\'s: it needs the key of a tenant with "admin".',
    );
  }
  return { tenant, admin };
}

const MISSING = {
  api: "This server needs an API key: send it as 'Authorization: Bearer KEY'. Its operator makes one with 'fastswitch keys'.",
  board: 'The board needs the key of a tenant with "admin": give it as the password, under any name.',
} as const;
const UNKNOWN =
  'This API key is not known here. Check that it is complete and of this server; its operator may have withdrawn it.';

/** A browser asks its user for what `Basic` wants, so that is said of the board alone. */
function challenge(reply: FastifyReply, need: Need): void {
  reply.header('www-authenticate', need === 'board' ? 'Basic realm="fastswitch board", charset="UTF-8"' : 'Bearer');
}

/** The key in the headers that clients send it in; null where there is none. */
function keyIn(authorization: string | undefined, apiKey: string | string[] | undefined, basic: boolean): string | null {
  const [, scheme = '', value = ''] = /^(\S+) +(\S+) *$/.exec(authorization ?? '') ?? [];
  if (scheme.toLowerCase() === 'bearer') return value;
  // The password, under whatever name.
  if (basic && scheme.toLowerCase() === 'basic')
    return Buffer.from(value, 'base64')
      .toString('utf8')
      .replace(/^[^:]*:/, '');
  return typeof apiKey === 'string' && apiKey !== '' ? apiKey : null;
}

/** Who asked. Only for routes that need a key. */
export function callerOf(request: FastifyRequest): Caller {
  if (request.caller === null) throw new Error('a route that asks who is calling must not be open');
  return request.caller;
}

/** @throws FastswitchError forbidden */
export function requireAdmin(request: FastifyRequest, keyed: boolean): void {
  if (callerOf(request).admin) return;
  throw new FastswitchError(
    'forbidden',
    keyed
      ? 'This key may not change that: its tenant has no "admin".'
      : 'Nothing may be changed here: the server was not started with --admin.',
  );
}
