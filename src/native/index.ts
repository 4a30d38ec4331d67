/**
 * The native addon as typed functions, in the order of kvstore.h and engine.h: the only file that loads it. TypeScript
 * validates what users give, C++ asserts; a negative status becomes a `FastswitchError`. Stores and engines are
 * process-wide and named by numbers, so that every thread may use them.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FastswitchError } from '../errors.js';
import type { EngineOptions, EngineSpec } from './spec.js';

/** Which way a copy goes. Runs count blocks of the source's and the target's memory. */
export const Direction = { deviceToHost: 0, hostToDevice: 1, deviceToDevice: 2 } as const;
export type Direction = (typeof Direction)[keyof typeof Direction];

export const Memory = { device: 0, host: 1 } as const;
export type Memory = (typeof Memory)[keyof typeof Memory];

/** Kernels of the CPU. */
export type Isa = 'avx512' | 'avx2' | 'portable';

export interface EngineInfo {
  /** Of the CPU, or that it is a GPU. */
  readonly isa: Isa | 'cuda';
  /** Bytes of one KV block: 16 tokens of all layers. A store for this engine has blocks of this size. */
  readonly blockBytes: number;
  /** Bytes of the packed matrices, all of which a step with sampling reads at least once. */
  readonly weightBytes: number;
  /** Of these, the vocabulary head. */
  readonly headBytes: number;
  /** Tokens are the same bits in any batch, cut and order. */
  readonly exact: boolean;
}

export interface StoreOptions {
  /** -1: the CPU, whose "device memory" is memory of the machine; else the number of a GPU. */
  readonly device: number;
  /** On a GPU: one call for a whole list of copies where the driver has it; else one call a copy. */
  readonly batchCopies: boolean;
}

/** A GPU as its driver describes it. */
export interface DeviceFacts {
  readonly ordinal: number;
  readonly name: string;
  /** As in "9.0". */
  readonly computeCapability: string;
  readonly multiprocessors: number;
  readonly copyEngines: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** As in "0000:65:00.0". */
  readonly pciBusId: string;
  /** Why it cannot be used; '': it can. */
  readonly problem: string;
}

export interface Devices {
  /** 13000 for 13.0; 0: no driver. */
  readonly driverVersion: number;
  /** Why there is nothing, or what is missing beside the devices; '': nothing is. */
  readonly problem: string;
  /** This build has kernels for GPUs. */
  readonly kernels: boolean;
  /** The driver takes a whole list of copies in one call. */
  readonly batchCopies: boolean;
  /** Where the library of matrix products was found; '': products run by our own kernel. */
  readonly cublasLt: string;
  readonly devices: readonly DeviceFacts[];
}

interface Native {
  createStore(blockBytes: number, deviceBlocks: number, hostBlocks: number, options: StoreOptions): number;
  destroyStore(store: number): number;
  copyRuns(store: number, direction: Direction, runs: Int32Array): number;
  copyBytes(store: number, direction: Direction, pieces: Float64Array): number;
  readStore(store: number, memory: Memory, offset: number, target: Uint8Array): number;
  writeStore(store: number, memory: Memory, offset: number, source: Uint8Array): number;
  announceStep(store: number): number;
  createEngine(spec: EngineSpec, options: EngineOptions, seed: number): number;
  destroyEngine(engine: number): number;
  engineInfo(engine: number): EngineInfo | number;
  readWeights(engine: number): number;
  step(engine: number, store: number, plan: Int32Array, result: Int32Array, logits?: Float32Array): number;
  isas(): Isa[];
  devices(): Devices;
  lastMessage(): string;
}

const BAD_MODEL = -5;
const DEVICE_LOST = -9;

/** The error for a negative status; also for statuses that come back from workers. */
export function statusError(status: number, message: string): FastswitchError {
  const code = status === BAD_MODEL ? 'bad_model' : status === DEVICE_LOST ? 'device_lost' : 'native_failed';
  return new FastswitchError(code, message);
}

/** This package's folder, from sources and from compiled files alike. */
export function packageRoot(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; folder !== dirname(folder); folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { name?: string }).name === 'fastswitch') return folder;
  }
  return start;
}

/** Where the compiled addon lies, for workers that load it themselves. */
export const addonPath = join(packageRoot(), 'src', 'native', 'build', 'Release', 'fastswitch.node');

