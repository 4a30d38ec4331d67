/**
 * The real server as the clients in wide use meet it: OpenAI's own, and Vercel's `ai`. What other servers' suites hold of
 * theirs (vLLM's OpenAI entry points, llama.cpp's server) and applies here is held here in our own words.
 */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, RetryError, streamText } from 'ai';
import OpenAI, { APIConnectionTimeoutError, APIError, BadRequestError } from 'openai';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { idle, type RunningServer, startServer } from './server.js';

let server: RunningServer;
let openai: OpenAI;
const messages = [{ role: 'user' as const, content: 'Hi! My name is Ada.' }];
const CHAT = { model: 'demo', messages, temperature: 0 };

beforeAll(async () => {
  server = await startServer('--max-running', '4', '--max-queued', '300', '--drain-seconds', '2');
  openai = new OpenAI({ apiKey: 'none', baseURL: `${server.url}/v1`, maxRetries: 0 });
});
afterEach(() => idle(server));
afterAll(async () => {
  expect(await server?.stop()).toBe(0);
});

const provider = () => createOpenAICompatible({ name: 'fastswitch', baseURL: `${server.url}/v1`, includeUsage: true });

describe("the client 'ai'", () => {
  it('generates a text, with its usage and reason', async () => {
    const { text, usage, finishReason, response } = await generateText({ model: provider()('demo'), temperature: 0, messages });
    expect(text).toMatch(/Ada/);
    expect(finishReason).toBe('stop');
    expect(usage.inputTokens).toBeGreaterThan(5);
    expect(usage.outputTokens).toBeGreaterThan(3);
    expect(response.id).toMatch(/^chatcmpl-/);
    expect(response.modelId).toBe('demo');
  });

  it('streams the same text, in pieces, with the same usage', async () => {
    const whole = await generateText({ model: provider()('demo'), temperature: 0, messages });
    const stream = streamText({ model: provider()('demo'), temperature: 0, messages });
    const pieces: string[] = [];
    for await (const piece of stream.textStream) pieces.push(piece);
    expect(pieces.length).toBeGreaterThan(3);
    expect(pieces.join('')).toBe(whole.text);
    expect((await stream.usage).outputTokens).toBe(whole.usage.outputTokens);
    expect(await stream.finishReason).toBe('stop');
  });

  it('gets completions without a chat template, and is cut where it says so', async () => {
    const model = provider().completionModel('demo');
    const { text, finishReason } = await generateText({ model, prompt: 'Once upon a time', maxOutputTokens: 4, temperature: 0 });
    expect(text).not.toBe('');
    expect(finishReason).toBe('length');
  });

  it('is told what is wrong, once: what will not change is not tried again', async () => {
    const tried = generateText({ model: provider()('nobody'), messages, maxRetries: 3 });
    await expect(tried).rejects.toSatisfy(
      (error) =>
        APICallError.isInstance(error) && error.statusCode === 404 && !error.isRetryable && /serves 'demo'/.test(error.message),
    );
    const hot = generateText({ model: provider()('demo'), messages, temperature: 3, maxRetries: 3 });
    await expect(hot).rejects.not.toBeInstanceOf(RetryError);
  });

  it('may leave, and its work ends', async () => {
    const leaving = new AbortController();
    const stream = streamText({
      model: provider()('demo'),
      messages: [{ role: 'user', content: 'Tell me a story about a fox.' }],
      abortSignal: leaving.signal,
      onError() {},
    });
    for await (const _piece of stream.textStream) leaving.abort();
  });
});

