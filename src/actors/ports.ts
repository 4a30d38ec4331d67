/**
 * The borders of the system: who answers the effects. Three pairs of hands implement them (live, simulated,
 * replayed).
 *
 * Two laws: a port never answers before it has returned; it answers every call exactly once, by an event (success
 * or failure). Silence is a mistake of our own: the live hands stop the system when a native call does not return.
 */
import type { BlockName, Content, Effect, EmittedToken, Event, Micros, Outcome, RequestId } from '../core/types.js';

type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;
type WithoutStamp<E> = E extends { at: Micros } ? Omit<E, 'at'> : never;

export type StepEffect = EffectOf<'step'>;
export type TransferEffect = EffectOf<'swapOut' | 'swapIn' | 'mirror' | 'prefetch'>;
/** An event before the door has stamped it. */
export type Unstamped = WithoutStamp<Event>;
/** The way back through the one door. */
export type Answer = (event: Unstamped) => void;

/** Runs the model. Keeps the token ids of open requests, so that events carry lengths only. */
export interface EnginePort {
  /** The request exists from now on. Returns the names of the full blocks of its prompt. */
  open(id: RequestId, content: Content): readonly BlockName[];
  /** Answers `stepped` or `stepFailed`. One step at a time. */
  step(effect: StepEffect): void;
  /** The request has ended; not called while a step that contains it is in flight. */
  close(id: RequestId): void;
}

/** Moves KV between device and host. Answers `landed` or `transferFailed`. */
export interface TransfersPort {
  start(effect: TransferEffect): void;
}

export interface ClockPort {
  now(): Micros;
}

export interface Hands {
  readonly engine: EnginePort;
  readonly transfers: TransfersPort;
  readonly clock: ClockPort;
  /** Frees threads and memory; nothing is answered afterwards. */
  close(): Promise<void>;
}

/** Writes down what came in and what was decided on it. Never throws, never waits: a run is served, recorded or not. */
export interface JournalPort {
  /** The content of a request, before its arrival. */
  opened(id: RequestId, content: Content): void;
  decided(event: Event, effects: readonly Effect[]): void;
  /** The run stops here. `event` is null where it was decided on and performing the effects failed. */
  crashed(at: Micros, event: Event | null, error: Error): void;
  /** The run was closed in order at `at`; resolves when everything is written that can be. */
  close(at: Micros): Promise<void>;
}

/** How recording goes. */
export interface JournalStatus {
  /** Records and bytes written. */
  readonly records: number;
  readonly bytes: number;
  /** Records that could not be written, or that nobody made. */
  readonly lost: number;
  /** Records are being lost. */
  readonly failing: boolean;
}

/** A request begins to compute (for the first time or again), or has to leave the device before it has ended. */
export type Turn = 'running' | 'preempted';

/** Receives what a request produces. `end` is called exactly once, last. */
export interface Listener {
  tokens(items: readonly EmittedToken[]): void;
  turn?(turn: Turn): void;
  end(end: RequestEnd): void;
}

export interface RequestEnd {
  readonly outcome: Outcome;
  /** Code from the catalogue for `failed` and `rejected`, else null. */
  readonly code: 'queue_full' | 'draining' | 'too_large' | 'engine_failed' | null;
  readonly message: string | null;
  /** Tokens of its prompt whose KV was found and not computed. */
  readonly cachedTokens: number;
  /** Seconds after which a refused client may try again, from the state of the queue; null where it does not apply. */
  readonly retryAfterSeconds: number | null;
}
