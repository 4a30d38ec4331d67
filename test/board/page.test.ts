/** The page in a real browser, over a fake behind the HTTP port that says what a scripted system does. */
import type { Page } from 'playwright-core';
import { afterEach, describe, expect, it } from 'vitest';
import { EVERYBODY, rowsOf } from '../../src/http/board/page/rows.js';
import { CHROMIUM, chartCounts, soon, type Visit, visit } from './browser.js';
import { type FakeOptions, type FakeServer, serveFake } from './fake-server.js';
import { ScriptedBoard } from './scripted-board.js';

const PAGE = new URL('../../dist/src/http/board/page/', import.meta.url);

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const STORY = {
  ...{
    request: 1,
    labels: ['chatcmpl-1'],
    tenant: 'ada',
    priority: 2,
    state: 'decoding',
    outcome: null,
    seconds: 6.2,
    steps: 130,
  },
  ...{
    prompt_tokens: 312,
    cached_tokens: 64,
    max_tokens: 256,
    generated_tokens: 120,
    first_token_seconds: 1.9,
    longest_pause: null,
  },
  seconds_by_state: { queued: 1.9, prefilling: 0, decoding: 4.3, 'swapping-out': 0, swapped: 0, 'swapping-in': 0 },
  swaps: {
    out: { copies: 0, blocks: 0, bytes: 0, without_copy: 0 },
    in: { copies: 0, blocks: 0, bytes: 0, without_copy: 0 },
  },
  states: [
    { state: 'queued', from_seconds: 0, to_seconds: 1.9, tokens: 0, preemption: null, lost_tokens: 0, swap: null },
    { state: 'decoding', from_seconds: 1.9, to_seconds: null, tokens: 120, preemption: null, lost_tokens: 0, swap: null },
  ],
  states_left_out: 0,
  explanation: ['It decodes, behind request 2.', '+0.000 s  arrived'],
};

interface Setting extends Visit {
  readonly requests?: number;
  readonly admin?: boolean;
  readonly hash?: string;
  readonly storyOf?: FakeOptions['storyOf'];
}

const told = (id: number) => ({ ...STORY, request: id });

async function open({ requests = 60, admin = false, hash = '', storyOf = told, ...how }: Setting = {}) {
  const board = new ScriptedBoard({ requests, deviceBlocks: 480, hostBlocks: 1920, maxRunning: 24, admin });
  for (let tick = 0; tick < 60; tick += 1) board.tick();
  const fake = await serveFake(board, { page: PAGE, storyOf });
  closers.push(fake.close);
  const { page, complaints } = await visit(`${fake.url}${hash}`, how);
  closers.push(() => page.context().close());
  const tick = () => {
    board.tick();
    fake.send();
  };
  return { board, fake, page, complaints, tick };
}

/** As the chart has them. */
function countsOf(board: ScriptedBoard): Record<string, number> {
  const { counts } = board.frame();
  return { ...counts, running: counts.prefilling + counts.decoding };
}

const dialogs = (page: Page) => page.locator('dialog[open]').count();

const postsTo = ({ posts }: FakeServer) =>
  posts.map(({ path, body }) => `${path.slice('/board/'.length)} ${JSON.stringify(body)}`);

