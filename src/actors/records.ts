/**
 * What a journal holds: one header for each segment, one record for each outside event, in the order in which the door took
 * them in. Pure data for msgpackr; files and frames are `journal.ts`, and `replayed.ts` makes events of records again.
 *
 * A record holds what the world said and not what the core can work out: of a step that came back, when and how long, which
 * items ended their requests and which blocks were completed, but not who was in it, because the step that a replay
 * decides on says so. No token ids, unless they are asked for.
 */
import type { Limits } from '../core/state.js';
import type {
  AbortReason,
  BlockName,
  Cause,
  Copies,
  Effect,
  Event,
  Micros,
  Reprioritized,
  StepItem,
  SteppedItem,
  TransferId,
} from '../core/types.js';
import { Marks } from './digest.js';

/** Of the frames and records in a file; readers refuse others. */
export const JOURNAL_FORMAT = 1;

export interface JournalHeader {
  readonly format: number;
  /** Of fastswitch, and of the decisions of its core (`DECISIONS` in core/config.ts). */
  readonly version: string;
  readonly decisions: number;
  /** The same in all segments of a run. */
  readonly run: string;
  /** Counted from 1. */
  readonly segment: number;
  /** Number of its first record; the records of a run are counted from 1. */
  readonly firstRecord: number;
  /** Records before it that could not be written, behind the last that could. Above 0 a replay cannot go on here. */
  readonly lost: number;
  /** Wall clock at the run's zero, ISO 8601; of a simulated run, which has none, the start of 1970. */
  readonly startedAt: string;
  readonly source: 'live' | 'simulated';
  /** Token ids are in the records. */
  readonly content: boolean;
  readonly blockTokens: number;
  /** What the core was told at its start. */
  readonly limits: Limits;
  /** For people, and to tell runs apart: nothing of a replay depends on it. */
  readonly model: { readonly name: string; readonly fingerprint: string; readonly layers?: number };
  readonly seed: number;
  /** As it was given; `model` without its folder. */
  readonly config: Readonly<Record<string, string | number | boolean>>;
}

/** An effect in few words: what is expected where a replay parts from its recording. */
export type Outline = readonly (string | number)[];

interface Stamp {
  /** Counted from 1, without a gap. */
  readonly n: number;
  readonly at: Micros;
  readonly effects: readonly Outline[];
  /** Of `Marks`, after this event and its effects. */
  readonly mark: number;
}

/** `names` hold 16 bytes for each name where all are that long, and are texts otherwise. */
type Names = Uint8Array | readonly string[];

export type JournalRecord = Stamp &
  (
    | {
        readonly type: 'arrived';
        readonly id: number;
        readonly labels: readonly string[];
        readonly promptTokens: number;
        readonly maxTokens: number;
        readonly priority: number;
        readonly tenant: string;
        readonly weight: number;
        readonly ttftMicros: Micros | null;
        readonly tbtMicros: Micros | null;
        readonly names: Names;
        /** With content: the ids of its prompt. */
        readonly prompt?: readonly number[];
      }
    | { readonly type: 'aborted'; readonly id: number; readonly reason: AbortReason }
    | {
        readonly type: 'stepped';
        readonly step: number;
        readonly micros: Micros;
        /** Positions in the plan of the items that ended their requests. */
        readonly ended: readonly number[];
        /** Positions of the items that completed a block, and the names of those. */
        readonly named: readonly number[];
        readonly names: Names;
        /** With content: the sampled tokens of the items that sampled, in order. */
        readonly tokens?: readonly number[];
      }
    | { readonly type: 'stepFailed'; readonly step: number; readonly error: string }
    | { readonly type: 'landed'; readonly transfer: TransferId; readonly micros: Micros }
    | { readonly type: 'transferFailed'; readonly transfer: TransferId; readonly error: string }
    /** Pairs: request, priority. `deadlines`: of those that got new ones, in order: which of the pairs, TTFT, TBT. */
    | {
        readonly type: 'reprioritized';
        readonly pairs: readonly number[];
        readonly deadlines: readonly (readonly [pair: number, ttftMicros: Micros | null, tbtMicros: Micros | null])[];
      }
    | { readonly type: 'reweighted'; readonly tenant: string; readonly weight: number }
    | { readonly type: 'draining' }
    /** The core or a chart threw this at the event in `event` (JSON); the last record of a run that failed. */
    | { readonly type: 'crashed'; readonly event: string; readonly error: string }
    /** The run was closed in order; the last record. */
    | { readonly type: 'closed' }
  );

export type RecordType = JournalRecord['type'];

/** Bytes of a block's name as the engine makes them: half a SHA-256, one character each. */
const NAME_BYTES = 16;

/** Makes records of what a runtime takes in and decides. */
export class Recorder {
  readonly #content: boolean;
  readonly #marks = new Marks();
  /** Of requests whose arrival is still to be recorded; only with content. */
  readonly #prompts = new Map<number, Int32Array>();
  #plan: readonly StepItem[] = [];
  #count = 0;
  #mark = 0;

