/**
 * The live server and the simulator take the same decisions for the same events. Runs of the real engine and the real swap
 * workers are recorded as `serve --journal` does; then their events enter a fresh runtime whose hands only hold the recorded
 * clock, by the same door, and every decision is compared.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Journal } from '../../src/actors/journal.js';
import { openRecording } from '../../src/actors/recording.js';
import type { JournalHeader, JournalRecord, Outline } from '../../src/actors/records.js';
import type { PolicyName } from '../../src/core/types.js';
import { recordWorld } from '../replay/recorded-worlds.js';
import { contentsOf, replayOf, runHeader } from './journals.js';
import { type LiveLoad, type LiveRun, runLive } from './live-runs.js';

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-recorded-'));
afterAll(() => rmSync(scratch, { recursive: true }));

interface Recorded extends LiveRun {
  readonly folder: string;
  readonly header: JournalHeader;
}

const warnings: string[] = [];

async function record(load: Omit<LiveLoad, 'journal'>, segmentBytes = 2 ** 26): Promise<Recorded> {
  const folder = mkdtempSync(join(scratch, 'run-'));
  const run = await runLive({
    ...load,
    journal: (limits) =>
      new Journal({ target: { folder, segmentBytes }, header: runHeader({ limits }), warn: (message) => warnings.push(message) }),
  });
  expect(warnings).toEqual([]);
  return { ...run, folder, header: openRecording(folder).header };
}

const TIMES = 5;
/** Which copies are made ahead of need depends on timing, so a run goes on until what is wanted was seen some times. */
const runOf = (preset: string, policy: PolicyName, types: readonly string[]): Promise<Recorded> =>
  record({ config: { preset, policy }, requests: 120, tokensMax: 110, wanted: { types, times: TIMES, requestsMax: 3000 } });

const counts = ({ seen }: LiveRun) => [...seen].map(([type, count]) => `${count} ${type}`).join(', ');

/** What happens under every preset. */
const ALWAYS = ['admit', 'prefilled', 'finish', 'reject', 'aborted', 'ending', 'reprioritized'];
const SWAPS = ['swapOut', 'swapIn', 'settled'];
const recordings: [preset: string, policy: PolicyName, wanted: string[]][] = [
  ['default', 'priority', [...SWAPS, 'mirror', 'prefetch', 'resume']],
  ['default', 'vtc', [...SWAPS, 'mirror']],
  ['default', 'fair', [...SWAPS, 'mirror']],
  ['default+partial-paced', 'priority', [...SWAPS, 'mirror', 'park']],
  ['fastswitch', 'priority', [...SWAPS, 'recompute']],
  ['vllm-0.3', 'priority', SWAPS],
  ['vllm-1', 'priority', ['recompute']],
  ['fastserve', 'mlfq', [...SWAPS, 'prefetch']],
];

describe('the live server and the simulator take the same decisions for the same events', () => {
  it.each(recordings)('under %s by %s', { timeout: 120_000 }, async (preset, policy, more) => {
    const wanted = [...ALWAYS, ...more];
    const recorded = await runOf(preset, policy, wanted);
    const { records, end } = contentsOf(recorded.folder);
    console.log(`${preset} by ${policy}: ${records.length} records; ${counts(recorded)}`);
    for (const type of wanted) expect(recorded.seen.get(type) ?? 0, type).toBeGreaterThanOrEqual(TIMES);
    expect(end).toEqual({ type: 'whole' });
    const { taken, divergence, metrics } = replayOf(recorded.header, records);
    expect({ taken, divergence, metrics }).toEqual({ taken: records.length, divergence: null, metrics: recorded.metrics });
  });

  it('in 10,000 requests, with failures of steps and copies', { timeout: 240_000 }, async () => {
    const config = { preset: 'default', policy: 'priority', maxRunning: 10 } as const;
    const recorded = await record({ config, requests: 10_000, tokensMax: 32, faults: 0.004 }, 2 ** 20);
    const { seen, seconds, metrics } = recorded;
    const started = performance.now();
    const { files, header } = openRecording(recorded.folder);
    const { records, end } = contentsOf(recorded.folder);
    const replayed = replayOf(header, records);
    const replaySeconds = (performance.now() - started) / 1000;
    console.log(
      `${records.length} records in ${files.length} files; ${counts(recorded)}\n` +
        `preemptions: ${metrics.preemptions.swap} by swap, ${metrics.preemptions.recompute} by computing again; ` +
        `outcomes: ${JSON.stringify(metrics.finishedByOutcome)}; live ${seconds.toFixed(1)} s, ` +
        `replayed in ${replaySeconds.toFixed(1)} s, ${(seconds / replaySeconds).toFixed(1)} times faster`,
    );
    expect(seen.get('arrived')).toBe(10_000);
    for (const type of ['swapOut', 'recompute', 'aborted', 'stepFailed', 'transferFailed', 'reprioritized', 'reject']) {
      expect(seen.get(type) ?? 0, type).toBeGreaterThan(10);
    }
    expect(files.length).toBeGreaterThan(1);
    expect(end).toEqual({ type: 'whole' });
    expect(replayed).toEqual({ taken: records.length, divergence: null, metrics });
  });
});

