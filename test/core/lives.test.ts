import { describe, expect, it } from 'vitest';
import type { Life, Spell } from '../../src/core/life.js';
import { microsByPhase } from '../../src/core/life.js';
import { Lives } from '../../src/core/lives.js';
import type { State } from '../../src/core/state.js';
import type { Effect, Event, Micros, RequestId } from '../../src/core/types.js';
import { loadScenario } from '../../src/simulation/profiles.js';
import { drawParameters, runWorld } from '../simulation/world.js';
import { LivedBench } from './lived.js';

const phasesOf = ({ spells }: Life) => spells.map(({ phase }) => phase);
const spellOf = (life: Life, phase: Spell['phase']) => life.spells.find((spell) => spell.phase === phase) as Spell;

describe('a life', () => {
  it('is that of one who runs through', () => {
    const bench = new LivedBench();
    bench.arrive(1, 40, { maxTokens: 3, priority: 4, tenant: 'blue' });
    bench.until(() => bench.phase(1) === 'done');
    const life = bench.life(1);
    expect(life).toMatchObject({
      id: 1,
      tenant: 'blue',
      promptTokens: 40,
      maxTokens: 3,
      priority: 4,
      phase: 'done',
      outcome: 'length',
      error: null,
      rejectCode: null,
      asked: null,
      generated: 3,
      cachedTokens: 0,
      steps: 3,
      computedTokens: 42,
      preemptions: { outranked: 0, growth: 0, crowded: 0, host: 0, failed: 0 },
      spellsLeftOut: 0,
    });
    expect(phasesOf(life)).toEqual(['queued', 'prefilling', 'decoding']);
    expect(life.spells.map(({ tokens }) => tokens)).toEqual([0, 0, 3]);
    expect(life.spells[1]?.admission).toEqual({ first: true, cachedTokens: 0, contextTokens: 40 });
    // A prompt of 40 takes 14 ms, every other token 10.
    const at = life.arrivedAt;
    expect([life.firstTokenAt, life.lastTokenAt, life.endedAt]).toEqual([at + 14_000, at + 34_000, at + 34_000]);
    expect(life.longestPause).toEqual({ micros: 10_000, at: at + 24_000, stepMicros: 10_000, stepTokens: 1 });
    expect(life.micros).toMatchObject({ queued: 0, prefilling: 14_000, decoding: 20_000 });
    expect(life.microsToFirstToken).toMatchObject({ prefilling: 14_000, decoding: 0 });
  });

  it('tells who preempted it, by which ranks, and what the swap took', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1, mechanism: { reuse: true } });
    bench.arrive(1, 40, { priority: 5, tenant: 'blue' });
    bench.step();
    bench.arrive(2, 4, { priority: 1, maxTokens: 1, tenant: 'red' });
    bench.until(() => bench.phase(1) === 'swapping-out');
    expect(spellOf(bench.life(1), 'swapping-out')).toMatchObject({ to: null, swap: { micros: null, error: null } });
    bench.until(() => bench.phase(1) === 'swapped');
    bench.arrive(3, 4, { priority: 7 });
    bench.until(() => bench.phase(1) === 'decoding');
    const life = bench.life(1);
    expect(phasesOf(life)).toEqual(['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in', 'decoding']);
    const out = spellOf(life, 'swapping-out');
    expect(out.preemption).toEqual({
      why: 'outranked',
      by: 2,
      own: { id: 1, priority: 5, tenant: 'blue', served: 0, tag: 0, due: 0, lifted: false, level: 0 },
      other: { id: 2, priority: 1, tenant: 'red', served: 0, tag: 0, due: 0, lifted: false, level: 0 },
    });
    expect(out.swap).toMatchObject({ direction: 'out', blocks: 3, held: 0, bytes: 3 << 16, runs: 1, micros: 150, error: null });
    expect((out.to as Micros) - out.from).toBeGreaterThanOrEqual(150);
    expect(spellOf(life, 'swapping-in').swap).toMatchObject({ direction: 'in', blocks: 3, micros: 150 });
    expect(life.preemptions.outranked).toBe(1);
    expect(life.swaps.out).toEqual({
      ...{ transfers: 1, blocks: 3, bytes: 3 << 16, runs: 1, micros: 150, failed: 0, withoutCopy: 0, held: 0 },
    });
    expect(life.swaps.in).toMatchObject({ transfers: 1, blocks: 3, micros: 150 });
  });

  it('tells of a swap that had nothing to copy, out or back', () => {
    const bench = new LivedBench({
      policy: 'priority',
      deviceBlocks: 100,
      hostBlocks: 100,
      maxBatchTokens: 600,
      maxRunning: 1,
      mechanism: { reuse: true, mirror: true, partial: true },
      costs: { promptToken: 0, block: 500 },
    });
    bench.arrive(1, 191, { priority: 5 });
    bench.step(); // 192 tokens are known and 191 computed
    bench.step(); // all of them: twelve full blocks
    bench.until(() => bench.transfers.length === 0);
    const mirrored = bench.life(1);
    expect(mirrored.swaps.out).toMatchObject({ transfers: 0, blocks: 0 });
    bench.prioritize([1, 4]);
    bench.arrive(2, 4, { priority: 1, maxTokens: 1 });
    bench.until(() => bench.phase(2) === 'done' && bench.phase(1) === 'decoding');
    const life = bench.life(1);
    const back = life.spells[life.spells.length - 1];
    expect(back).toMatchObject({ phase: 'decoding', swap: { direction: 'in', transfer: null, blocks: 0, micros: null } });
    expect(life.swaps.in).toMatchObject({ transfers: 0, withoutCopy: 1, held: back?.swap?.held });
    expect(spellOf(life, 'swapping-out').swap?.held ?? spellOf(life, 'swapped').swap?.held).toBeGreaterThan(10);
    expect(life.priorities).toMatchObject([{ from: 5, to: 4 }]);
  });

  it('tells what is lost and found where KV is given up', () => {
    const bench = new LivedBench({
      policy: 'priority',
      maxRunning: 1,
      deviceBlocks: 20,
      mechanism: { preemption: 'recompute', reuse: true, finished: 'warm' },
    });
    bench.arrive(1, 40, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1, maxTokens: 1 });
    bench.until(() => bench.phase(2) === 'done' && bench.phase(1) === 'decoding');
    const life = bench.life(1);
    expect(phasesOf(life)).toEqual(['queued', 'prefilling', 'decoding', 'queued', 'prefilling', 'decoding']);
    expect(life.spells[3]).toMatchObject({ lostTokens: 41, preemption: { why: 'outranked', by: 2 } });
    expect(life.spells[4]?.admission).toEqual({ first: false, cachedTokens: 32, contextTokens: 42 });
    expect([life.cachedTokens, life.computedTokens, life.generated]).toEqual([0, 40 + 1 + 10, 3]);
  });

  it('tells of a copy that failed', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 40, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1 });
    bench.step();
    bench.failTransfer();
    const life = bench.life(1);
    expect(spellOf(life, 'swapping-out').swap).toMatchObject({ micros: null, error: 'broken' });
    expect(life.spells[life.spells.length - 1]).toMatchObject({
      phase: 'queued',
      preemption: { why: 'failed', by: null, other: null },
    });
    expect([life.swaps.out.failed, life.swaps.out.blocks, life.preemptions.failed]).toEqual([1, 0, 1]);
  });

  it('tells who asked for its end, and that something had to come back first', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 40, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1 });
    bench.step();
    bench.abort(1, 'operator');
    const asked = bench.at;
    bench.abort(1, 'client');
    expect(bench.life(1)).toMatchObject({ asked: { at: asked, by: 'operator' }, endedAt: null });
    bench.land();
    expect(bench.life(1)).toMatchObject({ outcome: 'aborted', endedAt: bench.at, asked: { by: 'operator' } });
  });

  it('is over at the door for who is rejected', () => {
    const bench = new LivedBench();
    bench.arrive(1, 400);
    expect(bench.life(1)).toMatchObject({
      outcome: 'rejected',
      rejectCode: 'too_large',
      spells: [],
      endedAt: bench.at,
      cachedTokens: null,
    });
  });

  it('says why a failed one failed', () => {
    const bench = new LivedBench();
    bench.arrive(1, 8);
    bench.failStep();
    expect(bench.life(1)).toMatchObject({ outcome: 'failed', error: 'broken' });
  });

  it('keeps the first spells and the latest of very many, and counts all', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1, deviceBlocks: 40, mechanism: { partial: true } });
    bench.arrive(1, 16, { priority: 5, maxTokens: 400 });
    for (let n = 0; n < 50; n += 1) {
      bench.step();
      bench.arrive(10 + n, 4, { priority: 1, maxTokens: 1 });
      bench.until(() => bench.phase(10 + n) === 'done' && bench.phase(1) === 'decoding');
      bench.prioritize([1, 4 + (n % 2)]);
    }
    const life = bench.life(1);
    expect([life.spells.length, life.spellsLeftOut]).toEqual([64, 3 + 3 * 50 - 64]);
    expect(life.spells.slice(0, 3).map(({ phase }) => phase)).toEqual(['queued', 'prefilling', 'decoding']);
    expect(life.preemptions.outranked).toBe(50);
    expect(life.swaps).toMatchObject({ out: { transfers: 50 }, in: { withoutCopy: 50 } });
    expect([life.priorities.length, life.priorities.length + life.prioritiesLeftOut]).toEqual([16, 50]);
    const sum = Object.values(microsByPhase(life, bench.at)).reduce((a, b) => a + b, 0);
    expect(sum).toBe(bench.at - life.arrivedAt);
  });
});

