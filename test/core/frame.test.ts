/** A frame of the board says what the state is, what /metrics says, and nothing twice. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { packReading, unpackReading } from '../../src/actors/packed.js';
import { openRecording } from '../../src/actors/recording.js';
import { Replay } from '../../src/actors/replayed.js';
import { applyDelta, type BoardFrame, type BoardMemory, type BoardRange, deltaOf } from '../../src/core/board.js';
import { createState, type State } from '../../src/core/state.js';
import { TenantCounts } from '../../src/core/tenants.js';
import type { Phase } from '../../src/core/types.js';
import { recordWorld, type WorldOptions } from '../replay/recorded-worlds.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-frames-'));
afterAll(() => rmSync(folder, { recursive: true }));

const LIVING: readonly Phase[] = ['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in'];

interface Moment {
  readonly frame: BoardFrame;
  readonly state: State;
  readonly replay: Replay;
}

/** Records a run, and looks at every moment of it, or at every n-th. */
async function everyMoment(name: string, options: WorldOptions, look: (moment: Moment) => void, nth = 1): Promise<void> {
  const path = join(folder, `${name}.journal`);
  await recordWorld(path, options);
  const recording = openRecording(path);
  let state: State = createState(recording.header.limits);
  const replay = new Replay(recording.header, (_event, _effects, now) => {
    state = now;
  });
  for (const record of recording.records()) {
    expect(replay.take(record)).toBeNull();
    if (record.n % nth !== 0) continue;
    const frame = replay.board() as BoardFrame;
    expect([frame.at, frame.record]).toEqual([record.type === 'closed' ? frame.at : record.at, record.n]);
    look({ frame, state, replay });
  }
}

const WORLDS: readonly WorldOptions[] = [
  { seed: 1 },
  { seed: 2, preset: 'vllm-0.3', policy: 'fcfs' },
  { seed: 3, preset: 'fastswitch', hostBlocks: 20 },
  { seed: 4, preset: 'vllm-1', hostBlocks: 0 },
  { seed: 5, policy: 'vtc', transferFaults: 0.1, stepFaults: 0.02 },
  { seed: 6, policy: 'mlfq', hostBlocks: 400 },
  { seed: 8, policy: 'fair', hostBlocks: 400 },
  { seed: 9, policy: 'edf', hostBlocks: 400 },
  { seed: 7, preset: 'fastserve', policy: 'mlfq', hostBlocks: 400 },
];

const blocksOf = (ranges: readonly BoardRange[], fits: (range: BoardRange) => boolean = () => true) =>
  ranges.reduce((sum, range) => sum + (fits(range) ? range[1] : 0), 0);
const ofKind = ({ ranges }: BoardMemory, kind: BoardRange[3]) => blocksOf(ranges, (range) => range[3] === kind);

/** Ranges are in order, apart, whole, and all of them with what is free are the memory. */
function expectTiled(memory: BoardMemory): void {
  let [end, freeRanges, longestFree] = [0, 0, 0];
  let last: BoardRange | null = null;
  const gap = (blocks: number) => {
    if (blocks === 0) return;
    freeRanges += 1;
    longestFree = Math.max(longestFree, blocks);
  };
  for (const range of memory.ranges) {
    const [from, blocks, owner, kind] = range;
    expect(blocks).toBeGreaterThan(0);
    expect(from).toBeGreaterThanOrEqual(end);
    if (last !== null && from === end) expect([owner, kind]).not.toEqual([last[2], last[3]]);
    gap(from - end);
    end = from + blocks;
    last = range;
  }
  expect(end).toBeLessThanOrEqual(memory.total);
  gap(memory.total - end);
  expect(memory).toMatchObject({ freeRanges, longestFree });
  expect(blocksOf(memory.ranges) + memory.free - memory.reserved).toBe(memory.total);
}

