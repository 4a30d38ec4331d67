/**
 * The tasks of the pools: one synchronous native call each. Plain JavaScript, because a worker loads this file itself,
 * beside the sources and beside the compiled files. Answers microseconds, or [status, message] of a failure.
 */
import { createRequire } from 'node:module';
import { workerData } from 'node:worker_threads';

const native = createRequire(import.meta.url)(workerData.addonPath);

const answer = (value) => (value < 0 ? [value, native.lastMessage()] : value);

export const step = ({ engine, store, plan, result }) => answer(native.step(engine, store, plan, result));

export const copy = ({ store, direction, runs }) => answer(native.copyRuns(store, direction, runs));

export const copyPieces = ({ store, direction, pieces }) => answer(native.copyBytes(store, direction, pieces));
