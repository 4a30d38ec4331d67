/**
 * The native CPU engine against transformers: the same logits, the same greedy continuations, on every instruction
 * set of this machine. The answers lie in test/fixtures/models; tools/oracle/make_fixtures.py made them.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { createEngine, createStore, destroyEngine, destroyStore, engineInfo, isas, stepLogits } from '../../src/native/index.js';
import { type LoadedModel, loadModel } from '../../src/native/model.js';
import { Field, PLAN_HEADER, PLAN_RECORD, PLAN_VERSION, RESULT_RECORD } from '../../src/native/plan.js';
import type { EngineOptions, EngineSpec } from '../../src/native/spec.js';
import { FIXTURE_NAMES, fixture, type Oracle, readOracle } from './folders.js';
import { type Arithmetic, referenceLogits } from './reference.js';

const BLOCK_TOKENS = 16;
/** More than attention takes in one go (512 tokens, attention.h), and a whole number of blocks. */
const CONTEXT_MAX = 576;
const WHOLE = CONTEXT_MAX;
/** Coprime to blocks and windows, so that chunks begin and end everywhere. */
const CHUNK = 7;

/**
 * Largest |engine - transformers| over largest |transformers|. Float32 arithmetic is held to a hundredth of what is
 * promised (1e-3): an epsilon or a rope that is slightly wrong shows between the two. The rest are bounded by what
 * their rounding costs these tiny models, whose rows of 24 to 56 inputs average little of it out; bf16 products cost
 * transformers itself 0.028 on the same weights.
 */
const BOUNDS = { f32: 1e-5, bf16: 0.03, kvBf16: 0.04, q8: 0.2, sameRounding: 5e-3 };

interface Engine {
  /** Computes `tokens` from position `start` in steps of `chunk`; the last step's sampled token and logits. */
  feed(tokens: readonly number[], start: number, chunk: number): { token: number; logits: Float32Array };
}

/** What `compute` answers with a fresh engine of these options; engine and store are gone after it. */
function withEngine<T>(spec: EngineSpec, options: Partial<EngineOptions>, compute: (engine: Engine) => T): T {
  const engine = createEngine(spec, {
    device: -1,
    batchInvariant: true,
    graphs: true,
    threads: 1,
    quantize: 'none',
    kvDtype: 'f32',
    isa: 'auto',
    maxBatchTokens: CONTEXT_MAX,
    maxSequences: 1,
    ...options,
  });
  const deviceBlocks = CONTEXT_MAX / BLOCK_TOKENS;
  const store = createStore(engineInfo(engine).blockBytes, deviceBlocks, 1);
  // Blocks in no order: a sequence's KV is seldom contiguous.
  const blocks = Array.from({ length: deviceBlocks }, (_, index) => (index * 7 + 3) % deviceBlocks);
  const result = new Int32Array(RESULT_RECORD);
  const feed: Engine['feed'] = (tokens, start, chunk) => {
    const logits = new Float32Array(spec.vocabulary);
    for (let done = 0; done < tokens.length; done += chunk) {
      stepLogits(engine, store, greedyPlan(tokens.slice(done, done + chunk), start + done, blocks), result, logits);
    }
    return { token: result[0] as number, logits };
  };
  try {
    return compute({ feed });
  } finally {
    destroyEngine(engine);
    destroyStore(store);
  }
}

/** The plan of a step of one sequence that takes the likeliest token. */
function greedyPlan(tokens: readonly number[], start: number, blocks: readonly number[]): Int32Array {
  const used = blocks.slice(0, Math.ceil((start + tokens.length) / BLOCK_TOKENS));
  const lists = PLAN_HEADER + PLAN_RECORD;
  const words = new Int32Array(lists + tokens.length + used.length);
  const floats = new Float32Array(words.buffer);
  const put = (field: number, value: number): void => {
    words[PLAN_HEADER + field] = value;
  };
  words.set([PLAN_VERSION, 1, words.length, 0]);
  put(Field.count, tokens.length);
  put(Field.start, start);
  put(Field.tokens, lists);
  put(Field.blocks, lists + tokens.length);
  put(Field.blockCount, used.length);
  put(Field.sample, 1);
  put(Field.topLogprobs, -1);
  floats[PLAN_HEADER + Field.topP] = 1;
  floats[PLAN_HEADER + Field.repetitionPenalty] = 1;
  for (const field of [Field.bias, Field.history]) put(field, words.length);
  words.set([...tokens, ...used], lists);
  return words;
}

