import { describe, expect, it } from 'vitest';
import { Bench, type BenchOptions } from './bench.js';

const STEP = 10_000;
/** So that a bit less than a step has room for 15 blocks. */
const BLOCK = 500;

/** A machine on which mirroring is worth while; requests of a few hundred tokens. */
function make({ mechanism, costs, ...options }: BenchOptions = {}): Bench {
  return new Bench({
    policy: 'priority',
    deviceBlocks: 100,
    hostBlocks: 100,
    maxBatchTokens: 600,
    mechanism: { reuse: true, mirror: true, ...mechanism },
    costs: { step: STEP, promptToken: 0, block: BLOCK, ...costs },
    ...options,
  });
}

/** How many of the full blocks of a request the host has. */
const onHost = (bench: Bench, id: number) => {
  const { names } = bench.request(id);
  return bench.state.copies.find(names, names.length);
};

const kinds = (bench: Bench) => bench.transfers.map(({ type }) => type);

describe('mirroring', () => {
  it('sends the full blocks of who runs while its next step runs, and nothing twice', () => {
    const bench = make();
    bench.arrive(1, 200);
    expect(kinds(bench)).toEqual([]); // nothing is computed yet
    bench.step();
    expect(bench.told('mirror')).toMatchObject([{ ids: [1], direction: 'out', blocks: 12 }]);
    expect(onHost(bench, 1)).toBe(0);
    bench.land();
    expect(onHost(bench, 1)).toBe(12);
    for (let n = 0; n < 20; n += 1) bench.step();
    expect(kinds(bench)).toEqual([]);
    bench.finishAll();
  });

  it('waits until there are enough blocks for a transfer of their own', () => {
    const bench = make();
    bench.arrive(1, 7 * 16);
    for (let n = 0; n < 16; n += 1) bench.step();
    expect([bench.request(1).computed, kinds(bench)]).toEqual([7 * 16 + 15, []]);
    bench.step();
    expect(bench.told('mirror')).toMatchObject([{ blocks: 8 }]);
    bench.land();
    bench.finishAll();
  });

  it('begins with the lowest rank, and sends no more than can land before the step ends', () => {
    const bench = make();
    bench.arrive(3, 8);
    bench.arrive(1, 200, { priority: 1 });
    bench.arrive(2, 200, { priority: 2 });
    bench.step();
    bench.step(); // now both are computed
    const [first] = bench.told('mirror');
    expect(first?.ids).toEqual([2, 1]);
    expect(first?.blocks).toBeGreaterThanOrEqual(13);
    expect(first?.blocks).toBeLessThanOrEqual(16);
    bench.land();
    expect(onHost(bench, 2)).toBe(12);
    const sent = onHost(bench, 1);
    expect(sent).toBe((first?.blocks as number) - 12);
    bench.step();
    expect(bench.told('mirror')).toMatchObject([{ ids: [1], blocks: 12 - sent }]);
    bench.land();
    bench.finishAll();
  });

  it('does not begin in what is left of a step where that is too short', () => {
    const slow = make({ costs: { block: STEP / 8 } });
    slow.arrive(1, 400);
    slow.step();
    expect(kinds(slow)).toEqual([]);
    // Nor where the step is long enough but nearly over.
    const bench = make();
    bench.arrive(1, 100, { priority: 1 });
    bench.step();
    bench.arrive(2, 100, { priority: 1 });
    bench.step();
    expect(kinds(bench)).toEqual([]); // 6 blocks, and 6 that are only being computed
    bench.at += 0.9 * STEP;
    bench.state.copies.checkIntegrity();
    bench.arrive(3, 8);
    expect(kinds(bench)).toEqual([]);
    bench.step();
    expect(kinds(bench)).toEqual(['mirror']);
    bench.finishAll();
  });

  it('is quiet while anybody is swapped out', () => {
    const bench = make({ maxRunning: 2 });
    bench.arrive(1, 200, { priority: 5 });
    bench.arrive(2, 200, { priority: 4 });
    bench.arrive(3, 8, { priority: 1 });
    bench.step(); // 1 is preempted as soon as it is computed
    expect(kinds(bench)).toEqual(['swapOut']);
    bench.step();
    expect(kinds(bench)).toEqual(['swapOut']);
    bench.land();
    expect(kinds(bench)).toEqual(['mirror']);
    bench.finishAll();
  });

  it('sends what ended requests have left on the device first, oldest first', () => {
    const bench = make({ mechanism: { finished: 'warm' }, costs: { block: 700 } });
    bench.arrive(1, 200, { maxTokens: 1 });
    bench.step();
    bench.arrive(2, 200, { maxTokens: 1 });
    bench.step();
    bench.arrive(3, 300);
    bench.step();
    const runs = bench.transfers.map(({ ids, blocks }: { ids?: readonly number[]; blocks: number }) => [ids, blocks]);
    expect(runs).toEqual([[[], expect.any(Number)]]);
    bench.until(() => bench.transfers.length === 0 && onHost(bench, 3) >= 16);
    expect([1, 2].map((id) => bench.state.copies.find([bench.name(id, 11)], 1))).toEqual([1, 1]);
    bench.finishAll();
  });

  it('gives up no copy that anyone could use', () => {
    const bench = make({ hostBlocks: 20, maxRunning: 1 });
    bench.arrive(1, 200, { priority: 5 });
    bench.until(() => bench.phase(1) === 'decoding' && onHost(bench, 1) === 12);
    bench.arrive(2, 200, { priority: 1 });
    bench.until(() => bench.phase(2) === 'decoding' && bench.phase(1) === 'swapped');
    for (let n = 0; n < 10; n += 1) bench.step();
    // Request 1 needs 13 of the 20.
    expect([kinds(bench), onHost(bench, 1), onHost(bench, 2)]).toEqual([[], 12, 0]);
    bench.finishAll();
  });

  it('sends a common prefix once', () => {
    const bench = make();
    bench.arrive(1, 200, { text: 'chat', maxTokens: 200 });
    bench.step();
    bench.land();
    bench.arrive(2, 420, { text: 'chat', maxTokens: 200 });
    bench.until(() => bench.phase(2) === 'decoding');
    bench.until(() => onHost(bench, 2) === 26);
    expect(bench.state.host.total - bench.state.host.free).toBe(26);
    bench.finishAll();
  });
});

