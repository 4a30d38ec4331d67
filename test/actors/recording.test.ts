/** What a journal tells when it is read: all of it, up to where it was cut, or the record at which it is no longer what was written. */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { countFrames, FRAME_HEAD, MAGIC } from '../../src/actors/frames.js';
import { Journal } from '../../src/actors/journal.js';
import { openRecording } from '../../src/actors/recording.js';
import type { JournalHeader, JournalRecord } from '../../src/actors/records.js';
import { FastswitchError } from '../../src/errors.js';
import { contentsOf, encode, LIMITS, replayOf, runHeader, simulate, simulateTo } from './journals.js';
import { chances } from './live-runs.js';

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-recording-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const path = join(scratch, 'whole.journal');
/** Of one run, in several segments. */
const folder = join(scratch, 'segments');
let bytes: Buffer;
let header: JournalHeader;
let records: readonly JournalRecord[];
/** Where the frames begin; the header is the first. */
const frames: { readonly at: number; readonly end: number }[] = [];

beforeAll(async () => {
  await simulateTo(path);
  bytes = readFileSync(path);
  header = openRecording(path).header;
  records = contentsOf(path).records;
  for (let at = MAGIC.length; at < bytes.length; ) {
    const end = at + FRAME_HEAD + bytes.readUInt32LE(at);
    frames.push({ at, end });
    at = end;
  }
  const warn = (message: string) => expect.fail(message);
  await simulate((limits) => new Journal({ target: { folder, segmentBytes: 20_000 }, header: runHeader({ limits }), warn }));
});

let files = 0;
function file(content: Buffer): string {
  files += 1;
  const name = join(scratch, `changed-${files}.journal`);
  writeFileSync(name, content);
  return name;
}

