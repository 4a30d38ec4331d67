/**
 * Everything that a run was told and did, as 32-bit words, for digests: every field of every event and effect but what was
 * said. Which token was sampled, and how likely it was, decides nothing (that one was sampled, and that it ended its
 * request, does), and a journal that holds no content must come to the same digests. JSON would take longer than the run
 * itself, because a step names thousands of blocks.
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Cause, Deadlines, Effect, Event, Run, SteppedItem } from '../core/types.js';

/** Kinds by number. An entry is never given to another kind, so that digests of different versions can be compared. */
const KINDS: Readonly<Record<Event['type'] | Effect['type'], number>> = {
  arrived: 1,
  aborted: 2,
  stepped: 3,
  stepFailed: 4,
  landed: 5,
  transferFailed: 6,
  reprioritized: 7,
  draining: 8,
  reweighted: 9,
  admit: 101,
  step: 102,
  prefilled: 103,
  swapOut: 104,
  park: 105,
  swapIn: 106,
  resume: 107,
  mirror: 108,
  prefetch: 109,
  settled: 110,
  recompute: 111,
  ending: 112,
  tokens: 113,
  finish: 114,
  reject: 115,
};

/** SHA-256 over a whole run. */
export class Digest {
  readonly #hash = createHash('sha256');
  readonly #words = new Words((bytes) => this.#hash.update(bytes));

  /** Takes in one decision. */
  add(event: Event, effects: readonly Effect[]): void {
    this.#words.add(event, effects);
  }

  /** Hexadecimal; nothing may be added afterwards. */
  end(): string {
    this.#words.flush();
    return this.#hash.digest('hex');
  }
}

/**
 * A word after every decision, over that and all before it: the first that differs is where runs part. CRC-32, which is a
 * tenth of the price of a cryptographic hash and meant for the same: to notice what happens by mistake.
 */
export class Marks {
  #mark = 0;
  readonly #words = new Words((bytes) => {
    this.#mark = crc32(bytes, this.#mark);
  });

  /** Takes in one decision and answers its mark, a whole number below 2^32. */
  after(event: Event, effects: readonly Effect[]): number {
    this.#words.add(event, effects);
    this.#words.flush();
    return this.#mark;
  }
}

const WORDS = 16_384;

class Words {
  readonly #take: (bytes: Uint8Array) => unknown;
  readonly #words = new Int32Array(WORDS);
  readonly #float = new Float64Array(1);
  readonly #halves = new Int32Array(this.#float.buffer);
  #filled = 0;

  /** `take` is handed the words, which it must have used when it returns. */
  constructor(take: (bytes: Uint8Array) => unknown) {
    this.#take = take;
  }

  add(event: Event, effects: readonly Effect[]): void {
    this.#event(event);
    this.#word(effects.length);
    for (const effect of effects) this.#effect(effect);
  }

  flush(): void {
    this.#take(new Uint8Array(this.#words.buffer, 0, 4 * this.#filled));
    this.#filled = 0;
  }

