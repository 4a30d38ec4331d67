/**
 * What a step and a transfer cost, in microseconds: known parameters of a machine (the simulation's truth), and a model
 * fitted on what was seen lately (the policy's guess). Both are deliberately coarse: they must rank alternatives, not
 * reproduce a machine.
 */
import { dot, solveNotNegative } from './solve.js';
import type { Direction, Micros, StepItem } from './types.js';

/** What a step is made of. */
export interface StepFeatures {
  readonly prefillTokens: number;
  readonly decodeSequences: number;
  /** Tokens of context that the sequences of the step attend to, together. */
  readonly contextTokens: number;
}

/** What the model and the simulated machines see of a step. */
export function featuresOf(items: readonly Pick<StepItem, 'start' | 'count'>[]): StepFeatures {
  let [prefillTokens, decodeSequences, contextTokens] = [0, 0, 0];
  for (const { start, count } of items) {
    if (count === 1) decodeSequences += 1;
    else prefillTokens += count;
    contextTokens += start + count;
  }
  return { prefillTokens, decodeSequences, contextTokens };
}

/**
 * A machine with a model on it. Rates are what is reached, not what is printed on the box. They come from small files:
 * `src/simulation/profiles/`.
 */
export interface HardwareProfile {
  /** Of a step, whatever is in it. */
  readonly stepMicros: Micros;
  /** Of a step, for each sequence that decodes. */
  readonly sequenceMicros: Micros;
  readonly weightBytes: number;
  readonly kvBytesPerToken: number;
  readonly memoryBytesPerMicro: number;
  /** To compute one token when the arithmetic is what limits. */
  readonly tokenMicros: Micros;
  /** To hand one copy to the driver. */
  readonly dispatchMicros: Micros;
  /** Of one copy beyond its bytes. */
  readonly copyMicros: Micros;
  /** Of the link between device and host, one way. */
  readonly linkBytesPerMicro: number;
  /** Share of that rate left to each direction while both run; 1: they do not touch each other. */
  readonly duplexShare: number;
  /** Of the model: a block without a cross-layer layout is 2 x layers copies. */
  readonly layers: number;
  /** Of a step without CUDA graphs, beyond `stepMicros`. */
  readonly eagerMicros: Micros;
  /** The buffer through which staged copies go. */
  readonly stagingBytes: number;
}

/** The roofline: reading weights and context, or computing the tokens, whichever takes longer; plus launching it. */
export function stepMicros(profile: HardwareProfile, features: StepFeatures): Micros {
  const { prefillTokens, decodeSequences, contextTokens } = features;
  const read = (profile.weightBytes + contextTokens * profile.kvBytesPerToken) / profile.memoryBytesPerMicro;
  const computed = (prefillTokens + decodeSequences) * profile.tokenMicros;
  return profile.stepMicros + decodeSequences * profile.sequenceMicros + Math.max(read, computed);
}

/**
 * `runs` copies of `bytes` together, one behind the other: each costs its dispatch or its bytes, whichever takes longer.
 * Takes the copies as equally long; where they are not, the truth is a little more.
 */
export function transferMicros(profile: HardwareProfile, runs: number, bytes: number): Micros {
  if (runs === 0) return 0;
  return runs * Math.max(profile.dispatchMicros, bytes / runs / profile.linkBytesPerMicro + profile.copyMicros);
}

/** Microseconds per unit of each feature, before anything was measured. Only their ratios count after the first one. */
export interface CostPrior {
  readonly step: {
    readonly base: Micros;
    readonly prefillToken: Micros;
    readonly decodeSequence: Micros;
    readonly contextToken: Micros;
  };
  readonly transfer: { readonly base: Micros; readonly run: Micros; readonly byte: Micros };
}

/** A small model on a few cores; memory copied at 5 GB/s. */
const SMALL_MACHINE: CostPrior = {
  step: { base: 500, prefillToken: 100, decodeSequence: 200, contextToken: 0.2 },
  transfer: { base: 50, run: 2, byte: 0.0002 },
};

/** Observations remembered for each kind; fitted anew when at least an eighth of them is new. */
const RECENT = 32;
const REFIT_SHARE = 8;
/**
 * What it costs to double a coefficient of the prior, in squared relative residuals: the square of the noise over that of
 * how far off a prior may well be (20 times). Enough to settle what the observations leave open, no more.
 */
const PRIOR_WEIGHT = 1e-6;
/** Rounds of fitting in which what lies far off loses its weight. */
const ROBUST_ROUNDS = 3;
/** Relative residuals up to about this size are noise, not outliers. */
const NOISE = 0.02;

interface Observation {
  readonly features: readonly number[];
  readonly micros: Micros;
}

/**
 * micros = features x coefficients, fitted on the last observations: weighted least squares on relative residuals, pulled
 * weakly towards the prior, coefficients never below 0. Fits when asked and enough that is new was seen.
 */
