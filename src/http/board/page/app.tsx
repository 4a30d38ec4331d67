import { useEffect, useState } from 'preact/hooks';
import type { Phase } from '../../../core/types.js';
import { StateChart } from './chart.js';
import { Help } from './dialogs.js';
import { Drawer } from './drawer.js';
import { connection, frames, history } from './feed.js';
import type { Looking } from './filters.js';
import { FactsLine, Header } from './header.js';
import { useSource } from './hooks.js';
import { listen } from './keys.js';
import { Kpis } from './kpis.js';
import { Patterns } from './marks.js';
import { Memory } from './memory.js';
import { chosen, say, spoken } from './place.js';
import { Plots, Shares } from './plots.js';
import { playOrPause, ReplayBar, stepOn } from './replay.js';
import { EVERYBODY } from './rows.js';
import { running } from './states.js';
import { Requests } from './table.js';

const FIRST: Looking = { filter: EVERYBODY, sorting: { column: 'rank', descending: false } };

export function App() {
  const [looking, setLooking] = useState(FIRST);
  const [help, setHelp] = useState(false);
  useEffect(
    () =>
      listen({
        c: () => focus('.charts .state[role=button]'),
        r: () => focus('#requests-table'),
        '/': () => focus('#requests-search'),
        m: () => focus('.map canvas'),
        x: () => setLooking(FIRST),
        Escape: () => (chosen.get() === null ? false : chosen.set(null)),
        ' ': playOrPause,
        '.': stepOn,
        '?': () => setHelp(true),
      }),
    [],
  );
  useConnectionWords();
  const ask = (state: string) => {
    setLooking({ filter: { ...EVERYBODY, phases: new Set(phasesOf(state)) }, sorting: { column: 'since', descending: true } });
    focus('#requests-table');
  };
  return (
    <>
      <Patterns />
      <button type="button" class="skip" onClick={() => focus('#requests-table')}>
        To the requests
      </button>
      <Header onHelp={() => setHelp(true)} />
      <main>
        <FactsLine />
        <Kpis />
        <Charts pressed={looking.filter.phases} onState={ask} />
        <Requests looking={looking} onLooking={setLooking} />
        <Memory />
        <Plots />
        <Shares />
      </main>
      <Drawer />
      <ReplayBar />
      {help && <Help onClose={() => setHelp(false)} />}
      <Spoken />
    </>
  );
}

/** A state that has others in it stands for all of them. */
const phasesOf = (state: string): Phase[] => (state === 'running' ? ['prefilling', 'decoding'] : [state as Phase]);

/** All states of the chart that are asked for with these: one that has others in it where all of them are. */
const statesOf = (phases: ReadonlySet<Phase>): Set<string> =>
  new Set([...phases, ...(phasesOf('running').every((phase) => phases.has(phase)) ? ['running'] : [])]);

function focus(selector: string): void {
  const element = document.querySelector<HTMLElement>(selector);
  element?.focus({ preventScroll: true });
  element?.scrollIntoView({ block: 'nearest' });
}

interface ChartsProps {
  readonly pressed: ReadonlySet<Phase>;
  readonly onState: (state: string) => void;
}

function Charts({ pressed, onState }: ChartsProps) {
  const frame = useSource(frames);
  const counts = frame === null ? {} : { ...frame.counts, running: running(frame.counts) };
  return (
    <section class="panel charts" aria-label="Statecharts">
      <div class="panel-head">
        <h2>Every request is in one of these states</h2>
      </div>
      <StateChart
        name="request"
        words="Chart of a request, with how many are in each state"
        counts={counts}
        pressed={statesOf(pressed)}
        onState={onState}
        {...(frame === null ? {} : { transitions: frame.transitions, rates: history.flows(frame) })}
      />
      <p class="chart-words">
        No line: forbidden. <i class="dashes" aria-hidden="true" /> gives up what was computed. H: where it was.
      </p>
      <details class="server-chart" open>
        <summary>The server is {frame?.server ?? 'starting'}</summary>
        <StateChart name="server" words={`Chart of the server, ${frame?.server ?? 'starting'}`} lit={frame?.server ?? null} />
      </details>
    </section>
  );
}

/** What changes seldom and matters is said aloud. */
function useConnectionWords(): void {
  const state = useSource(connection);
  const server = useSource(frames)?.server;
  useEffect(() => {
    if (state === 'lost') say('The connection is lost; the board tries again by itself.');
    else if (state === 'open') say('Connected.');
  }, [state]);
  useEffect(() => {
    if (server !== undefined && server !== 'ready') say(`The server is ${server}.`);
  }, [server]);
}

function Spoken() {
  return (
    <p class="unseen" role="status" aria-live="polite">
      {useSource(spoken)}
    </p>
  );
}
