/** `fastswitch simulate`: flags -> jobs -> results on standard output and in files. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { CHOICES } from '../core/config.js';
import { type ParsedPreset, PRESET_NAMES, parsePreset } from '../core/presets.js';
import type { PolicyName } from '../core/types.js';
import { badFlag, integerOf } from '../flags.js';
import { type CalibrationFile, readCalibration, type Setting, settingOf } from './calibrate.js';
import { type FlagName, readFlags, simulateHelp } from './flags.js';
import { type Job, runJobs, workloadOf } from './jobs.js';
import { PATTERN_NAMES, type Pattern, type PatternName } from './patterns.js';
import { loadScenario, type Scenario, withMemory } from './profiles.js';
import { type Output, ProgressLine } from './progress.js';
import type { Load, PresetResult, RunResult } from './result.js';
import { NOISE } from './run.js';
import { markdownTables } from './table.js';

export type { Output } from './progress.js';

/** A line of the results: the same job with several seeds. */
export interface Entry {
  readonly jobs: readonly Job[];
  readonly dropped: number;
}

/** `show`: the text to print instead of running. */
export type Plan =
  | { readonly show: string }
  | {
      readonly show: null;
      readonly entries: readonly Entry[];
      /** Where the one run is recorded. */
      readonly journal: string | null;
      readonly out: string | null;
      readonly json: boolean;
      readonly threads: number;
    };

const POLICIES: readonly PolicyName[] = CHOICES.policy.filter((policy) => policy !== 'auto');

/**
 * Reads the flags of `simulate` (argv after the command), and the files that they name.
 * @throws FastswitchError `bad_config` that says what is wrong and what is allowed.
 */
export function planSimulation(argv: readonly string[]): Plan {
  const given = readFlags(argv);
  if (given.has('help')) return { show: simulateHelp() };
  const trace = given.get('trace') ?? null;
  const scenarios = list(given, 'scenario', 'llama8b-a10').map((name) =>
    withMemory(loadScenario(name), integer(given, 'device-blocks', 1), integer(given, 'host-blocks', 0)),
  );
  const patterns = list(given, 'pattern', trace === null ? 'random' : 'none').map(patternName);
  const names = list(given, 'preset', 'default').flatMap((name): readonly string[] => (name === 'all' ? PRESET_NAMES : [name]));
  const presets = [...new Set(names)].map(preset);
  const aimless = (['phi', 'frequency'] as const).find((flag) => given.has(flag));
  if (aimless !== undefined && patterns.every((name) => name === 'none')) {
    throw badFlag(`--${aimless} is about a pattern; choose one with --pattern random or --pattern markov`);
  }
  const noise = number(given, 'noise', 0, 1) ?? NOISE;
  const seeds = integer(given, 'seeds', 1) ?? 1;
  const calibration = readCalibration();
  const entries: Entry[] = [];
  for (const scenario of scenarios) {
    for (const name of patterns) {
      const { load, pattern } = readSetting(given, calibration, scenario, name, trace);
      const dropped = load.type === 'trace' ? workloadOf(load, scenario, 1).dropped : 0;
      for (const each of presets) {
        const policy = policyOf(given.get('policy') ?? null, each, pattern);
        const job = { scenario, preset: each, policy, pattern, load, noise };
        entries.push({ dropped, jobs: Array.from({ length: seeds }, (_, k) => ({ ...job, seed: k + 1 })) });
      }
    }
  }
  const out = given.get('out');
  const journal = given.get('journal');
  const runs = entries.length * seeds;
  if (journal !== undefined && runs > 1) {
    throw badFlag(`--journal records one run, and this would be ${runs}: choose one scenario, pattern and preset, and one seed`);
  }
  return {
    show: null,
    entries,
    journal: journal === undefined ? null : resolve(journal),
    out: out === undefined ? null : resolve(out),
    json: given.has('json'),
    threads: integer(given, 'threads', 1) ?? availableParallelism(),
  };
}

function list(given: ReadonlyMap<FlagName, string>, flag: FlagName, otherwise: string): string[] {
  const items = (given.get(flag) ?? otherwise).split(',').map((item) => item.trim());
  if (items.includes('')) throw badFlag(`--${flag} is "${given.get(flag)}"; allowed are names with commas between them`);
  return [...new Set(items)];
}

function patternName(text: string): PatternName {
  const name = PATTERN_NAMES.find((candidate) => candidate === text);
  if (name === undefined) throw badFlag(`no pattern "${text}"; there are ${PATTERN_NAMES.join(', ')}`);
  return name;
}

function preset(text: string): ParsedPreset {
  const parsed = parsePreset(text);
  if (typeof parsed === 'string') throw badFlag(parsed);
  return parsed;
}

function policyOf(given: string | null, { policy }: ParsedPreset, pattern: Pattern): PolicyName {
  if (given !== null) {
    const name = POLICIES.find((candidate) => candidate === given);
    if (name === undefined) throw badFlag(`no policy "${given}"; there are ${POLICIES.join(', ')}`);
    return name;
  }
  // Priorities are what is compared, but for presets whose policy is what they are about.
  return pattern.type === 'none' || policy === 'vtc' || policy === 'mlfq' ? policy : 'priority';
}

