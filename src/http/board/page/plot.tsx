/** A curve over the last two minutes: a title, the newest values beside their names, and uPlot for the rest. */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import { moment } from './format.js';
import type { Point } from './history.js';
import { useSize, useSource } from './hooks.js';
import { colour, shade } from './theme.js';

export interface Curve {
  readonly title: string;
  /** Of the theme. */
  readonly colour: string;
  readonly value: (point: Point) => number | null;
  readonly dashed?: boolean;
  /** The area below it is tinted. */
  readonly filled?: boolean;
}

export interface PlotProps {
  readonly title: string;
  readonly curves: readonly Curve[];
  readonly format: (value: number) => string;
  readonly points: readonly (Point | null)[];
  /** Of the newest moment: the right edge. */
  readonly until: number;
}

const SECONDS = 120;
/** As little as this is stretched over the whole width. */
const SECONDS_MIN = 20;
const AXIS_WIDTH = 54;
const cursor = uPlot.sync('board');

export function Plot({ title, curves, format, points, until }: PlotProps) {
  const { element, width, height } = useSize<HTMLDivElement>();
  const plot = useRef<uPlot | null>(null);
  const dark = useSource(shade);
  const [pointed, setPointed] = useState<number | null>(null);
  const data = useMemo(() => columnsOf(points, curves, until), [points.length, until, curves]);
  useEffect(() => {
    if (width === 0 || element.current === null) return undefined;
    const made = new uPlot(optionsOf(curves, format, width, height, setPointed), data, element.current);
    plot.current = made;
    return () => {
      plot.current = null;
      made.destroy();
    };
  }, [curves, width, height, dark]);
  useEffect(() => plot.current?.setData(data), [data]);
  const column = pointed ?? data[0].length - 1;
  return (
    <figure class="plot">
      <figcaption>
        <b>{title}</b>
        <ul>
          {curves.map((curve, index) => {
            const value = data[index + 1]?.[column];
            return (
              <li key={curve.title} class={curve.dashed ? 'dashed' : ''} data-colour={curve.colour}>
                {curve.title} <output>{value === null || value === undefined ? '–' : format(value)}</output>
              </li>
            );
          })}
        </ul>
      </figcaption>
      <div class="plot-holder" ref={element} role="img" aria-label={`${title} over the last two minutes`} />
    </figure>
  );
}

/** Seconds of the run, and the values of each curve. */
function columnsOf(
  points: readonly (Point | null)[],
  curves: readonly Curve[],
  until: number,
): [number[], ...(number | null)[][]] {
  const oldest = until / 1e6 - SECONDS;
  const at = points
    .map((point, index) => (point ?? points[index + 1] ?? points[index - 1])?.at ?? 0)
    .map((micros) => micros / 1e6);
  const from = at.findIndex((second) => second >= oldest);
  const kept = points.slice(Math.max(0, from));
  return [at.slice(Math.max(0, from)), ...curves.map(({ value }) => kept.map((point) => (point === null ? null : value(point))))];
}

function optionsOf(
  curves: readonly Curve[],
  format: (value: number) => string,
  width: number,
  height: number,
  onPointed: (column: number | null) => void,
): uPlot.Options {
  const [ink, line] = [colour('muted'), colour('grid')];
  const axis = { stroke: ink, font: '10px system-ui, sans-serif', grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width,
    height,
    legend: { show: false },
    cursor: { sync: { key: cursor.key }, points: { size: 5 }, drag: { setScale: false }, y: false },
    scales: {
      x: { time: false, range: (_plot, min, max) => [Math.min(min, max - SECONDS_MIN), max] },
      y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.08 : 1] },
    },
    axes: [
      {
        ...axis,
        size: 18,
        gap: 3,
        space: 70,
        values: (_plot, ticks) => ticks.map((second) => (second < 0 ? '' : moment(second * 1e6).slice(0, -4))),
      },
      { ...axis, size: AXIS_WIDTH, gap: 4, space: 24, values: (_plot, ticks) => ticks.map((value) => format(value)) },
    ],
    series: [{}, ...curves.map(seriesOf)],
    hooks: { setCursor: [({ cursor: { idx } }) => onPointed(idx ?? null)] },
  };
}

function seriesOf({ colour: name, dashed, filled }: Curve): uPlot.Series {
  const stroke = colour(name);
  return {
    stroke,
    width: dashed ? 1 : 1.5,
    points: { show: false },
    ...(dashed ? { dash: [4, 3] } : {}),
    ...(filled ? { fill: `color-mix(in oklab, ${stroke} 16%, transparent)` } : {}),
  };
}
