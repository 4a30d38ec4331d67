/** Numbers, tables and verdicts as Markdown. */
import type { Band } from './statistics.js';

/** Three digits, or all before the point, in groups of three. */
export function figure(value: number): string {
  const size = Math.abs(value);
  if (size >= 999.5) return Math.round(value).toLocaleString('en-US');
  if (size >= 99.95) return value.toFixed(0);
  if (size >= 9.995) return value.toFixed(1);
  if (size >= 0.0995 || size === 0) return value.toFixed(2);
  return value.toPrecision(2);
}

/** The same without the digits that say nothing, for axes. */
export function tick(value: number): string {
  return Math.abs(value) >= 1000 ? figure(value) : String(Number(value.toPrecision(3)));
}

/** `12.3 (11.0 to 14.1)`, or the number alone where there is no range. */
export function spread({ mean, low, high }: Band, show: (value: number) => string = figure): string {
  const [middle, from, to] = [show(mean), show(low), show(high)];
  return from === to ? middle : `${middle} (${from} to ${to})`;
}

/** A ratio: `2.31x`. */
export function times(value: number): string {
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)}x`;
}

export function percent(share: number): string {
  const value = 100 * share;
  return `${Math.abs(value) < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function signedPercent(share: number): string {
  return `${share >= 0 ? '+' : ''}${percent(share)}`;
}

export function bytes(count: number): string {
  if (count >= 2 ** 30) return `${figure(count / 2 ** 30)} GiB`;
  if (count >= 2 ** 20) return `${count / 2 ** 20} MiB`;
  return `${count / 1024} KiB`;
}

/** A Markdown table; the first column is aligned left, numbers right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], left = 1): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${head.map((_, k) => (k < left ? '---|' : '---:|')).join('')}`, ...rows.map(line)].join('\n');
}

/** One line of the summary: what was published, what came out here, and whether that is the same. */
export interface Finding {
  readonly what: string;
  /** With its tag; or a dash where nothing was published. */
  readonly published: string;
  readonly ours: string;
  /** One plain sentence. */
  readonly verdict: string;
}

/** The three lines that open a section. */
export function findingLines({ what, published, ours, verdict }: Finding): string {
  return [`- **${what}**`, `  - published: ${published}`, `  - ours: ${ours}`, `  - verdict: ${verdict}`].join('\n');
}

const SHOWN_MAX = 4;

/** The first few of a list that is in the tables anyway. */
export function first(items: readonly string[]): string {
  const more = items.length - SHOWN_MAX;
  return more <= 0 ? items.join('; ') : `${items.slice(0, SHOWN_MAX).join('; ')}; and ${more} more, see the tables`;
}

/** `a, b and c`. */
export function listed(items: readonly string[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`;
}