describe.skipIf(CHROMIUM === null)('the page of the board', () => {
  it('shows what the frames say, under a policy that allows nothing inline', async () => {
    const { board, page, complaints, tick } = await open();
    for (let times = 0; times < 8; times += 1) {
      tick();
      await soon(() => chartCounts(page)).toEqual(countsOf(board));
    }
    await soon(() => page.locator('.requests .of').textContent()).toBe(`${board.frame().requests.length} requests`);
    await soon(() => page.locator('.kpi .value').first().textContent()).toBe(String(countsOf(board).running));
    expect(complaints).toEqual([]);
  });

  it('draws of 5,000 requests only the rows in sight, to the last one', async () => {
    const { board, page, tick } = await open({ requests: 5000 });
    tick();
    const table = page.locator('#requests-table');
    await soon(() => table.getAttribute('aria-rowcount')).toBe('5001');
    await page.locator('.heads button', { hasText: 'No.' }).click();
    await table.focus();
    await page.keyboard.press('End');
    const last = Math.max(...board.frame().requests.map(({ id }) => id));
    await page.locator(`#row-${last}`).waitFor();
    expect(await page.locator('.body .row').count()).toBeLessThan(60);
    expect(await page.locator(`#row-${last}`).getAttribute('aria-rowindex')).toBe('5001');
  });

  it('can be walked with keys alone', async () => {
    const { page } = await open();
    const focused = () =>
      page.evaluate(() => document.activeElement?.id || document.activeElement?.getAttribute('data-state') || '');
    await page.keyboard.press('c');
    await soon(focused).toBe('running');
    await page.keyboard.press('Enter');
    await soon(async () => new Set(await page.locator('.body .state-name').allTextContents())).toEqual(
      new Set(['prefilling', 'decoding']),
    );
    expect(await page.locator('.charts [aria-pressed=true]').evaluateAll(stateNames)).toEqual(
      expect.arrayContaining(['running', 'prefilling', 'decoding']),
    );
    await page.keyboard.press('c');
    await page.keyboard.press('Tab');
    await soon(focused).toBe('queued');
    await page.keyboard.press('Enter');
    await soon(focused).toBe('requests-table');
    await soon(async () => new Set(await page.locator('.body .state-name').allTextContents())).toEqual(new Set(['queued']));
    expect(await page.locator('.charts [aria-pressed=true]').evaluateAll(stateNames)).toEqual(['queued']);
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    const second = await page.locator('.body .row').nth(1).getAttribute('id');
    await soon(() => page.locator('.drawer h2').textContent()).toBe(`Request ${second?.slice('row-'.length)}`);
    expect(page.url()).toContain(`request=${second?.slice('row-'.length)}`);
    await page.keyboard.press('Escape');
    await soon(() => page.locator('.drawer').count()).toBe(0);
    await soon(focused).toBe('requests-table');
    await page.keyboard.press('/');
    await soon(focused).toBe('requests-search');
    await page.keyboard.type('x?');
    await soon(() => page.locator('.table .nothing').textContent()).toBe('No request is like that.');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Shift+?');
    await soon(() => page.locator('dialog[open] h2').textContent()).toMatch(/Keys/);
    await page.keyboard.press('Escape');
    await soon(() => dialogs(page)).toBe(0);
    await page.keyboard.press('m');
    await page.keyboard.press('ArrowRight');
    await soon(() => page.locator('.map-words').first().textContent()).toMatch(/^blocks \d+ to \d+ \(\d+\): request \d+/);
  });

  it('tells of a request: its story, its chart with its state lit, and those that it names', async () => {
    const { page, complaints } = await open({ hash: '#request=7' });
    await page.locator('.drawer .words p').first().waitFor();
    await soon(() => page.locator('.drawer .lit').getAttribute('data-state')).toBe('decoding');
    expect(await page.locator('.drawer .way.gone').count()).toBe(0); // nothing leads from queued to decoding
    expect(await page.locator('.drawer .bar').count()).toBe(2);
    expect(await page.locator('.happened li').textContent()).toContain('arrived');
    await page.locator('.drawer .words button').click();
    await soon(() => page.locator('.drawer h2').textContent()).toBe('Request 2');
    expect(complaints).toEqual([]);
  });

  it('says when it has lost the server, and finds it again', async () => {
    const { page, fake } = await open();
    const state = page.locator('.top [role=status]');
    await soon(() => state.textContent()).toBe('live');
    const said: string[] = [];
    await page.exposeFunction('heard', (words: string) => said.push(words));
    await page.evaluate(() => {
      const pill = document.querySelector('.top [role=status]') as Element;
      const tell = (window as unknown as { heard: (words: string) => void }).heard;
      new MutationObserver(() => tell(pill.textContent ?? '')).observe(pill, {
        childList: true,
        characterData: true,
        subtree: true,
      });
    });
    fake.cut();
    await soon(() => said).toContain('reconnecting');
    await soon(() => state.textContent()).toBe('live');
  });

  it('changes a priority, and asks before it aborts or drains', async () => {
    const { page, fake, board } = await open({ admin: true });
    const { id } = board.frame().requests[0] as { id: number };
    await page.evaluate((request) => (location.hash = `request=${request}`), id);
    await page.reload();
    // It takes the focus when it is there.
    await page.locator('.drawer:focus').waitFor();
    const priority = page.locator('.control input');
    for (const wrong of ['', '1.5', '2147483648', '-2147483649']) {
      await priority.fill(wrong);
      await priority.press('Enter');
      expect(await priority.evaluate((input: HTMLInputElement) => input.validity.valid), wrong).toBe(false);
    }
    await priority.fill('-3');
    await priority.press('Enter');
    await soon(() => postsTo(fake)).toEqual([`requests/${id}/priority {"priority":-3}`]);
    await page.locator('.control .danger', { hasText: /^Abort$/ }).click();
    await page.locator('.control .danger', { hasText: 'Yes' }).waitFor();
    expect(fake.posts.length).toBe(1);
    await page.locator('.control .danger').click();
    await soon(() => postsTo(fake).at(-1)).toBe(`requests/${id}/abort {}`);
    await page.keyboard.press('Escape');
    await soon(() => page.locator('.drawer').count()).toBe(0);
    await page.locator('.top .danger').click();
    await page.locator('dialog[open]').waitFor();
    await page.keyboard.press('Escape');
    await soon(() => page.locator('dialog').count()).toBe(0);
    await page.locator('.top .danger').click();
    await page.locator('dialog[open]').waitFor();
    expect(fake.posts.length).toBe(2);
    await page.locator('dialog .danger').click();
    await soon(() => postsTo(fake).at(-1)).toBe('drain {}');
  });

  it('offers nothing of that where it may not', async () => {
    const { page } = await open({ hash: '#request=7' });
    await page.locator('.drawer .words p').first().waitFor();
    expect(await page.locator('.danger, .control').count()).toBe(0);
  });

  it('lets dots run along the ways, unless motion is unwanted', async () => {
    for (const calm of [true, false]) {
      const { page, board, tick } = await open({ calm });
      await page.evaluate(() => {
        const chart = document.querySelector('.charts [data-chart=request]') as Element;
        new MutationObserver((changes) => {
          const dots = changes.flatMap(({ addedNodes }) => [...addedNodes]).filter((node) => (node as Element).matches?.('.dot'));
          if (dots.length > 0) document.body.dataset.dots = 'seen';
        }).observe(chart, { childList: true, subtree: true });
      });
      // All that is shown has pulsed when the next is.
      for (let times = 0; times < 10; times += 1) {
        tick();
        await soon(() => chartCounts(page)).toEqual(countsOf(board));
      }
      const dots = () => page.evaluate(() => document.body.dataset.dots ?? 'none');
      if (calm) expect(await dots()).toBe('none');
      else await soon(dots).toBe('seen');
    }
  });
});

