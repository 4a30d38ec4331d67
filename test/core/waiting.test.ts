import { describe, expect, it } from 'vitest';
import type { State } from '../../src/core/state.js';
import type { Effect, Event } from '../../src/core/types.js';
import { type Waiting, whyWaiting } from '../../src/core/waiting.js';
import { loadScenario } from '../../src/simulation/profiles.js';
import { drawParameters, runWorld } from '../simulation/world.js';
import { Bench } from './bench.js';

const why = ({ state }: Bench, id: number) => whyWaiting(state, id);

describe('the first in line waits', () => {
  it('for a place in the batch, until one of those who run has ended', () => {
    const bench = new Bench({ maxRunning: 1 });
    bench.arrive(1, 16);
    bench.arrive(2, 16);
    expect(why(bench, 1)).toBeNull();
    expect(why(bench, 2)).toEqual({ kind: 'slot', running: 1, most: 1, outranked: 0 });
    bench.step();
    expect(why(bench, 2)).toMatchObject({ kind: 'slot' });
    bench.step(1);
    expect([bench.phase(2), why(bench, 2), why(bench, 1)]).toEqual(['prefilling', null, null]);
  });

  it('for room, and says how much there is of it', () => {
    const bench = new Bench({ deviceBlocks: 10 });
    bench.arrive(1, 60);
    bench.arrive(2, 90);
    // 6 blocks for 90 tokens and the one after them; 4 of 10 are taken for 60 and one more; a block is kept for growth.
    expect(why(bench, 2)).toEqual({ kind: 'room', running: 1, outranked: 0, need: 6, room: 6, kept: 1, outgoing: 0 });
    bench.step();
    bench.step(1);
    expect(bench.phase(2)).toBe('prefilling');
  });

  it('for a step to come back, because nobody is preempted in the middle of one', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 16, { priority: 5 });
    bench.step();
    bench.arrive(2, 16, { priority: 1 });
    expect(why(bench, 2)).toEqual({ kind: 'step', step: 2, victims: [1] });
    bench.step();
    expect(bench.told('swapOut')).toMatchObject([{ id: 1, cause: { why: 'outranked', by: 2 } }]);
    expect(bench.phase(2)).toBe('prefilling');
  });

  it('for room that is on its way out, and who leaves for the copy', () => {
    const bench = new Bench({ policy: 'priority', deviceBlocks: 10 });
    bench.arrive(1, 100, { priority: 5, maxTokens: 20 });
    bench.until(() => bench.phase(1) === 'decoding');
    bench.arrive(2, 100, { priority: 1, maxTokens: 20 });
    expect(why(bench, 2)).toMatchObject({ kind: 'step', victims: [1] });
    bench.step();
    expect(why(bench, 2)).toEqual({ kind: 'outgoing', leaving: [1], need: 7, room: 3, kept: 0, outgoing: 7 });
    const { transfer, dueAt } = bench.transfers[0] as { transfer: number; dueAt: number };
    expect(why(bench, 1)).toEqual({ kind: 'copy', transfer, what: 'swapOut', before: 0, dueAt });
    bench.land();
    expect([bench.phase(1), bench.phase(2)]).toEqual(['swapped', 'prefilling']);
    expect(why(bench, 1)).toMatchObject({ kind: 'room', outranked: 0 });
  });

  it('for its blocks to come back', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 40, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1, maxTokens: 1 });
    bench.until(() => bench.phase(1) === 'swapping-in');
    expect(why(bench, 1)).toMatchObject({ kind: 'copy', what: 'swapIn', before: 0 });
    bench.land();
    expect([bench.phase(1), why(bench, 1)]).toEqual(['decoding', null]);
  });

  it('behind one of higher rank that is still on its way out', () => {
    const bench = new Bench({ deviceBlocks: 8, costs: { block: 30_000 } });
    bench.arrive(1, 48);
    bench.arrive(2, 16);
    bench.until(() => bench.phase(2) === 'swapping-out');
    bench.arrive(3, 4);
    expect(why(bench, 3)).toEqual({ kind: 'leaving', by: 2 });
    bench.land();
    expect(why(bench, 3)).toMatchObject({ kind: 'line', ahead: 1, first: 2 });
  });

  it('for a copy ahead of need that reads what is to give way', () => {
    const bench = new Bench({
      policy: 'priority',
      deviceBlocks: 20,
      hostBlocks: 100,
      maxBatchTokens: 600,
      mechanism: { reuse: true, mirror: true },
      costs: { promptToken: 0, block: 500 },
    });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    expect(bench.told('mirror')).toHaveLength(1);
    bench.arrive(2, 200, { priority: 1 });
    const { transfer } = bench.transfers[0] as { transfer: number };
    expect(why(bench, 2)).toEqual({ kind: 'mirror', victim: 1, transfer });
    bench.step();
    expect([bench.phase(1), why(bench, 2)]).toEqual(['decoding', { kind: 'mirror', victim: 1, transfer }]);
    bench.land();
    expect(why(bench, 2)).toMatchObject({ kind: 'step', victims: [1] });
    bench.step();
    expect(bench.phase(1)).not.toBe('decoding');
  });

  it('for the link, where it has enough to bring in until the next step ends', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1, deviceBlocks: 40, mechanism: { paced: true } });
    bench.arrive(1, 60, { priority: 5 });
    bench.step();
    bench.arrive(2, 60, { priority: 3 });
    bench.until(() => bench.phase(2) === 'decoding' && bench.phase(1) === 'swapped');
    const freeAt = bench.at + 35_000;
    bench.state.linkFreeAt.in = freeAt;
    bench.prioritize([1, 1]);
    expect(why(bench, 1)).toEqual({ kind: 'link', victims: [2], freeAt });
    bench.step();
    expect([bench.phase(2), why(bench, 1)]).toEqual(['decoding', { kind: 'link', victims: [2], freeAt }]);
    bench.step();
    bench.step();
    expect(bench.phase(2)).toBe('swapping-out');
  });

  it('for copies that the next step waits for, and behind a swap-out, where a preset has it so', () => {
    const bench = new Bench({ policy: 'priority', deviceBlocks: 10, mechanism: { oneWay: true, waits: 'sync' } });
    bench.arrive(1, 60, { priority: 5 });
    bench.arrive(2, 60, { priority: 9 });
    bench.until(() => bench.phase(2) === 'decoding');
    bench.arrive(3, 40, { maxTokens: 2, priority: 1 });
    bench.step();
    expect(why(bench, 3)).toEqual({ kind: 'copies', transfers: [bench.transfers[0]?.transfer] });
    bench.land();
    // The step was launched with that: whoever was sent off since the last one keeps others out no more.
    expect([bench.phase(3), why(bench, 3)?.kind]).toEqual(['queued', 'event']);
    bench.step();
    expect(bench.phase(3)).toBe('prefilling');
  });
});

