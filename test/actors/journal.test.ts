/** What is recorded comes back as it was, whatever it is; and nothing that goes wrong with it reaches whoever is recorded. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  createReadStream,
  createWriteStream,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import fc from 'fast-check';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { Journal } from '../../src/actors/journal.js';
import { openRecording } from '../../src/actors/recording.js';
import { eventOf, type JournalRecord, Recorder } from '../../src/actors/records.js';
import type { JournalTarget } from '../../src/actors/segments.js';
import { GREEDY } from '../../src/core/config.js';
import type { Cause, Effect, Event, StepItem, SteppedItem } from '../../src/core/types.js';
import { contentsOf, runHeader } from './journals.js';

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-journal-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const newFolder = () => mkdtempSync(join(scratch, 'run-'));
const SEGMENT = 2 ** 26;
/** The name of the first segment, so that something else can be in its place. */
const FIRST = '20250131T235958Z-0123abcd-0001.journal';

function journalTo(target: JournalTarget, content = false): { journal: Journal; warnings: string[] } {
  const warnings: string[] = [];
  const journal = new Journal({ target, header: runHeader({ content }), warn: (message) => warnings.push(message) });
  return { journal, warnings };
}

/** Of a request of whom nothing was said but what it asks for. */
const UNWEIGHTED = { weight: 1, ttftMicros: null, tbtMicros: null };

const tick = (at: number): Event => ({ type: 'aborted', at, id: at, reason: 'client' });
const bulky = (at: number, bytes: number): Event => ({ type: 'stepFailed', at, step: 1, error: 'x'.repeat(bytes) });

async function until(what: string, holds: () => boolean, millis = 10_000): Promise<void> {
  const deadline = performance.now() + millis;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

interface Decision {
  readonly event: Event;
  readonly effects: readonly Effect[];
}

const object = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) =>
  fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;
const count = fc.integer({ min: 1, max: 2 ** 40 });
const at = fc.integer({ min: 0, max: 2 ** 52 });
/** Also what has no UTF-8. */
const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: fc.constantFrom('\ud800', '\udfff', 'ä', '', '😀', '\u0000') }),
);
/** As the engine makes them, as the simulation does, and some that are nearly the former. */
const names = fc.oneof(
  fc.array(fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString('latin1'))),
  fc.array(fc.nat().map((index) => `12:${index}`)),
  fc.array(text),
  fc.array(fc.string({ unit: fc.constantFrom('a', 'ÿ', 'Ā'), minLength: 16, maxLength: 16 })),
);
const priority = fc.oneof(fc.constant(-0), fc.double({ noNaN: true, noDefaultInfinity: true }), fc.integer());
const weight = fc.oneof(fc.constantFrom(1, Number.MIN_VALUE), fc.double({ min: 1e-6, max: 1e9, noNaN: true }));
const promise = { ttftMicros: fc.option(at), tbtMicros: fc.option(at) };
const cause: fc.Arbitrary<Cause> = object({
  why: fc.constantFrom('outranked', 'growth', 'crowded', 'host', 'failed'),
  by: fc.option(count),
});
const copies = { transfer: count, runs: fc.array(object({ from: fc.nat(), to: fc.nat(), blocks: count })), blocks: count };
const aside: fc.Arbitrary<Effect> = fc.oneof(
  object({ type: fc.constant('swapOut'), id: count, held: fc.nat(), cause, direction: fc.constant('out'), ...copies }),
  object({
    type: fc.constant('swapIn'),
    id: count,
    held: fc.nat(),
    cachedTokens: fc.nat(),
    direction: fc.constant('in'),
    ...copies,
  }),
  object({ type: fc.constant('mirror'), ids: fc.array(count), direction: fc.constant('out'), ...copies }),
  object({ type: fc.constant('prefetch'), id: count, direction: fc.constant('in'), ...copies }),
  object({ type: fc.constant('park'), id: count, held: fc.nat(), cause }),
  object({ type: fc.constant('recompute'), id: count, cause }),
  object({ type: fc.constant('finish'), id: count, outcome: fc.constantFrom('stop', 'failed'), error: fc.option(text) }),
  object({ type: fc.constant('reject'), id: count, code: fc.constantFrom('queue_full', 'too_large') }),
  object({ type: fc.constantFrom('prefilled', 'settled', 'ending'), id: count }),
) as fc.Arbitrary<Effect>;
const step: fc.Arbitrary<Effect> = object({
  type: fc.constant('step' as const),
  step: count,
  items: fc.array(
    object({ id: count, start: fc.nat(), count, sample: fc.boolean(), blocks: fc.array(fc.nat(), { maxLength: 5 }) }),
    {
      maxLength: 8,
    },
  ),
});
const effects = fc
  .tuple(fc.array(aside, { maxLength: 4 }), fc.option(step))
  .map(([some, one]) => (one === null ? some : [...some, one]));

