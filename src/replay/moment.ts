/** Where everybody stands after a record: who runs, who waits and for what, what moves, what is free. Plain data for --json. */
import { directionOf } from '../core/flights.js';
import { rankOf } from '../core/frame.js';
import type { BlockCounts } from '../core/metrics.js';
import type { Flight, Request, State } from '../core/state.js';
import type { Direction, Effect, Event, Micros, Phase, PolicyName, RequestId, StepId, TransferId } from '../core/types.js';
import { type Waiting, whyWaiting } from '../core/waiting.js';
import type { Played } from './play.js';

export interface MomentRequest {
  readonly id: RequestId;
  readonly labels: readonly string[];
  readonly tenant: string;
  readonly phase: Phase;
  /** When it entered the phase. */
  readonly since: Micros;
  readonly priority: number;
  /** What the policy compares, as a board shows it. */
  readonly rank: number | null;
  readonly promptTokens: number;
  readonly generated: number;
  readonly maxTokens: number;
  /** Tokens whose KV exists. */
  readonly computed: number;
  /** With those that are on their way out. */
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  /** It is in the step in flight. */
  readonly stepping: boolean;
  /** It is asked to end and waits for what is in flight. */
  readonly ending: boolean;
  /** Null: it runs. */
  readonly waitsFor: Waiting | null;
}

export interface MomentTransfer {
  readonly transfer: TransferId;
  readonly type: Flight['type'];
  readonly direction: Direction;
  readonly requests: readonly RequestId[];
  readonly blocks: number;
  readonly runs: number;
  readonly since: Micros;
  /** When the core expects it to land. */
  readonly dueAt: Micros;
  /** The next step waits for it. */
  readonly awaited: boolean;
}

export interface Moment {
  readonly record: number;
  readonly at: Micros;
  /** What was taken in last; null: nothing yet. */
  readonly event: Event | null;
  /** Null: nothing was taken in yet. */
  readonly policy: PolicyName | null;
  readonly draining: boolean;
  readonly step: { readonly step: StepId; readonly since: Micros; readonly requests: number; readonly tokens: number } | null;
  readonly transfers: readonly MomentTransfer[];
  readonly blocks: Readonly<Record<'device' | 'host', BlockCounts>>;
  /** Those who run, in rank order; who comes, leaves, and waits. */
  readonly requests: readonly MomentRequest[];
}

interface Known {
  readonly labels: readonly string[];
  since: Micros;
}

/** Remembers what the state does not: names, and since when. */
export class MomentFold {
  readonly #known = new Map<RequestId, Known>();
  readonly #transfers = new Map<TransferId, Micros>();
  #step = { since: 0, tokens: 0, requests: 0 };
  #event: Event | null = null;
  #state: State | null = null;

  see(event: Event, effects: readonly Effect[], state: State): void {
    this.#event = event;
    this.#state = state;
    if (event.type === 'arrived') this.#known.set(event.id, { labels: event.labels, since: event.at });
    else if (event.type === 'landed' || event.type === 'transferFailed') this.#transfers.delete(event.transfer);
    for (const effect of effects) this.#follow(effect, event.at);
  }

  #follow(effect: Effect, at: Micros): void {
    if ('transfer' in effect) this.#transfers.set(effect.transfer, at);
    switch (effect.type) {
      case 'step': {
        const tokens = effect.items.reduce((sum, { count }) => sum + count, 0);
        this.#step = { since: at, tokens, requests: effect.items.length };
        return;
      }
      case 'finish':
      case 'reject':
        this.#known.delete(effect.id);
        return;
      case 'admit':
      case 'prefilled':
      case 'swapOut':
      case 'park':
      case 'swapIn':
      case 'resume':
      case 'settled':
      case 'recompute': {
        const known = this.#known.get(effect.id);
        if (known !== undefined) known.since = at;
      }
    }
  }

  result({ records, at, metrics }: Played): Moment {
    const state = this.#state;
    const said = { record: records, at, event: this.#event, blocks: metrics.blocks };
    if (state === null) return { ...said, policy: null, draining: false, step: null, transfers: [], requests: [] };
    const arriving = [...state.requests.values()].filter(({ phase }) => phase === 'swapping-in');
    const all = [...state.active, ...arriving.sort(state.policy.compare), ...state.leaving, ...state.swapped, ...state.queued];
    return {
      ...said,
      policy: state.limits.policy,
      draining: state.draining,
      step: state.step === 0 ? null : { step: state.step, ...this.#step },
      transfers: [...state.flights.values()].map((flight) => this.#transfer(state, flight)),
      requests: all.map((request) => this.#request(state, request)),
    };
  }

  #transfer(state: State, { transfer, type, blocks, runs, parts, dueAt }: Flight): MomentTransfer {
    return {
      transfer,
      type,
      direction: directionOf(type),
      requests: parts.flatMap(({ request }) => (request === null ? [] : [request.id])),
      blocks,
      runs,
      since: this.#transfers.get(transfer) ?? 0,
      dueAt,
      awaited: state.awaited.has(transfer),
    };
  }

  #request(state: State, request: Request): MomentRequest {
    const { id, account, phase, priority, promptTokens, generated, maxTokens, computed, copies, stepping, ending } = request;
    const known = this.#known.get(id);
    const leaving = phase === 'swapping-out' ? (request.flight?.blocks ?? 0) : 0;
    return {
      id,
      labels: known?.labels ?? [],
      tenant: account.tenant,
      phase,
      since: known?.since ?? 0,
      priority,
      rank: rankOf(state, request),
      promptTokens,
      generated,
      maxTokens,
      computed,
      deviceBlocks: state.device.table(id).length + leaving,
      hostBlocks: copies.length,
      stepping,
      ending: ending !== null,
      waitsFor: whyWaiting(state, id),
    };
  }
}
