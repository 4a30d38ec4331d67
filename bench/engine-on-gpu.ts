/**
 * What a GPU's engine does on random weights: decoding by batch size, beside the bytes that a step reads; prompts by length, in
 * TFLOP/s; the same steps while swap threads copy all the while; and how long swapping a sequence out takes, at rest and
 * beside running steps. Part of `engine.ts`.
 */

import type { Choice } from '../src/native/device.js';
import {
  announceStep,
  createEngine,
  createStore,
  Direction,
  destroyEngine,
  destroyStore,
  engineInfo,
  readWeights,
} from '../src/native/index.js';
import { RESULT_RECORD } from '../src/native/plan.js';
import { createPools, type Pools } from '../src/native/pool.js';
import { randomSpec, SHAPES, type Shape } from '../src/native/shapes.js';
import { median } from './statistics.js';
import { fillContexts, HASH_START, hashOf, makeCase, type StepCase } from './steps.js';

export interface GpuSettings {
  readonly batchInvariant: boolean;
  readonly quick: boolean;
  readonly rounds: number;
  /** Tokens that each sequence has when it decodes. */
  readonly context: number;
  readonly swapThreads: number;
}

interface MeasuredStep {
  readonly name: string;
  readonly tokens: number;
  readonly bestMicros: number;
  readonly medianMicros: number;
  /** Median while copies run all the while. */
  readonly besideCopiesMicros: number;
  /** Weights and KV that the step reads, and at which rate in the best step. */
  readonly bytes: number;
  readonly gigabytesPerSecond: number;
  readonly teraflops: number;
}

interface MeasuredSwap {
  readonly blocks: number;
  readonly bytes: number;
  readonly idleMicros: number;
  readonly besideStepsMicros: number;
  readonly worstBesideStepsMicros: number;
}

export interface GpuReport {
  readonly device: string;
  readonly shape: string;
  readonly batchInvariant: boolean;
  readonly exact: boolean;
  readonly weightBytes: number;
  readonly blockBytes: number;
  readonly readGigabytesPerSecond: number;
  readonly steps: readonly MeasuredStep[];
  /** Of what was copied meanwhile, both ways together. */
  readonly copyGigabytesPerSecond: number;
  readonly swapOut: readonly MeasuredSwap[];
  readonly hash: string;
}

interface Bench {
  readonly shape: Shape;
  readonly engine: number;
  readonly store: number;
  readonly pools: Pools;
  readonly result: Int32Array;
  readonly blockBytes: number;
  /** Blocks that no sequence of a step has, for copies: the first, and how many. */
  readonly spare: readonly [first: number, count: number];
}

const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const PROMPTS = [128, 512, 2048];
const SPARE_BLOCKS = 64;

