import { describe, expect, test } from 'vitest';
import { ENDED } from './scripted-system.js';
import { type Serving, serving } from './serving.js';

type Failure = {
  status: number;
  headers: Record<string, unknown>;
  error: { message: string; type: string; param: string | null; code: string };
};

async function ask(
  { server }: Serving,
  method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'OPTIONS',
  url: string,
  payload?: string | object,
  headers: Record<string, string> = {},
): Promise<Failure> {
  const response = await server.inject({ method, url, ...(payload === undefined ? {} : { payload }), headers });
  return { status: response.statusCode, headers: response.headers, error: response.json<{ error: Failure['error'] }>().error };
}

const JSON_TYPE = { 'content-type': 'application/json' };
const CHAT = '/v1/chat/completions';
const TEXT = '/v1/completions';
const messages = [{ role: 'user', content: 'hi' }];

describe("errors of the transport, in OpenAI's shape", () => {
  test('each has its status and code', async () => {
    const at = await serving({ config: { bodyLimitBytes: 2048 } });
    const cases: readonly [Promise<Failure>, number, string][] = [
      [ask(at, 'POST', CHAT, '{"model": "tiny", ', JSON_TYPE), 400, 'invalid_json'],
      [ask(at, 'POST', CHAT, '', JSON_TYPE), 400, 'invalid_json'],
      [ask(at, 'POST', CHAT, '{"__proto__": {"a": 1}}', JSON_TYPE), 400, 'invalid_json'],
      [ask(at, 'POST', CHAT, '[1]', JSON_TYPE), 400, 'invalid_request'],
      [ask(at, 'POST', CHAT, '"text"', JSON_TYPE), 400, 'invalid_request'],
      [ask(at, 'POST', CHAT, 'null', JSON_TYPE), 400, 'invalid_request'],
      [ask(at, 'POST', CHAT), 400, 'invalid_request'],
      [ask(at, 'POST', CHAT, { model: 'tiny', messages: [{ role: 'user', content: 'x'.repeat(3000) }] }), 413, 'body_too_large'],
      [
        ask(at, 'POST', CHAT, 'model=tiny', { 'content-type': 'application/x-www-form-urlencoded' }),
        415,
        'unsupported_media_type',
      ],
      [ask(at, 'POST', CHAT, '{}', { 'content-type': 'text/plain' }), 415, 'unsupported_media_type'],
      [
        ask(at, 'POST', CHAT, '{}', { 'content-type': 'application/json', 'content-encoding': 'gzip' }),
        415,
        'unsupported_media_type',
      ],
      [ask(at, 'POST', '/v1/nothing', {}), 404, 'not_found'],
      [ask(at, 'GET', '/'), 404, 'not_found'],
      [ask(at, 'GET', CHAT), 405, 'method_not_allowed'],
      [ask(at, 'DELETE', '/v1/models/tiny'), 405, 'method_not_allowed'],
      [ask(at, 'OPTIONS', CHAT), 405, 'method_not_allowed'],
      [ask(at, 'GET', '/v1/%zz'), 400, 'invalid_request'],
    ];
    for (const [answer, status, code] of cases) {
      const { status: got, error, headers } = await answer;
      expect([got, error.code, code]).toEqual([status, code, code]);
      expect(error).toEqual({ message: expect.stringMatching(/\S/), type: expect.stringMatching(/_error$/), param: null, code });
      expect(headers['content-type']).toBe('application/json; charset=utf-8');
      expect(headers['access-control-allow-origin']).toBeUndefined();
    }
    expect((await ask(at, 'PUT', CHAT)).headers.allow).toBe('POST');
  });

  test('an error of our own is a 500 that says nothing of the inside, and the next request is served', async () => {
    const at = await serving();
    at.system.submit = () => {
      throw new Error('secret inside');
    };
    const { status, error, headers } = await ask(at, 'POST', TEXT, { model: 'tiny', prompt: 'x' });
    expect([status, error.code, headers['x-should-retry']]).toEqual([500, 'internal', 'false']);
    expect(error.message).not.toContain('secret');
    expect((await at.server.inject('/health')).statusCode).toBe(200);
  });

  test("every answer has a request id: the client's own where it is harmless", async () => {
    const at = await serving();
    const id = async (given?: string): Promise<unknown> =>
      (await at.server.inject({ url: '/health', headers: given === undefined ? {} : { 'x-request-id': given } })).headers[
        'x-request-id'
      ];
    expect(await id()).toMatch(/^req_[0-9a-f-]{36}$/);
    expect(await id('trace-7/a')).toBe('trace-7/a');
    expect(await id('a b')).toMatch(/^req_/);
    expect(await id('x'.repeat(129))).toMatch(/^req_/);
    expect((await ask(at, 'GET', '/nothing')).headers['x-request-id']).toMatch(/^req_/);
  });
});

