/**
 * The paper's evaluation, rebuilt: runs presets in virtual time, measures our own overhead, and writes a report with
 * pictures.
 *
 *   npm run paper -- [--quick] [--seeds N] [--only NAMES] [--out DIR] [--calibrate] [--help]
 */
import { readCalibration } from '../../src/simulation/calibrate.js';
import { runCalibration } from './calibration.js';
import { type Case, codeVersion } from './cases.js';
import type { Calibration, Experiment, Lab } from './experiment.js';
import { ablation } from './experiments/ablation.js';
import { breakdown } from './experiments/breakdown.js';
import { copies } from './experiments/copies.js';
import { efficiency } from './experiments/efficiency.js';
import { frequency } from './experiments/frequency.js';
import { groups } from './experiments/groups.js';
import { host } from './experiments/host.js';
import { noise } from './experiments/noise.js';
import { overhead } from './experiments/overhead.js';
import { reuse } from './experiments/reuse.js';
import { rivals } from './experiments/rivals.js';
import { speed } from './experiments/speed.js';
import { tails } from './experiments/tails.js';
import { firstReading, secondReading } from './lab.js';
import { type PaperOptions, readOptions } from './options.js';
import { writeReport } from './report.js';
import { readRunLengths } from './run-lengths.js';
import { Runs } from './runs.js';

const EXPERIMENTS: readonly Experiment[] = [
  copies,
  breakdown,
  tails,
  frequency,
  ablation,
  efficiency,
  reuse,
  groups,
  overhead,
  host,
  rivals,
  noise,
  speed,
];

/** Everything that happens on the way, for people: on a terminal one line, else a line now and then. */
class Progress {
  readonly #every = process.stderr.isTTY ? 1000 : 15_000;
  #shownAt = Number.NEGATIVE_INFINITY;

  line(text: string): void {
    process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${text}\n` : `${text}\n`);
  }

  update(text: string): void {
    const now = performance.now();
    if (now - this.#shownAt < this.#every) return;
    this.#shownAt = now;
    process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${text}` : `${text}\n`);
  }
}

function chosen({ only }: PaperOptions): readonly Experiment[] {
  if (only === null) return EXPERIMENTS;
  const names = EXPERIMENTS.map(({ name }) => name);
  const unknown = only.find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`no experiment "${unknown}"; there are ${names.join(', ')}`);
  return EXPERIMENTS.filter(({ name }) => only.includes(name));
}

async function report(options: PaperOptions, progress: Progress): Promise<void> {
  const experiments = chosen(options);
  const started = performance.now();
  const { scale, tracePath, threads } = options;
  const calibration: Calibration = readCalibration();
  const wantsLengths = experiments.includes(groups);
  const runLengths = wantsLengths ? await readRunLengths(scale.quick) : null;
  const lab = { scale, calibration, tracePath, runLengths };
  const version = codeVersion();
  const cases: Case[] = [];
  const read = (reading: Lab) => experiments.map((experiment) => ({ experiment, section: experiment.write(reading) }));
  read(firstReading(lab, (one) => cases.push(one)));
  const runs = new Runs(options.cache, version);
  await runs.make(cases, { seeds: scale.seeds, threads, onProgress: (line) => progress.update(line) });
  const written = read(secondReading(lab, runs, (name) => progress.update(`paper: ${name}`)));
  const facts = {
    scale,
    calibration,
    date: options.date,
    codeVersion: version,
    partial: experiments.length < EXPERIMENTS.length,
  };
  const files = writeReport(options.out, written, facts);
  const seconds = Math.round((performance.now() - started) / 1000);
  progress.line(`paper: ${runs.made} runs made, ${files.length} files written to ${options.out}, ${seconds} s`);
}

const options = readOptions(process.argv.slice(2));
const progress = new Progress();
if (typeof options === 'string') process.stdout.write(options);
else if (options.calibrate) await runCalibration(options, (line) => progress.line(line.trimEnd()));
else await report(options, progress);
