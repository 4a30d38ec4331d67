/**
 * A run as Chrome trace events, which ui.perfetto.dev and chrome://tracing show. Three processes: `engine` with a slice for
 * each step and for each stall before one, `link` with lanes out and in (a slice from a transfer's decision to its landing,
 * and inside it the copying itself), `requests` with a track for each and its states. Times are microseconds of the run.
 *
 * Slices are written when they end, so that nothing is remembered but what lives; the order of the text is not that of time.
 */
import type { JournalHeader } from '../actors/records.js';
import { type State, waitingCount } from '../core/state.js';
import type { Cause, Direction, Effect, Event, Micros, Phase, RequestId, StepItem, TransferId } from '../core/types.js';

type Args = Readonly<Record<string, unknown>>;

/** Complete slice, instant, counter, metadata, start and end of a flow. */
interface TraceEvent {
  readonly ph: 'X' | 'i' | 'C' | 'M' | 's' | 'f';
  readonly pid: number;
  readonly tid: number;
  readonly name: string;
  readonly cat?: string;
  readonly ts?: Micros;
  readonly dur?: Micros;
  readonly id?: number;
  readonly s?: 't';
  readonly bp?: 'e';
  readonly args?: Args;
}

export const ENGINE = 1;
export const LINK = 2;
export const REQUESTS = 3;

/** Tracks of the engine, and the first lane of each direction. */
const STEPS = 1;
const LANES: Readonly<Record<Direction, number>> = { out: 1, in: 1001 };

type TransferEffect = Extract<Effect, { runs: unknown }>;

interface OpenStep {
  readonly at: Micros;
  readonly name: string;
  readonly args: Args;
}

interface OpenTransfer {
  readonly at: Micros;
  readonly lane: number;
  readonly type: TransferEffect['type'];
  readonly direction: Direction;
  readonly args: Args;
}

interface OpenRequest {
  readonly tenant: string;
  phase: Phase;
  /** Where it goes on when it is back on the device. */
  resumeAs: 'prefilling' | 'decoding';
  since: Micros;
  args: Args;
}

/** Nobody is alive, so that no step is late. */
const IDLE = -1;
const BUFFER = 1 << 16;

export class PerfettoTrace {
  readonly #write: (text: string) => void;
  readonly #blockBytes: number;
  readonly #requests = new Map<RequestId, OpenRequest>();
  readonly #transfers = new Map<TransferId, OpenTransfer>();
  readonly #lanes: Readonly<Record<Direction, boolean[]>> = { out: [], in: [] };
  readonly #counters = new Map<string, number>();
  #step: OpenStep | null = null;
  #iterationFrom: Micros = IDLE;
  #flows = 0;
  #text = '';
  #count = 0;

  /** `write` takes the text in pieces, in order. */
  constructor(header: JournalHeader, write: (text: string) => void) {
    this.#write = write;
    this.#blockBytes = header.limits.blockBytes;
    const { version, model, startedAt, limits, run } = header;
    const otherData = { version: `fastswitch ${version}`, model: model.name, run, startedAt, policy: limits.policy };
    this.#text = `{"displayTimeUnit":"ms","otherData":${JSON.stringify(otherData)},"traceEvents":[`;
    for (const [pid, name] of [
      [ENGINE, 'engine'],
      [LINK, 'link'],
      [REQUESTS, 'requests'],
    ] as const) {
      this.#add({ ph: 'M', pid, tid: 0, name: 'process_name', args: { name } });
      this.#add({ ph: 'M', pid, tid: 0, name: 'process_sort_index', args: { sort_index: pid } });
    }
    this.#track(ENGINE, STEPS, 'steps', 0);
  }

  /** Events written so far. */
  get count(): number {
    return this.#count;
  }

