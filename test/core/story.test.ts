import { describe, expect, it } from 'vitest';
import type { Life } from '../../src/core/life.js';
import { sayPreemption, sayWaiting } from '../../src/core/reasons.js';
import { tellStory } from '../../src/core/story.js';
import { bytes, duration, listed, percent, printable, times, whole } from '../../src/core/units.js';
import { LivedBench } from './lived.js';

describe('a story', () => {
  it('of one who is preempted by a higher rank says who, why, what was copied and what it waited for', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1, mechanism: { reuse: true } });
    bench.lives.watch(1);
    bench.arrive(1, 40, { priority: 5, tenant: 'blue', maxTokens: 4 });
    bench.step();
    bench.arrive(2, 4, { priority: 1, maxTokens: 2 });
    bench.until(() => bench.phase(1) === 'done');
    expect(bench.story(1)).toEqual([
      'Request 1 ended after 64.5 ms and 4 tokens: all 4 that it was allowed.',
      'Prompt of 40 tokens. First token after 14.0 ms: all of it prefilling.',
      'Then a token every 16.9 ms on average; the longest pause was 30.6 ms, up to 54.5 ms after its arrival, 10.0 ms of it a step of 1 token.',
      'Of the 64.5 ms: 46 % decoding (30.0 ms), 31 % swapped out (20.3 ms), 22 % prefilling (14.0 ms), under 1 % being swapped out (0.15 ms), under 1 % being swapped in (0.15 ms).',
      'Preempted once, for a request of higher rank.',
      'Swaps: 3 blocks (192 KiB) copied to the host in 1 run, 0.15 ms of copying; 3 blocks (192 KiB) copied back to the device in 1 run, 0.15 ms of copying.',
      " +0.00 ms  arrived: 40 tokens of prompt, at most 4 to generate, priority 5, tenant 'blue'; did not have to wait",
      ' +0.00 ms  admitted: 40 tokens to compute; prefilling for 14.0 ms',
      '+14.00 ms  decoding for 10.0 ms: 2 tokens',
      '+24.00 ms  preempted by request 2: priority 1 outranks its 5; 3 blocks (192 KiB) sent to the host in 1 run: 0.15 ms of copying, 0.15 ms until it landed',
      '+24.15 ms  swapped out for 20.3 ms: for a place in the batch (1 of at most 1 ran)',
      '+44.40 ms  3 blocks (192 KiB) brought back in 1 run: 0.15 ms of copying, 0.15 ms until it landed',
      '+44.55 ms  decoding for 20.0 ms: 2 tokens',
      '+64.55 ms  ended: all 4 that it was allowed',
    ]);
  });

  it('of one who was never preempted is short', () => {
    const bench = new LivedBench();
    bench.arrive(1, 40, { maxTokens: 3 });
    bench.until(() => bench.phase(1) === 'done');
    expect(bench.story(1)).toEqual([
      'Request 1 ended after 34.0 ms and 3 tokens: all 3 that it was allowed.',
      'Prompt of 40 tokens. First token after 14.0 ms: all of it prefilling.',
      'Then a token every 10.0 ms on average; the longest pause was 10.0 ms, up to 24.0 ms after its arrival, 10.0 ms of it a step of 1 token.',
      'Of the 34.0 ms: 59 % decoding (20.0 ms), 41 % prefilling (14.0 ms).',
      " +0.00 ms  arrived: 40 tokens of prompt, at most 3 to generate, priority 0, tenant 't'; did not have to wait",
      ' +0.00 ms  admitted: 40 tokens to compute; prefilling for 14.0 ms',
      '+14.00 ms  decoding for 20.0 ms: 3 tokens',
      '+34.00 ms  ended: all 3 that it was allowed',
    ]);
  });

  it('of one who has not ended says what it does, and what it waits for', () => {
    const bench = new LivedBench({ maxRunning: 1 });
    bench.arrive(1, 40);
    bench.arrive(2, 8);
    bench.arrive(3, 8);
    bench.step();
    expect(bench.story(1)).toEqual([
      'Request 1 is decoding: 1 of at most 64 tokens so far, in 14.0 ms.',
      'Prompt of 40 tokens. First token after 14.0 ms: all of it prefilling.',
      " +0.00 ms  arrived: 40 tokens of prompt, at most 64 to generate, priority 0, tenant 't'; did not have to wait",
      ' +0.00 ms  admitted: 40 tokens to compute; prefilling for 14.0 ms',
      '+14.00 ms  decoding',
    ]);
    expect(bench.story(2)).toEqual([
      'Request 2 has been queued for 14.0 ms and was never admitted.',
      " +0.00 ms  arrived: 8 tokens of prompt, at most 64 to generate, priority 0, tenant 't'; queued for 14.0 ms",
      '+14.00 ms  now: it waits for a place in the batch: 1 run of at most 1, and it ranks above none of them',
    ]);
    expect(bench.story(3)).toEqual([
      'Request 3 has been queued for 14.0 ms and was never admitted.',
      " +0.00 ms  arrived: 8 tokens of prompt, at most 64 to generate, priority 0, tenant 't'; queued for 14.0 ms",
      '+14.00 ms  now: it waits in line behind request 2, which ranks higher and waits for a place in the batch: 1 run of at most 1, and it ranks above none of them',
    ]);
  });

  it('of one who was never admitted says how it ended', () => {
    const bench = new LivedBench({ maxRunning: 1, maxQueued: 1 });
    bench.arrive(1, 400);
    bench.arrive(2, 8);
    bench.arrive(3, 8);
    bench.arrive(4, 8);
    bench.step();
    bench.abort(3);
    expect(bench.story(1)).toEqual([
      'Request 1 was rejected at the door: its prompt and what it may generate can never fit the device.',
      "+0.00 ms  arrived: 400 tokens of prompt, at most 64 to generate, priority 0, tenant 't'",
    ]);
    expect(bench.story(4)).toEqual([
      'Request 4 was rejected at the door: as many requests waited already as may.',
      "+0.00 ms  arrived: 8 tokens of prompt, at most 64 to generate, priority 0, tenant 't'",
    ]);
    expect(bench.story(3)).toEqual([
      'Request 3 ended after 10.8 ms in the queue and was never admitted: its client left.',
      " +0.00 ms  arrived: 8 tokens of prompt, at most 64 to generate, priority 0, tenant 't'; queued for 10.8 ms",
      '+10.80 ms  ended: its client left',
    ]);
  });

  it('of one whose KV was given up says what was lost and what was found again', () => {
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
    bench.abort(1, 'operator');
    expect(bench.story(1)).toEqual([
      'Request 1 is decoding: 3 of at most 64 tokens so far, in 45.4 ms. It is to end (an operator ended it) as soon as what is in flight for it has come back.',
      'Prompt of 40 tokens. First token after 14.0 ms: all of it prefilling.',
      'Then a token every 15.7 ms on average; the longest pause was 21.4 ms, up to 45.4 ms after its arrival, 11.0 ms of it a step of 10 tokens.',
      'Of the 45.4 ms: 55 % prefilling (25.0 ms), 23 % queued (10.4 ms), 22 % decoding (10.0 ms).',
      'Preempted once, for a request of higher rank. 9 tokens had to be computed again.',
      " +0.00 ms  arrived: 40 tokens of prompt, at most 64 to generate, priority 5, tenant 't'; did not have to wait",
      ' +0.00 ms  admitted: 40 tokens to compute; prefilling for 14.0 ms',
      '+14.00 ms  decoding for 10.0 ms: 2 tokens',
      '+24.00 ms  preempted by request 2: priority 1 outranks its 5; its KV of 41 tokens was given up: this preset swaps nobody; queued for 10.4 ms',
      '+34.40 ms  admitted again: 32 of its 42 tokens were found, 10 to compute; prefilling for 11.0 ms',
      '+45.40 ms  decoding for 1 µs: 1 token',
      '+45.40 ms  an operator ended it: it is to end when what is in flight for it has come back',
    ]);
    bench.step();
    expect(bench.story(1).slice(-2)).toEqual([
      '+45.40 ms  an operator ended it: it is to end when what is in flight for it has come back',
      '+55.40 ms  ended: an operator ended it',
    ]);
  });

  it('of one whose KV was given up before its first token does not say how much of it is computed again', () => {
    const mechanism = { preemption: 'recompute', reuse: false } as const;
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1, deviceBlocks: 20, maxBatchTokens: 64, mechanism });
    bench.arrive(1, 160, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1, maxTokens: 1 });
    bench.until(() => bench.phase(2) === 'done' && bench.phase(1) === 'prefilling');
    bench.step();
    bench.step();
    const life = bench.life(1);
    expect([life.firstTokenAt, life.computedTokens > life.promptTokens]).toEqual([null, true]);
    expect(bench.story(1)).toContain('Preempted once, for a request of higher rank.');
  });

  it('of one whose copy or whose step failed says so', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 40, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1, maxTokens: 1 });
    bench.step();
    bench.failTransfer();
    bench.until(() => bench.phase(1) === 'prefilling');
    bench.failStep();
    expect(bench.story(1)).toEqual([
      'Request 1 ended after 34.4 ms and 2 tokens: it failed (broken).',
      'Prompt of 40 tokens. First token after 14.0 ms: all of it prefilling.',
      'Then a token every 10.0 ms on average; the longest pause was 10.0 ms, up to 24.0 ms after its arrival, 10.0 ms of it a step of 1 token.',
      'Of the 34.4 ms: 41 % prefilling (14.0 ms), 30 % queued (10.4 ms), 29 % decoding (10.0 ms), under 1 % being swapped out (1 µs).',
      'Preempted once, for a request of higher rank. Its KV was given up once because a copy failed.',
      'Swaps: nothing copied to the host; a copy to the host failed once.',
      " +0.00 ms  arrived: 40 tokens of prompt, at most 64 to generate, priority 5, tenant 't'; did not have to wait",
      ' +0.00 ms  admitted: 40 tokens to compute; prefilling for 14.0 ms',
      '+14.00 ms  decoding for 10.0 ms: 2 tokens',
      '+24.00 ms  preempted by request 2: priority 1 outranks its 5; 3 blocks (192 KiB) sent to the host in 1 run: failed after 1 µs (broken)',
      '+24.00 ms  a copy of its KV failed; its KV of 41 tokens was given up; queued for 10.4 ms',
      '+34.40 ms  admitted again: 42 tokens to compute; prefilling for 1 µs',
      '+34.40 ms  ended: it failed (broken)',
    ]);
  });

  it('of one who was preempted a hundred times is told in part', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1, deviceBlocks: 40 });
    bench.arrive(1, 16, { priority: 5, maxTokens: 400 });
    for (let n = 0; n < 100; n += 1) {
      bench.step();
      bench.arrive(10 + n, 4, { priority: 1, maxTokens: 1 });
      bench.until(() => bench.phase(10 + n) === 'done' && bench.phase(1) === 'decoding');
    }
    bench.abort(1, 'stop');
    bench.step();
    const story = bench.story(1);
    expect(story.length).toBeLessThan(80);
    expect(story.slice(0, 6)).toEqual([
      'Request 1 ended after 3.09 s and 200 tokens: a stop string came up in its text.',
      'Prompt of 16 tokens. First token after 11.6 ms: all of it prefilling.',
      'Then a token every 15.4 ms on average; the longest pause was 21.1 ms, up to 3.00 s after its arrival, 10.0 ms of it a step of 1 token.',
      'Of the 3.09 s: 65 % decoding (2.00 s), 32 % swapped out (1.00 s), 1 % being swapped out (38.8 ms), 1 % being swapped in (38.8 ms), under 1 % prefilling (11.6 ms).',
      'Preempted 100 times, for a request of higher rank.',
      'Swaps: 776 blocks (48.5 MiB) copied to the host in 100 runs, 38.8 ms of copying; 776 blocks (48.5 MiB) copied back to the device in 100 runs, 38.8 ms of copying.',
    ]);
    expect(story.filter((line) => line.includes('left out'))).toEqual([
      '+0.052 s  ... 339 spells left out; the totals count them',
    ]);
  });
});

