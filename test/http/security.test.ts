/** What a client may not do to the server or to others: sizes, loops, paths, spellings. */
import { readFileSync } from 'node:fs';
import { Script } from 'node:vm';
import { describe, expect, test, vi } from 'vitest';
import { isExposed } from '../../src/core/config.js';
import { ChatTemplate } from '../../src/http/chat-template.js';
import { ControlTokens } from '../../src/http/control-tokens.js';
import { bytesOf, ENDED } from './scripted-system.js';
import { serving } from './serving.js';

const user = (content: string) => [{ role: 'user', content }];

describe('limits of a request', () => {
  const chat = { messages: user('x') };
  const many = (length: number) => Object.fromEntries(Array.from({ length }, (_, token) => [token, 1]));
  test.each([
    ['stop', { ...chat, stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop'],
    ['the length of a stop', { ...chat, stop: 'x'.repeat(1025) }, 'stop'],
    ['an empty stop', { ...chat, stop: '' }, 'stop'],
    ['logit_bias', { ...chat, logit_bias: many(1025) }, 'logit_bias'],
    ['a bias', { ...chat, logit_bias: { 1: 101 } }, 'logit_bias[1]'],
    ['n', { ...chat, n: 129 }, 'n'],
    ['top_logprobs', { ...chat, logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
    ['stop_token_ids', { ...chat, stop_token_ids: Array.from({ length: 65 }, () => 1) }, 'stop_token_ids'],
    ['user', { ...chat, user: 'x'.repeat(257) }, 'user'],
    [
      'variables of the template',
      { ...chat, chat_template_kwargs: Object.fromEntries(Array.from({ length: 33 }, (_, k) => [`v${k}`, 1])) },
      'chat_template_kwargs',
    ],
    ['the context', { messages: user('x'.repeat(2000)) }, 'messages'],
    ['max_tokens', { ...chat, max_tokens: 100_000 }, 'messages'],
  ])('%s', async (_name, body, param) => {
    const { server, system } = await serving();
    const answer = await server.inject({ method: 'POST', url: '/v1/chat/completions', payload: { model: 'tiny', ...body } });
    expect([answer.statusCode, answer.json().error.param]).toEqual([400, param]);
    expect(system.requests).toEqual([]);
  });

  test('all prompts and choices together', async () => {
    const { server, system } = await serving({ config: { maxRunning: 4, maxQueued: 4 } });
    for (const [prompts, n] of [
      [9, 1],
      [3, 3],
    ] as const) {
      const payload = { model: 'tiny', prompt: Array.from({ length: prompts }, () => 'x'), n };
      const answer = await server.inject({ method: 'POST', url: '/v1/completions', payload });
      expect([answer.statusCode, answer.json().error.param]).toEqual([400, 'n']);
    }
    expect(system.requests).toEqual([]);
  });

  test('the body, also one whose length nobody says', async () => {
    const { server, url } = await serving({ config: { bodyLimitBytes: 1024 }, listen: true });
    const payload = { model: 'tiny', prompt: 'x'.repeat(2000) };
    expect((await server.inject({ method: 'POST', url: '/v1/completions', payload })).json().error.code).toBe('body_too_large');
    const unsaid = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: new Blob([JSON.stringify(payload)]).stream(),
      duplex: 'half',
    } as RequestInit);
    expect([unsaid.status, ((await unsaid.json()) as { error: { code: string } }).error.code]).toEqual([413, 'body_too_large']);
    expect(
      (await server.inject({ method: 'PATCH', url: '/v1/requests/1', payload: { priority: 1, x: 'y'.repeat(5000) } })).statusCode,
    ).toBe(413);
  });

  test('a large body without a key is answered, and not read into memory', async () => {
    const at = await serving({ tenants: { blue: {} }, listen: true });
    const answer = await fetch(`${at.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer wrong' },
      body: JSON.stringify({ model: 'tiny', prompt: 'x'.repeat(30_000_000) }),
    });
    expect(answer.status).toBe(401);
    expect((await fetch(`${at.url}/health`)).status).toBe(200);
  });

  test('the headers that name a user or an objective', async () => {
    const { server } = await serving();
    const payload = { model: 'tiny', prompt: 'x' };
    for (const [name, value] of [
      ['x-gateway-inference-fairness-id', 'x'.repeat(257)],
      ['x-slo-ttft-ms', '1e999'],
      ['x-slo-tpot-ms', '-1'],
    ] as const) {
      const answer = await server.inject({ method: 'POST', url: '/v1/completions', payload, headers: { [name]: value } });
      expect([answer.statusCode, answer.json().error.param]).toEqual([400, name]);
    }
  });
});

describe('a chat template', () => {
  const template = (source: string) =>
    new ChatTemplate(source, { constants: {}, control: new ControlTokens(new Map()), turnTokens: [], tagTokens: [] });
  const options = { addGenerationPrompt: true, variables: new Map() };
  const message = { role: 'user' as const, content: 'x', name: null };

  test('that loops is cut', { timeout: 20_000 }, () => {
    const nested = ['a', 'b', 'c', 'd', 'e'].reduceRight(
      (inner, name) => `{% for ${name} in range(100000) %}${inner}{% endfor %}`,
      '',
    );
    expect(() => template(nested).render([message], options)).toThrow(/did not end within 5000 ms/);
  });

  test('that loops without range is cut, too', { timeout: 20_000 }, () => {
    const numbers = JSON.stringify(Array.from({ length: 100 }, (_, k) => k));
    const nested = ['a', 'b', 'c', 'd', 'e'].reduceRight(
      (inner, name) => `{% for ${name} in ${numbers} %}${inner}{% endfor %}`,
      '{% set x = 1 %}',
    );
    const watch = vi.spyOn(Script.prototype, 'runInContext');
    expect(() => template(nested).render([message], options)).toThrow(/did not end within 5000 ms/);
    expect(watch).toHaveBeenCalledTimes(1);
    watch.mockRestore();
  });

  // The watch is a thread, made and waited for: with a full engine beside it, everybody's streams stand still meanwhile.
  test('that is as short as most is not watched', () => {
    const watch = vi.spyOn(Script.prototype, 'runInContext');
    const clock = vi.spyOn(performance, 'now').mockReturnValue(0); // however crowded the machine is
    const source = '{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}';
    expect(template(source).render([message, message], options)).toBe('user: x;user: x;');
    expect(watch).not.toHaveBeenCalled();
    expect(template(`{% set r = range(2) %}${source}`).render([message], options)).toBe('user: x;');
    expect(watch).toHaveBeenCalledTimes(1);
    for (const spy of [watch, clock]) spy.mockRestore();
  });

  test('that makes text without end is cut', { timeout: 20_000 }, () => {
    const source = '{% for a in range(3000000) %}xx{% endfor %}';
    expect(() => template(source).render([message], options)).toThrow(/too much text|did not end/);
  });

  test.each([
    '{{ process.exit(1) }}',
    '{{ constructor.constructor("return process")() }}',
    '{% include "/etc/passwd" %}',
    '{% import "fs" as fs %}',
    '{{ messages.constructor.constructor("return 1")() }}',
  ])('reaches nothing of the process: %s', (source) => {
    let text = '';
    try {
      text = template(source).render([message], options);
    } catch (error) {
      text = (error as Error).message;
    }
    expect(text).not.toMatch(/root:|\[object process\]|^1$/);
  });
});

describe('no path from a request reaches the file system', () => {
  const secret = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');

  test.each([
    '/board/assets/../../../../package.json',
    '/board/assets/..%2f..%2f..%2f..%2fpackage.json',
    '/board/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/package.json',
    '/board/charts/..%5c..%5cpackage.json',
    '/board/assets//etc/passwd',
    '/v1/models/..%2f..%2fpackage.json',
    '/v1/requests/..%2f..%2fpackage.json',
    '/v1/tenants/..%2fpackage.json',
    '/../package.json',
    '/%00package.json',
  ])('%s', async (url) => {
    const { server } = await serving();
    const answer = await server.inject({ url });
    expect(answer.statusCode).toBeGreaterThanOrEqual(400);
    expect(answer.body).not.toContain('"name": "fastswitch"');
    expect(answer.body).not.toContain('root:');
    expect(secret).toContain('"name": "fastswitch"');
  });

  test('nor does a field: names of models, templates and images are never opened', async () => {
    const { server, system } = await serving();
    system.script = () => [{ tokens: bytesOf('a') }, ENDED];
    const status = async (more: object) =>
      (
        await server.inject({
          method: 'POST',
          url: '/v1/chat/completions',
          payload: { model: 'tiny', messages: user('x'), ...more },
        })
      ).statusCode;
    expect(await status({ model: '../../package.json' })).toBe(404);
    expect(await status({ chat_template: '/etc/passwd' })).toBe(400);
    expect(await status({ documents: ['/etc/passwd'] })).toBe(400);
    expect(
      await status({ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'file:///etc/passwd' } }] }] }),
    ).toBe(400);
    expect(system.requests).toEqual([]);
  });
});

describe('the door', () => {
  test.each([
    [{ host: '127.0.0.1' }, false],
    [{ host: '127.8.9.1' }, false],
    [{ host: '::1' }, false],
    [{ host: 'localhost' }, false],
    [{ host: '0.0.0.0' }, true],
    [{ host: '::' }, true],
    [{ host: '' }, true],
    [{ host: '192.168.0.2' }, true],
    [{ host: '127.0.0.1.example.org' }, true],
    [{ host: 'localhost.example.org' }, true],
    [{ host: '0.0.0.0', tenants: 'tenants.json' }, false],
    [{ host: '0.0.0.0', insecure: true }, false],
  ])('%j: exposed is %j', (config, exposed) => {
    expect(isExposed({ tenants: '', insecure: false, ...config })).toBe(exposed);
  });
});
