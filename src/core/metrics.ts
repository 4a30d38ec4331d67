/**
 * fold(event, effects) -> counters and histograms: what /metrics, benches and tests read. Pure: time is the `at` of the
 * events, so a replay yields the same numbers. It remembers what lives (requests, transfers in flight) and no one that has ended.
 */
import {
  GAP_BOUNDS,
  type Histogram,
  MICROS_PER_SECOND,
  REQUEST_BOUNDS,
  STEP_BOUNDS,
  STEP_TOKENS_BOUNDS,
  Tally,
} from './histogram.js';
import { Lengths, type LengthsSnapshot } from './lengths.js';
import { type TenantCount, TenantCounts } from './tenants.js';
import type { Direction, Effect, Event, Micros, Outcome, Phase, RequestId, StepItem, TransferId } from './types.js';

export type { Histogram } from './histogram.js';

type TransferEffect = Extract<Effect, { type: 'swapOut' | 'swapIn' | 'mirror' | 'prefetch' }>;
type AdmittingEffect = Extract<Effect, { type: 'admit' | 'swapIn' }>;

/** Blocks of one memory. They make `total`: `free`, `moving` (in a transfer) and `used` (owned, or kept, and in no transfer). */
export interface BlockCounts {
  readonly free: number;
  readonly used: number;
  readonly moving: number;
  readonly total: number;
  /** Of `used`: KV that no running request needs, which stays as long as there is room: warm blocks and spare host copies. */
  readonly kept: number;
}

export interface MetricsSnapshot extends LengthsSnapshot {
  /** Live requests by state (`done` counts all that ended). */
  readonly requestsByPhase: Readonly<Record<Phase, number>>;
  readonly finishedByOutcome: Readonly<Record<'stop' | 'length' | 'aborted' | 'failed' | 'rejected', number>>;
  /** Arrival to first token. */
  readonly ttftSeconds: Histogram;
  /** Between one token of a request and its next, whatever happened to the request meanwhile. */
  readonly tbtSeconds: Histogram;
  readonly stepSeconds: Histogram;
  /** What a step costs beside the engine's own time: from the event that launched it to its return, less the native call. */
  readonly stepGapSeconds: Histogram;
  /** Tokens computed in a step that did not fail. */
  readonly stepTokens: Histogram;
  /** Arrival to first admission. */
  readonly queueSeconds: Histogram;
  /** Arrival to end, of requests that were not rejected. */
  readonly requestSeconds: Histogram;
  readonly steps: number;
  /** Of requests that got their first token. */
  readonly promptTokens: number;
  /** Of `promptTokens`: those whose KV was found at the first admission. What clients see as their usage. */
  readonly cachedPromptTokens: number;
  /** Tokens of context, prompt or generated, whose KV was found at an admission: also at those after a recompute. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** Tokens computed by the engine, prefill (with recomputed ones) and decode. */
  readonly prefillTokensComputed: number;
  readonly decodeTokensComputed: number;
  readonly preemptions: { readonly swap: number; readonly recompute: number };
  /** Of `preemptions.swap`: nothing was copied, the host had everything. */
  readonly parked: number;
  /** Swapped requests that went on without a copy, because the device still had everything. */
  readonly resumedWithoutCopy: number;
  /** Of preempted requests: blocks that were sent to the host, and blocks that it had already. */
  readonly blocksSent: number;
  readonly blocksHeld: number;
  /** Of transfers that landed. */
  readonly transfers: { readonly out: number; readonly in: number };
  readonly transferBytes: { readonly out: number; readonly in: number };
  /** The same bytes by what they were moved for. */
  readonly transferBytesByKind: Readonly<Record<TransferEffect['type'], number>>;
  readonly transferSeconds: { readonly out: number; readonly in: number };
  readonly transferRuns: { readonly out: number; readonly in: number };
  readonly transfersFailed: number;
  readonly stepsFailed: number;
  readonly blocks: Readonly<Record<'device' | 'host', BlockCounts>>;
}

/** Of a live request, what the core's state does not remember. */
export interface Glance {
  /** The first of its labels, else ''. */
  readonly label: string;
  readonly arrivedAt: Micros;
  /** When it entered its phase. */
  since: Micros;
  preemptions: number;
}