const stateNames = (states: Element[]) => states.map((state) => (state as SVGElement).dataset.state);

describe.skipIf(CHROMIUM === null)('the cursor of the table', () => {
  const cursor = (page: Page) => page.locator('#requests-table').getAttribute('aria-activedescendant');

  it('stays with its request while others come and go', async () => {
    const { page, board, fake } = await open();
    const rows = () => {
      const { requests, at } = board.frame();
      return rowsOf(requests, EVERYBODY, { column: 'rank', descending: false }, at).map(({ id }) => id);
    };
    await page.locator('#requests-table').focus();
    const start = rows().length - 20;
    for (let step = 0; step < start; step += 1) await page.keyboard.press('ArrowDown');
    const id = rows()[start] as number;
    await soon(() => cursor(page)).toBe(`row-${id}`);
    for (let tick = 0; tick < 200 && rows().indexOf(id) === start; tick += 1) board.tick();
    const place = rows().indexOf(id);
    expect(place).toBeGreaterThanOrEqual(0);
    expect(place).not.toBe(start);
    fake.send();
    await soon(() => page.locator(`#row-${id}`).getAttribute('aria-rowindex')).toBe(String(place + 2));
    expect(await page.locator('.row.active').getAttribute('id')).toBe(`row-${id}`);
    await page.keyboard.press('Enter');
    await soon(() => page.locator('.drawer h2').textContent()).toBe(`Request ${id}`);
  });

  it('leaves the keys of a column to its head', async () => {
    const { page } = await open({ requests: 10 });
    await page.locator('.column-id button').press('End');
    await page.locator('.column-id button').press('ArrowUp');
    await page.locator('.column-id button').press('Enter');
    await soon(() => page.locator('.heads .column-id').getAttribute('aria-sort')).toBe('ascending');
    expect(await page.locator('.drawer').count()).toBe(0);
    expect(await page.locator('.row.active').getAttribute('aria-rowindex')).toBe('2');
  });

  it('is named only while its row is drawn', async () => {
    const { page } = await open({ requests: 5000 });
    await page.locator('#requests-table').focus();
    await soon(() => cursor(page)).toMatch(/^row-\d+$/);
    await page.locator('#requests-table').evaluate((table) => {
      table.scrollTop = 50_000;
    });
    await soon(() => cursor(page)).toBeNull();
  });
});

/** Read while time passes. */
const ticking =
  <T>(tick: () => void, read: () => T) =>
  () => {
    tick();
    return read();
  };

