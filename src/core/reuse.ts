/**
 * The host's copies of KV blocks: named by content, shared by whoever has the same prefix, evicted from the tail.
 *
 * Copies lie in chains. A chain is a stretch of one context: consecutive positions, in block groups of the host memory,
 * continuing another chain (from its `anchor`) or starting at position 0. So a name that is here has all names before
 * it here too, and a prefix that several requests share is stored once.
 *
 * A copy is *pinned* by who cannot do without it: a request that is off the device, a transfer in flight, a chain that
 * continues it. It is *used* by live requests that could be preempted more cheaply because of it. Unpinned copies may be
 * evicted, first those that nobody uses, longest idle first; always from the tail of a chain.
 */
import type { BlockMemory } from './blocks.js';
import type { BlockName } from './types.js';

/** The KV of one block on the host. */
export interface Copy {
  /** Null: not to be found by content (a partly filled block, or a name that another copy has). */
  readonly name: BlockName | null;
  /** Where it is in host memory. */
  readonly block: number;
  /** It has landed. */
  valid: boolean;
  pins: number;
  /** Of its pins: chains that continue it. */
  chains: number;
  users: number;
  /** Null: evicted. */
  chain: Chain | null;
}

interface Chain {
  /** In the host's block memory. */
  readonly owner: number;
  readonly copies: Copy[];
  /** What it continues; null: the start of a context. */
  readonly anchor: Copy | null;
}

/** What may be evicted to make room: copies that nobody uses, or all that are not pinned. */
export type Evictable = 'idle' | 'unpinned';

/** How many of the first `count` names are there, where whoever has one has those before it. O(log count). */
export function prefixLength(names: readonly BlockName[], count: number, has: (name: BlockName) => boolean): number {
  let low = 0;
  let high = Math.min(count, names.length);
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (has(names[middle - 1] as BlockName)) low = middle;
    else high = middle - 1;
  }
  return low;
}

export class HostCopies {
  readonly #memory: BlockMemory;
  readonly #byName = new Map<BlockName, Copy>();
  /** Chains whose last copy is unpinned: used by nobody, and used. Oldest first. */
  readonly #idle = new Set<Chain>();
  readonly #used = new Set<Chain>();
  readonly #chains = new Set<Chain>();
  #lastChain = 0;
  #unpinned = 0;
  /** Copies that only chains pin. */
  #anchors = 0;

  constructor(memory: BlockMemory) {
    this.#memory = memory;
  }

  /** Copies that nobody depends on: room that could be had. */
  get unpinned(): number {
    return this.#unpinned;
  }

  /** Copies that no request and no transfer depends on: room that could be had, from the ends of the chains. */
  get spare(): number {
    return this.#unpinned + this.#anchors;
  }

  /** It is here, landed; and so are those before it. */
  has(name: BlockName): boolean {
    return this.#byName.get(name)?.valid === true;
  }

  /** How many of the first `count` names are here, landed. O(log count). */
  find(names: readonly BlockName[], count: number): number {
    return prefixLength(names, count, (name) => this.has(name));
  }

  /** The copies of names [from, to), which `find` has counted. */
  copiesOf(names: readonly BlockName[], from: number, to: number): Copy[] {
    const copies: Copy[] = [];
    for (let position = from; position < to; position += 1) {
      const copy = this.#byName.get(names[position] as BlockName);
      if (copy === undefined || !copy.valid) throw new Error(`reuse: block ${position} of ${to} is not on the host`);
      copies.push(copy);
    }
    return copies;
  }

  /** The copy that position `position` continues; null: none, it starts the context. */
  before(names: readonly BlockName[], position: number): Copy | null {
    return position === 0 ? null : (this.copiesOf(names, position - 1, position)[0] as Copy);
  }

  /**
   * Room for copies behind `after` (null: at the start of a context), one per name; they are pinned and not valid until
   * `land`. Evicts as allowed where too little is free. Null where that does not suffice: nothing is added then.
   */
  add(after: Copy | null, names: readonly (BlockName | null)[], reserve: number, evictable: Evictable): Copy[] | null {
    if (after !== null && after.chain === null) throw new Error('reuse: continues a copy that was evicted');
    if (after !== null) this.pin(after); // not to be evicted for what continues it
    const fits = this.#makeRoom(names.length, evictable);
    const copies = fits ? this.#append(after, names, reserve) : null;
    if (after !== null) this.unpin(after);
    return copies;
  }