describe('what was promised', () => {
  it('is remembered with its changes, the first few and the latest, and told', () => {
    const bench = new LivedBench({ policy: 'edf' });
    bench.arrive(1, 16, { tenant: 'blue', weight: 3, ttftMicros: 300_000, tbtMicros: 50_000 });
    bench.promise(1, null, null);
    bench.promise(1, null, null); // no change
    for (let n = 0; n < 20; n += 1) bench.promise(1, null, 1000 + n);
    const life = bench.life(1);
    expect([life.weight, life.deadlines]).toEqual([3, { ttftMicros: null, tbtMicros: 1019 }]);
    expect([life.deadlineChanges.length, life.deadlineChanges.length + life.deadlineChangesLeftOut]).toEqual([16, 21]);
    expect(life.deadlineChanges[0]).toMatchObject({ from: { ttftMicros: 300_000 }, to: { ttftMicros: null, tbtMicros: null } });
    const story = bench.story(1).join('\n');
    expect(story).toContain(
      "priority 0, promised a first token within 300 ms and one every 50.0 ms after that, tenant 'blue' of weight 3",
    );
    expect(story).toContain('from now on it is promised nothing (5 later changes are left out)');
    expect(story).toContain('from now on it is promised a token every 1.02 ms after the first');
  });
});

