/**
 * Hands 2: virtual time. Steps and copies cost what a hardware profile says, with seeded error and seeded faults, so
 * that a policy's prediction is never the truth. The same runtime, core and charts as the live system; only the answers
 * come from an agenda instead of from silicon.
 */
import { BLOCK_TOKENS } from '../core/config.js';
import { featuresOf, type HardwareProfile, stepMicros, transferMicros } from '../core/cost.js';
import type { Mechanism } from '../core/presets.js';
import { Random } from '../core/random.js';
import type { BlockName, Content, Direction, Micros, RequestId, StepItem, SteppedItem } from '../core/types.js';
import { type Chunk, type ChunkDone, Link } from './link.js';
import type { Answer, EnginePort, Hands, StepEffect } from './ports.js';

/** What is due when: ordered by (time, order of entry). A binary heap. */
export class Agenda {
  readonly #heap: { at: Micros; order: number; run: () => void }[] = [];
  #order = 0;
  now: Micros = 0;

  get size(): number {
    return this.#heap.length;
  }

  /** Runs `run` when the clock reaches `at` (not before now). */
  add(at: Micros, run: () => void): void {
    const heap = this.#heap;
    let index = heap.length;
    this.#order += 1;
    heap.push({ at: Math.max(Math.ceil(at), this.now), order: this.#order, run });
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.#before(index, parent)) break;
      this.#swap(index, parent);
      index = parent;
    }
  }

  /** Advances to the next entry and runs it; false when nothing is left. */
  next(): boolean {
    const heap = this.#heap;
    const first = heap[0];
    if (first === undefined) return false;
    const last = heap.pop() as (typeof heap)[number];
    if (heap.length > 0) {
      heap[0] = last;
      this.#sink();
    }
    this.now = first.at;
    first.run();
    return true;
  }

  #sink(): void {
    let index = 0;
    for (;;) {
      let least = index;
      for (const child of [2 * index + 1, 2 * index + 2]) {
        if (child < this.#heap.length && this.#before(child, least)) least = child;
      }
      if (least === index) return;
      this.#swap(index, least);
      index = least;
    }
  }

  #before(a: number, b: number): boolean {
    const [x, y] = [this.#heap[a], this.#heap[b]];
    return x !== undefined && y !== undefined && (x.at < y.at || (x.at === y.at && x.order < y.order));
  }

  #swap(a: number, b: number): void {
    const heap = this.#heap;
    [heap[a], heap[b]] = [heap[b], heap[a]] as [(typeof heap)[number], (typeof heap)[number]];
  }
}

/** What the simulated model and tokenizer know of a request. */
export interface SimulatedRequest {
  /** Tokens after which the simulated model ends the request by itself; it may exceed what the request allows. */
  readonly outputTokens: number;
  /** The name of block `index` of its context, of the prompt or, further on, of what it generates. */
  name(index: number): BlockName;
}

export interface SimulatedOptions {
  readonly profile: HardwareProfile;
  /** Which of the profile's costs apply: `crossLayer`, `copying`, `duplex`. */
  readonly mechanism: Mechanism;
  readonly seed: number;
  readonly blockBytes: number;
  /** Standard deviation of the relative error around the cost model. */
  readonly noise: number;
  /** Probabilities that a step fails, and each chunk of a transfer. */
  readonly stepFaults: number;
  readonly transferFaults: number;
  readonly request: (id: RequestId) => SimulatedRequest;
}

/** Hands whose engine and link live on `agenda`. The caller advances it. */
export function simulatedHands(agenda: Agenda, options: SimulatedOptions, answer: Answer): Hands {
  const debt = { trafficBytes: 0, layeredMicros: 0 };
  const copies = new SimulatedCopies(agenda, options, debt);
  const link = new Link({
    duplex: options.mechanism.duplex,
    blockBytes: options.blockBytes,
    perform: (chunk, done) => copies.perform(chunk, done),
    answer,
  });
  return {
    engine: new SimulatedEngine(agenda, options, debt, answer),
    transfers: link,
    clock: { now: () => agenda.now },
    async close() {
      link.close();
    },
  };
}

/** What copies cost the engine: paid by the next step. */
interface Debt {
  /** Of chunks that landed: the device's memory was busy with them instead of with the model. */
  trafficBytes: number;
  /** Link time of copies that go layer by layer under that step. */
  layeredMicros: Micros;
}

/** A factor around 1. One stream of chance for each purpose: more draws for one change nothing for another. */
function errorOf(random: Random, deviation: number): number {
  return Math.max(0.1, 1 + deviation * random.normal());
}

/** At least one microsecond: nothing is answered at the moment at which it is asked. */
function wholeMicros(micros: number): Micros {
  return Math.max(1, Math.round(micros));
}

/** Copies chunks in virtual time. */
class SimulatedCopies {
  readonly #agenda: Agenda;
  readonly #options: SimulatedOptions;
  readonly #debt: Debt;
  readonly #errors: Random;
  readonly #faults: Random;
  /** The profile while both directions run. */
  readonly #sharing: HardwareProfile;
  readonly #copiesPerRun: number;
  readonly #running: Record<Direction, boolean> = { out: false, in: false };

