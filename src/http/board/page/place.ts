/** What the viewer looks at: the request in the drawer, the states asked for; in the address too, so that a link leads back. */

import type { RequestId } from '../../../core/types.js';
import { Source } from './feed.js';

export const chosen = new Source<RequestId | null>(numberOf('request'));

/** Of the address as the page was opened; the record is asked of the player once. */
export function numberOf(name: 'request' | 'record'): number | null {
  const value = Number(new URLSearchParams(location.hash.slice(1)).get(name) ?? Number.NaN);
  return Number.isSafeInteger(value) && value >= 0 ? value : null;
}

/** Without a step in the browser's history: moving a slider is no navigation. */
export function setAddress(name: 'request' | 'record', value: number | null): void {
  const parameters = new URLSearchParams(location.hash.slice(1));
  if (value === null) parameters.delete(name);
  else parameters.set(name, String(value));
  const text = parameters.toString();
  window.history.replaceState(null, '', text === '' ? location.pathname : `#${text}`);
}

chosen.subscribe(() => setAddress('request', chosen.get()));

/** Said to who cannot see it: one line at a time. */
export const spoken = new Source('');

export function say(words: string): void {
  spoken.set(words);
}