  /** The transfer that writes them has landed. */
  land(copies: readonly Copy[]): void {
    for (const copy of copies) copy.valid = true;
  }

  /** The transfer that should have written them has failed: they are the last of their chain and nobody else's. */
  drop(copies: readonly Copy[]): void {
    for (let index = copies.length - 1; index >= 0; index -= 1) {
      const copy = copies[index] as Copy;
      const { chain } = copy;
      if (chain === null) continue; // was let go meanwhile
      if (chain.copies[chain.copies.length - 1] !== copy) throw new Error('reuse: drops what is not last');
      if (copy.pins > 0) this.#unpinned += 1;
      copy.pins = 0;
      this.#pop(chain);
      this.#trim(chain);
    }
  }

  pin(copy: Copy): void {
    if (copy.pins > 0 && copy.pins === copy.chains) this.#anchors -= 1;
    copy.pins += 1;
    if (copy.pins > 1) return;
    this.#unpinned -= 1;
    this.#note(copy);
  }

  unpin(copy: Copy): void {
    if (copy.pins < 1) throw new Error('reuse: unpins what is not pinned');
    copy.pins -= 1;
    if (copy.pins > 0 && copy.pins === copy.chains) this.#anchors += 1;
    if (copy.pins > 0) return;
    this.#unpinned += 1;
    this.#note(copy);
  }

  /** From the last to the first: what nobody can find goes from the tail of its chain. */
  unpinAll(copies: readonly Copy[]): void {
    for (let index = copies.length - 1; index >= 0; index -= 1) this.unpin(copies[index] as Copy);
  }

  use(copy: Copy): void {
    copy.users += 1;
    if (copy.users === 1) this.#note(copy);
  }

  /** An evicted copy may still be given back. */
  unuse(copy: Copy): void {
    copy.users -= 1;
    if (copy.users === 0 && copy.chain !== null) this.#note(copy);
  }

