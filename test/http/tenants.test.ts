/** Keys and tenants: who is let in, what they may see, and how their file is read. */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import OpenAI, { AuthenticationError } from 'openai';
import { describe, expect, test } from 'vitest';
import { hashOf, KeyRing, newKey, readHash } from '../../src/http/keys.js';
import { readTenants, settingsBody, type TenantSettings } from '../../src/http/tenant-settings.js';
import { Tenants } from '../../src/http/tenants.js';
import { keys as makeKey } from '../../src/keys.js';
import { bytesOf, ENDED } from './scripted-system.js';
import { type Serving, serving, tenantsFile, until } from './serving.js';

const bearer = (key: string | undefined) => ({ authorization: `Bearer ${key}` });
const payload = { model: 'tiny', prompt: 'x' };
const ask = ({ server }: Serving, headers: Record<string, string>, more: object = {}) =>
  server.inject({ method: 'POST', url: '/v1/completions', headers, payload: { ...payload, ...more } });

async function keyed(tenants: Record<string, object> = { blue: {}, red: {}, ops: { admin: true }, prom: { metrics: true } }) {
  const at = await serving({ tenants });
  at.system.script = () => [{ tokens: bytesOf('hi') }, ENDED];
  return at;
}

describe('keys', () => {
  test('are long, random, and kept as a digest that finds them again', () => {
    const made = Array.from({ length: 50 }, newKey);
    expect(new Set(made).size).toBe(50);
    const ring = new KeyRing<number>();
    for (const [index, key] of made.entries()) {
      expect(key).toMatch(/^fsk_[\w-]{43}$/);
      expect(hashOf(key)).not.toContain(key);
      expect(ring.add(readHash(hashOf(key)) as Buffer, index)).toBe(true);
    }
    expect(made.map((key) => ring.find(key))).toEqual(made.map((_, index) => index));
    for (const wrong of ['', 'fsk_', `${made[0]}x`, hashOf(made[0] as string)]) expect(ring.find(wrong)).toBe(null);
    expect(ring.add(readHash(hashOf(made[3] as string)) as Buffer, 9)).toBe(false);
  });

  test('are made by a command that shows them once, beside the entry for the file', () => {
    const said = { standard: '', progress: '' };
    const output = {
      standard(text: string) {
        said.standard += text;
      },
      progress(text: string) {
        said.progress += text;
      },
    };
    makeKey(['--tenant', 'blue', '--weight', '2.5', '--soft', '--tokens-per-minute=60000', '--ttft-seconds', '0.5'], output);
    const entry = JSON.parse(said.standard) as { key: string };
    const key = /fsk_[\w-]{43}/.exec(said.progress)?.[0] as string;
    expect(entry).toEqual({
      tenant: 'blue',
      key: hashOf(key),
      weight: 2.5,
      soft: true,
      tokens_per_minute: 60000,
      ttft_seconds: 0.5,
    });
    expect(said.standard).not.toContain(key);
    expect(said.standard.endsWith('}\n')).toBe(true);
    for (const [argv, message] of [
      [[], /needs --tenant/],
      [['--tenant', 'a b'], /"tenant" is "a b"; allowed is a name/],
      [['--tenant', 'a', '--weight', 'two'], /"weight" is "two"; allowed is a number/],
      [['--tenant', 'a', '--queue', '3'], /"queue" needs "concurrency" or "soft"/],
      [['--tenant', 'a', '--wieght', '2'], /did you mean --weight/],
    ] as const)
      expect(() => makeKey(argv, output)).toThrow(message);
  });
});

