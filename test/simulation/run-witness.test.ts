import { describe, expect, it } from 'vitest';
import { Digest, Marks } from '../../src/actors/digest.js';
import type { Cause, Effect, Event, SteppedItem } from '../../src/core/types.js';
import { Samples } from '../../src/simulation/samples.js';
import { RunWitness } from '../../src/simulation/witness.js';

const arrived = (id: number, at: number): Event => ({
  type: 'arrived',
  at,
  id,
  labels: [],
  promptTokens: 32,
  maxTokens: 9,
  priority: 0.25,
  tenant: 'a',
  weight: 1,
  ttftMicros: null,
  tbtMicros: null,
  names: ['x', 'y'],
});
const cause: Cause = { why: 'outranked', by: 9 };
const item = (id: number): SteppedItem => ({ id, count: 1, token: 7, ended: false, logprobs: null, name: null });
const stepped = (step: number, at: number, ids: readonly number[]): Event => ({
  type: 'stepped',
  at,
  step,
  micros: 1,
  items: ids.map(item),
});
const landed = (transfer: number, at: number): Event => ({ type: 'landed', at, transfer, micros: 1 });
const step = (number: number): Effect => ({ type: 'step', step: number, items: [] });
const tokens = (...ids: readonly number[]): Effect => ({
  type: 'tokens',
  items: ids.map((id) => ({ id, index: 0, token: 7, logprobs: null })),
});
const finish = (id: number): Effect => ({ type: 'finish', id, outcome: 'stop', error: null });
const copies = {
  blocks: 4,
  runs: [
    { from: 0, to: 8, blocks: 3 },
    { from: 9, to: 1, blocks: 1 },
  ],
} as const;

describe('percentiles', () => {
  it('are samples, by nearest rank, from either end', () => {
    const samples = new Samples();
    for (let k = 1000; k >= 1; k--) samples.push(k);
    expect(samples.spread(1)).toEqual({ p50: 500, p95: 950, p99: 990, p999: 999 });
    expect(samples.spread(10, 'low')).toEqual({ p50: 50, p95: 5, p99: 1, p999: 0.1 });
    expect([...samples.values().subarray(0, 2)]).toEqual([1000, 999]);
    expect(new Samples().spread(1)).toEqual({ p50: 0, p95: 0, p99: 0, p999: 0 });
  });

  it('stay exact when there are more samples than were thought of', () => {
    const samples = new Samples();
    for (let k = 0; k < 5000; k++) samples.push(k);
    expect(samples.length).toBe(5000);
    expect(samples.spread(1).p50).toBe(2499);
  });
});

