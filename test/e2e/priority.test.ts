/** Priority on the real engine: who comes later and is more urgent goes first, and who gives way loses nothing by it. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { idle, post, type RunningServer, startServer, until } from './server.js';
import { eventsIn, posting, type Wire, wire } from './wire.js';

const PATH = '/v1/completions';
const BLOCK_KIB = 48;
/** As many blocks as one request of the model's whole context needs. */
const TIGHT = ['--device-kv', `${96 * BLOCK_KIB}KiB`];
const LARGEST = { prompt: Array.from({ length: 1500 }, (_, index) => 300 + ((index * index) % 1009)), max_tokens: 36 };
const BASE = { model: 'demo', ignore_eos: true, return_token_ids: true };
/** Long, sampled, with penalties: all that a preemption could disturb. */
const PATIENT = {
  ...BASE,
  prompt: 'Once upon a time',
  temperature: 1,
  seed: 21,
  frequency_penalty: 0.3,
  max_tokens: 900,
  priority: 5,
};

interface Answer {
  choices: { token_ids: number[] }[];
}
const tokensOf = ({ choices }: Answer) => choices.flatMap(({ token_ids }) => token_ids);
const ask = async ({ url }: RunningServer, body: object) => tokensOf(await post<Answer>(`${url}${PATH}`, body));

/** Tokens in the complete events that have come so far. */
function tokensSoFar(client: Wire): number {
  return client.text().split('"token_ids":[').length - 1;
}

async function streamedTokens(client: Wire): Promise<number[]> {
  const [answer] = await client.answers(1);
  const events = eventsIn(answer?.body ?? '');
  expect(events.at(-1)).toBe('[DONE]');
  return events.slice(0, -1).flatMap((event) => tokensOf(JSON.parse(event) as Answer));
}

const preemptions = async (server: RunningServer) => ({
  swap: await server.metric('fastswitch_preemptions_total{kind="swap"}'),
  recompute: await server.metric('fastswitch_preemptions_total{kind="recompute"}'),
});

const settings = [
  { name: 'one place', flags: ['--max-running', '1'], kind: 'swap', urgentPrompt: 4 },
  { name: 'little device memory', flags: TIGHT, kind: 'swap', urgentPrompt: 1300 },
  { name: 'one place and no host memory', flags: ['--max-running', '1', '--host-kv', '0'], kind: 'recompute', urgentPrompt: 4 },
] as const;

describe.each(settings)('with $name', ({ flags, kind, urgentPrompt }) => {
  let server: RunningServer;
  let alone: { patient: number[]; urgent: number[] };
  const urgent = {
    ...BASE,
    prompt: Array.from({ length: urgentPrompt }, (_, index) => 300 + (index % 700)),
    temperature: 0,
    max_tokens: 16,
    priority: 1,
  };

  beforeAll(async () => {
    server = await startServer('--policy', 'priority', '--drain-seconds', '2', ...flags);
    alone = { patient: await ask(server, PATIENT), urgent: await ask(server, urgent) };
    expect(alone.patient.length).toBe(900);
  });
  afterEach(() => idle(server));
  afterAll(async () => {
    expect(await server?.stop()).toBe(0);
  });

  it('a more urgent request overtakes one that runs, which then says exactly what it would have said', async () => {
    const before = await preemptions(server);
    const patient = wire(server.url, posting(PATH, { ...PATIENT, stream: true }));
    await until('it is well under way', () => tokensSoFar(patient) > 300);
    expect(await ask(server, urgent)).toEqual(alone.urgent);
    expect(patient.text()).not.toContain('[DONE]');
    const seen = tokensSoFar(patient);
    expect(await streamedTokens(patient)).toEqual(alone.patient);
    expect(seen).toBeLessThan(900);
    const after = await preemptions(server);
    expect(after[kind]).toBeGreaterThan(before[kind]);
    const other = kind === 'swap' ? 'recompute' : 'swap';
    expect(after[other]).toBe(before[other]);
  });

  it.each([5, 6])('a request of priority %s waits for one of priority 5', async (priority) => {
    const before = await preemptions(server);
    const first = wire(server.url, posting(PATH, { ...PATIENT, stream: true }));
    await until('it is well under way', () => tokensSoFar(first) > 300);
    const second = wire(server.url, posting(PATH, { ...urgent, priority, stream: true }));
    await streamedTokens(second);
    expect(first.text()).toContain('[DONE]');
    expect(await preemptions(server)).toEqual(before);
  });

  it('overtaken again and again it still comes to its end', async () => {
    const patient = wire(server.url, posting(PATH, { ...PATIENT, stream: true }));
    await until('it is well under way', () => tokensSoFar(patient) > 300);
    const before = await preemptions(server);
    // Where it has to be computed again it is left alone for a while each time, and may be over before the last of them.
    const over = () => patient.text().includes('[DONE]');
    for (let time = 0; time < 8 && !over(); time += 1) {
      const seen = tokensSoFar(patient);
      await ask(server, { ...urgent, max_tokens: 2, priority: 4 - time });
      await until('it goes on', () => tokensSoFar(patient) > seen || over());
    }
    expect(await streamedTokens(patient)).toEqual(alone.patient);
    expect((await preemptions(server))[kind]).toBeGreaterThan(before[kind]);
  });
});

