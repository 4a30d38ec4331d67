/**
 * The bookkeeping of blocks, in two parts. First what a call costs in memories of 1,000 to 100,000 blocks, all in the same
 * churn: it should grow like a logarithm. Then how long the copies of a swap are: requests grow a block at a time and
 * are swapped out and in at random in a device that is nearly full, the same events for every allocator. A copy goes on
 * only where both sides are contiguous, so its length says how well an allocator keeps a request together, and how much
 * room it needs for that.
 *
 *   node dist/bench/blocks.js [--quick] [--json]
 */
import { createHash, type Hash } from 'node:crypto';
import { BlockMemory } from '../src/core/blocks.js';
import { Random } from '../src/core/random.js';
import { runsBetween } from '../src/core/transfers.js';
import { median } from './statistics.js';

const quick = process.argv.includes('--quick');

/** What both parts need of an allocator. */
interface Allocator {
  readonly free: number;
  table(owner: number): readonly number[];
  grow(owner: number, count: number, reserve: number): boolean;
  release(owner: number): number;
}

// What a call costs.

const SIZES = quick ? [1000, 10_000] : [1000, 10_000, 100_000];
const CALLS = quick ? 10_000 : 200_000;
const MEAN_BLOCKS = 16;

type Kind = 'grow by one' | 'truncate by one' | 'release, grow anew' | 'split, join' | 'hold, rename, settle';

interface Cost {
  readonly blocks: number;
  /** Nanoseconds of a kind of call, the median of the batches. */
  readonly nanos: Readonly<Record<Kind, number>>;
  readonly freeRuns: number;
  readonly hash: string;
}

/** Owners 1 to n of 1 to 31 blocks, at random, in a memory that is about 95 % full. Tables are as long in all sizes. */
function measureCost(blocks: number): Cost {
  const random = new Random(blocks);
  const memory = new BlockMemory(blocks);
  const owners = Math.floor((0.95 * blocks) / MEAN_BLOCKS);
  const length = () => 1 + random.int(2 * MEAN_BLOCKS - 1);
  for (let owner = 1; owner <= owners; owner++) memory.grow(owner, length(), 4);
  const kinds: Readonly<Record<Kind, (owner: number, count: number) => void>> = {
    'grow by one': (owner) => memory.grow(owner, 1, 4),
    'truncate by one': (owner) => memory.truncate(owner, Math.max(0, memory.table(owner).length - 1)),
    'release, grow anew': (owner, count) => {
      memory.release(owner);
      memory.grow(owner, count, 4);
    },
    'split, join': (owner) => {
      memory.split(owner, memory.table(owner).length >> 1, -owner);
      memory.join(-owner, owner);
    },
    'hold, rename, settle': (owner) => {
      if (memory.table(owner).length === 0) return;
      memory.hold(owner);
      memory.rename(owner, -owner);
      memory.settle(-owner);
      memory.rename(-owner, owner);
    },
  };
  const batch = Math.min(500, owners >> 3); // so few that the memory stays as full as it is
  const samples = Object.keys(kinds).map((kind) => ({ kind: kind as Kind, nanos: [] as number[] }));
  for (let calls = 0; calls < CALLS; calls += batch) {
    for (const { kind, nanos } of samples) {
      const picked = Int32Array.from({ length: batch }, () => 1 + random.int(owners));
      const counts = Int32Array.from({ length: batch }, length);
      const act = kinds[kind];
      const started = performance.now();
      for (let k = 0; k < batch; k++) act(picked[k] as number, counts[k] as number);
      nanos.push(((performance.now() - started) * 1e6) / batch);
    }
  }
  memory.checkIntegrity();
  const hash = createHash('sha256');
  for (let owner = 1; owner <= owners; owner++) hash.update(`${memory.table(owner).join()};`);
  return {
    blocks,
    nanos: Object.fromEntries(samples.map(({ kind, nanos }) => [kind, median(nanos)])) as Record<Kind, number>,
    freeRuns: memory.freeRuns().length,
    hash: hash.digest('hex').slice(0, 12),
  };
}

