/**
 * Tokens a second of the engine on random weights: decoding by batch size and prompts by length, each beside the
 * bound that memory sets (the time to only read the weights, measured between the steps of the same run).
 *
 *   node dist/bench/engine.js [--quick] [--json] [--shape smol|qwen05] [--quantize none|q8] [--kv bf16|f32]
 *                             [--isa auto|avx512|avx2|portable] [--threads n] [--rounds n] [--context n]
 *   node dist/bench/engine.js --device cuda|cuda:N [--quick] [--json] [--shape smol|qwen05|llama8b] [--batch-invariant] [--rounds n]
 *                             [--context n]
 *
 * On a GPU also: steps while copies run all the while, and how long a swap takes (`engine-on-gpu.ts`). Exit code 2 without one.
 * Machines share memory bandwidth with neighbours, so all cases take turns and the best and the median are reported.
 */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { createEngine, createStore, destroyEngine, destroyStore, engineInfo, readWeights, step } from '../src/native/index.js';
import { RESULT_RECORD } from '../src/native/plan.js';
import { randomSpec, SHAPES, type Shape } from '../src/native/shapes.js';
import type { EngineOptions } from '../src/native/spec.js';
import { measureOnGpu, printOnGpu } from './engine-on-gpu.js';
import { deviceOf, shapeName } from './on-device.js';
import { median } from './statistics.js';
import { fillContexts, HASH_START, hashOf, makeCase } from './steps.js';

interface Settings {
  readonly threads: number;
  readonly kvDtype: EngineOptions['kvDtype'];
  readonly isa: EngineOptions['isa'];
  readonly rounds: number;
  /** Tokens that each sequence has when it decodes. */
  readonly context: number;
  readonly batches: readonly number[];
  readonly prompts: readonly number[];
}

interface Measured {
  readonly name: string;
  readonly tokens: number;
  readonly bestMicros: number;
  readonly medianMicros: number;
  /** Of the best step. */
  readonly tokensPerSecond: number;
  /** Best time to only read the weights, as a share of the best step. */
  readonly boundShare: number;
}

interface Report {
  readonly shape: string;
  readonly quantize: string;
  readonly isa: string;
  readonly threads: number;
  readonly kvDtype: string;
  readonly weightBytes: number;
  readonly readGigabytesPerSecond: number;
  readonly cases: Measured[];
  readonly hash: string;
}

function measure(name: keyof typeof SHAPES, quantize: EngineOptions['quantize'], settings: Settings): Report {
  const shape: Shape = SHAPES[name];
  const { threads, kvDtype, isa, batches, prompts, context } = settings;
  const sequences = Math.max(...batches);
  const longest = Math.max(...prompts, context);
  const maxBatchTokens = Math.max(longest, sequences);
  const onCpu = { device: -1, batchInvariant: true, graphs: true };
  const options = { ...onCpu, threads, quantize, kvDtype, isa, maxBatchTokens, maxSequences: sequences };
  const engine = createEngine(randomSpec({ ...shape, positions: longest }), options, 1);
  const info = engineInfo(engine);
  const blocks = Math.ceil(longest / 16);
  const store = createStore(info.blockBytes, sequences * blocks, 0);
  const result = new Int32Array(new SharedArrayBuffer(4 * RESULT_RECORD * sequences));
  const cases = [
    ...batches.map((batch) => makeCase(`decode ${batch}`, shape, blocks, batch, context, 1)),
    ...prompts.map((length) => makeCase(`prompt ${length}`, shape, blocks, 1, length, length)),
  ];
  fillContexts(shape, blocks, sequences, context, maxBatchTokens, (plan) => void step(engine, store, plan, result));
  let hash = HASH_START;
  const reads: number[] = [];
  for (let round = 0; round <= settings.rounds; round++) {
    for (const one of cases) {
      const micros = step(engine, store, one.plan, result);
      reads.push(readWeights(engine));
      if (round > 0) one.micros.push(micros);
      else hash = hashOf(hash, result, one.sequences);
    }
  }
  destroyEngine(engine);
  destroyStore(store);
  const bestRead = Math.min(...reads);
  return {
    shape: name,
    quantize,
    isa: info.isa,
    threads,
    kvDtype,
    weightBytes: info.weightBytes,
    readGigabytesPerSecond: info.weightBytes / bestRead / 1e3,
    cases: cases.map((one): Measured => {
      const bestMicros = Math.min(...one.micros);
      return {
        name: one.name,
        tokens: one.tokens,
        bestMicros,
        medianMicros: median(one.micros),
        tokensPerSecond: (one.tokens / bestMicros) * 1e6,
        boundShare: bestRead / bestMicros,
      };
    }),
    hash: hash.toString(16).padStart(8, '0'),
  };
}

