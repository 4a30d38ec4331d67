/**
 * Plays a recording for a board: stands behind some record, goes on by one, by the clock, or to any other. A replay knows one
 * direction: the way back is the way from the start, or from where another was left. Works in short slices, so that streams
 * and answers go on meanwhile.
 */

import type { Recording } from '../actors/recording.js';
import type { JournalRecord } from '../actors/records.js';
import { type Onlooker, Replay } from '../actors/replayed.js';
import type { Explanation } from '../actors/system.js';
import type { BoardOrder, BoardPlayer, BoardReading } from '../core/board.js';
import type { Effect, Event, Micros, RequestId } from '../core/types.js';

/** So long at a time; and from one slice of playing to the next. */
const SLICE_MILLIS = 12;
const TICK_MILLIS = 25;
/** While it is on its way it says so this often. */
const WORD_MILLIS = 100;
/** Replays that are left where they stood, to go on from there: each holds a whole run's memory. */
const LEFT_MAX = 3;

/** Where it is to go. */
interface Goal {
  /** It has to go on: asked before every record. */
  readonly before: (next: JournalRecord) => boolean;
  /** Share of the way. */
  readonly share: () => number;
  /** The moment at which it then stands; null: that of its last record. */
  readonly at: Micros | null;
}

/** A replay behind some record, and the one that comes next. */
class Stand {
  readonly replay: Replay;
  readonly #records: Generator<JournalRecord, unknown>;
  readonly #last: number;
  /** Of the last record that was taken in. */
  at: Micros = 0;
  /** Null: there is none, or none that can be replayed. */
  next: JournalRecord | null;

  constructor(recording: Recording, last: number, onlooker: Onlooker) {
    this.replay = new Replay(recording.header, onlooker);
    this.#records = recording.records();
    this.#last = last;
    this.next = this.#read();
  }

  get record(): number {
    return this.replay.taken;
  }

  take(record: JournalRecord): void {
    this.replay.take(record);
    this.at = record.at;
    this.next = this.#read();
  }

  close(): void {
    this.#records.return(undefined);
  }

  #read(): JournalRecord | null {
    const { done, value } = this.#records.next();
    return done === true || value.n > this.#last ? null : value;
  }
}

export class Player {
  readonly #recording: Recording;
  readonly #last: number;
  readonly #report: (error: unknown) => void;
  #stand: Stand;
  /** The latest first. */
  readonly #left: Stand[] = [];
  /** Where the run's clock stands: at its last record or, while time passes, behind it. */
  #at: Micros = 0;
  #speed = 1;
  /** When the clock was set going, and where it stood then; null: it does not go. */
  #started: { readonly wall: number; readonly at: Micros } | null = null;
  #goal: Goal | null = null;
  #timer: NodeJS.Timeout | null = null;
  #immediate: NodeJS.Immediate | null = null;
  #wordAt = 0;
  /** What is shown until it is there. */
  #shown: BoardReading | null = null;
  /** Sees what happens, where somebody waits for something. */
  #look: ((event: Event, effects: readonly Effect[]) => void) | null = null;
  #moved: () => void = () => {};

  /**
   * @param last Number of the last record that can be replayed.
   * @param report Told when the recording cannot be read any more; the player then stands still.
   * @throws FastswitchError as `Replay` does.
   */
  constructor(recording: Recording, last: number, report: (error: unknown) => void) {
    this.#recording = recording;
    this.#last = last;
    this.#report = report;
    this.#stand = this.#fromStart();
  }

  /** `listener` is called whenever it has moved by other means than the clock. */
  onMoved(listener: () => void): void {
    this.#moved = listener;
  }

