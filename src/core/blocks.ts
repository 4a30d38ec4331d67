/**
 * The block groups of one memory: which blocks belong to whom, kept in as few contiguous runs as possible, because a
 * run is one copy when its owner is swapped. Pure bookkeeping: it knows no bytes and no requests, only numbers of
 * owners; deterministic, so that a replay finds every block where it was.
 *
 * A block is in exactly one place: in a free run, in the table of an owner, or in the unused tail that an owner keeps
 * behind its last block to grow into. Tails count as free: they are handed over when nothing else is left. The idea of
 * groups sized to the request, and of taking over the unused tail of another, is FastSwitch's (arXiv 2411.18424).
 *
 * Owners are any safe integers; one without blocks has an empty table. The cost of a call is logarithmic in the memory
 * for each run that it touches, and linear in the blocks that it moves. A call that throws has changed nothing.
 */
import { type BlockRun, RunsByLength } from './runs.js';

export type { BlockRun };

/** What an owner has. Its table is never empty between two calls: who has no blocks has no holding. */
interface Holding {
  readonly table: number[];
  /** Blocks behind the last one of the table that nobody uses. */
  tail: number;
  /** Positions [heldFrom, heldTo) of the table are in a transfer; both are 0 while none is. */
  heldFrom: number;
  heldTo: number;
}

/** What an owner has, for those who only look: borrowed and live. */
export type HoldingView = Readonly<Omit<Holding, 'table'>> & { readonly table: readonly number[] };

const NO_BLOCKS: readonly number[] = Object.freeze([]);

