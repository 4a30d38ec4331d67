/** Tenants on the real server: keys, live changes, comments in streams, what is written down, and what SIGHUP does. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { outlinedRequest } from '../../src/actors/records.js';
import { contentsOf } from '../actors/journals.js';
import { idle, type RunningServer, runToEnd, startServer, until } from './server.js';
import { posting, type Wire, wire } from './wire.js';

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-e2e-tenants-'));
afterAll(() => rmSync(scratch, { recursive: true }));

interface Keyed {
  readonly path: string;
  readonly keys: Readonly<Record<string, string>>;
}

/** Makes keys with the program's own command and writes its lines into a file. */
async function tenantsFile(given: Readonly<Record<string, readonly string[]>>): Promise<Keyed> {
  const keys: Record<string, string> = {};
  const entries: string[] = [];
  for (const [tenant, flags] of Object.entries(given)) {
    const { code, stdout, stderr } = await runToEnd(['keys', '--tenant', tenant, ...flags]);
    expect(code).toBe(0);
    entries.push(stdout.trim());
    keys[tenant] = /fsk_[\w-]{43}/.exec(stderr)?.[0] as string;
  }
  const path = join(mkdtempSync(join(scratch, 'file-')), 'tenants.json');
  writeFileSync(path, `[${entries.join(',\n')}]\n`, { mode: 0o600 });
  return { path, keys };
}

async function started(...flags: string[]): Promise<RunningServer> {
  const server = await startServer('--drain-seconds', '2', ...flags);
  onTestFinished(() => void server.process.kill('SIGKILL'));
  return server;
}

const bearer = (key: string | undefined) => ({ authorization: `Bearer ${key}` });
const LONG = { model: 'demo', prompt: 'Once upon a time', temperature: 0, ignore_eos: true, max_tokens: 900, stream: true };

/** A stream, asked for with a key and a request id of its own. */
const streaming = (server: RunningServer, key: string, id: string, more: object = {}): Wire =>
  wire(server.url, posting('/v1/completions', { ...LONG, ...more }, `authorization: Bearer ${key}`, `x-request-id: ${id}`));
const tokensIn = (client: Wire) => client.text().split('data: {').length - 1;

async function call<T>(server: RunningServer, key: string | undefined, path: string, body?: object, method = 'PATCH') {
  const answer = await fetch(`${server.url}${path}`, {
    ...(body === undefined ? {} : { method, body: JSON.stringify(body) }),
    headers: { 'content-type': 'application/json', ...bearer(key) },
  });
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as T };
}

interface Listed {
  readonly data: readonly { readonly tenant: string; readonly state: string; readonly request: number }[];
}

describe('a swapped request', () => {
  it('whose priority is raised over HTTP runs within one step and its swap-in, and its stream says so', {
    timeout: 90_000,
  }, async () => {
    const { path, keys } = await tenantsFile({ ops: ['--admin'], blue: ['--priority', '5'], red: ['--priority', '1'] });
    const folder = mkdtempSync(join(scratch, 'journal-'));
    const server = await started('--policy', 'priority', '--max-running', '1', '--tenants', path, '--journal', folder);
    const low = streaming(server, keys.blue as string, 'low');
    await until('the first runs', () => tokensIn(low) > 20);
    const high = streaming(server, keys.red as string, 'high', { max_tokens: 1400 });
    const state = async (tenant: string) => {
      const { data } = (await call<Listed>(server, keys.ops, '/v1/requests')).body;
      return data.find((one) => one.tenant === tenant);
    };
    await until('the first is swapped out for the second', async () => (await state('blue'))?.state === 'swapped');
    await until('it was told', () => low.text().includes(': preempted\n'));
    const before = tokensIn(low);
    const request = (await state('blue'))?.request;
    const raised = await call(server, keys.ops, '/v1/requests/low', { priority: 0 });
    expect([raised.status, raised.body]).toEqual([200, { object: 'request', id: 'low', requests: [request], priority: 0 }]);
    await until('it goes on', () => tokensIn(low) > before);
    expect(high.text()).not.toContain('[DONE]');
    expect(low.text()).toMatch(/: preempted\n[\s\S]*: resumed\n/);
    await low.answers(1);
    await high.answers(1);
    expect(await server.stop()).toBe(0);

    const { records } = contentsOf(folder);
    const at = records.findIndex((record) => record.type === 'reprioritized');
    expect(records[at]).toMatchObject({ pairs: [request, 0] });
    // Its way back: a swap-in, or nothing to copy; then its first step.
    const isBack = (type: string) => type === 'swapIn' || type === 'resume';
    const back = records.findIndex(
      ({ effects }, index) =>
        index >= at && effects.some((effect) => isBack(String(effect[0])) && outlinedRequest(effect) === request),
    );
    expect(back).toBeGreaterThanOrEqual(at);
    const steps = records.slice(at + 1, back + 1).filter(({ type }) => type === 'stepped').length;
    expect(steps).toBeLessThanOrEqual(1);
    const given = readdirSync(folder)
      .map((name) => readFileSync(join(folder, name), 'latin1'))
      .join('');
    for (const key of Object.values(keys)) expect(given).not.toContain(key.slice(4));
    expect(given).not.toContain(scratch);
    expect(server.output()).not.toMatch(/fsk_|sha256:/);
  });
});

