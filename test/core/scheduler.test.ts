import { describe, expect, it } from 'vitest';
import { type Mechanism, PRESET_NAMES, PRESETS } from '../../src/core/presets.js';
import { Random } from '../../src/core/random.js';
import { Bench, type BenchOptions, PLAIN, typesOf } from './bench.js';

/** What is decided about rank and room does not depend on what else is copied, kept or awaited. */
const MECHANISMS: readonly (readonly [string, Mechanism])[] = [
  ['swaps and nothing else', PLAIN],
  ['single blocks', { ...PLAIN, groups: false, growthReserveBlocks: 0 }],
  ['adaptive waits', { ...PLAIN, waits: 'adaptive' }],
  ['kept copies', { ...PLAIN, reuse: true }],
  ['saved copies', { ...PLAIN, reuse: true, finished: 'save' }],
  ['warm blocks', { ...PLAIN, finished: 'warm' }],
  ['partial preemption', { ...PLAIN, partial: true }],
  ['mirroring and prefetch', { ...PLAIN, mirror: true, prefetch: true }],
  ['pacing and balanced chunks', { ...PLAIN, paced: true, prefill: 'balanced' }],
  ['all of it', PRESETS.default.mechanism],
];

const off = (bench: Bench, id: number) => ['swapping-out', 'swapped'].includes(bench.phase(id));

