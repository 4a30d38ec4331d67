/**
 * What is said of a tenant, in the file of `--tenants` and in PATCH /v1/tenants/{name}: the same names, the same checks and
 * the same words for what is wrong.
 */
import { readFileSync, statSync } from 'node:fs';
import { FastswitchError } from '../errors.js';
import { readHash } from './keys.js';

export interface TenantSettings {
  readonly name: string;
  /** Its keys may see and change what is everybody's. */
  readonly admin: boolean;
  /** Its keys may read /metrics where that is not open. */
  readonly metrics: boolean;
  /** Its share of the machine, beside those of the others. */
  readonly weight: number;
  /** Of its requests, where they bring none; one that they bring is counted from here. Lower is served first. */
  readonly priority: number;
  /** Null: no limit, of these two, concurrency and queue. */
  readonly requestsPerMinute: number | null;
  /** Prompt and completion together. */
  readonly tokensPerMinute: number | null;
  /** Questions about requests and changes of them; null: what `lookups.ts` has for all. */
  readonly lookupsPerMinute: number | null;
  /** Most choices at once in the scheduler. */
  readonly concurrency: number | null;
  /** Most that wait in its own line, for its concurrency or (`soft`) for its rate. */
  readonly queue: number | null;
  /** Above its rate it waits instead of being refused. */
  readonly soft: boolean;
  /** Until the first token, and from one to the next; null: no objective. */
  readonly ttftSeconds: number | null;
  readonly tbtSeconds: number | null;
}

export interface TenantEntry {
  readonly settings: TenantSettings;
  readonly hashes: readonly Buffer[];
}

/** The anonymous tenant's, and what an entry leaves out. */
export const SETTINGS_NONE: Omit<TenantSettings, 'name'> = {
  admin: false,
  metrics: false,
  weight: 1,
  priority: 0,
  requestsPerMinute: null,
  tokensPerMinute: null,
  lookupsPerMinute: null,
  concurrency: null,
  queue: null,
  soft: false,
  ttftSeconds: null,
  tbtSeconds: null,
};

interface Field {
  /** Completes "allowed is ...". */
  readonly allowed: string;
  fits(value: unknown): boolean;
}

const LARGEST = Number.MAX_SAFE_INTEGER;
const within = (value: unknown, least: number, most: number): boolean =>
  typeof value === 'number' && value >= least && value <= most;
const whole = (least: number, most: number): Field => ({
  allowed: most === LARGEST ? `a whole number of at least ${least}` : `a whole number from ${least} to ${most}`,
  fits: (value) => Number.isInteger(value) && within(value, least, most),
});
const number = (least: number, most: number): Field => ({
  allowed: `a number from ${least} to ${most}`,
  fits: (value) => within(value, least, most),
});
const orNull = ({ allowed, fits }: Field): Field => ({
  allowed: `${allowed}, or null for none`,
  fits: (value) => value === null || fits(value),
});
const flag: Field = { allowed: 'true or false', fits: (value) => typeof value === 'boolean' };
const NAME: Field = {
  allowed: 'a name of 1 to 64 letters, digits, dots, dashes and underscores',
  fits: (value) => typeof value === 'string' && /^[A-Za-z0-9._-]{1,64}$/.test(value),
};
const isHash = (value: unknown): boolean => typeof value === 'string' && readHash(value) !== null;
const KEY: Field = {
  allowed: '"sha256:" and 64 digits, as "fastswitch keys" prints it, or a list of these',
  fits: (value) => (Array.isArray(value) ? value.length > 0 && value.every(isHash) : isHash(value)),
};

/** Fields that may change while the server runs, by their names outside. */
const CHANGEABLE = {
  weight: number(0.001, 1000),
  priority: whole(-0x80000000, 0x7fffffff),
  requests_per_minute: orNull(number(0.1, 1e9)),
  tokens_per_minute: orNull(number(1, 1e12)),
  lookups_per_minute: orNull(number(1, 1e9)),
  concurrency: orNull(whole(1, 2 ** 24)),
  queue: orNull(whole(0, 2 ** 24)),
  soft: flag,
  ttft_seconds: orNull(number(0.001, 86_400)),
  tbt_seconds: orNull(number(0.001, 86_400)),
} as const satisfies Record<string, Field>;
type Changeable = keyof typeof CHANGEABLE;

const INSIDE = {
  weight: 'weight',
  priority: 'priority',
  requests_per_minute: 'requestsPerMinute',
  tokens_per_minute: 'tokensPerMinute',
  lookups_per_minute: 'lookupsPerMinute',
  concurrency: 'concurrency',
  queue: 'queue',
  soft: 'soft',
  ttft_seconds: 'ttftSeconds',
  tbt_seconds: 'tbtSeconds',
} as const satisfies Record<Changeable, keyof TenantSettings>;

const FIELDS: Readonly<Record<string, Field>> = { tenant: NAME, key: KEY, admin: flag, metrics: flag, ...CHANGEABLE };

/** A field that is wrong: which, and what about it. */
interface Wrong {
  readonly field: string;
  readonly message: string;
}

