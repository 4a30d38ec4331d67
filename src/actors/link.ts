/**
 * The queue between the core's transfers and whoever copies: the same order for the live and the simulated hands. One
 * lane for each direction, or one for both; in a lane one chunk at a time. Long transfers go in chunks, and after each
 * of them the lane takes first what somebody waits for: a copy ahead of need delays it by one chunk at most.
 */
import type { Direction, Micros, Run } from '../core/types.js';
import type { Answer, TransferEffect, TransfersPort } from './ports.js';

/** Some milliseconds of a link: short to wait for, long beside what it costs to begin another. */
export const CHUNK_BYTES = 32 * 2 ** 20;

/** Most blocks that go in one chunk. */
export function chunkBlocks(blockBytes: number): number {
  return Math.max(1, Math.floor(CHUNK_BYTES / blockBytes));
}

/** What is copied in one go. */
export interface Chunk {
  readonly direction: Direction;
  readonly runs: readonly Run[];
  /** The sum of the runs, at least 1. */
  readonly blocks: number;
}

/** The chunk has landed, and how long its copy took, or why it failed. */
export type ChunkDone = (result: Micros | Error) => void;

interface LinkOptions {
  /** Both directions at the same time. */
  readonly duplex: boolean;
  readonly blockBytes: number;
  /** Copies a chunk and calls `done` once, later: never before it has returned. */
  readonly perform: (chunk: Chunk, done: ChunkDone) => void;
  readonly answer: Answer;
}

/** A transfer that has not been answered. */
interface Journey {
  readonly effect: TransferEffect;
  /** The first run that has not gone entirely, and its blocks that have. */
  run: number;
  gone: number;
  blocksLeft: number;
  /** Of the chunks that have landed. */
  micros: Micros;
}

/** Who goes first: someone waits for these. */
function isNeeded({ type }: TransferEffect): boolean {
  return type === 'swapOut' || type === 'swapIn';
}

class Lane {
  readonly #options: LinkOptions;
  readonly #chunkBlocks: number;
  /** In order of arrival; the one whose chunk is on its way is the first of its list. */
  readonly #needed: Journey[] = [];
  readonly #ahead: Journey[] = [];
  #busy = false;
  #closed = false;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#chunkBlocks = chunkBlocks(options.blockBytes);
  }

  add(effect: TransferEffect): void {
    if (effect.runs.length === 0) throw new Error(`transfer ${effect.transfer} has nothing to copy`);
    const journey = { effect, run: 0, gone: 0, blocksLeft: effect.blocks, micros: 0 };
    (isNeeded(effect) ? this.#needed : this.#ahead).push(journey);
    this.#go();
  }

  close(): void {
    this.#closed = true;
  }

  /** Sends the next chunk, where the lane is free and anything waits. */
  #go(): void {
    const journey = this.#needed[0] ?? this.#ahead[0];
    if (journey === undefined || this.#busy || this.#closed) return;
    const chunk = this.#cut(journey);
    this.#busy = true;
    let returned = false;
    let answered = false;
    this.#options.perform(chunk, (result) => {
      if (!returned || answered) throw new Error(`transfer ${journey.effect.transfer}: a chunk was answered too early or twice`);
      answered = true;
      this.#done(journey, result);
    });
    returned = true;
  }

  #done(journey: Journey, result: Micros | Error): void {
    this.#busy = false;
    if (this.#closed) return;
    const failed = typeof result !== 'number';
    if (!failed) journey.micros += result;
    if (failed || journey.blocksLeft === 0) {
      const { transfer } = journey.effect;
      (isNeeded(journey.effect) ? this.#needed : this.#ahead).shift();
      // Answered before the lane goes on: what is decided upon it may be needed more than what waits.
      this.#options.answer(
        failed
          ? { type: 'transferFailed', transfer, error: result.message }
          : { type: 'landed', transfer, micros: journey.micros },
      );
    }
    this.#go();
  }

  /** The next blocks of a transfer, whole blocks of at most CHUNK_BYTES. */
  #cut(journey: Journey): Chunk {
    const { direction, runs, blocks } = journey.effect;
    if (blocks <= this.#chunkBlocks) {
      journey.blocksLeft = 0;
      return { direction, runs, blocks };
    }
    const cut: Run[] = [];
    let room = Math.min(this.#chunkBlocks, journey.blocksLeft);
    const taken = room;
    while (room > 0) {
      const run = runs[journey.run] as Run;
      const count = Math.min(room, run.blocks - journey.gone);
      cut.push({ from: run.from + journey.gone, to: run.to + journey.gone, blocks: count });
      room -= count;
      journey.gone += count;
      if (journey.gone === run.blocks) {
        journey.run += 1;
        journey.gone = 0;
      }
    }
    journey.blocksLeft -= taken;
    return { direction, runs: cut, blocks: taken };
  }
}

/** Answers every transfer once: `landed` with the time of its copies without its waiting, or `transferFailed`. */
export class Link implements TransfersPort {
  readonly #lanes: Readonly<Record<Direction, Lane>>;

  constructor(options: LinkOptions) {
    const out = new Lane(options);
    this.#lanes = { out, in: options.duplex ? new Lane(options) : out };
  }

  start(effect: TransferEffect): void {
    this.#lanes[effect.direction].add(effect);
  }

  /** Nothing more is sent or answered; a chunk on its way is not held back. */
  close(): void {
    this.#lanes.out.close();
    this.#lanes.in.close();
  }
}
