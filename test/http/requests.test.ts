import { describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/actors/system.js';
import type { Life } from '../../src/core/life.js';
import { LivedBench } from '../core/lived.js';
import { bytesOf, ENDED, refused } from './scripted-system.js';
import { framesOf, type Serving, serving, until } from './serving.js';

const ask = ({ server }: Serving, url: string, headers: Record<string, string> = {}) => server.inject({ url, headers });

/** Lives as a real core makes them: 1 is preempted by 2 and swapped out, 3 waits. */
function lives(): { explanations: (name: string) => Explanation[]; bench: LivedBench } {
  const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
  bench.arrive(1, 40, { priority: 5, tenant: 'blue' });
  bench.step();
  bench.arrive(2, 4, { priority: 1 });
  bench.step();
  bench.land();
  bench.arrive(3, 4, { priority: 7 });
  bench.abort(3, 'operator');
  bench.prioritize([1, 4]);
  const waitingFor = { kind: 'copy', transfer: 9, what: 'swapIn', before: 0, dueAt: bench.at + 1000 } as const;
  const explanations = (name: string) =>
    bench.lives.find(name).map((life) => ({
      ...{ life, at: bench.at, story: bench.story(life.id) },
      waitingFor: life.phase === 'swapped' ? waitingFor : null,
    }));
  return { explanations, bench };
}

async function explaining(): Promise<Serving & { bench: LivedBench }> {
  const at = await serving();
  const { explanations, bench } = lives();
  at.system.explanations = explanations;
  return { ...at, bench };
}

describe('GET /v1/requests/{id}', () => {
  test('is the life of a request as JSON, in seconds since its arrival', async () => {
    const at = await explaining();
    const life = at.bench.life(1) as Life;
    const answer = await ask(at, '/v1/requests/1');
    expect([answer.statusCode, answer.headers['content-type']]).toEqual([200, 'application/json; charset=utf-8']);
    expect(answer.headers).toMatchObject({ 'cache-control': 'no-store', vary: 'accept', 'x-request-id': expect.any(String) });
    const body = answer.json();
    expect(body).toEqual({ id: '1', object: 'request', choices: [expect.any(Object)] });
    const [choice] = body.choices;
    expect(choice).toMatchObject({
      request: 1,
      labels: [],
      tenant: 'blue',
      priority: 4,
      state: 'swapped',
      outcome: null,
      error: null,
      code: null,
      seconds: (at.bench.at - life.arrivedAt) / 1e6,
      prompt_tokens: 40,
      cached_tokens: 0,
      max_tokens: 64,
      generated_tokens: 2,
      computed_tokens: 41,
      steps: 2,
      first_token_seconds: 0.014,
      last_token_seconds: 0.024,
      longest_pause: { seconds: 0.01, at_seconds: 0.024, step_seconds: 0.01, step_tokens: 1 },
      seconds_to_first_token_by_state: { prefilling: 0.014, queued: 0 },
      preemptions: { outranked: 1, failed: 0 },
      swaps: {
        out: { copies: 1, blocks: 3, bytes: 196_608, runs: 1, copy_seconds: 0.00015, held_blocks: 0, without_copy: 0, failed: 0 },
      },
      asked_to_end: null,
      priority_changes: [{ from: 5, to: 4 }],
      waiting_for: { kind: 'copy', transfer: 9, what: 'swapIn', before: 0, due_at_seconds: expect.any(Number) },
      states_left_out: 0,
    });
    expect(choice.states[0]).toEqual({
      ...{
        state: 'queued',
        from_seconds: 0,
        to_seconds: 0,
        tokens: 0,
        preemption: null,
        lost_tokens: 0,
        swap: null,
        admission: null,
      },
    });
    expect(choice.states.slice(3)).toMatchObject([
      {
        state: 'swapping-out',
        preemption: { why: 'outranked', by: 2, own: { id: 1, priority: 5, tenant: 'blue' }, other: { id: 2, priority: 1 } },
        swap: {
          direction: 'out',
          transfer: 1,
          blocks: 3,
          held_blocks: 0,
          bytes: 196_608,
          runs: 1,
          copy_seconds: 0.00015,
          error: null,
        },
      },
      { state: 'swapped', to_seconds: null },
    ]);
    const swapped = choice.seconds_by_state.swapped as number;
    expect(swapped).toBeCloseTo(choice.seconds - choice.states[4].from_seconds, 9);
    expect(choice.explanation).toEqual(at.bench.story(1));
    expect(choice.explanation.join('\n')).toContain(
      'preempted by request 2: priority 1 outranks its 5; 3 blocks (192 KiB) sent to the host',
    );
  });

  test('says who asked for its end, and nothing of what does not apply', async () => {
    const at = await explaining();
    const [choice] = (await ask(at, '/v1/requests/3')).json().choices;
    expect(choice).toMatchObject({
      outcome: 'aborted',
      asked_to_end: { by: 'operator' },
      first_token_seconds: null,
      longest_pause: null,
      seconds_to_first_token_by_state: null,
      waiting_for: null,
    });
    expect(choice.asked_to_end.at_seconds).toBe(choice.seconds);
  });

  test.each([
    ['?format=text', undefined, 'text'],
    ['', 'text/plain', 'text'],
    ['', 'text/*;q=0.9, application/json;q=0.5', 'text'],
    ['', 'text/plain;q=0.1, */*', 'json'],
    ['', '*/*', 'json'],
    ['', 'text/html, application/xhtml+xml, */*;q=0.8', 'json'],
    ['', 'application/json;q=bad, text/plain;q=0.2', 'text'],
    ['?format=json', 'text/plain', 'json'],
  ] as const)('%s with Accept: %s is %s', async (query, accept, kind) => {
    const at = await explaining();
    const answer = await ask(at, `/v1/requests/1${query}`, accept === undefined ? {} : { accept });
    expect(answer.statusCode).toBe(200);
    if (kind === 'json') expect(answer.json()).toMatchObject({ object: 'request' });
    else {
      expect(answer.headers['content-type']).toBe('text/plain; charset=utf-8');
      expect(answer.body).toBe(`${at.bench.story(1).join('\n')}\n`);
    }
  });

  test('has an entry for every choice, with an empty line between their stories', async () => {
    const at = await explaining();
    const both = at.bench;
    at.system.explanations = (name) => (name === 'cmpl-x' ? [1, 3].flatMap((id) => lives().explanations(String(id))) : []);
    expect((await ask(at, '/v1/requests/cmpl-x')).json().choices.map(({ request }: { request: number }) => request)).toEqual([
      1, 3,
    ]);
    const { body } = await ask(at, '/v1/requests/cmpl-x?format=text');
    expect(body).toBe(`${both.story(1).join('\n')}\n\n${both.story(3).join('\n')}\n`);
  });

  test('finds ids with a slash, written out or encoded', async () => {
    const at = await serving();
    const asked: string[] = [];
    at.system.explanations = (name) => {
      asked.push(name);
      return [];
    };
    for (const path of ['team/7:a+b=', 'team%2F7:a+b=']) await ask(at, `/v1/requests/${path}?format=text`);
    expect(asked).toEqual(['team/7:a+b=', 'team/7:a+b=']);
  });

  test('does not know requests of long ago, and says so', async () => {
    const at = await explaining();
    const answer = await ask(at, `/v1/requests/${'x'.repeat(300)}`);
    expect([answer.statusCode, answer.json()]).toEqual([
      404,
      {
        error: {
          message: expect.stringMatching(
            /^No request 'x{100}' is known\. Known are those that run or wait, and the last ones that ended/,
          ),
          type: 'not_found_error',
          code: 'not_found',
          param: null,
        },
      },
    ]);
  });

  test('has two formats, and may be changed but not deleted', async () => {
    const at = await explaining();
    const deleted = await at.server.inject({ method: 'DELETE', url: '/v1/requests/1' });
    expect([deleted.statusCode, deleted.headers.allow, deleted.json().error.code]).toEqual([
      405,
      'GET, HEAD, PATCH',
      'method_not_allowed',
    ]);
    const wrong = await ask(at, '/v1/requests/1?format=xml');
    expect([wrong.statusCode, wrong.json().error]).toMatchObject([400, { code: 'invalid_request', param: 'format' }]);
  });
});

describe('what a request is called', () => {
  const body = { model: 'tiny', prompt: 'hi' };

  test.each([
    ['/v1/completions', { prompt: 'hi', n: 2 }, /^cmpl-[0-9a-f]{32}$/],
    ['/v1/chat/completions', { messages: [{ role: 'user', content: 'hi' }], n: 2 }, /^chatcmpl-[0-9a-f]{32}$/],
  ] as const)('is the id of its answer and of its HTTP request, at %s', async (url, more, pattern) => {
    const at = await serving();
    at.system.script = () => [{ tokens: bytesOf('a') }, ENDED];
    const payload = { model: 'tiny', ...more };
    const answer = await at.server.inject({ method: 'POST', url, payload, headers: { 'x-request-id': 'mine/1' } });
    const { id } = answer.json();
    expect(id).toMatch(pattern);
    expect(answer.headers['x-request-id']).toBe('mine/1');
    expect(at.system.requests.map(({ request }) => request.labels)).toEqual([
      [id, 'mine/1'],
      [id, 'mine/1'],
    ]);
  });

  test('is known to a streaming client with the first chunk, and to a refused one by its header', async () => {
    const at = await serving();
    at.system.script = (_, index) => (index === 0 ? [{ tokens: bytesOf('a') }, ENDED] : [refused('queue_full', 2)]);
    const url = '/v1/completions';
    const streamed = await at.server.inject({ method: 'POST', url, payload: { ...body, stream: true } });
    const frames = framesOf(streamed.body) as { id: string }[];
    expect(at.system.requests[0]?.request.labels).toEqual([frames[0]?.id, streamed.headers['x-request-id']]);
    const rejected = await at.server.inject({ method: 'POST', url, payload: body });
    expect(rejected.statusCode).toBe(429);
    expect(at.system.requests[1]?.request.labels[1]).toBe(rejected.headers['x-request-id']);
  });

  test('is another for every request', async () => {
    const at = await serving();
    at.system.script = () => [ENDED];
    for (let n = 0; n < 3; n += 1) await at.server.inject({ method: 'POST', url: '/v1/completions', payload: body });
    await until(() => at.system.requests.length === 3);
    expect(new Set(at.system.requests.flatMap(({ request }) => request.labels)).size).toBe(6);
  });
});