/** One that answers the plan it is given, which is known only once all before it is. */
type Draft = (plan: readonly StepItem[]) => Event;
const plain: fc.Arbitrary<Draft> = fc
  .oneof(
    object({
      type: fc.constant('arrived'),
      at,
      id: count,
      labels: fc.array(text),
      promptTokens: fc.nat(2 ** 24),
      maxTokens: count,
      priority,
      tenant: text,
      weight,
      ...promise,
      names,
    }),
    object({
      type: fc.constant('aborted'),
      at,
      id: fc.nat(),
      reason: fc.constantFrom('client', 'stop', 'stalled', 'operator', 'shutdown'),
    }),
    object({ type: fc.constant('stepFailed'), at, step: count, error: text }),
    object({ type: fc.constant('landed'), at, transfer: count, micros: at }),
    object({ type: fc.constant('transferFailed'), at, transfer: count, error: text }),
    object({
      type: fc.constant('reprioritized'),
      at,
      items: fc.array(fc.oneof(object({ id: count, priority }), object({ id: count, priority, deadlines: object(promise) }))),
    }),
    object({ type: fc.constant('reweighted'), at, tenant: text, weight }),
    object({ type: fc.constant('draining'), at }),
  )
  .map((event) => () => event as Event);
const stepped: fc.Arbitrary<Draft> = fc
  .tuple(at, count, at, fc.array(object({ token: fc.nat(2 ** 20), ended: fc.boolean() }), { minLength: 8, maxLength: 8 }), names)
  .map(([stamp, number, micros, drawn, named]) => (plan) => ({
    type: 'stepped',
    at: stamp,
    step: number,
    micros,
    items: plan.map(({ id, count: tokens, sample }, index): SteppedItem => {
      const { token, ended } = drawn[index] as { token: number; ended: boolean };
      return { id, count: tokens, token: sample ? token : -1, ended, logprobs: null, name: named[index] ?? null };
    }),
  }));
/** A whole run: drafts, made into events as the plans come. */
const run: fc.Arbitrary<readonly Decision[]> = fc
  .array(fc.tuple(fc.oneof(plain, stepped), effects), { maxLength: 30 })
  .map((drafts) => {
    let plan: readonly StepItem[] = [];
    return drafts.map(([draft, decided]) => {
      const event = draft(plan);
      for (const effect of decided) if (effect.type === 'step') plan = effect.items;
      return { event, effects: decided };
    });
  });

/** As it comes back: MessagePack has no -0, and without content no token is known. */
function expected(event: Event, content: boolean): Event {
  const positive = <T extends { readonly priority: number }>(of: T): T => ({ ...of, priority: of.priority + 0 });
  if (event.type === 'arrived') return positive(event);
  if (event.type === 'reprioritized') return { ...event, items: event.items.map(positive) };
  if (event.type !== 'stepped' || content) return event;
  return { ...event, items: event.items.map((item) => ({ ...item, token: Math.min(item.token, 0) })) };
}

