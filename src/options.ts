/**
 * Flags, environment and file -> one frozen Config. One table names every option; it drives parsing, help and the
 * printed configuration. Which values are possible is in `core/config.ts`.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  CHOICES,
  type ChoiceKey,
  type Config,
  type ConfigProblem,
  checkConfig,
  DEFAULTS,
  type NumberKey,
  presetOf,
  RANGES,
} from './core/config.js';
import { PRESET_NAMES, PRESETS } from './core/presets.js';
import { FastswitchError } from './errors.js';
import { formatSize, parseSize, SIZES, suggestion, wrap } from './flags.js';
import { packageRoot } from './native/index.js';

/** Flags that are about the command line itself and no part of the configuration. */
const CONFIG_FLAG = 'config';
const SWITCHES = { help: 'Show this text.', version: 'Show the version.' } as const;

/** What each key of the configuration is for, in the order of the help. */
const GROUPS: Readonly<Record<string, Readonly<Partial<Record<keyof Config, string>>>>> = {
  Model: {
    model: 'Folder of a Hugging Face checkpoint (Llama, Mistral, Qwen2, Qwen3).',
    servedModelName: "Name under which clients ask for it; empty: the folder's name.",
    maxContext: 'Most tokens of prompt and completion together; 0: what the model was made for.',
    load: "dummy: random weights of the model's shape; only config.json and the tokenizer's files are read.",
    quantize: 'Hold the weights as they are, or in 8 bits (on the CPU).',
    kvDtype: 'Number format of the KV cache; auto: chosen by the engine; a GPU has bf16.',
  },
  Memory: {
    deviceKvBytes: 'Device memory for the KV cache of running requests.',
    hostKvBytes: 'Host memory for the KV cache of preempted requests and of finished ones; 0: it is computed again.',
  },
  Scheduling: {
    preset: 'How KV is allocated, moved and kept; the presets are listed below.',
    policy:
      "Who goes first: fcfs by arrival, priority by what requests bring, vtc and fair by what the tenant has had (fair also preempts), mlfq by how long it has run, edf by deadlines; auto: the preset's own.",
    maxBatchTokens: 'Most tokens computed in one step; more: better throughput, longer steps.',
    maxRunning: 'Most requests in one step.',
    maxQueued: 'Most requests that wait, queued or preempted, before new ones get 429.',
    seed: 'Seed of requests that bring none.',
  },
  Machine: {
    device: 'What computes: cpu, cuda (the first GPU) or cuda:N; auto: the first GPU that can be used, else the CPU.',
    batchInvariant: 'On a GPU: tokens bit for bit the same whatever is computed beside. The CPU always does that.',
    threads: 'Compute threads of the CPU engine; 0: all cores.',
    swapThreads: 'Threads that copy between device and host.',
    isa: 'Instruction set of the CPU engine; auto: the best there is.',
  },
  HTTP: {
    host: 'Address to listen on.',
    port: 'Port to listen on; 0: any free one.',
    tenants:
      'JSON file of the tenants and their keys ("fastswitch keys" makes them), read again on SIGHUP; empty: no keys, one anonymous tenant.',
    allowedHosts:
      'More names under which a server of loopback without keys, and the board, may be reached, with commas between; addresses, localhost and --host always may.',
    insecure: 'Listen on more than loopback although there are no keys: whoever reaches the port may use it.',
    privateMetrics: 'With keys: GET /metrics needs one, too, of a tenant with "admin" or "metrics".',
    bodyLimitBytes: 'Largest request body.',
    stallSeconds: 'A stream whose client reads nothing for this long is aborted.',
    drainSeconds: 'After SIGTERM running requests may finish for this long.',
    admin: 'Whoever reaches the board (/board) may change priorities, abort requests and drain the server.',
    logLevel: 'What is logged.',
  },
  Recording: {
    journal:
      'Folder for the journal: what came from outside, when, and a digest of what was decided on it, for "fastswitch replay". Lengths and times, no prompts and no answers; empty: none.',
    journalContent: 'Put the token ids of prompts and answers into the journal, too.',
    journalSegmentBytes: 'A file of the journal that is so long is followed by another.',
  },
};

type Kind = 'path' | 'dir' | 'file' | 'text' | 'preset' | 'choice' | 'switch' | 'size' | 'seconds' | 'integer';

interface Option {
  readonly key: keyof Config;
  readonly flag: string;
  readonly kind: Kind;
  readonly about: string;
  readonly group: string;
}

const OPTIONS: readonly Option[] = Object.entries(GROUPS).flatMap(([group, abouts]) =>
  (Object.entries(abouts) as [keyof Config, string][]).map(([key, about]) => ({
    key,
    flag: flagOf(key),
    kind: kindOf(key),
    about,
    group,
  })),
);

