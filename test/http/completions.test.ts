import { describe, expect, test } from 'vitest';
import { END_OF_TEXT, IM_END, IM_START, THINK, VOCABULARY } from './fixtures/tokenizers.js';
import { ABORTED, type Beat, bytesOf, CUT, ENDED, failed, refused, ScriptedSystem } from './scripted-system.js';
import { framesOf, type Serving, serving, until } from './serving.js';

type Body = Record<string, unknown>;
type Answer = {
  choices: {
    index: number;
    text: string;
    message: { role: string; content: string };
    logprobs: never;
    finish_reason: string;
    token_ids: number[];
    prompt_token_ids: number[];
  }[];
  usage: Body;
  prompt_token_ids: number[];
  error: { code: string; message: string; param: string | null };
};

async function post(
  { server }: Serving,
  path: string,
  body: Body,
): Promise<{ status: number; json: Answer; body: string; headers: Record<string, unknown> }> {
  const response = await server.inject({ method: 'POST', url: path, payload: { model: 'tiny', ...body } });
  const json = response.headers['content-type']?.toString().startsWith('application/json')
    ? response.json<Answer>()
    : ({} as Answer);
  return { status: response.statusCode, json, body: response.body, headers: response.headers };
}

const chat = (at: Serving, body: Body = {}) =>
  post(at, '/v1/chat/completions', { messages: [{ role: 'user', content: 'hi' }], ...body });
const complete = (at: Serving, body: Body = {}) => post(at, '/v1/completions', { prompt: 'hi', ...body });

async function saying(...beats: readonly Beat[]): Promise<Serving> {
  const at = await serving();
  at.system.script = () => beats;
  return at;
}

const HI = bytesOf('user\nhi');
const PROMPT = [IM_START, ...HI, IM_END, 10, IM_START, ...bytesOf('assistant\n')];

describe('a chat', () => {
  test('goes through the template to the system and comes back as a message', async () => {
    const at = await saying({ tokens: bytesOf('good ') }, { tokens: bytesOf('day') }, { tokens: [IM_END] }, ENDED);
    const { status, json } = await chat(at);
    expect(status).toBe(200);
    expect([...(at.system.requests[0]?.request.content.promptTokens ?? [])]).toEqual(PROMPT);
    expect(json).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{32}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'tiny',
      system_fingerprint: expect.stringMatching(/^fp_/),
      choices: [
        { index: 0, message: { role: 'assistant', content: 'good day', refusal: null }, logprobs: null, finish_reason: 'stop' },
      ],
      usage: {
        prompt_tokens: PROMPT.length,
        completion_tokens: 9,
        total_tokens: PROMPT.length + 9,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    });
  });

  test('in text parts is one text; a conversation may be sent back as it came', async () => {
    const at = await saying(ENDED);
    const { status } = await chat(at, {
      messages: [
        { role: 'developer', content: 'be brief' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
        },
        { role: 'assistant', content: 'c', refusal: null, annotations: [], tool_calls: null, audio: null },
        { role: 'user', content: 'd', name: 'eve' },
      ],
    });
    expect(status).toBe(200);
    const text = Buffer.from(
      [...(at.system.requests[0]?.request.content.promptTokens ?? [])].filter((id) => id < 256),
    ).toString();
    expect(text).toBe('system\nbe brief\nuser\na\nb\nassistant\nc\nuser\nd\nassistant\n');
  });

  test('may use the rest of the context unless it says less', async () => {
    const at = await saying(ENDED);
    await chat(at);
    await chat(at, { max_tokens: 5 });
    await chat(at, { max_tokens: 5, max_completion_tokens: 7 });
    expect(at.system.requests.map(({ request }) => request.maxTokens)).toEqual([1024 - PROMPT.length, 5, 7]);
  });

  test('that ran to its limit says so', async () => {
    const at = await saying({ tokens: bytesOf('abc') }, CUT);
    expect((await chat(at)).json.choices[0]).toMatchObject({ message: { content: 'abc' }, finish_reason: 'length' });
  });
});

