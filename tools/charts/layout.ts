/** Where Graphviz puts the states of a chart and how it leads the ways around them. */
import { instance } from '@viz-js/viz';
import type { Chart, ChartState, ChartWay } from './graph.js';

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface Box extends Point {
  /** `x`, `y`: its middle. */
  readonly width: number;
  readonly height: number;
}

export interface Layout {
  readonly width: number;
  readonly height: number;
  readonly boxes: ReadonlyMap<string, Box>;
  /** The corners of each way, from its start to the tip of its arrow, in the order of the chart's. */
  readonly routes: readonly (readonly Point[])[];
  readonly begin: Point;
  readonly beginRoute: readonly Point[];
}

/**
 * A wish for the picture, not a part of it: states that stand beside each other, row by row, '' for an empty place. A state
 * that no row names is put somewhere by Graphviz, and no way is drawn or left out because of it.
 */
export interface Wish {
  readonly direction: 'TB' | 'LR';
  readonly rows: readonly (readonly string[])[];
  readonly stateSize: readonly [width: number, height: number];
  readonly gap: readonly [across: number, along: number];
}

const POINTS_PER_INCH = 72;
const HISTORY_SIZE = 20;
const BEGIN_SIZE = 9;

const quoted = (text: string) => JSON.stringify(text);
const inches = (points: number) => (points / POINTS_PER_INCH).toFixed(3);
const attributes = (values: Readonly<Record<string, string | number>>) =>
  `[${Object.entries(values)
    .map(([key, value]) => `${key}=${quoted(String(value))}`)
    .join(' ')}]`;

/** The name of the cluster of a state that has others in it; Graphviz asks for the prefix. */
const clusterOf = (path: string) => `cluster_${path}`;

export async function layOut(chart: Chart, wish: Wish): Promise<Layout> {
  const viz = await instance();
  return read(viz.renderJSON(dotOf(chart, wish)) as Drawn, chart);
}

/** The chart in DOT. */
function dotOf(chart: Chart, wish: Wish): string {
  const [across, along] = wish.gap.map(inches);
  const initial = chart.states.find((state) => state.parent === '' && state.initial) as ChartState;
  const lines = [
    `digraph ${quoted(chart.name)} {`,
    `graph ${attributes({ rankdir: wish.direction, compound: 'true', newrank: 'true', splines: 'ortho' })}`,
    `graph ${attributes({ nodesep: across as string, ranksep: along as string })}`,
    `node ${attributes({ shape: 'box', fixedsize: 'true', label: '' })}`,
    `edge ${attributes({ arrowsize: 0.6 })}`,
    `begin ${attributes({ width: inches(BEGIN_SIZE), height: inches(BEGIN_SIZE), shape: 'circle' })}`,
    ...stateLines(chart, '', wish),
    ...wish.rows.map(
      (row) =>
        `{ rank=same; ${row
          .filter((path) => path !== '')
          .map(quoted)
          .join('; ')} }`,
    ),
    ...columnLines(wish),
    `{ rank=same; begin; ${quoted(initial.path)} }`,
    `begin -> ${quoted(initial.path)}`,
    ...chart.ways.map((way, index) => wayLine(chart, wish, way, index)),
    '}',
  ];
  return lines.join('\n');
}

function stateLines(chart: Chart, parent: string, wish: Wish): string[] {
  const column = (path: string) => Math.max(0, ...wish.rows.map((row) => row.indexOf(path)));
  return chart.states
    .filter((state) => state.parent === parent)
    .flatMap(({ path, kind }) => {
      if (kind === 'compound') {
        const inner = stateLines(chart, path, wish);
        return [`subgraph ${quoted(clusterOf(path))} {`, `graph ${attributes({ label: ' ', margin: 12 })}`, ...inner, '}'];
      }
      const [width, height] = kind === 'history' ? [HISTORY_SIZE, HISTORY_SIZE] : wish.stateSize;
      const shape = kind === 'history' ? 'circle' : 'box';
      const group = kind === 'history' ? '' : `column ${column(path)}`;
      return [`${quoted(path)} ${attributes({ width: inches(width), height: inches(height), shape, group })}`];
    });
}

/** Holds the rows in their order, and the states of a column under each other. */
function columnLines({ rows }: Wish): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  return Array.from({ length: columns }, (_, column) => rows.map((row) => row[column] ?? '').filter((path) => path !== '')).map(
    (paths) => `${paths.map(quoted).join(' -> ')} ${attributes({ style: 'invis', weight: 50 })}`,
  );
}

