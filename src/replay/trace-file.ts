/** The file of `--perfetto`: it is there when the trace is whole, and not before. */
import { closeSync, existsSync, openSync, realpathSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import type { Recording } from '../actors/recording.js';
import type { Onlooker } from '../actors/replayed.js';
import { counted } from '../core/units.js';
import { badFlag } from '../flags.js';
import { PerfettoTrace } from './perfetto.js';

export class TraceFile {
  readonly #path: string;
  /** Behind links. */
  readonly #target: string;
  /** Where it is written until it is whole; of a device or a pipe the target itself. */
  readonly #draft: string;
  readonly #file: number;
  readonly #trace: PerfettoTrace;
  #bytes = 0;
  #closed = false;

  /** @throws FastswitchError `bad_config` where it cannot be made, or would replace what it is made from. */
  constructor(path: string, { header, files }: Recording) {
    this.#path = path;
    this.#target = this.#try(() => (existsSync(path) ? realpathSync(path) : path));
    if (files.some((file) => realpathSync(file) === this.#target)) {
      throw badFlag(`--perfetto ${path} is a file of the recording, which the trace would replace: name another`);
    }
    const replaceable = this.#try(() => statSync(this.#target, { throwIfNoEntry: false })?.isFile() ?? true);
    this.#draft = replaceable ? `${this.#target}.${process.pid}.part` : this.#target;
    this.#file = this.#try(() => openSync(this.#draft, 'w'));
    this.#trace = new PerfettoTrace(header, (text) => {
      this.#bytes += this.#try(() => writeSync(this.#file, text));
    });
  }

  see(...seen: Parameters<Onlooker>): void {
    this.#trace.see(...seen);
  }

  /** Nothing comes any more: puts the trace where it is to be. */
  end(at: number): void {
    this.#trace.end(at);
    this.#close();
    if (this.#draft !== this.#target) this.#try(() => renameSync(this.#draft, this.#target));
  }

  /** Leaves nothing behind of a trace that has not ended. */
  drop(): void {
    if (this.#closed) return;
    this.#close();
    if (this.#draft !== this.#target) rmSync(this.#draft, { force: true });
  }

  about(): string {
    return `${this.#path}: ${counted(this.#trace.count, 'trace event')}, ${counted(this.#bytes, 'byte')}; open it in ui.perfetto.dev`;
  }

  #close(): void {
    this.#closed = true;
    closeSync(this.#file);
  }

  #try<T>(act: () => T): T {
    try {
      return act();
    } catch (error) {
      throw badFlag(`--perfetto ${this.#path} cannot be written: ${(error as Error).message}`);
    }
  }
}
