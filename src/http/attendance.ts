/**
 * One HTTP request for completions, from its arrival to the end of its work: who asked and with what standing, its pass
 * through the gate, its meters, its span and its line in the log.
 */
import type { Span } from '@opentelemetry/api';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Explanation, System } from '../actors/system.js';
import { FastswitchError } from '../errors.js';
import { callerOf } from './access.js';
import type { Gate, Pass, Wish } from './gate.js';
import type { Generation } from './generation.js';
import { Meter, type Objective } from './meter.js';
import type { Tenant, Tenants } from './tenants.js';
import { endSpan, type SpanFacts, startSpan } from './tracing.js';

/** Where a gateway names for whom it asks; `user` in the body says the same. */
const USER_HEADER = 'x-gateway-inference-fairness-id';
const TTFT_HEADER = 'x-slo-ttft-ms';
const TBT_HEADER = 'x-slo-tpot-ms';
/** A day. */
const OBJECTIVE_MILLIS_MAX = 86_400_000;
const PRIORITY_MAX = 0x7fffffff;

/** Who asks, and with what standing. */
export interface Standing {
  readonly tenant: Tenant;
  /** What the scheduler calls it. */
  readonly account: string;
  readonly priority: number;
  readonly objective: Objective;
}

/**
 * What the request brings is counted from what its tenant has: with keys nobody raises itself above that, except an admin.
 * @throws FastswitchError invalid_request
 */
export function standingOf(request: FastifyRequest, user: string, priority: number | null): Standing {
  const { tenant, admin } = callerOf(request);
  const bound = !tenant.anonymous && !admin;
  return {
    tenant,
    account: tenant.accountOf(headerOf(request, USER_HEADER, 256) ?? user),
    priority: bound ? bounded(tenant, priority ?? 0) : (priority ?? tenant.settings.priority),
    objective: {
      ttftSeconds: objective(request, TTFT_HEADER, tenant.settings.ttftSeconds, bound),
      tbtSeconds: objective(request, TBT_HEADER, tenant.settings.tbtSeconds, bound),
    },
  };
}

function bounded({ name, settings }: Tenant, asked: number): number {
  if (asked >= 0) return Math.min(PRIORITY_MAX, settings.priority + asked);
  throw new FastswitchError(
    'invalid_request',
    `'priority' must be at least 0 here (lower is served first): it is counted from the ${settings.priority} of tenant '${name}'.`,
    'priority',
  );
}

function headerOf({ headers }: FastifyRequest, name: string, most: number): string | null {
  const value = headers[name];
  if (value === undefined || value === '') return null;
  if (typeof value === 'string' && value.length <= most) return value;
  throw new FastswitchError('invalid_request', `The header '${name}' must be a text of at most ${most} characters.`, name);
}

function objective(request: FastifyRequest, header: string, own: number | null, bound: boolean): number | null {
  const text = headerOf(request, header, 20);
  if (text === null) return own;
  const millis = Number(text);
  if (!(millis >= 1 && millis <= OBJECTIVE_MILLIS_MAX))
    throw new FastswitchError(
      'invalid_request',
      `The header '${header}' must be a number of milliseconds from 1 to ${OBJECTIVE_MILLIS_MAX}, not '${text}'.`,
      header,
    );
  if (!bound || (own !== null && millis >= own * 1000)) return millis / 1000;
  const least = own === null ? 'has none' : `has ${own * 1000}`;
  throw new FastswitchError(
    'invalid_request',
    `The header '${header}' may only ask for more time than the tenant has by itself, which ${least}.`,
    header,
  );
}

export interface AttendanceParts {
  readonly system: System;
  readonly tenants: Tenants;
  readonly gate: Gate;
  /** Of fastswitch. */
  readonly version: string;
}

/** What is asked for: how much, and what it is called. */
export interface Asked extends Pick<SpanFacts, 'operation' | 'model' | 'responseId'> {
  readonly wish: Wish;
  /** Tokens of all prompts, each counted once. */
  readonly promptTokens: number;
}

