/** What a client hears while it waits, what it may ask afterwards, and what an admin may change meanwhile. */
import { describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/actors/system.js';
import { LivedBench } from '../core/lived.js';
import { bytesOf, ENDED, failed } from './scripted-system.js';
import { framesOf, type Serving, serving, until } from './serving.js';

const payload = { model: 'tiny', prompt: 'x', stream: true };
const stream = ({ server }: Serving, more: object = {}, headers: Record<string, string> = {}) =>
  server.inject({ method: 'POST', url: '/v1/completions', payload: { ...payload, ...more }, headers });
const commentsOf = (body: string) => body.split('\n\n').filter((frame) => frame.startsWith(':'));
const bearer = (key: string | undefined) => ({ authorization: `Bearer ${key}` });

describe('a stream that waits', () => {
  test('hears its place in the line when it changes, and is a stream from then on', { timeout: 15_000 }, async () => {
    const at = await serving();
    at.system.lines.set(1, 7);
    const answer = stream(at);
    await until(() => at.system.requests.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 2600));
    at.system.lines.set(1, 2);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    at.system.requests[0]?.turn('running');
    await new Promise((resolve) => setTimeout(resolve, 1100));
    at.system.requests[0]?.emit(bytesOf('a'));
    at.system.requests[0]?.end(ENDED);
    const { body, statusCode } = await answer;
    expect(statusCode).toBe(200);
    expect(commentsOf(body)).toEqual([': queued 7', ': queued 2']);
    expect(framesOf(body).at(-1)).toBe('[DONE]');
  });

  test('hears that it was preempted and goes on, once each, in the order in which it happened', async () => {
    const at = await serving();
    at.system.script = () => [
      { turn: 'running' },
      { tokens: bytesOf('a') },
      { waitMillis: 20 },
      { turn: 'preempted' },
      { turn: 'preempted' },
      { waitMillis: 20 },
      { turn: 'running' },
      { tokens: bytesOf('b') },
      ENDED,
    ];
    const { body } = await stream(at);
    expect(commentsOf(body)).toEqual([': preempted', ': resumed']);
    expect(body.indexOf('"text":"a"')).toBeLessThan(body.indexOf(': preempted'));
    expect(body.indexOf(': resumed')).toBeLessThan(body.indexOf('"text":"b"'));
  });

  test('is still an HTTP error where it fails before it has heard anything', async () => {
    const at = await serving();
    at.system.script = () => [{ turn: 'running' }, failed('out of luck')];
    expect((await stream(at)).statusCode).toBe(500);
  });

  test("in its tenant's own line hears its place there", { timeout: 10_000 }, async () => {
    const at = await serving({ tenants: { blue: { concurrency: 1 } } });
    const asked = [0, 1, 2].map(() => stream(at, {}, bearer(at.keys.blue)));
    await until(() => at.system.requests.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 1700));
    for (let index = 0; index < 3; index += 1) {
      await until(() => at.system.requests.length > index);
      at.system.requests[index]?.end(ENDED);
    }
    const comments = (await Promise.all(asked)).map(({ body }) => commentsOf(body));
    expect(comments).toEqual([[], [': queued 1'], [': queued 2']]);
  });
});

/** A core in which 1 was preempted by 2, under the labels that the face gave. */
function lived(): LivedBench {
  const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
  bench.arrive(1, 40, { priority: 5, tenant: 'blue' });
  bench.step();
  bench.arrive(2, 4, { priority: 1, tenant: 'red/ada' });
  bench.step();
  bench.land();
  return bench;
}

function explained(bench: LivedBench, id: number): Explanation[] {
  return bench.lives.find(id).map((life) => ({ life, at: bench.at, story: bench.story(life.id), waitingFor: null }));
}

describe('return_timing', () => {
  test('puts where the time went beside the usage, whole and streamed', async () => {
    const at = await serving();
    const bench = lived();
    at.system.script = () => [{ tokens: bytesOf('a') }, ENDED];
    at.system.explanations = (name) => (name.startsWith('cmpl-') ? explained(bench, 1) : []);
    const whole = (await stream(at, { stream: false, return_timing: true })).json();
    expect(Object.keys(whole).slice(-3)).toEqual(['choices', 'usage', 'timing']);
    expect(whole.timing).toEqual({
      seconds: expect.any(Number),
      line_seconds: expect.any(Number),
      first_token_seconds: expect.any(Number),
      choices: [
        {
          index: 0,
          seconds: expect.any(Number),
          first_token_seconds: 0.014,
          seconds_by_state: expect.objectContaining({ queued: 0, prefilling: 0.014, swapping_out: expect.any(Number) }),
          preemptions: 1,
        },
      ],
    });
    const last = async (more: object) => framesOf((await stream(at, { return_timing: true, ...more })).body).at(-2);
    expect(await last({})).toMatchObject({ choices: [], timing: { choices: [{ preemptions: 1 }] } });
    expect(await last({})).not.toHaveProperty('usage');
    expect(await last({ stream_options: { include_usage: true } })).toMatchObject({
      choices: [],
      usage: { completion_tokens: 1 },
      timing: { choices: [{ preemptions: 1 }] },
    });
    expect((await stream(at, { stream: false })).json()).not.toHaveProperty('timing');
  });
});

