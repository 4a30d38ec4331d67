/**
 * API keys: how they are made, what is kept of them, and how one that was sent is found among those that are known.
 *
 * Only the SHA-256 of a key is ever kept. A slow hash (scrypt, bcrypt) protects what people choose and others can guess;
 * a key is 256 random bits, which nobody guesses however fast the hash is, and it is hashed at every request.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

const PREFIX = 'fsk_';
/** 256 bits. */
const KEY_BYTES = 32;
const HASH_SHAPE = /^sha256:([0-9a-f]{64})$/;

/** A new key. It exists nowhere else: whoever makes it has to show it. */
export function newKey(): string {
  return PREFIX + randomBytes(KEY_BYTES).toString('base64url');
}

function sha256(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

/** What is written down of a key: `sha256:` and 64 hexadecimal digits. */
export function hashOf(key: string): string {
  return `sha256:${sha256(key).toString('hex')}`;
}

/** The digest in such a text; null where it is none. */
export function readHash(text: string): Buffer | null {
  const digits = HASH_SHAPE.exec(text)?.[1];
  return digits === undefined ? null : Buffer.from(digits, 'hex');
}

/**
 * Finds whose key it is, in a time that tells nothing about the keys that are known: they are filed under a digest with a
 * secret of this process, so that nobody outside can choose what is compared with what, and the last comparison takes as
 * long whether it fits or not.
 */
export class KeyRing<Owner> {
  readonly #secret = randomBytes(KEY_BYTES);
  readonly #entries = new Map<string, { readonly hash: Buffer; readonly owner: Owner }>();

  /** False where the key is another's already. */
  add(hash: Buffer, owner: Owner): boolean {
    const place = this.#place(hash);
    if (this.#entries.has(place)) return false;
    this.#entries.set(place, { hash, owner });
    return true;
  }

  find(key: string): Owner | null {
    const hash = sha256(key);
    const entry = this.#entries.get(this.#place(hash));
    return entry !== undefined && timingSafeEqual(entry.hash, hash) ? entry.owner : null;
  }

  #place(hash: Buffer): string {
    return createHmac('sha256', this.#secret).update(hash).digest('base64');
  }
}
