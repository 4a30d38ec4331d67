/**
 * Device blocks that still hold the KV of requests that have ended (or were preempted to be computed again): owned by
 * no request, given up from the tail as soon as room is needed, adopted whole by whoever continues their tokens.
 */
import type { BlockMemory } from './blocks.js';
import { prefixLength } from './reuse.js';
import type { BlockName, RequestId } from './types.js';

export interface Warm {
  /** In the device's block memory. */
  readonly owner: number;
  /** Of its blocks, all full. As long as its table. */
  readonly names: BlockName[];
}

export class WarmBlocks {
  readonly #memory: BlockMemory;
  /** Oldest first. */
  readonly #all = new Map<number, Warm>();
  /** All that hold a name: who holds it holds those before it, so a name that is here has all names before it here too. */
  readonly #byName = new Map<BlockName, Warm[]>();
  /** Those the host may lack, oldest first. */
  readonly #unmirrored = new Set<Warm>();
  #blocks = 0;

  constructor(memory: BlockMemory) {
    this.#memory = memory;
  }

  /** Blocks of all of them, also of those a transfer still reads. */
  get blocks(): number {
    return this.#blocks;
  }

  /** Those not marked as mirrored, oldest first. */
  unmirrored(): Iterable<Warm> {
    return this.#unmirrored;
  }

  /** The host has them, or has no room for them: they are not asked for again. */
  mirrored(warm: Warm): void {
    this.#unmirrored.delete(warm);
  }

  has(owner: number): boolean {
    return this.#all.has(owner);
  }

  /** Takes over the blocks of a request, which are full and as many as the names, at least one; under a new owner. */
  keep(id: RequestId, names: BlockName[], owner: number): Warm {
    const warm: Warm = { owner, names };
    this.#memory.rename(id, owner);
    if (this.#memory.table(warm.owner).length !== names.length) throw new Error(`warm: ${names.length} names for other blocks`);
    this.#all.set(warm.owner, warm);
    this.#unmirrored.add(warm);
    for (const name of names) {
      const holders = this.#byName.get(name);
      if (holders === undefined) this.#byName.set(name, [warm]);
      else holders.push(warm);
    }
    this.#blocks += names.length;
    return warm;
  }

  /** Who holds the most of the first `count` names, and how many; null: nobody any. Nothing that a transfer reads. */
  find(names: readonly BlockName[], count: number): { readonly warm: Warm; readonly blocks: number } | null {
    const blocks = prefixLength(names, count, (name) => this.#byName.has(name));
    if (blocks === 0) return null;
    // The rest of what is adopted is lost: of those who have as much, the shortest.
    let warm: Warm | null = null;
    for (const holder of this.#byName.get(names[blocks - 1] as BlockName) ?? []) {
      if (this.#memory.heldTo(holder.owner) > 0) continue;
      if (warm === null || holder.names.length < warm.names.length) warm = holder;
    }
    if (warm === null) return null;
    return { warm, blocks };
  }

  /** The first `blocks` of it belong to the request from now on; the rest is free. */
  adopt(warm: Warm, blocks: number, id: RequestId): void {
    this.#shorten(warm, blocks);
    this.#forget(warm, 0);
    this.#drop(warm);
    this.#memory.rename(warm.owner, id);
  }

  /** Gives up to `count` blocks back, oldest first, each from its tail, and returns how many. What is read stays. */
  evict(count: number): number {
    let left = count;
    for (const warm of this.#all.values()) {
      if (left <= 0) break;
      const kept = Math.max(this.#memory.heldTo(warm.owner), warm.names.length - left);
      left -= warm.names.length - kept;
      this.#shorten(warm, kept);
      if (kept === 0) this.#drop(warm);
    }
    return count - left;
  }

  /** Throws an error that names the first broken invariant. */
  checkIntegrity(): void {
    let blocks = 0;
    for (const warm of this.#all.values()) {
      const { owner, names } = warm;
      if (names.length === 0 || this.#memory.table(owner).length !== names.length)
        throw new Error(`warm: ${owner} is not its blocks`);
      if (!names.every((name) => this.#byName.get(name)?.includes(warm))) throw new Error(`warm: a name of ${owner} is lost`);
      blocks += names.length;
    }
    if (blocks !== this.#blocks) throw new Error(`warm: ${blocks} blocks, counted ${this.#blocks}`);
    let named = 0;
    for (const holders of this.#byName.values()) named += holders.length;
    if (named !== blocks) throw new Error(`warm: ${named} names stand for ${blocks} blocks`);
  }

  #drop(warm: Warm): void {
    this.#all.delete(warm.owner);
    this.#unmirrored.delete(warm);
  }

  #shorten(warm: Warm, blocks: number): void {
    this.#forget(warm, blocks);
    if (blocks > 0) this.#memory.truncate(warm.owner, blocks);
    else this.#memory.release(warm.owner);
  }

  /** Forgets the names from position `from` on. */
  #forget(warm: Warm, from: number): void {
    for (let position = from; position < warm.names.length; position += 1) {
      const name = warm.names[position] as BlockName;
      const holders = this.#byName.get(name) as Warm[];
      holders.splice(holders.indexOf(warm), 1);
      if (holders.length === 0) this.#byName.delete(name);
    }
    this.#blocks -= warm.names.length - from;
    warm.names.length = from;
  }
}
