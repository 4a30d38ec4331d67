/**
 * Gigabytes a second of swapping KV between device and host memory, by length of the runs: as one native call, as one
 * task a run on the swap workers, and in the pattern of a layout by layers (two small copies a layer and block) on the
 * same bytes; beside a plain memory copy of all of them. Then what a transfer costs beside its bytes: many small ones through
 * the link of the live hands, which has one chunk on its way at a time and gathers what waits, and that would not; all in
 * one task; and on this thread.
 *
 *   node dist/bench/swap.js [--quick] [--json] [--rounds n] [--threads n] [--device cpu|cuda|cuda:N] [--shape smol|llama8b]
 *                           [--blocks n]
 *
 * On a GPU every list of copies goes both ways there are: in one call of the driver, and in one call a copy (--device cuda; exit
 * code 2 where there is no GPU). llama8b has blocks of 2 MiB.
 *
 * All cases take turns; the best and the median of the rounds are reported, in the direction out and back in.
 */
import { createHash } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Link } from '../src/actors/link.js';
import type { TransferEffect } from '../src/actors/ports.js';
import { copyBytes, copyRuns, createStore, Direction, destroyStore, Memory, readStore, writeStore } from '../src/native/index.js';
import { createPools } from '../src/native/pool.js';
import { SHAPES } from '../src/native/shapes.js';
import { deviceOf, shapeName } from './on-device.js';
import { median } from './statistics.js';

interface Case {
  readonly name: string;
  readonly copies: number;
  /** Copies all blocks; answers microseconds. */
  readonly copy: (direction: Direction) => number | Promise<number>;
  readonly micros: number[];
}

/** The same, of many transfers. */
type Small = Omit<Case, 'copies'>;

interface Measured {
  readonly name: string;
  readonly copies: number;
  readonly bestMicros: number;
  readonly medianMicros: number;
  /** Of the best round, whichever direction that was; then of the best in each. */
  readonly gigabytesPerSecond: number;
  readonly outGigabytesPerSecond: number;
  readonly inGigabytesPerSecond: number;
}

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    threads: { type: 'string', default: '2' },
    device: { type: 'string', default: 'cpu' },
    shape: { type: 'string', default: 'smol' },
    blocks: { type: 'string' },
  },
});
const choice = deviceOf(flags.device);
const shape = SHAPES[shapeName(flags.shape)];
/** KV in bf16. */
const SIDE_BYTES = 16 * shape.kvHeads * shape.headDim * 2;
const BLOCK_BYTES = shape.layers * 2 * SIDE_BYTES;
const rounds = Number(flags.rounds ?? (flags.quick ? 2 : 15));
const blocks = Number(flags.blocks ?? (flags.quick ? 64 : 256));
const bytes = blocks * BLOCK_BYTES;

function shared(words: readonly number[]): Int32Array {
  const array = new Int32Array(new SharedArrayBuffer(4 * words.length));
  array.set(words);
  return array;
}

/** All blocks as runs of this length, each to another place: the order of runs is reversed in the target. */
function runsOf(length: number): number[][] {
  const count = blocks / length;
  return Array.from({ length: count }, (_, i) => [i * length, (count - 1 - i) * length, length]);
}

const back = (runs: readonly number[][]): number[][] => runs.map(([from = 0, to = 0, length = 0]) => [to, from, length]);

/** Each block in 2 x layers pieces, [layer][keys, values][block]: where they lie when blocks are kept layer by layer. */
function piecesByLayer(): Float64Array {
  const pieces: number[] = [];
  for (let block = 0; block < blocks; block++) {
    for (let side = 0; side < 2 * shape.layers; side++) {
      const from = (side * blocks + block) * SIDE_BYTES;
      const to = (side * blocks + (blocks - 1 - block)) * SIDE_BYTES;
      pieces.push(from, to, SIDE_BYTES);
    }
  }
  return Float64Array.from(pieces);
}

