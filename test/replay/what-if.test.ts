/**
 * What-if on recordings of which the truth is known: the model comes to what was recorded, and under another setting to what
 * is really simulated there. Virtual time only, so figures may be asserted.
 */
import { describe, expect, it } from 'vitest';
import type { Runtime } from '../../src/actors/system.js';
import { PRESETS } from '../../src/core/presets.js';
import type { Limits } from '../../src/core/state.js';
import { FastswitchError } from '../../src/errors.js';
import { type ChangeFlags, parseChange } from '../../src/replay/change.js';
import type { RunFigures } from '../../src/replay/figures.js';
import type { Observed } from '../../src/replay/observed.js';
import { whatIfPage } from '../../src/replay/report.js';
import { Model, type WhatIfResult, whatIf } from '../../src/replay/what-if.js';
import { BLOCK_BYTES, type DrawnRequest, drawLoad, KnownMachine, LIMITS, record } from './recordings.js';

const NONE: ChangeFlags = { preset: null, policy: null, set: [] };
const change = (flags: Partial<ChangeFlags>, limits = LIMITS) => parseChange({ ...NONE, ...flags }, limits);
const without = (result: WhatIfResult) => JSON.parse(JSON.stringify(result)) as unknown;

/** So little memory and so many requests that they wait and push each other out. */
const TIGHT: Limits = { ...LIMITS, deviceBlocks: 48 };
const LOAD = drawLoad(400, 26_000, 3);
const NOISE = 0.05;

function truth(limits: Limits, seed: number): RunFigures {
  return record(LOAD, { limits, machine: new KnownMachine(NOISE, seed) }).figures();
}

/** Of what the issue asks: median TTFT and throughput. */
function expectNear(model: RunFigures, real: RunFigures, share: number): void {
  expect(Math.abs(model.ttftMs.p50 / real.ttftMs.p50 - 1)).toBeLessThan(share);
  expect(Math.abs(model.tokensPerSecond / real.tokensPerSecond - 1)).toBeLessThan(share);
}

