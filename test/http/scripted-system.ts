/**
 * A system that computes nothing: it emits what a test tells it to, when it tells it to, and remembers what was asked
 * of it. It stands behind the same interface as the real one and keeps its laws (one end, last; an end after an
 * abort).
 */
import type { Listener, RequestEnd, Turn } from '../../src/actors/ports.js';
import type { Explanation, SubmitRequest, System, SystemInfo, SystemSnapshot } from '../../src/actors/system.js';
import type { BoardReading } from '../../src/core/board.js';
import type { Histogram } from '../../src/core/metrics.js';
import type { AbortReason, Deadlines, RequestId, TokenLogprobs } from '../../src/core/types.js';
import { readingOf, rowOf } from './board-frames.js';
import { VOCABULARY } from './fixtures/tokenizers.js';

export const bytesOf = (text: string): number[] => [...Buffer.from(text, 'utf8')];

export const ENDED: RequestEnd = { outcome: 'stop', code: null, message: null, cachedTokens: 0, retryAfterSeconds: null };
export const CUT: RequestEnd = { ...ENDED, outcome: 'length' };
export const ABORTED: RequestEnd = { ...ENDED, outcome: 'aborted' };
export const failed = (message: string): RequestEnd => ({ ...ENDED, outcome: 'failed', code: 'engine_failed', message });
export const refused = (code: 'queue_full' | 'draining' | 'too_large', retryAfterSeconds: number | null = null): RequestEnd => ({
  ...ENDED,
  outcome: 'rejected',
  code,
  retryAfterSeconds,
});

/** One thing that a request does: emit tokens together, let time pass, or end. */
export type Beat =
  | { readonly tokens: readonly number[]; readonly logprobs?: TokenLogprobs }
  | { readonly waitMillis: number }
  | { readonly turn: Turn }
  | RequestEnd;

export class ScriptedRequest {
  readonly id: RequestId;
  readonly request: SubmitRequest;
  readonly #listener: Listener;
  readonly #ended: () => void;
  aborted: AbortReason | null = null;
  emitted = 0;
  over = false;

  constructor(id: RequestId, request: SubmitRequest, listener: Listener, ended: () => void) {
    this.id = id;
    this.request = request;
    this.#listener = listener;
    this.#ended = ended;
  }

  emit(tokens: readonly number[], logprobs: TokenLogprobs | null = null): void {
    if (this.over) return;
    this.#listener.tokens(tokens.map((token) => ({ id: this.id, index: this.emitted++, token, logprobs })));
  }

  end(end: RequestEnd): void {
    if (this.over) return;
    this.over = true;
    this.#listener.end(end);
    this.#ended();
  }

  turn(turn: Turn): void {
    if (!this.over) this.#listener.turn?.(turn);
  }

  async play(beats: readonly Beat[]): Promise<void> {
    for (const beat of beats) {
      if (this.over) return;
      if ('tokens' in beat) this.emit(beat.tokens, beat.logprobs ?? null);
      else if ('waitMillis' in beat) await new Promise((resolve) => setTimeout(resolve, beat.waitMillis));
      else if ('turn' in beat) this.turn(beat.turn);
      else this.end(beat);
    }
  }
}

const histogram = (values: readonly number[]): Histogram => ({
  bounds: [0.1, 1],
  counts: [values.length, 0, 0],
  sum: values.reduce((a, b) => a + b, 0),
  count: values.length,
});

export class ScriptedSystem implements System {
  readonly info: SystemInfo;
  readonly requests: ScriptedRequest[] = [];
  readonly failed: Promise<Error>;
  /** What each request does by itself; none: it waits for the test. `index` counts requests from 0. */
  script: (request: SubmitRequest, index: number) => readonly Beat[] = () => [];
  /** The answer comes within `submit`. */
  eager = false;
  draining = false;
  readonly priorities: (readonly [RequestId, number | null] | readonly [RequestId, number | null, Deadlines])[] = [];
  readonly weights: (readonly [string, number])[] = [];
  /** Of those who wait. */
  readonly lines = new Map<RequestId, number>();
  /** For a board: looks so far, those that asked for maps, how many at once; rows to add, and what goes wrong. */
  readonly looks = { count: 0, maps: 0, running: 0, most: 0, millis: 0, more: 0, labelLength: 8, error: null as Error | null };
  fail: (error: Error) => void = () => {};
  /** What is known of the requests of a name. */
  explanations: (name: string) => readonly Explanation[] = () => [];
  #drained: (() => void)[] = [];

  constructor(info: Partial<SystemInfo> = {}) {
    this.info = {
      contextTokensMax: 1024,
      vocabularySize: VOCABULARY,
      blockTokens: 16,
      blockBytes: 4096,
      deviceBlocks: 64,
      hostBlocks: 256,
      ...info,
    };
    this.failed = new Promise((resolve) => {
      this.fail = resolve;
    });
  }

