/**
 * SHA-256 over everything that a run was told and did: every field of every event and effect, as 32-bit words. JSON would
 * take longer than the run itself, because a step names thousands of blocks.
 */
import { createHash } from 'node:crypto';
import type { Effect, Event, Run, TokenLogprobs } from '../core/types.js';

const WORDS = 16_384;

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

export class Digest {
  readonly #hash = createHash('sha256');
  readonly #words = new Int32Array(WORDS);
  readonly #float = new Float64Array(1);
  readonly #halves = new Int32Array(this.#float.buffer);
  #filled = 0;

  /** Takes in one decision. */
  add(event: Event, effects: readonly Effect[]): void {
    this.#event(event);
    this.#word(effects.length);
    for (const effect of effects) this.#effect(effect);
  }

  /** Hexadecimal; nothing may be added afterwards. */
  end(): string {
    this.#flush();
    return this.#hash.digest('hex');
  }

  #event(event: Event): void {
    this.#word(KINDS[event.type]);
    this.#number(event.at);
    switch (event.type) {
      case 'arrived':
        for (const value of [event.id, event.promptTokens, event.maxTokens]) this.#word(value);
        this.#number(event.priority);
        this.#text(event.tenant);
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
        for (const { id, count, token, ended, logprobs, name } of event.items) {
          this.#word(id);
          this.#word(count);
          this.#word(token);
          this.#word(ended ? 1 : 0);
          this.#logprobs(logprobs);
          this.#text(name ?? '');
        }
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
        for (const { id, priority } of event.items) {
          this.#word(id);
          this.#number(priority);
        }
        return;
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
        for (const { id, index, token, logprobs } of effect.items) {
          this.#word(id);
          this.#word(index);
          this.#word(token);
          this.#logprobs(logprobs);
        }
        return;
      case 'admit':
        this.#word(effect.id);
        return this.#word(effect.cachedTokens);
      case 'swapOut':
        this.#word(effect.id);
        this.#word(effect.held);
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
      case 'resume':
        this.#word(effect.id);
        return this.#word(effect.held);
      case 'prefilled':
      case 'settled':
      case 'recompute':
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

  #step({ step, items }: Extract<Effect, { type: 'step' }>): void {
    this.#word(step);
    this.#word(items.length);
    for (const { id, start, count, sample, blocks } of items) {
      this.#word(id);
      this.#word(start);
      this.#word(count);
      this.#word(sample ? 1 : 0);
      this.#word(blocks.length);
      for (let k = 0; k < blocks.length; k++) this.#word(blocks[k] as number);
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

  #logprobs(logprobs: TokenLogprobs | null): void {
    if (logprobs === null) return this.#word(-1);
    this.#number(logprobs.logprob);
    this.#word(logprobs.top.length);
    for (const { token, logprob } of logprobs.top) {
      this.#word(token);
      this.#number(logprob);
    }
  }

  #word(value: number): void {
    if (this.#filled === WORDS) this.#flush();
    this.#words[this.#filled] = value;
    this.#filled += 1;
  }

  /** Any number, in two words. */
  #number(value: number): void {
    this.#float[0] = value;
    this.#word(this.#halves[0] as number);
    this.#word(this.#halves[1] as number);
  }

  #text(text: string): void {
    this.#word(text.length);
    for (let k = 0; k < text.length; k++) this.#word(text.charCodeAt(k));
  }

  #flush(): void {
    this.#hash.update(new Uint8Array(this.#words.buffer, 0, 4 * this.#filled));
    this.#filled = 0;
  }
}
