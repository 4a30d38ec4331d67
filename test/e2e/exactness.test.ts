/**
 * The promise, over HTTP on the real engine: 48 conversations at once on a device that holds about eight of them give
 * exactly the tokens and logprobs of the same conversations held one by one, with ample memory and nothing kept. Whatever
 * the preset does about it: preempts, mirrors, shares what conversations have in common, copies piece by piece, forgets.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { idle, post, type RunningServer, startServer } from './server.js';

const CHATS = 48;
const TURNS = 8;
/** Of some conversations: long enough to be worth finding. */
const SYSTEM_PROMPTS = ['You are a fox in a wood', 'You are a kind teacher'].map(
  (who) => `${who}. ${'You say little and you say it well. '.repeat(12)}`,
);
const SAYINGS = [
  'Hi! My name is NAME and my favourite colour is teal.',
  'What is 7 + 5?',
  'Tell me a story about a fox.',
  'Count from 3 to 12.',
  'Which is larger, 17 or 42?',
  'What is my name?',
  'What is the opposite of hot?',
];

interface Answer {
  choices: [{ message: { content: string }; token_ids: number[]; logprobs: { content: { logprob: number }[] } }];
  usage: { completion_tokens: number };
}

interface Turn {
  readonly tokens: number[];
  readonly logprobs: number[];
}

/** One conversation; even ones greedy, odd ones sampled with a seed, and some with penalties. */
async function converse(url: string, chat: number): Promise<Turn[]> {
  const messages: { role: string; content: string }[] = [];
  const system = SYSTEM_PROMPTS[chat % 4];
  if (system !== undefined) messages.push({ role: 'system', content: system });
  const turns: Turn[] = [];
  for (let turn = 0; turn < TURNS; turn += 1) {
    const saying = SAYINGS[(chat + 3 * turn) % SAYINGS.length] as string;
    messages.push({ role: 'user', content: saying.replace('NAME', `Ada${chat}`) });
    const answer = await post<Answer>(`${url}/v1/chat/completions`, {
      model: 'demo',
      messages,
      max_tokens: 40 + ((chat * 7 + turn * 13) % 96),
      ignore_eos: true,
      return_token_ids: true,
      logprobs: true,
      priority: (chat * 5 + turn) % 4,
      ...(chat % 2 === 0 ? { temperature: 0 } : { temperature: 0.8, top_p: 0.95, seed: chat * 100 + turn }),
      ...(chat % 6 === 3 ? { frequency_penalty: 0.3, presence_penalty: 0.2, repetition_penalty: 1.1 } : {}),
    });
    const [{ message, token_ids, logprobs }] = answer.choices;
    expect(token_ids.length).toBe(answer.usage.completion_tokens);
    turns.push({ tokens: token_ids, logprobs: logprobs.content.map(({ logprob }) => logprob) });
    messages.push({ role: 'assistant', content: message.content });
  }
  return turns;
}

const DEVICE_BLOCKS = 8 * 22;
const BLOCK_BYTES = 48 * 1024;
const blocks = (count: number) => String(count * BLOCK_BYTES);
const TIGHT = ['--device-kv', blocks(DEVICE_BLOCKS), '--max-running', '48', '--policy', 'priority'];

const SWAPS = 'fastswitch_preemptions_total{kind="swap"}';
const RECOMPUTES = 'fastswitch_preemptions_total{kind="recompute"}';
const HELD = 'fastswitch_swap_blocks_total{what="held"}';
const CACHED = 'fastswitch_prompt_tokens_cached_total';
const FOUND_AGAIN = 'fastswitch_cached_tokens_total';
const SENT = 'fastswitch_transfers_total{direction="out"}';
const MIRRORED = 'fastswitch_transfer_kind_bytes_total{kind="mirror"}';
const PREFETCHED = 'fastswitch_transfer_kind_bytes_total{kind="prefetch"}';

interface Storm {
  readonly name: string;
  readonly flags: readonly string[];
  /** One in so many of the 48 conversations. */
  readonly every?: number;
  /** What of /metrics shows that it did what it is named after: at least so much. What is usual is many times that. */
  readonly shows: Readonly<Record<string, number>>;
  /** What must not have happened. */
  readonly lacks?: readonly string[];
  /** Every block is a copy of its own; else neighbours go together. */
  readonly singly?: boolean;
}