let loaded: Native | null = null;

function native(): Native {
  if (loaded !== null) return loaded;
  try {
    loaded = createRequire(import.meta.url)(addonPath) as Native;
  } catch (error) {
    const reason = existsSync(addonPath) ? `cannot be loaded (${(error as Error).message})` : 'is not built';
    throw new FastswitchError('native_missing', `the native addon ${reason}; run: npm run build:native`);
  }
  return loaded;
}

function checked(status: number): number {
  if (status < 0) throw statusError(status, native().lastMessage());
  return status;
}

const ON_CPU: StoreOptions = { device: -1, batchCopies: true };

/**
 * Reserves device and host memory for KV blocks of `blockBytes` (a multiple of 64; see `EngineInfo`). On the CPU pages are
 * backed when first touched; a GPU's memory is taken and its host memory pinned at once. Answers the number of the store.
 */
export function createStore(blockBytes: number, deviceBlocks: number, hostBlocks: number, options = ON_CPU): number {
  return checked(native().createStore(blockBytes, deviceBlocks, hostBlocks, options));
}

/** The memory goes when the last call that uses it has returned. */
export function destroyStore(store: number): void {
  checked(native().destroyStore(store));
}

/**
 * Copies runs of blocks, each three words [first source block, first target block, blocks], and answers the
 * microseconds it took. All runs are checked before the first byte moves.
 */
export function copyRuns(store: number, direction: Direction, runs: Int32Array): number {
  return checked(native().copyRuns(store, direction, runs));
}

/** Copies pieces, each three numbers [source byte, target byte, bytes]; checked and timed as `copyRuns`. */
export function copyBytes(store: number, direction: Direction, pieces: Float64Array): number {
  return checked(native().copyBytes(store, direction, pieces));
}

/** Reads bytes of a memory, from byte `offset`, into `target`. For tests and diagnosis. */
export function readStore(store: number, memory: Memory, offset: number, target: Uint8Array): void {
  checked(native().readStore(store, memory, offset, target));
}

/** Writes `source` into a memory at byte `offset`. For tests and diagnosis. */
export function writeStore(store: number, memory: Memory, offset: number, source: Uint8Array): void {
  checked(native().writeStore(store, memory, offset, source));
}

/**
 * Says that a step over this store is about to be posted to its engine: copies that come meanwhile let it go first. Returns
 * at once; nothing on the CPU.
 */
export function announceStep(store: number): void {
  checked(native().announceStep(store));
}

/**
 * Loads and packs the weights (seconds for a large model) and answers the number of the engine. A tensor of file -1
 * gets random values that depend on `seed`, its role and its layer only. Throws `bad_model` where the spec and the
 * files do not agree.
 */
export function createEngine(spec: EngineSpec, options: EngineOptions, seed = 0): number {
  return checked(native().createEngine(spec, options, seed));
}

/** The engine's memory goes when the last step that uses it has returned. */
export function destroyEngine(engine: number): void {
  checked(native().destroyEngine(engine));
}

export function engineInfo(engine: number): EngineInfo {
  const info = native().engineInfo(engine);
  if (typeof info === 'number') throw statusError(info, native().lastMessage());
  return info;
}

/**
 * Loads all packed weights once with the engine's threads and answers the microseconds: the least that memory allows a
 * step of a model larger than the caches.
 */
export function readWeights(engine: number): number {
  return checked(native().readWeights(engine));
}

/**
 * Computes the step that `plan` describes, writes its records to `result` (see plan.ts) and answers the microseconds
 * it took. Blocks the thread: servers call it through `pool.ts`.
 */
export function step(engine: number, store: number, plan: Int32Array, result: Int32Array): number {
  return checked(native().step(engine, store, plan, result));
}

/** As `step`, and also writes the raw logits of each sampling sequence, [samples][vocabulary] in plan order. */
export function stepLogits(engine: number, store: number, plan: Int32Array, result: Int32Array, logits: Float32Array): number {
  return checked(native().step(engine, store, plan, result, logits));
}

/** The instruction sets that this machine can run, best first. */
export function isas(): Isa[] {
  return native().isas();
}

/** The GPUs of this machine, and what is missing. Never throws for lack of a GPU, driver or kernels. */
export function devices(): Devices {
  return native().devices();
}
