/**
 * Fairness between tenants in virtual time: runs the shapes under fcfs, vtc and fair, and writes `fairness.md` and its
 * pictures.
 *
 *   npm run fairness -- [--quick] [--seeds N] [--out DIR] [--date DAY]
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { PolicyName } from '../../src/core/types.js';
import { type Chart, render, SHADES } from '../paper/plots.js';
import { type Band, bandOf } from '../paper/statistics.js';
import { figure, percent, spread, table, times } from '../paper/words.js';
import { FLOOD, IDLE, SHAPES, type Shape } from './shapes.js';
import { EXPLANATION, LIMITS, LIVE, OPENING } from './text.js';
import { bounds, machine, SLICES, type TenantSeries, type Watched, watchRun } from './watch.js';

const POLICIES: readonly PolicyName[] = ['fcfs', 'vtc', 'fair'];
const THOUSAND = 1000;

type Runs = Readonly<Record<string, readonly Watched[]>>;

function tenant({ tenants }: Watched, name: string): TenantSeries {
  const found = tenants.find((each) => each.tenant === name);
  if (found === undefined) throw new Error(`no tenant "${name}"`);
  return found;
}

function namesOf({ clients }: Shape): string[] {
  return [...new Set(clients.map((client) => client.tenant))];
}

function last({ service }: TenantSeries): number {
  return service[service.length - 1] ?? 0;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

const over = (runs: readonly Watched[], value: (run: Watched) => number): Band => bandOf(runs.map(value));

function chartOf(shape: Shape, runs: Runs): Chart {
  return {
    title: shape.title,
    about: 'Accumulated service over weight, thousands of priced tokens. Lines: first seed.',
    columns: POLICIES.length,
    panelHeight: 290,
    panels: POLICIES.map((policy) => ({
      title: policy,
      x: { name: 'seconds' },
      y: { name: 'thousands' },
      series: namesOf(shape).map((name, index) => ({
        name,
        colour: SHADES[index % SHADES.length] as string,
        type: 'line' as const,
        points: tenant(runs[policy]?.[0] as Watched, name).service.map((service, slice) => {
          const value = service / tenant(runs[policy]?.[0] as Watched, name).weight / THOUSAND;
          return { x: ((slice + 1) * shape.seconds) / SLICES, band: { mean: value, low: value, high: value } };
        }),
      })),
    })),
  };
}

function section(shape: Shape, runs: Runs): string[] {
  const ours = runs.fair as readonly Watched[];
  const quantum = Math.max(...ours.map(({ quantumTokens }) => quantumTokens));
  const bound = bounds(shape, quantum);
  const names = namesOf(shape);
  return [
    `### ${shape.title}`,
    shape.about,
    `![${shape.title}](fairness-${shape.name}.svg)`,
    table(
      ['policy', ...names.map((name) => `service/weight, ${name}`), 'largest gap', 'tokens/s', 'swaps', 'recomputed'],
      POLICIES.map((policy) => {
        const all = runs[policy] as readonly Watched[];
        return [
          policy,
          ...names.map((name) => spread(over(all, (run) => last(tenant(run, name)) / tenant(run, name).weight))),
          spread(over(all, ({ gap }) => gap)),
          spread(over(all, ({ generatedTokens }) => generatedTokens / shape.seconds)),
          figure(over(all, ({ run }) => run.preemptions.swap).mean),
          figure(over(all, ({ run }) => run.preemptions.recompute).mean),
        ];
      }),
    ),
    `Twice the bound on counters: published form ${figure(bound.published)}; ours ${figure(2 * bound.ours)}, with the quantum of ${quantum} tokens that was in force.`,
    table(
      ['policy', ...names.map((name) => `TTFT P50 / P99 s, ${name}`)],
      POLICIES.map((policy) => [
        policy,
        ...names.map((name) => {
          const at = (share: number) =>
            figure(over(runs[policy] as readonly Watched[], (run) => quantile(tenant(run, name).ttftSeconds, share)).mean);
          return `${at(0.5)} / ${at(0.99)}`;
        }),
      ]),
    ),
  ];
}

/** How far the shares of weights 1:2:3:4 are from tenths. */
function weightsLine(runs: readonly Watched[]): string {
  const shares = [1, 2, 3, 4].map((weight) =>
    over(runs, (run) => {
      const all = run.tenants.reduce((sum, each) => sum + last(each), 0);
      return last(tenant(run, `weight ${weight}`)) / all;
    }),
  );
  const off = shares.map(({ low, high }, k) => Math.max(Math.abs(10 * low - k - 1), Math.abs(10 * high - k - 1)) / (k + 1));
  return `Under \`fair\` the tenants of weights 1 to 4 got ${shares.map(({ mean }) => percent(mean)).join(', ')} of all service from the first second on; the worst share of the worst seed is ${percent(Math.max(...off))} from 10:20:30:40.`;
}

