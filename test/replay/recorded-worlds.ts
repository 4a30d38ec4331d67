/** Small runs in virtual time with everything in them that a recording can hold, and recordings made of records by hand. */
import { writeFileSync } from 'node:fs';
import { FrameWriter, MAGIC } from '../../src/actors/frames.js';
import { FileJournal } from '../../src/actors/journal.js';
import { ProfileMachine } from '../../src/actors/machine.js';
import { openRecording } from '../../src/actors/recording.js';
import { JOURNAL_FORMAT, type JournalHeader, type JournalRecord } from '../../src/actors/records.js';
import { Agenda, simulatedHands } from '../../src/actors/simulated.js';
import { Runtime } from '../../src/actors/system.js';
import { BLOCK_TOKENS, DECISIONS, GREEDY } from '../../src/core/config.js';
import type { MetricsSnapshot } from '../../src/core/metrics.js';
import { PRESETS, type PresetName } from '../../src/core/presets.js';
import { Random } from '../../src/core/random.js';
import type { Limits } from '../../src/core/state.js';
import type { Effect, Event, PolicyName } from '../../src/core/types.js';
import { loadScenario } from '../../src/simulation/profiles.js';

export interface WorldOptions {
  readonly seed: number;
  readonly preset?: PresetName;
  readonly policy?: PolicyName;
  readonly requests?: number;
  readonly deviceBlocks?: number;
  readonly hostBlocks?: number;
  /** Probabilities of faults. */
  readonly stepFaults?: number;
  readonly transferFaults?: number;
  /** Now and then everybody alive is asked about, as by the board and by explain. */
  readonly asks?: boolean;
  /** After so many events the run is left as it is, as by `kill -9`; or the core fails; or something beside it. */
  readonly killedAfter?: number;
  readonly failsAfter?: number;
  readonly handsFailAfter?: number;
}

export interface RecordedWorld {
  readonly header: JournalHeader;
  readonly metrics: MetricsSnapshot;
  /** How often each event came and each effect was decided. */
  readonly seen: ReadonlyMap<string, number>;
}

const PROFILE = { ...loadScenario('llama8b-a10').profile, linkBytesPerMicro: 2000 };

export function headerOf(limits: Limits): Omit<JournalHeader, 'segment' | 'firstRecord' | 'lost'> {
  return {
    format: JOURNAL_FORMAT,
    version: '0.1.0',
    decisions: DECISIONS,
    run: 'cafe0001',
    startedAt: '2026-01-02T03:04:05.678Z',
    source: 'simulated',
    content: false,
    blockTokens: BLOCK_TOKENS,
    limits,
    model: { name: 'toy', fingerprint: 'none' },
    seed: 1,
    config: { preset: 'default' },
  };
}