describe.each(MECHANISMS)('with %s', (_, mechanism) => {
  const make = (options: BenchOptions = {}) => new Bench({ mechanism, ...options });
  const priority = (options: BenchOptions = {}) => make({ policy: 'priority', ...options });

  describe('first come first served', () => {
    it('lets nobody slip past a larger request', () => {
      const bench = make();
      bench.arrive(1, 100, { maxTokens: 32 });
      bench.arrive(2, 90, { maxTokens: 32 });
      bench.arrive(3, 5);
      bench.step();
      expect(bench.phases(2, 3)).toEqual(['queued', 'queued']);
    });

    it('swaps the last out when the running ones outgrow the device, and in again when there is room', () => {
      const bench = make({ deviceBlocks: 6 });
      bench.arrive(1, 30, { maxTokens: 40 });
      bench.step();
      bench.arrive(2, 30, { maxTokens: 40 });
      while (!off(bench, 2)) bench.step();
      expect(bench.phase(1)).toBe('decoding');
      // The others go on while the copy is under way, and its blocks are not given to anyone.
      expect(typesOf(bench.effects).slice(-2)).toEqual(['step', 'swapOut']);
      bench.land();
      expect(bench.phase(2)).toBe('swapped');
      const before = bench.request(2).computed;
      bench.until(() => bench.phase(1) === 'done');
      bench.until(() => bench.phase(2) === 'decoding');
      expect(bench.stepItems).toEqual([[2, before, 1]]);
    });

    it('ends everyone and leaves nothing behind', () => {
      const bench = make({ deviceBlocks: 12, hostBlocks: 30 });
      for (const id of [1, 2, 3, 4, 5]) bench.arrive(id, 20 * id, { maxTokens: 30 });
      bench.until(() => bench.state.requests.size === 0);
      bench.finishAll();
    });
  });

  describe('priority', () => {
    it('preempts a lower rank for memory, once, and no more than needed', () => {
      const bench = priority({ deviceBlocks: 13, maxRunning: 8 });
      for (const id of [1, 2, 3]) bench.arrive(id, 48, { maxTokens: 16, priority: 5 });
      bench.step();
      bench.step();
      bench.arrive(4, 40, { maxTokens: 8, priority: 1 });
      bench.step();
      expect(bench.phases(1, 2, 3)).toEqual(['decoding', 'decoding', 'swapping-out']);
      bench.step();
      expect(bench.transfers).toHaveLength(1);
      bench.land();
      expect(bench.phase(4)).toBe('prefilling');
    });

    it('preempts when only the batch is full', () => {
      const bench = priority({ deviceBlocks: 100, maxRunning: 1 });
      bench.arrive(1, 8, { priority: 5 });
      bench.step();
      bench.arrive(2, 8, { priority: 1 });
      bench.step();
      expect(bench.phases(1, 2)).toEqual(['swapping-out', 'prefilling']);
    });

    it('never preempts an equal', () => {
      const bench = priority({ maxRunning: 1 });
      bench.arrive(1, 8, { maxTokens: 30, priority: 3 });
      bench.arrive(2, 8, { maxTokens: 30, priority: 3 });
      for (let n = 0; n < 20; n += 1) bench.step();
      expect(bench.phase(2)).toBe('queued');
      expect(bench.transfers).toEqual([]);
    });

    it('not even an older one that growth has pushed out', () => {
      const bench = priority({ deviceBlocks: 6, maxRunning: 2 });
      bench.arrive(1, 30, { maxTokens: 40, priority: 3 });
      bench.step();
      bench.arrive(2, 30, { maxTokens: 40, priority: 3 });
      while (!off(bench, 2)) bench.step();
      bench.land();
      bench.prioritize([1, 5], [2, 5]);
      for (let n = 0; n < 3; n += 1) bench.step();
      expect(bench.phases(1, 2)).toEqual(['decoding', 'swapped']);
    });

    it('does not begin to preempt where it would not suffice', () => {
      const bench = priority({ deviceBlocks: 10, maxRunning: 4 });
      bench.arrive(1, 100, { maxTokens: 16, priority: 0 });
      bench.arrive(2, 16, { maxTokens: 16, priority: 5 });
      bench.step();
      bench.step();
      bench.arrive(3, 120, { maxTokens: 16, priority: 1 });
      bench.step();
      expect(off(bench, 2)).toBe(false);
    });

    it('takes a change of priority into account at the next step, for waiting and running requests', () => {
      const bench = priority({ maxRunning: 1, deviceBlocks: 100 });
      bench.arrive(1, 8, { priority: 5 });
      bench.arrive(2, 8, { priority: 5 });
      bench.step();
      bench.prioritize([2, 1]);
      bench.step();
      expect(bench.phases(1, 2)).toEqual(['swapping-out', 'prefilling']);
    });

    it('takes many changes as one', () => {
      const bench = priority({ maxRunning: 1, deviceBlocks: 100 });
      for (const id of [1, 2, 3]) bench.arrive(id, 8, { priority: 5 });
      bench.step();
      bench.prioritize([2, 1], [3, 0], [2, 6], [99, 0]);
      bench.step();
      expect(bench.phases(1, 2, 3)).toEqual(['swapping-out', 'queued', 'prefilling']);
    });
  });

  describe('an abort', () => {
    const swapping = () => {
      const bench = priority({ maxRunning: 1, deviceBlocks: 20 });
      bench.arrive(1, 30, { priority: 9 });
      bench.step();
      bench.arrive(2, 30, { priority: 5 });
      bench.step();
      return bench;
    };

    it('ends a swapped request at once and frees what it holds', () => {
      const bench = swapping();
      bench.land();
      bench.arrive(3, 30, { priority: 9 });
      expect(bench.abort(1)).toMatchObject([{ type: 'finish', id: 1, outcome: 'aborted' }]);
      expect(bench.abort(3)).toMatchObject([{ type: 'finish', id: 3, outcome: 'aborted' }]);
      bench.finishAll();
    });

    it('is remembered while a copy is in flight', () => {
      const bench = swapping();
      expect(typesOf(bench.abort(1))).toEqual(['ending']);
      expect(bench.abort(1)).toEqual([]);
      expect(typesOf(bench.land())).toEqual(['settled', 'finish']);
      bench.finishAll();
    });

    it('is remembered while its step runs, and the token of that step is not delivered', () => {
      const bench = make();
      bench.arrive(1, 8);
      bench.step();
      expect(typesOf(bench.abort(1, 'stop'))).toEqual(['ending']);
      expect(bench.step()).toEqual([{ type: 'finish', id: 1, outcome: 'stop', error: null }]);
    });

    it('whose step fails is still an abort', () => {
      const bench = make();
      bench.arrive(1, 8);
      bench.abort(1);
      expect(bench.failStep()).toMatchObject([{ type: 'finish', id: 1, outcome: 'aborted' }]);
    });

    it('of a request that has ended or never was does nothing', () => {
      expect(make().abort(99)).toEqual([]);
    });
  });

  it('a copy that failed is computed again, with the tokens that were sampled', () => {
    const bench = priority({ maxRunning: 1, deviceBlocks: 20 });
    bench.arrive(1, 30, { priority: 9 });
    bench.step();
    bench.arrive(2, 30, { maxTokens: 2, priority: 5 });
    bench.step();
    const { generated } = bench.request(1);
    bench.failTransfer();
    expect(bench.phase(1)).toBe('queued');
    bench.until(() => bench.phase(2) === 'done');
    expect(bench.request(1).generated).toBe(generated);
    bench.until(() => bench.request(1).generated > generated);
    bench.finishAll();
  });
});

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
    expect(typesOf(bench.step())).toEqual(['prefilled', 'tokens', 'step']);
    expect(bench.stepItems).toEqual([
      [1, 30, 1],
      [2, 10, 6],
    ]);
  });

  it('takes prompts alone where they are not to be mixed, also in chunks', () => {
    const bench = new Bench({ maxBatchTokens: 20, mechanism: { prefill: 'alone' } });
    bench.arrive(1, 8);
    bench.step();
    bench.arrive(2, 30);
    bench.step();
    expect(bench.stepItems).toEqual([[2, 0, 20]]);
    bench.step();
    expect(bench.stepItems).toEqual([[2, 20, 10]]);
    bench.step();
    expect(bench.stepItems?.map(([id]) => id)).toEqual([1, 2]);
  });

  it('ends a request at its limit and goes on with the others', () => {
    const bench = new Bench();
    bench.arrive(1, 4, { maxTokens: 2 });
    bench.step();
    expect(bench.step()).toMatchObject([
      { type: 'tokens', items: [{ id: 1, index: 1 }] },
      { type: 'finish', id: 1, outcome: 'length' },
    ]);
    expect(bench.state.device.free).toBe(10);
  });

  it('delivers a stop token and ends its request', () => {
    const bench = new Bench();
    bench.arrive(1, 4);
    expect(bench.step(1)).toMatchObject([
      { type: 'prefilled', id: 1 },
      { type: 'tokens', items: [{ id: 1, index: 0 }] },
      { type: 'finish', id: 1, outcome: 'stop' },
    ]);
  });

  it('that failed fails its members only', () => {
    const bench = new Bench({ maxRunning: 1 });
    bench.arrive(1, 4);
    bench.arrive(2, 4);
    expect(bench.failStep()).toMatchObject([
      { type: 'finish', id: 1, outcome: 'failed', error: 'broken' },
      { type: 'admit', id: 2 },
      { type: 'step' },
    ]);
  });

  it('that came back twice, or for another batch, is a mistake of ours', () => {
    const bench = new Bench();
    bench.arrive(1, 4);
    const stepped = { type: 'stepped', at: 0, micros: 1, items: [] } as const;
    expect(() => bench.send({ ...stepped, step: 7 })).toThrow('step 7 came back, but step 1 is in flight');
    expect(() => bench.send({ ...stepped, step: 1 })).toThrow('held 1 requests and answered for 0');
  });
});

