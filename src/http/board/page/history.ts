/**
 * The last two minutes of the run, for what a frame alone does not say: rates, and percentiles of the last ten seconds, both
 * by the differences of sums. Time is that of the run, so that a recording gives the same curves at any speed.
 */
import { type BoardFrame, type BoardTenant, TENANTS_MAX } from '../../../core/board.js';
import type { Histogram } from '../../../core/metrics.js';
import type { Direction, Micros } from '../../../core/types.js';
import { running } from './states.js';

const KEPT_MICROS = 120e6;
/** Frames closer than this to the last one kept replace it. */
const SPACING_MICROS = 150e3;
const RATE_MICROS = 1e6;
const PERCENTILE_MICROS = 10e6;
/** A jump longer than this, of what runs no faster than the clock, leaves a gap in the curves. */
const GAP_MICROS = 5e6;
/** And after one longer than this nothing before it is of interest. */
const LEAP_MICROS = 20e6;

type Kept = Pick<
  BoardFrame,
  | 'at'
  | 'record'
  | 'counts'
  | 'totals'
  | 'ttftSeconds'
  | 'tbtSeconds'
  | 'stepSeconds'
  | 'loopDelaySeconds'
  | 'tenants'
  | 'transitions'
>;

/** What was so at one moment; null: nothing to say, as there was no token or no copy. */
export interface Point {
  readonly at: Micros;
  readonly running: number;
  readonly queued: number;
  readonly swapped: number;
  /** Share of the device's blocks. */
  readonly deviceUsed: number;
  readonly tokensPerSecond: number;
  readonly preemptionsPerSecond: number;
  readonly bytesPerSecond: Readonly<Record<Direction, number>>;
  /** Share of the time in which it copied. */
  readonly linkBusy: Readonly<Record<Direction, number>>;
  /** Bytes a second while it copied: what the link can do. */
  readonly linkLimit: Readonly<Record<Direction, number | null>>;
  readonly stepMillis: number | null;
  readonly gapMillis: number | null;
  readonly prefillTokens: number | null;
  readonly decodeTokens: number | null;
  readonly ttft: Spread;
  readonly tbt: Spread;
  readonly step: Spread;
  readonly loopDelay: readonly [number, number, number] | null;
}

/** Seconds. */
export interface Spread {
  readonly p50: number | null;
  readonly p99: number | null;
}

export class History {
  readonly #frames: Kept[] = [];
  readonly #points: (Point | null)[] = [];

  /** Oldest first; null where a jump in time leaves a gap. */
  get points(): readonly (Point | null)[] {
    return this.#points;
  }

  get last(): Point | null {
    return this.#points.at(-1) ?? null;
  }

  clear(): void {
    this.#frames.length = 0;
    this.#points.length = 0;
  }

  /** `speed`: seconds of the run for each of the viewer. */
  push(frame: BoardFrame, speed = 1): void {
    const newest = this.#frames.at(-1) ?? frame;
    const jump = (frame.at - newest.at) / Math.max(1, speed);
    if (frame.record < newest.record || jump < 0 || jump > LEAP_MICROS) this.clear();
    else if (jump > GAP_MICROS) {
      this.#frames.length = 0;
      this.#points.push(null);
    }
    const before = this.#frames.at(-2);
    if (before !== undefined && frame.at - before.at < SPACING_MICROS) {
      this.#frames.pop();
      this.#points.pop();
    }
    this.#frames.push(frame);
    this.#points.push(this.#pointOf(frame));
    this.#forget(frame.at);
  }

  /** Tokens that each tenant was given in the last ten seconds, and what share of all that is; the hungriest first. */
  tenants(frame: BoardFrame): { readonly tenant: BoardTenant; readonly tokens: number; readonly share: number }[] {
    const then = this.#since(frame.at - PERCENTILE_MICROS)?.tenants ?? [];
    const before = new Map(then.map(({ tenant, generatedTokens }) => [tenant, generatedTokens]));
    // Who is not in a list that may have been cut had tokens too, nobody knows how many.
    const tokensThen = (tenant: BoardTenant) =>
      before.get(tenant.tenant) ?? (then.length < TENANTS_MAX ? 0 : tenant.generatedTokens);
    const tokens = frame.tenants.map((tenant) => Math.max(0, tenant.generatedTokens - tokensThen(tenant)));
    const all = tokens.reduce((sum, value) => sum + value, 0);
    return frame.tenants
      .map((tenant, index) => {
        const own = tokens[index] as number;
        return { tenant, tokens: own, share: all === 0 ? 0 : own / all };
      })
      .sort((a, b) => b.tokens - a.tokens || b.tenant.live - a.tenant.live);
  }

