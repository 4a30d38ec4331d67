/** Reads what `journal.ts` wrote: the segments of one run, record by record, up to the first that is not whole. */
import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { FastswitchError } from '../errors.js';
import { BODY_BYTES_MAX, BodyReader, FRAME_HEAD, MAGIC } from './frames.js';
import { JOURNAL_FORMAT, type JournalHeader, type JournalRecord } from './records.js';
import { headerProblem, recordProblem } from './shapes.js';

/** Where a recording ends, and why. Records count from 1 in each run; offsets and lengths are bytes. */
export type RecordingEnd =
  /** The run was closed or crashed, and said so. */
  | { readonly type: 'whole' }
  /** It says nothing of its end: it was killed, or it still runs. */
  | { readonly type: 'open' }
  /** The last frame is not whole: it was killed, still writes, or the file was cut. */
  | {
      readonly type: 'cut';
      readonly file: string;
      readonly offset: number;
      readonly bytesLeft: number;
      /** 0: there is none. */
      readonly lastRecord: number;
    }
  /** Other bytes than were written; what comes later is not read. `record`: which should stand there. */
  | {
      readonly type: 'damaged';
      readonly file: string;
      readonly offset: number;
      readonly record: number;
      readonly reason: string;
    }
  /** The run went on unrecorded for a while: records could not be written. `file` begins with `nextRecord`. */
  | {
      readonly type: 'gap';
      readonly lost: number;
      readonly lastRecord: number;
      readonly nextRecord: number;
      readonly file: string;
    }
  /** There are later segments, but not this one. */
  | { readonly type: 'missing'; readonly file: string; readonly lastRecord: number };

export interface Recording {
  /** Of the first segment. */
  readonly header: JournalHeader;
  /** The segments of the run, in order. */
  readonly files: readonly string[];
  /** From the first record on, each time. A recording that is still written may be read. */
  records(): Generator<JournalRecord, RecordingEnd>;
}

interface Segment {
  readonly path: string;
  readonly number: number;
}

interface Run {
  readonly name: string;
  readonly segments: Segment[];
}

const ENDING = '.journal';
/** Start of the run, its id, number of the segment. */
const SEGMENT_NAME = /^(\d{8}T\d{6}Z-[0-9a-f]+)-(\d{4,9})\.journal$/;

/**
 * Opens the run that a file belongs to, or the one run in a folder.
 * @throws FastswitchError `bad_recording` or `other_version`, saying what is wrong and what to do.
 */
export function openRecording(path: string): Recording {
  const { segments } = findRun(path);
  const [first] = segments as [Segment];
  if (first.number !== 1) {
    throw bad(`${first.path} is segment ${first.number} of its run, and segment 1, with which it begins, is not beside it`);
  }
  const header = readHeader(first.path);
  if (header.segment !== 1) {
    throw bad(
      `${first.path} is segment ${header.segment} of run ${header.run}; give it the name back under which it was written, ` +
        'and put the segments before it beside it',
    );
  }
  return { header, files: segments.map((segment) => segment.path), records: () => readRun(segments, header) };
}

function findRun(path: string): Run {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) throw bad(`there is no ${path}; give a file or folder that serve --journal wrote`);
  if (stat.isDirectory()) return onlyRun(path);
  if (!stat.isFile()) throw bad(`${path} is no file`);
  const name = SEGMENT_NAME.exec(basename(path))?.[1];
  if (name === undefined) return { name: basename(path), segments: [{ path, number: 1 }] };
  return runsIn(dirname(path)).find((run) => run.name === name) ?? { name, segments: [{ path, number: 1 }] };
}

function onlyRun(folder: string): Run {
  const runs = runsIn(folder);
  const [run] = runs;
  if (run === undefined) throw bad(`${folder} holds no journal: no file in it ends in ${ENDING}`);
  if (runs.length === 1) return run;
  const lines = runs.map(({ segments }) => {
    const count = `${segments.length} ${segments.length === 1 ? 'segment' : 'segments'}`;
    return `  ${segments[0]?.path}: started ${startOf(segments)}, ${count}`;
  });
  throw bad(`${folder} holds ${runs.length} runs; name a file of one:\n${lines.join('\n')}`);
}

function startOf([first]: readonly Segment[]): string {
  try {
    return readHeader((first as Segment).path).startedAt;
  } catch {
    return 'at an unknown time';
  }
}

/** In the order of their names, which is that of their starts. */
function runsIn(folder: string): Run[] {
  const runs = new Map<string, Run>();
  for (const file of listing(folder)) {
    const [, name = file, number = '1'] = SEGMENT_NAME.exec(file) ?? [];
    const run = runs.get(name) ?? { name, segments: [] };
    run.segments.push({ path: join(folder, file), number: Number(number) });
    runs.set(name, run);
  }
  for (const { segments } of runs.values()) segments.sort((a, b) => a.number - b.number);
  return [...runs.values()];
}

