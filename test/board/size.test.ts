/** What a browser has to load before it shows anything, as a server would compress it; pictures of charts do not count. */
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { expect, it } from 'vitest';

const PAGE = new URL('../../dist/src/http/board/page/', import.meta.url);
const BYTES_MAX = 60 * 1024;

it('the page is below 60 KiB', () => {
  const assets = readdirSync(new URL('assets/', PAGE)).map((name) => new URL(`assets/${name}`, PAGE));
  const sizes = [new URL('index.html', PAGE), ...assets].map((file) => gzipSync(readFileSync(file)).length);
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(BYTES_MAX);
});

it('and asks for nothing from elsewhere', () => {
  const html = readFileSync(new URL('index.html', PAGE), 'utf8');
  const asked = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, address]) => address as string);
  expect(asked.length).toBeGreaterThanOrEqual(3);
  for (const address of asked) expect(address).toMatch(/^\/(board\/assets\/|metrics$)/);
  expect(html).not.toMatch(/<style|<script(?![^>]* src=)|style=/);
});
