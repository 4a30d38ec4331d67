/** Entry of a thread of the simulation: makes one run after the other. */
import { parentPort } from 'node:worker_threads';
import { FastswitchError } from '../errors.js';
import { type Job, runJob, type WorkerReport } from './jobs.js';

/** Nobody reads a progress line faster. */
const PROGRESS_MS = 200;

const port = parentPort;
if (port === null) throw new Error('run-worker is the entry of a worker thread');
const report = (message: WorkerReport) => port.postMessage(message);

port.on('message', ({ index, job }: { index: number; job: Job }) => {
  let reportedAt = 0;
  try {
    const result = runJob(job, (share) => {
      const now = performance.now();
      if (now - reportedAt < PROGRESS_MS) return;
      reportedAt = now;
      report({ type: 'progress', index, share });
    });
    report({ type: 'done', index, result });
  } catch (error) {
    const ours = error instanceof FastswitchError;
    report({ type: 'failed', code: ours ? error.code : null, message: ours ? error.message : String((error as Error).stack) });
  }
});