function shown(field: string, value: unknown): string {
  // A key that was written down in the clear is not repeated where errors go.
  if (field === 'key') return 'something else';
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

function checked(values: Readonly<Record<string, unknown>>, fields: Readonly<Record<string, Field>>): Wrong | null {
  for (const [field, value] of Object.entries(values)) {
    const rule = Object.hasOwn(fields, field) ? fields[field] : undefined;
    if (rule === undefined)
      return { field: field.slice(0, 64), message: `is not known; known are ${Object.keys(fields).join(', ')}` };
    if (!rule.fits(value)) return { field, message: `is ${shown(field, value)}; allowed is ${rule.allowed}` };
  }
  return null;
}

function settled(base: TenantSettings, values: Readonly<Record<string, unknown>>): TenantSettings | Wrong {
  const changes = Object.entries(INSIDE).flatMap(([field, key]) => (field in values ? [[key, values[field]]] : []));
  const settings: TenantSettings = { ...base, ...Object.fromEntries(changes) };
  if (settings.queue !== null && settings.concurrency === null && !settings.soft)
    return { field: 'queue', message: 'needs "concurrency" or "soft": without them nobody waits in this line' };
  return settings;
}

const isWrong = (value: TenantSettings | Wrong): value is Wrong => 'message' in value;

/**
 * Other settings of the same tenant; what is left out stays.
 * @throws FastswitchError invalid_request that names the field, the value and what is allowed.
 */
export function changedSettings(base: TenantSettings, changes: Readonly<Record<string, unknown>>): TenantSettings {
  const settings = checked(changes, CHANGEABLE) ?? settled(base, changes);
  if (!isWrong(settings)) return settings;
  throw new FastswitchError('invalid_request', `'${settings.field}' ${settings.message}.`, settings.field);
}

/** The settings as a client reads and the file writes them. */
export function settingsBody(settings: TenantSettings): Record<string, unknown> {
  const { name, admin, metrics } = settings;
  const rest = Object.entries(INSIDE).map(([field, key]) => [field, settings[key]]);
  return { tenant: name, admin, metrics, ...Object.fromEntries(rest) };
}

function bad(message: string): FastswitchError {
  return new FastswitchError('bad_config', message);
}

/**
 * One entry of the file.
 * @param here Where it stands, for the message.
 * @throws FastswitchError bad_config
 */
export function entryFrom(value: unknown, here: string): TenantEntry {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(`${here} is no JSON object`);
  const entry = value as Record<string, unknown>;
  const named = typeof entry.tenant === 'string' ? `${here} (${shown('tenant', entry.tenant)})` : here;
  for (const field of ['tenant', 'key']) if (entry[field] === undefined) throw bad(`${named} has no "${field}"`);
  const wrong = checked(entry, FIELDS);
  if (wrong !== null) throw bad(`${named}: "${wrong.field}" ${wrong.message}`);
  const own = { name: entry.tenant as string, admin: entry.admin === true, metrics: entry.metrics === true };
  const settings = settled({ ...SETTINGS_NONE, ...own }, entry);
  if (isWrong(settings)) throw bad(`${named}: "${settings.field}" ${settings.message}`);
  return { settings, hashes: [entry.key].flat().map((text) => readHash(text as string) as Buffer) };
}

/** What is in the file, and what about it its operator should hear. */
interface TenantsFile {
  readonly entries: readonly TenantEntry[];
  readonly warnings: readonly string[];
}

/**
 * Reads the file of `--tenants`: a JSON list with an object for each tenant.
 * @throws FastswitchError bad_config that names the entry, the field, its value and what is allowed.
 */
export function readTenants(path: string): TenantsFile {
  let content: unknown;
  let open: boolean;
  try {
    open = (statSync(path).mode & 0o004) !== 0;
    content = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    // What a parser quotes of the file may be a part of a key.
    const reason = error instanceof SyntaxError ? 'it is no JSON' : (error as Error).message;
    throw bad(`--tenants ${path} cannot be read: ${reason}`);
  }
  if (!Array.isArray(content) || content.length === 0)
    throw bad(`--tenants ${path} is no list of tenants; allowed is [{"tenant": "blue", "key": "sha256:..."}, ...]`);
  const entries = content.map((entry, index) => entryFrom(entry, `--tenants ${path}: entry ${index + 1}`));
  const names = new Set<string>();
  const hashes = new Set<string>();
  for (const { settings, hashes: own } of entries) {
    if (names.has(settings.name))
      throw bad(`--tenants ${path}: "${settings.name}" is there twice; one entry may have a list of keys`);
    names.add(settings.name);
    for (const hash of own.map((bytes) => bytes.toString('hex'))) {
      if (hashes.has(hash)) throw bad(`--tenants ${path}: "${settings.name}" has a key that is there already`);
      hashes.add(hash);
    }
  }
  const warnings = open
    ? [`everybody on this machine may read ${path}; "chmod 600" keeps names and limits to yourself (keys are hashed)`]
    : [];
  return { entries, warnings };
}
