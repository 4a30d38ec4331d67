import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { FastswitchError } from '../../src/errors.js';
import { openCheckpoint, parseSafetensors, readSafetensors } from '../../src/native/safetensors.js';
import { emptyFolder, fixture, refusal, removeFolders } from './folders.js';

afterAll(removeFolders);

type Entry = { dtype: string; shape: number[]; data_offsets: number[] };

/** A file of the format: header length, header (an object, or text as it is), `dataBytes` zeros. */
function encode(header: Record<string, unknown> | string, dataBytes: number): Buffer {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(Buffer.byteLength(text) / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}

const entry = (dtype: string, shape: number[], begin: number, end: number): Entry => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

function save(bytes: Buffer, name = 'model.safetensors', folder = emptyFolder()): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** Parses, or refuses with a `bad_model`; any other outcome throws. Returns whether it parsed. */
function parsesOrRefuses(act: () => unknown): boolean {
  try {
    act();
    return true;
  } catch (error) {
    if (error instanceof FastswitchError && error.code === 'bad_model') return false;
    throw error;
  }
}

const GOOD = { first: entry('F32', [2, 3], 0, 24), second: entry('BF16', [4], 24, 32) };

describe('a safetensors file', () => {
  it('gives every tensor with its place in the file', () => {
    const bytes = encode({ __metadata__: { format: 'pt' }, ...GOOD }, 32);
    const file = readSafetensors(save(bytes));
    expect(file.bytes).toBe(bytes.length);
    expect([...file.metadata]).toEqual([['format', 'pt']]);
    expect([...file.tensors.values()]).toEqual([
      { name: 'first', dtype: 'F32', shape: [2, 3], offset: bytes.length - 32, bytes: 24 },
      { name: 'second', dtype: 'BF16', shape: [4], offset: bytes.length - 8, bytes: 8 },
    ]);
  });

  it('may hold scalars, empty tensors and dtypes of the future', () => {
    const header = {
      scalar: entry('F32', [], 0, 4),
      empty: entry('F32', [0, 1e15, 1e15], 4, 4),
      odd: entry('F2_NEW', [9], 4, 8),
      half: entry('F4', [3, 2], 8, 11),
    };
    expect(readSafetensors(save(encode(header, 11))).tensors.size).toBe(4);
  });

  it('may have a header of any length', () => {
    const json = Buffer.from('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} ');
    expect(parseSafetensors('odd', json, 8 + json.length + 4).tensors.get('a')?.offset).toBe(8 + json.length);
  });

  it('may list its tensors in any order and name them like parts of an object', () => {
    const text =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"toString":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    expect([...readSafetensors(save(encode(text, 2))).tensors.keys()]).toEqual(['__proto__', 'toString']);
  });

  it.each<[flaw: string, header: Record<string, unknown> | string, dataBytes: number, says: RegExp]>([
    ['a tensor beyond the end', { a: entry('F32', [4], 0, 16) }, 12, /"a".*\[0, 16\] lie outside the 12 bytes/],
    ['offsets in the wrong order', { a: entry('F32', [1], 8, 4) }, 8, /lie outside/],
    ['a hole', { a: entry('U8', [4], 0, 4), b: entry('U8', [4], 8, 12) }, 12, /"b": leaves a hole of 4 bytes/],
    ['a hole at the start', { a: entry('U8', [4], 4, 8) }, 8, /leaves a hole of 4/],
    ['an overlap', { a: entry('U8', [8], 0, 8), b: entry('U8', [8], 4, 12) }, 12, /"b": overlaps/],
    ['two tensors at one place', { a: entry('U8', [8], 0, 8), b: entry('U8', [8], 0, 8) }, 8, /overlaps/],
    ['bytes after the last tensor', { a: entry('U8', [4], 0, 4) }, 9, /end at byte \d+, the file at/],
    [
      'a size that is not shape times dtype',
      { a: entry('BF16', [3, 5], 0, 32) },
      32,
      /BF16 of shape \[3, 5\] takes 30 bytes, data_offsets give 32/,
    ],
    ['a shape beyond all numbers', { a: entry('F32', [1e15, 1e15], 0, 4) }, 4, /more than any file/],
    ['half a byte', { a: entry('F4', [3], 0, 2) }, 2, /F4/],
    ['misaligned data', { a: entry('U8', [1], 0, 1), b: entry('F32', [1], 1, 5) }, 5, /"b".*not aligned for F32/],
    ['a negative size', { a: entry('F32', [-1], 0, 4) }, 4, /"shape" is no list/],
    ['a fraction', { a: { dtype: 'F32', shape: [1], data_offsets: [0, 4.5] } }, 4, /data_offsets/],
    ['three offsets', { a: { dtype: 'F32', shape: [1], data_offsets: [0, 4, 4] } }, 4, /data_offsets/],
    ['no dtype', { a: { shape: [1], data_offsets: [0, 4] } }, 4, /"dtype"/],
    ['a tensor that is a number', { a: 7 }, 0, /expected an object/],
    ['metadata that is no text', { __metadata__: { epoch: 3 } }, 0, /"epoch"/],
    ['metadata that is a list', { __metadata__: [] }, 0, /__metadata__/],
    [
      'a name given twice',
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      1,
      /gives "a" twice/,
    ],
    [
      'a name given twice in other spelling',
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061" :{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
      2,
      /twice/,
    ],
    ['a field given twice', '{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1, /"dtype" twice/],
    ['a list instead of an object', '[1, 2]', 0, /expected a JSON object/],
    ['endless nesting', `${'['.repeat(100_000)}`, 0, /nests deeper/],
    ['no JSON at all', 'not json', 0, /cannot be parsed/],
  ])('is refused for %s', (_flaw, header, dataBytes, says) => {
    const path = save(encode(header, dataBytes));
    const message = refusal(() => readSafetensors(path));
    expect(message).toMatch(says);
    expect(message).toContain(path);
  });

  it('is refused where the header is not UTF-8, or begins with a mark', () => {
    const bytes = encode('{"aaaa":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', 0);
    bytes[10] = 0xff;
    expect(refusal(() => readSafetensors(save(bytes)))).toMatch(/UTF-8/);
    expect(refusal(() => readSafetensors(save(encode('\ufeff{}', 0))))).toMatch(/cannot be parsed/);
  });

  it.each([0n, 1n, 100_000_001n, 2n ** 63n, 2n ** 64n - 1n])('is refused where it declares a header of %s bytes', (declared) => {
    const bytes = encode(GOOD, 32);
    bytes.writeBigUInt64LE(declared);
    expect(refusal(() => readSafetensors(save(bytes)))).toMatch(/declares a header of/);
  });

  it('is refused where it is missing, a folder, or empty', () => {
    const folder = emptyFolder();
    expect(refusal(() => readSafetensors(join(folder, 'absent.safetensors')))).toMatch(/cannot be read/);
    expect(refusal(() => readSafetensors(folder))).toMatch(/no regular file/);
    expect(refusal(() => readSafetensors(save(Buffer.alloc(0))))).toMatch(/too few/);
  });

  it('is refused at every length but its own', () => {
    const bytes = encode({ __metadata__: { format: 'pt' }, ...GOOD }, 32);
    const path = save(bytes);
    for (let length = 0; length < bytes.length; length += 1) {
      writeFileSync(path, bytes.subarray(0, length));
      refusal(() => readSafetensors(path));
    }
    writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(1)]));
    refusal(() => readSafetensors(path));
    writeFileSync(path, bytes);
    expect(readSafetensors(path).tensors.size).toBe(2);
  });
});

