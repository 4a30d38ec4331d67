/**
 * The CUDA kernels one by one, against plain loops and against the CPU: the very sources that nvcc compiles, run on the
 * processor by standin/simt.cc. Each program standin/check-*.cc prints a line for each thing that holds.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const run = promisify(execFile);

const ROOT = resolve(import.meta.dirname, '../..');
const FOLDER = join(ROOT, 'test/native/standin');
const NATIVE = join(ROOT, 'src/native');
const FLAGS = [
  '-std=c++17',
  '-O1',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-Wno-psabi',
  '-fno-exceptions',
  '-fno-rtti',
  '-ffp-contract=off',
];
/** Kernels that read a vector from where none may lie, or leave an array, end at once. */
const TRAPS = ['-fsanitize=alignment,bounds,shift,signed-integer-overflow', '-fsanitize-undefined-trap-on-error'];
/** What the programs are linked with: the kernels, who runs them, and the sampler of the CPU. */
const PARTS = ['cuda/kernels.cu', '../../test/native/standin/simt.cc', 'sampler.cc', 'kernels_portable.cc'];
/** In which order threads run, and with what shared memory is filled before a block. */
const SEEDS = ['0', '1'];

const programs = readdirSync(FOLDER)
  .filter((name) => /^check-.*\.cc$/.test(name) && readFileSync(join(FOLDER, name), 'utf8').includes('#include "check.h"'))
  .sort();

const built = mkdtempSync(join(tmpdir(), 'fastswitch-kernels-'));
const able = process.platform === 'linux' && ['x64', 'arm64'].includes(process.arch);

async function compile(source: string): Promise<string> {
  const object = join(built, `${source.replace(/\W/g, '-')}.o`);
  // Who runs the kernels is what takes the time.
  const more = source.endsWith('simt.cc') ? ['-O2'] : source.endsWith('.cu') ? TRAPS : [];
  await run('g++', [...FLAGS, ...more, `-I${FOLDER}`, '-c', '-x', 'c++', join(NATIVE, source), '-o', object]);
  return object;
}

afterAll(() => rmSync(built, { recursive: true, force: true }));

describe.skipIf(!able)('the kernels', () => {
  const objects: string[] = [];

  beforeAll(async () => {
    for (const part of PARTS) objects.push(await compile(part));
  }, 300_000);

  it.each(programs)(
    '%s finds nothing wrong',
    async (name) => {
      const object = await compile(`../../test/native/standin/${name}`);
      const program = object.replace(/\.o$/, '');
      await run('g++', ['-pthread', object, ...objects, '-o', program]);
      for (const seed of SEEDS) {
        const ended = run(program, [], { env: { ...process.env, FASTSWITCH_STANDIN_SEED: seed } });
        const { code, stdout, stderr } = await ended.catch((error) => error);
        expect({ code, failed: stdout.match(/^FAILED.*/gm), stderr }, `with seed ${seed}`).toEqual({ failed: null, stderr: '' });
        expect(stdout).toMatch(/^ok /m);
      }
    },
    180_000,
  );
});
