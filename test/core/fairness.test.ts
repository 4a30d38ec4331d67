import { describe, expect, it } from 'vitest';
import { Accounts } from '../../src/core/accounts.js';
import { type Ranked, removeRanked } from '../../src/core/fairness.js';
import { policyOf } from '../../src/core/policies.js';
import { PRESETS } from '../../src/core/presets.js';
import { Random } from '../../src/core/random.js';
import { Bench, type BenchOptions } from './bench.js';

describe('virtual token counters', () => {
  const vtc = (options: BenchOptions = {}) => new Bench({ policy: 'vtc', maxRunning: 1, ...options });
  const served = (bench: Bench, tenant: string) => bench.state.accounts.get(tenant)?.served;

  it('charge a prompt when it is admitted, and every token that was generated', () => {
    const bench = vtc();
    bench.arrive(1, 20, { tenant: 'a', maxTokens: 3 });
    bench.arrive(2, 30, { tenant: 'b', maxTokens: 3 });
    // A tenant that comes begins where the least of the others is.
    expect([served(bench, 'a'), served(bench, 'b')]).toEqual([20, 20]);
    bench.step();
    bench.step();
    expect(served(bench, 'a')).toBe(20 + 2 * 2);
    bench.step();
    expect([bench.phase(1), served(bench, 'a'), served(bench, 'b')]).toEqual(['done', 20 + 2 * 3, 20 + 30]);
  });

  it('charge a prompt once, also where it is computed again', () => {
    const bench = vtc({ deviceBlocks: 6, hostBlocks: 0, maxRunning: 2 });
    bench.arrive(1, 30, { tenant: 'a', maxTokens: 40 });
    bench.arrive(2, 30, { tenant: 'b', maxTokens: 40 });
    let recomputes = 0;
    const generated = { a: 0, b: 0 };
    bench.until(() => {
      recomputes += bench.told('recompute').length;
      for (const { items } of bench.told('tokens')) for (const { id } of items) generated[id === 1 ? 'a' : 'b'] += 1;
      return bench.state.requests.size === 0;
    });
    expect(recomputes).toBeGreaterThan(0);
    expect([served(bench, 'a'), served(bench, 'b')]).toEqual([30 + 2 * generated.a, 30 + 30 + 2 * generated.b]);
  });

  it('serve the tenant that was served least, not the one who came first', () => {
    const bench = vtc();
    for (const id of [1, 2, 3]) bench.arrive(id, 20, { tenant: 'busy', maxTokens: 2 });
    bench.arrive(4, 20, { tenant: 'new', maxTokens: 2 });
    bench.until(() => bench.phase(1) === 'done');
    expect(bench.phases(2, 3, 4)).toEqual(['queued', 'queued', 'prefilling']);
    bench.until(() => bench.phase(4) === 'done');
    expect(bench.phases(2, 3)).toEqual(['prefilling', 'queued']);
  });

  it('never preempt for fairness', () => {
    const bench = vtc({ deviceBlocks: 40 });
    bench.arrive(1, 100, { tenant: 'busy' });
    bench.step();
    bench.arrive(2, 8, { tenant: 'new' });
    bench.until(() => bench.phase(1) === 'done' || bench.phase(2) !== 'queued');
    expect(bench.phases(1, 2)).toEqual(['done', 'prefilling']);
  });

  it('let the tenant that was served most give way when all outgrow the device', () => {
    const bench = vtc({ deviceBlocks: 8, maxRunning: 3 });
    bench.arrive(1, 20, { tenant: 'busy' });
    bench.arrive(2, 20, { tenant: 'new' });
    bench.arrive(3, 30, { tenant: 'busy', maxTokens: 1 });
    bench.until(() => bench.phases(1, 2).some((phase) => phase.startsWith('swapping')));
    expect(bench.phases(1, 2, 3)).toEqual(['swapping-out', 'decoding', 'done']);
  });

  it('lift a tenant that comes back to the least of those that stayed, so that it cannot save up', () => {
    const bench = vtc();
    bench.arrive(1, 4, { tenant: 'away', maxTokens: 1 });
    bench.step();
    for (const [id, tenant] of [
      [2, 'a'],
      [3, 'b'],
      [4, 'a'],
    ] as const)
      bench.arrive(id, 40, { tenant, maxTokens: 4 });
    bench.until(() => bench.phase(4) === 'prefilling');
    const least = Math.min(
      served(bench, 'a') as number,
      bench.phase(3) === 'done' ? Number.POSITIVE_INFINITY : (served(bench, 'b') as number),
    );
    bench.arrive(5, 4, { tenant: 'away' });
    expect(served(bench, 'away')).toBe(least);
    // Only on its return: its next request changes nothing.
    bench.step();
    bench.arrive(6, 4, { tenant: 'away' });
    expect(served(bench, 'away')).toBe(least);
  });

  it('do not take from a tenant that comes back', () => {
    const bench = vtc();
    bench.arrive(1, 100, { tenant: 'away', maxTokens: 1 });
    bench.until(() => bench.phase(1) === 'done');
    bench.arrive(2, 8, { tenant: 'stayed' });
    bench.arrive(3, 8, { tenant: 'away' });
    expect(served(bench, 'away')).toBe(100 + 2);
  });

  it('keep two tenants that always wait within the published bound of each other, whatever they ask for', () => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const random = new Random(seed);
      const bench = vtc({ deviceBlocks: 30, hostBlocks: 100, maxRunning: 4, maxBatchTokens: 200, maxQueued: 100 });
      const waiting = { few: 0, many: 0 };
      let id = 0;
      let largest = 0;
      const refill = () => {
        for (const request of bench.state.queued) waiting[request.account.tenant as 'few' | 'many'] += 1;
        // One asks much at a time, the other little and often.
        for (const [tenant, prompt, output] of [
          ['few', 120, 60],
          ['many', 20, 20],
        ] as const) {
          while (waiting[tenant] < 3) {
            id += 1;
            waiting[tenant] += 1;
            bench.arrive(id, 1 + random.int(prompt), { tenant, maxTokens: 1 + random.int(output) });
          }
          waiting[tenant] = 0;
        }
      };
      for (let n = 0; n < 1000; n += 1) {
        refill();
        if (bench.transfers.length > 0) bench.land();
        else bench.step();
        largest = Math.max(largest, Math.abs((served(bench, 'few') as number) - (served(bench, 'many') as number)));
      }
      // 2 max(price of a prompt x longest prompt, price of a token x tokens on the device).
      expect(largest).toBeLessThanOrEqual(2 * Math.max(120, 2 * 30 * 16));
      bench.finishAll();
    }
  });
});

