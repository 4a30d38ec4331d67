/**
 * Brings records to the files of a run, behind the back of whoever is recorded. They collect in memory, are written in one
 * go, one write at a time, and go on in a new segment when one is long enough, when the disk failed, or when it did not
 * keep up.
 */
import { type FileHandle, mkdir, open, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BODY_BYTES_MAX, countFrames, FRAME_HEAD, FrameWriter, MAGIC } from './frames.js';
import type { JournalStatus } from './ports.js';
import type { JournalHeader, JournalRecord } from './records.js';

/** What the caller knows of a header; where a segment stands in its run is said here. */
export type RunHeader = Omit<JournalHeader, 'segment' | 'firstRecord' | 'lost'>;

/** A folder takes segments of at most so many bytes; one longer record has its own. */
export interface JournalTarget {
  readonly folder: string;
  readonly segmentBytes: number;
}

export interface SegmentsOptions {
  readonly target: JournalTarget;
  readonly header: RunHeader;
  /** Told in sentences: once when trouble begins and once when it is over. */
  readonly warn: (message: string) => void;
}

/** At the latest so long after it came a record is handed to the system. */
const FLUSH_MILLIS = 100;
const FLUSH_BYTES = 64 * 2 ** 10;
/** What may wait for the disk; more means that it does not keep up. */
const WAITING_BYTES_MAX = 16 * 2 ** 20;
const RETRY_MILLIS = 3000;

/** It tells who asked how much and when. */
const FILE_MODE = 0o600;
const FOLDER_MODE = 0o700;

interface Segment {
  readonly number: number;
  readonly path: string;
  /** Records that are missing before it. */
  lost: number;
  readonly frames: FrameWriter;
  /** The magic bytes and the header. */
  readonly head: Buffer;
  /** Of all that goes into it. */
  bytes: number;
}

/** Whole frames on their way into a segment; none: it is to be opened. */
interface Piece {
  readonly segment: Segment;
  readonly frames: Buffer;
}

/** `20250131T235959Z-3f9a1c2b-0001.journal`: in the order of their starts, the segments of a run together. */
function segmentName({ startedAt, run }: RunHeader, number: number): string {
  const start = startedAt.replace(/\.\d+/, '').replaceAll(/[-:]/g, '');
  return `${start}-${run}-${String(number).padStart(4, '0')}.journal`;
}

export class Segments {
  readonly #options: SegmentsOptions;
  /** Where records go; null: they are lost. */
  #segment: Segment | null = null;
  readonly #collected = Buffer.allocUnsafe(FLUSH_BYTES);
  #collectedBytes = 0;
  readonly #queue: Piece[] = [];
  #queuedBytes = 0;
  #writing: Promise<void> | null = null;
  #file: { readonly handle: FileHandle; readonly segment: Segment } | null = null;
  #closed: Promise<void> = Promise.resolve();
  #flushTimer: NodeJS.Timeout | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  /** Numbers of the last segment, and of the last that has a record in its file: that one stays, whatever comes. */
  #last = 0;
  #kept = 0;
  /** Number of the record that comes next. */
  #next = 1;
  #records = 0;
  #bytes = 0;
  #lost = 0;
  /** Of those, the last ones: the next segment is to tell. */
  #untold = 0;
  /** Records are lost, and that was told. */
  #inTrouble = false;
  #ended = false;

  constructor(options: SegmentsOptions) {
    this.#options = options;
    this.#begin();
  }

