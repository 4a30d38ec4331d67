/** The flags of `simulate`: reading, help, and errors that say what would be right. */
import { PRESET_NAMES } from '../core/presets.js';
import { type Flag, flagLines, readFlags as readTable } from '../flags.js';

export const FLAGS = {
  scenario: {
    value: 'NAME|PATH',
    about: 'Machine and model: llama8b-a10, qwen32b-a100, or a JSON file like theirs. Default llama8b-a10.',
  },
  pattern: { value: 'NAME', about: 'How priorities change: random, markov or none. Default random, with --trace none.' },
  preset: { value: 'NAME', about: 'What is compared; "all" is all of them. Default default.' },
  policy: {
    value: 'NAME',
    about:
      'Who goes first: fcfs, priority, vtc, fair, mlfq or edf. Default priority where a pattern is on (but mlfq and vtc stay where they are the point of the preset), else that of the preset.',
  },
  seeds: { value: 'N', about: 'Runs of each, with the seeds 1 to N. Default 1.' },
  conversations: { value: 'N', about: 'Conversations that arrive. Default 1000.' },
  rate: { value: 'R', about: 'Conversations that start in a second. Default from the calibration.' },
  think: { value: 'S', about: 'Mean seconds between an answer and the next turn. Default from the calibration.' },
  phi: { value: 'P', about: 'Share of conversations that an update reshuffles, 0 to 1. Default from the calibration.' },
  frequency: { value: 'F', about: 'Updates of the priorities for each step, above 0 to 1. Default from the calibration.' },
  'host-blocks': { value: 'N', about: 'Host memory, in blocks of 16 tokens. Default from the scenario.' },
  'device-blocks': { value: 'N', about: 'Device memory, in blocks of 16 tokens. Default from the scenario.' },
  noise: { value: 'D', about: 'Relative standard deviation of steps and copies around the cost model. Default 0.05.' },
  trace: {
    value: 'FILE',
    about: 'Recorded arrivals instead of conversations: Azure CSV, or JSON lines as Mooncake writes them.',
  },
  limit: { value: 'N', about: 'Most requests taken from the trace. Default all.' },
  speed: { value: 'X', about: 'Arrivals of the trace come X times faster. Default 1.' },
  out: { value: 'DIR', about: 'Folder for a JSON file of each preset, scenario and pattern, and for summary.md.' },
  journal: { value: 'FILE', about: 'Record the run, of which there may be only one, for "fastswitch replay"; FILE is replaced.' },
  threads: { value: 'N', about: 'Most runs at a time. Default the cores of this machine.' },
  json: { value: null, about: 'Print one JSON object a line for each preset, not a table.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;

export type FlagName = keyof typeof FLAGS;

/** The last value of each flag that was given; of a flag without value the empty text. Throws FastswitchError `bad_config`. */
export function readFlags(argv: readonly string[]): ReadonlyMap<FlagName, string> {
  const { values } = readTable<FlagName>(argv, FLAGS);
  return new Map([...values].map(([name, texts]) => [name, texts.at(-1) as string]));
}

const INDENT = 26;

/** What every flag does; at most 100 columns. */
export function simulateHelp(): string {
  const lines = [
    'fastswitch simulate [flags]',
    '',
    'Runs presets on a simulated machine, in virtual time, with the core and the charts that serve.',
    '--scenario, --pattern and --preset take several, with commas between them; each is run with each.',
    '',
  ];
  lines.push(...flagLines(FLAGS, INDENT));
  lines.push('', `Presets: ${PRESET_NAMES.join(', ')};`);
  lines.push('with changes as in vllm-0.3+groups, default-mirror, fastswitch+waits=sync.', '');
  return lines.join('\n');
}
