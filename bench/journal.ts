/**
 * What recording costs: a simulated A100 with Llama-3-8B, 256 running requests with contexts of chats, more conversations than
 * fit the device and priorities that change, so that it swaps all the time. Times the journal's part of every decision; prints
 * microseconds a step and the share of the step, bytes a step, a token and a request, and how fast it replays.
 *
 *   node dist/bench/journal.js [--quick] [--json]
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FileJournal } from '../src/actors/journal.js';
import { openRecording } from '../src/actors/recording.js';
import { JOURNAL_FORMAT } from '../src/actors/records.js';
import { Replay } from '../src/actors/replayed.js';
import type { RunHeader } from '../src/actors/segments.js';
import { BLOCK_TOKENS, DECISIONS } from '../src/core/config.js';
import { parsePreset } from '../src/core/presets.js';
import type { Limits } from '../src/core/state.js';
import type { Effect, Event } from '../src/core/types.js';
import { loadScenario, withMemory } from '../src/simulation/profiles.js';
import type { RunResult } from '../src/simulation/result.js';
import { type RunJournal, runSimulation, type SimulationOptions } from '../src/simulation/run.js';
import { conversations } from '../src/simulation/workload.js';

const quick = process.argv.includes('--quick');
/** What 80 GB leave beside 16 GB of weights, in blocks of 2 MiB; the host has 120 GiB. */
const DEVICE_BLOCKS = 12_000;
const HOST_BLOCKS = 61_440;
const CONVERSATIONS = quick ? 500 : 1500;
/** Steps with so many requests are looked at. */
const RUNNING = 250;

/** Times what is asked of the journal, and remembers what the steps of a full batch took. */
class Timed implements RunJournal {
  readonly totals = { steps: 0, journalMicros: 0, stepMicros: 0, blocks: 0 };
  /** Of each of these steps: medians are what neighbours on this machine disturb least. */
  readonly micros: number[] = [];
  readonly seen = { steps: 0, tokens: 0, requests: 0, swaps: 0 };
  readonly #inner: RunJournal;
  /** Of the decisions since the last step came back. */
  #micros = 0;
  #running = 0;
  #blocks = 0;

  constructor(inner: RunJournal) {
    this.#inner = inner;
  }

  opened(...what: Parameters<RunJournal['opened']>): void {
    this.#inner.opened(...what);
  }

  decided(event: Event, effects: readonly Effect[]): void {
    const started = performance.now();
    this.#inner.decided(event, effects);
    this.#micros += 1000 * (performance.now() - started);
    this.#count(event, effects);
  }

  #count(event: Event, effects: readonly Effect[]): void {
    if (event.type === 'stepped') {
      const { totals, seen } = this;
      const sampled = event.items.filter(({ token }) => token >= 0).length;
      seen.steps += 1;
      seen.tokens += sampled;
      if (this.#running >= RUNNING) {
        totals.steps += 1;
        totals.journalMicros += this.#micros;
        this.micros.push(this.#micros);
        totals.stepMicros += event.micros;
        totals.blocks += this.#blocks;
      }
      this.#micros = 0;
    } else if (event.type === 'arrived') this.seen.requests += 1;
    for (const effect of effects) {
      if (effect.type === 'swapOut' || effect.type === 'swapIn') this.seen.swaps += 1;
      if (effect.type !== 'step') continue;
      this.#running = effect.items.length;
      this.#blocks = effect.items.reduce((sum, { blocks }) => sum + blocks.length, 0);
    }
  }

  crashed(...what: Parameters<RunJournal['crashed']>): void {
    this.#inner.crashed(...what);
  }

  close(at: number): Promise<void> {
    return this.#inner.close(at);
  }

  closed(at: number): void {
    this.#inner.closed(at);
  }

  stop(): void {
    this.#inner.stop();
  }
}

