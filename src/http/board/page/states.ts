/** The states of a request as the board names, orders and groups them; their colours are in `styles/theme.css`. */
import type { BoardFrame, BoardRequest } from '../../../core/board.js';
import type { Micros, Phase } from '../../../core/types.js';

export type LivePhase = Exclude<Phase, 'done'>;

export const PHASES: readonly LivePhase[] = ['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in'];

export const isRunning = (phase: Phase): boolean => phase === 'prefilling' || phase === 'decoding';

/** Nothing of it is computed or copied: it waits for somebody to let it. */
export const isWaiting = (phase: Phase): boolean => phase === 'queued' || phase === 'swapped';

type Counts = BoardFrame['counts'];

export const running = (counts: Counts): number => counts.prefilling + counts.decoding;
export const living = (counts: Counts): number => PHASES.reduce((sum, phase) => sum + counts[phase], 0);

export const inState = ({ since }: BoardRequest, at: Micros): Micros => Math.max(0, at - since);
