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
const CONTEXT_MAX = 704;
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


import { readFileSync, readdirSync } from 'node:fs';
it('mid', () => {
  for (const name of readdirSync('/tmp/oracle-scratch/mid')) {
    const d = '/tmp/oracle-scratch/mid/' + name;
    const o = JSON.parse(readFileSync(d + '/mid.json', 'utf8'));
    const m = loadModel(d, { maxContext: 0 });
    const line: string[] = [];
    for (const isa of isas()) for (const [label, opt] of [['none', {}], ['kv', { kvDtype: 'bf16' }], ['q8', { quantize: 'q8' }], ['2thr', { threads: 2 }]] as const) {
      let w = 0, mism = 0;
      withEngine(m.spec, { isa, ...(opt as any) }, (e) => { for (const [p, v] of Object.entries(o.logits) as any) { const f = e.feed(o.tokens.slice(0, Number(p) + 1), 0, Number(p) % 2 ? 64 : WHOLE); w = Math.max(w, relativeError(f.logits, v)); if (f.token !== v.indexOf(Math.max(...v))) mism++; } });
      line.push(`${isa}/${label} ${w.toExponential(1)} (${mism})`);
    }
    console.log(name, m.dtype, m.warnings, line.join('  '));
  }
}, 300000);
