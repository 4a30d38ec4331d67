import OpenAI, { APIUserAbortError, BadRequestError, InternalServerError, NotFoundError, RateLimitError } from 'openai';
import { describe, expect, test } from 'vitest';
import { type Beat, bytesOf, ENDED, failed, refused } from './scripted-system.js';
import { serving, until } from './serving.js';

const messages = [{ role: 'user' as const, content: 'hi' }];
const ask = { model: 'tiny', messages };
const spelled = (text: string): Beat[] => bytesOf(text).flatMap((byte): Beat[] => [{ tokens: [byte] }, { waitMillis: 2 }]);

describe("OpenAI's own client", () => {
  test('gets a chat, whole', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = () => [{ tokens: bytesOf('good day') }, ENDED];
    const answer = await openai.chat.completions.create(ask);
    expect(answer.choices[0]).toMatchObject({ message: { role: 'assistant', content: 'good day' }, finish_reason: 'stop' });
    expect(answer.usage?.completion_tokens).toBe(8);
    expect(answer._request_id).toMatch(/^req_/);
  });

  test('gets a chat, streamed, with usage, and puts it together', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = () => [...spelled('gün 😀'), ENDED];
    const runner = openai.chat.completions.stream({ ...ask, stream_options: { include_usage: true } });
    const pieces: string[] = [];
    runner.on('content', (delta) => pieces.push(delta));
    const whole = await runner.finalChatCompletion();
    expect(whole.choices[0]?.message.content).toBe('gün 😀');
    expect(pieces.join('')).toBe('gün 😀');
    expect(pieces.join('')).not.toContain('\uFFFD');
    expect(whole.usage).toMatchObject({ completion_tokens: bytesOf('gün 😀').length });
  });

  test('is told what of its prompt was found, and may send what helps to find it', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = () => [{ tokens: bytesOf('hi') }, { ...ENDED, cachedTokens: 12 }];
    const answer = await openai.chat.completions.create({ ...ask, prompt_cache_key: 'session 1' });
    expect(answer.usage?.prompt_tokens_details?.cached_tokens).toBe(12);
    let streamed: number | undefined;
    for await (const chunk of await openai.completions.create({
      model: 'tiny',
      prompt: 'a',
      stream: true,
      stream_options: { include_usage: true },
    }))
      streamed = chunk.usage?.prompt_tokens_details?.cached_tokens;
    expect(streamed).toBe(12);
  });

  test('gets legacy completions of several prompts, streamed', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = (_request, index) => [...spelled(`no. ${index}`), ENDED];
    const texts = ['', ''];
    for await (const chunk of await openai.completions.create({ model: 'tiny', prompt: ['a', 'b'], stream: true })) {
      for (const { index, text } of chunk.choices) texts[index] += text;
    }
    expect(texts).toEqual(['no. 0', 'no. 1']);
  });

  test('gets log probabilities in its types', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = () => [{ tokens: [97], logprobs: { logprob: -1, top: [{ token: 97, logprob: -1 }] } }, ENDED];
    const answer = await openai.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 1 });
    expect(answer.choices[0]?.logprobs?.content?.[0]).toMatchObject({ token: 'a', bytes: [97], top_logprobs: [{ token: 'a' }] });
  });

  test('lists and retrieves the model', async () => {
    const { openai } = await serving({ listen: true });
    const names: string[] = [];
    for await (const model of openai.models.list()) names.push(model.id);
    expect(names).toEqual(['tiny']);
    expect(await openai.models.retrieve('tiny')).toMatchObject({ id: 'tiny', object: 'model', max_model_len: 1024 });
    await expect(openai.models.retrieve('org/other')).rejects.toBeInstanceOf(NotFoundError);
  });

  test('throws its own error classes', async () => {
    const { openai, system } = await serving({ listen: true });
    await expect(openai.chat.completions.create({ ...ask, temperature: 3 })).rejects.toSatisfy(
      (error) => error instanceof BadRequestError && error.param === 'temperature' && error.code === 'invalid_request',
    );
    await expect(openai.chat.completions.create({ ...ask, model: 'nope' })).rejects.toSatisfy(
      (error) => error instanceof NotFoundError && error.code === 'model_not_found',
    );
    system.script = () => [refused('queue_full', 1.5)];
    await expect(openai.chat.completions.create(ask)).rejects.toSatisfy(
      (error) =>
        error instanceof RateLimitError &&
        error.headers.get('retry-after-ms') === '1500' &&
        error.headers.get('retry-after') === '2',
    );
    system.script = () => [failed('out of luck')];
    await expect(openai.chat.completions.create({ ...ask, stream: true })).rejects.toSatisfy(
      (error) => error instanceof InternalServerError && error.status === 500,
    );
    system.script = () => [refused('draining')];
    await expect(openai.chat.completions.create(ask)).rejects.toSatisfy(
      (error) => error instanceof InternalServerError && error.status === 503,
    );
  });

  test('waits as long as it is told and tries again', async () => {
    const { system, url } = await serving({ listen: true });
    system.script = (_request, index) => (index === 0 ? [refused('queue_full', 1)] : [{ tokens: [97] }, ENDED]);
    const patient = new OpenAI({ apiKey: 'none', baseURL: `${url}/v1`, maxRetries: 1 });
    const started = performance.now();
    expect((await patient.chat.completions.create(ask)).choices[0]?.message.content).toBe('a');
    // By itself it would have come again after half a second at most.
    expect(performance.now() - started).toBeGreaterThan(950);
  });

  test('throws what goes wrong within a stream', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = () => [...spelled('ab'), failed('step 7 failed')];
    let text = '';
    const read = async (): Promise<void> => {
      for await (const chunk of await openai.chat.completions.create({ ...ask, stream: true }))
        text += chunk.choices[0]?.delta.content ?? '';
    };
    await expect(read()).rejects.toThrow(/step 7 failed/);
    expect(text).toBe('ab');
  });

  test('aborts a stream, and the work ends', async () => {
    const { openai, system } = await serving({ listen: true });
    system.script = () => spelled('x'.repeat(2000));
    const stream = await openai.chat.completions.create({ ...ask, stream: true });
    for await (const _chunk of stream) stream.controller.abort();
    await until(() => system.requests[0]?.aborted === 'client');
  });

  test('aborts while it waits for a whole answer, and the work ends', async () => {
    const { openai, system } = await serving({ listen: true });
    const leaving = new AbortController();
    const waiting = openai.chat.completions.create(ask, { signal: leaving.signal });
    await until(() => system.requests.length === 1);
    leaving.abort();
    await expect(waiting).rejects.toBeInstanceOf(APIUserAbortError);
    await until(() => system.requests[0]?.aborted === 'client');
  });
});