describe('the others', () => {
  it('wait in line, and it says for what the first of them waits', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 16, { priority: 0 });
    for (const [id, priority] of [
      [2, 7],
      [3, 3],
      [4, 5],
    ] as const)
      bench.arrive(id, 16, { priority });
    const obstacle = { kind: 'slot', running: 1, most: 1, outranked: 0 };
    expect(why(bench, 3)).toEqual(obstacle);
    expect(why(bench, 4)).toEqual({ kind: 'line', ahead: 1, first: 3, obstacle });
    expect(why(bench, 2)).toEqual({ kind: 'line', ahead: 2, first: 3, obstacle });
    bench.prioritize([2, 1]);
    expect([why(bench, 2), why(bench, 3)]).toEqual([obstacle, { kind: 'line', ahead: 1, first: 2, obstacle }]);
  });

  it('wait behind swapped and queued ones alike', () => {
    const bench = new Bench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 16, { priority: 5 });
    bench.step();
    bench.arrive(2, 16, { priority: 1 });
    bench.arrive(3, 16, { priority: 4 });
    bench.arrive(4, 16, { priority: 6 });
    bench.until(() => bench.phase(1) === 'swapped');
    expect(why(bench, 4)).toMatchObject({ kind: 'line', ahead: 2, first: 3 });
  });
});

