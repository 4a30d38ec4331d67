import { describe, expect, it } from 'vitest';
import type { Answer, Hands, JournalPort, RequestEnd, TransferEffect } from '../../src/actors/ports.js';
import { Runtime, type SubmitRequest } from '../../src/actors/system.js';
import { BLOCK_TOKENS, GREEDY } from '../../src/core/config.js';
import { PRESETS } from '../../src/core/presets.js';
import type { Limits } from '../../src/core/state.js';
import type { Content, Effect, EmittedToken } from '../../src/core/types.js';

const LIMITS: Limits = {
  policy: 'priority',
  mechanism: { ...PRESETS.default.mechanism, waits: 'async', mirror: false, prefetch: false, paced: false, prefill: 'mixed' },
  blockBytes: 64,
  deviceBlocks: 20,
  hostBlocks: 20,
  maxBatchTokens: 64,
  maxRunning: 1,
  maxQueued: 1,
};

function contentOf(promptTokens: number): Content {
  return { promptTokens: new Int32Array(promptTokens), stopTokens: [], sampling: GREEDY, cacheSalt: '' };
}

const CONTENT = contentOf(8);

/** A runtime whose ports only note what they were told; the test answers through the door. All texts are the same. */
function scripted(transfer: (start: TransferEffect) => void = () => {}, limits: Limits = LIMITS, journal?: JournalPort) {
  const steps: Extract<Effect, { type: 'step' }>[] = [];
  const transfers: TransferEffect[] = [];
  const ends = new Map<number, RequestEnd[]>();
  const tokens: EmittedToken[] = [];
  const failures: Error[] = [];
  const closed: string[] = [];
  let now = 0;
  const makeHands = (_answer: Answer): Hands => ({
    engine: {
      open: (_id, content) =>
        Array.from({ length: Math.floor(content.promptTokens.length / BLOCK_TOKENS) }, (_, k) => `block ${k}`),
      close: (id) => void closed.push(`request ${id}`),
      step: (effect) => void steps.push(effect),
    },
    transfers: {
      start(effect) {
        transfers.push(effect);
        transfer(effect);
      },
    },
    clock: { now: () => (now += 1000) },
    close: async () => void closed.push('hands'),
  });
  const runtime = new Runtime({
    limits,
    makeHands,
    sink: {
      tokens: (items) => void tokens.push(...items),
      end: (id, end) => void ends.set(id, [...(ends.get(id) ?? []), end]),
      failed: (error) => void failures.push(error),
    },
    ...(journal === undefined ? {} : { journal }),
  });
  const submit = (id: number, more: Partial<SubmitRequest> = {}) =>
    runtime.submit(id, { content: CONTENT, maxTokens: 3, priority: 5, tenant: '', labels: [], ...more });
  const step = () => {
    const effect = steps.shift();
    if (effect === undefined) throw new Error('no step in flight');
    const items = effect.items.map(({ id, count, sample }) => ({
      id,
      count,
      token: sample ? 1 : -1,
      ended: false,
      logprobs: null,
      name: null, // nobody fills a block with what it generates here
    }));
    // Long beside a copy, so that copies are worth while.
    runtime.deliver({ type: 'stepped', step: effect.step, micros: 100_000, items });
  };
  return { runtime, submit, step, steps, transfers, ends, tokens, failures, closed };
}

