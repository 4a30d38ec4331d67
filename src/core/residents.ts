/** Requests that are off the device, swapped or about to be, with blocks of theirs still on it, and how many these are. */
import type { Request } from './state.js';

export class Residents {
  readonly #blocks = new Map<Request, number>();
  #total = 0;

  /** Blocks of all of them. */
  get total(): number {
    return this.#total;
  }

  has(request: Request): boolean {
    return this.#blocks.has(request);
  }

  blocksOf(request: Request): number {
    return this.#blocks.get(request) ?? 0;
  }

  requests(): IterableIterator<Request> {
    return this.#blocks.keys();
  }

  /** It has so many now; 0: it is none any more. */
  set(request: Request, blocks: number): void {
    this.#total += blocks - this.blocksOf(request);
    if (blocks > 0) this.#blocks.set(request, blocks);
    else this.#blocks.delete(request);
  }
}
