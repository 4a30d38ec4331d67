/** What is run: cells of (scenario, pattern), presets with changes, and the key under which a finished run is kept. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Mechanism, type ParsedPreset, PRESETS, type PresetName, parsePreset, type Switch } from '../../src/core/presets.js';
import type { PolicyName } from '../../src/core/types.js';
import { type CalibrationFile, settingOf } from '../../src/simulation/calibrate.js';
import type { Job } from '../../src/simulation/jobs.js';
import type { Pattern, PatternName } from '../../src/simulation/patterns.js';
import { loadScenario, type Scenario } from '../../src/simulation/profiles.js';
import type { Load } from '../../src/simulation/result.js';
import { NOISE } from '../../src/simulation/run.js';

/** A run without its seed. */
export type Case = Omit<Job, 'seed'>;

export interface Cell {
  readonly scenario: string;
  readonly pattern: PatternName;
}

/** The two machines of the paper under its two patterns. */
export const CELLS: readonly Cell[] = ['llama8b-a10', 'qwen32b-a100'].flatMap((scenario) =>
  (['random', 'markov'] as const).map((pattern) => ({ scenario, pattern })),
);
/** Where a sweep takes one pattern only. */
export const RANDOM_CELLS = CELLS.filter(({ pattern }) => pattern === 'random');

export function cellName({ scenario, pattern }: Cell): string {
  return `${scenario}, ${pattern}`;
}

export function preset(text: string): ParsedPreset {
  const parsed = parsePreset(text);
  if (typeof parsed === 'string') throw new Error(parsed);
  return parsed;
}

/** Changes to a preset, in the syntax of `--preset`, that give the switches of `keys` the values they have in `target`. */
export function towards(text: string, target: Mechanism, keys: readonly Switch[]): string {
  const { mechanism } = preset(text);
  const changes = keys
    .filter((key) => mechanism[key] !== target[key])
    .map((key) => {
      const value = target[key];
      return typeof value === 'boolean' ? `${value ? '+' : '-'}${key}` : `+${key}=${value}`;
    });
  return text + changes.join('');
}

export function mechanismOf(name: PresetName): Mechanism {
  return PRESETS[name].mechanism;
}

export const ALL_SWITCHES = Object.keys(PRESETS.default.mechanism) as readonly Switch[];

export interface Changes {
  readonly conversations: number;
  readonly policy?: PolicyName;
  readonly frequency?: number;
  readonly noise?: number;
  readonly scenario?: (scenario: Scenario) => Scenario;
  readonly load?: Load;
  /** If not the scenario's. */
  readonly contextTokensMax?: number;
}

/** A preset in a cell, under the load of the calibration unless `changes` says otherwise. */
export function caseOf(calibration: CalibrationFile, cell: Cell, text: string, changes: Changes): Case {
  const parsed = preset(text);
  const setting = settingOf(calibration, cell.scenario, cell.pattern);
  const shipped = loadScenario(cell.scenario);
  const scenario = { ...shipped, contextTokensMax: changes.contextTokensMax ?? shipped.contextTokensMax };
  const { conversationsPerSecond, thinkSeconds } = setting;
  return {
    scenario: changes.scenario?.(scenario) ?? scenario,
    preset: parsed,
    policy: changes.policy ?? policyOf(parsed, setting.pattern),
    pattern: withFrequency(setting.pattern, changes.frequency),
    load: changes.load ?? {
      type: 'conversations',
      conversations: changes.conversations,
      conversationsPerSecond,
      thinkSeconds,
    },
    noise: changes.noise ?? NOISE,
  };
}

/** Everybody follows the priorities of the pattern, but for presets whose policy is what they are about. */
function policyOf({ policy }: ParsedPreset, pattern: Pattern): PolicyName {
  return pattern.type === 'none' || policy === 'vtc' || policy === 'mlfq' ? policy : 'priority';
}

function withFrequency(pattern: Pattern, frequency: number | undefined): Pattern {
  return frequency === undefined || pattern.type === 'none' ? pattern : { ...pattern, frequency };
}

/** Equal for runs that cannot differ, whatever their preset is called. */
export function keyOf({ preset: { mechanism }, ...rest }: Case, seed: number, version: string): string {
  const ordered = Object.fromEntries(Object.entries(mechanism).sort(([a], [b]) => (a < b ? -1 : 1)));
  return createHash('sha256')
    .update(JSON.stringify({ version, seed, mechanism: ordered, ...rest }))
    .digest('hex')
    .slice(0, 32);
}

/** Changes with any line of what decides and what is simulated. */
export function codeVersion(): string {
  const hash = createHash('sha256');
  for (const room of ['src/core', 'src/actors', 'src/simulation', 'statecharts']) {
    const folder = fileURLToPath(new URL(`../../${room}/`, import.meta.url));
    for (const file of readdirSync(folder).sort()) {
      if (/\.(ts|js)$/.test(file)) hash.update(`${room}/${file}\n`).update(readFileSync(`${folder}${file}`));
    }
  }
  return hash.digest('hex').slice(0, 16);
}
