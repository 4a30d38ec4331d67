/**
 * Tells streams that wait their place in the line, once a second: one question to the system for all of them, and none
 * while nobody waits. A place in its tenant's own line counts before the one in the scheduler's.
 */
import type { System } from '../actors/system.js';
import type { Generation } from './generation.js';

const TICK_MILLIS = 1000;

interface Guest {
  readonly generation: Generation;
  /** In its tenant's own line, the first is 1; 0: not in it. */
  place(): number;
  /** When it was first seen waiting, or came; who runs has no such time. */
  since: number;
}

export class WaitingRoom {
  readonly #system: Pick<System, 'places'>;
  readonly #guests = new Set<Guest>();
  #timer: NodeJS.Timeout | null = null;
  #asking = false;

  constructor(system: Pick<System, 'places'>) {
    this.#system = system;
  }

  /** From now on, until it is done. `place`: in its tenant's own line. */
  watch(generation: Generation, place: () => number): void {
    this.#guests.add({ generation, place, since: performance.now() });
    this.#timer ??= setInterval(() => void this.#tick(), TICK_MILLIS).unref();
  }

  async #tick(): Promise<void> {
    const asked: { readonly guest: Guest; readonly ids: readonly number[] }[] = [];
    const now = performance.now();
    for (const guest of this.#guests) {
      const { generation } = guest;
      if (generation.done) this.#guests.delete(guest);
      else if (now - guest.since >= TICK_MILLIS / 2) this.#look(guest, asked);
    }
    if (this.#guests.size === 0 && this.#timer !== null) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
    if (asked.length > 0 && !this.#asking) await this.#ask(asked);
  }

  #look(guest: Guest, asked: { guest: Guest; ids: readonly number[] }[]): void {
    const place = guest.place();
    if (place > 0) return guest.generation.placed(place);
    const ids = guest.generation.choices.flatMap(({ waitingId }) => waitingId ?? []);
    if (ids.length > 0) asked.push({ guest, ids });
  }

  async #ask(asked: readonly { readonly guest: Guest; readonly ids: readonly number[] }[]): Promise<void> {
    this.#asking = true;
    try {
      const places = await this.#system.places(asked.flatMap(({ ids }) => ids));
      let at = 0;
      for (const { guest, ids } of asked) {
        const own = places.slice(at, at + ids.length).filter((place) => place > 0);
        at += ids.length;
        // Of several choices the one that comes first.
        if (own.length > 0 && !guest.generation.done) guest.generation.placed(Math.min(...own));
      }
    } catch {
      // The engine has stopped: every request hears of that in its own way.
    } finally {
      this.#asking = false;
    }
  }
}
