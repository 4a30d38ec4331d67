/** One request: where it is, what it went through, and the words of its explanation. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { BoardRequest } from '../../../core/board.js';
import { StateChart } from './chart.js';
import { about, frames, player, post } from './feed.js';
import { bytes, count, ordinal, plural, seconds } from './format.js';
import { Gantt } from './gantt.js';
import { useSource } from './hooks.js';
import { StateName } from './marks.js';
import { chosen, say } from './place.js';
import { linesOf, type Story, storyOf, waysOf } from './story.js';

/** From one time that a request's story is asked for to the next, at least; and how often it is seen whether to ask. */
const ASK_MILLIS = 1000;
const CHECK_MILLIS = 100;
const PRIORITY_MAX = 2 ** 31 - 1;

export function Drawer() {
  const id = useSource(chosen);
  return id === null ? null : <Open key={id} id={id} />;
}

function Open({ id }: { readonly id: number }) {
  const frame = useSource(frames);
  const recorded = useSource(player) !== null;
  const [story, known] = useStory(id, recorded ? (frame?.record ?? 0) : (frame?.at ?? 0), recorded);
  const row = frame?.requests.find((request) => request.id === id) ?? null;
  const element = useRef<HTMLElement>(null);
  const before = useRef<Element | null>(null);
  useEffect(() => {
    before.current = document.activeElement;
    element.current?.focus();
    return () => {
      if (before.current instanceof HTMLElement) before.current.focus();
    };
  }, []);
  const state = row?.phase ?? story?.state ?? null;
  return (
    <section class="drawer" role="dialog" aria-label={`Request ${id}`} tabIndex={-1} ref={element}>
      <div class="drawer-head">
        <h2>Request {id}</h2>
        {state && <StateName phase={state} />}
        {story?.outcome && <span class="of">{story.outcome}</span>}
        <button type="button" class="quiet close" onClick={() => chosen.set(null)} aria-label="Close">
          ✕
        </button>
      </div>
      {story?.labels.length ? <p class="labels">{story.labels.join('  ')}</p> : null}
      {!story && known && <p class="nothing">The server does not know it: it has not arrived yet, or ended long ago.</p>}
      {row && <Control request={row} />}
      {recorded && (
        <button
          type="button"
          disabled={story?.state === 'done'}
          onClick={() => void post('player', { action: 'step', request: id })}
        >
          On to its next event
        </button>
      )}
      {story && <Told story={story} row={row} />}
    </section>
  );
}

/**
 * Asked again while there may be more to tell: once a second at most, where somebody sees it, and not of a request that has
 * ended for good. `mark`: another one says that something may have changed.
 */
function useStory(id: number, mark: number, recorded: boolean): [story: Story | null, known: boolean] {
  const [told, setTold] = useState<readonly [story: Story | null, known: boolean]>([null, false]);
  const now = useRef({ mark, over: false });
  now.current = { mark, over: !recorded && told[0]?.state === 'done' };
  useEffect(() => {
    let [asked, at, busy] = [Number.NaN, Number.NEGATIVE_INFINITY, false];
    const ask = async () => {
      const { mark: wanted, over } = now.current;
      if (busy || over || document.hidden || wanted === asked || performance.now() - at < ASK_MILLIS) return;
      [at, busy] = [performance.now(), true];
      try {
        setTold([await storyOf(id), true]);
        asked = wanted;
      } catch {
        // Nobody answered: what was told before stands, until the next time.
      } finally {
        busy = false;
      }
    };
    void ask();
    const timer = setInterval(ask, CHECK_MILLIS);
    return () => clearInterval(timer);
  }, [id]);
  return [...told];
}

function Told({ story, row }: { readonly story: Story; readonly row: BoardRequest | null }) {
  const { now, summary, happened } = linesOf(story);
  const facts: readonly (readonly [string, string])[] = [
    ['tenant', story.tenant || '–'],
    ['priority', ordinal(story.priority)],
    ['alive for', seconds(story.seconds)],
    ['first token', story.first_token_seconds === null ? '–' : seconds(story.first_token_seconds)],
    ['longest pause', story.longest_pause === null ? '–' : seconds(story.longest_pause.seconds)],
    ['prompt', `${count(story.prompt_tokens)}${story.cached_tokens ? `, ${count(story.cached_tokens)} found` : ''}`],
    ['generated', `${count(story.generated_tokens)} of ${count(story.max_tokens)}`],
    ['blocks', row === null ? '–' : `${count(row.deviceBlocks)} device, ${count(row.hostBlocks)} host`],
    ['sent out', copiesOf(story, 'out')],
    ['brought in', copiesOf(story, 'in')],
  ];
  return (
    <>
      <dl class="facts-grid">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <h3>Its time</h3>
      <Gantt story={story} />
      {story.states_left_out > 0 && <p class="of">{plural(story.states_left_out, 'stretch')} in the middle left out</p>}
      <h3>Why</h3>
      <div class="words">
        {now !== null && (row === null || row.phase === story.state) && (
          <p class="now">
            Now <Linked text={now} />.
          </p>
        )}
        {summary.map((line) => (
          <p key={line}>
            <Linked text={line} />
          </p>
        ))}
      </div>
      <h3>Its chart</h3>
      <StateChart
        name="request"
        words={`Chart of request ${story.request}, in ${row?.phase ?? story.state}`}
        notes={timesOf(story)}
        lit={row?.phase ?? story.state}
        gone={waysOf(story)}
      />
      <Swaps story={story} />
      {happened.length > 0 && <h3>What happened</h3>}
      <ol class="happened">
        {happened.map(({ line, time, words }) => (
          <li key={line}>
            <span class="of">{time}</span>
            <span>
              <Linked text={words} />
            </span>
          </li>
        ))}
      </ol>
    </>
  );
}