describe('requests of others', () => {
  const tenants = { blue: {}, red: {}, ops: { admin: true } };

  test("are not there for anybody but an admin; the list has one's own", async () => {
    const at = await serving({ tenants });
    const bench = lived();
    at.system.explanations = (name) => explained(bench, Number(name));
    const status = async (id: number, who: string) =>
      (await at.server.inject({ url: `/v1/requests/${id}`, headers: bearer(at.keys[who]) })).statusCode;
    expect([await status(1, 'blue'), await status(1, 'red'), await status(2, 'red'), await status(2, 'blue')]).toEqual([
      200, 404, 200, 404,
    ]);
    expect([await status(1, 'ops'), await status(2, 'ops')]).toEqual([200, 200]);

    at.system.explanations = () => [];
    const asked = [stream(at, { user: 'ada' }, bearer(at.keys.blue)), stream(at, {}, bearer(at.keys.red))];
    await until(() => at.system.requests.length === 2);
    const list = async (who: string) =>
      (await at.server.inject({ url: '/v1/requests', headers: bearer(at.keys[who]) })).json().data as {
        tenant: string;
        id: string;
      }[];
    expect((await list('blue')).map(({ tenant }) => tenant)).toEqual(['blue/ada']);
    expect((await list('red')).map(({ tenant }) => tenant)).toEqual(['red']);
    expect((await list('ops')).map(({ tenant }) => tenant)).toEqual(['blue/ada', 'red']);
    expect((await list('ops'))[0]).toMatchObject({
      object: 'request',
      id: expect.stringMatching(/^cmpl-/),
      request: 1,
      state: 'queued',
      priority: 0,
      prompt_tokens: expect.any(Number),
    });
    for (const request of at.system.requests) request.end(ENDED);
    await Promise.all(asked);
  });

  test('without keys everybody sees all', async () => {
    const at = await serving();
    const asked = stream(at, { user: 'blue' });
    await until(() => at.system.requests.length === 1);
    expect((await at.server.inject('/v1/requests')).json()).toMatchObject({ object: 'list', data: [{ tenant: 'blue' }] });
    at.system.requests[0]?.end(ENDED);
    await asked;
  });
});

describe('PATCH /v1/requests/{id}', () => {
  const patch = ({ server }: Serving, name: string, body: object, headers: Record<string, string> = {}) =>
    server.inject({ method: 'PATCH', url: `/v1/requests/${name}`, payload: body, headers: { host: '127.0.0.1', ...headers } });

  test('changes the priority and the objectives of every living choice, for an admin alone', async () => {
    const at = await serving({ tenants: { blue: {}, ops: { admin: true } } });
    const bench = lived();
    at.system.explanations = (name) => (name === 'cmpl-x' ? [...explained(bench, 1), ...explained(bench, 2)] : []);
    const refused = await patch(at, 'cmpl-x', { priority: 0 }, bearer(at.keys.blue));
    expect([refused.statusCode, refused.json().error.code]).toEqual([403, 'forbidden']);
    const done = await patch(at, 'cmpl-x', { priority: -2, ttft_seconds: 1.5 }, bearer(at.keys.ops));
    expect([done.statusCode, done.json()]).toEqual([
      200,
      { object: 'request', id: 'cmpl-x', requests: [1, 2], priority: -2, ttft_seconds: 1.5 },
    ]);
    expect(at.system.priorities).toEqual([
      [1, -2, { ttftMicros: 1_500_000, tbtMicros: null }],
      [2, -2, { ttftMicros: 1_500_000, tbtMicros: null }],
    ]);
    // What is left out stays: the priority of each, and the other objective.
    bench.promise(1, 250_000, 40_000);
    await patch(at, 'cmpl-x', { ttft_seconds: null }, bearer(at.keys.ops));
    await patch(at, 'cmpl-x', { priority: 3 }, bearer(at.keys.ops));
    expect(at.system.priorities.slice(2)).toEqual([
      [1, null, { ttftMicros: null, tbtMicros: 40_000 }],
      [2, null, { ttftMicros: null, tbtMicros: null }],
      [1, 3],
      [2, 3],
    ]);
  });

  test('says what is wrong', async () => {
    const at = await serving({ config: { admin: true } });
    const bench = lived();
    bench.abort(1, 'operator');
    at.system.explanations = (name) => (name === '1' || name === '2' ? explained(bench, Number(name)) : []);
    const error = async (name: string, body: object, headers: Record<string, string> = {}) => {
      const answer = await patch(at, name, body, headers);
      return [answer.statusCode, answer.json().error.message, answer.json().error.param];
    };
    expect(await error('1', { priority: 1 })).toEqual([
      404,
      expect.stringMatching(/^No request '1' is alive: it has ended/),
      null,
    ]);
    expect(await error('9', { priority: 1 })).toEqual([404, "No request '9' is known.", null]);
    expect(await error('2', {})).toEqual([400, "Give 'priority', 'ttft_seconds' or 'tbt_seconds'.", 'priority']);
    expect(await error('2', { priority: 1.5 })).toEqual([400, expect.stringContaining('32 bits'), 'priority']);
    expect(await error('2', { weight: 1 })).toEqual([400, expect.stringContaining('Unrecognized'), 'weight']);
    expect(await error('2', { tbt_seconds: -1 })).toEqual([
      400,
      expect.stringContaining('seconds from 0.001 to 86400, or null for none'),
      'tbt_seconds',
    ]);
    expect((await error('2', { priority: 1 }, { host: 'evil.example' }))[0]).toBe(403);
    expect((await error('2', { priority: 1 }, { origin: 'http://evil.example' }))[0]).toBe(403);
    expect(at.system.priorities).toEqual([]);
    expect((await patch(at, '2', { priority: 1 })).statusCode).toBe(200);
  });

  test('without keys needs --admin', async () => {
    const at = await serving();
    const answer = await patch(at, '1', { priority: 1 });
    expect([answer.statusCode, answer.json().error.message]).toEqual([403, expect.stringContaining('--admin')]);
  });
});