describe('a preemption after mirroring', () => {
  it('sends the partly filled block only', () => {
    const bench = make({ maxRunning: 1 });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    bench.land();
    bench.arrive(2, 8, { priority: 1 });
    bench.step();
    expect(bench.told('swapOut')).toMatchObject([{ id: 1, held: 12, blocks: 1 }]);
    bench.land();
    bench.finishAll();
  });

  it('sends nothing where nothing is partly filled', () => {
    const bench = make({ maxRunning: 2, maxBatchTokens: 64 });
    bench.arrive(1, 300, { priority: 5 });
    bench.step();
    bench.arrive(2, 300, { priority: 3 }); // takes the whole budget from the next step on
    bench.step();
    bench.land();
    expect([bench.request(1).computed, onHost(bench, 1)]).toEqual([128, 8]);
    bench.arrive(3, 300, { priority: 1 });
    bench.step();
    expect(bench.told('park')).toEqual([{ type: 'park', id: 1, held: 8, cause: { why: 'outranked', by: 3 } }]);
    expect(bench.phases(1, 3)).toEqual(['swapped', 'prefilling']);
    bench.finishAll();
  });

  it('waits for the mirror that reads the blocks, and for nobody else', () => {
    const bench = make({ maxRunning: 1 });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    bench.arrive(2, 8, { priority: 1 });
    bench.step(); // later than was thought
    expect([bench.phases(1, 2), kinds(bench)]).toEqual([['decoding', 'queued'], ['mirror']]);
    bench.land();
    bench.step();
    expect(bench.told('swapOut')).toMatchObject([{ id: 1, held: 12, blocks: 1 }]);
    bench.finishAll();
  });

  it('is not put off again by the next mirror, however long mirrors take', () => {
    const bench = make({ maxRunning: 1, maxBatchTokens: 160 });
    bench.arrive(1, 640, { priority: 5 }); // ten blocks to mirror after every step
    bench.step();
    bench.arrive(2, 8, { priority: 1 });
    bench.step();
    expect([bench.phases(1, 2), kinds(bench)]).toEqual([['prefilling', 'queued'], ['mirror']]);
    bench.land();
    expect(kinds(bench)).toEqual([]); // there would be enough for another
    bench.step();
    expect(bench.phases(1, 2)).not.toContain('queued');
    bench.finishAll();
  });

  it('does not come ahead of need to whom the host has no room for: its own copies are none', () => {
    const bench = make({ deviceBlocks: 20, hostBlocks: 9 });
    bench.arrive(3, 8, { maxTokens: 1 });
    bench.arrive(1, 130, { priority: 1, maxTokens: 150 });
    bench.arrive(2, 140, { priority: 2, maxTokens: 150 });
    let before = 0;
    bench.until(() => {
      if (bench.told('recompute').length > 0) return true;
      before = bench.request(2).computed;
      return false;
    });
    expect(bench.told('recompute')).toMatchObject([{ id: 2 }]);
    expect(before).toBe(159); // its next token needed a block, and there was none
    bench.finishAll();
  });

  it('does not come ahead of need where copies that a mirror continues are in the way', () => {
    const bench = make({ deviceBlocks: 23, hostBlocks: 13 });
    bench.arrive(1, 200, { priority: 1, maxTokens: 100 });
    bench.step();
    bench.land();
    while (bench.request(1).computed < 206) bench.step();
    bench.arrive(2, 140, { priority: 2, maxTokens: 100 });
    bench.until(() => bench.told('mirror').length > 0);
    expect(bench.told('mirror')).toMatchObject([{ ids: [1], blocks: 1 }]); // the last room on the host
    bench.step();
    bench.step();
    expect([bench.request(2).computed, bench.state.device.free]).toEqual([142, 0]);
    expect([bench.phase(2), bench.told('recompute')]).toEqual(['decoding', []]);
    bench.finishAll();
  });
});

