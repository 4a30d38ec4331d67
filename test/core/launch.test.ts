import { describe, expect, it } from 'vitest';
import type { Mechanism } from '../../src/core/presets.js';
import { Bench } from './bench.js';

const STEP = 10_000;
const SWAPPED_BLOCKS = 4;

/**
 * `ready` requests decode; another is about to come back over a link that takes `swapMicros` for it, in the decision on the
 * step in which the one that pushed it out has ended.
 */
function comingBack(ready: number, swapMicros: number, mechanism: Partial<Mechanism>): Bench {
  const costs = { step: STEP, promptToken: 0, block: swapMicros / SWAPPED_BLOCKS };
  const bench = new Bench({ policy: 'priority', deviceBlocks: 60, hostBlocks: 60, maxRunning: ready + 1, mechanism, costs });
  bench.arrive(1, 16 * SWAPPED_BLOCKS - 8, { priority: 5 });
  for (let id = 2; id < 2 + ready; id += 1) bench.arrive(id, 4, { priority: 3 });
  bench.until(() => bench.phases(1, 1 + ready).every((phase) => phase === 'decoding'));
  bench.arrive(99, 4, { maxTokens: 2, priority: 0 });
  bench.until(() => bench.phase(99) === 'decoding' && bench.phase(1) === 'swapped');
  bench.step();
  expect([bench.phase(99), bench.told('swapIn')]).toMatchObject(['done', [{ id: 1, blocks: SWAPPED_BLOCKS }]]);
  return bench;
}

describe('whether a step waits for those who come back', () => {
  // Ready, T_sw in steps, and whether S (k T_it - T_sw) > R T_sw with S = 1 and k = ceil(T_sw / T_it).
  it.each([
    [1, 0.1, true],
    [1, 0.45, true],
    [1, 0.55, false],
    [1, 1.1, false], // it could not make up for more than a step
    [3, 0.2, true],
    [3, 0.3, false],
    [7, 0.1, true],
    [7, 0.15, false],
    [7, 2.5, false],
  ])('with %i ready and a copy of %f steps, where that is adaptive: %s', (ready, steps, waits) => {
    const bench = comingBack(ready, steps * STEP, { waits: 'adaptive' });
    expect([bench.stepping, bench.state.awaited.size]).toEqual(waits ? [false, 1] : [true, 0]);
    bench.land();
    if (!waits) bench.step();
    expect(bench.stepItems?.map(([id]) => id)).toContain(1);
    expect(bench.stepItems).toHaveLength(ready + 1);
  });

  it.each([
    ['sync', 30, true],
    ['async', 0.01, false],
  ] as const)('%s does not ask how long a copy takes (%f steps)', (waits, steps, expected) => {
    expect(comingBack(3, steps * STEP, { waits }).stepping).toBe(!expected);
  });

  it('learns from what copies took', () => {
    const decided = [0.01, 5].map((observedSteps) => {
      const bench = comingBack(3, STEP, { waits: 'async' });
      const { state } = bench;
      for (let n = 1; n <= 32; n += 1)
        state.cost.observeTransfer('in', 1, n * state.limits.blockBytes, (n * observedSteps * STEP) / SWAPPED_BLOCKS);
      return state.cost.predictTransfer('in', 1, SWAPPED_BLOCKS * state.limits.blockBytes) / STEP;
    });
    expect(decided[0]).toBeCloseTo(0.01, 3);
    expect(decided[1]).toBeCloseTo(5, 1);
  });
});

