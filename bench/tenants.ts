/**
 * Tenants on the real server, over HTTP. Two questions:
 *
 * 1. One tenant floods with long chats while another sends a short one every second. How much longer does the light one wait
 *    for its first token than on an idle server, and what does that cost in tokens per second beside fcfs?
 * 2. Four tenants flood, with weights 1:2:3:4. Do they get 10:20:30:40 of the service?
 *
 *   node dist/bench/tenants.js [--clients 64] [--seconds 20] [--rounds 3] [--tokens 400] [--policy fair] [--quick] [--json] [-- serve flags]
 *
 * Rounds are interleaved (idle, policy, fcfs, weights, idle, ...), every server is started anew, and ratios are of the medians of the
 * rounds. TTFT is what the client sees, and beside it what the server says that the scheduler took of it; service is what /metrics counts
 * between two scrapes. Clients and server share the machine's cores; who floods has a thread of its own, so that the light
 * client's clock does not wait for it.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { ClientRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Answer, agent, chat, type Tenant } from './serving/chat.js';
import { flood } from './serving/flood.js';
import { type Serving, start, stop } from './serving/process.js';
import { median, percentile } from './statistics.js';

const { values, positionals } = parseArgs({
  options: {
    clients: { type: 'string' },
    seconds: { type: 'string' },
    rounds: { type: 'string' },
    tokens: { type: 'string' },
    policy: { type: 'string', default: 'fair' },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const clients = Number(values.clients ?? (values.quick ? 8 : 64));
const seconds = Number(values.seconds ?? (values.quick ? 1 : 20));
const rounds = Number(values.rounds ?? (values.quick ? 1 : 3));
const floodTokens = Number(values.tokens ?? (values.quick ? 64 : 400));
/** Before measuring: the flood fills the device first. */
const WARM_MILLIS = values.quick ? 300 : 3000;
const LIGHT_MILLIS = values.quick ? 250 : 1000;
const LIGHT_TOKENS = 16;
/** Less than 64 long chats need. */
const PRESSED = ['--device-kv', '16MiB', '--host-kv', '256MiB'];
const WEIGHTS = [1, 2, 3, 4];

const tenantOf = (name: string, weight = 1): Tenant => ({ name, weight, key: randomBytes(32).toString('base64url') });
const FLOOD = tenantOf('flood');
const LIGHT = tenantOf('light');
const WEIGHTED = WEIGHTS.map((weight) => tenantOf(`weight-${weight}`, weight));
const TENANTS = [FLOOD, LIGHT, ...WEIGHTED];

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-bench-tenants-'));
const file = join(scratch, 'tenants.json');
const hashed = (key: string) => `sha256:${createHash('sha256').update(key).digest('hex')}`;
writeFileSync(file, JSON.stringify(TENANTS.map(({ name, weight, key }) => ({ tenant: name, weight, key: hashed(key) }))), {
  mode: 0o600,
});

/** With these tenants. */
function startUnder(policy: string): Promise<Serving> {
  return start(['--tenants', file, '--policy', policy, '--drain-seconds', '0', ...PRESSED, ...positionals]);
}

const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis));

/** A short chat now and then, whether the last one has ended or not. */
async function lightly(url: string, millis: number): Promise<Answer[]> {
  const asked: Promise<Answer>[] = [];
  const open = new Set<ClientRequest>();
  for (let left = millis; left > 0; left -= LIGHT_MILLIS) {
    asked.push(chat(url, LIGHT, 'Hi! What is 7 + 5?', LIGHT_TOKENS, open));
    await pause(LIGHT_MILLIS);
  }
  // Whoever has not been answered by then counts as long as it has waited.
  const enough = setTimeout(() => {
    for (const call of open) call.destroy();
  }, 30_000);
  const answers = await Promise.all(asked);
  clearTimeout(enough);
  return answers;
}

type Samples = ReadonlyMap<string, number>;

