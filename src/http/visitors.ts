/**
 * Who may look, and who may change something: pages of this very server, and programs. A page of somebody else could reach a
 * server on the visitor's own machine by a name of its own that it lets point there; so a name has to be one that nobody else
 * can have, or one that the operator gave. Where keys are needed a name is worth nothing by itself.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { hostName, hostNames } from '../core/config.js';
import { FastswitchError } from '../errors.js';
import { isBoard } from './access.js';

export interface NamesOptions {
  /** Address that the server listens on, and more names of it, with commas between. */
  readonly host: string;
  readonly allowedHosts: string;
  /** What needs no other name to be guarded: all of it, or the board alone and, without keys, what changes something. */
  readonly all: boolean;
  readonly keyed: boolean;
}

/** The one place where names are looked at, before anything else is. */
export function registerNames(server: FastifyInstance, { host, allowedHosts, all, keyed }: NamesOptions): void {
  const names = new Set([hostName(host), ...hostNames(allowedHosts)]);
  server.addHook('onRequest', async ({ headers, method, routeOptions }) => {
    if (all || isBoard(routeOptions.url) || (!keyed && method === 'PATCH')) refuseNames(headers, names);
  });
}

/** @throws FastswitchError forbidden */
function refuseNames({ host: header }: IncomingHttpHeaders, names: ReadonlySet<string | null>): void {
  // A page always says a name; programs of old (HTTP/1.0) may say none.
  if (header === undefined || header === '') return;
  const name = hostName(header);
  if (name !== null && isOurs(name, names)) return;
  const shown = (name ?? header).slice(0, 100);
  throw new FastswitchError(
    'forbidden',
    `This server does not answer under the name '${shown}', which could be anybody's. Use its address, localhost, or the name that ` +
      'its --host has; or its operator names this one, too: --allowed-hosts.',
  );
}

/**
 * Of what changes something.
 * @throws FastswitchError forbidden
 */
export function refuseOrigins({ origin, host }: IncomingHttpHeaders): void {
  // Programs send none; browsers do with every POST.
  if (origin === undefined || origin === `http://${host}` || origin === `https://${host}`) return;
  throw new FastswitchError('forbidden', 'A page of another server may change nothing here.');
}

/** Addresses cannot be made to point elsewhere; names can, but for these. */
function isOurs(name: string, names: ReadonlySet<string | null>): boolean {
  return isIP(name) !== 0 || name === 'localhost' || name.endsWith('.localhost') || names.has(name);
}
