/**
 * From tokens to text, a token at a time: bytes of a character that is spread over several tokens wait for the rest,
 * and text that could be the beginning of a stop string waits until that is decided.
 */

/** Bytes of a token's text; empty for tokens that do not show. */
export type TokenBytes = (token: number) => Uint8Array;

/** Text of a growing list of tokens. Its concatenated results do not depend on how the tokens were grouped. */
export class TextStream {
  readonly #bytes: TokenBytes;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });

  constructor(bytes: TokenBytes) {
    this.#bytes = bytes;
  }

  /** The characters that this token completes, possibly none. */
  push(token: number): string {
    return this.#decoder.decode(this.#bytes(token), { stream: true });
  }

  /** What is left of a character that was never completed, as U+FFFD. */
  end(): string {
    return this.#decoder.decode();
  }
}

interface StopString {
  readonly text: string;
  /** For each matched length, the longest shorter one that still matches (Knuth, Morris, Pratt). */
  readonly fallback: readonly number[];
  matched: number;
}

function fallbackLengths(text: string): number[] {
  const lengths = [0, 0];
  for (let index = 1, length = 0; index < text.length; index += 1) {
    while (length > 0 && text[index] !== text[length]) length = lengths[length] ?? 0;
    if (text[index] === text[length]) length += 1;
    lengths.push(length);
  }
  return lengths;
}

/**
 * Finds the first stop string to be completed, whatever token borders cross it, in time linear in the text. Between
 * two that overlap the one that ends first wins, as if the text had come a character at a time.
 */
export class StopStrings {
  readonly #stops: StopString[];
  #held = '';

  /** @param stops Non-empty strings. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.map((text) => ({ text, fallback: fallbackLengths(text), matched: 0 }));
  }

  /** Text that is safe to show now. Once `stopped`, it is the last: the stop string and what follows is dropped. */
  push(text: string): { readonly text: string; readonly stopped: boolean } {
    if (this.#stops.length === 0) return { text, stopped: false };
    const whole = this.#held + text;
    for (let index = this.#held.length; index < whole.length; index += 1) {
      for (const stop of this.#stops) {
        this.#advance(stop, whole[index] as string);
        if (stop.matched === stop.text.length) {
          this.#held = '';
          return { text: whole.slice(0, index + 1 - stop.matched), stopped: true };
        }
      }
    }
    const wait = Math.max(...this.#stops.map((stop) => stop.matched));
    this.#held = whole.slice(whole.length - wait);
    return { text: whole.slice(0, whole.length - wait), stopped: false };
  }

  /** The text that was held back: nothing more comes, so it was no stop string. */
  end(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  #advance(stop: StopString, character: string): void {
    while (stop.matched > 0 && stop.text[stop.matched] !== character) stop.matched = stop.fallback[stop.matched] ?? 0;
    if (stop.text[stop.matched] === character) stop.matched += 1;
  }
}
