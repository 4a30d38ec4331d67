/**
 * The door. Every outside fact enters through `Runtime.deliver`, is stamped, folded into the metrics and decided on;
 * every effect leaves through a port. The runtime owns one actor per live request.
 *
 * Fails stop: a mistake of our own (a broken law, a forbidden event in a chart) ends every request with an error and
 * refuses to go on, because going on could hand one user's blocks to another.
 */
import { type ActorRefFrom, createActor } from 'xstate';
import { type RequestEvent, requestMachine } from '../../statecharts/request.js';
import { serverMachine } from '../../statecharts/server.js';
import type { BoardReading } from '../core/board.js';
import { checkState } from '../core/check.js';
import { frameOf } from '../core/frame.js';
import type { Life } from '../core/life.js';
import { Lives } from '../core/lives.js';
import { MetricsFold, type MetricsSnapshot } from '../core/metrics.js';
import { decide } from '../core/scheduler.js';
import { createState, type Limits, type State } from '../core/state.js';
import { tellStory } from '../core/story.js';
import type { AbortReason, Content, Deadlines, Effect, EmittedToken, Event, Micros, RequestId } from '../core/types.js';
import { type Waiting, whyWaiting } from '../core/waiting.js';
import type { Answer, Hands, JournalPort, JournalStatus, Listener, RequestEnd, Turn, Unstamped } from './ports.js';
import { aheadOf, placesOf, turnOf } from './turns.js';

export interface SubmitRequest {
  readonly content: Content;
  readonly maxTokens: number;
  readonly priority: number;
  readonly tenant: string;
  /** Of its tenant, above 0; 1 where it is left out. The last word about a tenant holds for all of its requests. */
  readonly weight?: number;
  /** None where they are left out. */
  readonly deadlines?: Deadlines;
  /** What the world calls it, so that it can be asked about by that name. */
  readonly labels: readonly string[];
}

/** What the face needs to know of the system before the first request. */
export interface SystemInfo {
  /** Most tokens of prompt and completion together: the model's context, or what fits device memory if less. */
  readonly contextTokensMax: number;
  readonly vocabularySize: number;
  readonly blockTokens: number;
  readonly blockBytes: number;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
}

/** Metrics; how late the event loop of the system's own thread was since the last snapshot (null: it has none). */
export interface SystemSnapshot extends MetricsSnapshot {
  readonly loopDelaySeconds: Readonly<Record<'0.5' | '0.99' | '1', number>> | null;
  /** Null: nothing is recorded. */
  readonly journal: JournalStatus | null;
}

/** The life of one request up to now, and the same in words. */
export interface Explanation {
  readonly life: Life;
  /** When it was asked for, on the run's clock: the one that the life's times are on. */
  readonly at: Micros;
  /** Null: for nothing, it runs or has ended. */
  readonly waitingFor: Waiting | null;
  /** Lines of English. */
  readonly story: readonly string[];
}

/** The same on this thread or on another. */
export interface System {
  readonly info: SystemInfo;
  /** Never throws for load: a refusal comes as `listener.end({ outcome: 'rejected', ... })`. */
  submit(request: SubmitRequest, listener: Listener): RequestId;
  /** No effect on a request that has ended. The listener's `end` still comes. */
  abort(id: RequestId, reason: AbortReason): void;
  /** From the next step on, running or not. `priority` null, `deadlines` left out: as they were. */
  reprioritize(id: RequestId, priority: number | null, deadlines?: Deadlines): void;
  /** Of a tenant with live requests, from the next step on; the next request of it says its weight anew. Above 0. */
  reweight(tenant: string, weight: number): void;
  /** The place of each in the line of those who wait, the first is 1; 0: it does not wait. */
  places(ids: readonly RequestId[]): Promise<readonly number[]>;
  snapshot(): Promise<SystemSnapshot>;
  /**
   * Of the requests of this number (in digits) or label that live or ended lately, in order of arrival; of very many the
   * latest. Empty where none is known.
   */
  explain(name: string): Promise<readonly Explanation[]>;
  /** The system at this moment, for a board. `maps`: with the two memories, which are the bulk. */
  board(maps: boolean): Promise<BoardReading>;
  /** New requests are rejected from now on; resolves when the last one has ended. */
  drain(): Promise<void>;
  /** Aborts what still runs and frees everything. Rejects where the system's thread cannot be ended. */
  close(): Promise<void>;
  /** Resolves (with the error) if the system stopped because of a mistake of its own; never otherwise. */
  readonly failed: Promise<Error>;
}

