/** The summary as a page for people, at most 100 columns wide. */
import type { Micros } from '../core/types.js';
import { bytes, counted, duration, listed, percent, printable, whole } from '../core/units.js';
import type { Spread } from '../simulation/result.js';
import type { Crash } from './play.js';
import type { Departure, Pause, Stall } from './stalls.js';
import type { Summary } from './summary.js';
import { columns, folded, millis, nameText, PAGE_COLUMNS, priorityText, shortened } from './words.js';

/** Lines of each list of the longest. */
const LINES = 5;
const TENANTS = 8;

/** `explain`: the beginning of the command that tells more of a request, as it is to be typed. */
export function summaryPage(summary: Summary, explain: string): string {
  const sections = [
    head(summary),
    facts(summary),
    latencies(summary),
    pauses(summary),
    firstTokens(summary),
    iterations(summary),
    tenants(summary),
    hint(summary, explain),
  ];
  const lines = sections.filter((section) => section.length > 0).flatMap((section) => [...section, '']);
  return lines.join('\n');
}

function head({ recording, records, virtualSeconds, replaySeconds, crash }: Summary): string[] {
  const { version, source, startedAt, model, config, limits, blockTokens, run } = recording;
  const when = `${startedAt.slice(0, 19).replace('T', ' ')} UTC`;
  const faster = virtualSeconds / Math.max(1e-6, replaySeconds);
  const preset = config.preset === undefined ? '' : `preset ${config.preset}, `;
  return [
    `${model.name}, ${source === 'live' ? 'served' : 'simulated'} by fastswitch ${version}, ${when} (run ${shortened(run, 24)})`,
    ...folded(
      `  ${preset}policy ${limits.policy}, blocks of ${blockTokens} tokens and ${bytes(limits.blockBytes)}: ` +
        `${whole(limits.deviceBlocks)} on the device, ${whole(limits.hostBlocks)} on the host; ` +
        `at most ${counted(limits.maxRunning, 'request')} and ${counted(limits.maxBatchTokens, 'token')} a step`,
    ),
    '',
    `${counted(records, 'record')} replayed, every decision as it was recorded`,
    `${virtualSeconds.toFixed(3)} s of the run took ${replaySeconds.toFixed(2)} s to replay (${whole(Math.round(faster))} times as fast)`,
    ...(crash === null ? [] : folded(crashed(crash))),
  ];
}

function crashed({ error, replayed }: Crash): string {
  if (replayed) return `The run failed, and so did its replay, with: ${printable(error)}`;
  return `The run failed with: ${printable(error)}. Its replay did not: what failed was beside the decisions, such as the engine.`;
}

/** "stop 40, length 20": what there was any of, the most first. */
function tally(counts: Readonly<Record<string, number>>): string {
  const present = Object.entries(counts).filter(([, value]) => value > 0);
  return present
    .sort(([, a], [, b]) => b - a)
    .map(([name, value]) => `${name} ${whole(value)}`)
    .join(', ');
}

function facts(summary: Summary): string[] {
  const { events, requests, tokens, preemptions, copied, stepsFailed, transfersFailed } = summary;
  const alive = requests.alive === 0 ? '' : `; ${whole(requests.alive)} alive at the end`;
  const found = tokens.prompt === 0 ? '' : `, ${percent(tokens.found, tokens.prompt)} found and not computed`;
  const causes = tally(preemptions.causes);
  const copyless = preemptions.withoutCopy === 0 ? '' : `, ${whole(preemptions.withoutCopy)} of them without a copy`;
  const way = (direction: 'out' | 'in') => {
    const { bytes: all, seconds, transfers, bytesByKind } = copied[direction];
    if (transfers === 0) return 'nothing';
    const kinds = Object.entries(bytesByKind).filter(([, of]) => of > 0);
    return (
      `${bytes(all)} in ${counted(transfers, 'transfer')}, copying for ${duration(seconds * 1e6)} ` +
      `(${kinds.map(([kind, of]) => `${kind} ${bytes(of)}`).join(', ')})`
    );
  };
  const rows: [string, string][] = [
    ['events', tally(events)],
    ['requests', `${whole(requests.arrived)}: ${tally(requests.ended) || 'none ended'}${alive}`],
    [
      'tokens',
      `${whole(tokens.generated)} generated, ${whole(Math.round(tokens.perSecond))}/s; ${whole(tokens.prompt)} of prompts${found}`,
    ],
    ['', `${whole(tokens.prefillComputed)} computed in prefills, ${whole(tokens.decodeComputed)} in decoding`],
    ['preempted', `${whole(preemptions.swap)} by swap${copyless}, ${whole(preemptions.recompute)} to be computed again`],
    ['', causes === '' ? '' : `because ${causes}`],
    ['copied out', way('out')],
    ['copied in', way('in')],
    ['failed', tally({ steps: stepsFailed, transfers: transfersFailed })],
  ];
  return rows.filter(([, text]) => text !== '').flatMap(([name, text]) => folded(`${name.padEnd(12)}${text}`, ' '.repeat(12)));
}

function latencies({ latencies: of }: Summary): string[] {
  const row = (name: string, { p50, p95, p99, p999 }: Spread) => [name, ...[p50, p95, p99, p999].map(millis)];
  const rows = [
    row('arrival to first token', of.ttftMs),
    row('token to next token', of.tbtMs),
    row('arrival to end', of.requestMs),
    row('step return to step return', of.iterationMs),
    row('  of it before the launch', of.stallMs),
  ];
  return columns(['milliseconds', 'p50', 'p95', 'p99', 'p99.9'], rows, ['milliseconds']);
}

