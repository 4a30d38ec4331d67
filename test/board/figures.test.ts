/** What the page computes from frames: rates and percentiles, rows and their order, maps. */
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { type BoardFrame, type BoardMemory, type BoardRequest, TENANTS_MAX } from '../../src/core/board.js';
import type { Histogram } from '../../src/core/metrics.js';
import { bytes, moment, ordinal, percent, rate, span } from '../../src/http/board/page/format.js';
import { History, jain, percentile } from '../../src/http/board/page/history.js';
import { blockAt, figuresOf, gridOf, rangeAt } from '../../src/http/board/page/map.js';
import { EVERYBODY, rowsOf } from '../../src/http/board/page/rows.js';
import { linesOf, type Story, storyOf, waysOf } from '../../src/http/board/page/story.js';
import { ScriptedBoard } from './scripted-board.js';

const scripted = () => new ScriptedBoard({ requests: 40, deviceBlocks: 300, hostBlocks: 900, maxRunning: 16 });

function histogram(counts: readonly number[]): Histogram {
  return { bounds: [1, 2, 4], counts: [...counts], sum: 0, count: counts.reduce((sum, value) => sum + value, 0) };
}

describe('percentiles of what came between two histograms', () => {
  it('are within the bucket that has them, and leave out what was before', () => {
    const before = histogram([100, 0, 0, 0]);
    expect(percentile(before, histogram([100, 10, 10, 0]), 0.5)).toBe(2);
    expect(percentile(before, histogram([100, 0, 10, 0]), 0.5)).toBe(3);
    expect(percentile(before, histogram([110, 0, 0, 0]), 0.99)).toBeCloseTo(0.99);
  });

  it('are the last bound where it is beyond, and nothing where nothing came', () => {
    const before = histogram([1, 1, 1, 1]);
    expect(percentile(before, histogram([1, 1, 1, 5]), 0.5)).toBe(4);
    expect(percentile(before, histogram([1, 1, 1, 1]), 0.5)).toBeNull();
  });
});

describe('the history', () => {
  it('makes rates from the differences of sums', () => {
    const board = scripted();
    const history = new History();
    const frames: BoardFrame[] = [];
    for (let tick = 0; tick < 40; tick += 1) {
      board.tick();
      frames.push(board.frame());
      history.push(frames.at(-1) as BoardFrame);
    }
    const [now, then] = [frames.at(-1) as BoardFrame, frames.at(-5) as BoardFrame];
    expect(now.at - then.at).toBe(1e6);
    expect(history.last?.tokensPerSecond).toBe(now.totals.generatedTokens - then.totals.generatedTokens);
    expect(history.last?.bytesPerSecond.out).toBe(now.totals.bytes.out - then.totals.bytes.out);
    expect(history.points.length).toBe(40);
    const shares = history.tenants(now);
    expect(shares.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1);
  });

  it('begins anew where a recording goes back, and leaves a gap where it goes on', () => {
    const board = scripted();
    const history = new History();
    board.tick();
    const first = board.frame();
    board.tick();
    history.push(first);
    history.push(board.frame());
    board.tick(7e6);
    history.push(board.frame());
    expect(history.points.map((point) => point === null)).toEqual([false, false, true, false]);
    history.push(first);
    expect(history.points.length).toBe(1);
  });

  it('has no gaps where a recording is played fast, and the same rates', () => {
    const board = scripted();
    const history = new History();
    for (let tick = 0; tick < 8; tick += 1) {
      board.tick(12.5e6);
      history.push(board.frame(), 50);
    }
    const before = board.frame();
    board.tick(12.5e6);
    history.push(board.frame(), 50);
    expect(history.points.filter((point) => point === null)).toEqual([]);
    expect(history.points.length).toBe(9);
    const tokens = board.frame().totals.generatedTokens - before.totals.generatedTokens;
    expect(history.last?.tokensPerSecond).toBeCloseTo(tokens / 12.5);
    expect(tokens).toBeGreaterThan(0);
  });

  it('counts no tokens of long ago for a tenant that comes back into a list that was cut', () => {
    const board = scripted();
    const history = new History();
    const tenants = (first: number, count: number) =>
      Array.from({ length: count }, (_, k) => ({ tenant: `t${first + k}`, live: 1, waiting: 0, generatedTokens: 1000 }));
    for (const [count, expected] of [
      [TENANTS_MAX, 0],
      [TENANTS_MAX - 1, 1000],
    ] as const) {
      history.clear();
      history.push({ ...board.frame(), tenants: tenants(0, count) });
      board.tick();
      const later = { ...board.frame(), tenants: tenants(1, count) };
      history.push(later);
      const returned = history.tenants(later).find(({ tenant }) => tenant.tenant === `t${count}`);
      expect(returned?.tokens).toBe(expected);
    }
  });

  it('keeps two minutes', () => {
    const board = scripted();
    const history = new History();
    for (let tick = 0; tick < 700; tick += 1) {
      board.tick();
      history.push(board.frame());
    }
    const [oldest, newest] = [history.points[0], history.points.at(-1)];
    expect((newest?.at ?? 0) - (oldest?.at ?? 0)).toBe(120e6);
  });
});