describe('the words for', () => {
  const telling = { now: 10_000_000, policy: 'vtc', mechanism: {} as never } as const;
  const own = { id: 4, priority: 2, tenant: 'red', served: 1234.5, tag: 1500, due: 9e6, lifted: false, level: 3 };
  const other = { id: 9, priority: 2, tenant: 'blue', served: 200, tag: 300, due: 7e6, lifted: false, level: 1 };
  const name = (id: number) => `request ${id}`;

  it.each([
    ['fcfs', 'preempted by request 9: request 9 came first'],
    ['priority', 'preempted by request 9: both have priority 2 and request 9 came first'],
    ['mlfq', 'preempted by request 9: level 1 outranks its 3'],
    ['vtc', "preempted by request 9: tenant 'blue' was served 200, its own tenant 'red' was served 1,235"],
  ] as const)('rank against rank under %s', (policy, words) => {
    expect(sayPreemption({ why: 'outranked', by: 9, own, other }, policy, name)).toBe(words);
  });

  it('ties of rank', () => {
    const twin = { ...other, tenant: 'red', level: 3 };
    const say = (policy: 'vtc' | 'mlfq') => sayPreemption({ why: 'growth', by: 9, own, other: twin }, policy, name);
    expect(say('vtc')).toBe(
      "preempted because no block was free for the next token of request 9: both are of tenant 'red' and request 9 came first",
    );
    expect(say('mlfq')).toContain('both are at level 3 and request 9 came first');
  });

  it.each([
    [{ why: 'growth', by: 4 }, 'preempted: no block was free for its own next token, and nobody who ran ranked lower'],
    [{ why: 'crowded', by: null }, 'preempted as the last in rank: the next tokens of those who ran would not have fit'],
    [{ why: 'host', by: 9 }, 'its copies on the host were given up for those of request 9'],
    [{ why: 'failed', by: null }, 'a copy of its KV failed'],
  ] as const)('the cause %j', (cause, words) => {
    expect(sayPreemption({ ...cause, own, other: null }, 'priority', name)).toBe(words);
  });

  it.each([
    [
      { kind: 'room', running: 3, outranked: 1, need: 14, room: 9, kept: 2, outgoing: 3 },
      'for room: 14 blocks and 2 to spare needed, 9 to be had, 3 on their way out; it ranks above 1 of the 3 that run, who have too few',
    ],
    [
      { kind: 'outgoing', leaving: [3, 4], need: 14, room: 9, kept: 0, outgoing: 6 },
      'for room that is on its way: 14 blocks needed, 9 to be had, 6 leaving with requests 3 and 4',
    ],
    [
      { kind: 'copy', transfer: 7, what: 'swapIn', before: 2, dueAt: 10_002_500 },
      'for its blocks to be copied (transfer 7, behind 2 other copies, due in 2.50 ms)',
    ],
    [
      { kind: 'copy', transfer: 7, what: 'swapOut', before: 0, dueAt: 5 },
      'for its blocks to be copied (transfer 7, due any moment)',
    ],
    [{ kind: 'copies', transfers: [1, 2] }, 'for the next step, which waits for 2 copies to land'],
    [{ kind: 'leaving', by: 3 }, 'for request 3, which ranks higher, is on its way out and will be first in line'],
    [{ kind: 'step', step: 8, victims: [5, 6] }, 'for step 8 to come back: then requests 5 and 6 give way'],
    [
      { kind: 'link', victims: [5], freeAt: 10_012_000 },
      'for the link, which brings others in for 12.0 ms more: then request 5 gives way',
    ],
    [
      { kind: 'mirror', victim: 5, transfer: 3 },
      'for request 5 to give way, whose blocks are being copied ahead of need (transfer 3)',
    ],
    [
      { kind: 'slot', running: 4, most: 4, outranked: 2 },
      'for a place in the batch: 4 run of at most 4, and it ranks above 2 of them, who cannot make room for it',
    ],
    [{ kind: 'event' }, 'for nothing any more: it starts at the next event'],
    [
      { kind: 'line', ahead: 5, first: 3, obstacle: { kind: 'leaving', by: 2 } },
      'in line behind 5 of higher rank; request 3 is next and waits for request 2, which ranks higher, is on its way out and will be first in line',
    ],
  ] as const)('waiting for $0.kind', (waiting, words) => {
    expect(sayWaiting(waiting, telling.now)).toBe(words);
  });

  it('another request, by its last name where it comes first', () => {
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 16, { priority: 5 });
    for (const id of [2, 2.5]) {
      bench.step();
      bench.arrive(2 * id, 4, { priority: 1, maxTokens: 1 });
      bench.until(() => bench.phase(2 * id) === 'done' && bench.phase(1) === 'decoding');
    }
    const { policy, mechanism } = bench.state.limits;
    const others = (id: number) => [`cmpl-${id}`, `req-${id}`];
    const story = tellStory(bench.life(1), { now: bench.at, policy, mechanism, others }).join('\n');
    expect(story).toContain('preempted by request 4 (req-4): priority 1');
    expect(story).toContain('preempted by request 5 (req-5): priority 1');
  });

  it('what others wrote are on one line and cut', () => {
    const bench = new LivedBench();
    bench.arrive(1, 8, { tenant: `a\n\u001b[31mb\u009b${'x'.repeat(100)}` });
    const told = bench.story(1);
    expect(told.join('')).not.toMatch(/[\p{Cc}]/u);
    expect(told.find((line) => line.includes('tenant'))).toContain(`tenant 'a [31mb ${'x'.repeat(72)}...'`);
  });
});

