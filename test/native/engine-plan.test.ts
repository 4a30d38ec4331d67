/** Plans, models and handles that do not hold together: an error each, and the next step works. */
import { truncateSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import { FastswitchError } from '../../src/errors.js';
import { createEngine, createStore, destroyEngine, destroyStore, engineInfo, step, stepLogits } from '../../src/native/index.js';
import { Field, PLAN_HEADER, PLAN_RECORD, RESULT_RECORD } from '../../src/native/plan.js';
import type { EngineSpec, TensorSpec } from '../../src/native/spec.js';
import { makeModel, OPTIONS, planOf, resultFor, seeded, TINY } from './engine-models.js';

const tiny = { ...TINY, positions: 64 };
const spec = makeModel(tiny, 2);
const options = { ...OPTIONS, maxBatchTokens: 32, maxSequences: 4, threads: 2 };
const engine = createEngine(spec, options);
const store = createStore(engineInfo(engine).blockBytes, 8, 8);
const other = createStore(64, 8, 8);
const good = { tokens: [1, 2, 3], start: 0, blocks: [4] };
const wanted = resultFor(2);
step(engine, store, planOf([good, good]), wanted);

afterAll(() => {
  destroyEngine(engine);
  destroyStore(store);
  destroyStore(other);
});

/** Fails as a coded error; afterwards the engine computes what it did before. */
function expectRefused(run: () => unknown, code = 'native_failed'): void {
  let error: unknown = null;
  try {
    run();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(FastswitchError);
  expect((error as FastswitchError).code).toBe(code);
  expect((error as FastswitchError).message.length).toBeGreaterThan(10);
  const result = resultFor(2);
  step(engine, store, planOf([good, good]), result);
  expect(result).toEqual(wanted);
}

const run = (plan: Int32Array, result = resultFor(4)): number => step(engine, store, plan, result);

function edited(change: (words: Int32Array, record: number) => void): Int32Array {
  const words = planOf([good, { ...good, blocks: [5] }]);
  change(words, PLAN_HEADER);
  return words;
}

const withField = (field: keyof typeof Field, value: number): Int32Array =>
  edited((words, record) => words.set([value], record + Field[field]));

const bits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0] ?? 0;

const LARGE = [-1, -2147483648, 2147483647];

describe('a plan is refused', () => {
  test.each([...LARGE, 0, 2])('of version %i', (version) => expectRefused(() => run(edited((words) => words.set([version], 0)))));
  test.each([...LARGE, 0, 5])('of %i sequences', (count) => expectRefused(() => run(edited((words) => words.set([count], 1)))));
  test.each([...LARGE, 0, 3, 4, 40, 100_000])('of %i words', (count) =>
    expectRefused(() => run(edited((words) => words.set([count], 2)))),
  );

  test('without a header, and with half a record', () => {
    expectRefused(() => run(new Int32Array(0)));
    expectRefused(() => run(Int32Array.of(1, 1)));
    expectRefused(() => run(Int32Array.of(1, 1, 20, 0, ...new Array<number>(16).fill(0))));
  });

  test.each(LARGE)('with %i in an offset, a count or a position', (value) => {
    for (const field of [
      'count',
      'start',
      'tokens',
      'blocks',
      'blockCount',
      'sample',
      'biasCount',
      'historyCount',
      'historyPrompt',
    ] as const) {
      expectRefused(() => run(withField(field, value)));
    }
  });

  test('with lists that leave it or lie in its header', () => {
    for (const offset of [0, 3, 58, 60, 1000]) expectRefused(() => run(withField('tokens', offset)));
    for (const offset of [0, 3, 60, 1000]) expectRefused(() => run(withField('blocks', offset)));
    for (const count of [1, 1000]) {
      expectRefused(() => run(edited((words, record) => words.set([2147483647, count], record + Field.bias))));
      expectRefused(() => run(edited((words, record) => words.set([-5, count], record + Field.history))));
    }
  });

  test('with tokens outside the vocabulary', () => {
    for (const token of [...LARGE, spec.vocabulary]) {
      expectRefused(() => run(planOf([{ ...good, tokens: [1, token] }])));
      expectRefused(() => run(planOf([{ ...good, history: [token] }])));
      expectRefused(() => run(planOf([{ ...good, bias: [[token, 1]] }])));
    }
  });

  test('with blocks outside the store, or too few', () => {
    for (const block of [...LARGE, 8]) expectRefused(() => run(planOf([{ ...good, blocks: [block] }])));
    expectRefused(() => run(planOf([{ ...good, blocks: [] }])));
    expectRefused(() => run(planOf([{ ...good, start: 14 }])));
    expectRefused(() => run(planOf([{ ...good, start: 32, blocks: [1, 2] }])));
  });

  test('beyond the positions, the tokens of a step, or the room for results', () => {
    const blocks = [0, 1, 2, 3, 4, 5, 6, 7];
    expectRefused(() => run(planOf([{ tokens: [1, 2], start: 63, blocks }])));
    expectRefused(() => run(planOf([{ tokens: new Array<number>(33).fill(1), start: 0, blocks }])));
    expectRefused(() => run(planOf([{ tokens: new Array<number>(30).fill(1), start: 0, blocks }, good])));
    expectRefused(() => run(planOf([good, good]), resultFor(1)));
    expectRefused(() => stepLogits(engine, store, planOf([good, good]), resultFor(2), new Float32Array(2 * spec.vocabulary - 1)));
  });

  test('with sampling parameters that are no numbers or out of range', () => {
    const fields = ['temperature', 'topP', 'minP', 'frequencyPenalty', 'presencePenalty', 'repetitionPenalty'] as const;
    for (const field of fields) {
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
        expectRefused(() => run(withField(field, bits(value))));
    }
    for (const field of ['temperature', 'topP', 'minP', 'repetitionPenalty'] as const)
      expectRefused(() => run(withField(field, bits(-0.5))));
    expectRefused(() => run(withField('topK', -1)));
    for (const value of [-2, 21]) expectRefused(() => run(withField('topLogprobs', value)));
    expectRefused(() => run(planOf([{ ...good, bias: [[1, Number.NaN]] }])));
  });

  test('whatever words it is made of', () => {
    const random = seeded(9);
    const values = [0, 1, 2, 4, 28, 52, 60, 100, spec.vocabulary, ...LARGE];
    for (let round = 0; round < 3000; round++) {
      const words = planOf([good, { ...good, blocks: [5], history: [1, 2], bias: [[3, 1]] }]);
      const edits = 1 + Math.floor(random() * 3);
      for (let i = 0; i < edits; i++)
        words[Math.floor(random() * words.length)] = values[Math.floor(random() * values.length)] ?? 0;
      try {
        run(words);
      } catch (error) {
        expect(error).toBeInstanceOf(FastswitchError);
      }
    }
    expectRefused(() => run(new Int32Array(0)));
  });
});

describe('handles and arrays', () => {
  test('unknown engines and stores, and a store of other blocks', () => {
    expectRefused(() => step(99, store, planOf([good]), resultFor(1)));
    expectRefused(() => step(engine, 99, planOf([good]), resultFor(1)));
    expectRefused(() => step(engine, other, planOf([good]), resultFor(1)));
    expectRefused(() => destroyEngine(99));
    expectRefused(() => destroyStore(99));
    expectRefused(() => engineInfo(99));
  });

  test('plan and result of another type', () => {
    expectRefused(() => step(engine, store, new Float32Array(40) as unknown as Int32Array, resultFor(1)));
    expectRefused(() => step(engine, store, planOf([good]), null as unknown as Int32Array));
  });

  test('a destroyed engine is gone, its number not used again', () => {
    const short = createEngine(spec, options);
    destroyEngine(short);
    expectRefused(() => destroyEngine(short));
    const next = createEngine(spec, options);
    expect(next).not.toBe(short);
    destroyEngine(next);
  });
});

describe('a model is refused', () => {
  const make = (change: Partial<EngineSpec>): number => createEngine({ ...spec, ...change }, options);
  const withTensor = (index: number, change: Partial<TensorSpec>): Partial<EngineSpec> => ({
    tensors: spec.tensors.map((tensor, i) => (i === index ? { ...tensor, ...change } : tensor)),
  });

  test('where a tensor is missing, doubled, misplaced or of wrong shape', () => {
    expectRefused(() => make({ tensors: spec.tensors.slice(1) }), 'bad_model');
    expectRefused(() => make({ tensors: [...spec.tensors, ...spec.tensors.slice(0, 1)] }), 'bad_model');
    expectRefused(() => make({ tiedHead: false }), 'bad_model');
    for (const change of [
      { rows: 100 },
      { columns: -1 },
      { layer: 7 },
      { file: 1 },
      { file: -2 },
      { role: 'nose' as TensorSpec['role'] },
    ]) {
      expectRefused(() => make(withTensor(3, change)), 'bad_model');
    }
  });

  test('where a tensor leaves its file', () => {
    for (const offset of [-4, 1e9, 1e300, Number.NaN]) expectRefused(() => make(withTensor(0, { offset })), 'bad_model');
    const cut = makeModel(tiny, 5);
    truncateSync(cut.files[0] as string, 20_000);
    expectRefused(() => createEngine(cut, options), 'bad_model');
    expectRefused(() => make({ files: ['/nonexistent/weights'] }), 'bad_model');
    expectRefused(() => make({ files: ['/'] }), 'bad_model');
  });

  test('where sizes make no sense', () => {
    const changes: Partial<EngineSpec>[] = [
      { vocabulary: 0 },
      { hidden: -1 },
      { layers: 0 },
      { heads: 3 },
      { kvHeads: 0 },
      { headDim: 15 },
      { positions: 0 },
      { rmsEps: Number.NaN },
      { ropeInverseFrequencies: new Float32Array(3) },
      { window: -1 },
    ];
    for (const change of changes) expectRefused(() => make(change), 'bad_model');
  });

  test('and options out of range', () => {
    const changes = [
      { threads: 0 },
      { maxBatchTokens: 0 },
      { maxSequences: -1 },
      { isa: 'abacus' },
      { quantize: 'q1' },
      { kvDtype: 'f8' },
    ];
    for (const change of changes) expectRefused(() => createEngine(spec, { ...options, ...change } as typeof options));
  });
});

test('weights that make the logits infinite are an error of the step', () => {
  const broken = createEngine(makeModel({ ...tiny, spread: 1e15 }, 2), options);
  const room = createStore(engineInfo(broken).blockBytes, 8, 0);
  expectRefused(() => step(broken, room, planOf([good]), resultFor(1)));
  destroyEngine(broken);
  destroyStore(room);
});

test('sequences that do not sample answer -1', () => {
  const result = resultFor(2);
  step(
    engine,
    store,
    planOf([
      { ...good, sample: false },
      { ...good, blocks: [5] },
    ]),
    result,
  );
  expect(result[0]).toBe(-1);
  expect(result[RESULT_RECORD]).toBe(wanted[0]);
  expect(result.length).toBe(2 * RESULT_RECORD);
  expect(PLAN_RECORD).toBeGreaterThan(Math.max(...Object.values(Field)));
});