describe('what if', () => {
  const recording = record(LOAD, { limits: TIGHT, machine: new KnownMachine(NOISE, 1) });
  const model = new Model(recording);

  it('comes to what was recorded, under the recorded limits', () => {
    const { recorded, modelled, error } = model.ask(change({ policy: 'fcfs' }, TIGHT));
    expect(recorded.preemptions.swap).toBeGreaterThan(10);
    expectNear(modelled, recorded, 0.05);
    expect(error.ttftP50).toBeCloseTo(modelled.ttftMs.p50 / recorded.ttftMs.p50 - 1);
    expect(Math.abs(error.ttftP95 ?? 1)).toBeLessThan(0.1);
    expect(Math.abs(error.tbtP50 ?? 1)).toBeLessThan(0.05);
  });

  const asked: [name: string, flags: Partial<ChangeFlags>, limits: Limits][] = [
    ['by priority', { policy: 'priority' }, { ...TIGHT, policy: 'priority' }],
    ['by vtc', { policy: 'vtc' }, { ...TIGHT, policy: 'vtc' }],
    ['with more memory', { set: ['device-blocks=64'] }, { ...TIGHT, deviceBlocks: 64 }],
    ['as vllm-1 does', { preset: 'vllm-1', policy: 'fcfs' }, { ...TIGHT, mechanism: PRESETS['vllm-1'].mechanism }],
  ];
  it.each(asked)('comes to what is really simulated %s', (_, flags, limits) => {
    const { changed, recorded } = model.ask(change(flags, TIGHT));
    const real = truth(limits, 77);
    expectNear(changed, real, 0.1);
    // And this says something: the other setting is another.
    expect(Math.abs(real.ttftMs.p50 / recorded.ttftMs.p50 - 1)).toBeGreaterThan(0.05);
    for (const [tenant, own] of Object.entries(real.tenants)) {
      expect(Math.abs((changed.tenants[tenant]?.msPerToken ?? 0) / own.msPerToken - 1)).toBeLessThan(0.15);
    }
  });

  it('answers the same to the same question, and otherwise to another seed', () => {
    const ask = (seed: number) => without(whatIf(recording, change({ policy: 'vtc' }, TIGHT), { seed, seeds: 1 }));
    expect(ask(1)).toEqual(ask(1));
    expect(ask(1)).not.toEqual(ask(2));
  });

  it('is as long as it was told: a stop, a length, a stop string; and ends where a client leaves', () => {
    const long = { outputTokens: 1000, maxTokens: 150 };
    const edited = LOAD.slice(0, 120).map((request, k): DrawnRequest => {
      if (k % 10 === 1) return { ...request, ...long, abort: { at: request.at + 600_000, reason: 'stop' } };
      if (k % 10 === 2) return { ...request, ...long, abort: { at: request.at + 300_000, reason: 'client' } };
      return k % 10 === 3 ? { ...request, ...long } : request;
    });
    const own = record(edited, { limits: TIGHT });
    const { recorded, changed, notes } = whatIf(own, change({ policy: 'vtc' }, TIGHT));
    expect(recorded.ended.aborted).toBe(12);
    expect(changed.ended).toMatchObject({ failed: 0, rejected: 0 });
    expect(changed.ended.stop + changed.ended.length + changed.ended.aborted).toBe(120);
    const lengths = (of: (figures: RunFigures) => number) => Math.abs(of(changed) - of(recorded));
    expect(lengths(({ ended }) => ended.length)).toBeLessThanOrEqual(1);
    expect(notes.join(' ')).toContain('12 requests were cancelled');
  });

  it('takes new priorities and a drain when they came, and cuts off what the recording did', () => {
    const items = [{ id: 40, priority: -5 }];
    const acts = [
      {
        at: 500_000,
        act: (runtime: { deliver: (event: never) => void }) => runtime.deliver({ type: 'reprioritized', items } as never),
      },
      { at: 1_500_000, act: (runtime: { deliver: (event: never) => void }) => runtime.deliver({ type: 'draining' } as never) },
    ];
    const own = record(LOAD, { limits: { ...TIGHT, policy: 'priority' }, acts, until: 1_560_000 });
    const { recorded, modelled, notes } = whatIf(own, change({ policy: 'fcfs' }, { ...TIGHT, policy: 'priority' }));
    expect(recorded.ended.rejected).toBeGreaterThan(0);
    expect(modelled.ended.rejected).toBe(recorded.ended.rejected);
    expect(notes.join(' ')).toMatch(/were refused in the recording and never served/);
    expect(notes.join(' ')).toMatch(/were still alive where the recording ends: they are cut off then/);
  });

  it('has the weights and deadlines of the recording, as they were and as they changed', () => {
    // Ten requests each at once: whose weight is greater is done sooner, until the weights are turned about.
    const both: DrawnRequest[] = Array.from({ length: 20 }, (_, k) => ({
      ...{ at: 0, promptTokens: 40, maxTokens: 60, outputTokens: 60, priority: 0, stem: `own ${k}` },
      ...(k % 2 === 0 ? { tenant: 'light', weight: 1 } : { tenant: 'heavy', weight: 9 }),
    }));
    const limits: Limits = { ...LIMITS, policy: 'fair', maxRunning: 4 };
    const turned = {
      at: 20_000,
      act: (runtime: Runtime) => ['light', 'heavy'].map((of, k) => runtime.reweight(of, k === 0 ? 9 : 1)),
    };
    const soonest = (run: Observed) => {
      const { tenants } = whatIf(run, change({ set: ['max-queued=999'] }, run.limits), { seeds: 1 }).changed;
      return (tenants.light?.requestMs.p50 ?? 0) < (tenants.heavy?.requestMs.p50 ?? 0) ? 'light' : 'heavy';
    };
    expect(soonest(record(both, { limits }))).toBe('heavy');
    expect(soonest(record(both, { limits, acts: [turned] }))).toBe('light');
    const hurried = both.map((request): DrawnRequest => {
      const tbtMicros = request.tenant === 'light' ? 10_000 : 900_000;
      return { ...request, deadlines: { ttftMicros: tbtMicros, tbtMicros } };
    });
    const byDeadline: Limits = { ...limits, policy: 'edf' };
    expect(soonest(record(hurried, { limits: byDeadline }))).toBe('light');
    const { notes } = whatIf(record(both, { limits }), change({ policy: 'edf' }, limits), { seeds: 1 });
    expect(notes.join(' ')).toContain('No request of the recording was promised a deadline');
  });

  it('says where it rests on what was not recorded', () => {
    const roomy = record(LOAD.slice(0, 100), {
      limits: { ...LIMITS, deviceBlocks: 1000, mechanism: PRESETS['vllm-1'].mechanism },
    });
    expect(roomy.copies).toHaveLength(0);
    const ask = (layers: number | null) =>
      whatIf(roomy, change({ preset: 'vllm-0.3', set: ['device-blocks=40'] }, roomy.limits), { layers, seeds: 1 });
    const unknown = ask(null);
    expect(unknown.machine.copies.out.source).toBe('guess');
    expect(unknown.notes.join(' ')).toContain(
      'The recording has no copies out: what they take is a guess (5 GB/s), not measured.',
    );
    const { notes } = whatIf(roomy, change({ preset: 'default', set: ['device-blocks=40'] }, roomy.limits), { seeds: 1 });
    expect(notes.join(' ')).toContain('the number of layers is not known');
    expect(notes[0]).toContain('Clients that wait for an answer before they ask again would have asked at other times');
  });
});

