/** A recording's own bar: where it stands, how fast it goes, and where it broke. */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { BoardPlayer, BoardRecording } from '../../../core/board.js';
import { about, frames, player, post } from './feed.js';
import { count, moment, percent } from './format.js';
import { useSource } from './hooks.js';
import { numberOf, say, setAddress } from './place.js';

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 50];
/** From one change of the address to the next while records pass: browsers allow few. */
const ADDRESS_MILLIS = 1000;

type Action = { readonly action: 'play' | 'pause' | 'step' } | { readonly action: 'seek'; readonly record: number };

async function ask(action: Action | { readonly action: 'play' | 'pause'; readonly speed: number }): Promise<void> {
  const refusal = await post('player', action);
  if (refusal !== null) say(refusal);
}

/** Keys of the page call these too; false: this is no recording. */
export function playOrPause(): boolean {
  const now = player.get();
  if (now !== null) void ask({ action: now.playing ? 'pause' : 'play' });
  return now !== null;
}

export function stepOn(): boolean {
  if (player.get() === null) return false;
  void ask({ action: 'step' });
  return true;
}

/** One wish at a time; of those that come meanwhile the last one counts. */
let wished: number | null = null;
let seeking = false;

async function seek(record: number): Promise<void> {
  wished = record;
  if (seeking) return;
  seeking = true;
  while (wished !== null) {
    const next: number = wished;
    wished = null;
    await ask({ action: 'seek', record: next });
  }
  seeking = false;
}

export function ReplayBar() {
  const known = useSource(about);
  const now = useSource(player);
  const recording = known?.recording ?? null;
  const asked = useRef(false);
  const addressed = useRef(Number.NEGATIVE_INFINITY);
  const moving = now !== null && (now.playing || now.seeking !== null);
  useEffect(() => {
    const wanted = numberOf('record');
    if (recording === null || now === null || asked.current) return;
    asked.current = true;
    // What plays is seen by others too, and is not stopped for one who comes.
    if (wanted !== null && wanted !== now.record && !now.playing) void seek(Math.min(wanted, recording.records));
  }, [recording, now]);
  useEffect(() => {
    if (now === null || !asked.current) return;
    if (moving && performance.now() - addressed.current < ADDRESS_MILLIS) return;
    addressed.current = performance.now();
    setAddress('record', now.record);
  }, [now?.record, moving]);
  if (recording === null || now === null) return null;
  return <Bar recording={recording} now={now} />;
}

function Bar({ recording, now }: { readonly recording: BoardRecording; readonly now: BoardPlayer }) {
  const at = useSource(frames)?.at ?? 0;
  const { broken } = recording;
  return (
    <section class="replay" aria-label="Replay">
      <div class="replay-buttons">
        <button type="button" class="play" onClick={playOrPause} aria-label={now.playing ? 'Pause' : 'Play'}>
          {now.playing ? '❚❚' : '▶'}
        </button>
        <button type="button" onClick={stepOn} aria-label="One event on">
          ❙▶
        </button>
        <label>
          <span class="unseen">speed</span>
          <select
            aria-label="Speed"
            value={String(now.speed)}
            onChange={(event) => void ask({ action: now.playing ? 'play' : 'pause', speed: Number(event.currentTarget.value) })}
          >
            {[...new Set([...SPEEDS, now.speed])]
              .sort((a, b) => a - b)
              .map((speed) => (
                <option key={speed} value={String(speed)}>
                  {speed}×
                </option>
              ))}
          </select>
        </label>
      </div>
      <Slider recording={recording} now={now} />
      <div class="replay-place">
        <RecordInput record={now.record} records={recording.records} />
        <span class="of">
          {moment(at)} <span class="wide">of {moment(recording.endAt)}</span>
          {now.seeking !== null && ` · going there, ${percent(now.seeking)}`}
        </span>
        {broken && (
          <button
            type="button"
            class="danger"
            title={broken.words}
            onClick={() => void seek(Math.min(broken.record, recording.records))}
          >
            broken at {count(broken.record)}
          </button>
        )}
      </div>
    </section>
  );
}

function Slider({ recording, now }: { readonly recording: BoardRecording; readonly now: BoardPlayer }) {
  const [held, setHeld] = useState<number | null>(null);
  const last = Math.max(1, recording.records);
  const shown = held ?? now.record;
  const release = () => setHeld(null);
  useEffect(() => {
    if (held !== null && now.record === held && now.seeking === null) setHeld(null);
  }, [now.record, now.seeking]);
  return (
    <div class="slider">
      <Outline recording={recording} at={shown / last} />
      <input
        type="range"
        min={0}
        max={last}
        step={1}
        value={shown}
        aria-label="Record"
        aria-valuetext={`record ${shown} of ${last}`}
        onInput={(event) => {
          const record = Number(event.currentTarget.value);
          setHeld(record);
          void seek(record);
        }}
        onBlur={release}
      />
    </div>
  );
}

const HEIGHT = 34;
const WIDTH = 1000;

/** Where a mark begins, for its middle to be at a share of the width: within it as a whole. */
const markAt = (share: number, width: number): number => Math.max(0, Math.min(WIDTH - width, WIDTH * share - width / 2));

/** How many ran and waited over the whole recording, and where a replay first differs. */
function Outline({ recording, at }: { readonly recording: BoardRecording; readonly at: number }) {
  const { outline, records, broken } = recording;
  const areas = useMemo(() => {
    const most = Math.max(1, ...outline.map(({ running, waiting }) => running + waiting));
    const area = (value: (point: (typeof outline)[number]) => number) => {
      const tops = outline.map(
        (point) =>
          `${((WIDTH * point.record) / Math.max(1, records)).toFixed(1)},${(HEIGHT * (1 - value(point) / most)).toFixed(1)}`,
      );
      return `M0,${HEIGHT} L${tops.join(' L')} L${WIDTH},${HEIGHT} Z`;
    };
    return { all: area(({ running, waiting }) => running + waiting), running: area(({ running }) => running) };
  }, [recording]);
  return (
    <svg class="outline" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      <path class="all" d={areas.all} />
      <path class="run" d={areas.running} />
      {broken && <rect class="broken" x={markAt(broken.record / Math.max(1, records), 3)} width="3" y="0" height={HEIGHT} />}
      <rect class="now" x={markAt(at, 1.5)} width="1.5" y="0" height={HEIGHT} />
    </svg>
  );
}

function RecordInput({ record, records }: { readonly record: number; readonly records: number }) {
  const [typed, setTyped] = useState<string | null>(null);
  const go = () => {
    const wanted = Number(typed);
    if (typed !== null && Number.isInteger(wanted)) void seek(Math.max(0, Math.min(records, wanted)));
    setTyped(null);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        go();
      }}
    >
      <label>
        record
        <input
          type="number"
          min={0}
          max={records}
          value={typed ?? record}
          onInput={(event) => setTyped(event.currentTarget.value)}
          onBlur={go}
        />
      </label>
      <span class="of">of {count(records)}</span>
    </form>
  );
}