function print(report: Report): void {
  const { shape, quantize, isa, threads, kvDtype, weightBytes, readGigabytesPerSecond } = report;
  console.log(
    `${shape} ${quantize === 'none' ? 'bf16' : quantize}, ${isa}, ${threads} threads, ${kvDtype} KV: ${(weightBytes / 1e6).toFixed(0)} MB of weights, read at ${readGigabytesPerSecond.toFixed(1)} GB/s`,
  );
  for (const one of report.cases) {
    console.log(
      `  ${one.name.padEnd(11)} ${one.tokensPerSecond.toFixed(1).padStart(8)} tokens/s at best, ${((one.tokens / one.medianMicros) * 1e6).toFixed(1).padStart(8)} in the median; ` +
        `step ${(one.bestMicros / 1e3).toFixed(2)} ms, ${(100 * one.boundShare).toFixed(0)} % of it reading weights`,
    );
  }
  console.log(`  hash ${report.hash}`);
}

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    shape: { type: 'string', multiple: true },
    quantize: { type: 'string', multiple: true },
    kv: { type: 'string', default: 'bf16' },
    isa: { type: 'string', default: 'auto' },
    threads: { type: 'string', default: String(availableParallelism()) },
    rounds: { type: 'string' },
    context: { type: 'string', default: '128' },
    device: { type: 'string', default: 'cpu' },
    'batch-invariant': { type: 'boolean', default: false },
  },
});
const choice = deviceOf(flags.device);

async function onGpu(): Promise<void> {
  const shapes = (flags.shape ?? [flags.quick ? 'smol' : 'llama8b']).map(shapeName);
  const reports = [];
  for (const shape of shapes) {
    reports.push(
      await measureOnGpu(shape, choice, {
        batchInvariant: flags['batch-invariant'],
        quick: flags.quick,
        rounds: Number(flags.rounds ?? (flags.quick ? 1 : 12)),
        context: flags.quick ? 32 : Number(flags.context),
        swapThreads: flags.quick ? 1 : 2,
      }),
    );
  }
  if (flags.json) console.log(JSON.stringify(reports));
  else for (const report of reports) printOnGpu(report);
}

function onCpu(): void {
  const settings: Settings = {
    threads: Number(flags.threads),
    kvDtype: flags.kv as Settings['kvDtype'],
    isa: flags.isa as Settings['isa'],
    rounds: Number(flags.rounds ?? (flags.quick ? 1 : 12)),
    context: flags.quick ? 32 : Number(flags.context),
    batches: flags.quick ? [1, 4] : [1, 8, 16, 32],
    prompts: flags.quick ? [32] : [128, 512],
  };
  const shapes = (flags.shape ?? (flags.quick ? ['smol'] : ['smol', 'qwen05'])).map(shapeName);
  const kinds = (flags.quantize ?? ['none', 'q8']) as EngineOptions['quantize'][];
  const reports = shapes.flatMap((shape) => kinds.map((quantize) => measure(shape, quantize, settings)));
  if (flags.json) console.log(JSON.stringify(reports));
  else for (const report of reports) print(report);
}

if (choice.device < 0) onCpu();
else await onGpu();
