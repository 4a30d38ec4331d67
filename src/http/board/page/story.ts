/** What the server tells of one request, as far as the board reads it: the answer of `/v1/requests/{id}`. */
import type { Direction, Phase } from '../../../core/types.js';
import type { LivePhase } from './states.js';

/** Times are seconds since its arrival. */
export interface StorySpell {
  readonly state: LivePhase;
  readonly from_seconds: number;
  /** Null: it lasts. */
  readonly to_seconds: number | null;
  readonly tokens: number;
  readonly preemption: { readonly why: string; readonly by: number | null } | null;
  readonly lost_tokens: number;
  readonly swap: {
    readonly direction: Direction;
    readonly transfer: number | null;
    readonly blocks: number;
    readonly held_blocks: number;
    readonly bytes: number;
    readonly runs: number;
    readonly copy_seconds: number | null;
    readonly error: string | null;
  } | null;
}

export interface Story {
  readonly request: number;
  readonly labels: readonly string[];
  readonly tenant: string;
  readonly priority: number;
  readonly state: Phase;
  readonly outcome: string | null;
  readonly seconds: number;
  readonly prompt_tokens: number;
  readonly cached_tokens: number | null;
  readonly max_tokens: number;
  readonly generated_tokens: number;
  readonly steps: number;
  readonly first_token_seconds: number | null;
  readonly longest_pause: { readonly seconds: number; readonly at_seconds: number } | null;
  readonly seconds_by_state: Readonly<Record<LivePhase, number>>;
  readonly swaps: Readonly<
    Record<Direction, { readonly copies: number; readonly blocks: number; readonly bytes: number; readonly without_copy: number }>
  >;
  readonly states: readonly StorySpell[];
  readonly states_left_out: number;
  readonly explanation: readonly string[];
}

/**
 * Null: it is not known, or not any more.
 * @throws Error where the server says neither.
 */
export async function storyOf(id: number): Promise<Story | null> {
  const answer = await fetch(`/board/requests/${id}`, { headers: { accept: 'application/json' } });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const { choices } = (await answer.json()) as { readonly choices: readonly Story[] };
  return choices.find(({ request }) => request === id) ?? null;
}

export interface Happened {
  readonly line: string;
  readonly time: string;
  readonly words: string;
}

export interface Lines {
  /** What it waits for at this moment. */
  readonly now: string | null;
  readonly summary: readonly string[];
  readonly happened: readonly Happened[];
}

/** The explanation's sentences, and what happened when: lines that begin with a time. */
export function linesOf({ explanation }: Story): Lines {
  const summary: string[] = [];
  const happened: Happened[] = [];
  let now: string | null = null;
  for (const line of explanation) {
    const [, time, words] = /^\s*(\+[\d.,]+ m?s)\s+(.*)$/.exec(line) ?? [];
    if (time === undefined || words === undefined) summary.push(line);
    else if (words.startsWith(NOW)) now = words.slice(NOW.length);
    else happened.push({ line, time, words });
  }
  return { now, summary, happened };
}

const NOW = 'now: ';

/** The ways between states that it went, by the names of the chart's. */
export function waysOf({ states, state, states_left_out }: Story): Set<string> {
  const phases: Phase[] = states.map((spell) => spell.state);
  if (state === 'done') phases.push('done');
  const ways = new Set<string>();
  for (const [index, phase] of phases.entries()) {
    const before = phases[index - 1];
    // Where spells were left out, two that stand beside each other did not follow each other.
    if (before !== undefined && !(states_left_out > 0 && before === phase)) ways.add(`${before}>${phase}`);
  }
  return ways;
}