const CONFIG_FLAGS: readonly string[] = OPTIONS.map(({ flag }) => flag);
/** All that can be given in the environment. */
const GIVEN_FLAGS: readonly string[] = [CONFIG_FLAG, ...CONFIG_FLAGS];
/** Those that stand alone on the command line. */
const CONFIG_SWITCHES: readonly string[] = OPTIONS.filter(({ kind }) => kind === 'switch').map(({ flag }) => flag);

/** `deviceKvBytes` -> `device-kv`: a size is written with its own unit. */
function flagOf(key: keyof Config): string {
  return key.replace(/Bytes$/, '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function kindOf(key: keyof Config): Kind {
  if (key === 'model') return 'path';
  if (key === 'journal') return 'dir';
  if (key === 'tenants') return 'file';
  if (key === 'preset') return 'preset';
  if (typeof DEFAULTS[key as keyof typeof DEFAULTS] === 'boolean') return 'switch';
  if (key in CHOICES) return 'choice';
  if (!(key in RANGES)) return 'text';
  if (key.endsWith('Bytes')) return 'size';
  return key.endsWith('Seconds') ? 'seconds' : 'integer';
}

/** Where a value came from. */
type Source = 'flag' | 'environment' | 'file' | 'default';

/** `show`: what to print instead of serving; null: serve with `config`. */
export type Options =
  | { readonly show: 'help' }
  | { readonly show: 'version' }
  | { readonly show: null; readonly config: Config; readonly sources: Readonly<Record<keyof Config, Source>> };

type Environment = Readonly<Record<string, string | undefined>>;

/** What was given, and where, in the words of the one who gave it. */
interface Given {
  readonly value: string | number | boolean;
  readonly source: Source;
  readonly name: string;
}

/**
 * Reads the flags of `serve` (argv after the command), FASTSWITCH_ variables and the file of `--config`; the first of
 * them that names an option decides. Throws FastswitchError `bad_config` that names what is wrong and what is allowed.
 */
export function parseOptions(argv: readonly string[], environment: Environment): Options {
  const flags = readFlags(argv);
  for (const show of Object.keys(SWITCHES) as (keyof typeof SWITCHES)[]) if (flags.has(show)) return { show };
  const variables = readEnvironment(environment);
  const path = (flags.get(CONFIG_FLAG) ?? variables.get(CONFIG_FLAG))?.value;
  const entries = path === undefined ? new Map<string, Given>() : readFile(String(path));
  const values: Record<string, unknown> = { ...DEFAULTS, model: join(packageRoot(), 'models', 'demo') };
  const sources: Record<string, Source> = {};
  const names = new Map<keyof Config, string>();
  for (const option of OPTIONS) {
    const given = flags.get(option.flag) ?? variables.get(option.flag) ?? entries.get(option.flag);
    sources[option.key] = given?.source ?? 'default';
    names.set(option.key, given?.name ?? `--${option.flag}`);
    if (given !== undefined) values[option.key] = parseValue(option, given);
  }
  const config = Object.freeze(values) as unknown as Config;
  const problem = checkConfig(config);
  if (problem !== null) throw badConfig(describeProblem(problem, config, names));
  return { show: null, config, sources: sources as Record<keyof Config, Source> };
}

function badConfig(message: string): FastswitchError {
  return new FastswitchError('bad_config', message);
}

function readFlags(argv: readonly string[]): Map<string, Given> {
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false,
    tokens: true,
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      version: { type: 'boolean' },
      ...Object.fromEntries(
        GIVEN_FLAGS.map((flag) => [flag, { type: CONFIG_SWITCHES.includes(flag) ? ('boolean' as const) : ('string' as const) }]),
      ),
    },
  });
  const flags = new Map<string, Given>();
  for (const token of tokens) {
    if (token.kind === 'positional') throw badConfig(`unexpected argument "${token.value}": every option is a flag, see --help`);
    if (token.kind !== 'option') continue;
    if (Object.hasOwn(SWITCHES, token.name)) flags.set(token.name, { value: '', source: 'flag', name: token.rawName });
    else if (!GIVEN_FLAGS.includes(token.name))
      throw badConfig(`unknown flag ${token.rawName}${suggestion(token.name, GIVEN_FLAGS, (flag) => `--${flag}`)}`);
    else if (CONFIG_SWITCHES.includes(token.name)) {
      if (token.value !== undefined) throw badConfig(`${token.rawName} takes no value: leave it out to switch it off`);
      flags.set(token.name, { value: true, source: 'flag', name: token.rawName });
    } else if (token.value === undefined || (!token.inlineValue && token.value.startsWith('--'))) {
      throw badConfig(`${token.rawName} needs a value: ${token.rawName} VALUE or ${token.rawName}=VALUE`);
    } else flags.set(token.name, { value: token.value, source: 'flag', name: token.rawName });
  }
  return flags;
}

