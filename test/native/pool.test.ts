/** Native calls from worker threads: many at once, failures as errors, and an orderly end. */
import { Worker } from 'node:worker_threads';
import { afterAll, expect, test } from 'vitest';
import { FastswitchError } from '../../src/errors.js';
import {
  createEngine,
  createStore,
  Direction,
  destroyEngine,
  destroyStore,
  engineInfo,
  Memory,
  readStore,
  step,
  writeStore,
} from '../../src/native/index.js';
import { createPools } from '../../src/native/pool.js';
import { makeModel, OPTIONS, planOf, resultFor, TINY } from './engine-models.js';

const engine = createEngine(makeModel({ ...TINY, layers: 12 }, 2), { ...OPTIONS, threads: 2 });
const { blockBytes } = engineInfo(engine);
const store = createStore(blockBytes, 64, 64);

afterAll(() => {
  destroyEngine(engine);
  destroyStore(store);
});

const runs = (...words: number[]): Int32Array => {
  const shared = new Int32Array(new SharedArrayBuffer(4 * words.length));
  shared.set(words);
  return shared;
};

test('a thousand copies and steps beside them, each answered once', async () => {
  const pools = createPools({ swapThreads: 2 });
  const filled = new Uint8Array(blockBytes * 32).map((_, i) => (i * 31) % 251);
  writeStore(store, Memory.device, 0, filled);
  const alone = resultFor(1);
  const plan = planOf([{ tokens: [1, 2, 3], start: 0, blocks: [40] }]);
  step(engine, store, plan, alone);

  const copies = Array.from({ length: 1000 }, (_, i) => pools.copy(store, Direction.deviceToHost, runs(i % 32, i % 32, 1)));
  const steps = Array.from({ length: 20 }, async () => {
    const result = resultFor(1);
    expect(await pools.step(engine, store, plan, result)).toBeGreaterThanOrEqual(0);
    expect(result).toEqual(alone);
  });
  for (const micros of await Promise.all(copies)) expect(micros).toBeGreaterThanOrEqual(0);
  await Promise.all(steps);
  const found = new Uint8Array(filled.length);
  readStore(store, Memory.host, 0, found);
  expect(Buffer.compare(found, filled)).toBe(0);
  await pools.close();
});

test('pieces of blocks go as the blocks would', async () => {
  const pools = createPools({ swapThreads: 1 });
  const filled = new Uint8Array(blockBytes * 2).map((_, i) => (i * 37) % 251);
  writeStore(store, Memory.device, 5 * blockBytes, filled);
  const piece = blockBytes / 24; // twelve layers, keys and values
  const pieces = new Float64Array(new SharedArrayBuffer(8 * 3 * 48));
  for (let k = 0; k < 48; k++) pieces.set([5 * blockBytes + k * piece, 50 * blockBytes + k * piece, piece], 3 * k);
  expect(await pools.copyPieces(store, Direction.deviceToHost, pieces)).toBeGreaterThanOrEqual(0);
  const found = new Uint8Array(filled.length);
  readStore(store, Memory.host, 50 * blockBytes, found);
  expect(Buffer.compare(found, filled)).toBe(0);
  pieces[1] = 64 * blockBytes;
  await expect(pools.copyPieces(store, Direction.deviceToHost, pieces)).rejects.toThrow(FastswitchError);
  await pools.close();
});

test('what C++ refuses comes back as a coded error, and the worker lives on', async () => {
  const pools = createPools({ swapThreads: 1 });
  await expect(pools.copy(store, Direction.deviceToHost, runs(0, 0, 1000))).rejects.toThrow(FastswitchError);
  await expect(pools.copy(store, Direction.deviceToHost, runs(0, 0))).rejects.toThrow(/three words/);
  await expect(pools.step(99, store, runs(0), runs(0))).rejects.toThrow(/no engine 99/);
  await expect(pools.step(engine, store, runs(0, 0, 0, 0), resultFor(1))).rejects.toMatchObject({ code: 'native_failed' });
  expect(await pools.copy(store, Direction.deviceToHost, runs(0, 0, 1))).toBeGreaterThanOrEqual(0);
  await pools.close();
});

test('closing under load lets every call finish, refuses new ones, and may be asked for twice', async () => {
  const pools = createPools({ swapThreads: 2 });
  const copies = Array.from({ length: 200 }, () => pools.copy(store, Direction.hostToDevice, runs(0, 0, 32)));
  const plan = planOf([{ tokens: [1, 2, 3], start: 0, blocks: [40] }]);
  const steps = Array.from({ length: 10 }, () => pools.step(engine, store, plan, resultFor(1)));
  const closed = pools.close();
  await expect(pools.copy(store, Direction.hostToDevice, runs(0, 0, 1))).rejects.toThrow(/closed/);
  await Promise.all([closed, pools.close()]);
  for (const settled of await Promise.allSettled([...copies, ...steps])) expect(settled.status).toBe('fulfilled');
});

test('a thread that ends in the middle of native work does not take the process with it', async () => {
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    const native = require(workerData.addonPath);
    parentPort.postMessage('started');
    for (;;) native.copyRuns(workerData.store, 0, workerData.runs);
  `;
  const { addonPath } = await import('../../src/native/index.js');
  for (let round = 0; round < 5; round++) {
    const worker = new Worker(source, { eval: true, workerData: { addonPath, store, runs: runs(0, 0, 32) } });
    await new Promise((resolve) => worker.once('message', resolve));
    await worker.terminate();
  }
  expect(engineInfo(engine).blockBytes).toBe(blockBytes);
});
