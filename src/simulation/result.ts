/** What one simulated run is reduced to, and what `simulate --json` prints: the words of the evaluation. */
import type { Pattern } from './patterns.js';

/** Percentiles, nearest rank, of exact samples (no buckets). 0 where there were none. */
export interface Spread {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly p999: number;
}

export interface RunResult {
  readonly seed: number;
  /** SHA-256 over every event and its effects: equal seeds give equal digests. */
  readonly digest: string;
  /** Requests (turns) that ended; all of them, or the run throws. */
  readonly requests: number;
  /** From the first arrival to the last token. */
  readonly virtualSeconds: number;
  /** Arrival of a turn to its first token; between one token of a turn and its next. Milliseconds. */
  readonly ttftMs: Spread;
  readonly tbtMs: Spread;
  /** Generated tokens per virtual second, from first arrival to last token. */
  readonly throughputTokensPerSecond: number;
  /**
   * Iterations are the intervals from one step's return to the next step's return while anyone was alive and could have
   * run; the stall is the part of it before the step was launched. Share of stall in the iterations at or above P99.
   */
  readonly stallShareP99: number;
  readonly iterationMs: Spread;
  readonly stallMs: Spread;
  readonly steps: number;
  readonly preemptions: { readonly swap: number; readonly recompute: number };
  /** Transfers that landed, of any kind. */
  readonly transfers: number;
  readonly bytesOut: number;
  readonly bytesIn: number;
  /** Bytes of these that went ahead of need. */
  readonly bytesMirrored: number;
  readonly bytesPrefetched: number;
  /** Mean blocks per contiguous run, over all transfers. */
  readonly meanRunBlocks: number;
  /** From the decision to preempt to landing, and from the decision to resume to landing; 0 where nothing was copied. */
  readonly swapOutMs: Spread;
  readonly swapInMs: Spread;
  /** Blocks preemptions sent, and blocks they found on the host already. */
  readonly blocksSent: number;
  readonly blocksHeld: number;
  readonly promptTokens: number;
  /** Of them, tokens whose KV was found and not computed. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly prefillTokensComputed: number;
  /** Tokens a step sampled per millisecond of its iteration; a low percentile is the bad end: p50, p5, p1, p01 as p50..p999. */
  readonly tokensPerMs: Spread;
  /**
   * Wall time of our own, microseconds per step: `decide`, and the rest of the runtime (door, metrics, charts, actors).
   * These and `stepsPerSecond` are all that differs between two runs of one seed.
   */
  readonly decideMicrosPerStep: number;
  readonly actorMicrosPerStep: number;
  /** Simulated steps per second of wall time, with everything that the simulation itself costs. */
  readonly stepsPerSecond: number;
}

/** What arrives: conversations drawn from a distribution, or a recorded trace. */
export type Load =
  | {
      readonly type: 'conversations';
      readonly conversations: number;
      readonly conversationsPerSecond: number;
      readonly thinkSeconds: number;
    }
  | {
      readonly type: 'trace';
      readonly path: string;
      /** Most requests taken from it; 0: all. */
      readonly limit: number;
      readonly speed: number;
    };

/** What has to be given again to get the same digests. */
export interface Settings {
  readonly load: Load;
  /** Requests of a trace that were left out because they are longer than the context. */
  readonly dropped: number;
  readonly pattern: Pattern;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly noise: number;
}

/** One preset under one scenario and pattern, over all seeds. */
export interface PresetResult {
  readonly preset: string;
  readonly scenario: string;
  readonly pattern: string;
  readonly policy: string;
  readonly settings: Settings;
  readonly runs: readonly RunResult[];
}
