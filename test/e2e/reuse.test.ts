/**
 * KV that is used again, over HTTP with OpenAI's own client: exactly the whole blocks of what a prompt shares with earlier
 * requests are found, wherever they are, and nobody can tell from the answer.
 */
import OpenAI from 'openai';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { idle, type RunningServer, startServer, until } from './server.js';

const BLOCK_TOKENS = 16;
const BLOCK_BYTES = 48 * 1024;
/** As many blocks as three requests of the model's whole context need. */
const DEVICE_BLOCKS = 3 * 96;
/** Room for all that the device gives up in one test. */
const HOST_BLOCKS = 600;
const memory = (hostBlocks: number) => {
  const [device, host] = [DEVICE_BLOCKS, hostBlocks].map((blocks) => String(blocks * BLOCK_BYTES)) as [string, string];
  return ['--device-kv', device, '--host-kv', host, '--drain-seconds', '2'];
};

type Message = OpenAI.ChatCompletionMessageParam;
interface Asked {
  /** Token ids of the prompt and of the answers. */
  readonly prompt: readonly number[];
  readonly tokens: readonly (readonly number[])[];
  /** All that must not depend on what was found. */
  readonly choices: unknown;
  readonly text: string;
  readonly usage: OpenAI.CompletionUsage;
}
type WithTokens<Choice> = {
  prompt_token_ids: number[];
  choices: (Choice & { token_ids: number[] })[];
  usage: OpenAI.CompletionUsage;
};

const clientOf = ({ url }: RunningServer) => new OpenAI({ apiKey: 'none', baseURL: `${url}/v1`, maxRetries: 0 });

// Each is asked when nothing is on its way any more: what a copy reads at that moment is not found.
async function chat(at: RunningServer, messages: Message[], body: object = {}): Promise<Asked> {
  await idle(at);
  const request = { model: 'demo', messages, temperature: 0, max_tokens: 120, logprobs: true, top_logprobs: 2 };
  const answer: unknown = await clientOf(at).chat.completions.create({ ...request, ...{ return_token_ids: true }, ...body });
  const { prompt_token_ids, choices, usage } = answer as WithTokens<OpenAI.ChatCompletion.Choice>;
  const tokens = choices.map(({ token_ids }) => token_ids);
  return { prompt: prompt_token_ids, tokens, choices, text: choices[0]?.message.content ?? '', usage };
}

async function complete(at: RunningServer, prompt: number[], body: object = {}): Promise<Omit<Asked, 'prompt' | 'text'>> {
  await idle(at);
  const request = { model: 'demo', prompt, temperature: 0, max_tokens: 1, logprobs: 2 };
  const more = { ignore_eos: true, return_token_ids: true, ...body };
  const answer: unknown = await clientOf(at).completions.create({ ...request, ...more });
  const { choices, usage } = answer as WithTokens<OpenAI.CompletionChoice>;
  return { tokens: choices.map(({ token_ids }) => token_ids), choices, usage };
}

const cachedOf = ({ usage }: { usage: OpenAI.CompletionUsage }) => usage.prompt_tokens_details?.cached_tokens;
const wholeBlocks = (tokens: number) => BLOCK_TOKENS * Math.floor(tokens / BLOCK_TOKENS);

function commonTokens(a: readonly number[], b: readonly number[]): number {
  const length = a.findIndex((token, index) => token !== b[index]);
  return length < 0 ? a.length : length;
}

let texts = 0;
/** Token ids that no other test has used, so that what it finds is its own. */
function unheard(length: number): number[] {
  texts += 1;
  return Array.from({ length }, (_, position) => 300 + ((position * position + texts * (position + 7)) % 1499));
}

/** A chat with nobody: a system prompt that is this test's own, and a question. */
function opening(question: string): Message[] {
  texts += 1;
  const system = `You are fox number ${texts} in a wood, and you know ${texts} things about it. You say little and you say it well.`;
  return [
    { role: 'system', content: system },
    { role: 'user', content: question },
  ];
}

const followUp = (messages: Message[], { text }: Asked, question: string): Message[] => [
  ...messages,
  { role: 'assistant', content: text },
  { role: 'user', content: question },
];

