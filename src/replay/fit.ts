/**
 * A machine fitted to a recorded run: what its steps and copies took, over what they were made of, and how far each was
 * off. In virtual time it takes as long as the recorded one did for the same work, with the errors of the recording.
 *
 * Machines drift: neighbours on shared cores come and go for seconds at a time. So the error of a step is that of a
 * recorded step around the same moment of the run, drawn by a seed, and no law is put in the place of what was seen.
 */
import { type Chunk, chunkBlocks } from '../actors/link.js';
import { type Machine, type Taken, wholeMicros } from '../actors/machine.js';
import { Random } from '../core/random.js';
import { dot } from '../core/solve.js';
import type { Direction, Micros, StepItem } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import { type CopySample, type Observed, type StepSample, type StepShape, shapeOf } from './observed.js';
import { fitNotNegative, quantile, type Sample } from './squares.js';

/** How well a fit describes what it was fitted to. Errors are relative: |recorded / fitted - 1|. */
export interface FitQuality {
  readonly samples: number;
  readonly medianError: number;
  readonly p95Error: number;
}

export interface StepFitQuality extends FitQuality {
  /** Microseconds for each unit of each feature. */
  readonly features: Readonly<Record<string, number>>;
  /** Of the time of steps that the fit had not seen: the share by which it was off, one way or the other. */
  readonly heldOutError: number;
  /** Micros of a step for each microsecond of copies that ran beside it. */
  readonly copyingShare: number;
  /** Recorded over fitted time, the median of 64 steps in a row: 5 and 95 % of these. The machine's drift. */
  readonly drift: readonly [low: number, high: number];
  /** From the engine's return to the event: median. */
  readonly gapMicros: Micros;
}

export interface CopyFitQuality extends FitQuality {
  /** Where the costs are from: this direction's copies, the other one's, or a guess because there were too few. */
  readonly source: 'recorded' | 'other' | 'guess';
  /** Of each chunk that a transfer goes in, of each copy in it, of each byte. */
  readonly baseMicros: Micros;
  readonly copyMicros: Micros;
  readonly byteMicros: Micros;
}

export interface MachineFit {
  readonly steps: StepFitQuality;
  readonly copies: Readonly<Record<Direction, CopyFitQuality>>;
  /** How much longer the steps of another run took than these would have; 1: the machine was as fast then. */
  slowdown(steps: readonly StepSample[]): number;
  /** The same seed and the same questions get the same answers. */
  machine(options: FittedMachineOptions): Machine;
}

export interface FittedMachineOptions {
  readonly seed: number;
  /** Copies for each run: 1, or one for each layer's K and V where blocks are laid out by layers. */
  readonly piecesPerRun: number;
  /** Everything takes so many times as long as in the recording; 1: as long. */
  readonly slowdown: number;
}

/** Fewer say nothing about percentiles. */
export const STEPS_MIN = 200;
/** Fewer copies of a direction are no base for a cost. */
export const COPIES_MIN = 12;
/** More than these are thinned out evenly before fitting. */
const FITTED_MAX = 8000;
const FOLDS = 5;

/**
 * Fits a machine to the steps and copies of a recording. `piecesPerRun` is that of the recorded run.
 * @throws FastswitchError `bad_config` where there are too few steps.
 */
export function fitMachine(observed: Pick<Observed, 'steps' | 'copies' | 'limits'>, piecesPerRun = 1): MachineFit {
  const { steps, copies, limits } = observed;
  if (steps.length < STEPS_MIN) {
    throw new FastswitchError(
      'bad_config',
      `the recording has ${steps.length} steps, and a model of the machine needs at least ${STEPS_MIN}: ` +
        'record a longer run, of at least some dozens of requests',
    );
  }
  const stepFit = fitSteps(steps);
  const ratio = (own: readonly StepSample[]) => {
    const took = own.reduce((sum, { launchedAt, returnedAt }) => sum + returnedAt - launchedAt, 0);
    return took / own.reduce((sum, step) => sum + stepFit.predict(step) + stepFit.gap(step), 0);
  };
  const shape = { blockBytes: limits.blockBytes, piecesPerRun };
  const copyFits = { out: fitCopies(copies, 'out', shape), in: fitCopies(copies, 'in', shape) };
  return {
    steps: stepFit.quality,
    copies: { out: copyFits.out.quality, in: copyFits.in.quality },
    slowdown: (own) => ratio(own) / ratio(steps),
    machine: (options) => new FittedMachine(stepFit, copyFits, limits.blockBytes, options),
  };
}

/** Features of a step, by name. */
type Features = Readonly<Record<string, (shape: StepShape) => number>>;

