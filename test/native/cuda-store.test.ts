/**
 * The store of a GPU: what it moves, from several threads, and what it refuses. The order of its calls, steps beside transfers
 * and a driver that fails are checked by programs of their own, in standin/check-store.cc and standin/check-driver.cc.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FastswitchError } from '../../src/errors.js';
import {
  addonPath,
  copyBytes,
  copyRuns,
  createStore,
  Direction,
  destroyStore,
  Memory,
  readStore,
  type StoreOptions,
  writeStore,
} from '../../src/native/index.js';
import { integer, seeded } from './engine-models.js';
import { testGpu } from './standin/index.js';

const FOLDER = mkdtempSync(join(tmpdir(), 'fastswitch-store-'));
const LOG = join(FOLDER, 'calls');
const gpu = await testGpu({ FASTSWITCH_STANDIN_LOG: LOG });

const UNIT = 16 * 1024;
const DEVICE = 32;
const HOST = 24;
const WAYS: readonly [string, StoreOptions][] = [
  ['in batches', { device: 0, batchCopies: true }],
  ['one by one', { device: 0, batchCopies: false }],
];

afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

/** The two memories as they should be, filled at random and written to the store. */
class Model {
  readonly memories = [Buffer.alloc(UNIT * DEVICE), Buffer.alloc(UNIT * HOST)] as const;

  constructor(readonly store: number) {
    const random = seeded(6);
    for (const memory of [Memory.device, Memory.host]) {
      const bytes = this.memories[memory];
      for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE(Math.floor(random() * 2 ** 32), i);
      writeStore(store, memory, 0, bytes);
    }
  }

  copy(direction: Direction, from: number, to: number, bytes: number): void {
    const source = this.memories[direction === Direction.hostToDevice ? Memory.host : Memory.device];
    source.copy(this.memories[direction === Direction.deviceToHost ? Memory.host : Memory.device], to, from, from + bytes);
  }

  copyRuns(direction: Direction, runs: readonly number[]): void {
    for (let i = 0; i < runs.length; i += 3) {
      const [from = 0, to = 0, blocks = 0] = runs.slice(i, i + 3);
      this.copy(direction, from * UNIT, to * UNIT, blocks * UNIT);
    }
  }

  expectSame(): void {
    for (const memory of [Memory.device, Memory.host]) {
      const found = new Uint8Array(this.memories[memory].length);
      readStore(this.store, memory, 0, found);
      expect(Buffer.compare(found, this.memories[memory]), `memory ${memory}`).toBe(0);
    }
  }
}

/** Runs of the blocks from `first` to `end` of both memories whose targets do not overlap. */
function someRuns(random: () => number, direction: Direction, first: number, end: number): number[] {
  const runs: number[] = [];
  const middle = direction === Direction.deviceToDevice ? (first + end) >> 1 : end;
  let from = first;
  let to = direction === Direction.deviceToDevice ? middle : first;
  for (;;) {
    from += integer(random, 0, 1);
    to += integer(random, 0, 1);
    const blocks = integer(random, 1, 3);
    if (from + blocks > middle || to + blocks > end) return runs;
    runs.push(from, to, blocks);
    from += blocks;
    to += blocks;
  }
}

