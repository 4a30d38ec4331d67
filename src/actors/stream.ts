/**
 * Who listens to what: gives each request's listener its own tokens and its one end. The system's products arrive as
 * one batch per step; listeners see theirs only.
 */
import type { EmittedToken, RequestId } from '../core/types.js';
import type { Listener, RequestEnd, Turn } from './ports.js';

export class Listeners {
  readonly #open = new Map<RequestId, Listener>();
  #lastId: RequestId = 0;

  /** Gives the next request its number and remembers who listens. */
  open(listener: Listener): RequestId {
    this.#lastId += 1;
    this.#open.set(this.#lastId, listener);
    return this.#lastId;
  }

  tokens(items: readonly EmittedToken[]): void {
    // One step samples at most one token for a request, so a batch holds each id once.
    for (const item of items) this.#open.get(item.id)?.tokens([item]);
  }

  turn(id: RequestId, turn: Turn): void {
    this.#open.get(id)?.turn?.(turn);
  }

  end(id: RequestId, end: RequestEnd): void {
    const listener = this.#open.get(id);
    if (listener === undefined) return;
    this.#open.delete(id);
    listener.end(end);
  }

  /** Ends every request that still listens, for when the other side is gone. */
  endAll(end: RequestEnd): void {
    for (const id of [...this.#open.keys()]) this.end(id, end);
  }
}
