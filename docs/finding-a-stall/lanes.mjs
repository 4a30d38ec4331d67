/**
 * Draws what ui.perfetto.dev shows of a trace, small: the steps, the link both ways, and a lane for each request.
 *
 *   node dist/src/main.js replay RUN.journal --perfetto trace.json
 *   node docs/finding-a-stall/lanes.mjs trace.json lanes.svg
 */
import { readFileSync, writeFileSync } from 'node:fs';

const [ENGINE, LINK, REQUESTS] = [1, 2, 3];
const [WIDTH, LEFT, ROW, GAP] = [960, 96, 13, 3];
const STATES = {
  queued: '#d9d9d9',
  prefilling: '#8fc9e8',
  decoding: '#2f7fb8',
  'swapping-out': '#f4a259',
  swapped: '#f6d5a8',
  'swapping-in': '#c8553d',
};
const OTHERS = { step: '#2f7fb8', stall: '#c8553d', copy: '#c8553d', transfer: '#f6d5a8' };

const [from, to] = process.argv.slice(2);
if (to === undefined) throw new Error('node docs/finding-a-stall/lanes.mjs TRACE.json OUT.svg');
const { traceEvents } = JSON.parse(readFileSync(from, 'utf8'));
const slices = traceEvents.filter(({ ph }) => ph === 'X');
// Requests beside others: not the warm-up.
const shown = slices.filter(({ pid, tid }) => pid !== REQUESTS || tid > 1);
const own = shown.filter(({ pid }) => pid === REQUESTS);
const start = Math.min(...own.map(({ ts }) => ts));
const end = Math.max(...own.map(({ ts, dur }) => ts + dur));
const x = (ts) => Math.round(10 * (LEFT + ((ts - start) / (end - start)) * (WIDTH - LEFT - 8))) / 10;

/** Rows from top to bottom; all lanes of a direction are one row. */
const rows = new Map();
const rowOf = ({ pid, tid, cat }) => {
  if (pid === ENGINE) return 'steps';
  if (pid === LINK) return tid < 1000 ? 'link, out' : 'link, in';
  return cat === 'state' ? `request ${tid}` : '';
};
const ids = [...new Set(own.map(({ tid }) => tid))].sort((a, b) => a - b);
for (const name of ['steps', 'link, out', 'link, in', ...ids.map((id) => `request ${id}`)]) {
  rows.set(name, 24 + rows.size * (ROW + GAP) + (rows.size > 2 ? 8 : 0));
}
const names = new Map(
  traceEvents
    .filter(({ ph, pid, name }) => ph === 'M' && pid === REQUESTS && name === 'thread_name')
    .map(({ tid, args }) => [`request ${tid}`, `${tid} ${args.name.split(' ').at(-1)}`]),
);

/** One path for each color of a row. */
const paths = new Map();
for (const slice of shown) {
  const { ts, dur, name, cat } = slice;
  const [a, b] = [x(Math.max(ts, start)), x(Math.min(ts + dur, end))];
  const y = rows.get(rowOf(slice));
  if (y === undefined || ts + dur <= start || ts >= end) continue;
  const color = cat === 'state' ? STATES[name] : OTHERS[cat];
  const inner = cat === 'copy' ? 3 : 0;
  const path = `M${a} ${y + inner}h${Math.max(0.3, Math.round(10 * (b - a)) / 10)}v${ROW - 2 * inner}H${a}z`;
  paths.set(color, (paths.get(color) ?? '') + path);
}
const height = Math.max(...rows.values()) + ROW + 34;
const seconds = Math.ceil((end - start) / 500_000) / 2;
const ticks = Array.from({ length: 2 * seconds }, (_, k) => k / 2).filter((second) => start + second * 1e6 <= end);
const text = (at, y, words, more = '') => `<text x="${at}" y="${y}"${more}>${words}</text>`;
const svg = [
  `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="10" fill="#333">`,
  '<title>The steps, the link and the requests of a run</title>',
  `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
  ...ticks.map(
    (second) =>
      `<path d="M${x(start + second * 1e6)} 16V${height - 30}" stroke="#eee"/>${text(x(start + second * 1e6) + 2, 12, `${second} s`)}`,
  ),
  ...[...rows].map(([name, y]) => text(LEFT - 6, y + ROW - 3, names.get(name) ?? name, ' text-anchor="end"')),
  // Light ones first: what lies inside another slice is drawn over it.
  ...['#f6d5a8', '#d9d9d9', '#8fc9e8', '#2f7fb8', '#f4a259', '#c8553d']
    .filter((color) => paths.has(color))
    .map((color) => `<path fill="${color}" d="${paths.get(color)}"/>`),
  ...Object.entries(STATES).map(
    ([state, color], k) =>
      `<rect x="${LEFT + 130 * k}" y="${height - 20}" width="10" height="10" fill="${color}"/>${text(LEFT + 14 + 130 * k, height - 11, state)}`,
  ),
  '</svg>',
  '',
];
writeFileSync(to, svg.join('\n'));