describe('a smaller device', () => {
  const recording = record(LOAD.slice(0, 150), { limits: TIGHT });
  const ask = (blocks: number, own = recording) =>
    whatIf(own, change({ set: [`device-blocks=${blocks}`] }, own.limits), { seeds: 1 });

  it('allows as much as it holds, and refuses only whose prompt is too long', () => {
    const { recorded, changed, notes } = ask(16);
    expect(recorded.ended.rejected).toBe(0);
    expect(changed.ended).toMatchObject({ rejected: 0, aborted: 0, failed: 0 });
    const longer = recording.requests.filter(({ promptTokens, generated }) => promptTokens + generated > 256).length;
    expect(longer).toBeGreaterThan(0);
    expect(notes.join(' ')).toContain(`${longer} requests were longer than fits the smaller device: they end where it is full.`);
    expect(changed.generatedTokens).toBeLessThan(recorded.generatedTokens);
  });

  it('that refuses some says that its latencies are of the others', () => {
    const { changed, notes } = ask(7);
    const tooLong = recording.requests.filter(({ promptTokens }) => promptTokens >= 7 * 16).length;
    expect(changed.ended.rejected).toBe(tooLong);
    expect(notes.join(' ')).toContain(`The change refuses ${tooLong} requests more than the model of the recording`);
  });

  it('serves nobody whom the larger one refused', () => {
    const own = record(
      LOAD.slice(0, 150).map((request, k) => (k < 5 ? { ...request, maxTokens: 4000 } : request)),
      { limits: TIGHT },
    );
    expect(ask(40, own)).toMatchObject({ recorded: { ended: { rejected: 5 } }, changed: { ended: { rejected: 5 } } });
  });

  it('that serves nobody has no latencies, and the page says so', () => {
    const own = record(
      LOAD.slice(0, 150).map((request) => ({ ...request, promptTokens: 40 + request.promptTokens })),
      { limits: TIGHT },
    );
    const result = ask(2, own);
    expect(result.changed).toMatchObject({ seconds: 0, generatedTokens: 0, ended: { rejected: 150 } });
    const lines = whatIfPage(result).split('\n');
    for (const title of ['TTFT P50 ms', 'TBT P99 ms', 'request P50 ms', 'ms for each token']) {
      expect(lines.find((line) => line.startsWith(`  ${title}`))).toMatch(/[\d.]+ +[\d.]+ +- +-$/);
    }
  });
});

