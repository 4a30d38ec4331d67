/** The figures that one looks at first, each with its last two minutes. */
import type { BoardAbout, BoardFrame } from '../../../core/board.js';
import { about, frames, history } from './feed.js';
import { count, figure, percent, seconds } from './format.js';
import type { Point, Spread } from './history.js';
import { useSource } from './hooks.js';
import { running } from './states.js';

interface Figure {
  readonly title: string;
  readonly value: string;
  readonly small: string;
  readonly curve: (point: Point) => number | null;
  /** The colour of a state, where it is of one. */
  readonly tone?: string;
}

const BLANK = '–';
const spreadText = (value: number | null) => (value === null ? BLANK : seconds(value));
const spreadSmall = ({ p99 }: Spread) => (p99 === null ? 'no token in 10 s' : `P99 ${seconds(p99)}`);

function figuresOf(frame: BoardFrame, { maxRunning }: BoardAbout, now: Point): Figure[] {
  const { counts, device, totals } = frame;
  const used = device.total === 0 ? 0 : 1 - device.free / device.total;
  const { swap, recompute } = totals.preemptions;
  return [
    {
      title: 'Running',
      value: count(running(counts)),
      small: `of ${count(maxRunning)} at most`,
      curve: (point) => point.running,
      tone: 'decoding',
    },
    { title: 'Queued', value: count(counts.queued), small: 'wait for room', curve: (point) => point.queued, tone: 'queued' },
    {
      title: 'Swapped',
      value: count(counts.swapped),
      small: `${count(counts['swapping-out'])} going, ${count(counts['swapping-in'])} coming`,
      curve: (point) => point.swapped,
      tone: 'swapped',
    },
    {
      title: 'Tokens/s',
      value: count(now.tokensPerSecond),
      small: `${count(totals.generatedTokens)} in all`,
      curve: (point) => point.tokensPerSecond,
    },
    { title: 'TTFT P50', value: spreadText(now.ttft.p50), small: spreadSmall(now.ttft), curve: (point) => point.ttft.p50 },
    { title: 'TBT P50', value: spreadText(now.tbt.p50), small: spreadSmall(now.tbt), curve: (point) => point.tbt.p50 },
    {
      title: 'Preemptions/s',
      value: figure(now.preemptionsPerSecond),
      small: `${count(swap)} swaps, ${count(recompute)} recomputes`,
      curve: (point) => point.preemptionsPerSecond,
      tone: 'swapping-out',
    },
    {
      title: 'Device memory',
      value: percent(used),
      small: `${count(device.free)} of ${count(device.total)} blocks free`,
      curve: (point) => point.deviceUsed,
    },
  ];
}

export function Kpis() {
  const frame = useSource(frames);
  const known = useSource(about);
  const now = history.last;
  if (frame === null || known === null || now === null) return <section class="kpis" aria-label="Figures" />;
  return (
    <section class="kpis" aria-label="Figures">
      {figuresOf(frame, known, now).map(({ title, value, small, curve, tone }) => (
        <div class="kpi" key={title} data-phase={tone}>
          <h3>{title}</h3>
          <p class="value">{value}</p>
          <p class="small">{small}</p>
          <Spark values={history.points.map((point) => (point === null ? null : curve(point)))} />
        </div>
      ))}
    </section>
  );
}

const SPARK = { width: 100, height: 22 };

/** A curve without a scale: how it was, not how much. */
function Spark({ values }: { readonly values: readonly (number | null)[] }) {
  const most = Math.max(...values.map((value) => value ?? 0));
  if (most <= 0 || values.length < 3) return <svg class="spark" aria-hidden="true" />;
  const { width, height } = SPARK;
  let pen = 'M';
  const path = values
    .map((value, index) => {
      if (value === null) {
        pen = 'M';
        return '';
      }
      const place = `${pen}${((index / (values.length - 1)) * width).toFixed(1)},${(height - 1 - (value / most) * (height - 3)).toFixed(1)}`;
      pen = 'L';
      return place;
    })
    .join('');
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">
      <path d={path} />
    </svg>
  );
}