const PREFIX = 'FASTSWITCH_';
/** The variables of the test suite and of its stand-in for a GPU, which a server under test inherits. */
const TEST_VARIABLES = /^FASTSWITCH_(TEST|STANDIN)_/;
/** Read by the build and by the native addon: where NVIDIA's libraries and the kernels lie. */
const NATIVE_VARIABLES: readonly string[] = [
  'FASTSWITCH_CUDA',
  'FASTSWITCH_LIBCUDA',
  'FASTSWITCH_CUBLASLT',
  'FASTSWITCH_CUDA_KERNELS',
];

function variableOf(flag: string): string {
  return PREFIX + flag.toUpperCase().replaceAll('-', '_');
}

function readEnvironment(environment: Environment): Map<string, Given> {
  const flags = new Map(GIVEN_FLAGS.map((flag) => [variableOf(flag), flag]));
  const variables = new Map<string, Given>();
  for (const [name, value] of Object.entries(environment)) {
    if (!name.startsWith(PREFIX) || TEST_VARIABLES.test(name) || NATIVE_VARIABLES.includes(name)) continue;
    const flag = flags.get(name);
    if (flag === undefined)
      throw badConfig(`unknown variable ${name}${suggestion(name.slice(PREFIX.length), GIVEN_FLAGS, variableOf)}`);
    // Container files can declare a variable but not leave it out: empty means not given.
    if (value !== undefined && value !== '') variables.set(flag, { value, source: 'environment', name });
  }
  return variables;
}

function readFile(path: string): Map<string, Given> {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw badConfig(`--config ${path} cannot be read: ${(error as Error).message}`);
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw badConfig(`--config ${path} is not a JSON object; allowed is { "port": 8080, "device-kv": "1GiB", ... }`);
  }
  const entries = new Map<string, Given>();
  for (const [key, value] of Object.entries(content)) {
    const option = OPTIONS.find(({ flag }) => flag === key);
    if (option === undefined)
      throw badConfig(`unknown key "${key}" in ${path}${suggestion(key, CONFIG_FLAGS, (flag) => `"${flag}"`)}`);
    const name = `"${key}" in ${path}`;
    const own = option.kind === 'switch' ? 'boolean' : option.key in RANGES ? 'number' : 'string';
    if (typeof value !== 'string' && typeof value !== own) {
      throw badConfig(`${name} is ${JSON.stringify(value)}; allowed is ${allowed(option)}`);
    }
    entries.set(key, { value, source: 'file', name });
  }
  return entries;
}

function parseValue(option: Option, { value, name }: Given): string | number | boolean {
  const parsed = parseKind(option, String(value));
  if (parsed === null) throw badConfig(`${name} is ${JSON.stringify(value)}; allowed is ${allowed(option)}`);
  return parsed;
}

/** The value of an option from its text; null where the text is not of its kind. */
function parseKind(option: Option, text: string): string | number | boolean | null {
  switch (option.kind) {
    case 'path':
      return text === '' ? null : resolve(text);
    case 'dir':
    case 'file':
      return text === '' ? '' : resolve(text);
    case 'switch':
      return text === 'true' ? true : text === 'false' ? false : null;
    case 'text':
    case 'preset':
      return text;
    case 'choice':
      return choicesOf(option.key).includes(text) ? text : null;
    case 'size':
      return parseSize(text);
    case 'integer':
      return /^-?\d+$/.test(text) ? Number(text) : null;
    case 'seconds':
      return /^\d+(\.\d+)?$/.test(text) ? Number(text) : null;
  }
}

/** What an option accepts, in words. */
function allowed({ key, kind }: Option): string {
  if (kind === 'path') return 'a path';
  if (kind === 'dir' || kind === 'file') return `a ${kind === 'dir' ? 'folder' : 'file'}, or "" for none`;
  if (kind === 'switch') return 'true or false';
  if (key === 'device') return 'auto, cpu, cuda or cuda:N, with the number of a GPU ("fastswitch devices" lists them)';
  if (key === 'allowedHosts')
    return 'names with commas between, such as llm.example.org,box.lan, without patterns, or "" for none';
  if (kind === 'text') return 'a text';
  if (kind === 'preset') return `one of ${PRESET_NAMES.join(', ')}, or one with changes, see --help`;
  if (kind === 'choice') return `one of ${choicesOf(key).join(', ')}`;
  const { min, max } = RANGES[key as NumberKey];
  const show = kind === 'size' ? formatSize : String;
  const noun = { size: `a size (${SIZES})`, integer: 'an integer', seconds: 'a number of seconds' }[kind];
  return max === Number.MAX_SAFE_INTEGER ? `${noun}, at least ${show(min)}` : `${noun}, ${show(min)} to ${show(max)}`;
}