describe('what reaches the engine', () => {
  test('neutral values where nothing is said', async () => {
    const at = await saying(ENDED);
    await complete(at);
    const { content, maxTokens, priority, tenant } = at.system.requests[0]?.request ?? expect.fail();
    expect({ maxTokens, priority, tenant, stopTokens: content.stopTokens, cacheSalt: content.cacheSalt }).toEqual({
      maxTokens: 16,
      priority: 0,
      tenant: 'default',
      stopTokens: [IM_END],
      cacheSalt: '',
    });
    expect(content.sampling).toEqual({
      temperature: 1,
      topK: 0,
      topP: 1,
      minP: 0,
      frequencyPenalty: 0,
      presencePenalty: 0,
      repetitionPenalty: 1,
      seed: expect.any(BigInt),
      topLogprobs: -1,
      logitBias: [],
    });
  });

  test('what the model asks for where nothing is said, and the request before the model', async () => {
    const system = new ScriptedSystem();
    system.script = () => [ENDED];
    const at = await serving({ system, defaults: { temperature: 0, topK: 20, repetitionPenalty: 1.05 } });
    await complete(at);
    await complete(at, { temperature: 0.7, top_k: 0 });
    expect(system.requests.map(({ request }) => request.content.sampling)).toMatchObject([
      { temperature: 0, topK: 20, topP: 1, repetitionPenalty: 1.05 },
      { temperature: 0.7, topK: 0, topP: 1, repetitionPenalty: 1.05 },
    ]);
  });

  test('every field that is said', async () => {
    const at = await saying(ENDED);
    const said = {
      temperature: 0.5,
      top_k: 7,
      top_p: 0.9,
      min_p: 0.1,
      frequency_penalty: -1,
      presence_penalty: 2,
      repetition_penalty: 1.1,
      seed: 5,
      logprobs: 3,
      logit_bias: { 65: -100, 66: 1.5 },
      stop_token_ids: [70],
      max_tokens: 3,
      priority: -2,
      user: 'eve',
      cache_salt: 'salt of eve',
    };
    expect((await complete(at, said)).status).toBe(200);
    const { content, maxTokens, priority, tenant } = at.system.requests[0]?.request ?? expect.fail();
    expect({ maxTokens, priority, tenant, stopTokens: content.stopTokens, cacheSalt: content.cacheSalt }).toEqual({
      maxTokens: 3,
      priority: -2,
      tenant: 'eve',
      stopTokens: [IM_END, 70],
      cacheSalt: 'salt of eve',
    });
    expect(content.sampling).toEqual({
      temperature: 0.5,
      topK: 7,
      topP: 0.9,
      minP: 0.1,
      frequencyPenalty: -1,
      presencePenalty: 2,
      repetitionPenalty: 1.1,
      seed: 5n,
      topLogprobs: 3,
      logitBias: [
        { token: 65, bias: -100 },
        { token: 66, bias: 1.5 },
      ],
    });
  });

  test('the salt of every choice, of a chat too; a key for the routing of others changes nothing', async () => {
    const at = await saying(ENDED);
    expect((await chat(at, { cache_salt: 'é'.repeat(256), n: 2, prompt_cache_key: 'x' })).status).toBe(200);
    expect((await chat(at, { cache_salt: null, prompt_cache_key: 'y' })).status).toBe(200);
    const salts = at.system.requests.map(({ request }) => request.content.cacheSalt);
    expect(salts).toEqual(['é'.repeat(256), 'é'.repeat(256), '']);
  });

  test('null means not given, and ignore_eos leaves no end token', async () => {
    const at = await saying(ENDED);
    expect((await complete(at, { temperature: null, stop: null, stream_options: null, ignore_eos: true })).status).toBe(200);
    expect(at.system.requests[0]?.request.content.stopTokens).toEqual([]);
  });

  test('choice k of n continues from seed plus k; negative seeds wrap round 64 bits', async () => {
    const at = await saying(ENDED);
    await complete(at, { n: 3, seed: 41 });
    await complete(at, { seed: -1 });
    expect(at.system.requests.map(({ request }) => request.content.sampling.seed)).toEqual([41n, 42n, 43n, 2n ** 64n - 1n]);
  });

  test('without a seed the run has its own, repeatable and never twice the same', async () => {
    const seeds = async (seed: number): Promise<bigint[]> => {
      const at = await serving({ config: { seed } });
      at.system.script = () => [ENDED];
      await complete(at, { n: 2 });
      await complete(at);
      return at.system.requests.map(({ request }) => request.content.sampling.seed);
    };
    const first = await seeds(1);
    expect(await seeds(1)).toEqual(first);
    expect(new Set([...first, ...(await seeds(2))]).size).toBe(6);
  });
});