/** What each block of the device is, by asking for every block alone. */
function expectDevice({ ranges }: BoardMemory, state: State): void {
  const seen = new Map<number, string>();
  for (const [from, blocks, owner, kind] of ranges) for (let k = 0; k < blocks; k += 1) seen.set(from + k, `${owner} ${kind}`);
  const whose = new Map<number, number>();
  for (const { parts } of state.flights.values()) for (const { owner, request } of parts) whose.set(owner, request?.id ?? 0);
  for (const [owner, { table, tail, heldFrom, heldTo }] of state.device.holdings()) {
    const request = state.requests.get(owner);
    const id = request?.id ?? whose.get(owner) ?? 0;
    for (const [position, block] of table.entries()) {
      const empty = request !== undefined && 16 * position >= request.computed;
      const kind =
        position >= heldFrom && position < heldTo ? 'moving' : state.warm.has(owner) ? 'kept' : empty ? 'tail' : 'used';
      expect(seen.get(block)).toBe(`${id} ${kind}`);
      seen.delete(block);
    }
    const end = (table.at(-1) as number) + 1;
    for (let block = end; block < end + tail; block += 1) {
      expect(seen.get(block)).toBe(`${id} tail`);
      seen.delete(block);
    }
  }
  expect(seen.size).toBe(0);
}

function expectHost({ ranges }: BoardMemory, state: State): void {
  const inFlight = new Set<number>();
  for (const { parts } of state.flights.values())
    for (const { copies } of parts) for (const { block } of copies) inFlight.add(block);
  const users = new Map<number, number[]>();
  for (const { id, copies } of state.requests.values()) {
    for (const { block, chain } of copies) if (chain !== null) users.set(block, [...(users.get(block) ?? []), id]);
  }
  for (const [from, blocks, owner, kind] of ranges) {
    for (let block = from; block < from + blocks; block += 1) {
      const ids = users.get(block) ?? [];
      if (kind === 'tail') expect(ids).toEqual([]);
      else if (inFlight.has(block)) expect(kind).toBe('moving');
      else if (ids.length === 0) expect([owner, kind]).toEqual([0, 'kept']);
      else expect([owner, kind]).toEqual([ids.length === 1 ? ids[0] : 0, 'used']);
      users.delete(block);
    }
  }
  expect(users.size).toBe(0);
}

