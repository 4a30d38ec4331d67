/**
 * A core under a test's control: steps and transfers come back when the test says so, in any order, and every law of the
 * simulation is checked after every event.
 */
import { BLOCK_TOKENS } from '../../src/core/config.js';
import type { CostModel, StepFeatures } from '../../src/core/cost.js';
import { type Mechanism, PRESETS } from '../../src/core/presets.js';
import { decide } from '../../src/core/scheduler.js';
import { createState, type Limits, type Request, type State } from '../../src/core/state.js';
import type { AbortReason, BlockName, Effect, Event, Micros, Phase, StepItem } from '../../src/core/types.js';
import {
  conservation,
  endsOnce,
  type Law,
  lowestRankGoesFirst,
  nobodyIdles,
  nobodySharesABlock,
  noSecondThoughts,
  sameKv,
  stepWithinLimits,
} from '../simulation/laws.js';

type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;
type TransferEffect = EffectOf<'swapOut' | 'swapIn' | 'mirror' | 'prefetch'>;

/** Swaps and nothing else: what is copied ahead of need, kept or shared is what a test adds. */
export const PLAIN: Mechanism = {
  ...PRESETS.default.mechanism,
  waits: 'async',
  reuse: false,
  finished: 'drop',
  mirror: false,
  prefetch: false,
  partial: false,
  paced: false,
  prefill: 'mixed',
  quantumTokens: 0,
  weighed: false,
  starvationSeconds: 0,
};

/** What the machine takes, in microseconds; the core's model has learned it before the test begins. */
interface Costs {
  readonly step: Micros;
  readonly promptToken: Micros;
  readonly block: Micros;
}

const COSTS: Costs = { step: 10_000, promptToken: 100, block: 50 };
const BLOCK_BYTES = 1 << 16;

const LIMITS: Limits = {
  policy: 'fcfs',
  mechanism: PLAIN,
  blockBytes: BLOCK_BYTES,
  deviceBlocks: 10,
  hostBlocks: 20,
  maxBatchTokens: 64,
  maxRunning: 4,
  maxQueued: 8,
};

export interface BenchOptions extends Partial<Omit<Limits, 'mechanism'>> {
  /** Changes to `PLAIN`. */
  readonly mechanism?: Partial<Mechanism>;
  readonly costs?: Partial<Costs>;
}

interface Arriving {
  readonly maxTokens?: number;
  readonly priority?: number;
  readonly tenant?: string;
  readonly weight?: number;
  readonly ttftMicros?: number | null;
  readonly tbtMicros?: number | null;
  /** Requests of one text share all their tokens. */
  readonly text?: string;
  /** So many tokens, whole blocks of them, are those of the text "system". */
  readonly system?: number;
}

function microsOf({ step, promptToken }: Costs, { prefillTokens }: StepFeatures): Micros {
  return step + promptToken * prefillTokens;
}

function featuresOf(items: readonly StepItem[]): StepFeatures {
  const chunks = items.filter(({ count }) => count > 1);
  return {
    prefillTokens: chunks.reduce((sum, { count }) => sum + count, 0),
    decodeSequences: items.length - chunks.length,
    contextTokens: items.reduce((sum, { start, count }) => sum + start + count, 0),
  };
}

/** So many observations that nothing else is remembered. */
function teach(model: CostModel, costs: Costs, blockBytes: number): void {
  for (let n = 0; n < 32; n += 1) {
    const features = { prefillTokens: 40 * (n % 4), decodeSequences: n % 7, contextTokens: 100 * (n % 5) };
    model.observeStep(features, microsOf(costs, features));
    const blocks = 1 + (n % 8);
    for (const direction of ['out', 'in'] as const)
      model.observeTransfer(direction, 1 + (n % Math.min(3, blocks)), blocks * blockBytes, blocks * costs.block);
  }
}

