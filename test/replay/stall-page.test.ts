/** docs/finding-a-stall.md says what its commands print. They are run on the built program, as its reader runs them. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const PAGE = readFileSync(`${ROOT}docs/finding-a-stall.md`, 'utf8');

describe('docs/finding-a-stall.md', () => {
  it('shows what its commands print, and the picture that its script draws', { timeout: 120_000 }, () => {
    const { status, stderr } = spawnSync(process.execPath, ['docs/finding-a-stall/outputs.mjs', '--check'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
  });

  it('uses every tool, and names only files that are there', () => {
    for (const words of ['--request', '--until', '--perfetto', '--what-if', 'fastswitch explain']) expect(PAGE).toContain(words);
    for (const [, link] of PAGE.matchAll(/\]\((?!http)([^)]+)\)/g)) {
      if (!link?.endsWith('golden')) expect(() => readFileSync(`${ROOT}docs/${link}`)).not.toThrow();
    }
  });
});