describe('whatever a file holds, it parses or is refused', () => {
  const parse =
    (bytes: Buffer): (() => unknown) =>
    () =>
      parseSafetensors('random', bytes, bytes.length + 8);

  it('random bytes as a file', () => {
    const path = save(Buffer.alloc(1));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        writeFileSync(path, bytes);
        expect(parsesOrRefuses(() => readSafetensors(path))).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  it('random bytes and random JSON as a header', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void parsesOrRefuses(parse(Buffer.from(bytes)))),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(fc.json({ maxDepth: 5 }), (text) => void parsesOrRefuses(parse(Buffer.from(text)))),
      { numRuns: 1000 },
    );
  });

  it('a true header with bytes flipped, put in or taken out', () => {
    const header = Buffer.from(JSON.stringify({ __metadata__: { format: 'pt' }, ...GOOD }));
    const change = fc.record({
      at: fc.nat(header.length - 1),
      value: fc.nat(255),
      kind: fc.constantFrom('flip', 'insert', 'remove'),
    });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        let bytes = Buffer.from(header);
        for (const { at, value, kind } of changes) {
          const rest = bytes.subarray(kind === 'insert' ? at : at + 1);
          bytes = Buffer.concat([bytes.subarray(0, at), kind === 'remove' ? Buffer.alloc(0) : Buffer.of(value), rest]);
        }
        parsesOrRefuses(() => parseSafetensors('flipped', bytes, 8 + bytes.length + 32));
      }),
      { numRuns: 3000 },
    );
  });

  it('lying offsets, shapes and dtypes: what parses covers the data exactly once', () => {
    const dtype = fc.constantFrom('F32', 'BF16', 'U8', 'F4', 'F64', 'WHAT', '');
    const number = fc.oneof(fc.nat(40), fc.constantFrom(-1, 0.5, 2 ** 53, 1e308, 4, 8, 16, 24, 32));
    const tensor = fc.record({
      dtype,
      shape: fc.array(number, { maxLength: 3 }),
      data_offsets: fc.array(number, { minLength: 2, maxLength: 2 }),
    });
    fc.assert(
      fc.property(fc.dictionary(fc.string({ maxLength: 6 }), tensor, { maxKeys: 4 }), fc.nat(40), (header, dataBytes) => {
        const json = Buffer.from(JSON.stringify(header));
        const fileBytes = 8 + json.length + dataBytes;
        parsesOrRefuses(() => {
          const stored = [...parseSafetensors('lying', json, fileBytes).tensors.values()];
          expect(stored.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(dataBytes);
          for (const { offset, bytes } of stored) expect(offset >= 8 + json.length && offset + bytes <= fileBytes).toBe(true);
        });
      }),
      { numRuns: 3000 },
    );
  });

  it('any true layout parses to what was written', () => {
    const shapes = fc.array(fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }), { maxLength: 8 });
    fc.assert(
      fc.property(shapes, (all) => {
        let end = 0;
        const header = Object.fromEntries(
          all.map((shape, index) => {
            const begin = end;
            end += 4 * shape.reduce((product, extent) => product * extent, 1);
            return [`t${index}`, entry('F32', shape, begin, end)];
          }),
        );
        const bytes = encode(header, end);
        const parsed = parseSafetensors('true', bytes.subarray(8, bytes.length - end), bytes.length);
        expect([...parsed.tensors.values()].map(({ shape }) => shape)).toEqual(all);
      }),
    );
  });
});

