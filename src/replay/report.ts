/** A what-if as a page: first how far the method is from what really happened, then both runs side by side, and a plot. */
import { bytes, counted, duration, printable, whole } from '../core/units.js';
import type { Spread } from '../simulation/result.js';
import type { Figures, RunFigures } from './figures.js';
import type { CopyFitQuality } from './fit.js';
import { shareChart } from './share-chart.js';
import type { WhatIfResult } from './what-if.js';
import { columns, folded, millis, PAGE_COLUMNS, shortened } from './words.js';

/** Of at most 100 columns, with a line break at its end. */
export function whatIfPage(result: WhatIfResult): string {
  return [
    ...folded(`What if: ${result.change}`),
    '',
    ...methodLines(result),
    '',
    ...sideBySide(result),
    '',
    ...chart(result),
    '',
    ...result.notes.flatMap((note) => folded(`- ${note}`)),
    '',
  ].join('\n');
}

/** The reader is to know the error of the method before its answer. */
function methodLines({ error, machine, seeds, recorded }: WhatIfResult): string[] {
  const { steps, copies } = machine;
  const { ttftP50, ttftP95, ttftP99, tbtP50, tbtP99, tokensPerSecond } = error;
  const most = (...errors: readonly (number | null)[]) => {
    const known = errors.filter((each) => each !== null).map(Math.abs);
    return known.length === 0 ? NOTHING : share(Math.max(...known));
  };
  return [
    'The recording against its own model',
    `  TTFT P50 ${signed(ttftP50)}, P95 ${signed(ttftP95)}, P99 ${signed(ttftP99)}; TBT P50 ${signed(tbtP50)}, P99 ${signed(tbtP99)}; throughput ${signed(tokensPerSecond)}`,
    ...folded(
      `  The model is within ${most(ttftP50, tbtP50, tokensPerSecond)} of the recording in medians and throughput, within ` +
        `${most(ttftP95, ttftP99, tbtP99)} in the tails: a difference below that says nothing.`,
    ),
    ...folded(
      `  Fitted to ${counted(recorded.steps, 'step')}: half of them within ${share(steps.medianError)} of the fit, 95 % within ` +
        `${share(steps.p95Error)}; of time it had not seen it was ${share(steps.heldOutError)} off. The machine drifted between ` +
        `${steps.drift.map((ratio) => ratio.toFixed(2)).join(' and ')} of its usual time.`,
    ),
    ...folded(`  Copies out: ${copyText(copies.out)}; in: ${copyText(copies.in)}. ${counted(seeds, 'run')} each, medians.`),
  ];
}

function copyText({ source, samples, baseMicros, byteMicros, medianError }: CopyFitQuality): string {
  if (source === 'guess') return `${whole(samples)}, costs guessed`;
  const speed = byteMicros === 0 ? 'nothing for bytes' : `${(1 / byteMicros / 1000).toFixed(1)} GB/s`;
  const cost = `${baseMicros < 10 ? `${baseMicros.toFixed(1)} µs` : duration(Math.round(baseMicros))} and ${speed}`;
  return source === 'recorded'
    ? `${whole(samples)}, ${cost}, half within ${share(medianError)}`
    : `${whole(samples)}, costs of the other way`;
}

