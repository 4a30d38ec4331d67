/**
 * The one stream of a board: all viewers share one look at the source, a few times a second, made only while somebody is
 * ready for it. A viewer is sent a whole frame first and then what has changed; one that does not keep up is sent nothing
 * until it has taken what it has, and then a whole frame again, so that it costs no more than a frame or two of memory.
 */
import type { ServerResponse } from 'node:http';
import { type BoardFrame, type BoardPlayer, type BoardReading, deltaOf } from '../../core/board.js';
import { FastswitchError } from '../../errors.js';

/** Where frames come from: the system that serves, or a recording. */
export interface BoardSource {
  /** `maps`: with the two memories, which are the bulk. */
  read(maps: boolean): Promise<BoardReading>;
  /** Where a recording stands; null: it is no recording. */
  player(): BoardPlayer | null;
}

export interface FeedOptions {
  /** From one look to the next, at least. */
  readonly periodMillis: number;
  /** From one drawing of the memories to the next; 0: they are in every frame. */
  readonly mapsMillis: number;
  /** A stream that says nothing for so long gets a comment. */
  readonly keepAliveMillis: number;
  /** Told of a mistake of our own. */
  readonly report: (error: unknown) => void;
}

const FEED_DEFAULTS: FeedOptions = { periodMillis: 250, mapsMillis: 1000, keepAliveMillis: 15_000, report() {} };

export const VIEWERS_MAX = 32;
/** A look may take this share of the time: where it takes long, there are fewer. */
const LOOK_SHARE = 1 / 8;
/** From one look to the next, where something has moved. */
const MOVED_MILLIS = 40;
/** After the end of a stream a browser waits for so long before it asks anew. */
const RETRY_MILLIS = 1500;
/** What a viewer is told last has so long to go out. */
const LAST_WORDS_MILLIS = 250;

/** Of one stream: what it was sent, and how to tell it that there is more. */
interface Viewer {
  readonly response: ServerResponse;
  /** Number of the last frame and of the last word of the player that it was sent; 0: none. */
  frame: number;
  player: number;
  /** Null: it is still being sent something, and not waiting. */
  wake: (() => void) | null;
  over: boolean;
}

export class Feed {
  readonly #source: BoardSource;
  readonly #options: FeedOptions;
  readonly #viewers = new Set<Viewer>();
  /** The newest frame, its number, and what has changed since the one before (null: there is none to compare). */
  #frame: BoardFrame | null = null;
  #number = 0;
  #delta: string | null = null;
  /** The newest frame as text, once somebody needed it. */
  #snapshot: string | null = null;
  #player: { readonly number: number; readonly text: string } = { number: 0, text: '' };
  #looking = false;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #mapsAt = Number.NEGATIVE_INFINITY;
  /** Something has moved since the last look that was begun. */
  #moved = false;
  #interrupt: () => void = () => {};
  #closed = false;

  constructor(source: BoardSource, options: Partial<FeedOptions> = {}) {
    this.#source = source;
    this.#options = { ...FEED_DEFAULTS, ...options };
  }

  get viewers(): number {
    return this.#viewers.size;
  }

  /** It looks at its source now and then. */
  get looking(): boolean {
    return this.#looking;
  }