const COARSE: Features = {
  step: () => 1,
  'prefill token': ({ prefillTokens }) => prefillTokens,
  'decoding sequence': ({ decodeSequences }) => decodeSequences,
  'token of context': ({ contextTokens }) => contextTokens,
};

const FINER: Features = {
  ...COARSE,
  'step with a prompt': ({ prefillSequences }) => (prefillSequences > 0 ? 1 : 0),
  'attended pair': ({ prefillPairs }) => prefillPairs,
  'sampled token': ({ samples }) => samples,
};

/** Bounds between which a token more of the batch costs the same: kernels work in panels, and small batches wait for memory. */
const BATCHES = [0, 1, 2, 4, 8, 16, 32, 64, 128, Number.POSITIVE_INFINITY] as const;

const BENT: Features = {
  step: () => 1,
  ...Object.fromEntries(
    BATCHES.slice(0, -1).map((low, k) => [
      `token from ${low}`,
      ({ prefillTokens, decodeSequences }: StepShape) =>
        Math.min(Math.max(0, prefillTokens + decodeSequences - low), (BATCHES[k + 1] as number) - low),
    ]),
  ),
  'token of context': ({ contextTokens }) => contextTokens,
  'attended pair': ({ prefillPairs }) => prefillPairs,
  'sampled token': ({ samples }) => samples,
};

/** From few to many features; one with more has to be better by this on steps it has not seen. */
const FEATURE_SETS: readonly Features[] = [COARSE, FINER, BENT];
const BETTER = 0.99;

/**
 * What was recorded beyond what the fit says. Up to twice as long is taken for a machine that was slower, and is a factor; more
 * for time in which it did something else, which a longer step has no more of, and is added.
 */
class Errors {
  readonly #factors: Float64Array;
  readonly #added: Float64Array;

  constructor(pairs: readonly (readonly [recorded: Micros, fitted: Micros])[]) {
    const usual = ([recorded, fitted]: readonly [number, number]) => recorded <= SLOWER_MAX * fitted;
    this.#factors = Float64Array.from(pairs, (pair) => (usual(pair) ? pair[0] / pair[1] : 1));
    this.#added = Float64Array.from(pairs, (pair) => (usual(pair) ? 0 : pair[0] - pair[1]));
  }

  get length(): number {
    return this.#factors.length;
  }