  see(event: Event, effects: readonly Effect[], state: State, record: number): void {
    this.#observe(event, record);
    for (const effect of effects) this.#follow(effect, event.at, record);
    if (event.type === 'stepped' || event.type === 'stepFailed') {
      this.#iterationFrom = this.#requests.size > 0 && this.#step === null ? event.at : IDLE;
    } else if (this.#requests.size === 0) this.#iterationFrom = IDLE;
    this.#counter('running', event.at, state.active.length);
    this.#counter('waiting', event.at, waitingCount(state));
    this.#counter('device blocks free', event.at, state.device.free);
    this.#counter('host blocks free', event.at, state.host.free);
  }

  /** What still lasts ends at `at`, and so does the text. */
  end(at: Micros): void {
    const step = this.#step;
    const open = { open: true };
    if (step !== null && at > step.at) this.#slice(ENGINE, STEPS, step.name, 'step', step.at, at, { ...step.args, ...open });
    for (const transfer of this.#transfers.values()) if (at > transfer.at) this.#transferSlice(transfer, at, open);
    for (const [id, request] of this.#requests) this.#state(id, request, at, open);
    this.#write(`${this.#text}\n]}\n`);
    this.#text = '';
  }

  #observe(event: Event, record: number): void {
    const { at } = event;
    switch (event.type) {
      case 'arrived':
        return this.#arrived(event, record);
      case 'aborted':
        if (this.#requests.has(event.id)) this.#instant(event.id, 'asked to end', at, { record, reason: event.reason });
        return;
      case 'reprioritized':
        for (const { id, priority, deadlines } of event.items) {
          if (this.#requests.has(id)) this.#instant(id, `priority ${priority}`, at, { record, priority, ...deadlines });
        }
        return;
      case 'reweighted':
        for (const [id, { tenant }] of this.#requests) {
          if (tenant === event.tenant) this.#instant(id, `weight ${event.weight}`, at, { record, weight: event.weight });
        }
        return;
      case 'stepped':
        return this.#stepEnds(at, { engineMicros: event.micros }, event.micros);
      case 'stepFailed':
        return this.#stepEnds(at, { error: event.error }, null);
      case 'landed':
        return this.#transferEnds(event.transfer, at, event.micros, null);
      case 'transferFailed':
        return this.#transferEnds(event.transfer, at, null, event.error);
    }
  }

  #arrived({ type: _, at, id, names: __, ...said }: Extract<Event, { type: 'arrived' }>, record: number): void {
    const { labels, tenant } = said;
    if (this.#requests.size === 0) this.#iterationFrom = at;
    this.#requests.set(id, { tenant, phase: 'queued', resumeAs: 'prefilling', since: at, args: { record } });
    this.#track(REQUESTS, id, [String(id), ...labels.slice(0, 1), tenant].filter((part) => part !== '').join(' '), id);
    this.#instant(id, 'arrived', at, { record, ...said });
  }

  #follow(effect: Effect, at: Micros, record: number): void {
    switch (effect.type) {
      case 'step':
        return this.#stepBegins(effect, at, record);
      case 'mirror':
        return this.#transferBegins(effect, effect.ids, at, record);
      case 'prefetch':
        return this.#transferBegins(effect, [effect.id], at, record);
      case 'swapOut':
      case 'swapIn':
        this.#transferBegins(effect, [effect.id], at, record);
        break;
      case 'finish':
      case 'reject': {
        const how = effect.type === 'finish' ? effect.outcome : `rejected: ${effect.code}`;
        this.#instant(effect.id, how, at, { record });
        const request = this.#requests.get(effect.id);
        if (request !== undefined) this.#state(effect.id, request, at, {});
        this.#requests.delete(effect.id);
        return;
      }
    }
    if (!('id' in effect)) return;
    const request = this.#requests.get(effect.id);
    const phase = request === undefined ? null : phaseAfter(effect, request);
    if (request === undefined || phase === null) return;
    const because = 'cause' in effect ? causeArgs(effect.cause) : {};
    this.#state(effect.id, request, at, {});
    if (phase === 'decoding' || phase === 'prefilling') request.resumeAs = phase;
    if (phase === 'queued') request.resumeAs = 'prefilling';
    Object.assign(request, { phase, since: at, args: { record, ...because } });
    if ('cause' in effect && effect.cause.by !== null && effect.cause.by !== effect.id)
      this.#arrow(effect.cause.by, effect.id, at);
  }

  #stepBegins({ step, items }: Extract<Effect, { type: 'step' }>, at: Micros, record: number): void {
    if (this.#iterationFrom !== IDLE && at > this.#iterationFrom) {
      this.#slice(ENGINE, STEPS, 'stall', 'stall', this.#iterationFrom, at, { before: step, record });
    }
    this.#iterationFrom = IDLE;
    const tokens = this.#tokensOf(items);
    const name = tokens.prefillTokens === 0 ? 'decode' : tokens.decodeTokens === 0 ? 'prefill' : 'prefill and decode';
    this.#step = { at, name, args: { step, requests: items.length, ...tokens, record } };
  }

  #tokensOf(items: readonly StepItem[]): { prefillTokens: number; decodeTokens: number } {
    const tokens = { prefillTokens: 0, decodeTokens: 0 };
    for (const { id, count } of items) {
      if (this.#requests.get(id)?.phase === 'decoding') tokens.decodeTokens += count;
      else tokens.prefillTokens += count;
    }
    return tokens;
  }

  /** `micros`: the engine's own; null: it failed. */
  #stepEnds(at: Micros, args: Args, micros: Micros | null): void {
    const step = this.#step;
    if (step === null) return;
    this.#step = null;
    const gap = micros === null ? {} : { gapMicros: at - step.at - micros };
    this.#slice(ENGINE, STEPS, step.name, 'step', step.at, at, { ...step.args, ...args, ...gap });
  }

  #transferBegins(
    { transfer, type, direction, blocks, runs }: TransferEffect,
    requests: readonly RequestId[],
    at: Micros,
    record: number,
  ): void {
    const lanes = this.#lanes[direction];
    const free = lanes.indexOf(false);
    const index = free < 0 ? lanes.length : free;
    const lane = LANES[direction] + index;
    if (index === lanes.length) this.#track(LINK, lane, index === 0 ? direction : `${direction} ${index + 1}`, lane);
    lanes[index] = true;
    const args = { transfer, requests, blocks, bytes: blocks * this.#blockBytes, runs: runs.length, record };
    this.#transfers.set(transfer, { at, lane, type, direction, args });
  }

  /** `micros`: of the copying; null: it failed with `error`. */
  #transferEnds(id: TransferId, at: Micros, micros: Micros | null, error: string | null): void {
    const transfer = this.#transfers.get(id);
    if (transfer === undefined) return;
    this.#transfers.delete(id);
    this.#lanes[transfer.direction][transfer.lane - LANES[transfer.direction]] = false;
    if (micros === null) return this.#transferSlice(transfer, at, { error });
    this.#transferSlice(transfer, at, { waitedMicros: at - transfer.at - micros });
    // Chunks of several transfers take turns, so this is how long its copying took and not quite when.
    this.#slice(LINK, transfer.lane, 'copy', 'copy', Math.max(transfer.at, at - micros), at, { transfer: id });
  }