describe('a multi-level feedback queue', () => {
  /** A prompt token costs 100 microseconds, the first quantum is 10,000. */
  const mlfq = (options: BenchOptions = {}) =>
    new Bench({
      policy: 'mlfq',
      deviceBlocks: 100,
      hostBlocks: 100,
      maxRunning: 1,
      maxBatchTokens: 1000,
      costs: { step: 1000 },
      ...options,
    });
  const level = (bench: Bench, id: number) => bench.request(id).level;

  it('is joined where the prefill fits the quantum', () => {
    const bench = mlfq();
    for (const [id, promptTokens] of [
      [1, 50],
      [2, 150],
      [3, 350],
      [4, 750],
    ] as const)
      bench.arrive(id, promptTokens);
    expect([1, 2, 3, 4].map((id) => level(bench, id))).toEqual([0, 1, 2, 3]);
  });

  it('serves the higher level first, and preempts for it', () => {
    const bench = mlfq();
    bench.arrive(1, 750);
    bench.step();
    bench.arrive(2, 350);
    bench.arrive(3, 50);
    bench.step();
    expect(bench.phases(1, 2, 3)).toEqual(['swapping-out', 'queued', 'prefilling']);
  });

  it('lets a request sink as it is served, each level twice as long as the one before', () => {
    const bench = mlfq({ costs: { step: 1000, promptToken: 0 } });
    bench.arrive(1, 20, { maxTokens: 200 });
    const sunk: number[] = [];
    for (let n = 1; sunk.length < 3; n += 1) {
      const before = level(bench, 1);
      bench.step();
      if (level(bench, 1) > before) sunk.push(n);
    }
    expect(sunk).toEqual([10, 10 + 20, 10 + 20 + 40]);
  });

  it('lets newcomers pass who has sunk, and serves the equal in the order in which they came', () => {
    const bench = mlfq({ costs: { step: 1000, promptToken: 0 } });
    bench.arrive(1, 20, { maxTokens: 200 });
    while (level(bench, 1) === 0) bench.step();
    bench.arrive(2, 20);
    bench.arrive(3, 20);
    bench.step();
    expect(bench.phases(1, 2, 3)).toEqual(['swapping-out', 'prefilling', 'queued']);
  });

  it('does not let equals push each other out', () => {
    const bench = mlfq({ costs: { step: 1000, promptToken: 0 } });
    bench.arrive(1, 20);
    bench.arrive(2, 20);
    for (let n = 0; n < 9; n += 1) bench.step();
    expect([level(bench, 1), bench.phase(2), bench.transfers]).toEqual([0, 'queued', []]);
  });

  it('lifts who has waited for three seconds to the top, queued or swapped', () => {
    const bench = mlfq({ maxRunning: 1, costs: { step: 100_000 } });
    bench.arrive(1, 750, { maxTokens: 300 });
    bench.step();
    const newcomer = (id: number) => bench.arrive(id, 8, { maxTokens: 1 });
    newcomer(2);
    bench.step();
    bench.land();
    expect(bench.phase(1)).toBe('swapped');
    const from = bench.at;
    let id = 3;
    // One newcomer after the other, each of a higher level: without a lift it would wait for ever.
    while (bench.phase(1) === 'swapped') {
      newcomer(id++);
      bench.step();
      if (bench.at - from > 10_000_000) throw new Error('it starves');
    }
    expect(bench.at - from).toBeGreaterThan(2_900_000);
    expect(level(bench, 1)).toBe(0);
  });

  it('counts waiting from when it began, not from when it came', () => {
    const bench = mlfq({ costs: { step: 100_000 } });
    bench.arrive(1, 750, { maxTokens: 300 });
    for (let n = 0; n < 40; n += 1) bench.step(); // runs for four seconds
    bench.arrive(2, 8, { maxTokens: 5 });
    bench.step();
    const before = level(bench, 1);
    bench.land();
    bench.step();
    expect([bench.phase(1), level(bench, 1)]).toEqual(['swapped', before]);
  });
});