describe('lives', () => {
  const arrive = (lives: Lives, bench: LivedBench, id: RequestId, labels: string[]) => {
    const event: Event = {
      type: 'arrived',
      at: id,
      id,
      labels,
      promptTokens: 4,
      maxTokens: 1,
      priority: 0,
      tenant: '',
      ...{ weight: 1, ttftMicros: null, tbtMicros: null },
      names: [],
    };
    lives.apply(event, [{ type: 'admit', id, cachedTokens: 0 }], bench.state);
  };
  const finish = (lives: Lives, bench: LivedBench, id: RequestId) =>
    lives.apply({ type: 'draining', at: 100 + id }, [{ type: 'finish', id, outcome: 'stop', error: null }], bench.state);
  const ids = (found: readonly Life[]) => found.map(({ id }) => id);

  it('are found by number and by label, all choices of one and all that were called the same', () => {
    const [lives, bench] = [new Lives(), new LivedBench()];
    arrive(lives, bench, 1, ['cmpl-1', 'req-a']);
    arrive(lives, bench, 2, ['cmpl-1', 'req-a']);
    arrive(lives, bench, 3, ['cmpl-2', 'req-a']);
    arrive(lives, bench, 4, ['2']);
    finish(lives, bench, 1);
    expect(ids(lives.find('cmpl-1'))).toEqual([1, 2]);
    expect(ids(lives.find('req-a'))).toEqual([1, 2, 3]);
    expect(ids(lives.find(3))).toEqual([3]);
    expect(ids(lives.find('2'))).toEqual([2, 4]);
    for (const unknown of ['', '0', '7', '-1', '1.0', '1e0', 'cmpl', '99999999999999999999'])
      expect(lives.find(unknown)).toEqual([]);
    expect([lives.labelsOf(3), lives.labelsOf(9)]).toEqual([['cmpl-2', 'req-a'], []]);
  });

  it('are remembered after their end up to a number, the last ones, and those that are watched', () => {
    const [lives, bench] = [new Lives(2), new LivedBench()];
    lives.watch('mine');
    arrive(lives, bench, 1, ['mine']);
    for (const id of [2, 3, 4, 5]) arrive(lives, bench, id, ['same', `own ${id}`]);
    for (const id of [1, 3, 2, 4]) finish(lives, bench, id);
    expect(ids(lives.find('same'))).toEqual([4, 5]);
    expect([ids(lives.find('own 2')), ids(lives.find(3)), ids(lives.find('mine'))]).toEqual([[], [], [1]]);
    finish(lives, bench, 5);
    expect(ids(lives.find('same'))).toEqual([5]);
  });

  it('are copies that can be sent anywhere and do not change', () => {
    const bench = new LivedBench();
    bench.arrive(1, 40, { maxTokens: 3 });
    bench.step();
    const life = bench.life(1);
    const before = JSON.stringify(life);
    expect(JSON.parse(before)).toEqual(structuredClone(life));
    bench.until(() => bench.phase(1) === 'done');
    expect(JSON.stringify(life)).toBe(before);
  });
});

