/**
 * The promise, over HTTP on the real engine: 48 conversations at once on a device that holds about eight of them give
 * exactly the tokens and logprobs of the same conversations held one by one with ample memory.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { post, type RunningServer, startServer } from './server.js';

const CHATS = 48;
const TURNS = 8;
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

const BLOCK_KIB = 48;
const TIGHT = ['--device-kv', `${8 * 22 * BLOCK_KIB}KiB`, '--max-running', '48'];
// How often depends on when answers meet; far fewer than usual are asked for. Under fcfs nobody is preempted to let
// another in, only when those who run outgrow the device.
const storms: { name: string; flags: string[]; swaps: number; recomputes: number }[] = [
  { name: 'fcfs', flags: [...TIGHT, '--policy', 'fcfs', '--threads', '1'], swaps: 15, recomputes: 0 },
  { name: 'priority', flags: [...TIGHT, '--policy', 'priority', '--max-batch-tokens', '64'], swaps: 100, recomputes: 0 },
  {
    name: 'priority with a small host',
    flags: [...TIGHT, '--policy', 'priority', '--host-kv', `${30 * BLOCK_KIB}KiB`],
    swaps: 10,
    recomputes: 10,
  },
  { name: 'priority without a host', flags: [...TIGHT, '--policy', 'priority', '--host-kv', '0'], swaps: 0, recomputes: 100 },
];

describe('the same tokens with and without preemption', () => {
  const expected: Turn[][] = [];
  let ample: RunningServer;

  beforeAll(async () => {
    ample = await startServer('--threads', '2');
    for (let chat = 0; chat < CHATS; chat += 1) expected.push(await converse(ample.url, chat));
    expect(await ample.metric('fastswitch_preemptions_total{kind="swap"}')).toBe(0);
  }, 240_000);
  afterAll(() => ample?.stop());

  it.each(storms)('$name', { timeout: 240_000 }, async ({ name, flags, swaps, recomputes }) => {
    const server = await startServer(...flags);
    try {
      const found = await Promise.all(expected.map((_, chat) => converse(server.url, chat)));
      expect(found).toEqual(expected);
      const swapped = await server.metric('fastswitch_preemptions_total{kind="swap"}');
      const recomputed = await server.metric('fastswitch_preemptions_total{kind="recompute"}');
      console.log(`${name}: ${swapped} swaps, ${recomputed} recomputes`);
      expect(swapped).toBeGreaterThanOrEqual(swaps);
      expect(recomputed).toBeGreaterThanOrEqual(recomputes);
      for (const memory of ['device', 'host']) {
        expect(await server.metric(`fastswitch_blocks{memory="${memory}",use="used"}`)).toBe(0);
        expect(await server.metric(`fastswitch_blocks{memory="${memory}",use="moving"}`)).toBe(0);
      }
      expect(await server.metric('fastswitch_steps_failed_total')).toBe(0);
    } finally {
      expect(await server.stop()).toBe(0);
    }
  });
});
