import { describe, expect, test } from 'vitest';
import { byteLevelFolder, IM_END, IM_START } from './fixtures/tokenizers.js';
import { bytesOf, ENDED, ScriptedSystem } from './scripted-system.js';
import { serving, until } from './serving.js';

describe('models', () => {
  test("there is one, with its context, under its name and its folder's", async () => {
    const model = await byteLevelFolder();
    const { server, system } = await serving({ model, config: { servedModelName: 'org/tiny' } });
    system.script = () => [ENDED];
    const card = {
      id: 'org/tiny',
      object: 'model',
      created: expect.any(Number),
      owned_by: 'fastswitch',
      root: 'org/tiny',
      parent: null,
      max_model_len: 1024,
    };
    expect((await server.inject('/v1/models')).json()).toEqual({ object: 'list', data: [card] });
    const folder = model.split('/').at(-1) ?? '';
    for (const name of ['org/tiny', 'org%2Ftiny', folder])
      expect((await server.inject(`/v1/models/${name}`)).json()).toEqual(card);
    const answer = await server.inject({ method: 'POST', url: '/v1/completions', payload: { model: folder, prompt: 'x' } });
    expect(answer.json()).toMatchObject({ model: 'org/tiny' });
    const missing = await server.inject('/v1/models/nope');
    expect([missing.statusCode, missing.json()]).toEqual([
      404,
      { error: expect.objectContaining({ code: 'model_not_found', param: 'model' }) },
    ]);
  });

  test('a tokenizer with more tokens than the model has is refused before serving', async () => {
    await expect(serving({ system: new ScriptedSystem({ vocabularySize: 200 }) })).rejects.toMatchObject({ code: 'bad_model' });
  });

  test('the fingerprint changes with what may change an answer', async () => {
    const fingerprint = async (config: object): Promise<unknown> => {
      const { server, system } = await serving({ config });
      system.script = () => [ENDED];
      return (await server.inject({ method: 'POST', url: '/v1/completions', payload: { model: 'tiny', prompt: 'x' } })).json<{
        system_fingerprint: string;
      }>().system_fingerprint;
    };
    expect(await fingerprint({})).toBe(await fingerprint({ port: 1 }));
    expect(await fingerprint({})).not.toBe(await fingerprint({ quantize: 'q8' }));
  });
});

describe('health', () => {
  test('is 200 while serving, and 503 with the reason once the system has failed', async () => {
    const { server, system } = await serving();
    const health = async (): Promise<unknown[]> => {
      const answer = await server.inject('/health');
      return [answer.statusCode, answer.json()];
    };
    expect(await health()).toEqual([200, { status: 'serving' }]);
    const running = server.inject({ method: 'POST', url: '/v1/completions', payload: { model: 'tiny', prompt: 'x' } });
    await until(() => system.requests.length === 1);
    system.fail(new Error('a mistake'));
    expect((await running).statusCode).toBe(503);
    expect(await health()).toEqual([503, { status: 'failed' }]);
    const refused = await server.inject({ method: 'POST', url: '/v1/completions', payload: { model: 'tiny', prompt: 'x' } });
    expect([refused.statusCode, refused.json()]).toEqual([503, { error: expect.objectContaining({ code: 'unavailable' }) }]);
  });
});