  player(): BoardPlayer {
    const seeking = this.#goal === null ? null : Math.min(1, Math.max(0, this.#goal.share()));
    return { playing: this.#started !== null, speed: this.#speed, record: this.#stand.record, seeking };
  }

  /** What is shown does not change while it is on its way elsewhere. */
  async read(): Promise<BoardReading> {
    if (this.#goal === null || this.#shown === null) this.#shown = this.#frame();
    return this.#shown;
  }

  #frame(): BoardReading {
    try {
      return { ...this.#stand.replay.board(), at: this.#at };
    } catch (error) {
      // The core failed in the middle of a decision, as it did when it was recorded: what it left cannot be drawn.
      if (this.#stand.replay.failure === null || this.#shown === null) throw error;
      return { ...this.#shown, at: this.#at, record: this.#stand.record, server: 'failed' };
    }
  }

  async explain(name: string): Promise<readonly Explanation[]> {
    return this.#stand.replay.explain(name);
  }

  order(order: BoardOrder): void {
    this.#attempt(() => this.#obey(order));
    this.#moved();
  }

  close(): void {
    this.#halt();
    for (const stand of [this.#stand, ...this.#left]) stand.close();
  }

  #obey({ action, record, at, request, speed }: BoardOrder): void {
    if (speed !== undefined) this.#setSpeed(speed);
    if (action === 'play') return this.#play();
    // What is on its way gets there: nothing plays meanwhile.
    if (action === 'pause' && this.#goal !== null) return;
    this.#halt();
    if (action === 'step') this.#step(request ?? null);
    else if (action === 'seek' && record !== undefined) this.#seekRecord(Math.min(record, this.#last));
    else if (action === 'seek' && at !== undefined) this.#seekTime(at);
  }

  #fromStart(): Stand {
    return new Stand(this.#recording, this.#last, (event, effects) => this.#look?.(event, effects));
  }

  /** Goes on from the last place from which `fits` says that it can: from here, from one that was left, or from the start. */
  #goOnFrom(fits: (stand: Stand) => boolean): void {
    const known = [this.#stand, ...this.#left].filter(fits);
    const best = known.reduce<Stand | null>((one, other) => (one === null || other.record > one.record ? other : one), null);
    if (best === this.#stand) return;
    const next = best ?? this.#fromStart();
    if (best !== null) this.#left.splice(this.#left.indexOf(best), 1);
    this.#left.unshift(this.#stand);
    this.#left.splice(LEFT_MAX).forEach((stand) => {
      stand.close();
    });
    this.#stand = next;
  }

  #take(record: JournalRecord): void {
    this.#stand.take(record);
    this.#at = record.at;
  }

  /** Neither plays nor goes anywhere. */
  #halt(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    this.#timer = null;
    this.#immediate = null;
    this.#started = null;
    this.#goal = null;
    this.#look = null;
  }

  #setSpeed(speed: number): void {
    if (this.#started !== null) this.#started = { wall: performance.now(), at: this.#at };
    this.#speed = speed;
  }

  #play(): void {
    if (this.#started !== null) return;
    this.#halt();
    if (this.#stand.next === null) {
      this.#goOnFrom(({ record }) => record === 0);
      this.#at = 0;
    }
    this.#started = { wall: performance.now(), at: this.#at };
    this.#timer = setTimeout(() => this.#tick(), TICK_MILLIS);
  }

  /** Takes in what has come due. Where that is more than fits a slice, the clock waits. */
  #tick(): void {
    const { wall, at } = this.#started as { wall: number; at: Micros };
    const now = at + (performance.now() - wall) * 1000 * this.#speed;
    const end = performance.now() + SLICE_MILLIS;
    this.#attempt(() => {
      for (let { next } = this.#stand; next !== null && next.at <= now; next = this.#stand.next) {
        this.#take(next);
        if (performance.now() < end) continue;
        this.#started = { wall: performance.now(), at: this.#at };
        break;
      }
      const { next } = this.#stand;
      if (next === null) return this.#halt();
      this.#at = Math.max(this.#at, Math.min(Math.floor(now), next.at));
      this.#timer = setTimeout(() => this.#tick(), TICK_MILLIS);
    });
  }

  #step(request: RequestId | null): void {
    const { next } = this.#stand;
    if (next === null) return;
    if (request === null) return this.#take(next);
    if (this.#hasEnded(request)) return;
    const from = this.#stand.record;
    let found = false;
    this.#look = (event, effects) => {
      found ||= isAbout(event, effects, request);
    };
    this.#go({
      before: () => !found,
      share: () => (this.#stand.record - from) / Math.max(1, this.#last - from),
      at: null,
    });
  }

  /** As far as it is remembered. */
  #hasEnded(request: RequestId): boolean {
    const told = this.#stand.replay.explain(String(request)).find(({ life }) => life.id === request);
    return told !== undefined && told.life.endedAt !== null;
  }

  #seekRecord(record: number): void {
    this.#goOnFrom((stand) => stand.record <= record);
    const from = this.#stand.record;
    this.#go({
      before: ({ n }) => n <= record,
      share: () => (this.#stand.record - from) / Math.max(1, record - from),
      at: null,
    });
  }

  #seekTime(at: Micros): void {
    this.#goOnFrom((stand) => stand.at <= at);
    const from = this.#stand.at;
    this.#go({
      before: (next) => next.at <= at,
      share: () => (this.#stand.at - from) / Math.max(1, at - from),
      at,
    });
  }

  #go(goal: Goal): void {
    this.#goal = goal;
    this.#wordAt = performance.now();
    this.#slice();
  }

  #slice(): void {
    this.#attempt(() => {
      const goal = this.#goal as Goal;
      const end = performance.now() + SLICE_MILLIS;
      for (let { next } = this.#stand; next !== null && goal.before(next); next = this.#stand.next) {
        if (performance.now() >= end) return this.#goOn();
        this.#take(next);
      }
      this.#at = goal.at === null || this.#stand.next === null ? this.#stand.at : goal.at;
      this.#goal = null;
      this.#look = null;
      this.#moved();
    });
  }

  #goOn(): void {
    this.#immediate = setImmediate(() => this.#slice());
    const now = performance.now();
    if (now - this.#wordAt < WORD_MILLIS) return;
    this.#wordAt = now;
    this.#moved();
  }

  /** The file may have gone meanwhile. */
  #attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#halt();
      this.#stand.next = null;
      this.#report(error);
      this.#moved();
    }
  }
}

/** Something happens to the request, or for its sake. */
function isAbout(event: Event, effects: readonly Effect[], id: RequestId): boolean {
  if ('id' in event && event.id === id) return true;
  if ('items' in event && event.items.some((item) => item.id === id)) return true;
  return effects.some((effect) => {
    if ('id' in effect && effect.id === id) return true;
    if ('cause' in effect && effect.cause.by === id) return true;
    if (effect.type === 'mirror') return effect.ids.includes(id);
    return effect.type === 'step' && effect.items.some((item) => item.id === id);
  });
}
