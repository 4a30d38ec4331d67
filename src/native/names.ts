/**
 * Names for full blocks: a hash chain over the tokens of a context. KV of a block depends on every token up to its end,
 * and so does its name. An equal name hands one user's KV to another, so it must be out of reach for someone who looks for
 * one: 128 bits of SHA-256, all of it along the chain, and a salt at the root that keeps those apart who must not share.
 */
import { createHash } from 'node:crypto';
import type { BlockName } from '../core/types.js';

const DIGEST_BYTES = 32;
const NAME_BYTES = 16;
/** Before the salt: what is hashed for a block can never be taken for a salt, however that is chosen. */
const SALT_LABEL = 'fastswitch: the salt of a context';

/**
 * The names along one growing context: SHA-256 of the digest before it (the salt's for the first) and of the block's
 * token ids as little-endian 32-bit words; the name is its first half, each byte one character. A block of 16 tokens
 * costs 1 to 2 us, so a prompt of 100,000 about 10 ms.
 */
export class BlockNames {
  /** What the next digest is made of: the last digest, then the tokens of the block that is not full yet. */
  readonly #input: Buffer;
  readonly #tokens: Int32Array;
  /** Tokens of the block that is not full yet. */
  #pending = 0;

  /** `salt`: any string; contexts of different salts have no name in common. */
  constructor(salt: string, blockTokens: number) {
    this.#input = Buffer.alloc(DIGEST_BYTES + 4 * blockTokens);
    this.#tokens = new Int32Array(this.#input.buffer, this.#input.byteOffset + DIGEST_BYTES, blockTokens);
    // UTF-16 keeps every string apart; UTF-8 would make one of all unpaired surrogates.
    this.#input.write(createHash('sha256').update(SALT_LABEL).update(salt, 'utf16le').digest('binary'), 'latin1');
  }

  /** Adds the next token. Answers the name of the block that it completes, else null. */
  append(token: number): BlockName | null {
    this.#tokens[this.#pending] = token;
    this.#pending += 1;
    return this.#pending === this.#tokens.length ? this.#complete() : null;
  }

  /** Adds the next tokens. Answers the names of the blocks that they complete, in order. */
  extend(tokens: Int32Array): BlockName[] {
    const names: BlockName[] = [];
    let at = 0;
    while (at < tokens.length) {
      const taken = Math.min(this.#tokens.length - this.#pending, tokens.length - at);
      this.#tokens.set(tokens.subarray(at, at + taken), this.#pending);
      this.#pending += taken;
      at += taken;
      if (this.#pending === this.#tokens.length) names.push(this.#complete());
    }
    return names;
  }

  #complete(): BlockName {
    this.#pending = 0;
    // As a string, a character a byte: a buffer of its own would cost as much as the hash.
    this.#input.write(createHash('sha256').update(this.#input).digest('binary'), 'latin1');
    return this.#input.toString('latin1', 0, NAME_BYTES);
  }
}
