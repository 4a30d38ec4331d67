/** A memory as a map: blocks from left to right, row by row, in the colour of the request that has them. */
import type { BoardKind, BoardMemory, BoardRange } from '../../../core/board.js';
import type { RequestId } from '../../../core/types.js';

/** Sizes in CSS pixels. */
export interface Grid {
  readonly columns: number;
  readonly rows: number;
  readonly blockWidth: number;
  readonly rowHeight: number;
}

const CELL_MAX = 20;
const CELL_MIN = 3;
/** Below this there is no room for a line between two blocks. */
const CELL_LINES = 6;

/** Square cells as large as they fit; of very many blocks, rows of slices. */
export function gridOf(total: number, width: number, height: number): Grid {
  const largest = Math.min(CELL_MAX, Math.floor(Math.sqrt((width * height) / Math.max(1, total))));
  for (let cell = largest; cell >= CELL_MIN; cell -= 1) {
    const columns = Math.max(1, Math.floor(width / cell));
    const rows = Math.ceil(total / columns);
    if (rows * cell <= height) return { columns, rows, blockWidth: cell, rowHeight: cell };
  }
  const rows = Math.max(1, Math.floor(height / CELL_MIN));
  const columns = Math.ceil(total / rows);
  return { columns, rows: Math.ceil(total / columns), blockWidth: width / columns, rowHeight: CELL_MIN };
}

export function blockAt({ columns, rows, blockWidth, rowHeight }: Grid, x: number, y: number): number {
  const [column, row] = [Math.floor(x / blockWidth), Math.floor(y / rowHeight)];
  return column < 0 || column >= columns || row < 0 || row >= rows ? -1 : row * columns + column;
}

export function rangeAt({ ranges }: BoardMemory, block: number): BoardRange | null {
  return ranges.find(([from, blocks]) => from <= block && block < from + blocks) ?? null;
}

const HUES = 72;
const LIGHTNESS = { light: [0.66, 0.54, 0.77], dark: [0.62, 0.74, 0.5] } as const;
const CHROMA = 0.115;
const made = new Map<string, string>();

/** Neighbours by number are far apart in colour; the lightness alternates too, for who sees few colours. */
export function hueOf(id: RequestId, dark: boolean): string {
  const hue = Math.floor(((id * 137.508) % 360) / (360 / HUES));
  const lightness = LIGHTNESS[dark ? 'dark' : 'light'][id % 3] as number;
  const name = `${hue} ${lightness}`;
  const known = made.get(name) ?? hexOf(lightness, (hue * 2 * Math.PI) / HUES);
  made.set(name, known);
  return known;
}

