import { connect, type Socket } from 'node:net';
import { createParser } from 'eventsource-parser';
import { describe, expect, onTestFinished, test } from 'vitest';
import { LONG, LONG_TEXT } from './fixtures/tokenizers.js';
import { type Beat, bytesOf, ENDED, ScriptedSystem } from './scripted-system.js';
import { type Serving, serving, until } from './serving.js';

interface Wire {
  readonly socket: Socket;
  /** What arrived, one entry per read of the socket. */
  readonly reads: string[];
  readonly all: () => string;
  readonly closed: () => boolean;
}

function wire({ url }: Serving, text: string): Wire {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  const reads: string[] = [];
  let closed = false;
  socket.on('data', (data) => reads.push(data.toString('utf8')));
  socket.on('error', () => {});
  socket.on('close', () => {
    closed = true;
  });
  socket.write(text);
  onTestFinished(() => void socket.destroy());
  return { socket, reads, all: () => reads.join(''), closed: () => closed };
}

function request(path: string, body: object, headers: readonly string[] = []): string {
  const json = JSON.stringify({ model: 'tiny', ...body });
  return [
    `POST ${path} HTTP/1.1`,
    'host: localhost',
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(json)}`,
    ...headers,
    '',
    json,
  ].join('\r\n');
}

const STREAM = request('/v1/completions', { prompt: 'x', stream: true });
const WHOLE = request('/v1/completions', { prompt: 'x' });

describe('a stream on the wire', () => {
  test('is framed as server-sent events that a parser reads', async () => {
    const at = await serving({ listen: true });
    at.system.script = () => [{ tokens: bytesOf('a\n\nb') }, { waitMillis: 5 }, { tokens: bytesOf('é') }, ENDED];
    const response = await fetch(`${at.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'tiny', prompt: 'x', stream: true }),
    });
    const data: string[] = [];
    const parser = createParser({ onEvent: (event) => data.push(event.data), onError: (error) => expect.fail(error.message) });
    parser.feed(await response.text());
    expect(data.at(-1)).toBe('[DONE]');
    expect(
      data
        .slice(0, -1)
        .map((json) => (JSON.parse(json) as { choices: [{ text: string }] }).choices[0].text)
        .join(''),
    ).toBe('a\n\nbé');
  });

  test('tokens that came together leave in one write', async () => {
    const at = await serving({ listen: true });
    at.system.script = () => [
      { tokens: bytesOf('first') },
      { waitMillis: 40 },
      { tokens: bytesOf('second') },
      { waitMillis: 40 },
      ENDED,
    ];
    const client = wire(at, STREAM);
    await until(() => client.all().includes('[DONE]'));
    const bodies = client.reads.filter((read) => read.includes('data: '));
    expect(bodies.length).toBe(3);
    expect(bodies.map((read) => /"text":"(\w+)"/.exec(read)?.[1] ?? '')).toEqual(['first', 'second', '']);
  });

  test('the last frame, the usage and [DONE] leave with the last tokens', async () => {
    const at = await serving({ listen: true });
    at.system.script = () => [{ tokens: bytesOf('all') }, ENDED];
    const client = wire(at, STREAM);
    await until(() => client.all().includes('[DONE]'));
    expect(client.reads.filter((read) => read.includes('data: ')).length).toBe(1);
  });

  test('two requests on one connection are both answered', async () => {
    const at = await serving({ listen: true });
    at.system.script = () => [{ tokens: bytesOf('hey') }, ENDED];
    const client = wire(at, STREAM + WHOLE);
    await until(() => client.all().split('hey').length === 3);
    expect(client.closed()).toBe(false);
  });
});

describe('a client that leaves', () => {
  const leaving = async (
    text: string,
    beats: readonly Beat[],
    ready: (at: Serving, client: Wire) => boolean,
  ): Promise<Serving> => {
    const at = await serving({ listen: true });
    at.system.script = () => beats;
    const client = wire(at, text);
    await until(() => ready(at, client));
    client.socket.destroy();
    await until(() => at.system.requests.every(({ aborted }) => aborted !== null));
    return at;
  };
  const queued = (at: Serving): boolean => at.system.requests.length > 0;
  const busy: Beat[] = Array.from({ length: 500 }, (): Beat[] => [{ tokens: [97] }, { waitMillis: 5 }]).flat();

  test.each([
    ['while queued, streaming', STREAM, [], queued],
    ['while queued, not streaming', WHOLE, [], queued],
    ['while tokens flow', STREAM, busy, (_at: Serving, client: Wire) => client.all().includes('data: ')],
    ['between tokens', STREAM, [{ tokens: [97] }], (_at: Serving, client: Wire) => client.all().includes('data: ')],
    ['before the whole answer', WHOLE, busy, (at: Serving) => (at.system.requests[0]?.emitted ?? 0) > 3],
  ] as const)('%s: the work ends', async (_name, text, beats, ready) => {
    const { system } = await leaving(text, beats, ready);
    expect(system.requests.map(({ aborted }) => aborted)).toEqual(['client']);
  });

  test("takes all its choices with it, and nobody else's", async () => {
    const at = await serving({ listen: true });
    const other = wire(at, STREAM);
    await until(() => at.system.requests.length === 1);
    const client = wire(at, request('/v1/completions', { prompt: ['a', 'b'], n: 2, stream: true }));
    await until(() => at.system.requests.length === 5);
    client.socket.destroy();
    await until(() => at.system.requests.filter(({ aborted }) => aborted === 'client').length === 4);
    at.system.requests[0]?.emit(bytesOf('still here'));
    at.system.requests[0]?.end(ENDED);
    await until(() => other.all().includes('[DONE]'));
    expect(other.all()).toContain('still here');
    expect(at.system.requests[0]?.aborted).toBe(null);
  });

  test('while its body is arriving leaves nothing behind', async () => {
    const at = await serving({ listen: true });
    const client = wire(at, WHOLE.slice(0, -10));
    await new Promise((resolve) => setTimeout(resolve, 20));
    client.socket.destroy();
    expect((await fetch(`${at.url}/health`)).status).toBe(200);
    expect(at.system.requests).toEqual([]);
  });

  test('after the end aborts nothing', async () => {
    const at = await serving({ listen: true });
    at.system.script = () => [{ tokens: [97] }, ENDED];
    const client = wire(at, STREAM);
    await until(() => client.all().includes('[DONE]'));
    client.socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(at.system.requests[0]?.aborted).toBe(null);
  });
});

