import { describe, expect, test } from 'vitest';
import type { RequestEnd } from '../../src/actors/ports.js';
import { ABORTED, bytesOf, ENDED } from './scripted-system.js';
import { framesOf, type Serving, serving, until } from './serving.js';

type Body = Record<string, unknown>;

interface Answer {
  readonly status: number;
  readonly body: string;
}

async function post({ server }: Serving, url: string, body: Body): Promise<Answer> {
  const answer = await server.inject({ method: 'POST', url, payload: { model: 'tiny', ...body } });
  return { status: answer.statusCode, body: answer.body };
}

const chat = (at: Serving, body: Body = {}) =>
  post(at, '/v1/chat/completions', { messages: [{ role: 'user', content: 'hi' }], ...body });
const complete = (at: Serving, body: Body = {}) => post(at, '/v1/completions', { prompt: 'hi', ...body });

const STREAM = { stream: true, stream_options: { include_usage: true } };

/** `cached_tokens` of an answer, whole or streamed. */
function cached({ body }: Answer): number {
  const last = body.startsWith('{') ? JSON.parse(body) : framesOf(body).at(-2);
  return (last as { usage: { prompt_tokens_details: { cached_tokens: number } } }).usage.prompt_tokens_details.cached_tokens;
}

describe('what of the prompt was found', () => {
  const found = (cachedTokens: number): RequestEnd => ({ ...ENDED, cachedTokens });

  test('is in the usage of a chat and of a completion, whole and streamed', async () => {
    const at = await serving();
    at.system.script = () => [{ tokens: bytesOf('x') }, found(16)];
    expect(cached(await chat(at))).toBe(16);
    expect(cached(await complete(at))).toBe(16);
    expect(cached(await chat(at, STREAM))).toBe(16);
    expect(cached(await complete(at, STREAM))).toBe(16);
  });

  test('counts once for each prompt, as the prompt does: the most that one of its choices found', async () => {
    const at = await serving();
    at.system.script = (_request, index) => [{ tokens: bytesOf('x') }, found([0, 16, 32, 48, 16, 32][index % 6] as number)];
    expect(cached(await complete(at, { prompt: ['a', 'b'], n: 3 }))).toBe(32 + 48);
    expect(cached(await complete(at, { prompt: ['a', 'b'], n: 3, ...STREAM }))).toBe(32 + 48);
    expect(cached(await chat(at, { n: 3, ...STREAM }))).toBe(32);
  });

  /** Two choices of which one has met its stop string, and the system has not ended it yet. */
  async function stopped(body: Body): Promise<{ at: Serving; answer: Promise<Answer>; answered: () => boolean }> {
    const at = await serving();
    at.system.script = (_request, index) => [{ tokens: bytesOf(index === 0 ? 'a!' : 'b') }, ...(index === 0 ? [] : [found(0)])];
    let asked = false;
    at.system.abort = () => {
      asked = true;
    };
    let answered = false;
    const answer = complete(at, { n: 2, stop: '!', ...body }).finally(() => {
      answered = true;
    });
    await until(() => asked && at.system.requests[1]?.over === true);
    await new Promise((resolve) => setTimeout(resolve, 20));
    return { at, answer, answered: () => answered };
  }

  test('is waited for where a stop string has ended the text before', async () => {
    for (const body of [{}, STREAM]) {
      const { at, answer, answered } = await stopped(body);
      expect(answered()).toBe(false);
      at.system.requests[0]?.end({ ...ABORTED, cachedTokens: 48 });
      expect(cached(await answer)).toBe(48);
    }
  });

  test('is not waited for where nobody asks, or once the system is gone', async () => {
    expect((await (await stopped({ stream: true })).answer).body).toMatch(/data: \[DONE\]\n\n$/);
    for (const body of [{}, STREAM]) {
      const { at, answer } = await stopped(body);
      at.system.fail(new Error('gone'));
      const { status, body: text } = await answer;
      expect([status, text.includes('"finish_reason":"stop"')]).toEqual([200, true]);
    }
  });
});