describe('without host room', () => {
  it('a preempted request is computed again, with its rank and its tokens', () => {
    const bench = new Bench({ deviceBlocks: 6, hostBlocks: 0 });
    bench.arrive(1, 30, { maxTokens: 40 });
    bench.step();
    bench.arrive(2, 30, { maxTokens: 40 });
    while (bench.phase(2) !== 'queued' || bench.request(2).generated === 0) bench.step();
    const { generated, computed } = bench.request(2);
    expect(computed).toBe(0);
    while (bench.phase(1) !== 'done') bench.step();
    expect(bench.stepItems).toEqual([[2, 0, 30 + generated]]);
    expect(bench.step()).toMatchObject([
      { type: 'prefilled' },
      { type: 'tokens', items: [{ id: 2, index: generated }] },
      { type: 'step' },
    ]);
  });

  it('two who make room in one decision do not wait for each other when nobody is left', () => {
    const bench = new Bench({ policy: 'priority', deviceBlocks: 10, hostBlocks: 0, maxRunning: 5, maxBatchTokens: 200 });
    for (const [id, tokens] of [
      [1, 45],
      [2, 46],
      [3, 27],
    ] as const)
      bench.arrive(id, tokens, { priority: 5 });
    bench.step();
    bench.arrive(4, 43, { priority: 1 });
    bench.arrive(5, 55, { priority: 1 });
    bench.step();
    expect(bench.phases(4, 5)).toEqual(['prefilling', 'prefilling']);
    bench.finishAll();
  });

  it('nobody is computed again for whom the growth of others leaves no room', () => {
    const bench = new Bench({ policy: 'priority', deviceBlocks: 10, hostBlocks: 0, maxRunning: 5, maxBatchTokens: 200 });
    for (const [id, tokens, priority] of [
      [1, 45, 0],
      [2, 46, 0],
      [3, 27, 5],
    ] as const)
      bench.arrive(id, tokens, { priority });
    bench.step();
    bench.arrive(4, 43, { priority: 1 });
    bench.step();
    expect(bench.phases(3, 4)).toEqual(['decoding', 'queued']);
    bench.finishAll();
  });

  it('copies of lower rank give way first', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, hostBlocks: 3 });
    bench.arrive(1, 30, { priority: 9 });
    bench.step();
    bench.arrive(2, 30, { priority: 5 });
    bench.step();
    bench.land();
    bench.step();
    bench.arrive(3, 30, { priority: 1 });
    bench.step();
    expect(bench.phases(1, 2, 3)).toEqual(['queued', 'swapping-out', 'prefilling']);
  });

  it('nobody gives way to a copy for which that would not suffice', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, hostBlocks: 3 });
    bench.arrive(1, 30, { priority: 9 });
    bench.step();
    bench.arrive(2, 90, { priority: 5 });
    bench.until(() => bench.phase(2) === 'decoding');
    bench.arrive(3, 30, { priority: 1 });
    bench.until(() => bench.phase(3) === 'decoding');
    expect(bench.phases(1, 2)).toEqual(['swapped', 'queued']);
  });
});

