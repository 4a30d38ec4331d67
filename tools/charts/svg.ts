/**
 * A laid-out chart as SVG for the board: every state and way says what it is (`data-state`, `data-flows`), and has room for
 * a count. It has no colours of its own beyond black lines, no ids and no style, so that a page may show it twice and decide
 * how it looks.
 */
import type { Chart, ChartState, ChartWay } from './graph.js';
import { labelPlaces } from './labels.js';
import type { Box, Layout, Point } from './layout.js';

const MARGIN = 6;
const CORNER = 7;
const ARROW_LENGTH = 7;
const ARROW_HALF = 3.2;
const COUNT_HEIGHT = 40;

const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
const figure = (value: number) => String(Math.round(value * 10) / 10);
const at = ({ x, y }: Point) => `${figure(x)},${figure(y)}`;

export function svgOf(chart: Chart, layout: Layout): string {
  const width = layout.width + 2 * MARGIN;
  const height = layout.height + 2 * MARGIN;
  const labels = labelPlaces(
    chart.ways.map((way) => labelOf(way, chart)),
    layout,
  );
  const compounds = chart.states.filter(({ kind }) => kind === 'compound');
  const others = chart.states.filter(({ kind }) => kind !== 'compound');
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" class="chart" data-chart="${escaped(chart.name)}" ` +
      `viewBox="${[-MARGIN, -MARGIN, width, height].map(figure).join(' ')}" width="${figure(width)}" height="${figure(height)}" ` +
      'font-family="system-ui, sans-serif" font-size="12">',
    ...compounds.map((state) => stateGroup(state, layout)),
    `<g class="begin">${line(layout.beginRoute)}<circle cx="${figure(layout.begin.x)}" cy="${figure(layout.begin.y)}" r="4.5"/></g>`,
    ...chart.ways.map((way, index) => wayGroup(way, layout.routes[index] as readonly Point[])),
    ...others.map((state) => stateGroup(state, layout)),
    ...chart.ways.map((way, index) => labelText(way, labelOf(way, chart), labels[index] as Point)),
    '</svg>\n',
  ].join('\n');
}

/** `FINISH, REJECT`; a guard is named where it chooses between two ways of one event, and not where it only refuses. */
function labelOf({ from, steps }: ChartWay, { ways }: Chart): string {
  const divides = (event: string) =>
    ways.filter((way) => way.from === from && way.steps.some((step) => step.event === event)).length > 1;
  const names = steps.map(({ event, guard }) => (guard !== null && divides(event) ? `${event} [${guard}]` : event));
  return [...new Set(names)].join(', ');
}

function stateGroup({ path, key, kind }: ChartState, { boxes }: Layout): string {
  const { x, y, width, height } = boxes.get(path) as Box;
  const open = `<g class="state ${kind}" data-state="${escaped(key)}"><title>${escaped(key)}</title>`;
  if (kind === 'history') {
    const circle = `<circle class="box" cx="${figure(x)}" cy="${figure(y)}" r="${figure(width / 2)}" fill="none" stroke="black"/>`;
    return `${open}${circle}<text class="name" x="${figure(x)}" y="${figure(y + 4)}" text-anchor="middle">H</text></g>`;
  }
  const [left, top] = [x - width / 2, y - height / 2];
  const rect =
    `<rect class="box" x="${figure(left)}" y="${figure(top)}" width="${figure(width)}" height="${figure(height)}" rx="8" ` +
    'fill="none" stroke="black"/>';
  if (kind === 'compound') {
    const text = (name: string, from: number, anchor: string, words: string) =>
      `<text class="${name}" x="${figure(from)}" y="${figure(top + 16)}" text-anchor="${anchor}">${escaped(words)}</text>`;
    return `${open}${rect}${text('name', left + 10, 'start', key)}${text('count', left + width - 10, 'end', '')}</g>`;
  }
  const text = (name: string, share: number, words: string) =>
    `<text class="${name}" x="${figure(x)}" y="${figure(top + share * height)}" text-anchor="middle">${escaped(words)}</text>`;
  // A low box has no room for a count.
  if (height < COUNT_HEIGHT) return `${open}${rect}${text('name', 0.63, key)}</g>`;
  return `${open}${rect}${text('name', 0.38, key)}${text('count', 0.82, '')}</g>`;
}

/** What a way is by its flows; the page lights it, and lets a dot run along it, when a request goes there. */
function wayGroup(way: ChartWay, route: readonly Point[]): string {
  const back = way.steps.some(({ event }) => event === 'RECOMPUTE') ? ' back' : '';
  const words = `${way.from} to ${way.to}: ${way.steps.map(({ event, guard }) => (guard ? `${event} [${guard}]` : event)).join(', ')}`;
  return `<g class="way${back}" data-flows="${escaped(way.flows.join(' '))}"><title>${escaped(words)}</title>${line(route)}</g>`;
}

function labelText(way: ChartWay, label: string, { x, y }: Point): string {
  const flows = escaped(way.flows.join(' '));
  return `<text class="event" data-flows="${flows}" x="${figure(x)}" y="${figure(y + 3)}" font-size="9" text-anchor="middle">${escaped(label)}</text>`;
}

/** A line with rounded corners, and the head of an arrow at its end. */
function line(route: readonly Point[]): string {
  const tip = route.at(-1) as Point;
  const before = route.at(-2) as Point;
  const [dx, dy] = direction(before, tip);
  const base = { x: tip.x - dx * ARROW_LENGTH, y: tip.y - dy * ARROW_LENGTH };
  const sides = [1, -1].map((side) => ({ x: base.x - side * dy * ARROW_HALF, y: base.y + side * dx * ARROW_HALF }));
  const head = `<path class="head" d="M${[tip, ...sides].map(at).join(' L')} Z"/>`;
  return `<path class="line" d="${roundedPath([...route.slice(0, -1), base])}" fill="none" stroke="black"/>${head}`;
}

function roundedPath(points: readonly Point[]): string {
  const commands = points.map((point, index) => {
    const [before, after] = [points[index - 1], points[index + 1]];
    if (before === undefined) return `M${at(point)}`;
    if (after === undefined) return `L${at(point)}`;
    const radius = Math.min(CORNER, distance(before, point) / 2, distance(point, after) / 2);
    return `L${at(towards(point, before, radius))} Q${at(point)} ${at(towards(point, after, radius))}`;
  });
  return commands.join(' ');
}

const distance = (a: Point, b: Point) => Math.hypot(b.x - a.x, b.y - a.y);

function direction(from: Point, to: Point): [x: number, y: number] {
  const length = distance(from, to) || 1;
  return [(to.x - from.x) / length, (to.y - from.y) / length];
}

function towards(from: Point, to: Point, length: number): Point {
  const [x, y] = direction(from, to);
  return { x: from.x + x * length, y: from.y + y * length };
}
