/** Runs as plain data, so that they can be made on another thread, and the threads that make them. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { FileJournal } from '../actors/journal.js';
import { JOURNAL_FORMAT } from '../actors/records.js';
import type { RunHeader } from '../actors/segments.js';
import { BLOCK_TOKENS, DECISIONS } from '../core/config.js';
import type { ParsedPreset } from '../core/presets.js';
import type { Limits } from '../core/state.js';
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
  readonly journal?: JobJournal;
}

/** Where a run is recorded, and which version of fastswitch says so. */
export interface JobJournal {
  readonly path: string;
  readonly version: string;
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

/** Makes one run on this thread. Throws as `runSimulation`, `readTrace` and `FileJournal` do. */
export function runJob(job: Job, onProgress: ((share: number) => void) | null): RunResult {
  const { load, journal, ...options } = job;
  const workload = workloadOf(load, job.scenario, job.seed);
  if (journal === undefined) return runSimulation({ ...options, workload, onProgress });
  const open = (limits: Limits) => new FileJournal(journal.path, headerOf(job, journal, limits));
  return runSimulation({ ...options, workload, onProgress, journal: open });
}

/** The same run gives the same bytes: nothing in them comes from a clock or from chance. */
function headerOf(job: Job, { version }: JobJournal, limits: Limits): RunHeader {
  const { scenario, preset, policy, pattern, load, seed, noise } = job;
  const { journal: _, ...told } = job;
  // Where a trace lies is no part of the run.
  const arrivals = load.type === 'trace' ? { ...load, path: basename(load.path) } : load;
  return {
    format: JOURNAL_FORMAT,
    version,
    decisions: DECISIONS,
    run: createHash('sha256')
      .update(JSON.stringify({ ...told, load: arrivals }))
      .digest('hex')
      .slice(0, 8),
    startedAt: new Date(0).toISOString(),
    source: 'simulated',
    content: false,
    blockTokens: BLOCK_TOKENS,
    limits,
    model: { name: scenario.name, fingerprint: '', layers: scenario.profile.layers },
    seed,
    config: {
      ...arrivals,
      scenario: scenario.name,
      preset: preset.name,
      policy,
      pattern: pattern.type,
      noise,
    },
  };
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
