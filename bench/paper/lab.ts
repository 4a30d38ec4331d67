/** The two readings of the experiments: the first notes the runs they ask for, the second has them. */
import type { RunResult, Spread } from '../../src/simulation/result.js';
import { type Case, type Cell, type Changes, caseOf } from './cases.js';
import type { Calibration, Lab, RunLengths, Scale } from './experiment.js';
import type { Runs } from './runs.js';

export interface LabOptions {
  readonly scale: Scale;
  readonly calibration: Calibration;
  readonly tracePath: string | null;
  readonly runLengths: RunLengths | null;
}

const NOTHING: Spread = { p50: 0, p95: 0, p99: 0, p999: 0 };

/** Contexts of a quick report, so that conversations are over soon. */
const QUICK_TOKENS = 400;

/** A run in which nothing happened. */
export const BLANK: RunResult = {
  seed: 0,
  digest: '',
  requests: 0,
  virtualSeconds: 0,
  ttftMs: NOTHING,
  tbtMs: NOTHING,
  throughputTokensPerSecond: 0,
  stallShareP99: 0,
  iterationMs: NOTHING,
  stallMs: NOTHING,
  steps: 0,
  preemptions: { swap: 0, recompute: 0 },
  transfers: 0,
  bytesOut: 0,
  bytesIn: 0,
  bytesMirrored: 0,
  bytesPrefetched: 0,
  meanRunBlocks: 0,
  swapOutMs: NOTHING,
  swapInMs: NOTHING,
  blocksSent: 0,
  blocksHeld: 0,
  promptTokens: 0,
  cachedTokens: 0,
  generatedTokens: 0,
  prefillTokensComputed: 0,
  tokensPerMs: NOTHING,
  decideMicrosPerStep: 0,
  actorMicrosPerStep: 0,
  stepsPerSecond: 0,
};

class Reading implements Lab {
  readonly scale: Scale;
  readonly calibration: Calibration;
  readonly tracePath: string | null;
  readonly runLengths: RunLengths | null;
  readonly #answer: (one: Case) => readonly RunResult[];
  readonly alone: Lab['alone'];

  constructor(options: LabOptions, answer: (one: Case) => readonly RunResult[], alone: Lab['alone']) {
    this.scale = options.scale;
    this.calibration = options.calibration;
    this.tracePath = options.tracePath;
    this.runLengths = options.runLengths;
    this.#answer = answer;
    this.alone = alone;
  }

  runs(cell: Cell, preset: string, changes: Partial<Changes> = {}): readonly RunResult[] {
    const { conversations, quick } = this.scale;
    const short = quick ? { contextTokensMax: QUICK_TOKENS } : {};
    return this.#answer(caseOf(this.calibration, cell, preset, { conversations, ...short, ...changes }));
  }
}

/** Answers blank runs and calls `note` with each case. */
export function firstReading(options: LabOptions, note: (one: Case) => void): Lab {
  const blank = Array.from({ length: options.scale.seeds }, () => BLANK);
  const answer = (one: Case) => {
    note(one);
    return blank;
  };
  return new Reading(options, answer, () => BLANK);
}

/** Answers runs that were made; makes those that have to be alone as they are asked for. */
export function secondReading(options: LabOptions, runs: Runs, onAlone: (name: string) => void): Lab {
  const kept = new Map<string, RunResult>();
  const alone = (name: string, make: () => RunResult) => {
    const found = kept.get(name);
    if (found !== undefined) return found;
    onAlone(name);
    const made = make();
    kept.set(name, made);
    return made;
  };
  return new Reading(options, (one) => runs.of(one, options.scale.seeds), alone);
}