describe('partial preemption', () => {
  /** Request 1, of 13 blocks, has made room for the slot of request 2. */
  const preempted = (options: BenchOptions = {}) => {
    const bench = make({ maxRunning: 1, deviceBlocks: 20, mechanism: { partial: true }, ...options });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    bench.land();
    bench.arrive(2, 60, { priority: 1, maxTokens: 80 });
    bench.step();
    bench.land();
    return bench;
  };

  it('leaves on the device what nobody needs, and resumes without a copy', () => {
    const bench = preempted();
    expect([bench.phase(1), bench.state.device.table(1).length]).toEqual(['swapped', 13]);
    bench.abort(2);
    bench.step();
    expect(bench.effects).toMatchObject([{ type: 'finish', id: 2 }, { type: 'resume', id: 1, held: 13 }, { type: 'step' }]);
    expect(bench.state.residents.total).toBe(0);
    bench.finishAll();
  });

  it('takes from its tail as much as is needed, and no more', () => {
    const bench = preempted();
    const table = bench.state.device.table(1).slice();
    bench.until(() => bench.state.device.free === 0);
    expect(bench.state.device.table(1)).toHaveLength(13);
    while (bench.state.device.table(2).length <= 8) bench.step();
    // 20 blocks: 9 are 2's, 11 are left.
    expect(bench.state.device.table(1)).toEqual(table.slice(0, 11));
    bench.until(() => bench.phase(2) === 'done');
    expect(bench.told('swapIn')).toMatchObject([{ id: 1, held: 11, blocks: 2 }]);
    bench.land();
    expect(bench.phase(1)).toBe('decoding');
    bench.finishAll();
  });

  it('takes from the lowest rank first', () => {
    const bench = make({ maxRunning: 2, deviceBlocks: 34, mechanism: { partial: true } });
    bench.arrive(1, 200, { priority: 7 });
    bench.arrive(2, 200, { priority: 6 });
    bench.until(() => bench.phases(1, 2).every((phase) => phase === 'decoding') && bench.transfers.length === 0);
    bench.arrive(3, 8, { priority: 1, maxTokens: 100 });
    bench.arrive(4, 90, { priority: 1, maxTokens: 100 });
    bench.until(() => bench.phases(1, 2).every((phase) => phase === 'swapped'));
    const lengths = () => [1, 2].map((id) => bench.state.device.table(id).length);
    bench.until(() => bench.phase(4) === 'decoding' && (lengths()[0] as number) < 13);
    expect(lengths()[1]).toBe(13);
    bench.finishAll();
  });

  it('leaves nothing where it is off', () => {
    const bench = preempted({ mechanism: {} });
    expect([bench.phase(1), bench.state.device.table(1).length]).toEqual(['swapped', 0]);
    bench.finishAll();
  });

  it('lets a request that ends off the device leave what is still there warm', () => {
    const bench = preempted({ mechanism: { partial: true, finished: 'warm' } });
    bench.abort(1);
    expect([bench.state.residents.total, bench.state.warm.blocks]).toEqual([0, 12]);
    bench.finishAll();
  });
});

