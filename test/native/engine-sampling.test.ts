/** How a token is drawn. A model of zeros has logits of zero, so that the bias alone makes the distribution. */
import { afterAll, describe, expect, test } from 'vitest';
import {
  createEngine,
  createStore,
  destroyEngine,
  destroyStore,
  engineInfo,
  isas,
  step,
  stepLogits,
} from '../../src/native/index.js';
import { RESULT_RECORD, TOP_LOGPROBS_MAX } from '../../src/native/plan.js';
import { makeModel, OPTIONS, type Part, planOf, resultFor, seeded, TINY } from './engine-models.js';

const VOCABULARY = 300;
const SEQUENCES = 256;

const zeros = { ...TINY, vocabulary: VOCABULARY, layers: 1, spread: 0 };
const spec = makeModel(zeros, 1);
const engine = createEngine(spec, { ...OPTIONS, maxBatchTokens: SEQUENCES, maxSequences: SEQUENCES });
const store = createStore(engineInfo(engine).blockBytes, SEQUENCES, 0);

afterAll(() => {
  destroyEngine(engine);
  destroyStore(store);
});

type Choice = Omit<Part, 'tokens' | 'start' | 'blocks'>;

/** Tokens that these choices draw, up to 256 at a step. */
function tokensOf(choices: readonly Choice[]): number[] {
  const tokens: number[] = [];
  for (let first = 0; first < choices.length; first += SEQUENCES) {
    const some = choices.slice(first, first + SEQUENCES);
    const result = resultFor(some.length);
    step(engine, store, planOf(some.map((choice, i) => ({ ...choice, tokens: [1], start: 0, blocks: [i] }))), result);
    for (let i = 0; i < some.length; i++) tokens.push(result[i * RESULT_RECORD] ?? -1);
  }
  return tokens;
}

const draws = (choice: Choice, count: number): number[] =>
  tokensOf(Array.from({ length: count }, (_, draw) => ({ temperature: 1, seed: 77n, ...choice, draw })));

/** Tokens 10, 11, 12 ... with these chances; all others are out of reach. */
function withChances(chances: readonly number[]): [number, number][] {
  const rest = Array.from({ length: VOCABULARY }, (_, token): [number, number] => [token, -100]);
  chances.forEach((chance, i) => {
    rest[10 + i] = [10 + i, Math.log(chance)];
  });
  return rest;
}

function shares(tokens: readonly number[], kinds: number): number[] {
  const counts = new Array<number>(kinds).fill(0);
  for (const token of tokens) {
    expect(token).toBeGreaterThanOrEqual(10);
    expect(token).toBeLessThan(10 + kinds);
    counts[token - 10] = (counts[token - 10] ?? 0) + 1;
  }
  return counts.map((count) => count / tokens.length);
}

/** Frequencies within five standard errors. */
function expectShares(tokens: readonly number[], chances: readonly number[]): void {
  const total = chances.reduce((sum, chance) => sum + chance, 0);
  shares(tokens, chances.length).forEach((share, i) => {
    const chance = (chances[i] ?? 0) / total;
    expect(Math.abs(share - chance)).toBeLessThanOrEqual(5 * Math.sqrt((chance * (1 - chance)) / tokens.length));
  });
}

describe('drawing', () => {
  const chances = [0.5, 0.25, 0.15, 0.06, 0.04];
  const bias = withChances(chances);

  test('follows the distribution', () => expectShares(draws({ bias }, 10_000), chances));

  test('follows it for different seeds and one draw number', () => {
    const tokens = tokensOf(
      Array.from({ length: 10_000 }, (_, i) => ({ bias, temperature: 1, seed: BigInt(i) << 29n, draw: 3 })),
    );
    expectShares(tokens, chances);
  });

  test('temperature flattens', () => expectShares(draws({ bias, temperature: 2 }, 10_000), chances.map(Math.sqrt)));

  test('a tiny temperature is greedy', () => expect(new Set(draws({ bias, temperature: 1e-30 }, 256))).toEqual(new Set([10])));

  test('top_k keeps the likeliest', () => expectShares(draws({ bias, topK: 2 }, 10_000), [0.5, 0.25]));

  test('top_p keeps the shortest prefix that reaches it', () => {
    expectShares(draws({ bias, topP: 0.75 }, 5000), [0.5, 0.25]);
    expectShares(draws({ bias, topP: 0.76 }, 5000), [0.5, 0.25, 0.15]);
    expectShares(draws({ bias, topP: 0 }, 256), [1]);
  });

  test('top_p counts what top_k left', () => expectShares(draws({ bias, topK: 2, topP: 0.6 }, 256), [1]));

  test('min_p keeps what has this share of the largest chance', () => {
    expectShares(draws({ bias, minP: 0.29 }, 5000), [0.5, 0.25, 0.15]);
    expectShares(draws({ bias, minP: 0.31 }, 5000), [0.5, 0.25]);
  });

  test('cuts that cut nothing change nothing', () => {
    const plain = draws({ bias }, 512);
    expect(draws({ bias, topK: VOCABULARY, topP: 1, minP: 1e-9 }, 512)).toEqual(plain);
    expect(draws({ bias, topK: VOCABULARY, topP: 0.76 }, 512)).toEqual(draws({ bias, topP: 0.76 }, 512));
  });

  test('equal chances: cuts keep the lowest ids', () => {
    expect(new Set(draws({ topK: 3 }, 512))).toEqual(new Set([0, 1, 2]));
    expect(new Set(draws({ topP: 2.5 / VOCABULARY }, 512))).toEqual(new Set([0, 1, 2]));
    expect(new Set(draws({ topK: 1 }, 64))).toEqual(new Set([0]));
    expect(new Set(draws({ temperature: 0 }, 64))).toEqual(new Set([0]));
  });

  test('the whole vocabulary can be drawn', () => {
    expect(new Set(draws({}, 6000)).size).toBe(VOCABULARY);
    expect(new Set(draws({ topP: 0.999999 }, 6000)).size).toBeGreaterThan(VOCABULARY - 3);
  });

  test('depends on seed and draw only, not on the company', () => {
    const choices = Array.from(
      { length: 200 },
      (_, i): Choice => ({ bias, temperature: 1, seed: BigInt(i % 7) << 40n, draw: i, topP: i % 2 ? 0.9 : 1 }),
    );
    const together = tokensOf(choices);
    expect(choices.map((choice) => tokensOf([choice])[0])).toEqual(together);
    expect(tokensOf([...choices].reverse()).reverse()).toEqual(together);
  });
});