export async function measureOnGpu(
  name: keyof typeof SHAPES,
  { device, about }: Choice,
  settings: GpuSettings,
): Promise<GpuReport> {
  const shape: Shape = SHAPES[name];
  const { batchInvariant, quick, rounds, context, swapThreads } = settings;
  const batches = quick ? [1, 4] : BATCHES;
  const prompts = quick ? [32] : PROMPTS;
  const sequences = Math.max(...batches);
  const longest = Math.max(...prompts, context);
  const maxBatchTokens = Math.max(longest, sequences);
  const onGpu = { device, batchInvariant, graphs: true, threads: 1, quantize: 'none', kvDtype: 'bf16', isa: 'auto' } as const;
  const engine = createEngine(
    randomSpec({ ...shape, positions: longest }),
    { ...onGpu, maxBatchTokens, maxSequences: sequences },
    1,
  );
  const info = engineInfo(engine);
  const each = Math.ceil(context / 16);
  const used = Math.max(sequences * each, Math.ceil(longest / 16));
  const store = createStore(info.blockBytes, used + SPARE_BLOCKS, SPARE_BLOCKS, { device, batchCopies: true });
  const bench: Bench = {
    ...{ shape, engine, store, blockBytes: info.blockBytes, spare: [used, SPARE_BLOCKS] },
    pools: createPools({ swapThreads }),
    result: new Int32Array(new SharedArrayBuffer(4 * RESULT_RECORD * sequences)),
  };
  const cases = [
    ...prompts.map((length) => makeCase(`prompt ${length}`, shape, Math.ceil(length / 16), 1, length, length)),
    ...batches.map((batch) => makeCase(`decode ${batch}`, shape, each, batch, context, 1)),
  ];
  let hash = HASH_START;
  for (const one of cases.slice(0, prompts.length)) {
    await stepOnce(bench, one);
    hash = hashOf(hash, bench.result, 1);
  }
  const fills: Int32Array[] = [];
  fillContexts(shape, each, sequences, context, maxBatchTokens, (plan) => void fills.push(plan));
  for (const plan of fills) await bench.pools.step(engine, store, plan, bench.result);
  for (const one of cases.slice(prompts.length)) {
    await stepOnce(bench, one);
    hash = hashOf(hash, bench.result, one.sequences);
  }
  const reads: number[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const one of cases) one.micros.push(await stepOnce(bench, one));
    reads.push(readWeights(engine));
  }
  const beside = await besideCopies(bench, cases, Math.max(1, Math.ceil(rounds / 2)));
  const swapOut: MeasuredSwap[] = [];
  for (const blocks of [1, 16, SPARE_BLOCKS]) swapOut.push(await swapLatency(bench, cases.at(-1) as StepCase, blocks, rounds));
  await bench.pools.close();
  destroyEngine(engine);
  destroyStore(store);
  return {
    ...{ device: about, shape: name, batchInvariant, exact: info.exact },
    ...{ weightBytes: info.weightBytes, blockBytes: info.blockBytes },
    readGigabytesPerSecond: info.weightBytes / Math.min(...reads) / 1e3,
    steps: cases.map((one, index) => {
      const length = index < prompts.length ? one.tokens : context;
      return measured(one, beside.micros[index] as number, workOf(shape, info, one, length));
    }),
    copyGigabytesPerSecond: beside.gigabytesPerSecond,
    swapOut,
    hash: hash.toString(16).padStart(8, '0'),
  };
}

/** As the server does it: the store hears of the step, then it is posted. */
function stepOnce({ pools, engine, store, result }: Bench, one: StepCase): Promise<number> {
  announceStep(store);
  return pools.step(engine, store, one.plan, result);
}

/** Median of each case while all swap threads copy; and what they copied. */
async function besideCopies(
  bench: Bench,
  cases: readonly StepCase[],
  rounds: number,
): Promise<{ readonly micros: number[]; readonly gigabytesPerSecond: number }> {
  let copying = true;
  let bytes = 0;
  const copyAll = async (way: Direction): Promise<void> => {
    while (copying) {
      const half = bench.spare[1] / 2;
      // Out of one half of the spare blocks and into the other, so that the two do not touch the same.
      const [first, host] = way === Direction.deviceToHost ? [bench.spare[0], 0] : [bench.spare[0] + half, half];
      await copySpare(bench, way, first, host, half);
      bytes += half * bench.blockBytes;
    }
  };
  const start = performance.now();
  const copies = [copyAll(Direction.deviceToHost), copyAll(Direction.hostToDevice)];
  const micros: number[][] = cases.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [index, one] of cases.entries()) micros[index]?.push(await stepOnce(bench, one));
  }
  copying = false;
  await Promise.all(copies);
  return { micros: micros.map(median), gigabytesPerSecond: bytes / (performance.now() - start) / 1e6 };
}

function copySpare({ pools, store }: Bench, way: Direction, device: number, host: number, blocks: number): Promise<number> {
  const run = new Int32Array(new SharedArrayBuffer(12));
  run.set(way === Direction.deviceToHost ? [device, host, blocks] : [host, device, blocks]);
  return pools.copy(store, way, run);
}