  #event(event: Event): void {
    this.#word(KINDS[event.type]);
    this.#number(event.at);
    switch (event.type) {
      case 'arrived':
        for (const value of [event.id, event.promptTokens, event.maxTokens]) this.#word(value);
        this.#number(event.priority);
        this.#text(event.tenant);
        this.#number(event.weight);
        this.#deadlines(event);
        this.#word(event.labels.length);
        for (const label of event.labels) this.#text(label);
        this.#word(event.names.length);
        for (const name of event.names) this.#text(name);
        return;
      case 'aborted':
        this.#word(event.id);
        return this.#text(event.reason);
      case 'stepped':
        this.#word(event.step);
        this.#number(event.micros);
        this.#word(event.items.length);
        for (const item of event.items) this.#stepped(item);
        return;
      case 'stepFailed':
        this.#word(event.step);
        return this.#text(event.error);
      case 'landed':
        this.#word(event.transfer);
        return this.#number(event.micros);
      case 'transferFailed':
        this.#word(event.transfer);
        return this.#text(event.error);
      case 'reprioritized':
        this.#word(event.items.length);
        for (const { id, priority, deadlines } of event.items) {
          this.#word(id);
          this.#number(priority);
          this.#word(deadlines === undefined ? 0 : 1);
          if (deadlines !== undefined) this.#deadlines(deadlines);
        }
        return;
      case 'reweighted':
        this.#text(event.tenant);
        return this.#number(event.weight);
      case 'draining':
        return;
      default:
        return event satisfies never;
    }
  }

  #effect(effect: Effect): void {
    this.#word(KINDS[effect.type]);
    switch (effect.type) {
      case 'step':
        return this.#step(effect);
      case 'tokens':
        this.#word(effect.items.length);
        for (const { id, index } of effect.items) {
          this.#word(id);
          this.#word(index);
        }
        return;
      case 'admit':
        this.#word(effect.id);
        return this.#word(effect.cachedTokens);
      case 'swapOut':
        this.#word(effect.id);
        this.#word(effect.held);
        this.#cause(effect.cause);
        return this.#copies(effect);
      case 'swapIn':
        this.#word(effect.id);
        this.#word(effect.held);
        this.#word(effect.cachedTokens);
        return this.#copies(effect);
      case 'mirror':
        this.#word(effect.ids.length);
        for (const id of effect.ids) this.#word(id);
        return this.#copies(effect);
      case 'prefetch':
        this.#word(effect.id);
        return this.#copies(effect);
      case 'park':
        this.#word(effect.id);
        this.#word(effect.held);
        return this.#cause(effect.cause);
      case 'resume':
        this.#word(effect.id);
        return this.#word(effect.held);
      case 'recompute':
        this.#word(effect.id);
        return this.#cause(effect.cause);
      case 'prefilled':
      case 'settled':
      case 'ending':
        return this.#word(effect.id);
      case 'finish':
        this.#word(effect.id);
        this.#text(effect.outcome);
        return this.#text(effect.error ?? '');
      case 'reject':
        this.#word(effect.id);
        return this.#text(effect.code);
      default:
        return effect satisfies never;
    }
  }

  #stepped({ id, count, token, ended, name }: SteppedItem): void {
    const words = this.#room(4);
    let at = this.#filled;
    words[at++] = id;
    words[at++] = count;
    words[at++] = token < 0 ? 0 : 1;
    words[at++] = ended ? 1 : 0;
    this.#filled = at;
    this.#text(name ?? '');
  }

  #step({ step, items }: Extract<Effect, { type: 'step' }>): void {
    this.#word(step);
    this.#word(items.length);
    for (const { id, start, count, sample, blocks } of items) {
      const words = this.#room(5);
      let at = this.#filled;
      words[at++] = id;
      words[at++] = start;
      words[at++] = count;
      words[at++] = sample ? 1 : 0;
      words[at++] = blocks.length;
      this.#filled = at;
      this.#numbers(blocks);
    }
  }

  /** Whole numbers, of which there may be thousands. */
  #numbers(numbers: readonly number[]): void {
    for (let from = 0; from < numbers.length; ) {
      const words = this.#room(1);
      const count = Math.min(numbers.length - from, WORDS - this.#filled);
      const at = this.#filled - from;
      const to = from + count;
      for (; from < to; from++) words[at + from] = numbers[from] as number;
      this.#filled += count;
    }
  }

  #copies(copies: { transfer: number; direction: 'out' | 'in'; runs: readonly Run[]; blocks: number }): void {
    this.#word(copies.transfer);
    this.#word(copies.direction === 'out' ? 0 : 1);
    this.#word(copies.blocks);
    this.#word(copies.runs.length);
    for (const { from, to, blocks } of copies.runs) {
      this.#word(from);
      this.#word(to);
      this.#word(blocks);
    }
  }

  #cause({ why, by }: Cause): void {
    this.#text(why);
    this.#word(by ?? 0);
  }

  /** No deadline is -1, which no deadline is. */
  #deadlines({ ttftMicros, tbtMicros }: Deadlines): void {
    this.#number(ttftMicros ?? -1);
    this.#number(tbtMicros ?? -1);
  }

  #word(value: number): void {
    this.#room(1)[this.#filled] = value;
    this.#filled += 1;
  }

  /** The words, with room for so many more behind those that are filled. */
  #room(count: number): Int32Array {
    if (this.#filled + count > WORDS) this.flush();
    return this.#words;
  }

  /** Any number, in two words. */
  #number(value: number): void {
    this.#float[0] = value + 0; // -0 is 0: MessagePack does not know it
    this.#word(this.#halves[0] as number);
    this.#word(this.#halves[1] as number);
  }

  #text(text: string): void {
    this.#word(text.length);
    for (let k = 0; k < text.length; k++) this.#word(text.charCodeAt(k));
  }
}
