/** What is read off a run: its load, what its steps and copies took, and how its requests and tenants fared. */
import { describe, expect, it } from 'vitest';
import type { Effect, Event } from '../../src/core/types.js';
import { FiguresFold, medianFigures } from '../../src/replay/figures.js';
import { Observed } from '../../src/replay/observed.js';
import { COSTS, drawLoad, LIMITS, record } from './recordings.js';

describe('the load', () => {
  const load = drawLoad(60, 20_000);
  const observed = record(load);

  it('is what came in, with the names and lengths that came out', () => {
    expect(observed.requests).toHaveLength(60);
    for (const [
      index,
      { id, arrivedAt, tenant, priority, promptTokens, maxTokens, generated, outcome, names },
    ] of observed.requests.entries()) {
      const drawn = load[index] as (typeof load)[number];
      expect({ id, arrivedAt, tenant, priority, promptTokens, maxTokens }).toEqual({
        id: index + 1,
        arrivedAt: drawn.at,
        tenant: drawn.tenant,
        priority: drawn.priority,
        promptTokens: drawn.promptTokens,
        maxTokens: drawn.maxTokens,
      });
      expect(generated).toBe(drawn.outputTokens);
      expect(outcome).toBe('stop');
      // The last token is known, and so named, though its KV is never computed.
      expect(names).toHaveLength(Math.floor((promptTokens + generated) / 16));
      expect(names[4] ?? `${id} 4`).toBe(`${id} 4`);
    }
  });

  it('has the aborts that had an effect, and no stop string among them', () => {
    const [first, second, third] = load as [(typeof load)[number], (typeof load)[number], (typeof load)[number]];
    const own = record([
      { ...first, outputTokens: 200, maxTokens: 200, abort: { at: 200_000, reason: 'client' } },
      { ...second, outputTokens: 200, maxTokens: 200, abort: { at: 210_000, reason: 'stop' } },
      { ...third, abort: { at: 9_000_000, reason: 'client' } },
    ]);
    expect(own.aborts).toEqual([{ at: 200_000, id: 1, reason: 'client' }]);
    expect(own.requests.map(({ outcome }) => outcome)).toEqual(['aborted', 'stop', 'stop']);
  });

  it('has weights and deadlines, as they came and as they changed', () => {
    const deadlines = { ttftMicros: 300_000, tbtMicros: null };
    const items = [{ id: 1, priority: 9, deadlines: { ttftMicros: null, tbtMicros: 50_000 } }];
    const own = record([{ ...(load[0] as (typeof load)[number]), weight: 3, deadlines }, ...load.slice(1, 3)], {
      acts: [
        { at: 50_000, act: (runtime) => runtime.deliver({ type: 'reprioritized', items }) },
        { at: 60_000, act: (runtime) => runtime.reweight('desk', 0.5) },
      ],
    });
    expect(own.requests.map(({ weight, ttftMicros, tbtMicros }) => [weight, ttftMicros, tbtMicros])).toEqual([
      [3, 300_000, null],
      [1, null, null],
      [1, null, null],
    ]);
    expect(own.reprioritized).toEqual([{ at: 50_000, items }]);
    expect(own.reweighted).toEqual([{ at: 60_000, tenant: 'desk', weight: 0.5 }]);
  });

  it('has new priorities and the begin of draining', () => {
    const items = [{ id: 1, priority: 9 }];
    const own = record(load.slice(0, 5), {
      acts: [
        { at: 50_000, act: (runtime) => runtime.deliver({ type: 'reprioritized', items }) },
        { at: 60_000, act: (runtime) => runtime.deliver({ type: 'draining' }) },
      ],
    });
    expect(own.reprioritized).toEqual([{ at: 50_000, items }]);
    expect(own.drainingAt).toBe(60_000);
    expect(observed.drainingAt).toBeNull();
  });
});

describe('steps and copies', () => {
  const observed = record(drawLoad(120, 6000));

  it('took what the machine took', () => {
    expect(observed.steps.length).toBeGreaterThan(200);
    for (const { prefillTokens, decodeSequences, contextTokens, micros, launchedAt, returnedAt } of observed.steps) {
      const { step, prefillToken, decodeSequence, contextToken, gap, gapSequence } = COSTS;
      expect(micros).toBe(
        Math.round(step + prefillToken * prefillTokens + decodeSequence * decodeSequences + contextToken * contextTokens),
      );
      const beside = returnedAt - launchedAt - micros;
      expect(beside).toBeGreaterThanOrEqual(gap + gapSequence);
      expect(beside).toBeLessThanOrEqual(gap + gapSequence * LIMITS.maxRunning);
    }
    expect(observed.copies.length).toBeGreaterThan(20);
    for (const { direction, runs, blocks, micros, waited, startedAt, landedAt } of observed.copies) {
      const [one, run, byte] = COSTS.copy[direction];
      expect(micros).toBe(Math.round(one + run * runs + byte * blocks * LIMITS.blockBytes));
      if (!waited) expect(landedAt - startedAt).toBe(micros + 40);
    }
  });

  it('know of the copies that ran beside them', () => {
    const beside = observed.steps.filter(({ copyingMicros }) => copyingMicros > 0);
    expect(beside.length).toBeGreaterThan(0);
    const copied = observed.copies.reduce((sum, { micros }) => sum + micros, 0);
    expect(observed.steps.reduce((sum, { copyingMicros }) => sum + copyingMicros, 0)).toBeLessThanOrEqual(copied);
  });
});

