/** The report: a summary first, then a section for each experiment, with its pictures beside it. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DECISIONS } from '../../src/core/config.js';
import { settingOf } from '../../src/simulation/calibrate.js';
import { CELLS, cellName } from './cases.js';
import type { Calibration, Experiment, Scale, Section } from './experiment.js';
import { render } from './plots.js';
import { figure, findingLines, percent, table } from './words.js';

export interface Written {
  readonly experiment: Experiment;
  readonly section: Section;
}

export interface Facts {
  readonly scale: Scale;
  readonly calibration: Calibration;
  readonly date: string;
  readonly codeVersion: string;
  /** Some experiments were left out. */
  readonly partial: boolean;
}

/** Writes `README.md` and the pictures; answers what was written. */
export function writeReport(folder: string, written: readonly Written[], facts: Facts): readonly string[] {
  mkdirSync(folder, { recursive: true });
  const files: string[] = [];
  const keep = (file: string, text: string) => {
    writeFileSync(join(folder, file), text);
    files.push(file);
  };
  for (const { section } of written) {
    for (const part of section.body) if (typeof part !== 'string') keep(`${part.file}.svg`, render(part.chart));
  }
  keep('README.md', `${[...opening(facts), summary(written), ...written.map(sectionText), ...limits()].join('\n\n')}\n`);
  return files;
}

function opening(facts: Facts): string[] {
  const { scale, date, codeVersion, partial } = facts;
  return [
    '# Evaluation',
    ...(scale.quick ? ['**A quick run, made to see that the report works. Its numbers mean nothing.**'] : []),
    ...(partial ? ['Part of the report: other experiments were left out of this run.'] : []),
    "The experiments of *FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware LLM Serving* (Shen, Li, Gao, arXiv 2411.18424), rebuilt in virtual time, and what goes beyond them. The scheduler, actors and charts are those that serve; only steps and copies are simulated, by a cost model of the paper's machines with a seeded error around it. No GPU was used. Absolute times are those of the model; ratios between presets are what to read.",
    'Tags: **[F]** found in a text that describes the paper; **[R]** remembered from secondary summaries, unverified; a dash where nothing was published. Values are means over the seeds with the least and the greatest behind them; ratios are taken seed by seed (geometric mean, least and greatest), more than 1x is better for the first named. Percentiles are exact, over all requests or tokens or iterations of a run.',
    `Written on ${date} by \`npm run paper\` with ${scale.seeds === 1 ? 'one seed' : `${scale.seeds} seeds`}, ${scale.conversations} conversations in the main tables and ${scale.sweepConversations} in sweeps and ablations; decisions of version ${DECISIONS}, code ${codeVersion}.`,
    '## Calibration',
    ...calibrationText(facts),
    '## Summary',
  ];
}

function calibrationText({ calibration }: Facts): string[] {
  const state =
    calibration.date === null
      ? 'The load has **not been calibrated**: the values are first guesses.'
      : `Tuned on ${calibration.date}, seeds from ${calibration.seed} on, on \`${calibration.preset}\` alone; reached ${percent(calibration.stallShareP99 ?? 0)} on average. Then frozen: every other run of this report uses it as it is, and nothing was tuned on a variant.`;
  return [
    'The paper does not publish everything that its load is made of. What is open (how much an update of the priorities reshuffles, and where that does not suffice the arrival rate) is tuned until stalls are 60 % of the iterations of vllm-0.3 at and above P99, which is the one published anchor (59.9 % [F]). Hardware constants are not tuned.',
    state,
    table(
      ['scenario, pattern', 'conversations/s', 'think s', 'phi', 'updates per iteration', 'stay', 'hot share'],
      CELLS.map((cell) => {
        const { conversationsPerSecond, thinkSeconds, pattern } = settingOf(calibration, cell.scenario, cell.pattern);
        const markov = pattern.type === 'markov' ? [figure(pattern.stay), figure(pattern.hotShare)] : ['', ''];
        const { phi, frequency } = pattern.type === 'none' ? { phi: 0, frequency: 0 } : pattern;
        return [cellName(cell), figure(conversationsPerSecond), figure(thinkSeconds), figure(phi), String(frequency), ...markov];
      }),
    ),
    'What was tried on the way is in `src/simulation/calibration.json`.',
  ];
}

function summary(written: readonly Written[]): string {
  return table(
    ['what', 'published', 'ours', 'verdict'],
    written.flatMap(({ experiment, section }, k) =>
      section.findings.map(({ what, published, ours, verdict }, index) => [
        `${index === 0 ? `[${k + 1}](#${anchor(heading(experiment, k))}) ` : ''}${what}`,
        published,
        ours,
        verdict,
      ]),
    ),
    4,
  );
}

function heading({ title }: Experiment, index: number): string {
  return `${index + 1}. ${title}`;
}

/** As the hosts of Markdown make it from a heading. */
function anchor(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/[^\w\s-]/g, '')
    .replaceAll(' ', '-');
}

function sectionText({ experiment, section }: Written, index: number): string {
  return [
    `## ${heading(experiment, index)}`,
    section.findings.map(findingLines).join('\n'),
    ...section.body.map((part) => (typeof part === 'string' ? part : `![${part.chart.title}](${part.file}.svg)`)),
  ].join('\n\n');
}

function limits(): string[] {
  return [
    '## What this does not show',
    [
      '- The machine is a model: a roofline for steps, dispatch or bandwidth for copies, independent errors around them. It has no other users, no page faults, no driver queues, and copies disturb steps only by the memory traffic that they cause.',
      '- Presets of other systems are their swapping, batching and ordering on our core, as far as switches describe them, without their kernels and without what they have besides. They are not measurements of those systems.',
      '- Lengths of turns are drawn from distributions with published means, because the lengths of the paper are not published.',
      '- Tails of a run depend strongly on its load: other arrival rates move the ratios by more than the seeds do.',
    ].join('\n'),
  ];
}
