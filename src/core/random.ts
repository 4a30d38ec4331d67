/**
 * Seeded random numbers for simulation, tests and workloads; never for anything a client could gain by guessing.
 *
 * The generator is xoshiro128** 1.1, seeded through SplitMix64, both by Blackman and Vigna as published at
 * prng.di.unimi.it. The same seed gives the same numbers on every machine, except that `exponential` and `normal` are
 * only as reproducible as the engine's logarithm and cosine.
 */

const MASK_64 = (1n << 64n) - 1n;

/** The successive outputs of SplitMix64 from a state: 64 well mixed bits each. */
function splitMix64(seed: bigint, count: number): bigint[] {
  const outputs: bigint[] = [];
  let state = seed & MASK_64;
  for (let k = 0; k < count; k++) {
    state = (state + 0x9e3779b97f4a7c15n) & MASK_64;
    let mixed = ((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK_64;
    mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & MASK_64;
    outputs.push(mixed ^ (mixed >> 31n));
  }
  return outputs;
}

/** FNV-1a, 64 bits, over the UTF-16 code units of a label. */
function labelHash(label: string): bigint {
  let hash = 0xcbf29ce484222325n;
  for (let k = 0; k < label.length; k++) hash = ((hash ^ BigInt(label.charCodeAt(k))) * 0x100000001b3n) & MASK_64;
  return hash;
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

export class Random {
  readonly #seed: bigint;
  readonly #state: Int32Array;

  /** `seed`: an integer; its low 64 bits count. */
  constructor(seed: number | bigint) {
    this.#seed = BigInt(seed) & MASK_64;
    this.#state = new Int32Array(4);
    splitMix64(this.#seed, 2).forEach((word, k) => {
      this.#state[2 * k] = Number(BigInt.asIntN(32, word));
      this.#state[2 * k + 1] = Number(BigInt.asIntN(32, word >> 32n));
    });
  }

  /** Continues from a state of the published generator instead of from a seed; four words, not all of them 0. */
  static fromState(words: readonly [number, number, number, number]): Random {
    const random = new Random(0);
    random.#state.set(words);
    return random;
  }

  /**
   * A generator of its own for one purpose. It depends on this one's seed and the label only, not on how much was drawn
   * from either, so that drawing more for one purpose changes nothing for another.
   */
  fork(label: string): Random {
    const [seed] = splitMix64(this.#seed ^ labelHash(label), 1) as [bigint];
    return new Random(seed);
  }

  /** Uniform over the integers in [0, 2^32). */
  word(): number {
    const state = this.#state;
    const s1 = state[1] as number;
    const word = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0;
    const shifted = s1 << 9;
    (state[2] as number) ^= state[0] as number;
    (state[3] as number) ^= s1;
    (state[1] as number) ^= state[2] as number;
    (state[0] as number) ^= state[3] as number;
    (state[2] as number) ^= shifted;
    state[3] = rotateLeft(state[3] as number, 11);
    return word;
  }

  /** Uniform in [0, 1), of 53 random bits. */
  next(): number {
    return ((this.word() >>> 5) * 0x4000000 + (this.word() >>> 6)) / 0x20000000000000;
  }

  /** Uniform over the integers in [0, n); n is an integer from 1 to 2^32. */
  int(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > 0x100000000) throw new Error(`random: an integer below ${n}`);
    // The words above the last multiple of n would favour small numbers.
    const limit = 0x100000000 - (0x100000000 % n);
    let word = this.word();
    while (word >= limit) word = this.word();
    return word % n;
  }

  /** Exponentially distributed, at least 0. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.next());
  }

  /** Normally distributed with mean 0 and standard deviation 1, by Box and Muller's method. */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.next()));
    return radius * Math.cos(2 * Math.PI * this.next());
  }

  /** One of the items, each equally likely; there is at least one. */
  pick<T>(items: readonly T[]): T {
    return items[this.int(items.length)] as T;
  }
}