function optionsOf(): SimulationOptions {
  const scenario = withMemory(loadScenario('llama8b-a10'), DEVICE_BLOCKS, HOST_BLOCKS);
  const preset = parsePreset('default');
  if (typeof preset === 'string') throw new Error(preset);
  const load = { conversations: CONVERSATIONS, conversationsPerSecond: 200, thinkSeconds: 0 };
  return {
    scenario: { ...scenario, maxRunning: 256 },
    preset,
    policy: 'priority',
    workload: conversations({ ...load, contextTokensMax: scenario.contextTokensMax }, 1),
    pattern: { type: 'random', phi: 0.2, frequency: 0.02 },
    seed: 1,
    noise: 0.05,
    onProgress: null,
  };
}

function headerOf(limits: Limits): RunHeader {
  return {
    format: JOURNAL_FORMAT,
    version: 'bench',
    decisions: DECISIONS,
    run: 'bench',
    startedAt: new Date(0).toISOString(),
    source: 'simulated',
    content: false,
    blockTokens: BLOCK_TOKENS,
    limits,
    model: { name: 'bench', fingerprint: '' },
    seed: 1,
    config: {},
  };
}

interface Row {
  /** Of steps with a full batch. */
  readonly steps: number;
  readonly stepMillis: number;
  readonly tableBlocksPerStep: number;
  readonly journalMicrosMean: number;
  readonly journalMicrosP10: number;
  readonly journalMicrosP50: number;
  readonly journalMicrosP90: number;
  /** Of the median. */
  readonly shareOfStep: number;
  readonly shareOf20Millis: number;
  /** Of the whole run. */
  readonly swapsPerStep: number;
  readonly bytes: number;
  readonly bytesPerStep: number;
  readonly bytesPerToken: number;
  readonly bytesPerRequest: number;
  readonly records: number;
  readonly virtualSeconds: number;
  readonly replaySeconds: number;
  readonly replayRecordsPerSecond: number;
}

function replay(path: string): { records: number; seconds: number } {
  const started = performance.now();
  const { header, records } = openRecording(path);
  const again = new Replay(header);
  for (const record of records()) {
    const divergence = again.take(record);
    if (divergence !== null) throw new Error(`diverges at record ${divergence.record}`);
  }
  return { records: again.taken, seconds: (performance.now() - started) / 1000 };
}

function measure(folder: string): Row {
  const path = join(folder, 'bench.journal');
  let timed: Timed | undefined;
  const run: RunResult = runSimulation({
    ...optionsOf(),
    journal: (limits) => {
      timed = new Timed(new FileJournal(path, headerOf(limits)));
      return timed;
    },
  });
  const { totals, micros, seen } = timed as Timed;
  const bytes = statSync(path).size;
  const { records, seconds } = replay(path);
  const sorted = micros.sort((a, b) => a - b);
  const quantile = (share: number) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
  const perStep = (sum: number) => sum / Math.max(1, totals.steps);
  return {
    steps: totals.steps,
    stepMillis: perStep(totals.stepMicros) / 1000,
    tableBlocksPerStep: perStep(totals.blocks),
    journalMicrosMean: perStep(totals.journalMicros),
    journalMicrosP10: quantile(0.1),
    journalMicrosP50: quantile(0.5),
    journalMicrosP90: quantile(0.9),
    shareOfStep: quantile(0.5) / perStep(totals.stepMicros),
    shareOf20Millis: quantile(0.5) / 20_000,
    swapsPerStep: seen.swaps / seen.steps,
    bytes,
    bytesPerStep: bytes / seen.steps,
    bytesPerToken: bytes / seen.tokens,
    bytesPerRequest: bytes / seen.requests,
    records,
    virtualSeconds: run.virtualSeconds,
    replaySeconds: seconds,
    replayRecordsPerSecond: records / seconds,
  };
}

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-journal-'));
try {
  const row = measure(folder);
  if (process.argv.includes('--json')) console.log(JSON.stringify(row));
  else for (const [name, value] of Object.entries(row)) console.log(`${name.padEnd(24)} ${Number(value.toPrecision(4))}`);
} finally {
  rmSync(folder, { recursive: true });
}
