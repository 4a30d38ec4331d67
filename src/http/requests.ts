/**
 * GET /v1/requests/{id}: the life of a request that runs, waits or ended lately, as JSON or as lines to read. The id is that
 * of its answer, of its HTTP request (`x-request-id`), or its number here. No text of anybody is in it.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Explanation, System } from '../actors/system.js';
import { microsByPhase } from '../core/life.js';
import type { Deadlines } from '../core/types.js';
import { FastswitchError } from '../errors.js';

type Life = Explanation['life'];
type Spell = Life['spells'][number];

const FORMATS = ['json', 'text'] as const;

/** `path`: where the names of requests begin. `maySee`: whether who asks may know of a request of this tenant. */
export function registerRequests(
  server: FastifyInstance,
  system: Pick<System, 'explain'>,
  path = '/v1/requests/',
  maySee: (request: FastifyRequest, tenant: string) => boolean = () => true,
): void {
  // A wildcard, because an x-request-id may contain a slash.
  server.get<{ Params: { '*': string }; Querystring: { format?: unknown } }>(`${path}*`, async (request, reply) => {
    const name = request.params['*'];
    const format = formatOf(request.query.format, request.headers.accept);
    const found = (await system.explain(name)).filter(({ life }) => maySee(request, life.tenant));
    if (found.length === 0) {
      throw new FastswitchError(
        'not_found',
        `No request '${name.slice(0, 100)}' is known. Known are those that run or wait, and the last ones that ended, by the id of ` +
          'their answer, by their x-request-id, or by their number.',
      );
    }
    reply.header('vary', 'accept').header('cache-control', 'no-store');
    if (format === 'json') return { id: name, object: 'request', choices: found.map(choiceOf) };
    return reply.type('text/plain; charset=utf-8').send(`${found.map(({ story }) => story.join('\n')).join('\n\n')}\n`);
  });
}

/** What was asked for by name, else what the client likes better; JSON where it does not say. */
function formatOf(asked: unknown, accept: string | undefined): (typeof FORMATS)[number] {
  if (asked === undefined) return weightOf('text/plain', accept) > weightOf('application/json', accept) ? 'text' : 'json';
  const format = FORMATS.find((known) => known === asked);
  if (format === undefined) throw new FastswitchError('invalid_request', "'format' must be json or text.", 'format');
  return format;
}

/** How much an Accept header wants a type (RFC 9110, 12.5.1): its own entry counts, else the widest that covers it. */
function weightOf(type: string, accept = '*/*'): number {
  const [group] = type.split('/', 1);
  const weights = new Map(
    accept.split(',').map((entry): [string, number] => {
      const [range = '', ...parameters] = entry.split(';').map((part) => part.trim().toLowerCase());
      const quality = parameters.find((parameter) => parameter.startsWith('q='));
      return [range, quality === undefined ? 1 : Number(quality.slice(2)) || 0];
    }),
  );
  return weights.get(type) ?? weights.get(`${group}/*`) ?? weights.get('*/*') ?? 0;
}

const seconds = (micros: number): number => micros / 1e6;
const secondsOrNull = (micros: number | null): number | null => (micros === null ? null : micros / 1e6);

/** Values of the same keys, each through `change`. */
function mapped<K extends string, V, W>(record: Readonly<Record<K, V>>, change: (value: V) => W): Record<K, W> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value as V)])) as Record<K, W>;
}

/** Times are seconds since its arrival. */
function choiceOf({ life, at, waitingFor, story }: Explanation): object {
  const since = (time: number | null) => (time === null ? null : seconds(time - life.arrivedAt));
  const pause = life.longestPause;
  return {
    request: life.id,
    labels: life.labels,
    tenant: life.tenant,
    weight: life.weight,
    priority: life.priority,
    state: life.phase,
    outcome: life.outcome,
    error: life.error,
    code: life.rejectCode,
    seconds: since(life.endedAt ?? at),
    prompt_tokens: life.promptTokens,
    cached_tokens: life.cachedTokens,
    max_tokens: life.maxTokens,
    generated_tokens: life.generated,
    computed_tokens: life.computedTokens,
    steps: life.steps,
    first_token_seconds: since(life.firstTokenAt),
    last_token_seconds: since(life.lastTokenAt),
    longest_pause: pause && {
      seconds: seconds(pause.micros),
      at_seconds: since(pause.at),
      step_seconds: seconds(pause.stepMicros),
      step_tokens: pause.stepTokens,
    },
    seconds_by_state: mapped(microsByPhase(life, at), seconds),
    seconds_to_first_token_by_state: life.microsToFirstToken && mapped(life.microsToFirstToken, seconds),
    preemptions: life.preemptions,
    swaps: mapped(life.swaps, ({ transfers, runs, blocks, bytes, micros, held, withoutCopy, failed }) => ({
      copies: transfers,
      ...{ runs, blocks, bytes, failed },
      copy_seconds: seconds(micros),
      held_blocks: held,
      without_copy: withoutCopy,
    })),
    asked_to_end: life.asked && { by: life.asked.by, at_seconds: since(life.asked.at) },
    priority_changes: life.priorities.map((change) => ({ at_seconds: since(change.at), from: change.from, to: change.to })),
    priority_changes_left_out: life.prioritiesLeftOut,
    deadlines: promised(life.deadlines),
    deadline_changes: life.deadlineChanges.map(({ at: changedAt, from, to }) => ({
      at_seconds: since(changedAt),
      from: promised(from),
      to: promised(to),
    })),
    deadline_changes_left_out: life.deadlineChangesLeftOut,
    waiting_for: waitingFor && plain(waitingFor, life.arrivedAt),
    states: life.spells.map((spell) => spellOf(spell, since)),
    states_left_out: life.spellsLeftOut,
    explanation: story,
  };
}

/** Null: not promised. */
function promised({ ttftMicros, tbtMicros }: Deadlines): object {
  return { ttft_seconds: secondsOrNull(ttftMicros), tbt_seconds: secondsOrNull(tbtMicros) };
}

function spellOf(
  { phase, from, to, tokens, preemption, lostTokens, swap, admission }: Spell,
  since: (time: number | null) => unknown,
): object {
  return {
    state: phase,
    from_seconds: since(from),
    to_seconds: since(to),
    tokens,
    preemption,
    lost_tokens: lostTokens,
    swap: swap && {
      direction: swap.direction,
      transfer: swap.transfer,
      blocks: swap.blocks,
      held_blocks: swap.held,
      bytes: swap.bytes,
      runs: swap.runs,
      copy_seconds: secondsOrNull(swap.micros),
      error: swap.error,
    },
    admission: admission && {
      first: admission.first,
      cached_tokens: admission.cachedTokens,
      context_tokens: admission.contextTokens,
    },
  };
}

/** A reason to wait: its moments (`...At`) as seconds since the arrival. */
function plain(value: object, arrivedAt: number): object {
  const entries = Object.entries(value).map(([key, member]): [string, unknown] => {
    if (key.endsWith('At')) return [`${key.slice(0, -2)}_at_seconds`, seconds((member as number) - arrivedAt)];
    return [key, typeof member === 'object' && member !== null && !Array.isArray(member) ? plain(member, arrivedAt) : member];
  });
  return Object.fromEntries(entries);
}