describe('questions', () => {
  it.each(['priority', 'vtc', 'mlfq'] as const)('change no later decision, by %s', async (policy) => {
    const [quiet, asked] = ['quiet', 'asked'].map((name) => join(scratch, `${policy}-${name}.journal`)) as [string, string];
    await recordWorld(quiet, { seed: 3, policy });
    const { header, metrics } = await recordWorld(asked, { seed: 3, policy, asks: true });
    const { records } = contentsOf(asked);
    expect(replayOf(header, records)).toEqual({ taken: records.length, divergence: null, metrics });
    // But for the drain and the end, which the last question puts off.
    expect(records.slice(0, -2)).toEqual(contentsOf(quiet).records.slice(0, -2));
  });
});

describe('an event that is another', () => {
  let records: readonly JournalRecord[];
  let header: JournalHeader;
  beforeAll(async () => {
    const recorded = await runOf('default', 'priority', [...ALWAYS, ...SWAPS]);
    header = recorded.header;
    records = contentsOf(recorded.folder).records;
  }, 120_000);

  const has = (effects: readonly Outline[], type: string) => effects.some(([first]) => first === type);

  /** Replays with the first record of the second half that changes; what was decided on it stays as it was recorded. */
  function divergenceOf(change: (record: JournalRecord) => JournalRecord | null) {
    for (let at = records.length >> 1; at < records.length; at += 1) {
      const original = records[at] as JournalRecord;
      const changed = change(original);
      if (changed !== null) return { original, ...replayOf(header, records.with(at, changed)) };
    }
    throw new Error('nothing to change in the second half');
  }

  it('leads to another decision at once: a token that ends its request', () => {
    const { original, divergence } = divergenceOf((record) =>
      record.type === 'stepped' && has(record.effects, 'tokens') && !has(record.effects, 'finish')
        ? { ...record, ended: [0] }
        : null,
    );
    expect(divergence).toMatchObject({ record: original.n, expected: original.effects, reason: null });
    expect(has(divergence?.actual ?? [], 'finish')).toBe(true);
  });

  it('leads to another decision at once: a swap that fails', () => {
    const { original, divergence } = divergenceOf((record) => {
      if (record.type !== 'landed' || !has(record.effects, 'settled')) return null;
      const { n, at, effects, mark, transfer } = record;
      return { n, at, effects, mark, type: 'transferFailed', transfer, error: 'flipped' };
    });
    expect(divergence).toMatchObject({ record: original.n, expected: original.effects });
    expect(divergence?.actual).not.toEqual(divergence?.expected);
  });

  it('is found at once where it leads to the same decision: a prompt that is longer', () => {
    const { original, divergence } = divergenceOf((record) =>
      // The names of its full blocks stay what they are.
      record.type === 'arrived' && !has(record.effects, 'reject') && record.promptTokens % 16 !== 15
        ? { ...record, promptTokens: record.promptTokens + 1 }
        : null,
    );
    expect(divergence).toMatchObject({ record: original.n });
  });

  it('is found at once: an abort that never came', () => {
    const at = records.findIndex(({ type, effects }) => type === 'aborted' && effects.length > 0);
    const { n } = records[at] as JournalRecord;
    const { divergence } = replayOf(header, records.toSpliced(at, 1));
    expect(divergence).toMatchObject({ record: n + 1, reason: `record ${n + 1} stands where record ${n} should be` });
    // Also where the numbers were made to fit.
    const fitted = records.toSpliced(at, 1).map((record, index) => ({ ...record, n: index + 1 }));
    expect(replayOf(header, fitted).divergence).toMatchObject({ record: n });
  });
});
