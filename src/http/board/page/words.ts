/** The board's figures in a sentence or two, for who asks why it is slow right now. Facts only: a request's own page has its reasons. */
import type { BoardAbout, BoardFrame, BoardRequest } from '../../../core/board.js';
import { count, percent, plural, span } from './format.js';
import type { Point } from './history.js';
import { inState, isWaiting, living, running } from './states.js';

export interface Facts {
  readonly sentences: readonly string[];
  /** Who has waited longest in its state, and how long. */
  readonly longest: { readonly request: BoardRequest; readonly words: string } | null;
}

export function factsOf(frame: BoardFrame, about: BoardAbout, now: Point | null): Facts {
  const { counts, device } = frame;
  const waits = counts.queued + counts.swapped;
  const sentences: string[] = [];
  if (living(counts) === 0) sentences.push('Nobody asks for anything.');
  else {
    const moving = counts['swapping-out'] + counts['swapping-in'];
    const others = moving === 0 ? '' : `, ${count(moving)} ${moving === 1 ? 'is' : 'are'} being copied`;
    const full = running(counts) >= about.maxRunning ? ' (as many as may)' : '';
    const runs = `${plural(running(counts), 'request')} ${running(counts) === 1 ? 'runs' : 'run'}`;
    const waiting = waits === 0 ? 'nobody waits' : `${count(waits)} ${waits === 1 ? 'waits' : 'wait'}`;
    sentences.push(`${runs}${full}, ${waiting}${others}.`);
  }
  const share = device.total === 0 ? 0 : 1 - device.free / device.total;
  sentences.push(`Device memory is ${percent(share)} in use.`);
  if (now !== null) {
    const busy = Math.max(now.linkBusy.out, now.linkBusy.in);
    if (busy >= 0.01)
      sentences.push(`The link copies out ${percent(now.linkBusy.out)} of the time, in ${percent(now.linkBusy.in)}.`);
  }
  return { sentences, longest: longestOf(frame) };
}

function longestOf({ requests, at }: BoardFrame): Facts['longest'] {
  let longest: BoardRequest | null = null;
  for (const request of requests)
    if (isWaiting(request.phase) && (longest === null || request.since < longest.since)) longest = request;
  return longest === null ? null : { request: longest, words: `${longest.phase} for ${span(inState(longest, at))}` };
}
