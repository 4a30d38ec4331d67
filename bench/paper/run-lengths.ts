/** The run lengths that `bench/blocks` measures: it is run beside this, and read. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { RunLengths } from './experiment.js';

/** The allocators that are shown; what is not there is left out. */
const SHOWN = ['adaptive reserve', 'reserve of 60', 'reserve of 0', 'last freed first', 'first freed first'];

interface Scene {
  readonly name: string;
  readonly deviceFull: number;
  readonly out: { readonly meanRun: number; readonly histogram: readonly number[] };
}

/** Of the fullest device. Null where the bench is not compiled beside this file. */
export async function readRunLengths(quick: boolean): Promise<RunLengths | null> {
  const bench = fileURLToPath(new URL('../blocks.js', import.meta.url));
  if (!existsSync(bench)) return null;
  const { stdout } = await promisify(execFile)(process.execPath, [bench, '--json', ...(quick ? ['--quick'] : [])], {
    maxBuffer: 2 ** 26,
  });
  const { buckets, scenes } = JSON.parse(stdout) as { buckets: readonly number[]; scenes: readonly (readonly Scene[])[] };
  const scene = (scenes[0] ?? []).filter(({ name }) => SHOWN.includes(name));
  return {
    buckets,
    deviceFull: scene[0]?.deviceFull ?? 0,
    allocators: scene.map(({ name, out }) => ({ name, meanRun: out.meanRun, shares: out.histogram })),
  };
}
