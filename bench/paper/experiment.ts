/** What an experiment is given and what it answers. Each is a file in `experiments/`. */
import type { PresetName } from '../../src/core/presets.js';
import type { CalibrationFile } from '../../src/simulation/calibrate.js';
import type { RunResult } from '../../src/simulation/result.js';
import type { Cell, Changes } from './cases.js';
import type { Chart } from './plots.js';
import type { Finding } from './words.js';

/** How much is run. */
export interface Scale {
  readonly quick: boolean;
  readonly seeds: number;
  /** Conversations of the main tables, and of sweeps and ablations. */
  readonly conversations: number;
  readonly sweepConversations: number;
  readonly traceRequests: number;
}

/** Written beside the load of the conversations: at which speed a trace is replayed, by scenario. */
export interface TraceSetting {
  readonly speed: number;
  readonly stallShareP99: number | null;
}

export type Calibration = CalibrationFile & { readonly trace?: Readonly<Record<string, TraceSetting>> };

/** One picture; `file` without an ending. */
export interface Plot {
  readonly file: string;
  readonly chart: Chart;
}

export interface Section {
  readonly findings: readonly Finding[];
  /** Paragraphs and tables as Markdown, and pictures, in the order of reading. */
  readonly body: readonly (string | Plot)[];
}

/** What `bench/blocks` measures of run lengths; null where it is not there. */
export interface RunLengths {
  /** Least length of each bucket. */
  readonly buckets: readonly number[];
  readonly allocators: readonly { readonly name: string; readonly meanRun: number; readonly shares: readonly number[] }[];
  readonly deviceFull: number;
}

export interface Lab {
  readonly scale: Scale;
  readonly calibration: Calibration;
  /** Of the recorded trace; null where it is not there. */
  readonly tracePath: string | null;
  readonly runLengths: RunLengths | null;
  /** The runs of a case, one for each seed, in their order. Without `changes` at the scale of the main tables. */
  runs(cell: Cell, preset: string, changes?: Partial<Changes>): readonly RunResult[];
  /** Runs that are made alone on this thread, because their wall time counts. */
  alone(name: string, make: () => RunResult): RunResult;
}

/**
 * `write` is called twice. The first time runs are blank and it is noted which are asked for; so which are must not
 * depend on what they say.
 */
export interface Experiment {
  readonly name: string;
  readonly title: string;
  write(lab: Lab): Section;
}

export const MAIN_PRESETS = ['vllm-0.3', 'fastswitch', 'default'] as const satisfies readonly PresetName[];

/** What whiskers mean, for the line under a title. */
export function seedsLine({ scale }: Lab): string {
  return scale.seeds === 1 ? 'One seed.' : `Mean of ${scale.seeds} seeds; whiskers: least and greatest.`;
}
