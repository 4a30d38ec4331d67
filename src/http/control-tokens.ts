/**
 * Keeps the model's control tokens (`<|im_end|>`, `<s>`, ...) apart from text that merely spells them, so that nobody
 * can forge a turn by writing one into a message.
 *
 * How: inside the tokenizer every control token goes by a name made of Unicode noncharacters, which no request may
 * contain. Text is encoded with those names only, so a spelled `<|im_end|>` is ten ordinary characters. Where a
 * control token is meant (the chat template wrote it, or a raw prompt may contain it) `seal` puts the name in. Before
 * the template runs, a `Guard` breaks up what the client spelled with an invisible mark, so that `seal` passes over
 * it; `seal` removes the marks at the end, and the text is encoded as it was sent.
 *
 * The limits: a template that deletes characters inside a message could still put a token together, and a format
 * whose turns are plain text (`[INST]` of Llama 2) has nothing to protect.
 */
import { FastswitchError } from '../errors.js';

const NAME_OPEN = '\uFDD0';
const NAME_CLOSE = '\uFDD1';
const MARK = '\uFDD2';
const RESERVED = /[\uFDD0-\uFDD2]/;
const MARKS = /\uFDD2/g;

const literally = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');

/** Longest first: where one spelling begins another, the longer one is meant, as the tokenizer matches them. */
function anyOf(spellings: readonly string[]): RegExp | null {
  if (spellings.length === 0) return null;
  const longestFirst = [...spellings].sort((a, b) => b.length - a.length);
  return new RegExp(longestFirst.map(literally).join('|'), 'g');
}

/** The name of a control token inside the tokenizer. */
export function sealedName(id: number): string {
  return `${NAME_OPEN}${id}${NAME_CLOSE}`;
}

/** Refuses text that could imitate the names. `param` is the field it came in. */
export function assertClean(text: string, param: string): void {
  if (!RESERVED.test(text)) return;
  throw new FastswitchError(
    'invalid_request',
    `'${param}' contains a Unicode noncharacter (U+FDD0 to U+FDD2), which this server keeps for itself. Remove it.`,
    param,
  );
}

export class ControlTokens {
  /** Spelling (not empty) -> id. */
  readonly ids: ReadonlyMap<string, number>;
  readonly #pattern: RegExp | null;

  constructor(ids: ReadonlyMap<string, number>) {
    this.ids = ids;
    this.#pattern = anyOf([...ids.keys()]);
  }

  /** Control tokens in the text become their names; marks vanish. */
  seal(text: string): string {
    if (this.#pattern === null) return text;
    return text.replace(this.#pattern, (spelling) => sealedName(this.ids.get(spelling) ?? -1)).replace(MARKS, '');
  }
}

/** Marks what a client spelled of certain control tokens, whole or cut by the ends of the text. */
export class Guard {
  readonly #spellings: readonly string[];
  readonly #pattern: RegExp | null;
  readonly #heads = new Set<string>();
  readonly #tails = new Set<string>();
  readonly #longest: number;

  constructor(spellings: readonly string[]) {
    this.#spellings = spellings;
    this.#pattern = anyOf(spellings);
    this.#longest = Math.max(0, ...spellings.map((spelling) => spelling.length));
    for (const spelling of spellings) {
      for (let cut = 1; cut < spelling.length; cut += 1) {
        this.#heads.add(spelling.slice(0, cut));
        this.#tails.add(spelling.slice(cut));
      }
    }
  }

  /** @throws FastswitchError invalid_request for text that no mark can protect. */
  mark(text: string, param: string): string {
    assertClean(text, param);
    if (this.#pattern === null || text.length === 0) return text;
    const before = this.#beginsInside(text) ? MARK : '';
    const after = this.#endsInside(text) ? MARK : '';
    return before + this.#markWhole(text, this.#pattern, param) + after;
  }

  #markWhole(text: string, pattern: RegExp, param: string): string {
    pattern.lastIndex = 0;
    let marked = '';
    let copied = 0;
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      // No known model has one: a control token of one character, which has no inside for a mark.
      if (match[0].length === 1) {
        throw new FastswitchError(
          'invalid_request',
          `'${param}' contains '${match[0]}', a control token of this model. Remove it.`,
          param,
        );
      }
      marked += text.slice(copied, match.index + 1) + MARK;
      copied = match.index + 1;
      // Overlapping spellings are found too: the search goes on one character later, not after the match.
      pattern.lastIndex = copied;
    }
    return copied === 0 ? text : marked + text.slice(copied);
  }

  /** The text could be the rest, or the middle, of a spelling that something before it began. */
  #beginsInside(text: string): boolean {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length -= 1) {
      if (this.#tails.has(text.slice(0, length))) return true;
    }
    return text.length < this.#longest && this.#spellings.some((spelling) => spelling.includes(text));
  }

  #endsInside(text: string): boolean {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length -= 1) {
      if (this.#heads.has(text.slice(-length))) return true;
    }
    return false;
  }
}
