/**
 * The life of one request in plain words, as one would tell it to a colleague: how it ended or what it does now, where its
 * time went, what was swapped, and then what happened, a line for each spell.
 */
import { type Life, type LivingPhase, microsByPhase, type Spell } from './life.js';
import type { Mechanism } from './presets.js';
import { sayDeadlines, sayPreemption, sayWaiting, sayWaits } from './reasons.js';
import type { AbortReason, Cause, Micros, PolicyName, RequestId } from './types.js';
import { bytes, counted, duration, percent, printable, times, whole } from './units.js';
import type { Waiting } from './waiting.js';

export interface Telling {
  /** On the run's clock. */
  readonly now: Micros;
  readonly policy: PolicyName;
  readonly mechanism: Mechanism;
  /** What it waits for at this moment, where that is known. */
  readonly waitingFor?: Waiting | null;
  /** What the world calls another request: by the last of these it is named where it comes first. */
  readonly others?: (id: RequestId) => readonly string[];
}

const STATES: Readonly<Record<LivingPhase, string>> = {
  queued: 'queued',
  prefilling: 'prefilling',
  decoding: 'decoding',
  'swapping-out': 'being swapped out',
  swapped: 'swapped out',
  'swapping-in': 'being swapped in',
};

const ASKED: Readonly<Record<AbortReason, string>> = {
  client: 'its client left',
  stop: 'a stop string came up in its text',
  stalled: 'its client read too slowly',
  operator: 'an operator ended it',
  shutdown: 'the server shut down',
};

const REJECTED = {
  queue_full: 'as many requests waited already as may',
  draining: 'the server was shutting down',
  too_large: 'its prompt and what it may generate can never fit the device',
} as const;

const CAUSES: Readonly<Record<Exclude<Cause['why'], 'failed'>, string>> = {
  outranked: 'for a request of higher rank',
  growth: 'for want of a block for the next token',
  crowded: 'before blocks ran out',
  host: 'on the host, for want of room there',
};

/** Lines without line breaks. */
export function tellStory(life: Life, telling: Telling): string[] {
  const end = life.endedAt ?? telling.now;
  return [
    headline(life, end),
    ...beginnings(life),
    ...pauses(life),
    ...timeByState(life, end),
    ...preemptionTotals(life),
    ...swapTotals(life),
    ...timeLine(life, end, telling),
  ];
}

function headline(life: Life, end: Micros): string {
  const { id, labels, outcome, generated, maxTokens, phase, asked } = life;
  const name = `Request ${id}${labels.length === 0 ? '' : ` (${labels.map(printable).join(', ')})`}`;
  const took = duration(end - life.arrivedAt);
  if (life.rejectCode !== null) return `${name} was rejected at the door: ${REJECTED[life.rejectCode]}.`;
  if (outcome === null) {
    const toEnd = asked === null ? '' : ` It is to end (${ASKED[asked.by]}) as soon as what is in flight for it has come back.`;
    if (life.cachedTokens === null) return `${name} has been queued for ${took} and was never admitted.${toEnd}`;
    const what = phase === 'done' ? '' : STATES[phase];
    return `${name} is ${what}: ${whole(generated)} of at most ${counted(maxTokens, 'token')} so far, in ${took}.${toEnd}`;
  }
  if (life.cachedTokens === null) return `${name} ended after ${took} in the queue and was never admitted: ${endOf(life)}.`;
  return `${name} ended after ${took} and ${counted(generated, 'token')}: ${endOf(life)}.`;
}

function endOf({ outcome, asked, error, maxTokens }: Life): string {
  if (outcome === 'length')
    return maxTokens === 1 ? 'the one token it was allowed' : `all ${whole(maxTokens)} that it was allowed`;
  if (outcome === 'failed') return `it failed (${printable(error ?? 'the engine said no more')})`;
  if (asked !== null) return ASKED[asked.by];
  return outcome === 'stop' ? 'the model ended it' : 'it was aborted';
}

