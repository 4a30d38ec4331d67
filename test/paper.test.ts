/** The report can be written: every section, every picture, ratios that are numbers. What they say is not judged here. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bandOf, ratioBand } from '../bench/paper/statistics.js';
import { figure, times } from '../bench/paper/words.js';

const MAIN = fileURLToPath(new URL('../dist/bench/paper/main.js', import.meta.url));
const TITLES = [
  'Dispatch against execution',
  'Where an iteration goes',
  'Tail latency by model and pattern',
  'Throughput by update frequency',
  'What each mechanism brings',
  'Token-generation efficiency',
  'KV cache reuse',
  'The size of a block group',
  'Our own overhead',
  'Host memory',
  'All presets side by side',
  'Robustness against wrong predictions',
  'Simulated steps per second',
];

let folder = '';
let report = '';
let pictures: string[] = [];
const paper = (...flags: string[]) =>
  promisify(execFile)(process.execPath, [MAIN, '--quick', '--out', folder, '--cache', join(folder, 'cache'), ...flags]);

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'paper-'));
  await paper('--date', '2026-01-31');
  report = readFileSync(join(folder, 'README.md'), 'utf8');
  pictures = readdirSync(folder).filter((file) => file.endsWith('.svg'));
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('a quick report', () => {
  it('has every section, with what was published beside what came out and a verdict', () => {
    const sections = report.split(/^## \d+\. /m).slice(1);
    expect(sections.map((section) => TITLES.find((title) => section.startsWith(title)))).toEqual(TITLES);
    for (const section of sections) {
      for (const line of ['published', 'ours', 'verdict']) expect(section).toMatch(new RegExp(`^  - ${line}: \\S`, 'm'));
    }
    expect(report).toContain('Written on 2026-01-31');
    expect(report).toContain('Its numbers mean nothing');
  });

  it('shows every picture that it wrote, each a whole SVG document', () => {
    const shown = [...report.matchAll(/!\[[^\]]+\]\(([\w.-]+\.svg)\)/g)].map(([, file]) => file);
    expect(shown.sort()).toEqual([...pictures].sort());
    expect(pictures.length).toBeGreaterThan(20);
    for (const file of pictures) {
      const svg = readFileSync(join(folder, file), 'utf8');
      expect(svg).toMatch(/^<svg [^>]*viewBox="0 0 \d+ \d+"[^>]*>\n<title>[^<]+<\/title>/);
      expect(svg).toMatch(/<\/svg>\n$/);
      expect(elementsLeftOpen(svg), file).toEqual([]);
      expect(svg, file).not.toMatch(/NaN|undefined|Infinity/);
    }
  });

  it('has numbers wherever a number belongs, and no path of this machine', () => {
    expect(report).not.toMatch(/NaN|undefined|Infinity|\[object/);
    expect(report).not.toContain(folder);
    const ratios = [...report.matchAll(/(?<=[ (])([\d.]+)x(?=[ ),.;|])/g)].map(([, number]) => Number(number));
    expect(ratios.length).toBeGreaterThan(100);
    expect(ratios.every((ratio) => Number.isFinite(ratio) && ratio > 0)).toBe(true);
  });

  it('takes finished runs from the last time, and makes a part of it alone', async () => {
    const { stderr } = await paper('--only', 'tails,copies');
    expect(stderr).toMatch(/paper: 0 runs made, 4 files written/);
    await expect(paper('--only', 'nothing')).rejects.toThrow(/no experiment "nothing"; there are copies, /);
  });
});

/** Names of elements that were opened and not closed, or closed and not open. */
function elementsLeftOpen(svg: string): string[] {
  const open: string[] = [];
  for (const [, slash, name, rest] of svg.matchAll(/<(\/?)([\w:]+)((?:[^>"]|"[^"]*")*)>/g)) {
    if (slash === '/') {
      if (open.pop() !== name) return [`/${name}`];
    } else if (!rest?.endsWith('/')) open.push(name as string);
  }
  return open;
}

describe('values over seeds', () => {
  it('are their mean and range, and ratios are taken seed by seed', () => {
    expect(bandOf([3, 1, 2])).toEqual({ mean: 2, low: 1, high: 3 });
    const ratio = ratioBand([10, 40], [5, 5], (value) => value);
    expect(ratio).toEqual({ mean: expect.closeTo(4), low: 2, high: 8 });
    expect(ratioBand([0, 5], [0, 5], (value) => value).mean).toBe(1);
  });

  it('are written with three digits', () => {
    expect([0, 0.001234, 1.2345, 12.345, 123.45, 12345].map(figure)).toEqual(['0.00', '0.0012', '1.23', '12.3', '123', '12,345']);
    expect([1.234, 12.34, 123.4].map(times)).toEqual(['1.23x', '12.3x', '123x']);
  });
});
