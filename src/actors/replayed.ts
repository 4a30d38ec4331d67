/**
 * Hands 3: nothing acts, the journal speaks. The recorded events enter a fresh runtime by the same door, the same core
 * decides and the same charts follow; each decision must come to the recorded digest.
 */
import type { BoardReading } from '../core/board.js';
import { BLOCK_TOKENS, DECISIONS, GREEDY } from '../core/config.js';
import type { MetricsSnapshot } from '../core/metrics.js';
import { PRESETS } from '../core/presets.js';
import type { State } from '../core/state.js';
import type { Effect, Event, Micros } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import type { Hands, JournalPort } from './ports.js';
import { eventOf, type JournalHeader, type JournalRecord, type Outline, Recorder } from './records.js';
import { type Explanation, Runtime } from './system.js';

/** Where a replay leaves its recording. */
export interface Divergence {
  /** Number of the record. */
  readonly record: number;
  readonly at: Micros;
  /** Null where there is none: a record is missing before this one. */
  readonly event: Event | null;
  readonly expected: readonly Outline[];
  readonly actual: readonly Outline[];
  /** In words, where the effects alone do not tell. */
  readonly reason: string | null;
}

/** Sees every decision of a replay, as the runtime's witness does; `record` is its number. */
export type Onlooker = (event: Event, effects: readonly Effect[], state: State, record: number) => void;

/**
 * @throws FastswitchError `other_version` where the decisions of this version are others, or where it does not know what the
 * recorded one was told.
 */
export function requireReplayable({ decisions, version, blockTokens, limits }: JournalHeader): void {
  const recorded = `The recording was made by fastswitch ${version}`;
  if (decisions !== DECISIONS) {
    throw new FastswitchError(
      'other_version',
      `${recorded}, whose decisions are of version ${decisions}; this one decides by version ${DECISIONS}. ` +
        `Replay it with fastswitch ${version}.`,
    );
  }
  if (blockTokens !== BLOCK_TOKENS) {
    throw new FastswitchError(
      'other_version',
      `${recorded} with blocks of ${blockTokens} tokens; this one has blocks of ${BLOCK_TOKENS}. Replay it with that build.`,
    );
  }
  const known = Object.keys(PRESETS.default.mechanism).sort();
  const told = Object.keys(limits.mechanism).sort();
  const [alien, lacking] = [told.filter((name) => !known.includes(name)), known.filter((name) => !told.includes(name))];
  if (alien.length > 0 || lacking.length > 0) {
    const words = [
      ...alien.map((name) => `it has a switch "${name}" that this version does not know`),
      ...lacking.map((name) => `it lacks the switch "${name}"`),
    ];
    throw new FastswitchError('other_version', `${recorded} under another configuration: ${words.join(', ')}.`);
  }
}

/** Feeds records to a runtime, one after the other, until one of them leads elsewhere. */
export class Replay {
  readonly #runtime: Runtime;
  readonly #recorder = new Recorder(false);
  readonly #onlooker: Onlooker | null;
  /** The event that enters. */
  #event: Event | null = null;
  #decided: JournalRecord | null = null;
  #failure: Error | null = null;
  #closed = false;
  /** Prompts have lengths and no content: all are views of this. */
  #noTokens = new Int32Array(4096);

  /** @throws FastswitchError as `requireReplayable` does. */
  constructor(header: JournalHeader, onlooker: Onlooker | null = null) {
    requireReplayable(header);
    this.#onlooker = onlooker;
    this.#runtime = new Runtime({
      limits: header.limits,
      makeHands: () => this.#hands(),
      journal: this.#journal(),
      sink: {
        tokens() {},
        end() {},
        failed: (error) => {
          this.#failure = error;
        },
      },
      witness: (event, effects, state) => this.#onlooker?.(event, effects, state, this.#recorder.count),
    });
  }

  /** Records taken in without a divergence. */
  get taken(): number {
    return this.#recorder.count;
  }

  /** The last record of the run was among them: it was closed, or it crashed. */
  get over(): boolean {
    return this.#closed;
  }

  /** What the replay failed with, as a run does; null: it did not. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** Takes in the next record. Nothing may be taken in after a divergence. */
  take(record: JournalRecord): Divergence | null {
    const next = this.#recorder.count + 1;
    if (record.n !== next) return this.#divergence(record, null, [], `record ${record.n} stands where record ${next} should be`);
    if (record.type === 'closed') return this.#close(record);
    const event = eventOf(record, this.#recorder.plan);
    this.#decided = null;
    if (event !== null) this.#enter(event);
    if (record.type === 'crashed') return this.#crash(record, event);
    const decided = this.#decided as JournalRecord | null;
    if (decided === null) return this.#divergence(record, event, [], this.#failure?.message ?? 'nothing was decided');
    return decided.mark === record.mark ? null : this.#divergence(record, event, decided.effects, null);
  }

  snapshot(): MetricsSnapshot {
    return this.#runtime.snapshot();
  }

  /** What a board shows now, with the memories. */
  board(): BoardReading {
    return { ...this.#runtime.board(true), record: this.taken };
  }

  /** As `System.explain`, of those that live or have ended by now. */
  explain(name: string): Explanation[] {
    return this.#runtime.explain(name);
  }

  #close(record: JournalRecord): Divergence | null {
    this.#recorder.closed(record.at);
    this.#closed = true;
    return this.#failure === null ? null : this.#divergence(record, null, [], this.#failure.message);
  }

  #crash(record: Extract<JournalRecord, { type: 'crashed' }>, event: Event | null): Divergence | null {
    this.#recorder.crashed(record.at, event, new Error(record.error));
    this.#closed = true;
    if (this.#failure?.message === record.error) return null;
    // It was decided on as recorded: what failed then were the hands, which a replay does not have.
    if (this.#failure === null && event === null) return null;
    const instead = this.#failure === null ? 'and nothing failed' : `and it failed with: ${this.#failure.message}`;
    return this.#divergence(record, event, [], `the recorded run failed with: ${record.error}; it was replayed ${instead}`);
  }

  #divergence(record: JournalRecord, event: Event | null, actual: readonly Outline[], reason: string | null): Divergence {
    return { record: record.n, at: record.at, event, expected: record.effects, actual, reason };
  }

  #enter(event: Event): void {
    this.#event = event;
    if (event.type === 'arrived') {
      const { id, promptTokens, maxTokens, priority, tenant, weight, ttftMicros, tbtMicros, labels } = event;
      if (this.#noTokens.length < promptTokens) this.#noTokens = new Int32Array(2 * promptTokens);
      const prompt = this.#noTokens.subarray(0, promptTokens);
      const content = { promptTokens: prompt, stopTokens: [], sampling: GREEDY, cacheSalt: '' };
      this.#runtime.submit(id, { content, maxTokens, priority, tenant, weight, deadlines: { ttftMicros, tbtMicros }, labels });
    } else {
      const { at: _, ...unstamped } = event;
      this.#runtime.deliver(unstamped);
    }
  }

  #hands(): Hands {
    return {
      engine: { open: () => (this.#event?.type === 'arrived' ? this.#event.names : []), step() {}, close() {} },
      transfers: { start() {} },
      clock: { now: () => this.#event?.at ?? 0 },
      async close() {},
    };
  }

  /** Records the replay as the run itself was, to compare the two. */
  #journal(): JournalPort {
    return {
      opened() {},
      decided: (event, effects) => {
        this.#decided = this.#recorder.decided(event, effects);
      },
      crashed() {},
      async close() {},
    };
  }
}