interface LiveRequest extends Glance {
  readonly tenant: TenantCount;
  readonly promptTokens: number;
  phase: Phase;
  /** The phase in which it runs when it is not swapped. */
  runningPhase: 'prefilling' | 'decoding';
  readonly maxTokens: number;
  generated: number;
  /** -1: not yet, these two and the last. */
  admittedAt: Micros;
  firstTokenAt: Micros;
  /** Tokens of its prompt that were found at its first admission. */
  cachedPromptTokens: number;
  lastTokenAt: Micros;
}

interface TransferInFlight {
  readonly kind: TransferEffect['type'];
  readonly direction: Direction;
  readonly runs: number;
  readonly blocks: number;
}

export class MetricsFold {
  readonly #blockBytes: number;
  readonly #live = new Map<RequestId, LiveRequest>();
  readonly #inFlight = new Map<TransferId, TransferInFlight>();
  /** Tokens of the step in flight, counted when it is done. */
  #stepTokens = { prefill: 0, decode: 0 };
  #stepLaunchedAt: Micros = 0;

  readonly #byPhase: Record<Phase, number> = {
    queued: 0,
    prefilling: 0,
    decoding: 0,
    'swapping-out': 0,
    swapped: 0,
    'swapping-in': 0,
    done: 0,
  };
  /** How often each way between two phases was gone: `queued>prefilling`. */
  readonly #transitions = new Map<string, number>();
  readonly #tenants = new TenantCounts();
  readonly #byOutcome: Record<Outcome, number> = { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 };
  readonly #ttft = new Tally(REQUEST_BOUNDS, MICROS_PER_SECOND);
  readonly #tbt = new Tally(STEP_BOUNDS, MICROS_PER_SECOND);
  readonly #step = new Tally(STEP_BOUNDS, MICROS_PER_SECOND);
  readonly #stepGap = new Tally(GAP_BOUNDS, MICROS_PER_SECOND);
  readonly #stepLength = new Tally(STEP_TOKENS_BOUNDS, 1);
  readonly #queue = new Tally(REQUEST_BOUNDS, MICROS_PER_SECOND);
  readonly #request = new Tally(REQUEST_BOUNDS, MICROS_PER_SECOND);
  readonly #lengths = new Lengths();
  readonly #counts = {
    steps: 0,
    stepsFailed: 0,
    transfersFailed: 0,
    promptTokens: 0,
    cachedPromptTokens: 0,
    cachedTokens: 0,
    generatedTokens: 0,
    prefillTokensComputed: 0,
    decodeTokensComputed: 0,
    parked: 0,
    resumedWithoutCopy: 0,
    blocksSent: 0,
    blocksHeld: 0,
  };
  readonly #preemptions = { swap: 0, recompute: 0 };
  readonly #transfers = { out: 0, in: 0 };
  readonly #transferBlocks = { out: 0, in: 0 };
  readonly #kindBlocks = { swapOut: 0, swapIn: 0, mirror: 0, prefetch: 0 };
  readonly #transferMicros = { out: 0, in: 0 };
  readonly #transferRuns = { out: 0, in: 0 };

  /** `blockBytes`: bytes of one block, all layers. */
  constructor(options: { readonly blockBytes: number }) {
    this.#blockBytes = options.blockBytes;
  }

  /** Takes in an outside fact and what the core decided on it, in that order. */
  apply(event: Event, effects: readonly Effect[]): void {
    this.#observe(event);
    for (const effect of effects) this.#follow(effect, event.at);
  }

  /** A copy that later events do not change. `blocks`: the two memories as they are now. */
  snapshot(blocks: MetricsSnapshot['blocks']): MetricsSnapshot {
    const bytes = (blocks: number) => blocks * this.#blockBytes;
    const { swapOut, swapIn, mirror, prefetch } = this.#kindBlocks;
    const seconds = (direction: Direction) => this.#transferMicros[direction] / MICROS_PER_SECOND;
    return {
      requestsByPhase: { ...this.#byPhase },
      finishedByOutcome: { ...this.#byOutcome },
      ttftSeconds: this.#ttft.histogram(),
      tbtSeconds: this.#tbt.histogram(),
      stepSeconds: this.#step.histogram(),
      stepGapSeconds: this.#stepGap.histogram(),
      stepTokens: this.#stepLength.histogram(),
      queueSeconds: this.#queue.histogram(),
      requestSeconds: this.#request.histogram(),
      ...this.#lengths.snapshot(),
      ...this.#counts,
      preemptions: { ...this.#preemptions },
      transfers: { ...this.#transfers },
      transferBytes: { out: bytes(this.#transferBlocks.out), in: bytes(this.#transferBlocks.in) },
      transferBytesByKind: {
        swapOut: bytes(swapOut),
        swapIn: bytes(swapIn),
        mirror: bytes(mirror),
        prefetch: bytes(prefetch),
      },
      transferSeconds: { out: seconds('out'), in: seconds('in') },
      transferRuns: { ...this.#transferRuns },
      blocks,
    };
  }

  /** How often each way between two phases was gone, from the start: `queued>prefilling`. */
  transitions(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#transitions);
  }

  /** Of a live request, for a board. */
  glance(id: RequestId): Readonly<Glance> {
    return this.#living(id);
  }

  /** Of who lives, and of the last that went. */
  tenants(): readonly TenantCount[] {
    return this.#tenants.all();
  }

  /** Mean time from first admission to end; 1 before anyone has ended. */
  meanServiceSeconds(): number {
    const [all, queued] = [this.#request.histogram(), this.#queue.histogram()];
    return all.count === 0 ? 1 : Math.max(0, (all.sum - queued.sum) / all.count);
  }

  #observe(event: Event): void {
    switch (event.type) {
      case 'arrived':
        this.#live.set(event.id, {
          arrivedAt: event.at,
          tenant: this.#tenants.came(event.tenant),
          label: event.labels[0] ?? '',
          promptTokens: event.promptTokens,
          phase: 'queued',
          since: event.at,
          preemptions: 0,
          runningPhase: 'prefilling',
          maxTokens: event.maxTokens,
          generated: 0,
          cachedPromptTokens: 0,
          admittedAt: -1,
          firstTokenAt: -1,
          lastTokenAt: -1,
        });
        this.#byPhase.queued++;
        return;
      case 'stepped':
        this.#counts.steps++;
        this.#counts.prefillTokensComputed += this.#stepTokens.prefill;
        this.#counts.decodeTokensComputed += this.#stepTokens.decode;
        this.#step.observe(event.micros);
        this.#stepLength.observe(this.#stepTokens.prefill + this.#stepTokens.decode);
        this.#stepGap.observe(event.at - this.#stepLaunchedAt - event.micros);
        return;
      case 'stepFailed':
        this.#counts.stepsFailed++;
        return;
      case 'landed':
        this.#land(event.transfer, event.micros);
        return;
      case 'transferFailed':
        this.#inFlight.delete(event.transfer);
        this.#counts.transfersFailed++;
        return;
    }
  }

  #follow(effect: Effect, at: Micros): void {
    switch (effect.type) {
      case 'step':
        this.#stepTokens = this.#tokensOf(effect.items);
        this.#stepLaunchedAt = at;
        return;
      case 'tokens':
        for (const { id } of effect.items) this.#token(this.#living(id), at);
        return;
      case 'admit':
        this.#admit(this.#living(effect.id), effect, at);
        this.#enter(this.#living(effect.id), 'prefilling', at);
        return;
      case 'prefilled':
        this.#prefilled(this.#living(effect.id), at);
        return;
      case 'swapOut':
        this.#start(effect);
        this.#swapOut(this.#living(effect.id), 'swapping-out', effect.blocks, effect.held, at);
        return;
      case 'park':
        this.#counts.parked++;
        this.#swapOut(this.#living(effect.id), 'swapped', 0, effect.held, at);
        return;
      case 'swapIn': {
        const request = this.#living(effect.id);
        if (request.phase === 'queued') this.#admit(request, effect, at);
        this.#start(effect);
        this.#enter(request, 'swapping-in', at);
        return;
      }
      case 'resume': {
        const request = this.#living(effect.id);
        this.#counts.resumedWithoutCopy++;
        this.#enter(request, request.runningPhase, at);
        return;
      }
      case 'mirror':
      case 'prefetch':
        this.#start(effect);
        return;
      case 'settled': {
        const request = this.#living(effect.id);
        this.#enter(request, request.phase === 'swapping-out' ? 'swapped' : request.runningPhase, at);
        return;
      }
      case 'recompute': {
        const request = this.#living(effect.id);
        this.#preemptions.recompute++;
        request.preemptions++;
        this.#enter(request, 'queued', at);
        return;
      }
      case 'finish':
        this.#request.observe(at - this.#living(effect.id).arrivedAt);
        this.#end(effect.id, effect.outcome, at);
        return;
      case 'reject':
        this.#end(effect.id, 'rejected', at);
        return;
    }
  }

  /** Its place is reserved; it computes at once, or when a copy of what was found has landed. */
  #admit(request: LiveRequest, { cachedTokens }: AdmittingEffect, at: Micros): void {
    if (request.admittedAt < 0) {
      request.admittedAt = at;
      this.#queue.observe(at - request.arrivedAt);
      request.cachedPromptTokens = Math.min(cachedTokens, request.promptTokens);
    }
    request.runningPhase = 'prefilling';
    this.#counts.cachedTokens += cachedTokens;
  }

  #swapOut(request: LiveRequest, phase: Phase, sent: number, held: number, at: Micros): void {
    request.preemptions++;
    this.#enter(request, phase, at);
    this.#preemptions.swap++;
    this.#counts.blocksSent += sent;
    this.#counts.blocksHeld += held;
  }

  #start({ type, transfer, direction, runs, blocks }: TransferEffect): void {
    this.#inFlight.set(transfer, { kind: type, direction, runs: runs.length, blocks });
  }

  #prefilled(request: LiveRequest, at: Micros): void {
    request.runningPhase = 'decoding';
    this.#enter(request, 'decoding', at);
  }

  #token(request: LiveRequest, at: Micros): void {
    if (request.lastTokenAt >= 0) this.#tbt.observe(at - request.lastTokenAt);
    else {
      request.firstTokenAt = at;
      this.#ttft.observe(at - request.arrivedAt);
      // Both here, so that their quotient is the share of prompts that was found.
      this.#counts.promptTokens += request.promptTokens;
      this.#counts.cachedPromptTokens += request.cachedPromptTokens;
    }
    request.lastTokenAt = at;
    request.generated++;
    request.tenant.generatedTokens++;
    this.#counts.generatedTokens++;
  }

  #land(id: TransferId, micros: Micros): void {
    const transfer = this.#inFlight.get(id);
    if (transfer === undefined) throw new Error(`metrics: transfer ${id} landed and was not in flight`);
    const { kind, direction, runs, blocks } = transfer;
    this.#inFlight.delete(id);
    this.#transfers[direction]++;
    this.#transferBlocks[direction] += blocks;
    this.#kindBlocks[kind] += blocks;
    this.#transferMicros[direction] += micros;
    this.#transferRuns[direction] += runs;
  }

  /** By the phase of each request and not by the count: the last chunk of a prompt may be one token. */
  #tokensOf(items: readonly StepItem[]): { prefill: number; decode: number } {
    const tokens = { prefill: 0, decode: 0 };
    for (const { id, count } of items) {
      if (this.#living(id).phase === 'decoding') tokens.decode += count;
      else tokens.prefill += count;
    }
    return tokens;
  }

  #living(id: RequestId): LiveRequest {
    const request = this.#live.get(id);
    if (request === undefined) throw new Error(`metrics: request ${id} is not alive`);
    return request;
  }

  #enter(request: LiveRequest, phase: Phase, at: Micros): void {
    this.#byPhase[request.phase]--;
    this.#byPhase[phase]++;
    const way = `${request.phase}>${phase}`;
    this.#transitions.set(way, (this.#transitions.get(way) ?? 0) + 1);
    request.phase = phase;
    request.since = at;
  }

  #end(id: RequestId, outcome: Outcome, at: Micros): void {
    const request = this.#living(id);
    this.#lengths.ended(request);
    this.#enter(request, 'done', at);
    this.#tenants.went(request.tenant);
    this.#live.delete(id);
    this.#byOutcome[outcome]++;
  }
}