/** Where the runtime's products go: one call for all tokens of a step. */
export interface Sink {
  tokens(items: readonly EmittedToken[]): void;
  turn?(id: RequestId, turn: Turn): void;
  end(id: RequestId, end: RequestEnd): void;
  failed(error: Error): void;
}

export interface RuntimeOptions {
  readonly limits: Limits;
  readonly makeHands: (answer: Answer) => Hands;
  readonly sink: Sink;
  readonly journal?: JournalPort;
  /** Sees every decision. */
  readonly witness?: (event: Event, effects: readonly Effect[], state: State) => void;
  /** Adds up what deciding and the actors take. */
  readonly stopwatch?: Stopwatch;
}

export interface Stopwatch {
  /** Microseconds of wall time; any zero. */
  now(): number;
  decideMicros: number;
  actorMicros: number;
}

/** The laws are checked when nothing lives, at most this often: it costs some microseconds per thousand blocks. */
const CHECK_PERIOD_MICROS = 10_000_000;

/** Lives in one answer: all choices of a large request, and little time taken from the next step. */
const EXPLAINED_MAX = 128;

export class Runtime {
  readonly #state: State;
  readonly #metrics: MetricsFold;
  readonly #lives = new Lives();
  readonly #hands: Hands;
  readonly #sink: Sink;
  readonly #journal: JournalPort | undefined;
  /** Events so far. */
  #taken = 0;
  /** What is being taken in, until it is decided on. */
  #undecided: Event | null = null;
  /** Of the prompt of each live request that was found and not computed. */
  readonly #cachedTokens = new Map<RequestId, number>();
  readonly #stopwatch: Stopwatch | undefined;
  readonly #witness: RuntimeOptions['witness'];
  readonly #actors = new Map<RequestId, ActorRefFrom<typeof requestMachine>>();
  readonly #server = createActor(serverMachine);
  readonly #machine;
  readonly #inbox: Unstamped[] = [];
  #delivering = false;
  #failure: Error | null = null;
  #drained: (() => void)[] = [];
  #closed: Promise<void> | null = null;
  #nextCheckAt: Micros = 0;