describe('a frame', () => {
  it.each(WORLDS)('equals what /metrics says, seed $seed', async (options) => {
    const seen = new Set<string>();
    await everyMoment(
      `metrics-${options.seed}`,
      options,
      ({ frame, state, replay }) => {
        const metrics = replay.snapshot();
        const { totals } = frame;
        expect(frame.counts).toEqual(metrics.requestsByPhase);
        expect(frame.outcomes).toEqual(metrics.finishedByOutcome);
        expect([totals.bytes, totals.transfers, totals.runs, totals.preemptions]).toEqual([
          metrics.transferBytes,
          metrics.transfers,
          metrics.transferRuns,
          metrics.preemptions,
        ]);
        expect(totals.copyMicros.out / 1e6).toBeCloseTo(metrics.transferSeconds.out, 9);
        expect(totals.stepMicros / 1e6).toBeCloseTo(metrics.stepSeconds.sum, 9);
        expect(totals.gapMicros / 1e6).toBeCloseTo(metrics.stepGapSeconds.sum, 9);
        expect([totals.prefillTokens, totals.decodeTokens]).toEqual([
          metrics.prefillTokensComputed,
          metrics.decodeTokensComputed,
        ]);
        for (const phase of LIVING) {
          const rows = frame.requests.filter((request) => request.phase === phase);
          expect(rows.length).toBe(frame.counts[phase]);
          if (rows.length > 0) seen.add(phase);
        }
        expect(frame.requests.map(({ id }) => id)).toEqual([...state.requests.keys()].sort((a, b) => a - b));
        const { device, host } = metrics.blocks;
        expect([frame.device.free, frame.host.free]).toEqual([device.free, host.free]);
        expect([ofKind(frame.device, 'moving'), ofKind(frame.device, 'kept')]).toEqual([device.moving, device.kept]);
        // A copy that two transfers read is counted twice there.
        expect(ofKind(frame.host, 'moving')).toBeLessThanOrEqual(
          Math.max(
            host.moving,
            [...state.flights.values()].reduce((n, f) => n + f.blocks, 0),
          ),
        );
        for (const [name, memory] of [
          ['device', frame.device],
          ['host', frame.host],
        ] as const) {
          const { total, free } = metrics.blocks[name];
          expect(blocksOf(memory.ranges) - memory.reserved).toBe(total - free);
        }
      },
      3,
    );
    if (options.seed === 1) expect([...seen].sort()).toEqual([...LIVING].sort());
  });

  it.each(WORLDS)('has every block in one range, and in the one of who has it, seed $seed', async (options) => {
    const kinds = new Set<string>();
    await everyMoment(
      `blocks-${options.seed}`,
      options,
      ({ frame, state }) => {
        expectTiled(frame.device);
        expectTiled(frame.host);
        expectDevice(frame.device, state);
        expectHost(frame.host, state);
        for (const { id, deviceBlocks, hostBlocks } of frame.requests) {
          expect(deviceBlocks).toBe(state.device.table(id).length);
          expect(hostBlocks).toBe(state.requests.get(id)?.copies.filter(({ chain }) => chain !== null).length);
        }
        for (const [, , , kind] of [...frame.device.ranges, ...frame.host.ranges]) kinds.add(kind);
      },
      5,
    );
    if (options.seed === 1) expect([...kinds].sort()).toEqual(['kept', 'moving', 'tail', 'used']);
  });

  it('knows since when, how often, and by which ways', async () => {
    const since = new Map<number, { phase: Phase; at: number; preemptions: number }>();
    let arrived = 0;
    const ways = new Map<string, number>();
    await everyMoment('ways', { seed: 11 }, ({ frame, replay }) => {
      const live = new Set<number>();
      for (const { id, phase, since: at, preemptions, label, arrivedAt } of frame.requests) {
        live.add(id);
        const before = since.get(id);
        if (before === undefined) arrived += 1;
        expect(label).toBe(`chat-${id}`);
        expect(at).toBeGreaterThanOrEqual(arrivedAt);
        if (before !== undefined && before.phase === phase && before.preemptions === preemptions)
          expect(at).toBeGreaterThanOrEqual(before.at);
        if (before !== undefined && before.phase !== phase) expect(at).toBe(frame.at);
        since.set(id, { phase, at, preemptions });
        const [life] = replay.explain(String(id)).map((explanation) => explanation.life);
        expect(life?.spells.at(-1)?.from).toBe(at);
        expect(preemptions).toBe(Object.values(life?.preemptions ?? {}).reduce((sum, count) => sum + count, 0));
      }
      for (const id of since.keys()) if (!live.has(id)) since.delete(id);
      // What came into a state and did not leave it is in it.
      ways.clear();
      for (const [way, count] of Object.entries(frame.transitions)) ways.set(way, count);
      const flow = (phase: Phase) => {
        let net = 0;
        for (const [way, count] of ways) {
          const [from, to] = way.split('>');
          net += (to === phase ? count : 0) - (from === phase ? count : 0);
        }
        return net;
      };
      for (const phase of LIVING.slice(1)) expect(flow(phase)).toBe(frame.counts[phase]);
      expect(flow('done')).toBe(frame.counts.done);
    });
    expect(arrived).toBeGreaterThan(30);
    expect([...ways.keys()]).toEqual(expect.arrayContaining(['queued>prefilling', 'decoding>swapping-out', 'decoding>done']));
  });

  it('says whom a transfer is for and which way it goes, and who waits of each tenant', async () => {
    const kinds = new Set<string>();
    await everyMoment('transfers', { seed: 12 }, ({ frame, state }) => {
      expect(frame.transfers.map(({ transfer }) => transfer)).toEqual([...state.flights.keys()]);
      for (const { kind, direction, ids, since } of frame.transfers) {
        kinds.add(`${kind} ${direction}`);
        expect(since).toBeLessThanOrEqual(frame.at);
        for (const id of ids) expect(state.requests.has(id)).toBe(true);
      }
      const sum = (count: 'live' | 'waiting' | 'generatedTokens') =>
        frame.tenants.reduce((total, tenant) => total + tenant[count], 0);
      expect([sum('live'), sum('waiting')]).toEqual([frame.requests.length, state.queued.length + state.swapped.length]);
      expect(sum('generatedTokens')).toBe(frame.totals.generatedTokens);
      expect(frame.tenants.map(({ tenant }) => tenant)).toEqual(frame.tenants.map(({ tenant }) => tenant).sort());
      expect(frame.stepping).toBe([...state.requests.values()].filter(({ stepping }) => stepping).length);
    });
    expect([...kinds]).toEqual(expect.arrayContaining(['swapOut out', 'swapIn in', 'mirror out']));
  });

  it('becomes ready, draining, stopped as the run does', async () => {
    const standings: string[] = [];
    await everyMoment('standings', { seed: 13, requests: 8 }, ({ frame }) => {
      if (standings.at(-1) !== frame.server) standings.push(frame.server);
    });
    expect(standings).toEqual(['ready', 'stopped']);
  });
});

