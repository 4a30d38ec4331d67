/**
 * Who may look, and who may change something: pages of this very server, and programs. A page of somebody else could reach a
 * server on the visitor's own machine by a name of its own that it lets point there; so a name has to be one that nobody else
 * can have.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import { FastswitchError } from '../../errors.js';

/**
 * @param host Address that the server listens on.
 * @throws FastswitchError forbidden
 */
export function refuseNames(headers: IncomingHttpHeaders, host: string): void {
  const name = hostName(headers.host ?? '');
  if (name !== null && isOurs(name, host)) return;
  throw new FastswitchError(
    'forbidden',
    'Under this name of the server there is no board. Use its address, localhost, or the name that --host has.',
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

/** The name in a Host header, without its port; null where it is none. */
function hostName(header: string): string | null {
  const found = /^(\[[0-9a-f:.]+\]|[^:/?#@\\\s[\]]+)(?::\d+)?$/i.exec(header)?.[1];
  return found === undefined ? null : found.replace(/^\[|\]$/g, '').toLowerCase();
}

/** Addresses cannot be made to point elsewhere; names can, but for these. */
function isOurs(name: string, host: string): boolean {
  return isIP(name) !== 0 || name === 'localhost' || name.endsWith('.localhost') || name === host.toLowerCase();
}