describe('a completion', () => {
  test('takes a string, strings, token ids, and lists of token ids; n of each, in order', async () => {
    const at = await serving();
    at.system.script = (_request, index) => [{ tokens: bytesOf(`<${index}>`) }, ENDED];
    const texts = async (body: Body): Promise<string[]> => {
      at.system.requests.length = 0;
      return (await complete(at, body)).json.choices.map(({ index, text }) => `${index}${text}`);
    };
    const prompts = (): number[][] => at.system.requests.map(({ request }) => [...request.content.promptTokens]);
    expect(await texts({ prompt: 'ab' })).toEqual(['0<0>']);
    expect(prompts()).toEqual([[97, 98]]);
    expect(await texts({ prompt: ['a', 'b'], n: 2 })).toEqual(['0<0>', '1<1>', '2<2>', '3<3>']);
    expect(prompts()).toEqual([[97], [97], [98], [98]]);
    expect(await texts({ prompt: [1, 2, IM_START] })).toEqual(['0<0>']);
    expect(prompts()).toEqual([[1, 2, IM_START]]);
    expect(await texts({ prompt: [[1], [2, 3]] })).toEqual(['0<0>', '1<1>']);
    expect(prompts()).toEqual([[1], [2, 3]]);
  });

  test('counts each prompt once and all that was generated', async () => {
    const at = await saying({ tokens: bytesOf('xy') }, ENDED);
    expect((await complete(at, { prompt: ['aa', 'b'], n: 2 })).json.usage).toMatchObject({
      prompt_tokens: 3,
      completion_tokens: 8,
      total_tokens: 11,
    });
  });

  test('echoes the prompt where asked, whole and streamed, from text and from ids', async () => {
    const at = await saying({ tokens: bytesOf('!') }, ENDED);
    expect((await complete(at, { echo: true })).json.choices[0]?.text).toBe('hi!');
    expect((await complete(at, { echo: true, prompt: [104, 105, 259] })).json.choices[0]?.text).toBe('hihello!');
    const { body } = await complete(at, { echo: true, stream: true });
    const texts = framesOf(body)
      .slice(0, -1)
      .map((frame) => (frame as Answer).choices[0]?.text);
    expect(texts.join('')).toBe('hi!');
  });

  test('the default of 16 tokens shrinks to the room there is, an explicit number does not', async () => {
    const at = await serving({ system: new ScriptedSystem({ contextTokensMax: 10 }) });
    at.system.script = () => [ENDED];
    await complete(at, { prompt: [1, 2, 3] });
    expect(at.system.requests[0]?.request.maxTokens).toBe(7);
    expect((await complete(at, { prompt: [1, 2, 3], max_tokens: 8 })).json.error.code).toBe('context_length_exceeded');
  });
});

describe('token ids', () => {
  test('come as vLLM has them: whole', async () => {
    const at = await saying({ tokens: [97, IM_END] }, ENDED);
    const text = (await complete(at, { return_token_ids: true })).json;
    expect(text.choices[0]).toMatchObject({ text: 'a', token_ids: [97, IM_END], prompt_token_ids: bytesOf('hi') });
    const talk = (await chat(at, { return_token_ids: true })).json;
    expect(talk).toMatchObject({ prompt_token_ids: PROMPT, choices: [{ message: { content: 'a' }, token_ids: [97, IM_END] }] });
  });

  test('come as vLLM has them: streamed', async () => {
    const at = await saying({ tokens: bytesOf('ab') }, { waitMillis: 10 }, { tokens: [99, IM_END] }, ENDED);
    const frames = framesOf((await chat(at, { return_token_ids: true, stream: true })).body).slice(0, -1) as Answer[];
    expect(frames.map((frame) => frame.prompt_token_ids)).toEqual([PROMPT, ...frames.slice(1).map(() => undefined)]);
    expect(frames.flatMap((frame) => frame.choices[0]?.token_ids ?? [])).toEqual([...bytesOf('abc'), IM_END]);
    const text = framesOf((await complete(at, { return_token_ids: true, stream: true })).body).slice(0, -1) as Answer[];
    expect(text.flatMap((frame) => frame.choices[0]?.prompt_token_ids ?? [])).toEqual(bytesOf('hi'));
    expect(text.flatMap((frame) => frame.choices[0]?.token_ids ?? [])).toEqual([...bytesOf('abc'), IM_END]);
  });
});

