/** Entry of the system's thread: loads the model, makes the live hands, serves the other end of the port. */
import { parentPort, workerData } from 'node:worker_threads';
import type { Config } from '../core/config.js';
import { FastswitchError } from '../errors.js';
import { openLive } from './live.js';
import { serveRuntime } from './thread.js';

if (parentPort === null) throw new Error('thread-worker is the entry of a worker thread');
try {
  const { info, limits, makeHands } = openLive(workerData as Config);
  serveRuntime(parentPort, info, { limits, makeHands });
} catch (error) {
  if (!(error instanceof FastswitchError)) throw error;
  parentPort.postMessage({ type: 'unfit', code: error.code, message: error.message });
}
