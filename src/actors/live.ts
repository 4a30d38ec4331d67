/**
 * Hands 1: the native engine, the swap pool and the real clock. Keeps the token ids of open requests (the core knows
 * lengths only) and turns a step into one flat plan, its result into one event.
 */
import { randomBytes } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { BLOCK_TOKENS, type Config, onlyCpu, presetOf } from '../core/config.js';
import type { Mechanism, ParsedPreset } from '../core/presets.js';
import type { Limits } from '../core/state.js';
import type { BlockName, Content, RequestId, Run, SteppedItem } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import { deviceNumber } from '../native/device.js';
import { encodeStep, resultOf, type SequenceContent, stepWords } from '../native/encode.js';
import {
  announceStep,
  createEngine,
  createStore,
  Direction,
  destroyEngine,
  destroyStore,
  devices,
  engineInfo,
} from '../native/index.js';
import { type LoadedModel, loadModel } from '../native/model.js';
import { BlockNames } from '../native/names.js';
import { RESULT_RECORD } from '../native/plan.js';
import { createPools, type Pools } from '../native/pool.js';
import { type Chunk, Link } from './link.js';
import type { Answer, EnginePort, Hands, StepEffect } from './ports.js';
import type { SystemInfo } from './system.js';

/** The engine and both memories, opened as the config says; `makeHands` is called once. */
export interface Live {
  readonly info: SystemInfo;
  /** Name of its folder, and what tells its files from others. */
  readonly model: { readonly name: string; readonly fingerprint: string; readonly layers: number };
  readonly limits: Limits;
  readonly makeHands: (answer: Answer) => Hands;
}

/** Loads the model and allocates both memories. Throws FastswitchError `bad_model`, `bad_config`, `native_missing`. */
export function openLive(config: Config): Live {
  const preset = livePreset(config);
  const model = loadModel(config.model, { maxContext: config.maxContext, load: config.load });
  const device = deviceNumber(config.device, onlyCpu(config));
  const kvDtype = config.kvDtype === 'auto' ? (device < 0 && model.dtype === 'f32' ? 'f32' : 'bf16') : config.kvDtype;
  const engine = createEngine(model.spec, {
    device,
    batchInvariant: config.batchInvariant,
    graphs: true,
    threads: config.threads === 0 ? availableParallelism() : config.threads,
    quantize: config.quantize,
    kvDtype,
    isa: config.isa,
    maxBatchTokens: config.maxBatchTokens,
    maxSequences: config.maxRunning,
  });
  try {
    return openStore(config, preset, model, { engine, device });
  } catch (error) {
    destroyEngine(engine); // its threads would outlive this one
    throw error;
  }
}

/** The switches and the policy of this run. Throws `bad_config` for what only the simulation has. */
function livePreset(config: Config): ParsedPreset {
  const preset = presetOf(config);
  const { copying } = preset.mechanism;
  if (copying === 'direct') return preset;
  const how = copying === 'staged' ? 'staged' : 'layer-by-layer';
  throw new FastswitchError(
    'bad_config',
    `only "fastswitch simulate" knows preset ${preset.name}: its ${how} copies are a cost term; ` +
      'add +copying=direct to serve with the rest of it',
  );
}

/** Numbers of the native engine and of its device. */
interface Opened {
  readonly engine: number;
  readonly device: number;
}