describe('a client that stops reading', () => {
  // A thousand of these are 64 MiB: more than any socket buffers.
  const flood: Beat[] = Array.from({ length: 1000 }, (): Beat[] => [{ tokens: [LONG] }, { waitMillis: 1 }]).flat();
  const info = { contextTokensMax: 4096 };

  test('is given up after stallSeconds, and cut', async () => {
    const at = await serving({ listen: true, config: { stallSeconds: 0.3 }, system: new ScriptedSystem(info) });
    at.system.script = () => flood;
    const client = wire(at, request('/v1/completions', { prompt: 'x', stream: true, max_tokens: 2000 }));
    client.socket.pause();
    await until(() => at.system.requests[0]?.aborted !== null && at.system.requests[0]?.aborted !== undefined);
    expect(at.system.requests[0]?.aborted).toBe('stalled');
    client.socket.resume();
    await until(() => client.closed());
    expect(client.all()).not.toContain('[DONE]');
  });

  test('but one that only waits for its turn is not', async () => {
    const at = await serving({ listen: true, config: { stallSeconds: 0.05 } });
    const client = wire(at, STREAM);
    await until(() => at.system.requests.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 300));
    at.system.requests[0]?.emit([97]);
    await new Promise((resolve) => setTimeout(resolve, 200));
    at.system.requests[0]?.end(ENDED);
    await until(() => client.all().includes('[DONE]'));
  });

  test('nor one that reads slowly but reads', async () => {
    const at = await serving({ listen: true, config: { stallSeconds: 0.4 }, system: new ScriptedSystem(info) });
    at.system.script = () => [...flood.slice(0, 200), ENDED];
    const client = wire(at, request('/v1/completions', { prompt: 'x', stream: true, max_tokens: 2000 }));
    let bytes = 0;
    client.socket.on('data', (data) => {
      bytes += data.length;
      client.socket.pause();
      setTimeout(() => client.socket.resume(), 4);
    });
    await until(() => client.all().includes('[DONE]') || client.closed());
    expect(at.system.requests[0]?.aborted).toBe(null);
    expect(bytes).toBeGreaterThan(99 * LONG_TEXT.length);
  });

  test('and is far behind before the time is up: its queue has a limit', async () => {
    const at = await serving({
      listen: true,
      config: { stallSeconds: 60 },
      system: new ScriptedSystem({ contextTokensMax: 100_000 }),
    });
    at.system.script = () => [...flood, ...Array.from({ length: 40 }, (): Beat => ({ tokens: Array(500).fill(97) }))];
    const client = wire(at, request('/v1/completions', { prompt: 'x', stream: true, max_tokens: 90_000 }));
    client.socket.pause();
    await until(() => at.system.requests[0]?.aborted === 'stalled');
  });
});

describe('large and broken input', () => {
  test('a body of 20 MB is taken where the limit allows, and refused with 413 where not', async () => {
    const body = JSON.stringify({ model: 'tiny', prompt: 'x'.repeat(20_000_000) });
    const send = async (at: Serving): Promise<{ status: number; code: string }> => {
      const response = await fetch(`${at.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      });
      return { status: response.status, code: ((await response.json()) as { error: { code: string } }).error.code };
    };
    expect(await send(await serving({ listen: true, config: { bodyLimitBytes: 32 * 2 ** 20 } }))).toEqual({
      status: 400,
      code: 'context_length_exceeded',
    });
    expect(await send(await serving({ listen: true, config: { bodyLimitBytes: 2 ** 20 } }))).toEqual({
      status: 413,
      code: 'body_too_large',
    });
  });

  test('what is no HTTP gets 400 in the same shape, and the next client is served', async () => {
    const at = await serving({ listen: true });
    const client = wire(at, 'HELLO\r\n\r\n');
    await until(() => client.closed());
    expect(client.all()).toMatch(/^HTTP\/1\.1 400 /);
    expect(JSON.parse(client.all().split('\r\n\r\n')[1] ?? '')).toMatchObject({ error: { type: 'invalid_request_error' } });
    const long = wire(at, `GET /health HTTP/1.1\r\nx: ${'y'.repeat(40_000)}\r\n\r\n`);
    await until(() => long.closed());
    expect(long.all()).toMatch(/^HTTP\/1\.1 431 /);
    expect((await fetch(`${at.url}/health`)).status).toBe(200);
  });
});
