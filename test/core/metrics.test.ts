import { describe, expect, it } from 'vitest';
import { type Histogram, MetricsFold, type MetricsSnapshot } from '../../src/core/metrics.js';
import type { Cause, Direction, Effect, Event, RequestId, StepItem } from '../../src/core/types.js';

const BLOCKS: MetricsSnapshot['blocks'] = {
  device: { free: 3, used: 4, moving: 1, total: 8, kept: 1 },
  host: { free: 8, used: 0, moving: 0, total: 8, kept: 0 },
};
const BLOCK_BYTES = 1000;

const arrived = (id: RequestId, at: number, promptTokens = 20): Event => ({
  type: 'arrived',
  at,
  id,
  labels: [],
  promptTokens,
  maxTokens: 8,
  priority: 0,
  tenant: 'a',
  weight: 1,
  ttftMicros: null,
  tbtMicros: null,
  names: [],
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
const admit = (id: RequestId, cachedTokens = 0): Effect => ({ type: 'admit', id, cachedTokens });
const cause: Cause = { why: 'outranked', by: 9 };
const on = (type: 'prefilled' | 'settled' | 'recompute' | 'ending', id: RequestId): Effect =>
  type === 'recompute' ? { type, id, cause } : { type, id };
const stay = (type: 'park' | 'resume', id: RequestId, held: number): Effect =>
  type === 'park' ? { type, id, held, cause } : { type, id, held };
const copies = (transfer: number, direction: Direction, lengths: readonly number[]) => ({
  transfer,
  direction,
  runs: lengths.map((blocks) => ({ from: 0, to: 0, blocks })),
  blocks: lengths.reduce((sum, blocks) => sum + blocks, 0),
});
const swapOut = (id: RequestId, transfer: number, lengths: readonly number[], held = 0): Effect => ({
  type: 'swapOut',
  id,
  held,
  cause,
  ...copies(transfer, 'out', lengths),
});
const swapIn = (id: RequestId, transfer: number, lengths: readonly number[], cachedTokens = 0): Effect => ({
  type: 'swapIn',
  id,
  held: 0,
  cachedTokens,
  ...copies(transfer, 'in', lengths),
});
const landed = (transfer: number, at: number, micros = 1): Event => ({ type: 'landed', at, transfer, micros });
const later = (at: number): Event => ({ type: 'reprioritized', at, items: [{ id: 1, priority: 1 }] });

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
  [{ type: 'draining', at: 1_500_000 }, admit(1), step(1, item(1, 0, 20, true))],
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

  it('says of requests that ended how long they were and where their time went', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 3),
      [stepped(2, 2_100_000, 100_000), tokens(1), swapOut(1, 1, [2])],
      [landed(1, 2_200_000), on('settled', 1), on('recompute', 1)],
      // Admitted once more: neither that nor the swap changes where prefill ended and decoding began.
      [later(3_000_000), admit(1), step(3, item(1, 0, 22, true))],
      [stepped(3, 3_500_000, 100_000), on('prefilled', 1), tokens(1), finish(1, 'aborted')],
      [arrived(2, 4_000_000, 7)],
      [stepped(4, 4_100_000, 1), finish(2, 'aborted')],
      [arrived(3, 4_200_000, 9), { type: 'reject', id: 3, code: 'queue_full' }],
    );
    const sums = (histogram: Histogram) => [histogram.count, histogram.sum];
    expect({
      prompt: sums(snapshot.promptLength),
      generation: sums(snapshot.generationLength),
      most: sums(snapshot.mostLength),
      computed: sums(snapshot.computedPromptLength),
      prefill: sums(snapshot.prefillSeconds),
      decode: sums(snapshot.decodeSeconds),
      inference: sums(snapshot.inferenceSeconds),
      mean: sums(snapshot.meanTbtSeconds),
    }).toEqual({
      prompt: [1, 20],
      generation: [1, 3],
      most: [1, 8],
      computed: [1, 20],
      prefill: [1, 0.5],
      decode: [1, 1.5],
      inference: [1, 2],
      mean: [1, 0.75],
    });
    expect(buckets(snapshot.promptLength)).toEqual([[10, 20, 1]]);
  });

  it('counts the tokens of each step', () => {
    const { snapshot } = fold(...LIFE);
    expect([snapshot.stepTokens.count, snapshot.stepTokens.sum]).toEqual([2, 21]);
    expect(buckets(snapshot.stepTokens)).toEqual([
      [0, 1, 1],
      [16, 32, 1],
    ]);
    const failed = fold(...LIFE.slice(0, 2), [{ type: 'stepFailed', at: 2e6, step: 1, error: 'x' }, finish(1, 'failed')]);
    expect([failed.snapshot.stepTokens.count, failed.snapshot.promptLength.count]).toEqual([0, 0]);
  });

  it('says how much of a prompt had to be computed', () => {
    const { snapshot } = fold(
      [arrived(1, 0), admit(1, 16), step(1, item(1, 16, 4, true))],
      [stepped(1, 10, 1), on('prefilled', 1), tokens(1), finish(1)],
    );
    expect([snapshot.computedPromptLength.sum, snapshot.meanTbtSeconds.count]).toEqual([4, 0]);
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
      [stepped(1, 10, 1), admit(1), step(2, item(1, 0, 16, false))],
      [stepped(2, 20, 1), step(3, item(1, 16, 1, true))],
      [stepped(3, 30, 1), on('prefilled', 1), tokens(1), on('recompute', 1)],
      [stepped(4, 40, 1), admit(1), step(5, item(1, 0, 18, true))],
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
    metrics.apply(stepped(2, 2_100_000, 10), [swapOut(1, 1, [2, 3])]);
    expect(phase()).toEqual(['swapping-out']);
    expect(metrics.snapshot(BLOCKS).transfers).toEqual({ out: 0, in: 0 });
    metrics.apply(landed(1, 2_200_000, 2500), [on('settled', 1)]);
    expect(phase()).toEqual(['swapped']);
    metrics.apply({ type: 'draining', at: 2_300_000 }, [swapIn(1, 2, [5])]);
    expect(phase()).toEqual(['swapping-in']);
    metrics.apply(landed(2, 2_400_000, 1500), [on('settled', 1)]);
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
      [stepped(1, 2_000_000, 1), swapOut(1, 1, [1])],
      [landed(1, 2_100_000), on('settled', 1), swapIn(1, 2, [1])],
      [landed(2, 2_200_000), on('settled', 1)],
    );
    expect(snapshot.requestsByPhase.prefilling).toBe(1);
  });

  it('resumes as prefilling what had decoded before it was recomputed', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 3),
      [stepped(2, 2_100_000, 1), on('recompute', 1), admit(1)],
      [stepped(3, 2_200_000, 1), swapOut(1, 1, [1])],
      [landed(1, 2_300_000), on('settled', 1), swapIn(1, 2, [1])],
      [landed(2, 2_400_000), on('settled', 1)],
    );
    expect(snapshot.requestsByPhase).toMatchObject({ prefilling: 1, decoding: 0 });
  });

  it('follows a request that is parked and goes on without a copy', () => {
    const { metrics } = fold(...LIFE.slice(0, 3), [stepped(2, 2_100_000, 10), stay('park', 1, 2)]);
    expect(metrics.snapshot(BLOCKS).requestsByPhase).toMatchObject({ decoding: 0, swapped: 1 });
    metrics.apply(later(2_200_000), [stay('resume', 1, 2)]);
    const snapshot = metrics.snapshot(BLOCKS);
    expect(snapshot.requestsByPhase).toMatchObject({ decoding: 1, swapped: 0 });
    const { preemptions, parked, resumedWithoutCopy, blocksSent, blocksHeld, transfers } = snapshot;
    expect({ preemptions, parked, resumedWithoutCopy, blocksSent, blocksHeld, transfers }).toEqual({
      preemptions: { swap: 1, recompute: 0 },
      parked: 1,
      resumedWithoutCopy: 1,
      blocksSent: 0,
      blocksHeld: 2,
      transfers: { out: 0, in: 0 },
    });
  });

  it('resumes a request that was parked while prefilling as prefilling', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 2),
      [stepped(1, 2_000_000, 1), stay('park', 1, 1)],
      [later(3e6), stay('resume', 1, 1)],
    );
    expect(snapshot.requestsByPhase).toMatchObject({ prefilling: 1, swapped: 0, decoding: 0 });
  });

  it('counts what preemptions sent and what the host had, when they are decided', () => {
    const { snapshot } = fold(...LIFE.slice(0, 3), [stepped(2, 2_100_000, 10), swapOut(1, 1, [2, 3], 7)]);
    const { preemptions, parked, blocksSent, blocksHeld, transferBytes } = snapshot;
    expect({ preemptions, parked, blocksSent, blocksHeld, transferBytes }).toEqual({
      preemptions: { swap: 1, recompute: 0 },
      parked: 0,
      blocksSent: 5,
      blocksHeld: 7,
      transferBytes: { out: 0, in: 0 },
    });
  });

  it('counts a recompute of a request that is swapped, or on its way, as one more preemption', () => {
    const before: [Event, ...Effect[]][] = [...LIFE.slice(0, 3), [stepped(2, 2_100_000, 10), swapOut(1, 1, [2])]];
    const failed: Event = { type: 'transferFailed', at: 2_200_000, transfer: 1, error: 'x' };
    for (const rest of [[[failed, on('recompute', 1)]], [[landed(1, 2_200_000), on('settled', 1), on('recompute', 1)]]] as [
      Event,
      ...Effect[],
    ][][]) {
      const { snapshot } = fold(...before, ...rest);
      expect(snapshot.preemptions).toEqual({ swap: 1, recompute: 1 });
      expect(snapshot.requestsByPhase).toMatchObject({ queued: 1, swapped: 0, 'swapping-out': 0 });
    }
  });

  it('counts what goes ahead of need by kind and direction, and leaves the phases alone', () => {
    const { metrics } = fold(...LIFE.slice(0, 3));
    const before = metrics.snapshot(BLOCKS).requestsByPhase;
    metrics.apply(later(2_010_000), [
      // Request 7 is not alive: blocks of one that has ended are mirrored too.
      { type: 'mirror', ids: [1, 7], ...copies(1, 'out', [4]) },
      { type: 'prefetch', id: 1, ...copies(2, 'in', [1, 2]) },
    ]);
    metrics.apply(landed(1, 2_020_000, 400), []);
    metrics.apply(landed(2, 2_030_000, 300), []);
    metrics.apply(stepped(2, 2_100_000, 10), [swapOut(1, 3, [1])]);
    metrics.apply(landed(3, 2_200_000, 100), [on('settled', 1), swapIn(1, 4, [5])]);
    metrics.apply(landed(4, 2_300_000, 500), [on('settled', 1)]);
    const snapshot = metrics.snapshot(BLOCKS);
    expect(snapshot.requestsByPhase).toEqual(before);
    expect(snapshot.transferBytesByKind).toEqual({ mirror: 4000, prefetch: 3000, swapOut: 1000, swapIn: 5000 });
    expect(snapshot.transferBytes).toEqual({ out: 5000, in: 8000 });
    expect(snapshot.transfers).toEqual({ out: 2, in: 2 });
    expect(snapshot.transferRuns).toEqual({ out: 2, in: 3 });
    expect(snapshot.transferSeconds).toEqual({ out: 0.0005, in: 0.0008 });
    expect(snapshot.preemptions).toEqual({ swap: 1, recompute: 0 });
    expect(snapshot.blocksSent).toBe(1);
  });

  it('counts a copy ahead of need that failed as a failed transfer', () => {
    const { snapshot } = fold(
      [later(0), { type: 'mirror', ids: [], ...copies(1, 'out', [4]) }],
      [{ type: 'transferFailed', at: 1, transfer: 1, error: 'x' }],
    );
    expect([snapshot.transfersFailed, snapshot.transfers.out, snapshot.transferBytesByKind.mirror]).toEqual([1, 0, 0]);
  });

  it('counts a failed transfer as failed and nothing else', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 3),
      [stepped(2, 2_100_000, 10), swapOut(1, 1, [2])],
      [{ type: 'transferFailed', at: 2_200_000, transfer: 1, error: 'x' }, on('recompute', 1), finish(1, 'aborted')],
    );
    expect(snapshot.transfersFailed).toBe(1);
    expect(snapshot.transferBytes.out).toBe(0);
    expect(snapshot.requestsByPhase).toMatchObject({ queued: 0, 'swapping-out': 0, done: 1 });
    expect(snapshot.finishedByOutcome.aborted).toBe(1);
  });

  it('takes a copy to a queued request as its first admission, and lets it prefill when that has landed', () => {
    const { metrics } = fold([arrived(1, 1_000_000, 40)], [later(1_500_000), swapIn(1, 1, [2], 32)]);
    expect(metrics.snapshot(BLOCKS).requestsByPhase).toMatchObject({ queued: 0, 'swapping-in': 1 });
    expect([metrics.snapshot(BLOCKS).queueSeconds.count, metrics.snapshot(BLOCKS).queueSeconds.sum]).toEqual([1, 0.5]);
    metrics.apply(landed(1, 1_600_000), [on('settled', 1), step(1, item(1, 32, 8, true))]);
    expect(metrics.snapshot(BLOCKS).requestsByPhase).toMatchObject({ prefilling: 1, 'swapping-in': 0 });
    metrics.apply(stepped(1, 1_700_000, 10), [on('prefilled', 1), tokens(1)]);
    const { cachedTokens, cachedPromptTokens, promptTokens, prefillTokensComputed, preemptions } = metrics.snapshot(BLOCKS);
    expect({ cachedTokens, cachedPromptTokens, promptTokens, prefillTokensComputed, preemptions }).toEqual({
      cachedTokens: 32,
      cachedPromptTokens: 32,
      promptTokens: 40,
      prefillTokensComputed: 8,
      preemptions: { swap: 0, recompute: 0 },
    });
  });

  it('returns to prefilling what had decoded, was recomputed, and comes back by a copy', () => {
    const { snapshot } = fold(
      ...LIFE.slice(0, 3),
      [stepped(2, 2_100_000, 1), on('recompute', 1), swapIn(1, 1, [1], 16)],
      [landed(1, 2_200_000), on('settled', 1)],
    );
    expect(snapshot.requestsByPhase).toMatchObject({ prefilling: 1, decoding: 0 });
    expect(snapshot.queueSeconds.count).toBe(1);
  });

  it('counts what was found at every admission, but of a prompt only what its first one found', () => {
    const { snapshot } = fold(
      [arrived(1, 0, 20), admit(1, 16), step(1, item(1, 16, 4, true))],
      [stepped(1, 10, 1), on('prefilled', 1), tokens(1), on('recompute', 1)],
      [stepped(2, 20, 1), admit(1, 20)],
    );
    expect([snapshot.cachedTokens, snapshot.cachedPromptTokens, snapshot.promptTokens]).toEqual([36, 16, 20]);
  });

  it('counts what was found of a prompt together with the prompt, at the first token', () => {
    const begun: [Event, ...Effect[]][] = [[arrived(1, 0, 20), admit(1, 16), step(1, item(1, 16, 4, true))]];
    const { snapshot } = fold(...begun, [stepped(1, 10, 1), finish(1, 'aborted')]);
    expect([snapshot.cachedTokens, snapshot.cachedPromptTokens, snapshot.promptTokens]).toEqual([16, 0, 0]);
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
    metrics.apply(arrived(2, 3_000_000), [admit(2, 16), { type: 'mirror', ids: [2], ...copies(9, 'out', [1]) }]);
    metrics.apply(landed(9, 3_100_000), [stay('park', 2, 1)]);
    expect(snapshot).toEqual(before);
  });

  it('refuses effects on what is not there', () => {
    expect(() => fold([{ type: 'draining', at: 0 }, admit(9)])).toThrow('request 9 is not alive');
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
