/** Under which names a server answers: a page of somebody else's must not reach one that has no keys by a name of its own. */
import { connect } from 'node:net';
import OpenAI from 'openai';
import { describe, expect, test } from 'vitest';
import { createBoardServer, type RecordedSource } from '../../src/http/board/recorded.js';
import { bytesOf, ENDED } from './scripted-system.js';
import { type Serving, serving } from './serving.js';

const URLS = [
  '/metrics',
  '/v1/models',
  '/v1/requests',
  '/v1/requests/1',
  '/v1/tenants',
  '/health',
  '/ready',
  '/board',
  '/nothing',
];
const status = async ({ server }: Pick<Serving, 'server'>, url: string, host: string) =>
  (await server.inject({ url, headers: { host } })).statusCode;

describe('a server of loopback without keys', () => {
  test.each(URLS)("gives nothing at %s under a name that could be anybody's", async (url) => {
    const at = await serving();
    for (const host of ['evil.example', 'evil.example:8080', '127.0.0.1.evil.example', 'localhost.evil.example', 'x@127.0.0.1']) {
      const answer = await at.server.inject({ url, headers: { host } });
      expect([answer.statusCode, answer.json().error], host).toMatchObject([
        403,
        { code: 'forbidden', type: 'permission_error' },
      ]);
      expect(answer.json().error.message).toContain('--allowed-hosts');
    }
    for (const host of [
      'localhost',
      'localhost:1',
      'localhost.',
      'LOCALHOST.:80',
      '127.0.0.1:8080',
      '[::1]:8080',
      '192.168.0.7',
      'chat.localhost:80',
    ])
      expect(await status(at, url, host), host).not.toBe(403);
  });

  test('computes nothing under such a name, and anything under its own', async () => {
    const at = await serving({ listen: true });
    at.system.script = () => [{ tokens: bytesOf('hi') }, ENDED];
    const payload = { model: 'tiny', prompt: 'x' };
    const foreign = { method: 'POST', url: '/v1/completions', headers: { host: 'evil.example' }, payload } as const;
    expect([(await at.server.inject(foreign)).statusCode, at.system.requests.length]).toEqual([403, 0]);
    const { port } = new URL(at.url);
    for (const name of ['127.0.0.1', 'localhost']) {
      const client = new OpenAI({ apiKey: 'none', baseURL: `http://${name}:${port}/v1`, maxRetries: 0 });
      expect((await client.completions.create(payload)).choices[0]?.text).toBe('hi');
    }
  });

  test('answers whoever names none, as programs that speak HTTP/1.0 do', async () => {
    const at = await serving({ listen: true });
    for (const [head, expected] of [
      ['GET /v1/models HTTP/1.0\r\n', 200],
      ['GET /v1/models HTTP/1.1\r\nhost:\r\nconnection: close\r\n', 200],
      ['GET /v1/models HTTP/1.0\r\nhost: evil.example\r\n', 403],
    ] as const) {
      const socket = connect(Number(new URL(at.url).port), '127.0.0.1');
      socket.write(`${head}\r\n`);
      let text = '';
      for await (const chunk of socket) text += chunk;
      expect([head, Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1])]).toEqual([head, expected]);
    }
  });

  test('answers under the names that its operator gave, whatever their case and port', async () => {
    const at = await serving({ config: { host: 'me.localhost', allowedHosts: 'llm.example.org, Box.lan.:80,,' } });
    for (const host of ['me.localhost', 'LLM.example.org:443', 'llm.example.org.', 'box.lan', 'box.lan:8080'])
      expect(await status(at, '/v1/models', host), host).toBe(200);
    for (const host of ['example.org', 'x.llm.example.org', 'lan']) expect(await status(at, '/v1/models', host), host).toBe(403);
  });
});

describe('where names are no protection', () => {
  const NAMES = ['llm.example.org', 'evil.example:8080'];

  test('with keys any name will do, but for the board', async () => {
    const at = await serving({ tenants: { ops: { admin: true } }, config: { allowedHosts: 'llm.example.org' } });
    const headers = { authorization: `Bearer ${at.keys.ops}` };
    const asked = async (url: string, host: string) =>
      (await at.server.inject({ url, headers: { ...headers, host } })).statusCode;
    expect(await Promise.all(NAMES.map((host) => asked('/v1/models', host)))).toEqual([200, 200]);
    expect(await Promise.all(NAMES.map((host) => asked('/board/about', host)))).toEqual([200, 403]);
  });

  test('elsewhere than on loopback any name will do, but for the board and for changes', async () => {
    const at = await serving({ config: { host: '0.0.0.0', insecure: true, admin: true } });
    for (const host of NAMES) {
      expect(await status(at, '/v1/models', host)).toBe(200);
      expect(await status(at, '/board/about', host)).toBe(403);
      const change = { method: 'PATCH', url: '/v1/requests/1', headers: { host }, payload: { priority: 1 } } as const;
      expect((await at.server.inject(change)).statusCode).toBe(403);
    }
  });

  test('the board of a recording is guarded as the live one is', async () => {
    const player = { onMoved() {}, explain: async () => [], order() {} } as unknown as RecordedSource;
    const server = createBoardServer({ about: {} as never, player, host: 'box.lan', logLevel: 'silent' });
    expect(await status({ server }, '/board/about', 'evil.example')).toBe(403);
    expect(await status({ server }, '/board/about', 'box.lan:1')).toBe(200);
    await server.close();
  });
});
