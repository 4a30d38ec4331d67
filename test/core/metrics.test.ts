import { describe, expect, it } from 'vitest';
import { type Histogram, MetricsFold, type MetricsSnapshot } from '../../src/core/metrics.js';
import type { Effect, Event, RequestId, StepItem } from '../../src/core/types.js';

const BLOCKS: MetricsSnapshot['blocks'] = {
  device: { free: 3, used: 4, moving: 1, total: 8 },
  host: { free: 8, used: 0, moving: 0, total: 8 },
};
const BLOCK_BYTES = 1000;

const arrived = (id: RequestId, at: number, promptTokens = 20): Event => ({
  type: 'arrived',
  at,
  id,
  promptTokens,
  maxTokens: 8,
  priority: 0,
  tenant: 'a',
});
const item = (id: RequestId, start: number, count: number, sample: boolean): StepItem => ({
  id,
  start,
  count,
  sample,
  blocks: [],
});
const step = (number: number, ...items: StepItem[]): Effect => ({ type: 'step', step: number, items });
const stepped = (number: number, at: number, micros: number): Event => ({ type: 'stepped', at, step: number, micros, items: [] });
const tokens = (...ids: RequestId[]): Effect => ({
  type: 'tokens',
  items: ids.map((id) => ({ id, index: 0, token: 5, logprobs: null })),
});
const finish = (id: RequestId, outcome: 'stop' | 'length' | 'aborted' | 'failed' = 'stop'): Effect => ({
  type: 'finish',
  id,
  outcome,
  error: null,
});
const on = <T extends 'admit' | 'prefilled' | 'settled' | 'recompute' | 'ending'>(type: T, id: RequestId) =>
  ({ type, id }) as Effect;
const swap = (type: 'swapOut' | 'swapIn', id: RequestId, transfer: number, ...lengths: number[]): Effect => ({
  type,
  id,
  transfer,
  runs: lengths.map((blocks) => ({ from: 0, to: 0, blocks })),
  blocks: lengths.reduce((sum, blocks) => sum + blocks, 0),
});

function fold(...records: [Event, ...Effect[]][]): { metrics: MetricsFold; snapshot: MetricsSnapshot } {
  const metrics = new MetricsFold({ blockBytes: BLOCK_BYTES });
  for (const [event, ...effects] of records) metrics.apply(event, effects);
  return { metrics, snapshot: metrics.snapshot(BLOCKS) };
}

/** The bounds between which the observations of a histogram lie. */
function buckets({ bounds, counts }: Histogram): [number, number, number][] {
  return counts.flatMap((count, k) =>
    count === 0 ? [] : [[bounds[k - 1] ?? 0, bounds[k] ?? Infinity, count] as [number, number, number]],
  );
}

/** Request 1 arrives at 1 s, is admitted at 1.5 s, prefilled at 2 s, decodes at 2.1 s and ends. */
const LIFE: [Event, ...Effect[]][] = [
  [arrived(1, 1_000_000)],
  [{ type: 'draining', at: 1_500_000 }, on('admit', 1), step(1, item(1, 0, 20, true))],
  [stepped(1, 2_000_000, 500_000), on('prefilled', 1), tokens(1), step(2, item(1, 20, 1, true))],
  [stepped(2, 2_100_000, 100_000), tokens(1), finish(1)],
];