/** Both memories, sized in blocks of the engine. */
function openStore(config: Config, { mechanism, policy }: ParsedPreset, model: LoadedModel, opened: Opened): Live {
  const { engine, device } = opened;
  const blockBytes = engineInfo(engine).blockBytes;
  const piecesPerRun = mechanism.crossLayer ? 1 : 2 * model.spec.layers;
  if (blockBytes % piecesPerRun !== 0) {
    throw new FastswitchError(
      'bad_config',
      `a block of ${blockBytes} bytes cannot be cut into ${piecesPerRun} equal pieces; choose a preset with crossLayer`,
    );
  }
  const deviceBlocks = Math.floor(config.deviceKvBytes / blockBytes);
  const hostBlocks = Math.floor(config.hostKvBytes / blockBytes);
  if (deviceBlocks < 2) {
    throw new FastswitchError(
      'bad_config',
      `--device-kv ${config.deviceKvBytes} holds ${deviceBlocks} blocks of ${blockBytes} bytes; give at least ${2 * blockBytes} bytes`,
    );
  }
  const store = reserve(config, device, blockBytes, deviceBlocks, hostBlocks);
  const info: SystemInfo = {
    contextTokensMax: Math.min(model.spec.positions, deviceBlocks * BLOCK_TOKENS),
    vocabularySize: model.spec.vocabulary,
    blockTokens: BLOCK_TOKENS,
    blockBytes,
    deviceBlocks,
    hostBlocks,
  };
  const { maxBatchTokens, maxRunning, maxQueued } = config;
  const destroy = () => {
    destroyEngine(engine);
    destroyStore(store);
  };
  return {
    info,
    model: { name: model.name, fingerprint: model.fingerprint, layers: model.spec.layers },
    limits: { policy, mechanism, deviceBlocks, hostBlocks, blockBytes, maxBatchTokens, maxRunning, maxQueued },
    makeHands: (answer) => {
      const pools = createPools({ swapThreads: config.swapThreads });
      return liveHands(
        { pools, engine, store, announced: device >= 0, mechanism, blockBytes, piecesPerRun, maxRunning, destroy },
        answer,
      );
    },
  };
}

/** A GPU's memory is taken at once, so that what does not fit is known here. */
function reserve(config: Config, device: number, blockBytes: number, deviceBlocks: number, hostBlocks: number): number {
  try {
    return createStore(blockBytes, deviceBlocks, hostBlocks, { device, batchCopies: true });
  } catch (error) {
    const gpu = device < 0 ? undefined : devices().devices[device];
    if (gpu === undefined) throw error;
    throw new FastswitchError(
      'bad_config',
      `--device-kv ${config.deviceKvBytes} and --host-kv ${config.hostKvBytes} cannot be had: ${(error as Error).message}; ` +
        `with the weights in it, cuda:${device} (${gpu.name}) has ${gpu.freeBytes} of ${gpu.totalBytes} bytes free, ` +
        'and what is for the host has to fit its memory and the limit of locked memory',
    );
  }
}

interface LiveOptions {
  readonly pools: Pools;
  /** Numbers of the native engine and store. */
  readonly engine: number;
  readonly store: number;
  /** Copies on their way let a step go first, if they know of it. */
  readonly announced: boolean;
  readonly mechanism: Mechanism;
  readonly blockBytes: number;
  /** Equal copies that a run takes: 1, or one for each layer's K and V. */
  readonly piecesPerRun: number;
  readonly maxRunning: number;
  /** Called last by `close`, when nothing runs any more. */
  readonly destroy: () => void;
}

/** A step of the largest model takes seconds. */
const SILENCE_MILLIS_MAX = 600_000;

function liveHands(options: LiveOptions, answer: Answer): Hands {
  const zero = process.hrtime.bigint();
  const inFlight = new Map<Promise<void>, number>();
  // Answers exactly once, after the call has returned: a promise settles later by its nature.
  const track = (work: Promise<void>) => {
    inFlight.set(work, performance.now());
    void work.finally(() => inFlight.delete(work));
  };
  const watch = setInterval(() => {
    for (const started of inFlight.values()) {
      // Its memory could never be used again: an error nobody catches ends this thread, and the face ends all requests.
      if (performance.now() - started > SILENCE_MILLIS_MAX) throw new Error('a native call does not return');
    }
  }, SILENCE_MILLIS_MAX / 10);
  watch.unref();
  const link = liveLink(options, answer, track);
  return {
    engine: liveEngine(options, answer, track),
    transfers: link,
    clock: { now: () => Number((process.hrtime.bigint() - zero) / 1000n) },
    async close() {
      link.close();
      await Promise.all(inFlight.keys());
      clearInterval(watch);
      await options.pools.close();
      options.destroy();
    },
  };
}

type Track = (work: Promise<void>) => void;

/**
 * The failure of one call, after which others may work. A GPU that is lost fails every one: thrown where nobody catches it,
 * that ends this thread, and the face ends all requests instead of failing them one by one for ever.
 */
function survived(error: Error): Error {
  if (error instanceof FastswitchError && error.code === 'device_lost') throw error;
  return error;
}

