/** What the engine of a GPU asks of the driver, step by step, and what it makes of a driver that refuses. On the stand-in only. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { addonPath } from '../../src/native/index.js';
import { makeModel, OPTIONS, type Part, planOf, seeded, TINY } from './engine-models.js';
import { type Bench, open, randomTokens, range, sameBits } from './engine-runs.js';
import { testGpu } from './standin/index.js';

const LOG = join(mkdtempSync(join(tmpdir(), 'fastswitch-standin-log-')), 'calls');
const gpu = await testGpu({ FASTSWITCH_STANDIN_LOG: LOG });
const skip = gpu.real || gpu.skip !== '';

const EXACT = { device: 0, batchInvariant: true };

/** The calls that `act` makes. */
function callsOf(act: () => void): string[] {
  const before = existsSync(LOG) ? readFileSync(LOG, 'utf8').length : 0;
  act();
  return readFileSync(LOG, 'utf8').slice(before).split('\n').slice(0, -1);
}

/** By name: kernels by their own, others by that of the call. */
const names = (calls: readonly string[]): string[] =>
  calls.map((line) => /^(?:cuLaunchKernel stream \d+ |work stream \d+ )?(\w+)/.exec(line)?.[1] ?? line);

const count = (calls: readonly string[], name: string): number => names(calls).filter((other) => other === name).length;

const model = (change: Partial<typeof TINY> = {}) => makeModel({ ...TINY, dtype: 'bf16', ...change }, 3);

/** One sequence each at its own position, in blocks of its own. */
const decoding = (sequences: number, start: number): Part[] =>
  range(0, sequences).map((i) => ({ tokens: [i + 1], start, blocks: range(i * 4, 4) }));

describe.skipIf(skip)('a step', () => {
  const LAYER = [
    'normRows',
    'matmulWide',
    'rotateRows',
    'attention32',
    'matmulWide',
    'normRows',
    'matmulWide',
    'gateRows',
    'matmulWide',
  ];

  test('is one upload, its launches in order and one wait', () => {
    const bench = open(model(), { ...EXACT, maxBatchTokens: 80 });
    const part = { tokens: randomTokens(seeded(1), 40, 101), start: 0, blocks: [0, 1, 2] };
    bench.run([part]);
    const calls = names(
      callsOf(() =>
        bench.run([
          { ...part, sample: false },
          { ...part, blocks: [3, 4, 5] },
        ]),
      ),
    );
    expect(calls.filter((name) => !name.startsWith('cuEvent') && name !== 'cuStreamWaitEvent')).toEqual([
      'cuMemcpyHtoDAsync_v2',
      ...['embedRows', ...LAYER, ...LAYER, 'normRows', 'matmulNarrow', 'sampleRows'],
      // The logits that only tests ask for.
      'cuMemcpyDtoHAsync_v2',
    ]);
    expect(calls.filter((name) => name === 'cuEventSynchronize')).toHaveLength(1);
    expect(calls.at(-1)).toBe('cuEventSynchronize');
    bench.close();
  });

  test('multiplies few rows, in groups of 16, by the kernel that reads weights fast', () => {
    const bench = open(model({ layers: 1 }), { ...EXACT, graphs: false });
    const calls = callsOf(() => bench.run([{ tokens: randomTokens(seeded(1), 40, 101), start: 0, blocks: [0, 1, 2] }]));
    expect([count(calls, 'matmulNarrow'), count(calls, 'matmulWide')]).toEqual([4 + 1, 0]);
    bench.close();
  });

  test('uses cublasLt unless bits are to stay the same', () => {
    const bench = open(model(), { device: 0, batchInvariant: false });
    const calls = callsOf(() => bench.run([{ tokens: [1, 2, 3], start: 0, blocks: [0] }]));
    expect(count(calls, 'cublasLtMatmul')).toBe(2 * 4 + 1);
    expect(calls.filter((line) => line.includes('matmul'))).toEqual([]);
    bench.close();
  });

  test('computes the spans of few long contexts apart, and folds them', () => {
    const bench = open(model({ layers: 1 }), { ...EXACT, maxBatchTokens: 400, graphs: false });
    const blocks = range(0, 26);
    bench.run([{ tokens: randomTokens(seeded(1), 400, 101), start: 0, blocks }]);
    const part = { tokens: [5], start: 400, blocks };
    const few = callsOf(() => bench.run([part]));
    const many = callsOf(() => bench.run(range(0, 16).map(() => part)));
    expect([count(few, 'foldRows'), count(many, 'foldRows')]).toEqual([1, 0]);
    bench.close();
  });
});