describe('a swap', () => {
  it('copies only what is computed, and frees the rest of a half-read prompt at once', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, maxBatchTokens: 32 });
    bench.arrive(1, 150, { priority: 9 });
    bench.arrive(2, 8, { priority: 1 });
    bench.step();
    expect(bench.told('swapOut')).toMatchObject([{ id: 1, blocks: 2, held: 0 }]);
    expect(bench.state.device.free).toBe(20 - 2 - 1);
  });

  it('is one copy for each block where there are no groups', () => {
    const runs = [true, false].map((groups) => {
      const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, mechanism: { groups } });
      bench.arrive(1, 60, { priority: 9 });
      bench.step();
      bench.arrive(2, 8, { priority: 1 });
      bench.step();
      return bench.told('swapOut')[0]?.runs.map(({ blocks }) => blocks);
    });
    expect(runs).toEqual([[4], [1, 1, 1, 1]]);
  });

  it('goes one way between two steps where that is asked for: who made room by it waits for the step behind it', () => {
    const mechanism = { oneWay: true, waits: 'sync' } as const;
    const bench = new Bench({ policy: 'priority', deviceBlocks: 10, mechanism });
    bench.arrive(1, 60, { priority: 5 });
    bench.arrive(2, 60, { priority: 9 });
    bench.until(() => bench.phase(2) === 'decoding');
    bench.arrive(3, 40, { maxTokens: 2, priority: 1 });
    bench.step();
    expect(bench.phases(1, 2, 3)).toEqual(['decoding', 'swapping-out', 'queued']);
    expect(bench.stepping).toBe(false);
    bench.land();
    expect(bench.phase(3)).toBe('queued');
    expect(bench.stepItems?.map(([id]) => id)).toEqual([1]);
    bench.step();
    expect(bench.phase(3)).toBe('prefilling');
    bench.finishAll();
  });
});

