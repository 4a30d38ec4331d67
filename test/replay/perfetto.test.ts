/** The trace is one that Perfetto and Chrome can show, and its sums are those of the run. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { replay } from '../../src/replay/command.js';
import { ENGINE, LINK, REQUESTS } from '../../src/replay/perfetto.js';
import { type RecordedWorld, recordsOf, recordWorld, type WorldOptions } from './recorded-worlds.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-perfetto-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface TraceEvent {
  readonly ph: string;
  readonly pid: number;
  readonly tid: number;
  readonly name: string;
  readonly cat?: string;
  readonly ts: number;
  readonly dur: number;
  readonly id?: number;
  readonly s?: string;
  readonly bp?: string;
  readonly args: Record<string, unknown>;
}

/** What an event must have, by its phase, beside `ph`, `pid`, `tid` and `name`. */
const REQUIRED: Readonly<Record<string, readonly (keyof TraceEvent)[]>> = {
  X: ['ts', 'dur', 'cat', 'args'],
  i: ['ts', 's', 'cat', 'args'],
  C: ['ts', 'args'],
  M: ['args'],
  s: ['ts', 'id', 'cat'],
  f: ['ts', 'id', 'cat', 'bp'],
};

const track = ({ pid, tid }: TraceEvent) => `${pid}/${tid}`;

/** Everything that a viewer would choke on, or draw wrong. */
function problemsOf(events: readonly TraceEvent[]): string[] {
  const problems: string[] = [];
  const named = new Set(events.filter(({ ph, name }) => ph === 'M' && name === 'thread_name').map(track));
  const slices = new Map<string, TraceEvent[]>();
  for (const event of events) {
    const { ph, pid, tid, name, ts, dur } = event;
    const required = REQUIRED[ph];
    if (required === undefined) problems.push(`phase ${ph}`);
    for (const key of required ?? []) if (event[key] === undefined) problems.push(`${ph} ${name} without ${key}`);
    for (const number of [pid, tid]) if (!Number.isInteger(number)) problems.push(`${ph} ${name} on ${pid}/${tid}`);
    if (ph !== 'M' && !(Number.isInteger(ts) && ts >= 0)) problems.push(`${ph} ${name} at ${ts}`);
    if (ph === 'C' && typeof event.args.value !== 'number') problems.push(`counter ${name} without a number`);
    if (ph === 'X' || ph === 'i') {
      if (!named.has(track(event))) problems.push(`${name} on a track without a name`);
      if (ph === 'X' && !(dur > 0) && event.cat !== 'copy') problems.push(`${name} takes ${dur}`);
      if (ph === 'X') slices.set(track(event), [...(slices.get(track(event)) ?? []), event]);
    }
  }
  for (const of of slices.values()) problems.push(...overlaps(of));
  return problems;
}

/** Slices of one track lie beside or inside each other. */
function overlaps(slices: readonly TraceEvent[]): string[] {
  const problems: string[] = [];
  const open: TraceEvent[] = [];
  // Stable: of equals the first in the text is the outer one.
  for (const slice of slices.toSorted((a, b) => a.ts - b.ts || b.dur - a.dur)) {
    while (open.length > 0 && (open.at(-1)?.ts ?? 0) + (open.at(-1)?.dur ?? 0) <= slice.ts) open.pop();
    const outer = open.at(-1);
    if (outer !== undefined && slice.ts + slice.dur > outer.ts + outer.dur) {
      problems.push(`${slice.name} at ${slice.ts} goes beyond ${outer.name}, in which it begins`);
    }
    if (outer !== undefined && slice.cat !== 'copy') problems.push(`${slice.name} at ${slice.ts} in ${outer.name}`);
    open.push(slice);
  }
  return problems;
}

