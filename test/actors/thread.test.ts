/** The system on its own thread, with the real engine. Worker threads load compiled files, so this tests `dist`. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { RequestEnd } from '../../src/actors/ports.js';
import type { System } from '../../src/actors/system.js';
import type * as Thread from '../../src/actors/thread.js';
import { type Config, DEFAULTS, GREEDY } from '../../src/core/config.js';
import type { Content, EmittedToken } from '../../src/core/types.js';

const { createThreadedSystem } = (await import(
  new URL('../../dist/src/actors/thread.js', import.meta.url).href
)) as typeof Thread;
const CONFIG: Config = {
  ...DEFAULTS,
  model: fileURLToPath(new URL('../fixtures/models/llama3', import.meta.url)),
  deviceKvBytes: 1 << 20,
  hostKvBytes: 1 << 20,
  threads: 1,
};

function content(seed: bigint): Content {
  return {
    promptTokens: Int32Array.of(1, 2, 3, 4, 5),
    stopTokens: [],
    sampling: { ...GREEDY, temperature: 1, seed, topLogprobs: 2 },
    cacheSalt: '',
  };
}

function generate(
  system: System,
  seed: bigint,
  change: Partial<Content> = {},
): Promise<{ items: EmittedToken[]; end: RequestEnd }> {
  return new Promise((resolve) => {
    const items: EmittedToken[] = [];
    system.submit(
      { content: { ...content(seed), ...change }, maxTokens: 6, priority: 0, tenant: '', labels: [] },
      { tokens: (more) => void items.push(...more), end: (end) => resolve({ items, end }) },
    );
  });
}

const tokensOf = ({ items }: { items: readonly EmittedToken[] }) => items.map(({ token, logprobs }) => [token, logprobs]);

describe('the system on its own thread', () => {
  it('gives the same tokens for a seed of 64 bits, with logprobs, in order', async () => {
    const system = await createThreadedSystem(CONFIG, 'test');
    const largest = 2n ** 64n - 1n;
    const [first, again, other] = await Promise.all([generate(system, largest), generate(system, largest), generate(system, 1n)]);
    await system.close();
    expect(first.end.outcome).toBe('length');
    expect(first.items.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(first.items.every(({ logprobs }) => logprobs !== null && logprobs.logprob <= 0 && logprobs.top.length === 2)).toBe(
      true,
    );
    expect(tokensOf(again)).toEqual(tokensOf(first));
    expect(tokensOf(other)).not.toEqual(tokensOf(first));
  });

  it('finds the KV of a prompt that it has seen, gives the same tokens on top of it, and shares it under one salt only', async () => {
    const system = await createThreadedSystem(CONFIG, 'test');
    const promptTokens = Int32Array.from({ length: 40 }, (_, position) => 3 + position);
    const first = await generate(system, 7n, { promptTokens });
    const again = await generate(system, 7n, { promptTokens });
    const salted = await generate(system, 7n, { promptTokens, cacheSalt: 'another' });
    const { cachedPromptTokens } = await system.snapshot();
    await system.close();
    expect([first, again, salted].map(({ end }) => end.cachedTokens)).toEqual([0, 32, 0]);
    expect(cachedPromptTokens).toBe(32);
    for (const other of [again, salted]) expect(tokensOf(other)).toEqual(tokensOf(first));
  });

  it('explains a request by its number and by what it is called, across the threads', async () => {
    const system = await createThreadedSystem(CONFIG, 'test');
    const labels = ['cmpl-1', 'req-1'];
    await new Promise<RequestEnd>((resolve) => {
      const request = { content: content(3n), maxTokens: 6, priority: 2, tenant: 'blue', labels };
      system.submit(request, { tokens() {}, end: resolve });
    });
    const [byNumber, byLabel, unknown] = await Promise.all(['1', 'req-1', 'req-2'].map((name) => system.explain(name)));
    expect([byNumber?.length, byLabel?.length, unknown]).toEqual([1, 1, []]);
    expect(byLabel?.[0]).toMatchObject({
      life: {
        id: 1,
        labels,
        tenant: 'blue',
        priority: 2,
        generated: 6,
        outcome: 'length',
        spells: [{}, {}, { phase: 'decoding' }],
      },
      waitingFor: null,
    });
    expect(byLabel?.[0]?.story[0]).toMatch(
      /^Request 1 \(cmpl-1, req-1\) ended after .* and 6 tokens: all 6 that it was allowed\.$/,
    );
    expect(byNumber?.[0]?.life).toEqual(byLabel?.[0]?.life);
    await system.close();
    await expect(system.explain('1')).rejects.toThrow('restart the server');
  });

  it('answers everything that is asked of it during and after its close', async () => {
    const system = await createThreadedSystem(CONFIG, 'test');
    const late = [generate(system, 1n), system.close(), system.close()] as const;
    const [{ end }] = await Promise.all(late);
    expect(end.outcome).toBe('aborted');
    await expect(system.snapshot()).rejects.toThrow('restart the server');
    expect((await generate(system, 2n)).end).toMatchObject({ outcome: 'failed' });
    await system.drain();
    await system.close();
  });

  it('refuses a request that has nothing to compute', async () => {
    const system = await createThreadedSystem(CONFIG, 'test');
    const empty = { ...content(0n), promptTokens: new Int32Array() };
    const listener = { tokens() {}, end() {} };
    expect(() => system.submit({ content: empty, maxTokens: 1, priority: 0, tenant: '', labels: [] }, listener)).toThrow(
      RangeError,
    );
    await system.close();
  });

  it('does not start on a model or a memory that cannot be used, and says why', async () => {
    await expect(createThreadedSystem({ ...CONFIG, model: '/nowhere' }, 'test')).rejects.toMatchObject({ code: 'bad_model' });
    const tiny = createThreadedSystem({ ...CONFIG, deviceKvBytes: 100 }, 'test');
    await expect(tiny).rejects.toMatchObject({ code: 'bad_config', message: expect.stringContaining('--device-kv') });
  });
});
