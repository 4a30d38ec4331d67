/**
 * One flat, frozen configuration: defaults and the relations that must hold between values. Pure: where the values
 * come from (flags, environment, file) is `src/options.ts`.
 */
import { type ParsedPreset, parsePreset } from './presets.js';
import type { PolicyName, Sampling } from './types.js';

export interface Config {
  /** Folder of a Hugging Face checkpoint. */
  readonly model: string;
  /** Name under which /v1/models lists it; '' means the folder's name. */
  readonly servedModelName: string;
  readonly host: string;
  readonly port: number;
  /** File of the tenants and their keys; '': one anonymous tenant. */
  readonly tenants: string;
  /** More names under which it answers where names are looked at, with commas between. */
  readonly allowedHosts: string;
  /** Listens on more than loopback without keys. */
  readonly insecure: boolean;
  /** With keys: /metrics needs one, too. */
  readonly privateMetrics: boolean;
  readonly deviceKvBytes: number;
  readonly hostKvBytes: number;
  /** Most tokens computed in one step. */
  readonly maxBatchTokens: number;
  /** Most requests in one step. */
  readonly maxRunning: number;
  /** Most requests alive at once that wait (queued or swapped) before new ones get 429. */
  readonly maxQueued: number;
  /** Context limit in tokens; 0: what the model was made for. */
  readonly maxContext: number;
  /** How KV is allocated, moved and kept: the name of a preset, or one with changes (`parsePreset` reads it). */
  readonly preset: string;
  /** `auto`: the preset's own. */
  readonly policy: 'auto' | PolicyName;
  /** Seed of requests that bring none. */
  readonly seed: number;
  /** Compute threads of the engine; 0: all cores. */
  readonly threads: number;
  readonly swapThreads: number;
  /** What computes and holds the KV of running requests: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`. */
  readonly device: string;
  /** On a GPU: tokens are the same bits in any batch. The CPU always does that. */
  readonly batchInvariant: boolean;
  /** `dummy`: random weights of the model's shape, none are read. */
  readonly load: 'auto' | 'dummy';
  readonly quantize: 'none' | 'q8';
  readonly kvDtype: 'auto' | 'f32' | 'bf16';
  readonly isa: 'auto' | 'avx512' | 'avx2' | 'portable';
  readonly bodyLimitBytes: number;
  /** A stream whose client reads nothing for this long is aborted. */
  readonly stallSeconds: number;
  /** After SIGTERM running requests may finish for this long. */
  readonly drainSeconds: number;
  /** Whoever sees the board may abort requests, change priorities and drain the server. */
  readonly admin: boolean;
  /** Folder for the journal of each run; '' is none. */
  readonly journal: string;
  /** Token ids are in the journal. */
  readonly journalContent: boolean;
  /** A file of the journal that is so long is followed by another. */
  readonly journalSegmentBytes: number;
  readonly logLevel: 'silent' | 'error' | 'warn' | 'info' | 'debug';
}

/**
 * Version of what the core decides: raised with every change after which the same events lead to other effects. Journals
 * name it, so that one of another version is told from one that diverges.
 */
export const DECISIONS = 2;

/** Tokens of KV in one block. */
export const BLOCK_TOKENS = 16;

/** The model ships with the package, so its place is the caller's to find. */
export const DEFAULTS: Readonly<Omit<Config, 'model'>> = Object.freeze({
  servedModelName: '',
  host: '127.0.0.1',
  port: 8080,
  tenants: '',
  allowedHosts: '',
  insecure: false,
  privateMetrics: false,
  deviceKvBytes: 256 * 2 ** 20,
  hostKvBytes: 2 ** 30,
  maxBatchTokens: 512,
  maxRunning: 64,
  maxQueued: 1024,
  maxContext: 0,
  preset: 'default',
  policy: 'auto',
  seed: 0,
  threads: 0,
  swapThreads: 2,
  device: 'auto',
  batchInvariant: false,
  load: 'auto',
  quantize: 'none',
  kvDtype: 'auto',
  isa: 'auto',
  bodyLimitBytes: 16 * 2 ** 20,
  stallSeconds: 60,
  drainSeconds: 30,
  admin: false,
  journal: '',
  journalContent: false,
  journalSegmentBytes: 64 * 2 ** 20,
  logLevel: 'info',
});

type KeysOf<Value> = { [K in keyof Config]: Config[K] extends Value ? K : never }[keyof Config];
export type NumberKey = KeysOf<number>;

/** The values of every key that has only a few. */
export const CHOICES = {
  policy: ['auto', 'fcfs', 'priority', 'vtc', 'fair', 'mlfq', 'edf'],
  load: ['auto', 'dummy'],
  quantize: ['none', 'q8'],
  kvDtype: ['auto', 'f32', 'bf16'],
  isa: ['auto', 'avx512', 'avx2', 'portable'],
  logLevel: ['silent', 'error', 'warn', 'info', 'debug'],
} as const satisfies { readonly [K in keyof Config]?: readonly Config[K][] };
export type ChoiceKey = keyof typeof CHOICES;

export interface Range {
  readonly min: number;
  readonly max: number;
}

const LARGEST = Number.MAX_SAFE_INTEGER;