  /** The events of one viewer, until it leaves or the feed ends. `response`: what they are written to. */
  open(response: ServerResponse): AsyncGenerator<string, void, undefined> {
    if (this.#closed) throw new FastswitchError('draining', 'The server is shutting down, and its board with it.', null, 1);
    if (this.#viewers.size >= VIEWERS_MAX) {
      throw new FastswitchError(
        'too_many_viewers',
        `${VIEWERS_MAX} others look at this board already. Close one of them, or try again later.`,
        null,
        5,
      );
    }
    const viewer: Viewer = { response, frame: 0, player: 0, wake: null, over: false };
    this.#viewers.add(viewer);
    response.once('close', () => this.#leave(viewer));
    return this.#stream(viewer);
  }

  /** Something is another than it was: viewers see it now, and not only at the next look. */
  moved(): void {
    if (this.#moved) return;
    this.#moved = true;
    this.#interrupt();
  }

  /** Ends every stream; one whose viewer takes nothing is cut. */
  close(): void {
    this.#closed = true;
    this.#interrupt();
    for (const viewer of this.#viewers) {
      viewer.over = true;
      viewer.wake?.();
      setTimeout(() => viewer.response.destroy(), LAST_WORDS_MILLIS).unref();
    }
  }

  #leave(viewer: Viewer): void {
    viewer.over = true;
    this.#viewers.delete(viewer);
    viewer.wake?.();
  }

  async *#stream(viewer: Viewer): AsyncGenerator<string, void, undefined> {
    yield `retry: ${RETRY_MILLIS}\n\n`;
    for (;;) {
      const news = this.#newsFor(viewer);
      if (news !== '') yield news;
      else if (viewer.over) return;
      else if (!(await this.#changed(viewer))) yield ': nothing new\n\n';
    }
  }

  #newsFor(viewer: Viewer): string {
    let news = '';
    if (viewer.player < this.#player.number) news += `event: player\ndata: ${this.#player.text}\n\n`;
    viewer.player = this.#player.number;
    if (this.#frame !== null && viewer.frame < this.#number) {
      const follows = viewer.frame > 0 && viewer.frame === this.#number - 1 && this.#delta !== null;
      if (!follows) this.#snapshot ??= JSON.stringify(this.#frame);
      news += follows ? `event: delta\ndata: ${this.#delta}\n\n` : `event: snapshot\ndata: ${this.#snapshot}\n\n`;
      viewer.frame = this.#number;
    }
    return news;
  }

  /** False: nothing has, for as long as a stream may be silent. */
  #changed(viewer: Viewer): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => wake(false), this.#options.keepAliveMillis);
      const wake = (changed: boolean) => {
        clearTimeout(timer);
        viewer.wake = null;
        resolve(changed);
      };
      viewer.wake = () => wake(true);
      if (!this.#looking) void this.#look();
    });
  }

  /** Somebody has taken all that there was. */
  #wanted(): boolean {
    for (const { wake } of this.#viewers) if (wake !== null) return true;
    return false;
  }

  /** Looks for as long as somebody waits for it. One look at a time. */
  async #look(): Promise<void> {
    this.#looking = true;
    let pause = this.#options.periodMillis - (performance.now() - this.#lookedAt);
    for (;;) {
      await this.#pause(pause);
      if (this.#closed || !this.#wanted()) break;
      const started = performance.now();
      this.#lookedAt = started;
      this.#moved = false;
      try {
        await this.#take(started);
      } catch (error) {
        this.#fail(error);
      }
      const took = performance.now() - started;
      pause = Math.max(this.#options.periodMillis - took, took / LOOK_SHARE - took);
    }
    this.#looking = false;
    // Who comes later begins with a frame of then.
    this.#frame = null;
    this.#delta = null;
  }

  async #take(now: number): Promise<void> {
    const before = this.#frame;
    const maps = before === null || now - this.#mapsAt >= this.#options.mapsMillis;
    const reading = await this.#source.read(maps);
    if (maps) this.#mapsAt = now;
    this.#notePlayer();
    this.#publish(before, {
      ...reading,
      device: reading.device ?? (before as BoardFrame).device,
      host: reading.host ?? (before as BoardFrame).host,
    });
  }

  #publish(before: BoardFrame | null, frame: BoardFrame): void {
    this.#frame = frame;
    this.#number += 1;
    this.#snapshot = null;
    this.#delta = before === null ? null : JSON.stringify(deltaOf(before, frame));
    for (const { wake } of this.#viewers) wake?.();
  }

  #notePlayer(): void {
    const player = this.#source.player();
    if (player === null) return;
    const text = JSON.stringify(player);
    if (text !== this.#player.text) this.#player = { number: this.#player.number + 1, text };
  }

  /** There will be no other frame: viewers are told, where they have one, and their streams end. */
  #fail(error: unknown): void {
    const broken = error instanceof FastswitchError && error.code === 'engine_failed';
    if (!broken) this.#options.report(error);
    if (broken && this.#frame !== null) this.#publish(this.#frame, { ...this.#frame, server: 'failed' });
    for (const viewer of this.#viewers) {
      viewer.over = true;
      viewer.wake?.();
    }
  }

  /** Shorter where something moves, but never without end. */
  async #pause(millis: number): Promise<void> {
    if (!this.#moved) await this.#sleep(millis);
    if (this.#moved) await this.#sleep(MOVED_MILLIS - (performance.now() - this.#lookedAt));
  }

  #sleep(millis: number): Promise<void> {
    if (millis <= 0 || this.#closed) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, millis);
      this.#interrupt = () => {
        clearTimeout(timer);
        this.#interrupt = () => {};
        resolve();
      };
    });
  }
}
