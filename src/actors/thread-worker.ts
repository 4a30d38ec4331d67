/** Entry of the system's thread: loads the model, makes the live hands, serves the other end of the port. */
import { randomBytes } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { BLOCK_TOKENS, type Config, DECISIONS } from '../core/config.js';
import { FastswitchError } from '../errors.js';
import { Journal } from './journal.js';
import { type Live, openLive } from './live.js';
import { JOURNAL_FORMAT } from './records.js';
import type { RunHeader } from './segments.js';
import { serveRuntime, type ThreadData } from './thread.js';

if (parentPort === null) throw new Error('thread-worker is the entry of a worker thread');
try {
  const { config, version } = workerData as ThreadData;
  const live = openLive(config);
  const { info, limits, makeHands } = live;
  const journal = config.journal === '' ? undefined : openJournal(config, headerOf(config, version, live));
  serveRuntime(parentPort, info, { limits, makeHands, ...(journal === undefined ? {} : { journal }) });
} catch (error) {
  if (!(error instanceof FastswitchError)) throw error;
  parentPort.postMessage({ type: 'unfit', code: error.code, message: error.message });
}

function openJournal({ journal, journalSegmentBytes }: Config, header: RunHeader): Journal {
  return new Journal({
    target: { folder: journal, segmentBytes: journalSegmentBytes },
    header,
    warn: (message) => process.stderr.write(`warning: ${message}\n`),
  });
}

function headerOf(config: Config, version: string, { limits, model }: Live): RunHeader {
  // What lies where on this machine is nobody's business who reads a journal elsewhere.
  const { host: _host, port: _port, journal: _journal, tenants: _tenants, allowedHosts: _names, ...told } = config;
  return {
    format: JOURNAL_FORMAT,
    version,
    decisions: DECISIONS,
    run: randomBytes(4).toString('hex'),
    startedAt: new Date().toISOString(),
    source: 'live',
    content: config.journalContent,
    blockTokens: BLOCK_TOKENS,
    limits,
    model,
    seed: config.seed,
    config: { ...told, model: model.name },
  };
}
