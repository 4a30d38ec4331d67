/**
 * The threads that wait inside native calls so that no event loop has to: swap workers, and exactly one engine worker.
 * One task is one native call. Cancelling is not offered: stopping a running task would kill its worker.
 */
import { existsSync } from 'node:fs';
import { Piscina } from 'piscina';
import { FastswitchError } from '../errors.js';
import { addonPath, type Direction, statusError } from './index.js';

export interface Pools {
  /**
   * One forward step (`step` of index.ts) on the engine worker; answers the microseconds of the native call. `plan` and
   * `result` lie in shared memory and are left alone until the promise settles.
   */
  step(engine: number, store: number, plan: Int32Array, result: Int32Array): Promise<number>;
  /** Copies runs of blocks (`copyRuns` of index.ts) on a swap worker; answers the microseconds of the native call. */
  copy(store: number, direction: Direction, runs: Int32Array): Promise<number>;
  /** Copies pieces (`copyBytes` of index.ts) on a swap worker; answers the microseconds of the native call. */
  copyPieces(store: number, direction: Direction, pieces: Float64Array): Promise<number>;
  /** Waits for the tasks that have started, refuses new ones, ends the threads. */
  close(): Promise<void>;
}

type Answer = number | readonly [status: number, message: string];

function start(threads: number): Piscina {
  return new Piscina({
    filename: new URL('./worker.mjs', import.meta.url).href,
    minThreads: threads,
    maxThreads: threads,
    idleTimeout: Number.POSITIVE_INFINITY,
    concurrentTasksPerWorker: 1,
    // Workers park between tasks without an event loop: tasks are synchronous and nothing else lives there.
    atomics: 'sync',
    recordTiming: false,
    workerData: { addonPath },
  });
}

/** Starts the threads. Throws `native_missing` where the addon is not built. */
export function createPools(options: { readonly swapThreads: number }): Pools {
  if (!existsSync(addonPath))
    throw new FastswitchError('native_missing', 'the native addon is not built; run: npm run build:native');
  const engine = start(1);
  const swap = start(options.swapThreads);
  const pending = new Set<Promise<unknown>>();
  let closing: Promise<void> | null = null;

  async function run(pool: Piscina, name: 'step' | 'copy' | 'copyPieces', task: object): Promise<number> {
    if (closing !== null) throw new FastswitchError('native_failed', 'the native threads are closed');
    const answer: Promise<Answer> = pool.run(task, { name });
    pending.add(answer);
    try {
      const value = await answer;
      if (typeof value !== 'number') throw statusError(value[0], value[1]);
      return value;
    } catch (error) {
      if (error instanceof FastswitchError) throw error;
      throw new FastswitchError('native_failed', `a native thread failed: ${(error as Error).message}`);
    } finally {
      pending.delete(answer);
    }
  }

  async function end(): Promise<void> {
    while (pending.size > 0) await Promise.allSettled(pending);
    await Promise.all([engine.destroy(), swap.destroy()]);
  }

  return {
    step: (engineId, store, plan, result) => run(engine, 'step', { engine: engineId, store, plan, result }),
    copy: (store, direction, runs) => run(swap, 'copy', { store, direction, runs }),
    copyPieces: (store, direction, pieces) => run(swap, 'copyPieces', { store, direction, pieces }),
    close: () => {
      closing ??= end();
      return closing;
    },
  };
}
