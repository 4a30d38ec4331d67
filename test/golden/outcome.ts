/** What a golden journal comes to when it is replayed: kept beside it, in few words that later versions will still have. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { openRecording } from '../../src/actors/recording.js';
import type { Divergence } from '../../src/actors/replayed.js';
import { endingOf } from '../../src/replay/ending.js';
import { play } from '../../src/replay/play.js';
import { SummaryFold } from '../../src/replay/summary.js';

export interface Outcome {
  /** Of the file: it is never edited. */
  readonly sha256: string;
  readonly exitCode: number;
  readonly end: string;
  readonly divergence: Divergence | null;
  readonly records: number;
  readonly virtualSeconds: number;
  readonly figures: Readonly<Record<string, unknown>>;
}

/** @throws FastswitchError `other_version` for a journal of other decisions. */
export function outcomeOf(path: string): Outcome {
  const recording = openRecording(path);
  const summary = new SummaryFold(recording.header);
  const played = play(recording, {
    until: null,
    onlookers: [(event, effects, _, record) => summary.see(event, effects, record)],
    progress: () => {},
  });
  const { events, requests, tokens, preemptions, copied, stepsFailed, transfersFailed, crash, latencies } = summary.result(played);
  return {
    sha256: createHash('sha256').update(readFileSync(path)).digest('hex'),
    exitCode: endingOf(played).exitCode,
    end: played.end?.type ?? 'none',
    divergence: played.divergence,
    records: played.records,
    virtualSeconds: played.at / 1e6,
    figures: {
      crash,
      events,
      requests,
      tokens,
      preemptions,
      bytesOut: copied.out.bytesByKind,
      bytesIn: copied.in.bytesByKind,
      stepsFailed,
      transfersFailed,
      ttftMs: latencies.ttftMs,
      tbtMs: latencies.tbtMs,
    },
  };
}
