/**
 * HTTP load with streaming on the real server: conversations of several turns whose priority changes from turn to turn.
 * Tokens per second, TTFT and TBT as clients see them, and what the server says of its copies, its event loops and the
 * cost of a step beside the engine.
 *
 *   node dist/bench/serve.js [--clients 64] [--turns 3] [--tokens 64] [--think 0] [--quick] [--json] [-- serve flags]
 *   node dist/bench/serve.js --presets vllm-0.3,vllm-1,hf-cb,fastswitch,default [--rounds 3] ...
 *
 * With --presets every preset serves the same conversations on too little device memory, by priority unless flags say
 * otherwise; servers take turns (A B A B), each is started anew, and the median of the rounds is reported. The texts must be
 * the same under all. Clients and server share the machine's cores. Load is bounded: clients x turns requests a round.
 */
import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { start, stop } from './serving/process.js';
import { median, percentile } from './statistics.js';

const { values, positionals } = parseArgs({
  options: {
    clients: { type: 'string' },
    turns: { type: 'string' },
    tokens: { type: 'string' },
    think: { type: 'string', default: '0' },
    presets: { type: 'string' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const clients = Number(values.clients ?? (values.quick ? 8 : 64));
const turns = Number(values.turns ?? (values.quick ? 2 : 3));
/** Mean of the lengths that are asked for. */
const meanTokens = Number(values.tokens ?? (values.quick ? 16 : 64));
const thinkMillis = Number(values.think);
const rounds = Number(values.rounds ?? (values.quick ? 1 : 3));
/** About a quarter of what 64 conversations of three turns need. */
const PRESSED = ['--policy', 'priority', '--device-kv', '8MiB'];

/** An odd number, so that the median request is of one rank and not between two. */
const PRIORITIES = 5;

interface Message {
  readonly role: 'user' | 'assistant';
  readonly content: string;
}

interface Measured {
  readonly ttft: number[];
  /** Of those of the highest rank. */
  readonly urgentTtft: number[];
  readonly tbt: number[];
  tokens: number;
  failed: number;
}

interface Turn {
  readonly messages: readonly Message[];
  readonly maxTokens: number;
  readonly priority: number;
}

/** One streamed turn; every SSE chunk that carries tokens is timed when it arrives. */
function stream(url: string, model: string, { messages, maxTokens, priority }: Turn, measured: Measured): Promise<string> {
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
      if (last > 0) measured.tbt.push(now - last);
      else measured.ttft.push(now - sent);
      if (last === 0 && priority === 0) measured.urgentTtft.push(now - sent);
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

/** Scattered over [0, 1), the same in every run. */
const scattered = (client: number, turn: number) => ((client * 0.618_034 + turn * 0.414_214) * 7) % 1;

async function converse(url: string, model: string, client: number, measured: Measured): Promise<string> {
  const messages: Message[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    messages.push({
      role: 'user',
      content: `Hi, I am client ${client}. Tell me a story about a fox and count from ${turn} to 9.`,
    });
    const maxTokens = Math.max(1, Math.round(meanTokens * (0.5 + scattered(client, turn))));
    const priority = (2 * client + 3 * turn) % PRIORITIES;
    messages.push({ role: 'assistant', content: await stream(url, model, { messages, maxTokens, priority }, measured) });
    if (thinkMillis > 0) await new Promise((resolve) => setTimeout(resolve, 2 * thinkMillis * scattered(turn, client)));
  }
  return messages.map(({ content }) => content).join('\n');
}

const spread = (values: readonly number[]) => ({
  p50: percentile(values, 0.5),
  p95: percentile(values, 0.95),
  p99: percentile(values, 0.99),
  p999: percentile(values, 0.999),
  max: percentile(values, 1),
});

type Samples = ReadonlyMap<string, number>;

/** Reads samples of /metrics into a map. */
async function metrics(url: string): Promise<Samples> {
  const page = await (await fetch(`${url}/metrics`)).text();
  const samples = page.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(samples.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}

/** The bound of the bucket in which a share of a Prometheus histogram lies. */
function bucket(samples: Samples, name: string, share: number): string {
  const total = samples.get(`${name}_count`) ?? 0;
  for (const [key, value] of samples) {
    const bound = new RegExp(`^${name}_bucket\\{le="(.+)"\\}$`).exec(key)?.[1];
    if (bound !== undefined && value >= share * total) return bound;
  }
  return '-';
}

/** What the event loops and the steps took beside the engine. */
function overheads(samples: Samples) {
  const quantile = (name: string) => Number(((samples.get(name) ?? 0) * 1000).toFixed(2));
  // prom-client samples its own loop with a timer of 10 ms, which is in every value.
  const faceQuantile = (name: string) => Number(Math.max(0, (samples.get(name) ?? 0) * 1000 - 10).toFixed(2));
  return {
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
  };
}

/** What the server counted between two scrapes. */
function counted(before: Samples, after: Samples) {
  const sample = (name: string) => (after.get(`fastswitch_${name}`) ?? 0) - (before.get(`fastswitch_${name}`) ?? 0);
  const way = (direction: 'out' | 'in') => ({
    transfers: sample(`transfers_total{direction="${direction}"}`),
    runs: sample(`transfer_runs_total{direction="${direction}"}`),
    mebibytes: sample(`transfer_bytes_total{direction="${direction}"}`) / 2 ** 20,
    /** Inside the copies, without waiting. */
    millis: 1000 * sample(`transfer_seconds_total{direction="${direction}"}`),
  });
  return {
    swaps: sample('preemptions_total{kind="swap"}'),
    recomputes: sample('preemptions_total{kind="recompute"}'),
    out: way('out'),
    in: way('in'),
    cachedTokens: sample('cached_tokens_total'),
    prefillTokens: sample('computed_tokens_total{kind="prefill"}'),
    steps: sample('steps_total'),
    stepSeconds: sample('step_seconds_sum'),
    /** Of steps beside the engine's own time, and of steps that waited for copies or for requests. */
    gapSeconds: sample('step_gap_seconds_sum'),
    cpuSeconds: (after.get('process_cpu_seconds_total') ?? 0) - (before.get('process_cpu_seconds_total') ?? 0),
  };
}

/** All conversations at once on a server of their own. */
async function run(flags: readonly string[]) {
  const { child, url } = await start(['--max-queued', '4096', ...flags]);
  const model = ((await (await fetch(`${url}/v1/models`)).json()) as { data: [{ id: string }] }).data[0].id;
  const measured: Measured = { ttft: [], urgentTtft: [], tbt: [], tokens: 0, failed: 0 };
  // Compiles what is about to be measured.
  const warmUp = Array.from({ length: 4 }, (_, turn) => ({ role: 'user' as const, content: `warm up ${turn}` }));
  const ignored: Measured = { ttft: [], urgentTtft: [], tbt: [], tokens: 0, failed: 0 };
  await Promise.all(warmUp.map((one) => stream(url, model, { messages: [one], maxTokens: 32, priority: 0 }, ignored)));
  const own = monitorEventLoopDelay({ resolution: 10 });
  const before = await metrics(url); // the loop delays count from here
  own.enable();
  const began = performance.now();
  const texts = await Promise.all(Array.from({ length: clients }, (_, client) => converse(url, model, client, measured)));
  const seconds = (performance.now() - began) / 1000;
  const after = await metrics(url);
  own.disable();
  await stop(child);
  return {
    model,
    clients,
    turns,
    meanTokens,
    flags,
    seconds,
    failed: measured.failed,
    tokensPerSecond: measured.tokens / seconds,
    ttftMs: spread(measured.ttft),
    urgentTtftMs: spread(measured.urgentTtft),
    tbtMs: spread(measured.tbt),
    counted: counted(before, after),
    ...overheads(after),
    clientLoopMsP99: Math.max(0, own.percentile(99) / 1e6 - 10),
    hash: createHash('sha256').update(texts.join('\n')).digest('hex').slice(0, 12),
  };
}

type Report = Awaited<ReturnType<typeof run>>;

/** A column of the table; `better`: which way, for those that are compared. */
interface Column {
  readonly title: string;
  readonly of: (report: Report) => number;
  readonly digits: number;
  readonly better?: 'more' | 'less';
}

const COLUMNS: readonly Column[] = [
  { title: 'tok/s', of: ({ tokensPerSecond }) => tokensPerSecond, digits: 0, better: 'more' },
  { title: 'TTFT50', of: ({ ttftMs }) => ttftMs.p50, digits: 0, better: 'less' },
  { title: 'TTFT95', of: ({ ttftMs }) => ttftMs.p95, digits: 0, better: 'less' },
  { title: 'TTFT99', of: ({ ttftMs }) => ttftMs.p99, digits: 0, better: 'less' },
  { title: 'urgent95', of: ({ urgentTtftMs }) => urgentTtftMs.p95, digits: 0, better: 'less' },
  { title: 'TBT50', of: ({ tbtMs }) => tbtMs.p50, digits: 1, better: 'less' },
  { title: 'TBT99', of: ({ tbtMs }) => tbtMs.p99, digits: 1, better: 'less' },
  { title: 'TBT99.9', of: ({ tbtMs }) => tbtMs.p999, digits: 1, better: 'less' },
  { title: 'swaps', of: (report) => report.counted.swaps, digits: 0 },
  { title: 'recomp', of: (report) => report.counted.recomputes, digits: 0 },
  { title: 'MiB out', of: (report) => report.counted.out.mebibytes, digits: 1 },
  { title: 'MiB in', of: (report) => report.counted.in.mebibytes, digits: 1 },
  { title: 'ms out', of: (report) => report.counted.out.millis, digits: 0 },
  { title: 'ms in', of: (report) => report.counted.in.millis, digits: 0 },
  { title: 'cached', of: (report) => report.counted.cachedTokens, digits: 0 },
  { title: 'prefill', of: (report) => report.counted.prefillTokens, digits: 0 },
  { title: 'steps', of: (report) => report.counted.steps, digits: 0 },
  { title: 'step s', of: (report) => report.counted.stepSeconds, digits: 2 },
  { title: 'gap s', of: (report) => report.counted.gapSeconds, digits: 2 },
  { title: 'CPU s', of: (report) => report.counted.cpuSeconds, digits: 1 },
];

interface Row {
  readonly preset: string;
  /** Medians over the rounds, by column. */
  readonly figures: readonly number[];
}

function print(rows: readonly Row[], columns: readonly (readonly [title: string, digits: number])[]): void {
  const width = Math.max(10, ...rows.map(({ preset }) => preset.length));
  const cell = (text: string) => text.padStart(9);
  console.log(' '.repeat(width) + columns.map(([title]) => cell(title)).join(''));
  for (const { preset, figures } of rows) {
    console.log(preset.padEnd(width) + figures.map((figure, index) => cell(figure.toFixed(columns[index]?.[1]))).join(''));
  }
}

/** How many times better than the first row; above 1 is better. */
function ratios(rows: readonly Row[]): Row[] {
  const base = rows[0]?.figures ?? [];
  return rows.map(({ preset, figures }) => ({
    preset,
    figures: COLUMNS.flatMap(({ better }, index) => {
      const [one, other] = [figures[index] as number, base[index] as number];
      return better === undefined ? [] : [better === 'more' ? one / other : other / one];
    }),
  }));
}

async function compare(presets: readonly string[]): Promise<void> {
  const reports = new Map<string, Report[]>(presets.map((preset) => [preset, []]));
  for (let round = 0; round < rounds; round += 1) {
    for (const preset of presets) {
      const report = await run([...PRESSED, '--preset', preset, ...positionals]);
      if (report.failed > 0) throw new Error(`${preset}: ${report.failed} requests failed`);
      reports.get(preset)?.push(report);
      if (!values.json) process.stderr.write(`round ${round + 1} ${preset}: ${report.tokensPerSecond.toFixed(0)} tokens/s\n`);
    }
  }
  const all = [...reports.values()].flat();
  const hashes = new Set(all.map(({ hash }) => hash));
  if (hashes.size > 1) throw new Error(`the presets said different things: ${[...hashes].join(', ')}`);
  const rows = [...reports].map(([preset, own]) => ({ preset, figures: COLUMNS.map(({ of }) => median(own.map(of))) }));
  if (values.json) {
    console.log(JSON.stringify(Object.fromEntries(reports)));
    return;
  }
  const flags = [...PRESSED, ...positionals].join(' ');
  console.log(`${clients} clients x ${turns} turns of about ${meanTokens} tokens, ${rounds} rounds, ${flags}; latencies in ms`);
  print(
    rows,
    COLUMNS.map(({ title, digits }) => [title, digits]),
  );
  console.log(`\nhow many times better than ${rows[0]?.preset}`);
  print(
    ratios(rows),
    COLUMNS.flatMap(({ title, better }) => (better === undefined ? [] : [[title, 2] as const])),
  );
}

if (values.presets !== undefined) {
  await compare(values.presets.split(','));
} else {
  const report = await run(positionals);
  console.log(values.json ? JSON.stringify(report) : report);
}