describe('prefetch', () => {
  /** Request 1, of 13 blocks, waits for the only slot and has all its KV on the host; there is room on the device. */
  const waiting = (options: BenchOptions = {}) => {
    const bench = make({ maxRunning: 1, deviceBlocks: 40, mechanism: { mirror: false, prefetch: true }, ...options });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    bench.arrive(2, 60, { priority: 1, maxTokens: bench.state.limits.deviceBlocks * 16 - 60 });
    bench.step();
    bench.land();
    return bench;
  };

  it('brings back the next in line while the step runs, and it resumes without a copy', () => {
    const bench = waiting();
    bench.until(() => bench.told('prefetch').length > 0);
    expect(bench.told('prefetch')).toMatchObject([{ id: 1, direction: 'in' }]);
    bench.until(() => bench.state.device.table(1).length === 13 && bench.transfers.length === 0);
    expect(bench.phase(1)).toBe('swapped');
    bench.abort(2);
    bench.step();
    expect(bench.told('resume')).toEqual([{ type: 'resume', id: 1, held: 13 }]);
    bench.finishAll();
  });

  it('brings no more than can land before the step ends, and goes on in the next one', () => {
    const bench = waiting({ costs: { block: 1000 } });
    const fetched: number[] = [];
    bench.until(() => {
      for (const { blocks } of bench.told('prefetch')) fetched.push(blocks);
      return bench.state.device.table(1).length === 13 && bench.transfers.length === 0;
    });
    expect(fetched.length).toBeGreaterThan(1);
    expect(Math.max(...fetched)).toBeLessThanOrEqual(8);
    expect(fetched.reduce((sum, blocks) => sum + blocks, 0)).toBe(13);
    bench.finishAll();
  });

  it('takes no room that those who run will need', () => {
    const bench = waiting({ deviceBlocks: 18 });
    bench.until(() => bench.told('prefetch').length > 0);
    expect(bench.told('prefetch')[0]?.blocks).toBeLessThanOrEqual(18 - bench.state.device.table(2).length - 1);
    bench.finishAll();
  });

  it('is lost without harm when who runs needs the room, and brought again when there is some', () => {
    const bench = waiting({ deviceBlocks: 30 });
    bench.until(() => bench.state.device.table(1).length === 13 && bench.transfers.length === 0);
    let stalled = 0;
    while (bench.state.device.table(2).length < 20) {
      bench.step();
      if (bench.transfers.length > 0) bench.land();
      if (!bench.stepItems?.some(([id]) => id === 2)) stalled += 1;
    }
    expect(stalled).toBe(0);
    expect(bench.state.device.table(1).length).toBeLessThanOrEqual(10);
    bench.abort(2);
    bench.until(() => bench.phase(1) === 'decoding');
    bench.finishAll();
  });

  it('keeps the one that is being fetched from starting until it has landed', () => {
    const bench = waiting();
    bench.until(() => bench.told('prefetch').length > 0);
    bench.abort(2);
    bench.step();
    expect([bench.phases(1, 2), bench.stepping]).toEqual([['swapped', 'done'], false]);
    bench.land();
    expect(bench.phase(1)).toBe('swapping-in'); // for what is still missing
    bench.finishAll();
  });
});

