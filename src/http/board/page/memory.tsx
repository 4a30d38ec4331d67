import { useEffect, useMemo, useState } from 'preact/hooks';
import type { BoardMemory, BoardRange } from '../../../core/board.js';
import { about, frames } from './feed.js';
import { bytes, count, figure, percent, plural } from './format.js';
import { useSize, useSource } from './hooks.js';
import { blockAt, drawMap, figuresOf, type Grid, gridOf, type Paints, rangeAt } from './map.js';
import { chosen } from './place.js';
import { colour, shade } from './theme.js';

const NAMES = { device: 'Device', host: 'Host' } as const;

export function Memory() {
  const frame = useSource(frames);
  const known = useSource(about);
  return (
    <section class="panel memory" aria-label="Memory">
      <div class="panel-head">
        <h2>Memory</h2>
        {known && (
          <span class="of">
            blocks of {known.blockTokens} tokens, {bytes(known.blockBytes)}
          </span>
        )}
      </div>
      {frame && <MemoryMap memory={frame.device} which="device" />}
      {frame && <MemoryMap memory={frame.host} which="host" />}
      <ul class="map-legend" aria-label="Legend of the maps">
        <li class="used">one request's</li>
        <li class="tail">its own, still empty</li>
        <li class="moving">being copied</li>
        <li class="shared">shared</li>
        <li class="kept">kept for reuse</li>
        <li class="free">free</li>
      </ul>
    </section>
  );
}

interface MapProps {
  readonly memory: BoardMemory;
  readonly which: keyof typeof NAMES;
}

function MemoryMap({ memory, which }: MapProps) {
  const { element, width, height } = useSize<HTMLDivElement>();
  const open = useSource(chosen);
  const now = useSource(shade);
  const [pointed, setPointed] = useState<number>(-1);
  const grid = gridOf(memory.total, width, height);
  const paints = useMemo(() => paintsOf(now === 'dark'), [now]);
  useEffect(() => {
    const canvas = element.current?.querySelector('canvas');
    if (canvas && width > 0) paint(canvas, memory, grid, width, height, open, paints);
  }, [memory, width, height, open, paints]);
  const range = pointed < 0 ? null : rangeAt(memory, pointed);
  const choose = () => {
    if (range !== null && range[2] !== 0) chosen.set(range[2]);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === 'Enter') return choose();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    setPointed(nextRange(memory, pointed, step));
  };
  const onMove = (event: MouseEvent) => {
    const block = blockAt(grid, event.offsetX, event.offsetY);
    setPointed(block < memory.total ? block : -1);
  };
  return (
    <figure class={`map ${which}`} data-blocks={memory.total}>
      <figcaption>
        <b>{NAMES[which]}</b> {count(memory.total - memory.free)} of {plural(memory.total, 'block')} in use
      </figcaption>
      <div class="canvas-holder" ref={element}>
        <canvas
          role="img"
          aria-label={`${NAMES[which]} memory: ${wordsOf(memory)}`}
          tabIndex={0}
          onMouseMove={onMove}
          onMouseLeave={() => setPointed(-1)}
          onClick={choose}
          onKeyDown={onKey}
          onBlur={() => setPointed(-1)}
        />
      </div>
      <p class="map-words" aria-live="polite">
        {pointed < 0 ? wordsOf(memory) : pointedWords(pointed, range)}
      </p>
    </figure>
  );
}

function wordsOf(memory: BoardMemory): string {
  const { fragmentation, groups, meanRun } = figuresOf(memory);
  const runs = meanRun === null ? 'no groups' : `${plural(groups, 'group')} of ${figure(meanRun)} blocks on average`;
  if (memory.free === 0) return `${runs}; nothing free`;
  const spread =
    fragmentation === null
      ? ''
      : `, nobody's in ${plural(memory.freeRanges, 'range')}, longest ${count(memory.longestFree)}, fragmentation ${percent(fragmentation)}`;
  return `${runs}; ${count(memory.free)} free${spread}`;
}

const KIND_WORDS = { used: 'in use', tail: 'its own, still empty', moving: 'being copied', kept: 'kept for reuse' } as const;

function pointedWords(block: number, range: BoardRange | null): string {
  if (range === null) return `block ${block}: free`;
  const [from, blocks, owner, kind] = range;
  const whose = owner === 0 ? (kind === 'used' ? 'shared' : 'of nobody alive') : `request ${owner}`;
  return `blocks ${from} to ${from + blocks - 1} (${blocks}): ${whose}, ${KIND_WORDS[kind]}`;
}

function nextRange({ ranges }: BoardMemory, block: number, step: number): number {
  const next = step > 0 ? ranges.find(([from]) => from > block) : ranges.findLast(([from, blocks]) => from + blocks <= block);
  return next?.[0] ?? block;
}

/** Looked up once: to ask for a colour makes the browser compute the styles of the whole page. */
function paintsOf(dark: boolean): Paints {
  return {
    dark,
    ground: colour('surface'),
    free: colour('map-free'),
    shared: colour('map-shared'),
    kept: colour('map-kept'),
    ink: colour('ink'),
  };
}

function paint(
  canvas: HTMLCanvasElement,
  memory: BoardMemory,
  grid: Grid,
  width: number,
  height: number,
  open: number | null,
  paints: Paints,
): void {
  const ratio = window.devicePixelRatio;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext('2d');
  if (pen === null) return;
  pen.scale(ratio, ratio);
  drawMap(pen, memory, grid, paints, open);
}