describe('a stream', () => {
  it('names one id in every chunk, the role only in the first, and a reason once, at the end, without text', async () => {
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of await openai.chat.completions.create({ ...CHAT, stream: true })) chunks.push(chunk);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
    expect(chunks.map(({ choices: [choice] }) => choice?.delta.role)).toEqual([
      'assistant',
      ...chunks.slice(1).map(() => undefined),
    ]);
    expect(chunks.filter(({ choices: [choice] }) => choice?.finish_reason !== null)).toEqual([chunks.at(-1)]);
    expect(chunks.at(-1)?.choices[0]?.delta.content).toBeUndefined();
    const whole = await openai.chat.completions.create(CHAT);
    expect(chunks.map(({ choices: [choice] }) => choice?.delta.content ?? '').join('')).toBe(whole.choices[0]?.message.content);
  });

  it('has log probabilities whose tokens spell the text; none, and none of others, where nobody asks', async () => {
    let text = '';
    let spelled = '';
    const asked = { ...CHAT, max_tokens: 12, logprobs: true, top_logprobs: 3, stream: true } as const;
    for await (const chunk of await openai.chat.completions.create(asked)) {
      text += chunk.choices[0]?.delta.content ?? '';
      for (const { token, logprob, top_logprobs } of chunk.choices[0]?.logprobs?.content ?? []) {
        spelled += token;
        expect(logprob).toBeLessThanOrEqual(0);
        expect(top_logprobs).toHaveLength(3);
      }
    }
    expect(spelled).toBe(text);
    const none = await openai.chat.completions.create({ ...CHAT, max_tokens: 2, logprobs: false });
    expect(none.choices[0]?.logprobs).toBe(null);
    const bare = await openai.chat.completions.create({ ...CHAT, max_tokens: 2, logprobs: true, top_logprobs: 0 });
    expect(bare.choices[0]?.logprobs?.content?.[0]?.top_logprobs).toEqual([]);
  });
});

describe('what is no request', () => {
  const invalid: [string, unknown][] = [
    ['no messages', null],
    ['a text', 'hello'],
    ['numbers', [123]],
    ['nothing in them', [{}]],
    ['a role that is a number', [{ role: 123, content: 'x' }]],
    ['a content that is a number', [{ role: 'system', content: 123 }]],
    ['one good and one bad', [{ role: 'user', content: 'x' }, {}]],
    ['an empty list', []],
  ];

  it.each(invalid)('is refused by name, and the next is served: messages that are %s', async (_name, wrong) => {
    const asked = openai.chat.completions.create({ model: 'demo', messages: wrong as [] });
    await expect(asked).rejects.toSatisfy((error) => error instanceof BadRequestError && /messages/.test(String(error.param)));
    expect((await openai.chat.completions.create({ ...CHAT, max_tokens: 1 })).choices).toHaveLength(1);
  });

  it.each([['"text"'], ['["a"]'], ['42'], ['null'], ['{{{'], ['']])('is refused as a body: %s', async (body) => {
    const answer = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    expect(answer.status).toBe(400);
    expect(((await answer.json()) as { error: { type: string } }).error.type).toBe('invalid_request_error');
  });

  it('is refused in another encoding of forms, and with too many log probabilities', async () => {
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    await expect(openai.chat.completions.create(CHAT, { headers })).rejects.toSatisfy(
      (error) => error instanceof APIError && error.status === 415,
    );
    for (const stream of [true, false]) {
      const asked = openai.chat.completions.create({ ...CHAT, logprobs: true, top_logprobs: 21, stream });
      await expect(asked).rejects.toBeInstanceOf(BadRequestError);
    }
    await expect(openai.completions.create({ model: 'demo', prompt: [999_999] })).rejects.toBeInstanceOf(BadRequestError);
    await expect(openai.completions.create({ model: 'demo', prompt: [] })).rejects.toBeInstanceOf(BadRequestError);
  });
});

describe('many clients', () => {
  it('more than there are places are all answered, each as if alone', async () => {
    const prompts = ['Count to five:', 'The sky is', 'A fox', 'What is 7 + 5?', 'Once', 'My name is'];
    const ask = async (prompt: string) =>
      (await openai.completions.create({ model: 'demo', prompt, temperature: 0, max_tokens: 24 })).choices[0]?.text;
    const alone: (string | undefined)[] = [];
    for (const prompt of prompts) alone.push(await ask(prompt));
    expect(await Promise.all([...prompts, ...prompts].map(ask))).toEqual([...alone, ...alone]);
  });

  it('that ask for much and give up leave the server quick for the next', { timeout: 60_000 }, async () => {
    const hasty = new OpenAI({ apiKey: 'none', baseURL: `${server.url}/v1`, maxRetries: 0, timeout: 400 });
    const body = { ...CHAT, max_tokens: 1500, ...({ ignore_eos: true } as object) };
    const gone = await Promise.allSettled(Array.from({ length: 150 }, () => hasty.chat.completions.create(body)));
    const reasons = gone.map((one) => (one.status === 'rejected' ? one.reason : null));
    expect(reasons.every((reason) => reason instanceof APIConnectionTimeoutError)).toBe(true);
    const patient = new OpenAI({ apiKey: 'none', baseURL: `${server.url}/v1`, maxRetries: 0, timeout: 15_000 });
    expect((await patient.chat.completions.create({ ...CHAT, max_tokens: 4 })).choices).toHaveLength(1);
  });
});