describe.skipIf(CHROMIUM === null)('the drawer', () => {
  it('keeps what it was told when the server cannot say more', async () => {
    let answer: number | null = null;
    const { page, fake, tick } = await open({ hash: '#request=7', storyOf: (id) => answer ?? told(id) });
    const words = page.locator('.drawer .words p').first();
    await words.waitFor();
    for (const status of [500, 200]) {
      answer = status;
      const asked = fake.asked.length;
      // The second is sent when the first was answered.
      await soon(ticking(tick, () => fake.asked.length)).toBeGreaterThan(asked + 1);
      expect([await words.textContent(), await page.locator('.drawer .nothing').count()]).toEqual([STORY.explanation[0], 0]);
    }
  });

  it('says so where the server knows nothing of it', async () => {
    const { page } = await open({ hash: '#request=7', storyOf: () => null });
    await soon(() => page.locator('.drawer .nothing').textContent()).toMatch(/does not know it/);
  });

  it('asks once a second at most, and not after the end', async () => {
    let over = false;
    const storyOf = (id: number) => ({ ...told(id), ...(over && { state: 'done', outcome: 'length' }) });
    const started = performance.now();
    const { page, fake, tick } = await open({ hash: '#request=7', storyOf });
    await soon(ticking(tick, () => fake.asked.length)).toBeGreaterThan(2);
    expect(fake.asked.length).toBeLessThanOrEqual(1 + (performance.now() - started) / 1000);
    over = true;
    await soon(ticking(tick, () => page.locator('.drawer-head .of').count())).toBe(1);
    const asked = fake.asked.length;
    for (let times = 0; times < 5; times += 1) {
      tick();
      await page.waitForTimeout(500); // nothing is to happen meanwhile
    }
    expect(fake.asked.length).toBe(asked);
  });
});

it.skipIf(CHROMIUM === null)('a viewer that is refused reads why', async () => {
  const { page, fake } = await open();
  fake.refusal = '32 others look at this board already.';
  fake.cut();
  await soon(() => page.locator('.facts').textContent()).toBe(fake.refusal);
  fake.refusal = null;
  await soon(() => page.locator('.facts').textContent()).toMatch(/^\d+ requests run/);
});

describe.skipIf(CHROMIUM === null)('whoever reads the board', () => {
  it.each([
    { width: 390, height: 844, dark: false },
    { width: 390, height: 844, dark: true },
    { width: 820, height: 1100, dark: false },
    { width: 1440, height: 900, dark: true },
  ])('finds it in place at $width pixels, dark: $dark', async (how) => {
    const { page, complaints } = await open({ ...how, hash: '#request=7' });
    await page.locator('.drawer .words p').first().waitFor();
    const sideways = () => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    expect(await sideways()).toBeLessThanOrEqual(0);
    await page.keyboard.press('Escape');
    await soon(() => page.locator('.drawer').count()).toBe(0);
    expect(await sideways()).toBeLessThanOrEqual(0);
    // A rank of seven digits is read to its end.
    const ranks = page.locator('.body .column-rank');
    expect(await ranks.first().textContent()).toMatch(/^1,234,56\d$/);
    expect(await ranks.evaluateAll((cells) => cells.filter((cell) => cell.scrollWidth > cell.clientWidth).length)).toBe(0);
    expect(complaints).toEqual([]);
  });

  it('hears a name of everything that acts or is a picture, and no name twice', async () => {
    const { page } = await open({ admin: true, hash: '#request=7' });
    await page.locator('.drawer .words p').first().waitFor();
    const found = await page.evaluate(() => {
      const named = (element: Element) => {
        const label = element.closest('label')?.textContent ?? '';
        const title = element.querySelector(':scope > title')?.textContent ?? '';
        return (element.getAttribute('aria-label') ?? '') || label || title || (element.textContent ?? '').trim();
      };
      const acting = [
        ...document.querySelectorAll('button, input, select, [role=button], [tabindex="0"], [role=img], dialog, section'),
      ];
      const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id);
      return {
        acting: acting.length,
        nameless: acting.filter((element) => named(element).trim() === '').map((element) => element.outerHTML.slice(0, 120)),
        twice: ids.filter((id, index) => ids.indexOf(id) !== index),
        language: document.documentElement.lang,
        headings: document.querySelectorAll('h1').length,
      };
    });
    expect(found.acting).toBeGreaterThan(40);
    expect(found).toMatchObject({ nameless: [], twice: [], language: 'en', headings: 1 });
  });

  it('chooses light or dark, and finds it so again', async () => {
    const { page } = await open();
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    const button = page.getByRole('button', { name: /^Theme/ });
    await button.click();
    expect(await ground()).toBe(light);
    await button.click();
    const dark = await ground();
    expect(dark).not.toBe(light);
    await page.reload();
    await page.locator('.kpi').first().waitFor();
    expect(await ground()).toBe(dark);
  });
});