/** OKLCH as hexadecimal sRGB: canvases take long to read any other. */
function hexOf(lightness: number, hue: number): string {
  const [a, b] = [CHROMA * Math.cos(hue), CHROMA * Math.sin(hue)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const parts = linear.map((value) => {
    const bounded = Math.min(1, Math.max(0, value));
    const encoded = bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055;
    return Math.round(255 * encoded)
      .toString(16)
      .padStart(2, '0');
  });
  return `#${parts.join('')}`;
}

export interface Paints {
  readonly dark: boolean;
  readonly ground: string;
  readonly free: string;
  readonly shared: string;
  readonly kept: string;
  readonly ink: string;
}

type Pen = CanvasRenderingContext2D;

interface Piece {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** `marked`: the request that the viewer looks at; the others step back. */
export function drawMap(pen: Pen, memory: BoardMemory, grid: Grid, paints: Paints, marked: RequestId | null): void {
  pen.fillStyle = paints.ground;
  pen.fillRect(0, 0, grid.columns * grid.blockWidth, grid.rows * grid.rowHeight);
  drawFree(pen, memory, grid, paints);
  const lookedAt = marked !== null && memory.ranges.some(([, , owner]) => owner === marked);
  for (const range of memory.ranges) {
    pen.globalAlpha = lookedAt && range[2] !== marked ? 0.28 : 1;
    for (const piece of piecesOf(range, grid)) drawPiece(pen, piece, range, grid, paints);
  }
  pen.globalAlpha = 1;
  if (!lookedAt) return;
  pen.strokeStyle = paints.ink;
  pen.lineWidth = 1.5;
  for (const range of memory.ranges) {
    if (range[2] !== marked) continue;
    for (const { x, y, width, height } of piecesOf(range, grid)) pen.strokeRect(x + 0.25, y + 0.25, width - 1, height - 1);
  }
}

/** A range is cut where its rows end. */
function piecesOf([from, blocks]: BoardRange, { columns, blockWidth, rowHeight }: Grid): Piece[] {
  const pieces: Piece[] = [];
  for (let block = from; block < from + blocks; ) {
    const row = Math.floor(block / columns);
    const end = Math.min(from + blocks, (row + 1) * columns);
    pieces.push({ x: (block % columns) * blockWidth, y: row * rowHeight, width: (end - block) * blockWidth, height: rowHeight });
    block = end;
  }
  return pieces;
}

function drawFree(pen: Pen, { total }: BoardMemory, { columns, blockWidth, rowHeight }: Grid, { free }: Paints): void {
  pen.fillStyle = free;
  if (rowHeight < CELL_LINES) {
    pen.fillRect(0, 0, columns * blockWidth, Math.ceil(total / columns) * rowHeight);
    return;
  }
  for (let block = 0; block < total; block += 1) {
    pen.fillRect((block % columns) * blockWidth, Math.floor(block / columns) * rowHeight, blockWidth - 1, rowHeight - 1);
  }
}

function drawPiece(pen: Pen, piece: Piece, [, , owner, kind]: BoardRange, grid: Grid, paints: Paints): void {
  const lines = grid.rowHeight >= CELL_LINES;
  const width = lines ? piece.width - 1 : Math.max(piece.width, 0.5);
  const height = lines ? piece.height - 1 : piece.height;
  const colour = owner === 0 ? (kind === 'kept' ? paints.kept : paints.shared) : hueOf(owner, paints.dark);
  pen.fillStyle = kind === 'kept' ? paints.kept : colour;
  if (kind === 'tail') drawTail(pen, piece, colour, width, height, paints);
  else pen.fillRect(piece.x, piece.y, width, height);
  if (lines && kind !== 'tail') drawLines(pen, piece, grid.blockWidth, height, paints.ground);
  if (kind === 'moving') drawStripes(pen, piece, width, height, paints);
  if (kind === 'kept' && owner !== 0) drawEdge(pen, piece, hueOf(owner, paints.dark), height);
}

/** Its own and empty: an outline with a breath of the colour. */
function drawTail(pen: Pen, { x, y }: Piece, colour: string, width: number, height: number, { ground }: Paints): void {
  const alpha = pen.globalAlpha;
  pen.fillStyle = ground;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = colour;
  pen.globalAlpha = alpha * 0.22;
  pen.fillRect(x, y, width, height);
  pen.globalAlpha = alpha;
  if (height < 4 || width < 2) return;
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
}

function drawLines(pen: Pen, { x, y, width }: Piece, blockWidth: number, height: number, ground: string): void {
  const alpha = pen.globalAlpha;
  pen.globalAlpha = alpha * 0.35;
  pen.fillStyle = ground;
  for (let at = blockWidth; at < width; at += blockWidth) pen.fillRect(x + at - 1, y, 1, height);
  pen.globalAlpha = alpha;
}

function drawStripes(pen: Pen, { x, y }: Piece, width: number, height: number, { ground }: Paints): void {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.strokeStyle = ground;
  pen.lineWidth = 1.6;
  pen.beginPath();
  for (let at = x - height - (x % 5); at < x + width; at += 5) {
    pen.moveTo(at, y + height);
    pen.lineTo(at + height, y);
  }
  pen.stroke();
  pen.restore();
}

function drawEdge(pen: Pen, { x, y }: Piece, colour: string, height: number): void {
  pen.fillStyle = colour;
  pen.fillRect(x, y, Math.min(2, height), height);
}

export interface MapFigures {
  /** Share of the free blocks that are not in the longest free range. */
  readonly fragmentation: number | null;
  readonly groups: number;
  /** Mean blocks of a contiguous range that a request computes on or holds. */
  readonly meanRun: number | null;
  readonly blocks: Readonly<Record<BoardKind, number>>;
}

export function figuresOf({ total, ranges, longestFree }: BoardMemory): MapFigures {
  const blocks: Record<BoardKind, number> = { used: 0, tail: 0, moving: 0, kept: 0 };
  let [groups, inGroups, end, owner] = [0, 0, -1, 0];
  for (const [from, length, who, kind] of ranges) {
    blocks[kind] += length;
    if (who === 0 || kind === 'kept') continue;
    inGroups += length;
    if (from !== end || who !== owner) groups += 1;
    [end, owner] = [from + length, who];
  }
  const nobodys = total - blocks.used - blocks.tail - blocks.moving - blocks.kept;
  return {
    fragmentation: nobodys === 0 ? null : 1 - longestFree / nobodys,
    groups,
    meanRun: groups === 0 ? null : inGroups / groups,
    blocks,
  };
}
