/** Copies between the two memories: what they move, and what they refuse to touch. */
import { afterAll, expect, test } from 'vitest';
import { FastswitchError } from '../../src/errors.js';
import {
  copyBytes,
  copyRuns,
  createStore,
  Direction,
  destroyStore,
  Memory,
  readStore,
  writeStore,
} from '../../src/native/index.js';
import { integer, seeded } from './engine-models.js';

const UNIT = 64 * 1024;
const DEVICE = 24;
const HOST = 16;
const store = createStore(UNIT, DEVICE, HOST);

afterAll(() => destroyStore(store));

/** The same copies on plain buffers. */
const model = { device: Buffer.alloc(UNIT * DEVICE), host: Buffer.alloc(UNIT * HOST) };

function refill(): void {
  const random = seeded(6);
  for (const buffer of [model.device, model.host]) {
    const words = new Uint32Array(buffer.buffer, buffer.byteOffset, buffer.length / 4);
    for (let i = 0; i < words.length; i++) words[i] = random() * 2 ** 32;
  }
  writeStore(store, Memory.device, 0, model.device);
  writeStore(store, Memory.host, 0, model.host);
}

function expectSame(): void {
  const device = new Uint8Array(UNIT * DEVICE);
  const host = new Uint8Array(UNIT * HOST);
  readStore(store, Memory.device, 0, device);
  readStore(store, Memory.host, 0, host);
  expect(Buffer.compare(device, model.device)).toBe(0);
  expect(Buffer.compare(host, model.host)).toBe(0);
}

function onModel(direction: Direction, from: number, to: number, bytes: number): void {
  const source = direction === Direction.hostToDevice ? model.host : model.device;
  const target = direction === Direction.deviceToHost ? model.host : model.device;
  source.copy(target, to, from, from + bytes);
}

const refused = (run: () => unknown): void => expect(run).toThrow(FastswitchError);

test('runs of any length arrive whole, in both directions and within the device', () => {
  refill();
  const random = seeded(12);
  for (let round = 0; round < 60; round++) {
    const direction = integer(random, 0, 2) as Direction;
    const runs: number[] = [];
    for (let i = 0; i < integer(random, 0, 4); i++) {
      const blocks = integer(random, 1, 12);
      const from = integer(random, 0, (direction === Direction.hostToDevice ? HOST : DEVICE) - blocks);
      const to = integer(random, 0, (direction === Direction.deviceToHost ? HOST : DEVICE) - blocks);
      runs.push(from, to, blocks);
      onModel(direction, from * UNIT, to * UNIT, blocks * UNIT);
    }
    expect(copyRuns(store, direction, Int32Array.from(runs))).toBeGreaterThanOrEqual(0);
  }
  expectSame();
});

test('pieces of any size and alignment arrive whole', () => {
  refill();
  const random = seeded(13);
  for (let round = 0; round < 200; round++) {
    const direction = integer(random, 0, 1) as Direction;
    const bytes = integer(random, 0, round % 10 === 0 ? 500_000 : 5000);
    const from = integer(random, 0, UNIT * HOST - bytes);
    const to = integer(random, 0, UNIT * HOST - bytes);
    copyBytes(store, direction, Float64Array.of(from, to, bytes));
    onModel(direction, from, to, bytes);
  }
  expectSame();
});

test('a bad run touches nothing, not even by the good runs before it', () => {
  refill();
  const good = [0, 0, 2];
  const wrong = [
    [-1, 0, 1],
    [0, -1, 1],
    [0, 0, 0],
    [0, 0, -1],
    [DEVICE, 0, 1],
    [DEVICE - 1, 0, 2],
    [0, HOST, 1],
    [0, HOST - 1, 2],
    [0, 0, HOST + 1],
  ];
  const extreme = [
    [2147483647, 0, 2147483647],
    [0, 2147483647, 1],
    [1, 1, 2147483647],
    [-2147483648, 0, 1],
  ];
  for (const run of [...wrong, ...extreme])
    refused(() => copyRuns(store, Direction.deviceToHost, Int32Array.from([...good, ...run])));
  refused(() => copyRuns(store, Direction.hostToDevice, Int32Array.of(0, 0, 1, HOST, 0, 1)));
  refused(() => copyRuns(store, Direction.deviceToHost, Int32Array.of(0, 0)));
  refused(() => copyRuns(store, 7 as Direction, Int32Array.of(0, 0, 1)));
  refused(() => copyRuns(store, Direction.deviceToHost, new Float32Array(3) as unknown as Int32Array));
  expectSame();
});

test('a bad piece touches nothing', () => {
  const size = UNIT * HOST;
  const wrong = [
    [-1, 0, 1],
    [0, -1, 1],
    [0, 0, -1],
    [0, 0, size + 1],
    [0, size, 1],
    [0, size - 1, 2],
    [0.5, 0, 1],
    [0, 0, 1.5],
  ];
  const extreme = [
    [2 ** 53, 0, 2 ** 53],
    [Number.NaN, 0, 1],
    [0, 0, Number.POSITIVE_INFINITY],
    [UNIT * DEVICE, 0, 1],
    [1e300, 0, 1],
  ];
  for (const piece of [...wrong, ...extreme])
    refused(() => copyBytes(store, Direction.deviceToHost, Float64Array.from([0, 0, 64, ...piece])));
  expectSame();
});

test('reads and writes outside are refused', () => {
  for (const offset of [-1, UNIT * HOST - 7, UNIT * HOST, 2 ** 53, Number.NaN]) {
    refused(() => readStore(store, Memory.host, offset, new Uint8Array(8)));
    refused(() => writeStore(store, Memory.host, offset, new Uint8Array(8)));
  }
  refused(() => readStore(store, 2 as Memory, 0, new Uint8Array(8)));
  expectSame();
});

test('stores of sizes that make no sense are refused', () => {
  for (const [bytes, device, host] of [
    [0, 1, 1],
    [63, 1, 1],
    [65, 1, 1],
    [-64, 1, 1],
    [64, 0, 1],
    [64, -1, 1],
    [64, 1, -1],
    [64, 2 ** 31, 1],
    [Number.NaN, 1, 1],
  ] as const) {
    refused(() => createStore(bytes, device, host));
  }
  refused(() => createStore(2 ** 40, 2 ** 30, 1));
});

test('a store without a host has nothing to copy to; numbers are not used again', () => {
  const alone = createStore(64, 4, 0);
  refused(() => copyRuns(alone, Direction.deviceToHost, Int32Array.of(0, 0, 1)));
  copyRuns(alone, Direction.deviceToDevice, Int32Array.of(0, 1, 1));
  destroyStore(alone);
  refused(() => destroyStore(alone));
  refused(() => copyRuns(alone, Direction.deviceToDevice, Int32Array.of(0, 1, 1)));
  const next = createStore(64, 4, 0);
  expect(next).toBeGreaterThan(alone);
  destroyStore(next);
});
