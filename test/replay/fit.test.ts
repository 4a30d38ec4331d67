/** A machine is found again in what it took; what is too little to say anything is refused or said to be a guess. */
import { describe, expect, it } from 'vitest';
import type { Taken } from '../../src/actors/machine.js';
import { COPIES_MIN, fitMachine, STEPS_MIN } from '../../src/replay/fit.js';
import type { CopySample, StepSample } from '../../src/replay/observed.js';
import { fitNotNegative, quantile } from '../../src/replay/squares.js';
import { BLOCK_BYTES, COSTS, drawLoad, KnownMachine, LIMITS, record } from './recordings.js';

const LOAD = drawLoad(200, 7000);
const items = (count: number, context: number) =>
  Array.from({ length: count }, (_, k) => ({ id: k + 1, start: context - 1, count: 1, sample: true, blocks: [] }));

describe('least squares without negative coefficients', () => {
  const samples = Array.from({ length: 200 }, (_, k) => ({ features: [1, k % 7, (k * k) % 11], value: 5 + 3 * (k % 7) }));

  it('finds what there is, and nothing for what does not matter', () => {
    const [one, first, none] = fitNotNegative(samples) as [number, number, number];
    expect(one).toBeCloseTo(5, 3);
    expect(first).toBeCloseTo(3, 3);
    expect(none).toBeCloseTo(0, 3);
  });

  it('takes 0 for what would be negative, or is never there', () => {
    const falling = samples.map(({ features }) => ({
      features: [1, features[1] as number, 0],
      value: 20 - 2 * (features[1] as number),
    }));
    expect(fitNotNegative(falling)).toMatchObject({ 1: 0, 2: 0 });
  });

  it('is not moved by a few that are far off', () => {
    const disturbed = samples.map((sample, k) => (k % 20 === 3 ? { ...sample, value: 40 * sample.value } : sample));
    const [one, first] = fitNotNegative(disturbed) as [number, number];
    expect(one).toBeCloseTo(5, 1);
    expect(first).toBeCloseTo(3, 1);
  });

  it('quantiles of nothing are 0', () => {
    expect(quantile([], 0.5)).toBe(0);
    expect(quantile([3, 1, 2], 0.5)).toBe(2);
  });
});

describe('a fitted machine', () => {
  it.each([0, 0.05])('takes what the recorded one takes, with noise of %s', (noise) => {
    const fit = fitMachine(record(LOAD, { machine: new KnownMachine(noise) }));
    expect(fit.steps.medianError).toBeLessThan(0.01 + noise);
    expect(fit.steps.heldOutError).toBeLessThan(0.01 + 1.2 * noise);
    const machine = fit.machine({ seed: 1, piecesPerRun: 1, slowdown: 1 });
    for (const [count, context] of [
      [1, 60],
      [4, 120],
      [8, 150],
    ] as const) {
      const truth = new KnownMachine().step(items(count, context));
      const taken = Array.from({ length: 300 }, (_, k) => machine.step(items(count, context), 5000 * k));
      expect(
        quantile(
          taken.map(({ micros }) => micros),
          0.5,
        ) / truth.micros,
      ).toBeCloseTo(1, 1);
      expect(
        quantile(
          taken.map(({ gapMicros }) => gapMicros),
          0.5,
        ) / truth.gapMicros,
      ).toBeCloseTo(1, 1);
      const deviation = quantile(
        taken.map(({ micros }) => Math.abs(micros / truth.micros - 1)),
        0.68,
      );
      expect(deviation).toBeLessThan(0.015 + 1.5 * noise);
      if (noise > 0) expect(deviation).toBeGreaterThan(0.5 * noise);
    }
    for (const direction of ['out', 'in'] as const) {
      const { source, byteMicros, medianError } = fit.copies[direction];
      expect(source).toBe('recorded');
      expect(medianError).toBeLessThan(0.02 + noise);
      expect(byteMicros / COSTS.copy[direction][2]).toBeCloseTo(1, 0);
    }
  });

  it('answers the same to the same seed, and otherwise to another', () => {
    const fit = fitMachine(record(LOAD, { machine: new KnownMachine(0.1) }));
    const times = (seed: number) => {
      const machine = fit.machine({ seed, piecesPerRun: 1, slowdown: 1 });
      const runs = [{ from: 0, to: 0, blocks: 4 }];
      return Array.from({ length: 20 }, (_, k) => [
        machine.step(items(3, 100), 10_000 * k),
        machine.copy({ direction: 'in', runs, blocks: 4 }, false, 10_000 * k),
      ]);
    };
    expect(times(1)).toEqual(times(1));
    expect(times(1)).not.toEqual(times(2));
  });

  it('is slow when the recorded one was', () => {
    const steps = synthetic(1000).map((step, k) => ({
      ...step,
      micros: k < 500 ? 1000 : 1600,
      returnedAt: step.launchedAt + 2000,
    }));
    const fit = fitMachine({ steps, copies: [], limits: LIMITS });
    expect(fit.steps.drift[1] / fit.steps.drift[0]).toBeGreaterThan(1.5);
    const machine = fit.machine({ seed: 1, piecesPerRun: 1, slowdown: 1 });
    const [early, late] = [500_000, 1_500_000].map((at) => machine.step(items(2, 50), at).micros) as [number, number];
    expect(late / early).toBeCloseTo(1.6, 1);
  });

  it('knows how much slower another run was, and takes so much longer where it is told', () => {
    const steps = synthetic(400);
    const fit = fitMachine({ steps, copies: copies(50, 'out'), limits: LIMITS });
    const slower = steps.map((step) => ({ ...step, returnedAt: step.launchedAt + 1650 }));
    expect(fit.slowdown(steps)).toBe(1);
    expect(fit.slowdown(slower)).toBeCloseTo(1.5, 5);
    const runs = [{ from: 0, to: 0, blocks: 3 }];
    const [plain, slow] = [1, 2].map((slowdown) => {
      const machine = fit.machine({ seed: 1, piecesPerRun: 1, slowdown });
      return [machine.step(items(2, 50), 0), machine.copy({ direction: 'out', runs, blocks: 3 }, false, 0)];
    }) as [Taken[], Taken[]];
    for (const [k, { micros, gapMicros }] of plain.entries()) {
      expect(Math.abs((slow[k]?.micros ?? 0) - 2 * micros)).toBeLessThanOrEqual(1);
      expect(Math.abs((slow[k]?.gapMicros ?? 0) - 2 * gapMicros)).toBeLessThanOrEqual(1);
    }
  });
});

