/** The page of a what-if: its shape, not its figures. */
import { describe, expect, it } from 'vitest';
import { parseChange } from '../../src/replay/change.js';
import { whatIfPage } from '../../src/replay/report.js';
import { shareChart } from '../../src/replay/share-chart.js';
import { whatIf } from '../../src/replay/what-if.js';
import { drawLoad, KnownMachine, LIMITS, record } from './recordings.js';

/** Digits and what they make of the line's width are another matter. */
const shape = (line: string) =>
  line
    .replace(/\d[\d,.]*/g, '#')
    .replace(/[+-]# %|x #|=$|new$/g, '±')
    .replace(/ +/g, ' ')
    .trimEnd();

const TENANT = `
TTFT P# ms # # # ±
 TTFT P# ms # # # ±
 TTFT P# ms # # # ±
 TBT P# ms # # # ±
 TBT P# ms # # # ±
 request P# ms # # # ±
 ms for each token # # # ±
 tokens/s # # # ±
 swapped out # # # ±
 recomputed # # # ±`.trim();

describe('the page', () => {
  const recording = record(drawLoad(150, 26_000), { limits: { ...LIMITS, deviceBlocks: 48 }, machine: new KnownMachine(0.05) });
  const result = whatIf(recording, parseChange({ preset: null, policy: 'vtc', set: ['max-running=8'] }, recording.limits));
  const page = whatIfPage(result);
  const lines = page.split('\n');

  it('is at most 100 columns wide', () => {
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100);
  });

  it('first tells how far the model is from the recording', () => {
    expect(lines.slice(0, 5).map(shape)).toEqual([
      'What if: policy vtc, max-running #',
      '',
      'The recording against its own model',
      ' TTFT P# ±, P# ±, P# ±; TBT P# ±, P# ±; throughput ±',
      ' The model is within # % of the recording in medians and throughput, within # % in the tails: a',
    ]);
    const fitted = lines.slice(5, lines.indexOf('', 3)).join(' ');
    expect(fitted).toMatch(/Fitted to [\d,]+ steps: half of them within .* of the fit/);
    expect(fitted).toMatch(/Copies out: .*GB\/s.*; in: .*3 runs each, medians\./);
  });

  it('then puts the runs side by side, overall and for each tenant', () => {
    const from = lines.findIndex((line) => /recorded +the model +what if +change/.test(line));
    const table = lines.slice(from, lines.indexOf('', from)).map(shape);
    const units = (line: string) => line.replace(/# (bytes|[KMG]iB)/g, '#');
    expect(table.map(units).join('\n')).toBe(
      [
        ' recorded the model what if change',
        'all, # requests',
        ' ended by themselves # # # ±',
        ' cancelled or refused # # # ±',
        ` ${TENANT}`,
        ' copied out # # # ±',
        ' copied in # # # ±',
        ' seconds # # # ±',
        ' fairness (Jain, # is even) # # # ±',
        expect.stringMatching(/^ waits least/) && (table.find((line) => line.startsWith(' waits least')) as string),
        table.find((line) => line.startsWith(' waits most')) as string,
        ...Object.entries(recording.figures().tenants)
          .sort(([, a], [, b]) => b.generatedTokens - a.generatedTokens)
          .flatMap(([name]) => [`${name}, # requests`, ` ${TENANT}`]),
        '(change: what if against the model, so that the error of the model is in both)',
      ].join('\n'),
    );
  });

  it('then draws the shares of requests by TTFT, and says what it rests on', () => {
    expect(page).toContain('Share of requests with a first token within ...\n  99 % │');
    expect(page).toContain('o recorded    . the model    # what if');
    expect(page).toContain('- Requests come and are cancelled when they were in the recording.');
  });

  it('is all in the result, as plain data', () => {
    expect(JSON.parse(JSON.stringify(result))).toEqual(result);
  });

  it('shows names of tenants as they can be shown, and not too many', () => {
    const load = drawLoad(150, 26_000).map((request, k) => ({ ...request, tenant: k % 11 === 0 ? 'a\u001b[31m' : `t${k % 11}` }));
    const own = record(load, { limits: LIMITS });
    const many = whatIfPage(whatIf(own, parseChange({ preset: null, policy: 'vtc', set: [] }, own.limits), { seeds: 1 }));
    expect(many).not.toContain('\u001b');
    expect(many).toContain('and 3 tenants more: --json has them all');
  });
});

describe('the chart', () => {
  const shares = (scale: number) => Array.from({ length: 101 }, (_, k) => scale * (1 + k));

  it('has a mark of each series on each line, on a logarithmic axis', () => {
    const chart = shareChart(
      [
        { name: 'one', mark: 'o', shares: shares(1) },
        { name: 'ten', mark: '#', shares: shares(10) },
      ],
      60,
    );
    const marked = chart.filter((line) => line.includes('%'));
    expect(marked).toHaveLength(21);
    const apart = marked.map((line) => line.indexOf('#') - line.indexOf('o'));
    expect(Math.max(...apart) - Math.min(...apart)).toBeLessThanOrEqual(1);
    expect(Math.max(...chart.map((line) => line.length))).toBeLessThanOrEqual(60);
    expect(chart.at(-2)).toContain('10 ms');
    expect(chart.at(-1)).toContain('o one    # ten');
  });

  it('shows the later series where marks meet, and nothing of nothing', () => {
    const same = shareChart(
      [
        { name: 'a', mark: 'a', shares: shares(1) },
        { name: 'b', mark: 'b', shares: shares(1) },
      ],
      60,
    );
    expect(same.slice(0, 21).every((line) => line.includes('b') && !line.includes('a'))).toBe(true);
    expect(shareChart([{ name: 'a', mark: 'a', shares: shares(0) }], 60)).toEqual([]);
    expect(shareChart([{ name: 'a', mark: 'a', shares: new Array(101).fill(7) }], 60)).toHaveLength(24);
  });
});