describe.skipIf(skip)('graphs', () => {
  test('a decode step is launched plainly once, then captured, then one launch', () => {
    const bench = open(model(), EXACT);
    const [first, second, third] = [0, 1, 2].map((start) => callsOf(() => bench.run(decoding(3, start)))) as [
      string[],
      string[],
      string[],
    ];
    expect([count(first, 'embedRows'), count(first, 'cuGraphLaunch')]).toEqual([1, 0]);
    expect(names(second).filter((name) => /Capture|Graph/.test(name))).toEqual([
      'cuStreamBeginCapture_v2',
      'cuStreamEndCapture',
      'cuGraphInstantiateWithFlags',
      'cuGraphDestroy',
      'cuGraphLaunch',
    ]);
    expect(names(third).filter((name) => !/Event/.test(name))).toEqual([
      'cuMemcpyHtoDAsync_v2',
      'cuGraphLaunch',
      'cuMemcpyDtoHAsync_v2',
    ]);
    bench.close();
  });

  test('sizes share a graph up to the next round one; a prefill among them has none', () => {
    const bench = open(model(), EXACT);
    for (const start of [0, 1]) bench.run(decoding(8, start));
    for (const size of [5, 6, 7, 8])
      expect(
        count(
          callsOf(() => bench.run(decoding(size, 2))),
          'cuGraphLaunch',
        ),
      ).toBe(1);
    expect(
      count(
        callsOf(() => bench.run(decoding(4, 2))),
        'cuGraphLaunch',
      ),
    ).toBe(0);
    const mixed = [...decoding(5, 2), { tokens: [1, 2], start: 0, blocks: [40] }];
    expect(
      count(
        callsOf(() => bench.run(mixed)),
        'cuGraphLaunch',
      ),
    ).toBe(0);
    bench.close();
  });

  test('inputs that outgrow their memory cost the graphs, not the bits', () => {
    const bench = open(model(), { ...EXACT, maxBatchTokens: 16 });
    const history = randomTokens(seeded(2), 300_000, 101);
    const penalised = (parts: Part[]): Part[] =>
      parts.map((part) => ({ ...part, repetitionPenalty: 1.1, history, historyPrompt: history.length }));
    const run = () => bench.run(decoding(2, 0));
    const wanted = [run(), run(), run()].at(-1) as Float32Array[];
    const grown = callsOf(() => bench.run(penalised(decoding(2, 0))));
    expect([count(grown, 'cuGraphExecDestroy'), count(grown, 'cuGraphLaunch')]).toEqual([1, 0]);
    const again = callsOf(() => {
      for (const [i, row] of run().entries()) expect(sameBits(row, wanted[i] as Float32Array)).toBe(true);
    });
    expect([count(again, 'cuGraphInstantiateWithFlags'), count(again, 'cuGraphLaunch')]).toEqual([1, 1]);
    bench.close();
  });

  test('are not made where nobody wants them', () => {
    const bench = open(model(), { ...EXACT, graphs: false });
    const calls = callsOf(() => [0, 1, 2].map((start) => bench.run(decoding(3, start))));
    expect(calls.filter((line) => /Capture|Graph/.test(line))).toEqual([]);
    bench.close();
  });
});

test.skipIf(skip)('everything that an engine and a store take is given back', () => {
  const spec = model();
  const calls = callsOf(() => {
    for (const batchInvariant of [true, false]) {
      const bench: Bench = open(spec, { device: 0, batchInvariant });
      for (const start of [0, 1, 2]) bench.run(decoding(3, start));
      bench.swap(0, [0, 0, 2]);
      bench.close();
    }
  });
  const pairs = [
    ['cuMemAlloc_v2', 'cuMemFree_v2'],
    ['cuMemHostAlloc', 'cuMemFreeHost'],
    ['cuStreamCreateWithPriority', 'cuStreamDestroy_v2'],
    ['cuEventCreate', 'cuEventDestroy_v2'],
    ['cuGraphInstantiateWithFlags', 'cuGraphExecDestroy'],
  ] as const;
  for (const [take, give] of pairs) expect(count(calls, give), give).toBe(count(calls, take));
  expect(count(calls, 'cuGraphExecDestroy')).toBe(2);
});

interface Answer {
  readonly name: string;
  readonly status: number;
  readonly message: string;
  readonly token?: number;
}