async function traced(
  name: string,
  options: WorldOptions,
): Promise<{ events: TraceEvent[]; world: RecordedWorld; endAt: number; said: string }> {
  const path = join(folder, `${name}.journal`);
  const world = await recordWorld(path, options);
  let said = '';
  const progress = (text: string) => {
    said += text;
  };
  const output = { standard: () => {}, progress, terminal: false };
  const code = await replay([path, '--perfetto', join(folder, `${name}.json`)], output);
  if (code !== 0) throw new Error(said);
  const { traceEvents } = JSON.parse(readFileSync(join(folder, `${name}.json`), 'utf8')) as { traceEvents: TraceEvent[] };
  return { events: traceEvents, world, endAt: recordsOf(path).at(-1)?.at ?? 0, said };
}

const sum = (values: readonly unknown[]) => values.reduce((total: number, value) => total + Number(value ?? 0), 0);

const worlds: [string, WorldOptions][] = [
  ['default', { seed: 1 }],
  ['fastswitch', { seed: 2, preset: 'fastswitch' }],
  ['vllm-1', { seed: 3, preset: 'vllm-1' }],
  ['fastserve by mlfq', { seed: 4, preset: 'fastserve', policy: 'mlfq', hostBlocks: 1000 }],
  ['no room on the host', { seed: 5, hostBlocks: 8 }],
  ['many faults', { seed: 6, stepFaults: 0.05, transferFaults: 0.3 }],
  ['killed', { seed: 1, killedAfter: 322 }],
];

describe.each(worlds)('the trace of a run: %s', (name, options) => {
  let events: TraceEvent[];
  let world: RecordedWorld;
  let endAt: number;
  let said: string;
  beforeAll(async () => {
    ({ events, world, endAt, said } = await traced(name, options));
  });
  const slices = (pid: number, cat: string) =>
    events.filter((event) => event.ph === 'X' && event.pid === pid && event.cat === cat);

  it('is well formed, and its slices lie beside or inside each other', () => {
    expect(problemsOf(events)).toEqual([]);
    expect(said).toMatch(/\.json: [\d,]+ trace events, [\d,]+ bytes; open it in ui\.perfetto\.dev\n/);
    expect(Math.max(...events.map(({ ph, ts, dur }) => (ph === 'X' ? ts + dur : (ts ?? 0))))).toBeLessThanOrEqual(endAt);
  });

  it('has the steps that the metrics count, with their time and tokens', () => {
    const { steps, stepsFailed, stepSeconds, stepGapSeconds, prefillTokensComputed, decodeTokensComputed } = world.metrics;
    const all = slices(ENGINE, 'step').filter(({ args }) => args.open !== true);
    const done = all.filter(({ args }) => args.error === undefined);
    expect([done.length, all.length - done.length]).toEqual([steps, stepsFailed]);
    expect(sum(done.map(({ args }) => args.engineMicros))).toBe(Math.round(stepSeconds.sum * 1e6));
    expect(sum(done.map(({ args }) => args.gapMicros))).toBe(Math.round(stepGapSeconds.sum * 1e6));
    expect(sum(done.map(({ dur }) => dur))).toBe(Math.round((stepSeconds.sum + stepGapSeconds.sum) * 1e6));
    expect(sum(done.map(({ args }) => args.prefillTokens))).toBe(prefillTokensComputed);
    expect(sum(done.map(({ args }) => args.decodeTokens))).toBe(decodeTokensComputed);
  });

  it('has the transfers that the metrics count, by direction and kind, with the time of their copying', () => {
    const { transfers, transferBytesByKind, transferSeconds, transferRuns, transfersFailed } = world.metrics;
    const all = slices(LINK, 'transfer').filter(({ args }) => args.open !== true);
    const landed = all.filter(({ args }) => args.error === undefined);
    expect(all.length - landed.length).toBe(transfersFailed);
    for (const direction of ['out', 'in'] as const) {
      const here = (event: TraceEvent) => event.tid < 1000 === (direction === 'out');
      expect(landed.filter(here).length).toBe(transfers[direction]);
      expect(sum(landed.filter(here).map(({ args }) => args.runs))).toBe(transferRuns[direction]);
      const copying = sum(
        slices(LINK, 'copy')
          .filter(here)
          .map(({ dur }) => dur),
      );
      expect(copying).toBe(Math.round(transferSeconds[direction] * 1e6));
      const waited = sum(landed.filter(here).map(({ args }) => args.waitedMicros));
      expect(waited + copying).toBe(sum(landed.filter(here).map(({ dur }) => dur)));
    }
    for (const [kind, bytes] of Object.entries(transferBytesByKind)) {
      expect(sum(landed.filter((event) => event.name === kind).map(({ args }) => args.bytes)), kind).toBe(bytes);
    }
  });

  it('has every request from its arrival to its end, state by state without a gap', () => {
    const arrivals = events.filter(({ ph, name: what }) => ph === 'i' && what === 'arrived');
    expect(arrivals.length).toBe(world.seen.get('arrived'));
    for (const { tid, ts, args } of arrivals) {
      const states = slices(REQUESTS, 'state').filter((event) => event.tid === tid);
      const end = events.find(
        (event) => event.ph === 'i' && event.tid === tid && /^(stop|length|aborted|failed|rejected.*)$/.test(event.name),
      );
      let at = ts;
      for (const state of states.toSorted((a, b) => a.ts - b.ts)) {
        expect(state.ts).toBe(at);
        at += state.dur;
      }
      expect(at).toBe(end?.ts ?? endAt);
      const title = events.find(
        (event) => event.ph === 'M' && event.pid === REQUESTS && event.tid === tid && event.name === 'thread_name',
      );
      expect(title?.args.name).toBe(`${tid} chat-${tid} ${args.tenant}`);
    }
    const left = slices(REQUESTS, 'state').filter(({ args }) => args.why !== undefined);
    const { swap, recompute } = world.metrics.preemptions;
    expect(left.length).toBeLessThanOrEqual(swap + recompute); // who comes back at once has no slice
    if (swap + recompute > 0) expect(left.length).toBeGreaterThan(0);
  });

  it('leads an arrow from who preempts to who is preempted', () => {
    const [from, to] = ['s', 'f'].map((ph) => events.filter((event) => event.ph === ph)) as [TraceEvent[], TraceEvent[]];
    expect(from.map(({ id, ts }) => [id, ts])).toEqual(to.map(({ id, ts }) => [id, ts]));
    expect(new Set(from.map(({ id }) => id)).size).toBe(from.length);
    for (const [k, start] of from.entries()) {
      const end = to[k] as TraceEvent;
      const victim = slices(REQUESTS, 'state').find(({ tid, ts }) => tid === end.tid && ts === end.ts);
      if (victim !== undefined) expect(victim.args.by).toBe(start.tid);
    }
  });

  it('counts who runs and waits, and what is free', () => {
    for (const name of ['running', 'waiting', 'device blocks free', 'host blocks free']) {
      const values = events.filter((event) => event.ph === 'C' && event.name === name).map(({ args }) => Number(args.value));
      expect(values.length, name).toBeGreaterThan(0);
      expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
    }
  });
});