/** One task and one native call for each chunk. */
function liveLink(options: LiveOptions, answer: Answer, track: Track): Link {
  const { pools, store, mechanism, blockBytes, piecesPerRun } = options;
  const copy = ({ direction, runs }: Chunk): Promise<number> => {
    const way = direction === 'out' ? Direction.deviceToHost : Direction.hostToDevice;
    if (piecesPerRun === 1) return pools.copy(store, way, flatRuns(runs));
    return pools.copyPieces(store, way, flatPieces(runs, blockBytes, piecesPerRun));
  };
  return new Link({
    duplex: mechanism.duplex,
    blockBytes,
    perform: (chunk, done) => track(copy(chunk).then(done, (error: Error) => done(survived(error)))),
    answer,
    gather: queueMicrotask,
  });
}

/** [from, to, blocks] for each run, in memory that a worker can read without a copy. */
function flatRuns(runs: readonly Run[]): Int32Array {
  const flat = new Int32Array(new SharedArrayBuffer(12 * runs.length));
  for (const [index, run] of runs.entries()) flat.set([run.from, run.to, run.blocks], 3 * index);
  return flat;
}

/**
 * [from byte, to byte, bytes] for each layer's K and V of each run: as many copies, and as long, as a layout by layers
 * takes. Ours is another, but equal pieces in order move the same bytes.
 */
function flatPieces(runs: readonly Run[], blockBytes: number, piecesPerRun: number): Float64Array {
  const flat = new Float64Array(new SharedArrayBuffer(24 * runs.length * piecesPerRun));
  let at = 0;
  for (const run of runs) {
    const pieceBytes = (run.blocks * blockBytes) / piecesPerRun;
    for (let piece = 0; piece < piecesPerRun; piece++) {
      flat[at] = run.from * blockBytes + piece * pieceBytes;
      flat[at + 1] = run.to * blockBytes + piece * pieceBytes;
      flat[at + 2] = pieceBytes;
      at += 3;
    }
  }
  return flat;
}

function liveEngine({ pools, engine, store, announced, maxRunning }: LiveOptions, answer: Answer, track: Track): EnginePort {
  const open = new Map<RequestId, Sequence>();
  const salt = randomBytes(32).toString('hex');
  const result = new Int32Array(new SharedArrayBuffer(4 * RESULT_RECORD * maxRunning));
  let plan = new Int32Array(new SharedArrayBuffer(1 << 16));
  const contentOf = (id: RequestId) => {
    const content = open.get(id);
    if (content === undefined) throw new Error(`step for request ${id}, which is not open`);
    return content;
  };
  const read = (effect: StepEffect): SteppedItem[] =>
    effect.items.map(({ id, count }, index) => {
      const { token, logprobs } = resultOf(result, index);
      const content = contentOf(id);
      const name = token >= 0 ? content.append(token) : null;
      return { id, count, token, ended: token >= 0 && content.stops.has(token), logprobs, name };
    });
  return {
    open(id, content) {
      // Names leave the process in journals. Without what only this process knows, whoever reads one could guess a prompt and
      // see whether he is right.
      const names = new BlockNames(salt + content.cacheSalt, BLOCK_TOKENS);
      open.set(id, sequenceOf(content, names));
      return names.extend(content.promptTokens);
    },
    close: (id) => void open.delete(id),
    step(effect: StepEffect) {
      const words = stepWords(effect.items, contentOf);
      if (plan.length < words) plan = new Int32Array(new SharedArrayBuffer(8 * words));
      encodeStep(plan, effect.items, contentOf);
      if (announced) announceStep(store);
      track(
        pools.step(engine, store, plan, result).then(
          (micros) => answer({ type: 'stepped', step: effect.step, micros, items: read(effect) }),
          (error: Error) => answer({ type: 'stepFailed', step: effect.step, error: survived(error).message }),
        ),
      );
    },
  };
}

interface Sequence extends SequenceContent {
  /** Answers the name of the block that the token completes, else null. */
  append(token: number): BlockName | null;
}

/** The token ids of one request, growing as it generates, and the chain of their names. */
function sequenceOf(content: Content, names: BlockNames): Sequence {
  let tokens = new Int32Array(content.promptTokens.length + 64);
  tokens.set(content.promptTokens);
  let length = content.promptTokens.length;
  return {
    sampling: content.sampling,
    promptTokens: length,
    stops: new Set(content.stopTokens),
    append(token: number) {
      if (length === tokens.length) {
        const larger = new Int32Array(2 * length);
        larger.set(tokens);
        tokens = larger;
      }
      tokens[length] = token;
      length += 1;
      return names.append(token);
    },
    tokens: () => tokens.subarray(0, length),
  };
}