describe('a copy beside many steps', () => {
  it('is counted with each of them, for as long as it ran', () => {
    const observed = new Observed(LIMITS);
    const step = (number: number) => ({ type: 'step', step: number, items: [] }) as const;
    const stepped = (number: number) => ({ type: 'stepped', at: 1000 * number, step: number, micros: 900, items: [] }) as const;
    const mirror = {
      type: 'mirror',
      ids: [],
      transfer: 1,
      direction: 'out',
      runs: [{ from: 0, to: 0, blocks: 1 }],
      blocks: 1,
    } as const;
    observed.see({ type: 'draining', at: 0 }, [step(1), mirror]);
    for (const number of [1, 2, 3]) observed.see(stepped(number), [step(number + 1)]);
    observed.see({ type: 'landed', at: 3500, transfer: 1, micros: 2800 }, []);
    observed.see(stepped(4), []);
    expect(observed.steps.map(({ copyingMicros }) => copyingMicros)).toEqual([300, 1000, 1000, 500]);
  });
});

type Line = readonly [Event, readonly Effect[]];

function arrival(id: number, at: number, tenant: string): Line {
  const arrived = { id, at, tenant, labels: [], promptTokens: 3, maxTokens: 5, priority: 0, names: [] };
  const told = { weight: 1, ttftMicros: null, tbtMicros: null };
  return [{ type: 'arrived', ...arrived, ...told }, []];
}

/** A step that gives these requests a token each; `ends` are over then. */
function tokens(step: number, at: number, ids: readonly number[], ends: readonly number[] = []): Line {
  return [
    { type: 'stepped', at, step, micros: 1, items: [] },
    [
      { type: 'tokens', items: ids.map((id) => ({ id, index: 0, token: 1, logprobs: null })) },
      ...ends.map((id) => ({ type: 'finish', id, outcome: 'length', error: null }) as const),
    ],
  ];
}

describe('figures', () => {
  const lines: readonly Line[] = [
    arrival(1, 0, 'a'),
    arrival(2, 1000, 'b'),
    tokens(1, 4000, [1]),
    tokens(2, 9000, [1, 2], [1]),
    tokens(3, 21_000, [2], [2]),
  ];
  const fold = new FiguresFold(16);
  for (const [event, effects] of lines) fold.see(event, effects);
  const figures = fold.result();

  it('are exact, overall and for each tenant', () => {
    expect(figures).toMatchObject({ requests: 2, generatedTokens: 4, seconds: 0.021 });
    expect(figures.tokensPerSecond).toBeCloseTo(4 / 0.021);
    expect(figures.ttftMs).toEqual({ p50: 4, p95: 8, p99: 8, p999: 8 });
    expect(figures.tbtMs).toEqual({ p50: 5, p95: 12, p99: 12, p999: 12 });
    expect(figures.requestMs).toMatchObject({ p50: 9, p99: 20 });
    expect(figures.tenants.a).toMatchObject({ requests: 1, generatedTokens: 2, msPerToken: 4.5 });
    expect(figures.tenants.b).toMatchObject({ ended: { length: 1, stop: 0 }, ttftMs: { p50: 8 }, msPerToken: 10 });
    expect([0, 50, 51, 100].map((share) => figures.ttftSharesMs[share])).toEqual([4, 4, 8, 8]);
  });

  it('say how even the tenants fared: Jain, the best and the worst', () => {
    const jain = 14.5 ** 2 / (2 * (4.5 ** 2 + 10 ** 2));
    expect(figures.fairness?.jain).toBeCloseTo(jain);
    expect(figures.fairness).toMatchObject({ best: { tenant: 'a' }, worst: { tenant: 'b', msPerToken: 10 } });
    expect(new FiguresFold(16).result().fairness).toBeNull();
  });

  it('of several runs are the median of each', () => {
    const other = { ...figures, steps: 9, ttftMs: { ...figures.ttftMs, p50: 1 } };
    const median = medianFigures([figures, other, other]);
    expect(median).toMatchObject({ steps: 9, ttftMs: { p50: 1, p95: 8 } });
    expect(medianFigures([figures])).toEqual(figures);
  });

  it('are those of the whole where there is one tenant, and tenants make the whole', () => {
    const { tenants, ...all } = record(drawLoad(80, 8000), {
      limits: { ...LIMITS, policy: 'priority', deviceBlocks: 48 },
    }).figures();
    const of = (value: (figures: (typeof tenants)[string]) => number) =>
      Object.values(tenants).reduce((sum, own) => sum + value(own), 0);
    expect(of(({ requests }) => requests)).toBe(all.requests);
    expect(of(({ generatedTokens }) => generatedTokens)).toBe(all.generatedTokens);
    expect(of(({ preemptions }) => preemptions.swap)).toBe(all.preemptions.swap);
    expect(all.preemptions.swap).toBeGreaterThan(0);
  });

  it('of a run that saw nothing are empty', () => {
    expect(new Observed(LIMITS).figures()).toMatchObject({ requests: 0, seconds: 0, tokensPerSecond: 0, tenants: {} });
  });
});