describe('accounts', () => {
  it('of tenants are forgotten with their last request, where no policy needs them', () => {
    const bench = new Bench({ policy: 'priority' });
    bench.arrive(1, 8, { tenant: 'a' });
    bench.arrive(2, 8, { tenant: 'a' });
    bench.arrive(3, 8, { tenant: 'b' });
    bench.finishAll();
    expect(bench.state.accounts.size).toBe(0);
  });
});

describe('every policy', () => {
  const names = ['fcfs', 'priority', 'vtc', 'fair', 'mlfq', 'edf'] as const;
  const cases = names.flatMap((name) => (['default', 'vllm-0.3'] as const).map((preset) => [name, preset] as const));

  it.each(cases)('%s of %s preempts only for whom it would serve first, and never both ways', (name, preset) => {
    const random = new Random(1);
    const accounts = new Accounts();
    const policy = policyOf(name, { mechanism: PRESETS[preset].mechanism, maxRunning: 16 }, accounts);
    const make = (id: number): Ranked => ({
      id,
      promptTokens: 10,
      priority: random.int(3),
      deadlines: { ttftMicros: random.pick([null, 10, 20]), tbtMicros: random.pick([null, 3]) },
      account: accounts.open(`tenant ${random.int(3)}`, 1 + random.int(3)),
      arrivedAt: random.int(20),
      firstTokenAt: -1,
      generated: 0,
      computed: random.int(11),
      level: random.int(3),
      levelMicros: 0,
      waitingSince: 0,
      ...{ tag: 0, place: 0, paid: 0, due: 0, lifted: false, liftedMicros: 0 },
      servedAt: random.next() < 0.2 ? -1e9 : 0,
    });
    const all = Array.from({ length: 40 }, (_, id) => make(id));
    for (const request of all) {
      policy.accounting?.arrived(request, 0);
      policy.accounting?.served(request, { computed: random.int(request.computed + 1), sampled: 1, micros: 1, now: 0 });
      policy.accounting?.waited(request, 0);
    }
    policy.accounting?.rank({ tokens: 2, micros: 4 });
    const sorted = all.toSorted(policy.compare);
    for (const [index, a] of sorted.entries()) {
      for (const [other, b] of sorted.entries()) {
        expect(Math.sign(policy.compare(a, b))).toBe(Math.sign(index - other) + 0);
        if (policy.outranks(a, b)) expect(policy.compare(a, b)).toBeLessThan(0);
      }
    }
  });

  it('notices a rank that was changed while the request was in its list', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1 });
    for (const id of [1, 2, 3]) bench.arrive(id, 8, { priority: 5 });
    const { queued } = bench.state;
    bench.request(2).priority = 9;
    expect(() => removeRanked(queued, bench.request(2), bench.state.policy)).toThrow('its rank changed while it was in it');
  });
});