function relativeError(found: Float32Array, expected: readonly number[]): number {
  const gaps = expected.map((value, token) => Math.abs((found[token] as number) - value));
  // NaN compares as no error would: make it the largest.
  return gaps.some(Number.isNaN) ? Number.POSITIVE_INFINITY : Math.max(...gaps) / Math.max(...expected.map(Math.abs));
}

/** The largest error of the logits inside and after every prompt, and after transformers' own continuation of it. */
function largestError(engine: Engine, oracle: Oracle, chunk: number): number {
  const errors = oracle.prompts.flatMap(({ prompt, continuation, logits, final }) => [
    ...logits.map(({ position, values }) => relativeError(engine.feed(prompt.slice(0, position + 1), 0, chunk).logits, values)),
    relativeError(engine.feed([...prompt, ...continuation], 0, chunk).logits, final.values),
  ]);
  return Math.max(...errors);
}

/** The largest error against the plainest code with the same rounding of inputs and weights, at the ends of prompts. */
function errorOfRounding(engine: Engine, of: EngineSpec, oracle: Oracle, arithmetic: Arithmetic): number {
  const errors = oracle.prompts.map(({ prompt }) => {
    const expected = referenceLogits(of, prompt, arithmetic).at(-1) as Float64Array;
    return relativeError(engine.feed(prompt, 0, WHOLE).logits, [...expected]);
  });
  return Math.max(...errors);
}

/** Continues a prompt greedily, one token a step. */
function continued(
  engine: Engine,
  prompt: readonly number[],
  count: number,
  chunk: number,
): { tokens: number[]; logits: Float32Array } {
  const tokens: number[] = [];
  let last = engine.feed(prompt, 0, chunk);
  for (let position = prompt.length; tokens.length < count; position += 1) {
    tokens.push(last.token);
    last = engine.feed([last.token], position, 1);
  }
  return { tokens, logits: last.logits };
}

const largest = new Map<string, number>();

function note(what: string, error: number): number {
  largest.set(what, Math.max(largest.get(what) ?? 0, error));
  return error;
}

afterAll(() => {
  const seen = [...largest].map(([what, error]) => `${what} ${error.toExponential(1)}`);
  console.log(`largest relative error of logits against transformers: ${seen.join(', ')}`);
});

const load = (name: string): LoadedModel => loadModel(fixture(name), { maxContext: 0 });
const spec = (name: string): EngineSpec => load(name).spec;

/** The AVX-512 kernels round the inputs of bf16 weights to bf16, for speed; all others multiply floats. */
const roundsInputs = (name: string, isa: string): boolean => isa === 'avx512' && load(name).dtype === 'bf16';

interface FarAnswer {
  readonly far: EngineSpec;
  readonly tokens: readonly number[];
  readonly expected: readonly Float64Array[];
}

const farAnswers = new Map<string, FarAnswer>();

/** The plainest code's logits of a long text; a second each, so once for all instruction sets. */
function farAnswer(name: string): FarAnswer {
  const known = farAnswers.get(name);
  if (known !== undefined) return known;
  const far: EngineSpec = { ...spec(name), positions: CONTEXT_MAX };
  const tokens = Array.from({ length: CONTEXT_MAX }, (_, index) => (index * index * 5 + index) % 61);
  const answer = { far, tokens, expected: referenceLogits(far, tokens) };
  farAnswers.set(name, answer);
  return answer;
}

