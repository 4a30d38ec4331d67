/** Counts one choice for its tenant, from its request's arrival to its end: what it was served, and how well. */
import type { Turn } from '../actors/ports.js';
import type { Service } from './ledger.js';
import type { Tenant, Tenants } from './tenants.js';

/** What a choice was promised; null: nothing. */
export interface Objective {
  readonly ttftSeconds: number | null;
  readonly tbtSeconds: number | null;
}

export interface Metered {
  readonly tenant: Tenant;
  /** What the scheduler calls who asks: the tenant, or a user of its. */
  readonly account: string;
  readonly objective: Objective;
  readonly promptTokens: number;
  /** When its request came, in milliseconds of `performance.now()`. */
  readonly cameAt: number;
}

export class Meter {
  readonly #tenants: Tenants;
  readonly #metered: Metered;
  readonly #service: Service;
  #submitted = false;
  #waiting = false;
  #over = false;
  #firstAt: number | null = null;
  #lastAt = 0;
  #generated = 0;

  constructor(tenants: Tenants, metered: Metered) {
    this.#tenants = tenants;
    this.#metered = metered;
    this.#service = metered.tenant.service;
    this.#service.live += 1;
    this.#wait();
  }

  /** It goes to the scheduler now; answers with what weight. */
  submitted(): number {
    this.#submitted = true;
    if (this.#waiting) this.#service.queued += 1;
    this.#tenants.changed();
    return this.#metered.tenant.came(this.#metered.account);
  }

  turned(turn: Turn): void {
    if (turn === 'running') this.#run();
    else this.#wait();
  }

  tokens(count: number): void {
    if (this.#over) return;
    this.#run();
    const now = performance.now();
    this.#service.serve(this.#firstAt === null ? this.#metered.promptTokens : 0, count, now);
    this.#firstAt ??= now;
    this.#lastAt = now;
    this.#generated += count;
  }

  /** `complete`: it came to an end that is to be judged, and not to a refusal or an abort. Only the first call counts. */
  end(complete: boolean): void {
    if (this.#over) return;
    this.#run();
    this.#over = true;
    this.#service.live -= 1;
    if (this.#submitted) {
      this.#metered.tenant.went(this.#metered.account);
      this.#tenants.changed();
    }
    if (!complete || this.#firstAt === null) return;
    const { objective, cameAt } = this.#metered;
    this.#service.judge('ttft', (this.#firstAt - cameAt) / 1000, objective.ttftSeconds);
    if (this.#generated < 2) return;
    this.#service.judge('tbt', (this.#lastAt - this.#firstAt) / 1000 / (this.#generated - 1), objective.tbtSeconds);
  }

  #wait(): void {
    if (this.#waiting || this.#over) return;
    this.#waiting = true;
    if (this.#submitted) this.#service.queued += 1;
    this.#service.waits(this.#tenants.all().map(({ service }) => service));
  }

  #run(): void {
    if (!this.#waiting) return;
    this.#waiting = false;
    this.#service.waiting -= 1;
    if (this.#submitted) this.#service.queued -= 1;
  }
}
