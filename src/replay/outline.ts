/** How many ran and waited over a recording, in so many points at most, whatever its length. */
import type { BoardRecording } from '../core/board.js';
import { type State, waitingCount } from '../core/state.js';
import type { Micros } from '../core/types.js';

type Point = BoardRecording['outline'][number];

/** Between half and all of these are kept. */
const POINTS_MAX = 1024;

export class OutlineFold {
  #points: Point[] = [];
  /** From one point to the next, in records: doubled as often as there are too many. */
  #distance = 1;

  see(state: State, record: number, at: Micros): void {
    if (record % this.#distance !== 0) return;
    this.#points.push({ record, at, running: state.active.length, waiting: waitingCount(state) });
    if (this.#points.length <= POINTS_MAX) return;
    this.#distance *= 2;
    this.#points = this.#points.filter((point) => point.record % this.#distance === 0);
  }

  result(): readonly Point[] {
    return this.#points;
  }
}
