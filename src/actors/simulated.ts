/**
 * Hands 2: virtual time. Steps and copies take what a machine says (`machine.ts`). The same runtime, core and charts as the
 * live system; only the answers come from an agenda instead of from silicon.
 */
import { BLOCK_TOKENS } from '../core/config.js';
import type { BlockName, Content, Direction, Micros, RequestId, StepItem, SteppedItem } from '../core/types.js';
import { type Chunk, type ChunkDone, Link } from './link.js';
import type { Machine } from './machine.js';
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
  readonly machine: Machine;
  /** Copies go in both directions at the same time. */
  readonly duplex: boolean;
  readonly blockBytes: number;
  /** Short transfers of one decision go together, as those of the live hands do; else each goes by itself. */
  readonly gathers?: boolean;
  readonly request: (id: RequestId) => SimulatedRequest;
}

/** Hands whose engine and link live on `agenda`. The caller advances it. */
export function simulatedHands(agenda: Agenda, options: SimulatedOptions, answer: Answer): Hands {
  const { duplex, blockBytes, machine, gathers = false } = options;
  const gather = gathers ? (go: () => void) => agenda.add(agenda.now, go) : null;
  const link = new Link({ duplex, blockBytes, perform: simulatedCopies(agenda, machine), answer, gather });
  return {
    engine: new SimulatedEngine(agenda, options, answer),
    transfers: link,
    clock: { now: () => agenda.now },
    async close() {
      link.close();
    },
  };
}

/** Copies chunks in virtual time. */
function simulatedCopies(agenda: Agenda, machine: Machine): (chunk: Chunk, done: ChunkDone) => void {
  const running: Record<Direction, boolean> = { out: false, in: false };
  return (chunk, done) => {
    const { direction } = chunk;
    const { micros, gapMicros, failed } = machine.copy(chunk, running[direction === 'out' ? 'in' : 'out'], agenda.now);
    running[direction] = true;
    agenda.add(agenda.now + micros + gapMicros, () => {
      running[direction] = false;
      machine.copied(chunk);
      done(failed ? new Error('simulated fault') : micros);
    });
  };
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
  readonly #answer: Answer;
  readonly #open = new Map<RequestId, OpenRequest>();

  constructor(agenda: Agenda, options: SimulatedOptions, answer: Answer) {
    this.#agenda = agenda;
    this.#options = options;
    this.#answer = answer;
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
    const { micros, gapMicros, failed } = this.#options.machine.step(items, this.#agenda.now);
    const at = this.#agenda.now + micros + gapMicros;
    if (failed) {
      this.#agenda.add(at, () => this.#answer({ type: 'stepFailed', step, error: 'simulated fault' }));
      return;
    }
    const stepped = items.map((item) => this.#computed(item));
    this.#agenda.add(at, () => this.#answer({ type: 'stepped', step, micros, items: stepped }));
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