const counters = {
  asked: 'fastswitch_prompt_tokens_total',
  cached: 'fastswitch_prompt_tokens_cached_total',
  prefilled: 'fastswitch_computed_tokens_total{kind="prefill"}',
  decoded: 'fastswitch_computed_tokens_total{kind="decode"}',
};
type Counted = Record<keyof typeof counters, number>;

async function count(server: RunningServer): Promise<Counted> {
  const entries = Object.entries(counters).map(async ([name, sample]) => [name, await server.metric(sample)] as const);
  return Object.fromEntries(await Promise.all(entries)) as Counted;
}

/** What the counters went up by while `work` was done. */
async function counting<T>(server: RunningServer, work: () => Promise<T>): Promise<[T, Counted]> {
  await idle(server);
  const before = await count(server);
  const result = await work();
  const after = await count(server);
  const names = Object.keys(counters) as (keyof Counted)[];
  return [result, Object.fromEntries(names.map((name) => [name, after[name] - before[name]])) as Counted];
}

let server: RunningServer;
/** Finds nothing, ever. */
let forgetful: RunningServer;
beforeAll(async () => {
  [server, forgetful] = await Promise.all([
    startServer('--drain-seconds', '2'),
    startServer('--drain-seconds', '2', '--preset', 'vllm-0.3'),
  ]);
});
afterAll(async () => {
  await idle(forgetful);
  for (const each of [server, forgetful]) expect(await each?.stop()).toBe(0);
});
afterEach(() => idle(server));

describe('the second turn of a chat', () => {
  async function twoTurns(body: object = {}) {
    const first = opening('Tell me a story about a fox.');
    const told = await chat(server, first, body);
    const second = followUp(first, told, 'What is 7 + 5?');
    return { told, second };
  }

  it('computes its new tokens only, and says so', async () => {
    const { told, second } = await twoTurns();
    const [answer, counted] = await counting(server, () => chat(server, second));
    // The first turn ended by itself, so that the second begins with every token of it.
    expect(answer.prompt.slice(0, told.usage.total_tokens)).toEqual([...told.prompt, ...(told.tokens[0] ?? [])]);
    // Its last token was sampled and never computed.
    const found = wholeBlocks(told.usage.total_tokens - 1);
    expect(found).toBeGreaterThan(2 * BLOCK_TOKENS);
    expect(cachedOf(answer)).toBe(found);
    expect(counted).toEqual({
      asked: answer.usage.prompt_tokens,
      cached: found,
      prefilled: answer.usage.prompt_tokens - found,
      decoded: answer.usage.completion_tokens - 1,
    });
  });

  it('says exactly what it says where nothing is found', async () => {
    for (const body of [{}, { temperature: 0.9, seed: 4, frequency_penalty: 0.4, repetition_penalty: 1.2 }]) {
      const { second } = await twoTurns(body);
      const answer = await chat(server, second, body);
      const salted = await chat(server, second, { ...body, cache_salt: 'somebody else' });
      const computed = await chat(forgetful, second, body);
      expect(cachedOf(answer)).toBeGreaterThan(2 * BLOCK_TOKENS);
      expect([cachedOf(salted), cachedOf(computed)]).toEqual([0, 0]);
      expect(answer.choices).toEqual(computed.choices);
      expect(salted.choices).toEqual(computed.choices);
    }
  });

  it('finds as much as a stream, which says so in its last chunk', async () => {
    const { told, second } = await twoTurns();
    const request = { model: 'demo', messages: second, temperature: 0, max_tokens: 24 };
    await idle(server);
    const stream = await clientOf(server).chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    const whole = await clientOf(forgetful).chat.completions.create(request);
    const text = chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('');
    expect(text).toBe(whole.choices[0]?.message.content);
    const details = { cached_tokens: wholeBlocks(told.usage.total_tokens - 1) };
    expect(chunks.at(-1)?.usage).toEqual({ ...whole.usage, prompt_tokens_details: details });
  });

  it('with several choices counts what was found once, and each says what it says alone', async () => {
    const { told, second } = await twoTurns();
    const body = { n: 2, temperature: 2, seed: 9, max_tokens: 40, ignore_eos: true };
    const answer = await chat(server, second, body);
    expect(cachedOf(answer)).toBe(wholeBlocks(told.usage.total_tokens - 1));
    expect(answer.usage.prompt_tokens).toBe(answer.prompt.length);
    expect(answer.choices).toEqual((await chat(forgetful, second, body)).choices);
    expect(answer.tokens[0]).not.toEqual(answer.tokens[1]);
  });

  it('goes on from any earlier turn, not only from the last', async () => {
    const { told, second } = await twoTurns();
    await chat(server, second);
    const [user] = second.slice(-1);
    const branch = [...second.slice(0, -1), { ...user, content: 'What is the opposite of hot?' } as Message];
    const answer = await chat(server, branch);
    expect(cachedOf(answer)).toBeGreaterThanOrEqual(wholeBlocks(told.usage.total_tokens - 1));
    expect(answer.choices).toEqual((await chat(forgetful, branch)).choices);
  });
});