describe('the validator itself', () => {
  const slice = (ts: number, dur: number, more: object = {}) =>
    ({ ph: 'X', pid: 1, tid: 1, name: `at ${ts}`, cat: 'step', ts, dur, args: {}, ...more }) as TraceEvent;
  const title = { ph: 'M', pid: 1, tid: 1, name: 'thread_name', args: { name: 'x' } } as unknown as TraceEvent;

  it('finds slices that overlap, that are not named, that lack something', () => {
    expect(problemsOf([title, slice(0, 5), slice(5, 5), slice(6, 4, { cat: 'copy' })])).toEqual([]);
    expect(problemsOf([title, slice(0, 5), slice(4, 5)])).toEqual([
      'at 4 at 4 goes beyond at 0, in which it begins',
      'at 4 at 4 in at 0',
    ]);
    expect(problemsOf([slice(0, 5)])).toEqual(['at 0 on a track without a name']);
    expect(problemsOf([title, { ...slice(0, 0) }])).toEqual(['at 0 takes 0']);
    expect(problemsOf([title, slice(0.5, 2)])).toEqual(['X at 0.5 at 0.5']);
    expect(problemsOf([{ ph: 'Q', pid: 1, tid: 1, name: 'q', ts: 1 } as unknown as TraceEvent])).toEqual(['phase Q']);
  });
});
