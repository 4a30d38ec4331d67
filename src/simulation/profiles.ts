/**
 * Scenarios: a model on a machine with its memory, as small JSON files in the units of data sheets. Two are shipped in
 * `profiles/`; a user writes one for an own GPU after their example.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BLOCK_TOKENS } from '../core/config.js';
import type { HardwareProfile } from '../core/cost.js';
import { FastswitchError } from '../errors.js';

export interface Scenario {
  readonly name: string;
  readonly model: string;
  readonly gpu: string;
  readonly profile: HardwareProfile;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  /** Most tokens of prompt and completion together: the model's context, or the device's memory if that is less. */
  readonly contextTokensMax: number;
  readonly maxRunning: number;
  readonly maxBatchTokens: number;
}

/** Both ends are allowed; `above` is not. */
interface NumberField {
  readonly integer: boolean;
  readonly above: number | null;
  readonly min: number;
  readonly max: number;
}

const LARGEST = 2 ** 31;
const positive: NumberField = { integer: false, above: 0, min: 0, max: LARGEST };
const atLeastZero: NumberField = { integer: false, above: null, min: 0, max: LARGEST };
const share: NumberField = { integer: false, above: 0, min: 0, max: 1 };
const count: NumberField = { integer: true, above: null, min: 1, max: LARGEST };

/** Every number of a file; all are required except `blockTokens`. Units are in the names, GB and TFLOPS are decimal. */
const NUMBERS = {
  weightGiB: positive,
  kvKiBPerToken: positive,
  layers: count,
  /** Of the device's memory, and the share of it that is reached. */
  memoryGBps: positive,
  memoryEfficiency: share,
  /** Of the device's arithmetic at the precision of the weights, and the share of it that is reached. */
  peakTflops: positive,
  mfu: share,
  stepMicros: atLeastZero,
  sequenceMicros: atLeastZero,
  eagerMicros: atLeastZero,
  /** Sustained, one way. */
  linkGBps: positive,
  duplexShare: share,
  dispatchMicros: atLeastZero,
  copyMicros: atLeastZero,
  stagingMiB: positive,
  deviceBlocks: count,
  hostBlocks: { ...count, min: 0 },
  blockTokens: { ...count, min: BLOCK_TOKENS, max: BLOCK_TOKENS },
  contextTokensMax: { ...count, min: 2 },
  maxRunning: count,
  maxBatchTokens: count,
} as const satisfies Readonly<Record<string, NumberField>>;

type NumberKey = keyof typeof NUMBERS;
const TEXTS = ['name', 'model', 'gpu'] as const;
/** For the reader of the file only. */
const REMARKS = ['comment', 'sources'];
const KNOWN: readonly string[] = [...TEXTS, ...REMARKS, ...Object.keys(NUMBERS)];

const BYTES_PER_GIB = 2 ** 30;
/** 1 GB/s is 1,000 bytes a microsecond. */
const BYTES_PER_MICRO = 1e3;
/** 1 TFLOPS is a million operations a microsecond. */
const OPERATIONS_PER_MICRO = 1e6;

/**
 * A folder of this room, from sources and from compiled files alike: the compiler leaves JSON where it is, so the files
 * are looked for beside the sources, in the first folder upwards that has them.
 */
export function dataFolder(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; folder !== dirname(folder); folder = dirname(folder)) {
    const candidate = join(folder, 'src', 'simulation');
    if (existsSync(join(candidate, 'profiles'))) return candidate;
  }
  throw new FastswitchError(
    'bad_config',
    `the folder src/simulation/profiles is missing above ${start}; install the package anew`,
  );
}

/** The names of the shipped scenarios. */
export function scenarioNames(): readonly string[] {
  const files = readdirSync(join(dataFolder(), 'profiles')).filter((file) => file.endsWith('.json'));
  return files.map((file) => file.slice(0, -'.json'.length)).sort();
}

/**
 * A shipped scenario by its name, or the one in a file.
 * @throws FastswitchError `bad_config` that names the file, the field and what is allowed.
 */
export function loadScenario(nameOrPath: string): Scenario {
  const shipped = scenarioNames();
  if (shipped.includes(nameOrPath)) return readScenario(join(dataFolder(), 'profiles', `${nameOrPath}.json`));
  if (nameOrPath.endsWith('.json')) return readScenario(nameOrPath);
  throw new FastswitchError(
    'bad_config',
    `no scenario "${nameOrPath}"; there are ${shipped.join(', ')}, or give the path of a .json file like them`,
  );
}

