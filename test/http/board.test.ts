/** The board over HTTP: its page, its one stream, and who may change something. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createParser } from 'eventsource-parser';
import type { FastifyInstance } from 'fastify';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { applyDelta, type BoardAbout, type BoardDelta, type BoardFrame, type BoardOrder } from '../../src/core/board.js';
import { FastswitchError } from '../../src/errors.js';
import { Feed, type FeedOptions, VIEWERS_MAX } from '../../src/http/board/feed.js';
import { type BoardParts, registerBoard } from '../../src/http/board/routes.js';
import { bareServer } from '../../src/http/server.js';
import { registerNames } from '../../src/http/visitors.js';
import { ScriptedSystem } from './scripted-system.js';
import { serving, until } from './serving.js';

const page = mkdtempSync(join(tmpdir(), 'fastswitch-page-'));
mkdirSync(join(page, 'assets'));
mkdirSync(join(page, 'charts'));
writeFileSync(join(page, 'index.html'), '<!doctype html><title>the board</title>');
writeFileSync(join(page, 'assets', 'index-abc123.js'), 'document.title');
writeFileSync(join(page, 'assets', '.hidden'), 'secret');
writeFileSync(join(page, 'charts', 'request.svg'), '<svg xmlns="http://www.w3.org/2000/svg"/>');
writeFileSync(join(page, 'secret.txt'), 'secret');
afterAll(() => rmSync(page, { recursive: true }));

const ABOUT: BoardAbout = {
  ...{ version: '0.0.0', source: 'live', model: 'tiny', preset: 'default', policy: 'fcfs', blockTokens: 16, blockBytes: 4096 },
  ...{ maxRunning: 4, maxBatchTokens: 64, contextTokensMax: 1024, admin: true, recording: null },
};

interface Board {
  readonly system: ScriptedSystem;
  readonly feed: Feed;
  readonly server: FastifyInstance;
  readonly url: string;
}

/** A board alone, over a scripted system. */
async function board(options: Partial<FeedOptions> = {}, parts: Partial<BoardParts> = {}): Promise<Board> {
  const system = new ScriptedSystem();
  const feed = new Feed({ read: (maps) => system.board(maps), player: () => null }, { periodMillis: 10, ...options });
  const server = bareServer({ bodyLimitBytes: 65_536, logLevel: 'silent' }, () => 'serving');
  const defaults = {
    about: () => ABOUT,
    feed,
    requests: system,
    control: null,
    player: null,
    stallSeconds: 60,
  };
  registerNames(server, { host: 'box.lan', allowedHosts: '', all: true, keyed: false });
  registerBoard(server, { ...defaults, pageFolder: page, ...parts });
  await server.listen({ host: '127.0.0.1', port: 0 });
  onTestFinished(async () => {
    feed.close();
    server.server.closeAllConnections();
    await server.close();
  });
  return { system, feed, server, url: `http://127.0.0.1:${(server.server.address() as AddressInfo).port}` };
}

interface Sent {
  readonly event: string;
  readonly data: unknown;
}

/** Follows a stream until the test is over. `frame`: as a page has it, from the snapshots and what came after them. */
function follow(url: string): { events: Sent[]; frame(): BoardFrame; leave(): void; status: Promise<number>; ended(): boolean } {
  const events: Sent[] = [];
  const leaving = new AbortController();
  let frame: BoardFrame | null = null;
  let ended = false;
  const parser = createParser({
    onEvent: ({ event = '', data }) => {
      const sent: Sent = { event, data: JSON.parse(data) };
      events.push(sent);
      if (event === 'snapshot') frame = sent.data as BoardFrame;
      if (event === 'delta') frame = applyDelta(frame as BoardFrame, sent.data as BoardDelta);
    },
    onError: (error) => expect.fail(error.message),
  });
  const opened = fetch(`${url}/board/events`, { signal: leaving.signal });
  const read = async () => {
    const answer = await opened;
    const text = new TextDecoder();
    for await (const chunk of answer.body ?? []) parser.feed(text.decode(chunk, { stream: true }));
  };
  void read()
    .catch(() => {})
    .then(() => {
      ended = true;
    });
  onTestFinished(() => leaving.abort());
  return {
    events,
    frame: () => frame as BoardFrame,
    leave: () => leaving.abort(),
    status: opened.then(({ status }) => status),
    ended: () => ended,
  };
}

