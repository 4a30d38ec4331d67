/** The board of a recording, in a real browser: the slider lands where a replay does. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BoardAbout } from '../../src/core/board.js';
import { DECISIONS } from '../../src/core/config.js';
import { runToEnd } from '../e2e/server.js';
import { CHROMIUM, chartCounts, soon, type Visited, visit } from './browser.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const JOURNAL = `test/golden/live-default-priority.d${DECISIONS}.journal`;
const KILLED = `test/golden/live-default-fcfs-killed.d${DECISIONS}.journal`;

interface Serving {
  readonly url: string;
  readonly process: ChildProcess;
}

function board(file: string): Promise<Serving> {
  const child = spawn(process.execPath, ['dist/src/main.js', 'board', file, '--port', '0'], { cwd: ROOT });
  return new Promise((resolve, reject) => {
    let output = '';
    const read = (chunk: Buffer) => {
      output += chunk;
      const url = /http:\/\/127\.0\.0\.1:\d+\/board/.exec(output)?.[0];
      if (url !== undefined) resolve({ url, process: child });
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('exit', (code) => reject(new Error(`the board ended with code ${code}:\n${output}`)));
  });
}

type Counts = Record<string, number>;

/** Live requests by state after a record, by the replay of the command line. */
async function replayed(record: number): Promise<Counts> {
  const { stdout } = await runToEnd(['replay', JOURNAL, '--until', String(record), '--json'], {}, 60_000);
  const { moment } = JSON.parse(stdout) as { moment: { requests: { phase: string }[] } };
  const counts: Counts = {};
  for (const state of ['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in'])
    counts[state] = moment.requests.filter(({ phase }) => phase === state).length;
  return counts;
}

async function shown({ page }: Visited): Promise<Counts> {
  const { done: _done, running: _running, ...live } = await chartCounts(page);
  return live;
}

describe.skipIf(CHROMIUM === null)('the board of a recording', () => {
  let serving: Serving;
  let visited: Visited;
  const expected = new Map<number, Counts>();

  beforeAll(async () => {
    serving = await board(JOURNAL);
    visited = await visit(`${serving.url}#record=120`);
    for (const record of [120, 250, 40, 200]) expected.set(record, await replayed(record));
  });

  afterAll(async () => {
    await visited.page.context().close();
    serving.process.kill('SIGTERM');
  });

  const record = () => visited.page.locator('.replay-place input').inputValue();

  it('opens at the record of the address', async () => {
    await soon(record).toBe('120');
    await soon(() => shown(visited)).toEqual(expected.get(120));
    await soon(() => visited.page.locator('.top [role=status]').textContent()).toBe('recording');
  });

  it('goes where the slider is put, forward and back, and the address follows', async () => {
    const { page } = visited;
    for (const to of [250, 40]) {
      await page.locator('.slider input').fill(String(to));
      await soon(record).toBe(String(to));
      await soon(() => shown(visited)).toEqual(expected.get(to));
      await soon(() => page.url()).toContain(`record=${to}`);
    }
  });

  it('goes one event on, and to a record by its number', async () => {
    const { page } = visited;
    await page.getByRole('button', { name: 'One event on' }).click();
    await soon(record).toBe('41');
    await page.locator('.replay-place input').fill('200');
    await page.keyboard.press('Enter');
    await soon(() => shown(visited)).toEqual(expected.get(200));
  });

  it('tells the story of a request as far as it has come', async () => {
    const { page } = visited;
    await page.locator('.body .row').first().click();
    await soon(() => page.locator('.drawer .words').textContent()).toMatch(/^Request \d+/);
    await page.keyboard.press('Escape');
  });

  it('plays, goes on for one who comes, and pauses', async () => {
    const { page } = visited;
    await page.getByLabel('Speed').selectOption('0.1');
    await page.getByRole('button', { name: 'Play' }).click();
    await soon(async () => Number(await record())).toBeGreaterThan(205);
    // So slow that it does not come to its end meanwhile.
    const slowly = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"action":"play","speed":0.001}' };
    expect((await fetch(`${serving.url}/player`, slowly)).status).toBe(200);
    const other = await visit(`${serving.url}#record=3`);
    await other.page.getByRole('button', { name: 'Pause' }).waitFor();
    const seen = Number(await other.page.locator('.replay-place input').inputValue());
    expect(seen).toBeGreaterThan(205);
    await soon(() => other.page.url()).not.toMatch(/record=3$/);
    await other.page.context().close();
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.getByRole('button', { name: 'Play' }).waitFor();
    expect(visited.complaints).toEqual([]);
  });

  it('marks where a recording breaks off', async () => {
    const killed = await board(KILLED);
    const other = await visit(killed.url);
    try {
      const [outline, mark] = [other.page.locator('.outline'), other.page.locator('.outline .broken')];
      await mark.waitFor({ state: 'attached' });
      const [whole, part] = [await outline.boundingBox(), await mark.boundingBox()];
      if (whole === null || part === null) throw new Error('it is not drawn');
      expect(part.width).toBeGreaterThan(1);
      expect(part.x + part.width).toBeLessThanOrEqual(whole.x + whole.width + 0.01);
      await other.page.locator('.replay .danger').click();
      const { recording } = (await (await fetch(`${killed.url}/about`)).json()) as BoardAbout;
      expect(recording?.broken?.record).toBeGreaterThan(100);
      await soon(() => other.page.locator('.replay-place input').inputValue()).toBe(String(recording?.records));
    } finally {
      await other.page.context().close();
      killed.process.kill('SIGTERM');
    }
  });
});
