/**
 * Watches a run and keeps what the evaluation asks for: every latency exactly, what was copied and why, and how much of
 * each iteration nobody computed. It sees what the core decides and changes nothing.
 */
import type { Effect, Event, Micros, TransferId } from '../core/types.js';
import type { RunResult, Spread } from './result.js';
import { nearestRank, Samples } from './samples.js';

type TransferEffect = Extract<Effect, { runs: unknown }>;

interface InFlight {
  readonly type: TransferEffect['type'];
  readonly direction: 'out' | 'in';
  readonly blocks: number;
  /** When it was decided. */
  readonly at: Micros;
}

/** The part of a result that follows from the decisions. */
export type Observed = Pick<
  RunResult,
  | 'virtualSeconds'
  | 'ttftMs'
  | 'tbtMs'
  | 'throughputTokensPerSecond'
  | 'stallShareP99'
  | 'iterationMs'
  | 'stallMs'
  | 'steps'
  | 'preemptions'
  | 'transfers'
  | 'bytesOut'
  | 'bytesIn'
  | 'bytesMirrored'
  | 'bytesPrefetched'
  | 'meanRunBlocks'
  | 'swapOutMs'
  | 'swapInMs'
  | 'blocksSent'
  | 'blocksHeld'
  | 'promptTokens'
  | 'generatedTokens'
  | 'tokensPerMs'
>;

const MICROS_PER_MS = 1e3;
const MICROS_PER_SECOND = 1e6;
/** Nobody is alive, so no iteration has begun. */
const IDLE = -1;

export class RunWitness {
  readonly #blockBytes: number;
  /** By request number; the last token's time is -1 before the first. */
  readonly #arrivedAt: Micros[] = [];
  readonly #lastTokenAt: Micros[] = [];
  readonly #inFlight = new Map<TransferId, InFlight>();

  readonly #ttft = new Samples();
  readonly #tbt = new Samples();
  readonly #iterations = new Samples();
  readonly #stalls = new Samples();
  readonly #tokensPerMs = new Samples();
  readonly #swapOut = new Samples();
  readonly #swapIn = new Samples();

  #live = 0;
  #iterationFrom: Micros = IDLE;
  #launchedAt: Micros = 0;
  #firstArrivalAt: Micros = -1;
  #lastTokensAt: Micros = 0;
  readonly #counts = { steps: 0, transfers: 0, runs: 0, runBlocks: 0, sent: 0, held: 0, promptTokens: 0 };
  readonly #preemptions = { swap: 0, recompute: 0 };
  readonly #landed = { swapOut: 0, swapIn: 0, mirror: 0, prefetch: 0, out: 0, in: 0 };

  /** `blockBytes`: bytes of one block, all layers. */
  constructor(blockBytes: number) {
    this.#blockBytes = blockBytes;
  }

  see(event: Event, effects: readonly Effect[]): void {
    if (event.type === 'arrived') this.#arrived(event);
    else if (event.type === 'stepped') this.#stepped(event);
    else if (event.type === 'landed') this.#land(event.transfer, event.at);
    for (const effect of effects) this.#follow(effect, event.at);
    if (event.type === 'stepped') this.#iterationFrom = this.#live > 0 ? event.at : IDLE;
  }

  /** Steps without a single token in any of them tell of a run that goes nowhere. */
  get tokens(): number {
    return this.#ttft.length + this.#tbt.length;
  }

  get steps(): number {
    return this.#counts.steps;
  }