describe('metrics', () => {
  test("are the system's own figures at the moment of the scrape, in Prometheus' format", async () => {
    const { server, system } = await serving();
    system.script = () => [ENDED];
    await server.inject({ method: 'POST', url: '/v1/completions', payload: { model: 'tiny', prompt: 'x' } });
    const answer = await server.inject('/metrics');
    expect(answer.headers['content-type']).toMatch(/^text\/plain; version=0\.0\.4/);
    const lines = answer.body.split('\n');
    for (const line of [
      'fastswitch_info{version="0.0.0",model="tiny",device="auto"} 1',
      'fastswitch_requests{state="queued"} 0',
      'fastswitch_requests{state="swapped"} 0',
      'fastswitch_requests_finished_total{outcome="stop"} 1',
      'fastswitch_preemptions_total{kind="swap"} 2',
      'fastswitch_transfer_bytes_total{direction="out"} 8192',
      'fastswitch_transfer_bytes_total{direction="in"} 4096',
      'fastswitch_transfer_kind_bytes_total{kind="swapOut"} 2048',
      'fastswitch_transfer_kind_bytes_total{kind="swapIn"} 3072',
      'fastswitch_transfer_kind_bytes_total{kind="mirror"} 6144',
      'fastswitch_transfer_kind_bytes_total{kind="prefetch"} 1024',
      'fastswitch_transfer_seconds_total{direction="in"} 0.25',
      'fastswitch_prompt_tokens_total 11',
      'fastswitch_prompt_tokens_cached_total 5',
      'fastswitch_cached_tokens_total 9',
      'fastswitch_swap_blocks_total{what="sent"} 3',
      'fastswitch_swap_blocks_total{what="held"} 4',
      'fastswitch_swaps_without_copy_total{direction="out"} 1',
      'fastswitch_swaps_without_copy_total{direction="in"} 2',
      'fastswitch_blocks{memory="device",use="moving"} 1',
      'fastswitch_blocks{memory="device",use="used"} 3',
      'fastswitch_blocks{memory="host",use="free"} 250',
      'fastswitch_blocks{memory="host",use="used"} 2',
      'fastswitch_blocks{memory="host",use="kept"} 4',
      'fastswitch_computed_tokens_total{kind="decode"} 6',
      '# TYPE fastswitch_ttft_seconds histogram',
      'fastswitch_ttft_seconds_bucket{le="0.1"} 2',
      'fastswitch_ttft_seconds_bucket{le="+Inf"} 2',
      'fastswitch_ttft_seconds_count 2',
    ])
      expect(lines).toContain(line);
    expect(answer.body).toMatch(/^nodejs_eventloop_lag_p99_seconds /m);
    expect(answer.body).toMatch(/^process_resident_memory_bytes /m);
    const names = lines.filter((line) => line.startsWith('# TYPE fastswitch_')).map((line) => line.split(' ').slice(2));
    for (const [name, type] of names) expect(type === 'counter').toBe(name?.endsWith('_total'));
  });

  test('of the process are there also when the system does not answer', async () => {
    const { server, system } = await serving();
    system.snapshot = () => Promise.reject(new Error('gone'));
    const { statusCode, body } = await server.inject('/metrics');
    expect(statusCode).toBe(200);
    expect(body).toContain('process_resident_memory_bytes');
    expect(body).not.toContain('fastswitch_steps_total 3');
  });
});

describe('tokens', () => {
  const post = async (
    server: Awaited<ReturnType<typeof serving>>['server'],
    url: string,
    payload: object,
  ): Promise<[number, unknown]> => {
    const answer = await server.inject({ method: 'POST', url, payload });
    return [answer.statusCode, answer.json()];
  };

  test('of a prompt and of messages, and back', async () => {
    const { server } = await serving({ model: await byteLevelFolder({ bos: true }) });
    const rest = { max_model_len: 1024, token_strs: null };
    expect(await post(server, '/tokenize', { model: 'tiny', prompt: 'hello' })).toEqual([
      200,
      { ...rest, count: 2, tokens: [262, 259] },
    ]);
    expect(await post(server, '/tokenize', { prompt: 'hello', add_special_tokens: false })).toEqual([
      200,
      { ...rest, count: 1, tokens: [259] },
    ]);
    expect(await post(server, '/tokenize', { prompt: 'é', add_special_tokens: false, return_token_strs: true })).toEqual([
      200,
      { ...rest, count: 2, tokens: [0xc3, 0xa9], token_strs: ['Ã', '©'] },
    ]);
    const tokens = [IM_START, ...bytesOf('user\nx'), IM_END, 10];
    expect(await post(server, '/tokenize', { messages: [{ role: 'user', content: 'x' }], add_generation_prompt: false })).toEqual(
      [200, { ...rest, count: tokens.length, tokens }],
    );
    expect(await post(server, '/detokenize', { tokens })).toEqual([200, { prompt: '<|im_start|>user\nx<|im_end|>\n' }]);
  });

  test('refuse what is neither or both, and unknown models and ids', async () => {
    const { server } = await serving();
    const code = async (url: string, payload: object): Promise<unknown> =>
      ((await post(server, url, payload))[1] as { error: { code: string } }).error.code;
    expect(await code('/tokenize', {})).toBe('invalid_request');
    expect(await code('/tokenize', { prompt: 'x', messages: [{ role: 'user', content: 'x' }] })).toBe('invalid_request');
    expect(await code('/tokenize', { model: 'nope', prompt: 'x' })).toBe('model_not_found');
    expect(await code('/detokenize', { tokens: [100_000] })).toBe('invalid_request');
  });
});

