/**
 * Whatever a disk does, and whenever: what is in the files of a run, what their headers say is missing, and what was counted
 * come to the same.
 */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BodyReader, FRAME_HEAD, MAGIC } from '../../src/actors/frames.js';
import type { JournalHeader, JournalRecord } from '../../src/actors/records.js';
import { Segments } from '../../src/actors/segments.js';
import { runHeader } from './journals.js';

/** What comes of an operation: which part of the bytes is taken, or which error there is instead. */
interface Outcome {
  readonly share: number;
  readonly error: string | null;
  /** Turns of the event loop until then. */
  readonly turns: number;
}

/** A fake file system in memory; it fails as it is told. */
class FakeDisk {
  readonly files = new Map<string, Buffer>();
  outcomes: Outcome[] = [];

  async #next(): Promise<Outcome> {
    const outcome = this.outcomes.shift() ?? { share: 1, error: null, turns: 0 };
    for (let turn = 0; turn < outcome.turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    return outcome;
  }

  async act(): Promise<void> {
    const { error } = await this.#next();
    if (error !== null) throw Object.assign(new Error(error), { code: error });
  }

  async open(path: string): Promise<object> {
    await this.act();
    const file = { content: Buffer.alloc(0) };
    this.files.set(path, file.content);
    return {
      // As POSIX has it: it fails, or takes some of the bytes.
      write: async (bytes: Buffer, offset = 0) => {
        const { share, error } = await this.#next();
        if (error !== null) throw Object.assign(new Error(error), { code: error });
        const taken = Math.ceil(share * (bytes.length - offset));
        file.content = Buffer.concat([file.content, bytes.subarray(offset, offset + taken)]);
        if (this.files.has(path)) this.files.set(path, file.content);
        return { bytesWritten: taken };
      },
      stat: async () => {
        await this.act();
        return { nlink: 1 };
      },
      close: () => this.act(),
    };
  }

  async unlink(path: string): Promise<void> {
    await this.act();
    this.files.delete(path);
  }
}

const disk = vi.hoisted(() => ({ now: null as unknown }));
vi.mock('node:fs/promises', () => {
  const at = () => disk.now as FakeDisk;
  return { mkdir: () => at().act(), open: (path: string) => at().open(path), unlink: (path: string) => at().unlink(path) };
});

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
afterEach(() => void vi.useRealTimers());

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

function framesOf(content: Buffer): unknown[] {
  const bodies = new BodyReader();
  const values: unknown[] = [];
  for (let at = MAGIC.length; at + FRAME_HEAD <= content.length; ) {
    const end = at + FRAME_HEAD + content.readUInt32LE(at);
    if (end > content.length) break;
    values.push(bodies.value(content.subarray(at + FRAME_HEAD, end)));
    at = end;
  }
  return values;
}

type Move = { readonly put: number; readonly size: number } | { readonly wait: number } | { readonly turn: number } | Outcome[];

const outcome: fc.Arbitrary<Outcome> = fc.record(
  {
    share: fc.oneof(fc.constant(1), fc.double({ min: 0.01, max: 1, noNaN: true })),
    error: fc.oneof({ weight: 3, arbitrary: fc.constant(null) }, fc.constantFrom('ENOSPC', 'EIO', 'EROFS')),
    turns: fc.nat(3),
  },
  { noNullPrototype: true },
);
const move: fc.Arbitrary<Move> = fc.oneof(
  fc.record({ put: fc.integer({ min: 1, max: 30 }), size: fc.constantFrom(1, 100, 3000, 70_000) }, { noNullPrototype: true }),
  fc.record({ put: fc.constant(30), size: fc.constant(700_000) }, { noNullPrototype: true }), // more than may wait
  fc.record({ put: fc.constant(1), size: fc.constant(2 ** 24) }, { noNullPrototype: true }), // more than a file may hold in one
  fc.record({ wait: fc.constantFrom(10, 100, 3000) }, { noNullPrototype: true }),
  fc.record({ turn: fc.integer({ min: 1, max: 12 }) }, { noNullPrototype: true }),
  fc.array(outcome, { minLength: 1, maxLength: 8 }),
);

describe('segments', () => {
  it('tell exactly what is missing, whatever the disk does', async () => {
    const property = fc.asyncProperty(fc.array(move, { maxLength: 25 }), async (moves) => {
      const fake = new FakeDisk();
      disk.now = fake;
      const warnings: string[] = [];
      const target = { folder: '/fake', segmentBytes: 150_000 };
      const segments = new Segments({ target, header: runHeader(), warn: (message) => warnings.push(message) });
      let n = 0;
      const put = (size: number) => {
        n += 1;
        segments.put({ n, at: n, effects: [], mark: 0, type: 'stepFailed', step: 1, error: 'x'.repeat(size) });
      };
      for (const each of moves) {
        if (Array.isArray(each)) fake.outcomes.push(...each);
        else if ('put' in each) for (let count = 0; count < each.put; count += 1) put(each.size);
        else if ('wait' in each) await vi.advanceTimersByTimeAsync(each.wait);
        else await turns(each.turn);
      }
      // The disk is well again; a last record is written in any case.
      fake.outcomes = [];
      await turns(80);
      await vi.advanceTimersByTimeAsync(3000);
      await turns(80);
      put(1);
      await segments.end(1000);
      const { records, lost, failing } = segments.status;
      expect([records + lost, failing]).toEqual([n, false]);
      let last = 0;
      let told = 0;
      let written = 0;
      const names = [...fake.files.keys()].sort();
      for (const [index, name] of names.entries()) {
        const [header, ...rest] = framesOf(fake.files.get(name) as Buffer) as [JournalHeader, ...JournalRecord[]];
        expect(header).toMatchObject({ segment: index + 1, firstRecord: last + header.lost + 1 });
        last += header.lost;
        for (const record of rest) {
          last += 1;
          expect(record.n).toBe(last);
        }
        told += header.lost;
        written += rest.length;
      }
      expect({ last, told, written }).toEqual({ last: n, told: lost, written: records });
      expect(warnings.length % 2).toBe(0);
      if (lost > 0) expect(warnings.length).toBeGreaterThan(0);
    });
    await fc.assert(property, { numRuns: 150 });
  }, 120_000);
});