describe.skipIf(gpu.skip !== '').each(WAYS)('the store of a GPU, %s', (_, options) => {
  let store = 0;
  let model: Model;

  beforeAll(() => {
    store = createStore(UNIT, DEVICE, HOST, options);
    model = new Model(store);
  });
  afterAll(() => destroyStore(store));

  test('moves runs of blocks in both directions and within the device', () => {
    const random = seeded(12);
    for (let round = 0; round < 60; round++) {
      const direction = integer(random, 0, 2) as Direction;
      const runs = someRuns(random, direction, 0, HOST);
      expect(copyRuns(store, direction, Int32Array.from(runs))).toBeGreaterThanOrEqual(0);
      model.copyRuns(direction, runs);
    }
    model.expectSame();
  });

  test('moves pieces of any length, and within the device also over themselves', () => {
    const pieces = [
      [3, 7, 5000],
      [UNIT, 2 * UNIT + 1, 0],
      [40_001, 20_000, 1],
    ] as const;
    for (const direction of [Direction.deviceToHost, Direction.hostToDevice]) {
      copyBytes(store, direction, Float64Array.from(pieces.flat()));
      for (const [from, to, bytes] of pieces) model.copy(direction, from, to, bytes);
    }
    for (const [from, to, bytes] of [
      [0, 3 * UNIT, 20 * UNIT],
      [5 * UNIT + 100, 4 * UNIT, 20 * UNIT],
    ] as const) {
      copyBytes(store, Direction.deviceToDevice, Float64Array.of(from, to, bytes));
      model.copy(Direction.deviceToDevice, from, to, bytes);
    }
    model.expectSame();
  });

  test('refuses what leaves its memory, before the first byte moves', () => {
    const refused = (act: () => unknown): void => expect(act).toThrow(FastswitchError);
    refused(() => copyRuns(store, Direction.deviceToHost, Int32Array.of(0, 0, 1, DEVICE - 1, 0, 2)));
    refused(() => copyRuns(store, Direction.hostToDevice, Int32Array.of(0, 0, 1, HOST, 0, 1)));
    refused(() => copyBytes(store, Direction.deviceToHost, Float64Array.of(0, 0, 64, 0, UNIT * HOST - 63, 64)));
    refused(() => copyBytes(store, Direction.deviceToDevice, Float64Array.of(0, UNIT, 64, 0, 1, UNIT)));
    refused(() => readStore(store, Memory.device, UNIT * DEVICE - 1, new Uint8Array(2)));
    model.expectSame();
  });

  test('serves several threads at once', async () => {
    const random = seeded(77);
    const threads = 4;
    const share = HOST / threads;
    const workers = Array.from({ length: threads }, async (_unused, thread) => {
      const transfers = Array.from({ length: 25 }, () => {
        const direction = integer(random, 0, 2) as Direction;
        return { direction, runs: someRuns(random, direction, thread * share, (thread + 1) * share) };
      });
      for (const { direction, runs } of transfers) model.copyRuns(direction, runs);
      const code = `const { workerData, parentPort } = require('node:worker_threads');
        const native = require(workerData.addonPath);
        parentPort.postMessage(workerData.transfers.map(({ direction, runs }) =>
          native.copyRuns(workerData.store, direction, Int32Array.from(runs))));`;
      const worker = new Worker(code, { eval: true, workerData: { addonPath, store, transfers } });
      const [durations] = await Promise.all([
        new Promise<number[]>((answer, fail) => worker.once('message', answer).once('error', fail)),
        new Promise((ended) => worker.once('exit', ended)),
      ]);
      for (const micros of durations) expect(micros).toBeGreaterThanOrEqual(0);
    });
    await Promise.all(workers);
    model.expectSame();
  });

  test.skipIf(gpu.real)('asks the driver as seldom as it can, and never to wait for a stream or for everything', () => {
    const before = readFileSync(LOG, 'utf8').length;
    copyRuns(store, Direction.deviceToHost, Int32Array.of(0, 4, 2, 5, 9, 1, 8, 0, 3));
    const calls = readFileSync(LOG, 'utf8').slice(before).trim().split('\n');
    const names = calls.map((line) => line.split(' ')[0]);
    const copies = options.batchCopies ? ['cuMemcpyBatchAsync_v2'] : Array.from({ length: 3 }, () => 'cuMemcpyDtoHAsync_v2');
    expect(names).toEqual([...copies, 'cuEventRecord', 'cuEventSynchronize']);
    if (options.batchCopies) expect(calls[0]).toMatch(new RegExp(` copies 3 bytes ${6 * UNIT}$`));
    const all = readFileSync(LOG, 'utf8');
    expect(all).not.toMatch(/Synchronize(?! event)|violation/);
  });
});

test.skipIf(gpu.skip !== '')('a store that finds no room says how much it asked for and what to lower', () => {
  expect(() => createStore(2 ** 30, 2 ** 14, 1, { device: 0, batchCopies: true })).toThrow(/16384\.00 GiB.*--device-kv/);
  expect(() => createStore(UNIT, 1, 1, { device: 99, batchCopies: true })).toThrow(/there is no GPU 99/);
});

const run = promisify(execFile);