// How long the copies are.

const DEVICE_BLOCKS = 2400;
const HOST_BLOCKS = 30_720;
const EVENTS = quick ? 20_000 : 300_000;
/** Requests come in, or back in, while more than this share of the device is free: it is at least 95 % full, 90 %, ... */
const DEVICE_FREE = [0.05, 0.1, 0.2, 0.3];
/** New ones come in while more than this share of the host is free. */
const HOST_FREE = 0.05;
/** Share of the events that also send someone out, however much is free: priorities change. */
const PREEMPTIONS = 0.02;
const BUCKETS = [1, 2, 4, 8, 16, 32, 64];

/** Single blocks, the last or the first that was given back; in the order of release that suits it best. */
class SingleBlocks implements Allocator {
  readonly #total: number;
  readonly #lastFirst: boolean;
  /** A ring of free blocks, the next to take of a queue at #start, of a stack before #start + #free. */
  readonly #ring: Int32Array;
  readonly #tables = new Map<number, number[]>();
  #start = 0;
  #free = 0;

  constructor(total: number, order: 'lifo' | 'fifo') {
    this.#total = total;
    this.#lastFirst = order === 'lifo';
    this.#ring = new Int32Array(total);
    this.#give(Array.from({ length: total }, (_, block) => block));
  }

  get free(): number {
    return this.#free;
  }

  table(owner: number): readonly number[] {
    return this.#tables.get(owner) ?? [];
  }

