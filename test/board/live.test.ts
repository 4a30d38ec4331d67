/** The board of the real server, in a real browser, while 200 requests run and swap. */
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { idle, post, type RunningServer, startServer } from '../e2e/server.js';
import { CHROMIUM, chartCounts, soon, type Visited, visit } from './browser.js';

const REQUESTS = 200;
/** Long prompts and large batches: steps that take a while. */
const PROMPT = 500;
const PRESSED = ['--device-kv', '24MiB', '--host-kv', '96MiB', '--max-batch-tokens', '4096', '--policy', 'priority', '--admin'];

type Counts = Record<string, number>;

/** What /metrics says, in the chart's words. */
async function metricCounts({ url }: RunningServer): Promise<Counts> {
  const page = await (await fetch(`${url}/metrics`)).text();
  const counts: Counts = { done: 0 };
  for (const [, state, value] of page.matchAll(/^fastswitch_requests\{state="([^"]+)"\} (\d+)$/gm))
    counts[state as string] = Number(value);
  for (const [, value] of page.matchAll(/^fastswitch_requests_finished_total\{.*\} (\d+)$/gm))
    counts.done = (counts.done ?? 0) + Number(value);
  counts.running = (counts.prefilling ?? 0) + (counts.decoding ?? 0);
  return counts;
}

const equal = (a: Counts, b: Counts) =>
  Object.keys(a).length === Object.keys(b).length && Object.keys(a).every((key) => a[key] === b[key]);

/** How often the chart said what /metrics said before and after it: in the middle of a step nobody changes state. */
async function agreements(server: RunningServer, page: Page, wanted: number): Promise<Counts[]> {
  const agreed: Counts[] = [];
  const end = performance.now() + 60_000;
  while (agreed.length < wanted && performance.now() < end) {
    const before = await metricCounts(server);
    const shown = await chartCounts(page);
    const after = await metricCounts(server);
    if (equal(before, after) && equal(before, shown)) agreed.push(shown);
    else await page.waitForTimeout(37);
  }
  return agreed;
}

async function openRequest(page: Page): Promise<string> {
  await page.locator('.charts [data-chart=request] [data-state=queued]').click();
  await soon(async () => new Set(await page.locator('.body .state-name').allTextContents())).toEqual(new Set(['queued']));
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  // Once it has the focus, it takes it no more.
  await page.locator('.drawer:focus').waitFor();
  return (await page.locator('.drawer h2').textContent()) ?? '';
}

describe.skipIf(CHROMIUM === null)('the board of a server', () => {
  let server: RunningServer;
  let visited: Visited;
  let answers: Promise<unknown>;

  beforeAll(async () => {
    server = await startServer(...PRESSED);
    visited = await visit(`${server.url}/board`);
    const ask = (index: number) =>
      post(`${server.url}/v1/completions`, {
        ...{
          model: 'demo',
          ignore_eos: true,
          prompt: Array.from({ length: PROMPT }, (_, at) => 300 + ((at * at + 7 * index) % 1009)),
        },
        ...{
          max_tokens: 30 + ((index * 37) % 60),
          priority: 4 - Math.floor((5 * index) / REQUESTS),
          user: `tenant-${index % 4}`,
        },
      });
    // The later, the more urgent: they make others give way.
    const soonOrLater = (index: number) => new Promise((resolve) => setTimeout(resolve, 10 * index)).then(() => ask(index));
    answers = Promise.all(Array.from({ length: REQUESTS }, (_, index) => soonOrLater(index)));
    answers.catch(() => {}); // a test looks at it later
  });

  afterAll(async () => {
    await visited.page.context().close();
    await server.stop();
  });

  it('counts as /metrics does, while they run and swap', async () => {
    const { page } = visited;
    await soon(async () => (await chartCounts(page)).queued).toBeGreaterThan(100);
    await soon(() => server.metric('fastswitch_preemptions_total{kind="swap"}')).toBeGreaterThan(0);
    const agreed = await agreements(server, page, 4);
    expect(agreed.length).toBe(4);
    for (const { running, queued } of agreed) expect(Math.min(running ?? 0, queued ?? 0)).toBeGreaterThan(0);
  });

  it('leads from a state to its requests, and from one to its story', async () => {
    const { page } = visited;
    const title = await openRequest(page);
    expect(title).toMatch(/^Request \d+$/);
    await soon(() => page.locator('.drawer .words').textContent()).toContain(title);
    await soon(() => page.locator('.drawer .lit').count()).toBe(1);
    expect(await page.locator('.drawer .bar').count()).toBeGreaterThan(0);
  });

  it('moves a request that gets another priority', async () => {
    const { page } = visited;
    await page.keyboard.press('Escape');
    await soon(() => page.locator('.drawer').count()).toBe(0);
    const id = (await openRequest(page)).replace(/\D/g, '');
    await page.locator('.control input').fill('-7');
    await page.locator('.control input').press('Enter');
    await soon(() => page.locator('.facts-grid div', { hasText: 'priority' }).locator('dd').textContent()).toBe('-7');
    const found = await (await fetch(`${server.url}/v1/requests/${id}`)).json();
    expect(found).toMatchObject({ choices: [{ priority: -7 }] });
  });

  it('agrees to the last request when all is done, and had nothing to complain of', async () => {
    await answers;
    await idle(server, 60_000);
    await soon(() => chartCounts(visited.page)).toEqual(await metricCounts(server));
    expect((await chartCounts(visited.page)).done).toBe(REQUESTS);
    await soon(() => visited.page.locator('.facts').textContent()).toMatch(/^Nobody asks for anything\./);
    expect(visited.complaints).toEqual([]);
  });

  it('draws every way that requests have gone', async () => {
    const flows = await visited.page
      .locator('.charts [data-chart=request] .way')
      .evaluateAll((ways) => ways.flatMap((way) => (way as SVGElement).dataset.flows?.split(' ') ?? []));
    const gone = Object.keys(await transitionsOf(server));
    expect(gone.length).toBeGreaterThan(5);
    for (const flow of gone) expect(flows).toContain(flow);
  });
});

/** Of the first frame that it sends. */
async function transitionsOf({ url }: RunningServer): Promise<Counts> {
  const stop = new AbortController();
  const answer = await fetch(`${url}/board/events`, { signal: stop.signal });
  let text = '';
  for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
    text += new TextDecoder().decode(chunk);
    if (/event: snapshot\ndata: .*\n\n/.test(text)) break;
  }
  stop.abort();
  const [, data] = /event: snapshot\ndata: (.*)\n\n/.exec(text) ?? [];
  return (JSON.parse(data as string) as { transitions: Counts }).transitions;
}