describe('pacing', () => {
  /** Request 1 was pushed out by 2; both ranks are then turned round, while the link has enough to bring in. */
  const turnedRound = (paced: boolean, partial: boolean) => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 40, mechanism: { paced, partial } });
    bench.arrive(1, 60, { priority: 5 });
    bench.step();
    bench.arrive(2, 60, { priority: 3 });
    bench.until(() => bench.phase(2) === 'decoding' && bench.phase(1) === 'swapped');
    bench.state.linkFreeAt.in = bench.at + 35_000;
    bench.prioritize([1, 1]);
    return bench;
  };
  const stepsUntilPreempted = (bench: Bench) => {
    let steps = 0;
    for (; bench.phase(2) === 'decoding'; steps += 1) bench.step();
    return steps;
  };

  it('preempts nobody for whom the link could not bring before the next step ends, and no longer than that', () => {
    expect(stepsUntilPreempted(turnedRound(false, false))).toBe(1);
    expect(stepsUntilPreempted(turnedRound(true, false))).toBe(3);
  });

  it('does not ask for the link where nothing has to be brought', () => {
    expect(stepsUntilPreempted(turnedRound(true, true))).toBe(1);
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

  it('knows a request once', () => {
    const bench = new Bench();
    bench.arrive(1, 8);
    expect(() => bench.arrive(1, 8)).toThrow('arrived twice');
  });
});

/** A preset, or all its switches drawn anew. */
function drawMechanism(random: Random): Mechanism {
  const preset: Mechanism = PRESETS[random.next() < 0.4 ? 'default' : random.pick(PRESET_NAMES)].mechanism;
  if (random.next() < 0.4) return preset;
  const coin = () => random.next() < 0.5;
  return {
    ...preset,
    groups: coin(),
    growthReserveBlocks: random.pick([0, 4, 60]),
    waits: random.pick(['sync', 'async', 'adaptive']),
    preemption: random.next() < 0.85 ? 'swap' : 'recompute',
    reuse: coin(),
    finished: random.pick(['drop', 'save', 'warm']),
    mirror: coin(),
    prefetch: coin(),
    partial: coin(),
    paced: coin(),
    prefill: random.pick(['mixed', 'alone', 'balanced']),
    oneWay: random.next() < 0.3,
    quantumTokens: random.pick([0, 16, 256]),
    weighed: coin(),
    starvationSeconds: random.pick([0, 1, 5]),
  };
}

/** Requests that come, end, change their rank and fail at any time, and transfers that land in any order. */
class Storm {
  readonly bench: Bench;
  readonly #random: Random;
  readonly #faults: number;
  readonly #weights: { readonly arrive: number; readonly abort: number; readonly prioritize: number; readonly land: number };
  #id = 0;

