/**
 * The load under which presets are compared. Where the paper is silent, it is tuned on the baseline alone, until stalls
 * make up as much of its slowest iterations as was published; then it is frozen in `calibration.json` and every preset
 * runs under it. Never tuned on what is to be shown.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PRESETS, type PresetName } from '../core/presets.js';
import { FastswitchError } from '../errors.js';
import { runJobs } from './jobs.js';
import type { Pattern, PatternName } from './patterns.js';
import { dataFolder, type Scenario } from './profiles.js';
import { NOISE } from './run.js';

/** A load and how priorities change in it. */
export interface Setting {
  readonly conversationsPerSecond: number;
  readonly thinkSeconds: number;
  readonly pattern: Pattern;
}

/** As it is written in `calibration.json`. */
export interface WrittenSetting {
  readonly conversationsPerSecond: number;
  readonly thinkSeconds: number;
  readonly phi: number;
  readonly frequency: number;
  /** Of `markov` only. */
  readonly stay?: number;
  readonly hotShare?: number;
}

export interface CalibrationFile {
  /** When it was tuned, as 2026-01-31, and from which seed on; null: it was not. */
  readonly date: string | null;
  readonly seed: number | null;
  readonly note: string;
  /** On what it was tuned, and what was reached. */
  readonly preset: string;
  readonly stallShareP99: number | null;
  readonly scenarios: Readonly<Record<string, Readonly<Partial<Record<PatternName, WrittenSetting>>>>>;
}

/** For scenarios that were never calibrated. */
const FALLBACK: Required<WrittenSetting> = {
  conversationsPerSecond: 1,
  thinkSeconds: 10,
  phi: 0.3,
  frequency: 0.04,
  stay: 0.8,
  hotShare: 0.3,
};

export function readCalibration(): CalibrationFile {
  const path = join(dataFolder(), 'calibration.json');
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as CalibrationFile;
  } catch (error) {
    throw new FastswitchError('bad_config', `${path} cannot be read: ${(error as Error).message}; install the package anew`);
  }
}

/** The setting of a scenario under a pattern; without a pattern it is the load of `random`. */
export function settingOf(file: CalibrationFile, scenario: string, pattern: PatternName): Setting {
  const written = file.scenarios[scenario]?.[pattern === 'none' ? 'random' : pattern];
  return fromWritten({ ...FALLBACK, ...written }, pattern);
}

function fromWritten(written: Required<WrittenSetting>, type: PatternName): Setting {
  const { conversationsPerSecond, thinkSeconds, phi, frequency, stay, hotShare } = written;
  const patterns: Readonly<Record<PatternName, Pattern>> = {
    none: { type: 'none' },
    random: { type: 'random', phi, frequency },
    markov: { type: 'markov', phi, frequency, stay, hotShare },
  };
  return { conversationsPerSecond, thinkSeconds, pattern: patterns[type] };
}

/** The one published anchor: the stall reaches 59.9 % of P99 iteration latency under high stress. */
export const STALL_SHARE_TARGET = 0.6;
const TOLERANCE = 0.01;
const PHI_MIN = 0.01;
const PHI_MAX = 1;
/** The arrival rate is changed by this factor at most, either way. */
const RATE_FACTOR_MAX = 4;
/** Halvings of each interval. */
const ROUNDS = 8;

export interface Attempt {
  readonly setting: Setting;
  /** `stallShareP99` of each seed, and their mean. */
  readonly shares: readonly number[];
  readonly mean: number;
}

export interface Calibrated {
  /** The attempt that came closest. */
  readonly best: Attempt;
  /** It is within 0.01 of the target. */
  readonly reached: boolean;
  /** In the order in which they were made. */
  readonly tried: readonly Attempt[];
}

/** Runs the baseline under a setting, once for each seed, and answers the `stallShareP99` of each. */
export type Measure = (setting: Setting) => Promise<readonly number[]>;

/** On what is tuned: the paper's baseline and nothing else. */
export const BASELINE: PresetName = 'vllm-0.3';

interface BaselineOptions {
  readonly scenario: Scenario;
  readonly conversations: number;
  readonly seeds: readonly number[];
  readonly threads: number;
}

/** The measure of `calibrate`: real runs of the baseline, by priority. */
export function measureBaseline({ scenario, conversations, seeds, threads }: BaselineOptions): Measure {
  const preset = { name: BASELINE, ...PRESETS[BASELINE] };
  return async ({ conversationsPerSecond, thinkSeconds, pattern }) => {
    const load = { type: 'conversations', conversations, conversationsPerSecond, thinkSeconds } as const;
    const job = { scenario, preset, policy: 'priority', pattern, load, noise: NOISE } as const;
    const shares: number[] = [];
    await runJobs(
      seeds.map((seed) => ({ ...job, seed })),
      { threads, onProgress: () => {}, onResult: (_, { stallShareP99 }) => shares.push(stallShareP99) },
    );
    return shares;
  };
}

/**
 * Tunes how much an update reshuffles (phi) by bisection, and where no phi suffices the arrival rate as well, until the
 * mean stall share is the target. At most 11 attempts. It takes for granted that more reshuffling stalls more; that more load
 * does is tried at the end first: a machine with too much to do need not stall more with still more.
 */
export async function calibrate(start: Setting, measure: Measure, target: number = STALL_SHARE_TARGET): Promise<Calibrated> {
  if (start.pattern.type === 'none') throw new Error('nothing to calibrate: without a pattern there is no phi');
  const pattern = start.pattern;
  const tried: Attempt[] = [];
  const attempt = async (phi: number, conversationsPerSecond: number) => {
    const setting = { ...start, conversationsPerSecond, pattern: { ...pattern, phi } };
    const shares = await measure(setting);
    const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    tried.push({ setting, shares, mean });
    return mean - target;
  };
  const rate = start.conversationsPerSecond;
  const tooMuch = await attempt(PHI_MAX, rate);
  const tooLittle = await attempt(PHI_MIN, rate);
  if (tooMuch < -TOLERANCE) {
    const fastest = rate * RATE_FACTOR_MAX;
    if ((await attempt(PHI_MAX, fastest)) > 0) await bisect(rate, fastest, (faster) => attempt(PHI_MAX, faster));
  } else if (tooLittle > TOLERANCE) {
    const slowest = rate / RATE_FACTOR_MAX;
    if ((await attempt(PHI_MIN, slowest)) < 0) await bisect(slowest, rate, (slower) => attempt(PHI_MIN, slower));
  } else await bisect(PHI_MIN, PHI_MAX, (phi) => attempt(phi, rate));
  const off = ({ mean }: Attempt) => Math.abs(mean - target);
  const best = tried.reduce((a, b) => (off(b) < off(a) ? b : a));
  return { best, reached: off(best) <= TOLERANCE, tried };
}

/** Halves the interval, by ratio, towards where `excess` is 0. */
async function bisect(from: number, to: number, excess: (value: number) => Promise<number>): Promise<void> {
  let low = from;
  let high = to;
  for (let round = 0; round < ROUNDS; round++) {
    const middle = Math.sqrt(low * high);
    const over = await excess(middle);
    if (Math.abs(over) <= TOLERANCE) return;
    if (over > 0) high = middle;
    else low = middle;
  }
}