describe('a step that waits', () => {
  it('waits for a copy out too, but only where every swap is awaited', () => {
    const waiting = (['sync', 'adaptive', 'async'] as const).map((waits) => {
      const bench = new Bench({ policy: 'priority', maxRunning: 2, deviceBlocks: 40, mechanism: { waits } });
      bench.arrive(1, 60, { priority: 5 });
      bench.arrive(2, 4, { priority: 3 });
      bench.until(() => bench.phase(1) === 'decoding');
      bench.arrive(3, 4, { priority: 1 });
      bench.step();
      expect(bench.told('swapOut')).toHaveLength(1);
      return !bench.stepping;
    });
    expect(waiting).toEqual([true, false, false]);
  });

  it('waits for swaps, never for what is copied ahead of need', () => {
    const mechanism = { waits: 'sync', mirror: true } as const;
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 2,
      deviceBlocks: 80,
      hostBlocks: 80,
      maxBatchTokens: 400,
      mechanism,
    });
    bench.arrive(1, 8, { priority: 5 });
    bench.step();
    bench.arrive(2, 200, { priority: 3 });
    bench.step();
    bench.step(); // the prompt is computed: full blocks are there to be mirrored
    expect(bench.transfers.map(({ type }) => type)).toEqual(['mirror']);
    bench.arrive(3, 20, { priority: 1 });
    bench.step();
    expect(bench.transfers.map(({ type }) => type)).toEqual(['mirror', 'swapOut']);
    expect([...bench.state.awaited]).toEqual([bench.transfers[1]?.transfer]);
    bench.land(1);
    expect(bench.stepping).toBe(true);
    bench.land(0);
    bench.finishAll();
  });

  it('is decided on once: whatever happens meanwhile waits with it', () => {
    const bench = comingBack(2, 100, { waits: 'sync' });
    bench.arrive(50, 4, { priority: 0 });
    expect([bench.effects, bench.phase(50)]).toEqual([[], 'queued']);
    expect(bench.abort(2)).toMatchObject([{ type: 'finish', id: 2, outcome: 'aborted' }]);
    bench.prioritize([3, 9]);
    expect(bench.stepping).toBe(false);
    bench.land();
    expect(bench.stepItems?.map(([id]) => id).sort()).toEqual([1, 3, 50]);
  });

  it('goes when what it waited for has failed, and when who came back was to end', () => {
    const failing = comingBack(2, 100, { waits: 'sync' });
    failing.failTransfer();
    expect([failing.phase(1), failing.stepping]).toEqual(['prefilling', true]);
    failing.finishAll();
    const ending = comingBack(2, 100, { waits: 'sync' });
    ending.abort(1);
    ending.land();
    expect([ending.phase(1), ending.stepping]).toEqual(['done', true]);
    ending.finishAll();
  });

  it('goes on waiting while one of several copies is still on its way', () => {
    const bench = new Bench({
      policy: 'priority',
      maxRunning: 3,
      deviceBlocks: 60,
      hostBlocks: 60,
      mechanism: { waits: 'sync' },
    });
    for (const id of [1, 2]) bench.arrive(id, 30, { priority: 5 });
    bench.arrive(3, 4, { priority: 1 });
    bench.until(() => bench.phases(1, 2, 3).every((phase) => phase === 'decoding'));
    for (const id of [4, 5]) bench.arrive(id, 4, { maxTokens: 2, priority: 0 });
    bench.until(() => bench.phase(4) === 'done' && bench.phase(5) === 'done');
    expect([bench.transfers.length, bench.stepping]).toEqual([2, false]);
    bench.land();
    expect(bench.stepping).toBe(false);
    bench.land();
    expect(bench.stepItems).toHaveLength(3);
  });
});

describe('a link that was thought to be slow', () => {
  it('is free again when nothing is on it', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 40, mechanism: { paced: true } });
    const { cost, limits, linkFreeAt } = bench.state;
    const teach = (blockMicros: number) => {
      for (let n = 1; n <= 32; n += 1) cost.observeTransfer('in', 1, n * limits.blockBytes, n * blockMicros);
    };
    bench.arrive(1, 60, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { maxTokens: 3, priority: 3 });
    bench.until(() => bench.phase(1) === 'swapped');
    teach(100 * STEP);
    bench.until(() => bench.phase(1) === 'decoding');
    expect(linkFreeAt.in).toBeLessThanOrEqual(bench.at);
    // So nobody who comes back later is kept waiting for a link that is idle.
    teach(10);
    bench.arrive(3, 4, { priority: 3 });
    bench.until(() => bench.phase(1) === 'swapped');
    bench.prioritize([1, 0]);
    bench.step();
    expect(bench.phases(1, 3)).not.toEqual(['swapped', 'decoding']);
  });
});

describe('prompts', () => {
  const withDecoder = (mechanism: Partial<Mechanism>, costs = {}) => {
    const bench = new Bench({ deviceBlocks: 100, maxBatchTokens: 400, mechanism, costs });
    bench.arrive(1, 8);
    bench.step();
    return bench;
  };

  it('share a step with those who decode, or do not', () => {
    for (const [prefill, together] of [
      ['mixed', true],
      ['balanced', true],
      ['alone', false],
    ] as const) {
      const bench = withDecoder({ prefill });
      bench.arrive(2, 200);
      bench.step();
      expect(bench.stepItems, prefill).toEqual(
        together
          ? [
              [1, 9, 1],
              [2, 0, 200],
            ]
          : [[2, 0, 200]],
      );
    }
  });

  it('that stretch a step too much for those who decode come in smaller chunks, as far down as is sensible', () => {
    // 400 tokens of prompt make the step five times as long.
    const bench = withDecoder({ prefill: 'balanced' }, { step: STEP, promptToken: (4 * STEP) / 400 });
    bench.arrive(2, 1200);
    bench.step();
    const chunks: number[] = [];
    while (bench.phase(2) === 'prefilling') {
      chunks.push(bench.stepItems?.find(([id]) => id === 2)?.[2] as number);
      bench.step();
    }
    expect(chunks[0]).toBe(399);
    expect(chunks).toEqual(chunks.toSorted((a, b) => b - a));
    expect(bench.state.chunkTokens).toBeLessThan(100);
    expect(bench.state.chunkTokens).toBeGreaterThanOrEqual(48);
  });

  it('that cost those who decode next to nothing come in larger ones again', () => {
    const bench = withDecoder({ prefill: 'balanced' }, { promptToken: 0 });
    bench.state.chunkTokens = 64;
    bench.arrive(2, 400);
    bench.step();
    const before = bench.state.chunkTokens;
    bench.step();
    expect(bench.state.chunkTokens).toBeGreaterThan(before);
  });

  it('take the whole budget where nobody decodes', () => {
    const bench = new Bench({ deviceBlocks: 100, maxBatchTokens: 400, mechanism: { prefill: 'balanced' } });
    bench.state.chunkTokens = 64;
    bench.arrive(1, 390);
    expect(bench.stepItems).toEqual([[1, 0, 390]]);
  });
});