describe('a story of a life that was made up', () => {
  it('does not stumble over what is missing', () => {
    const bench = new LivedBench();
    bench.arrive(1, 8);
    const { policy, mechanism } = bench.state.limits;
    const life: Life = { ...bench.life(1), spells: [], outcome: 'failed', endedAt: bench.at, phase: 'done', labels: ['a', 'b'] };
    expect(tellStory(life, { now: bench.at, policy, mechanism })[0]).toBe(
      'Request 1 (a, b) ended after 0 ms and 0 tokens: it failed (the engine said no more).',
    );
  });
});

describe('numbers', () => {
  it('are as precise as they are of use', () => {
    expect([0, 3, 840, 2_104, 84_000, 999_400, 1_203_000, 61_000_000, 3_725_000_000].map(duration)).toEqual([
      ...['0 ms', '3 µs', '0.84 ms', '2.10 ms', '84.0 ms', '999 ms', '1.20 s', '61.0 s', '62 min 5 s'],
    ]);
    expect([0, 512, 1024, 1536 * 1024, 12 * 2 ** 20, 5 * 2 ** 40].map(bytes)).toEqual([
      ...['0 bytes', '512 bytes', '1 KiB', '1.5 MiB', '12 MiB', '5 TiB'],
    ]);
    expect([percent(0, 9), percent(1, 1000), percent(999, 1000), percent(92, 100), percent(5, 5)]).toEqual([
      ...['0 %', 'under 1 %', 'over 99 %', '92 %', '100 %'],
    ]);
    expect([whole(12), whole(1_234_567), times(1), times(2), times(1000)]).toEqual([
      '12',
      '1,234,567',
      'once',
      'twice',
      '1,000 times',
    ]);
    expect([[3], [3, 4], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]].map(listed)).toEqual([
      '3',
      '3 and 4',
      '1, 2, 3 and 4',
      '1, 2, 3 and 3 others',
    ]);
    expect(printable('a\tb\u2028c')).toBe('a b c');
  });
});