describe('errors of a request', () => {
  test('name the field, and say what it must be and what it was', async () => {
    const at = await serving();
    at.system.script = () => [ENDED];
    const cases: readonly [string, object, string, string | null, RegExp][] = [
      [CHAT, { messages }, 'invalid_request', 'model', /Missing required parameter: 'model'/],
      [CHAT, { model: 'tiny' }, 'invalid_request', 'messages', /Missing/],
      [CHAT, { model: 'tiny', messages: [] }, 'invalid_request', 'messages', /at least one message/],
      [CHAT, { model: 'tiny', messages: 'hi' }, 'invalid_request', 'messages', /not the string "hi"/],
      [CHAT, { model: 'tiny', messages: ['hi'] }, 'invalid_request', 'messages[0]', /object with role and content/],
      [CHAT, { model: 'tiny', messages: [{ role: 'user' }] }, 'invalid_request', 'messages[0].content', /missing/],
      [CHAT, { model: 'tiny', messages: [{ role: 'user', content: null }] }, 'invalid_request', 'messages[0].content', /missing/],
      [
        CHAT,
        { model: 'tiny', messages: [{ role: 'user', content: 7 }] },
        'invalid_request',
        'messages[0].content',
        /a string or a list/,
      ],
      [
        CHAT,
        { model: 'tiny', messages: [{ role: 'wizard', content: 'x' }] },
        'invalid_request',
        'messages[0].role',
        /system, developer, user or assistant/,
      ],
      [
        CHAT,
        { model: 'tiny', messages: [{ role: 'user', content: 'x', colour: 1 }] },
        'invalid_request',
        'messages[0].colour',
        /no 'colour'/,
      ],
      [
        CHAT,
        { model: 'tiny', messages, colour: 1 },
        'invalid_request',
        'colour',
        /^Unrecognized request argument supplied: colour$/,
      ],
      [CHAT, { model: 'tiny', messages, top_logprobs: 3 }, 'invalid_request', 'top_logprobs', /needs 'logprobs'/],
      [CHAT, { model: 'tiny', messages, logprobs: true, top_logprobs: 21 }, 'invalid_request', 'top_logprobs', /0 to 20/],
      [CHAT, { model: 'tiny', messages, logprobs: 1 }, 'invalid_request', 'logprobs', /true or false/],
      [CHAT, { model: 'other', messages }, 'model_not_found', 'model', /serves 'tiny'/],
      [TEXT, { model: 'tiny', prompt: '' }, 'invalid_request', 'prompt', /empty/],
      [TEXT, { model: 'tiny', prompt: [] }, 'invalid_request', 'prompt', /none of them empty/],
      [TEXT, { model: 'tiny', prompt: [[]] }, 'invalid_request', 'prompt', /none of them empty/],
      [TEXT, { model: 'tiny', prompt: ['a', 1] }, 'invalid_request', 'prompt', /list of strings/],
      [TEXT, { model: 'tiny', prompt: [-1] }, 'invalid_request', 'prompt', /token ids/],
      [TEXT, { model: 'tiny', prompt: [1.5] }, 'invalid_request', 'prompt', /token ids/],
      [TEXT, { model: 'tiny', prompt: 'x', stop: '' }, 'invalid_request', 'stop', /1 to 1024/],
      [TEXT, { model: 'tiny', prompt: 'x', stop: ['1', '2', '3', '4', '5'] }, 'invalid_request', 'stop', /at most 4/],
      [TEXT, { model: 'tiny', prompt: 'x', logit_bias: { a: 1 } }, 'invalid_request', 'logit_bias.a', /logit_bias/],
      [TEXT, { model: 'tiny', prompt: 'x', logit_bias: { 5: 101 } }, 'invalid_request', 'logit_bias[5]', /-100 to 100/],
      [TEXT, { model: 'tiny', prompt: 'x', seed: 2 ** 60 }, 'invalid_request', 'seed', /53 bits/],
      [TEXT, { model: 'tiny', prompt: 'x', n: 0 }, 'invalid_request', 'n', /1 to 128/],
      [TEXT, { model: 'tiny', prompt: 'x', n: 2, best_of: 1 }, 'invalid_request', 'best_of', /less than/],
      [TEXT, { model: 'tiny', prompt: 'x', top_p: 0 }, 'invalid_request', 'top_p', /temperature to 0/],
      [TEXT, { model: 'tiny', prompt: 'x', max_tokens: 0 }, 'invalid_request', 'max_tokens', /at least 1/],
      [
        TEXT,
        { model: 'tiny', prompt: 'x', stream_options: { usage: true } },
        'invalid_request',
        'stream_options.usage',
        /stream_options/,
      ],
      [TEXT, { model: 'tiny', prompt: 'x', cache_salt: '' }, 'invalid_request', 'cache_salt', /a string of 1 to 256 characters/],
      [CHAT, { model: 'tiny', messages, cache_salt: 'x'.repeat(257) }, 'invalid_request', 'cache_salt', /1 to 256 characters/],
      [TEXT, { model: 'tiny', prompt: Array(2000).fill('x') }, 'invalid_request', 'n', /2000 choices/],
    ];
    for (const [url, body, code, param, message] of cases) {
      const { error, status } = await ask(at, 'POST', url, body);
      expect([status, error.code, error.param]).toEqual([code === 'model_not_found' ? 404 : 400, code, param]);
      expect(error.message).toMatch(message);
    }
    expect(at.system.requests).toEqual([]);
  });

  test('what would change the answer and is not done is refused by name', async () => {
    const at = await serving();
    const cases: readonly [string, object, string][] = [
      [CHAT, { tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools'],
      [CHAT, { tool_choice: 'required' }, 'tool_choice'],
      [CHAT, { functions: [{}] }, 'functions'],
      [CHAT, { response_format: { type: 'json_object' } }, 'response_format'],
      [CHAT, { modalities: ['text', 'audio'] }, 'modalities'],
      [CHAT, { audio: { voice: 'x' } }, 'audio'],
      [CHAT, { reasoning_effort: 'high' }, 'reasoning_effort'],
      [CHAT, { web_search_options: {} }, 'web_search_options'],
      [CHAT, { min_tokens: 5 }, 'min_tokens'],
      [CHAT, { guided_json: {} }, 'guided_json'],
      [CHAT, { use_beam_search: true }, 'use_beam_search'],
      [CHAT, { echo: true }, 'echo'],
      [
        CHAT,
        { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
        'messages[0].content[0]',
      ],
      [CHAT, { messages: [{ role: 'tool', content: 'x', tool_call_id: 'a' }] }, 'messages[0].role'],
      [CHAT, { messages: [{ role: 'assistant', content: 'x', tool_calls: [{ id: 'a' }] }] }, 'messages[0].tool_calls'],
      [TEXT, { suffix: 'x' }, 'suffix'],
      [TEXT, { best_of: 3 }, 'best_of'],
      [TEXT, { echo: true, logprobs: 1 }, 'logprobs'],
    ];
    for (const [url, body, param] of cases) {
      const { status, error } = await ask(at, 'POST', url, {
        model: 'tiny',
        ...(url === CHAT ? { messages } : { prompt: 'x' }),
        ...body,
      });
      expect([status, error.code, error.param]).toEqual([400, 'unsupported_parameter', param]);
    }
    expect(at.system.requests).toEqual([]);
  });

  test('what changes nothing is ignored', async () => {
    const at = await serving();
    at.system.script = () => [ENDED];
    const neutral = {
      store: true,
      metadata: { a: 'b' },
      service_tier: 'auto',
      parallel_tool_calls: true,
      tools: [],
      tool_choice: 'auto',
      response_format: { type: 'text' },
      modalities: ['text'],
      min_tokens: 0,
      skip_special_tokens: true,
      safety_identifier: 'x',
      prompt_cache_key: 'x',
      include_stop_str_in_output: false,
      use_beam_search: false,
    };
    expect(
      (await at.server.inject({ method: 'POST', url: CHAT, payload: { model: 'tiny', messages, ...neutral } })).statusCode,
    ).toBe(200);
    expect(
      (
        await at.server.inject({
          method: 'POST',
          url: TEXT,
          payload: { model: 'tiny', prompt: 'x', suffix: '', best_of: 2, n: 2 },
        })
      ).statusCode,
    ).toBe(200);
  });

  test('types are never converted', async () => {
    const at = await serving();
    const wrong = {
      temperature: '1.5',
      max_tokens: '3',
      n: '1',
      stream: 'true',
      seed: '1',
      top_p: '0.5',
      ignore_eos: 1,
      stop: 5,
      user: 5,
      cache_salt: 5,
      model: 5,
      prompt: 5,
      logit_bias: [],
      stop_token_ids: '5',
      echo: 'x',
    };
    for (const [param, value] of Object.entries(wrong)) {
      const { status, error } = await ask(at, 'POST', TEXT, { model: 'tiny', prompt: 'x', [param]: value });
      expect([param, status, error.param]).toEqual([param, 400, param]);
    }
  });
});

describe('the context limit', () => {
  test('is told with its numbers', async () => {
    const at = await serving();
    const { status, error } = await ask(at, 'POST', TEXT, { model: 'tiny', prompt: 'x'.repeat(1000), max_tokens: 100 });
    expect([status, error.code, error.param]).toEqual([400, 'context_length_exceeded', 'prompt']);
    expect(error.message).toContain(
      'maximum context length is 1024 tokens, but 1100 were requested: 1000 in the prompt and 100 for the completion',
    );
  });

  test('leaves room for at least one token', async () => {
    const at = await serving();
    at.system.script = () => [ENDED];
    expect((await ask(at, 'POST', TEXT, { model: 'tiny', prompt: 'x'.repeat(1024) })).error.code).toBe('context_length_exceeded');
    expect(
      (await at.server.inject({ method: 'POST', url: TEXT, payload: { model: 'tiny', prompt: 'x'.repeat(1023) } })).statusCode,
    ).toBe(200);
    expect(at.system.requests[0]?.request.maxTokens).toBe(1);
  });
});
