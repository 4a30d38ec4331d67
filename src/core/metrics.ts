/**
 * fold(event, effects) -> counters and histograms: what /metrics, benches and tests read. Pure.
 */
import type { Phase } from './types.js';

/** Cumulative histogram: counts[i] values were <= bounds[i] and > bounds[i - 1]; the last count is the overflow. */
export interface Histogram {
  readonly bounds: readonly number[];
  readonly counts: number[];
  sum: number;
  count: number;
}

export interface MetricsSnapshot {
  /** Live requests by state (`done` counts all that ended). */
  readonly requestsByPhase: Readonly<Record<Phase, number>>;
  readonly finishedByOutcome: Readonly<Record<'stop' | 'length' | 'aborted' | 'failed' | 'rejected', number>>;
  readonly ttftSeconds: Histogram;
  readonly tbtSeconds: Histogram;
  readonly stepSeconds: Histogram;
  readonly queueSeconds: Histogram;
  readonly requestSeconds: Histogram;
  readonly steps: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  /** Tokens computed by the engine, prefill (with recomputed ones) and decode. */
  readonly prefillTokensComputed: number;
  readonly decodeTokensComputed: number;
  readonly preemptions: { readonly swap: number; readonly recompute: number };
  readonly transfers: { readonly out: number; readonly in: number };
  readonly transferBytes: { readonly out: number; readonly in: number };
  readonly transferSeconds: { readonly out: number; readonly in: number };
  readonly transferRuns: { readonly out: number; readonly in: number };
  readonly transfersFailed: number;
  readonly stepsFailed: number;
  /** Blocks by memory and use. `reserved`: held by a request but not yet filled; `moving`: in a transfer. */
  readonly blocks: Readonly<Record<'device' | 'host', { readonly free: number; readonly used: number; readonly moving: number; readonly total: number }>>;
}