describe.skipIf(skip)('a call that fails', () => {
  const spec = model();
  const input = JSON.stringify({
    spec: { ...spec, ropeInverseFrequencies: [...spec.ropeInverseFrequencies] },
    options: { ...OPTIONS, device: 0, batchInvariant: false },
    plan: [...planOf([{ tokens: [7], start: 0, blocks: [2] }])],
  });

  function answers(fail: string, more: Record<string, string> = {}): Answer[] {
    const env = { ...process.env, ...gpu.environment, FASTSWITCH_STANDIN_FAIL: fail, FASTSWITCH_STANDIN_LOG: '', ...more };
    const script = join(import.meta.dirname, 'standin/some-steps.mjs');
    return JSON.parse(execFileSync(process.execPath, [script, addonPath], { input, env, encoding: 'utf8' }));
  }

  const sound = skip ? [] : answers('');
  const token = sound.find(({ name }) => name === 'step')?.token;

  test('is none, where none fails', () => {
    expect(sound.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });

  // Which call, for which time: while the engine is made, and at some step.
  const CALLS: readonly (readonly [string, readonly number[]])[] = [
    ['cuMemAlloc_v2', [1, 2, 3, 4]],
    ['cuMemHostAlloc', [1, 2, 3, 4]],
    ['cuMemsetD8Async', [1]],
    ['cuStreamCreateWithPriority', [1]],
    ['cuEventCreate', [1, 2, 3, 4, 5]],
    ['cuModuleLoadData', [1]],
    ['cuModuleGetFunction', [1, 4, 9]],
    ['cuMemcpyHtoDAsync_v2', [1, 2, 3, 4, 5]],
    ['cuMemcpyDtoHAsync_v2', [1, 2, 3]],
    ['cuLaunchKernel', [1, 2, 8, 13, 15, 30]],
    ['cuEventRecord', [1, 2, 3, 4, 5, 6]],
    ['cuEventSynchronize', [1, 2, 3, 4, 5]],
    ['cuStreamWaitEvent', [1]],
    ['cuGraphLaunch', [1, 2]],
  ];
  test.each(CALLS.flatMap(([call, times]) => times.map((time) => [call, time] as const)))(
    '%s, time %i: a clear error, and then all is as before',
    (call, time) => {
      const given = answers(`${call}:${time}`);
      const failed = given.filter(({ status }) => status < 0);
      expect(failed.length).toBeLessThanOrEqual(1);
      for (const { message } of failed) expect(message).toMatch(call === 'cuMemAlloc_v2' ? /device memory|cuMemAlloc/ : call);
      for (const step of given.filter(({ name, status }) => name === 'step' && status === 0)) expect(step.token).toBe(token);
    },
  );

  test.each(['cuStreamBeginCapture_v2', 'cuStreamEndCapture', 'cuGraphInstantiateWithFlags'])(
    '%s: steps go on without graphs',
    (call) => {
      const given = answers(`${call}:*`);
      expect(given.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0, 0, 0]);
      expect(new Set(given.flatMap((answer) => answer.token ?? []))).toEqual(new Set([token]));
    },
  );

  test('for want of memory says how much was needed', () => {
    const [made] = answers('', { FASTSWITCH_STANDIN_MEMORY: '200000' });
    expect(made?.message).toMatch(/the weights take \d+ MiB of device memory; \d+ of \d+ MiB of GPU 0 are free/);
  });

  test('KV that leaves the driver no memory for kernels and graphs is refused', () => {
    const given = answers('', { FASTSWITCH_STANDIN_MEMORY: String(100 * 2 ** 20) });
    const store = given.find(({ name }) => name === 'createStore');
    expect(store?.message).toMatch(/KV leave 0\.\d+ GiB of GPU 0 to its driver, which needs 0\.25 GiB .* lower --device-kv/);
  });

  test('products for which cublasLt knows no way are our own', () => {
    const odd = makeModel({ ...TINY, dtype: 'bf16', intermediate: 50, layers: 1 }, 3);
    const bench = open(odd, { device: 0, batchInvariant: false });
    const calls = callsOf(() => bench.run([{ tokens: [1, 2, 3], start: 0, blocks: [0] }]));
    expect([count(calls, 'cublasLtMatmul'), count(calls, 'matmulNarrow')]).toEqual([3 + 1, 1]);
    bench.close();
  });

  test('without cublasLt our own products are taken', () => {
    const given = answers('', { FASTSWITCH_CUBLASLT: 'none' });
    expect(given.filter(({ name }) => name === 'step').map((step) => step.token)).toEqual([token, token, token, token]);
  });

  describe('a cublasLt that is found where libraries are searched', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fastswitch-libraries-'));
    const searched = { FASTSWITCH_CUBLASLT: '', LD_LIBRARY_PATH: folder };
    if (!skip)
      for (const name of ['libcublasLt.so.12', 'libcublasLt.so.13'])
        symlinkSync(gpu.environment.FASTSWITCH_LIBCUDA as string, join(folder, name));

    test.each([
      ['13.0', 'libcublasLt.so.13'],
      ['12.4', 'libcublasLt.so.12'],
    ])('is one that a driver for CUDA %s can start', (version, wanted) => {
      const env = {
        ...process.env,
        ...gpu.environment,
        ...searched,
        FASTSWITCH_STANDIN_LOG: '',
        FASTSWITCH_STANDIN_DRIVER: version,
      };
      const script = 'process.stdout.write(require(process.argv[1]).devices().cublasLt)';
      expect(execFileSync(process.execPath, ['-e', script, addonPath], { env, encoding: 'utf8' })).toBe(wanted);
    });

    test('and does not start is as good as none; one that was named is an error', () => {
      const given = answers('cublasLtCreate:*', searched);
      expect(given.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0, 0, 0]);
      expect(given.find(({ name }) => name === 'step')?.token).toBe(token);
      expect(answers('cublasLtCreate:*')[0]?.message).toMatch('cublasLtCreate failed with 1 (not initialised)');
    });
  });

  test('a cublasLt that is named and not there is no reason to go on without', () => {
    const [made] = answers('', { FASTSWITCH_CUBLASLT: '/nowhere/libcublasLt.so' });
    expect(made?.message).toMatch('cannot load FASTSWITCH_CUBLASLT=/nowhere/libcublasLt.so');
  });
});
