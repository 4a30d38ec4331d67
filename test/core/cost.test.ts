import { describe, expect, it } from 'vitest';
import { CostModel, type StepFeatures, stepMicros, transferMicros } from '../../src/core/cost.js';
import { Random } from '../../src/core/random.js';
import { loadScenario } from '../../src/simulation/profiles.js';

const LLAMA_8B_ON_A10 = loadScenario('llama8b-a10').profile;
const QWEN_32B_ON_A100 = loadScenario('qwen32b-a100').profile;

const error = (predicted: number, truth: number) => Math.abs(predicted / truth - 1);

describe('a hardware profile', () => {
  it('charges a decode step for the weights, the context and each sequence', () => {
    const step = (decodeSequences: number, contextTokens: number) =>
      stepMicros(LLAMA_8B_ON_A10, { prefillTokens: 0, decodeSequences, contextTokens });
    expect(step(1, 0)).toBeCloseTo(3000 + 20 + (14.96 * 2 ** 30) / 426e3, 3);
    expect(step(2, 0) - step(1, 0)).toBeCloseTo(20, 6);
    expect(step(1, 1000) - step(1, 0)).toBeCloseTo((1000 * 128 * 1024) / 426e3, 3);
  });

  it('charges a prefill for reading the weights or for computing, whichever takes longer', () => {
    const step = (prefillTokens: number) => stepMicros(QWEN_32B_ON_A100, { prefillTokens, decodeSequences: 0, contextTokens: 0 });
    expect(step(10)).toBe(step(1));
    expect(step(2048) / step(1024)).toBeGreaterThan(1.9);
  });

  it('charges small copies for their dispatch and large ones for their bytes', () => {
    const profile = LLAMA_8B_ON_A10;
    expect(transferMicros(profile, 0, 0)).toBe(0);
    expect(transferMicros(profile, 64, 64 * 32 * 1024)).toBe(64 * 6);
    expect(transferMicros(profile, 1, 2 ** 21)).toBeCloseTo(2 ** 21 / 24.8e3 + 1.5, 6);
    expect(transferMicros(profile, 1, 2 ** 26)).toBeLessThan(transferMicros(profile, 32, 2 ** 26));
  });
});

interface Linear {
  readonly base: number;
  readonly prefill: number;
  readonly decode: number;
  readonly context: number;
}

const drawStep = (random: Random): StepFeatures => ({
  prefillTokens: random.next() < 0.5 ? 0 : random.int(512),
  decodeSequences: random.int(64),
  contextTokens: random.int(50_000),
});

const linear = (truth: Linear, features: StepFeatures) =>
  truth.base +
  truth.prefill * features.prefillTokens +
  truth.decode * features.decodeSequences +
  truth.context * features.contextTokens;

/** Largest relative error of `model` over fresh steps. */
function worst(model: CostModel, random: Random, truth: (features: StepFeatures) => number): number {
  return Math.max(
    ...Array.from({ length: 50 }, () => drawStep(random)).map((features) => error(model.predictStep(features), truth(features))),
  );
}

