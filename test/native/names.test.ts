/** Names of blocks: equal exactly where salt and all tokens up to the end of the block are equal. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BLOCK_TOKENS } from '../../src/core/config.js';
import { BlockNames } from '../../src/native/names.js';

const namesOf = (tokens: readonly number[], salt = '') => new BlockNames(salt, BLOCK_TOKENS).extend(Int32Array.from(tokens));
const counting = (length: number) => Array.from({ length }, (_, k) => 7 * k);
const token = fc.integer({ min: 0, max: 200_000 });

test('a name is the first half of SHA-256 of the digest before it and 16 token ids, little-endian', () => {
  const tokens = counting(48);
  let digest = createHash('sha256').update('fastswitch: the salt of a context').update('ab', 'utf16le').digest();
  const expected = [0, 1, 2].map((block) => {
    const words = Buffer.alloc(64);
    for (let k = 0; k < 16; k++) words.writeInt32LE(tokens[16 * block + k] as number, 4 * k);
    digest = createHash('sha256').update(digest).update(words).digest();
    return digest.toString('latin1', 0, 16);
  });
  expect(namesOf(tokens, 'ab')).toEqual(expected);
});

test('only full blocks have names, one each', () => {
  for (const length of [0, 1, 15, 16, 17, 31, 32, 100]) {
    const names = namesOf(counting(length));
    expect(names.length).toBe(Math.floor(length / BLOCK_TOKENS));
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toHaveLength(16);
  }
});

test('the same tokens have the same names however they come: at once, in parts, one by one', () => {
  fc.assert(
    fc.property(fc.array(token, { maxLength: 120 }), fc.array(fc.nat(120), { maxLength: 6 }), (tokens, cuts) => {
      const whole = namesOf(tokens, 's');
      const parts = new BlockNames('s', BLOCK_TOKENS);
      const ends = [...cuts.filter((cut) => cut < tokens.length).sort((a, b) => a - b), tokens.length];
      expect(ends.flatMap((end, k) => parts.extend(Int32Array.from(tokens.slice(ends[k - 1] ?? 0, end))))).toEqual(whole);
      const single = new BlockNames('s', BLOCK_TOKENS);
      expect(tokens.map((next) => single.append(next)).filter((name) => name !== null)).toEqual(whole);
    }),
  );
});

test('contexts share the names of the blocks before they part, and none behind', () => {
  fc.assert(
    fc.property(fc.array(token, { minLength: 64, maxLength: 120 }), fc.nat(63), (tokens, at) => {
      const other = tokens.with(at, (tokens[at] as number) + 1);
      const [names, others] = [namesOf(tokens), namesOf(other)];
      const shared = Math.floor(at / BLOCK_TOKENS);
      expect(others.slice(0, shared)).toEqual(names.slice(0, shared));
      const known = new Set(names);
      for (const name of others.slice(shared)) expect(known.has(name)).toBe(false);
    }),
  );
});

test('an equal block behind another beginning has another name', () => {
  const block = counting(16);
  const [first, second] = namesOf([...block, ...block]);
  expect(second).not.toBe(first);
});

test('no two salts have a name in common, however they are written', () => {
  const salts = ['', 'a', 'b', 'ab', '\0', 'é', 'e\u0301', '\ud800', '\ud801', '\ufffd'];
  const names = salts.flatMap((salt) => namesOf(counting(32), salt));
  expect(new Set(names).size).toBe(2 * salts.length);
});

test('a salt made of what a block is made of does not lead into the chain behind that block', () => {
  const tokens = counting(32);
  const root = createHash('sha256').update('fastswitch: the salt of a context').digest();
  const input = Buffer.concat([root, Buffer.from(Int32Array.from(tokens.slice(0, 16)).buffer)]);
  const [, second] = namesOf(tokens);
  for (const salt of [input.toString('utf16le'), input.toString('latin1')]) {
    expect(namesOf(tokens.slice(16), salt)).not.toContain(second);
  }
});