describe('what has changed', () => {
  it.each(WORLDS.slice(0, 3))('makes the next frame of the one before, seed $seed', async (options) => {
    let before: BoardFrame | null = null;
    let [whole, delta] = [0, 0];
    await everyMoment(
      `delta-${options.seed}`,
      options,
      ({ frame }) => {
        const change =
          before === null ? null : (JSON.parse(JSON.stringify(deltaOf(before, frame))) as ReturnType<typeof deltaOf>);
        if (before !== null && change !== null) expect(applyDelta(before, change)).toEqual(frame);
        whole += JSON.stringify(frame).length;
        delta += JSON.stringify(change ?? {}).length;
        before = JSON.parse(JSON.stringify(frame)) as BoardFrame;
      },
      3,
    );
    expect(delta).toBeLessThan(whole);
  });

  it('spans many events as well as one, and nothing where nothing has', async () => {
    const frames: BoardFrame[] = [];
    await everyMoment('spans', { seed: 21 }, ({ frame }) => frames.push(frame));
    for (let from = 0; from < frames.length; from += 37) {
      for (const to of [from, from + 10, from + 300, frames.length - 1]) {
        const [before, after] = [frames[from] as BoardFrame, frames[Math.min(to, frames.length - 1)] as BoardFrame];
        expect(applyDelta(before, deltaOf(before, after))).toEqual(after);
      }
    }
    const [frame] = frames as [BoardFrame];
    expect(deltaOf(frame, frame)).toEqual({ changed: [], gone: [], at: frame.at, record: frame.record });
  });

  it('names of a request what is another, and all of a new one', async () => {
    const frames: BoardFrame[] = [];
    await everyMoment('names', { seed: 22, requests: 4 }, ({ frame }) => frames.push(frame));
    const [empty, first] = [{ ...(frames[0] as BoardFrame), requests: [] }, frames[0] as BoardFrame];
    expect(deltaOf(empty, first).changed).toEqual(first.requests);
    const [row] = first.requests;
    if (row === undefined) throw new Error('nobody came');
    const later = { ...first, requests: [{ ...row, generated: 7, phase: 'decoding' as const }] };
    expect(deltaOf(first, later).changed).toEqual([{ id: row.id, generated: 7, phase: 'decoding' }]);
    expect(deltaOf(first, empty)).toMatchObject({ changed: [], gone: [row.id] });
  });
});

describe('a frame that crosses threads', () => {
  it('is the same on the other side, with maps and without', async () => {
    const names = ['ä"\n', ''];
    await everyMoment(
      'packed',
      { seed: 31 },
      ({ frame }) => {
        const requests = frame.requests.map((request, k) => ({
          ...request,
          tenant: names[k] ?? request.tenant,
          label: names[k] ?? 'x',
        }));
        const odd = { ...frame, requests };
        expect(unpackReading(structuredClone(packReading(odd)))).toEqual(odd);
        const bare = { ...odd, device: null, host: null };
        expect(unpackReading(structuredClone(packReading(bare)))).toEqual(bare);
      },
      3,
    );
  });
});

describe('tenants', () => {
  it('are counted while they live, remembered for a while, and forgotten at last', () => {
    const counts = new TenantCounts();
    const first = counts.came('first');
    first.generatedTokens += 5;
    counts.went(first);
    expect(counts.came('first')).toMatchObject({ live: 1, generatedTokens: 5 });
    for (let n = 0; n < 1000; n += 1) counts.went(counts.came(`tenant ${n}`));
    expect(counts.all().length).toBe(257);
    expect(counts.all().filter(({ live }) => live > 0)).toEqual([{ tenant: 'first', live: 1, generatedTokens: 5 }]);
    counts.went(counts.came('tenant 999'));
    expect(counts.all().at(-1)?.tenant).toBe('tenant 999');
  });
});
