/**
 * The door's public face. (Implementation follows: `createSystem`.)
 */
import type { MetricsSnapshot } from '../core/metrics.js';
import type { AbortReason, Content, RequestId } from '../core/types.js';
import type { Listener } from './ports.js';

export interface SubmitRequest {
  readonly content: Content;
  readonly maxTokens: number;
  readonly priority: number;
  readonly tenant: string;
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

/** The same on this thread or on another. */
export interface System {
  readonly info: SystemInfo;
  /** Never throws for load: a refusal comes as `listener.end({ outcome: 'rejected', ... })`. */
  submit(request: SubmitRequest, listener: Listener): RequestId;
  /** No effect on a request that has ended. The listener's `end` still comes. */
  abort(id: RequestId, reason: AbortReason): void;
  reprioritize(id: RequestId, priority: number): void;
  snapshot(): Promise<MetricsSnapshot>;
  /** New requests are rejected from now on; resolves when the last one has ended. */
  drain(): Promise<void>;
  /** Aborts what still runs and frees everything. */
  close(): Promise<void>;
  /** Resolves (with the error) if the system stopped because of a mistake of its own; never otherwise. */
  readonly failed: Promise<Error>;
}