describe('any run', () => {
  it.each([false, true])('comes back from its journal as it was, with its digests (content: %s)', async (content) => {
    const property = fc.asyncProperty(run, fc.constantFrom(2000, SEGMENT), async (decisions, segmentBytes) => {
      const folder = newFolder();
      const { journal, warnings } = journalTo({ folder, segmentBytes }, content);
      for (const { event, effects: decided } of decisions) journal.decided(event, decided);
      await journal.close(2 ** 53 - 1);
      const { records, end } = contentsOf(folder);
      expect([warnings, end, records.length]).toEqual([[], { type: 'whole' }, decisions.length + 1]);
      const again = new Recorder(content);
      for (const [index, { event, effects: decided }] of decisions.entries()) {
        const record = records[index] as (typeof records)[number];
        const back = eventOf(record, again.plan) as Event;
        expect(back).toStrictEqual(expected(event, content));
        expect(record).toStrictEqual({ ...again.decided(back, decided) });
      }
      rmSync(folder, { recursive: true });
    });
    await fc.assert(property, { numRuns: 150 });
  });

  it('keeps the token ids of prompts and answers where it is asked to, and else not', async () => {
    for (const content of [true, false]) {
      const folder = newFolder();
      const { journal } = journalTo({ folder, segmentBytes: SEGMENT }, content);
      const promptTokens = Int32Array.from([70001, 3, 70002]);
      journal.opened(1, { promptTokens, sampling: GREEDY, stopTokens: [], cacheSalt: '' });
      const arrival = {
        id: 1,
        labels: ['chatcmpl-1'],
        promptTokens: 3,
        maxTokens: 9,
        priority: 0,
        tenant: '',
        ...UNWEIGHTED,
        names: [],
      };
      const items: StepItem[] = [1, 2].map((id) => ({ id, start: 0, count: 3, sample: id === 1, blocks: [id] }));
      journal.decided({ type: 'arrived', at: 1, ...arrival }, [{ type: 'step', step: 1, items }]);
      const stepItems = items.map(({ id, count: tokens, sample }) => ({
        id,
        count: tokens,
        token: sample ? 70003 : -1,
        ended: false,
        logprobs: { logprob: -1, top: [{ token: 70004, logprob: -1 }] },
        name: null,
      }));
      journal.decided({ type: 'stepped', at: 2, step: 1, micros: 1, items: stepItems }, []);
      await journal.close(3);
      const [first, second] = contentsOf(folder).records;
      expect(first).toMatchObject(content ? { prompt: [70001, 3, 70002] } : { promptTokens: 3 });
      expect(second).toMatchObject(content ? { tokens: [70003] } : { step: 1 });
      if (!content) expect([first, second]).not.toMatchObject([{ prompt: expect.anything() }, { tokens: expect.anything() }]);
      expect(openRecording(folder).header.content).toBe(content);
    }
  });

  it('that crashed says so, last', async () => {
    for (const event of [tick(2), null]) {
      const folder = newFolder();
      const { journal } = journalTo({ folder, segmentBytes: SEGMENT });
      journal.decided(tick(1), []);
      journal.crashed(3, event, new Error('a law is broken'));
      journal.decided(tick(4), []);
      await journal.close(5);
      const { records, end } = contentsOf(folder);
      expect(end).toEqual({ type: 'whole' });
      const [, crashed] = records as [unknown, (typeof records)[number]];
      expect(records).toHaveLength(2);
      expect(crashed).toMatchObject({ type: 'crashed', error: 'a law is broken' });
      expect(eventOf(crashed, [])).toEqual(event);
    }
  });

  it('that crashed at a step keeps what was sampled to itself, unless it is to be kept', async () => {
    const top = [{ token: 70004, logprob: -1.625 }];
    const item = { count: 1, ended: false, logprobs: { logprob: -0.375, top }, name: null };
    const items = [70003, -1].map((token, k) => ({ ...item, id: k + 1, token }));
    for (const content of [true, false]) {
      const folder = newFolder();
      const { journal } = journalTo({ folder, segmentBytes: SEGMENT }, content);
      const event: Event = { type: 'stepped', at: 2, step: 9, micros: 1, items };
      journal.crashed(3, event, new Error('step 9 came back and none is in flight'));
      await journal.close(4);
      const bytes = readFileSync(join(folder, FIRST), 'latin1');
      for (const word of ['70003', '70004', '0.375', '1.625']) expect(bytes.includes(word), word).toBe(content);
      const bare = items.map((each) => ({ ...each, token: Math.min(each.token, 0), logprobs: null }));
      const [crashed] = contentsOf(folder).records as [JournalRecord];
      expect(eventOf(crashed, [])).toEqual(content ? event : { ...event, items: bare });
    }
  });

  it('is readable while it is written, at the latest some tenths of a second behind', async () => {
    const folder = newFolder();
    const { journal } = journalTo({ folder, segmentBytes: 2 ** 20 });
    journal.decided(tick(1), []);
    await until('the record is there', () => journal.status().records === 1, 2000);
    expect(contentsOf(folder)).toMatchObject({ records: [{ n: 1 }], end: { type: 'open' } });
    const [name] = readdirSync(folder) as [string];
    expect([statSync(join(folder, name)).mode & 0o777, journal.status().bytes]).toEqual([
      0o600,
      statSync(join(folder, name)).size,
    ]);
    await journal.close(2);
    expect(contentsOf(folder).end).toEqual({ type: 'whole' });
    expect(journal.status()).toMatchObject({ records: 2, lost: 0, failing: false });
  });
});

