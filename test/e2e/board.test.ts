/** The board of the real server: its figures are those of /metrics, while hundreds of requests run and swap. */
import { connect, type Socket } from 'node:net';
import { createParser } from 'eventsource-parser';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { applyDelta, type BoardDelta, type BoardFrame, type BoardRequest } from '../../src/core/board.js';
import { idle, post, type RunningServer, startServer, until } from './server.js';

const REQUESTS = 200;
const BLOCK_KIB = 48;

interface Viewer {
  readonly frames: BoardFrame[];
  snapshots: number;
  ended: boolean;
}

/** Follows the board until the test is over. */
async function follow(url: string): Promise<Viewer> {
  const viewer: Viewer = { frames: [], snapshots: 0, ended: false };
  const parser = createParser({
    onEvent: ({ event, data }) => {
      if (event === 'snapshot') viewer.snapshots += 1;
      const before = viewer.frames.at(-1);
      const frame =
        event === 'snapshot'
          ? (JSON.parse(data) as BoardFrame)
          : applyDelta(before as BoardFrame, JSON.parse(data) as BoardDelta);
      viewer.frames.push(frame);
    },
  });
  const leaving = new AbortController();
  onTestFinished(() => leaving.abort());
  const answer = await fetch(`${url}/board/events`, { signal: leaving.signal });
  const read = async () => {
    const text = new TextDecoder();
    for await (const chunk of answer.body ?? []) parser.feed(text.decode(chunk, { stream: true }));
  };
  void read()
    .catch(() => {})
    .then(() => {
      viewer.ended = true;
    });
  return viewer;
}

/** Connects, reads the first bytes and nothing more. */
function stall(url: string): Socket {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.write('GET /board/events HTTP/1.1\r\nhost: localhost\r\n\r\n');
  socket.once('data', () => socket.pause());
  socket.on('error', () => {});
  onTestFinished(() => void socket.destroy());
  return socket;
}

/** Figures that only grow, by their names in /metrics; and the same from a frame. */
const GROWING: Readonly<Record<string, (frame: BoardFrame) => number>> = {
  fastswitch_steps_total: ({ totals }) => totals.steps,
  fastswitch_generated_tokens_total: ({ totals }) => totals.generatedTokens,
  'fastswitch_computed_tokens_total{kind="prefill"}': ({ totals }) => totals.prefillTokens,
  'fastswitch_computed_tokens_total{kind="decode"}': ({ totals }) => totals.decodeTokens,
  'fastswitch_preemptions_total{kind="swap"}': ({ totals }) => totals.preemptions.swap,
  'fastswitch_preemptions_total{kind="recompute"}': ({ totals }) => totals.preemptions.recompute,
  'fastswitch_transfers_total{direction="out"}': ({ totals }) => totals.transfers.out,
  'fastswitch_transfers_total{direction="in"}': ({ totals }) => totals.transfers.in,
  'fastswitch_transfer_bytes_total{direction="out"}': ({ totals }) => totals.bytes.out,
  'fastswitch_transfer_bytes_total{direction="in"}': ({ totals }) => totals.bytes.in,
  'fastswitch_transfer_runs_total{direction="out"}': ({ totals }) => totals.runs.out,
  'fastswitch_requests_finished_total{outcome="length"}': ({ outcomes }) => outcomes.length,
  fastswitch_ttft_seconds_count: ({ ttftSeconds }) => ttftSeconds.count,
  fastswitch_tbt_seconds_count: ({ tbtSeconds }) => tbtSeconds.count,
  fastswitch_step_seconds_count: ({ stepSeconds }) => stepSeconds.count,
};

async function scraped(url: string): Promise<ReadonlyMap<string, number>> {
  const page = await (await fetch(`${url}/metrics`)).text();
  return new Map(
    page
      .split('\n')
      .filter((line) => line.startsWith('fastswitch_'))
      .map((line): [string, number] => {
        const at = line.lastIndexOf(' ');
        return [line.slice(0, at), Number(line.slice(at + 1))];
      }),
  );
}