function flood(runs: Runs, idle: readonly Watched[]): string[] {
  const light = (run: Watched) => quantile(tenant(run, 'light').ttftSeconds, 0.99);
  const alone = over(idle, light).mean;
  const rate = (policy: string) => over(runs[policy] as readonly Watched[], ({ generatedTokens }) => generatedTokens).mean;
  const rows = POLICIES.map((policy) => {
    const all = runs[policy] as readonly Watched[];
    const p99 = over(all, light);
    return [policy, spread(p99), times(p99.mean / alone), times(rate(policy) / rate('fcfs'))];
  });
  const step = Math.max(...(runs.fair as readonly Watched[]).map(({ stepSeconds }) => stepSeconds));
  return [
    table(['policy', 'TTFT P99 s of the light tenant', 'over that on an idle server', 'tokens over fcfs'], rows),
    `Alone on the server its TTFT P99 is ${figure(alone)} s; the longest step of \`fair\` took ${figure(step)} s.`,
  ];
}

function runAll(shape: Shape, seeds: number): Runs {
  const make = (policy: PolicyName) =>
    Array.from({ length: seeds }, (_, k) => {
      process.stderr.write(`fairness: ${shape.name}, ${policy}, seed ${k + 1}\n`);
      return watchRun(shape, policy, k + 1);
    });
  return Object.fromEntries(POLICIES.map((policy) => [policy, make(policy)]));
}

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    seeds: { type: 'string', default: '3' },
    out: { type: 'string', default: 'docs/evaluation' },
    date: { type: 'string', default: new Date().toISOString().slice(0, 10) },
  },
});
const seeds = values.quick ? 1 : Number(values.seeds);
const shrink = (shape: Shape): Shape => (values.quick ? { ...shape, seconds: 20 } : shape);
mkdirSync(values.out, { recursive: true });
const parts = [OPENING];
const { deviceBlocks, maxBatchTokens } = machine();
parts.push(
  `Written on ${values.date} by \`npm run fairness\`, ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}; means with the least and the greatest behind them. Llama-3-8B on an A10 with ${deviceBlocks} blocks of KV (a quarter of the scenario's, so that a tenant's share is a few requests), at most ${maxBatchTokens} tokens a step, preset \`default\` under each policy.`,
  EXPLANATION,
  '## The published shapes, and a flood',
  'The largest gap is that of accumulated service over weight between two tenants while both have somebody waiting, over any interval: the figure that twice the bound on counters limits. `fcfs` has no bound.',
);
const idle = Array.from({ length: seeds }, (_, k) => watchRun(shrink(IDLE), 'fair', k + 1));
for (const shape of [...SHAPES, FLOOD].map(shrink)) {
  const runs = runAll(shape, seeds);
  writeFileSync(join(values.out, `fairness-${shape.name}.svg`), render(chartOf(shape, runs)));
  parts.push(...section(shape, runs));
  if (shape.name === 'weights') parts.push(weightsLine(runs.fair as readonly Watched[]));
  if (shape.name === 'flood') parts.push(...flood(runs, idle));
}
parts.push(LIVE, LIMITS);
writeFileSync(join(values.out, 'fairness.md'), `${parts.join('\n\n')}\n`);
