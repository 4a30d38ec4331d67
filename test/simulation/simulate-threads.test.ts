/** Runs on several threads. Worker threads load compiled files, so this tests `dist`. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import type { PresetResult } from '../../src/simulation/result.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'fastswitch-threads-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs the command as a user does. */
const simulate = (...argv: string[]) => promisify(execFile)('node', ['dist/src/main.js', 'simulate', ...argv], { cwd: ROOT });

/** Preset and digests, in the order in which they were printed. */
async function digests(threads: number): Promise<unknown[]> {
  const flags = ['--preset', 'vllm-0.3,default,vtc', '--seeds', '2', '--conversations', '5', '--device-blocks', '300', '--json'];
  const { stdout, stderr } = await simulate(...flags, '--threads', String(threads));
  expect(stderr).toBe('');
  const results = stdout.trimEnd().split('\n');
  return results
    .map((line) => JSON.parse(line) as PresetResult)
    .map(({ preset, runs }) => [preset, runs.map(({ seed, digest }) => `${seed} ${digest}`)]);
}

describe('simulate on several threads', () => {
  it('prints the same in the same order as on one', { timeout: 120_000 }, async () => {
    const [one, three] = [await digests(1), await digests(3)];
    expect(three).toEqual(one);
    expect(one.length).toBe(3);
  });

  it('ends with what is wrong with a file, and nothing else', async () => {
    const trace = join(folder, 'long.csv');
    writeFileSync(trace, 'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n2023-11-16 18:15:47,broken,44\n');
    const failed = await simulate('--trace', trace, '--seeds', '2').catch((error: { code: number; stderr: string }) => error);
    expect(failed).toMatchObject({ code: 1 });
    expect(failed.stderr).toMatch(/^fastswitch: trace .*long\.csv, line 3: expected a line like .*\n$/);
  });
});