describe('a folder of weights', () => {
  const index = (weightMap: Record<string, unknown>): Buffer =>
    Buffer.from(JSON.stringify({ metadata: { total_size: 32 }, weight_map: weightMap }));

  function sharded(weightMap: Record<string, unknown>): string {
    const folder = emptyFolder();
    save(encode({ first: GOOD.first }, 24), 'model-1.safetensors', folder);
    save(encode({ second: entry('BF16', [4], 0, 8) }, 8), 'model-2.safetensors', folder);
    save(index(weightMap), 'model.safetensors.index.json', folder);
    return folder;
  }

  it('may be split into shards', () => {
    const checkpoint = openCheckpoint(sharded({ first: 'model-1.safetensors', second: 'model-2.safetensors' }));
    expect(checkpoint.files.map(({ path }) => basename(path))).toEqual(['model-1.safetensors', 'model-2.safetensors']);
    expect([...checkpoint.tensors.values()].map(({ name, file }) => [name, file])).toEqual([
      ['first', 0],
      ['second', 1],
    ]);
  });

  it('holds of a shard only what the index names', () => {
    const checkpoint = openCheckpoint(sharded({ first: 'model-1.safetensors' }));
    expect([...checkpoint.tensors.keys()]).toEqual(['first']);
  });

  it.each([
    ['../secret.safetensors'],
    ['/etc/secret.safetensors'],
    ['sub/model.safetensors'],
    ['..\\secret.safetensors'],
    ['C:\\secret.safetensors'],
    ['..'],
    ['.safetensors'],
    ['a\0.safetensors'],
    [''],
    ['model.bin'],
    [7],
    [null],
  ])('never leads to the shard %j', (shard) => {
    expect(refusal(() => openCheckpoint(sharded({ first: shard })))).toMatch(/must be a \*\.safetensors file|is no string/);
  });

  it('is refused where a shard is missing, or does not hold what the index says', () => {
    expect(refusal(() => openCheckpoint(sharded({ first: 'model-9.safetensors' })))).toMatch(
      /"model-9\.safetensors", which is not in the folder; download it/,
    );
    expect(refusal(() => openCheckpoint(sharded({ second: 'model-1.safetensors' })))).toMatch(
      /places tensor "second" in "model-1\.safetensors", which does not hold it/,
    );
  });

  it('is refused where the index is no index', () => {
    for (const text of [
      '',
      '{}',
      '[]',
      '{"weight_map":[]}',
      '{"weight_map":{}}',
      '{"weight_map":{"a":"b.safetensors","a":"c.safetensors"}}',
      'null',
    ]) {
      const folder = emptyFolder();
      save(Buffer.from(text), 'model.safetensors.index.json', folder);
      refusal(() => openCheckpoint(folder));
    }
  });

  it('is refused where it holds no weights, saying how to convert them', () => {
    const folder = emptyFolder();
    mkdirSync(join(folder, 'model.safetensors.d'));
    expect(refusal(() => openCheckpoint(folder))).toMatch(/has neither model\.safetensors.*safe_serialization=True/);
  });

  it('written by the reference library is read whole', () => {
    const whole = readSafetensors(join(fixture('llama2'), 'model.safetensors'));
    expect(whole.metadata.get('format')).toBe('pt');
    expect(whole.bytes).toBe(readFileSync(whole.path).length);
    expect(openCheckpoint(fixture('mistral')).files).toHaveLength(2);
  });
});
