/**
 * Hands 2: virtual time. Steps and copies cost what a hardware profile says, with seeded error and seeded faults, so
 * that a policy's prediction is never the truth. The same runtime, core and charts as the live system; only the answers
 * come from an agenda instead of from silicon.
 */
import { type HardwareProfile, stepMicros, transferMicros } from '../core/cost.js';
import { Random } from '../core/random.js';
import type { Content, Micros, RequestId } from '../core/types.js';
import type { Answer, EnginePort, Hands, StepEffect, SwapEffect, Unstamped } from './ports.js';

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

export interface SimulatedOptions {
  readonly profile: HardwareProfile;
  readonly seed: number;
  readonly blockBytes: number;
  /** Standard deviation of the relative error around the cost model. */
  readonly noise: number;
  /** Probabilities that a step or a transfer fails. */
  readonly stepFaults: number;
  readonly transferFaults: number;
  /** Tokens after which the simulated model ends a request by itself; it may exceed what the request allows. */
  readonly outputTokens: (id: RequestId) => number;
}

/** Hands whose engine and link live on `agenda`. The caller advances it. */
export function simulatedHands(agenda: Agenda, options: SimulatedOptions, answer: Answer): Hands {
  const random = new Random(options.seed);
  const error = () => Math.max(0.1, 1 + options.noise * random.normal());
  const due = (micros: number, event: (micros: Micros) => Unstamped) => {
    const taken = Math.max(1, Math.round(micros));
    agenda.add(agenda.now + taken, () => answer(event(taken)));
  };
  // One copy at a time in each direction, first come first served.
  const linkFreeAt = { swapOut: 0, swapIn: 0 };
  return {
    engine: simulatedEngine(options, random, error, due),
    transfers: {
      start(effect: SwapEffect) {
        const micros = error() * transferMicros(options.profile, effect.runs.length, effect.blocks * options.blockBytes);
        const failed = random.next() < options.transferFaults;
        linkFreeAt[effect.type] = Math.max(linkFreeAt[effect.type], agenda.now) + micros;
        due(linkFreeAt[effect.type] - agenda.now, (taken) =>
          failed
            ? { type: 'transferFailed', transfer: effect.transfer, error: 'simulated fault' }
            : { type: 'landed', transfer: effect.transfer, micros: taken },
        );
      },
    },
    clock: { now: () => agenda.now },
    close: async () => {},
  };
}

function simulatedEngine(
  options: SimulatedOptions,
  random: Random,
  error: () => number,
  due: (micros: number, event: (micros: Micros) => Unstamped) => void,
): EnginePort {
  const open = new Map<RequestId, { content: Content; generated: number }>();
  const sample = (id: RequestId) => {
    const request = open.get(id);
    if (request === undefined) throw new Error(`step for request ${id}, which is not open`);
    request.generated += 1;
    return { token: request.generated % 1000, ended: request.generated >= options.outputTokens(id) };
  };
  return {
    open: (id, content) => void open.set(id, { content, generated: 0 }),
    close: (id) => void open.delete(id),
    step(effect: StepEffect) {
      const features = { prefillTokens: 0, decodeSequences: 0, contextTokens: 0 };
      for (const item of effect.items) {
        if (item.count === 1) features.decodeSequences += 1;
        else features.prefillTokens += item.count;
        features.contextTokens += item.start + item.count;
      }
      const micros = error() * stepMicros(options.profile, features);
      if (random.next() < options.stepFaults)
        return due(micros, () => ({ type: 'stepFailed', step: effect.step, error: 'simulated fault' }));
      const items = effect.items.map(({ id, count, sample: sampled }) => ({
        id,
        count,
        logprobs: null,
        ...(sampled ? sample(id) : { token: -1, ended: false }),
      }));
      due(micros, (taken) => ({ type: 'stepped', step: effect.step, micros: taken, items }));
    },
  };
}
