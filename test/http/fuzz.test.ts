import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ENDED } from './scripted-system.js';
import { serving } from './serving.js';

const odd = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    false,
    0,
    1,
    -1,
    1.5,
    1e308,
    '',
    'x',
    '1',
    [],
    {},
    [null],
    [[]],
    ['a', ''],
    [0, 1],
    { type: 'text' },
    '\uFDD01\uFDD1',
    '\ud800',
    'toString',
  ),
  fc.jsonValue({ maxDepth: 2 }),
);

const likely: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  model: fc.constantFrom('tiny', 'other', 'toString'),
  prompt: fc.oneof(fc.string(), fc.array(fc.string()), fc.array(fc.nat(400)), fc.array(fc.array(fc.nat(400)))),
  messages: fc.array(
    fc.record(
      {
        role: fc.constantFrom('system', 'user', 'assistant', 'tool', 'constructor'),
        content: fc.oneof(
          fc.string(),
          fc.array(fc.record({ type: fc.constantFrom('text', 'image_url'), text: fc.string() })),
          odd,
        ),
        name: odd,
      },
      { requiredKeys: ['role', 'content'] },
    ),
  ),
  n: fc.integer({ min: -1, max: 4 }),
  max_tokens: fc.integer({ min: -1, max: 2000 }),
  temperature: fc.oneof(fc.double({ min: 0, max: 2 }), fc.double()),
  stop: fc.oneof(fc.string(), fc.array(fc.string())),
  logprobs: fc.oneof(fc.boolean(), fc.nat(30)),
  top_logprobs: fc.nat(30),
  stream: fc.boolean(),
  seed: fc.oneof(fc.integer(), fc.double()),
  logit_bias: fc.dictionary(fc.oneof(fc.nat(400).map(String), fc.string()), fc.oneof(fc.double(), odd)),
  echo: fc.boolean(),
  user: fc.string(),
  cache_salt: fc.string(),
  prompt_cache_key: fc.string(),
  stream_options: fc.oneof(fc.record({ include_usage: fc.boolean() }), odd),
  chat_template_kwargs: fc.oneof(fc.dictionary(fc.string(), odd), fc.constant({ enable_thinking: false })),
  return_token_ids: fc.boolean(),
  tokens: fc.array(fc.nat(400)),
  tools: fc.constantFrom([], [{}]),
};

const SHARED = [
  'n',
  'max_tokens',
  'temperature',
  'stop',
  'logprobs',
  'stream',
  'seed',
  'logit_bias',
  'user',
  'cache_salt',
  'prompt_cache_key',
  'stream_options',
  'return_token_ids',
  'tools',
];
const OWN: Readonly<Record<string, readonly string[]>> = {
  '/v1/chat/completions': [...SHARED, 'top_logprobs', 'chat_template_kwargs', 'messages'],
  '/v1/completions': [...SHARED, 'echo', 'prompt'],
  '/tokenize': ['prompt', 'messages', 'chat_template_kwargs'],
  '/detokenize': ['tokens'],
};

const value = (name: string): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 9, arbitrary: likely[name] as fc.Arbitrary<unknown> }, { weight: 1, arbitrary: odd });
const request = fc.constantFrom(...Object.keys(OWN)).chain((path) => {
  // Mostly fields of the endpoint, few at a time: one that is wrong hides all others.
  const names = fc.oneof(
    { weight: 4, arbitrary: fc.subarray([...(OWN[path] ?? [])], { maxLength: Math.min(4, OWN[path]?.length ?? 0) }) },
    { weight: 1, arbitrary: fc.subarray(Object.keys(likely), { maxLength: 6 }) },
  );
  const fields = names.chain((chosen) => fc.record(Object.fromEntries(chosen.map((name) => [name, value(name)]))));
  const required = path.includes('chat') ? { messages: [{ role: 'user', content: 'x' }] } : { prompt: 'x' };
  const whole = fc
    .tuple(fields, fc.constantFrom({}, { model: 'tiny' }), fc.constantFrom({}, required, required))
    .map(([own, model, needed]) => ({ ...needed, ...own, ...model }));
  return fc.record({
    path: fc.constant(path),
    payload: fc.oneof({ weight: 14, arbitrary: whole }, { weight: 1, arbitrary: odd }),
  });
});

test("whatever is sent, the answer is 2xx, or 4xx in OpenAI's shape", async () => {
  const { server, system } = await serving();
  system.script = (request) => [
    { tokens: Array.from({ length: Math.min(5, request.maxTokens) }, (_, index) => 97 + index) },
    ENDED,
  ];
  const seen = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(request, async ({ path, payload }) => {
      const response = await server.inject({
        method: 'POST',
        url: path,
        payload: JSON.stringify(payload),
        headers: { 'content-type': 'application/json' },
      });
      seen.set(response.statusCode, (seen.get(response.statusCode) ?? 0) + 1);
      expect(response.statusCode).toBeLessThan(500);
      if (response.statusCode === 200) return;
      expect(response.json()).toEqual({
        error: {
          message: expect.any(String),
          type: expect.any(String),
          param: response.json<{ error: { param: unknown } }>().error.param,
          code: expect.any(String),
        },
      });
    }),
    { numRuns: 700 },
  );
  expect(seen.get(200) ?? 0).toBeGreaterThan(50);
  expect(seen.get(400) ?? 0).toBeGreaterThan(50);
});