/** Shares of time, in order of size. */
function shares(micros: Readonly<Record<LivingPhase, Micros>>, all: Micros): string {
  const parts = (Object.entries(micros) as [LivingPhase, Micros][])
    .filter(([, spent]) => spent > 0)
    .sort(([, a], [, b]) => b - a);
  const only = parts.length === 1 ? parts[0] : undefined;
  if (only !== undefined) return `all of it ${STATES[only[0]]}`;
  return parts.map(([phase, spent]) => `${percent(spent, all)} ${STATES[phase]} (${duration(spent)})`).join(', ');
}

function beginnings({ promptTokens, cachedTokens, microsToFirstToken, firstTokenAt, arrivedAt }: Life): string[] {
  if (firstTokenAt === null || microsToFirstToken === null) return [];
  const all = firstTokenAt - arrivedAt;
  const found = (cachedTokens ?? 0) === 0 ? '' : `, of which ${whole(cachedTokens ?? 0)} were found and not computed`;
  const prompt = `Prompt of ${counted(promptTokens, 'token')}${found}.`;
  return [`${prompt} First token after ${duration(all)}: ${all === 0 ? 'at once' : shares(microsToFirstToken, all)}.`];
}

function pauses({ firstTokenAt, lastTokenAt, longestPause, generated, arrivedAt }: Life): string[] {
  if (firstTokenAt === null || lastTokenAt === null || longestPause === null) return [];
  const mean = Math.round((lastTokenAt - firstTokenAt) / (generated - 1));
  const { micros, at, stepMicros, stepTokens } = longestPause;
  const step = `${duration(stepMicros)} of it a step of ${counted(stepTokens, 'token')}`;
  const longest = `${duration(micros)}, up to ${duration(at - arrivedAt)} after its arrival, ${step}`;
  return [`Then a token every ${duration(mean)} on average; the longest pause was ${longest}.`];
}

function timeByState(life: Life, end: Micros): string[] {
  const all = end - life.arrivedAt;
  const micros = microsByPhase(life, end);
  const several = Object.values(micros).filter((spent) => spent > 0).length > 1;
  // Who ended with the first token has been told of already.
  if (life.firstTokenAt !== null && end - life.firstTokenAt < all / 200) return [];
  return several ? [`Of the ${duration(all)}: ${shares(micros, all)}.`] : [];
}

function preemptionTotals(life: Life): string[] {
  const { preemptions, computedTokens, promptTokens, generated, cachedTokens, asked, endedAt, firstTokenAt } = life;
  const { failed, ...others } = preemptions;
  const causes = (Object.entries(others) as [keyof typeof CAUSES, number][]).filter(([, count]) => count > 0);
  const all = causes.reduce((sum, [, count]) => sum + count, 0);
  const list = causes.map(([why, count]) => (causes.length === 1 ? CAUSES[why] : `${times(count)} ${CAUSES[why]}`)).join(', ');
  const said = all === 0 ? [] : [`Preempted ${times(all)}, ${list}.`];
  if (failed > 0) said.push(`Its KV was given up ${times(failed)} because a copy failed.`);
  // The last token is never computed, but where a step was in flight at the end: what that sampled counts for nothing.
  const unseen = asked !== null && endedAt !== null && asked.at !== endedAt ? 1 : 0;
  const once = promptTokens - (cachedTokens ?? 0) + Math.max(0, generated - 1) + unseen;
  // Before the first token it is not known how much of the prompt was computed at all.
  const again = firstTokenAt === null ? 0 : computedTokens - once;
  if (again > 0 && said.length > 0) said.push(`${counted(again, 'token')} had to be computed again.`);
  return said.length === 0 ? [] : [said.join(' ')];
}

function swapTotals({ swaps }: Life): string[] {
  const say = (way: 'out' | 'in', where: string): string[] => {
    const { transfers, blocks, runs, micros, held, withoutCopy, failed } = swaps[way];
    if (transfers + withoutCopy + failed === 0) return [];
    const copied = `${counted(blocks, 'block')} (${bytes(swaps[way].bytes)}) copied ${where} in ${counted(runs, 'run')}, ${duration(micros)} of copying`;
    const first = transfers === 0 ? `nothing copied ${where}` : copied;
    const there = held === 0 ? '' : `, ${counted(held, 'block')} ${held === 1 ? 'was' : 'were'} there already`;
    return [`${first}${there}${failed === 0 ? '' : `; a copy ${where} failed ${times(failed)}`}`];
  };
  const parts = [...say('out', 'to the host'), ...say('in', 'back to the device')];
  return parts.length === 0 ? [] : [`Swaps: ${parts.join('; ')}.`];
}

