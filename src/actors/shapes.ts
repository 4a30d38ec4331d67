/** What a journal may say: whether values that were read from a file have the shape of a header or of a record. */
import type { AbortReason, Event, SteppedItem } from '../core/types.js';
import type { JournalHeader, JournalRecord, RecordType } from './records.js';

type Fields = Readonly<Record<string, unknown>>;
/** Answers whether a field may have this value. */
type Check = (value: unknown) => boolean;
type Shape<T> = { readonly [K in keyof T]-?: Check };

const isText: Check = (value) => typeof value === 'string';
const isFlag: Check = (value) => typeof value === 'boolean';
const isNumber: Check = (value) => typeof value === 'number' && Number.isFinite(value);
const isWhole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isCount: Check = (value) => isWhole(value) && value > 0;
const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
const listOf =
  (check: Check): Check =>
  (value) =>
    Array.isArray(value) && value.every(check);
const atMost =
  (most: number): Check =>
  (value) =>
    isWhole(value) && value <= most;
const optional =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value);
const isPlain: Check = (value) => isText(value) || isFlag(value) || isNumber(value);
const isTable: Check = (value) => isObject(value) && Object.values(value).every(isPlain);
const has =
  (shape: Readonly<Record<string, Check>>): Check =>
  (value) =>
    isObject(value) && misshapen(value, shape) === null;

/** The first field that is not as it should be; null where all are. */
function misshapen(value: Fields, shape: Readonly<Record<string, Check>>): string | null {
  return Object.keys(shape).find((field) => !(shape[field] as Check)(value[field])) ?? null;
}

/** Memory is laid out for so many blocks before the first record is replayed: some GB at this number. */
export const BLOCKS_MAX = 2 ** 26;

const LIMITS: Shape<JournalHeader['limits']> = {
  policy: isText,
  mechanism: isTable,
  deviceBlocks: atMost(BLOCKS_MAX),
  hostBlocks: atMost(BLOCKS_MAX),
  blockBytes: isCount,
  maxBatchTokens: isCount,
  maxRunning: isCount,
  maxQueued: isWhole,
};

const HEADER: Shape<JournalHeader> = {
  format: isCount,
  version: isText,
  decisions: isWhole,
  run: isText,
  segment: isCount,
  firstRecord: isCount,
  lost: isWhole,
  startedAt: (value) => isText(value) && !Number.isNaN(Date.parse(value as string)),
  source: (value) => value === 'live' || value === 'simulated',
  content: isFlag,
  blockTokens: isCount,
  limits: has(LIMITS),
  model: has({ name: isText, fingerprint: isText, layers: optional(isCount) }),
  seed: isNumber,
  config: isTable,
};

const REASONS: Readonly<Record<AbortReason, true>> = { client: true, stop: true, stalled: true, operator: true, shutdown: true };
const isNames: Check = (value) => (value instanceof Uint8Array ? value.length % 16 === 0 : listOf(isText)(value));
const isPairs: Check = (value) => listOf(isNumber)(value) && (value as unknown[]).length % 2 === 0;

const isWeight: Check = (value) => isNumber(value) && (value as number) > 0;
const isDeadline: Check = (value) => value === null || isNumber(value);
const isNewDeadline: Check = (value) =>
  Array.isArray(value) && value.length === 3 && isWhole(value[0]) && isDeadline(value[1]) && isDeadline(value[2]);

/** Of the records' own fields. */
const OWN: { readonly [T in RecordType]: Readonly<Record<string, Check>> } = {
  arrived: {
    id: isCount,
    labels: listOf(isText),
    promptTokens: atMost(2 ** 26), // a replay lays out a prompt of that length
    maxTokens: isCount,
    priority: isNumber,
    tenant: isText,
    weight: isWeight,
    ttftMicros: isDeadline,
    tbtMicros: isDeadline,
    names: isNames,
    prompt: optional(listOf(isWhole)),
  },
  aborted: { id: isWhole, reason: (value) => isText(value) && Object.hasOwn(REASONS, value as string) },
  stepped: {
    step: isCount,
    micros: isNumber,
    ended: listOf(isWhole),
    named: listOf(isWhole),
    names: isNames,
    tokens: optional(listOf(isWhole)),
  },
  stepFailed: { step: isCount, error: isText },
  landed: { transfer: isCount, micros: isNumber },
  transferFailed: { transfer: isCount, error: isText },
  reprioritized: { pairs: isPairs, deadlines: listOf(isNewDeadline) },
  reweighted: { tenant: isText, weight: isWeight },
  draining: {},
  crashed: { event: isText, error: isText },
  closed: {},
};

const ITEM: Shape<SteppedItem> = {
  id: isCount,
  count: isCount,
  token: Number.isSafeInteger,
  ended: isFlag,
  logprobs: (value) => value === null || isObject(value),
  name: (value) => value === null || isText(value),
};

/** Of events as they are told whole: where a run crashed. */
const EVENT: { readonly [T in Event['type']]: Readonly<Record<string, Check>> } = {
  ...OWN,
  arrived: { ...OWN.arrived, names: listOf(isText) },
  stepped: { step: isCount, micros: isNumber, items: listOf(has(ITEM)) },
  reprioritized: { items: listOf(has({ id: isNumber, priority: isNumber })) },
};

const STAMP: Readonly<Record<string, Check>> = {
  n: isCount,
  at: isNumber,
  effects: listOf(listOf((value) => isText(value) || isNumber(value))),
  mark: atMost(2 ** 32 - 1),
};

/** What is wrong with a header, in words; null where nothing is. */
export function headerProblem(value: unknown): string | null {
  if (!isObject(value)) return 'its header is no header';
  const field = misshapen(value, HEADER);
  return field === null ? null : `its header has no right "${field}"`;
}

/** What is wrong with a record, in words; null where nothing is. */
export function recordProblem(value: unknown): string | null {
  if (!isObject(value) || typeof value.type !== 'string') return 'it is no record';
  const { type } = value;
  if (!Object.hasOwn(OWN, type)) return `it is of kind "${type}", which there is not`;
  const field = misshapen(value, STAMP) ?? misshapen(value, OWN[type as RecordType]);
  if (field !== null) return `it has no right "${field}"`;
  return consistencyProblem(value as unknown as JournalRecord);
}

function consistencyProblem(record: JournalRecord): string | null {
  if (record.type === 'stepped') {
    const names = record.names instanceof Uint8Array ? record.names.length / 16 : record.names.length;
    return names === record.named.length ? null : `it names ${names} blocks of ${record.named.length} requests`;
  }
  return record.type === 'crashed' && record.event !== '' ? eventProblem(record.event) : null;
}

function eventProblem(text: string): string | null {
  let event: unknown;
  try {
    event = JSON.parse(text);
  } catch {
    return 'the event that it crashed at is no JSON';
  }
  const shape = isObject(event) && isEventType(event.type) ? { at: isNumber, ...EVENT[event.type] } : null;
  return shape !== null && has(shape)(event) ? null : 'what it crashed at is no event';
}

function isEventType(type: unknown): type is Event['type'] {
  return typeof type === 'string' && Object.hasOwn(EVENT, type) && type !== 'crashed' && type !== 'closed';
}
