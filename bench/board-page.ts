/**
 * Frame times of the board's page, in a real browser, with thousands of requests in its table that change four times a second:
 * standing still, scrolling, and sorted by a column that changes. The page is the built one; what it is sent comes from a
 * scripted system behind the HTTP port, so that nothing but the page is measured.
 *
 *   node dist/bench/board-page.js [--quick] [--json] [--requests n] [--seconds n]
 *
 * A frame is the time from one animation frame to the next (16.7 ms at best); a task is one that kept the page busy for more
 * than 50 ms. Needs Chromium in PATH, or `--browser PATH`.
 */
import { parseArgs } from 'node:util';
import { chromium, type Page } from 'playwright-core';
import { CHROMIUM_FLAGS, findChromium } from '../test/board/chromium.js';
import { type FakeServer, serveFake } from '../test/board/fake-server.js';
import { ScriptedBoard } from '../test/board/scripted-board.js';

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    requests: { type: 'string', default: '5000' },
    seconds: { type: 'string' },
    browser: { type: 'string' },
  },
});
const requests = Number(flags.requests);
const seconds = Number(flags.seconds ?? (flags.quick ? 2 : 10));
const PERIOD_MILLIS = 250;

function browserPath(): string {
  const found = flags.browser ?? findChromium();
  if (found === null) throw new Error('no Chromium in PATH; give one with --browser');
  return found;
}

interface Measured {
  readonly case: string;
  readonly frames: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly worst: number;
  /** Tasks of more than 50 ms, and the longest. */
  readonly longTasks: number;
  readonly longestTask: number;
}

/** Runs in the page: notes every frame, and every long task. */
const WATCH = `
  window.noted = { frames: [], tasks: [] };
  new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.noted.tasks.push(entry.duration); })
    .observe({ entryTypes: ['longtask'] });
  let last = performance.now();
  const note = (now) => { window.noted.frames.push(now - last); last = now; requestAnimationFrame(note); };
  requestAnimationFrame(note);
`;
const SCROLL = `
  const table = document.querySelector('#requests-table');
  let down = true;
  window.scrolling = setInterval(() => {
    table.scrollTop += down ? 90 : -90;
    if (table.scrollTop <= 0 || table.scrollTop >= table.scrollHeight - table.clientHeight) down = !down;
  }, 16);
`;

async function measure(page: Page, name: string): Promise<Measured> {
  await page.evaluate('window.noted.frames.length = 0; window.noted.tasks.length = 0;');
  await page.waitForTimeout(seconds * 1000);
  const { frames, tasks } = await page.evaluate<{ frames: number[]; tasks: number[] }>('window.noted');
  const sorted = [...frames].sort((a, b) => a - b);
  const share = (of: number) => Number((sorted[Math.min(sorted.length - 1, Math.floor(of * sorted.length))] ?? 0).toFixed(1));
  return {
    ...{ case: name, frames: frames.length, p50: share(0.5), p95: share(0.95), p99: share(0.99), worst: share(1) },
    longTasks: tasks.length,
    longestTask: Math.round(Math.max(0, ...tasks)),
  };
}

/** Ticks and sends until it is stopped; answers how. */
function keepSending(board: ScriptedBoard, fake: FakeServer): () => void {
  const timer = setInterval(() => {
    board.tick(PERIOD_MILLIS * 1000);
    fake.send();
  }, PERIOD_MILLIS);
  return () => clearInterval(timer);
}

// A third of them run, and so change with every frame.
const board = new ScriptedBoard({
  requests,
  deviceBlocks: 12 * requests,
  hostBlocks: 40 * requests,
  maxRunning: Math.ceil(requests / 3),
});
for (let tick = 0; tick < 20; tick += 1) board.tick(PERIOD_MILLIS * 1000);
const fake = await serveFake(board, { page: new URL('../src/http/board/page/', import.meta.url) });
const browser = await chromium.launch({
  executablePath: browserPath(),
  args: CHROMIUM_FLAGS,
});
const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
await page.goto(fake.url);
await page.locator('.body .row').first().waitFor();
const stop = keepSending(board, fake);
await page.waitForTimeout(1500);
await page.evaluate(WATCH);
const report = [await measure(page, 'still')];
await page.evaluate(SCROLL);
report.push(await measure(page, 'scrolling'));
await page.locator('.heads button', { hasText: 'Generated' }).click();
report.push(await measure(page, 'scrolling, by tokens'));
stop();
await browser.close();
fake.close();
if (flags.json) console.log(JSON.stringify({ requests, seconds, report }));
else {
  console.log(`${requests} requests, a third of which change every ${PERIOD_MILLIS} ms; milliseconds`);
  console.table(report);
}
