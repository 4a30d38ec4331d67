import type { BoardFrame, BoardTransfer } from '../../../core/board.js';
import { frames, history } from './feed.js';
import { count, figure, percent, plural, rate, seconds, span } from './format.js';
import { jain } from './history.js';
import { useSource } from './hooks.js';
import { chosen } from './place.js';
import { type Curve, Plot } from './plot.js';

const millis = (value: number) => seconds(value / 1000);
const scaled = (value: number | null | undefined) => value ?? null;

const LINK: readonly Curve[] = [
  { title: 'out', colour: 'swapping-out', value: (point) => point.bytesPerSecond.out, filled: true },
  { title: 'in', colour: 'swapping-in', value: (point) => point.bytesPerSecond.in, filled: true },
];
const BUSY: readonly Curve[] = [
  { title: 'out', colour: 'swapping-out', value: (point) => point.linkBusy.out, filled: true },
  { title: 'in', colour: 'swapping-in', value: (point) => point.linkBusy.in, filled: true },
];
const STEP: readonly Curve[] = [
  { title: 'mean', colour: 'ink', value: (point) => point.stepMillis },
  { title: 'P99', colour: 'muted', value: (point) => (point.step.p99 === null ? null : point.step.p99 * 1000), dashed: true },
  { title: 'gap', colour: 'swapped', value: (point) => point.gapMillis },
];
const BATCH: readonly Curve[] = [
  { title: 'prefill', colour: 'prefilling', value: (point) => point.prefillTokens, filled: true },
  { title: 'decode', colour: 'decoding', value: (point) => point.decodeTokens, filled: true },
];
const spreadOf = (of: 'ttft' | 'tbt'): readonly Curve[] => [
  { title: 'P50', colour: 'ink', value: (point) => point[of].p50 },
  { title: 'P99', colour: 'muted', value: (point) => point[of].p99, dashed: true },
];
const TTFT = spreadOf('ttft');
const TBT = spreadOf('tbt');
const LOOP: readonly Curve[] = [
  { title: 'P50', colour: 'ink', value: (point) => scaled(point.loopDelay?.[0]) },
  { title: 'P99', colour: 'muted', value: (point) => scaled(point.loopDelay?.[1]), dashed: true },
  { title: 'worst', colour: 'swapping-out', value: (point) => scaled(point.loopDelay?.[2]) },
];

const REQUESTS: readonly Curve[] = [
  { title: 'run', colour: 'decoding', value: (point) => point.running, filled: true },
  { title: 'queued', colour: 'queued', value: (point) => point.queued },
  { title: 'swapped', colour: 'swapped', value: (point) => point.swapped },
];

const PLOTS = [
  { title: 'Requests', curves: REQUESTS, format: count },
  { title: 'Link', curves: LINK, format: rate },
  { title: 'Link, of its limit', curves: BUSY, format: percent },
  { title: 'Step', curves: STEP, format: millis },
  { title: 'Tokens a step', curves: BATCH, format: figure },
  { title: 'TTFT', curves: TTFT, format: seconds },
  { title: 'TBT', curves: TBT, format: seconds },
] as const;

export function Plots() {
  const frame = useSource(frames);
  if (frame === null) return <section class="panel plots" aria-label="Link and step" />;
  const plots = frame.loopDelaySeconds === null ? PLOTS : [...PLOTS, { title: 'Event loop late', curves: LOOP, format: seconds }];
  return (
    <section class="panel plots" aria-label="Link and step">
      <div class="panel-head">
        <h2>Link and step</h2>
        <span class="of">last two minutes; rates of the last second, percentiles of the last ten</span>
      </div>
      <div class="plot-grid">
        {plots.map((plot) => (
          <Plot key={plot.title} {...plot} points={history.points} until={frame.at} />
        ))}
      </div>
    </section>
  );
}

