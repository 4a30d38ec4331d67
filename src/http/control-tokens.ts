/**
 * Keeps the model's control tokens (`<|im_end|>`, `<s>`, ...) apart from text that merely spells them, so that nobody
 * can forge a turn by writing one into a message.
 *
 * How: inside the tokenizer every control token goes by a name made of Unicode noncharacters, which no request may
 * contain. Text is encoded with those names only, so a spelled `<|im_end|>` is eleven ordinary characters. Where a
 * control token is meant (the chat template wrote it, or a raw prompt may contain it) `seal` puts the name in. Before
 * the template runs, `guard` breaks up what the client spelled with an invisible mark, so that `seal` passes over it;
 * `seal` removes the marks at the end, and the text is encoded as it was sent.
 *
 * Control tokens are the added tokens marked `special` and those that the tokenizer's configuration names (bos, eos,
 * ...). Other added tokens (runs of spaces, `<think>`) are ordinary vocabulary and are recognised everywhere, as the
 * model was trained. The limits: a template that deletes characters inside a message could still put a token
 * together, and a format whose turns are plain text (`[INST]` of Llama 2) has nothing to protect.
 */
import { FastswitchError } from '../errors.js';

const NAME_OPEN = '\uFDD0';
const NAME_CLOSE = '\uFDD1';
const GUARD = '\uFDD2';
const RESERVED = /[\uFDD0-\uFDD2]/;
const GUARDS = /\uFDD2/g;

const literally = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');

/** The name of a control token inside the tokenizer. */
export function sealedName(id: number): string {
  return `${NAME_OPEN}${id}${NAME_CLOSE}`;
}

export class ControlTokens {
  /** Spelling -> id. */
  readonly ids: ReadonlyMap<string, number>;
  readonly #pattern: RegExp | null;
  readonly #heads = new Set<string>();
  readonly #tails = new Set<string>();
  readonly #singles: readonly string[];
  readonly #longest: number;

  constructor(ids: ReadonlyMap<string, number>) {
    this.ids = ids;
    // Longest first: where one spelling begins another, the longer one is meant, as the tokenizer matches them.
    const spellings = [...ids.keys()].filter((spelling) => spelling.length > 0).sort((a, b) => b.length - a.length);
    this.#pattern = spellings.length === 0 ? null : new RegExp(spellings.map(literally).join('|'), 'g');
    this.#longest = spellings[0]?.length ?? 0;
    this.#singles = spellings.filter((spelling) => spelling.length === 1);
    for (const spelling of spellings) {
      for (let cut = 1; cut < spelling.length; cut += 1) {
        this.#heads.add(spelling.slice(0, cut));
        this.#tails.add(spelling.slice(cut));
      }
    }
  }

  /** Refuses text that could imitate the names. `param` is the field it came in. */
  assertClean(text: string, param: string): void {
    if (RESERVED.test(text)) {
      throw new FastswitchError(
        'invalid_request',
        `'${param}' contains a Unicode noncharacter (U+FDD0 to U+FDD2), which this server keeps for itself. Remove it.`,
        param,
      );
    }
  }

  /** Text of a client that goes through a template: spelled control tokens, whole or cut by its ends, are marked. */
  guard(text: string, param: string): string {
    this.assertClean(text, param);
    if (this.#pattern === null || text.length === 0) return text;
    this.#assertNoSingle(text, param);
    const marked = this.#markWhole(text);
    const before = this.#beginsInside(text) ? GUARD : '';
    const after = this.#endsInside(text) ? GUARD : '';
    return before + marked + after;
  }

  /** Control tokens in the text become their names; marks vanish. */
  seal(text: string): string {
    if (this.#pattern === null) return text;
    return text.replace(this.#pattern, (spelling) => sealedName(this.ids.get(spelling) ?? -1)).replace(GUARDS, '');
  }

  /** A control token of one character has no inside for a mark. (No known model has one.) */
  #assertNoSingle(text: string, param: string): void {
    for (const single of this.#singles) {
      if (text.includes(single)) {
        throw new FastswitchError(
          'invalid_request',
          `'${param}' contains '${single}', a control token of this model. Remove it.`,
          param,
        );
      }
    }
  }

  #markWhole(text: string): string {
    const pattern = this.#pattern as RegExp;
    pattern.lastIndex = 0;
    let marked = '';
    let copied = 0;
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      marked += `${text.slice(copied, match.index + 1)}${GUARD}`;
      copied = match.index + 1;
      // Overlapping spellings are found too: the search goes on one character later, not after the match.
      pattern.lastIndex = match.index + 1;
    }
    return copied === 0 ? text : marked + text.slice(copied);
  }

  #beginsInside(text: string): boolean {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length -= 1) {
      if (this.#tails.has(text.slice(0, length))) return true;
    }
    if (text.length >= this.#longest) return false;
    for (const spelling of this.ids.keys()) if (spelling.includes(text)) return true;
    return false;
  }

  #endsInside(text: string): boolean {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length -= 1) {
      if (this.#heads.has(text.slice(-length))) return true;
    }
    return false;
  }
}