  get status(): JournalStatus {
    return { records: this.#records, bytes: this.#bytes, lost: this.#lost, failing: this.#inTrouble };
  }

  /** Takes the next record. */
  put(record: JournalRecord): void {
    this.#next = record.n;
    const kept = this.#segment !== null && this.#keep(record, this.#segment);
    this.#next = record.n + 1;
    if (kept) return;
    this.lose();
    // It was too large: nothing waits for the disk at which recording would go on.
    if (this.#segment === null && this.#writing === null && this.#retryTimer === undefined) this.#resume();
  }

  /** Counts a record that nobody could make or write. */
  lose(): void {
    this.#lost += 1;
    this.#untold += 1;
  }

  /** Hands over what has collected. */
  flush(): void {
    clearTimeout(this.#flushTimer);
    this.#flushTimer = undefined;
    if (this.#segment === null || this.#collectedBytes === 0) return;
    const frames = Buffer.from(this.#collected.subarray(0, this.#collectedBytes));
    this.#collectedBytes = 0;
    this.#enqueue({ segment: this.#segment, frames });
  }

  /** Writes what is there and closes the file; answers how many bytes the disk did not take within that time. */
  async end(millis: number): Promise<number> {
    this.flush();
    this.#ended = true;
    clearTimeout(this.#retryTimer);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, millis);
    });
    await Promise.race([this.#finish(), late]);
    clearTimeout(timer);
    return this.#queuedBytes;
  }

  async #finish(): Promise<void> {
    await this.#writing;
    await this.#close();
  }

  #keep(record: JournalRecord, segment: Segment): boolean {
    const { segmentBytes } = this.#options.target;
    const empty = segment.bytes === segment.head.length;
    let frame = segment.frames.frame(record);
    const waiting = this.#queuedBytes + this.#collectedBytes + frame.length;
    const tooLarge = frame.length > FRAME_HEAD + BODY_BYTES_MAX;
    if (tooLarge || waiting > WAITING_BYTES_MAX) {
      this.flush();
      this.#segment = null;
      if (empty) this.#takeBack(segment);
      const why = tooLarge
        ? `record #${record.n} has ${frame.length} bytes, which is more than a file may hold in one`
        : `${waiting} bytes wait for the disk, which does not keep up`;
      this.#trouble(`${segment.path} takes no more: ${why}`);
      return false;
    }
    if (!empty && segment.bytes + frame.length > segmentBytes) {
      this.flush();
      segment = this.#begin();
      frame = segment.frames.frame(record);
    }
    segment.bytes += frame.length;
    this.#collect(segment, frame);
    return true;
  }

  /** Without a record it is no segment: the next one has its number, and tells what it told. */
  #takeBack(segment: Segment): void {
    this.#untold += segment.lost;
    segment.lost = 0;
    this.#last = Math.min(this.#last, segment.number - 1);
  }

  #collect(segment: Segment, frame: Buffer): void {
    if (this.#collectedBytes + frame.length > FLUSH_BYTES) this.flush();
    if (frame.length > FLUSH_BYTES) return this.#enqueue({ segment, frames: frame });
    frame.copy(this.#collected, this.#collectedBytes);
    this.#collectedBytes += frame.length;
    this.#flushTimer ??= setTimeout(() => this.flush(), FLUSH_MILLIS).unref();
  }

  /** The next record is the first of a new segment. */
  #begin(): Segment {
    const { target, header } = this.#options;
    this.#last += 1;
    const frames = new FrameWriter();
    const told = { ...header, segment: this.#last, firstRecord: this.#next, lost: this.#untold };
    const head = Buffer.concat([MAGIC, frames.frame(told)]);
    const path = join(target.folder, segmentName(header, this.#last));
    const segment = { number: this.#last, path, lost: this.#untold, frames, head, bytes: head.length };
    this.#untold = 0;
    this.#segment = segment;
    this.#enqueue({ segment, frames: Buffer.alloc(0) });
    return segment;
  }

  #enqueue(piece: Piece): void {
    this.#queue.push(piece);
    this.#queuedBytes += piece.frames.length;
    this.#writing ??= this.#write();
  }

  /** Writes until nothing waits. Never throws. */
  async #write(): Promise<void> {
    for (let piece = this.#queue[0]; piece !== undefined; piece = this.#queue[0]) {
      const { segment, frames } = piece;
      const progress = { written: 0 };
      try {
        const handle = this.#file?.segment === segment ? this.#file.handle : await this.#open(segment);
        await writeAll(handle, frames, progress);
        if ((await handle.stat()).nlink === 0) {
          progress.written = 0;
          throw new Error('somebody has removed it');
        }
        this.#wrote(segment, frames);
        this.#queue.shift();
        this.#queuedBytes -= frames.length;
      } catch (error) {
        const records = this.#wrote(segment, frames.subarray(0, progress.written));
        this.#fail(segment, records, error as NodeJS.ErrnoException);
      }
    }
    this.#writing = null;
    // It did not keep up, and now it has.
    if (this.#segment === null && this.#retryTimer === undefined) this.#resume();
  }

  /** Answers how many whole frames that are. */
  #wrote(segment: Segment, frames: Buffer): number {
    const records = countFrames(frames);
    this.#records += records;
    this.#bytes += frames.length;
    if (records === 0) return 0;
    this.#kept = segment.number;
    if (this.#inTrouble && this.#segment !== null) {
      this.#inTrouble = false;
      this.#say(`it goes on in ${segment.path}; ${segment.lost} records are missing before that`);
    }
    return records;
  }

  async #open(segment: Segment): Promise<FileHandle> {
    await this.#close();
    const { path, head } = segment;
    await mkdir(dirname(path), { recursive: true, mode: FOLDER_MODE });
    const handle = await open(path, 'w', FILE_MODE);
    this.#file = { handle, segment };
    await writeAll(handle, head);
    this.#bytes += head.length;
    return handle;
  }

  /** One after the other, because a number, and so a path, is given again where nothing was recorded under it. */
  #close(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    this.#closed = this.#closed.then(async () => {
      if (file === null) return;
      await file.handle.close().catch(() => {});
      const spare = file.segment.number > this.#kept && !this.#ended;
      if (spare) await unlink(file.segment.path).catch(() => {});
    });
    return this.#closed;
  }

  /** All that waits is lost, but so many records of the first piece. */
  #fail(segment: Segment, written: number, error: NodeJS.ErrnoException): void {
    const waiting = new Set([...this.#queue.map((piece) => piece.segment), this.#segment]);
    for (const each of waiting) if (each !== null && each.number > this.#kept) this.#takeBack(each);
    let lost = countFrames(this.#collected.subarray(0, this.#collectedBytes)) - written;
    for (const { frames } of this.#queue) lost += countFrames(frames);
    this.#lost += lost;
    this.#untold += lost;
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    this.#collectedBytes = 0;
    this.#segment = null;
    void this.#close();
    this.#trouble(`${segment.path} cannot be written: ${error.message}; ${ADVICE[error.code ?? ''] ?? 'see to it'}`);
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      this.#resume();
    }, RETRY_MILLIS).unref();
  }

  #resume(): void {
    if (!this.#ended) this.#begin();
  }

  #trouble(what: string): void {
    if (this.#inTrouble) return;
    this.#inTrouble = true;
    this.#say(`${what}; serving goes on, unrecorded until that is over`);
  }

  #say(words: string): void {
    try {
      this.#options.warn(`journal: ${words}`);
    } catch {
      // Whoever cannot be told is not to be disturbed either.
    }
  }
}

/** `progress`: bytes written, also where it throws. */
async function writeAll(handle: FileHandle, bytes: Buffer, progress = { written: 0 }): Promise<void> {
  while (progress.written < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, progress.written);
    if (bytesWritten === 0) throw new Error('nothing was written');
    progress.written += bytesWritten;
  }
}

/** By error code: what an operator can do. */
const ADVICE: Readonly<Record<string, string>> = {
  ENOSPC: 'free some room on that disk',
  EDQUOT: 'free some room within your quota',
  EFBIG: 'allow larger files, or choose a smaller --journal-segment',
  EACCES: 'make the folder writable for this user',
  EPERM: 'make the folder writable for this user',
  EROFS: 'the disk is mounted read-only: choose another folder',
  ENOTDIR: 'a part of the path is a file: choose another folder',
  EEXIST: 'a part of the path is a file: choose another folder',
};
