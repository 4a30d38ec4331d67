import { describe, expect, it } from 'vitest';
import type { Answer, Hands, RequestEnd } from '../../src/actors/ports.js';
import { Runtime, type SubmitRequest } from '../../src/actors/system.js';
import { GREEDY } from '../../src/core/config.js';
import type { Limits } from '../../src/core/state.js';
import type { Content, Effect, EmittedToken } from '../../src/core/types.js';

const LIMITS: Limits = { policy: 'priority', deviceBlocks: 20, hostBlocks: 20, maxBatchTokens: 64, maxRunning: 1, maxQueued: 1 };

const CONTENT: Content = {
  promptTokens: new Int32Array(8),
  stopTokens: [],
  sampling: GREEDY,
};

/** A runtime whose ports only note what they were told; the test answers through the door. */
function scripted(transfer: (start: Effect) => void = () => {}) {
  const steps: Extract<Effect, { type: 'step' }>[] = [];
  const transfers: number[] = [];
  const ends = new Map<number, RequestEnd[]>();
  const tokens: EmittedToken[] = [];
  const failures: Error[] = [];
  const closed: string[] = [];
  let now = 0;
  const makeHands = (_answer: Answer): Hands => ({
    engine: { open() {}, close: (id) => void closed.push(`request ${id}`), step: (effect) => void steps.push(effect) },
    transfers: {
      start(effect) {
        transfers.push(effect.transfer);
        transfer(effect);
      },
    },
    clock: { now: () => (now += 1000) },
    close: async () => void closed.push('hands'),
  });
  const runtime = new Runtime({
    limits: LIMITS,
    blockBytes: 64,
    makeHands,
    sink: {
      tokens: (items) => void tokens.push(...items),
      end: (id, end) => void ends.set(id, [...(ends.get(id) ?? []), end]),
      failed: (error) => void failures.push(error),
    },
  });
  const submit = (id: number, more: Partial<SubmitRequest> = {}) =>
    runtime.submit(id, { content: CONTENT, maxTokens: 3, priority: 5, tenant: '', ...more });
  const step = () => {
    const effect = steps.shift();
    if (effect === undefined) throw new Error('no step in flight');
    const items = effect.items.map(({ id, count, sample }) => ({
      id,
      count,
      token: sample ? 1 : -1,
      ended: false,
      logprobs: null,
    }));
    runtime.deliver({ type: 'stepped', step: effect.step, micros: 10, items });
  };
  return { runtime, submit, step, steps, transfers, ends, tokens, failures, closed };
}

describe('the door', () => {
  it('carries a request from arrival to its end, and frees what the hands hold for it', () => {
    const { submit, step, ends, tokens, closed } = scripted();
    submit(1);
    for (let n = 0; n < 3; n += 1) step();
    expect(tokens.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(ends.get(1)).toEqual([{ outcome: 'length', code: null, message: null, retryAfterSeconds: null }]);
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