/** From the call to its answer, with nothing else to do and with steps running all the while. */
async function swapLatency(bench: Bench, running: StepCase, blocks: number, rounds: number): Promise<MeasuredSwap> {
  const out = async (): Promise<number> => {
    const start = performance.now();
    await copySpare(bench, Direction.deviceToHost, bench.spare[0], 0, blocks);
    return (performance.now() - start) * 1e3;
  };
  const idle: number[] = [];
  for (let round = 0; round < rounds; round++) idle.push(await out());
  let stepping = true;
  const steps = (async () => {
    while (stepping) await stepOnce(bench, running);
  })();
  const beside: number[] = [];
  for (let round = 0; round < rounds; round++) beside.push(await out());
  stepping = false;
  await steps;
  return {
    blocks,
    bytes: blocks * bench.blockBytes,
    idleMicros: median(idle),
    besideStepsMicros: median(beside),
    worstBesideStepsMicros: Math.max(...beside),
  };
}

interface Work {
  readonly bytes: number;
  readonly operations: number;
}

/** What a step has to read, and to add and multiply: matrices, and the attention of each token over those before it. */
function workOf(shape: Shape, info: { weightBytes: number; headBytes: number }, one: StepCase, length: number): Work {
  const count = one.tokens / one.sequences;
  const seen = one.sequences * (count * (length - count) + (count * (count + 1)) / 2);
  const kvBytesOfToken = 2 * 2 * shape.layers * shape.kvHeads * shape.headDim;
  return {
    bytes: info.weightBytes + one.sequences * length * kvBytesOfToken,
    // A weight of 2 bytes is multiplied and added once for each token; the head for sampled ones only.
    operations:
      (info.weightBytes - info.headBytes) * one.tokens +
      info.headBytes * one.sequences +
      4 * seen * shape.layers * shape.heads * shape.headDim,
  };
}

function measured(one: StepCase, besideCopiesMicros: number, { bytes, operations }: Work): MeasuredStep {
  const bestMicros = Math.min(...one.micros);
  return {
    ...{ name: one.name, tokens: one.tokens, bestMicros, medianMicros: median(one.micros), besideCopiesMicros },
    bytes,
    gigabytesPerSecond: bytes / bestMicros / 1e3,
    teraflops: operations / bestMicros / 1e6,
  };
}

export function printOnGpu(report: GpuReport): void {
  const millis = (micros: number) => (micros / 1e3).toFixed(3).padStart(9);
  console.log(
    `${report.shape} bf16 on ${report.device}${report.batchInvariant ? ', batch-invariant' : ''}: ` +
      `${(report.weightBytes / 1e9).toFixed(2)} GB of weights, read at ${report.readGigabytesPerSecond.toFixed(0)} GB/s`,
  );
  console.log(
    `  ${'step'.padEnd(12)} ${'best ms'.padStart(9)} ${'median'.padStart(9)} ${'copying'.padStart(9)}   tokens/s      GB/s   TFLOP/s`,
  );
  for (const one of report.steps) {
    console.log(
      `  ${one.name.padEnd(12)} ${millis(one.bestMicros)} ${millis(one.medianMicros)} ${millis(one.besideCopiesMicros)} ` +
        `${((one.tokens / one.bestMicros) * 1e6).toFixed(0).padStart(10)} ${one.gigabytesPerSecond.toFixed(0).padStart(9)} ${one.teraflops.toFixed(1).padStart(9)}`,
    );
  }
  console.log(`  "copying": the median while ${report.copyGigabytesPerSecond.toFixed(1)} GB/s were copied, both ways together`);
  for (const { blocks, bytes, idleMicros, besideStepsMicros, worstBesideStepsMicros } of report.swapOut) {
    console.log(
      `  swap out of ${String(blocks).padStart(3)} blocks (${(bytes / 2 ** 20).toFixed(1)} MiB): ${millis(idleMicros)} ms at rest, ` +
        `${millis(besideStepsMicros)} beside decode, at worst ${millis(worstBesideStepsMicros)}`,
    );
  }
  console.log(`  hash ${report.hash}`);
}
