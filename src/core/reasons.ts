/** Why a request waits, and why it was preempted, in words. */
import type { Preemption, Standing, Wait } from './life.js';
import type { Deadlines, Micros, PolicyName, RequestId } from './types.js';
import { counted, duration, listed, printable, whole } from './units.js';
import type { Obstacle, Shortage, Waiting, WaitingKind } from './waiting.js';

function requests(ids: readonly RequestId[]): string {
  return `${ids.length === 1 ? 'request' : 'requests'} ${listed(ids)}`;
}

/** What was promised of a request's pace; '' where nothing was. */
export function sayDeadlines({ ttftMicros, tbtMicros }: Deadlines): string {
  const first = ttftMicros === null ? [] : [`a first token within ${duration(ttftMicros)}`];
  const next =
    tbtMicros === null
      ? []
      : [
          `${ttftMicros === null ? 'a token' : 'one'} every ${duration(tbtMicros)} after ${ttftMicros === null ? 'the first' : 'that'}`,
        ];
  return [...first, ...next].join(' and ');
}

function giveWay(victims: readonly RequestId[]): string {
  return `${requests(victims)} ${victims.length === 1 ? 'gives' : 'give'} way`;
}

function shortageOf({ need, room, kept }: Shortage): string {
  const spare = kept === 0 ? '' : ` and ${kept} to spare`;
  return `${counted(need, 'block')}${spare} needed, ${whole(room)} to be had`;
}

/** Completes "it waits ...". `now`: on the run's clock. */
export function sayWaiting(waiting: Waiting, now: Micros): string {
  if (waiting.kind !== 'line') return sayObstacle(waiting, now);
  const { ahead, first, obstacle } = waiting;
  const others =
    ahead === 1 ? `request ${first}, which ranks higher and` : `${ahead} of higher rank; request ${first} is next and`;
  return `in line behind ${others} waits ${sayObstacle(obstacle, now)}`;
}

function sayObstacle(obstacle: Obstacle, now: Micros): string {
  switch (obstacle.kind) {
    case 'copy': {
      const others = obstacle.before === 0 ? '' : `, behind ${counted(obstacle.before, 'other copy').replace('copys', 'copies')}`;
      const due = obstacle.dueAt > now ? `, due in ${duration(obstacle.dueAt - now)}` : ', due any moment';
      return `for its blocks to be copied (transfer ${obstacle.transfer}${others}${due})`;
    }
    case 'copies':
      return `for the next step, which waits for ${obstacle.transfers.length === 1 ? 'a copy' : `${obstacle.transfers.length} copies`} to land`;
    case 'leaving':
      return `for request ${obstacle.by}, which ranks higher, is on its way out and will be first in line`;
    case 'outgoing': {
      const who = obstacle.leaving.length === 0 ? '' : ` with ${requests(obstacle.leaving)}`;
      return `for room that is on its way: ${shortageOf(obstacle)}, ${obstacle.outgoing} leaving${who}`;
    }
    case 'step':
      return `for step ${obstacle.step} to come back: then ${giveWay(obstacle.victims)}`;
    case 'link': {
      const busy = obstacle.freeAt > now ? ` for ${duration(obstacle.freeAt - now)} more` : '';
      return `for the link, which brings others in${busy}: then ${giveWay(obstacle.victims)}`;
    }
    case 'mirror':
      return `for request ${obstacle.victim} to give way, whose blocks are being copied ahead of need (transfer ${obstacle.transfer})`;
    case 'worth':
      return `for request ${obstacle.victim} to give way, which came onto the device too lately to be worth the copying${
        obstacle.at > now ? ` for ${duration(obstacle.at - now)} more` : ''
      }`;
    case 'slot': {
      const { running, most, outranked } = obstacle;
      const above = outranked === 0 ? 'none of them' : `${outranked} of them, who cannot make room for it`;
      return `for a place in the batch: ${running} run of at most ${most}, and it ranks above ${above}`;
    }
    case 'room': {
      const { running, outranked, outgoing } = obstacle;
      const leaving = outgoing === 0 ? '' : `, ${outgoing} on their way out`;
      const above =
        outranked === 0 ? `none of the ${running} that run` : `${outranked} of the ${running} that run, who have too few`;
      return `for room: ${shortageOf(obstacle)}${leaving}; it ranks above ${above}`;
    }
    case 'event':
      return 'for nothing any more: it starts at the next event';
  }
}