describe('stop strings', () => {
  test('cut the text across tokens and end the work at once', async () => {
    const at = await saying(
      { tokens: bytesOf('one. E') },
      { tokens: bytesOf('ND') },
      { waitMillis: 5000 },
      { tokens: bytesOf(' more') },
      ENDED,
    );
    const { json } = await complete(at, { stop: ['. END', 'zzz'] });
    expect(json.choices[0]).toMatchObject({ text: 'one', finish_reason: 'stop' });
    expect(json.usage).toMatchObject({ completion_tokens: 8 });
    expect(at.system.requests[0]?.aborted).toBe('stop');
  });

  test('within tokens that come together: what follows is not counted', async () => {
    const at = await saying({ tokens: bytesOf('abcdef') }, { waitMillis: 1000 }, ENDED);
    const { json } = await complete(at, { stop: 'cd' });
    expect(json.choices[0]).toMatchObject({ text: 'ab', finish_reason: 'stop' });
    expect(json.usage).toMatchObject({ completion_tokens: 4 });
  });

  test('streamed: held back until decided, never taken back', async () => {
    const at = await saying(
      { tokens: bytesOf('a. E') },
      { waitMillis: 10 },
      { tokens: bytesOf('lse. E') },
      { waitMillis: 10 },
      { tokens: bytesOf('ND') },
      { waitMillis: 5000 },
      ENDED,
    );
    const frames = framesOf((await complete(at, { stop: '. END', stream: true })).body).slice(0, -1) as Answer[];
    expect(frames.map(({ choices: [choice] }) => [choice?.text, choice?.finish_reason])).toEqual([
      ['a', null],
      ['. Else', null],
      ['', null],
      ['', 'stop'],
    ]);
  });

  test('one choice that stops leaves the others running', async () => {
    const at = await serving();
    at.system.script = (_request, index) =>
      index === 0
        ? [{ tokens: bytesOf('a!b') }, { waitMillis: 5000 }, ENDED]
        : [{ waitMillis: 20 }, { tokens: bytesOf('cd') }, ENDED];
    expect((await complete(at, { n: 2, stop: '!' })).json.choices.map(({ text }) => text)).toEqual(['a', 'cd']);
    expect(at.system.requests.map(({ aborted }) => aborted)).toEqual(['stop', null]);
  });

  test('a stop token of the request ends without its text', async () => {
    const at = await saying({ tokens: bytesOf('ab\n') }, ENDED);
    expect((await complete(at, { stop_token_ids: [10] })).json.choices[0]).toMatchObject({ text: 'ab', finish_reason: 'stop' });
  });
});

describe('text', () => {
  test('with characters spread over tokens never shows half of one', async () => {
    const at = await saying(...bytesOf('é😀!').flatMap((byte): Beat[] => [{ tokens: [byte] }, { waitMillis: 4 }]), ENDED);
    const frames = framesOf((await chat(at, { stream: true })).body).slice(0, -1) as {
      choices: { delta: { content?: string } }[];
    }[];
    const texts = frames.map(({ choices: [choice] }) => choice?.delta.content ?? '');
    expect(texts.filter((text) => text !== '')).toEqual(['é', '😀', '!']);
  });

  test('does not show control tokens, ended or not', async () => {
    const at = await saying({ tokens: [97, END_OF_TEXT, THINK, 98] }, CUT);
    expect((await complete(at)).json.choices[0]?.text).toBe('a<think>b');
  });

  test('that breaks off within a character is the same whole and streamed', async () => {
    const at = await saying({ tokens: [97, 0xf0, 0x9f] }, CUT);
    expect((await complete(at)).json.choices[0]?.text).toBe('a\uFFFD');
    const frames = framesOf((await complete(at, { stream: true })).body).slice(0, -1) as Answer[];
    expect(frames.map(({ choices: [choice] }) => choice?.text).join('')).toBe('a\uFFFD');
  });
});