describe('a watched life', () => {
  it('has its reasons to wait, each for as long as it held, and how far up the line it came', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
    bench.lives.watch(3);
    bench.arrive(1, 16, { priority: 1, maxTokens: 2 });
    bench.arrive(2, 16, { priority: 1, maxTokens: 2 });
    bench.arrive(3, 16, { priority: 5, maxTokens: 2 });
    bench.arrive(4, 16, { priority: 2, maxTokens: 1 });
    expect(bench.life(3).spells[0]?.waits).toMatchObject([{ kind: 'line', to: null, first: { ahead: 1 }, last: { ahead: 2 } }]);
    bench.until(() => bench.phase(3) === 'prefilling');
    const { waits, waited, from, to } = bench.life(3).spells[0] as Spell;
    expect(waits).toMatchObject([
      { kind: 'line', first: { ahead: 1, first: 2 }, last: { ahead: 1, first: 4 } },
      { kind: 'slot', first: { running: 1, most: 1 } },
    ]);
    expect([waits[0]?.from, waits[0]?.to, waits[1]?.to]).toEqual([from, waits[1]?.from, to]);
    expect((waited.line ?? 0) + (waited.slot ?? 0)).toBe((to as Micros) - from);
    expect(bench.life(4).spells[0]).toMatchObject({ waits: [], waited: {} });
  });

  it('by a label, too', () => {
    const lives = new Lives();
    const { state } = new LivedBench({ maxRunning: 1 });
    lives.watch('mine');
    const event = {
      type: 'arrived',
      at: 5,
      id: 1,
      labels: ['mine'],
      promptTokens: 4,
      maxTokens: 1,
      priority: 0,
      tenant: '',
      ...{ weight: 1, ttftMicros: null, tbtMicros: null },
      names: [],
    } as const;
    lives.apply(event, [], state);
    expect(lives.find('mine')[0]?.spells).toMatchObject([{ phase: 'queued', waits: [] }]); // the core knows nothing of it
  });
});