const KINDS: Readonly<Record<WaitingKind, string>> = {
  line: 'in line behind others',
  copy: 'for its copy',
  copies: 'for the copies that the next step waited for',
  leaving: 'for one of higher rank that was on its way out',
  outgoing: 'for room that was on its way',
  step: 'for a step to come back before others could give way',
  link: 'for the link',
  mirror: 'for a copy ahead of need',
  worth: 'for others to have had the device long enough',
  slot: 'for a place in the batch',
  room: 'for room',
  event: 'for the next event',
};

/** Why it waited, in order of size: of a watched request. '' where nothing is known, or there was nothing to wait for. */
export function sayWaits(waits: readonly Wait[], waited: Readonly<Partial<Record<WaitingKind, Micros>>>, now: Micros): string {
  const micros = new Map(Object.entries(waited) as [WaitingKind, Micros][]);
  const last = waits[waits.length - 1];
  if (last !== undefined && last.to === null) micros.set(last.kind, (micros.get(last.kind) ?? 0) + now - last.from);
  const parts = [...micros].filter(([, spent]) => spent > 0).sort(([, a], [, b]) => b - a);
  const time = (spent: Micros) => (parts.length === 1 ? '' : `${duration(spent)} `);
  return parts
    .map(([kind, spent]) => `${time(spent)}${KINDS[kind]}${detail(waits.filter((wait) => wait.kind === kind))}`)
    .join(', ');
}

/** Of all waits of one kind: how it stood at first and at last. */
function detail(waits: readonly Wait[]): string {
  const first = waits[0]?.first;
  const last = waits[waits.length - 1]?.last;
  if (first?.kind === 'line' && last?.kind === 'line') {
    return first.ahead === last.ahead ? ` (${first.ahead})` : ` (${first.ahead} at first, ${last.ahead} at last)`;
  }
  if (first?.kind === 'room' || first?.kind === 'outgoing') return ` (${shortageOf(first)})`;
  if (first?.kind === 'slot') return ` (${first.running} of at most ${first.most} ran)`;
  return '';
}

/** What put it off the device, or cost it its KV. `name`: how another request is called. */
export function sayPreemption(preemption: Preemption, policy: PolicyName, name: (id: RequestId) => string): string {
  const { why, by, own, other } = preemption;
  const them = by === null ? 'another' : name(by);
  const ranks = own === null || other === null ? '' : `: ${sayRanks(policy, own, other)}`;
  switch (why) {
    case 'outranked':
      return `preempted by ${them}${ranks}`;
    case 'growth':
      if (own !== null && by === own.id)
        return 'preempted: no block was free for its own next token, and nobody who ran ranked lower';
      return `preempted because no block was free for the next token of ${them}${ranks}`;
    case 'crowded':
      return 'preempted as the last in rank: the next tokens of those who ran would not have fit';
    case 'host':
      return `its copies on the host were given up for those of ${them}${ranks}`;
    case 'failed':
      return 'a copy of its KV failed';
  }
}

/** Rank against rank, in what the policy compares. `other` won. */
function sayRanks(policy: PolicyName, own: Standing, other: Standing): string {
  const came = `request ${other.id} came first`;
  if (other.lifted && !own.lifted) return `request ${other.id} had waited for too long and goes first for a while`;
  switch (policy) {
    case 'fcfs':
      return came;
    case 'priority':
      return sayPriorities(own, other, came);
    case 'mlfq':
      if (own.level === other.level) return `both are at level ${own.level} and ${came}`;
      return `level ${other.level} outranks its ${own.level}`;
    case 'vtc':
      if (own.tenant === other.tenant) return `both are of tenant '${printable(own.tenant)}' and ${came}`;
      return `${sayServed(other)}, its own ${sayServed(own)}`;
    case 'fair': {
      if (own.tenant === other.tenant) return `both are of tenant '${printable(own.tenant)}': ${sayPriorities(own, other, came)}`;
      const turn = ({ tag }: Standing) => whole(Math.round(tag));
      return `${sayServed(other)}, its own ${sayServed(own)}; their turns are at ${turn(other)} and ${turn(own)}`;
    }
    case 'edf': {
      if (own.due === other.due) return `both are due at the same time and ${came}`;
      if (own.due === null || other.due === null) return 'it was promised nothing';
      return `request ${other.id} is due ${duration(own.due - other.due)} earlier`;
    }
  }
}

function sayPriorities(own: Standing, other: Standing, came: string): string {
  if (own.priority === other.priority) return `both have priority ${own.priority} and ${came}`;
  return `priority ${other.priority} outranks its ${own.priority}`;
}

function sayServed({ tenant, served }: Standing): string {
  return `tenant '${printable(tenant)}' was served ${whole(Math.round(served))}`;
}
