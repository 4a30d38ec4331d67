/**
 * Builds the native addon with node-gyp, and before it the GPU kernels with nvcc where there is one: `npm run build:native`.
 * Leaves at once when the addon is newer than every source. Offline where node's headers are on the machine (`nodedir` in
 * npm's configuration).
 *
 * Without nvcc the addon is complete and has no kernels: `fastswitch devices` says so. FASTSWITCH_CUDA=off is as without nvcc.
 * An nvcc that fails is no reason to have no server on the CPU: the addon is then built without kernels, with a warning. In CI
 * (CI=true) it fails the build.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(fileURLToPath(import.meta.url));
const kernels = join(folder, 'cuda');
const output = join(folder, 'build');
const addon = join(output, 'Release', 'fastswitch.node');
const force = process.argv.includes('--force');

/**
 * Machine code of Ampere, which Ada (8.9) runs as well, and of Hopper, and text that later drivers compile for what comes after.
 * Each kind of machine code takes half a minute.
 */
const ARCHITECTURES = ['arch=compute_80,code=sm_80', 'arch=compute_90,code=[sm_90,compute_90]'];
const NVCC_FLAGS = [
  ...['-fatbin', '-std=c++17', '-O3', '-Werror', 'all-warnings', '--threads', '2'],
  ...ARCHITECTURES.flatMap((one) => ['-gencode', one]),
];

const sourcesIn = (place, pattern) =>
  readdirSync(place)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => join(place, name));

/** Compiled kernels that the last build took in. */
const carried = () => (existsSync(output) ? sourcesIn(output, /^kernels-.*\.fatbin$/) : []);

/** True where the addon exists, no source is newer, and it has the kernels it should have. */
function upToDate(image) {
  if (!existsSync(addon) || (image === '' && carried().length > 0)) return false;
  const built = statSync(addon).mtimeMs;
  const sources = [
    ...sourcesIn(folder, /\.(cc|h|gyp|mjs)$/),
    ...sourcesIn(kernels, /\.(cc|h)$/),
    ...(image === '' ? [] : [image]),
  ];
  return sources.filter((path) => !path.endsWith('worker.mjs')).every((path) => statSync(path).mtimeMs <= built);
}

function compilerMissing() {
  const name = (process.env.CXX ?? 'c++').split(' ')[0] ?? 'c++';
  return process.platform !== 'win32' && spawnSync(name, ['--version'], { stdio: 'ignore' }).status !== 0;
}

/** The CUDA compiler of this machine; null where there is none. */
function findNvcc() {
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH].filter((home) => home).map((home) => join(home, 'bin'));
  const places = [...homes, ...(process.env.PATH ?? '').split(delimiter), '/usr/local/cuda/bin'];
  return places.map((place) => join(place, 'nvcc')).find((path) => existsSync(path)) ?? null;
}

/** The file and what it includes of ours. */
function included(path, found = new Set()) {
  if (found.has(path) || !existsSync(path)) return found;
  found.add(path);
  for (const [, name] of readFileSync(path, 'utf8').matchAll(/^#\s*include "(.+)"/gm)) included(join(dirname(path), name), found);
  return found;
}

/**
 * The compiled kernels, named by what they were made of, so that they are made again only when that changes; '' without.
 * Throws where nvcc fails.
 */
function cudaImage() {
  if (process.platform !== 'linux' || process.env.FASTSWITCH_CUDA === 'off' || !existsSync(join(kernels, 'kernels.cu')))
    return '';
  const hash = createHash('sha256').update(NVCC_FLAGS.join(' '));
  for (const path of included(join(kernels, 'kernels.cu'))) hash.update(readFileSync(path));
  const image = join(output, `kernels-${hash.digest('hex').slice(0, 16)}.fatbin`);
  const nvcc = findNvcc();
  if (existsSync(image) && !(force && nvcc !== null)) return image;
  if (nvcc === null) return '';
  mkdirSync(output, { recursive: true });
  const making = `${image}.${process.pid}`;
  const run = spawnSync(nvcc, [...NVCC_FLAGS, '-o', making, join(kernels, 'kernels.cu')], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (run.status !== 0) {
    rmSync(making, { force: true });
    throw new Error(`${nvcc} did not compile the GPU kernels (${run.error?.message ?? `exit code ${run.status}, see above`})`);
  }
  for (const old of carried()) rmSync(old);
  renameSync(making, image);
  return image;
}

/** As `cudaImage`, but a failure is only told; null in CI, where it is one. */
function cudaImageOrWarning() {
  try {
    return cudaImage();
  } catch (error) {
    const next = 'FASTSWITCH_CUDA=off leaves them out';
    if (process.env.CI === 'true') {
      console.error(`fastswitch: ${error.message}; ${next}.`);
      return null;
    }
    console.error(
      `fastswitch: ${error.message}; building without them: the server runs on the CPU. ${next} without this warning.`,
    );
    return '';
  }
}

function build() {
  const image = cudaImageOrWarning();
  if (image === null) return 1;
  if (upToDate(image) && !force) return 0;
  if (compilerMissing()) {
    console.error(
      'fastswitch: no C++ compiler found. Install one (Debian: apt-get install g++ make python3; macOS: xcode-select --install), or set CXX, then run: npm run build:native',
    );
    return 1;
  }
  const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  const nodedir = process.env.npm_config_nodedir;
  // node-gyp hands flags that it does not know to binding.gyp as variables.
  const own = [`--cuda_image=${image}`, ...(nodedir ? [`--nodedir=${nodedir}`] : [])];
  const command = [nodeGyp, 'configure', 'build', '--silent', '-C', folder, ...own];
  const run = spawnSync(process.execPath, command, { stdio: 'inherit' });
  if (run.status !== 0) {
    console.error('fastswitch: the native addon did not build; the compiler output above says why.');
    return run.status ?? 1;
  }
  for (const old of carried()) if (old !== image) rmSync(old);
  return 0;
}

process.exitCode = build();