/** How lists of copies are handed over; the CPU knows one way. */
const forms = (choice.device < 0 ? [''] : [', batch', ', loop']).map((name) => ({
  name,
  store: createStore(BLOCK_BYTES, blocks, blocks, { device: choice.device, batchCopies: name !== ', loop' }),
}));
const store = forms[0]?.store ?? -1;
const pools = createPools({ swapThreads: Number(flags.threads) });
const lengths = [1, 4, 16, 64, 256].filter((length) => blocks % length === 0);
const pieces = piecesByLayer();
const device = Buffer.alloc(bytes);
for (let i = 0; i < bytes; i += 4) device.writeUInt32LE(Math.imul(i, 2_654_435_761) >>> 0, i);
const host = Buffer.alloc(bytes);

const timed = (copy: () => void): number => {
  const start = performance.now();
  copy();
  return (performance.now() - start) * 1e3;
};

async function asTasks(runs: readonly Int32Array[], direction: Direction, of = store): Promise<number> {
  const start = performance.now();
  await Promise.all(runs.map((run) => pools.copy(of, direction, run)));
  return (performance.now() - start) * 1e3;
}

function runCases(length: number): Case[] {
  const runs = runsOf(length);
  const ways = [runs, back(runs)];
  const calls = ways.map((way) => shared(way.flat()));
  const tasks = ways.map((way) => way.map(shared));
  const at = (direction: Direction): 0 | 1 => (direction === Direction.deviceToHost ? 0 : 1);
  return forms.flatMap(({ name: form, store: of }) => {
    const name = `runs of ${length}${form}`;
    const all = (way: Direction) => calls[at(way)] as Int32Array;
    return [
      { name: `${name}, one call`, copies: runs.length, copy: (way) => copyRuns(of, way, all(way)), micros: [] },
      { name: `${name}, one task`, copies: runs.length, copy: (way) => asTasks([all(way)], way, of), micros: [] },
      {
        name: `${name}, a task each`,
        copies: runs.length,
        copy: (way) => asTasks(tasks[at(way)] as Int32Array[], way, of),
        micros: [],
      },
    ] satisfies Case[];
  });
}

/** How many transfers wait for the link at once. */
const TRANSFERS = Math.min(32, blocks);

/** As many transfers as are wanted at once, of so many blocks each, at their own places. */
function transfersOf(length: number, direction: 'out' | 'in'): TransferEffect[] {
  return Array.from({ length: TRANSFERS }, (_, index) => {
    const at = (index * length) % (blocks - length + 1);
    const runs = [{ from: at, to: at, blocks: length }];
    const copies = { id: index, held: 0, transfer: index, direction, runs, blocks: length };
    return direction === 'out'
      ? { type: 'swapOut', cause: { why: 'outranked', by: null }, ...copies }
      : { type: 'swapIn', cachedTokens: 0, ...copies };
  });
}

/** Through the link: one behind the other, or gathered. */
function throughLink(
  transfers: readonly TransferEffect[],
  way: Direction,
  gather: ((go: () => void) => void) | null,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    let landed = 0;
    const link: Link = new Link({
      duplex: true,
      blockBytes: BLOCK_BYTES,
      perform: ({ runs }, done) => {
        const words = runs.flatMap(({ from, to, blocks }) => [from, to, blocks]);
        pools.copy(store, way, shared(words)).then(done, done);
      },
      answer: (event) => {
        if (event.type === 'transferFailed') reject(new Error(event.error));
        landed += 1;
        if (landed === transfers.length) resolve((performance.now() - start) * 1e3);
      },
      gather,
    });
    for (const transfer of transfers) link.start(transfer);
  });
}

function smallCases(length: number): Small[] {
  const name = `${length} blocks`;
  const ways = (['out', 'in'] as const).map((direction) => transfersOf(length, direction));
  const transfers = (way: Direction) => ways[way === Direction.deviceToHost ? 0 : 1] as TransferEffect[];
  const words = (way: Direction) =>
    transfers(way).map(({ runs }) => shared(runs.flatMap(({ from, to, blocks }) => [from, to, blocks])));
  return [
    { name: `${name}, link, each alone`, copy: (way) => throughLink(transfers(way), way, null), micros: [] },
    { name: `${name}, link`, copy: (way) => throughLink(transfers(way), way, queueMicrotask), micros: [] },
    { name: `${name}, one task`, copy: (way) => asTasks([shared(words(way).flatMap((run) => [...run]))], way), micros: [] },
    {
      name: `${name}, here`,
      copy: (way) => timed(() => words(way).forEach((run) => void copyRuns(store, way, run))),
      micros: [],
    },
  ];
}