  /** `fitted` with the error of sample `index`. */
  apply(index: number, fitted: Micros): Micros {
    return fitted * (this.#factors[index] as number) + (this.#added[index] as number);
  }
}

const SLOWER_MAX = 2;

interface StepFit {
  readonly quality: StepFitQuality;
  readonly predict: (shape: StepShape) => Micros;
  readonly gap: (shape: StepShape) => Micros;
  /** Of steps with a prompt and of steps without. */
  readonly errors: readonly [decode: StepErrors, prefill: StepErrors];
}

/** In order of time. */
interface StepErrors {
  readonly at: Float64Array;
  /** What the fit says of it alone. */
  readonly size: Float64Array;
  readonly micros: Errors;
  readonly gap: Errors;
}

function thinned<T>(samples: readonly T[]): readonly T[] {
  const every = samples.length / FITTED_MAX;
  return every <= 1 ? samples : Array.from({ length: FITTED_MAX }, (_, k) => samples[Math.floor(k * every)] as T);
}

function sampleOf(features: Features, step: StepSample): Sample {
  const own = Object.values(features).map((of) => of(step));
  return { features: [...own, step.copyingMicros], value: Math.max(1, step.micros) };
}

/** Fits on most of the run and asks about the rest, in turns: the share of the time by which the answers are off. */
function heldOut(samples: readonly Sample[]): number {
  let [off, all] = [0, 0];
  for (let fold = 0; fold < FOLDS; fold++) {
    const [from, to] = [fold, fold + 1].map((k) => Math.floor((k * samples.length) / FOLDS)) as [number, number];
    const coefficients = fitNotNegative([...samples.slice(0, from), ...samples.slice(to)]);
    for (const { features, value } of samples.slice(from, to)) {
      off += Math.abs(value - dot(coefficients, features));
      all += value;
    }
  }
  return off / Math.max(1, all);
}

function fitSteps(steps: readonly StepSample[]): StepFit {
  const some = thinned(steps);
  let [best, error]: [Features, number] = [COARSE, Number.POSITIVE_INFINITY];
  for (const features of FEATURE_SETS) {
    const own = heldOut(some.map((step) => sampleOf(features, step)));
    if (own < BETTER * error) [best, error] = [features, own];
  }
  const coefficients = fitNotNegative(some.map((step) => sampleOf(best, step)));
  const of = Object.values(best);
  const copyingShare = Math.min(1, coefficients[of.length] as number);
  const predict = (shape: StepShape) => Math.max(1, dot(coefficients.slice(0, -1), of.map((feature) => feature(shape)))); // biome-ignore format: one thought
  const gap = fitGap(some);
  const fitted = (step: StepSample) => predict(step) + copyingShare * step.copyingMicros;
  const errorsOf = (own: readonly StepSample[]): StepErrors => ({
    at: Float64Array.from(own, ({ launchedAt }) => launchedAt),
    size: Float64Array.from(own, predict),
    micros: new Errors(own.map((step) => [step.micros, fitted(step)])),
    gap: new Errors(own.map((step) => [gapOf(step), gap(step)])),
  });
  const ratios = steps.map((step) => step.micros / fitted(step));
  const quality = {
    ...qualityOf(ratios),
    features: Object.fromEntries(Object.keys(best).map((name, k) => [name, coefficients[k] as number])),
    heldOutError: error,
    copyingShare,
    drift: driftOf(ratios),
    gapMicros: quantile(some.map(gapOf), 0.5),
  };
  const errors = [false, true].map((prefill) => errorsOf(steps.filter(({ prefillTokens }) => prefillTokens > 0 === prefill)));
  return { quality, predict, gap, errors: errors as [StepErrors, StepErrors] };
}

/** From the engine's return to the event, and from the decision to the engine's start. */
function gapOf({ launchedAt, returnedAt, micros }: StepSample): Micros {
  return Math.max(1, returnedAt - launchedAt - micros);
}

/** Decisions, plans and results grow with the sequences of a step. */
function fitGap(steps: readonly StepSample[]): (shape: StepShape) => Micros {
  const featuresOf = ({ decodeSequences, prefillSequences }: StepShape) => [1, decodeSequences + prefillSequences];
  const coefficients = fitNotNegative(steps.map((step) => ({ features: featuresOf(step), value: gapOf(step) })));
  return (shape) => Math.max(1, dot(coefficients, featuresOf(shape)));
}

function qualityOf(ratios: readonly number[]): FitQuality {
  const errors = ratios.map((ratio) => Math.abs(ratio - 1));
  return { samples: ratios.length, medianError: quantile(errors, 0.5), p95Error: quantile(errors, 0.95) };
}

const DRIFT_STEPS = 64;

function driftOf(ratios: readonly number[]): [low: number, high: number] {
  const medians: number[] = [];
  for (let from = 0; from + DRIFT_STEPS <= ratios.length; from += DRIFT_STEPS) {
    medians.push(quantile(ratios.slice(from, from + DRIFT_STEPS), 0.5));
  }
  return [quantile(medians, 0.05), quantile(medians, 0.95)];
}

interface CopyShape {
  readonly blockBytes: number;
  readonly piecesPerRun: number;
}

interface CopyFit {
  readonly quality: CopyFitQuality;
  readonly predict: (copies: number, bytes: number) => Micros;
  /** In order of time. */
  readonly at: Float64Array;
  readonly errors: Errors;
  /** From the decision to the copy's start, and from its end to the event: the share of each chunk. */
  readonly gaps: Float64Array;
}

/** A hundred microseconds to hand a task to a thread and to hear from it, memory at 5 GB/s. */
const GUESS = { coefficients: [50, 2, 0.0002], gapMicros: 100 } as const;

function fitCopies(all: readonly CopySample[], direction: Direction, shape: CopyShape): CopyFit {
  const own = all.filter((copy) => copy.direction === direction);
  const source = own.length >= COPIES_MIN ? 'recorded' : all.length >= COPIES_MIN ? 'other' : 'guess';
  const copies = { recorded: own, other: all, guess: [] }[source].toSorted((a, b) => a.startedAt - b.startedAt);
  // A machine is asked for chunks and a recording tells of transfers: what comes once for each is shared out.
  const chunks = copies.map(({ blocks }) => Math.ceil(blocks / chunkBlocks(shape.blockBytes)));
  const samples = copies.map(({ runs, blocks, micros }, k) => ({
    features: [chunks[k] as number, runs * shape.piecesPerRun, blocks * shape.blockBytes],
    value: Math.max(1, micros),
  }));
  const coefficients = source === 'guess' ? GUESS.coefficients : fitNotNegative(samples);
  const [base, copy, byte] = coefficients as readonly [number, number, number];
  const predict = (count: number, bytes: number) => Math.max(1, dot(coefficients, [1, count, bytes]));
  const pairs = samples.map(({ features, value }, k) => {
    const share = (micros: Micros) => micros / (chunks[k] as number);
    return [share(value), share(Math.max(1, dot(coefficients, features)))] as const;
  });
  const gaps = gapsOf(copies).map((gap, k) => gap / (chunks[k] as number));
  return {
    quality: {
      ...qualityOf(pairs.map(([recorded, fitted]) => recorded / fitted)),
      samples: own.length,
      source,
      baseMicros: base,
      copyMicros: copy,
      byteMicros: byte,
    },
    predict,
    at: Float64Array.from(copies.length === 0 ? [0] : copies.map(({ startedAt }) => startedAt)),
    errors: new Errors(pairs.length === 0 ? [[1, 1]] : pairs),
    gaps: Float64Array.from(gaps.length === 0 ? [GUESS.gapMicros] : gaps),
  };
}

/** What a copy waited for others is no part of it, and not known apart: it is given the median of those that did not wait. */
function gapsOf(copies: readonly CopySample[]): readonly Micros[] {
  const gapOf = ({ startedAt, landedAt, micros }: CopySample) => Math.max(0, landedAt - startedAt - micros);
  const alone = copies.filter(({ waited }) => !waited).map(gapOf);
  const usual = alone.length === 0 ? GUESS.gapMicros : quantile(alone, 0.5);
  return copies.map((copy) => (copy.waited ? usual : gapOf(copy)));
}

/** Recorded steps, and copies, around a moment among which an error is drawn. */
const STEPS_AROUND = 48;
const COPIES_AROUND = 12;

class FittedMachine implements Machine {
  readonly #steps: StepFit;
  readonly #copies: Readonly<Record<Direction, CopyFit>>;
  readonly #blockBytes: number;
  readonly #piecesPerRun: number;
  readonly #slowdown: number;
  readonly #stepChance: Random;
  readonly #copyChance: Random;
  /** What the copies since the last step make the next one longer. */
  #debtMicros = 0;