  /** Throws an error that names the first broken invariant. */
  checkIntegrity(): void {
    let blocks = 0;
    let unpinned = 0;
    let anchors = 0;
    let names = 0;
    for (const chain of this.#chains) {
      const table = this.#memory.table(chain.owner);
      if (table.length !== chain.copies.length || table.length === 0)
        throw new Error(`reuse: chain ${chain.owner} is not its blocks`);
      if (chain.anchor !== null && (chain.anchor.chain === null || chain.anchor.pins < 1))
        throw new Error('reuse: an anchor is loose');
      for (const [index, copy] of chain.copies.entries()) {
        if (copy.block !== table[index] || copy.chain !== chain)
          throw new Error(`reuse: copy ${index} of chain ${chain.owner} is elsewhere`);
        if (copy.name !== null && this.#byName.get(copy.name) !== copy) throw new Error('reuse: a name stands for another copy');
        if (copy.name !== null) names += 1;
        if (copy.pins === 0) unpinned += 1;
        else if (copy.pins === copy.chains) anchors += 1;
      }
      const last = chain.copies[chain.copies.length - 1] as Copy;
      const list = last.pins > 0 ? null : last.users > 0 ? this.#used : this.#idle;
      for (const set of [this.#idle, this.#used])
        if (set.has(chain) !== (set === list)) throw new Error('reuse: a chain is in the wrong list');
      blocks += table.length;
    }
    if (names !== this.#byName.size) throw new Error('reuse: a name stands for an evicted copy');
    if (unpinned !== this.#unpinned) throw new Error(`reuse: ${unpinned} unpinned, counted ${this.#unpinned}`);
    if (anchors !== this.#anchors) throw new Error(`reuse: ${anchors} anchors, counted ${this.#anchors}`);
    const used = this.#memory.total - this.#memory.free;
    if (blocks !== used) throw new Error(`reuse: ${blocks} copies in ${used} blocks`);
  }

  #chainBehind(after: Copy | null): Chain {
    const chain = after?.chain ?? null;
    if (chain !== null && chain.copies[chain.copies.length - 1] === after) return chain;
    if (after !== null) this.#anchor(after);
    this.#lastChain += 1;
    const forked: Chain = { owner: this.#lastChain, copies: [], anchor: after };
    this.#chains.add(forked);
    return forked;
  }

  /** Pins it for a chain that continues it. */
  #anchor(copy: Copy): void {
    this.pin(copy);
    copy.chains += 1;
    if (copy.pins === copy.chains) this.#anchors += 1;
  }

  #unanchor(copy: Copy): void {
    if (copy.pins === copy.chains) this.#anchors -= 1;
    copy.chains -= 1;
    this.unpin(copy);
  }

  #append(after: Copy | null, names: readonly (BlockName | null)[], reserve: number): Copy[] {
    const chain = this.#chainBehind(after);
    this.#idle.delete(chain);
    this.#used.delete(chain);
    if (!this.#memory.grow(chain.owner, names.length, reserve)) throw new Error('reuse: room was made and is not there');
    const table = this.#memory.table(chain.owner);
    // Behind a copy that cannot be found nothing can be found: else a name could be here without those before it.
    let findable = after === null || after.name !== null;
    return names.map((wanted) => {
      findable &&= wanted !== null && !this.#byName.has(wanted);
      const name = findable ? wanted : null;
      const copy: Copy = { name, block: table[chain.copies.length] as number, valid: false, pins: 1, chains: 0, users: 0, chain };
      chain.copies.push(copy);
      if (name !== null) this.#byName.set(name, copy);
      return copy;
    });
  }

  #makeRoom(count: number, evictable: Evictable): boolean {
    const missing = () => count - this.#memory.free;
    if (missing() > this.spare) return false;
    for (const lists of evictable === 'idle' ? [this.#idle] : [this.#idle, this.#used]) {
      for (const chain of lists) {
        if (missing() <= 0) return true;
        this.#shorten(chain, missing(), lists === this.#used);
      }
    }
    return missing() <= 0;
  }

  /** Evicts up to `count` copies from the tail. */
  #shorten(chain: Chain, count: number, used: boolean): void {
    let left = count;
    for (
      let last = chain.copies[chain.copies.length - 1];
      last !== undefined && left > 0;
      last = chain.copies[chain.copies.length - 1]
    ) {
      if (last.pins > 0 || (last.users > 0 && !used)) break;
      this.#pop(chain);
      left -= 1;
    }
    this.#trim(chain);
  }

  /** Forgets the last copy; `#trim` gives its block back. */
  #pop(chain: Chain): void {
    const copy = chain.copies.pop() as Copy;
    copy.chain = null;
    if (copy.name !== null) this.#byName.delete(copy.name);
    this.#unpinned -= 1;
  }

  /** Gives back the blocks of popped copies, and what can never be found again; then the chain is listed where it belongs. */
  #trim(chain: Chain): void {
    const last = () => chain.copies[chain.copies.length - 1];
    for (let copy = last(); copy !== undefined && copy.name === null && copy.pins === 0 && copy.users === 0; copy = last())
      this.#pop(chain);
    const tail = last();
    const list = tail === undefined || tail.pins > 0 ? null : tail.users > 0 ? this.#used : this.#idle;
    // One that is shortened keeps its place in the line.
    for (const other of [this.#idle, this.#used]) if (other !== list) other.delete(chain);
    list?.add(chain);
    if (tail === undefined) {
      this.#memory.release(chain.owner);
      this.#chains.delete(chain);
      if (chain.anchor !== null) this.#unanchor(chain.anchor);
      return;
    }
    if (this.#memory.table(chain.owner).length > chain.copies.length) this.#memory.truncate(chain.owner, chain.copies.length);
  }

  /** Pins or users of a copy have changed. */
  #note(copy: Copy): void {
    const { chain } = copy;
    if (chain !== null && chain.copies[chain.copies.length - 1] === copy) this.#trim(chain);
  }
}