const cases: Case[] = [
  ...lengths.flatMap(runCases),
  ...forms.map(
    ({ name, store: of }): Case => ({
      name: `pieces by layer${name}, one call`,
      copies: pieces.length / 3,
      copy: (way) => copyBytes(of, way, pieces),
      micros: [],
    }),
  ),
  choice.device < 0
    ? { name: 'plain memory copy', copies: 1, copy: () => timed(() => device.copy(host)), micros: [] }
    : {
        name: 'all bytes in one copy',
        copies: 1,
        copy: (way) => copyBytes(store, way, Float64Array.of(0, 0, bytes)),
        micros: [],
      },
];

for (const { store: of } of forms) writeStore(of, Memory.device, 0, device);
const small = [1, 4, 16].flatMap(smallCases);
for (let round = 0; round <= rounds; round++) {
  for (const one of [...cases, ...small]) {
    for (const way of [Direction.deviceToHost, Direction.hostToDevice]) {
      const micros = await one.copy(way);
      if (round > 0) one.micros.push(micros);
    }
  }
}
let whole = true;
for (const { store: of } of forms) {
  readStore(of, Memory.device, 0, host);
  whole = whole && host.equals(device);
}
const hash = createHash('sha256').update(host).digest('hex').slice(0, 16);
await pools.close();
for (const { store: of } of forms) destroyStore(of);

const measured = cases.map((one): Measured => {
  const bestMicros = Math.min(...one.micros);
  // Out and in took turns.
  const best = (way: 0 | 1) => Math.min(...one.micros.filter((_, index) => index % 2 === way));
  return {
    name: one.name,
    copies: one.copies,
    bestMicros,
    medianMicros: median(one.micros),
    gigabytesPerSecond: bytes / bestMicros / 1e3,
    outGigabytesPerSecond: bytes / best(0) / 1e3,
    inGigabytesPerSecond: bytes / best(1) / 1e3,
  };
});
const perTransfer = small.map(({ name, micros }) => ({
  name,
  bestMicros: Math.min(...micros) / TRANSFERS,
  medianMicros: median(micros) / TRANSFERS,
}));
if (flags.json) {
  console.log(
    JSON.stringify({ device: choice.about, blocks, blockBytes: BLOCK_BYTES, cases: measured, transfers: perTransfer, hash }),
  );
} else {
  console.log(`${choice.about}: ${blocks} blocks of ${BLOCK_BYTES} bytes (${(bytes / 1e6).toFixed(0)} MB)`);
  for (const one of measured) {
    const { name, copies, bestMicros, medianMicros, outGigabytesPerSecond, inGigabytesPerSecond } = one;
    console.log(
      `  ${name.padEnd(32)} ${String(copies).padStart(6)} copies  ${outGigabytesPerSecond.toFixed(1).padStart(6)} GB/s out, ` +
        `${inGigabytesPerSecond.toFixed(1).padStart(6)} in at best  ${(bestMicros / 1e3).toFixed(2).padStart(7)} ms, median ${(medianMicros / 1e3).toFixed(2)} ms`,
    );
  }
  console.log(`${TRANSFERS} transfers at once, microseconds for each`);
  for (const { name, bestMicros, medianMicros } of perTransfer) {
    console.log(`  ${name.padEnd(32)} ${bestMicros.toFixed(0).padStart(6)} at best, median ${medianMicros.toFixed(0)}`);
  }
  console.log(`  hash ${hash}`);
}
if (!whole) {
  console.error('the blocks did not come back as they went');
  process.exitCode = 1;
}