/** Both ends are allowed. All but the seconds are integers. */
export const RANGES: Readonly<Record<NumberKey, Range>> = {
  port: { min: 0, max: 65535 },
  deviceKvBytes: { min: 1, max: LARGEST },
  hostKvBytes: { min: 0, max: LARGEST },
  maxBatchTokens: { min: 1, max: 2 ** 20 },
  maxRunning: { min: 1, max: 2 ** 16 },
  maxQueued: { min: 1, max: 2 ** 24 },
  maxContext: { min: 0, max: 2 ** 24 },
  seed: { min: 0, max: LARGEST },
  threads: { min: 0, max: 1024 },
  swapThreads: { min: 1, max: 64 },
  bodyLimitBytes: { min: 1024, max: 2 ** 30 },
  stallSeconds: { min: 1, max: 86400 },
  drainSeconds: { min: 0, max: 86400 },
  journalSegmentBytes: { min: 2 ** 16, max: LARGEST },
};

interface Relation {
  readonly key: NumberKey;
  readonly atLeast: NumberKey;
  readonly because: string;
}

const RELATIONS: readonly Relation[] = [
  { key: 'maxBatchTokens', atLeast: 'maxRunning', because: 'every running request computes at least one token in a step' },
];

export type ConfigProblem =
  | { readonly type: 'range'; readonly key: NumberKey; readonly range: Range }
  | { readonly type: 'preset'; readonly key: 'preset'; readonly message: string }
  | { readonly type: 'device'; readonly key: 'device' }
  | { readonly type: 'names'; readonly key: 'allowedHosts' }
  | { readonly type: 'cpuOnly'; readonly key: CpuOnlyKey }
  | ({ readonly type: 'relation' } & Relation);

/** `auto`, `cpu`, `cuda` or `cuda:N`. */
const DEVICE = /^(auto|cpu|cuda(:\d{1,3})?)$/;

/** What only the CPU engine can do, where it is not what the GPU engine does anyway. */
const CPU_ONLY = { quantize: ['q8'], kvDtype: ['f32'], isa: ['avx512', 'avx2', 'portable'] } as const;
type CpuOnlyKey = keyof typeof CPU_ONLY;

/** The first key whose value only the CPU engine knows; null: a GPU may compute. */
function cpuOnly(config: Config): CpuOnlyKey | null {
  const keys = Object.keys(CPU_ONLY) as CpuOnlyKey[];
  return keys.find((key) => (CPU_ONLY[key] as readonly string[]).includes(config[key])) ?? null;
}

/** Why no GPU can do what this configuration asks for; null: one can. */
export function onlyCpu(config: Config): string | null {
  const key = cpuOnly(config);
  return key === null
    ? null
    : `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} ${config[key]} is for the CPU only`;
}

/** The first thing wrong with the numbers of a configuration, or with its preset; null where there is nothing. */
export function checkConfig(config: Config): ConfigProblem | null {
  for (const key of Object.keys(RANGES) as NumberKey[]) {
    const range = RANGES[key];
    const value = config[key];
    const fits = value >= range.min && value <= range.max && (key.endsWith('Seconds') || Number.isInteger(value));
    if (!fits) return { type: 'range', key, range };
  }
  if (!DEVICE.test(config.device)) return { type: 'device', key: 'device' };
  // One that no client can ever say would seem to work until somebody needs it.
  if (hostNames(config.allowedHosts).includes(null)) return { type: 'names', key: 'allowedHosts' };
  const wanted = cpuOnly(config);
  if (wanted !== null && config.device.startsWith('cuda')) return { type: 'cpuOnly', key: wanted };
  const broken = RELATIONS.find(({ key, atLeast }) => config[key] < config[atLeast]);
  if (broken !== undefined) return { type: 'relation', ...broken };
  const preset = parsePreset(config.preset);
  return typeof preset === 'string' ? { type: 'preset', key: 'preset', message: preset } : null;
}

/** Addresses and names that only this machine reaches. */
const LOOPBACK = /^(127(\.\d{1,3}){3}|::1|(.+\.)?localhost)$/i;

/** Others than this machine's users reach it, and it knows nobody by a key. */
export function isExposed({ host, tenants, insecure }: Pick<Config, 'host' | 'tenants' | 'insecure'>): boolean {
  return tenants === '' && !insecure && !isLoopback(host);
}

/** Only this machine reaches it. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}

/** The name in a Host header, without its port and the dot of its root; null where it is none. */
export function hostName(text: string): string | null {
  const found = /^(\[[0-9a-f:.]+\]|[\w.-]+)(?::\d+)?$/i.exec(text)?.[1];
  return found === undefined ? null : found.replace(/^\[|\.?\]?$/g, '').toLowerCase();
}

/** Those in a list with commas between; null for what is none. */
export function hostNames(list: string): readonly (string | null)[] {
  const given = list.split(',').map((name) => name.trim());
  return given.filter((name) => name !== '').map(hostName);
}

/** The switches and the policy that a configuration runs under. Throws an Error for a preset that `checkConfig` refuses. */
export function presetOf({ preset, policy }: Pick<Config, 'preset' | 'policy'>): ParsedPreset {
  const parsed = parsePreset(preset);
  if (typeof parsed === 'string') throw new Error(parsed);
  return policy === 'auto' ? parsed : { ...parsed, policy };
}

/** The likeliest token, always: nothing drawn, punished or reported. */
export const GREEDY: Sampling = Object.freeze({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
  seed: 0n,
  topLogprobs: -1,
  logitBias: [],
});