export class Attendance {
  readonly standing: Standing;
  readonly #parts: AttendanceParts;
  readonly #asked: Asked;
  readonly #reply: FastifyReply;
  readonly #pass: Pass;
  readonly #span: Span;
  readonly #cameAt = performance.now();
  #submittedAt: number | null = null;

  /** @throws FastswitchError where the gate does not let it in. */
  constructor(parts: AttendanceParts, standing: Standing, asked: Asked, reply: FastifyReply) {
    this.standing = standing;
    this.#parts = parts;
    this.#asked = asked;
    this.#reply = reply;
    this.#pass = parts.gate.enter(standing.tenant, asked.wish);
    const { request } = reply;
    const facts = { ...asked, requestId: request.id, tenant: standing.account };
    this.#span = startSpan(parts.version, request.headers, facts);
  }

  /** For one choice. */
  meter(promptTokens: number): Meter {
    const { tenant, account, objective } = this.standing;
    return new Meter(this.#parts.tenants, { tenant, account, objective, promptTokens, cameAt: this.#cameAt });
  }

  /** Place in its tenant's own line; 0: it is not in it. */
  get place(): number {
    return this.#pass.place;
  }

  get lineSeconds(): number {
    return ((this.#submittedAt ?? performance.now()) - this.#cameAt) / 1000;
  }

  /** Submits it, at once or when it is its turn, and sees it to its end. */
  attend(generation: Generation): void {
    generation.onOver = () => this.#over(generation);
    const submit = (): void => {
      this.#submittedAt = performance.now();
      generation.submit();
    };
    if (this.#pass.entered === null) return submit();
    this.#pass.entered.then(submit, (error: FastswitchError) => generation.refuse(error));
  }

  #over(generation: Generation): void {
    const { choices, failure } = generation;
    const generated = choices.reduce((sum, choice) => sum + choice.generated, 0);
    const computed = generated > 0 || choices.some(({ finish }) => finish !== null);
    this.#pass.leave(computed ? this.#asked.promptTokens + generated : 0);
    this.#log(generation, generated);
    const end = {
      promptTokens: this.#asked.promptTokens,
      cachedTokens: Math.max(0, ...choices.map(({ cachedTokens }) => cachedTokens)),
      generatedTokens: generated,
      finishReasons: choices.flatMap(({ finish }) => finish ?? []),
      failure,
      abandoned: wasLeft(generation),
    };
    void this.#lives().then((lives) => endSpan(this.#span, end, lives));
  }

  /** Asked for only where somebody records the span. */
  async #lives(): Promise<readonly Explanation[]> {
    if (!this.#span.isRecording() || this.#submittedAt === null) return [];
    return this.#parts.system.explain(this.#asked.responseId).catch(() => []);
  }

  #log(generation: Generation, generatedTokens: number): void {
    const { failure, choices } = generation;
    const { operation, responseId, promptTokens } = this.#asked;
    const facts = {
      ...{
        operation,
        id: responseId,
        tenant: this.standing.account,
        priority: this.standing.priority,
        promptTokens,
        generatedTokens,
      },
      choices: choices.length,
      seconds: Number(((performance.now() - this.#cameAt) / 1000).toFixed(4)),
      lineSeconds: Number(this.lineSeconds.toFixed(4)),
      outcome: failure?.code ?? (wasLeft(generation) ? 'client_left' : choices.map(({ finish }) => finish).join(' ')),
    };
    if (failure?.code === 'engine_failed') this.#reply.log.error(facts, 'failed');
    else this.#reply.log.info(facts, 'answered');
  }
}

/** Nobody waits for the answer any more, and it is not complete. (A complete one is left by everybody.) */
function wasLeft({ abandoned, choices }: Generation): boolean {
  return abandoned && choices.some(({ finish }) => finish === null);
}