describe('penalties', () => {
  const bias: [number, number][] = [
    [5, 2],
    [6, 1.5],
    [7, -1],
  ];
  const greedy = (choice: Choice): number => tokensOf([{ temperature: 0, bias, ...choice }])[0] ?? -1;

  test('without history nothing is penalised', () => expect(greedy({ presencePenalty: 2, repetitionPenalty: 2 })).toBe(5));

  test('presence: once, generated tokens only', () => {
    expect(greedy({ presencePenalty: 1, history: [5, 5, 5], historyPrompt: 3 })).toBe(5);
    expect(greedy({ presencePenalty: 1, history: [9, 5], historyPrompt: 1 })).toBe(6);
    expect(greedy({ presencePenalty: 0.4, history: [5, 5, 5, 5], historyPrompt: 0 })).toBe(5);
  });

  test('frequency: for each time', () => {
    expect(greedy({ frequencyPenalty: 0.2, history: [5, 5], historyPrompt: 0 })).toBe(5);
    expect(greedy({ frequencyPenalty: 0.2, history: [5, 5, 5], historyPrompt: 0 })).toBe(6);
    expect(greedy({ frequencyPenalty: 0.2, history: [5, 5, 5], historyPrompt: 1 })).toBe(5);
  });

  test('repetition: divides what is positive, multiplies what is negative, prompt included', () => {
    expect(greedy({ repetitionPenalty: 1.3, history: [5, 5, 5, 5], historyPrompt: 4 })).toBe(5);
    expect(greedy({ repetitionPenalty: 1.4, history: [5], historyPrompt: 1 })).toBe(6);
    const negative: [number, number][] = Array.from({ length: VOCABULARY }, (_, token) => [
      token,
      token === 5 ? -1 : token === 6 ? -1.5 : -50,
    ]);
    expect(greedy({ bias: negative, repetitionPenalty: 1.4, history: [5], historyPrompt: 0 })).toBe(5);
    expect(greedy({ bias: negative, repetitionPenalty: 1.6, history: [5], historyPrompt: 0 })).toBe(6);
  });

  test('a negative frequency penalty favours', () =>
    expect(greedy({ frequencyPenalty: -1, history: [6], historyPrompt: 0 })).toBe(6));
});

describe.each(isas())('logprobs on %s', (isa) => {
  test('are those of the raw logits, best first', () => {
    const model = makeModel({ ...TINY, spread: 0.3 }, 4);
    const other = createEngine(model, { ...OPTIONS, isa });
    const room = createStore(engineInfo(other).blockBytes, 4, 0);
    const random = seeded(3);
    const tokens = Array.from({ length: 9 }, () => Math.floor(random() * model.vocabulary));
    const logits = new Float32Array(2 * model.vocabulary);
    const result = resultFor(2);
    const common = { tokens, start: 0 };
    const parts: Part[] = [
      { ...common, blocks: [0], topLogprobs: 20, temperature: 0.7, bias: [[3, 9]] },
      { ...common, blocks: [1], topLogprobs: 0 },
    ];
    stepLogits(other, room, planOf(parts), result, logits);
    const floats = new Float32Array(result.buffer);
    const row = Array.from(logits.subarray(0, model.vocabulary));
    const normaliser = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
    const sorted = row
      .map((logit, token) => ({ token, logprob: logit - normaliser }))
      .sort((a, b) => b.logprob - a.logprob || a.token - b.token);
    expect(result[2]).toBe(TOP_LOGPROBS_MAX);
    for (let i = 0; i < TOP_LOGPROBS_MAX; i++) {
      expect(result[4 + 2 * i]).toBe(sorted[i]?.token);
      expect(floats[5 + 2 * i]).toBeCloseTo(sorted[i]?.logprob ?? 0, 5);
    }
    expect(floats[1]).toBeCloseTo((row[result[0] ?? 0] ?? 0) - normaliser, 5);
    expect(result[RESULT_RECORD]).toBe(sorted[0]?.token);
    expect(floats[RESULT_RECORD + 1]).toBeCloseTo(sorted[0]?.logprob ?? 0, 5);
    expect(result[RESULT_RECORD + 2]).toBe(0);
    destroyEngine(other);
    destroyStore(room);
  });
});