/** Runs to the end and writes the recording to `path`. */
export async function recordWorld(path: string, options: WorldOptions): Promise<RecordedWorld> {
  const { seed, preset = 'default', policy = 'priority', requests = 40 } = options;
  const { mechanism } = PRESETS[preset];
  const limits: Limits = {
    policy,
    mechanism,
    blockBytes: 1 << 16,
    deviceBlocks: options.deviceBlocks ?? 48,
    hostBlocks: options.hostBlocks ?? 100,
    maxBatchTokens: 96,
    maxRunning: 8,
    maxQueued: 12,
  };
  const header = headerOf(limits);
  const journal = new FileJournal(path, header);
  const random = new Random(seed).fork('load');
  const agenda = new Agenda();
  const lengths = new Map<number, number>();
  const live = new Set<number>();
  const seen = new Map<string, number>();
  let failure: Error | null = null;
  let events = 0;
  const witness = (event: Event, effects: readonly Effect[]) => {
    events += 1;
    for (const { type } of [event, ...effects]) seen.set(type, (seen.get(type) ?? 0) + 1);
    if (events === options.failsAfter)
      agenda.add(agenda.now, () => runtime.deliver({ type: 'landed', transfer: 9999, micros: 1 }));
    if (events === options.handsFailAfter) throw new Error('the engine is on fire');
  };
  const machine = { profile: PROFILE, mechanism, seed, blockBytes: limits.blockBytes, noise: 0.1 };
  const { stepFaults = 0.002, transferFaults = 0.02 } = options;
  const runtime: Runtime = new Runtime({
    limits,
    makeHands: (answer) =>
      simulatedHands(
        agenda,
        {
          machine: new ProfileMachine({ ...machine, stepFaults, transferFaults }),
          duplex: mechanism.duplex,
          blockBytes: limits.blockBytes,
          request: (id) => ({ outputTokens: lengths.get(id) ?? 1, name: (block) => nameOf(id, block) }),
        },
        answer,
      ),
    sink: {
      tokens() {},
      end: (id) => void live.delete(id),
      failed: (error) => {
        failure = error;
      },
    },
    journal,
    witness,
  });
  if (options.asks === true) {
    const chance = new Random(seed).fork('asks');
    for (let asked = 0; asked < 40e6; asked += chance.exponential(50_000)) {
      agenda.add(Math.round(asked), () => {
        for (const id of live) runtime.explain(String(id));
        runtime.board(true);
      });
    }
  }
  let at = 0;
  for (let id = 1; id <= requests; id += 1) {
    at += random.exponential(300_000);
    lengths.set(id, 1 + random.int(60));
    agenda.add(at, () => {
      live.add(id);
      const content = { promptTokens: new Int32Array(20 + random.int(160)), sampling: GREEDY, stopTokens: [], cacheSalt: '' };
      // Now and then more than the device holds: refused.
      const maxTokens = random.next() < 0.05 ? 2000 : 40 + random.int(60);
      const labels = [`chat-${id}`, `http-${(id + 1) >> 1}`];
      const deadlines = { ttftMicros: id % 2 === 0 ? 400_000 : null, tbtMicros: id % 4 === 0 ? 60_000 : null };
      const asked = { content, maxTokens, priority: random.int(4), tenant: `tenant-${id % 3}`, weight: 1 + (id % 3), deadlines };
      runtime.submit(id, { ...asked, labels });
    });
    if (random.next() < 0.1)
      agenda.add(at + random.exponential(3e6), () => runtime.deliver({ type: 'aborted', id, reason: 'client' }));
    if (random.next() < 0.15) {
      agenda.add(at + random.exponential(1e6), () => {
        const deadlines = { ttftMicros: 200_000, tbtMicros: null };
        const items = [...live].map((each) => {
          const item = { id: each, priority: random.int(4) };
          return each % 5 === 0 ? { ...item, deadlines } : item;
        });
        runtime.deliver({ type: 'reprioritized', items });
        runtime.reweight(`tenant-${id % 3}`, 1 + (id % 4));
      });
    }
  }
  while (failure === null && (options.killedAfter === undefined || events < options.killedAfter) && agenda.next());
  if (options.killedAfter !== undefined || failure !== null) journal.stop();
  else await runtime.close();
  return { header: { ...header, segment: 1, firstRecord: 1, lost: 0 }, metrics: runtime.snapshot(), seen };
}

/** Requests share the beginnings of their contexts: those of odd numbers, and those of even ones. */
function nameOf(id: number, block: number): string {
  return block < 3 ? `stem-${id % 2}-${block}`.padEnd(16, '.') : `own-${id}-${block}`.padEnd(16, '.');
}

export function recordsOf(path: string): JournalRecord[] {
  return [...openRecording(path).records()];
}

/** A file with these records, whatever they are. */
export function writeRecording(path: string, header: JournalHeader, records: readonly JournalRecord[]): void {
  const frames = new FrameWriter();
  writeFileSync(path, Buffer.concat([MAGIC, frames.frame(header), ...records.map((record) => frames.frame(record))]));
}