const storms: readonly Storm[] = [
  {
    name: 'fcfs: who outgrows the device gives way',
    flags: ['--policy', 'fcfs', '--threads', '1'],
    shows: { [SWAPS]: 10, [MIRRORED]: 1e6, [CACHED]: 10_000 },
  },
  {
    name: 'priority',
    flags: ['--max-batch-tokens', '64'],
    shows: { [SWAPS]: 40, [HELD]: 400, [MIRRORED]: 1e7, [PREFETCHED]: 1, [CACHED]: 10_000 },
  },
  {
    name: 'priority with a small host',
    flags: ['--host-kv', blocks(30)],
    shows: { [SWAPS]: 10, [RECOMPUTES]: 10, [CACHED]: 1000 },
  },
  {
    name: 'priority without a host',
    flags: ['--host-kv', '0'],
    shows: { [RECOMPUTES]: 40, [FOUND_AGAIN]: 5000 },
    lacks: [SWAPS, SENT],
  },
  { name: 'priority with a tiny host', every: 3, flags: ['--host-kv', blocks(4)], shows: { [RECOMPUTES]: 10, [SENT]: 1 } },
  {
    name: 'fastswitch',
    every: 3,
    flags: ['--preset', 'fastswitch'],
    shows: { [SWAPS]: 10, [HELD]: 50, [CACHED]: 1000 },
    lacks: [MIRRORED, PREFETCHED],
  },
  {
    name: 'vllm-0.3',
    every: 3,
    flags: ['--preset', 'vllm-0.3'],
    shows: { [SWAPS]: 10 },
    lacks: [HELD, MIRRORED, PREFETCHED, CACHED],
    singly: true,
  },
  {
    name: 'hf-cb',
    every: 3,
    flags: ['--preset', 'hf-cb'],
    shows: { [SWAPS]: 10 },
    lacks: [HELD, MIRRORED, PREFETCHED, CACHED],
    singly: true,
  },
  {
    name: 'vllm-1',
    every: 3,
    flags: ['--preset', 'vllm-1'],
    shows: { [RECOMPUTES]: 10, [FOUND_AGAIN]: 1000 },
    lacks: [SWAPS, SENT],
  },
  {
    name: 'fastserve',
    every: 3,
    flags: ['--preset', 'fastserve', '--policy', 'auto'],
    shows: { [SWAPS]: 10, [PREFETCHED]: 1 },
    lacks: [HELD, MIRRORED, CACHED],
    singly: true,
  },
  {
    name: 'attentionstore without its layers',
    every: 3,
    flags: ['--preset', 'attentionstore+copying=direct'],
    shows: { [SWAPS]: 10, [MIRRORED]: 1e6, [CACHED]: 5000 },
    lacks: [PREFETCHED],
    singly: true,
  },
  {
    name: 'default, awaited, one way at a time and piece by piece',
    every: 3,
    flags: ['--preset', 'default-crossLayer-groups-duplex+waits=sync'],
    shows: { [SWAPS]: 10, [HELD]: 50, [MIRRORED]: 1e6, [CACHED]: 5000 },
    singly: true,
  },
];

/** Requests that together need more than the device has, and share nothing with anybody. */
async function largest(url: string): Promise<number[][]> {
  const answers: number[][] = [];
  for (const seed of [1, 2]) {
    const prompt = Array.from({ length: 1500 }, (_, position) => 300 + ((position * position + seed * position) % 1009));
    const body = { model: 'demo', prompt, temperature: 0, max_tokens: 4, ignore_eos: true, return_token_ids: true };
    answers.push((await post<{ choices: [{ token_ids: number[] }] }>(`${url}/v1/completions`, body)).choices[0].token_ids);
  }
  return answers;
}

async function expectCopies(server: RunningServer, singly: boolean): Promise<void> {
  for (const direction of ['out', 'in']) {
    const runs = await server.metric(`fastswitch_transfer_runs_total{direction="${direction}"}`);
    const copied = (await server.metric(`fastswitch_transfer_bytes_total{direction="${direction}"}`)) / BLOCK_BYTES;
    if (singly) expect(runs).toBe(copied);
    else if (copied > 100) expect(runs).toBeLessThan(copied);
  }
}

describe('the same tokens with and without preemption', () => {
  const expected: Turn[][] = [];
  let expectedOfLargest: number[][];

  beforeAll(async () => {
    const ample = await startServer('--preset', 'vllm-0.3', '--threads', '2');
    for (let chat = 0; chat < CHATS; chat += 1) expected.push(await converse(ample.url, chat));
    expectedOfLargest = await largest(ample.url);
    for (const nothing of [SWAPS, RECOMPUTES, CACHED]) expect(await ample.metric(nothing)).toBe(0);
    expect(await ample.stop()).toBe(0);
  }, 240_000);

  it.each(storms)('$name', { timeout: 240_000 }, async ({ name, flags, every = 1, shows, lacks = [], singly = false }) => {
    const server = await startServer(...TIGHT, ...flags);
    try {
      const chats = [...expected.keys()].filter((chat) => chat % every === 0);
      const found = await Promise.all(chats.map((chat) => converse(server.url, chat)));
      expect(found).toEqual(chats.map((chat) => expected[chat]));
      const counted = await Promise.all(Object.keys(shows).map(async (sample) => `${await server.metric(sample)} ${sample}`));
      console.log(`${name}: ${counted.join(', ')}`);
      for (const [sample, least] of Object.entries(shows)) {
        expect(await server.metric(sample), sample).toBeGreaterThanOrEqual(least);
      }
      for (const sample of lacks) expect(await server.metric(sample), sample).toBe(0);
      await expectCopies(server, singly);
      await idle(server);
      // What was kept is room for whoever needs it.
      expect(await largest(server.url)).toEqual(expectedOfLargest);
      await idle(server);
      expect(await server.metric('fastswitch_steps_failed_total')).toBe(0);
      expect(await server.metric('fastswitch_transfers_failed_total')).toBe(0);
    } finally {
      expect(await server.stop()).toBe(0);
    }
  });
});