describe('the page', () => {
  test('has one address, is asked for anew each time, and runs nothing but its own scripts', async () => {
    const { server } = await board();
    const answer = await server.inject('/board');
    expect([answer.statusCode, answer.headers['content-type'], answer.headers['cache-control']]).toEqual([
      200,
      expect.stringMatching(/^text\/html/),
      'no-cache',
    ]);
    expect(answer.body).toContain('the board');
    const policy = String(answer.headers['content-security-policy']);
    expect(policy).toContain("default-src 'none'");
    for (const kind of ['script', 'style', 'img', 'connect']) expect(policy).toContain(`${kind}-src 'self';`);
    expect(policy).not.toContain('unsafe');
    expect(policy).toContain("frame-ancestors 'none'");
    expect(answer.headers).toMatchObject({ 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' });
    const again = await server.inject({ url: '/board', headers: { 'if-none-match': String(answer.headers.etag) } });
    expect(again.statusCode).toBe(304);
    const slashed = await server.inject('/board/');
    expect([slashed.statusCode, slashed.body]).toEqual([200, answer.body]);
  });

  test('has assets that never change and charts that may', async () => {
    const { server } = await board();
    const asset = await server.inject('/board/assets/index-abc123.js');
    expect([asset.statusCode, asset.body]).toEqual([200, 'document.title']);
    expect(asset.headers['cache-control']).toBe('public, max-age=31536000, immutable');
    expect(asset.headers['content-type']).toMatch(/javascript/);
    const chart = await server.inject('/board/charts/request.svg');
    expect([chart.statusCode, chart.headers['cache-control'], chart.headers['content-type']]).toEqual([
      200,
      'no-cache',
      'image/svg+xml',
    ]);
    for (const { headers } of [asset, chart]) expect(headers['content-security-policy']).toBeDefined();
  });

  test.each([
    '/board/assets/../secret.txt',
    '/board/assets/..%2fsecret.txt',
    '/board/assets/%2e%2e/secret.txt',
    '/board/assets/%2e%2e%2fsecret.txt',
    '/board/assets/..%5csecret.txt',
    '/board/assets/x/../../secret.txt',
    '/board/assets//etc/passwd',
    '/board/assets/.hidden',
    '/board/assets/',
    '/board/assets',
    '/board/assets/nothing.js',
    '/board/secret.txt',
    '/board/index.html',
    '/board/charts/../secret.txt',
    '/board/charts/%00',
  ])('gives nothing at %s', async (path) => {
    const { url } = await board();
    // By hand: fetch would tidy the path up.
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    let text = '';
    socket.on('data', (data) => {
      text += data;
    });
    socket.write(`GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n`);
    await new Promise((resolve) => socket.once('close', resolve));
    expect(text).toMatch(/^HTTP\/1\.1 (400|403|404) /);
    expect(text).not.toContain('Under this name');
    expect(text).not.toContain('secret\n');
    expect(text).not.toMatch(/root:|>the board<|\r\n\r\nsecret/);
  });

  test('says how to build it where it is not', async () => {
    const { server } = await serving();
    for (const address of ['/board', '/board/']) {
      const answer = await server.inject(address);
      expect([answer.statusCode, answer.headers['content-type']]).toEqual([404, 'text/plain; charset=utf-8']);
      expect(answer.body).toContain('npm run build');
    }
  });
});

describe('a name of the server', () => {
  const addresses = ['/board', '/board/about', '/board/events', '/board/requests/1', '/board/assets/index-abc123.js'];

  test.each(addresses)('that somebody else could have gives nothing at %s', async (url) => {
    const { server, feed } = await board();
    for (const host of ['evil.example', 'evil.example:8080', '127.0.0.1.evil.example', 'localhost.evil.example', 'x@127.0.0.1']) {
      const answer = await server.inject({ url, headers: { host } });
      expect([answer.statusCode, answer.json()], host).toEqual([403, { error: expect.objectContaining({ code: 'forbidden' }) }]);
    }
    expect(feed.viewers).toBe(0);
  });

  test.each(['127.0.0.1:8080', '[::1]:8080', '192.168.0.7', 'localhost', 'board.localhost:80', 'BOX.lan:8080'])(
    '%s is its own',
    async (host) => {
      const { server } = await board();
      expect((await server.inject({ url: '/board/about', headers: { host } })).json()).toEqual(ABOUT);
    },
  );
});

describe('what is known before the first frame', () => {
  test('names the model and how it is run', async () => {
    const { server } = await serving({ config: { preset: 'vllm-1', policy: 'vtc', maxRunning: 7 } });
    expect((await server.inject('/board/about')).json()).toEqual({
      ...{ version: '0.0.0', source: 'live', model: 'tiny', preset: 'vllm-1', policy: 'vtc', blockTokens: 16, blockBytes: 4096 },
      ...{ maxRunning: 7, maxBatchTokens: 512, contextTokensMax: 1024, admin: false, recording: null },
    });
  });
});

describe('the stream', () => {
  test('begins with a whole frame and goes on with what has changed', async () => {
    const at = await serving({ listen: true });
    const viewer = follow(at.url);
    await until(() => viewer.events.length >= 2);
    expect(viewer.events.slice(0, 2).map(({ event }) => event)).toEqual(['snapshot', 'delta']);
    expect(viewer.frame().requests).toEqual([]);
    const body = JSON.stringify({ model: 'tiny', prompt: 'x', user: 'ada', priority: 3 });
    void fetch(`${at.url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    await until(() => viewer.frame().requests.length === 1);
    const [row] = viewer.frame().requests;
    expect(row).toMatchObject({ id: 1, tenant: 'ada', priority: 3, label: expect.stringMatching(/^cmpl-/) });
    at.system.requests[0]?.emit([1, 2, 3]);
    await until(() => viewer.frame().requests[0]?.generated === 3);
    expect(viewer.events.filter(({ event }) => event === 'snapshot').length).toBe(1);
    at.system.requests[0]?.end({ outcome: 'stop', code: null, message: null, cachedTokens: 0, retryAfterSeconds: null });
    await until(() => viewer.frame().requests.length === 0);
    expect(viewer.frame().record).toBeGreaterThan(2);
  });

  test('costs nothing while nobody looks, and one look at a time for all who do', async () => {
    const { system, feed, url } = await board();
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(system.looks.count).toBe(0);
    system.looks.millis = 5;
    const viewers = Array.from({ length: 8 }, () => follow(url));
    await until(() => viewers.every(({ events }) => events.length >= 5));
    expect([feed.viewers, system.looks.most]).toEqual([8, 1]);
    const [newest] = viewers.map((viewer) => viewer.frame().at);
    expect(viewers.every((viewer) => Math.abs(viewer.frame().at - (newest as number)) <= 2)).toBe(true);
    for (const viewer of viewers) viewer.leave();
    await until(() => feed.viewers === 0 && !feed.looking);
    const looked = system.looks.count;
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect(system.looks.count).toBe(looked);
    // Who comes later begins with a frame of then.
    const late = follow(url);
    await until(() => late.events.length >= 1);
    expect(late.events[0]).toMatchObject({ event: 'snapshot', data: { at: expect.any(Number) } });
    expect(late.frame().at).toBeGreaterThan(looked);
  });

  test('draws the memories once in a while, and keeps them meanwhile', async () => {
    const { system, url } = await board({ mapsMillis: 100 });
    const viewer = follow(url);
    await until(() => viewer.events.length >= 30);
    expect(system.looks.maps).toBeGreaterThanOrEqual(2);
    expect(system.looks.maps).toBeLessThan(system.looks.count / 3);
    expect(viewer.frame().device.ranges).toEqual([[0, 4, 1, 'used']]);
    const drawn = viewer.events.filter(({ data }) => 'device' in (data as object)).length;
    expect(drawn).toBe(system.looks.maps);
  });

  test('has fewer frames where one takes long', async () => {
    const { system, url } = await board({ periodMillis: 10 });
    system.looks.millis = 20;
    const viewer = follow(url);
    await until(() => viewer.events.length >= 2);
    const before = system.looks.count;
    await new Promise((resolve) => setTimeout(resolve, 500));
    // 160 ms each: by the period alone there would be some twenty.
    expect(system.looks.count - before).toBeLessThanOrEqual(4);
  });

  test('says that it is still there when there is nothing to say', async () => {
    const { system, url } = await board({ keepAliveMillis: 20, periodMillis: 10_000 });
    const answer = await fetch(`${url}/board/events`);
    expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(answer.headers.get('cache-control')).toBe('no-store');
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    let text = '';
    while (!text.includes(': nothing new\n\n: nothing new\n\n')) text += new TextDecoder().decode((await reader.read()).value);
    expect(text).toMatch(/^retry: \d+\n\nevent: snapshot\n/);
    await reader.cancel();
    expect(system.looks.count).toBe(1);
  });

  test('is refused to one viewer too many, until another leaves', async () => {
    const { feed, url } = await board();
    const viewers = Array.from({ length: VIEWERS_MAX }, () => follow(url));
    await until(() => feed.viewers === VIEWERS_MAX);
    const refused = await fetch(`${url}/board/events`);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await refused.json()).toMatchObject({ error: { code: 'too_many_viewers' } });
    viewers[0]?.leave();
    await until(() => feed.viewers < VIEWERS_MAX);
    expect(await follow(url).status).toBe(200);
  });

  test('tells that the engine has stopped, and ends', async () => {
    const { system, url } = await board();
    const viewer = follow(url);
    await until(() => viewer.events.length >= 2);
    system.looks.error = new FastswitchError('engine_failed', 'it is gone');
    await until(viewer.ended);
    expect(viewer.frame().server).toBe('failed');
  });

  test('reports a mistake of our own, and ends', async () => {
    const told: unknown[] = [];
    const { system, url } = await board({ report: (error) => told.push(error) });
    system.looks.error = new Error('cannot be drawn');
    const viewer = follow(url);
    await until(viewer.ended);
    expect([viewer.events, told]).toEqual([[], [system.looks.error]]);
  });

  test('ends with the server, and holds it up no longer than its last words', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 30 } });
    const [viewer, stalled] = [follow(at.url), stall(at.url)];
    fill(at.system);
    await until(() => viewer.events.length >= 3 && stalled.paused());
    const started = performance.now();
    await at.server.close();
    expect(performance.now() - started).toBeLessThan(5000);
    await until(viewer.ended);
  });

  test('shows how the server drains, as long as that takes', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 30, admin: true } });
    const json = { 'content-type': 'application/json' };
    void fetch(`${at.url}/v1/completions`, { method: 'POST', headers: json, body: '{"model":"tiny","prompt":"x"}' }).catch(
      () => {},
    );
    await until(() => at.system.requests.length === 1);
    const viewer = follow(at.url);
    await until(() => viewer.events.length >= 1);
    const closing = at.server.close();
    await until(() => viewer.frame().server === 'draining');
    expect(viewer.frame().requests.length).toBe(1);
    const aborted = await fetch(`${at.url}/board/requests/1/abort`, { method: 'POST', headers: json, body: '{}' });
    expect(aborted.status).toBe(200);
    await closing;
    await until(viewer.ended);
  });
});

/** Every look differs from the one before by more than a megabyte. */
function fill(system: ScriptedSystem): void {
  system.looks.more = 500;
  system.looks.labelLength = 3000;
}

interface Stalled {
  /** It has begun, and reads nothing any more. */
  paused(): boolean;
  /** Reads again: answers the first whole frame later than `at`. */
  wholeAfter(at: number): Promise<BoardFrame>;
}

/** A viewer that reads a little and then nothing. */
function stall(url: string): Stalled {
  let answer: IncomingMessage | null = null;
  const request = get(`${url}/board/events`, (response) => {
    answer = response;
    response.on('error', () => {});
    response.once('data', () => response.pause());
  });
  request.on('error', () => {});
  onTestFinished(() => void request.destroy());
  return {
    paused: () => answer?.isPaused() === true,
    wholeAfter: (at) =>
      new Promise((resolve, reject) => {
        const parser = createParser({
          onEvent: ({ event = '', data }) => {
            const frame = event === 'snapshot' ? (JSON.parse(data) as BoardFrame) : null;
            if (frame !== null && frame.at > at) resolve(frame);
          },
        });
        answer?.setEncoding('utf8');
        answer?.on('data', (text: string) => parser.feed(text));
        answer?.on('end', () => reject(new Error('it ended')));
        answer?.resume();
      }),
  };
}

describe('a viewer that reads nothing', () => {
  test('holds a frame or two of memory, slows nobody, and goes on with a whole frame', { timeout: 60_000 }, async () => {
    const { system, server, feed, url } = await board();
    const sockets = new Set<Socket>();
    server.server.on('connection', (socket) => sockets.add(socket));
    fill(system);
    const stalled = stall(url);
    await until(stalled.paused);
    const viewer = follow(url);
    await until(() => viewer.events.length >= 3);
    const frameBytes = JSON.stringify(viewer.frame()).length;
    let held = 0;
    // Until what the kernel takes for it is full, and long after that.
    for (let [round, full] = [0, 0]; round < 60 && full < 8; round += 1, full += held > 0 ? 1 : 0) {
      const seen = viewer.events.length;
      await until(() => viewer.events.length > seen);
      held = Math.max(...[...sockets].map(({ writableLength }) => writableLength));
    }
    expect(held).toBeGreaterThan(0);
    expect(held).toBeLessThan(3 * frameBytes);
    expect([feed.viewers, viewer.events.filter(({ event }) => event === 'snapshot').length]).toEqual([2, 1]);
    // Nobody else is there: nothing is made for one that takes nothing.
    viewer.leave();
    await until(() => feed.viewers === 1 && !feed.looking);
    const looked = system.looks.count;
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(system.looks.count).toBe(looked);
    system.looks.more = 1;
    expect((await stalled.wholeAfter(looked)).requests.length).toBe(1);
  });

  test('is cut after a while', async () => {
    const { system, feed, url } = await board({}, { stallSeconds: 1 });
    fill(system);
    const stalled = stall(url);
    await until(stalled.paused);
    const viewer = follow(url);
    await until(() => feed.viewers === 2);
    await until(() => feed.viewers === 1);
    expect(viewer.ended()).toBe(false);
  });
});

const JSON_TYPE = { 'content-type': 'application/json' };
const SELF = { ...JSON_TYPE, host: '127.0.0.1:8080' };

/** A server with one request alive. */
async function withRequest(config: object): Promise<Awaited<ReturnType<typeof serving>>> {
  const at = await serving({ config });
  void at.server.inject({ method: 'POST', url: '/v1/completions', payload: { model: 'tiny', prompt: 'x' } });
  await until(() => at.system.requests.length === 1);
  return at;
}

describe('control', () => {
  const orders = [
    ['/board/requests/1/priority', { priority: 4 }],
    ['/board/requests/1/abort', {}],
    ['/board/drain', {}],
  ] as const;

  test.each(orders)('%s is refused unless the server was started with --admin', async (url, payload) => {
    const { server, system } = await withRequest({});
    const answer = await server.inject({ method: 'POST', url, payload, headers: SELF });
    expect([answer.statusCode, answer.json()]).toEqual([403, { error: expect.objectContaining({ code: 'forbidden' }) }]);
    expect(answer.json<{ error: { message: string } }>().error.message).toContain('--admin');
    expect([system.priorities, system.requests[0]?.aborted, system.draining]).toEqual([[], null, false]);
  });

  test('changes a priority, aborts, drains', async () => {
    const { server, system } = await withRequest({ admin: true });
    const post = (url: string, payload: object) => server.inject({ method: 'POST', url, payload, headers: SELF });
    expect((await post('/board/requests/1/priority', { priority: -4 })).json()).toEqual({ request: 1, priority: -4 });
    expect(system.priorities).toEqual([[1, -4]]);
    expect((await post('/board/requests/1/abort', {})).json()).toEqual({ request: 1 });
    expect(system.requests[0]?.aborted).toBe('operator');
    await until(() => system.requests[0]?.over === true);
    for (const path of ['priority', 'abort']) {
      const late = await post(`/board/requests/1/${path}`, path === 'abort' ? {} : { priority: 1 });
      expect([late.statusCode, late.json()]).toEqual([404, { error: expect.objectContaining({ code: 'not_found' }) }]);
    }
    expect((await post('/board/drain', {})).json()).toEqual({ server: 'draining' });
    expect(system.draining).toBe(true);
    expect((await server.inject('/health')).json()).toEqual({ status: 'draining' });
    const refused = await post('/v1/completions', { model: 'tiny', prompt: 'x' });
    expect([refused.statusCode, refused.json()]).toEqual([503, { error: expect.objectContaining({ code: 'draining' }) }]);
    expect((await post('/board/drain', {})).statusCode).toBe(200);
  });

  test.each([
    ['/board/requests/1/priority', '{"priority":1.5}', 400],
    ['/board/requests/1/priority', '{"priority":"1"}', 400],
    ['/board/requests/1/priority', '{"priority":9007199254740991}', 400],
    ['/board/requests/1/priority', '{}', 400],
    ['/board/requests/1/priority', '{"priority":1,"weight":2}', 400],
    ['/board/requests/x/priority', '{"priority":1}', 400],
    ['/board/requests/0/priority', '{"priority":1}', 400],
    ['/board/requests/99999999999999999999/abort', '{}', 400],
    ['/board/requests/1/abort', '', 400],
    ['/board/requests/1/abort', '[]', 400],
    ['/board/drain', 'null', 400],
    ['/board/drain', '{"now":true}', 400],
    ['/board/drain', `{"x":"${'y'.repeat(5000)}"}`, 413],
  ])('%s refuses the body %.40s', async (url, payload, status) => {
    const { server, system } = await withRequest({ admin: true });
    const answer = await server.inject({ method: 'POST', url, payload, headers: SELF });
    expect(answer.statusCode).toBe(status);
    expect(answer.json()).toMatchObject({ error: { message: expect.any(String) } });
    expect([system.priorities, system.requests[0]?.aborted, system.draining]).toEqual([[], null, false]);
  });

  test.each(['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', undefined])(
    'takes no body of type %s, as a page of another origin could send it',
    async (type) => {
      const { server, system } = await withRequest({ admin: true });
      const headers = { host: '127.0.0.1', ...(type !== undefined && { 'content-type': type }) };
      const answer = await server.inject({ method: 'POST', url: '/board/drain', payload: '{}', headers });
      expect([400, 415]).toContain(answer.statusCode);
      const empty = await server.inject({ method: 'POST', url: '/board/drain', headers });
      expect([400, 415]).toContain(empty.statusCode);
      expect(system.draining).toBe(false);
    },
  );

  test.each([
    ['evil.example', undefined, 403],
    ['evil.example:8080', 'http://evil.example:8080', 403],
    ['127.0.0.1.evil.example', undefined, 403],
    ['127.0.0.1@evil.example', undefined, 403],
    ['127.0.0.1:8080', 'http://evil.example', 403],
    ['127.0.0.1:8080', 'http://127.0.0.1:9090', 403],
    ['127.0.0.1:8080', 'null', 403],
    ['127.0.0.1:8080', 'http://127.0.0.1:8080', 200],
    ['localhost:8080', 'http://localhost:8080', 200],
    ['board.localhost', undefined, 200],
    ['[::1]:8080', 'http://[::1]:8080', 200],
    ['192.168.0.7:8080', undefined, 200],
    ['Box.Lan:8080', 'https://Box.Lan:8080', 200],
  ])('asked of %j by %j is answered %i', async (host, origin, status) => {
    const { server } = await withRequest({ admin: true, host: 'box.lan' });
    const headers = { ...JSON_TYPE, host, ...(origin !== undefined && { origin }) };
    const answer = await server.inject({ method: 'POST', url: '/board/requests/1/priority', payload: { priority: 1 }, headers });
    expect(answer.statusCode).toBe(status);
  });

  test('plays nothing where nothing is recorded, and takes orders where something is', async () => {
    const live = await serving({ config: { admin: true } });
    const order = { method: 'POST', url: '/board/player', payload: { action: 'play' }, headers: SELF } as const;
    expect((await live.server.inject(order)).statusCode).toBe(404);
    const orders: BoardOrder[] = [];
    const { server } = await board({}, { player: (given) => orders.push(given) });
    const wanted = [
      { action: 'play', speed: 2.5 },
      { action: 'step', request: 3 },
      { action: 'seek', record: 0 },
      { action: 'seek', at: 1 },
    ];
    for (const payload of wanted) expect((await server.inject({ ...order, payload })).json()).toEqual({});
    expect(orders).toEqual(wanted);
    const wrong = [{}, { action: 'stop' }, { action: 'seek' }, { action: 'seek', record: -1 }, { action: 'play', speed: 0 }];
    for (const payload of wrong) expect((await server.inject({ ...order, payload })).statusCode).toBe(400);
    const foreign = { ...SELF, origin: 'http://evil.example' };
    expect((await server.inject({ ...order, headers: foreign })).statusCode).toBe(403);
    expect((await server.inject({ ...order, url: '/board/drain', payload: {} })).statusCode).toBe(403);
    expect(orders.length).toBe(4);
  });
});

describe('a request', () => {
  test('is not there to be put', async () => {
    const { server } = await serving();
    const answer = await server.inject({ method: 'PUT', url: '/board/requests/7', payload: {} });
    expect([answer.statusCode, answer.headers.allow]).toEqual([405, 'GET, HEAD']);
  });

  test('is explained as the API explains it', async () => {
    const { server } = await serving();
    for (const path of ['7', 'nobody', 'a/b']) {
      const [here, there] = [await server.inject(`/board/requests/${path}`), await server.inject(`/v1/requests/${path}`)];
      expect([here.statusCode, here.json()]).toEqual([there.statusCode, there.json()]);
    }
  });
});