it("Jain's index is one where all have the same, and 1/n where one has all", () => {
  expect(jain([5, 5, 5])).toBe(1);
  expect(jain([9, 0, 0])).toBeCloseTo(1 / 3);
  expect(jain([0, 0])).toBeNull();
});

describe('the rows of the table', () => {
  const row = (change: Partial<BoardRequest>): BoardRequest => ({
    ...{
      id: 1,
      label: 'chatcmpl-a',
      tenant: 'ada',
      phase: 'queued',
      since: 0,
      arrivedAt: 0,
      rank: 1,
      priority: 1,
      promptTokens: 1,
    },
    ...{ generated: 0, maxTokens: 9, computed: 0, deviceBlocks: 0, hostBlocks: 0, preemptions: 0, ending: false },
    ...change,
  });
  const rows = [
    row({ id: 1, since: 5e6, rank: 2 }),
    row({ id: 2, since: 1e6, rank: 1, tenant: 'bob' }),
    row({ id: 3, since: 0, phase: 'decoding', rank: 0 }),
    row({ id: 4, since: 8e6, phase: 'swapped', rank: 1 }),
  ];
  const ids = (filter: Partial<typeof EVERYBODY>, column: 'id' | 'since' | 'rank' = 'id', descending = false) =>
    rowsOf(rows, { ...EVERYBODY, ...filter }, { column, descending }, 9e6).map(({ id }) => id);

  it('are filtered by state, tenant, rank, waiting time and words', () => {
    expect(ids({ phases: new Set(['queued']) })).toEqual([1, 2]);
    expect(ids({ tenant: 'bob' })).toEqual([2]);
    expect(ids({ rankMax: 1 })).toEqual([2, 3, 4]);
    expect(ids({ waitsMin: 3e6 })).toEqual([1, 2]);
    expect(ids({ text: 'bob' })).toEqual([2]);
    expect(ids({ text: '3' })).toEqual([3]);
  });

  it('are in order: who is longest in its state first, equals by number', () => {
    expect(ids({}, 'since', true)).toEqual([3, 2, 1, 4]);
    expect(ids({}, 'rank')).toEqual([3, 2, 4, 1]);
  });
});

