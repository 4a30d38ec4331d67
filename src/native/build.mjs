/**
 * Builds the native addon with node-gyp: `npm run build:native`. Leaves at once when the addon is newer than every
 * source. Offline where node's headers are on the machine (`nodedir` in npm's configuration).
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = dirname(fileURLToPath(import.meta.url));
const addon = join(folder, 'build', 'Release', 'fastswitch.node');

/** True where the addon exists and no source is newer. */
function upToDate() {
  if (!existsSync(addon)) return false;
  const built = statSync(addon).mtimeMs;
  return readdirSync(folder)
    .filter((name) => /\.(cc|cu|h|gyp|mjs)$/.test(name) && name !== 'worker.mjs')
    .every((name) => statSync(join(folder, name)).mtimeMs <= built);
}

function compilerMissing() {
  const name = (process.env.CXX ?? 'c++').split(' ')[0] ?? 'c++';
  return process.platform !== 'win32' && spawnSync(name, ['--version'], { stdio: 'ignore' }).status !== 0;
}

function build() {
  if (upToDate() && !process.argv.includes('--force')) return 0;
  if (compilerMissing()) {
    console.error(
      'fastswitch: no C++ compiler found. Install one (Debian: apt-get install g++ make python3; macOS: xcode-select --install), or set CXX, then run: npm run build:native',
    );
    return 1;
  }
  const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  const nodedir = process.env.npm_config_nodedir;
  const command = [nodeGyp, 'configure', 'build', '--silent', '-C', folder, ...(nodedir ? [`--nodedir=${nodedir}`] : [])];
  const run = spawnSync(process.execPath, command, { stdio: 'inherit' });
  if (run.status !== 0) {
    console.error('fastswitch: the native addon did not build; the compiler output above says why.');
    return run.status ?? 1;
  }
  return 0;
}

process.exitCode = build();