describe('the fold of a run', () => {
  it('is empty at first', () => {
    const { snapshot } = fold();
    expect(snapshot.requestsByPhase.queued).toBe(0);
    expect(snapshot.ttftSeconds.count).toBe(0);
    expect(snapshot.ttftSeconds.counts.length).toBe(snapshot.ttftSeconds.bounds.length + 1);
    expect(snapshot.blocks).toBe(BLOCKS);
  });

  it('times a request from its arrival by the stamps of the events', () => {
    const { snapshot } = fold(...LIFE);
    const seconds = (histogram: Histogram) => [histogram.count, histogram.sum];
    expect(seconds(snapshot.queueSeconds)).toEqual([1, 0.5]);
    expect(seconds(snapshot.ttftSeconds)).toEqual([1, 1]);
    expect(seconds(snapshot.tbtSeconds)).toEqual([1, 0.1]);
    expect(seconds(snapshot.requestSeconds)).toEqual([1, 1.1]);
    expect(seconds(snapshot.stepSeconds)).toEqual([2, 0.6]);
    expect(buckets(snapshot.ttftSeconds)).toEqual([[0.5, 1, 1]]);
    expect(buckets(snapshot.tbtSeconds)).toEqual([[0.075, 0.1, 1]]);
  });

  it('counts tokens by what they were computed for', () => {
    const { snapshot } = fold(...LIFE);
    const { steps, promptTokens, generatedTokens, prefillTokensComputed, decodeTokensComputed } = snapshot;
    expect({ steps, promptTokens, generatedTokens, prefillTokensComputed, decodeTokensComputed }).toEqual({
      steps: 2,
      promptTokens: 20,
      generatedTokens: 2,
      prefillTokensComputed: 20,
      decodeTokensComputed: 1,
    });
    expect(snapshot.finishedByOutcome.stop).toBe(1);
    expect(snapshot.requestsByPhase).toMatchObject({ queued: 0, prefilling: 0, decoding: 0, done: 1 });
  });

  it('counts a last prompt chunk of one token, and tokens computed again, as prefill', () => {
    const { snapshot } = fold(
      [arrived(1, 0, 17)],
      [stepped(1, 10, 1), on('admit', 1), step(2, item(1, 0, 16, false))],
      [stepped(2, 20, 1), step(3, item(1, 16, 1, true))],
      [stepped(3, 30, 1), on('prefilled', 1), tokens(1), on('recompute', 1)],
      [stepped(4, 40, 1), on('admit', 1), step(5, item(1, 0, 18, true))],
      [stepped(5, 50, 1), on('prefilled', 1), tokens(1)],
    );
    expect(snapshot.decodeTokensComputed).toBe(0);
    expect(snapshot.preemptions).toEqual({ swap: 0, recompute: 1 });
    expect(snapshot.queueSeconds.count).toBe(1);
    expect(snapshot.promptTokens).toBe(17);
  });

  it('counts the tokens of a step when it is done, never of one that failed', () => {
    const failed = fold(...LIFE.slice(0, 2), [
      { type: 'stepFailed', at: 2_000_000, step: 1, error: 'x' },
      finish(1, 'failed'),
    ]).snapshot;
    expect([failed.steps, failed.stepsFailed, failed.prefillTokensComputed]).toEqual([0, 1, 0]);
    expect(failed.finishedByOutcome.failed).toBe(1);
    expect(failed.ttftSeconds.count).toBe(0);
  });

  it('follows a request through the phases of a swap and counts what landed', () => {
    const { metrics } = fold(...LIFE.slice(0, 3));
    const phase = () =>
      Object.entries(metrics.snapshot(BLOCKS).requestsByPhase).flatMap(([name, count]) => (count === 1 ? [name] : []));
    expect(phase()).toEqual(['decoding']);
    metrics.apply(stepped(2, 2_100_000, 10), [swap('swapOut', 1, 1, 2, 3)]);
    expect(phase()).toEqual(['swapping-out']);
    expect(metrics.snapshot(BLOCKS).transfers).toEqual({ out: 0, in: 0 });
    metrics.apply({ type: 'landed', at: 2_200_000, transfer: 1, micros: 2500 }, [on('settled', 1)]);
    expect(phase()).toEqual(['swapped']);
    metrics.apply({ type: 'draining', at: 2_300_000 }, [swap('swapIn', 1, 2, 5)]);
    expect(phase()).toEqual(['swapping-in']);
    metrics.apply({ type: 'landed', at: 2_400_000, transfer: 2, micros: 1500 }, [on('settled', 1)]);
    expect(phase()).toEqual(['decoding']);
    metrics.apply(stepped(3, 2_500_000, 10), [tokens(1)]);
    const snapshot = metrics.snapshot(BLOCKS);
    expect(snapshot.preemptions).toEqual({ swap: 1, recompute: 0 });
    expect(snapshot.transfers).toEqual({ out: 1, in: 1 });
    expect(snapshot.transferRuns).toEqual({ out: 2, in: 1 });
    expect(snapshot.transferBytes).toEqual({ out: 5000, in: 5000 });
    expect(snapshot.transferSeconds).toEqual({ out: 0.0025, in: 0.0015 });
    // The stall of the preemption is in the time between tokens.
    expect(snapshot.tbtSeconds.sum).toBe(0.5);
  });

  it('resumes a request that was swapped while prefilling as prefilling', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 2),
      [stepped(1, 2_000_000, 1), swap('swapOut', 1, 1, 1)],
      [{ type: 'landed', at: 2_100_000, transfer: 1, micros: 1 }, on('settled', 1), swap('swapIn', 1, 2, 1)],
      [{ type: 'landed', at: 2_200_000, transfer: 2, micros: 1 }, on('settled', 1)],
    );
    expect(snapshot.requestsByPhase.prefilling).toBe(1);
  });

  it('resumes as prefilling what had decoded before it was recomputed', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 3),
      [stepped(2, 2_100_000, 1), on('recompute', 1), on('admit', 1)],
      [stepped(3, 2_200_000, 1), swap('swapOut', 1, 1, 1)],
      [{ type: 'landed', at: 2_300_000, transfer: 1, micros: 1 }, on('settled', 1), swap('swapIn', 1, 2, 1)],
      [{ type: 'landed', at: 2_400_000, transfer: 2, micros: 1 }, on('settled', 1)],
    );
    expect(snapshot.requestsByPhase).toMatchObject({ prefilling: 1, decoding: 0 });
  });

  it('counts a failed transfer as failed and nothing else', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 3),
      [stepped(2, 2_100_000, 10), swap('swapOut', 1, 1, 2)],
      [{ type: 'transferFailed', at: 2_200_000, transfer: 1, error: 'x' }, on('recompute', 1), finish(1, 'aborted')],
    );
    expect(snapshot.transfersFailed).toBe(1);
    expect(snapshot.transferBytes.out).toBe(0);
    expect(snapshot.requestsByPhase).toMatchObject({ queued: 0, 'swapping-out': 0, done: 1 });
    expect(snapshot.finishedByOutcome.aborted).toBe(1);
  });

  it('keeps rejected requests out of the times', () => {
    const { snapshot } = fold([arrived(1, 0), { type: 'reject', id: 1, code: 'queue_full' }]);
    expect(snapshot.finishedByOutcome.rejected).toBe(1);
    expect(snapshot.requestsByPhase).toMatchObject({ queued: 0, done: 1 });
    expect([snapshot.requestSeconds.count, snapshot.queueSeconds.count]).toEqual([0, 0]);
  });

  it('gives snapshots that later events leave alone', () => {
    const { metrics, snapshot } = fold(...LIFE);
    const before = structuredClone(snapshot);
    metrics.apply(arrived(2, 3_000_000), [on('admit', 2)]);
    expect(snapshot).toEqual(before);
  });

  it('refuses effects on what is not there', () => {
    expect(() => fold([{ type: 'draining', at: 0 }, on('admit', 9)])).toThrow('request 9 is not alive');
    expect(() => fold(...LIFE, [{ type: 'draining', at: 0 }, finish(1)])).toThrow('request 1 is not alive');
    expect(() => fold([{ type: 'landed', at: 0, transfer: 4, micros: 1 }])).toThrow('transfer 4 landed');
  });

  it('puts a value on a bound below it, and one beyond all bounds last', () => {
    const { snapshot } = fold([stepped(1, 0, 250)], [stepped(2, 0, 251)], [stepped(3, 0, 1e9)]);
    expect(buckets(snapshot.stepSeconds)).toEqual([
      [0, 0.00025, 1],
      [0.00025, 0.0005, 1],
      [10, Number.POSITIVE_INFINITY, 1],
    ]);
  });
});
