/**
 * A request while it is being answered: its choices, each one request of the system, from submit to the last token.
 *
 * Tokens become text as they arrive (a stop string must end the work at once, however slowly the client reads); what
 * nobody has taken yet waits in the choice, up to a limit.
 */

import type { Listener, RequestEnd, Turn } from '../actors/ports.js';
import type { System } from '../actors/system.js';
import type { Deadlines, EmittedToken, RequestId, Sampling, TokenLogprobs } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import type { Meter } from './meter.js';
import type { FinishReason } from './schema.js';
import { StopStrings, type TextStream } from './text-stream.js';
import type { Tokenizer } from './tokenizer.js';

/** A stream that is further behind than this is given up. */
const BEHIND_TOKENS_MAX = 16_384;

/** A token beside the text, for log probabilities. */
export interface ShownToken {
  readonly token: number;
  readonly logprobs: TokenLogprobs;
  /** Where its text begins in the text of the choice: in UTF-16 units, and in code points. */
  readonly start: number;
  readonly offset: number;
}

/** What a choice has produced since it was last asked. */
export interface Piece {
  readonly text: string;
  /** All tokens, also those whose text is held back. */
  readonly tokens: readonly number[];
  /** Tokens whose text has begun to show. */
  readonly shown: readonly ShownToken[];
}

export interface ChoiceRequest {
  readonly promptTokens: Int32Array;
  readonly sampling: Sampling;
  /** Tokens that end the choice; their text does not show. */
  readonly stopTokens: readonly number[];
  readonly stop: readonly string[];
  readonly maxTokens: number;
  readonly priority: number;
  readonly tenant: string;
  readonly cacheSalt: string;
  /** What the world calls it: the ids of the answer and of the HTTP request. */
  readonly labels: readonly string[];
  /** Its objectives. */
  readonly deadlines: Deadlines;
  readonly meter: Meter;
}

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

export class Choice implements Listener {
  readonly request: ChoiceRequest;
  readonly #system: System;
  readonly #text: TextStream;
  readonly #stops: StopStrings;
  readonly #changed: (choice: Choice) => void;
  readonly #over: () => void;
  readonly #turned: (turn: Turn) => void;
  readonly #wantsShown: boolean;
  readonly #behindMax: number;
  #id: RequestId | null = null;
  #abort: 'client' | 'stop' | 'stalled' | 'shutdown' | null = null;
  #ended = false;
  #submitted = false;
  #running = false;
  #preempted = false;
  #pendingText = '';
  #pendingTokens: number[] = [];
  #shown: ShownToken[] = [];
  /** Length of all text so far: decoded, and shown (the rest may be a stop string). */
  #decodedLength = 0;
  #decodedPoints = 0;
  #shownLength = 0;
  /** Tokens generated, the one that ended the choice included. */
  generated = 0;
  /** Tokens of its prompt that were found and not computed; 0 until the system has ended it. */
  cachedTokens = 0;
  finish: FinishReason | null = null;
  failure: FastswitchError | null = null;

  /**
   * @param streamed The choice is taken piece by piece, so that what waits has a limit.
   * @param told Called whenever there is something to take, when it has come or gone, and once when the system has ended it.
   */
  constructor(
    system: System,
    tokenizer: Tokenizer,
    request: ChoiceRequest,
    streamed: boolean,
    told: { changed(choice: Choice): void; turned(turn: Turn): void; over(): void },
  ) {
    this.request = request;
    this.#system = system;
    this.#text = tokenizer.textStream();
    this.#stops = new StopStrings(request.stop);
    this.#changed = told.changed;
    this.#turned = told.turned;
    this.#over = told.over;
    this.#wantsShown = request.sampling.topLogprobs >= 0;
    this.#behindMax = streamed ? BEHIND_TOKENS_MAX : Number.POSITIVE_INFINITY;
  }