describe('another request', () => {
  it('with the same system prompt finds the whole blocks of what they share', async () => {
    const [system] = opening('') as [Message];
    const one = await chat(server, [system, { role: 'user', content: 'Count from 3 to 12.' }]);
    const other: Message[] = [system, { role: 'user', content: 'Which is larger, 17 or 42?' }];
    const [answer, counted] = await counting(server, () => chat(server, other));
    const found = wholeBlocks(commonTokens(one.prompt, answer.prompt));
    expect(found).toBeGreaterThanOrEqual(BLOCK_TOKENS);
    expect(cachedOf(answer)).toBe(found);
    expect(counted).toMatchObject({ cached: found, prefilled: answer.usage.prompt_tokens - found });
    expect(answer.choices).toEqual((await chat(forgetful, other)).choices);
  });

  it('finds only what was asked with its own salt', async () => {
    const prompt = unheard(70);
    const asked = async (body: object) => cachedOf(await complete(server, prompt, body));
    expect(await asked({ cache_salt: 'ours' })).toBe(0);
    expect(await asked({ cache_salt: 'theirs' })).toBe(0);
    expect(await asked({})).toBe(0);
    expect(await asked({ cache_salt: 'ours' })).toBe(64);
    expect(await asked({ cache_salt: 'theirs' })).toBe(64);
    expect(await asked({})).toBe(64);
    expect(await asked({ cache_salt: 'our' })).toBe(0);
  });

  it('finds the prompt of a client that went away', async () => {
    const prompt = unheard(100);
    const leaving = new AbortController();
    const request = { model: 'demo', prompt, max_tokens: 1400, stream: true as const, ignore_eos: true };
    for await (const _chunk of await clientOf(server).completions.create(request, { signal: leaving.signal })) leaving.abort();
    await idle(server);
    expect(cachedOf(await complete(server, prompt))).toBe(96);
  });
});

describe('at the edges of blocks', () => {
  // At least one token is computed, to sample the next from; and the block after a token may be whole or not.
  it.each([
    [1, 0],
    [15, 0],
    [16, 0],
    [17, 16],
    [31, 16],
    [32, 16],
    [33, 32],
    [160, 144],
    [161, 160],
  ])('of a prompt of %i tokens, asked for the second time, %i are found', async (length, found) => {
    const prompt = unheard(length);
    const fresh = await complete(server, prompt, { max_tokens: 20 });
    expect(cachedOf(fresh)).toBe(0);
    const [again, counted] = await counting(server, () => complete(server, prompt, { max_tokens: 20 }));
    expect(cachedOf(again)).toBe(found);
    expect(counted).toEqual({ asked: length, cached: found, prefilled: length - found, decoded: 19 });
    expect(again.choices).toEqual(fresh.choices);
    expect(again.choices).toEqual((await complete(forgetful, prompt, { max_tokens: 20 })).choices);
  });

  it.each([
    [16, 16],
    [16, 17],
    [20, 28],
    [20, 29],
  ])('after %i tokens that were answered with %i, all that was computed is found', async (length, generated) => {
    const prompt = unheard(length);
    const { tokens } = await complete(server, prompt, { max_tokens: generated });
    const longer = [...prompt, ...(tokens[0] ?? []), 300, 301];
    const answer = await complete(server, longer, { max_tokens: 8 });
    expect(cachedOf(answer)).toBe(wholeBlocks(length + generated - 1));
    expect(answer.choices).toEqual((await complete(forgetful, longer, { max_tokens: 8 })).choices);
  });
});

