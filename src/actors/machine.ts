/**
 * What simulated steps and copies take: a port of the simulated hands, so that the same hands stand for any machine. Here
 * is the one that a hardware profile describes; another is fitted to a recorded run (`src/replay/fit.ts`).
 */
import { featuresOf, type HardwareProfile, stepMicros, transferMicros } from '../core/cost.js';
import type { Mechanism } from '../core/presets.js';
import { Random } from '../core/random.js';
import type { Micros, StepItem } from '../core/types.js';
import type { Chunk } from './link.js';

/** What one step or the copy of one chunk takes. */
export interface Taken {
  /** Of the engine or the copy itself, as it is reported. */
  readonly micros: Micros;
  /** From there until the event comes in. */
  readonly gapMicros: Micros;
  readonly failed: boolean;
}

/** Asked in the order in which things begin; steps one at a time, copies one at a time in each direction. */
export interface Machine {
  /** Of the step that begins at `at`. */
  step(items: readonly StepItem[], at: Micros): Taken;
  /** Of the chunk whose copy begins at `at`; `both`: a copy in the other direction is on its way. */
  copy(chunk: Chunk, both: boolean, at: Micros): Taken;
  /** The copy of the chunk is over. */
  copied(chunk: Chunk): void;
}

export interface ProfileMachineOptions {
  readonly profile: HardwareProfile;
  /** Which of the profile's costs apply: `crossLayer`, `copying`. */
  readonly mechanism: Mechanism;
  readonly seed: number;
  readonly blockBytes: number;
  /** Standard deviation of the relative error around the cost model. */
  readonly noise: number;
  /** Probabilities that a step fails, and each chunk of a transfer. */
  readonly stepFaults: number;
  readonly transferFaults: number;
}

/** A factor around 1. */
function errorOf(random: Random, deviation: number): number {
  return Math.max(0.1, 1 + deviation * random.normal());
}

/** At least one microsecond: nothing is answered at the moment at which it is asked. */
export function wholeMicros(micros: number): Micros {
  return Math.max(1, Math.round(micros));
}

/** Takes what a profile says, with seeded error and seeded faults, so that a policy's prediction is never the truth. */
export class ProfileMachine implements Machine {
  readonly #options: ProfileMachineOptions;
  /** The profile while both directions run. */
  readonly #sharing: HardwareProfile;
  readonly #copiesPerRun: number;
  /** One stream of chance for each purpose: more draws for one change nothing for another. */
  readonly #stepErrors: Random;
  readonly #stepFaults: Random;
  readonly #copyErrors: Random;
  readonly #copyFaults: Random;
  /**
   * What copies cost the engine, paid by the next step: bytes of chunks that landed (the device's memory was busy with them
   * instead of with the model), and the link time of copies that go layer by layer under that step.
   */
  #trafficBytes = 0;
  #layeredMicros: Micros = 0;

  constructor(options: ProfileMachineOptions) {
    const { profile, mechanism, seed } = options;
    const random = new Random(seed);
    this.#options = options;
    this.#sharing = { ...profile, linkBytesPerMicro: profile.linkBytesPerMicro * profile.duplexShare };
    this.#copiesPerRun = mechanism.crossLayer ? 1 : 2 * profile.layers;
    this.#stepErrors = random.fork('step');
    this.#stepFaults = random.fork('faults').fork('step');
    this.#copyErrors = random.fork('link');
    this.#copyFaults = random.fork('faults').fork('link');
  }

  step(items: readonly StepItem[]): Taken {
    const micros = wholeMicros(this.#stepMicros(items));
    return { micros, gapMicros: 0, failed: this.#stepFaults.next() < this.#options.stepFaults };
  }

  /** Of the step alone, and what the copies since the last one make it longer. */
  #stepMicros(items: readonly StepItem[]): number {
    const { profile, noise } = this.#options;
    const layeredMicros = this.#layeredMicros;
    const modelled = stepMicros(profile, featuresOf(items)) + this.#trafficBytes / profile.memoryBytesPerMicro;
    this.#trafficBytes = 0;
    this.#layeredMicros = 0;
    const own = errorOf(this.#stepErrors, noise) * modelled;
    if (layeredMicros === 0) return own;
    // Layers are equal: each waits for what its copy takes longer than its computing. CUDA graphs cannot wait.
    return own + Math.max(0, layeredMicros - own) + profile.eagerMicros;
  }

  copy({ direction, runs, blocks }: Chunk, both: boolean): Taken {
    const { profile, mechanism, blockBytes, noise, transferFaults } = this.#options;
    const cost = this.#copyMicros(both ? this.#sharing : profile, runs.length * this.#copiesPerRun, blocks * blockBytes);
    const linkMicros = errorOf(this.#copyErrors, noise) * cost;
    const failed = this.#copyFaults.next() < transferFaults;
    const layered = mechanism.copying === 'layered' && direction === 'in';
    if (layered && !failed) this.#layeredMicros += linkMicros;
    // The step that needs it starts at once and waits inside, for each layer as long as that is not there.
    return { micros: layered ? 1 : wholeMicros(linkMicros), gapMicros: 0, failed };
  }

  copied({ blocks }: Chunk): void {
    this.#trafficBytes += blocks * this.#options.blockBytes;
  }

  #copyMicros(profile: HardwareProfile, copies: number, bytes: number): number {
    if (this.#options.mechanism.copying !== 'staged') return transferMicros(profile, copies, bytes);
    // A kernel gathers what lies scattered, reading and writing it; then one copy for each filling of the buffer.
    const gathered = (2 * bytes) / profile.memoryBytesPerMicro;
    const larger = Math.ceil(bytes / profile.stagingBytes);
    return gathered + larger * profile.dispatchMicros + bytes / profile.linkBytesPerMicro;
  }
}
