/** The records that are about one request, a line for each event and effect: a recording with everybody else left out. */
import { outline, outlineText } from '../actors/records.js';
import type { Effect, Event, Micros, RequestId, TransferId } from '../core/types.js';
import { counted, duration, printable } from '../core/units.js';
import { arrivalText, offset, standingText } from './words.js';

export interface TranscriptLine {
  readonly record: number;
  readonly at: Micros;
  /** Since the line before of the same request; 0 in the same record. */
  readonly after: Micros;
  readonly request: RequestId;
  /** The type of the event or effect. */
  readonly type: Event['type'] | Effect['type'];
  readonly text: string;
}

export class Transcript {
  readonly #wanted: string;
  readonly #write: (line: TranscriptLine) => void;
  readonly #ids = new Set<RequestId>();
  /** Of these, the ones that live, and whose they are. */
  readonly #live = new Map<RequestId, string>();
  /** Of transfers in flight for these. */
  readonly #transfers = new Map<TransferId, RequestId[]>();
  readonly #lastAt = new Map<RequestId, Micros>();

  /** `wanted`: the number of a request, or a label of one or several. */
  constructor(wanted: string, write: (line: TranscriptLine) => void) {
    this.#wanted = wanted;
    this.#write = write;
  }

  /** Those it was about, so far. */
  get ids(): readonly RequestId[] {
    return [...this.#ids];
  }

  see(event: Event, effects: readonly Effect[], record: number): void {
    if (event.type === 'arrived' && (String(event.id) === this.#wanted || event.labels.includes(this.#wanted))) {
      this.#ids.add(event.id);
      this.#live.set(event.id, event.tenant);
    }
    if (this.#ids.size === 0) return;
    this.#event(event, record);
    for (const effect of effects) {
      for (const id of this.#ids) this.#effect(effect, id, event.at, record);
      if (effect.type === 'finish' || effect.type === 'reject') this.#live.delete(effect.id);
    }
  }

  #line(id: RequestId, at: Micros, record: number, type: TranscriptLine['type'], text: string): void {
    const after = at - (this.#lastAt.get(id) ?? at);
    this.#lastAt.set(id, at);
    this.#write({ record, at, after, request: id, type, text });
  }

  #event(event: Event, record: number): void {
    const { at, type } = event;
    const line = (id: RequestId, text: string) => {
      if (this.#ids.has(id)) this.#line(id, at, record, type, text);
    };
    switch (event.type) {
      case 'arrived':
        return line(event.id, `arrived: ${arrivalText(event)}`);
      case 'aborted':
        return line(event.id, `asked to end: ${event.reason}`);
      case 'reprioritized':
        for (const item of event.items) line(item.id, `from now on priority ${standingText(item)}`);
        return;
      case 'reweighted':
        for (const [id, tenant] of this.#live) {
          if (tenant === event.tenant) line(id, `from now on its tenant has weight ${event.weight}`);
        }
        return;
      case 'stepped':
        for (const { id, count, token, ended } of event.items) {
          const sampled = token < 0 ? '' : `, one sampled${ended ? ', which ends it' : ''}`;
          line(id, `step ${event.step} came back after ${duration(event.micros)}: ${counted(count, 'token')} computed${sampled}`);
        }
        return;
      case 'stepFailed':
        // Who was in it, and who was not, is said by who ends.
        return;
      case 'landed':
      case 'transferFailed': {
        const ids = this.#transfers.get(event.transfer) ?? [];
        this.#transfers.delete(event.transfer);
        const how =
          event.type === 'landed' ? `landed, copied for ${duration(event.micros)}` : `failed: ${printable(event.error)}`;
        for (const id of ids) line(id, `transfer ${event.transfer} ${how}`);
      }
    }
  }

  #effect(effect: Effect, id: RequestId, at: Micros, record: number): void {
    const { type } = effect;
    const line = (text: string) => this.#line(id, at, record, type, text);
    switch (effect.type) {
      case 'step': {
        const item = effect.items.find((candidate) => candidate.id === id);
        const others = effect.items.length - 1;
        const beside = others === 0 ? 'alone' : `beside ${counted(others, 'other')}`;
        if (item !== undefined)
          line(`step ${effect.step} begins: ${counted(item.count, 'token')} from position ${item.start}, ${beside}`);
        return;
      }
      case 'tokens': {
        const item = effect.items.find((candidate) => candidate.id === id);
        if (item !== undefined) line(`token ${item.index + 1} goes out`);
        return;
      }
      case 'mirror':
        if (effect.ids.includes(id)) this.#starts(effect, id, line);
        return;
      default:
        if (effect.id === id) {
          if ('transfer' in effect) this.#starts(effect, id, line);
          else line(words(effect));
        } else if ('cause' in effect && effect.cause.by === id) line(`for its sake: ${words(effect)}`);
    }
  }

  #starts(effect: Extract<Effect, { transfer: TransferId }>, id: RequestId, line: (text: string) => void): void {
    this.#transfers.set(effect.transfer, [...(this.#transfers.get(effect.transfer) ?? []), id]);
    line(words(effect));
  }
}

function words(effect: Effect): string {
  return outlineText(outline(effect));
}

/** `#12     1.234567 s   +1.23 ms  swapOut request 7, ...`; `named`: with the number of the request. */
export function transcriptText({ record, at, after, request, type, text }: TranscriptLine, named: boolean): string {
  const whose = named ? `request ${request}: ` : '';
  const gap = after === 0 ? '' : `+${duration(after)}`;
  return `${`#${record}`.padStart(8)} ${offset(at).padStart(15)} ${gap.padStart(10)}  ${whose}${isEvent(type) ? '' : '  '}${text}`;
}

const EVENTS: Readonly<Record<Event['type'], true>> = {
  arrived: true,
  aborted: true,
  stepped: true,
  stepFailed: true,
  landed: true,
  transferFailed: true,
  reprioritized: true,
  reweighted: true,
  draining: true,
};

function isEvent(type: TranscriptLine['type']): type is Event['type'] {
  return Object.hasOwn(EVENTS, type);
}