/** Steps of two sequences, 2 ms apart. */
function synthetic(count: number): StepSample[] {
  return Array.from({ length: count }, (_, k) => ({
    prefillTokens: 0,
    prefillSequences: 0,
    decodeSequences: 2,
    contextTokens: 100,
    prefillPairs: 0,
    samples: 2,
    launchedAt: 2000 * k,
    returnedAt: 2000 * k + 1100,
    micros: 1000,
    copyingMicros: 0,
  }));
}

function copies(count: number, direction: 'out' | 'in'): CopySample[] {
  return Array.from({ length: count }, (_, k) => {
    const blocks = 1 + (k % 5);
    const micros = Math.round(100 + 0.0005 * blocks * BLOCK_BYTES);
    const times = { startedAt: 1000 * k, landedAt: 1000 * k + micros + 30, micros };
    return { direction, type: direction === 'out' ? 'mirror' : 'swapIn', runs: 1, blocks, ...times, waited: false, both: false };
  });
}

describe('transfers that go in chunks', () => {
  const limits = { ...LIMITS, blockBytes: 2 ** 21 };
  const [base, byte, gap] = [5000, 0.0002, 300];
  const chunkOf = (blocks: number) => base + byte * blocks * limits.blockBytes;
  /** Of up to 64 blocks, 16 in a chunk; every eighth takes 0.2 s more. */
  const own = Array.from({ length: 160 }, (_, k): CopySample => {
    const blocks = 4 * (1 + (k % 16));
    const chunks = Math.ceil(blocks / 16);
    const micros = Math.round(chunks * base + byte * blocks * limits.blockBytes) + (k % 8 === 7 ? 200_000 : 0);
    const times = { startedAt: 300_000 * k, landedAt: 300_000 * k + micros + chunks * gap, micros };
    return { direction: 'out', type: 'swapOut', runs: 1, blocks, ...times, waited: false, both: false };
  });
  const machine = () =>
    fitMachine({ steps: synthetic(STEPS_MIN), copies: own, limits }).machine({ seed: 1, piecesPerRun: 1, slowdown: 1 });

  it('take as long as they did, and not once more for each chunk', () => {
    for (const blocks of [4, 16]) {
      const fitted = machine();
      const chunk = { direction: 'out', runs: [{ from: 0, to: 0, blocks }], blocks } as const;
      const taken = Array.from({ length: 2000 }, (_, k) => fitted.copy(chunk, false, 24_000 * k));
      const middle = (values: number[]) => quantile(values, 0.5);
      expect(Math.abs(middle(taken.map(({ micros }) => micros)) / chunkOf(blocks) - 1)).toBeLessThan(0.03);
      expect(middle(taken.map(({ gapMicros }) => gapMicros))).toBe(gap);
      const added = taken.reduce((sum, { micros }) => sum + micros - chunkOf(blocks), 0) / taken.length;
      // Of the 0.2 s of one transfer of eight each chunk has its share: of two chunks in the one half, of four in the other.
      const share = (200_000 / 2 + 200_000 / 4) / 16;
      expect(Math.abs(added / share - 1)).toBeLessThan(0.2);
    }
  });
});

describe('too few samples', () => {
  it('of steps are refused', () => {
    const steps = synthetic(STEPS_MIN - 1);
    expect(() => fitMachine({ steps, copies: [], limits: LIMITS })).toThrow(
      'the recording has 199 steps, and a model of the machine needs at least 200: record a longer run, of at least some dozens of requests',
    );
  });

  it('of copies are taken from the other direction, or guessed', () => {
    const steps = synthetic(STEPS_MIN);
    const sources = (own: readonly CopySample[]) => {
      const { out, in: back } = fitMachine({ steps, copies: own, limits: LIMITS }).copies;
      return [out.source, back.source];
    };
    expect(sources([])).toEqual(['guess', 'guess']);
    expect(sources(copies(COPIES_MIN - 1, 'out'))).toEqual(['guess', 'guess']);
    expect(sources(copies(COPIES_MIN, 'out'))).toEqual(['recorded', 'other']);
    const machine = fitMachine({ steps, copies: [], limits: LIMITS }).machine({ seed: 1, piecesPerRun: 3, slowdown: 1 });
    const taken = machine.copy({ direction: 'out', runs: [{ from: 0, to: 0, blocks: 2 }], blocks: 2 }, false, 0);
    expect(taken).toEqual({ micros: Math.round(50 + 3 * 2 + 0.0002 * 2 * BLOCK_BYTES), gapMicros: 100, failed: false });
  });
});
