/** Feeds a recording to the replayed hands, with whoever looks on: to its end, to a given record, or to where they part. */

import type { Recording, RecordingEnd } from '../actors/recording.js';
import type { JournalRecord } from '../actors/records.js';
import { type Divergence, type Onlooker, Replay } from '../actors/replayed.js';
import type { MetricsSnapshot } from '../core/metrics.js';
import type { Micros } from '../core/types.js';

export interface PlayOptions {
  /** Number of the last record to take in; null: all. */
  readonly until: number | null;
  /** Told of every decision, in this order. */
  readonly onlookers: readonly Onlooker[];
  /** Told now and then how far it is. */
  readonly progress: (records: number, at: Micros) => void;
}

export interface Crash {
  readonly error: string;
  readonly replayed: boolean;
}

export interface Played {
  /** Taken in without a divergence. */
  readonly records: number;
  /** Of the last of these; 0: there were none. */
  readonly at: Micros;
  /** How the recording ends; null: it was not read to its end. */
  readonly end: RecordingEnd | null;
  /** What the run failed with, and whether its replay did too, which has no hands that could; null: it did not fail. */
  readonly crash: Crash | null;
  readonly divergence: Divergence | null;
  readonly metrics: MetricsSnapshot;
  /** Of the clock on the wall. */
  readonly seconds: number;
}

/** So many records between two looks at the clock. */
const PROGRESS_RECORDS = 512;

/** @throws FastswitchError `other_version`, before anything is taken in; what `Recording.records` throws. */
export function play(recording: Recording, { until, onlookers, progress }: PlayOptions): Played {
  const startedAt = performance.now();
  const replay = new Replay(recording.header, (...seen) => {
    for (const look of onlookers) look(...seen);
  });
  const records = recording.records();
  let [at, end, crash, divergence]: [Micros, RecordingEnd | null, Crash | null, Divergence | null] = [0, null, null, null];
  try {
    while (divergence === null && (until === null || replay.taken < until)) {
      const next = records.next();
      if (next.done === true) {
        end = next.value;
        break;
      }
      const record: JournalRecord = next.value;
      const { n } = record;
      divergence = replay.take(record);
      if (divergence !== null) break;
      at = record.at;
      if (record.type === 'crashed') crash = { error: record.error, replayed: replay.failure !== null };
      if (n % PROGRESS_RECORDS === 0) progress(n, at);
    }
  } finally {
    // Wherever it stopped: its file is to be closed.
    records.return({ type: 'open' });
  }
  const taken = divergence === null ? replay.taken : divergence.record - 1;
  const seconds = (performance.now() - startedAt) / 1000;
  return { records: taken, at, end, crash, divergence, metrics: replay.snapshot(), seconds };
}