async function metrics(url: string): Promise<Samples> {
  const page = await (await fetch(`${url}/metrics`)).text();
  const samples = page.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(samples.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}

interface Light {
  readonly ttft: readonly number[];
  readonly scheduler: readonly number[];
  readonly unanswered: number;
  readonly tokensPerSecond: number;
  readonly stepMillis: number;
  readonly texts: readonly string[];
}

/** The light tenant beside so many chats of the flooding one. */
async function beside(policy: string, flooding: number): Promise<Light> {
  const { child, url } = await startUnder(policy);
  await chat(url, LIGHT, 'Hi!', 8, new Set());
  const end = flood({ url, tenants: [FLOOD], chats: flooding, tokens: floodTokens });
  await pause(WARM_MILLIS);
  const before = await metrics(url);
  const began = performance.now();
  const answers = await lightly(url, seconds * 1000);
  const after = await metrics(url);
  const lasted = (performance.now() - began) / 1000;
  await end();
  await stop(child);
  const since = (name: string) => (after.get(name) ?? 0) - (before.get(name) ?? 0);
  return {
    ttft: answers.flatMap(({ ttftMillis }) => ttftMillis ?? []),
    scheduler: answers.flatMap(({ schedulerMillis }) => schedulerMillis ?? []),
    unanswered: answers.filter(({ ttftMillis }) => ttftMillis === null).length,
    tokensPerSecond: since('fastswitch_generated_tokens_total') / lasted,
    stepMillis: (1000 * since('fastswitch_step_seconds_sum')) / Math.max(1, since('fastswitch_steps_total')),
    texts: answers.map(({ text }) => text),
  };
}

/** The share of service that each of the weighted tenants got, in percent, while all of them flood. */
async function shares(policy: string): Promise<readonly number[]> {
  const { child, url } = await startUnder(policy);
  const end = flood({ url, tenants: WEIGHTED, chats: Math.ceil(clients / 4), tokens: floodTokens });
  await pause(WARM_MILLIS);
  const before = await metrics(url);
  await pause(seconds * 1000);
  const after = await metrics(url);
  await end();
  await stop(child);
  const served = WEIGHTED.map(({ name }) => `fastswitch_tenant_service_total{tenant="${name}"}`).map(
    (sample) => (after.get(sample) ?? 0) - (before.get(sample) ?? 0),
  );
  const all = served.reduce((sum, one) => sum + one, 0);
  return served.map((one) => (100 * one) / all);
}

const policy = values.policy;
const runs: { idle: Light[]; own: Light[]; fcfs: Light[]; shares: (readonly number[])[] } = {
  idle: [],
  own: [],
  fcfs: [],
  shares: [],
};
try {
  for (let round = 0; round < rounds; round += 1) {
    runs.idle.push(await beside(policy, 0));
    runs.own.push(await beside(policy, clients));
    runs.fcfs.push(await beside('fcfs', clients));
    runs.shares.push(await shares(policy));
    if (!values.json) process.stderr.write(`round ${round + 1} of ${rounds}\n`);
  }
} finally {
  rmSync(scratch, { recursive: true });
}

const p99 = (lights: readonly Light[], of: 'ttft' | 'scheduler' = 'ttft') =>
  median(lights.map((light) => percentile(light[of], 0.99)));
const figures = (lights: readonly Light[]) => ({
  p50: median(lights.flatMap(({ ttft }) => ttft)),
  p99: p99(lights),
  schedulerP50: median(lights.flatMap(({ scheduler }) => scheduler)),
  schedulerP99: p99(lights, 'scheduler'),
});
const rate = (lights: readonly Light[]) => median(lights.map(({ tokensPerSecond }) => tokensPerSecond));
const step = median(runs.own.map(({ stepMillis }) => stepMillis));
const meanShares = WEIGHTS.map(
  (_, index) => runs.shares.reduce((sum, one) => sum + (one[index] as number), 0) / runs.shares.length,
);
const total = WEIGHTS.reduce((a, b) => a + b, 0);
const worst = Math.max(...meanShares.map((share, index) => Math.abs(share / ((100 * (WEIGHTS[index] as number)) / total) - 1)));
const texts = new Set([...runs.idle, ...runs.own].flatMap((light) => light.texts.filter((text) => text !== '')));
const report = {
  ...{ policy, clients, seconds, rounds, floodTokens, flags: [...PRESSED, ...positionals] },
  idleTtftMs: figures(runs.idle),
  floodTtftMs: figures(runs.own),
  fcfsTtftMs: figures(runs.fcfs),
  unanswered: {
    policy: runs.own.reduce((sum, one) => sum + one.unanswered, 0),
    fcfs: runs.fcfs.reduce((sum, one) => sum + one.unanswered, 0),
  },
  stepMs: step,
  /** Wanted: at most 2. */
  ttftTimesIdle: (p99(runs.own) - step) / p99(runs.idle),
  tokensPerSecond: { policy: rate(runs.own), fcfs: rate(runs.fcfs) },
  /** Wanted: at least 0.9. */
  throughputOfFcfs: rate(runs.own) / rate(runs.fcfs),
  sharesPercent: meanShares,
  /** Wanted: at most 0.05. */
  worstShareError: worst,
  /** Of the light tenant's texts, which are the same whoever else is served. */
  hash: createHash('sha256')
    .update([...texts].sort().join('\n'))
    .digest('hex')
    .slice(0, 12),
};
agent.destroy();
if (values.json) console.log(JSON.stringify(report));
else console.log(report);