describe('the cost model', () => {
  const truth: Linear = { base: 3000, prefill: 60, decode: 35, context: 0.3 };

  it('predicts from its prior until something was seen', () => {
    const prior = {
      step: { base: 10, prefillToken: 2, decodeSequence: 3, contextToken: 0.1 },
      transfer: { base: 7, run: 2, byte: 0.001 },
    };
    const model = new CostModel(prior);
    expect(model.predictStep({ prefillTokens: 5, decodeSequences: 2, contextTokens: 100 })).toBeCloseTo(36, 9);
    expect(model.predictTransfer('in', 3, 1000)).toBeCloseTo(14, 9);
  });

  it('is close after one observation, however far off its prior was', () => {
    const features = { prefillTokens: 0, decodeSequences: 8, contextTokens: 4000 };
    for (const micros of [30, 2_000_000]) {
      const model = new CostModel();
      model.observeStep(features, micros);
      expect(error(model.predictStep(features), micros)).toBeLessThan(0.05);
      expect(error(model.predictStep({ ...features, decodeSequences: 9 }), micros)).toBeLessThan(0.2);
    }
  });

  it('finds a linear truth from 32 noisy steps', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = new Random(seed);
      const model = new CostModel();
      for (let k = 0; k < 32; k++) {
        const features = drawStep(random);
        model.observeStep(features, linear(truth, features) * (1 + 0.02 * random.normal()));
      }
      expect(
        worst(model, random, (features) => linear(truth, features)),
        `seed ${seed}`,
      ).toBeLessThan(0.12);
    }
  });

  it('is not led astray by a few steps that took far too long', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = new Random(seed);
      const model = new CostModel();
      for (let k = 0; k < 32; k++) {
        const features = drawStep(random);
        model.observeStep(features, linear(truth, features) * (k % 8 === 3 ? 10 : 1 + 0.02 * random.normal()));
      }
      expect(
        worst(model, random, (features) => linear(truth, features)),
        `seed ${seed}`,
      ).toBeLessThan(0.15);
    }
  });

  it('forgets what is older than 32 observations', () => {
    const random = new Random(1);
    const model = new CostModel();
    for (const factor of [5, 1]) {
      for (let k = 0; k < 32; k++) {
        const features = drawStep(random);
        model.observeStep(features, factor * linear(truth, features));
      }
    }
    expect(worst(model, random, (features) => linear(truth, features))).toBeLessThan(0.05);
  });

  it('predicts the simulated machine, which is not linear, well enough to rank alternatives', () => {
    const random = new Random(1);
    const model = new CostModel();
    for (let k = 0; k < 200; k++) {
      const features = drawStep(random);
      model.observeStep(features, stepMicros(LLAMA_8B_ON_A10, features) * (1 + 0.05 * random.normal()));
    }
    expect(worst(model, random, (features) => stepMicros(LLAMA_8B_ON_A10, features))).toBeLessThan(0.5);
  });

  it('keeps the directions of a transfer apart', () => {
    const random = new Random(1);
    const model = new CostModel();
    for (let k = 0; k < 32; k++) {
      const runs = 1 + random.int(20);
      const bytes = runs * (1 + random.int(40)) * 2 ** 21;
      model.observeTransfer('out', runs, bytes, transferMicros(LLAMA_8B_ON_A10, runs, bytes));
      model.observeTransfer('in', runs, bytes, 2 * transferMicros(LLAMA_8B_ON_A10, runs, bytes));
    }
    const out = transferMicros(LLAMA_8B_ON_A10, 4, 2 ** 26);
    expect(error(model.predictTransfer('out', 4, 2 ** 26), out)).toBeLessThan(0.05);
    expect(error(model.predictTransfer('in', 4, 2 ** 26), 2 * out)).toBeLessThan(0.05);
  });

  it('never predicts less than nothing', () => {
    const model = new CostModel();
    for (let k = 0; k < 32; k++) model.observeTransfer('in', k + 1, 1000, 100 - 3 * k);
    expect(model.predictTransfer('in', 1000, 1000)).toBeGreaterThanOrEqual(0);
    expect(model.predictTransfer('in', 0, 0)).toBeGreaterThanOrEqual(0);
  });

  it('depends on nothing but what was observed', () => {
    const predictions = [1, 2].map(() => {
      const random = new Random(9);
      const model = new CostModel();
      return Array.from({ length: 100 }, () => {
        const features = drawStep(random);
        model.observeStep(features, 1000 + random.int(9000));
        return model.predictStep(drawStep(random));
      });
    });
    expect(predictions[0]).toEqual(predictions[1]);
  });
});

describe('a question', () => {
  it('is answered with what is known by now, and changes no later prediction', () => {
    const predictions = (asks: boolean) => {
      const model = new CostModel();
      const answers: number[] = [];
      for (let n = 1; n <= 40; n += 1) {
        model.observeTransfer('in', 1, n * 1e6, 50 + n * n * 100);
        if (asks) answers.push(model.asked(() => model.predictTransfer('in', 1, 1e6)));
        if (n % 7 === 0) answers.push(model.predictTransfer('in', 1, 5e6));
      }
      return answers;
    };
    const [asking, silent] = [predictions(true), predictions(false)];
    expect(silent.every((prediction) => asking.includes(prediction))).toBe(true);
    const told = new CostModel();
    for (let n = 1; n <= 8; n += 1) told.observeTransfer('in', 1, n * 1e6, 50 + n * 100);
    expect(told.asked(() => told.predictTransfer('in', 1, 1e6))).toBe(told.predictTransfer('in', 1, 1e6));
  });
});