describe('a server with a tenants file', () => {
  test('says 401 and what to do without a key or with a wrong one, at every path but the probes', async () => {
    const at = await keyed();
    for (const url of [
      '/v1/models',
      '/v1/requests',
      '/tokenize',
      '/version',
      '/nothing',
      '/board',
      '/board/events',
      '//health',
    ]) {
      const answer = await at.server.inject({ url });
      expect([url, answer.statusCode, answer.json().error]).toMatchObject([
        url,
        401,
        { type: 'authentication_error', code: 'invalid_api_key', param: null, message: expect.stringMatching(/key/) },
      ]);
      expect(answer.headers['www-authenticate']).toMatch(url.startsWith('/board') ? /^Basic realm=/ : /^Bearer$/);
    }
    const wrong = await ask(at, bearer(newKey()));
    expect([wrong.statusCode, wrong.json().error.message]).toEqual([401, expect.stringContaining('not known here')]);
    for (const url of ['/health', '/ready', '/metrics']) expect((await at.server.inject({ url })).statusCode).toBe(200);
    expect(at.system.requests).toEqual([]);
  });

  test.each([
    ['authorization', (key: string) => `Bearer ${key}`, 200],
    ['authorization', (key: string) => `bearer  ${key} `, 200],
    ['x-api-key', (key: string) => key, 200],
    ['authorization', (key: string) => key, 401],
    ['authorization', (key: string) => `Bearer ${key} ${key}`, 401],
    ['authorization', (key: string) => `Basic ${Buffer.from(`x:${key}`).toString('base64')}`, 401],
    ['api-key', (key: string) => key, 401],
  ] as const)('a key in %s (case %#) gets its status', async (header, spell, status) => {
    const at = await keyed();
    expect((await ask(at, { [header]: spell(at.keys.blue as string) })).statusCode).toBe(status);
  });

  test("OpenAI's client is let in with its key, and throws its own error without", async () => {
    const at = await serving({ tenants: { blue: {} }, listen: true });
    at.system.script = () => [{ tokens: bytesOf('hi') }, ENDED];
    const client = (apiKey: string) => new OpenAI({ apiKey, baseURL: `${at.url}/v1` });
    expect((await client(at.keys.blue as string).completions.create(payload)).choices[0]?.text).toBe('hi');
    await expect(client('sk-wrong').completions.create(payload)).rejects.toBeInstanceOf(AuthenticationError);
  });

  test("the board asks a browser for an admin's key, and shows itself to no other", async () => {
    const at = await keyed();
    const basic = (key: string | undefined) => ({ authorization: `Basic ${Buffer.from(`me:${key}`).toString('base64')}` });
    const status = async (headers: Record<string, string>) =>
      (await at.server.inject({ url: '/board/about', headers })).statusCode;
    expect(await status(basic(at.keys.ops))).toBe(200);
    expect(await status(bearer(at.keys.ops))).toBe(200);
    expect(await status(basic(at.keys.blue))).toBe(401);
    expect((await at.server.inject({ url: '/board/about', headers: basic(at.keys.ops) })).json()).toMatchObject({ admin: true });
  });

  test('/metrics is open, unless it is private: then an admin or who may read metrics', async () => {
    const at = await serving({
      tenants: { blue: {}, ops: { admin: true }, prom: { metrics: true } },
      config: { privateMetrics: true },
    });
    const status = async (headers: Record<string, string>) => (await at.server.inject({ url: '/metrics', headers })).statusCode;
    expect(await status({})).toBe(401);
    expect(await status(bearer(at.keys.blue))).toBe(403);
    expect(await status(bearer(at.keys.prom))).toBe(200);
    expect(await status(bearer(at.keys.ops))).toBe(200);
  });

  test('requests go to the scheduler under their tenant, and under a user of its', async () => {
    const at = await keyed({ blue: { weight: 3, priority: 10, ttft_seconds: 2 } });
    await ask(at, bearer(at.keys.blue));
    await ask(at, bearer(at.keys.blue), { user: 'ada', priority: 2 });
    await ask(
      at,
      { ...bearer(at.keys.blue), 'x-gateway-inference-fairness-id': 'bob', 'x-slo-ttft-ms': '5000' },
      { user: 'ada' },
    );
    expect(at.system.requests.map(({ request }) => request)).toMatchObject([
      { tenant: 'blue', weight: 3, priority: 10, deadlines: { ttftMicros: 2e6, tbtMicros: null } },
      { tenant: 'blue/ada', weight: 3, priority: 12, deadlines: { ttftMicros: 2e6 } },
      { tenant: 'blue/bob', priority: 10, deadlines: { ttftMicros: 5e6 } },
    ]);
  });

  test('nobody raises itself above its tenant, but an admin may', async () => {
    const at = await keyed({ blue: { priority: 5, tbt_seconds: 0.1 }, ops: { admin: true } });
    const refused = await ask(at, bearer(at.keys.blue), { priority: -1 });
    expect([refused.statusCode, refused.json().error]).toMatchObject([400, { param: 'priority' }]);
    for (const [header, value] of [
      ['x-slo-ttft-ms', '100'],
      ['x-slo-tpot-ms', '50'],
      ['x-slo-tpot-ms', 'soon'],
    ] as const) {
      const answer = await ask(at, { ...bearer(at.keys.blue), [header]: value });
      expect([answer.statusCode, answer.json().error.param]).toEqual([400, header]);
    }
    expect(at.system.requests).toEqual([]);
    expect((await ask(at, { ...bearer(at.keys.ops), 'x-slo-ttft-ms': '1' }, { priority: -7 })).statusCode).toBe(200);
    expect(at.system.requests[0]?.request).toMatchObject({ tenant: 'ops', priority: -7, deadlines: { ttftMicros: 1000 } });
  });

  test('the users of a tenant share its weight, and who is alive hears of it soon', async () => {
    const at = await keyed({ blue: { weight: 6 }, red: {} });
    at.system.script = () => [];
    const asked = ['ada', 'bob', 'eve'].map((user) => ask(at, bearer(at.keys.blue), { user }));
    await until(() => at.system.requests.length === 3);
    expect(at.system.requests.map(({ request }) => request.weight)).toEqual([6, 3, 2]);
    await until(() => at.system.weights.length === 2);
    expect(at.system.weights).toEqual([
      ['blue/ada', 2],
      ['blue/bob', 2],
    ]);
    for (const request of at.system.requests) request.end(ENDED);
    await Promise.all(asked);
    expect(at.tenants.named('blue')?.accounts.size).toBe(0);
  });
});