function refusal(what: string): { code: string; message: string } {
  try {
    openRecording(what);
  } catch (error) {
    if (error instanceof FastswitchError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error('opened');
}

/** They are the first so many of the run. (`toEqual` takes a second for a thousand.) */
function expectFirst(read: readonly JournalRecord[], count: number): void {
  expect(read.length).toBe(count);
  expect(isDeepStrictEqual(read, records.slice(0, count))).toBe(true);
}

/** The frame of the record of this number. */
const frameOf = (record: number) => frames[record] as { at: number; end: number };

describe('a whole recording', () => {
  it('tells its header and every record, as often as it is asked', () => {
    expect(records.length).toBeGreaterThan(1000);
    expect(records.length).toBe(frames.length - 1);
    expect(records.some(({ effects }) => effects.some(([type]) => type === 'swapOut'))).toBe(true);
    const recording = openRecording(path);
    expect(recording.files).toEqual([path]);
    expect(recording.header).toMatchObject({ run: '0123abcd', segment: 1, firstRecord: 1, lost: 0, limits: header.limits });
    for (let time = 0; time < 2; time += 1) {
      const read = contentsOf(recording);
      expectFirst(read.records, records.length);
      expect(read.end).toEqual({ type: 'whole' });
    }
    expect(replayOf(header, records)).toMatchObject({ taken: records.length, divergence: null });
  });

  it('is the same in one file and in segments, and is found by its folder and by each of its files', () => {
    const names = readdirSync(folder).sort();
    expect(names.length).toBeGreaterThan(3);
    expect(names[1]).toBe('20250131T235958Z-0123abcd-0002.journal');
    const paths = names.map((name) => join(folder, name));
    for (const each of paths) expect(readFileSync(each).length).toBeLessThanOrEqual(20_000);
    for (const what of [folder, ...paths]) {
      const recording = openRecording(what);
      expect(recording.files).toEqual(paths);
      const read = contentsOf(recording);
      expectFirst(read.records, records.length);
      expect(read.end).toEqual({ type: 'whole' });
    }
  });

  it('can be left in the middle', () => {
    for (const record of openRecording(folder).records()) if (record.n === 700) return;
    throw new Error('no record 700');
  });

  it('of no record is open', () => {
    const empty = file(bytes.subarray(0, frameOf(1).at));
    expect(contentsOf(empty)).toEqual({ records: [], end: { type: 'open' } });
  });
});

describe('a recording that was cut', () => {
  it('replays up to the cut, wherever that is', () => {
    const chance = chances(7);
    const most = (frames.at(-1) as { at: number }).at;
    for (let time = 0; time < 200; time += 1) {
      // The last record and its neighbours, frame borders, and anywhere.
      const border = frameOf(1 + Math.floor(chance() * (records.length - 1))).at;
      const offset =
        time % 4 === 0 ? border + Math.floor(3 * chance()) : Math.floor(frameOf(1).at + chance() * (most - frameOf(1).at));
      const whole = frames.filter(({ end }) => end <= offset).length - 1;
      const cut = contentsOf(file(bytes.subarray(0, offset)));
      expectFirst(cut.records, whole);
      const { at, end } = { ...frameOf(whole + 1), end: frameOf(whole).end };
      if (end === offset) expect(cut.end).toEqual({ type: 'open' });
      else expect(cut.end).toMatchObject({ type: 'cut', offset: at, bytesLeft: offset - at, lastRecord: whole });
      const { taken, divergence } = replayOf(header, cut.records);
      expect({ taken, divergence }).toEqual({ taken: whole, divergence: null });
    }
  }, 120_000);

  it('within its header is refused, with what is wrong', () => {
    for (const length of [0, 1, 7, 8, 11, 100, frameOf(0).end - 1]) {
      const { code, message } = refusal(file(bytes.subarray(0, length)));
      expect(code).toBe('bad_recording');
      expect(message).toMatch(length === 0 ? /is empty: / : /ends within its header: /);
    }
  });
});

describe('a byte that is another', () => {
  const end = (content: Buffer) => contentsOf(file(content));
  /** Flips one bit of the byte. */
  function flipped(at: number, bit: number): Buffer {
    const other = Buffer.from(bytes);
    other.writeUInt8(other.readUInt8(at) ^ (1 << bit), at);
    return other;
  }

  it('in a checksum or a body is found at its record', () => {
    const chance = chances(3);
    for (const record of [1, 2, 500, records.length - 1, records.length]) {
      const { at, end: after } = frameOf(record);
      for (let time = 0; time < 8; time += 1) {
        const place = time < 4 ? at + 4 + time : at + FRAME_HEAD + Math.floor(chance() * (after - at - FRAME_HEAD));
        const read = end(flipped(place, Math.floor(8 * chance())));
        expectFirst(read.records, record - 1);
        expect(read.end).toMatchObject({ type: 'damaged', offset: at, record, reason: 'its checksum is wrong' });
      }
    }
  });

  it('in a length is found at its record, as damage or, where it reaches behind the end, as a cut', () => {
    for (const record of [1, 500, records.length]) {
      const { at } = frameOf(record);
      const kinds = Array.from({ length: 32 }, (_, bit) => {
        const read = end(flipped(at + (bit >> 3), bit & 7));
        expectFirst(read.records, record - 1);
        expect(read.end).toMatchObject({ offset: at });
        if (read.end.type === 'cut') expect(read.end).toMatchObject({ lastRecord: record - 1, bytesLeft: bytes.length - at });
        else expect(read.end).toMatchObject({ type: 'damaged', record });
        return read.end.type;
      });
      // Longer than any record may be: no cut can look like that.
      expect(kinds.slice(25)).toEqual(Array(7).fill('damaged'));
    }
  });

  it('in the header makes it no journal', () => {
    for (const at of [0, 3, 7, 12, 15, 16, 40, frameOf(0).end - 1]) {
      const { code, message } = refusal(file(flipped(at, 2)));
      expect(code).toBe('bad_recording');
      expect(message).toMatch(/no journal, or a damaged one: /);
    }
  });
});

describe('records that are not those that were written', () => {
  const without = (from: number, to: number) => Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]);

  it('a dropped one is found at its place', () => {
    for (const record of [1, 2, 3, 40, 800, records.length - 1]) {
      const { at, end } = frameOf(record);
      const read = contentsOf(file(without(at, end)));
      expectFirst(read.records, record - 1);
      expect(read.end).toMatchObject({ type: 'damaged', offset: at, record });
    }
    const { at, end } = frameOf(800);
    expect(contentsOf(file(without(at, end))).end).toMatchObject({ reason: 'record 801 stands there' });
  });

  it('a swapped pair is found at the first of the two', () => {
    for (const record of [2, 40, 800, records.length - 1]) {
      const [one, two] = [frameOf(record), frameOf(record + 1)];
      const parts = [bytes.subarray(0, one.at), bytes.subarray(two.at, two.end), bytes.subarray(one.at, one.end)];
      const read = contentsOf(file(Buffer.concat([...parts, bytes.subarray(two.end)])));
      expectFirst(read.records, record - 1);
      expect(read.end).toMatchObject({ type: 'damaged', offset: one.at, record });
    }
  });

  it('one behind the last is found', () => {
    const closed = { ...(records.at(-1) as JournalRecord), n: records.length + 1 };
    const read = contentsOf(file(encode(header, [...records, closed])));
    expectFirst(read.records, records.length);
    expect(read.end).toMatchObject({ type: 'damaged', record: closed.n, reason: 'it stands behind the last record of the run' });
  });

  it('one with another value and a right checksum is found by its digest', () => {
    const change = (record: JournalRecord): JournalRecord => {
      switch (record.type) {
        case 'arrived':
          return { ...record, priority: record.priority + 1e-9 };
        case 'stepped':
          return { ...record, micros: record.micros + 1 };
        case 'landed':
          return { ...record, at: record.at + 1 };
        case 'reprioritized':
          return { ...record, pairs: record.pairs.with(1, (record.pairs[1] as number) / 2 + 3) };
        default:
          return { ...record, mark: (record.mark + 1) % 2 ** 32 };
      }
    };
    const seen = new Set<string>();
    for (const [index, record] of records.entries()) {
      if (record.type === 'closed' || (seen.has(record.type) && index % 211 !== 0)) continue;
      seen.add(record.type);
      const read = contentsOf(file(encode(header, records.with(index, change(record)))));
      expect(read.end).toEqual({ type: 'whole' });
      expect(replayOf(header, read.records).divergence, record.type).toMatchObject({
        record: record.n,
        expected: record.effects,
      });
    }
    expect([...seen].sort()).toEqual(expect.arrayContaining(['arrived', 'landed', 'reprioritized', 'stepped']));
  }, 120_000);
});

