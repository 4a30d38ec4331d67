/**
 * The promise over HTTP on a GPU: chats that outgrow its memory, swapped out and in, give the tokens and logprobs of the same
 * chats held one by one. On the stand-in, whose copies and kernels run as late and as mixed as the driver's rules allow, or
 * with `npm run test:cuda` on the machine's own GPU.
 */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { testGpu } from '../native/standin/index.js';
import { idle, type RunningServer, startServerIn } from './server.js';

const gpu = await testGpu();
const DEMO = fileURLToPath(new URL('../../models/demo/', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'fastswitch-cuda-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** The demo model's tokenizer on a model of another shape, whose weights are random: a folder without any. */
function tinyModel(): string {
  for (const file of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
    copyFileSync(join(DEMO, file), join(folder, file));
  }
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: 2048,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    max_position_embeddings: 512,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: true,
    eos_token_id: 2,
    torch_dtype: 'bfloat16',
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}

/** Of 2 layers, keys and values, 2 heads, 16 tokens, 32 values of 2 bytes. */
const BLOCK_BYTES = 2 * 2 * 2 * 16 * 32 * 2;
const DEVICE_BLOCKS = 14;
const CHATS = 5;
const SAYINGS = ['Hi! My name is Ada and my favourite colour is teal.', 'What is 7 + 5?', 'Tell me a story about a fox.'];

interface Said {
  readonly tokens: readonly number[];
  readonly logprobs: readonly number[];
}

async function say(client: OpenAI, chat: number, salt: string): Promise<Said> {
  const answer = await client.chat.completions.create({
    model: 'tiny',
    messages: [{ role: 'user', content: `${SAYINGS[chat % SAYINGS.length]} ${'And then? '.repeat(4 + chat)}` }],
    max_tokens: 24 + 3 * chat,
    logprobs: true,
    ...(chat % 2 === 0 ? { temperature: 0 } : { temperature: 0.8, top_p: 0.9, seed: chat }),
    // Fields of ours: the first come is the last in rank, and nobody finds what another round computed.
    ...{ ignore_eos: true, return_token_ids: true, priority: CHATS - chat, cache_salt: salt },
  });
  const [choice] = answer.choices as [OpenAI.ChatCompletion.Choice & { readonly token_ids: number[] }];
  return { tokens: choice.token_ids, logprobs: (choice.logprobs?.content ?? []).map(({ logprob }) => logprob) };
}

describe.skipIf(gpu.skip !== '')('a server on a GPU', () => {
  let server: RunningServer;
  let client: OpenAI;

  beforeAll(async () => {
    server = await startServerIn(
      gpu.environment,
      ...['--model', tinyModel(), '--served-model-name', 'tiny', '--load', 'dummy', '--device', 'cuda', '--batch-invariant'],
      ...['--device-kv', String(DEVICE_BLOCKS * BLOCK_BYTES), '--host-kv', String(64 * BLOCK_BYTES)],
      ...['--policy', 'priority', '--max-running', '4', '--max-batch-tokens', '48'],
    );
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  });
  afterAll(async () => {
    await server?.stop();
  });

  it('says where it computes', async () => {
    expect(server.output()).toMatch(/^computing on cuda:0, \S/m);
    expect(await (await fetch(`${server.url}/metrics`)).text()).toMatch(/^fastswitch_info\{.*device="cuda:0"\} 1$/m);
  });

  it('gives the same tokens to all at once, swapped out and in, as to each alone', { timeout: 120_000 }, async () => {
    const chats = Array.from({ length: CHATS }, (_, chat) => chat);
    const crowded: Promise<Said>[] = [];
    for (const chat of chats) {
      crowded.push(say(client, chat, `crowded ${chat}`));
      // The next comes when this one computes, and outranks it.
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const together = await Promise.all(crowded);
    expect(await server.metric('fastswitch_preemptions_total{kind="swap"}')).toBeGreaterThan(0);
    expect(await server.metric('fastswitch_transfers_total{direction="in"}')).toBeGreaterThan(0);
    for (const chat of chats) expect(await say(client, chat, `alone ${chat}`), `chat ${chat}`).toEqual(together[chat]);
    expect(new Set(together.map(({ tokens }) => tokens.join())).size).toBe(CHATS);
  });

  it('ends in order, with nothing left over', async () => {
    await idle(server);
    expect(await server.stop()).toBe(0);
    expect(server.output()).not.toMatch(/error|standin|violation/i);
  });
});

describe.skipIf(gpu.skip !== '' || gpu.real)('a GPU that is lost', () => {
  it('ends the process with the reason, instead of failing every request from then on', { timeout: 60_000 }, async () => {
    const lost = await startServerIn(
      { ...gpu.environment, FASTSWITCH_STANDIN_FAIL: 'cuGraphLaunch:5=719' },
      ...['--model', tinyModel(), '--served-model-name', 'tiny', '--load', 'dummy', '--device', 'cuda'],
      ...['--device-kv', String(DEVICE_BLOCKS * BLOCK_BYTES), '--host-kv', String(64 * BLOCK_BYTES)],
    );
    onTestFinished(() => void lost.process.kill('SIGKILL'));
    const client = new OpenAI({ baseURL: `${lost.url}/v1`, apiKey: 'none', maxRetries: 0 });
    const asked = client.completions.create({ model: 'tiny', prompt: 'Once', max_tokens: 100, ...{ ignore_eos: true } });
    await expect(asked).rejects.toMatchObject({ status: 500, code: 'engine_failed' });
    expect(await lost.exited).toBe(1);
    expect(lost.output()).toMatch(/the engine stopped and the server with it: .*cuGraphLaunch failed with 719/);
  });
});