function choicesOf(key: keyof Config): readonly string[] {
  return CHOICES[key as ChoiceKey];
}

function describeProblem(problem: ConfigProblem, config: Config, names: ReadonlyMap<keyof Config, string>): string {
  const name = names.get(problem.key);
  if (problem.type === 'preset') return `${name}: ${problem.message}`;
  const option = OPTIONS.find(({ key }) => key === problem.key) as Option;
  const value = formatValue(option, config);
  if (problem.type === 'cpuOnly') {
    return `${name} is ${value}, which only the CPU engine has; leave it out, or choose --device cpu instead of ${config.device}`;
  }
  if (problem.type === 'range' || problem.type === 'device' || problem.type === 'names')
    return `${name} is ${value}; allowed is ${allowed(option)}`;
  const other = `${names.get(problem.atLeast)} (${config[problem.atLeast]})`;
  return `${name} is ${value}; allowed is at least ${other}: ${problem.because}`;
}

function formatValue({ key, kind }: Option, config: Config): string {
  const value = config[key];
  if (kind === 'size') return formatSize(value as number);
  return value === '' ? '""' : String(value);
}

/** The configuration, an option per line: name, value, and where it came from unless it is the default. */
export function printConfig({ config, sources }: Extract<Options, { show: null }>): string {
  const lines = OPTIONS.map((option) => {
    const own = option.key === 'policy' && config.policy === 'auto' ? ` (${presetOf(config).policy})` : '';
    return `  ${option.flag.padEnd(18)} ${(formatValue(option, config) + own).padEnd(24)} ${sources[option.key]}`;
  });
  return lines.join('\n');
}

const COLUMNS = 100;
const INDENT = 34;

/** What every flag does, with its values, default and variable; at most 100 columns. */
export function helpText(): string {
  const lines = ['fastswitch serve [flags]', '', 'Most specific first: flag, FASTSWITCH_ variable, file of --config, default.'];
  const example = { ...DEFAULTS, model: 'models/demo of the package' };
  for (const [position, option] of OPTIONS.entries()) {
    if (option.group !== OPTIONS[position - 1]?.group) lines.push('', option.group);
    const value = option.kind === 'choice' ? choicesOf(option.key).join('|') : option.kind.toUpperCase();
    const more = `Default ${formatValue(option, example)}; ${variableOf(option.flag)}.`;
    lines.push(...entry(option.kind === 'switch' ? `--${option.flag}` : `--${option.flag} ${value}`, option.about, more));
  }
  lines.push('', 'Command line');
  lines.push(
    ...entry(
      '--config PATH',
      'JSON object of flag names, without the dashes in front, and values.',
      `${variableOf(CONFIG_FLAG)}.`,
    ),
  );
  for (const [flag, about] of Object.entries(SWITCHES)) lines.push(...entry(`--${flag}`, about));
  lines.push(...presetLines(), '', `SIZE is ${SIZES}.`, '');
  return lines.join('\n');
}

/** What PRESET can be. */
function presetLines(): string[] {
  return [
    '',
    'PRESET is one of',
    ...PRESET_NAMES.flatMap((name) => {
      const { about, mechanism } = PRESETS[name];
      // How others copy is a cost term, which only the simulated hands know.
      return mechanism.copying === 'direct' ? entry(name, about) : entry(name, about, 'Simulation only.');
    }),
    ...entry(
      'or one with changes',
      'NAME+switch, NAME-switch or NAME+switch=value, as in vllm-0.3+groups, default-mirror, or fastswitch+waits=sync+growthReserveBlocks=0.',
      `Switches: ${Object.keys(PRESETS.default.mechanism).join(', ')}.`,
    ),
  ];
}

/** The flag on the left, each text on lines of its own on the right. */
function entry(left: string, ...texts: string[]): string[] {
  const [first = '', ...rest] = texts.flatMap((text) => wrap(text, COLUMNS - INDENT).map((words) => ' '.repeat(INDENT) + words));
  const start = `  ${left}`;
  if (start.length >= INDENT) return [start, first, ...rest];
  return [start + first.slice(start.length), ...rest];
}

/** The package's version, as in `0.1.0`. */
export function version(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;
}
