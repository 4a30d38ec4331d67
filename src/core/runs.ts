/** Runs of blocks by their lengths: what `blocks.ts` finds room with. */

/** Blocks [first, first + length) of one memory. */
export interface BlockRun {
  readonly first: number;
  readonly length: number;
}

/**
 * Runs that do not overlap, to be asked for best fit and for the longest. For each length a list of its runs, linked both
 * ways through arrays over their first blocks; over the lengths a binary tree of flags. Among runs of equal length the
 * one that came last is found first.
 */
export class RunsByLength {
  /** First run by length, next and previous run of the same length by first block; -1 where there is none. */
  readonly #heads: Int32Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** Length of the run that starts at a block, and of the one that ends before it; 0 where there is none. */
  readonly #lengthAt: Int32Array;
  readonly #lengthBefore: Int32Array;
  /** The children of node i are 2i and 2i + 1, the leaf of length n is `leaves` + n: 1 where a length below has a run. */
  readonly #some: Uint8Array;
  readonly #leaves: number;

  /** Runs of a memory of `total` blocks. */
  constructor(total: number) {
    this.#heads = new Int32Array(total + 1).fill(-1);
    this.#next = new Int32Array(total);
    this.#previous = new Int32Array(total);
    this.#lengthAt = new Int32Array(total + 1);
    this.#lengthBefore = new Int32Array(total + 1);
    this.#leaves = 1 << (32 - Math.clz32(total)); // lengths 0 to total
    this.#some = new Uint8Array(2 * this.#leaves);
  }

  /** Length of the run that starts at this block; 0 where none does. The memory's end may be asked for too. */
  lengthAt(block: number): number {
    return this.#lengthAt[block] as number;
  }

  /** Length of the run that ends before this block; 0 where none does. */
  lengthBefore(block: number): number {
    return this.#lengthBefore[block] as number;
  }

  add(first: number, length: number): void {
    const next = this.#heads[length] as number;
    if (next >= 0) this.#previous[next] = first;
    this.#next[first] = next;
    this.#previous[first] = -1;
    this.#heads[length] = first;
    this.#lengthAt[first] = length;
    this.#lengthBefore[first + length] = length;
    for (let node = this.#leaves + length; node > 0 && this.#some[node] === 0; node >>= 1) this.#some[node] = 1;
  }

  /** The run must be there. */
  delete(first: number, length: number): void {
    if (this.#lengthAt[first] !== length) throw new Error(`runs: no run of ${length} blocks at ${first}`);
    const next = this.#next[first] as number;
    const previous = this.#previous[first] as number;
    if (next >= 0) this.#previous[next] = previous;
    if (previous >= 0) this.#next[previous] = next;
    else this.#heads[length] = next;
    this.#lengthAt[first] = 0;
    this.#lengthBefore[first + length] = 0;
    if (this.#heads[length] !== -1) return;
    let node = this.#leaves + length;
    this.#some[node] = 0;
    for (; node > 1 && this.#some[node ^ 1] === 0; node >>= 1) this.#some[node >> 1] = 0;
  }

  /** A shortest run of at least `length` blocks; null where all are shorter. */
  smallestOf(length: number): BlockRun | null {
    if (length >= this.#leaves) return null;
    let node = this.#leaves + length;
    while (this.#some[node] === 0) {
      // To the right neighbour, past the parents that this node is the last child of.
      while ((node & 1) === 1) node >>= 1;
      if (node === 0) return null;
      node += 1;
    }
    while (node < this.#leaves) node = 2 * node + 1 - (this.#some[2 * node] as number);
    return this.#firstOf(node);
  }

  /** A longest run; null where there is none. */
  longest(): BlockRun | null {
    if (this.#some[1] === 0) return null;
    let node = 1;
    while (node < this.#leaves) node = 2 * node + (this.#some[2 * node + 1] as number);
    return this.#firstOf(node);
  }

  /** From the shortest to the longest, as the lists have them. */
  all(): BlockRun[] {
    const runs: BlockRun[] = [];
    for (let run = this.smallestOf(0); run !== null; run = this.smallestOf(run.length + 1)) {
      for (let { first } = run; first >= 0; first = this.#next[first] as number) runs.push({ first, length: run.length });
    }
    return runs;
  }

  #firstOf(leaf: number): BlockRun {
    const length = leaf - this.#leaves;
    return { first: this.#heads[length] as number, length };
  }
}