  grow(owner: number, count: number): boolean {
    if (count > this.#free) return false;
    const table = this.#tables.get(owner) ?? [];
    this.#tables.set(owner, table);
    for (let k = 0; k < count; k++) {
      const at = this.#lastFirst ? this.#start + this.#free - 1 : this.#start;
      table.push(this.#ring[at % this.#total] as number);
      if (!this.#lastFirst) this.#start = (this.#start + 1) % this.#total;
      this.#free -= 1;
    }
    return true;
  }

  release(owner: number): number {
    const table = this.#tables.get(owner) ?? [];
    this.#tables.delete(owner);
    this.#give(table);
    return table.length;
  }

  /** So that the next table gets them in ascending order. */
  #give(blocks: readonly number[]): void {
    for (const block of this.#lastFirst ? [...blocks].reverse() : blocks) {
      this.#ring[(this.#start + this.#free) % this.#total] = block;
      this.#free += 1;
    }
  }
}

interface Contestant {
  readonly name: string;
  readonly create: (total: number) => Allocator;
  /** Blocks of reserve for a growth on the device. */
  readonly reserve: (free: number, running: number) => number;
}

const ours = (name: string, reserve: Contestant['reserve']): Contestant => ({
  name,
  create: (total) => new BlockMemory(total),
  reserve,
});

/** Half of an equal share of what is free. */
const adaptive = (free: number, running: number) => Math.min(60, Math.floor(free / (2 * (running + 1))));

const CONTESTANTS: readonly Contestant[] = [
  ours('adaptive reserve', adaptive),
  ours('adaptive, at least 4', (free, running) => Math.max(4, adaptive(free, running))),
  ...[0, 16, 60].map((blocks) => ours(`reserve of ${blocks}`, () => blocks)),
  { name: 'last freed first', create: (total) => new SingleBlocks(total, 'lifo'), reserve: () => 0 },
  { name: 'first freed first', create: (total) => new SingleBlocks(total, 'fifo'), reserve: () => 0 },
];

/** The copies of all swaps in one direction. */
class Copies {
  transfers = 0;
  copies = 0;
  blocks = 0;
  #squares = 0;
  /** Blocks by the length of the run they are in; a bucket begins at its number in BUCKETS. */
  readonly histogram = BUCKETS.map(() => 0);

  add(from: readonly number[], to: readonly number[], hash: Hash): void {
    this.transfers += 1;
    for (const run of runsBetween(from, to)) {
      this.copies += 1;
      this.blocks += run.blocks;
      this.#squares += run.blocks ** 2;
      (this.histogram[BUCKETS.findLastIndex((least) => least <= run.blocks)] as number) += run.blocks;
      hash.update(`${run.from} ${run.to} ${run.blocks};`);
    }
  }

  report() {
    return {
      transfers: this.transfers,
      meanBlocks: this.blocks / this.transfers,
      copiesPerTransfer: this.copies / this.transfers,
      /** Mean over the runs, and over the blocks of the run that each is in. */
      meanRun: this.blocks / this.copies,
      meanRunOfBlock: this.#squares / this.blocks,
      histogram: this.histogram.map((blocks) => blocks / this.blocks),
    };
  }
}

/** Requests that grow and are swapped. What happens depends on numbers of blocks only, never on which blocks they are. */
class World {
  readonly #random = new Random(7);
  readonly #device: Allocator;
  readonly #host: Allocator;
  readonly #goals = new Map<number, number>();
  readonly #running: number[] = [];
  readonly #swapped: number[] = [];
  readonly #placed = createHash('sha256');
  readonly #happened = createHash('sha256');
  #out = new Copies();
  #in = new Copies();
  #owners = 0;

  constructor(
    readonly contestant: Contestant,
    readonly deviceFree: number,
  ) {
    this.#device = contestant.create(DEVICE_BLOCKS);
    this.#host = contestant.create(HOST_BLOCKS);
  }

  run(events: number) {
    this.#refill();
    while (this.#host.free > HOST_FREE * HOST_BLOCKS) this.#turn();
    this.#out = new Copies();
    this.#in = new Copies();
    const full = { device: 0, host: 0 };
    for (let event = 0; event < events; event++) {
      this.#turn();
      full.device += 1 - this.#device.free / DEVICE_BLOCKS;
      full.host += 1 - this.#host.free / HOST_BLOCKS;
    }
    return {
      name: this.contestant.name,
      deviceFree: this.deviceFree,
      out: this.#out.report(),
      in: this.#in.report(),
      deviceFull: full.device / events,
      hostFull: full.host / events,
      events: this.#happened.digest('hex').slice(0, 12),
      hash: this.#placed.digest('hex').slice(0, 12),
    };
  }

  /** Someone grows by a block; sometimes someone has to go. */
  #turn(): void {
    const at = this.#random.int(this.#running.length);
    const owner = this.#running[at] as number;
    if (this.#device.free === 0) this.#swapOut();
    else this.#grow(owner, 1);
    if (this.#device.table(owner).length >= (this.#goals.get(owner) as number)) {
      this.#device.release(owner);
      this.#goals.delete(owner);
      this.#running.splice(at, 1);
    }
    if (this.#random.next() < PREEMPTIONS && this.#running.length > 0) this.#swapOut();
    this.#refill();
  }

  #grow(owner: number, count: number): void {
    const reserve = this.contestant.reserve(this.#device.free, this.#running.length);
    if (!this.#device.grow(owner, count, reserve)) throw new Error(`no room for ${count} blocks`);
  }

  /** New requests while the host has room for them to be swapped to, else those who are there. */
  #refill(): void {
    while (this.#device.free > this.deviceFree * DEVICE_BLOCKS) {
      if (this.#host.free <= HOST_FREE * HOST_BLOCKS) {
        if (!this.#swapIn()) return;
        continue;
      }
      const owner = ++this.#owners;
      this.#goals.set(owner, 40 + this.#random.int(111));
      this.#grow(owner, 1 + this.#random.int(40));
      this.#running.push(owner);
    }
  }

  #swapOut(): void {
    const [owner] = this.#running.splice(this.#random.int(this.#running.length), 1) as [number];
    const table = this.#device.table(owner);
    if (!this.#host.grow(owner, table.length, 0)) throw new Error('the host is full');
    this.#out.add(table, this.#host.table(owner), this.#placed);
    this.#happened.update(`out ${owner} ${table.length};`);
    this.#device.release(owner);
    this.#swapped.push(owner);
  }

  /** One of them at random, unless there is no room for that one. */
  #swapIn(): boolean {
    const at = this.#random.int(this.#swapped.length);
    const owner = this.#swapped[at] as number;
    const table = this.#host.table(owner);
    if (table.length > this.#device.free) return false;
    this.#swapped.splice(at, 1);
    this.#grow(owner, table.length);
    this.#in.add(table, this.#device.table(owner), this.#placed);
    this.#happened.update(`in ${owner} ${table.length};`);
    this.#host.release(owner);
    this.#running.push(owner);
    return true;
  }
}

measureCost(SIZES[0] as number); // warm up
const costs = SIZES.map(measureCost);
const scenes = DEVICE_FREE.map((free) => CONTESTANTS.map((contestant) => new World(contestant, free).run(EVENTS)));
for (const scene of scenes) {
  if (new Set(scene.map(({ events }) => events)).size > 1) throw new Error('the allocators did not meet the same events');
}

if (process.argv.includes('--json')) {
  console.log(JSON.stringify({ costs, buckets: BUCKETS, scenes }));
} else {
  printCosts();
  for (const scene of scenes) printScene(scene);
}

function printCosts(): void {
  const kinds = Object.keys((costs[0] as Cost).nanos) as Kind[];
  console.log(`nanoseconds (and times those in the smallest memory), tables of ${MEAN_BLOCKS} blocks on average`);
  console.log(`${'blocks'.padStart(8)} ${'free runs'.padStart(9)} ${kinds.map((kind) => kind.padStart(21)).join('')}  hash`);
  for (const { blocks, nanos, freeRuns, hash } of costs) {
    const cells = kinds.map((kind) => {
      const times = nanos[kind] / (costs[0] as Cost).nanos[kind];
      return `${nanos[kind].toFixed(0)} (${times.toFixed(1)})`.padStart(21);
    });
    console.log(`${String(blocks).padStart(8)} ${String(freeRuns).padStart(9)} ${cells.join('')}  ${hash}`);
  }
}

/** A line for each allocator: mean runs, copies, and the share of the blocks that go in runs of such a length. */
function printScene(scene: (typeof scenes)[0]): void {
  const { out, deviceFull, hostFull, events } = scene[0] as (typeof scene)[0];
  const percent = (share: number) => (100 * share).toFixed(share > 0.1 ? 0 : 1);
  console.log(
    `\ndevice ${percent(deviceFull)} % full, host ${percent(hostFull)} %, ${out.transfers} swaps out of ` +
      `${out.meanBlocks.toFixed(0)} blocks, events ${events}`,
  );
  const ranges = BUCKETS.map((least, k) => {
    const next = BUCKETS[k + 1];
    return next === undefined ? `${least}+` : next === least + 1 ? `${least}` : `${least}-${next - 1}`;
  });
  const titles = ['run', 'of block', 'copies out', 'in', ...ranges.map((range) => `${range} %`)];
  const widths = [6, 10, 12, 7, ...ranges.map(() => 8)];
  const line = (name: string, cells: readonly string[], ...rest: readonly string[]) =>
    console.log(name.padEnd(21), cells.map((cell, k) => cell.padStart(widths[k] as number)).join(''), ...rest);
  line('', titles);
  for (const swap of scene) {
    const { meanRun, meanRunOfBlock, copiesPerTransfer, histogram } = swap.out;
    const means = [meanRun, meanRunOfBlock, copiesPerTransfer, swap.in.copiesPerTransfer].map((value) => value.toFixed(1));
    const bars = histogram.map((share) => ' ▁▂▃▄▅▆▇█'[Math.ceil(8 * share)]).join('');
    line(swap.name, [...means, ...histogram.map(percent)], ` |${bars}|`, swap.hash);
  }
}
