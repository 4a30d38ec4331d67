/** A life as bars: a lane for each state, and the time in each. */
import { figure, seconds } from './format.js';
import type { LivePhase } from './states.js';
import { PHASES } from './states.js';
import type { Story, StorySpell } from './story.js';

const LANE = 17;
const BAR = 11;
const TICKS = 4;

export function Gantt({ story }: { readonly story: Story }) {
  const all = Math.max(story.seconds, 1e-6);
  const lanes = PHASES.filter((phase) => story.seconds_by_state[phase] > 0 || story.states.some(({ state }) => state === phase));
  const height = lanes.length * LANE + 16;
  const share = (value: number) => `${((100 * value) / all).toFixed(3)}%`;
  return (
    <div class="gantt" role="img" aria-label={wordsOf(story)}>
      <ol class="lanes" aria-hidden="true">
        {lanes.map((phase) => (
          <li key={phase} data-phase={phase}>
            {phase}
            <output>{seconds(story.seconds_by_state[phase])}</output>
          </li>
        ))}
      </ol>
      <svg width="100%" height={height} aria-hidden="true">
        {Array.from({ length: TICKS + 1 }, (_, index) => (
          <Tick
            key={index}
            x={share((all * index) / TICKS)}
            height={height}
            words={seconds((all * index) / TICKS)}
            index={index}
          />
        ))}
        {story.states.map((spell) => (
          <Bar key={spell.from_seconds} spell={spell} lane={lanes.indexOf(spell.state)} all={all} />
        ))}
        {story.first_token_seconds !== null && (
          <line
            class="first-token"
            x1={share(story.first_token_seconds)}
            x2={share(story.first_token_seconds)}
            y1="0"
            y2={height - 14}
          >
            <title>first token after {seconds(story.first_token_seconds)}</title>
          </line>
        )}
      </svg>
    </div>
  );
}

function Tick({
  x,
  height,
  words,
  index,
}: {
  readonly x: string;
  readonly height: number;
  readonly words: string;
  readonly index: number;
}) {
  const anchor = index === 0 ? 'start' : index === TICKS ? 'end' : 'middle';
  return (
    <>
      <line class="tick" x1={x} x2={x} y1="0" y2={height - 14} />
      <text x={x} y={height - 3} text-anchor={anchor}>
        {words}
      </text>
    </>
  );
}

function Bar({ spell, lane, all }: { readonly spell: StorySpell; readonly lane: number; readonly all: number }) {
  const { state, from_seconds: from, to_seconds: to } = spell;
  const length = (to ?? all) - from;
  return (
    <rect
      class={`bar ${to === null ? 'lasting' : ''}`}
      data-phase={state}
      x={`${((100 * from) / all).toFixed(3)}%`}
      y={lane * LANE + (LANE - BAR) / 2}
      width={`${Math.max(0.35, (100 * length) / all).toFixed(3)}%`}
      height={BAR}
    >
      <title>{spellWords(spell, length)}</title>
    </rect>
  );
}

function spellWords({ state, from_seconds: from, tokens, preemption, swap }: StorySpell, length: number): string {
  const made = tokens > 0 ? `, ${tokens} tokens` : '';
  const why = preemption === null ? '' : `, ${preemption.why}${preemption.by === null ? '' : ` by ${preemption.by}`}`;
  const copied = swap === null ? '' : `, ${swap.blocks} blocks copied, ${swap.held_blocks} there already`;
  return `${state} from ${seconds(from)} for ${seconds(length)}${made}${why}${copied}`;
}

function wordsOf({ seconds: all, seconds_by_state }: Story): string {
  const parts = Object.entries(seconds_by_state)
    .filter(([, value]) => value > 0)
    .map(([phase, value]) => `${phase as LivePhase} ${seconds(value)} (${figure((100 * value) / Math.max(all, 1e-9))} %)`);
  return `Time by state: ${parts.join(', ')}`;
}