function readScenario(path: string): Scenario {
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new FastswitchError('bad_config', `scenario ${path} cannot be read: ${(error as Error).message}`);
  }
  return parseScenario(content, path);
}

/**
 * Checks a scenario and converts its units. `source` names it in errors.
 * @throws FastswitchError `bad_config` that names the field and what is allowed.
 */
export function parseScenario(content: unknown, source: string): Scenario {
  const bad = (message: string) => new FastswitchError('bad_config', `scenario ${source}: ${message}`);
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw bad('not a JSON object; write one after the example of src/simulation/profiles/llama8b-a10.json');
  }
  const fields = content as Readonly<Record<string, unknown>>;
  const unknown = Object.keys(fields).find((key) => !KNOWN.includes(key));
  if (unknown !== undefined) throw bad(`unknown field "${unknown}"; there are ${KNOWN.join(', ')}`);
  for (const key of TEXTS) {
    const value = fields[key];
    if (typeof value !== 'string' || value === '') throw bad(`"${key}" is ${JSON.stringify(value)}; allowed is a text`);
  }
  const numbers = { blockTokens: BLOCK_TOKENS } as Record<NumberKey, number>;
  for (const key of Object.keys(NUMBERS) as NumberKey[]) {
    const value = fields[key] ?? numbers[key];
    if (!fits(value, NUMBERS[key])) throw bad(`"${key}" is ${JSON.stringify(value)}; allowed is ${allowed(NUMBERS[key])}`);
    numbers[key] = value;
  }
  if (numbers.maxBatchTokens < numbers.maxRunning) {
    throw bad(`"maxBatchTokens" is ${numbers.maxBatchTokens}; allowed is at least "maxRunning" (${numbers.maxRunning})`);
  }
  return convert(fields as Readonly<Record<(typeof TEXTS)[number], string>>, numbers);
}

function fits(value: unknown, { integer, above, min, max }: NumberField): value is number {
  if (typeof value !== 'number' || !Number.isFinite(value)) return false;
  return value >= min && value <= max && (above === null || value > above) && (!integer || Number.isInteger(value));
}

function allowed({ integer, above, min, max }: NumberField): string {
  const noun = integer ? 'an integer' : 'a number';
  if (min === max) return `${min}, or leave it out`;
  const from = above === null ? `from ${min}` : `above ${above}`;
  return max === LARGEST ? `${noun} ${from}` : `${noun} ${from} to ${max}`;
}

function convert(texts: Readonly<Record<(typeof TEXTS)[number], string>>, n: Readonly<Record<NumberKey, number>>): Scenario {
  const weightBytes = n.weightGiB * BYTES_PER_GIB;
  const profile: HardwareProfile = {
    stepMicros: n.stepMicros,
    sequenceMicros: n.sequenceMicros,
    weightBytes,
    kvBytesPerToken: n.kvKiBPerToken * 1024,
    memoryBytesPerMicro: n.memoryEfficiency * n.memoryGBps * BYTES_PER_MICRO,
    // A token takes two operations for each weight, and a weight is two bytes: as many operations as bytes.
    tokenMicros: weightBytes / (n.mfu * n.peakTflops * OPERATIONS_PER_MICRO),
    dispatchMicros: n.dispatchMicros,
    copyMicros: n.copyMicros,
    linkBytesPerMicro: n.linkGBps * BYTES_PER_MICRO,
    duplexShare: n.duplexShare,
    layers: n.layers,
    eagerMicros: n.eagerMicros,
    stagingBytes: n.stagingMiB * 2 ** 20,
  };
  const { name, model, gpu } = texts;
  const { deviceBlocks, hostBlocks, maxRunning, maxBatchTokens } = n;
  const contextTokensMax = Math.min(n.contextTokensMax, deviceBlocks * BLOCK_TOKENS);
  return {
    name,
    model,
    gpu,
    profile: Object.freeze(profile),
    deviceBlocks,
    hostBlocks,
    contextTokensMax,
    maxRunning,
    maxBatchTokens,
  };
}

/** The same machine with other memory; null keeps what it has. */
export function withMemory(scenario: Scenario, deviceBlocks: number | null, hostBlocks: number | null): Scenario {
  const device = deviceBlocks ?? scenario.deviceBlocks;
  return {
    ...scenario,
    deviceBlocks: device,
    hostBlocks: hostBlocks ?? scenario.hostBlocks,
    contextTokensMax: Math.min(scenario.contextTokensMax, device * BLOCK_TOKENS),
  };
}