interface Moment {
  readonly at: Micros;
  /** Among moments of the same time. */
  readonly order: number;
  readonly text: string;
}

/** What happened, one line each, with the time since its arrival before it. */
function timeLine(life: Life, end: Micros, telling: Telling): string[] {
  const teller = new SpellTeller(life, telling);
  const moments: Moment[] = life.spells.flatMap((spell, index) => {
    const text = teller.tell(spell, index);
    return text === '' ? [] : [{ at: spell.from, order: index === 0 ? 0 : 2, text }];
  });
  if (moments.length === 0) moments.push({ at: life.arrivedAt, order: 0, text: teller.arrival() });
  moments.push(...changes(life), ...leftOut(life));
  if (life.endedAt !== null && life.rejectCode === null) moments.push({ at: end, order: 3, text: `ended: ${endOf(life)}` });
  if (life.endedAt === null && telling.waitingFor) {
    moments.push({ at: end, order: 3, text: `now: it waits ${sayWaiting(telling.waitingFor, telling.now)}` });
  }
  moments.sort((a, b) => a.at - b.at || a.order - b.order);
  const inSeconds = end - life.arrivedAt >= 1e6;
  const offset = (at: Micros) =>
    inSeconds ? `+${((at - life.arrivedAt) / 1e6).toFixed(3)} s` : `+${((at - life.arrivedAt) / 1e3).toFixed(2)} ms`;
  const width = offset(end).length;
  return moments.map(({ at, text }) => `${offset(at).padStart(width)}  ${text}`);
}

function changes({ priorities, prioritiesLeftOut, deadlineChanges, deadlineChangesLeftOut, asked, endedAt }: Life): Moment[] {
  const prioritized = priorities.map(({ at, from, to }) => ({ at, text: `its priority changed from ${from} to ${to}` }));
  const promised = deadlineChanges.map(({ at, to }) => ({
    at,
    text: `from now on it is promised ${sayDeadlines(to) || 'nothing'}`,
  }));
  const moments = [...inPart(prioritized, prioritiesLeftOut), ...inPart(promised, deadlineChangesLeftOut)];
  if (asked !== null && asked.at !== endedAt) {
    moments.push({
      at: asked.at,
      order: 1,
      text: `${ASKED[asked.by]}: it is to end when what is in flight for it has come back`,
    });
  }
  return moments;
}

function inPart(changed: readonly Omit<Moment, 'order'>[], leftOut: number): Moment[] {
  const note = leftOut === 0 ? '' : ` (${whole(leftOut)} later changes are left out)`;
  return changed.map(({ at, text }, index) => ({ at, order: 1, text: index === 0 ? `${text}${note}` : text }));
}

/** What was taken out of the middle lies where one spell ends and the next does not begin. */
function leftOut({ spells, spellsLeftOut }: Life): Moment[] {
  const before = spells.find(({ to }, index) => to !== null && spells[index + 1] !== undefined && spells[index + 1]?.from !== to);
  if (before === undefined || spellsLeftOut === 0) return [];
  return [
    { at: before.to ?? before.from, order: 3, text: `... ${counted(spellsLeftOut, 'spell')} left out; the totals count them` },
  ];
}

/** Says of each spell how it began, what it was and how long it took. */
class SpellTeller {
  readonly #life: Life;
  readonly #telling: Telling;
  readonly #named = new Set<RequestId>();

  constructor(life: Life, telling: Telling) {
    this.#life = life;
    this.#telling = telling;
  }