/** Asks of everyone after every event and compares with what can be counted by hand, and with what happens next. */
class Interrogation {
  readonly kinds: Partial<Record<Waiting['kind'], number>> = {};
  /** Of reasons that name the event which ends them: what became of them at that event. */
  readonly steps = { kept: 0, broken: 0 };
  #said = new Map<number, Waiting>();

  ask(event: Event, effects: readonly Effect[], state: State): void {
    for (const [id, waiting] of this.#said) this.#look(id, waiting, event, effects, state);
    this.#said = new Map();
    const counted = state.soonBlocks;
    for (const request of state.requests.values()) {
      const waiting = whyWaiting(state, request.id);
      const runs = request.phase === 'prefilling' || request.phase === 'decoding';
      if ((waiting === null) !== runs)
        throw new Error(`request ${request.id} is ${request.phase} and waits for ${waiting?.kind}`);
      if (waiting === null) continue;
      this.#said.set(request.id, waiting);
      this.kinds[waiting.kind] = (this.kinds[waiting.kind] ?? 0) + 1;
      const ahead = [...state.queued, ...state.swapped].filter((other) => state.policy.compare(other, request) < 0).length;
      const inLine = request.phase === 'queued' || request.phase === 'swapped';
      if (inLine && (waiting.kind === 'line' ? waiting.ahead : 0) !== ahead)
        throw new Error(`request ${request.id} is ${ahead} down`);
    }
    if (state.soonBlocks !== counted) throw new Error('a question left something behind');
  }

  #look(id: number, waiting: Waiting, event: Event, effects: readonly Effect[], state: State): void {
    const before = effects.find((effect) => 'id' in effect && effect.id === id && effect.type !== 'ending');
    const moved = before !== undefined && before.type !== 'finish' && before.type !== 'recompute';
    if (waiting.kind === 'copy' && waiting.what !== 'prefetch' && moved) {
      if (event.type !== 'landed' || event.transfer !== waiting.transfer)
        throw new Error(`${id} moved without transfer ${waiting.transfer}`);
    }
    if (waiting.kind === 'copies' && moved && event.type !== 'landed' && event.type !== 'transferFailed') {
      throw new Error(`${id} started before the copies landed`);
    }
    if (waiting.kind === 'step' && event.type === 'stepped' && state.policy.accounting === null) {
      const gaveWay = effects.some((effect) => 'id' in effect && (effect.id === id || waiting.victims.includes(effect.id)));
      this.steps[gaveWay ? 'kept' : 'broken'] += 1;
    }
    // In the middle of a step nobody gives way, and without that there is neither room nor a place for it.
    if ((waiting.kind === 'step' || waiting.kind === 'link') && moved && event.type === 'arrived') {
      throw new Error(`${id} started although it waited for ${waiting.kind}`);
    }
  }
}

describe('in drawn worlds', () => {
  const PROFILE = loadScenario('llama8b-a10').profile;

  it('everyone who does not run has a reason, it is true, and asking changes nothing', { timeout: 300_000 }, () => {
    const asked = new Interrogation();
    for (let seed = 1; seed <= 40; seed += 1) {
      const parameters = drawParameters(seed, PROFILE);
      const { digest } = runWorld(parameters, (event, effects, state) => asked.ask(event, effects, state));
      if (seed % 4 === 0) expect(runWorld(parameters).digest).toBe(digest);
    }
    const kinds: Waiting['kind'][] = [
      'copy',
      'copies',
      'leaving',
      'outgoing',
      'step',
      'link',
      'mirror',
      'slot',
      'room',
      'line',
      'event',
    ];
    for (const kind of kinds) expect(asked.kinds[kind], kind).toBeGreaterThan(0);
    expect(asked.steps.kept).toBeGreaterThan(100);
    expect(asked.steps.broken).toBe(0);
  });
});