describe('a server with tenants', () => {
  it('reads its file again on SIGHUP, keeps the old one where the new is wrong, and ends on SIGTERM', {
    timeout: 90_000,
  }, async () => {
    const { path, keys } = await tenantsFile({ blue: [], ops: ['--admin'] });
    const other = await tenantsFile({ green: ['--weight', '2'] });
    const server = await started('--tenants', path);
    expect(server.output()).toContain('2 tenants: blue, ops\n');
    const status = async (key: string | undefined) => (await call(server, key, '/v1/models')).status;
    expect([await status(keys.blue), await status(other.keys.green), await status(undefined)]).toEqual([200, 401, 401]);
    const running = streaming(server, keys.blue as string, 'running');
    await until('it runs', () => tokensIn(running) > 5);

    writeFileSync(path, readFileSync(other.path));
    server.process.kill('SIGHUP');
    await until('the file is read', () => server.output().includes('1 tenants: green\n'));
    expect([await status(keys.blue), await status(other.keys.green)]).toEqual([401, 200]);

    writeFileSync(path, '[{"tenant": "green", "key": "sha256:short"}]');
    server.process.kill('SIGHUP');
    await until('it is refused', () => server.output().includes('the tenants stay as they were'));
    expect(server.output()).toMatch(/entry 1 \("green"\): "key" is something else; allowed is "sha256:" and 64 digits/);
    expect(await status(other.keys.green)).toBe(200);
    const [answer] = await running.answers(1);
    expect(answer?.body).toContain('[DONE]');
    expect(await server.stop()).toBe(0);
  });

  it('says what is left, tells a waiting stream its place, and where the time went', { timeout: 90_000 }, async () => {
    const { path, keys } = await tenantsFile({
      // Slow to fill again, so that something is missing however long the server takes.
      blue: ['--requests-per-minute', '10', '--tokens-per-minute', '10000', '--ttft-seconds', '0.001'],
      ops: ['--admin'],
    });
    const server = await started('--tenants', path, '--max-running', '1', '--policy', 'fcfs');
    const key = keys.blue as string;
    const busy = [0, 1, 2].map((index) =>
      streaming(server, key, `busy-${index}`, { prompt: `Story ${index}`, max_tokens: 1500 }),
    );
    await until('one waits and is told so', () => busy.some((client) => /: queued [12]\n/.test(client.text())));
    const { status, headers } = await call(server, key, '/v1/models');
    expect([status, headers.get('x-ratelimit-limit-requests'), headers.get('x-ratelimit-limit-tokens')]).toEqual([
      200,
      '10',
      '10000',
    ]);
    expect(Number(headers.get('x-ratelimit-remaining-requests'))).toBeLessThan(10);
    expect(Number(headers.get('x-ratelimit-remaining-tokens'))).toBeLessThan(10_000);
    for (const client of busy) client.socket.destroy();
    const { body } = await call<{
      usage: { completion_tokens: number };
      timing: { seconds: number; choices: [{ seconds_by_state: object }] };
    }>(server, key, '/v1/completions', { ...LONG, stream: false, max_tokens: 20, return_timing: true }, 'POST');
    expect(body.usage.completion_tokens).toBe(20);
    expect(body.timing).toMatchObject({ seconds: expect.any(Number), choices: [{ index: 0, preemptions: 0 }] });
    expect(Object.keys(body.timing.choices[0].seconds_by_state)).toEqual([
      'queued',
      'prefilling',
      'decoding',
      'swapping_out',
      'swapped',
      'swapping_in',
    ]);
    expect(await server.metric('fastswitch_slo_choices_total{tenant="blue",objective="ttft",result="missed"}')).toBeGreaterThan(
      0,
    );
    expect(await server.metric('fastswitch_tenant_weight{tenant="blue"}')).toBe(1);
    expect(await server.metric('vllm:num_requests_waiting{model_name="demo",engine="0"}')).toBe(0);
    expect((await fetch(`${server.url}/ready`)).status).toBe(200);
    expect(await server.stop()).toBe(0);
  });

  it('keeps room in its queue for a tenant that has little there, while another fills it', { timeout: 90_000 }, async () => {
    const { path, keys } = await tenantsFile({ flood: [], light: [] });
    const server = await started('--tenants', path, '--max-running', '1', '--max-queued', '10');
    const flood = Array.from({ length: 40 }, (_, index) => streaming(server, keys.flood as string, `flood-${index}`));
    const refused = () => flood.filter((client) => client.text().startsWith('HTTP/1.1 429 ')).length;
    // One runs, and were all places for whoever comes first, ten would wait.
    await until('the flood is refused', () => refused() >= 29);
    expect(flood.find((client) => client.text().startsWith('HTTP/1.1 429 '))?.text()).toMatch(/\r\nretry-after: \d+\r\n/);
    const light = streaming(server, keys.light as string, 'light', { max_tokens: 3 });
    // It is served before those of the flood that came first, too: that is the scheduler's doing.
    const [answer] = await light.answers(1);
    expect([answer?.status, answer?.body]).toEqual([200, expect.stringContaining('[DONE]')]);
    expect(await server.metric('fastswitch_requests_finished_total{outcome="rejected"}')).toBe(0);
    for (const client of flood) client.socket.destroy();
    await idle(server);
    expect(await server.metric('fastswitch_request_prompt_tokens_count')).toBeGreaterThan(0);
    expect(await server.metric('vllm:request_generation_tokens_sum{model_name="demo",engine="0"}')).toBeGreaterThanOrEqual(3);
    expect(await server.stop()).toBe(0);
  });

  it("shows its board to a browser that gives an admin's key as the password, and to no other", { timeout: 60_000 }, async () => {
    const { path, keys } = await tenantsFile({ ops: ['--admin'], blue: [] });
    const server = await started('--tenants', path);
    const basic = (key: string) => ({ authorization: `Basic ${Buffer.from(`me:${key}`).toString('base64')}` });
    /** Reads until `shown` was there. */
    const asked = async (address: string, headers: Record<string, string>, shown = '') => {
      const leaving = new AbortController();
      const answer = await fetch(`${server.url}${address}`, { headers, signal: leaving.signal });
      const text = new TextDecoder();
      let said = '';
      if (answer.status === 200)
        for await (const chunk of answer.body ?? []) {
          said += text.decode(chunk, { stream: true });
          if (said.toLowerCase().includes(shown)) break;
        }
      leaving.abort();
      return { status: answer.status, challenge: answer.headers.get('www-authenticate'), said };
    };
    for (const [address, shown] of [
      ['/board', '<!doctype html>'],
      ['/board/about', '"admin":true'],
      ['/board/events', 'event: snapshot'],
    ] as const) {
      const seen = await asked(address, basic(keys.ops as string), shown);
      expect([address, seen.status, seen.challenge, seen.said.toLowerCase()]).toEqual([
        address,
        200,
        null,
        expect.stringContaining(shown),
      ]);
      const wrong = (keys.ops as string).replace(/.$/, (last) => (last === 'A' ? 'B' : 'A'));
      for (const headers of [{}, basic(wrong), basic(keys.blue as string), basic(''), bearer(wrong)])
        expect([address, await asked(address, headers)]).toEqual([
          address,
          { status: 401, challenge: 'Basic realm="fastswitch board", charset="UTF-8"', said: '' },
        ]);
    }
    // Elsewhere a browser that remembers a name and a password gets nothing by it.
    expect((await asked('/v1/requests', basic(keys.ops as string))).status).toBe(401);
    const order = { method: 'POST', body: '{}', headers: { ...basic(keys.ops as string), 'content-type': 'application/json' } };
    const foreign = await fetch(`${server.url}/board/drain`, {
      ...order,
      headers: { ...order.headers, origin: 'http://evil.example' },
    });
    expect(foreign.status).toBe(403);
    expect((await fetch(`${server.url}/board/drain`, order)).status).toBe(200);
    expect(await server.stop()).toBe(0);
  });
});