  constructor(agenda: Agenda, options: SimulatedOptions, debt: Debt) {
    const { profile, mechanism, seed } = options;
    this.#agenda = agenda;
    this.#options = options;
    this.#debt = debt;
    this.#errors = new Random(seed).fork('link');
    this.#faults = new Random(seed).fork('faults').fork('link');
    this.#sharing = { ...profile, linkBytesPerMicro: profile.linkBytesPerMicro * profile.duplexShare };
    this.#copiesPerRun = mechanism.crossLayer ? 1 : 2 * profile.layers;
  }

  perform({ direction, runs, blocks }: Chunk, done: ChunkDone): void {
    const { profile, mechanism, blockBytes, noise, transferFaults } = this.#options;
    const bytes = blocks * blockBytes;
    const both = this.#running[direction === 'out' ? 'in' : 'out'];
    const cost = this.#micros(both ? this.#sharing : profile, runs.length * this.#copiesPerRun, bytes);
    const linkMicros = errorOf(this.#errors, noise) * cost;
    const failed = this.#faults.next() < transferFaults;
    const layered = mechanism.copying === 'layered' && direction === 'in';
    // The step that needs it starts at once and waits inside, for each layer as long as that is not there.
    const micros = layered ? 1 : wholeMicros(linkMicros);
    if (layered && !failed) this.#debt.layeredMicros += linkMicros;
    this.#running[direction] = true;
    this.#agenda.add(this.#agenda.now + micros, () => {
      this.#running[direction] = false;
      this.#debt.trafficBytes += bytes;
      done(failed ? new Error('simulated fault') : micros);
    });
  }

  #micros(profile: HardwareProfile, copies: number, bytes: number): number {
    if (this.#options.mechanism.copying !== 'staged') return transferMicros(profile, copies, bytes);
    // A kernel gathers what lies scattered, reading and writing it; then one copy for each filling of the buffer.
    const gathered = (2 * bytes) / profile.memoryBytesPerMicro;
    const larger = Math.ceil(bytes / profile.stagingBytes);
    return gathered + larger * profile.dispatchMicros + bytes / profile.linkBytesPerMicro;
  }
}

interface OpenRequest {
  readonly request: SimulatedRequest;
  readonly promptTokens: number;
  generated: number;
}

/** Computes steps in virtual time. */
class SimulatedEngine implements EnginePort {
  readonly #agenda: Agenda;
  readonly #options: SimulatedOptions;
  readonly #debt: Debt;
  readonly #answer: Answer;
  readonly #errors: Random;
  readonly #faults: Random;
  readonly #open = new Map<RequestId, OpenRequest>();

  constructor(agenda: Agenda, options: SimulatedOptions, debt: Debt, answer: Answer) {
    this.#agenda = agenda;
    this.#options = options;
    this.#debt = debt;
    this.#answer = answer;
    this.#errors = new Random(options.seed).fork('step');
    this.#faults = new Random(options.seed).fork('faults').fork('step');
  }

  open(id: RequestId, content: Content): readonly BlockName[] {
    const promptTokens = content.promptTokens.length;
    const request = this.#options.request(id);
    this.#open.set(id, { request, promptTokens, generated: 0 });
    return Array.from({ length: Math.floor(promptTokens / BLOCK_TOKENS) }, (_, index) => request.name(index));
  }

  close(id: RequestId): void {
    this.#open.delete(id);
  }

  step({ step, items }: StepEffect): void {
    const micros = wholeMicros(this.#stepMicros(items));
    const at = this.#agenda.now + micros;
    if (this.#faults.next() < this.#options.stepFaults) {
      this.#agenda.add(at, () => this.#answer({ type: 'stepFailed', step, error: 'simulated fault' }));
      return;
    }
    const stepped = items.map((item) => this.#computed(item));
    this.#agenda.add(at, () => this.#answer({ type: 'stepped', step, micros, items: stepped }));
  }

  /** Of the step alone, and what the copies since the last one make it longer. */
  #stepMicros(items: readonly StepItem[]): number {
    const { profile, noise } = this.#options;
    const features = featuresOf(items);
    const { trafficBytes, layeredMicros } = this.#debt;
    this.#debt.trafficBytes = 0;
    this.#debt.layeredMicros = 0;
    const modelled = stepMicros(profile, features) + trafficBytes / profile.memoryBytesPerMicro;
    const own = errorOf(this.#errors, noise) * modelled;
    if (layeredMicros === 0) return own;
    // Layers are equal: each waits for what its copy takes longer than its computing. CUDA graphs cannot wait.
    return own + Math.max(0, layeredMicros - own) + profile.eagerMicros;
  }

  #computed({ id, count, sample }: StepItem): SteppedItem {
    const open = this.#open.get(id);
    if (open === undefined) throw new Error(`step for request ${id}, which is not open`);
    if (!sample) return { id, count, token: -1, ended: false, logprobs: null, name: null };
    open.generated += 1;
    const known = open.promptTokens + open.generated;
    return {
      id,
      count,
      token: open.generated % 1000,
      ended: open.generated >= open.request.outputTokens,
      logprobs: null,
      name: known % BLOCK_TOKENS === 0 ? open.request.name(known / BLOCK_TOKENS - 1) : null,
    };
  }
}