  constructor(options: RuntimeOptions) {
    this.#state = createState(options.limits);
    this.#metrics = new MetricsFold({ blockBytes: options.limits.blockBytes });
    this.#sink = options.sink;
    this.#journal = options.journal;
    this.#witness = options.witness;
    this.#stopwatch = options.stopwatch;
    this.#hands = options.makeHands((event) => this.deliver(event));
    this.#machine = requestMachine.provide({
      actions: {
        startTransfer: ({ event }) => {
          if (event.type === 'SWAP_OUT' || event.type === 'SWAP_IN') this.#hands.transfers.start(event.effect);
        },
      },
    });
    this.#server.start();
    this.#server.send({ type: 'READY' });
  }

  /** The one way in for a new request. `id` counts up from 1. */
  submit(id: RequestId, request: SubmitRequest): void {
    if (this.#failure !== null) return this.#sink.end(id, failedEnd(this.#failure));
    const actor = createActor(this.#machine, { input: { id } });
    actor.subscribe({ error: (error) => this.#fail(error) });
    this.#actors.set(id, actor);
    actor.start();
    this.#journal?.opened(id, request.content);
    const names = this.#hands.engine.open(id, request.content);
    const { maxTokens, priority, tenant, labels, weight = 1, deadlines = NO_DEADLINES } = request;
    const { ttftMicros, tbtMicros } = deadlines;
    const promptTokens = request.content.promptTokens.length;
    const told = { id, labels, promptTokens, maxTokens, priority, tenant, weight, ttftMicros, tbtMicros, names };
    this.deliver({ type: 'arrived', ...told });
  }

  /** As `System.reprioritize`. The event says all that holds from then on. */
  reprioritize(id: RequestId, priority: number | null, deadlines?: Deadlines): void {
    const request = this.#state.requests.get(id);
    if (request === undefined) return;
    const item = { id, priority: priority ?? request.priority };
    this.deliver({ type: 'reprioritized', items: [deadlines === undefined ? item : { ...item, deadlines }] });
  }

  reweight(tenant: string, weight: number): void {
    this.deliver({ type: 'reweighted', tenant, weight });
  }

  /** Takes in an outside fact. Safe to call from a port's answer: facts are taken one at a time, in order. */
  deliver(event: Unstamped): void {
    this.#inbox.push(event);
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      for (let next = this.#inbox.shift(); next !== undefined && this.#failure === null; next = this.#inbox.shift()) {
        this.#take({ ...next, at: this.#hands.clock.now() } as Event);
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#delivering = false;
    }
  }

  #take(event: Event): void {
    const started = this.#stopwatch?.now() ?? 0;
    this.#undecided = event;
    this.#taken += 1;
    const effects = decide(this.#state, event);
    this.#undecided = null;
    if (this.#stopwatch !== undefined) this.#stopwatch.decideMicros += this.#stopwatch.now() - started;
    this.#journal?.decided(event, effects);
    this.#metrics.apply(event, effects);
    this.#lives.apply(event, effects, this.#state);
    this.#witness?.(event, effects, this.#state);
    for (const effect of effects) {
      this.#perform(effect, event);
      const turned = turnOf(effect, this.#state);
      if (turned !== null) this.#sink.turn?.(turned.id, turned.turn);
    }
    if (this.#state.requests.size === 0) this.#idle(event.at);
  }

  #perform(effect: Effect, event: Event): void {
    switch (effect.type) {
      case 'step':
        return this.#hands.engine.step(effect);
      case 'tokens':
        return this.#sink.tokens(effect.items);
      case 'finish':
        this.#tell(effect.id, { type: 'FINISH', outcome: effect.outcome, error: effect.error });
        return this.#close(effect.id, {
          outcome: effect.outcome,
          code: effect.outcome === 'failed' ? 'engine_failed' : null,
          message: effect.error,
          cachedTokens: this.#cachedTokens.get(effect.id) ?? 0,
          retryAfterSeconds: null,
        });
      case 'reject':
        this.#tell(effect.id, { type: 'REJECT', code: effect.code });
        return this.#close(effect.id, {
          outcome: 'rejected',
          code: effect.code,
          message: null,
          cachedTokens: 0,
          retryAfterSeconds: effect.code === 'queue_full' ? this.#retryAfterSeconds(event) : null,
        });
      case 'swapOut':
        return this.#tell(effect.id, { type: 'SWAP_OUT', effect });
      case 'swapIn':
        this.#noteCached(effect.id, effect.cachedTokens);
        return this.#tell(effect.id, { type: 'SWAP_IN', effect });
      case 'mirror':
      case 'prefetch':
        return this.#hands.transfers.start(effect);
      case 'admit':
        this.#noteCached(effect.id, effect.cachedTokens);
        return this.#tell(effect.id, { type: 'ADMIT' });
      default:
        return this.#tell(effect.id, { type: CHART_EVENTS[effect.type] });
    }
  }

  /** Of the first admission: what a request finds of itself when it is computed again is no service to its client. */
  #noteCached(id: RequestId, tokens: number): void {
    if (!this.#cachedTokens.has(id)) this.#cachedTokens.set(id, tokens);
  }

  #tell(id: RequestId, event: RequestEvent): void {
    const actor = this.#actors.get(id);
    if (actor === undefined) throw new Error(`effect ${event.type} for request ${id}, which has no actor`);
    const started = this.#stopwatch?.now() ?? 0;
    actor.send(event);
    if (this.#stopwatch !== undefined) this.#stopwatch.actorMicros += this.#stopwatch.now() - started;
    // xstate turns an error inside a chart into a state of the actor: look, or it goes unnoticed.
    const snapshot = actor.getSnapshot();
    if (snapshot.status === 'error') throw snapshot.error;
  }

  #close(id: RequestId, end: RequestEnd): void {
    this.#actors.delete(id);
    this.#cachedTokens.delete(id);
    this.#hands.engine.close(id);
    this.#sink.end(id, end);
  }

  /**
   * When a newcomer of this rank would have its turn: by how many wait and rank above it, and the mean time that requests
   * took once admitted. A tenant that was served little is asked to wait less than the one that fills the queue.
   */
  #retryAfterSeconds(event: Event): number {
    const waves = (aheadOf(this.#state, event) + 1) / this.#state.limits.maxRunning;
    return Math.min(59, Math.max(1, Math.ceil(this.#metrics.meanServiceSeconds() * waves)));
  }

  #idle(at: Micros): void {
    if (at >= this.#nextCheckAt) {
      checkState(this.#state);
      this.#nextCheckAt = at + CHECK_PERIOD_MICROS;
    }
    const { value } = this.#server.getSnapshot();
    if (value === 'ready') return;
    if (value === 'draining') this.#server.send({ type: 'IDLE' });
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  snapshot(): MetricsSnapshot {
    const { device, host, warm, copies, flights } = this.#state;
    const gauges = (memory: State['device'], moving: number, reusable: number) => ({
      free: memory.free,
      moving,
      used: memory.total - memory.free - moving,
      kept: reusable,
      total: memory.total,
    });
    let copied = 0; // a copy that two transfers read counts twice, but never for more than is used
    let kept = warm.blocks;
    for (const { blocks, parts } of flights.values()) {
      copied += blocks;
      for (const { owner, copies: copying } of parts) if (warm.has(owner)) kept -= copying.length;
    }
    const onHost = Math.min(copied, host.total - host.free - copies.spare);
    return this.#metrics.snapshot({
      device: gauges(device, device.moving, kept),
      host: gauges(host, onHost, copies.spare),
    });
  }

  /** As `System.explain`. */
  explain(name: string): Explanation[] {
    const { policy, mechanism } = this.#state.limits;
    const at = this.#hands.clock.now();
    return this.#lives
      .find(name)
      .slice(-EXPLAINED_MAX)
      .map((life) => {
        const waitingFor = whyWaiting(this.#state, life.id);
        const others = (id: RequestId) => this.#lives.labelsOf(id);
        return { life, at, waitingFor, story: tellStory(life, { now: at, policy, mechanism, waitingFor, others }) };
      });
  }

  /** As `System.places`. */
  places(ids: readonly RequestId[]): number[] {
    return placesOf(this.#state, ids);
  }

  /** As `System.board`, without the delay of an event loop. */
  board(maps: boolean): BoardReading {
    const seen = {
      at: this.#hands.clock.now(),
      record: this.#taken,
      server: this.#standing(),
      metrics: this.snapshot(),
      transitions: this.#metrics.transitions(),
      tenants: this.#metrics.tenants(),
      glance: (id: RequestId) => this.#metrics.glance(id),
    };
    return frameOf(this.#state, seen, maps);
  }

  /** By the state and not by the chart: in a replay nobody calls `drain`, it comes as an event. */
  #standing(): BoardReading['server'] {
    if (this.#failure !== null) return 'failed';
    if (!this.#state.draining) return 'ready';
    return this.#state.requests.size === 0 ? 'stopped' : 'draining';
  }

  /** Rejects newcomers and resolves when the last request has ended. */
  drain(): Promise<void> {
    if (this.#failure !== null) return Promise.resolve();
    const drained = new Promise<void>((resolve) => this.#drained.push(resolve));
    if (this.#server.getSnapshot().value === 'ready') this.#server.send({ type: 'DRAIN' });
    this.deliver({ type: 'draining' });
    return drained;
  }

  /** Aborts what lives, waits until nothing is in flight, frees the hands. */
  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    const drained = this.drain();
    for (const id of [...this.#actors.keys()]) this.deliver({ type: 'aborted', id, reason: 'shutdown' });
    await drained;
    if (this.#failure === null) checkState(this.#state);
    // Copies ahead of need may still be on their way: nobody hears of them any more, and no record tells that they landed.
    await this.#hands.close();
    await this.#journal?.close(this.#hands.clock.now());
  }

  #fail(error: unknown): void {
    if (this.#failure !== null) return;
    this.#failure = error instanceof Error ? error : new Error(String(error));
    try {
      this.#journal?.crashed(this.#hands.clock.now(), this.#undecided, this.#failure);
    } catch {
      // Everybody is to hear of the failure itself, whatever becomes of its recording.
    }
    if (this.#server.getSnapshot().status === 'active') this.#server.send({ type: 'FAIL' });
    for (const id of this.#actors.keys()) this.#sink.end(id, failedEnd(this.#failure));
    this.#actors.clear();
    for (const resolve of this.#drained.splice(0)) resolve();
    this.#sink.failed(this.#failure);
  }
}

const NO_DEADLINES: Deadlines = { ttftMicros: null, tbtMicros: null };

const CHART_EVENTS = {
  prefilled: 'PREFILLED',
  settled: 'SETTLED',
  recompute: 'RECOMPUTE',
  ending: 'ENDING',
  park: 'PARK',
  resume: 'RESUME',
} as const;

function failedEnd(error: Error): RequestEnd {
  return {
    outcome: 'failed',
    code: 'engine_failed',
    message: `the server stopped: ${error.message}`,
    cachedTokens: 0,
    retryAfterSeconds: null,
  };
}
