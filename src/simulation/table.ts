/** Results as Markdown: a table for each scenario and pattern, a line for each preset, means over the seeds. */
import type { PresetResult, RunResult } from './result.js';

interface Column {
  readonly title: string;
  readonly digits: number;
  readonly value: (run: RunResult) => number;
}

const GIB = 2 ** 30;

const COLUMNS: readonly Column[] = [
  { title: 'TTFT p50 ms', digits: 0, value: (run) => run.ttftMs.p50 },
  { title: 'p95', digits: 0, value: (run) => run.ttftMs.p95 },
  { title: 'p99', digits: 0, value: (run) => run.ttftMs.p99 },
  { title: 'p99.9', digits: 0, value: (run) => run.ttftMs.p999 },
  { title: 'TBT p50 ms', digits: 1, value: (run) => run.tbtMs.p50 },
  { title: 'p99', digits: 0, value: (run) => run.tbtMs.p99 },
  { title: 'p99.9', digits: 0, value: (run) => run.tbtMs.p999 },
  { title: 'tokens/s', digits: 0, value: (run) => run.throughputTokensPerSecond },
  { title: 'stall at p99', digits: 2, value: (run) => run.stallShareP99 },
  { title: 'swaps', digits: 0, value: (run) => run.preemptions.swap },
  { title: 'recomputes', digits: 0, value: (run) => run.preemptions.recompute },
  { title: 'GiB out', digits: 1, value: (run) => run.bytesOut / GIB },
  { title: 'GiB in', digits: 1, value: (run) => run.bytesIn / GIB },
  { title: 'blocks/run', digits: 1, value: (run) => run.meanRunBlocks },
  { title: 'cached', digits: 2, value: (run) => (run.promptTokens === 0 ? 0 : run.cachedTokens / run.promptTokens) },
  { title: 'own us/step', digits: 0, value: (run) => run.decideMicrosPerStep + run.actorMicrosPerStep },
  { title: 'steps/s', digits: 0, value: (run) => run.stepsPerSecond },
];

/** Tables in the order in which scenarios and patterns first appear. */
export function markdownTables(results: readonly PresetResult[]): string {
  const groups = new Map<string, PresetResult[]>();
  for (const result of results) {
    const key = `${result.scenario} ${result.pattern}`;
    groups.set(key, [...(groups.get(key) ?? []), result]);
  }
  return [...groups.values()].map(table).join('\n');
}

function table(results: readonly PresetResult[]): string {
  const [{ scenario, pattern, settings, runs }] = results as [PresetResult];
  const cells = results.map(({ preset, policy, runs: all }) => [
    preset,
    policy,
    ...COLUMNS.map(({ digits, value }) => mean(all.map(value)).toFixed(digits)),
  ]);
  const rows = [['preset', 'policy', ...COLUMNS.map(({ title }) => title)], ...cells];
  const widths = (rows[0] as string[]).map((_, k) => Math.max(...rows.map((row) => (row[k] as string).length)));
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, k) => (k < 2 ? cell.padEnd(widths[k] as number) : cell.padStart(widths[k] as number))).join(' | ')} |`;
  const rule = `|${widths.map((width, k) => (k < 2 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`;
  const dropped = settings.dropped === 0 ? '' : `; ${requestsOf(settings.dropped)} left out, longer than the context`;
  const seeds = runs.length === 1 ? '1 seed' : `mean of ${runs.length} seeds`;
  const what = `${requestsOf(Math.round(mean(runs.map(({ requests }) => requests))))}, ${seeds}${dropped}`;
  const [head, ...body] = rows as [string[], ...string[][]];
  return [`## ${scenario}, ${pattern}`, '', `${what}.`, '', line(head), rule, ...body.map(line), ''].join('\n');
}

function requestsOf(count: number): string {
  return count === 1 ? '1 request' : `${count} requests`;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
