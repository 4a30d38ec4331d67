/**
 * A small model under a flood, where a copy takes far less than hearing of it: a block is there after microseconds, but the
 * thread that copied it and the one that waits for it are scheduled by a crowded machine.
 */
import { describe, expect, it } from 'vitest';
import type { Machine } from '../../src/actors/machine.js';
import { Agenda, simulatedHands } from '../../src/actors/simulated.js';
import { Runtime } from '../../src/actors/system.js';
import { GREEDY } from '../../src/core/config.js';
import { PRESETS } from '../../src/core/presets.js';
import { Random } from '../../src/core/random.js';
import type { Micros, RequestId } from '../../src/core/types.js';

/** Of the demo model: 16 MiB of blocks are less than 64 chats of 400 tokens need. */
const LIMITS = {
  policy: 'fair',
  mechanism: PRESETS.default.mechanism,
  deviceBlocks: 341,
  hostBlocks: 5461,
  blockBytes: 49_152,
  maxBatchTokens: 512,
  maxRunning: 64,
  maxQueued: 1024,
} as const;
const WARM_MICROS = 3e6;
const SECONDS = 30;
const LIGHT_PER_SECOND = 3;
/** From the end of the copy, or of the step, to the event. */
const COPY_GAP_MICROS = 1500;
const STEP_GAP_MICROS = 300;

interface Asked {
  readonly outputTokens: number;
  readonly name: (index: number) => string;
  readonly ended: () => void;
}

/** The TTFT of the light tenant's chats beside so many of the flooding one, what was generated in all, and how steps waited. */
function flooded(chats: number, gathers: boolean, policy: 'fair' | 'fcfs' = 'fair') {
  const agenda = new Agenda();
  const random = new Random(1);
  const asked = new Map<RequestId, Asked>();
  const cameAt = new Map<RequestId, Micros>();
  const ttft: Micros[] = [];
  let tokens = 0;
  const steps: Micros[] = [];
  /** Between the return of a step and the next, while the flood lasts. */
  const stalls: Micros[] = [];
  let returned: Micros = Number.POSITIVE_INFINITY;
  const machine: Machine = {
    step(items, at) {
      if (at > WARM_MICROS) stalls.push(Math.max(0, at - returned));
      const decoding = items.filter(({ count }) => count === 1).length;
      const prompt = items.reduce((sum, { count }) => sum + count, 0) - decoding;
      const micros = Math.round((900 + 60 * decoding + 50 * prompt) * (1 + 0.05 * random.normal()));
      steps.push(micros);
      returned = at + micros + STEP_GAP_MICROS;
      return { micros, gapMicros: STEP_GAP_MICROS, failed: false };
    },
    copy: ({ blocks }) => ({ micros: 6 * blocks, gapMicros: COPY_GAP_MICROS, failed: false }),
    copied() {},
  };
  const { blockBytes } = LIMITS;
  const request = (id: RequestId) => asked.get(id) as Asked;
  const runtime: Runtime = new Runtime({
    limits: { ...LIMITS, policy },
    makeHands: (answer) => simulatedHands(agenda, { machine, duplex: true, blockBytes, gathers, request }, answer),
    sink: {
      tokens(items) {
        tokens += items.length;
        for (const { id, index } of items) if (index === 0 && cameAt.has(id)) ttft.push(agenda.now - (cameAt.get(id) as Micros));
      },
      end: (id) => request(id).ended(),
      failed(error) {
        throw error;
      },
    },
  });
  const submit = (tenant: string, promptTokens: number, maxTokens: number, ended: () => void) => {
    const id = asked.size + 1;
    // All prompts of a tenant begin alike.
    asked.set(id, { outputTokens: maxTokens, name: (index) => `${index === 0 ? tenant : id}.${index}`, ended });
    if (tenant === 'light') cameAt.set(id, agenda.now);
    const content = { promptTokens: new Int32Array(promptTokens), sampling: GREEDY, stopTokens: [], cacheSalt: '' };
    runtime.submit(id, { content, maxTokens, priority: 0, tenant, labels: [] });
  };
  const chat = () => submit('flood', 33, 400, () => agenda.add(agenda.now + 4000 * random.next(), chat));
  for (let index = 0; index < chats; index += 1) agenda.add(1000 * index * random.next(), chat);
  for (let index = 0; index < LIGHT_PER_SECOND * SECONDS; index += 1) {
    agenda.add(WARM_MICROS + (1e6 * (index + random.next())) / LIGHT_PER_SECOND, () => submit('light', 22, 16, () => {}));
  }
  while (agenda.now < WARM_MICROS + 1e6 * SECONDS && agenda.next());
  ttft.sort((a, b) => a - b);
  const stepMicros = steps.reduce((sum, micros) => sum + micros, 0) / steps.length;
  const [p50, p99] = [ttft[ttft.length >> 1] as Micros, ttft[Math.ceil(0.99 * ttft.length) - 1] as Micros];
  return { p50, p99, tokens, stepMicros, longestStall: Math.max(...stalls), stalled: stalls.reduce((sum, one) => sum + one, 0) };
}

describe('the light tenant beside 64 long chats, where copies are quick and word of them is slow', { timeout: 120_000 }, () => {
  const idle = flooded(0, true);
  const beside = flooded(64, true);

  it('waits for a few steps and round trips of copies, however many move with it', () => {
    const trip = COPY_GAP_MICROS + 100;
    // The step that runs, and its own; in the worst case a step for its room and one for its block, some of them with prompts.
    expect(beside.p50).toBeLessThan(idle.p50 + 2 * (beside.stepMicros + STEP_GAP_MICROS));
    expect(beside.p99).toBeLessThan(idle.p99 + 2 * trip + 5 * (beside.stepMicros + STEP_GAP_MICROS));
  });

  it('if each copy went alone, steps would stand still for as many round trips as there are copies', () => {
    const alone = flooded(64, false);
    expect(alone.longestStall).toBeGreaterThan(15 * COPY_GAP_MICROS);
    expect(beside.longestStall).toBeLessThan(5 * COPY_GAP_MICROS);
    expect(beside.stalled).toBeLessThan(alone.stalled / 2);
    expect(beside.p99).toBeLessThan(0.75 * alone.p99);
    expect(beside.tokens).toBeGreaterThan(1.03 * alone.tokens);
  });

  it('and costs the whole next to nothing', () => {
    expect(beside.tokens).toBeGreaterThan(0.95 * flooded(64, true, 'fcfs').tokens);
  });
});
