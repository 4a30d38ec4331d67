/** Where a command writes, and the line that says how far it is. */

/** `standard` is for results, `progress` for people. */
export interface Output {
  readonly standard: (text: string) => void;
  readonly progress: (text: string) => void;
  /** A progress line can be overwritten. */
  readonly terminal: boolean;
}

const LINE_MS = 1000;
/** Where lines cannot be overwritten they are fewer. */
const PLAIN_LINE_MS = 10_000;

/** How far the whole is, once a second. Nothing is shown of what ends before that. */
export class ProgressLine {
  readonly #output: Output;
  readonly #startedAt = performance.now();
  #shownAt = performance.now();
  #shown = false;

  constructor(output: Output) {
    this.#output = output;
  }

  /** `line` is asked for only when it is time to show one; `seconds` since the beginning. */
  update(line: (seconds: number) => string): void {
    const now = performance.now();
    if (now - this.#shownAt < (this.#output.terminal ? LINE_MS : PLAIN_LINE_MS)) return;
    this.#shownAt = now;
    this.#shown = true;
    const text = line(Math.round((now - this.#startedAt) / 1000));
    this.#output.progress(this.#output.terminal ? `\r${text}\u001b[K` : `${text}\n`);
  }

  end(): void {
    if (this.#shown && this.#output.terminal) this.#output.progress('\r\u001b[K');
  }
}
