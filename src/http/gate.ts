/**
 * Every request passes here on its way to the scheduler: its tenant's rates are charged, and where the tenant has as many
 * choices in the scheduler as it may, or (soft) is above its rate, the request waits in the tenant's own line, in order.
 *
 * Tokens are charged when a request comes, as its prompt and the most it may generate, and put right when it has ended.
 * Requests are HTTP requests, concurrency and lines count choices and requests. Times are milliseconds of a monotonic clock.
 */
import { FastswitchError } from '../errors.js';
import { clipped, rateHeaders, spelled } from './rates.js';
import type { Tenant } from './tenants.js';

/** What a request may use at most. */
export interface Wish {
  readonly choices: number;
  /** Prompts and completions. */
  readonly tokens: number;
}

/** Of the mean time that a request stays inside: weight of the newest. */
const HOLD_SHARE = 0.1;
/** A tenant of average weight may hold so many times what is free of the server's queue: alone, four fifths of it. */
const FREE_TIMES = 4;
/** Longer than it takes to hear that a choice runs. */
const CALM_MILLIS = 100;

interface Line {
  readonly waiting: Pass[];
  /** Choices in the scheduler. */
  inside: number;
  /** Mean seconds from entering to leaving. */
  holdSeconds: number;
  /** For the rate of a soft tenant. */
  timer: NodeJS.Timeout | null;
}

/** One request, from the gate to its end. */
export class Pass {
  readonly wish: Wish;
  readonly #gate: Gate;
  readonly #tenant: Tenant;
  /** Tokens that were charged. */
  charged = 0;
  enteredAt: number | null = null;
  over = false;
  /** Resolves when it is in; rejects with a FastswitchError when it will not be. Null: it was in at once. */
  entered: Promise<void> | null = null;
  admit: () => void = () => {};
  refuse: (error: FastswitchError) => void = () => {};

  constructor(gate: Gate, tenant: Tenant, wish: Wish) {
    this.#gate = gate;
    this.#tenant = tenant;
    this.wish = wish;
  }

  wait(): void {
    this.entered = new Promise((resolve, reject) => {
      this.admit = resolve;
      this.refuse = reject;
    });
    // Whoever left does not listen any more.
    this.entered.catch(() => {});
  }

  /** Place in its tenant's line, the first is 1; 0: it is not in it. */
  get place(): number {
    return this.#gate.placeOf(this.#tenant, this);
  }

  /** It has ended, and used so many tokens. Only the first call counts. */
  leave(usedTokens: number): void {
    this.#gate.leave(this.#tenant, this, usedTokens);
  }
}

export interface GateOptions {
  /** Of the server: as many as run and wait in the scheduler; and most in one tenant's line, where it says nothing. */
  readonly maxRunning: number;
  readonly maxQueued: number;
}

export class Gate {
  readonly #options: GateOptions;
  readonly #now: () => number;
  readonly #lines = new Map<Tenant, Line>();
  #inside = 0;
  #closed = false;
  /** When nobody was last seen to wait in the scheduler. */
  #calmAt = Number.NEGATIVE_INFINITY;

  /** @param now That of the tenants, whose rates are charged here. */
  constructor(options: GateOptions, now: () => number) {
    this.#options = options;
    this.#now = now;
  }