describe('what ends while blocks of its are on the way', () => {
  const mirroring = (options: BenchOptions = {}) => {
    const bench = make(options);
    bench.arrive(1, 200);
    bench.arrive(2, 200);
    bench.step();
    bench.step();
    expect(kinds(bench)).toEqual(['mirror']);
    return bench;
  };
  const prefetching = (options: BenchOptions = {}) => {
    const bench = make({ maxRunning: 1, deviceBlocks: 40, mechanism: { mirror: false, prefetch: true }, ...options });
    bench.arrive(1, 200, { priority: 5 });
    bench.step();
    bench.arrive(2, 60, { priority: 1, maxTokens: 400 });
    bench.step();
    bench.land();
    bench.until(() => bench.told('prefetch').length > 0);
    return bench;
  };

  it.each([
    ['is dropped', {}],
    ['stays warm', { finished: 'warm' }],
    ['is saved', { finished: 'save' }],
  ] as const)('an abort, a failed step and a last token during a mirror leave nothing behind, where KV %s', (_, mechanism) => {
    for (const outcome of ['land', 'fail'] as const) {
      for (const end of ['abort', 'failStep', 'stop'] as const) {
        const bench = mirroring({ mechanism: { mirror: true, ...mechanism } });
        if (end === 'abort') bench.abort(1);
        if (end === 'failStep') bench.failStep();
        else bench.step(...(end === 'stop' ? [1] : []));
        expect(bench.phase(1)).toBe('done');
        if (outcome === 'land') bench.land();
        else bench.failTransfer();
        if (bench.phase(2) !== 'done') for (let n = 0; n < 5; n += 1) bench.step();
        bench.finishAll();
      }
    }
  });

  it('a mirror that failed was not needed: its blocks can be found by nobody, and those who run go on', () => {
    const bench = mirroring();
    bench.failTransfer();
    expect([onHost(bench, 1), onHost(bench, 2)]).toEqual([0, 0]);
    bench.step();
    expect(bench.phases(1, 2)).toEqual(['decoding', 'decoding']);
    bench.finishAll();
  });

  it('an abort during a prefetch ends at once, and its blocks are free when that has landed', () => {
    for (const outcome of ['land', 'failTransfer'] as const) {
      const bench = prefetching();
      expect(bench.abort(1)).toMatchObject([{ type: 'finish', id: 1, outcome: 'aborted' }]);
      expect(bench.state.device.free).toBeLessThan(40 - bench.state.device.table(2).length);
      bench[outcome]();
      expect(bench.state.device.free).toBe(40 - bench.state.device.table(2).length);
      bench.finishAll();
    }
  });

  it('a prefetch that failed is not tried again, and the request comes back whole when it is due', () => {
    const bench = prefetching();
    const { computed } = bench.request(1);
    bench.failTransfer();
    expect([bench.phase(1), bench.state.device.table(1).length]).toEqual(['swapped', 0]);
    for (let n = 0; n < 5; n += 1) bench.step();
    expect(kinds(bench)).toEqual([]);
    bench.abort(2);
    bench.step();
    expect(bench.told('swapIn')).toMatchObject([{ id: 1, held: 0, blocks: 13 }]);
    bench.land();
    expect([bench.phase(1), bench.request(1).computed]).toEqual(['decoding', computed]);
    bench.finishAll();
  });

  it('a request whose way back failed is computed again, though the host has its copies: others may still use them', () => {
    const bench = make({ maxRunning: 1, mechanism: { mirror: false } });
    bench.arrive(1, 200, { priority: 5, text: 'chat' });
    bench.step();
    bench.arrive(2, 8, { priority: 1, maxTokens: 2 });
    bench.until(() => bench.phase(1) === 'swapping-in');
    bench.failTransfer();
    expect(bench.told('recompute')).toMatchObject([{ id: 1 }]);
    expect(bench.told('admit')).toMatchObject([{ id: 1, cachedTokens: 0 }]);
    expect(onHost(bench, 1)).toBe(12);
    bench.finishAll();
  });

  it('warm blocks for which the host has no room are not asked for again', () => {
    const bench = make({ hostBlocks: 8, mechanism: { finished: 'warm' } });
    bench.arrive(1, 200, { maxTokens: 1 });
    bench.arrive(2, 8);
    bench.step();
    expect([kinds(bench), [...bench.state.warm.unmirrored()]]).toEqual([[], []]);
    expect(bench.state.warm.blocks).toBe(12);
    bench.finishAll();
  });

  it('warm blocks that are being mirrored are adopted by nobody until that has landed', () => {
    const bench = make({ mechanism: { finished: 'warm' } });
    bench.arrive(1, 200, { maxTokens: 1, text: 'chat' });
    bench.arrive(2, 8);
    bench.step();
    expect(bench.told('mirror')).toMatchObject([{ ids: [] }]);
    bench.arrive(3, 300, { text: 'chat' });
    expect(bench.told('admit')).toMatchObject([{ id: 3, cachedTokens: 0 }]);
    bench.abort(3);
    bench.step();
    bench.land();
    bench.arrive(4, 300, { text: 'chat' });
    expect(bench.told('admit')).toMatchObject([{ id: 4, cachedTokens: 192 }]);
    bench.finishAll();
  });
});