  submit(): void {
    const { promptTokens, sampling, stopTokens, cacheSalt, meter, ...asked } = this.request;
    const { maxTokens, priority, tenant, labels, deadlines } = asked;
    const content = { promptTokens, sampling, stopTokens, cacheSalt };
    this.#submitted = true;
    const standing = { priority, tenant, weight: meter.submitted(), deadlines };
    this.#id = this.#system.submit({ content, maxTokens, labels, ...standing }, this);
    // The end may have come before the number did.
    if (this.#abort !== null && !this.#ended) this.#system.abort(this.#id, this.#abort);
  }

  get done(): boolean {
    return this.finish !== null || this.failure !== null;
  }

  /** Its number, while it waits in the scheduler: before its first admission, or preempted; else null. */
  get waitingId(): RequestId | null {
    return this.#ended || this.#running ? null : this.#id;
  }

  get submitted(): boolean {
    return this.#submitted;
  }

  /** Done, and ended by the system too: after a stop string that is a step later, and only then all its figures are known. */
  get counted(): boolean {
    return this.failure !== null || (this.finish !== null && this.#ended);
  }

  /** Once the choice is done its text stays as it is; only its figures are waited for no more. */
  abort(reason: 'client' | 'stalled' | 'shutdown'): void {
    if (this.done) this.#ended = true;
    if (this.done || this.#abort !== null) return;
    this.#end(reason);
    if (!this.#submitted) this.request.meter.end(false);
    if (reason === 'shutdown')
      this.failure = new FastswitchError('aborted', 'The server is going down and could not finish this request. Try again.');
    if (reason === 'stalled') this.failure = new FastswitchError('aborted', 'The client reads too slowly.');
  }

  turn(turn: Turn): void {
    this.request.meter.turned(turn);
    this.#running = turn === 'running';
    // A request that gives up its copies on the host loses nothing that it still had.
    if (this.#running === !this.#preempted) return;
    this.#preempted = !this.#running;
    if (!this.done) this.#turned(turn);
  }

  tokens(items: readonly EmittedToken[]): void {
    this.request.meter.tokens(items.length);
    if (this.done || this.#abort !== null) return;
    for (const item of items) {
      this.#take(item);
      if (this.done) break;
    }
    if (this.#pendingTokens.length > this.#behindMax) this.abort('stalled');
    this.#changed(this);
  }

  end(end: RequestEnd): void {
    this.#ended = true;
    this.cachedTokens = end.cachedTokens;
    this.request.meter.end(end.outcome === 'stop' || end.outcome === 'length');
    this.#conclude(end);
    this.#changed(this);
    this.#over();
  }

  #conclude(end: RequestEnd): void {
    if (this.done) return;
    if (end.outcome === 'stop' || end.outcome === 'length') {
      this.#pass(this.#text.end());
      if (!this.done) this.#show(this.#stops.end());
      this.finish ??= end.outcome;
    } else {
      this.failure = failureOf(end);
    }
  }

  /** Null if there is nothing new. */
  take(): Piece | null {
    // A token without text of its own (part of a character) waits for the one that completes it; at the end there is
    // none, and only a stop string takes away what it covers.
    const all = this.done && this.#abort !== 'stop';
    let showing = all ? this.#shown.length : 0;
    while (showing < this.#shown.length && (this.#shown[showing] as ShownToken).start < this.#shownLength) showing += 1;
    if (this.#pendingText === '' && this.#pendingTokens.length === 0 && showing === 0) return null;
    const piece = { text: this.#pendingText, tokens: this.#pendingTokens, shown: this.#shown.slice(0, showing) };
    this.#pendingText = '';
    this.#pendingTokens = [];
    this.#shown = this.#shown.slice(showing);
    return piece;
  }

  #take({ token, logprobs }: EmittedToken): void {
    this.generated += 1;
    this.#pendingTokens.push(token);
    if (this.request.stopTokens.includes(token)) return;
    const text = this.#text.push(token);
    if (this.#wantsShown && logprobs !== null) {
      this.#shown.push({ token, logprobs, start: this.#decodedLength, offset: this.#decodedPoints });
      this.#decodedPoints += codePoints(text);
    }
    this.#pass(text);
  }

  /** Decoded text on its way past the stop strings. */
  #pass(text: string): void {
    if (text === '') return;
    this.#decodedLength += text.length;
    const passed = this.#stops.push(text);
    this.#show(passed.text);
    if (!passed.stopped) return;
    this.finish = 'stop';
    this.#end('stop');
  }

  #show(text: string): void {
    this.#pendingText += text;
    this.#shownLength += text.length;
  }

  #end(reason: 'client' | 'stop' | 'stalled' | 'shutdown'): void {
    this.#abort = reason;
    if (this.#id !== null && !this.#ended) this.#system.abort(this.#id, reason);
  }
}

function failureOf(end: RequestEnd): FastswitchError {
  if (end.outcome === 'aborted') {
    return new FastswitchError('aborted', end.message ?? 'The server ended this request before it was complete. Try again.');
  }
  if (end.outcome === 'rejected') {
    const code = end.code ?? 'queue_full';
    return new FastswitchError(code, end.message ?? REFUSALS[code], null, end.retryAfterSeconds);
  }
  return new FastswitchError('engine_failed', end.message ?? REFUSALS.engine_failed);
}

const REFUSALS = {
  queue_full: 'The queue is full. Try again later.',
  draining: 'The server is shutting down and takes no new requests. Try again elsewhere or later.',
  too_large: 'The request can never fit the memory of this server. Send a shorter prompt or a lower max_tokens.',
  engine_failed: 'The engine failed while computing this request. Try again.',
} as const;

/** So many comments wait at most for a client that is slow to read; older ones are no news any more. */
const NOTES_MAX = 8;

/** All choices of one HTTP request. The first failure of one ends all. */
export class Generation {
  readonly choices: readonly Choice[];
  /** It is answered piece by piece, so that comments reach the client. */
  readonly streamed: boolean;
  /** The client is gone or was given up: nothing more is to be written. */
  abandoned = false;
  failure: FastswitchError | null = null;
  /** Called once, when the system has ended all that was submitted to it, or nothing will be. */
  onOver: () => void = () => {};
  #unended = 0;
  #submitting = false;
  #over = false;
  #place = 0;
  #notes: string[] = [];
  #news = false;
  #wake: (() => void) | null = null;

  constructor(system: System, tokenizer: Tokenizer, requests: readonly ChoiceRequest[], streamed: boolean) {
    const told = {
      changed: (choice: Choice) => this.#changed(choice),
      turned: (turn: Turn) => this.#note(turn === 'preempted' ? 'preempted' : 'resumed'),
      over: () => {
        this.#unended -= 1;
        this.#settleOver();
      },
    };
    this.streamed = streamed;
    this.choices = requests.map((request) => new Choice(system, tokenizer, request, streamed, told));
  }

  submit(): void {
    this.#submitting = true;
    for (const choice of this.choices) {
      if (this.failure !== null || this.abandoned) break;
      this.#unended += 1;
      choice.submit();
    }
    this.#submitting = false;
    this.#settleOver();
  }

  /** It will not be submitted. */
  refuse(error: FastswitchError): void {
    if (this.failure !== null || this.abandoned) return;
    this.failure = error;
    for (const choice of this.choices) choice.abort('client');
    this.#settleOver();
    this.#tell();
  }

  /** Its place in the line of those who wait, the first is 1. Said where it is another than before. */
  placed(place: number): void {
    if (place === this.#place) return;
    this.#place = place;
    this.#note(`queued ${place}`);
  }

  /** Comments on what has happened since they were last taken; '' for none. */
  takeNotes(): string {
    return this.#notes
      .splice(0)
      .map((note) => `: ${note}\n\n`)
      .join('');
  }

  #note(text: string): void {
    if (!this.streamed || this.done) return;
    this.#notes.push(text);
    if (this.#notes.length > NOTES_MAX) this.#notes.shift();
    // Whoever waits again hears of its place anew.
    if (text === 'preempted') this.#place = 0;
    this.#tell();
  }

  #settleOver(): void {
    if (this.#over || this.#submitting || this.#unended > 0) return;
    this.#over = true;
    this.onOver();
  }

  get done(): boolean {
    return this.abandoned || this.failure !== null || this.choices.every((choice) => choice.done);
  }

  /** Done, and what it used is known. */
  get counted(): boolean {
    return this.abandoned || this.failure !== null || this.choices.every((choice) => choice.counted);
  }

  /** Ends the work of all choices. After `client` and `stalled` nobody reads any more. */
  abort(reason: 'client' | 'stalled' | 'shutdown'): void {
    if (reason !== 'shutdown') this.abandoned = true;
    for (const choice of this.choices) choice.abort(reason);
    if (this.choices.every(({ submitted }) => !submitted)) this.#settleOver();
    this.#changed(this.choices.find((choice) => choice.failure !== null) ?? null);
  }

  /** Resolves at the next change, at once if there was one since the last call; false if the time ran out before. */
  changed(withinMillis: number | null): Promise<boolean> {
    if (this.#news) {
      this.#news = false;
      return Promise.resolve(true);
    }
    return new Promise((resolve) => {
      const timer = withinMillis === null ? null : setTimeout(() => this.#settle(resolve, false), withinMillis);
      this.#wake = () => {
        if (timer !== null) clearTimeout(timer);
        this.#settle(resolve, true);
      };
    });
  }

  #settle(resolve: (changed: boolean) => void, changed: boolean): void {
    this.#wake = null;
    this.#news = false;
    resolve(changed);
  }

  #changed(choice: Choice | null): void {
    if (choice !== null && choice.failure !== null && this.failure === null) {
      this.failure = choice.failure;
      for (const other of this.choices) other.abort('client');
    }
    this.#tell();
  }

  #tell(): void {
    this.#news = true;
    this.#wake?.();
  }
}

/** Generations in progress, so that a shutdown can wait for them and end them. */
export class OpenGenerations {
  readonly #open = new Set<Generation>();
  #emptied: (() => void)[] = [];

  add(generation: Generation): void {
    this.#open.add(generation);
  }

  delete(generation: Generation): void {
    this.#open.delete(generation);
    if (this.#open.size > 0) return;
    for (const resolve of this.#emptied.splice(0)) resolve();
  }

  abortAll(): void {
    for (const generation of this.#open) generation.abort('shutdown');
  }

  /** Resolves when the last answer has been written. */
  emptied(): Promise<void> {
    if (this.#open.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptied.push(resolve));
  }
}
