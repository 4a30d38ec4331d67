/** Where everybody stands after a record, as a page for people. */

import { sayWaiting } from '../core/reasons.js';
import type { Phase, PolicyName } from '../core/types.js';
import { counted, duration, listed, printable, whole } from '../core/units.js';
import type { Moment, MomentRequest, MomentTransfer } from './moment.js';
import { columns, eventText, folded, nameText, offset, PAGE_COLUMNS, priorityText, shortened } from './words.js';

/** Requests of one phase that are listed. */
const REQUESTS_MAX = 50;

export function momentPage(moment: Moment): string {
  const { record, at, event, draining, blocks, step, transfers } = moment;
  const memory = (name: 'device' | 'host') => {
    const { total, free, used, moving, kept } = blocks[name];
    return `${name.padEnd(9)}${whole(free)} of ${counted(total, 'block')} free, ${whole(moving)} moving, ${whole(used)} in use (${whole(kept)} of them only kept)`;
  };
  const lines = [
    `After record #${record}, at ${offset(at)}${draining ? ', draining' : ''}`,
    ...(event === null ? [] : [shortened(`         ${eventText(event)}`, PAGE_COLUMNS)]),
    memory('device'),
    memory('host'),
    step === null
      ? `step     none${awaitedBy(transfers)}`
      : `step     ${whole(step.step)}, launched ${duration(at - step.since)} ago: ${counted(step.requests, 'request')}, ${counted(step.tokens, 'token')}`,
    ...transferLines(moment),
    ...requestLines(moment),
  ];
  return `${lines.join('\n')}\n`;
}

function awaitedBy(transfers: readonly MomentTransfer[]): string {
  const awaited = transfers.filter((transfer) => transfer.awaited);
  if (awaited.length === 0) return '';
  return `; the next waits for ${awaited.length === 1 ? 'transfer' : 'transfers'} ${awaited.map(({ transfer }) => transfer).join(', ')}`;
}

function transferLines({ transfers, at }: Moment): string[] {
  if (transfers.length === 0) return ['link     idle'];
  return transfers.map(({ transfer, type, requests, blocks, runs, since }, k) => {
    const whose = requests.length === 0 ? '' : ` of ${listed(requests)}`;
    const what = `${type}${whose}, ${counted(blocks, 'block')} in ${counted(runs, 'run')}, for ${duration(at - since)}`;
    return `${(k === 0 ? 'link' : '').padEnd(9)}transfer ${transfer}: ${what}`;
  });
}

const TITLES: readonly (readonly [title: string, phases: readonly Phase[]])[] = [
  ['Running, in rank order', ['prefilling', 'decoding']],
  ['Coming back', ['swapping-in']],
  ['Leaving, in rank order', ['swapping-out']],
  ['Waiting on the host, in rank order', ['swapped']],
  ['Waiting to be computed, in rank order', ['queued']],
];

function requestLines({ requests, at, policy }: Moment): string[] {
  const lines: string[] = [];
  const tenants = new Set(requests.map(({ tenant }) => tenant)).size;
  for (const [title, phases] of TITLES) {
    const of = requests.filter(({ phase }) => phases.includes(phase));
    if (of.length === 0) continue;
    lines.push('', `${title}: ${whole(of.length)}`);
    const ranked = policy !== null && RANKED.has(policy);
    const rows = of.slice(0, REQUESTS_MAX).map((request) => row(request, at, { ranked, withTenant: tenants > 1 }));
    lines.push(
      ...columns(ranked ? HEAD : HEAD.filter((title) => title !== 'rank'), rows, ['state', 'in step', 'whose']).map((line) =>
        shortened(`  ${line}`, PAGE_COLUMNS),
      ),
      ...of.flatMap((request) => firstInLine(request, at)),
      ...(of.length > REQUESTS_MAX ? [`  and ${whole(of.length - REQUESTS_MAX)} more`] : []),
    );
  }
  return lines;
}

/** What the first in line waits for; of the others it is said that they stand behind it. */
function firstInLine({ id, phase, waitsFor }: MomentRequest, at: number): string[] {
  if (waitsFor === null || waitsFor.kind === 'line' || (phase !== 'swapped' && phase !== 'queued')) return [];
  return folded(`  Request ${id} is next. It waits ${sayWaiting(waitsFor, at)}.`, '    ');
}

/** Where neither arrival nor priority tells who is before whom. */
const RANKED: ReadonlySet<PolicyName> = new Set<PolicyName>(['vtc', 'fair', 'mlfq', 'edf']);
const HEAD = ['request', 'for', 'state', 'in step', 'rank', 'prio', 'tokens', 'computed', 'device', 'host', 'whose'];

interface Shown {
  readonly ranked: boolean;
  readonly withTenant: boolean;
}

function row(request: MomentRequest, at: number, { ranked, withTenant }: Shown): string[] {
  const { id, since, phase, rank, priority, promptTokens, generated, maxTokens, computed, deviceBlocks, hostBlocks } = request;
  const state = `${phase}${request.ending ? ', ending' : ''}`;
  return [
    String(id),
    duration(at - since),
    state,
    request.stepping ? 'yes' : '',
    ...(ranked ? [rank === null ? 'last' : whole(Math.round(rank))] : []),
    priorityText(priority),
    `${whole(promptTokens)}+${whole(generated)}/${whole(maxTokens)}`,
    whole(computed),
    whole(deviceBlocks),
    whole(hostBlocks),
    [nameText(request.labels), withTenant ? printable(request.tenant) : ''].filter((name) => name !== '').join(', '),
  ];
}