/** The setting of the calibration, with what the flags say instead. */
function readSetting(
  given: ReadonlyMap<FlagName, string>,
  calibration: CalibrationFile,
  scenario: Scenario,
  name: PatternName,
  trace: string | null,
): { load: Load; pattern: Pattern } {
  const setting = settingOf(calibration, scenario.name, name);
  const pattern = withFlags(given, setting.pattern);
  const wrong = (flags: readonly FlagName[]) => flags.find((flag) => given.has(flag));
  if (trace !== null) {
    const alien = wrong(['conversations', 'rate', 'think']);
    if (alien !== undefined) throw badFlag(`--${alien} is about drawn conversations; with --trace use --limit and --speed`);
    const limit = integer(given, 'limit', 1) ?? 0;
    return { pattern, load: { type: 'trace', path: resolve(trace), limit, speed: number(given, 'speed', 1e-6, 1e6) ?? 1 } };
  }
  const alien = wrong(['limit', 'speed']);
  if (alien !== undefined) throw badFlag(`--${alien} is about a trace; give one with --trace FILE`);
  return { pattern, load: conversationsLoad(given, setting) };
}

function conversationsLoad(given: ReadonlyMap<FlagName, string>, setting: Setting): Load {
  return {
    type: 'conversations',
    conversations: integer(given, 'conversations', 1) ?? 1000,
    conversationsPerSecond: number(given, 'rate', 1e-6, 1e6) ?? setting.conversationsPerSecond,
    thinkSeconds: number(given, 'think', 0, 1e6) ?? setting.thinkSeconds,
  };
}

function withFlags(given: ReadonlyMap<FlagName, string>, pattern: Pattern): Pattern {
  const phi = number(given, 'phi', 0, 1);
  const frequency = number(given, 'frequency', 1e-6, 1);
  if (pattern.type === 'none') return pattern;
  return { ...pattern, phi: phi ?? pattern.phi, frequency: frequency ?? pattern.frequency };
}

function integer(given: ReadonlyMap<FlagName, string>, flag: FlagName, min: number): number | null {
  const text = given.get(flag);
  return text === undefined ? null : integerOf(flag, text, min);
}

function number(given: ReadonlyMap<FlagName, string>, flag: FlagName, min: number, max: number): number | null {
  const text = given.get(flag);
  if (text === undefined) return null;
  const value = Number(text);
  if (!/^\d*\.?\d+(e-?\d+)?$/i.test(text) || value < min || value > max) {
    throw badFlag(`--${flag} is "${text}"; allowed is a number, ${min} to ${max}`);
  }
  return value;
}

/**
 * Runs `fastswitch simulate`; resolves when everything is written. Throws as `planSimulation` and the runs do.
 * @param version Of fastswitch, for a journal.
 */
export async function simulate(argv: readonly string[], output: Output, version = ''): Promise<readonly PresetResult[]> {
  const plan = planSimulation(argv);
  if (plan.show !== null) {
    output.standard(plan.show);
    return [];
  }
  const { entries, journal, out, json, threads } = plan;
  if (out !== null) makeFolder(out);
  const jobs = entries
    .flatMap((entry) => entry.jobs)
    .map((job) => (journal === null ? job : { ...job, journal: { path: journal, version } }));
  const runs: RunResult[] = [];
  const results: PresetResult[] = [];
  const progress = new ProgressLine(output);
  await runJobs(jobs, {
    threads,
    onProgress: (share, done) =>
      progress.update((seconds) => `simulate: ${Math.floor(100 * share)} %, ${done} of ${jobs.length} runs, ${seconds} s`),
    onResult: (_, run) => {
      runs.push(run);
      const entry = entries[results.length] as Entry;
      if (runs.length < entry.jobs.length) return;
      const result = presetResult(entry, runs.splice(0));
      results.push(result);
      if (out !== null) writeFileSync(join(out, fileName(result)), `${JSON.stringify(result, null, 2)}\n`);
      if (json) output.standard(`${JSON.stringify(result)}\n`);
    },
  });
  progress.end();
  const tables = markdownTables(results);
  if (out !== null) writeFileSync(join(out, 'summary.md'), `${tables}\n`);
  if (!json) output.standard(`${tables}\n`);
  return results;
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw badFlag(`--out ${path} cannot be made: ${(error as Error).message}`);
  }
}

function fileName({ scenario, pattern, preset: name }: PresetResult): string {
  return `${scenario}-${pattern}-${name}.json`.replaceAll(/[^\w.+=-]/g, '_');
}

function presetResult({ jobs, dropped }: Entry, runs: readonly RunResult[]): PresetResult {
  const [{ preset: parsed, scenario, pattern, policy, load, noise }] = jobs as [Job];
  const { deviceBlocks, hostBlocks } = scenario;
  return {
    preset: parsed.name,
    scenario: scenario.name,
    pattern: pattern.type,
    policy,
    settings: { load, dropped, pattern, deviceBlocks, hostBlocks, noise },
    runs,
  };
}