describe('what the device no longer has', () => {
  const MIRRORED = 'fastswitch_transfer_kind_bytes_total{kind="mirror"}';
  const RESTORED = 'fastswitch_transfer_kind_bytes_total{kind="swapIn"}';
  /** Requests of the model's whole context, until they have had all of the device. */
  async function crowdOut(at: RunningServer): Promise<void> {
    for (let blocks = 0; blocks < DEVICE_BLOCKS; blocks += 96) await complete(at, unheard(96 * BLOCK_TOKENS - 1));
  }
  const question = unheard(200);
  const answered = (at: RunningServer) => complete(at, question, { max_tokens: 30 });
  /** Of the question, when it is asked again: its whole blocks. */
  const FOUND = wholeBlocks(200);
  const KEPT_BLOCKS = wholeBlocks(200 + 29) / BLOCK_TOKENS;

  let tight: RunningServer;
  beforeAll(async () => {
    // Steps that are long enough for any copy to be made beside them.
    tight = await startServer(...memory(HOST_BLOCKS), '--max-batch-tokens', '2048');
  });
  afterEach(() => idle(tight));
  afterAll(async () => {
    expect(await tight?.stop()).toBe(0);
  });

  /** Copies go to the host while others are computed: asks for such until this many blocks have gone, from the start on. */
  async function mirrored(blocks: number): Promise<void> {
    const enough = async () => {
      if ((await tight.metric(MIRRORED)) >= blocks * BLOCK_BYTES) return true;
      await complete(tight, unheard(1400));
      return false;
    };
    await until(`${blocks} blocks are mirrored`, enough, 60_000);
  }

  it('is found on the host', async () => {
    const fresh = await answered(tight);
    await mirrored(KEPT_BLOCKS); // the oldest first: those of the question
    await crowdOut(tight);
    const restored = await tight.metric(RESTORED);
    const [again, counted] = await counting(tight, () => answered(tight));
    expect(cachedOf(again)).toBe(FOUND);
    expect(counted).toMatchObject({ cached: FOUND, prefilled: 200 - FOUND });
    expect(await tight.metric(RESTORED)).toBe(restored + (FOUND / BLOCK_TOKENS) * BLOCK_BYTES);
    expect(again.choices).toEqual(fresh.choices);
  });

  it('and the host neither, is computed again and says the same', { timeout: 90_000 }, async () => {
    const fresh = await answered(tight);
    await mirrored((await tight.metric(MIRRORED)) / BLOCK_BYTES + 2 * HOST_BLOCKS);
    await crowdOut(tight);
    const [again, counted] = await counting(tight, () => answered(tight));
    expect(cachedOf(again)).toBe(0);
    expect(counted).toMatchObject({ cached: 0, prefilled: 200 });
    expect(again.choices).toEqual(fresh.choices);
  });

  it('is gone where there is no host memory', async () => {
    const bare = await startServer(...memory(0));
    try {
      const fresh = await answered(bare);
      expect(cachedOf(await answered(bare))).toBe(FOUND);
      await crowdOut(bare);
      const again = await answered(bare);
      expect(cachedOf(again)).toBe(0);
      expect(again.choices).toEqual(fresh.choices);
      await idle(bare);
    } finally {
      expect(await bare.stop()).toBe(0);
    }
  });
});

describe('a server that keeps nothing', () => {
  it('finds nothing and reports none', async () => {
    const prompt = unheard(100);
    const [answers, counted] = await counting(forgetful, async () => [
      await complete(forgetful, prompt),
      await complete(forgetful, prompt),
    ]);
    expect(answers.map(cachedOf)).toEqual([0, 0]);
    expect(counted).toMatchObject({ asked: 200, cached: 0, prefilled: 200 });
    expect(await forgetful.metric('fastswitch_blocks{memory="device",use="kept"}')).toBe(0);
  });
});
