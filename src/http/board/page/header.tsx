import { useState } from 'preact/hooks';
import type { BoardAbout, BoardFrame } from '../../../core/board.js';
import { Confirm } from './dialogs.js';
import { about, connection, frames, history, post, refused } from './feed.js';
import { useSource } from './hooks.js';
import { chosen, say } from './place.js';
import { nextTheme, theme } from './theme.js';
import { factsOf } from './words.js';

const CONNECTIONS = { connecting: 'connecting', open: 'connected', lost: 'reconnecting' } as const;

export function Header({ onHelp }: { readonly onHelp: () => void }) {
  const known = useSource(about);
  const frame = useSource(frames);
  return (
    <header class="top">
      <h1>
        <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true">
          <path d="M5 11h18M18 5.5l6 5.5-6 5.5" class="way-in" />
          <path d="M27 21H9m5-5.5-6 5.5 6 5.5" class="way-out" />
        </svg>
        fastswitch
      </h1>
      {known && <Served about={known} />}
      <div class="top-end">
        {frame && <ServerState state={frame.server} />}
        <Status source={known?.source ?? 'live'} />
        {known?.admin && frame?.server === 'ready' && <Drain />}
        <ThemeButton />
        <button type="button" class="quiet" onClick={onHelp} aria-label="Help and keys">
          ?
        </button>
      </div>
    </header>
  );
}

function Served({ about: { model, preset, policy, version, recording } }: { readonly about: BoardAbout }) {
  const entries = [
    ['model', model],
    ['preset', preset],
    ['policy', policy],
    ...(recording === null ? [] : [['journal', recording.file]]),
  ];
  return (
    <dl class="served" title={`fastswitch ${version}`}>
      {entries.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function ServerState({ state }: { readonly state: BoardFrame['server'] }) {
  return (
    <span class={`pill server-${state}`}>
      <i aria-hidden="true" />
      {state}
    </span>
  );
}

/** Live or a recording, and whether what one sees is what is. */
function Status({ source }: { readonly source: BoardAbout['source'] }) {
  const state = useSource(connection);
  return (
    <span class={`pill connection-${state}`} role="status">
      <i aria-hidden="true" />
      {state === 'open' ? source : CONNECTIONS[state]}
    </span>
  );
}

function Drain() {
  const [asking, setAsking] = useState(false);
  const drain = async () => {
    setAsking(false);
    say((await post('drain', {})) ?? 'The server drains: it takes no new requests.');
  };
  return (
    <>
      <button type="button" class="danger" onClick={() => setAsking(true)}>
        Drain
      </button>
      {asking && (
        <Confirm title="Drain the server?" action="Drain" onYes={drain} onNo={() => setAsking(false)}>
          It takes no new requests from now on and finishes those it has. There is no way back but a restart.
        </Confirm>
      )}
    </>
  );
}

function ThemeButton() {
  const now = useSource(theme);
  const words = { auto: 'colours of the system', light: 'light', dark: 'dark' }[now];
  return (
    <button type="button" class="quiet" onClick={nextTheme} aria-label={`Theme: ${words}`} title={`Theme: ${words}`}>
      {{ auto: '◐', light: '☀', dark: '☾' }[now]}
    </button>
  );
}

/** What is so right now, as a sentence. */
export function FactsLine() {
  const frame = useSource(frames);
  const known = useSource(about);
  const refusal = useSource(refused);
  if (refusal !== null) return <p class="facts">{refusal}</p>;
  if (frame === null || known === null) return <p class="facts">Waiting for the first picture…</p>;
  const { sentences, longest } = factsOf(frame, known, history.last);
  return (
    <p class="facts">
      {sentences.join(' ')}{' '}
      {longest && (
        <>
          Waiting longest:{' '}
          <button type="button" class="link" onClick={() => chosen.set(longest.request.id)}>
            request {longest.request.id}
          </button>
          , {longest.words}.
        </>
      )}
    </p>
  );
}
