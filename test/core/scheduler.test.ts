import { describe, expect, it } from 'vitest';
import { decide } from '../../src/core/scheduler.js';
import { checkState, createState, type Limits, type State } from '../../src/core/state.js';
import type { Effect, Event, Phase } from '../../src/core/types.js';

const LIMITS: Limits = { policy: 'fcfs', deviceBlocks: 10, hostBlocks: 20, maxBatchTokens: 64, maxRunning: 4, maxQueued: 8 };

/** A core under a test's control: it answers steps and transfers when told to, and checks the laws after every event. */
class Bench {
  readonly state: State;
  at = 0;
  effects: Effect[] = [];
  #step: Extract<Effect, { type: 'step' }> | null = null;
  #transfers: number[] = [];
  readonly stopAfter = new Map<number, number>();

  constructor(limits: Partial<Limits> = {}) {
    this.state = createState({ ...LIMITS, ...limits });
  }

  send(event: Event): Effect[] {
    this.at += 1;
    this.effects = decide(this.state, { ...event, at: this.at });
    for (const effect of this.effects) {
      if (effect.type === 'step') this.#step = effect;
      if (effect.type === 'swapOut' || effect.type === 'swapIn') this.#transfers.push(effect.transfer);
    }
    checkState(this.state);
    return this.effects;
  }

  arrive(id: number, promptTokens: number, maxTokens = 64, priority = 0): Effect[] {
    return this.send({ type: 'arrived', at: 0, id, promptTokens, maxTokens, priority, tenant: 't' });
  }

  /** The step in flight comes back: everyone who samples gets a token. */
  step(): Effect[] {
    const step = this.#step;
    if (step === null) throw new Error('no step in flight');
    this.#step = null;
    const items = step.items.map(({ id, count, sample }) => ({
      id,
      count,
      token: sample ? 7 : -1,
      ended: false,
      logprobs: null,
    }));
    return this.send({ type: 'stepped', at: 0, step: step.step, micros: 10, items });
  }

  land(): Effect[] {
    const transfer = this.#transfers.shift();
    if (transfer === undefined) throw new Error('no transfer in flight');
    return this.send({ type: 'landed', at: 0, transfer, micros: 10 });
  }

  phase(id: number): Phase {
    return this.state.requests.get(id)?.phase ?? 'done';
  }

  get stepItems() {
    return this.#step?.items.map(({ id, start, count }) => [id, start, count]) ?? null;
  }

  get transfersInFlight(): number {
    return this.#transfers.length;
  }
}

const types = (effects: readonly Effect[]) => effects.map((effect) => effect.type);

describe('a step', () => {
  it('takes prompts in chunks within the budget and decodes beside them', () => {
    const bench = new Bench({ maxBatchTokens: 20 });
    bench.arrive(1, 30);
    expect(bench.stepItems).toEqual([[1, 0, 20]]);
    bench.arrive(2, 16);
    bench.step();
    expect(bench.stepItems).toEqual([
      [1, 20, 10],
      [2, 0, 10],
    ]);
    expect(types(bench.step())).toEqual(['prefilled', 'tokens', 'step']);
    expect(bench.stepItems).toEqual([
      [1, 30, 1],
      [2, 10, 6],
    ]);
  });

  it('ends a request at its limit and goes on with the others', () => {
    const bench = new Bench();
    bench.arrive(1, 4, 2);
    bench.step();
    expect(bench.step()).toMatchObject([
      { type: 'tokens', items: [{ id: 1, index: 1 }] },
      { type: 'finish', id: 1, outcome: 'length' },
    ]);
    expect(bench.state.device.free).toBe(10);
  });

  it('that failed fails its members only', () => {
    const bench = new Bench({ maxRunning: 1 });
    bench.arrive(1, 4);
    bench.arrive(2, 4);
    const effects = bench.send({ type: 'stepFailed', at: 0, step: 1, error: 'broken' });
    expect(effects).toMatchObject([
      { type: 'finish', id: 1, outcome: 'failed', error: 'broken' },
      { type: 'admit', id: 2 },
      { type: 'step' },
    ]);
  });
});