describe('closing', () => {
  test('lets running answers finish, refuses new ones, says so, and cuts idle connections', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 5 } });
    const chat = {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'tiny', prompt: 'x' }),
    };
    const running = fetch(`${at.url}/v1/completions`, chat);
    await until(() => at.system.requests.length === 1);
    const closed = at.server.close();
    await until(() => at.system.draining);
    const health = await fetch(`${at.url}/health`);
    expect([health.status, await health.json(), health.headers.get('connection')]).toEqual([
      503,
      { status: 'draining' },
      'close',
    ]);
    const refused = await fetch(`${at.url}/v1/completions`, chat);
    expect([refused.status, refused.headers.get('connection'), refused.headers.get('retry-after')]).toEqual([503, 'close', '1']);
    expect(await refused.json()).toMatchObject({ error: { code: 'draining' } });
    at.system.requests[0]?.emit(bytesOf('done'));
    at.system.requests[0]?.end(ENDED);
    expect(await (await running).json()).toMatchObject({ choices: [{ text: 'done', finish_reason: 'stop' }] });
    await closed;
    await expect(fetch(`${at.url}/health`)).rejects.toThrow();
  });

  test('ends what is not finished in time, and tells it', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 0.1 } });
    const ask = (stream: boolean): Promise<Response> =>
      fetch(`${at.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'tiny', prompt: 'x', stream }),
      });
    const streamed = ask(true);
    await until(() => at.system.requests.length === 1);
    const whole = ask(false);
    await until(() => at.system.requests.length === 2);
    at.system.requests[0]?.emit([97]);
    const body = (await streamed).text();
    await at.server.close();
    expect(await body).toMatch(/"code":"aborted".*\n\ndata: \[DONE\]\n\n$/s);
    expect((await whole).status).toBe(503);
    expect(at.system.requests.map(({ aborted }) => aborted)).toEqual(['shutdown', 'shutdown']);
  });

  test('does not wait for a client that never reads its answer', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 0.1 } });
    const { connect } = await import('node:net');
    const socket = connect(Number(new URL(at.url).port), '127.0.0.1');
    socket.on('error', () => {});
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{',
    );
    await new Promise((resolve) => setTimeout(resolve, 20));
    const started = performance.now();
    await at.server.close();
    expect(performance.now() - started).toBeLessThan(15_000);
    socket.destroy();
  });

  test('may take longer than the ten seconds that the framework would give it', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 30 } });
    const running = fetch(`${at.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'tiny', prompt: 'x' }),
    });
    await until(() => at.system.requests.length === 1);
    const closed = at.server.close();
    await new Promise((resolve) => setTimeout(resolve, 10_500));
    at.system.requests[0]?.end(ENDED);
    expect((await running).status).toBe(200);
    await closed;
  });

  test('with nothing to do is quick', async () => {
    const at = await serving({ listen: true, config: { drainSeconds: 60 } });
    await (await fetch(`${at.url}/health`)).text();
    const started = performance.now();
    await at.server.close();
    expect(performance.now() - started).toBeLessThan(15_000);
  });
});

test('the version is told', async () => {
  expect((await (await serving()).server.inject('/version')).json()).toEqual({ version: '0.0.0' });
});