  constructor(
    steps: StepFit,
    copies: Readonly<Record<Direction, CopyFit>>,
    blockBytes: number,
    { seed, piecesPerRun, slowdown }: FittedMachineOptions,
  ) {
    this.#steps = steps;
    this.#copies = copies;
    this.#blockBytes = blockBytes;
    this.#piecesPerRun = piecesPerRun;
    this.#slowdown = slowdown;
    this.#stepChance = new Random(seed).fork('step');
    this.#copyChance = new Random(seed).fork('copy');
  }

  step(items: readonly StepItem[], at: Micros): Taken {
    const { predict, gap, errors, quality } = this.#steps;
    const shape = shapeOf(items);
    const [decode, prefill] = errors;
    const wanted = shape.prefillTokens > 0 ? prefill : decode;
    const own = wanted.at.length > 0 ? wanted : wanted === prefill ? decode : prefill;
    const size = predict(shape);
    const drawn = alike(own, size, at, this.#stepChance);
    const micros = own.micros.apply(drawn, size + quality.copyingShare * this.#debtMicros);
    this.#debtMicros = 0;
    return this.#taken(micros, own.gap.apply(drawn, gap(shape)));
  }

  copy({ direction, runs, blocks }: Chunk, _both: boolean, at: Micros): Taken {
    const { predict, errors, gaps, at: times } = this.#copies[direction];
    const [from, count] = around(times, at, COPIES_AROUND);
    const drawn = from + this.#copyChance.int(count);
    const fitted = predict(runs.length * this.#piecesPerRun, blocks * this.#blockBytes);
    this.#debtMicros += fitted;
    return this.#taken(errors.apply(drawn, fitted), gaps[drawn] as number);
  }

  copied(): void {}

  #taken(micros: number, gapMicros: number): Taken {
    return { micros: wholeMicros(this.#slowdown * micros), gapMicros: Math.round(this.#slowdown * gapMicros), failed: false };
  }
}

/** Drawn, of which the one most like the step in size gives its error: what disturbs a short step may be lost in a long one. */
const DRAWS = 3;

function alike({ at: times, size }: StepErrors, wanted: Micros, at: Micros, chance: Random): number {
  const [from, count] = around(times, at, STEPS_AROUND);
  let [best, apart] = [from, Number.POSITIVE_INFINITY];
  for (let k = 0; k < DRAWS; k++) {
    const drawn = from + chance.int(count);
    const own = Math.abs(Math.log((size[drawn] as number) / wanted));
    if (own < apart) [best, apart] = [drawn, own];
  }
  return best;
}

/** The recorded moments around `at`, which are sorted; all of them after the last. */
function around(times: Float64Array, at: Micros, most: number): [from: number, count: number] {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((times[middle] as number) < at) low = middle + 1;
    else high = middle;
  }
  // After its end the recording says nothing of the moment.
  const count = low === times.length ? times.length : Math.min(most, times.length);
  return [Math.min(Math.max(0, low - (count >> 1)), times.length - count), count];
}