describe('the board of a server under load', () => {
  let server: RunningServer;
  beforeAll(async () => {
    server = await startServer('--policy', 'priority', '--device-kv', `${60 * BLOCK_KIB}KiB`, '--max-context', '512', '--admin');
  });
  afterAll(async () => {
    expect(await server?.stop()).toBe(0);
  });

  it('has the figures of /metrics, whether or not somebody else has stalled', { timeout: 120_000 }, async () => {
    const { url } = server;
    stall(url);
    const viewer = await follow(url);
    const answers = Array.from({ length: REQUESTS }, (_, n) =>
      post(`${url}/v1/completions`, {
        ...{ model: 'demo', prompt: `Once upon a time, number ${n}`, ignore_eos: true, max_tokens: 40 + (n % 60) },
        ...{ priority: n % 5, user: `tenant-${n % 7}` },
      }),
    );
    let over = false;
    const all = Promise.all(answers).then(() => {
      over = true;
    });
    let compared = 0;
    while (!over) {
      const before = await scraped(url);
      const seen = viewer.frames.length;
      await until('another frame', () => viewer.frames.length > seen + 1);
      const frame = viewer.frames.at(-1) as BoardFrame;
      const after = await scraped(url);
      for (const [name, read] of Object.entries(GROWING)) {
        expect(read(frame), name).toBeGreaterThanOrEqual(before.get(name) ?? Number.NaN);
        expect(read(frame), name).toBeLessThanOrEqual(after.get(name) ?? Number.NaN);
      }
      compared += 1;
    }
    await all;
    expect(compared).toBeGreaterThan(2);
    await idle(server);
    const figures = await scraped(url);
    const newest = viewer.frames.length;
    // Maps are drawn once a second.
    await until('the memories as they are now', () => {
      const frame = viewer.frames.at(-1) as BoardFrame;
      return viewer.frames.length > newest + 1 && frame.device.at > (viewer.frames[newest - 1] as BoardFrame).at;
    });
    const frame = viewer.frames.at(-1) as BoardFrame;
    for (const [name, read] of Object.entries(GROWING)) expect([name, read(frame)]).toEqual([name, figures.get(name)]);
    expect(frame.counts).toEqual({
      queued: 0,
      prefilling: 0,
      decoding: 0,
      'swapping-out': 0,
      swapped: 0,
      'swapping-in': 0,
      done: REQUESTS,
    });
    expect(frame.device.free).toBe(figures.get('fastswitch_blocks{memory="device",use="free"}'));
    expect(frame.host.free).toBe(figures.get('fastswitch_blocks{memory="host",use="free"}'));
    expect(frame.totals.preemptions.swap).toBeGreaterThan(10);
    expect(viewer.snapshots).toBe(1);
    expectSaid(viewer.frames);
  });

  it('moves when it is told to: a priority, an end, a drain', async () => {
    const { url } = server;
    const viewer = await follow(url);
    const body = { model: 'demo', prompt: 'On and on', ignore_eos: true, max_tokens: 480 };
    const ends = Array.from({ length: 16 }, () =>
      post(`${url}/v1/completions`, body).then(
        () => 'done',
        (error: Error) => error.message,
      ),
    );
    await until('they are there', () => viewer.frames.at(-1)?.requests.length === 16);
    // The last in rank, which has longest to go.
    const [row] = (viewer.frames.at(-1) as BoardFrame).requests.slice(-1) as [BoardRequest];
    const now = () => viewer.frames.at(-1)?.requests.find(({ id }) => id === row.id);
    await post(`${url}/board/requests/${row.id}/priority`, { priority: 77 });
    await until('its priority is another', () => now()?.priority === 77 && now()?.rank === 77);
    await post(`${url}/board/requests/${row.id}/abort`, {});
    await until('it has gone', () => now() === undefined);
    expect((await Promise.all(ends)).filter((end) => end !== 'done')).toEqual([expect.stringMatching(/^503: .*aborted/)]);
    await post(`${url}/board/drain`, {});
    await until('it has drained', () => viewer.frames.at(-1)?.server === 'stopped');
    expect(viewer.frames.at(-1)?.outcomes.aborted).toBe(1);
    const refused = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    });
    expect(refused.status).toBe(503);
  });
});

/** No frame says what another denies, and no text of anybody is in any. */
function expectSaid(frames: readonly BoardFrame[]): void {
  for (const frame of frames) {
    const live = Object.entries(frame.counts).reduce((sum, [phase, count]) => sum + (phase === 'done' ? 0 : count), 0);
    expect(frame.requests.length).toBe(live);
    expect(frame.tenants.reduce((sum, tenant) => sum + tenant.live, 0)).toBe(live);
    for (const { device, host } of [frame]) {
      for (const { total, free, reserved, ranges } of [device, host]) {
        expect(ranges.reduce((sum, [, blocks]) => sum + blocks, 0) + free - reserved).toBe(total);
      }
    }
  }
  expect(frames.some((frame) => frame.counts.swapped > 0)).toBe(true);
  expect(frames.some((frame) => frame.transfers.length > 0 || frame.totals.transfers.out > 0)).toBe(true);
  expect(JSON.stringify(frames)).not.toContain('Once upon');
}