/** The names of other requests lead to them. */
function Linked({ text }: { readonly text: string }) {
  return (
    <>
      {text.split(/(?<=request )(\d+)/).map((part, index) =>
        index % 2 === 0 ? (
          part
        ) : (
          <button type="button" class="link" key={`${index} ${part}`} onClick={() => chosen.set(Number(part))}>
            {part}
          </button>
        ),
      )}
    </>
  );
}

/** How long it was in each state. */
function timesOf({ seconds_by_state, outcome }: Story): Record<string, string> {
  const times = Object.entries(seconds_by_state).filter(([, value]) => value > 0);
  return {
    ...Object.fromEntries(times.map(([phase, value]) => [phase, seconds(value)])),
    ...(outcome === null ? {} : { done: outcome }),
  };
}

function copiesOf({ swaps }: Story, way: 'out' | 'in'): string {
  const { copies, bytes: moved, without_copy: free } = swaps[way];
  if (copies === 0) return free === 0 ? '–' : `${plural(free, 'time')} without a copy`;
  return `${plural(copies, 'copy').replace('copys', 'copies')}, ${bytes(moved)}${free > 0 ? `; ${count(free)} without` : ''}`;
}

function Swaps({ story }: { readonly story: Story }) {
  const swaps = story.states.filter((spell) => spell.swap !== null);
  if (swaps.length === 0) return null;
  return (
    <>
      <h3>Its swaps</h3>
      <table class="swaps">
        <thead>
          <tr>
            <th scope="col">at</th>
            <th scope="col">way</th>
            <th scope="col">copied</th>
            <th scope="col">there already</th>
            <th scope="col">runs</th>
            <th scope="col">took</th>
            <th scope="col">because</th>
          </tr>
        </thead>
        <tbody>
          {swaps.map(({ swap, from_seconds, preemption }) => (
            <tr key={from_seconds}>
              <td>{seconds(from_seconds)}</td>
              <td>
                <span class={`arrow ${swap?.direction}`}>{swap?.direction === 'out' ? '↗ out' : '↙ in'}</span>
              </td>
              <td>{swap?.transfer === null ? 'nothing' : `${count(swap?.blocks ?? 0)}, ${bytes(swap?.bytes ?? 0)}`}</td>
              <td>{count(swap?.held_blocks ?? 0)}</td>
              <td>{count(swap?.runs ?? 0)}</td>
              <td>{swap?.copy_seconds === null || swap?.copy_seconds === undefined ? '–' : seconds(swap.copy_seconds)}</td>
              <td>{preemption === null ? '' : `${preemption.why}${preemption.by === null ? '' : ` (${preemption.by})`}`}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

/** Only where the server allows it. */
function Control({ request }: { readonly request: BoardRequest }) {
  const known = useSource(about);
  const [priority, setPriority] = useState(String(request.priority));
  const [sure, setSure] = useState(false);
  const [answer, setAnswer] = useState<string | null>(null);
  if (!known?.admin) return null;
  const send = async (what: string, body: object, done: string) => {
    const refusal = await post(`requests/${request.id}/${what}`, body);
    setAnswer(refusal ?? done);
    say(refusal ?? done);
  };
  const change = () => send('priority', { priority: Number(priority) }, `Its priority is ${priority} now.`);
  const abort = () => {
    if (sure) void send('abort', {}, 'It is asked to end.');
    setSure(!sure);
  };
  return (
    <form
      class="control"
      onSubmit={(event) => {
        event.preventDefault();
        void change();
      }}
    >
      <label>
        priority
        <input
          type="number"
          required
          min={-PRIORITY_MAX - 1}
          max={PRIORITY_MAX}
          step="1"
          value={priority}
          onInput={(event) => setPriority(event.currentTarget.value)}
        />
      </label>
      <button type="submit">Set</button>
      <span class="apart" />
      {sure && (
        <button type="button" onClick={() => setSure(false)}>
          Keep it
        </button>
      )}
      <button type="button" class="danger" onClick={abort}>
        {sure ? 'Yes, abort' : 'Abort'}
      </button>
      {answer && <output class="answer">{answer}</output>}
    </form>
  );
}