function listing(folder: string): string[] {
  try {
    const files = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile() && entry.name.endsWith(ENDING));
    return files.map(({ name }) => name).sort();
  } catch (error) {
    throw bad(`${folder} cannot be read: ${(error as Error).message}`);
  }
}

function bad(message: string): FastswitchError {
  return new FastswitchError('bad_recording', message);
}

/** @throws FastswitchError where it has none. */
function readHeader(path: string): JournalHeader {
  const file = new FrameFile(path);
  try {
    const start = file.start();
    if (start.type === 'header') return start.header;
    if (start.type === 'damaged') throw bad(`${path} is no journal, or a damaged one: ${start.reason}`);
    const what = start.bytesLeft === 0 ? 'is empty' : 'ends within its header';
    throw bad(`${path} ${what}: whoever wrote it was stopped, or out of room, before there was anything to record`);
  } finally {
    file.close();
  }
}

/** Yields the records of all segments; the end says how far that went. */
function* readRun(segments: readonly Segment[], first: JournalHeader): Generator<JournalRecord, RecordingEnd> {
  const so: Progress = { lastRecord: 0, over: false };
  for (const [index, segment] of segments.entries()) {
    if (segment.number !== index + 1) {
      const file = segment.path.replace(/\d+\.journal$/, `${String(index + 1).padStart(4, '0')}${ENDING}`);
      return { type: 'missing', file, lastRecord: so.lastRecord };
    }
    const file = new FrameFile(segment.path);
    try {
      const end = yield* readSegment(file, { first, segment, next: segments[index + 1] ?? null }, so);
      if (end !== null) return end;
    } finally {
      file.close();
    }
  }
  return { type: so.over ? 'whole' : 'open' };
}

/** How far a run was read. */
interface Progress {
  lastRecord: number;
  /** Its last record was read. */
  over: boolean;
}

interface Place {
  readonly first: JournalHeader;
  readonly segment: Segment;
  readonly next: Segment | null;
}

/** Null: go on with the next segment. */
function* readSegment(
  file: FrameFile,
  { first, segment, next }: Place,
  so: Progress,
): Generator<JournalRecord, RecordingEnd | null> {
  const damaged = (offset: number, reason: string): RecordingEnd => ({
    type: 'damaged',
    file: segment.path,
    offset,
    record: so.lastRecord + 1,
    reason,
  });
  const start = file.start();
  if (start.type === 'cut' && next === null) return { ...start, file: segment.path, lastRecord: so.lastRecord };
  if (start.type !== 'header') return damaged(0, start.type === 'cut' ? 'it ends within its header' : start.reason);
  const { header } = start;
  if (header.run !== first.run || header.segment !== segment.number) {
    return damaged(0, `it says that it is segment ${header.segment} of run ${header.run}`);
  }
  const { firstRecord } = header;
  const lost = firstRecord - so.lastRecord - 1;
  if (header.lost > 0 && lost > 0) {
    return { type: 'gap', lost, lastRecord: so.lastRecord, nextRecord: firstRecord, file: segment.path };
  }
  // A write that failed may have brought more to the disk than it said: then nothing is missing after all.
  if (lost !== 0) return damaged(0, `it says that it begins with record ${firstRecord}`);
  for (;;) {
    const frame = file.next();
    if (frame.type === 'end') return null;
    if (frame.type === 'cut') {
      if (next === null) return { ...frame, file: segment.path, lastRecord: so.lastRecord };
      // Where the disk failed in the middle of a write, the next segment says what is missing.
      return marksGap(next) ? null : damaged(frame.offset, 'the segment ends within it');
    }
    const reason =
      frame.type === 'damaged' ? frame.reason : (recordProblem(frame.value) ?? misplaced(frame.value as JournalRecord, so));
    if (reason !== null) return damaged(frame.offset, reason);
    const record = (frame as Whole).value as JournalRecord;
    so.lastRecord = record.n;
    so.over = record.type === 'closed' || record.type === 'crashed';
    yield record;
  }
}

function misplaced({ n }: JournalRecord, { lastRecord, over }: Progress): string | null {
  if (n !== lastRecord + 1) return `record ${n} stands there`;
  return over ? 'it stands behind the last record of the run' : null;
}

/** A segment says that records before it are missing. */
function marksGap({ path }: Segment): boolean {
  const file = new FrameFile(path);
  try {
    const start = file.start();
    return start.type === 'header' && start.header.lost > 0;
  } finally {
    file.close();
  }
}

interface Whole {
  readonly type: 'whole';
  readonly value: unknown;
  readonly offset: number;
}
type Cut = { readonly type: 'cut'; readonly offset: number; readonly bytesLeft: number };
type Damage = { readonly type: 'damaged'; readonly offset: number; readonly reason: string };
type Frame = Whole | Cut | Damage | { readonly type: 'end' };
type Start = { readonly type: 'header'; readonly header: JournalHeader } | Cut | Damage;