describe('a map of blocks', () => {
  const memory: BoardMemory = {
    at: 0,
    total: 100,
    free: 80,
    reserved: 2,
    ranges: [
      [0, 10, 7, 'used'],
      [10, 2, 7, 'tail'],
      [20, 5, 8, 'used'],
      [25, 5, 0, 'kept'],
    ],
    freeRanges: 2,
    longestFree: 70,
  };

  it('fits its place, however many there are', () => {
    for (const total of [1, 24, 170, 2048, 30_000, 1_000_000]) {
      const grid = gridOf(total, 330, 160);
      expect(grid.columns * grid.rows).toBeGreaterThanOrEqual(total);
      expect(grid.columns * grid.blockWidth).toBeLessThanOrEqual(330.001);
      expect(grid.rows * grid.rowHeight).toBeLessThanOrEqual(160);
    }
  });

  it('finds the block under a point, and whose it is', () => {
    const grid = gridOf(100, 200, 100);
    const { blockWidth, rowHeight, columns } = grid;
    expect(blockAt(grid, 0, 0)).toBe(0);
    expect(blockAt(grid, 2.5 * blockWidth, 1.5 * rowHeight)).toBe(columns + 2);
    expect(blockAt(grid, 1e4, 0)).toBe(-1);
    expect(rangeAt(memory, 11)?.[3]).toBe('tail');
    expect(rangeAt(memory, 15)).toBeNull();
  });

  it('has figures: groups are contiguous blocks of one request', () => {
    const { groups, meanRun, fragmentation, blocks } = figuresOf(memory);
    expect([groups, meanRun, blocks]).toEqual([2, 8.5, { used: 15, tail: 2, moving: 0, kept: 5 }]);
    expect(fragmentation).toBeCloseTo(1 - 70 / 78);
  });
});

describe('a story', () => {
  const spell = (state: Story['states'][number]['state']) => ({ state }) as Story['states'][number];

  it('names the ways that were gone, and none across what was left out', () => {
    const story = {
      states: [spell('queued'), spell('prefilling'), spell('decoding')],
      state: 'done',
      states_left_out: 0,
    } as unknown;
    expect([...waysOf(story as Story)]).toEqual(['queued>prefilling', 'prefilling>decoding', 'decoding>done']);
  });

  it('is of the request that was asked for, is none where it is not known, and no other answer is taken for that', async () => {
    onTestFinished(() => void vi.unstubAllGlobals());
    const asked = (body: string, status = 200) => {
      vi.stubGlobal('fetch', async () => new Response(body, { status }));
      return storyOf(7);
    };
    expect(await asked('{"choices":[{"request":8},{"request":7}]}')).toEqual({ request: 7 });
    expect(await asked('{"choices":[{"request":8}]}')).toBeNull();
    expect(await asked('{}', 404)).toBeNull();
    await expect(asked('{}', 503)).rejects.toThrow('503');
    await expect(asked('<html>')).rejects.toThrow();
  });

  it('parts sentences from moments', () => {
    const story = {
      explanation: [
        'Request 7 is swapped out.',
        '+1.250 s  preempted by request 9',
        '+12.00 ms  admitted',
        '+2.000 s  now: it waits',
      ],
    } as unknown;
    const { now, summary, happened } = linesOf(story as Story);
    expect([now, summary]).toEqual(['it waits', ['Request 7 is swapped out.']]);
    expect(happened.map(({ time, words }) => [time, words])).toEqual([
      ['+1.250 s', 'preempted by request 9'],
      ['+12.00 ms', 'admitted'],
    ]);
  });
});

it('writes numbers in few digits', () => {
  expect([0, 480, 12_345, 999_000, 3_210_000, 75e6, 3.72e9].map(span)).toEqual([
    '0 s',
    '480 µs',
    '12.3 ms',
    '999 ms',
    '3.2 s',
    '1m 15s',
    '1h 02m',
  ]);
  expect([bytes(0), bytes(1536), bytes(8 * 2 ** 20), rate(1.25e9)]).toEqual(['0 B', '1.50 KiB', '8.00 MiB', '1.25 GB/s']);
  expect([percent(0), percent(0.034), percent(0.5), percent(1)]).toEqual(['0 %', '3.4 %', '50 %', '100 %']);
  expect([moment(0), moment(61_234_567), moment(3.7e9)]).toEqual(['00:00.000', '01:01.234', '1:01:40.000']);
  expect([ordinal(3), ordinal(2.25), ordinal(-1.5), ordinal(1_234_567.8)]).toEqual(['3', '2.3', '-1.5', '1,234,568']);
});