/** Who is served how much, and what is on the link. */
export function Shares() {
  const frame = useSource(frames);
  return (
    <section class="panel shares" aria-label="Tenants and transfers">
      {frame && <Tenants frame={frame} />}
      {frame && <Transfers frame={frame} />}
    </section>
  );
}

const TENANTS_SHOWN = 8;

function Tenants({ frame }: { readonly frame: BoardFrame }) {
  const shares = history.tenants(frame);
  const asking = shares.filter(({ tenant, tokens }) => tenant.live > 0 || tokens > 0);
  const index = jain(asking.map(({ tokens }) => tokens));
  const most = Math.max(...asking.map(({ share }) => share), 0.001);
  return (
    <div class="tenants">
      <div class="panel-head">
        <h2>Tenants</h2>
        <span class="of">
          {asking.length > 1 && index !== null ? `Jain's index ${index.toFixed(2)}, tokens of 10 s` : 'tokens of the last 10 s'}
        </span>
      </div>
      {asking.length === 0 && <p class="nothing">Nobody.</p>}
      <table>
        <thead>
          <tr>
            <th scope="col">tenant</th>
            <th scope="col" colSpan={2}>
              share
            </th>
            <th scope="col">tokens</th>
            <th scope="col">run, wait</th>
          </tr>
        </thead>
        <tbody>
          {asking.slice(0, TENANTS_SHOWN).map(({ tenant, share, tokens }) => (
            <tr key={tenant.tenant}>
              <th scope="row">{tenant.tenant || '(none)'}</th>
              <td class="bar">
                <meter min={0} max={most} value={share} aria-label={`share of ${tenant.tenant || 'no tenant'}`} />
              </td>
              <td class="figure">{percent(share)}</td>
              <td class="figure">{count(tokens)}</td>
              <td class="figure">{`${count(tenant.live - tenant.waiting)}, ${count(tenant.waiting)}`}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {asking.length > TENANTS_SHOWN && <p class="of">and {plural(asking.length - TENANTS_SHOWN, 'other')}</p>}
    </div>
  );
}

const TRANSFERS_SHOWN = 6;
const KINDS: Readonly<Record<BoardTransfer['kind'], string>> = {
  swapOut: 'swap out',
  swapIn: 'swap in',
  mirror: 'mirror ahead',
  prefetch: 'prefetch ahead',
};

function Transfers({ frame }: { readonly frame: BoardFrame }) {
  const now = history.last;
  const limit = (way: 'out' | 'in') => {
    const value = now?.linkLimit[way] ?? null;
    return value === null ? '–' : rate(value);
  };
  return (
    <div class="transfers">
      <div class="panel-head">
        <h2>On the link</h2>
        <span class="of">
          while copying: out {limit('out')}, in {limit('in')}
        </span>
      </div>
      {frame.transfers.length === 0 && <p class="nothing">Nothing.</p>}
      <table>
        <tbody>
          {frame.transfers.slice(0, TRANSFERS_SHOWN).map(({ transfer, kind, direction, ids, blocks, runs, since }) => (
            <tr key={transfer}>
              <th scope="row">
                <span class={`arrow ${direction}`} aria-hidden="true">
                  {direction === 'out' ? '↗' : '↙'}
                </span>
                {KINDS[kind]}
              </th>
              <td>{ids.length === 1 ? <RequestLink id={ids[0] as number} /> : plural(ids.length, 'request')}</td>
              <td class="figure">{`${plural(blocks, 'block')} in ${plural(runs, 'run')}`}</td>
              <td class="figure">{span(frame.at - since)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {frame.transfers.length > TRANSFERS_SHOWN && (
        <p class="of">and {plural(frame.transfers.length - TRANSFERS_SHOWN, 'other')}</p>
      )}
    </div>
  );
}

function RequestLink({ id }: { readonly id: number }) {
  return (
    <button type="button" class="link" onClick={() => chosen.set(id)}>
      {id}
    </button>
  );
}