describe('first come first served', () => {
  it('lets nobody slip past a larger request', () => {
    const bench = new Bench();
    bench.arrive(1, 100, 32);
    bench.arrive(2, 90, 32);
    bench.arrive(3, 5);
    bench.step();
    expect([bench.phase(2), bench.phase(3)]).toEqual(['queued', 'queued']);
  });

  it('swaps the last out when the running ones outgrow the device, and in again when there is room', () => {
    const bench = new Bench({ deviceBlocks: 6 });
    bench.arrive(1, 30, 40);
    bench.step();
    bench.arrive(2, 30, 40);
    while (bench.phase(2) !== 'swapping-out') bench.step();
    expect(bench.phase(1)).toBe('decoding');
    // The others go on while the copy is under way, and its blocks are not given to anyone.
    expect(bench.effects.map((effect) => effect.type).slice(-2)).toEqual(['step', 'swapOut']);
    bench.land();
    expect(bench.phase(2)).toBe('swapped');
    while (bench.phase(1) !== 'done') bench.step();
    expect(bench.phase(2)).toBe('swapping-in');
    const before = bench.state.requests.get(2)?.computed;
    bench.land();
    expect(bench.phase(2)).toBe('decoding');
    expect(bench.stepItems).toEqual([[2, before, 1]]);
  });
});

describe('priority', () => {
  const priority = (limits: Partial<Limits> = {}) => new Bench({ policy: 'priority', ...limits });

  it('preempts a lower rank for memory, once, and no more than needed', () => {
    const bench = priority({ deviceBlocks: 13, maxRunning: 8 });
    for (const id of [1, 2, 3]) bench.arrive(id, 48, 16, 5);
    bench.step();
    bench.step();
    bench.arrive(4, 40, 8, 1);
    bench.step();
    expect([1, 2, 3].map((id) => bench.phase(id))).toEqual(['decoding', 'decoding', 'swapping-out']);
    bench.step();
    expect(bench.transfersInFlight).toBe(1);
    bench.land();
    expect(bench.phase(4)).toBe('prefilling');
  });

  it('preempts when only the batch is full', () => {
    const bench = priority({ deviceBlocks: 100, maxRunning: 1 });
    bench.arrive(1, 8, 64, 5);
    bench.step();
    bench.arrive(2, 8, 64, 1);
    bench.step();
    expect([bench.phase(1), bench.phase(2)]).toEqual(['swapping-out', 'prefilling']);
  });

  it('never preempts an equal', () => {
    const bench = priority({ maxRunning: 1 });
    bench.arrive(1, 8, 30, 3);
    bench.arrive(2, 8, 30, 3);
    for (let n = 0; n < 20; n += 1) bench.step();
    expect(bench.phase(2)).toBe('queued');
    expect(bench.transfersInFlight).toBe(0);
  });

  it('not even an older one that growth has pushed out', () => {
    const bench = priority({ deviceBlocks: 6, maxRunning: 2 });
    bench.arrive(1, 30, 40, 3);
    bench.step();
    bench.arrive(2, 30, 40, 3);
    while (bench.phase(2) !== 'swapping-out') bench.step();
    bench.land();
    bench.send({ type: 'reprioritized', at: 0, id: 1, priority: 5 });
    bench.send({ type: 'reprioritized', at: 0, id: 2, priority: 5 });
    for (let n = 0; n < 3; n += 1) bench.step();
    expect([bench.phase(1), bench.phase(2)]).toEqual(['decoding', 'swapped']);
  });

  it('does not begin to preempt where it would not suffice', () => {
    const bench = priority({ deviceBlocks: 10, maxRunning: 4 });
    bench.arrive(1, 100, 16, 0);
    bench.arrive(2, 16, 16, 5);
    bench.step();
    bench.step();
    bench.arrive(3, 120, 16, 1);
    bench.step();
    expect(bench.phase(2)).not.toBe('swapping-out');
  });

  it('takes a change of priority into account at the next step, for waiting and running requests', () => {
    const bench = priority({ maxRunning: 1, deviceBlocks: 100 });
    bench.arrive(1, 8, 64, 5);
    bench.arrive(2, 8, 64, 5);
    bench.step();
    bench.send({ type: 'reprioritized', at: 0, id: 2, priority: 1 });
    bench.step();
    expect([bench.phase(1), bench.phase(2)]).toEqual(['swapping-out', 'prefilling']);
  });
});