  /** `content`: token ids are recorded too. */
  constructor(content: boolean) {
    this.#content = content;
  }

  /** Records made so far. */
  get count(): number {
    return this.#count;
  }

  /** What the step in flight computes. */
  get plan(): readonly StepItem[] {
    return this.#plan;
  }

  /** Comes before the request's arrival. */
  opened(id: number, promptTokens: Int32Array): void {
    if (this.#content) this.#prompts.set(id, promptTokens);
  }

  /** @throws Error for a step that answers another plan than it was given: such a run cannot be replayed. */
  decided(event: Event, effects: readonly Effect[]): JournalRecord {
    this.#mark = this.#marks.after(event, effects);
    const record = this.#stamped(event.at, effects, this.#said(event));
    for (const effect of effects) if (effect.type === 'step') this.#plan = effect.items;
    return record;
  }

  /** `event`: null where it was decided on and recorded, and performing the effects failed. */
  crashed(at: Micros, event: Event | null, error: Error): JournalRecord {
    const text = event === null ? '' : JSON.stringify(this.#content ? event : withoutContent(event));
    return this.#stamped(at, [], { type: 'crashed', event: text, error: error.message });
  }

  closed(at: Micros): JournalRecord {
    return this.#stamped(at, [], { type: 'closed' });
  }

  #stamped(at: Micros, effects: readonly Effect[], said: Said): JournalRecord {
    this.#count += 1;
    return { n: this.#count, at, effects: effects.map(outline), mark: this.#mark, ...said };
  }

  #said(event: Event): Said {
    switch (event.type) {
      case 'arrived': {
        const { at: _, ...fields } = event;
        const prompt = this.#prompts.get(event.id);
        this.#prompts.delete(event.id);
        const said = { ...fields, names: packNames(event.names) };
        return prompt === undefined ? said : { ...said, prompt: Array.from(prompt) };
      }
      case 'stepped':
        return this.#stepped(event);
      case 'reprioritized':
        return reprioritizedOf(event);
      default: {
        const { at: _, ...said } = event;
        return said;
      }
    }
  }

  #stepped({ type, step, micros, items }: Extract<Event, { type: 'stepped' }>): Said {
    const ended: number[] = [];
    const named: number[] = [];
    const names: BlockName[] = [];
    if (items.length !== this.#plan.length)
      throw new Error(`step ${step} answers for ${items.length} items of ${this.#plan.length}`);
    for (const [index, { id, count, token, ended: over, name }] of items.entries()) {
      const planned = this.#plan[index] as StepItem;
      if (id !== planned.id || count !== planned.count || token >= 0 !== planned.sample) {
        throw new Error(`step ${step} answers another plan than it was given, for request ${id}`);
      }
      if (over) ended.push(index);
      if (name === null) continue;
      named.push(index);
      names.push(name);
    }
    const said = { type, step, micros, ended, named, names: packNames(names) };
    return this.#content ? { ...said, tokens: items.filter(({ token }) => token >= 0).map(({ token }) => token) } : said;
  }
}

function reprioritizedOf({ type, items }: Extract<Event, { type: 'reprioritized' }>): Said {
  const pairs = items.flatMap(({ id, priority }) => [id, priority]);
  const deadlines = items.flatMap(({ deadlines: told }, pair) =>
    told === undefined ? [] : [[pair, told.ttftMicros, told.tbtMicros] as const],
  );
  return { type, pairs, deadlines };
}

/** Which tokens were sampled, and what else could have been, nobody needs to come to the same failure. */
function withoutContent(event: Event): Event {
  if (event.type !== 'stepped') return event;
  const items = event.items.map((item) => ({ ...item, token: item.token < 0 ? -1 : 0, logprobs: null }));
  return { ...event, items };
}

type WithoutStamp<R> = R extends Stamp ? Omit<R, keyof Stamp> : never;
type Said = WithoutStamp<JournalRecord>;

const NO_NAMES = Buffer.alloc(0);

function packNames(names: readonly BlockName[]): Names {
  if (names.length === 0) return NO_NAMES;
  const bytes = Buffer.from(names.join(''), 'latin1');
  const packed = names.every((name) => name.length === NAME_BYTES) && bytes.toString('latin1') === names.join('');
  return packed ? bytes : names;
}

function unpackNames(names: Names): readonly BlockName[] {
  if (!(names instanceof Uint8Array)) return names;
  const text = Buffer.from(names.buffer, names.byteOffset, names.byteLength).toString('latin1');
  return Array.from({ length: text.length / NAME_BYTES }, (_, k) => text.slice(NAME_BYTES * k, NAME_BYTES * (k + 1)));
}

/**
 * The event that was recorded; null for `closed`, and for a crash after its event was recorded. `plan`: what the step in
 * flight computes, which is what a replay has decided itself.
 */
export function eventOf(record: JournalRecord, plan: readonly StepItem[]): Event | null {
  const { at } = record;
  switch (record.type) {
    case 'arrived': {
      const { n: _, effects: __, mark: ___, prompt: ____, names, ...said } = record;
      return { ...said, names: unpackNames(names) };
    }
    case 'aborted':
      return { type: record.type, at, id: record.id, reason: record.reason };
    case 'stepped':
      return { type: record.type, at, step: record.step, micros: record.micros, items: itemsOf(record, plan) };
    case 'stepFailed':
      return { type: record.type, at, step: record.step, error: record.error };
    case 'landed':
      return { type: record.type, at, transfer: record.transfer, micros: record.micros };
    case 'transferFailed':
      return { type: record.type, at, transfer: record.transfer, error: record.error };
    case 'reprioritized':
      return { type: record.type, at, items: reprioritizedItems(record) };
    case 'reweighted':
      return { type: record.type, at, tenant: record.tenant, weight: record.weight };
    case 'draining':
      return { type: record.type, at };
    case 'crashed':
      return record.event === '' ? null : (JSON.parse(record.event) as Event);
    case 'closed':
      return null;
  }
}

function reprioritizedItems({ pairs, deadlines }: Extract<JournalRecord, { type: 'reprioritized' }>): Reprioritized[] {
  const told = new Map(deadlines.map(([pair, ttftMicros, tbtMicros]) => [pair, { ttftMicros, tbtMicros }]));
  return Array.from({ length: pairs.length / 2 }, (_, k) => {
    const item = { id: pairs[2 * k] as number, priority: pairs[2 * k + 1] as number };
    const changed = told.get(k);
    return changed === undefined ? item : { ...item, deadlines: changed };
  });
}

function itemsOf(record: Extract<JournalRecord, { type: 'stepped' }>, plan: readonly StepItem[]): SteppedItem[] {
  const ended = new Set(record.ended);
  const names = new Map(unpackNames(record.names).map((name, k) => [record.named[k], name]));
  let sampled = 0;
  return plan.map(({ id, count, sample }, index) => {
    const token = sample ? (record.tokens?.[sampled] ?? 0) : -1;
    if (sample) sampled += 1;
    return { id, count, token, ended: ended.has(index), logprobs: null, name: names.get(index) ?? null };
  });
}

/** Everything of an effect but block numbers and tokens. */
export function outline(effect: Effect): Outline {
  const { type } = effect;
  switch (type) {
    case 'step':
      return [type, effect.step, effect.items.length, effect.items.reduce((sum, { count }) => sum + count, 0)];
    case 'tokens':
      return [type, effect.items.length];
    case 'admit':
      return [type, effect.id, effect.cachedTokens];
    case 'swapOut':
      return [type, effect.id, effect.held, ...because(effect.cause), ...copiesOf(effect)];
    case 'swapIn':
      return [type, effect.id, effect.held, effect.cachedTokens, ...copiesOf(effect)];
    case 'mirror':
      return [type, effect.ids.length, ...copiesOf(effect)];
    case 'prefetch':
      return [type, effect.id, ...copiesOf(effect)];
    case 'park':
      return [type, effect.id, effect.held, ...because(effect.cause)];
    case 'resume':
      return [type, effect.id, effect.held];
    case 'recompute':
      return [type, effect.id, ...because(effect.cause)];
    case 'prefilled':
    case 'settled':
    case 'ending':
      return [type, effect.id];
    case 'finish':
      return [type, effect.id, effect.outcome];
    case 'reject':
      return [type, effect.id, effect.code];
  }
}

function because({ why, by }: Cause): readonly [string, number] {
  return [why, by ?? 0];
}

function copiesOf({ transfer, blocks, runs }: Copies): readonly [number, number, number] {
  return [transfer, blocks, runs.length];
}

/** What the numbers of an outline are, by its first word. */
const FIELDS: Readonly<Record<string, readonly string[]>> = {
  step: ['step', 'requests', 'tokens'],
  tokens: ['of requests'],
  admit: ['request', 'cached tokens'],
  swapOut: ['request', 'held', 'because', 'by', 'transfer', 'blocks', 'runs'],
  swapIn: ['request', 'held', 'cached tokens', 'transfer', 'blocks', 'runs'],
  mirror: ['requests', 'transfer', 'blocks', 'runs'],
  prefetch: ['request', 'transfer', 'blocks', 'runs'],
  park: ['request', 'held', 'because', 'by'],
  resume: ['request', 'held'],
  recompute: ['request', 'because', 'by'],
  prefilled: ['request'],
  settled: ['request'],
  ending: ['request'],
  finish: ['request', 'outcome'],
  reject: ['request', 'code'],
};

/** An outline for people: `swapOut request 7, held 3, because outranked, by 12, transfer 31, blocks 12, runs 2`. */
export function outlineText([type, ...values]: Outline): string {
  const fields = FIELDS[String(type)] ?? [];
  return `${type} ${values.map((value, k) => `${fields[k] ?? '?'} ${value}`).join(', ')}`;
}

/** The request that an outline is about; null where it is about several. */
export function outlinedRequest(outlined: Outline): number | null {
  return FIELDS[String(outlined[0])]?.[0] === 'request' ? Number(outlined[1]) : null;
}
