/**
 * GET /v1/requests: the requests that run or wait, one's own, or with an admin's key all. PATCH /v1/requests/{id}: another
 * priority or other objectives from the next step on, whether it runs, waits or is swapped out.
 */
import { setTimeout } from 'node:timers/promises';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyInstance } from 'fastify';
import { type Static, Type } from 'typebox';
import type { Explanation, System } from '../actors/system.js';
import type { BoardReading } from '../core/board.js';
import { FastswitchError } from '../errors.js';
import { callerOf, requireAdmin } from './access.js';
import { refuseOrigins } from './visitors.js';

/** What is sent to change something is small. */
const BODY_BYTES_MAX = 4096;
const OBJECTIVE_SECONDS = { least: 0.001, most: 86_400 };

/** Between two looks at all requests. */
const LOOK_MILLIS = 100;

/** As in the file of tenants. */
const Objective = Type.Union([Type.Null(), Type.Number({ minimum: OBJECTIVE_SECONDS.least, maximum: OBJECTIVE_SECONDS.most })], {
  title: `a number of seconds from ${OBJECTIVE_SECONDS.least} to ${OBJECTIVE_SECONDS.most}, or null for none`,
});

const Change = Type.Object(
  {
    priority: Type.Optional(
      Type.Integer({ title: 'a whole number of 32 bits (lower is served first)', minimum: -0x80000000, maximum: 0x7fffffff }),
    ),
    ttft_seconds: Type.Optional(Objective),
    tbt_seconds: Type.Optional(Objective),
  },
  { title: 'a JSON object', additionalProperties: false },
);

export function registerRequestRoutes(server: FastifyInstance, system: System, keyed: boolean): void {
  const look = new SharedLook(system);
  server.get('/v1/requests', async (request, reply) => {
    const { tenant, admin } = callerOf(request);
    const { at, requests } = await look.read();
    const shown = requests.filter((one) => admin || tenant.owns(one.tenant));
    const data = shown.map(({ id, label, phase, priority, ...one }) => ({
      object: 'request',
      id: label === '' ? String(id) : label,
      request: id,
      tenant: one.tenant,
      priority,
      state: phase,
      seconds: (at - one.arrivedAt) / 1e6,
      seconds_in_state: (at - one.since) / 1e6,
      prompt_tokens: one.promptTokens,
      generated_tokens: one.generated,
      max_tokens: one.maxTokens,
      preemptions: one.preemptions,
    }));
    return reply.header('cache-control', 'no-store').send({ object: 'list', data });
  });
  const typed = server.withTypeProvider<TypeBoxTypeProvider>();
  // A wildcard, because an x-request-id may contain a slash.
  typed.patch('/v1/requests/*', { bodyLimit: BODY_BYTES_MAX, schema: { body: Change } }, async (request) => {
    requireAdmin(request, keyed);
    // A key says who it is; without keys a page of somebody else's must not be able to.
    if (!keyed) refuseOrigins(request.headers);
    const name = (request.params as Record<string, string>)['*'] ?? '';
    const found = await system.explain(name);
    const body = change(system, name, request.body, found);
    request.log.info(body, 'request changed');
    return body;
  });
}

/**
 * Looks at all requests, which costs the engine's thread the more of them there are: ten times a second at most, however many
 * tenants ask. Who asks meanwhile shares the next look, and sees what has happened before the question.
 */
class SharedLook {
  readonly #system: Pick<System, 'board'>;
  #next: Promise<BoardReading> | null = null;
  #lookedAt = Number.NEGATIVE_INFINITY;

  constructor(system: Pick<System, 'board'>) {
    this.#system = system;
  }

  read(): Promise<BoardReading> {
    this.#next ??= this.#look();
    return this.#next;
  }

  async #look(): Promise<BoardReading> {
    await setTimeout(Math.max(0, this.#lookedAt + LOOK_MILLIS - performance.now()));
    this.#next = null;
    this.#lookedAt = performance.now();
    return this.#system.board(false);
  }
}

function change(system: System, name: string, wanted: Static<typeof Change>, found: readonly Explanation[]) {
  const { priority, ttft_seconds: ttft, tbt_seconds: tbt } = wanted;
  if (priority === undefined && ttft === undefined && tbt === undefined)
    throw new FastswitchError('invalid_request', "Give 'priority', 'ttft_seconds' or 'tbt_seconds'.", 'priority');
  const living = found.filter(({ life }) => life.phase !== 'done');
  if (living.length === 0) {
    const why = found.length === 0 ? 'is known' : 'is alive: it has ended, and what has happened cannot be changed';
    throw new FastswitchError('not_found', `No request '${name.slice(0, 100)}' ${why}.`);
  }
  for (const { life } of living) {
    // What is left out stays as it was.
    const deadlines = {
      ttftMicros: ttft === undefined ? life.deadlines.ttftMicros : micros(ttft),
      tbtMicros: tbt === undefined ? life.deadlines.tbtMicros : micros(tbt),
    };
    const promised = ttft !== undefined || tbt !== undefined;
    system.reprioritize(life.id, priority ?? null, ...(promised ? [deadlines] : []));
  }
  return { object: 'request', id: name, requests: living.map(({ life }) => life.id), ...wanted };
}

function micros(seconds: number | null): number | null {
  return seconds === null ? null : Math.round(seconds * 1e6);
}
