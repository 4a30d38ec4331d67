/** What a tenant may use: rates, concurrency, its own line; what clients are told about it. */
import OpenAI, { type APIError, RateLimitError } from 'openai';
import { describe, expect, test } from 'vitest';
import { Bucket } from '../../src/http/bucket.js';
import { spelled } from '../../src/http/rates.js';
import { bytesOf, ENDED, refused } from './scripted-system.js';
import { type Serving, serving, until } from './serving.js';

const bearer = (key: string | undefined) => ({ authorization: `Bearer ${key}` });
const payload = { model: 'tiny', prompt: 'abcd', max_tokens: 6 };
const ask = ({ server, keys }: Serving, more: object = {}, tenant = 'blue') =>
  server.inject({ method: 'POST', url: '/v1/completions', headers: bearer(keys[tenant]), payload: { ...payload, ...more } });
const rates = (answer: { headers: Record<string, unknown> }) =>
  Object.fromEntries(Object.entries(answer.headers).filter(([name]) => name.startsWith('x-ratelimit-')));

/** OpenAI's client, and when it called; `again` happens before every call but the first. */
function countingClient({ keys, url }: Serving, again: () => void = () => {}): { client: OpenAI; calls: readonly number[] } {
  const calls: number[] = [];
  const counted: typeof fetch = (input, init) => {
    if (calls.length > 0) again();
    calls.push(performance.now());
    return fetch(input, init);
  };
  return { client: new OpenAI({ apiKey: keys.blue as string, baseURL: `${url}/v1`, maxRetries: 3, fetch: counted }), calls };
}

describe('a bucket', () => {
  test('fills evenly, holds a minute, and may be below nothing', () => {
    const bucket = new Bucket(60, 0);
    bucket.take(60, 0);
    expect([bucket.level(0), bucket.level(1500), bucket.secondsUntil(10, 1500)]).toEqual([0, 1.5, 8.5]);
    bucket.take(31.5, 1500);
    expect([bucket.level(1500), bucket.secondsUntil(1, 1500), bucket.secondsUntilFull(1500)]).toEqual([
      -30,
      expect.closeTo(31, 9),
      90,
    ]);
    expect(bucket.level(1e6)).toBe(60);
    expect(bucket.secondsUntil(61, 1e6)).toBe(Number.POSITIVE_INFINITY);
    bucket.take(-5, 1e6);
    expect(bucket.level(1e6)).toBe(60);
  });

  test('of another size is as full as before', () => {
    const bucket = new Bucket(100, 0);
    bucket.take(75, 0);
    expect(bucket.resized(400, 0).level(0)).toBe(100);
    expect(bucket.resized(10, 0).level(0)).toBe(2.5);
  });
});

test('times are spelled as OpenAI does', () => {
  expect([0, 0.0171, 1, 1.5, 59.9, 60, 361, 3600].map(spelled)).toEqual([
    '0ms',
    '18ms',
    '1s',
    '1.5s',
    '59.9s',
    '1m0s',
    '6m1s',
    '60m0s',
  ]);
});

