/** What an operator sees of one request on the real server: who preempted it, why, and what that took. */
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { idle, type RunningServer, startServer, until } from './server.js';

interface Choice {
  request: number;
  labels: string[];
  state: string;
  outcome: string | null;
  tenant: string;
  seconds: number;
  generated_tokens: number;
  cached_tokens: number;
  seconds_by_state: Record<string, number>;
  preemptions: Record<string, number>;
  swaps: Record<'out' | 'in', { copies: number; blocks: number; bytes: number; without_copy: number; held_blocks: number }>;
  waiting_for: { kind: string } | null;
  states: {
    state: string;
    from_seconds: number;
    to_seconds: number;
    preemption: null | { why: string; by: number; own: { priority: number }; other: { priority: number } };
  }[];
  explanation: string[];
}

let server: RunningServer;
let openai: OpenAI;

beforeAll(async () => {
  server = await startServer('--policy', 'priority', '--max-running', '1', '--drain-seconds', '2');
  openai = new OpenAI({ apiKey: 'none', baseURL: `${server.url}/v1`, maxRetries: 0 });
});
afterAll(async () => {
  expect(await server?.stop()).toBe(0);
});

async function explained(name: string): Promise<Choice[]> {
  const answer = await fetch(`${server.url}/v1/requests/${encodeURIComponent(name)}`);
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  const body = (await answer.json()) as { id: string; object: string; choices: Choice[] };
  expect(body).toMatchObject({ id: name, object: 'request' });
  return body.choices;
}

async function explainedOne(name: string): Promise<Choice> {
  const [choice] = await explained(name);
  if (choice === undefined) throw new Error(`nothing is known of ${name}`);
  return choice;
}

const ask = (max_tokens: number, priority: number, more: object = {}) => ({
  model: 'demo',
  prompt: 'Once upon a time',
  temperature: 0,
  max_tokens,
  ...({ priority, ignore_eos: true, ...more } as object),
});

describe('GET /v1/requests/{id}', () => {
  it('tells of a request that was really preempted who did it and why, while it happens and afterwards', async () => {
    const stream = await openai.completions.create({ ...ask(900, 5, { user: 'blue' }), stream: true });
    let id = '';
    let chunks = 0;
    const reading = (async () => {
      for await (const chunk of stream) {
        id = chunk.id;
        chunks += 1;
      }
    })();
    await until('it is well under way', () => chunks > 50);
    const running = await explainedOne(id);
    expect(running).toMatchObject({ state: 'decoding', outcome: null, tenant: 'blue', waiting_for: null });
    expect(running.explanation[0]).toMatch(/^Request \d+ \(cmpl-\w+, req_[\w-]+\) is decoding: \d+ of at most 900 tokens so far/);

    const urgent = openai.completions.create(ask(200, 1), { headers: { 'x-request-id': 'urgent/1' } });
    let waiting: Choice | null = null;
    await until('it is seen waiting', async () => {
      const choice = await explainedOne(id);
      if (choice.state === 'swapped') waiting = choice;
      return waiting !== null;
    });
    expect(waiting).toMatchObject({ waiting_for: { kind: 'slot', running: 1, most: 1 } });
    const { id: urgentId } = await urgent;
    await reading;

    const [life, other] = [await explainedOne(id), await explainedOne('urgent/1')];
    expect(other).toMatchObject({ labels: [urgentId, 'urgent/1'], outcome: 'length', generated_tokens: 200 });
    expect(life).toMatchObject({ outcome: 'length', generated_tokens: 900, preemptions: { outranked: 1 } });
    expect(await explainedOne(String(life.request))).toEqual(life);
    const left = life.states.find(({ preemption }) => preemption !== null);
    expect(left?.preemption).toMatchObject({ why: 'outranked', by: other.request, own: { priority: 5 }, other: { priority: 1 } });
    for (const [index, state] of life.states.entries()) expect(state.from_seconds).toBe(life.states[index - 1]?.to_seconds ?? 0);
    expect(life.states.at(-1)?.to_seconds).toBe(life.seconds);
    expect(Object.values(life.seconds_by_state).reduce((sum, seconds) => sum + seconds, 0)).toBeCloseTo(life.seconds, 6);
    expect(life.seconds_by_state.swapped).toBeGreaterThan(0);
    const { out } = life.swaps;
    expect(out.copies + out.without_copy).toBe(1);
    expect(out.blocks + out.held_blocks).toBeGreaterThan(3);
    expect(out.bytes).toBe(out.blocks * 48 * 1024);
    const story = life.explanation.join('\n');
    expect(story).toContain(`preempted by request ${other.request} (urgent/1): priority 1 outranks its 5; `);
    expect(story).toMatch(/swapped out for [\d.]+ m?s/);
    expect(story).toMatch(/ended: all 900 that it was allowed$/);
    const text = await fetch(`${server.url}/v1/requests/${id}`, { headers: { accept: 'text/plain' } });
    expect(await text.text()).toBe(`${story}\n`);
    await idle(server);
  });

  it('knows every choice of an answer, what was found of their prompt, and who left', async () => {
    const { data, response } = await openai.completions.create({ ...ask(5, 0), n: 3 }).withResponse();
    const choices = await explained(data.id);
    expect(choices.map(({ generated_tokens, outcome }) => [generated_tokens, outcome])).toEqual(Array(3).fill([5, 'length']));
    expect(await explained(response.headers.get('x-request-id') ?? '')).toEqual(choices);

    const leaving = new AbortController();
    const headers = { 'x-request-id': 'leaves' };
    const gone = openai.completions.create(ask(1500, 0), { signal: leaving.signal, headers }).catch(() => 'gone');
    await until('it runs', async () => (await server.metric('fastswitch_requests{state="decoding"}')) === 1);
    leaving.abort();
    expect(await gone).toBe('gone');
    await idle(server);
    const life = await explainedOne('leaves');
    expect(life).toMatchObject({ outcome: 'aborted', asked_to_end: { by: 'client' } });
    expect(life.explanation.at(-1)).toContain('ended: its client left');
  });

  it('knows a request that was refused, by the id in the header of its answer', async () => {
    const tight = await startServer('--max-running', '1', '--max-queued', '1', '--drain-seconds', '0');
    try {
      const [prompt, url] = ['Once', `${tight.url}/v1/completions`];
      const body = JSON.stringify({ model: 'demo', prompt, max_tokens: 1500, ignore_eos: true });
      const sent = { method: 'POST', headers: { 'content-type': 'application/json' }, body };
      const leave = new AbortController();
      const others = [1, 2].map(() => fetch(url, { ...sent, signal: leave.signal }).catch(() => null));
      await until('one waits', async () => (await tight.metric('fastswitch_requests{state="queued"}')) === 1);
      const refused = await fetch(url, sent);
      expect(refused.status).toBe(429);
      const told = await fetch(`${tight.url}/v1/requests/${refused.headers.get('x-request-id')}?format=text`);
      expect(await told.text()).toMatch(
        /^Request 3 \(cmpl-\w+, req_[\w-]+\) was rejected at the door: as many requests waited already/,
      );
      const waiting = await fetch(`${tight.url}/v1/requests/2?format=text`);
      expect(await waiting.text()).toContain('now: it waits for a place in the batch: 1 run of at most 1');
      leave.abort();
      await Promise.all(others);
    } finally {
      await tight.stop();
    }
  });
});