describe('segments', () => {
  /** A folder with the same segments, changed. */
  function copy(change: (folder: string, names: string[]) => void): string {
    const other = mkdtempSync(join(scratch, 'copy-'));
    const names = readdirSync(folder).sort();
    for (const name of names) copyFileSync(join(folder, name), join(other, name));
    change(other, names);
    return other;
  }
  /** Numbers of the last records of the segments. */
  const lasts = (): number[] => {
    let last = 0;
    return openRecording(folder).files.map((segment) => {
      last += countFrames(readFileSync(segment).subarray(MAGIC.length)) - 1;
      return last;
    });
  };

  it('without the first are refused', () => {
    const other = copy((where, [first]) => rmSync(join(where, first as string)));
    expect(refusal(other)).toEqual({
      code: 'bad_recording',
      message: expect.stringMatching(
        /0002\.journal is segment 2 of its run, and segment 1, with which it begins, is not beside it$/,
      ),
    });
  });

  it('without one in the middle end there', () => {
    const other = copy((where, names) => rmSync(join(where, names[2] as string)));
    const read = contentsOf(other);
    const lastRecord = read.records.length;
    expectFirst(read.records, lastRecord);
    expect(lastRecord).toBe(lasts()[1]);
    expect(read.end).toEqual({ type: 'missing', file: join(other, '20250131T235958Z-0123abcd-0003.journal'), lastRecord });
  });

  it('renamed so that one stands alone are refused, unless it is the first', () => {
    const other = mkdtempSync(join(scratch, 'renamed-'));
    const [first, second] = openRecording(folder).files as [string, string];
    copyFileSync(first, join(other, 'first'));
    copyFileSync(second, join(other, 'second'));
    expect(contentsOf(join(other, 'first')).records).toHaveLength(lasts()[0] as number);
    expect(refusal(join(other, 'second')).message).toMatch(
      /is segment 2 of run 0123abcd; give it the name back under which it was/,
    );
  });

  it('without the last are open', () => {
    const other = copy((where, names) => rmSync(join(where, names.at(-1) as string)));
    expect(contentsOf(other).end).toEqual({ type: 'open' });
  });

  it('cut in the last are cut; cut before that are damaged there', () => {
    const truncate = (where: string, name: string, by: number) => {
      const content = readFileSync(join(where, name));
      writeFileSync(join(where, name), content.subarray(0, content.length - by));
    };
    const last = copy((where, names) => truncate(where, names.at(-1) as string, 3));
    expect(contentsOf(last).end).toMatchObject({ type: 'cut', lastRecord: records.length - 1 });
    const middle = copy((where, names) => truncate(where, names[1] as string, 3));
    expect(contentsOf(middle).end).toMatchObject({
      type: 'damaged',
      file: expect.stringContaining('-0002.journal'),
      record: lasts()[1],
      reason: 'the segment ends within it',
    });
  });

  it('that were confused are found', () => {
    const swapped = copy((where, names) => {
      renameSync(join(where, names[1] as string), join(where, 'x'));
      renameSync(join(where, names[2] as string), join(where, names[1] as string));
      renameSync(join(where, 'x'), join(where, names[2] as string));
    });
    expect(contentsOf(swapped).end).toMatchObject({
      type: 'damaged',
      offset: 0,
      reason: 'it says that it is segment 3 of run 0123abcd',
    });
    const alien = copy((where, names) => {
      writeFileSync(join(where, names[1] as string), encode({ ...header, run: 'ffffffff', segment: 2 }, []));
    });
    expect(contentsOf(alien).end).toMatchObject({ type: 'damaged', reason: 'it says that it is segment 2 of run ffffffff' });
    const text = copy((where, names) => writeFileSync(join(where, names[1] as string), 'no journal at all'));
    expect(contentsOf(text).end).toMatchObject({ type: 'damaged', offset: 0, reason: 'it does not begin as one' });
  });

  it('of which one tells that records are missing end in a gap there', () => {
    const gap = copy((where, names) => {
      const [kept, dropped] = [records.slice(0, 10), records.slice(15)];
      for (const name of names) rmSync(join(where, name));
      writeFileSync(join(where, names[0] as string), Buffer.concat([encode(header, kept), Buffer.from([1, 2, 3])]));
      const next = { ...header, segment: 2, firstRecord: 16, lost: 5 };
      writeFileSync(join(where, names[1] as string), encode(next, dropped));
    });
    const read = contentsOf(gap);
    expect(read.records).toHaveLength(10);
    expect(read.end).toMatchObject({
      type: 'gap',
      lost: 5,
      lastRecord: 10,
      nextRecord: 16,
      file: expect.stringContaining('0002'),
    });
  });
});