  /**
   * What can be said before a prompt is tokenised, which costs more than all of this.
   * @throws FastswitchError as `enter`
   */
  preview(tenant: Tenant): void {
    if (this.#closed) throw draining();
    const now = this.#now();
    const least = { choices: 1, tokens: 0 };
    if (!tenant.settings.soft) refuseTooFast(tenant, least, now);
    const line = this.#lineOf(tenant);
    if (this.#mayEnter(tenant, line, least, now)) this.#refuseCrowding(tenant, line, least, now);
    else this.#refuseFull(tenant, line, least, now);
  }

  /**
   * @throws FastswitchError rate_limit_exceeded or queue_full with the time after which it may be otherwise,
   * request_over_limit or invalid_request where waiting would not help, draining.
   */
  enter(tenant: Tenant, wish: Wish): Pass {
    if (this.#closed) throw draining();
    const { settings } = tenant;
    refuseOversized(tenant, wish);
    const now = this.#now();
    const pass = new Pass(this, tenant, wish);
    const line = this.#lineOf(tenant);
    if (!settings.soft) refuseTooFast(tenant, wish, now);
    if (this.#mayEnter(tenant, line, wish, now)) {
      this.#refuseCrowding(tenant, line, wish, now);
      charge(tenant, pass, now);
      this.#admit(line, pass, now);
      return pass;
    }
    this.#refuseFull(tenant, line, wish, now);
    if (!settings.soft) charge(tenant, pass, now);
    pass.wait();
    line.waiting.push(pass);
    this.#pump(tenant, line);
    return pass;
  }

  placeOf(tenant: Tenant, pass: Pass): number {
    return (this.#lines.get(tenant)?.waiting.indexOf(pass) ?? -1) + 1;
  }

  leave(tenant: Tenant, pass: Pass, usedTokens: number): void {
    if (pass.over) return;
    pass.over = true;
    const now = this.#now();
    const line = this.#lineOf(tenant);
    tenant.tokens?.take(usedTokens - pass.charged, now);
    if (pass.enteredAt === null) {
      const at = line.waiting.indexOf(pass);
      if (at >= 0) line.waiting.splice(at, 1);
    } else {
      line.inside -= pass.wish.choices;
      this.#inside -= pass.wish.choices;
      line.holdSeconds += HOLD_SHARE * ((now - pass.enteredAt) / 1000 - line.holdSeconds);
    }
    this.#pump(tenant, line);
  }

  /** Limits of this tenant may be others now. */
  changed(tenant: Tenant): void {
    const line = this.#lines.get(tenant);
    if (line !== undefined) this.#pump(tenant, line);
  }

  /** Nobody comes in any more; who waits is told. */
  close(): void {
    this.#closed = true;
    for (const line of this.#lines.values()) {
      if (line.timer !== null) clearTimeout(line.timer);
      for (const pass of line.waiting.splice(0)) pass.refuse(draining());
    }
  }

  /** Requests in a tenant's line, and its choices in the scheduler. */
  counts(tenant: Tenant): { readonly line: number; readonly inside: number } {
    const line = this.#lines.get(tenant);
    return { line: line?.waiting.length ?? 0, inside: line?.inside ?? 0 };
  }

  /**
   * `x-ratelimit-...` of OpenAI. Where a tenant has no rate of requests, what it can run into is how many may be at work and
   * wait at once, its own or the server's; of tokens nothing is said where they are not limited.
   */
  headers(tenant: Tenant): Record<string, string> {
    const now = this.#now();
    const { requests, tokens } = tenant;
    const ofRequests =
      requests === null
        ? this.#roomHeaders(tenant)
        : rateHeaders('requests', requests.perMinute, requests.level(now), requests.secondsUntilFull(now));
    if (tokens === null) return ofRequests;
    return { ...ofRequests, ...rateHeaders('tokens', tokens.perMinute, tokens.level(now), tokens.secondsUntilFull(now)) };
  }

  #roomHeaders(tenant: Tenant): Record<string, string> {
    const { concurrency, queue } = tenant.settings;
    const { line, inside } = this.counts(tenant);
    const { maxRunning, maxQueued } = this.#options;
    const limit = concurrency === null ? maxRunning + maxQueued : concurrency + (queue ?? maxQueued);
    const used = concurrency === null ? this.#inside : inside + line;
    const perPlace = (this.#lines.get(tenant)?.holdSeconds ?? 0) / (concurrency ?? maxRunning);
    return rateHeaders('requests', limit, limit - used, used * perPlace);
  }

  #lineOf(tenant: Tenant): Line {
    let line = this.#lines.get(tenant);
    if (line === undefined) {
      line = { waiting: [], inside: 0, holdSeconds: 1, timer: null };
      this.#lines.set(tenant, line);
    }
    return line;
  }

  /** `passing`: it is the first in line. */
  #mayEnter(tenant: Tenant, line: Line, wish: Wish, now: number, passing = false): boolean {
    const { concurrency, soft } = tenant.settings;
    if (!passing && line.waiting.length > 0) return false;
    if (concurrency !== null && line.inside > 0 && line.inside + wish.choices > concurrency) return false;
    return !soft || secondsToRate(tenant, wish, now) === 0;
  }

  #admit(line: Line, pass: Pass, now: number): void {
    pass.enteredAt = now;
    line.inside += pass.wish.choices;
    this.#inside += pass.wish.choices;
    pass.admit();
  }

  /** Lets in whoever may come now, in order; for the rate of a soft tenant it looks again when that may be so. */
  #pump(tenant: Tenant, line: Line): void {
    if (line.timer !== null) clearTimeout(line.timer);
    line.timer = null;
    const now = this.#now();
    for (let first = line.waiting[0]; first !== undefined; first = line.waiting[0]) {
      if (!this.#mayEnter(tenant, line, first.wish, now, true)) break;
      line.waiting.shift();
      if (tenant.settings.soft && first.charged === 0) charge(tenant, first, now);
      this.#admit(line, first, now);
    }
    const first = line.waiting[0];
    const millis = first === undefined || !tenant.settings.soft ? 0 : secondsToRate(tenant, first.wish, now) * 1000;
    if (millis > 0 && Number.isFinite(millis)) line.timer = setTimeout(() => this.#pump(tenant, line), Math.ceil(millis));
  }

  #refuseFull(tenant: Tenant, line: Line, wish: Wish, now: number): void {
    const most = tenant.settings.queue ?? this.#options.maxQueued;
    if (line.waiting.length < most) return;
    throw new FastswitchError(
      'queue_full',
      `Tenant '${tenant.name}' has ${line.inside} choices at work and ${line.waiting.length} requests in its line, which holds ${most}. Try again later.`,
      null,
      this.#secondsToPlace(tenant, line, wish, now),
    );
  }

  /**
   * The server's queue is everybody's, and is shared as switches share the memory of their ports (dynamic thresholds,
   * Choudhury and Hahne 1998): nobody may hold more than some times what is still free, by weight. So there is always room
   * for who has little there, and nobody who was let in has to go again. Who has nothing there is always let past, and the
   * scheduler has the last word.
   */
  #refuseCrowding(tenant: Tenant, line: Line, wish: Wish, now: number): void {
    if (tenant.anonymous) return;
    let [all, weights, tenants] = [0, 0, 0];
    for (const other of this.#lines.keys()) {
      const { queued } = other.service;
      if (queued === 0 && other !== tenant) continue;
      all += queued;
      weights += other.settings.weight;
      tenants += 1;
    }
    if (all === 0) this.#calmAt = now;
    const own = tenant.service.queued;
    if (own === 0) return;
    // That a choice runs is heard a moment later: a burst that all can run is no crowd.
    if (this.#inside + wish.choices <= this.#options.maxRunning && now - this.#calmAt < CALM_MILLIS) return;
    const free = this.#options.maxQueued - all - wish.choices;
    const share = (tenant.settings.weight * tenants) / weights;
    if (own + wish.choices <= FREE_TIMES * share * free) return;
    throw new FastswitchError(
      'queue_full',
      `${own} choices of tenant '${tenant.name}' wait in the server's queue, which holds ${this.#options.maxQueued} for all tenants. Try again later.`,
      null,
      clipped(line.holdSeconds),
    );
  }

  /** Until a place in the line is free: when the first of it goes in. */
  #secondsToPlace(tenant: Tenant, line: Line, wish: Wish, now: number): number {
    const { concurrency, soft } = tenant.settings;
    const places = concurrency === null ? 0 : line.holdSeconds / Math.max(1, concurrency);
    const rate = soft ? secondsToRate(tenant, line.waiting[0]?.wish ?? wish, now) : 0;
    return clipped(Math.max(places, rate));
  }
}

