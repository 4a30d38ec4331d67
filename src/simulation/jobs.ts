/** Runs as plain data, so that they can be made on another thread, and the threads that make them. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { ParsedPreset } from '../core/presets.js';
import type { PolicyName } from '../core/types.js';
import { type ErrorCode, FastswitchError } from '../errors.js';
import type { Pattern } from './patterns.js';
import type { Scenario } from './profiles.js';
import type { Load, RunResult } from './result.js';
import { runSimulation } from './run.js';
import { readTrace } from './traces.js';
import { conversations, type Workload } from './workload.js';

export interface Job {
  readonly scenario: Scenario;
  readonly preset: ParsedPreset;
  readonly policy: PolicyName;
  readonly pattern: Pattern;
  readonly load: Load;
  readonly seed: number;
  readonly noise: number;
}

/** From a worker; `index` is the job's. */
export type WorkerReport =
  | { readonly type: 'progress'; readonly index: number; readonly share: number }
  | { readonly type: 'done'; readonly index: number; readonly result: RunResult }
  | { readonly type: 'failed'; readonly message: string; readonly code: ErrorCode | null };

/** What arrives in a run. A trace is the same for every seed. */
export function workloadOf(load: Load, { contextTokensMax }: Scenario, seed: number): Workload {
  if (load.type === 'trace') return readTrace(load.path, { ...load, contextTokensMax });
  return conversations({ ...load, contextTokensMax }, seed);
}

/** Makes one run on this thread. Throws as `runSimulation` and `readTrace` do. */
export function runJob({ load, ...job }: Job, onProgress: ((share: number) => void) | null): RunResult {
  return runSimulation({ ...job, workload: workloadOf(load, job.scenario, job.seed), onProgress });
}

interface JobsOptions {
  /** Most runs at a time; on this thread where it is 1. */
  readonly threads: number;
  /** Share of everything that is done, from 0 to 1, and runs that are. */
  readonly onProgress: (share: number, done: number) => void;
  /** In the order of the jobs, as soon as it and all before it are there. */
  readonly onResult: (index: number, result: RunResult) => void;
}

/** Makes all runs; results come in the order of the jobs, whatever the threads do. Fails with the first that fails. */
export async function runJobs(jobs: readonly Job[], options: JobsOptions): Promise<void> {
  const shares = new Float64Array(jobs.length);
  const results = new Map<number, RunResult>();
  let done = 0;
  let next = 0;
  const progress = (index: number, share: number) => {
    shares[index] = share;
    options.onProgress(shares.reduce((sum, each) => sum + each, 0) / jobs.length, done);
  };
  const finish = (index: number, result: RunResult) => {
    results.set(index, result);
    done += 1;
    progress(index, 1);
    for (let ready = results.get(next); ready !== undefined; ready = results.get(next)) {
      options.onResult(next, ready);
      results.delete(next);
      next += 1;
    }
  };
  const threads = Math.min(options.threads, jobs.length);
  const worker = fileURLToPath(new URL('./run-worker.js', import.meta.url));
  // Sources have no compiled worker beside them: whoever runs from sources runs on one thread.
  if (threads > 1 && existsSync(worker)) return onThreads(jobs, threads, worker, progress, finish);
  for (const [index, job] of jobs.entries()) {
    finish(
      index,
      runJob(job, (share) => progress(index, share)),
    );
  }
}

async function onThreads(
  jobs: readonly Job[],
  threads: number,
  path: string,
  progress: (index: number, share: number) => void,
  finish: (index: number, result: RunResult) => void,
): Promise<void> {
  const workers = Array.from({ length: threads }, () => new Worker(path));
  const queue = jobs.entries();
  const serve = (worker: Worker) =>
    new Promise<void>((resolve, reject) => {
      const give = () => {
        const { value, done } = queue.next();
        if (done === true) return resolve();
        const [index, job] = value;
        worker.postMessage({ index, job });
      };
      worker.on('message', (report: WorkerReport) => {
        if (report.type === 'progress') return progress(report.index, report.share);
        if (report.type === 'failed') {
          return reject(report.code === null ? new Error(report.message) : new FastswitchError(report.code, report.message));
        }
        finish(report.index, report.result);
        give();
      });
      worker.on('error', reject);
      worker.on('exit', (code) => reject(new Error(`a thread of the simulation ended with code ${code}`)));
      give();
    });
  try {
    await Promise.all(workers.map(serve));
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}
