/**
 * Writes the journal of a run: makes records of what the runtime takes in and decides, and brings them to files. The runtime
 * never waits for it and never sees an error of it.
 *
 * What survives: records reach the system at the latest 100 ms after they were made, so that a process that is killed loses at
 * most those of its last 100 ms, and its journal ends in at most one frame that is not whole. Nothing makes the system bring
 * them to the disk at once (that would be fsync, which can take longer than a step): a power cut loses what it still held,
 * on Linux commonly up to 30 s.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import type { Content, Effect, Event, Micros, RequestId } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import { FrameWriter, MAGIC } from './frames.js';
import type { JournalPort, JournalStatus } from './ports.js';
import { type JournalRecord, Recorder } from './records.js';
import { type RunHeader, Segments, type SegmentsOptions } from './segments.js';

/** Waiting for the disk at the end. */
const CLOSE_MILLIS = 5000;

/** Of a run that others wait for. */
export class Journal implements JournalPort {
  readonly #recorder: Recorder;
  readonly #segments: Segments;
  readonly #warn: (message: string) => void;
  /** Nothing is recorded any more. */
  #over: 'closed' | 'crashed' | 'broken' | null = null;

  constructor(options: SegmentsOptions) {
    this.#recorder = new Recorder(options.header.content);
    this.#segments = new Segments(options);
    this.#warn = options.warn;
  }

  status(): JournalStatus {
    const { status } = this.#segments;
    return { ...status, failing: status.failing || this.#over === 'broken' };
  }

  opened(id: RequestId, { promptTokens }: Content): void {
    if (this.#over === null) this.#recorder.opened(id, promptTokens);
  }

  decided(event: Event, effects: readonly Effect[]): void {
    this.#record(() => this.#recorder.decided(event, effects));
  }

  crashed(at: Micros, event: Event | null, error: Error): void {
    this.#record(() => this.#recorder.crashed(at, event, error));
    this.#over ??= 'crashed';
    this.#segments.flush(); // the process ends soon
  }

  async close(at: Micros): Promise<void> {
    if (this.#over === 'closed') return;
    if (this.#over === null) this.#record(() => this.#recorder.closed(at));
    this.#over = 'closed';
    const left = await this.#segments.end(CLOSE_MILLIS);
    if (left > 0) this.#warn(`journal: it lacks its end: the disk did not take ${left} bytes in ${CLOSE_MILLIS / 1000} s`);
  }

  #record(make: () => JournalRecord): void {
    if (this.#over === 'broken') return this.#segments.lose();
    if (this.#over !== null) return;
    try {
      this.#segments.put(make());
    } catch (error) {
      // A mistake of our own, by which nobody who is served may suffer.
      this.#over = 'broken';
      this.#segments.lose();
      this.#segments.flush();
      this.#warn(`journal: recording has stopped for good, serving goes on: ${(error as Error).stack}`);
    }
  }
}

const CHUNK_BYTES = 2 ** 20;

/**
 * Of a run in virtual time, which gives nobody else a turn before it is over: written at once, to one file, which is
 * replaced. What goes wrong is thrown, because the recording is what was asked for.
 */
export class FileJournal implements JournalPort {
  readonly #path: string;
  readonly #file: number;
  readonly #recorder: Recorder;
  readonly #frames = new FrameWriter();
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #stopped = false;

  /** @throws FastswitchError `bad_config` where the file cannot be made. */
  constructor(path: string, header: RunHeader) {
    this.#path = path;
    this.#recorder = new Recorder(header.content);
    this.#file = this.#attempt(() => openSync(path, 'w', 0o600));
    this.#put(MAGIC);
    this.#put(this.#frames.frame({ ...header, segment: 1, firstRecord: 1, lost: 0 }));
  }

  opened(id: RequestId, { promptTokens }: Content): void {
    this.#recorder.opened(id, promptTokens);
  }

  decided(event: Event, effects: readonly Effect[]): void {
    this.#put(this.#frames.frame(this.#recorder.decided(event, effects)));
  }

  crashed(at: Micros, event: Event | null, error: Error): void {
    this.#put(this.#frames.frame(this.#recorder.crashed(at, event, error)));
    this.#flush();
  }

  async close(at: Micros): Promise<void> {
    this.closed(at);
    this.stop();
  }

  /** The run is over; nothing comes any more but `stop`. */
  closed(at: Micros): void {
    this.#put(this.#frames.frame(this.#recorder.closed(at)));
    this.#flush();
  }

  /** Closes the file, with what there is. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    try {
      this.#flush();
    } finally {
      closeSync(this.#file);
    }
  }

  #put(bytes: Buffer): void {
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes >= CHUNK_BYTES) this.#flush();
  }

  #flush(): void {
    const bytes = Buffer.concat(this.#waiting);
    this.#waiting = [];
    this.#waitingBytes = 0;
    for (let at = 0; at < bytes.length; ) at += this.#attempt(() => writeSync(this.#file, bytes, at));
  }

  #attempt<T>(act: () => T): T {
    try {
      return act();
    } catch (error) {
      throw new FastswitchError('bad_config', `--journal ${this.#path} cannot be written: ${(error as Error).message}`);
    }
  }
}