const LOGPROBS = {
  logprob: -0.5,
  top: [
    { token: 98, logprob: -0.25 },
    { token: 0xff, logprob: Number.NEGATIVE_INFINITY },
  ],
};

describe('log probabilities', () => {
  test('of a chat, with bytes', async () => {
    const at = await saying({ tokens: [97], logprobs: LOGPROBS }, { tokens: [IM_END], logprobs: LOGPROBS }, ENDED);
    const { json } = await chat(at, { logprobs: true, top_logprobs: 2 });
    expect(json.choices[0]?.logprobs).toEqual({
      content: [
        {
          token: 'a',
          logprob: -0.5,
          bytes: [97],
          top_logprobs: [
            { token: 'b', logprob: -0.25, bytes: [98] },
            { token: '\uFFFD', logprob: -9999, bytes: [255] },
          ],
        },
      ],
      refusal: null,
    });
    expect(at.system.requests[0]?.request.content.sampling.topLogprobs).toBe(2);
  });

  test('of a completion, in the legacy shape, with offsets in code points', async () => {
    const at = await saying(...bytesOf('😀ab').map((token): Beat => ({ tokens: [token], logprobs: LOGPROBS })), ENDED);
    const { json } = await complete(at, { logprobs: 2 });
    expect(json.choices[0]?.logprobs).toEqual({
      tokens: ['bytes:\\xf0', 'bytes:\\x9f', 'bytes:\\x98', 'bytes:\\x80', 'a', 'b'],
      token_logprobs: Array(6).fill(-0.5),
      top_logprobs: expect.arrayContaining([{ a: -0.5, b: -0.25, 'bytes:\\xff': -9999 }]),
      text_offset: [0, 0, 0, 0, 1, 2],
    });
  });

  test('streamed, each token once, and none beyond a stop string', async () => {
    const beats = bytesOf('ab😀cd.!').flatMap((token): Beat[] => [{ tokens: [token], logprobs: LOGPROBS }, { waitMillis: 2 }]);
    const at = await saying(...beats, ENDED);
    const frames = framesOf((await chat(at, { stream: true, logprobs: true, stop: 'd.' })).body).slice(0, -1) as {
      choices: { logprobs: { content: { bytes: number[] }[] } | null }[];
    }[];
    const bytes = frames.flatMap(({ choices: [choice] }) => choice?.logprobs?.content ?? []).flatMap((token) => token.bytes);
    expect(Buffer.from(bytes).toString()).toBe('ab😀c');
  });
});

