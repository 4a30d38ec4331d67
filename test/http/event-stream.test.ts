import { afterEach, expect, test, vi } from 'vitest';
import { GREEDY } from '../../src/core/config.js';
import { CompletionAnswers, usageOf } from '../../src/http/answers.js';
import { eventStream, KEEP_ALIVE_MILLIS } from '../../src/http/event-stream.js';
import { Generation } from '../../src/http/generation.js';
import { Meter } from '../../src/http/meter.js';
import { type Tenant, Tenants } from '../../src/http/tenants.js';
import { loadTokenizer } from '../../src/http/tokenizer.js';
import { byteLevelFolder } from './fixtures/tokenizers.js';
import { bytesOf, ENDED, ScriptedSystem } from './scripted-system.js';

afterEach(() => {
  vi.useRealTimers();
});

async function streaming(change: { includeUsage?: boolean; stop?: string[] } = {}): Promise<{
  system: ScriptedSystem;
  generation: Generation;
  body: AsyncGenerator<string, void, undefined>;
}> {
  const tokenizer = await loadTokenizer(await byteLevelFolder());
  const system = new ScriptedSystem();
  const promptTokens = Int32Array.of(97);
  const tenants = new Tenants('', { promptPrice: 1, tokenPrice: 2 });
  const request = {
    promptTokens,
    sampling: GREEDY,
    stopTokens: [],
    stop: change.stop ?? [],
    maxTokens: 100,
    priority: 0,
    tenant: 'default',
    cacheSalt: '',
    labels: [],
    deadlines: { ttftMicros: null, tbtMicros: null },
    meter: new Meter(tenants, {
      tenant: tenants.anonymous as Tenant,
      account: 'default',
      objective: { ttftSeconds: null, tbtSeconds: null },
      promptTokens: 1,
      cameAt: 0,
    }),
  };
  const generation = new Generation(system, tokenizer, [request], true);
  generation.submit();
  const heading = { id: 'cmpl-1', created: 1, model: 'tiny', system_fingerprint: 'fp' };
  const answers = new CompletionAnswers(tokenizer, [promptTokens], [], false, false);
  return {
    system,
    generation,
    body: eventStream(generation, {
      heading,
      answers,
      counts: async () => ({ usage: usageOf([promptTokens], generation.choices) }),
      includeUsage: change.includeUsage ?? false,
      includeTiming: false,
    }),
  };
}

test('a stream that has nothing to say sends a comment now and then, which clients ignore', async () => {
  const { system, body } = await streaming();
  vi.useFakeTimers();
  const first = body.next();
  await vi.advanceTimersByTimeAsync(KEEP_ALIVE_MILLIS);
  expect((await first).value).toBe(': waiting\n\n');
  const second = body.next();
  await vi.advanceTimersByTimeAsync(KEEP_ALIVE_MILLIS - 1);
  system.requests[0]?.emit(bytesOf('hey'));
  expect((await second).value).toContain('"text":"hey"');
});

test('what came while the client was not reading is one frame when it reads again', async () => {
  const { system, body } = await streaming();
  for (const piece of ['on', 'ce u', 'pon']) system.requests[0]?.emit(bytesOf(piece));
  expect((await body.next()).value?.match(/data: /g)).toHaveLength(1);
  for (const piece of [' a', ' time']) system.requests[0]?.emit(bytesOf(piece));
  system.requests[0]?.end(ENDED);
  const last = (await body.next()).value ?? '';
  expect([last.includes('"text":" a time"'), last.match(/data: /g)?.length, last.endsWith('data: [DONE]\n\n')]).toEqual([
    true,
    3,
    true,
  ]);
  expect((await body.next()).done).toBe(true);
});

test('a stop string ends the text at once, and the usage follows when the system has ended the request', async () => {
  const { system, body } = await streaming({ includeUsage: true, stop: ['!'] });
  system.abort = () => {};
  system.requests[0]?.emit(bytesOf('hey!'));
  const text = (await body.next()).value ?? '';
  expect([text.includes('"text":"hey"'), text.includes('"finish_reason":"stop"'), text.includes('[DONE]')]).toEqual([
    true,
    true,
    false,
  ]);
  system.requests[0]?.end({ ...ENDED, cachedTokens: 16 });
  const usage = (await body.next()).value ?? '';
  expect(usage).toMatch(/^data: .*"choices":\[\],.*"cached_tokens":16.*\n\ndata: \[DONE\]\n\n$/);
  expect((await body.next()).done).toBe(true);
});

test('an abandoned stream ends without a word', async () => {
  const { system, generation, body } = await streaming();
  const next = body.next();
  generation.abort('client');
  expect(await next).toEqual({ value: undefined, done: true });
  expect(system.requests[0]?.aborted).toBe('client');
});