describe('a storm', () => {
  const CLIENTS = 200;
  /** Numbers in [0, 1) that are the same in every run (mulberry32). */
  function chances(seed: number): () => number {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }
  const kinds = Array.from({ length: 8 }, (_, kind) => ({
    ...BASE,
    prompt: ['Once', 'Count to ten:', 'A fox', 'The opposite of hot'].slice(0, 1 + (kind % 4)).join(' and '),
    temperature: kind % 2,
    seed: kind,
    n: 1 + (kind % 3),
    max_tokens: 20 + 25 * kind,
  }));
  const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis));

  it(`of ${CLIENTS} clients that come and go at random leaves nothing behind`, { timeout: 60_000 }, async () => {
    const host = ['--host-kv', `${12 * BLOCK_KIB}KiB`];
    const server = await startServer('--policy', 'priority', '--drain-seconds', '2', '--max-running', '16', ...TIGHT, ...host);
    try {
      const alone: number[][] = [];
      for (const kind of kinds) alone.push(await ask(server, kind));
      const largest = { ...BASE, ...LARGEST, temperature: 0 };
      const largestAlone = await ask(server, largest);
      const chance = chances(5);
      let answered = 0;
      const visit = async (client: number): Promise<void> => {
        const kind = Math.floor(chance() * kinds.length);
        const [arrival, stay, leaves] = [chance() * 1500, chance() ** 2 * 1500, chance() < 0.7];
        const body = { ...kinds[kind], priority: Math.floor(chance() * 4), stream: client % 2 === 0 };
        await pause(arrival);
        if (!leaves) {
          const tokens = body.stream ? null : await ask(server, body);
          if (tokens === null) await streamedTokens(wire(server.url, posting(PATH, body)));
          else expect(tokens).toEqual(alone[kind]);
          answered += 1;
          return;
        }
        const connection = wire(server.url, posting(PATH, body));
        await pause(stay);
        if (client % 4 < 2) connection.socket.resetAndDestroy();
        else connection.socket.destroy();
      };
      await Promise.all(Array.from({ length: CLIENTS }, (_, client) => visit(client)));
      await idle(server);
      // As large as the device: what was kept makes room, and none of it is missing.
      expect(await ask(server, largest)).toEqual(largestAlone);
      expect(answered).toBeGreaterThan(CLIENTS / 5);
      expect(await server.metric('fastswitch_requests_finished_total{outcome="aborted"}')).toBeGreaterThan(CLIENTS / 5);
      for (const nothing of ['steps_failed_total', 'transfers_failed_total', 'requests_finished_total{outcome="failed"}']) {
        expect(await server.metric(`fastswitch_${nothing}`)).toBe(0);
      }
      const { swap, recompute } = await preemptions(server);
      expect(swap).toBeGreaterThan(10);
      expect(recompute).toBeGreaterThan(0);
      for (const [kind, body] of kinds.entries()) expect(await ask(server, body)).toEqual(alone[kind]);
      expect(server.output()).not.toContain('"level":');
    } finally {
      expect(await server.stop()).toBe(0);
    }
  });
});
