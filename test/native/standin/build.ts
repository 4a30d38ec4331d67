/**
 * Compiles the stand-in of NVIDIA's driver library: its own sources and the very kernels that nvcc compiles, as C++. Once for
 * each state of them; the library is kept under node_modules/.cache.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

const ROOT = resolve(import.meta.dirname, '../../..');
const FOLDER = join(ROOT, 'test/native/standin');
const KERNELS = join(ROOT, 'src/native/cuda');
const COMPILE = [
  ...['-std=c++17', '-O2', '-Wall', '-Wextra', '-fno-exceptions', '-fno-rtti', '-ffp-contract=off', '-fPIC', '-pthread'],
  `-I${FOLDER}`,
];
const LINK = ['-shared', '-pthread', '-Wl,-soname,libcuda-standin.so'];
/** Somebody who began to build it so long ago does so no more. */
const STALE_MILLIS = 300_000;

const filesIn = (folder: string, pattern: RegExp): string[] =>
  readdirSync(folder)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => join(folder, name));

/** Programs of their own, which check single kernels, are no part of it. */
const sources = (): string[] => [...filesIn(FOLDER, /^(?!check-).*\.cc$/), join(KERNELS, 'kernels.cu')];

function cacheFolder(): string {
  const modules = join(ROOT, 'node_modules');
  try {
    accessSync(modules, constants.W_OK);
    return join(modules, '.cache', 'fastswitch');
  } catch {
    return join(tmpdir(), 'fastswitch-standin');
  }
}

/** The file and what it includes of ours. */
function addIncluded(path: string, found: Set<string>): void {
  if (found.has(path)) return;
  found.add(path);
  for (const [, name] of readFileSync(path, 'utf8').matchAll(/^#\s*include "(.+)"/gm)) {
    const places = [dirname(path), FOLDER].map((folder) => join(folder, name as string));
    const place = places.find((candidate) => existsSync(candidate));
    if (place !== undefined) addIncluded(place, found);
  }
}

/** Where the library of these sources lies or will lie. */
function placeOf(): string {
  const hash = createHash('sha256').update(JSON.stringify([COMPILE, LINK, process.arch]));
  const files = new Set<string>();
  for (const path of sources()) addIncluded(path, files);
  for (const path of files) hash.update(`\n${basename(path)}\n`).update(readFileSync(path));
  return join(cacheFolder(), `libcuda-standin-${hash.digest('hex').slice(0, 16)}.so`);
}

/**
 * The path of the library, compiled where it is not there yet: half a minute, by one of the processes that ask at the same time,
 * while the others wait.
 */
export async function buildStandin(): Promise<string> {
  const library = placeOf();
  const lock = `${library}.lock`;
  mkdirSync(cacheFolder(), { recursive: true });
  while (!existsSync(library)) {
    if (!takeLock(lock)) {
      await pause(100);
      continue;
    }
    try {
      if (!existsSync(library)) await compile(library);
    } finally {
      rmSync(lock, { recursive: true, force: true });
    }
  }
  return library;
}

function takeLock(lock: string): boolean {
  try {
    mkdirSync(lock);
    return true;
  } catch {
    const since = statSync(lock, { throwIfNoEntry: false })?.mtimeMs;
    if (since !== undefined && Date.now() - since > STALE_MILLIS) rmSync(lock, { recursive: true, force: true });
    return false;
  }
}

/** Two files at a time, the largest (the kernels) first. */
async function compile(library: string): Promise<void> {
  const objects: string[] = [];
  const waiting = sources().sort((a, b) => statSync(b).size - statSync(a).size);
  const kernels = waiting.findIndex((path) => path.endsWith('.cu'));
  waiting.unshift(...waiting.splice(kernels, 1));
  const work = async (): Promise<void> => {
    for (let source = waiting.shift(); source !== undefined; source = waiting.shift()) {
      const object = `${library}.${basename(source)}.o`;
      objects.push(object);
      await run('g++', [...COMPILE, '-c', '-x', 'c++', source, '-o', object], { maxBuffer: 1 << 26 });
    }
  };
  try {
    await Promise.all([work(), work()]);
    await run('g++', [...LINK, ...objects, '-o', `${library}.linked`, '-ldl']);
    renameSync(`${library}.linked`, library);
  } finally {
    for (const object of objects) rmSync(object, { force: true });
  }
}
