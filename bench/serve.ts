/**
 * HTTP load with streaming on the real server: tokens per second, TTFT and TBT percentiles as clients see them, delay
 * of both event loops while it swaps, and what a step costs beside the engine with many open streams.
 *
 *   node dist/bench/serve.js [--clients 64] [--turns 3] [--tokens 64] [--quick] [--json] [-- serve flags]
 *
 * Clients and server share the machine's cores. Load is bounded: clients x turns requests, then it stops.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  options: {
    clients: { type: 'string', default: '64' },
    turns: { type: 'string', default: '3' },
    tokens: { type: 'string', default: '64' },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const clients = values.quick ? 8 : Number(values.clients);
const turns = values.quick ? 2 : Number(values.turns);
const maxTokens = values.quick ? 16 : Number(values.tokens);

interface Message {
  readonly role: 'user' | 'assistant';
  readonly content: string;
}

interface Measured {
  readonly ttft: number[];
  readonly tbt: number[];
  tokens: number;
  failed: number;
}

/** The server as a user starts it, on a free port. */
async function start(flags: readonly string[]): Promise<{ child: ChildProcess; url: string }> {
  const main = new URL('../src/main.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [main, 'serve', '--port', '0', '--log-level', 'warn', '--max-queued', '4096', ...flags]);
  let output = '';
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      const found = /serving \S+ on (\S+)/.exec(output);
      if (found) resolve(found[1] as string);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('exit', (code) => reject(new Error(`the server ended with code ${code}:\n${output}`)));
  });
  return { child, url };
}

/** One streamed turn; every SSE chunk that carries text or tokens is timed when it arrives. */
function stream(url: string, messages: readonly Message[], priority: number, measured: Measured): Promise<string> {
  const body = JSON.stringify({
    model,
    messages,
    stream: true,
    max_tokens: maxTokens,
    ignore_eos: true,
    temperature: 0,
    priority,
    return_token_ids: true,
  });
  return new Promise((resolve, reject) => {
    const sent = performance.now();
    let last = 0;
    let text = '';
    let rest = '';
    const take = (line: string) => {
      if (!line.startsWith('data: {')) return;
      const chunk = JSON.parse(line.slice(6)) as {
        error?: unknown;
        choices: [{ delta: { content?: string }; token_ids?: number[] }?];
      };
      if (chunk.error) measured.failed += 1;
      const choice = chunk.choices?.[0];
      const count = choice?.token_ids?.length ?? 0;
      if (count === 0) return;
      const now = performance.now();
      if (last === 0) measured.ttft.push(now - sent);
      else measured.tbt.push(now - last);
      last = now;
      measured.tokens += count;
      text += choice?.delta.content ?? '';
    };
    const call = request(
      `${url}/v1/chat/completions`,
      { method: 'POST', headers: { 'content-type': 'application/json' } },
      (response) => {
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          const lines = (rest + chunk).split('\n');
          rest = lines.pop() ?? '';
          lines.forEach(take);
        });
        response.on('end', () => {
          if (response.statusCode !== 200) measured.failed += 1;
          resolve(text);
        });
      },
    );
    call.on('error', reject);
    call.end(body);
  });
}

async function converse(url: string, client: number, measured: Measured): Promise<string> {
  const messages: Message[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    messages.push({
      role: 'user',
      content: `Hi, I am client ${client}. Tell me a story about a fox and count from ${turn} to 9.`,
    });
    messages.push({ role: 'assistant', content: await stream(url, messages, (client + turn) % 4, measured) });
  }
  return messages.map(({ content }) => content).join('\n');
}

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

const spread = (values: readonly number[]) => ({
  p50: percentile(values, 0.5),
  p95: percentile(values, 0.95),
  p99: percentile(values, 0.99),
  max: percentile(values, 1),
});

/** Reads samples of /metrics into a map. */
async function metrics(url: string): Promise<Map<string, number>> {
  const page = await (await fetch(`${url}/metrics`)).text();
  const samples = page.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(samples.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}

/** The bound of the bucket in which a share of a Prometheus histogram lies. */
function bucket(samples: Map<string, number>, name: string, share: number): string {
  const total = samples.get(`${name}_count`) ?? 0;
  for (const [key, value] of samples) {
    const bound = new RegExp(`^${name}_bucket\\{le="(.+)"\\}$`).exec(key)?.[1];
    if (bound !== undefined && value >= share * total) return bound;
  }
  return '-';
}

const { child, url } = await start(positionals);
const model = ((await (await fetch(`${url}/v1/models`)).json()) as { data: [{ id: string }] }).data[0].id;
const measured: Measured = { ttft: [], tbt: [], tokens: 0, failed: 0 };
const own = monitorEventLoopDelay({ resolution: 10 });
await metrics(url); // the loop delays count from here
own.enable();
const began = performance.now();
const texts = await Promise.all(Array.from({ length: clients }, (_, client) => converse(url, client, measured)));
const seconds = (performance.now() - began) / 1000;
const samples = await metrics(url);
child.kill('SIGTERM');
const millis = (name: string) => (samples.get(name) ?? 0) * 1000;
const quantile = (name: string) => Number(millis(name).toFixed(2));
// prom-client samples its own loop with a timer of 10 ms, which is in every value.
const faceQuantile = (name: string) => Number(Math.max(0, millis(name) - 10).toFixed(2));
const report = {
  model,
  clients,
  turns,
  maxTokens,
  flags: positionals,
  seconds,
  failed: measured.failed,
  tokensPerSecond: measured.tokens / seconds,
  ttftMs: spread(measured.ttft),
  tbtMs: spread(measured.tbt),
  preemptions: {
    swap: samples.get('fastswitch_preemptions_total{kind="swap"}'),
    recompute: samples.get('fastswitch_preemptions_total{kind="recompute"}'),
  },
  transferMiB: (['out', 'in'] as const).map((way) =>
    Math.round((samples.get(`fastswitch_transfer_bytes_total{direction="${way}"}`) ?? 0) / 2 ** 20),
  ),
  faceLoopMs: { p50: faceQuantile('nodejs_eventloop_lag_p50_seconds'), p99: faceQuantile('nodejs_eventloop_lag_p99_seconds') },
  systemLoopMs: {
    p50: quantile('fastswitch_system_loop_delay_seconds{quantile="0.5"}'),
    p99: quantile('fastswitch_system_loop_delay_seconds{quantile="0.99"}'),
    max: quantile('fastswitch_system_loop_delay_seconds{quantile="1"}'),
  },
  stepGapSecondsAtMost: {
    p50: bucket(samples, 'fastswitch_step_gap_seconds', 0.5),
    p99: bucket(samples, 'fastswitch_step_gap_seconds', 0.99),
  },
  clientLoopMsP99: Math.max(0, own.percentile(99) / 1e6 - 10),
  hash: createHash('sha256').update(texts.join('\n')).digest('hex').slice(0, 12),
};
console.log(values.json ? JSON.stringify(report) : report);