const LEFT: Readonly<Record<Departure['type'], string>> = {
  swapOut: 'swapped out',
  park: 'swapped out',
  recompute: 'lost its KV',
};

/** Why a request left the device, and for whom. */
function departed({ departure, departures, awayMicros }: Pause): string {
  if (departure === null) return awayMicros === 0 ? 'it was on the device' : 'it queued';
  const { type, why, by } = departure;
  const whom = by === null ? why : `${why} by ${by}`;
  return `${LEFT[type]}, ${whom}${departures > 1 ? `, and ${departures - 1} more` : ''}`;
}

const ENDED_BY: Readonly<Record<Pause['endedBy'], string>> = {
  token: '',
  end: ', then ended',
  recording: ', still waiting',
};

function pauses({ longest: { pauses: longest } }: Summary): string[] {
  return pauseTable(
    'Longest pauses between two tokens (away: of it, not running on the device)',
    longest.slice(0, LINES),
    ({ tokens }) => [whole(tokens)],
  );
}

function firstTokens({ longest: { firstTokens: longest } }: Summary): string[] {
  return pauseTable('Longest waits for a first token', longest.slice(0, LINES), () => []);
}

/** `more`: how many tokens it had, where it had some. */
function pauseTable(title: string, longest: readonly Pause[], more: (pause: Pause) => string[]): string[] {
  const several = new Set(longest.map(({ tenant }) => tenant)).size > 1;
  const rows = longest.map((pause) => [
    String(pause.id),
    duration(pause.micros),
    duration(pause.awayMicros),
    at(pause.from),
    ...more(pause),
    `#${pause.fromRecord}-${pause.record}`,
    departed(pause) + ENDED_BY[pause.endedBy],
    priorityText(pause.priority),
    whose(pause, several),
  ]);
  const tokens = longest[0] === undefined ? [] : more(longest[0]).map(() => 'tokens');
  const titles = ['request', 'for', 'away', 'from', ...tokens, 'records', 'what happened', 'prio', 'whose'];
  return table(title, titles, rows, ['what happened', 'whose']);
}

/** An offset in the run, to the millisecond. */
function at(micros: Micros): string {
  return `${(micros / 1e6).toFixed(3)} s`;
}

function whose({ labels, tenant }: Pause, withTenant: boolean): string {
  return [nameText(labels), withTenant ? printable(tenant) : ''].filter((name) => name !== '').join(', ');
}

function iterations({ longest }: Summary): string[] {
  const rows = longest.iterations
    .slice(0, LINES)
    .map((stall) => [
      whole(stall.step),
      duration(stall.micros),
      duration(stall.iterationMicros),
      at(stall.launchedAt),
      `#${stall.record}`,
      launchedUpon(stall),
    ]);
  const titles = ['step', 'stall', 'of', 'launched at', 'record', 'when'];
  return table('Longest stalls before a step', titles, rows, ['when']);
}

const UPON: Readonly<Record<Stall['upon']['type'], string>> = {
  arrived: 'a request arrived',
  aborted: 'a request left',
  stepped: 'a step returned',
  stepFailed: 'a step failed',
  landed: 'a transfer landed',
  transferFailed: 'a transfer failed',
  reprioritized: 'priorities changed',
  reweighted: 'a weight changed',
  draining: 'draining began',
};

function launchedUpon({ upon: { type, transfer } }: Stall): string {
  if (transfer === null) return UPON[type];
  const requests = listed(transfer.requests);
  return `${transfer.type}${requests === '' ? '' : ` of ${requests}`} ${type === 'landed' ? 'landed' : 'failed'} (transfer ${transfer.id})`;
}

function table(title: string, titles: readonly string[], rows: readonly string[][], left: readonly string[]): string[] {
  if (rows.length === 0) return [];
  return [title, ...columns(titles, rows, left).map((line) => shortened(`  ${line}`, PAGE_COLUMNS))];
}

/** The slowest of several, by what they waited for a token. */
function tenants({ tenants: each, fairness }: Summary): string[] {
  const all = Object.entries(each).sort(([, a], [, b]) => b.msPerToken - a.msPerToken);
  if (all.length < 2) return [];
  const rows = all
    .slice(0, TENANTS)
    .map(([name, of]) => [
      shortened(printable(name), 24),
      whole(of.requests),
      whole(of.generatedTokens),
      ...[of.ttftMs.p50, of.ttftMs.p99, of.tbtMs.p99, of.msPerToken].map(millis),
      whole(of.preemptions.swap + of.preemptions.recompute),
    ]);
  const titles = ['tenant', 'requests', 'tokens', 'TTFT p50', 'TTFT p99', 'TBT p99', 'ms/token', 'preempted'];
  const some = all.length > TENANTS ? `, the slowest ${TENANTS} of ${whole(all.length)}` : '';
  const jain = fairness === null ? '' : ` (Jain's index over ms/token: ${fairness.jain.toFixed(3)})`;
  return table(`Tenants${some}${jain}`, titles, rows, ['tenant']);
}

function hint({ longest }: Summary, explain: string): string[] {
  const first = longest.pauses[0] ?? longest.firstTokens[0];
  return first === undefined ? [] : [`What happened to a request: ${explain} ${first.id}`];
}