export class Bench {
  readonly state: State;
  at: Micros = 0;
  /** Of the last event. */
  effects: Effect[] = [];
  /** In flight, oldest first, and when they will have been copied. */
  readonly transfers: (TransferEffect & { readonly dueAt: Micros })[] = [];
  readonly #costs: Costs;
  readonly #laws: readonly Law[];
  readonly #texts = new Map<number, { readonly text: string; readonly system: number }>();
  #step: (EffectOf<'step'> & { readonly dueAt: Micros }) | null = null;

  constructor({ mechanism, costs, ...limits }: BenchOptions = {}) {
    this.state = createState({ ...LIMITS, ...limits, mechanism: { ...PLAIN, ...mechanism } });
    this.#costs = { ...COSTS, ...costs };
    teach(this.state.cost, this.#costs, this.state.limits.blockBytes);
    const { deviceBlocks, hostBlocks } = this.state.limits;
    this.#laws = [
      conservation,
      stepWithinLimits,
      lowestRankGoesFirst,
      nobodyIdles,
      noSecondThoughts,
      endsOnce(),
      nobodySharesABlock(),
      sameKv(deviceBlocks, hostBlocks, (id, position) => this.#tag(id, position)),
    ];
  }

  send(event: Event): Effect[] {
    this.at += 1;
    const stamped = { ...event, at: this.at };
    this.effects = decide(this.state, stamped);
    for (const effect of this.effects) {
      if (effect.type === 'step') {
        // Its tables are borrowed: what a test looks at is what the engine was told.
        const items = effect.items.map((item) => ({ ...item, blocks: [...item.blocks] }));
        this.#step = { ...effect, items, dueAt: this.at + microsOf(this.#costs, featuresOf(effect.items)) };
      } else if (isTransfer(effect)) {
        const before = this.transfers.filter(({ direction }) => direction === effect.direction).map(({ dueAt }) => dueAt);
        this.transfers.push({ ...effect, dueAt: Math.max(this.at, ...before) + effect.blocks * this.#costs.block });
      }
    }
    for (const law of this.#laws) law(stamped, this.effects, this.state);
    return this.effects;
  }

  arrive(id: number, promptTokens: number, more: Arriving = {}): Effect[] {
    const { maxTokens = 64, priority = 0, tenant = 't', text = `text ${id}`, system = 0 } = more;
    const { weight = 1, ttftMicros = null, tbtMicros = null } = more;
    this.#texts.set(id, { text, system });
    const names = Array.from({ length: Math.floor(promptTokens / BLOCK_TOKENS) }, (_, index) => this.name(id, index));
    const told = { id, labels: [], promptTokens, maxTokens, priority, tenant, weight, ttftMicros, tbtMicros, names };
    return this.send({ type: 'arrived', at: 0, ...told });
  }

  /** The step in flight comes back: everyone who samples gets a token, those named their last one. */
  step(...stop: number[]): Effect[] {
    const step = this.#step;
    if (step === null) throw new Error('no step in flight');
    this.#step = null;
    const micros = microsOf(this.#costs, featuresOf(step.items));
    this.at = Math.max(this.at, step.dueAt - 1);
    const items = step.items.map(({ id, count, sample }) => {
      const { promptTokens, generated } = this.request(id);
      const known = promptTokens + generated + 1;
      const name = sample && known % BLOCK_TOKENS === 0 ? this.name(id, known / BLOCK_TOKENS - 1) : null;
      return { id, count, token: sample ? 7 : -1, ended: stop.includes(id), logprobs: null, name };
    });
    return this.send({ type: 'stepped', at: 0, step: step.step, micros, items });
  }

  failStep(): Effect[] {
    const step = this.#step;
    if (step === null) throw new Error('no step in flight');
    this.#step = null;
    return this.send({ type: 'stepFailed', at: 0, step: step.step, error: 'broken' });
  }

  /** The oldest transfer in flight has landed, or the one of this index. */
  land(index = 0): Effect[] {
    const { transfer, dueAt, blocks } = this.#take(index);
    this.at = Math.max(this.at, dueAt - 1);
    return this.send({ type: 'landed', at: 0, transfer, micros: blocks * this.#costs.block });
  }

  failTransfer(index = 0): Effect[] {
    return this.send({ type: 'transferFailed', at: 0, transfer: this.#take(index).transfer, error: 'broken' });
  }

  abort(id: number, reason: AbortReason = 'client'): Effect[] {
    return this.send({ type: 'aborted', at: 0, id, reason });
  }

  prioritize(...items: [id: number, priority: number][]): Effect[] {
    return this.send({ type: 'reprioritized', at: 0, items: items.map(([id, priority]) => ({ id, priority })) });
  }

  promise(id: number, ttftMicros: number | null, tbtMicros: number | null): Effect[] {
    const { priority } = this.request(id);
    return this.send({ type: 'reprioritized', at: 0, items: [{ id, priority, deadlines: { ttftMicros, tbtMicros } }] });
  }

  reweight(tenant: string, weight: number): Effect[] {
    return this.send({ type: 'reweighted', at: 0, tenant, weight });
  }

  /** Steps and lands, copies first, until it holds. */
  until(holds: () => boolean): void {
    for (let n = 0; !holds(); n += 1) {
      if (n === 10_000) throw new Error('it never came to hold');
      if (this.transfers.length > 0) this.land();
      else this.step();
    }
  }

  /** Ends everyone, lets everything land, and looks for what is left behind: nothing that could not be had again. */
  finishAll(): void {
    for (const id of [...this.state.requests.keys()]) this.abort(id);
    this.until(() => !this.stepping && this.transfers.length === 0);
    const { device, host, warm, copies, residents } = this.state;
    if (device.free + warm.blocks !== device.total) throw new Error('left behind: device blocks that nobody can have');
    if (residents.total > 0) throw new Error('left behind: a resident');
    // A copy that another continues is given up after that one, so it takes several rounds.
    for (let room = host.free + copies.unpinned; room > 0; room = host.free + copies.unpinned) {
      if (copies.add(null, new Array<null>(room).fill(null), 0, 'unpinned') === null)
        throw new Error('left behind: room that is none');
    }
    if (host.free > 0) throw new Error('left behind: host blocks that nobody can have');
  }

  request(id: number): Request {
    const request = this.state.requests.get(id);
    if (request === undefined) throw new Error(`request ${id} is not alive`);
    return request;
  }

  phase(id: number): Phase {
    return this.state.requests.get(id)?.phase ?? 'done';
  }

  phases(...ids: number[]): Phase[] {
    return ids.map((id) => this.phase(id));
  }

  get stepping(): boolean {
    return this.#step !== null;
  }

  get stepItems(): number[][] | null {
    return this.#step?.items.map(({ id, start, count }) => [id, start, count]) ?? null;
  }

  /** Effects of the last event, of one kind. */
  told<T extends Effect['type']>(type: T): EffectOf<T>[] {
    return this.effects.filter((effect): effect is EffectOf<T> => effect.type === type);
  }

  /** The name of a block of a request's context. */
  name(id: number, index: number): BlockName {
    return this.#tag(id, BLOCK_TOKENS * index + BLOCK_TOKENS - 1);
  }

  #tag(id: number, position: number): string {
    const { text, system } = this.#texts.get(id) as { text: string; system: number };
    return `${position < system ? 'system' : text}@${position}`;
  }

  #take(index: number): TransferEffect & { readonly dueAt: Micros } {
    const [transfer] = this.transfers.splice(index, 1);
    if (transfer === undefined) throw new Error('no transfer in flight');
    return transfer;
  }
}

function isTransfer(effect: Effect): effect is TransferEffect {
  return effect.type === 'swapOut' || effect.type === 'swapIn' || effect.type === 'mirror' || effect.type === 'prefetch';
}

export function typesOf(effects: readonly Effect[]): string[] {
  return effects.map((effect) => effect.type);
}
