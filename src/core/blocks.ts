/**
 * The block groups of one memory: which blocks belong to whom, kept in as few contiguous runs as possible, because a
 * run is one copy when its owner is swapped. Pure bookkeeping: it knows no bytes and no requests, only numbers of
 * owners; deterministic, so that a replay finds every block where it was.
 *
 * A block is in exactly one place: in a free run, in the table of an owner, or in the unused tail that an owner keeps
 * behind its last block to grow into. Tails count as free: they are handed over when nothing else is left. The idea of
 * groups sized to the request, and of taking over the unused tail of another, is FastSwitch's (arXiv 2411.18424).
 */

/** Blocks [first, first + length) of one memory. */
export interface BlockRun {
  readonly first: number;
  readonly length: number;
}

interface Holding {
  readonly owner: number;
  readonly table: number[];
  /** Blocks behind the last one of the table that nobody uses. */
  tail: number;
  /** In a transfer. */
  held: boolean;
}

const NO_BLOCKS: readonly number[] = Object.freeze([]);

export class BlockMemory {
  readonly total: number;
  readonly #holdings = new Map<number, Holding>();
  readonly #freeRuns: RunsByLength;
  /** Length of the free run that starts (ends) at a block; 0 where none does. */
  readonly #lengthFromFirst: Int32Array;
  readonly #lengthToLast: Int32Array;
  readonly #tails: RunsByLength;
  /** The holding whose tail starts at a block. */
  readonly #tailHoldings = new Map<number, Holding>();
  #inFreeRuns = 0;
  #inTails = 0;
  #moving = 0;

  /** A memory of `total` blocks, numbered from 0, all free. */
  constructor(total: number) {
    if (!Number.isInteger(total) || total < 0) throw new Error(`blocks: a memory of ${total} blocks`);
    this.total = total;
    this.#freeRuns = new RunsByLength(total);
    this.#tails = new RunsByLength(total);
    this.#lengthFromFirst = new Int32Array(total + 1);
    this.#lengthToLast = new Int32Array(total + 1);
    if (total > 0) this.#addFree(0, total);
  }

  /** Blocks that a call of `grow` can get: of nobody, and unused tails. */
  get free(): number {
    return this.#inFreeRuns + this.#inTails;
  }

  /** Blocks in the tables of held owners, that is in a transfer. */
  get moving(): number {
    return this.#moving;
  }

  /** The owner's blocks in order of position. Borrowed and live: the same array until the owner is released. */
  table(owner: number): readonly number[] {
    return this.#holdings.get(owner)?.table ?? NO_BLOCKS;
  }

