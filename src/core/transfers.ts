/**
 * Blocks -> runs: a transfer copies a request's blocks position by position from one memory to the other, and
 * neighbours that are contiguous on both sides go in one copy.
 */
import type { Run } from './types.js';

/**
 * The copies that move block table `from` onto block table `to`, in order of position. As few as there can be: a run
 * ends only where one side is not contiguous. The tables must be of equal length.
 */
export function runsBetween(from: readonly number[], to: readonly number[]): Run[] {
  const length = checkedLength(from, to);
  const runs: Run[] = [];
  let start = 0;
  for (let position = 1; position <= length; position++) {
    if (continues(from, to, position)) continue;
    runs.push({ from: from[start] as number, to: to[start] as number, blocks: position - start });
    start = position;
  }
  return runs;
}

function checkedLength(from: readonly number[], to: readonly number[]): number {
  if (from.length !== to.length) throw new Error(`transfers: ${from.length} blocks onto ${to.length}`);
  return from.length;
}

/** The block at this position follows the one before it in both memories (never behind the last position). */
function continues(from: readonly number[], to: readonly number[], position: number): boolean {
  return from[position] === (from[position - 1] as number) + 1 && to[position] === (to[position - 1] as number) + 1;
}

/** The same with a copy for every block, neighbours or not. */
export function singleRuns(from: readonly number[], to: readonly number[]): Run[] {
  const length = checkedLength(from, to);
  return Array.from({ length }, (_, position) => ({ from: from[position] as number, to: to[position] as number, blocks: 1 }));
}