export class BlockMemory {
  readonly total: number;
  readonly #holdings = new Map<number, Holding>();
  readonly #freeRuns: RunsByLength;
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
    if (total > 0) this.#addFree(0, total);
  }

  /** Blocks that a call of `grow` can get: of nobody, and unused tails. */
  get free(): number {
    return this.#inFreeRuns + this.#inTails;
  }

  /** Blocks in held ranges, that is in a transfer. */
  get moving(): number {
    return this.#moving;
  }

  /** All owners that have blocks. The unused tail of each lies behind the last block of its table. */
  holdings(): Iterable<readonly [owner: number, holding: HoldingView]> {
    return this.#holdings;
  }

  /** The owner's blocks in order of position. Borrowed and live: the same array until the owner has none left. */
  table(owner: number): readonly number[] {
    return this.#holdings.get(owner)?.table ?? NO_BLOCKS;
  }

  /**
   * Adds `count` blocks to the owner's table, or changes nothing and returns false when fewer are free. Takes what
   * follows the last block first; then the smallest free run that holds the rest; then the longest ones, so that the
   * number of runs stays small. Up to `reserve` blocks that then follow the last one stay with the owner as its tail.
   */
  grow(owner: number, count: number, reserve = 0): boolean {
    if (!(Number.isInteger(count) && count >= 0 && Number.isInteger(reserve) && reserve >= 0)) {
      throw new Error(`blocks: owner ${owner} grows by ${count} with a reserve of ${reserve}`);
    }
    if (count > this.free) return false;
    if (count === 0) return true;
    const holding = this.#holdings.get(owner) ?? this.#newHolding(owner, []);
    let missing = count - this.#takeOwnTail(holding, count);
    while (this.#inFreeRuns < missing) this.#reclaimHalfOfLongestTail();
    while (missing > 0) missing -= this.#takeFree(holding, missing, reserve);
    this.#keepTail(holding, reserve);
    return true;
  }

  /**
   * From now on a transfer touches positions [from, to) of the owner's table: these blocks can be neither given back nor
   * given to another. The owner may grow meanwhile. Throws where the range is empty or beyond the table, or where the
   * owner is held already.
   */
  hold(owner: number, from = 0, to = this.table(owner).length): void {
    const holding = this.#holdings.get(owner);
    if (holding === undefined) throw new Error(`blocks: owner ${owner} is held and has no blocks`);
    if (holding.heldTo > 0) throw new Error(`blocks: owner ${owner} is held twice`);
    const { length } = holding.table;
    if (!(Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from < to && to <= length)) {
      throw new Error(`blocks: positions [${from}, ${to}) of owner ${owner} with ${length} blocks are held`);
    }
    holding.heldFrom = from;
    holding.heldTo = to;
    this.#moving += to - from;
  }

  /** The transfer has ended. Throws where the owner is not held. */
  settle(owner: number): void {
    const holding = this.#holdings.get(owner);
    if (holding === undefined || holding.heldTo === 0) throw new Error(`blocks: owner ${owner} is settled and was not held`);
    this.#moving -= holding.heldTo - holding.heldFrom;
    holding.heldFrom = 0;
    holding.heldTo = 0;
  }

  /** The end of the owner's held range, as a position; 0 where it is not held. */
  heldTo(owner: number): number {
    return this.#holdings.get(owner)?.heldTo ?? 0;
  }

  /** Gives all blocks of the owner back and returns how many they were. Throws while it is held. */
  release(owner: number): number {
    const { length } = this.table(owner);
    this.truncate(owner, 0);
    return length;
  }

  /** Gives back all but the first `count` blocks of the owner's table, and its unused tail. Throws where one is held. */
  truncate(owner: number, count: number): void {
    for (const run of contiguousRuns(this.#cutTable(owner, count))) this.#addFree(run.first, run.length);
  }

  /** What `from` has, table, tail and hold, belongs to `to` from now on. Throws where `to` has blocks. */
  rename(from: number, to: number): void {
    this.#expectNone(to);
    const holding = this.#holdings.get(from);
    if (holding !== undefined) this.#holdings.set(to, holding);
    this.#holdings.delete(from);
  }

  /**
   * All but the first `count` blocks of the owner's table become the table of `to`, in order; the owner's unused tail
   * becomes free. Returns how many moved. Throws where `to` has blocks, or where one of those that move is held.
   */
  split(owner: number, count: number, to: number): number {
    this.#expectNone(to);
    const moved = this.#cutTable(owner, count);
    if (moved.length > 0) this.#newHolding(to, moved);
    return moved.length;
  }

  /**
   * Appends the table of `owner` to the table of `to`; the unused tails of both become free, and `owner` has nothing
   * left. `to` may be held, its positions stay what they are. Throws where `owner` is held, or is `to` itself.
   */
  join(owner: number, to: number): void {
    if (owner === to) throw new Error(`blocks: owner ${owner} is joined to itself`);
    const holding = this.#holdings.get(to);
    const moved = this.#cutTable(owner, 0);
    if (holding !== undefined) {
      this.#dropTail(holding, holding.tail);
      for (const block of moved) holding.table.push(block);
    } else if (moved.length > 0) this.#newHolding(to, moved);
  }

  /** The owner's table as contiguous runs, in order of position. */
  runs(owner: number): readonly BlockRun[] {
    return contiguousRuns(this.table(owner));
  }

  /** Free runs in order of their first block, without unused tails. */
  freeRuns(): readonly BlockRun[] {
    return this.#freeRuns.all().sort((a, b) => a.first - b.first);
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
    for (const [owner, holding] of this.#holdings) {
      const { table, tail, heldFrom, heldTo } = holding;
      if (table.length === 0 || heldTo > table.length) throw new Error(`blocks: ${owner} has ${table.length}, held to ${heldTo}`);
      for (const { first, length } of contiguousRuns(table)) claim(first, length, `the table of ${owner}`);
      claim(tailFirst(table), tail, `the tail of ${owner}`);
      if (tail > 0 && this.#tailHoldings.get(tailFirst(table)) !== holding) throw new Error(`blocks: ${owner} has a lost tail`);
      inTables += table.length;
      inTails += tail;
      moving += heldTo - heldFrom;
    }
    let inFreeRuns = 0;
    for (const { first, length } of this.#freeRuns.all()) {
      claim(first, length, 'a free run');
      if (this.#freeRuns.lengthAt(first + length) > 0) throw new Error(`blocks: two free runs meet at block ${first + length}`);
      if (this.#freeRuns.lengthBefore(first + length) !== length) throw new Error(`blocks: the free run at ${first} has no end`);
      inFreeRuns += length;
    }
    const tails = this.#tails.all();
    const known = tails.filter(({ first, length }) => this.#tailHoldings.get(first)?.tail === length);
    if (known.length !== tails.length || tails.length !== this.#tailHoldings.size) throw new Error('blocks: tails of nobody');
    if (inFreeRuns !== this.#inFreeRuns) throw new Error(`blocks: ${inFreeRuns} free, counted ${this.#inFreeRuns}`);
    if (inTails !== this.#inTails) throw new Error(`blocks: ${inTails} in tails, counted ${this.#inTails}`);
    if (moving !== this.#moving) throw new Error(`blocks: ${moving} moving, counted ${this.#moving}`);
    const sum = inTables + inTails + inFreeRuns;
    if (sum !== this.total) throw new Error(`blocks: ${sum} accounted for, ${this.total} exist`);
  }

  #newHolding(owner: number, table: number[]): Holding {
    const holding: Holding = { table, tail: 0, heldFrom: 0, heldTo: 0 };
    this.#holdings.set(owner, holding);
    return holding;
  }

  #expectNone(owner: number): void {
    if (this.#holdings.has(owner)) throw new Error(`blocks: owner ${owner} gets a table and has one`);
  }

  /** Takes all but the first `count` blocks off the owner's table, for the caller to place; its tail becomes free. */
  #cutTable(owner: number, count: number): number[] {
    const holding = this.#holdings.get(owner);
    const length = holding?.table.length ?? 0;
    if (!(Number.isInteger(count) && count >= 0 && count <= length)) {
      throw new Error(`blocks: owner ${owner} with ${length} blocks is cut to ${count}`);
    }
    if (holding === undefined) return [];
    if (count < holding.heldTo) throw new Error(`blocks: owner ${owner} gives blocks away while they are in a transfer`);
    this.#dropTail(holding, holding.tail);
    if (count === 0) this.#holdings.delete(owner);
    return holding.table.splice(count);
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
    const behind = holding.table.length > 0 ? this.#freeRuns.lengthAt(next) : 0;
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
    const behind = this.#freeRuns.lengthAt(end);
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
    const before = this.#freeRuns.lengthBefore(first);
    const after = this.#freeRuns.lengthAt(first + length);
    if (before > 0) this.#freeRuns.delete(first - before, before);
    if (after > 0) this.#freeRuns.delete(first + length, after);
    this.#freeRuns.add(first - before, before + length + after);
    this.#inFreeRuns += length;
  }

  /** Takes the first `count` blocks off a free run. */
  #cutFree(run: BlockRun, count: number): void {
    this.#freeRuns.delete(run.first, run.length);
    if (count < run.length) this.#freeRuns.add(run.first + count, run.length - count);
    this.#inFreeRuns -= count;
  }
}

/** The block behind the last one of a table: where its tail starts. */
function tailFirst(table: readonly number[]): number {
  return (table[table.length - 1] ?? -1) + 1;
}

function append(table: number[], first: number, count: number): void {
  for (let block = first; block < first + count; block++) table.push(block);
}

/** Blocks in order of position as contiguous runs. */
function contiguousRuns(table: readonly number[]): BlockRun[] {
  const runs: BlockRun[] = [];
  let start = 0;
  for (let position = 1; position <= table.length; position++) {
    const first = table[start] as number;
    if (table[position] === first + position - start) continue;
    runs.push({ first, length: position - start });
    start = position;
  }
  return runs;
}