describe('what is no recording', () => {
  it('is refused in clear words', () => {
    const text = join(scratch, 'text.txt');
    writeFileSync(text, '{"type": "arrived"}');
    const nothing = join(scratch, 'nothing');
    mkdirSync(nothing);
    expect(refusal(text)).toEqual({
      code: 'bad_recording',
      message: `${text} is no journal, or a damaged one: it does not begin as one`,
    });
    expect(refusal(nothing).message).toBe(`${nothing} holds no journal: no file in it ends in .journal`);
    expect(refusal(join(nothing, 'x')).message).toMatch(/^there is no .*x; give a file or folder that serve --journal wrote$/);
    expect(refusal('/dev/null').message).toBe('/dev/null is no file');
  });

  it('is refused where a folder holds several runs, which are listed', () => {
    const both = mkdtempSync(join(scratch, 'both-'));
    for (const name of readdirSync(folder)) copyFileSync(join(folder, name), join(both, name));
    writeFileSync(
      join(both, '20250201T000000Z-89abcdef-0001.journal'),
      encode({ ...header, startedAt: '2025-02-01T00:00:00.000Z' }, []),
    );
    copyFileSync(path, join(both, 'own name.journal'));
    const { code, message } = refusal(both);
    expect(code).toBe('bad_recording');
    const count = readdirSync(folder).length;
    expect(message.split('\n')).toEqual([
      `${both} holds 3 runs; name a file of one:`,
      `  ${both}/20250131T235958Z-0123abcd-0001.journal: started 2025-01-31T23:59:58.765Z, ${count} segments`,
      `  ${both}/20250201T000000Z-89abcdef-0001.journal: started 2025-02-01T00:00:00.000Z, 1 segment`,
      `  ${both}/own name.journal: started 2025-01-31T23:59:58.765Z, 1 segment`,
    ]);
    expect(contentsOf(join(both, '20250131T235958Z-0123abcd-0002.journal')).end).toEqual({ type: 'whole' });
  });

  it('is told from what another version wrote', () => {
    const { code, message } = refusal(file(encode({ format: 2, version: '9.9.9', whatever: true }, [])));
    expect(code).toBe('other_version');
    expect(message).toMatch(
      /is a journal of format 2, by fastswitch 9\.9\.9; this one reads format 1\. Read it with fastswitch 9\.9\.9\.$/,
    );
  });
});