  /**
   * Adds `count` blocks to the owner's table, or changes nothing and returns false when fewer are free. Takes what
   * follows the last block first; then the smallest free run that holds the rest; then the longest ones, so that the
   * number of runs stays small. Up to `reserve` blocks that then follow the last one stay with the owner as its tail.
   */
  grow(owner: number, count: number, reserve = 0): boolean {
    if (!(Number.isInteger(count) && count >= 0)) throw new Error(`blocks: owner ${owner} grows by ${count}`);
    if (count > this.free) return false;
    if (count === 0) return true;
    const holding = this.#holdings.get(owner) ?? this.#newHolding(owner);
    if (holding.held) throw new Error(`blocks: owner ${owner} grows while its blocks are in a transfer`);
    let missing = count - this.#takeOwnTail(holding, count);
    while (this.#inFreeRuns < missing) this.#reclaimHalfOfLongestTail();
    while (missing > 0) missing -= this.#takeFree(holding, missing, reserve);
    this.#keepTail(holding, reserve);
    return true;
  }

  /** From now on a transfer touches all blocks of the owner: they can be neither released nor added to. */
  hold(owner: number): void {
    const holding = this.#holdings.get(owner);
    if (holding === undefined) throw new Error(`blocks: owner ${owner} is held and has no blocks`);
    if (holding.held) throw new Error(`blocks: owner ${owner} is held twice`);
    holding.held = true;
    this.#moving += holding.table.length;
  }

  /** The transfer has ended. */
  settle(owner: number): void {
    const holding = this.#holdings.get(owner);
    if (holding === undefined || !holding.held) throw new Error(`blocks: owner ${owner} is settled and was not held`);
    holding.held = false;
    this.#moving -= holding.table.length;
  }

  /** Gives all blocks of the owner back and returns how many they were; 0 where it has none. */
  release(owner: number): number {
    const holding = this.#holdings.get(owner);
    if (holding === undefined) return 0;
    const count = holding.table.length;
    this.truncate(owner, 0);
    this.#holdings.delete(owner);
    return count;
  }

  /** Gives back all but the first `count` blocks of the owner's table, and its unused tail. */
  truncate(owner: number, count: number): void {
    const holding = this.#holdings.get(owner);
    const length = holding?.table.length ?? 0;
    if (!(Number.isInteger(count) && count >= 0 && count <= length)) {
      throw new Error(`blocks: owner ${owner} with ${length} blocks is truncated to ${count}`);
    }
    if (holding === undefined) return;
    if (holding.held) throw new Error(`blocks: owner ${owner} gives blocks back while they are in a transfer`);
    this.#dropTail(holding, holding.tail);
    for (const run of contiguousRuns(holding.table, count)) this.#addFree(run.first, run.length);
    holding.table.length = count;
  }

  /** The owner's table as contiguous runs, in order of position. */
  runs(owner: number): readonly BlockRun[] {
    return contiguousRuns(this.table(owner), 0);
  }

  /** Free runs in order of their first block, without unused tails. */
  freeRuns(): readonly BlockRun[] {
    const runs: BlockRun[] = [];
    for (let block = 0; block < this.total; ) {
      const length = this.#lengthFromFirst[block] ?? 0;
      if (length > 0) runs.push({ first: block, length });
      block += Math.max(1, length);
    }
    return runs;
  }

  /** Throws an error that names the first broken invariant: every block in exactly one place, all sums right. */
  checkIntegrity(): void {
    const places: string[] = [''];
    const placeOf = new Int32Array(this.total);
    const claim = (first: number, length: number, place: string): void => {
      places.push(place);
      for (let block = first; block < first + length; block++) {
        if (block < 0 || block >= this.total) throw new Error(`blocks: ${place} has block ${block} of ${this.total}`);
        const other = placeOf[block] as number;
        if (other !== 0) throw new Error(`blocks: block ${block} is in ${place} and in ${places[other]}`);
        placeOf[block] = places.length - 1;
      }
    };
    let inTables = 0;
    let inTails = 0;
    let moving = 0;
    for (const { owner, table, tail, held } of this.#holdings.values()) {
      for (const { first, length } of contiguousRuns(table, 0)) claim(first, length, `the table of ${owner}`);
      if (tail > 0) claim(tailFirst(table), tail, `the tail of ${owner}`);
      if (tail > 0 && !this.#tails.has(tailFirst(table), tail)) throw new Error(`blocks: the tail of ${owner} is not known`);
      inTables += table.length;
      inTails += tail;
      if (held) moving += table.length;
    }
    let inFreeRuns = 0;
    let lastEnd = -1;
    const freeRuns = this.freeRuns();
    for (const { first, length } of freeRuns) {
      claim(first, length, 'a free run');
      if (first === lastEnd) throw new Error(`blocks: two free runs meet at block ${first}`);
      if (this.#lengthToLast[first + length - 1] !== length) throw new Error(`blocks: the free run at ${first} ends elsewhere`);
      if (!this.#freeRuns.has(first, length)) throw new Error(`blocks: the free run at ${first} is not indexed by length`);
      lastEnd = first + length;
      inFreeRuns += length;
    }
    if (freeRuns.length !== this.#freeRuns.size) throw new Error('blocks: the index by length has runs that are not free');
    if (this.#tails.size !== this.#tailHoldings.size) throw new Error('blocks: tails and their owners differ in number');
    if (inFreeRuns !== this.#inFreeRuns) throw new Error(`blocks: ${inFreeRuns} free, counted ${this.#inFreeRuns}`);
    if (inTails !== this.#inTails) throw new Error(`blocks: ${inTails} in tails, counted ${this.#inTails}`);
    if (moving !== this.#moving) throw new Error(`blocks: ${moving} moving, counted ${this.#moving}`);
    const sum = inTables + inTails + inFreeRuns;
    if (sum !== this.total) throw new Error(`blocks: ${sum} accounted for, ${this.total} exist`);
  }

  #newHolding(owner: number): Holding {
    const holding: Holding = { owner, table: [], tail: 0, held: false };
    this.#holdings.set(owner, holding);
    return holding;
  }

  /** Moves up to `count` blocks from the owner's tail into its table; returns how many. */
  #takeOwnTail(holding: Holding, count: number): number {
    const taken = Math.min(count, holding.tail);
    if (taken === 0) return 0;
    const first = tailFirst(holding.table);
    const rest = holding.tail - taken;
    this.#setTail(holding, 0);
    append(holding.table, first, taken);
    this.#setTail(holding, rest);
    return taken;
  }

  /** Moves up to `missing` blocks from one free run into the table; returns how many. There is a free run. */
  #takeFree(holding: Holding, missing: number, reserve: number): number {
    const next = tailFirst(holding.table);
    const behind = holding.table.length > 0 ? (this.#lengthFromFirst[next] ?? 0) : 0;
    const run =
      behind > 0
        ? { first: next, length: behind }
        : (this.#freeRuns.smallestOf(missing + reserve) ?? this.#freeRuns.smallestOf(missing) ?? this.#freeRuns.longest());
    if (run === null) throw new Error(`blocks: ${this.#inFreeRuns} blocks counted as free, no free run`);
    const taken = Math.min(missing, run.length);
    this.#cutFree(run, taken);
    append(holding.table, run.first, taken);
    return taken;
  }

  /** Lengthens the tail to `reserve` blocks, as far as the free run behind it reaches; never shortens it. */
  #keepTail(holding: Holding, reserve: number): void {
    const end = tailFirst(holding.table) + holding.tail;
    const behind = this.#lengthFromFirst[end] ?? 0;
    const more = Math.min(reserve - holding.tail, behind);
    if (more <= 0) return;
    this.#cutFree({ first: end, length: behind }, more);
    this.#setTail(holding, holding.tail + more);
  }

  /** The back half of the longest tail becomes free. There is a tail. */
  #reclaimHalfOfLongestTail(): void {
    const longest = this.#tails.longest();
    const donor = longest === null ? undefined : this.#tailHoldings.get(longest.first);
    if (donor === undefined) throw new Error(`blocks: ${this.#inTails} blocks counted in tails, no tail`);
    this.#dropTail(donor, Math.ceil(donor.tail / 2));
  }

  /** The last `count` blocks of the tail become free. */
  #dropTail(holding: Holding, count: number): void {
    if (count === 0) return;
    const rest = holding.tail - count;
    this.#setTail(holding, rest);
    this.#addFree(tailFirst(holding.table) + rest, count);
  }

  #setTail(holding: Holding, length: number): void {
    const first = tailFirst(holding.table);
    if (holding.tail > 0) {
      this.#tails.delete(first, holding.tail);
      this.#tailHoldings.delete(first);
    }
    if (length > 0) {
      this.#tails.add(first, length);
      this.#tailHoldings.set(first, holding);
    }
    this.#inTails += length - holding.tail;
    holding.tail = length;
  }

  /** These blocks are free from now on; merges them with the free runs on both sides. */
  #addFree(first: number, length: number): void {
    const before = first > 0 ? (this.#lengthToLast[first - 1] ?? 0) : 0;
    const after = this.#lengthFromFirst[first + length] ?? 0;
    if (before > 0) this.#forgetFree(first - before, before);
    if (after > 0) this.#forgetFree(first + length, after);
    this.#noteFree(first - before, before + length + after);
    this.#inFreeRuns += length;
  }

  /** Takes the first `count` blocks off a free run. */
  #cutFree(run: BlockRun, count: number): void {
    this.#forgetFree(run.first, run.length);
    if (count < run.length) this.#noteFree(run.first + count, run.length - count);
    this.#inFreeRuns -= count;
  }

  #noteFree(first: number, length: number): void {
    this.#lengthFromFirst[first] = length;
    this.#lengthToLast[first + length - 1] = length;
    this.#freeRuns.add(first, length);
  }

  #forgetFree(first: number, length: number): void {
    this.#lengthFromFirst[first] = 0;
    this.#lengthToLast[first + length - 1] = 0;
    this.#freeRuns.delete(first, length);
  }
}

/** The block behind the last one of a table: where its tail starts. */
function tailFirst(table: readonly number[]): number {
  return (table[table.length - 1] ?? -1) + 1;
}

function append(table: number[], first: number, count: number): void {
  for (let block = first; block < first + count; block++) table.push(block);
}

/** The blocks of a table from position `from` on as contiguous runs. */
function contiguousRuns(table: readonly number[], from: number): BlockRun[] {
  const runs: BlockRun[] = [];
  let start = from;
  for (let position = from + 1; position <= table.length; position++) {
    const first = table[start] ?? 0;
    if (table[position] === first + position - start) continue;
    runs.push({ first, length: position - start });
    start = position;
  }
  return runs;
}

/**
 * A set of runs ordered by length, then by first block: what best fit and "the longest" are asked of. One sorted array
 * of numbers, a run per number: a search is O(log n); an insertion also moves the numbers behind it, one memory move
 * that stays in the microseconds for the thousands of runs that a memory can fall into.
 */
class RunsByLength {
  /** length x base + first: sorts by length, then by first block. Exact below 2^53. */
  readonly #keys: number[] = [];
  readonly #base: number;