describe('a stream', () => {
  test('opens with the role, closes with the reason and [DONE], and says who it is in every frame', async () => {
    const at = await saying({ tokens: bytesOf('hey') }, ENDED);
    const { body, headers } = await chat(at, { stream: true });
    expect(headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    });
    const frames = framesOf(body);
    const common = {
      id: expect.stringMatching(/^chatcmpl-/),
      object: 'chat.completion.chunk',
      created: expect.any(Number),
      model: 'tiny',
      system_fingerprint: expect.any(String),
    };
    expect(frames).toEqual([
      { ...common, choices: [{ index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }] },
      { ...common, choices: [{ index: 0, delta: { content: 'hey' }, logprobs: null, finish_reason: null }] },
      { ...common, choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }] },
      '[DONE]',
    ]);
  });

  test('reports usage at the end where asked, and null before', async () => {
    const at = await saying({ tokens: bytesOf('hey') }, ENDED);
    const frames = framesOf((await complete(at, { stream: true, stream_options: { include_usage: true } })).body).slice(
      0,
      -1,
    ) as { choices: unknown[]; usage: unknown }[];
    const last = frames.pop();
    expect(frames.map(({ usage }) => usage)).toEqual(frames.map(() => null));
    expect(last).toMatchObject({ choices: [], usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 } });
  });

  test('of several choices tells them apart by index, each opened once and finished once', async () => {
    const at = await serving();
    at.system.script = (_request, index) => [
      { waitMillis: index * 5 },
      { tokens: bytesOf('a') },
      { waitMillis: 8 },
      { tokens: bytesOf(String(index)) },
      ENDED,
    ];
    const frames = framesOf((await chat(at, { stream: true, n: 3 })).body).slice(0, -1) as {
      choices: [{ index: number; delta: { role?: string; content?: string }; finish_reason: string | null }];
    }[];
    for (const wanted of [0, 1, 2]) {
      const own = frames.map(({ choices: [choice] }) => choice).filter(({ index }) => index === wanted);
      expect(own.map(({ delta }) => delta.content ?? '').join('')).toBe(`a${wanted}`);
      expect(own.filter(({ delta }) => delta.role === 'assistant').length).toBe(1);
      expect(own.filter(({ finish_reason }) => finish_reason === 'stop').length).toBe(1);
    }
  });

  test('is chosen by the body, never by the Accept header', async () => {
    const at = await saying({ tokens: [97] }, ENDED);
    const payload = { model: 'tiny', prompt: 'x' };
    const events = await at.server.inject({
      method: 'POST',
      url: '/v1/completions',
      payload: { ...payload, stream: true },
      headers: { accept: 'application/json' },
    });
    const whole = await at.server.inject({
      method: 'POST',
      url: '/v1/completions',
      payload,
      headers: { accept: 'text/event-stream' },
    });
    expect([events.headers['content-type'], whole.headers['content-type']]).toEqual([
      'text/event-stream; charset=utf-8',
      'application/json; charset=utf-8',
    ]);
  });

  test('that fails before its first token is a status, after it an error frame', async () => {
    const step7 = failed('step 7 failed');
    const early = await chat(await saying(step7), { stream: true });
    expect([early.status, early.json.error]).toEqual([
      500,
      { message: 'step 7 failed', type: 'server_error', param: null, code: 'engine_failed' },
    ]);
    const late = await chat(await saying({ tokens: [97] }, { waitMillis: 10 }, step7), { stream: true });
    expect(late.status).toBe(200);
    expect(framesOf(late.body).slice(-2)).toEqual([
      { error: { message: 'step 7 failed', type: 'server_error', param: null, code: 'engine_failed' } },
      '[DONE]',
    ]);
  });
});

describe('a refusal by the system', () => {
  test.each([
    ['queue_full', refused('queue_full', 2.5), 429, { 'retry-after': '3', 'retry-after-ms': '2500' }],
    ['draining', refused('draining', 1), 503, { 'retry-after': '1', 'retry-after-ms': '1000' }],
    ['too_large', refused('too_large'), 400, {}],
    ['aborted', ABORTED, 503, {}],
  ])('%s has its status and headers, whole and streamed, at once and later', async (code, end, status, headers) => {
    const at = await saying(end);
    for (const eager of [false, true]) {
      for (const stream of [false, true]) {
        at.system.eager = eager;
        const answer = await chat(at, { stream });
        expect(answer).toMatchObject({ status, json: { error: { code, param: null } }, headers });
      }
    }
  });

  test('of one choice ends the others', async () => {
    const at = await serving();
    at.system.script = (_request, index) => (index === 1 ? [refused('queue_full', 1)] : [{ waitMillis: 3000 }, ENDED]);
    expect((await chat(at, { n: 3 })).status).toBe(429);
    await until(() => at.system.requests.every(({ over }) => over));
    expect(at.system.requests.map(({ aborted }) => aborted)).toEqual(['client', null, 'client']);
  });
});

test('ids beyond the vocabulary are refused wherever they are named', async () => {
  const at = await serving();
  for (const body of [{ prompt: [VOCABULARY] }, { logit_bias: { [VOCABULARY]: 1 } }, { stop_token_ids: [VOCABULARY] }]) {
    expect((await complete(at, body)).json.error).toMatchObject({ code: 'invalid_request', param: Object.keys(body)[0] });
  }
});