describe('trouble', () => {
  it('at the start: serves, warns once, and records as soon as it can, telling what is missing', async () => {
    const parent = newFolder();
    const folder = join(parent, 'a', 'b');
    writeFileSync(join(parent, 'a'), 'a file in the way');
    const { journal, warnings } = journalTo({ folder, segmentBytes: 2 ** 20 });
    for (let n = 1; n <= 5; n += 1) journal.decided(tick(n), []);
    await until('it fails', () => journal.status().failing);
    journal.decided(tick(6), []);
    expect(journal.status()).toMatchObject({ records: 0, lost: 6, failing: true });
    await new Promise((resolve) => setTimeout(resolve, 3200)); // the same again, and no second warning
    expect(warnings).toEqual([
      expect.stringMatching(/^journal: .*-0001\.journal cannot be written: ENOTDIR.*: choose another folder; serving goes/),
    ]);
    rmSync(join(parent, 'a'));
    for (let n = 7; !journal.status().records; n += 1) {
      journal.decided(tick(n), []);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const { lost } = journal.status();
    await journal.close(1000);
    expect(warnings[1]).toBe(
      `journal: it goes on in ${join(folder, readdirSync(folder)[0] as string)}; ${lost} records are missing before that`,
    );
    expect(journal.status()).toMatchObject({ lost, failing: false });
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    expect(contentsOf(folder).end).toMatchObject({ type: 'gap', lost, lastRecord: 0, nextRecord: lost + 1 });
    expect(openRecording(folder).header).toMatchObject({ segment: 1, lost, firstRecord: lost + 1 });
  });

  it('of a folder that is removed under it: goes on in a new one', async () => {
    const folder = newFolder();
    const { journal, warnings } = journalTo({ folder, segmentBytes: 2 ** 20 });
    journal.decided(tick(1), []);
    await until('a record is there', () => journal.status().records === 1);
    rmSync(folder, { recursive: true });
    for (let n = 2; warnings.length < 2; n += 1) {
      journal.decided(tick(n), []);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(warnings[0]).toMatch(/0001\.journal cannot be written: somebody has removed it/);
    await journal.close(1000);
    expect(readdirSync(folder)).toEqual([expect.stringMatching(/-0002\.journal$/)]);
    expect(() => openRecording(folder)).toThrow('segment 1, with which it begins, is not beside it');
  }, 20_000);

  it('of a disk that is full from the start: everything is lost, and nobody is disturbed', async () => {
    const folder = newFolder();
    symlinkSync('/dev/full', join(folder, FIRST));
    const { journal, warnings } = journalTo({ folder, segmentBytes: SEGMENT });
    for (let n = 1; n <= 5; n += 1) journal.decided(tick(n), []);
    await until('it fails', () => journal.status().failing);
    expect(warnings).toEqual([
      expect.stringMatching(/^journal: .*0001\.journal cannot be written: ENOSPC.*; free some room on that disk; serving/),
    ]);
    await journal.close(9);
    expect(journal.status()).toMatchObject({ records: 0, failing: true });
    expect(statSync('/dev/full').isCharacterDevice()).toBe(true);
  });

  it('of a disk that hangs (a pipe that nobody reads): keeps at most 16 MiB, and ends in time', async () => {
    const folder = newFolder();
    const pipe = join(folder, FIRST);
    execFileSync('mkfifo', [pipe]);
    const { journal, warnings } = journalTo({ folder, segmentBytes: SEGMENT });
    // Or this process could not end where an expectation fails.
    onTestFinished(() => closeSync(openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)));
    for (let n = 1; n <= 500; n += 1) journal.decided(bulky(n, 100_000), []);
    const { lost } = journal.status();
    expect((500 - lost) * 100_000).toBeLessThan(16 * 2 ** 20);
    expect(lost).toBeLessThan(340);
    expect(warnings).toEqual([
      expect.stringMatching(/takes no more: \d+ bytes wait for the disk, which does not keep up; serving goes on/),
    ]);
    const started = performance.now();
    await journal.close(501);
    expect(performance.now() - started).toBeLessThan(8000);
    expect(warnings[1]).toMatch(/it lacks its end: the disk did not take \d+ bytes in 5 s/);
    // Once it is read, what had been kept is there, and the thread that hung is free.
    const copy = join(newFolder(), 'x.journal');
    await pipeline(createReadStream(pipe), createWriteStream(copy));
    const { records, end } = contentsOf(copy);
    expect(records.length).toBe(500 - lost);
    expect(end.type).toMatch(/open/);
  }, 30_000);

  it('of a disk that was slow: goes on in a new segment', async () => {
    const folder = newFolder();
    const { journal, warnings } = journalTo({ folder, segmentBytes: 2 ** 26 });
    for (let n = 1; n <= 300; n += 1) journal.decided(bulky(n, 100_000), []); // in one turn: nothing can be written meanwhile
    const { lost } = journal.status();
    expect(lost).toBeGreaterThan(100);
    await until('it has caught up', () => readdirSync(folder).length === 2);
    journal.decided(tick(301), []);
    await journal.close(302);
    expect(warnings).toHaveLength(2);
    const { records, end } = contentsOf(folder);
    expect(records).toHaveLength(300 - lost);
    expect(end).toMatchObject({ type: 'gap', lost, lastRecord: 300 - lost, nextRecord: 301 });
    expect(journal.status()).toMatchObject({ records: 300 - lost + 2, lost, failing: false });
  });

  it('of a record that no file can hold: is a gap of one', async () => {
    const folder = newFolder();
    const { journal } = journalTo({ folder, segmentBytes: 2 ** 26 });
    journal.decided(tick(1), []);
    journal.decided(bulky(2, 2 ** 24), []);
    await until('it has caught up', () => readdirSync(folder).length === 2);
    journal.decided(tick(3), []);
    await journal.close(4);
    expect(contentsOf(folder).end).toMatchObject({ type: 'gap', lost: 1, lastRecord: 1, nextRecord: 3 });
  });

  it('of such a record while nothing is being written: goes on behind it at once', async () => {
    const folder = newFolder();
    const { journal, warnings } = journalTo({ folder, segmentBytes: SEGMENT });
    journal.decided(tick(1), []);
    await until('the first is written', () => journal.status().records === 1);
    journal.decided(bulky(2, 2 ** 24), []);
    journal.decided(tick(3), []);
    await journal.close(4);
    expect(journal.status()).toMatchObject({ records: 3, lost: 1, failing: false });
    expect(warnings).toEqual([
      expect.stringMatching(
        /0001\.journal takes no more: record #2 has 16777\d{3} bytes, which is more than a file may hold in one; serving goes/,
      ),
      expect.stringMatching(/it goes on in .*0002\.journal; 1 records are missing before that$/),
    ]);
    expect(contentsOf(folder).end).toMatchObject({ type: 'gap', lost: 1, lastRecord: 1, nextRecord: 3 });
  });

  it('of its own: stops recording for good, and says so', async () => {
    const folder = newFolder();
    const { journal, warnings } = journalTo({ folder, segmentBytes: SEGMENT });
    journal.decided(tick(1), []);
    const items = [{ id: 1, count: 1, token: 5, ended: false, logprobs: null, name: null }];
    journal.decided({ type: 'stepped', at: 2, step: 1, micros: 1, items }, []); // nobody has planned it
    journal.decided(tick(3), []);
    expect(warnings).toEqual([
      expect.stringMatching(/^journal: recording has stopped for good, serving goes on: Error: step 1 answers for 1/),
    ]);
    expect(journal.status()).toMatchObject({ lost: 2, failing: true });
    await journal.close(4);
    expect(contentsOf(folder)).toMatchObject({ records: [{ n: 1 }], end: { type: 'open' } });
  });

  it('with whoever is to be warned is nobody else’s', async () => {
    const warn = () => {
      throw new Error('the pipe is broken');
    };
    const folder = newFolder();
    symlinkSync('/dev/full', join(folder, FIRST));
    const journal = new Journal({ target: { folder, segmentBytes: SEGMENT }, header: runHeader(), warn });
    journal.decided(tick(1), []);
    await until('it fails', () => journal.status().failing);
    await journal.close(2);
  });
});

describe('a folder', () => {
  it('holds the runs one after the other', async () => {
    const folder = newFolder();
    for (const [index, id] of ['aaaaaaaa', 'bbbbbbbb'].entries()) {
      const header = runHeader({ run: id, startedAt: `2025-01-0${index + 1}T00:00:00.000Z` });
      const journal = new Journal({ target: { folder, segmentBytes: 2 ** 20 }, header, warn: expect.fail });
      journal.decided(tick(index), []);
      await journal.close(9);
    }
    const names = readdirSync(folder).sort();
    expect(names).toEqual(['20250101T000000Z-aaaaaaaa-0001.journal', '20250102T000000Z-bbbbbbbb-0001.journal']);
    for (const name of names) expect(contentsOf(join(folder, name)).end).toEqual({ type: 'whole' });
    expect(
      readFileSync(join(folder, names[0] as string))
        .subarray(1, 4)
        .toString(),
    ).toBe('FSJ');
  });
});
