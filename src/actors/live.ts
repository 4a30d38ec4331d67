/**
 * Hands 1: the native engine, the swap pool and the real clock. Keeps the token ids of open requests (the core knows
 * lengths only) and turns a step into one flat plan, its result into one event.
 */
import { availableParallelism } from 'node:os';
import { BLOCK_TOKENS, type Config } from '../core/config.js';
import type { Limits } from '../core/state.js';
import type { Content, RequestId, Run, SteppedItem } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import { encodeStep, resultOf, type SequenceContent, stepWords } from '../native/encode.js';
import { createEngine, createStore, Direction, destroyEngine, destroyStore, engineInfo } from '../native/index.js';
import { type LoadedModel, loadModel } from '../native/model.js';
import { RESULT_RECORD } from '../native/plan.js';
import { createPools, type Pools } from '../native/pool.js';
import type { Answer, EnginePort, Hands, StepEffect, SwapEffect, TransfersPort } from './ports.js';
import type { SystemInfo } from './system.js';

/** The engine and both memories, opened as the config says; `makeHands` is called once. */
export interface Live {
  readonly info: SystemInfo;
  readonly limits: Limits;
  readonly makeHands: (answer: Answer) => Hands;
}

/** Loads the model and allocates both memories. Throws FastswitchError `bad_model`, `bad_config`, `native_missing`. */
export function openLive(config: Config): Live {
  const model = loadModel(config.model, { maxContext: config.maxContext });
  const kvDtype = config.kvDtype === 'auto' ? (model.dtype === 'f32' ? 'f32' : 'bf16') : config.kvDtype;
  const engine = createEngine(model.spec, {
    threads: config.threads === 0 ? availableParallelism() : config.threads,
    quantize: config.quantize,
    kvDtype,
    isa: config.isa,
    maxBatchTokens: config.maxBatchTokens,
    maxSequences: config.maxRunning,
  });
  try {
    return openStore(config, model, engine);
  } catch (error) {
    destroyEngine(engine); // its threads would outlive this one
    throw error;
  }
}

/** Both memories, sized in blocks of the engine. */
function openStore(config: Config, model: LoadedModel, engine: number): Live {
  const blockBytes = engineInfo(engine).blockBytes;
  const deviceBlocks = Math.floor(config.deviceKvBytes / blockBytes);
  const hostBlocks = Math.floor(config.hostKvBytes / blockBytes);
  if (deviceBlocks < 2) {
    throw new FastswitchError(
      'bad_config',
      `--device-kv ${config.deviceKvBytes} holds ${deviceBlocks} blocks of ${blockBytes} bytes; give at least ${2 * blockBytes} bytes`,
    );
  }
  const store = createStore(blockBytes, deviceBlocks, hostBlocks);
  const info: SystemInfo = {
    contextTokensMax: Math.min(model.spec.positions, deviceBlocks * BLOCK_TOKENS),
    vocabularySize: model.spec.vocabulary,
    blockTokens: BLOCK_TOKENS,
    blockBytes,
    deviceBlocks,
    hostBlocks,
  };
  const { policy, maxBatchTokens, maxRunning, maxQueued } = config;
  const destroy = () => {
    destroyEngine(engine);
    destroyStore(store);
  };
  return {
    info,
    limits: { policy, deviceBlocks, hostBlocks, maxBatchTokens, maxRunning, maxQueued },
    makeHands: (answer) => {
      const pools = createPools({ swapThreads: config.swapThreads });
      return liveHands({ pools, engine, store, maxRunning, destroy }, answer);
    },
  };
}

interface LiveOptions {
  readonly pools: Pools;
  /** Numbers of the native engine and store. */
  readonly engine: number;
  readonly store: number;
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
  return {
    engine: liveEngine(options, answer, track),
    transfers: liveTransfers(options, answer, track),
    clock: { now: () => Number((process.hrtime.bigint() - zero) / 1000n) },
    async close() {
      await Promise.all(inFlight.keys());
      clearInterval(watch);
      await options.pools.close();
      options.destroy();
    },
  };
}

type Track = (work: Promise<void>) => void;

function liveTransfers({ pools, store }: LiveOptions, answer: Answer, track: Track): TransfersPort {
  return {
    start({ type, transfer, runs }: SwapEffect) {
      const direction = type === 'swapOut' ? Direction.deviceToHost : Direction.hostToDevice;
      track(
        pools.copy(store, direction, flatRuns(runs)).then(
          (micros) => answer({ type: 'landed', transfer, micros }),
          (error: Error) => answer({ type: 'transferFailed', transfer, error: error.message }),
        ),
      );
    },
  };
}

/** [from, to, blocks] for each run, in memory that a worker can read without a copy. */
function flatRuns(runs: readonly Run[]): Int32Array {
  const flat = new Int32Array(new SharedArrayBuffer(12 * runs.length));
  for (const [index, run] of runs.entries()) flat.set([run.from, run.to, run.blocks], 3 * index);
  return flat;
}

function liveEngine({ pools, engine, store, maxRunning }: LiveOptions, answer: Answer, track: Track): EnginePort {
  const open = new Map<RequestId, SequenceContent>();
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
      if (token >= 0) content.append(token);
      return { id, count, token, ended: token >= 0 && content.stops.has(token), logprobs };
    });
  return {
    open: (id, content) => void open.set(id, sequenceOf(content)),
    close: (id) => void open.delete(id),
    step(effect: StepEffect) {
      const words = stepWords(effect.items, contentOf);
      if (plan.length < words) plan = new Int32Array(new SharedArrayBuffer(8 * words));
      encodeStep(plan, effect.items, contentOf);
      track(
        pools.step(engine, store, plan, result).then(
          (micros) => answer({ type: 'stepped', step: effect.step, micros, items: read(effect) }),
          (error: Error) => answer({ type: 'stepFailed', step: effect.step, error: error.message }),
        ),
      );
    },
  };
}

/** The token ids of one request, growing as it generates. */
function sequenceOf(content: Content): SequenceContent {
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
    },
    tokens: () => tokens.subarray(0, length),
  };
}
