/** The flags of `simulate`: reading, help, and errors that say what would be right. */
import { parseArgs } from 'node:util';
import { PRESET_NAMES } from '../core/presets.js';
import { FastswitchError } from '../errors.js';
import { suggestion, wrap } from '../flags.js';

interface Flag {
  /** What stands for its value in the help; null: it takes none. */
  readonly value: string | null;
  readonly about: string;
}

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
      'Who goes first: fcfs, priority, vtc or mlfq. Default priority where a pattern is on (but mlfq and vtc stay where they are the point of the preset), else that of the preset.',
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
  threads: { value: 'N', about: 'Most runs at a time. Default the cores of this machine.' },
  json: { value: null, about: 'Print one JSON object a line for each preset, not a table.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;

export type FlagName = keyof typeof FLAGS;
const NAMES = Object.keys(FLAGS) as readonly FlagName[];
const flagOf = (name: FlagName): Flag => FLAGS[name];

/** The values that were given; of a flag without value the empty text. Throws FastswitchError `bad_config`. */
export function readFlags(argv: readonly string[]): ReadonlyMap<FlagName, string> {
  const options = Object.fromEntries(
    NAMES.map((name) => [name, { type: flagOf(name).value === null ? ('boolean' as const) : ('string' as const) }]),
  );
  const { tokens } = parseArgs({ args: [...argv], strict: false, tokens: true, allowPositionals: true, options });
  const given = new Map<FlagName, string>();
  for (const token of tokens) {
    if (token.kind === 'positional') throw badFlag(`unexpected argument "${token.value}": every option is a flag, see --help`);
    if (token.kind !== 'option') continue;
    const name = NAMES.find((candidate) => candidate === token.name || (candidate === 'help' && token.name === 'h'));
    if (name === undefined) throw badFlag(`unknown flag ${token.rawName}${suggestion(token.name, NAMES, (flag) => `--${flag}`)}`);
    const takesValue = flagOf(name).value !== null;
    if (!takesValue && token.value !== undefined) throw badFlag(`${token.rawName} takes no value`);
    if (takesValue && (token.value === undefined || (!token.inlineValue && token.value.startsWith('--')))) {
      throw badFlag(`${token.rawName} needs a value: ${token.rawName} VALUE or ${token.rawName}=VALUE`);
    }
    given.set(name, token.value ?? '');
  }
  return given;
}

export function badFlag(message: string): FastswitchError {
  return new FastswitchError('bad_config', message);
}

const COLUMNS = 100;
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
  for (const name of NAMES) {
    const { value, about } = flagOf(name);
    const left = `  --${name}${value === null ? '' : ` ${value}`}`;
    const [first = '', ...rest] = wrap(about, COLUMNS - INDENT);
    lines.push(left.padEnd(INDENT) + first, ...rest.map((line) => ' '.repeat(INDENT) + line));
  }
  lines.push('', `Presets: ${PRESET_NAMES.join(', ')};`);
  lines.push('with changes as in vllm-0.3+groups, default-mirror, fastswitch+waits=sync.', '');
  return lines.join('\n');
}