describe('the door', () => {
  it('carries a request from arrival to its end, and frees what the hands hold for it', () => {
    const { submit, step, ends, tokens, closed } = scripted();
    submit(1);
    for (let n = 0; n < 3; n += 1) step();
    expect(tokens.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(ends.get(1)).toEqual([{ outcome: 'length', code: null, message: null, cachedTokens: 0, retryAfterSeconds: null }]);
    expect(closed).toEqual(['request 1']);
  });

  it('says how long a refused client should wait', () => {
    const { submit, ends } = scripted();
    for (const id of [1, 2, 3]) submit(id);
    expect(ends.get(3)).toMatchObject([{ outcome: 'rejected', code: 'queue_full', retryAfterSeconds: expect.any(Number) }]);
    expect(ends.has(2)).toBe(false);
  });

  it('takes an answer that comes while it decides after what it is doing, in order', () => {
    const box: { runtime: Runtime | null } = { runtime: null };
    const { runtime, submit, step, ends } = scripted(() => box.runtime?.deliver({ type: 'aborted', id: 1, reason: 'client' }));
    box.runtime = runtime;
    submit(1);
    step();
    submit(2, { priority: 1 });
    step(); // 1 is swapped out; its abort comes from inside the port and is remembered
    expect(ends.has(1)).toBe(false);
    runtime.deliver({ type: 'landed', transfer: 1, micros: 5 });
    expect(ends.get(1)).toMatchObject([{ outcome: 'aborted' }]);
  });

  it('tells the client how much of its prompt was found, also where that came from the host', () => {
    const { submit, step, ends, transfers, runtime } = scripted(undefined, {
      ...LIMITS,
      mechanism: { ...LIMITS.mechanism, finished: 'save' },
    });
    submit(1, { content: contentOf(40), maxTokens: 1 });
    step();
    runtime.deliver({ type: 'landed', transfer: transfers[0]?.transfer as number, micros: 5 });
    submit(2, { content: contentOf(40), maxTokens: 1 });
    runtime.deliver({ type: 'landed', transfer: transfers[1]?.transfer as number, micros: 5 });
    step();
    expect(transfers.map(({ type }) => type)).toEqual(['mirror', 'swapIn']);
    expect([1, 2].map((id) => ends.get(id)?.[0]?.cachedTokens)).toEqual([0, 32]);
  });

  it('counts for the client what was found at first, not what a request finds of itself again', () => {
    const { submit, step, ends, runtime } = scripted(undefined, {
      ...LIMITS,
      mechanism: { ...LIMITS.mechanism, preemption: 'recompute', weighed: false },
      maxRunning: 1,
    });
    submit(1, { content: contentOf(40), maxTokens: 3 });
    step();
    submit(2, { priority: 1, maxTokens: 1 });
    step(); // 1 gives way and stays warm
    step();
    step();
    runtime.deliver({ type: 'aborted', id: 1, reason: 'client' });
    if (!ends.has(1)) step();
    expect(runtime.snapshot()).toMatchObject({ preemptions: { recompute: 1 }, cachedTokens: 32, cachedPromptTokens: 0 });
    expect(ends.get(1)).toMatchObject([{ cachedTokens: 0 }]);
  });

  it('performs what is copied ahead of need without a change of any request', () => {
    const { submit, step, transfers, runtime, tokens } = scripted(undefined, {
      ...LIMITS,
      deviceBlocks: 40,
      maxBatchTokens: 300,
      mechanism: { ...LIMITS.mechanism, mirror: true },
    });
    submit(1, { content: contentOf(200), maxTokens: 3 });
    step();
    expect(transfers).toMatchObject([{ type: 'mirror', ids: [1], blocks: 12 }]);
    expect(runtime.snapshot().requestsByPhase).toMatchObject({ decoding: 1 });
    runtime.deliver({ type: 'landed', transfer: transfers[0]?.transfer as number, micros: 5 });
    step();
    expect(tokens).toHaveLength(2);
    expect(runtime.snapshot().transferBytesByKind).toMatchObject({ mirror: 12 * 64, swapOut: 0 });
  });

  it('changes priorities of those who live, and says nothing of those who do not', () => {
    const { submit, step, runtime, steps } = scripted(undefined, { ...LIMITS, maxQueued: 5 });
    for (const id of [1, 2, 3]) submit(id);
    runtime.deliver({
      type: 'reprioritized',
      items: [
        { id: 3, priority: 0 },
        { id: 77, priority: 0 },
      ],
    });
    step();
    expect(steps[0]?.items.map(({ id }) => id)).toEqual([3]);
  });

  it('explains who runs, who waits and for what, and who has ended, by all their names', () => {
    const { submit, step, runtime } = scripted(undefined, { ...LIMITS, maxQueued: 5 });
    submit(1, { labels: ['mine', 'one'] });
    submit(2, { labels: ['mine'], priority: 1 });
    submit(3, { labels: ['theirs'], priority: 9 });
    expect(runtime.explain('mine').map(({ life }) => life.phase)).toEqual(['prefilling', 'queued']);
    expect(runtime.explain('2')[0]).toMatchObject({ waitingFor: { kind: 'step', step: 1, victims: [1] } });
    expect(runtime.explain('theirs')[0]).toMatchObject({ waitingFor: { kind: 'line', ahead: 1, first: 2 } });
    step();
    const [preempted] = runtime.explain('one');
    expect(preempted?.life).toMatchObject({ phase: 'swapping-out', spells: [{}, {}, {}, { preemption: { by: 2 } }] });
    expect(preempted?.story.join('\n')).toContain('preempted by request 2 (mine): priority 1 outranks its 5');
    runtime.deliver({ type: 'aborted', id: 3, reason: 'operator' });
    const [ended] = runtime.explain('3');
    expect(ended).toMatchObject({ life: { phase: 'done', asked: { by: 'operator' } }, waitingFor: null });
    expect(ended?.at).toBeGreaterThan(ended?.life.endedAt ?? Number.POSITIVE_INFINITY);
    expect(runtime.explain('nobody')).toEqual([]);
  });

  it('explains the latest of very many that are called the same', () => {
    const { submit, runtime } = scripted(undefined, { ...LIMITS, maxQueued: 500 });
    for (let id = 1; id <= 200; id += 1) submit(id, { labels: ['same'] });
    const told = runtime.explain('same');
    expect([told.length, told[0]?.life.id, told[127]?.life.id]).toEqual([128, 73, 200]);
  });

  it('counts what is kept of ended requests as room that is used and could be had', () => {
    const { submit, step, runtime } = scripted();
    submit(1, { content: contentOf(40), maxTokens: 1 });
    step();
    expect(runtime.snapshot().blocks.device).toEqual({ free: 18, moving: 0, used: 2, kept: 2, total: 20 });
  });
});

describe('a mistake of our own', () => {
  const expectStopped = ({ runtime, submit, ends, failures }: ReturnType<typeof scripted>, live: number[]) => {
    expect(failures).toHaveLength(1);
    for (const id of live) expect(ends.get(id)).toMatchObject([{ outcome: 'failed', code: 'engine_failed' }]);
    submit(99);
    expect(ends.get(99)).toMatchObject([{ outcome: 'failed' }]);
    runtime.deliver({ type: 'draining' });
    expect(failures).toHaveLength(1);
  };

  it('in an answer stops the system and ends every request once', () => {
    const world = scripted();
    world.submit(1);
    world.submit(2);
    world.runtime.deliver({ type: 'landed', transfer: 77, micros: 1 });
    expectStopped(world, [1, 2]);
  });

  it('is told to everybody, also where its recording fails too', () => {
    const crashed = () => {
      throw new Error('no room on the disk');
    };
    const world = scripted(undefined, LIMITS, { opened() {}, decided() {}, crashed, async close() {} });
    world.submit(1);
    world.runtime.deliver({ type: 'landed', transfer: 77, micros: 1 });
    expect(world.failures[0]?.message).toContain('transfer 77');
    expectStopped(world, [1]);
  });

  it('in a port that a chart calls does too, though the chart would swallow it', () => {
    const world = scripted(() => {
      throw new Error('no worker');
    });
    world.submit(1);
    world.step();
    world.submit(2, { priority: 1 });
    world.step();
    expect(world.failures[0]?.message).toBe('no worker');
    expectStopped(world, [1, 2]);
  });

  it('does not keep drain or close waiting', async () => {
    const world = scripted();
    world.submit(1);
    const drained = world.runtime.drain();
    world.runtime.deliver({ type: 'landed', transfer: 77, micros: 1 });
    await drained;
    await world.runtime.close();
  });
});

describe('the end', () => {
  it('waits for what is in flight, refuses newcomers, and frees the hands once', async () => {
    const { runtime, submit, step, ends, closed } = scripted();
    submit(1);
    const closing = runtime.close();
    expect(runtime.close()).toBe(closing);
    submit(2);
    expect(ends.get(2)).toMatchObject([{ outcome: 'rejected', code: 'draining' }]);
    step();
    await closing;
    expect(ends.get(1)).toMatchObject([{ outcome: 'aborted' }]);
    expect(closed.filter((what) => what === 'hands')).toHaveLength(1);
  });
});
