/**
 * Makes the pictures of the board in this folder: a server under memory pressure, looked at while it serves, and then its
 * journal, looked at with the slider. Needs a build and Chromium in PATH; takes about two minutes:
 *
 *   npm run build && node docs/board/make.mjs
 *
 * Which requests are in a picture, and how fast they were, depends on the machine.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { CHROMIUM_FLAGS, findChromium } from '../../dist/test/board/chromium.js';
import { indexed } from './indexed-png.mjs';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const HERE = fileURLToPath(new URL('./', import.meta.url));
const PRESSED = ['--device-kv', '40MiB', '--host-kv', '96MiB', '--max-running', '32', '--threads', '1'];
const CLIENTS = 56;
const LOAD_MILLIS = 75_000;
const BYTES_MAX = 250_000;

const journal = mkdtempSync(join(tmpdir(), 'fastswitch-board-'));
const children = new Set();
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(journal, { recursive: true, force: true });
});

/** Resolves with the address that it prints. */
function start(...args) {
  const child = spawn(process.execPath, ['dist/src/main.js', ...args], { cwd: ROOT });
  children.add(child);
  return new Promise((resolve, reject) => {
    let output = '';
    const read = (chunk) => {
      output += chunk;
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0];
      if (url !== undefined) resolve({ child, url });
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('exit', (code) => {
      children.delete(child);
      reject(new Error(`ended with code ${code}:\n${output}`));
    });
  });
}

/** SIGTERM, and until it has ended. */
function stop(child) {
  return new Promise((resolve) => {
    child.once('exit', resolve);
    child.kill('SIGTERM');
  });
}

const TENANTS = ['acme', 'globex', 'initech', 'umbrella'];
/** Scattered over [0, 1), the same in every run. */
const scattered = (a, b) => ((a * 0.618_034 + b * 0.414_214) * 7) % 1;

/** Asks one after the other until the time is over. */
async function client(url, number, until) {
  for (let turn = 0; Date.now() < until; turn += 1) {
    const content = `Hi, I am client ${number}, for the ${turn}. time. ${'Tell me a long story about a fox. '.repeat(1 + ((3 * number + turn) % 12))}`;
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'demo',
        messages: [{ role: 'user', content }],
        max_tokens: Math.round(80 + 400 * scattered(number, turn)),
        ignore_eos: true,
        priority: (2 * number + 3 * turn) % 5,
        user: TENANTS[Math.floor(Math.sqrt(number)) % TENANTS.length],
      }),
    });
    await answer.arrayBuffer();
    await new Promise((resolve) => setTimeout(resolve, 400 * scattered(turn, number)));
  }
}

const executablePath = findChromium();
if (executablePath === null) throw new Error('no Chromium in PATH');
const browser = await chromium.launch({ executablePath, args: CHROMIUM_FLAGS });

async function open(url, { width = 1440, height = 1000, dark = false, scale = 1 } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: dark ? 'dark' : 'light',
    deviceScaleFactor: scale,
  });
  const page = await context.newPage();
  await page.goto(url);
  await page.locator('.charts [data-chart=request]').waitFor();
  return page;
}

/** By name. Made smaller at the end: that would keep the clients from asking. */
const pictures = new Map();

async function picture(page, name) {
  pictures.set(name, await page.screenshot());
}

function writePictures() {
  for (const [name, screenshot] of pictures) {
    const png = indexed(screenshot);
    writeFileSync(join(HERE, `${name}.png`), png);
    console.log(`${name}.png ${(png.length / 1000).toFixed(0)} kB`);
    if (png.length > BYTES_MAX) throw new Error(`${name}.png is too large`);
  }
}

/** Who has been swapped out for the longest, or who has been queued, in the drawer, and waits still. */
async function openWaiting(page) {
  for (let times = 0; times < 8; times += 1) {
    const swapped = await page.locator('.charts [data-state=swapped] .count').textContent();
    await page.locator(`.charts [data-state=${swapped === '0' ? 'queued' : 'swapped'}]`).click();
    await page.locator('.body .row').first().click();
    await page.locator('.drawer .words p').first().waitFor();
    await page.waitForTimeout(400);
    if ((await page.locator('.drawer .now').count()) > 0) return;
    await page.keyboard.press('Escape');
    await page.locator('.drawer').waitFor({ state: 'detached' });
  }
}

async function live(url) {
  const [light, dark, narrow] = [
    await open(`${url}/board`, { height: 1150 }),
    await open(`${url}/board`, { dark: true }),
    await open(`${url}/board`, { width: 390, height: 844, scale: 1.5 }),
  ];
  await light.waitForTimeout(25_000);
  await picture(light, 'live-light');
  await light.close();
  await picture(narrow, 'live-narrow');
  await narrow.emulateMedia({ colorScheme: 'dark' });
  await narrow.locator('.requests').scrollIntoViewIfNeeded();
  await narrow.evaluate("document.querySelector('.requests').scrollIntoView()");
  await narrow.waitForTimeout(600);
  await picture(narrow, 'live-narrow-dark');
  await narrow.close();
  await openWaiting(dark);
  await picture(dark, 'live-dark-request');
  await dark.close();
}

async function recorded(url) {
  const { recording } = await (await fetch(`${url}/board/about`)).json();
  const record = Math.round(recording.records * 0.35);
  const page = await open(`${url}/board#record=${record}`);
  const narrow = await open(`${url}/board`, { width: 390, height: 844, scale: 1.5 });
  await page.waitForTimeout(4000);
  await page.getByLabel('Speed').selectOption('2');
  await page.getByRole('button', { name: 'Play' }).click();
  await page.waitForTimeout(9000);
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.waitForTimeout(800);
  await picture(page, 'replay-light');
  await page.emulateMedia({ colorScheme: 'dark' });
  await openWaiting(page);
  await page.waitForTimeout(1000);
  await picture(page, 'replay-dark-request');
  await narrow.waitForTimeout(500);
  await picture(narrow, 'replay-narrow');
}

const serving = await start('serve', '--port', '0', '--log-level', 'warn', '--journal', journal, ...PRESSED);
const until = Date.now() + LOAD_MILLIS;
const clients = Array.from({ length: CLIENTS }, (_, number) => client(serving.url, number, until));
await live(serving.url);
await Promise.all(clients);
await stop(serving.child);
const board = await start('board', journal, '--port', '0');
await recorded(board.url);
await stop(board.child);
await browser.close();
writePictures();