describe('without a tenants file', () => {
  test('everybody is the anonymous tenant, whatever key they send, and `user` names an account', async () => {
    const at = await serving();
    at.system.script = () => [ENDED];
    await ask(at, {});
    await ask(at, bearer('none'), { user: 'blue', priority: -3 });
    expect(at.system.requests.map(({ request }) => request)).toMatchObject([
      { tenant: 'default', weight: 1, priority: 0, deadlines: { ttftMicros: null, tbtMicros: null } },
      { tenant: 'blue', weight: 1, priority: -3 },
    ]);
  });
});

describe('the tenants file', () => {
  const hash = `sha256:${'0f'.repeat(32)}`;
  const refusal = (content: unknown): string => {
    const { path } = tenantsFile({ x: {} });
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
    try {
      readTenants(path);
    } catch (error) {
      return (error as Error).message.replace(path, 'FILE');
    }
    throw new Error('accepted');
  };

  test.each([
    ['no JSON', '[{"tenant": "fsk_secret', '--tenants FILE cannot be read: it is no JSON'],
    [
      'no list',
      { tenant: 'a' },
      '--tenants FILE is no list of tenants; allowed is [{"tenant": "blue", "key": "sha256:..."}, ...]',
    ],
    ['an empty list', [], '--tenants FILE is no list of tenants; allowed is [{"tenant": "blue", "key": "sha256:..."}, ...]'],
    ['no object', ['a'], '--tenants FILE: entry 1 is no JSON object'],
    ['no name', [{ key: hash }], '--tenants FILE: entry 1 has no "tenant"'],
    ['no key', [{ tenant: 'a' }], '--tenants FILE: entry 1 ("a") has no "key"'],
    [
      'a key in the clear',
      [{ tenant: 'a', key: 'fsk_abc' }],
      '--tenants FILE: entry 1 ("a"): "key" is something else; allowed is "sha256:" and 64 digits, as "fastswitch keys" prints it, or a list of these',
    ],
    [
      'a name with a slash',
      [{ tenant: 'a/b', key: hash }],
      '--tenants FILE: entry 1 ("a/b"): "tenant" is "a/b"; allowed is a name of 1 to 64 letters, digits, dots, dashes and underscores',
    ],
    [
      'an unknown field',
      [{ tenant: 'a', key: hash, wieght: 1 }],
      /^--tenants FILE: entry 1 \("a"\): "wieght" is not known; known are tenant, key, admin, /,
    ],
    ['a field of every object', [{ tenant: 'a', key: hash, constructor: 1 }], /"constructor" is not known/],
    [
      'a weight of nothing',
      [{ tenant: 'a', key: hash, weight: 0 }],
      '--tenants FILE: entry 1 ("a"): "weight" is 0; allowed is a number from 0.001 to 1000',
    ],
    [
      'a limit that is a text',
      [{ tenant: 'a', key: hash, concurrency: '4' }],
      '--tenants FILE: entry 1 ("a"): "concurrency" is "4"; allowed is a whole number from 1 to 16777216, or null for none',
    ],
    [
      'a queue that nobody waits in',
      [{ tenant: 'a', key: hash, queue: 4 }],
      '--tenants FILE: entry 1 ("a"): "queue" needs "concurrency" or "soft": without them nobody waits in this line',
    ],
    [
      'a name twice',
      [
        { tenant: 'a', key: hash },
        { tenant: 'a', key: hash },
      ],
      '--tenants FILE: "a" is there twice; one entry may have a list of keys',
    ],
    [
      'a key twice',
      [
        { tenant: 'a', key: hash },
        { tenant: 'b', key: [hash] },
      ],
      '--tenants FILE: "b" has a key that is there already',
    ],
  ])('is refused with what is wrong and what is allowed: %s', (_name, content, message) => {
    if (typeof message === 'string') expect(refusal(content)).toBe(message);
    else expect(refusal(content)).toMatch(message);
  });

  test('of the documentation can be read, and has every field', () => {
    const page = readFileSync(new URL('../../docs/tenants.md', import.meta.url), 'utf8');
    const { path } = tenantsFile({ x: {} });
    writeFileSync(path, /```json\n([\s\S]*?)```/.exec(page)?.[1] ?? '', { mode: 0o600 });
    const { entries } = readTenants(path);
    expect(entries.map(({ settings }) => settings.name)).toEqual(['ops', 'prometheus', 'blue', 'batch']);
    const said = new Set(page.match(/^\| (`\w+`(, `\w+`)*) \|/gm)?.flatMap((row) => row.match(/\w+/g) ?? []));
    const { usage: _, ...fields } = { key: '', ...settingsBody(entries[0]?.settings as TenantSettings), usage: null };
    expect(said).toEqual(new Set(Object.keys(fields)));
  });

  test('that all may read is warned of', () => {
    const { path } = tenantsFile({ x: {} });
    expect(readTenants(path).warnings).toEqual([]);
    chmodSync(path, 0o644);
    expect(readTenants(path).warnings).toEqual([expect.stringContaining('chmod 600')]);
  });

  test('read again: new keys work, old ones do not, what was used stays used, a wrong file changes nothing', async () => {
    const at = await keyed({ blue: { requests_per_minute: 3, weight: 2 }, red: {} });
    at.system.script = () => [];
    const left = (answer: { headers: Record<string, unknown> }) => answer.headers['x-ratelimit-remaining-requests'];
    const running = ask(at, bearer(at.keys.blue));
    await until(() => at.system.requests.length === 1);
    const entries = JSON.parse(readFileSync(at.tenantsPath, 'utf8')) as { tenant: string; key: unknown }[];
    const fresh = newKey();
    const [blue] = entries;
    writeFileSync(at.tenantsPath, JSON.stringify([{ ...blue, key: [blue?.key, hashOf(fresh)], weight: 5 }]));
    at.tenants.reload();
    expect(at.system.weights).toEqual([['blue', 5]]);
    expect(left(await at.server.inject({ url: '/v1/models', headers: bearer(fresh) }))).toBe('2');
    expect((await at.server.inject({ url: '/v1/models', headers: bearer(at.keys.red) })).statusCode).toBe(401);
    writeFileSync(at.tenantsPath, '[');
    expect(() => at.tenants.reload()).toThrow(/it is no JSON/);
    expect((await at.server.inject({ url: '/v1/models', headers: bearer(fresh) })).statusCode).toBe(200);
    at.system.requests[0]?.end(ENDED);
    expect((await running).statusCode).toBe(200);
  });

  test('that is not there ends the start', () => {
    expect(() => new Tenants('nowhere.json', { promptPrice: 1, tokenPrice: 2 })).toThrow(
      /--tenants nowhere\.json cannot be read: ENOENT/,
    );
  });
});