/** Compares the lives with the state after every event, and at the end with themselves. */
class Census {
  readonly lives = new Lives(1e9);
  readonly ids: RequestId[] = [];
  readonly counts = { swaps: 0, tokens: 0 };
  #events = 0;

  constructor(watched: readonly RequestId[]) {
    for (const id of watched) this.lives.watch(id);
  }

  take(event: Event, effects: readonly Effect[], state: State): void {
    this.lives.apply(event, effects, state);
    if (event.type === 'arrived') this.ids.push(event.id);
    for (const effect of effects) {
      if (effect.type === 'swapOut' || effect.type === 'park' || effect.type === 'recompute') this.counts.swaps += 1;
      if (effect.type === 'tokens') this.counts.tokens += effect.items.length;
    }
    // Who is named may have changed; everyone else is looked at now and then.
    this.#events += 1;
    const named = effects.flatMap((effect) => ('id' in effect ? [effect.id] : []));
    const ids = this.#events % 50 === 0 ? state.requests.keys() : named;
    for (const id of ids) {
      const request = state.requests.get(id);
      if (request === undefined) continue;
      const life = this.lives.find(id)[0] as Life;
      const last = life.spells[life.spells.length - 1] as Spell;
      const [seen, real] = [life, request].map(({ phase, generated, priority }) => `${phase} ${generated} ${priority}`);
      if (seen !== real || last.phase !== request.phase || last.to !== null)
        throw new Error(`request ${id}: ${seen}, not ${real}`);
    }
  }

  finish(): void {
    let swaps = 0;
    let tokens = 0;
    for (const id of this.ids) {
      const life = this.lives.find(id)[0] as Life;
      expect([life.phase, life.outcome === null]).toEqual(['done', false]);
      tiles(life);
      swaps += Object.values(life.preemptions).reduce((sum, count) => sum + count, 0);
      tokens += life.generated;
    }
    expect({ swaps, tokens }).toEqual(this.counts);
  }
}

/** Its spells lie end to end from arrival to end, and their sums are the totals; so do the waits of each spell. */
function tiles(life: Life): void {
  const end = life.endedAt as Micros;
  let at = life.arrivedAt;
  let total = 0;
  const micros = { ...life.micros };
  life.spells.forEach((spell, index) => {
    if (life.spellsLeftOut > 0 && index === 8) at = spell.from; // what is left out lies here
    expect([spell.from, (spell.to as Micros) >= spell.from]).toEqual([at, true]);
    at = spell.to as Micros;
    micros[spell.phase] -= at - spell.from;
    if (spell.waits.length > 0 && spell.waitsLeftOut === 0) {
      expect(spell.waits[0]?.from).toBe(spell.from);
      for (const [place, wait] of spell.waits.entries()) expect(wait.to).toBe(spell.waits[place + 1]?.from ?? spell.to);
      expect(Object.values(spell.waited).reduce((sum, spent) => sum + spent, 0)).toBe(at - spell.from);
    }
  });
  expect(at).toBe(end);
  for (const spent of Object.values(life.micros)) total += spent;
  expect(total).toBe(end - life.arrivedAt);
  if (life.spellsLeftOut === 0) expect(Object.values(micros).every((left) => left === 0)).toBe(true);
  if (life.microsToFirstToken !== null) {
    const first = Object.values(life.microsToFirstToken).reduce((sum, spent) => sum + spent, 0);
    expect(first).toBe((life.firstTokenAt as Micros) - life.arrivedAt);
  }
}

describe('in drawn worlds', () => {
  const PROFILE = loadScenario('llama8b-a10').profile;
  const SEEDS = Math.min(1000, Number(process.env.FASTSWITCH_TEST_SEEDS ?? 25));

  it(`every life is where the state is, and its spells tile its time (${SEEDS} seeds)`, { timeout: 600_000 }, () => {
    let swaps = 0;
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const census = new Census([2, 5, 9]);
      runWorld(drawParameters(1000 + seed, PROFILE), (event, effects, state) => census.take(event, effects, state));
      census.finish();
      swaps += census.counts.swaps;
    }
    expect(swaps).toBeGreaterThan(SEEDS);
  });
});