  #transferSlice({ lane, type, at: from, args }: OpenTransfer, at: Micros, more: Args): void {
    this.#slice(LINK, lane, type, 'transfer', from, at, { ...args, ...more });
  }

  #state(id: RequestId, { phase, since, args }: OpenRequest, at: Micros, more: Args): void {
    if (at > since) this.#slice(REQUESTS, id, phase, 'state', since, at, { ...args, ...more });
  }

  #arrow(from: RequestId, to: RequestId, ts: Micros): void {
    this.#flows += 1;
    const flow = { pid: REQUESTS, name: 'preempts', cat: 'preempts', id: this.#flows, ts } as const;
    this.#add({ ph: 's', tid: from, ...flow });
    this.#add({ ph: 'f', bp: 'e', tid: to, ...flow });
  }

  #counter(name: string, ts: Micros, value: number): void {
    if (this.#counters.get(name) === value) return;
    this.#counters.set(name, value);
    this.#add({ ph: 'C', pid: ENGINE, tid: 0, name, ts, args: { value } });
  }

  #instant(id: RequestId, name: string, ts: Micros, args: Args): void {
    this.#add({ ph: 'i', s: 't', pid: REQUESTS, tid: id, name, cat: 'request', ts, args });
  }

  #slice(pid: number, tid: number, name: string, cat: string, from: Micros, to: Micros, args: Args): void {
    this.#add({ ph: 'X', pid, tid, name, cat, ts: from, dur: to - from, args });
  }

  #track(pid: number, tid: number, name: string, order: number): void {
    this.#add({ ph: 'M', pid, tid, name: 'thread_name', args: { name } });
    this.#add({ ph: 'M', pid, tid, name: 'thread_sort_index', args: { sort_index: order } });
  }

  #add(event: TraceEvent): void {
    this.#text += `${this.#count === 0 ? '' : ','}\n${JSON.stringify(event)}`;
    this.#count += 1;
    if (this.#text.length < BUFFER) return;
    this.#write(this.#text);
    this.#text = '';
  }
}

function causeArgs({ why, by }: Cause): Args {
  return by === null ? { why } : { why, by };
}

/** The state that a request is in after an effect of its own; null: none that it was not in before. */
function phaseAfter(effect: Effect, { phase, resumeAs }: OpenRequest): Phase | null {
  switch (effect.type) {
    case 'admit':
      return 'prefilling';
    case 'prefilled':
      return 'decoding';
    case 'swapOut':
      return 'swapping-out';
    case 'swapIn':
      return 'swapping-in';
    case 'park':
      return 'swapped';
    case 'resume':
      return resumeAs;
    case 'settled':
      return phase === 'swapping-out' ? 'swapped' : resumeAs;
    case 'recompute':
      return 'queued';
    default:
      return null;
  }
}