describe('a hostile file', () => {
  const plain = fc.anything({ maxDepth: 3, withNullPrototype: false });
  /** A body that msgpackr would not write. */
  const framed = (body: Uint8Array): Buffer => {
    const head = Buffer.alloc(FRAME_HEAD);
    head.writeUInt32LE(body.length, 0);
    head.writeUInt32LE(crc32(body), 4);
    return Buffer.concat([head, body]);
  };
  const prefix = () => encode(header, records.slice(0, 3));

  it('of any bytes is damaged, cut, or refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), fc.boolean(), (noise, whole, known) => {
        const content = Buffer.concat([known ? prefix() : MAGIC, whole ? framed(noise) : noise]);
        if (!known) {
          expect(refusal(file(content)).code).toMatch(/bad_recording|other_version/);
          return;
        }
        const read = contentsOf(file(content));
        expect(read.records.length).toBeGreaterThanOrEqual(3);
        expect(read.end.type).toMatch(/damaged|cut|open/);
      }),
      { numRuns: 500 },
    );
  });

  it('of values of any shape is damaged or refused', () => {
    fc.assert(
      fc.property(
        fc.record({ n: fc.constant(4), type: fc.constantFrom(...records.map(({ type }) => type)) }),
        plain,
        (stamp, other) => {
          let content: Buffer;
          try {
            content = encode(header, [...records.slice(0, 3), { ...stamp, at: 1, effects: [], mark: 0, ...(other as object) }]);
          } catch {
            return; // not even msgpackr would write it
          }
          const read = contentsOf(file(content));
          if (read.records.length > 3) replayOf(header, read.records);
          else expect(read.end).toMatchObject({ type: 'damaged', record: 4 });
          if (typeof other === 'object' && other !== null) {
            const { code } = refusal(file(encode({ ...header, limits: { ...LIMITS, deviceBlocks: 2 ** 40 }, ...other }, [])));
            expect(code).toMatch(/bad_recording|other_version/);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  const forged: [string, unknown][] = [
    ['nothing', null],
    ['no event', { type: 'closed', at: 1 }],
    ['one without a time', { type: 'draining' }],
    ['a step of no items', { type: 'stepped', at: 1, step: 1, micros: 1, items: 7 }],
    ['a step of other items', { type: 'stepped', at: 1, step: 1, micros: 1, items: [{ id: 1 }] }],
    ['a priority without a request', { type: 'reprioritized', at: 1, items: [{ priority: 1 }] }],
    [
      'a prompt that no memory holds',
      { type: 'arrived', at: 1, id: 9, labels: [], promptTokens: 2 ** 40, maxTokens: 1, priority: 0, tenant: '', names: [] },
    ],
  ];
  it.each(forged)('that says to have crashed at %s is damaged', (_name, event) => {
    const crashed = { n: 4, at: 1, effects: [], mark: 0, type: 'crashed', event: JSON.stringify(event), error: 'broken' };
    const read = contentsOf(file(encode(header, [...records.slice(0, 3), crashed])));
    expect(read.end).toMatchObject({ type: 'damaged', record: 4, reason: 'what it crashed at is no event' });
  });

  it('that says to be long is not believed', () => {
    for (const length of [2 ** 24 + 1, 2 ** 31, 2 ** 32 - 1]) {
      const head = Buffer.alloc(FRAME_HEAD);
      head.writeUInt32LE(length, 0);
      expect(contentsOf(file(Buffer.concat([prefix(), head]))).end).toMatchObject({
        type: 'damaged',
        record: 4,
        reason: `its length of ${length} bytes is none`,
      });
    }
    const head = Buffer.alloc(FRAME_HEAD);
    head.writeUInt32LE(2 ** 24, 0);
    expect(contentsOf(file(Buffer.concat([prefix(), head]))).end).toMatchObject({ type: 'cut', bytesLeft: FRAME_HEAD });
  });

  const tricks: [string, readonly number[]][] = [
    ['an array of 4 billion', [0xdd, 0xff, 0xff, 0xff, 0xff]],
    ['a map of 4 billion', [0xdf, 0xff, 0xff, 0xff, 0xff]],
    ['a text of 4 GB', [0xdb, 0xff, 0xff, 0xff, 0xff, 0x61]],
    ['a bundle that leads back to itself', [0x9f, 0xd6, 0x62, 0xff, 0xff, 0xff, 0xf0, 0x9f]],
    ['a regular expression', [0xd4, 0x78, 0x00, 0x92, 0xa1, 0x61, 0xa0]],
    ['lists in lists', Array(200_000).fill(0x91)],
    ['a big integer', [0xc7, 0xff, 0x42, ...Array(255).fill(0x7f)]],
    ['keys that JavaScript knows', [0x81, 0xa9, ...Buffer.from('__proto__'), 0x80]],
  ];
  it.each(tricks)('with %s is damaged', (_name, body) => {
    const read = contentsOf(file(Buffer.concat([prefix(), framed(Uint8Array.from(body))])));
    expect(read.end).toMatchObject({ type: 'damaged', record: 4 });
    expect(Object.getPrototypeOf({})).toBe(Object.prototype);
  });
});
