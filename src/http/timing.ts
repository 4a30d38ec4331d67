/** Where the time of an answer went, from the lives of its choices: what `return_timing` puts beside `usage`. */
import type { Explanation } from '../actors/system.js';
import { microsByPhase } from '../core/life.js';
import type { TimingBody } from './schema.js';

const seconds = (micros: number): number => micros / 1e6;

/** @param lineSeconds Spent in the tenant's own line, before the scheduler knew of the request. */
export function timingBody(explanations: readonly Explanation[], lineSeconds: number): TimingBody {
  const lives = explanations.map(({ life, at }) => ({ life, at, end: life.endedAt ?? at }));
  const start = Math.min(...lives.map(({ life }) => life.arrivedAt));
  const firsts = lives.flatMap(({ life }) => life.firstTokenAt ?? []);
  return {
    seconds: lives.length === 0 ? lineSeconds : lineSeconds + seconds(Math.max(...lives.map(({ end }) => end)) - start),
    line_seconds: lineSeconds,
    first_token_seconds: firsts.length === 0 ? null : lineSeconds + seconds(Math.min(...firsts) - start),
    choices: lives.map(({ life, at, end }, index) => ({
      index,
      seconds: seconds(end - life.arrivedAt),
      first_token_seconds: life.firstTokenAt === null ? null : seconds(life.firstTokenAt - life.arrivedAt),
      seconds_by_state: Object.fromEntries(
        Object.entries(microsByPhase(life, at)).map(([state, micros]) => [state.replaceAll('-', '_'), seconds(micros)]),
      ),
      preemptions: Object.values(life.preemptions).reduce((sum, count) => sum + count, 0),
    })),
  };
}