/** A way that leads up, against the rows, is told to Graphviz backwards, so that it keeps them. */
function wayLine({ states }: Chart, { rows }: Wish, { from, to }: ChartWay, index: number): string {
  const row = (path: string) => rows.findIndex((candidate) => candidate.includes(path));
  const compound = (path: string) => states.some(({ parent }) => parent === path);
  /** Graphviz wants a state and not a cluster: one beside the other end, or the last. */
  const inside = (path: string, other: string): string => {
    const children = states.filter(({ parent }) => parent === path);
    const beside =
      children.find((child) => row(child.path) === row(other)) ?? children.findLast(({ kind }) => kind !== 'history');
    return beside?.path ?? path;
  };
  const [start, end] = [inside(from, to), inside(to, from)];
  const backwards = row(end) < row(start);
  const values: Record<string, string | number> = { id: index, dir: backwards ? 'back' : 'forward' };
  if (compound(from)) values[backwards ? 'lhead' : 'ltail'] = clusterOf(from);
  if (compound(to)) values[backwards ? 'ltail' : 'lhead'] = clusterOf(to);
  const [tail, head] = backwards ? [end, start] : [start, end];
  return `${quoted(tail)} -> ${quoted(head)} ${attributes(values)}`;
}

/** What Graphviz answers, as far as it is read. */
interface Drawn {
  readonly bb: string;
  readonly objects: readonly {
    readonly name: string;
    readonly pos?: string;
    readonly bb?: string;
    readonly width?: string;
    readonly height?: string;
  }[];
  readonly edges: readonly { readonly id?: string; readonly pos: string; readonly dir?: string; readonly style?: string }[];
}

function read({ bb, objects, edges }: Drawn, chart: Chart): Layout {
  const [left, bottom, right, top] = numbers(bb) as [number, number, number, number];
  /** Graphviz counts upwards. */
  const place = (x: number, y: number): Point => ({ x: x - left, y: top - y });
  const boxes = new Map<string, Box>();
  for (const { name, pos, bb: corners, width, height } of objects) {
    if (pos !== undefined) {
      const [x, y] = numbers(pos) as [number, number];
      boxes.set(name, { ...place(x, y), width: Number(width) * POINTS_PER_INCH, height: Number(height) * POINTS_PER_INCH });
    } else if (corners !== undefined && name.startsWith(clusterOf(''))) {
      const [x1, y1, x2, y2] = numbers(corners) as [number, number, number, number];
      const middle = place((x1 + x2) / 2, (y1 + y2) / 2);
      boxes.set(name.slice(clusterOf('').length), { ...middle, width: x2 - x1, height: y2 - y1 });
    }
  }
  const route = (edge: Drawn['edges'][number]) => cornersOf(edge.pos, place);
  const begin = boxes.get('begin') as Box;
  boxes.delete('begin');
  return {
    width: right - left,
    height: top - bottom,
    boxes,
    begin,
    beginRoute: route(edges.find(({ id, style }) => id === undefined && style !== 'invis') as Drawn['edges'][number]),
    routes: chart.ways.map((_, index) => route(edges.find(({ id }) => id === String(index)) as Drawn['edges'][number])),
  };
}

const numbers = (text: string): number[] => text.split(/[ ,]/).map(Number);

/**
 * A route is written as Bezier curves that are straight: every third point is a corner. `e,x,y` is the tip of an arrow at its
 * end, `s,x,y` of one at its start, which then is the end of the way.
 */
function cornersOf(pos: string, place: (x: number, y: number) => Point): Point[] {
  const point = (text: string) => {
    const [x, y] = numbers(text) as [number, number];
    return place(x, y);
  };
  const parts = pos.split(' ');
  const tip = parts.find((part) => /^[es],/.test(part));
  const corners = parts
    .filter((part) => part !== tip)
    .filter((_, index) => index % 3 === 0)
    .map(point);
  if (tip?.startsWith('s')) corners.reverse();
  if (tip !== undefined) corners.push(point(tip.slice(2)));
  return straightened(corners);
}

/** Without the points that lie on the line between their neighbours. */
function straightened(points: readonly Point[]): Point[] {
  const near = (a: number, b: number) => Math.abs(a - b) < 0.5;
  return points.filter((point, index) => {
    const [before, after] = [points[index - 1], points[index + 1]];
    if (before === undefined || after === undefined) return true;
    const along = near(before.x, point.x) && near(point.x, after.x);
    const across = near(before.y, point.y) && near(point.y, after.y);
    return !along && !across;
  });
}