describe('PATCH /v1/tenants/{name}', () => {
  const patch = ({ server, keys }: Serving, name: string, body: object | string, who = 'ops') =>
    server.inject({
      method: 'PATCH',
      url: `/v1/tenants/${name}`,
      headers: { ...bearer(keys[who]), 'content-type': 'application/json' },
      payload: typeof body === 'string' ? body : JSON.stringify(body),
    });

  test('is in force at once, for what runs and for what waits in line', async () => {
    const at = await serving({ tenants: { blue: { concurrency: 1, weight: 2 }, ops: { admin: true } } });
    const asked = [0, 1, 2].map(() => stream(at, {}, bearer(at.keys.blue)));
    await until(() => at.system.requests.length === 1);
    const answer = await patch(at, 'blue', { weight: 4, concurrency: 2 });
    expect([answer.statusCode, answer.json()]).toMatchObject([
      200,
      { object: 'tenant', tenant: 'blue', weight: 4, concurrency: 2, usage: { choices: 2, line: 1, waiting_choices: 3 } },
    ]);
    expect(at.system.weights).toEqual([['blue', 4]]);
    await until(() => at.system.requests.length === 2);
    expect((await patch(at, 'blue', { concurrency: null })).json()).toMatchObject({ concurrency: null });
    await until(() => at.system.requests.length === 3);
    expect(at.system.requests[2]?.request.weight).toBe(4);
    for (const request of at.system.requests) request.end(ENDED);
    await Promise.all(asked);
  });

  test('says what is wrong, and to whom it is not open', async () => {
    const at = await serving({ tenants: { blue: {}, ops: { admin: true } } });
    const error = async (...given: Parameters<typeof patch>) => {
      const answer = await patch(...given);
      return [answer.statusCode, answer.json().error.message];
    };
    expect(await error(at, 'blue', { weight: 2 }, 'blue')).toEqual([403, expect.stringContaining('"admin"')]);
    expect(await error(at, 'nobody', { weight: 2 })).toEqual([404, "There is no tenant 'nobody'."]);
    expect(await error(at, 'blue', { weight: 0 })).toEqual([400, "'weight' is 0; allowed is a number from 0.001 to 1000."]);
    expect(await error(at, 'blue', { admin: true })).toEqual([
      400,
      expect.stringMatching(/^'admin' is not known; known are weight/),
    ]);
    expect(await error(at, 'blue', { queue: 1 })).toEqual([400, expect.stringContaining('needs "concurrency" or "soft"')]);
    for (const body of ['[]', '{}', '3', 'null']) expect((await patch(at, 'blue', body)).statusCode).toBe(400);
    expect((await patch(at, 'blue', '{')).json().error.code).toBe('invalid_json');
  });

  test("one's own tenant may be looked at, and no other's", async () => {
    const at = await serving({ tenants: { blue: { weight: 2 }, ops: { admin: true } } });
    const get = async (url: string, who: string) => {
      const answer = await at.server.inject({ url, headers: bearer(at.keys[who]) });
      return [answer.statusCode, answer.json()];
    };
    expect(await get('/v1/tenants', 'blue')).toMatchObject([200, { object: 'list', data: [{ tenant: 'blue', weight: 2 }] }]);
    expect((await get('/v1/tenants', 'ops'))[1].data.map(({ tenant }: { tenant: string }) => tenant)).toEqual(['blue', 'ops']);
    expect((await get('/v1/tenants/ops', 'blue'))[0]).toBe(404);
    expect((await get('/v1/tenants/blue', 'ops'))[0]).toBe(200);
    expect(JSON.stringify(await get('/v1/tenants', 'ops'))).not.toMatch(/sha256|fsk_/);
  });
});