describe.skipIf(gpu.real || gpu.skip !== '')('by itself', () => {
  const NATIVE = resolve(import.meta.dirname, '../../src/native');
  const SOURCES = ['status', 'cuda/cublaslt', 'cuda/device', 'cuda/driver', 'cuda/image', 'cuda/store'];
  const CHECKS = ['check-store', 'check-driver'];
  const COMPILE = ['-std=c++17', '-O1', '-Wall', '-Wextra', '-fno-exceptions', '-fno-rtti', '-pthread'];

  beforeAll(async () => {
    const sources = SOURCES.map((name) => join(NATIVE, `${name}.cc`));
    await run('g++', [...COMPILE, '-shared', '-fPIC', ...sources, '-o', join(FOLDER, 'libstore.so'), '-ldl']);
    for (const check of CHECKS) {
      const source = resolve(import.meta.dirname, 'standin', `${check}.cc`);
      await run('g++', [...COMPILE, source, `-L${FOLDER}`, '-lstore', `-Wl,-rpath,${FOLDER}`, '-o', join(FOLDER, check), '-ldl']);
    }
  }, 300_000);

  /** What the program prints; one that fails fails the test with its output. */
  async function output(program: string, words: readonly string[], variables: Readonly<Record<string, string>>): Promise<string> {
    const env = { ...process.env, ...gpu.environment, FASTSWITCH_STANDIN_LOG: '', ...variables };
    const { stdout } = await run(join(FOLDER, program), words, { env, maxBuffer: 1 << 26 }).catch(
      (error: { stdout: string; stderr: string }) => {
        throw new Error(`${error.stdout}\n${error.stderr}`);
      },
    );
    return stdout.trim();
  }

  test.each([
    ['13.0', '1', '60'],
    ['12.8', '101', '30'],
    ['12.2', '201', '30'],
  ])(
    'steps, transfers and failures with a driver for CUDA %s',
    async (version, first, seeds) => {
      expect(await output('check-store', [first, seeds], { FASTSWITCH_STANDIN_DRIVER: version })).toBe('0 failed');
      expect(await output('check-driver', ['30'], { FASTSWITCH_STANDIN_DRIVER: version })).toBe('0 failed');
    },
    120_000,
  );

  test.each([
    [{ FASTSWITCH_STANDIN_DEVICES: '0' }, /problem 'no GPU found/],
    [{ FASTSWITCH_LIBCUDA: '/nowhere/libcuda.so.1' }, /cannot load FASTSWITCH_LIBCUDA=\/nowhere/],
    [{ FASTSWITCH_LIBCUDA: 'libm.so.6' }, /libm\.so\.6 is not NVIDIA's driver library: it lacks cuInit/],
    [{ FASTSWITCH_STANDIN_FAIL: 'cuInit:1=999' }, /does not start: cuInit failed with 999, CUDA_ERROR_UNKNOWN/],
    [
      { FASTSWITCH_STANDIN_FAIL: 'cuModuleLoadData:*=209' },
      /9\.0,.*problem 'this build has no kernels for GPU 0 \(compute capability 9\.0\) that a driver for CUDA 13\.0 takes'/,
    ],
    [{ FASTSWITCH_STANDIN_FAIL: 'cuModuleLoadData:*=999' }, /problem 'the kernels do not load on GPU 0 .*CUDA_ERROR_UNKNOWN/],
    [
      { FASTSWITCH_STANDIN_FAIL: 'cuDevicePrimaryCtxRetain:*=2' },
      /problem 'cuDevicePrimaryCtxRetain failed with 2, CUDA_ERROR_OUT_OF_MEMORY/,
    ],
    [
      { FASTSWITCH_CUDA_KERNELS: '/nowhere/kernels' },
      /kernels 0;.*problem 'FASTSWITCH_CUDA_KERNELS=\/nowhere\/kernels holds no kernels/s,
    ],
    [{ FASTSWITCH_CUDA_KERNELS: '' }, /problem 'this build has no kernels for GPUs/],
    [
      { FASTSWITCH_STANDIN_DEVICES: '2', FASTSWITCH_STANDIN_DRIVER: '12.4' },
      /driver 12040;.*batch copies 0;.*0000:65:00\.0.*0000:66:00\.0/s,
    ],
  ] as readonly [Record<string, string>, RegExp][])('%o: what it says of the devices', async (variables, expected) => {
    expect(await output('check-store', ['devices'], variables)).toMatch(expected);
  });
});
