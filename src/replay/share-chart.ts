/** Distributions as a plot of text: for each share of the samples, a mark where on a logarithmic axis that share ends. */

export interface ShareSeries {
  readonly name: string;
  /** One character. Where marks meet, that of a later series stands. */
  readonly mark: string;
  /** Milliseconds at 0, 1, ... 100 % of the samples. */
  readonly shares: readonly number[];
}

/** Per cent at which there is a line, from the top. */
const LINES = [99, 95, 90, 85, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10, 5, 1] as const;
const LABEL = 6;
/** Of a decade: ticks of the axis. */
const TICKS = [1, 2, 5] as const;
/** Columns that a label of the axis takes, and a space. */
const TICK_COLUMNS = 9;

/** Lines of at most `columns`; none where there is nothing to show. */
export function shareChart(series: readonly ShareSeries[], columns: number): string[] {
  const shown = LINES.flatMap((percent) => series.map(({ shares }) => shares[percent] ?? 0)).filter((ms) => ms > 0);
  if (shown.length === 0) return [];
  const low = Math.min(...shown);
  const high = Math.max(...shown, 1.001 * low);
  const width = columns - LABEL - 2;
  const columnOf = (ms: number) => Math.round(((width - 1) * Math.log(Math.max(ms, low) / low)) / Math.log(high / low));
  const lines = LINES.map((percent) => {
    const cells = new Array<string>(width).fill(percent % 25 === 0 && percent > 0 ? '┈' : ' ');
    for (const { mark, shares } of series) cells[columnOf(shares[percent] ?? low)] = mark;
    return `${`${percent} %`.padStart(LABEL)} │${cells.join('').trimEnd()}`;
  });
  return [...lines, ...axis(low, high, width, columnOf), legend(series)];
}

function axis(low: number, high: number, width: number, columnOf: (ms: number) => number): string[] {
  const line = new Array<string>(width).fill('─');
  const labels = new Array<string>(width).fill(' ');
  let free = 0;
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++) {
    for (const tick of TICKS) {
      const ms = tick * 10 ** decade;
      const column = columnOf(ms);
      if (ms < low || ms > high || column < free) continue;
      const text = ms < 1000 ? `${Number(ms.toPrecision(1))} ms` : `${Number((ms / 1000).toPrecision(1))} s`;
      line[column] = '┬';
      if (column + text.length > width) continue;
      for (const [k, letter] of [...text].entries()) labels[column + k] = letter;
      free = column + TICK_COLUMNS;
    }
  }
  return [`${' '.repeat(LABEL)} └${line.join('')}`, `${' '.repeat(LABEL + 2)}${labels.join('').trimEnd()}`];
}

function legend(series: readonly ShareSeries[]): string {
  return `${' '.repeat(LABEL + 2)}${series.map(({ name, mark }) => `${mark} ${name}`).join('    ')}`;
}