describe('the witness of a run', () => {
  it('measures first tokens from arrival and the others from the token before', () => {
    const witness = new RunWitness(10);
    witness.see(arrived(1, 1000), [step(1)]);
    witness.see(stepped(1, 5000, [1]), [tokens(1), step(2)]);
    witness.see(stepped(2, 7000, [1]), [tokens(1), step(3)]);
    witness.see(stepped(3, 12_000, [1]), [tokens(1), finish(1)]);
    const { ttftMs, tbtMs, generatedTokens, virtualSeconds, throughputTokensPerSecond, steps } = witness.observed();
    expect([ttftMs.p50, tbtMs.p50, tbtMs.p99]).toEqual([4, 2, 5]);
    expect([generatedTokens, steps, virtualSeconds]).toEqual([3, 3, 0.011]);
    expect(throughputTokensPerSecond).toBeCloseTo(3 / 0.011, 9);
  });

  it('calls stall what passes in an iteration before its step is launched, and counts no idle time', () => {
    const witness = new RunWitness(10);
    witness.see(arrived(1, 0), [step(1)]);
    // The next step waits for a copy until 60.
    witness.see(stepped(1, 50_000, [1]), [
      { ...copies, type: 'swapIn', id: 2, held: 0, cachedTokens: 0, transfer: 1, direction: 'in' },
    ]);
    witness.see(landed(1, 60_000), [step(2)]);
    witness.see(stepped(2, 90_000, [1]), [finish(1)]);
    // Nobody is alive for a long time.
    witness.see(arrived(2, 900_000), [step(3)]);
    witness.see(stepped(3, 910_000, [2]), [finish(2)]);
    const { iterationMs, stallMs, stallShareP99, swapInMs, tokensPerMs } = witness.observed();
    expect([iterationMs.p50, iterationMs.p999]).toEqual([40, 50]);
    expect([stallMs.p50, stallMs.p999]).toEqual([0, 10]);
    expect(stallShareP99).toBe(0); // the longest iteration is the first, which did not stall
    expect(swapInMs.p50).toBe(10);
    expect(tokensPerMs).toEqual({ p50: 1 / 40, p95: 1 / 50, p99: 1 / 50, p999: 1 / 50 });
  });

  it('finds the share of stall in the longest iterations', () => {
    const witness = new RunWitness(10);
    witness.see(arrived(1, 0), [step(1)]);
    witness.see(stepped(1, 10_000, [1]), []);
    witness.see(landed0(witness, 70_000), [step(2)]);
    witness.see(stepped(2, 110_000, [1]), [finish(1)]);
    expect(witness.observed().stallShareP99).toBe(0.6);
  });

  it('tells copies that someone waits for from those ahead of need, and counts what preemption found on the host', () => {
    const witness = new RunWitness(10);
    witness.see(arrived(1, 0), [
      { ...copies, type: 'mirror', ids: [1], transfer: 1, direction: 'out' },
      { ...copies, type: 'swapOut', id: 1, held: 5, cause, transfer: 2, direction: 'out' },
      { ...copies, type: 'prefetch', id: 1, transfer: 3, direction: 'in' },
      { type: 'park', id: 2, held: 7, cause },
      { type: 'resume', id: 2, held: 7 },
      { type: 'recompute', id: 2, cause },
    ]);
    for (const transfer of [1, 2, 3]) witness.see(landed(transfer, 2000 * transfer), []);
    const observed = witness.observed();
    expect(observed.preemptions).toEqual({ swap: 2, recompute: 1 });
    expect([observed.bytesOut, observed.bytesIn, observed.bytesMirrored, observed.bytesPrefetched]).toEqual([80, 40, 40, 40]);
    expect([observed.transfers, observed.meanRunBlocks]).toEqual([3, 2]);
    expect([observed.blocksSent, observed.blocksHeld]).toEqual([4, 12]);
    expect([observed.swapOutMs.p50, observed.swapOutMs.p99, observed.swapInMs.p50]).toEqual([0, 4, 0]);
  });
});

/** A transfer that begins at once and lands at `at`. */
function landed0(witness: RunWitness, at: number): Event {
  const effect: Effect = { ...copies, type: 'prefetch', id: 1, transfer: 9, direction: 'in' };
  witness.see({ type: 'draining', at: 10_000 }, [effect]);
  return landed(9, at);
}

const EVENTS: readonly Event[] = [
  arrived(1, 5),
  stepped(1, 6, [1, 2]),
  landed(3, 7),
  { type: 'transferFailed', at: 8, transfer: 3, error: 'e' },
  { type: 'stepFailed', at: 8, step: 3, error: 'e' },
  { type: 'aborted', at: 8, id: 3, reason: 'client' },
  { type: 'reprioritized', at: 9, items: [{ id: 1, priority: 0.5 }] },
  { type: 'reprioritized', at: 9, items: [{ id: 1, priority: 0.5, deadlines: { ttftMicros: 7, tbtMicros: 8 } }] },
  { type: 'reweighted', at: 9, tenant: 'a', weight: 2 },
];
const EFFECTS: readonly Effect[] = [
  { type: 'admit', id: 1, cachedTokens: 16 },
  { type: 'step', step: 4, items: [{ id: 1, start: 3, count: 2, sample: true, blocks: [5, 6] }] },
  { type: 'prefilled', id: 1 },
  { ...copies, type: 'swapOut', id: 1, held: 2, cause, transfer: 3, direction: 'out' },
  { ...copies, type: 'swapIn', id: 1, held: 2, cachedTokens: 3, transfer: 3, direction: 'in' },
  { ...copies, type: 'mirror', ids: [1, 2], transfer: 3, direction: 'out' },
  { ...copies, type: 'prefetch', id: 2, transfer: 3, direction: 'in' },
  { type: 'park', id: 1, held: 4, cause },
  { type: 'resume', id: 1, held: 4 },
  { type: 'settled', id: 1 },
  { type: 'recompute', id: 1, cause },
  { type: 'ending', id: 1 },
  tokens(1, 2),
  finish(1),
  { type: 'reject', id: 1, code: 'draining' },
];