describe('the error of the method', () => {
  it('is not known of what the recording does not have', () => {
    const single = LOAD.slice(0, 250).map((request) => ({ ...request, maxTokens: 1 }));
    const result = whatIf(record(single, { limits: TIGHT }), change({ policy: 'vtc' }, TIGHT), { seeds: 1 });
    expect(result.error).toMatchObject({ tbtP50: null, tbtP99: null, ttftP50: expect.any(Number) });
    expect(whatIfPage(result)).toContain('TBT P50 -, P99 -; throughput ');
  });
});

describe('a change', () => {
  it('is a preset with its own policy, a policy, or sizes', () => {
    expect(change({ preset: 'fastserve' })).toMatchObject({
      name: 'preset fastserve, policy mlfq',
      limits: { policy: 'mlfq', mechanism: PRESETS.fastserve.mechanism },
    });
    expect(change({ preset: 'fastserve', policy: 'vtc' }).limits.policy).toBe('vtc');
    expect(change({ preset: 'default' })).toMatchObject({
      name: 'preset default, policy fair',
      limits: { ...LIMITS, policy: 'fair' },
    });
    expect(change({ set: ['device-kv=4MiB', 'host-kv=0', 'max-running=4', 'max-batch-tokens=64', 'max-queued=9'] })).toEqual({
      name: 'device-kv 4MiB, host-kv 0, max-running 4, max-batch-tokens 64, max-queued 9',
      limits: { ...LIMITS, deviceBlocks: 64, hostBlocks: 0, maxRunning: 4, maxBatchTokens: 64, maxQueued: 9 },
    });
    expect(change({ set: ['device-blocks=10', 'host-blocks=20'] }).limits).toMatchObject({ deviceBlocks: 10, hostBlocks: 20 });
  });

  const settings = 'device-kv, host-kv, device-blocks, host-blocks, max-running, max-batch-tokens, max-queued';
  const wrong: [flags: Partial<ChangeFlags>, message: string][] = [
    [{}, '--what-if changes nothing: give --preset, --policy, or --set with key=value, as in --set device-kv=64MiB'],
    [{ preset: 'vlm' }, 'no preset "vlm"; there are '],
    [{ preset: 'llumnix' }, 'only "fastswitch simulate" knows preset llumnix: no recording tells what its staged copies take'],
    [{ policy: 'auto' }, 'no policy "auto"; there are fcfs, priority, vtc, fair, mlfq, edf'],
    [{ set: ['max-runing=3'] }, `--set cannot change "max-runing", did you mean max-running?; it can change ${settings}`],
    [{ set: ['port=1'] }, `--set cannot change "port"; it can change ${settings}`],
    [{ set: ['max-running'] }, '--set max-running is ""; allowed is an integer, at least 1, at most 65536'],
    [{ set: ['max-running=0'] }, '--set max-running is "0"; allowed is an integer, at least 1, at most 65536'],
    [{ set: ['max-running=1e3'] }, '--set max-running is "1e3"; allowed is an integer'],
    [
      { set: [`device-kv=${BLOCK_BYTES}`] },
      '--set device-kv is "65536"; allowed is a size (like 64MiB, 1.5GiB, 200MB, or plain bytes), at least 128KiB, 2 blocks of 16 tokens',
    ],
    [{ set: ['device-blocks=67108865'] }, 'allowed is an integer, at least 2, at most 67108864'],
    [{ set: ['device-kv=5TiB'] }, 'at least 128KiB, 2 blocks of 16 tokens, at most 4TiB'],
    [
      { set: ['host-kv=lots'] },
      '--set host-kv is "lots"; allowed is a size (like 64MiB, 1.5GiB, 200MB, or plain bytes), at least 0',
    ],
    [
      { set: ['max-batch-tokens=8'] },
      'max-batch-tokens is 8; allowed is at least max-running (16): every running request computes at least one token in a step',
    ],
  ];
  it.each(wrong)('that is wrong is refused: %j', (flags, message) => {
    expect(() => change(flags)).toThrow(FastswitchError);
    expect(() => change(flags)).toThrow(message);
  });
});
