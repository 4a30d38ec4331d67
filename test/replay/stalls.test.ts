/** The lists of the longest, against the same counted plainly from all events. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openRecording } from '../../src/actors/recording.js';
import type { Effect, Event } from '../../src/core/types.js';
import { play } from '../../src/replay/play.js';
import { StallsFold } from '../../src/replay/stalls.js';
import { recordWorld, type WorldOptions } from './recorded-worlds.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-stalls-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Line {
  readonly event: Event;
  readonly effects: readonly Effect[];
  readonly record: number;
}

async function decisionsOf(name: string, options: WorldOptions): Promise<Line[]> {
  const path = join(folder, `${name}.journal`);
  await recordWorld(path, options);
  const lines: Line[] = [];
  const { divergence } = play(openRecording(path), {
    until: null,
    onlookers: [(event, effects, _, record) => void lines.push({ event, effects: structuredClone(effects), record })],
    progress: () => {},
  });
  expect(divergence).toBe(null);
  return lines;
}

/** For each request: when it arrived, its tokens came, and it ended (else the last event). */
function timesOf(lines: readonly Line[]): Map<number, number[]> {
  const times = new Map<number, number[]>();
  const open = new Set<number>();
  for (const { event, effects } of lines) {
    if (event.type === 'arrived') {
      times.set(event.id, [event.at]);
      open.add(event.id);
    }
    for (const effect of effects) {
      if (effect.type === 'tokens') for (const { id } of effect.items) times.get(id)?.push(event.at);
      if (effect.type === 'finish') {
        times.get(effect.id)?.push(event.at);
        open.delete(effect.id);
      }
      if (effect.type === 'reject') {
        times.delete(effect.id);
        open.delete(effect.id);
      }
    }
  }
  for (const id of open) times.get(id)?.push(lines.at(-1)?.event.at ?? 0);
  return times;
}

describe.each<[string, WorldOptions]>([
  ['whole', { seed: 1 }],
  ['killed', { seed: 1, killedAfter: 322 }],
  ['recompute', { seed: 3, preset: 'vllm-1' }],
  ['faults', { seed: 6, stepFaults: 0.05, transferFaults: 0.3 }],
])('the stalls of a run: %s', (name, options) => {
  it('are the longest pauses, first tokens and iterations that there were', async () => {
    const lines = await decisionsOf(name, options);
    const fold = new StallsFold(1000);
    for (const { event, effects, record } of lines) fold.see(event, effects, record);
    const { pauses, firstTokens, iterations } = fold.result();
    const times = timesOf(lines);
    const firsts = [...times].map(([id, all]) => [id, (all[1] ?? 0) - (all[0] ?? 0)] as const);
    const gaps = [...times].flatMap(([id, [, ...all]]) => {
      const longest = Math.max(0, ...all.slice(1).map((at, k) => at - (all[k] ?? 0)));
      return longest > 0 ? [[id, longest] as const] : [];
    });
    const plain = (list: typeof pauses) => new Map(list.map(({ id, micros }) => [id, micros]));
    expect(plain(pauses)).toEqual(new Map(gaps.toSorted(([, a], [, b]) => b - a)));
    expect([...plain(firstTokens)].sort(([a], [b]) => a - b)).toEqual(firsts.filter(([, micros]) => micros > 0));
    for (const list of [pauses, firstTokens, iterations]) {
      expect(list.map(({ micros }) => micros)).toEqual(list.map(({ micros }) => micros).toSorted((a, b) => b - a));
    }
    const shorter = new StallsFold(3);
    for (const { event, effects, record } of lines) shorter.see(event, effects, record);
    expect(shorter.result().pauses.map(({ micros }) => micros)).toEqual(pauses.slice(0, 3).map(({ micros }) => micros));
    for (const { micros, awayMicros, departures, endedBy, to, record } of [...pauses, ...firstTokens]) {
      expect(awayMicros).toBeGreaterThanOrEqual(0);
      expect(awayMicros).toBeLessThanOrEqual(micros);
      if (departures > 0) expect(awayMicros).toBeGreaterThan(0);
      expect(lines[record - 1]?.event.at).toBe(to);
      if (endedBy === 'recording') expect(record).toBe(lines.length);
    }
    for (const { micros, iterationMicros, record, launchedAt, step } of iterations) {
      expect(micros).toBeLessThan(iterationMicros);
      expect(lines[record - 1]?.event.at).toBe(launchedAt);
      expect(lines[record - 1]?.effects.some((effect) => effect.type === 'step' && effect.step === step)).toBe(true);
    }
  });
});