/** What was said: no digest has it. */
const SAID = ['token', 'logprobs'];

/** Every record that differs from `value` in one number, text or flag, at any depth. */
function variations<T>(value: T): T[] {
  if (typeof value === 'number') return [(value + 1) as T];
  if (typeof value === 'string') return [`${value}'` as T];
  if (typeof value === 'boolean') return [!value as T];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value)
    .filter(([key]) => key !== 'type' && key !== 'direction' && !SAID.includes(key))
    .flatMap(([key, part]) =>
      variations(part).map((varied) => Object.assign(Array.isArray(value) ? [...value] : { ...value }, { [key]: varied }) as T),
    );
}

describe('the digest', () => {
  const digest = (event: Event, effects: readonly Effect[]) => {
    const made = new Digest();
    made.add(event, effects);
    return made.end();
  };

  it.each(EVENTS)('changes with every field of $type', (event) => {
    const all = [event, ...variations(event)].map((varied) => digest(varied, []));
    expect(all.length).toBeGreaterThan(1);
    expect(new Set(all).size).toBe(all.length);
  });

  it.each(EFFECTS)('changes with every field of $type', (effect) => {
    const all = [effect, ...variations(effect)].map((varied) => digest(EVENTS[0] as Event, [varied]));
    expect(all.length).toBeGreaterThan(1);
    expect(new Set(all).size).toBe(all.length);
  });

  it('does not depend on what was said, but on whether something was', () => {
    const stepped = (token: number): Event => ({
      type: 'stepped',
      at: 1,
      step: 1,
      micros: 1,
      items: [{ id: 1, count: 1, token, ended: false, logprobs: token === 8 ? { logprob: -1, top: [] } : null, name: null }],
    });
    expect(digest(stepped(8), [])).toBe(digest(stepped(7), []));
    expect(digest(stepped(-1), [])).not.toBe(digest(stepped(7), []));
    const said = (token: number): Effect => ({ type: 'tokens', items: [{ id: 1, index: 0, token, logprobs: null }] });
    expect(digest(stepped(7), [said(7)])).toBe(digest(stepped(7), [said(8)]));
  });

  it('is marked after each decision: the first mark that differs is that of the first decision that does', () => {
    const marks = (events: readonly Event[]) => {
      const made = new Marks();
      return events.map((event, index) => made.after(event, EFFECTS.slice(index, index + 2)));
    };
    const usual = marks(EVENTS);
    expect(marks(EVENTS)).toEqual(usual);
    for (const [index, event] of EVENTS.entries()) {
      for (const varied of variations(event)) {
        const other = marks(EVENTS.with(index, varied));
        expect(other.slice(0, index)).toEqual(usual.slice(0, index));
        for (const [later, mark] of other.slice(index).entries()) expect(mark).not.toBe(usual[index + later]);
      }
    }
  });

  it('depends on the order, and does not care how much is taken in at a time', () => {
    const [a, b] = EFFECTS as [Effect, Effect];
    const event = EVENTS[0] as Event;
    expect(digest(event, [a, b])).not.toBe(digest(event, [b, a]));
    const long: Effect = {
      type: 'step',
      step: 1,
      items: [{ id: 1, start: 0, count: 1, sample: true, blocks: Array(50_000).fill(3) }],
    };
    expect(digest(event, [long])).toBe(digest(event, [long]));
    expect(digest(event, [long])).not.toBe(digest(event, [a]));
  });
});