describe('without host room', () => {
  it('a preempted request is computed again, with its rank and its tokens', () => {
    const bench = new Bench({ deviceBlocks: 6, hostBlocks: 0 });
    bench.arrive(1, 30, 40);
    bench.step();
    bench.arrive(2, 30, 40);
    while (bench.phase(2) !== 'queued' || bench.state.requests.get(2)?.generated === 0) bench.step();
    const generated = bench.state.requests.get(2)?.generated as number;
    expect(bench.state.requests.get(2)?.computed).toBe(0);
    while (bench.phase(1) !== 'done') bench.step();
    expect(bench.stepItems).toEqual([[2, 0, 30 + generated]]);
    const effects = bench.step();
    expect(effects).toMatchObject([
      { type: 'prefilled' },
      { type: 'tokens', items: [{ id: 2, index: generated }] },
      { type: 'step' },
    ]);
  });

  it('copies of lower rank give way first', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, hostBlocks: 3 });
    bench.arrive(1, 30, 64, 9);
    bench.step();
    bench.arrive(2, 30, 64, 5);
    bench.step();
    bench.land();
    bench.step();
    bench.arrive(3, 30, 64, 1);
    bench.step();
    expect([bench.phase(1), bench.phase(2), bench.phase(3)]).toEqual(['queued', 'swapping-out', 'prefilling']);
  });
});

describe('an abort', () => {
  const swapping = () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20 });
    bench.arrive(1, 30, 64, 9);
    bench.step();
    bench.arrive(2, 30, 64, 5);
    bench.step();
    return bench;
  };
  const abort = (bench: Bench, id: number, reason: 'client' | 'stop' = 'client') =>
    bench.send({ type: 'aborted', at: 0, id, reason });

  it('ends a queued request at once and frees a swapped one', () => {
    const bench = swapping();
    bench.land();
    expect(abort(bench, 1)).toMatchObject([{ type: 'finish', id: 1, outcome: 'aborted' }]);
    expect(bench.state.host.free).toBe(20);
  });

  it('is remembered while a copy is in flight', () => {
    const bench = swapping();
    expect(types(abort(bench, 1))).toEqual(['ending']);
    expect(abort(bench, 1)).toEqual([]);
    expect(types(bench.land())).toEqual(['settled', 'finish']);
  });

  it('is remembered while its step runs, and the token of that step is not delivered', () => {
    const bench = new Bench();
    bench.arrive(1, 8);
    bench.step();
    expect(types(abort(bench, 1, 'stop'))).toEqual(['ending']);
    expect(bench.step()).toEqual([{ type: 'finish', id: 1, outcome: 'stop', error: null }]);
  });

  it('whose step fails is still an abort', () => {
    const bench = new Bench();
    bench.arrive(1, 8);
    abort(bench, 1);
    const effects = bench.send({ type: 'stepFailed', at: 0, step: 1, error: 'broken' });
    expect(effects).toMatchObject([{ type: 'finish', id: 1, outcome: 'aborted' }]);
  });

  it('of a request that has ended or never was does nothing', () => {
    expect(abort(new Bench(), 99)).toEqual([]);
  });
});

describe('the door', () => {
  it('refuses what cannot fit, what finds the queue full, and everything while draining', () => {
    const bench = new Bench({ maxQueued: 1, maxRunning: 1 });
    expect(bench.arrive(1, 200)).toEqual([{ type: 'reject', id: 1, code: 'too_large' }]);
    bench.arrive(2, 8);
    bench.arrive(3, 8);
    expect(bench.arrive(4, 8)).toEqual([{ type: 'reject', id: 4, code: 'queue_full' }]);
    bench.send({ type: 'draining', at: 0 });
    expect(bench.arrive(5, 8)).toEqual([{ type: 'reject', id: 5, code: 'draining' }]);
    expect(bench.phase(3)).toBe('queued');
  });

  it('knows no request without a prompt: it would never end', () => {
    expect(() => new Bench().arrive(1, 0)).toThrow('nothing to compute');
  });

  it('copies only what is computed, and frees the rest of a half-read prompt at once', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, maxBatchTokens: 32 });
    bench.arrive(1, 150, 64, 9);
    bench.arrive(2, 8, 64, 1);
    const effects = bench.step();
    expect(effects.find((effect) => effect.type === 'swapOut')).toMatchObject({ id: 1, blocks: 2 });
    expect(bench.state.device.table(1)).toHaveLength(2);
  });

  it('a failed copy out or in is computed again', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20 });
    bench.arrive(1, 30, 64, 9);
    bench.step();
    bench.arrive(2, 30, 64, 5);
    bench.step();
    bench.send({ type: 'transferFailed', at: 0, transfer: 1, error: 'broken' });
    expect(bench.phase(1)).toBe('queued');
    expect(bench.state.host.free).toBe(20);
  });
});