  submit(request: SubmitRequest, listener: Listener): RequestId {
    const index = this.requests.length;
    const scripted = new ScriptedRequest(index + 1, request, listener, () => this.#settle());
    this.requests.push(scripted);
    const start = (): void =>
      void (this.draining ? scripted.end(refused('draining')) : scripted.play(this.script(request, index)));
    if (this.eager) start();
    else setImmediate(start);
    return scripted.id;
  }

  abort(id: RequestId, reason: AbortReason): void {
    const scripted = this.requests[id - 1];
    if (scripted === undefined || scripted.over) return;
    scripted.aborted ??= reason;
    setImmediate(() => scripted.end(ABORTED));
  }

  reprioritize(id: RequestId, priority: number | null, deadlines?: Deadlines): void {
    this.priorities.push(deadlines === undefined ? [id, priority] : [id, priority, deadlines]);
  }

  reweight(tenant: string, weight: number): void {
    this.weights.push([tenant, weight]);
  }

  async places(ids: readonly RequestId[]): Promise<readonly number[]> {
    return ids.map((id) => this.lines.get(id) ?? 0);
  }

  async snapshot(): Promise<SystemSnapshot> {
    const live = this.requests.filter((request) => !request.over).length;
    return {
      requestsByPhase: {
        queued: live,
        prefilling: 0,
        decoding: 0,
        'swapping-out': 0,
        swapped: 0,
        'swapping-in': 0,
        done: this.requests.length - live,
      },
      finishedByOutcome: { stop: this.requests.length - live, length: 0, aborted: 0, failed: 0, rejected: 0 },
      ttftSeconds: histogram([0.05, 0.07]),
      tbtSeconds: histogram([]),
      stepSeconds: histogram([0.01]),
      stepGapSeconds: histogram([0.0002]),
      loopDelaySeconds: null,
      journal: null,
      stepTokens: histogram([17]),
      promptLength: histogram([5, 6]),
      generationLength: histogram([3, 4]),
      mostLength: histogram([16, 16]),
      computedPromptLength: histogram([2, 4]),
      prefillSeconds: histogram([0.02, 0.03]),
      decodeSeconds: histogram([0.4, 0.5]),
      inferenceSeconds: histogram([0.42, 0.53]),
      meanTbtSeconds: histogram([0.2]),
      queueSeconds: histogram([]),
      requestSeconds: histogram([]),
      steps: 3,
      promptTokens: 11,
      cachedPromptTokens: 5,
      cachedTokens: 9,
      generatedTokens: 7,
      prefillTokensComputed: 11,
      decodeTokensComputed: 6,
      preemptions: { swap: 2, recompute: 1 },
      parked: 1,
      resumedWithoutCopy: 2,
      blocksSent: 3,
      blocksHeld: 4,
      transfers: { out: 2, in: 1 },
      transferBytes: { out: 8192, in: 4096 },
      transferBytesByKind: { swapOut: 2048, swapIn: 3072, mirror: 6144, prefetch: 1024 },
      transferSeconds: { out: 0.5, in: 0.25 },
      transferRuns: { out: 2, in: 1 },
      transfersFailed: 0,
      stepsFailed: 0,
      blocks: {
        device: { free: 60, used: 3, moving: 1, total: 64, kept: 0 },
        host: { free: 250, used: 6, moving: 0, total: 256, kept: 4 },
      },
    };
  }

  async explain(name: string): Promise<readonly Explanation[]> {
    return this.explanations(name);
  }

  /** Its requests, all of them queued. The clock goes on by one with every look. */
  async board(maps: boolean): Promise<BoardReading> {
    const { looks } = this;
    looks.count += 1;
    if (maps) looks.maps += 1;
    looks.running += 1;
    looks.most = Math.max(looks.most, looks.running);
    if (looks.millis > 0) await new Promise((resolve) => setTimeout(resolve, looks.millis));
    looks.running -= 1;
    if (looks.error !== null) throw looks.error;
    const live = this.requests.filter(({ over }) => !over);
    const rows = live.map(({ id, request, emitted }) =>
      rowOf(id, { label: request.labels[0] ?? '', tenant: request.tenant, priority: request.priority, generated: emitted }),
    );
    const more = Array.from({ length: looks.more }, (_, k) =>
      rowOf(1000 + k, { label: `${looks.count} `.padEnd(looks.labelLength, '.') }),
    );
    return { ...readingOf(looks.count, [...rows, ...more], maps), server: this.draining ? 'draining' : 'ready' };
  }

  drain(): Promise<void> {
    this.draining = true;
    return new Promise((resolve) => {
      this.#drained.push(resolve);
      this.#settle();
    });
  }

  async close(): Promise<void> {}

  #settle(): void {
    if (!this.draining || this.requests.some((request) => !request.over)) return;
    for (const resolve of this.#drained.splice(0)) resolve();
  }
}