class RecentFit {
  readonly #prior: readonly number[];
  readonly #recent: Observation[] = [];
  #next = 0;
  /** Observations that the coefficients do not know. */
  #unseen = 0;
  #coefficients: readonly number[];

  /** All coefficients of the prior are above 0. */
  constructor(prior: readonly number[]) {
    this.#prior = prior;
    this.#coefficients = prior;
  }

  observe(features: readonly number[], micros: Micros): void {
    this.#recent[this.#next] = { features, micros: Math.max(1, micros) };
    this.#next = (this.#next + 1) % RECENT;
    this.#unseen += 1;
  }

  /** `asked`: somebody wants to know; nothing is remembered of it, so that questions change no later prediction. */
  predict(features: readonly number[], asked: boolean): Micros {
    if (this.#unseen * REFIT_SHARE >= this.#recent.length && this.#unseen > 0) {
      const coefficients = this.#fit();
      if (asked) return dot(coefficients, features);
      this.#coefficients = coefficients;
      this.#unseen = 0;
    }
    return dot(this.#coefficients, features);
  }

  #fit(): readonly number[] {
    // A prior of the wrong size but the right shape is scaled first, so that one observation suffices to be usable.
    const scale = median(this.#recent.map(({ features, micros }) => micros / Math.max(1e-9, dot(this.#prior, features))));
    const prior = this.#prior.map((coefficient) => coefficient * scale);
    let coefficients: readonly number[] = prior;
    for (let round = 0; round < ROBUST_ROUNDS; round++) coefficients = this.#refit(coefficients, prior);
    return coefficients;
  }

  /**
   * One round: weights from the residuals of the last coefficients (Cauchy's), then least squares. The unknowns are the
   * ratios of coefficients to their prior, which are all of about the same size.
   */
  #refit(last: readonly number[], prior: readonly number[]): readonly number[] {
    const predicted = this.#recent.map(({ features }) => Math.max(1, dot(last, features)));
    const residuals = this.#recent.map(({ micros }, k) => Math.abs(micros / (predicted[k] as number) - 1));
    const width = Math.max(NOISE, 2 * median(residuals));
    const size = prior.length;
    const rows = prior.map((_, i) =>
      Float64Array.from({ length: size + 1 }, (_, j) => (j === i || j === size ? PRIOR_WEIGHT : 0)),
    );
    for (const [k, { features, micros }] of this.#recent.entries()) {
      const weight = 1 / (1 + ((residuals[k] as number) / width) ** 2) / (predicted[k] as number) ** 2;
      for (let i = 0; i < size; i++) {
        const row = rows[i] as Float64Array;
        const weighted = weight * (features[i] as number) * (prior[i] as number);
        for (let j = 0; j < size; j++) (row[j] as number) += weighted * (features[j] as number) * (prior[j] as number);
        (row[size] as number) += weighted * micros;
      }
    }
    return solveNotNegative(rows).map((ratio, k) => ratio * (prior[k] as number));
  }
}

/** The middle value, the upper one of two. There is at least one. */
function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[sorted.length >> 1] as number;
}

/** Predicts from the last 32 steps and the last 32 transfers of each direction. */
export class CostModel {
  readonly #step: RecentFit;
  readonly #transfers: Readonly<Record<Direction, RecentFit>>;
  #asked = false;

  /** `prior`: coefficients above 0, used alone until something was seen. */
  constructor(prior: CostPrior = SMALL_MACHINE) {
    const { base, prefillToken, decodeSequence, contextToken } = prior.step;
    const transfer = [prior.transfer.base, prior.transfer.run, prior.transfer.byte];
    this.#step = new RecentFit([base, prefillToken, decodeSequence, contextToken]);
    this.#transfers = { out: new RecentFit(transfer), in: new RecentFit(transfer) };
  }

  observeStep(features: StepFeatures, micros: Micros): void {
    this.#step.observe(stepVector(features), micros);
  }

  /** At least 0; not rounded. */
  predictStep(features: StepFeatures): Micros {
    return this.#step.predict(stepVector(features), this.#asked);
  }

  observeTransfer(direction: Direction, runs: number, bytes: number, micros: Micros): void {
    this.#transfers[direction].observe([1, runs, bytes], micros);
  }

  /** At least 0; not rounded. */
  predictTransfer(direction: Direction, runs: number, bytes: number): Micros {
    return this.#transfers[direction].predict([1, runs, bytes], this.#asked);
  }

  /** Predictions that `question` makes leave no trace: when a fit is made anew depends on who predicts when. */
  asked<T>(question: () => T): T {
    this.#asked = true;
    try {
      return question();
    } finally {
      this.#asked = false;
    }
  }
}

function stepVector({ prefillTokens, decodeSequences, contextTokens }: StepFeatures): readonly number[] {
  return [1, prefillTokens, decodeSequences, contextTokens];
}
