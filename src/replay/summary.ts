/** What people read first of a recording: what it is, what happened in it, and where it hung. Plain data, as --json prints it. */
import type { JournalHeader } from '../actors/records.js';
import type { MetricsSnapshot } from '../core/metrics.js';
import type { Cause, Direction, Effect, Event, Outcome } from '../core/types.js';
import { FiguresFold, type RunFigures } from './figures.js';
import type { Crash, Played } from './play.js';
import { type Stalls, StallsFold } from './stalls.js';

/** One way over the link, of transfers that landed. */
interface Copied {
  readonly transfers: number;
  readonly bytes: number;
  readonly runs: number;
  /** Of the copying alone. */
  readonly seconds: number;
  readonly bytesByKind: Readonly<Record<string, number>>;
}

export interface Summary {
  readonly recording: Omit<JournalHeader, 'format' | 'segment' | 'firstRecord' | 'lost'>;
  readonly records: number;
  /** From the run's zero to its last record, and what the replay took. */
  readonly virtualSeconds: number;
  readonly replaySeconds: number;
  readonly crash: Crash | null;
  readonly events: Readonly<Record<Event['type'], number>>;
  readonly requests: { readonly arrived: number; readonly alive: number; readonly ended: Readonly<Record<Outcome, number>> };
  readonly tokens: {
    readonly generated: number;
    readonly perSecond: number;
    /** Of requests that got a token; `found` of these were not computed. */
    readonly prompt: number;
    readonly found: number;
    /** By the engine, with what was computed again. */
    readonly prefillComputed: number;
    readonly decodeComputed: number;
  };
  /** `withoutCopy`: swaps for which nothing had to be copied. */
  readonly preemptions: {
    readonly swap: number;
    readonly recompute: number;
    readonly withoutCopy: number;
    readonly causes: Readonly<Record<Cause['why'], number>>;
  };
  readonly copied: Readonly<Record<Direction, Copied>>;
  readonly stepsFailed: number;
  readonly transfersFailed: number;
  readonly latencies: Pick<RunFigures, 'ttftMs' | 'tbtMs' | 'requestMs'> & Pick<Stalls, 'iterationMs' | 'stallMs'>;
  readonly longest: Pick<Stalls, 'pauses' | 'firstTokens' | 'iterations'>;
  /** How the tenants fared, where there are several. */
  readonly tenants: RunFigures['tenants'];
  readonly fairness: RunFigures['fairness'];
}

/** Entries in each list of the longest. */
const LONGEST = 10;

export class SummaryFold {
  readonly #header: JournalHeader;
  readonly #figures: FiguresFold;
  readonly #stalls = new StallsFold(LONGEST);
  readonly #events: Record<Event['type'], number> = {
    arrived: 0,
    aborted: 0,
    stepped: 0,
    stepFailed: 0,
    landed: 0,
    transferFailed: 0,
    reprioritized: 0,
    reweighted: 0,
    draining: 0,
  };
  readonly #causes: Record<Cause['why'], number> = { outranked: 0, growth: 0, crowded: 0, host: 0, failed: 0 };

  constructor(header: JournalHeader) {
    this.#header = header;
    this.#figures = new FiguresFold(header.limits.blockBytes);
  }

  see(event: Event, effects: readonly Effect[], record: number): void {
    this.#events[event.type] += 1;
    for (const effect of effects) if ('cause' in effect) this.#causes[effect.cause.why] += 1;
    this.#figures.see(event, effects);
    this.#stalls.see(event, effects, record);
  }

  result({ records, at, crash, metrics, seconds }: Played): Summary {
    const { format: _, segment: _s, firstRecord: _f, lost: _l, ...recording } = this.#header;
    const figures = this.#figures.result();
    const { iterationMs, stallMs, ...longest } = this.#stalls.result();
    const { ttftMs, tbtMs, requestMs, requests: arrived, ended } = figures;
    return {
      recording,
      records,
      virtualSeconds: at / 1e6,
      replaySeconds: seconds,
      crash,
      events: { ...this.#events },
      requests: { arrived, alive: arrived - Object.values(ended).reduce((sum, count) => sum + count, 0), ended },
      tokens: {
        generated: figures.generatedTokens,
        perSecond: figures.tokensPerSecond,
        prompt: metrics.promptTokens,
        found: metrics.cachedPromptTokens,
        prefillComputed: metrics.prefillTokensComputed,
        decodeComputed: metrics.decodeTokensComputed,
      },
      preemptions: { ...metrics.preemptions, withoutCopy: metrics.parked, causes: { ...this.#causes } },
      copied: { out: copied(metrics, 'out'), in: copied(metrics, 'in') },
      stepsFailed: metrics.stepsFailed,
      transfersFailed: metrics.transfersFailed,
      latencies: { ttftMs, tbtMs, requestMs, iterationMs, stallMs },
      longest,
      tenants: figures.tenants,
      fairness: figures.fairness,
    };
  }
}

const KINDS = { out: ['swapOut', 'mirror'], in: ['swapIn', 'prefetch'] } as const;

function copied(metrics: MetricsSnapshot, direction: Direction): Copied {
  const bytesByKind = Object.fromEntries(KINDS[direction].map((kind) => [kind, metrics.transferBytesByKind[kind]]));
  return {
    transfers: metrics.transfers[direction],
    bytes: metrics.transferBytes[direction],
    runs: metrics.transferRuns[direction],
    seconds: metrics.transferSeconds[direction],
    bytesByKind,
  };
}
