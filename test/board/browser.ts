/** A real browser, on a page that may talk to this machine only; what it complains about fails the test that asks. */
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, expect, vi } from 'vitest';
import { CHROMIUM_FLAGS, findChromium } from './chromium.js';

/** Null: there is none on this machine, and the tests that need one are skipped. */
export const CHROMIUM = findChromium();
if (CHROMIUM === null) console.warn('no Chromium in PATH: the tests of the board in a browser are skipped');

/** Browsers on a machine that others use too: what comes at all may come late. */
vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });
const PATIENCE_MILLIS = 60_000;

let browser: Promise<Browser> | null = null;

afterAll(async () => {
  await (await browser)?.close();
  browser = null;
});

export interface Visit {
  readonly width?: number;
  readonly height?: number;
  readonly dark?: boolean;
  readonly calm?: boolean;
}

export interface Visited {
  readonly page: Page;
  /** Errors, refused requests, breaches of the content policy, and whatever it asked of others. */
  readonly complaints: readonly string[];
}

/** A browser window of its own on an address. */
export async function visit(
  url: string,
  { width = 1440, height = 900, dark = false, calm = true }: Visit = {},
): Promise<Visited> {
  browser ??= chromium.launch({ executablePath: CHROMIUM as string, args: CHROMIUM_FLAGS });
  const context = await (await browser).newContext({
    viewport: { width, height },
    colorScheme: dark ? 'dark' : 'light',
    reducedMotion: calm ? 'reduce' : 'no-preference',
  });
  context.setDefaultTimeout(PATIENCE_MILLIS);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('request', (request) => {
    if (new URL(request.url()).hostname !== '127.0.0.1') complaints.push(`asked ${request.url()}`);
  });
  await page.goto(url);
  await page.locator('.kpi').first().waitFor();
  await page.locator('.charts [data-chart=request]').waitFor();
  return { page, complaints };
}

/** How many requests the chart says are in each state. */
export function chartCounts(page: Page): Promise<Record<string, number>> {
  return page.evaluate(() => {
    const states = [...document.querySelectorAll<SVGGElement>('.charts [data-chart=request] .state')];
    const counted = states.map((state) => [state.dataset.state, state.querySelector('.count')?.textContent ?? ''] as const);
    return Object.fromEntries(
      counted.filter(([, text]) => text !== '').map(([name, text]) => [name, Number(text.replaceAll(',', ''))]),
    );
  });
}

/** What will be so before long. */
export function soon<T>(read: () => T | Promise<T>) {
  return expect.poll(read, { timeout: PATIENCE_MILLIS });
}