  /** '' where there is nothing to say: it waited no time at all. */
  tell(spell: Spell, index: number): string {
    const parts = [index === 0 ? this.arrival() : '', this.#preemption(spell), this.#admission(spell), this.#swap(spell)];
    const said = parts.filter((part) => part !== '');
    const state = this.#state(spell, index);
    if (state !== '') said.push(state);
    return said.join('; ');
  }

  arrival(): string {
    const { promptTokens, maxTokens, priority, priorities, deadlines, deadlineChanges, tenant, weight } = this.#life;
    const first = priorities[0]?.from ?? priority;
    const promised = sayDeadlines(deadlineChanges[0]?.from ?? deadlines);
    const pace = promised === '' ? '' : `, promised ${promised}`;
    const heavy = weight === 1 ? '' : ` of weight ${weight}`;
    const whose = tenant === '' && heavy === '' ? '' : `, tenant '${printable(tenant)}'${heavy}`;
    return `arrived: ${counted(promptTokens, 'token')} of prompt, at most ${whole(maxTokens)} to generate, priority ${first}${pace}${whose}`;
  }

  #preemption({ preemption, phase, lostTokens }: Spell): string {
    if (preemption === null) return '';
    const cause = sayPreemption(preemption, this.#telling.policy, (id) => this.#name(id));
    if (phase !== 'queued') return cause;
    if (lostTokens === 0) return `${cause}; nothing was computed yet`;
    const given = `its KV of ${counted(lostTokens, 'token')} was given up`;
    if (preemption.why === 'host' || preemption.why === 'failed') return `${cause}; ${given}`;
    const why = this.#telling.mechanism.preemption === 'recompute' ? 'this preset swaps nobody' : 'the host had no room for it';
    return `${cause}; ${given}: ${why}`;
  }

  #name(id: RequestId): string {
    const label = this.#named.has(id) ? undefined : this.#telling.others?.(id).at(-1);
    this.#named.add(id);
    return `request ${id}${label === undefined ? '' : ` (${printable(label)})`}`;
  }

  #admission({ admission }: Spell): string {
    if (admission === null) return '';
    const { first, cachedTokens, contextTokens } = admission;
    const begin = first ? 'admitted' : 'admitted again';
    const left = contextTokens - cachedTokens;
    if (cachedTokens === 0) return `${begin}: ${counted(left, 'token')} to compute`;
    return `${begin}: ${whole(cachedTokens)} of its ${counted(contextTokens, 'token')} were found, ${whole(left)} to compute`;
  }

  #swap({ swap, from, to, admission }: Spell): string {
    if (swap === null) return '';
    const { direction, transfer, blocks, runs, held, micros, error } = swap;
    const there = direction === 'out' ? 'the host' : 'the device';
    if (transfer === null) return `nothing to copy, ${there} had all of its ${counted(held, 'block')}`;
    const how = direction === 'out' ? 'sent to the host' : admission === null ? 'brought back' : 'fetched from the host';
    const already = held === 0 ? '' : `, ${whole(held)} ${there} had already`;
    const what = `${counted(blocks, 'block')} (${bytes(swap.bytes)}) ${how} in ${counted(runs, 'run')}${already}`;
    const spent = duration((to ?? this.#telling.now) - from);
    if (error !== null) return `${what}: failed after ${spent} (${printable(error)})`;
    return micros === null
      ? `${what}: under way for ${spent}`
      : `${what}: ${duration(micros)} of copying, ${spent} until it landed`;
  }

  #state({ phase, from, to, tokens, swap, waits, waited }: Spell, index: number): string {
    const micros = (to ?? this.#telling.now) - from;
    if (phase === 'swapping-out' || phase === 'swapping-in') return ''; // told with the copy
    const reasons = sayWaits(waits, waited, this.#telling.now);
    const why = reasons === '' ? '' : `: ${reasons}`;
    if (phase === 'queued' || phase === 'swapped') {
      if (micros === 0 && to !== null) return index === 0 ? 'did not have to wait' : '';
      return `${STATES[phase]} for ${duration(micros)}${why}`;
    }
    const back = swap !== null ? 'back on the device, ' : '';
    if (micros === 0 && to === null) return `${back}${STATES[phase]}`;
    return `${back}${STATES[phase]} for ${duration(micros)}${phase === 'decoding' ? `: ${counted(tokens, 'token')}` : ''}`;
  }
}
