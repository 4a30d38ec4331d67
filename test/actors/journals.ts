/** What tests of journals share: headers, reading to the end, replaying to the end. */

import { FrameWriter, MAGIC } from '../../src/actors/frames.js';
import { FileJournal } from '../../src/actors/journal.js';
import type { JournalPort } from '../../src/actors/ports.js';
import { openRecording, type Recording, type RecordingEnd } from '../../src/actors/recording.js';
import { JOURNAL_FORMAT, type JournalHeader, type JournalRecord } from '../../src/actors/records.js';
import type { Divergence } from '../../src/actors/replayed.js';
import { Replay } from '../../src/actors/replayed.js';
import type { RunHeader } from '../../src/actors/segments.js';
import { BLOCK_TOKENS, DECISIONS } from '../../src/core/config.js';
import type { MetricsSnapshot } from '../../src/core/metrics.js';
import { PRESETS } from '../../src/core/presets.js';
import type { Limits } from '../../src/core/state.js';
import { loadScenario, withMemory } from '../../src/simulation/profiles.js';
import { runSimulation } from '../../src/simulation/run.js';
import { conversations } from '../../src/simulation/workload.js';

export const LIMITS: Limits = {
  policy: 'priority',
  mechanism: PRESETS.default.mechanism,
  deviceBlocks: 24,
  hostBlocks: 40,
  blockBytes: 4096,
  maxBatchTokens: 48,
  maxRunning: 6,
  maxQueued: 12,
};

export function runHeader(more: Partial<RunHeader> = {}): RunHeader {
  return {
    format: JOURNAL_FORMAT,
    version: '0.0.0-test',
    decisions: DECISIONS,
    run: '0123abcd',
    startedAt: '2025-01-31T23:59:58.765Z',
    source: 'live',
    content: false,
    blockTokens: BLOCK_TOKENS,
    limits: LIMITS,
    model: { name: 'tiny', fingerprint: 'f00d' },
    seed: 0,
    config: { model: 'tiny', port: 8080, journalContent: false },
    ...more,
  };
}

export interface Contents {
  readonly records: readonly JournalRecord[];
  readonly end: RecordingEnd;
}

export function contentsOf(recording: Recording | string): Contents {
  const records: JournalRecord[] = [];
  const from = (typeof recording === 'string' ? openRecording(recording) : recording).records();
  for (let next = from.next(); ; next = from.next()) {
    if (next.done === true) return { records, end: next.value };
    records.push(next.value);
  }
}

export interface Replayed {
  /** Records that the replay agreed with. */
  readonly taken: number;
  readonly divergence: Divergence | null;
  readonly metrics: MetricsSnapshot;
}

export function replayOf(header: JournalHeader, records: Iterable<JournalRecord>): Replayed {
  const replay = new Replay(header);
  let divergence: Divergence | null = null;
  for (const record of records) {
    divergence = replay.take(record);
    if (divergence !== null) break;
  }
  return { taken: divergence === null ? replay.taken : divergence.record - 1, divergence, metrics: replay.snapshot() };
}

/** A simulated run with swaps and priorities that change, into the journal that is made; resolves when that is closed. */
export async function simulate(journal: (limits: Limits) => JournalPort): Promise<void> {
  const scenario = withMemory(loadScenario('llama8b-a10'), 160, 300);
  const { contextTokensMax } = scenario;
  let closed = Promise.resolve();
  runSimulation({
    scenario: { ...scenario, maxRunning: 8 },
    preset: { name: 'default', mechanism: PRESETS.default.mechanism, policy: 'priority' },
    policy: 'priority',
    workload: conversations({ conversations: 6, conversationsPerSecond: 8, thinkSeconds: 0.5, contextTokensMax }, 2),
    pattern: { type: 'random', phi: 0.3, frequency: 0.05 },
    seed: 2,
    noise: 0.05,
    onProgress: null,
    journal: (limits) => {
      const made = journal(limits);
      return {
        opened: (...what) => made.opened(...what),
        decided: (...what) => made.decided(...what),
        crashed: (...what) => made.crashed(...what),
        close: (at) => made.close(at),
        closed: (at) => {
          closed = made.close(at);
        },
        stop() {},
      };
    },
  });
  await closed;
}

/** The same run in one file. */
export function simulateTo(path: string): Promise<void> {
  return simulate((limits) => new FileJournal(path, runHeader({ limits, source: 'simulated' })));
}

/** A file as a journal would be written from these values. */
export function encode(header: object, records: readonly object[]): Buffer {
  const frames = new FrameWriter();
  return Buffer.concat([MAGIC, ...[header, ...records].map((value) => frames.frame(value))]);
}