  observed(): Observed {
    const { steps, transfers, runs, runBlocks, sent, held, promptTokens } = this.#counts;
    // 0 where there was no token.
    const virtualSeconds = Math.max(0, this.#lastTokensAt - Math.max(0, this.#firstArrivalAt)) / MICROS_PER_SECOND;
    const bytes = (blocks: number) => blocks * this.#blockBytes;
    const ms = (samples: Samples): Spread => samples.spread(MICROS_PER_MS);
    return {
      virtualSeconds,
      ttftMs: ms(this.#ttft),
      tbtMs: ms(this.#tbt),
      throughputTokensPerSecond: virtualSeconds === 0 ? 0 : this.tokens / virtualSeconds,
      stallShareP99: shareAtTail(this.#iterations.values(), this.#stalls.values(), 99),
      iterationMs: ms(this.#iterations),
      stallMs: ms(this.#stalls),
      steps,
      preemptions: { ...this.#preemptions },
      transfers,
      bytesOut: bytes(this.#landed.out),
      bytesIn: bytes(this.#landed.in),
      bytesMirrored: bytes(this.#landed.mirror),
      bytesPrefetched: bytes(this.#landed.prefetch),
      meanRunBlocks: runs === 0 ? 0 : runBlocks / runs,
      swapOutMs: ms(this.#swapOut),
      swapInMs: ms(this.#swapIn),
      blocksSent: sent,
      blocksHeld: held,
      promptTokens,
      generatedTokens: this.tokens,
      tokensPerMs: this.#tokensPerMs.spread(1, 'low'),
    };
  }

  #arrived({ id, at, promptTokens }: Extract<Event, { type: 'arrived' }>): void {
    this.#arrivedAt[id] = at;
    this.#lastTokenAt[id] = -1;
    this.#counts.promptTokens += promptTokens;
    if (this.#firstArrivalAt < 0) this.#firstArrivalAt = at;
    if (this.#live === 0) this.#iterationFrom = at;
    this.#live += 1;
  }

  #stepped({ at, items }: Extract<Event, { type: 'stepped' }>): void {
    const iteration = at - this.#iterationFrom;
    let sampled = 0;
    for (const { token } of items) if (token >= 0) sampled += 1;
    this.#counts.steps += 1;
    this.#iterations.push(iteration);
    this.#stalls.push(this.#launchedAt - this.#iterationFrom);
    if (sampled > 0) this.#tokensPerMs.push(sampled / (iteration / MICROS_PER_MS));
  }

  #follow(effect: Effect, at: Micros): void {
    switch (effect.type) {
      case 'step':
        this.#launchedAt = at;
        return;
      case 'tokens':
        for (const { id } of effect.items) this.#token(id, at);
        return;
      case 'swapOut':
        this.#preemptions.swap += 1;
        this.#counts.sent += effect.blocks;
        this.#counts.held += effect.held;
        return this.#start(effect, at);
      case 'park':
        this.#preemptions.swap += 1;
        this.#counts.held += effect.held;
        return this.#swapOut.push(0);
      case 'swapIn':
      case 'mirror':
      case 'prefetch':
        return this.#start(effect, at);
      case 'resume':
        return this.#swapIn.push(0);
      case 'recompute':
        this.#preemptions.recompute += 1;
        return;
      case 'finish':
      case 'reject':
        this.#live -= 1;
        return;
    }
  }

  #token(id: number, at: Micros): void {
    const last = this.#lastTokenAt[id] as Micros;
    if (last < 0) this.#ttft.push(at - (this.#arrivedAt[id] as Micros));
    else this.#tbt.push(at - last);
    this.#lastTokenAt[id] = at;
    this.#lastTokensAt = at;
  }

  #start({ type, transfer, direction, blocks, runs }: TransferEffect, at: Micros): void {
    this.#inFlight.set(transfer, { type, direction, blocks, at });
    this.#counts.runs += runs.length;
    this.#counts.runBlocks += blocks;
  }

  #land(id: TransferId, at: Micros): void {
    const transfer = this.#inFlight.get(id);
    if (transfer === undefined) throw new Error(`transfer ${id} landed and was not in flight`);
    this.#inFlight.delete(id);
    this.#counts.transfers += 1;
    this.#landed[transfer.type] += transfer.blocks;
    this.#landed[transfer.direction] += transfer.blocks;
    if (transfer.type === 'swapOut') this.#swapOut.push(at - transfer.at);
    else if (transfer.type === 'swapIn') this.#swapIn.push(at - transfer.at);
  }
}

/** Of the iterations at or above this percentile together: the share of `parts` in `wholes`. */
function shareAtTail(wholes: Float64Array, parts: Float64Array, percent: number): number {
  const least = nearestRank(wholes.slice().sort(), percent);
  let whole = 0;
  let part = 0;
  for (let k = 0; k < wholes.length; k++) {
    if ((wholes[k] as number) < least) continue;
    whole += wholes[k] as number;
    part += parts[k] as number;
  }
  return whole === 0 ? 0 : part / whole;
}