function share(value: number): string {
  return `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
}

/** Where there is nothing to measure or to compare. */
const NOTHING = '-';

/** Of a difference, with its sign. */
function signed(value: number | null): string {
  if (value === null) return NOTHING;
  return `${value < 0 ? '-' : '+'}${share(Math.abs(value))}`;
}

interface Row {
  readonly title: string;
  /** Null: there is nothing of that. */
  readonly of: (figures: Figures) => number | null;
  readonly show: (value: number) => string;
}

/** Everything takes time: a spread of nothing but zeros has no samples. */
function percentile(spread: Spread, name: keyof Spread): number | null {
  return spread.p999 === 0 ? null : spread[name];
}

const count = (value: number) => whole(Math.round(value));
const rate = (value: number) => (value < 100 ? value.toFixed(1) : count(value));

const TENANT_ROWS: readonly Row[] = [
  { title: 'TTFT P50 ms', of: ({ ttftMs }) => percentile(ttftMs, 'p50'), show: millis },
  { title: 'TTFT P95 ms', of: ({ ttftMs }) => percentile(ttftMs, 'p95'), show: millis },
  { title: 'TTFT P99 ms', of: ({ ttftMs }) => percentile(ttftMs, 'p99'), show: millis },
  { title: 'TBT P50 ms', of: ({ tbtMs }) => percentile(tbtMs, 'p50'), show: millis },
  { title: 'TBT P99 ms', of: ({ tbtMs }) => percentile(tbtMs, 'p99'), show: millis },
  { title: 'request P50 ms', of: ({ requestMs }) => percentile(requestMs, 'p50'), show: millis },
  { title: 'ms for each token', of: ({ msPerToken }) => (msPerToken === 0 ? null : msPerToken), show: millis },
  { title: 'tokens/s', of: ({ tokensPerSecond }) => tokensPerSecond, show: rate },
  { title: 'swapped out', of: ({ preemptions }) => preemptions.swap, show: count },
  { title: 'recomputed', of: ({ preemptions }) => preemptions.recompute, show: count },
];

type RunRow = Omit<Row, 'of'> & { readonly of: (figures: RunFigures) => number | null };

const RUN_ROWS: readonly RunRow[] = [
  { title: 'ended by themselves', of: ({ ended }) => ended.stop + ended.length, show: count },
  { title: 'cancelled or refused', of: ({ ended }) => ended.aborted + ended.rejected + ended.failed, show: count },
  ...TENANT_ROWS,
  { title: 'copied out', of: ({ bytesOut }) => bytesOut, show: bytes },
  { title: 'copied in', of: ({ bytesIn }) => bytesIn, show: bytes },
  { title: 'seconds', of: ({ seconds }) => seconds, show: (value) => value.toFixed(1) },
];

/** Others are in the JSON. */
const TENANTS_MAX = 8;
const TENANT_COLUMNS = 24;

function sideBySide({ recorded, modelled, changed }: WhatIfResult): string[] {
  const rows: string[][] = [[`all, ${counted(recorded.requests, 'request')}`, '', '', '', '']];
  rows.push(...RUN_ROWS.map((row) => cells(row, [recorded, modelled, changed])));
  rows.push(...fairnessRows([recorded, modelled, changed]));
  const tenants = Object.entries(recorded.tenants).sort(([, a], [, b]) => b.generatedTokens - a.generatedTokens);
  // One tenant is all.
  const shown = tenants.length > 1 ? tenants.slice(0, TENANTS_MAX) : [];
  for (const [name, own] of shown) {
    const all = [own, modelled.tenants[name] ?? own, changed.tenants[name] ?? own] as const;
    rows.push([`${tenantText(name)}, ${counted(own.requests, 'request')}`, '', '', '', '']);
    rows.push(...TENANT_ROWS.map((row) => cells(row, all)));
  }
  const left = tenants.length - shown.length;
  return [
    ...columns(['', 'recorded', 'the model', 'what if', 'change'], rows, ['']),
    ...(left > 0 && shown.length > 0 ? [`and ${counted(left, 'tenant')} more: --json has them all`] : []),
    '(change: what if against the model, so that the error of the model is in both)',
  ];
}

function tenantText(name: string): string {
  return name === '' ? 'no tenant' : shortened(printable(name), TENANT_COLUMNS);
}

type Three<T> = readonly [recorded: T, modelled: T, changed: T];

function cells<T>(
  { title, of, show }: { title: string; of: (run: T) => number | null; show: (value: number) => string },
  runs: Three<T>,
) {
  const values = runs.map(of);
  const [, modelled = null, changed = null] = values;
  const change = modelled === null || changed === null ? NOTHING : changeText(modelled, changed);
  return [`  ${title}`, ...values.map((value) => (value === null ? NOTHING : show(value))), change];
}

function changeText(from: number, to: number): string {
  if (from === to) return '=';
  if (from === 0) return 'new';
  // From three times on a percentage is harder to read than a multiple.
  return to >= 3 * from ? `x ${rate(to / from)}` : signed(to / from - 1);
}

function fairnessRows(runs: Three<RunFigures>): string[][] {
  if (runs.some(({ fairness }) => fairness === null)) return [];
  const of = (end: 'best' | 'worst') => runs.map(({ fairness }) => tenantText(fairness?.[end].tenant ?? ''));
  const jain = {
    title: 'fairness (Jain, 1 is even)',
    of: ({ fairness }: RunFigures) => fairness?.jain ?? 1,
    show: (value: number) => value.toFixed(3),
  };
  return [cells(jain, runs), ['  waits least for a token', ...of('best'), ''], ['  waits most for a token', ...of('worst'), '']];
}

function chart({ recorded, modelled, changed }: WhatIfResult): string[] {
  const lines = shareChart(
    [
      { name: 'recorded', mark: 'o', shares: recorded.ttftSharesMs },
      { name: 'the model', mark: '.', shares: modelled.ttftSharesMs },
      { name: 'what if', mark: '#', shares: changed.ttftSharesMs },
    ],
    PAGE_COLUMNS,
  );
  return lines.length === 0 ? [] : ['Share of requests with a first token within ...', ...lines];
}