  /** How often each way was gone in the last ten seconds, a second. */
  flows(frame: BoardFrame): Map<string, number> {
    const before = this.#since(frame.at - PERCENTILE_MICROS);
    const elapsed = before === undefined ? 0 : (frame.at - before.at) / 1e6;
    const rates = new Map<string, number>();
    if (before === undefined || elapsed <= 0) return rates;
    for (const [way, times] of Object.entries(frame.transitions)) {
      const more = times - (before.transitions[way] ?? 0);
      if (more > 0) rates.set(way, more / elapsed);
    }
    return rates;
  }

  /** The newest frame that is at least as old, else the oldest. */
  #since(at: Micros): Kept | undefined {
    return this.#frames.findLast((frame) => frame.at <= at) ?? this.#frames[0];
  }

  #forget(now: Micros): void {
    while ((this.#frames[0]?.at ?? now) < now - KEPT_MICROS) this.#frames.shift();
    while (this.#points.length > 0 && (this.#points[0]?.at ?? 0) < now - KEPT_MICROS) this.#points.shift();
  }

  #pointOf(frame: BoardFrame): Point {
    const { at, counts, totals, device } = frame;
    const recent = this.#since(at - RATE_MICROS) ?? frame;
    const then = this.#since(at - PERCENTILE_MICROS) ?? frame;
    const seconds = (at - recent.at) / 1e6;
    const rate = (now: number, before: number) => (seconds > 0 ? (now - before) / seconds : 0);
    const preemptions = ({ swap, recompute }: BoardFrame['totals']['preemptions']) => swap + recompute;
    const steps = totals.steps - recent.totals.steps;
    const each = (now: number, before: number) => (steps > 0 ? (now - before) / steps : null);
    return {
      at,
      running: running(counts),
      queued: counts.queued,
      swapped: counts.swapped,
      deviceUsed: device.total === 0 ? 0 : 1 - device.free / device.total,
      tokensPerSecond: rate(totals.generatedTokens, recent.totals.generatedTokens),
      preemptionsPerSecond: rate(preemptions(totals.preemptions), preemptions(recent.totals.preemptions)),
      bytesPerSecond: ways((way) => rate(totals.bytes[way], recent.totals.bytes[way])),
      linkBusy: ways((way) => Math.min(1, rate(totals.copyMicros[way], recent.totals.copyMicros[way]) / 1e6)),
      linkLimit: ways((way) => quotient(totals.bytes[way], totals.copyMicros[way] / 1e6)),
      stepMillis: each(totals.stepMicros / 1000, recent.totals.stepMicros / 1000),
      gapMillis: each(totals.gapMicros / 1000, recent.totals.gapMicros / 1000),
      prefillTokens: each(totals.prefillTokens, recent.totals.prefillTokens),
      decodeTokens: each(totals.decodeTokens, recent.totals.decodeTokens),
      ttft: spread(then.ttftSeconds, frame.ttftSeconds),
      tbt: spread(then.tbtSeconds, frame.tbtSeconds),
      step: spread(then.stepSeconds, frame.stepSeconds),
      loopDelay: frame.loopDelaySeconds,
    };
  }
}

const ways = <T>(of: (way: Direction) => T): Record<Direction, T> => ({ out: of('out'), in: of('in') });
const quotient = (a: number, b: number): number | null => (b > 0 ? a / b : null);

function spread(before: Histogram, after: Histogram): Spread {
  return { p50: percentile(before, after, 0.5), p99: percentile(before, after, 0.99) };
}

/**
 * Of the values that came between two states of a histogram, as if they were spread evenly within each bucket; null: none
 * came. What is beyond the last bound counts as that.
 */
export function percentile(before: Histogram, after: Histogram, share: number): number | null {
  const came = after.counts.map((value, index) => value - (before === after ? 0 : (before.counts[index] ?? 0)));
  const all = came.reduce((sum, value) => sum + value, 0);
  if (all <= 0 || before === after) return null;
  let rest = share * all;
  for (const [index, value] of came.entries()) {
    if (rest > value || value === 0) {
      rest -= value;
      continue;
    }
    const low = after.bounds[index - 1] ?? 0;
    const high = after.bounds[index];
    return high === undefined ? low : low + (high - low) * (rest / value);
  }
  return after.bounds.at(-1) ?? null;
}

/** Jain's index: 1 where all have the same, 1/n where one has all. */
export function jain(values: readonly number[]): number | null {
  const sum = values.reduce((all, value) => all + value, 0);
  const squares = values.reduce((all, value) => all + value * value, 0);
  return squares === 0 ? null : (sum * sum) / (values.length * squares);
}