  /** Runs of a memory of `total` blocks. */
  constructor(total: number) {
    this.#base = total + 1;
  }

  get size(): number {
    return this.#keys.length;
  }

  add(first: number, length: number): void {
    const key = this.#key(first, length);
    this.#keys.splice(this.#position(key), 0, key);
  }

  /** The run must be in the set. */
  delete(first: number, length: number): void {
    const key = this.#key(first, length);
    const position = this.#position(key);
    if (this.#keys[position] !== key) throw new Error(`runs: no run of ${length} blocks at ${first}`);
    this.#keys.splice(position, 1);
  }

  has(first: number, length: number): boolean {
    const key = this.#key(first, length);
    return this.#keys[this.#position(key)] === key;
  }

  /** The shortest run of at least `length` blocks, the first of equals; null where all are shorter. */
  smallestOf(length: number): BlockRun | null {
    return this.#run(this.#position(this.#key(0, length)));
  }

  /** The longest run, the last of equals; null where there is none. */
  longest(): BlockRun | null {
    return this.#run(this.#keys.length - 1);
  }

  #key(first: number, length: number): number {
    return length * this.#base + first;
  }

  #run(position: number): BlockRun | null {
    const key = this.#keys[position];
    if (key === undefined) return null;
    const first = key % this.#base;
    return { first, length: (key - first) / this.#base };
  }

  /** Where the first key not below this one stands. */
  #position(key: number): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#keys[middle] ?? 0) < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