function draining(): FastswitchError {
  return new FastswitchError(
    'draining',
    'The server is shutting down and takes no new requests. Try again elsewhere or later.',
    null,
    1,
  );
}

function charge({ requests, tokens }: Tenant, pass: Pass, now: number): void {
  requests?.take(1, now);
  tokens?.take(pass.wish.tokens, now);
  pass.charged = pass.wish.tokens;
}

function secondsToRate({ requests, tokens }: Tenant, wish: Wish, now: number): number {
  return Math.max(requests?.secondsUntil(1, now) ?? 0, tokens?.secondsUntil(wish.tokens, now) ?? 0);
}

/** What could never be let in, however long it waits. */
function refuseOversized({ name, settings, tokens }: Tenant, wish: Wish): void {
  if (settings.concurrency !== null && wish.choices > settings.concurrency) {
    throw new FastswitchError(
      'invalid_request',
      `This request asks for ${wish.choices} choices, but tenant '${name}' may have ${settings.concurrency} at once. Send fewer prompts, or a lower n.`,
      'n',
    );
  }
  if (tokens !== null && wish.tokens > tokens.perMinute) {
    throw new FastswitchError(
      'request_over_limit',
      `This request may use ${wish.tokens} tokens (prompt and max_tokens), but tenant '${name}' may use ${tokens.perMinute} in a minute. Shorten the prompt or lower max_tokens.`,
    );
  }
}

function refuseTooFast(tenant: Tenant, wish: Wish, now: number): void {
  const seconds = secondsToRate(tenant, wish, now);
  if (seconds === 0) return;
  const { requests, tokens, name } = tenant;
  const byRequests = requests !== null && requests.secondsUntil(1, now) === seconds;
  const limit = byRequests ? `${requests.perMinute} requests` : `${tokens?.perMinute} tokens`;
  throw new FastswitchError(
    'rate_limit_exceeded',
    `Tenant '${name}' has used up its ${limit} a minute for now. Try again in ${spelled(seconds)}.`,
    null,
    clipped(seconds),
  );
}
