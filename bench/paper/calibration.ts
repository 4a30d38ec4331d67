/**
 * The calibration: on vllm-0.3 alone, towards the one published anchor, before any variant runs. Writes what was found and
 * what was tried to `src/simulation/calibration.json`; everything else reads it and changes nothing.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Attempt,
  BASELINE,
  type Calibrated,
  calibrate,
  measureBaseline,
  readCalibration,
  type Setting,
  STALL_SHARE_TARGET,
  settingOf,
  type WrittenSetting,
} from '../../src/simulation/calibrate.js';
import { runJobs } from '../../src/simulation/jobs.js';
import { dataFolder, loadScenario } from '../../src/simulation/profiles.js';
import { CELLS, type Cell, caseOf, cellName, RANDOM_CELLS } from './cases.js';
import type { Calibration, TraceSetting } from './experiment.js';
import type { PaperOptions } from './options.js';
import { bandOf } from './statistics.js';
import { figure, percent } from './words.js';

/** From here the search starts, whatever was found before: the paper's load, and guesses where it is silent. */
const START = { conversationsPerSecond: 1, thinkSeconds: 10, phi: 0.3 };
const SPEEDS = { min: 0.02, max: 2, rounds: 7 };
/** As near as that is near enough. */
const TOLERANCE = 0.01;

interface Tried {
  readonly conversationsPerSecond: number;
  readonly phi: number;
  readonly stallShareP99: number;
}

/** Tunes the load of every cell, then the speed of the trace, and writes both. `say` hears of every attempt. */
export async function runCalibration(options: PaperOptions, say: (line: string) => void): Promise<Calibration> {
  const before = readCalibration();
  const seeds = Array.from({ length: options.scale.seeds }, (_, k) => k + 1);
  const conversations = options.scale.conversations;
  const scenarios: Record<string, Record<string, WrittenSetting>> = {};
  const tried: Record<string, readonly Tried[]> = {};
  const shares: number[] = [];
  for (const cell of CELLS) {
    const measure = measureBaseline({ scenario: loadScenario(cell.scenario), conversations, seeds, threads: options.threads });
    const start = startOf(settingOf(before, cell.scenario, cell.pattern));
    const found = await calibrate(start, async (setting) => {
      const measured = await measure(setting);
      say(`${cellName(cell)}: ${describe(setting)}: stall share ${percent(bandOf(measured).mean)}\n`);
      return measured;
    });
    const best = bestOf(found, start);
    say(`${cellName(cell)}: ${found.reached ? 'reached' : 'closest'}: ${describe(best.setting)}\n`);
    scenarios[cell.scenario] = { ...scenarios[cell.scenario], [cell.pattern]: written(best.setting) };
    tried[cellName(cell)] = found.tried.map(triedOf);
    shares.push(best.mean);
  }
  const file = {
    date: options.date,
    seed: seeds[0] as number,
    note: noteOf(seeds.length, conversations),
    preset: BASELINE,
    stallShareP99: round(bandOf(shares).mean),
    scenarios,
    tried,
  };
  const calibration: Calibration = { ...file, ...(await traces(options, file, say)) };
  writeFileSync(join(dataFolder(), 'calibration.json'), `${JSON.stringify(calibration, null, 2)}\n`);
  return calibration;
}

function noteOf(seeds: number, conversations: number): string {
  return (
    `Tuned on ${BASELINE} alone until stalls are ${STALL_SHARE_TARGET} of its iterations at and above P99: how much an update reshuffles (phi), ` +
    `and where more can be had by it the arrival rate; where the target is out of reach, the nearest at the paper's rate. ${seeds} seeds from 1 on, ${conversations} conversations. Nothing was tuned on a variant.`
  );
}

/** Where nothing reaches the target, the paper's arrival rate stays: it is published, and phi is not. */
function bestOf({ best, reached, tried }: Calibrated, { conversationsPerSecond }: Setting): Attempt {
  if (reached) return best;
  const atRate = tried.filter(({ setting }) => setting.conversationsPerSecond === conversationsPerSecond);
  const off = ({ mean }: Attempt) => Math.abs(mean - STALL_SHARE_TARGET);
  return atRate.reduce((a, b) => (off(b) < off(a) ? b : a));
}

function startOf(setting: Setting): Setting {
  const { phi, ...rest } = START;
  const { pattern } = setting;
  return { ...setting, ...rest, pattern: pattern.type === 'none' ? pattern : { ...pattern, phi } };
}

function describe({ conversationsPerSecond, pattern }: Setting): string {
  return `${figure(conversationsPerSecond)} conversations/s, phi ${pattern.type === 'none' ? 0 : figure(pattern.phi)}`;
}

function written({ conversationsPerSecond, thinkSeconds, pattern }: Setting): WrittenSetting {
  if (pattern.type === 'none') throw new Error('a cell without a pattern is not calibrated');
  const { type, ...rest } = pattern;
  return { conversationsPerSecond: round(conversationsPerSecond), thinkSeconds, ...rest, phi: round(pattern.phi) };
}

function triedOf({ setting, mean }: Attempt): Tried {
  const { conversationsPerSecond, phi } = written(setting);
  return { conversationsPerSecond, phi, stallShareP99: round(mean) };
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

/** The speed at which the baseline reaches the same anchor on the trace, by bisection; one seed, since the trace has none. */
async function traces(
  { tracePath, scale, threads }: PaperOptions,
  file: Calibration,
  say: (line: string) => void,
): Promise<{ readonly trace?: Record<string, TraceSetting> }> {
  if (tracePath === null) return {};
  const trace: Record<string, TraceSetting> = {};
  for (const cell of RANDOM_CELLS) {
    let [low, high] = [SPEEDS.min, SPEEDS.max];
    let best: TraceSetting = { speed: low, stallShareP99: null };
    for (let round_ = 0; round_ < SPEEDS.rounds; round_++) {
      const speed = round(Math.sqrt(low * high));
      const share = await stallOnTrace(
        cell,
        file,
        { type: 'trace', path: tracePath, limit: scale.traceRequests, speed },
        threads,
      );
      say(`Azure trace, ${cell.scenario}: ${figure(speed)} times its speed: stall share ${percent(share)}\n`);
      const off = (one: number | null) => Math.abs((one ?? 0) - STALL_SHARE_TARGET);
      if (off(share) < off(best.stallShareP99)) best = { speed, stallShareP99: round(share) };
      if (off(share) <= TOLERANCE) break;
      if (share > STALL_SHARE_TARGET) high = speed;
      else low = speed;
    }
    trace[cell.scenario] = best;
  }
  return { trace };
}

async function stallOnTrace(
  cell: Cell,
  file: Calibration,
  load: { type: 'trace'; path: string; limit: number; speed: number },
  threads: number,
): Promise<number> {
  const shares: number[] = [];
  const job = { ...caseOf(file, cell, BASELINE, { conversations: 0, load }) };
  const jobs = [1, 2].map((seed) => ({ ...job, seed }));
  await runJobs(jobs, { threads, onProgress: () => {}, onResult: (_, { stallShareP99 }) => shares.push(stallShareP99) });
  return bandOf(shares).mean;
}