/** At least so many bytes are read at a time. */
const READ_BYTES = 2 ** 18;

/** The frames of one file, in order. Holds one frame in memory, and never more than the file has. */
class FrameFile {
  readonly #path: string;
  readonly #file: number;
  readonly #bodies = new BodyReader();
  #buffer = Buffer.alloc(READ_BYTES);
  /** What of the buffer was read from the file and not yet taken. */
  #from = 0;
  #to = 0;
  /** Of the first byte not yet taken. */
  #offset = 0;

  constructor(path: string) {
    this.#path = path;
    this.#file = this.#attempt(() => openSync(path, 'r'));
  }

  close(): void {
    closeSync(this.#file);
  }

  /**
   * What the file begins with.
   * @throws FastswitchError `other_version` for a format that this version does not read.
   */
  start(): Start {
    const size = this.#fill(MAGIC.length);
    const magic = this.#buffer.subarray(0, size);
    if (!MAGIC.subarray(0, size).equals(magic)) return { type: 'damaged', offset: 0, reason: 'it does not begin as one' };
    if (size < MAGIC.length) return { type: 'cut', offset: 0, bytesLeft: size };
    this.#take(MAGIC.length);
    const frame = this.next();
    if (frame.type === 'end') return { type: 'cut', offset: 0, bytesLeft: size };
    if (frame.type === 'cut') return { type: 'cut', offset: 0, bytesLeft: size + frame.bytesLeft };
    if (frame.type === 'damaged') return frame;
    const { format, version } = (frame.value ?? {}) as Partial<JournalHeader>;
    if (Number.isSafeInteger(format) && format !== JOURNAL_FORMAT) {
      throw new FastswitchError(
        'other_version',
        `${this.#path} is a journal of format ${format}, by fastswitch ${version}; this one reads format ${JOURNAL_FORMAT}. ` +
          `Read it with fastswitch ${version}.`,
      );
    }
    const problem = headerProblem(frame.value);
    if (problem !== null) return { type: 'damaged', offset: MAGIC.length, reason: problem };
    return { type: 'header', header: frame.value as JournalHeader };
  }

  next(): Frame {
    const offset = this.#offset;
    const head = this.#fill(FRAME_HEAD);
    if (head === 0) return { type: 'end' };
    if (head < FRAME_HEAD) return { type: 'cut', offset, bytesLeft: head };
    const length = this.#buffer.readUInt32LE(this.#from);
    const checksum = this.#buffer.readUInt32LE(this.#from + 4);
    if (length > BODY_BYTES_MAX) return { type: 'damaged', offset, reason: `its length of ${length} bytes is none` };
    const whole = FRAME_HEAD + length;
    // Memory is taken for what the file has, not for what it claims.
    if (this.#to - this.#from < whole && this.#left() < whole) return { type: 'cut', offset, bytesLeft: this.#left() };
    const size = this.#fill(whole);
    if (size < whole) return { type: 'cut', offset, bytesLeft: size };
    const body = this.#buffer.subarray(this.#from + FRAME_HEAD, this.#from + whole);
    if (crc32(body) !== checksum) return { type: 'damaged', offset, reason: 'its checksum is wrong' };
    try {
      const value = this.#bodies.value(body);
      this.#take(whole);
      return { type: 'whole', value, offset };
    } catch (error) {
      return { type: 'damaged', offset, reason: `it cannot be decoded: ${(error as Error).message}` };
    }
  }

  /** Bytes of the file that are not taken yet. */
  #left(): number {
    return this.#attempt(() => fstatSync(this.#file)).size - this.#offset;
  }

  #take(bytes: number): void {
    this.#from += bytes;
    this.#offset += bytes;
  }

  /** Sees that so many bytes are in the buffer, or all that there are; answers how many. */
  #fill(bytes: number): number {
    if (this.#to - this.#from < bytes) {
      const kept = this.#buffer.subarray(this.#from, this.#to);
      const buffer = bytes > this.#buffer.length ? Buffer.alloc(bytes + READ_BYTES) : this.#buffer;
      kept.copy(buffer); // to the front, where the two may overlap
      [this.#buffer, this.#from, this.#to] = [buffer, 0, kept.length];
      for (let read = -1; read !== 0 && this.#to < bytes; this.#to += read) {
        const { length } = this.#buffer;
        read = this.#attempt(() => readSync(this.#file, this.#buffer, this.#to, length - this.#to, this.#offset + this.#to));
      }
    }
    return Math.min(bytes, this.#to - this.#from);
  }

  #attempt<T>(act: () => T): T {
    try {
      return act();
    } catch (error) {
      throw bad(`${this.#path} cannot be read: ${(error as Error).message}`);
    }
  }
}