  constructor(seed: number) {
    const random = new Random(seed);
    this.#random = random;
    const policy = random.pick(['fcfs', 'priority', 'priority', 'vtc', 'fair', 'fair', 'mlfq', 'edf'] as const);
    const drawn = drawMechanism(random);
    const maxRunning = 1 + random.int(12);
    const everlasting = policy === 'mlfq' && !drawn.weighed;
    this.bench = new Bench({
      policy,
      // A feedback queue that lifts the starving may push them out for ever where nothing can be kept and no switch is weighed.
      mechanism: everlasting ? { ...drawn, preemption: 'swap' } : drawn,
      deviceBlocks: 4 + random.int(60),
      hostBlocks: everlasting ? 1000 : random.int(random.next() < 0.4 ? 20 : 300),
      maxBatchTokens: maxRunning + random.int(200),
      maxRunning,
      maxQueued: 20,
      // From copies that nobody notices to those that outlast many steps.
      costs: { step: 10 ** (2 + 3 * random.next()), promptToken: 1000 * random.next(), block: 10 ** (4 * random.next()) },
    });
    this.#faults = random.next() < 0.3 ? 0.05 : 0;
    this.#weights = {
      arrive: 0.02 + 0.2 * random.next(),
      abort: 0.05 * random.next(),
      prioritize: random.next() < 0.5 ? 0 : 0.15,
      land: random.next(),
    };
  }

  /** Anything may happen. */
  act(): void {
    const { arrive, abort, prioritize } = this.#weights;
    const { bench } = this;
    const random = this.#random;
    const what = random.next();
    if (what < arrive) this.#arrive();
    else if (what < arrive + abort) bench.abort(1 + random.int(this.#id + 1));
    else if (what < arrive + abort + prioritize) {
      const ids = [...bench.state.requests.keys()].filter(() => random.next() < 0.4);
      bench.prioritize(...ids.map((id) => [id, random.int(6)] as [number, number]));
    } else if (what > 0.98) bench.reweight(`tenant ${random.int(4)}`, 1 + random.int(4));
    else if (what > 0.96) {
      const live = [...bench.state.requests.keys()];
      if (live.length > 0) bench.promise(random.pick(live), random.pick([null, 1e6]), random.pick([null, 1e5]));
    } else this.answer(this.#faults);
  }

  /** What is in flight comes back, in any order, as right or as wrong as faults have it. */
  answer(faults: number): void {
    const { bench } = this;
    const random = this.#random;
    if (bench.transfers.length > 0 && (!bench.stepping || random.next() < this.#weights.land)) {
      const index = random.int(bench.transfers.length);
      if (random.next() < faults) bench.failTransfer(index);
      else bench.land(index);
    } else if (bench.stepping && random.next() < faults / 4) bench.failStep();
    else if (bench.stepping) bench.step(...[...bench.state.requests.keys()].filter(() => random.next() < 0.01));
  }

  /** Half of them share one of a few texts, and these a system prompt. */
  #arrive(): void {
    this.#id += 1;
    const random = this.#random;
    const text = random.int(5);
    const blocks = this.bench.state.limits.deviceBlocks;
    this.bench.arrive(this.#id, 1 + random.int(blocks * (random.next() < 0.2 ? 14 : 5)), {
      maxTokens: 1 + random.int(blocks * 4),
      priority: random.int(4),
      tenant: `tenant ${random.int(3)}`,
      weight: 1 + random.int(3),
      ttftMicros: random.pick([null, 100_000]),
      tbtMicros: random.pick([null, 10_000]),
      text: random.next() < 0.5 ? `chat ${text}` : `text ${this.#id}`,
      system: 16 * text,
    });
  }
}

describe('whatever happens in whatever order', () => {
  const seeds = Array.from({ length: Number(process.env.FASTSWITCH_TEST_SEEDS ?? 50) }, (_, n) => n + 1);

  it(`every law holds, everyone ends and nothing is left behind (${seeds.length} seeds)`, { timeout: 600_000 }, () => {
    for (const seed of seeds) {
      const storm = new Storm(seed);
      try {
        for (let n = 0; n < 400; n += 1) storm.act();
        for (let n = 0; storm.bench.stepping || storm.bench.transfers.length > 0; n += 1) {
          if (n > 30_000) throw new Error('it never comes to an end');
          storm.answer(0);
        }
        expect(storm.bench.state.requests.size).toBe(0);
        storm.bench.finishAll();
      } catch (error) {
        throw new Error(`seed ${seed}: ${JSON.stringify(storm.bench.state.limits)}`, { cause: error });
      }
    }
  });
});