describe('rates', () => {
  test('are on every answer, also on errors; tokens are charged as prompt and max_tokens and put right at the end', async () => {
    const at = await serving({ tenants: { blue: { requests_per_minute: 10, tokens_per_minute: 1000 } }, now: () => 0 });
    at.system.script = () => [];
    const running = ask(at);
    await until(() => at.system.requests.length === 1);
    const during = await at.server.inject({ url: '/v1/models', headers: bearer(at.keys.blue) });
    expect(rates(during)).toEqual({
      'x-ratelimit-limit-requests': '10',
      'x-ratelimit-remaining-requests': '9',
      'x-ratelimit-reset-requests': '6s',
      'x-ratelimit-limit-tokens': '1000',
      'x-ratelimit-remaining-tokens': '990',
      'x-ratelimit-reset-tokens': '600ms',
    });
    at.system.requests[0]?.emit(bytesOf('a'));
    at.system.requests[0]?.end(ENDED);
    expect((await running).statusCode).toBe(200);
    const wrong = await ask(at, { temperature: 9 });
    expect([wrong.statusCode, rates(wrong)['x-ratelimit-remaining-tokens']]).toEqual([400, '995']);
  });

  test("of requests: 429 with the time until the next, which OpenAI's client waits", async () => {
    const clock = { now: 0 };
    const at = await serving({ listen: true, tenants: { blue: { requests_per_minute: 60 } }, now: () => clock.now });
    at.system.script = () => [{ tokens: bytesOf('a') }, ENDED];
    at.tenants.named('blue')?.requests?.take(59, clock.now);
    expect((await ask(at)).statusCode).toBe(200);
    const refusedNow = await ask(at);
    expect([refusedNow.statusCode, refusedNow.json().error]).toMatchObject([
      429,
      {
        type: 'rate_limit_error',
        code: 'rate_limit_exceeded',
        message: expect.stringMatching(/^Tenant 'blue' has used up its 60 requests a minute/),
      },
    ]);
    expect(['retry-after-ms', 'retry-after', 'x-should-retry'].map((name) => refusedNow.headers[name])).toEqual([
      '1000',
      '1',
      undefined,
    ]);
    const { client, calls } = countingClient(at, () => {
      clock.now += 1000;
    });
    expect((await client.completions.create(payload)).choices[0]?.text).toBe('a');
    expect(calls).toHaveLength(2);
    // By itself it would have come again after half a second at most.
    expect((calls[1] as number) - (calls[0] as number)).toBeGreaterThan(950);
  });

  test('of tokens: what can never fit is told not to be sent again, and is not', async () => {
    const at = await serving({ listen: true, tenants: { blue: { tokens_per_minute: 50 } }, now: () => 0 });
    at.system.script = () => [{ tokens: bytesOf('a') }, ENDED];
    const { client, calls } = countingClient(at);
    const error = await client.completions.create({ ...payload, max_tokens: 47 }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(RateLimitError);
    expect([(error as APIError).code, (error as APIError).headers?.get('x-should-retry')]).toEqual([
      'request_over_limit',
      'false',
    ]);
    expect(calls).toHaveLength(1);
    expect((await ask(at, { max_tokens: 46 })).statusCode).toBe(200);
    expect((await ask(at, { max_tokens: 46 })).statusCode).toBe(429);
  });

  test('a request that names no max_tokens is charged a little at first', async () => {
    const at = await serving({ tenants: { blue: { tokens_per_minute: 600 } }, now: () => 0 });
    at.system.script = () => [];
    const body = { model: 'tiny', messages: [{ role: 'user', content: 'x' }] };
    const url = '/v1/chat/completions';
    const running = at.server.inject({ method: 'POST', url, headers: bearer(at.keys.blue), payload: body });
    await until(() => at.system.requests.length === 1);
    expect(at.system.requests[0]?.request.maxTokens).toBeGreaterThan(900);
    expect(at.tenants.named('blue')?.tokens?.level(0)).toBeGreaterThan(50);
    at.system.requests[0]?.end(ENDED);
    await running;
  });

  test('where none is set the answers say how many requests fit, and nothing of tokens', async () => {
    const at = await serving({ config: { maxRunning: 4, maxQueued: 6 } });
    at.system.script = () => [];
    const before = await at.server.inject('/v1/models');
    expect(rates(before)).toEqual({
      'x-ratelimit-limit-requests': '10',
      'x-ratelimit-remaining-requests': '10',
      'x-ratelimit-reset-requests': '0ms',
    });
    const running = ask(at, { n: 3 });
    await until(() => at.system.requests.length === 3);
    expect(rates(await at.server.inject('/v1/models'))).toMatchObject({ 'x-ratelimit-remaining-requests': '7' });
    for (const request of at.system.requests) request.end(ENDED);
    expect((await running).headers['x-ratelimit-remaining-requests']).toBe('10');
  });
});

describe('concurrency', () => {
  test("beyond it requests wait in their tenant's line, in order, and beyond that they get 429", async () => {
    const at = await serving({ tenants: { blue: { concurrency: 2, queue: 2 }, red: {} } });
    at.system.script = () => [];
    const asked = [0, 1, 2, 3].map((index) => ask(at, { prompt: `p${index}` }));
    await until(() => at.system.requests.length === 2);
    const full = await ask(at);
    expect([full.statusCode, full.json().error, full.headers['retry-after']]).toMatchObject([
      429,
      {
        code: 'queue_full',
        message: "Tenant 'blue' has 2 choices at work and 2 requests in its line, which holds 2. Try again later.",
      },
      '1',
    ]);
    expect(rates(full)).toMatchObject({ 'x-ratelimit-limit-requests': '4', 'x-ratelimit-remaining-requests': '0' });
    const other = ask(at, {}, 'red');
    await until(() => at.system.requests.length === 3);
    at.system.requests[0]?.end(ENDED);
    await until(() => at.system.requests.length === 4);
    expect(Buffer.from(at.system.requests[3]?.request.content.promptTokens as Int32Array).toString()).toBe('p2');
    for (let done = 0; done < 5; done += 1) {
      await until(() => at.system.requests.length > done);
      at.system.requests[done]?.end(ENDED);
    }
    expect((await Promise.all([...asked, other])).map(({ statusCode }) => statusCode)).toEqual([200, 200, 200, 200, 200]);
  });

  test('more choices than it allows are refused at once, because waiting would not help', async () => {
    const at = await serving({ tenants: { blue: { concurrency: 2 } } });
    const answer = await ask(at, { n: 3 });
    expect([answer.statusCode, answer.json().error]).toMatchObject([400, { param: 'n', code: 'invalid_request' }]);
  });

  test('who leaves the line is not submitted, and who is refused while the server drains is told so', async () => {
    const at = await serving({ listen: true, tenants: { blue: { concurrency: 1 } }, config: { drainSeconds: 30 } });
    at.system.script = () => [];
    const post = (signal: AbortSignal) =>
      fetch(`${at.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...bearer(at.keys.blue) },
        body: JSON.stringify(payload),
        signal,
      });
    const stay = new AbortController();
    const first = post(stay.signal);
    await until(() => at.system.requests.length === 1);
    const leave = new AbortController();
    const second = post(leave.signal).catch(() => 'left');
    const third = post(stay.signal);
    const line = async () =>
      (await at.server.inject({ url: '/v1/tenants', headers: bearer(at.keys.blue) })).json().data[0].usage.line as number;
    for (let left = 400; (await line()) !== 2 && left > 0; left -= 1) await new Promise((resolve) => setTimeout(resolve, 5));
    leave.abort();
    expect(await second).toBe('left');
    for (let left = 400; (await line()) !== 1 && left > 0; left -= 1) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await line()).toBe(1);
    const closed = at.server.close();
    expect((await third).status).toBe(503);
    at.system.requests[0]?.end(ENDED);
    expect((await first).status).toBe(200);
    await closed;
    expect(at.system.requests.length).toBe(1);
  });
});

describe('a soft tenant', () => {
  test('waits for its rate instead of being refused', async () => {
    const clock = { now: 0 };
    const tenants = { blue: { requests_per_minute: 300, soft: true, queue: 2 } };
    const at = await serving({ tenants, now: () => clock.now });
    at.system.script = () => [{ tokens: bytesOf('a') }, ENDED];
    at.tenants.named('blue')?.requests?.take(299, clock.now);
    const answers = [0, 1, 2, 3].map(async () => ask(at));
    const refusal = await answers[3];
    expect([refusal?.statusCode, refusal?.headers['retry-after-ms']]).toEqual([429, '200']);
    for (const served of [1, 2]) {
      await answers[served - 1];
      expect(at.system.requests.length).toBe(served);
      clock.now += 200;
    }
    expect((await Promise.all(answers)).map(({ statusCode }) => statusCode)).toEqual([200, 200, 200, 429]);
  });
});

describe('a refusal by the scheduler', () => {
  test('is 429 with its own time while there is capacity, 503 once there will be none, and 400 where it never fits', async () => {
    const at = await serving();
    const outcomes = [refused('queue_full', 2.5), refused('draining'), refused('too_large')];
    at.system.script = (_, index) => [outcomes[index] ?? ENDED];
    const answers = [await ask(at), await ask(at), await ask(at)];
    expect(answers.map(({ statusCode, headers }) => [statusCode, headers['retry-after-ms'], headers['x-should-retry']])).toEqual([
      [429, '2500', undefined],
      [503, undefined, undefined],
      [400, undefined, undefined],
    ]);
    at.system.fail(new Error('gone'));
    await until(() => true);
    const after = await ask(at);
    expect([after.statusCode, after.json().error.code, after.headers['retry-after']]).toEqual([503, 'unavailable', '5']);
  });
});