describe.each(isas())('the engine on %s', (isa) => {
  const exact = FIXTURE_NAMES.filter((name) => !roundsInputs(name, isa));
  const prefills = exact.flatMap((name) => [[name, 'whole', WHOLE] as const, [name, `in chunks of ${CHUNK}`, CHUNK] as const]);

  it.each(prefills)('has the logits of transformers for %s, prefilled %s', (name, _how, chunk) => {
    const error = withEngine(spec(name), { isa }, (engine) => largestError(engine, readOracle(name), chunk));
    expect(note(`floats on ${isa}`, error)).toBeLessThan(BOUNDS.f32);
  });

  it.each(prefills)('continues every prompt of %s as transformers does, prefilled %s', (name, _how, chunk) => {
    withEngine(spec(name), { isa }, (engine) => {
      for (const { prompt, continuation, final } of readOracle(name).prompts) {
        const { tokens, logits } = continued(engine, prompt, continuation.length, chunk);
        expect(tokens).toEqual(continuation);
        expect(note(`floats on ${isa}`, relativeError(logits, final.values))).toBeLessThan(BOUNDS.f32);
      }
    });
  });

  it.each(['llama3', 'llama-yarn', 'mistral', 'qwen2'])(
    'has the logits of the plainest code for %s far beyond the fixtures',
    (name) => {
      const { far, tokens, expected } = farAnswer(name);
      withEngine(far, { isa }, (engine) => {
        for (const count of [300, 511, 512, 513, 530, CONTEXT_MAX]) {
          const { logits } = engine.feed(tokens.slice(0, count), 0, count % 2 === 0 ? CHUNK : WHOLE);
          expect(note(`floats on ${isa}`, relativeError(logits, [...(expected[count - 1] as Float64Array)]))).toBeLessThan(
            BOUNDS.f32,
          );
        }
      });
    },
  );

  it.each(FIXTURE_NAMES.filter((name) => roundsInputs(name, isa)))('rounds the inputs of %s to bf16 and nothing else', (name) => {
    withEngine(spec(name), { isa }, (engine) => {
      expect(note(`bf16 products on ${isa}`, largestError(engine, readOracle(name), WHOLE))).toBeLessThan(BOUNDS.bf16);
      const rounding = errorOfRounding(engine, spec(name), readOracle(name), 'bf16');
      expect(note(`the same on ${isa} beyond its rounding`, rounding)).toBeLessThan(BOUNDS.sameRounding);
      for (const { prompt, continuation, margins, final } of readOracle(name).prompts) {
        // Where the lead is more than rounding can take away, the choice is the same.
        const clear = 2 * BOUNDS.bf16 * Math.max(...final.values.map(Math.abs));
        continuation.forEach((token, index) => {
          const { token: chosen } = engine.feed([...prompt, ...continuation.slice(0, index)], 0, CHUNK);
          if ((margins[index] as number) > clear) expect(chosen).toBe(token);
        });
      }
    });
  });

  it.each(FIXTURE_NAMES)('stays near for %s with KV in bf16', (name) => {
    const error = withEngine(spec(name), { isa, kvDtype: 'bf16' }, (engine) => largestError(engine, readOracle(name), WHOLE));
    expect(note(`KV in bf16 on ${isa}`, error)).toBeLessThan(BOUNDS.kvBf16);
  });

  it.each(FIXTURE_NAMES)('stays near for %s in eight bits, and rounds as it says it does', (name) => {
    withEngine(spec(name), { isa, quantize: 'q8' }, (engine) => {
      expect(note(`q8 on ${isa}`, largestError(engine, readOracle(name), WHOLE))).toBeLessThan(BOUNDS.q8);
      const rounding = errorOfRounding(engine, spec(name), readOracle(name), 'q8');
      expect(note(`q8 on ${isa} beyond its rounding`, rounding)).toBeLessThan(BOUNDS.sameRounding);
    });
  });
});

it('the oracle tells a wrong engine from a right one', () => {
  // What is seen here as an error is what the tests above would see: none of these slips could pass.
  const slip = (name: string, change: Partial<EngineSpec>): number =>
    withEngine({ ...spec(name), ...change }, {}, (engine) => largestError(engine, readOracle(name), WHOLE));
  const without = (name: string, role: string): number =>
    slip(name, { tensors: spec(name).tensors.filter((tensor) => tensor.role !== role) });
  const errors = {
    windowLonger: slip('mistral', { window: 25 }),
    windowShorter: slip('mistral', { window: 23 }),
    windowInAllLayers: slip('qwen2', { windowFromLayer: 0 }),
    windowInNoLayer: slip('qwen2', { window: 0 }),
    epsilon: slip('llama2', { rmsEps: 0.02 }),
    attentionFactor: slip('llama-yarn', { ropeScale: 1 }),
    noKeyNorm: without('qwen3', 'kNorm'),
    noKeyBias: without('qwen2', 'kBias'),
    noOutputBias: without('llama-linear', 'oBias'),
    noScaling: slip('llama3', { ropeInverseFrequencies: Float32Array.from([0, 2, 4, 6], (i) => 500 ** (-i / 8)) }),
  };
  for (const error of Object.values(errors)) expect(error).toBeGreaterThan(0.02);
});
