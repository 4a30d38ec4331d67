/**
 * The queue between the core's transfers and whoever copies: the same order for the live and the simulated hands. One
 * lane for each direction, or one for both; in a lane one chunk at a time. Long transfers go in chunks, and after each
 * of them the lane takes first what somebody waits for: a copy ahead of need delays it by one chunk at most. Short ones may
 * be gathered in one: for them it takes longer to have somebody copy and to hear of it than the copy itself.
 */
import type { Direction, Micros, Run } from '../core/types.js';
import type { Answer, TransferEffect, TransfersPort } from './ports.js';

/** Some milliseconds of a link: short to wait for, long beside what it costs to begin another. */
export const CHUNK_BYTES = 32 * 2 ** 20;

/** Transfers are gathered up to so much: a fraction of a millisecond, by which the first may land later than alone. */
export const GATHERED_BYTES = 2 ** 20;

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
  /**
   * Null: each transfer has chunks of its own. Else those that wait in a lane may share one, and `gather` calls `go` when the
   * decision in progress is complete, so that all of its transfers are there.
   */
  readonly gather: ((go: () => void) => void) | null;
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

/** What a journey has in the chunk that is on its way. */
interface Load {
  readonly journey: Journey;
  readonly runs: readonly Run[];
  readonly blocks: number;
}

class Lane {
  readonly #options: LinkOptions;
  readonly #chunkBlocks: number;
  readonly #gatheredBlocks: number;
  /** In order of arrival; those whose chunk is on its way are the first of their list. */
  readonly #needed: Journey[] = [];
  readonly #ahead: Journey[] = [];
  #busy = false;
  #gathering = false;
  #closed = false;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#chunkBlocks = chunkBlocks(options.blockBytes);
    this.#gatheredBlocks = Math.floor(GATHERED_BYTES / options.blockBytes);
  }

  add(effect: TransferEffect): void {
    if (effect.runs.length === 0) throw new Error(`transfer ${effect.transfer} has nothing to copy`);
    const journey = { effect, run: 0, gone: 0, blocksLeft: effect.blocks, micros: 0 };
    this.#listOf(journey).push(journey);
    const { gather } = this.#options;
    if (gather === null) return this.#go();
    if (this.#gathering) return;
    this.#gathering = true;
    gather(() => {
      this.#gathering = false;
      this.#go();
    });
  }

  close(): void {
    this.#closed = true;
  }

  #listOf({ effect }: Journey): Journey[] {
    return isNeeded(effect) ? this.#needed : this.#ahead;
  }

  /** Sends the next chunk, where the lane is free and anything waits. */
  #go(): void {
    const list = this.#needed.length > 0 ? this.#needed : this.#ahead;
    const first = list[0];
    if (first === undefined || this.#busy || this.#closed) return;
    const loads = [this.#cut(first)];
    if (this.#options.gather !== null) this.#gather(loads, list);
    const chunk = {
      direction: first.effect.direction,
      runs: loads.length === 1 ? (loads[0] as Load).runs : loads.flatMap(({ runs }) => runs),
      blocks: loads.reduce((sum, { blocks }) => sum + blocks, 0),
    };
    this.#busy = true;
    let returned = false;
    let answered = false;
    this.#options.perform(chunk, (result) => {
      if (!returned || answered) throw new Error(`transfer ${first.effect.transfer}: a chunk was answered too early or twice`);
      answered = true;
      this.#done(loads, chunk.blocks, result);
    });
    returned = true;
  }

  /** Adds whole transfers that wait behind the first and go the same way, as long as they are short together. */
  #gather(loads: Load[], list: readonly Journey[]): void {
    const { journey, blocks } = loads[0] as Load;
    let room = journey.blocksLeft === 0 ? this.#gatheredBlocks - blocks : 0;
    for (let index = 1; index < list.length; index += 1) {
      const next = list[index] as Journey;
      room -= next.blocksLeft;
      if (room < 0 || next.effect.direction !== journey.effect.direction) return;
      loads.push(this.#cut(next));
    }
  }

  #done(loads: readonly Load[], chunkBlocks: number, result: Micros | Error): void {
    this.#busy = false;
    if (this.#closed) return;
    const failed = typeof result !== 'number';
    const over: Journey[] = [];
    let blocksBefore = 0;
    for (const { journey, blocks } of loads) {
      // Each gets its share of the time, in whole microseconds that add up.
      const upTo = (count: number) => (failed ? 0 : Math.round((result * count) / chunkBlocks));
      journey.micros += loads.length === 1 && !failed ? result : upTo(blocksBefore + blocks) - upTo(blocksBefore);
      blocksBefore += blocks;
      if (!failed && journey.blocksLeft > 0) continue;
      this.#listOf(journey).shift();
      over.push(journey);
    }
    // Answered before the lane goes on: what is decided upon it may be needed more than what waits.
    for (const { effect, micros } of over) {
      const { transfer } = effect;
      this.#options.answer(
        failed ? { type: 'transferFailed', transfer, error: result.message } : { type: 'landed', transfer, micros },
      );
    }
    this.#go();
  }

  /** The next blocks of a transfer, whole blocks of at most CHUNK_BYTES. */
  #cut(journey: Journey): Load {
    const { runs, blocks } = journey.effect;
    if (blocks <= this.#chunkBlocks) {
      journey.blocksLeft = 0;
      return { journey, runs, blocks };
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
    return { journey, runs: cut, blocks: taken };
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
