/**
 * Runs every command of docs/finding-a-stall.md on the recording that the page is about, and puts what it prints below it.
 *
 *   npm run build && node docs/finding-a-stall/outputs.mjs [--check]
 *
 * With --check nothing is written; it fails where the page says something else. How long a replay took is not compared.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const [PAGE, LANES] = [at('../finding-a-stall.md'), at('lanes.svg')];
const check = process.argv.includes('--check');

/** Commands run where the recording is called stall.journal and nothing else lies about. */
const folder = mkdtempSync(join(tmpdir(), 'fastswitch-page-'));
copyFileSync(at('../../test/golden/live-demo-stall.d2.journal'), join(folder, 'stall.journal'));
const prelude = `fastswitch() { ${JSON.stringify(process.execPath)} ${JSON.stringify(at('../../dist/src/main.js'))} "$@"; }\n`;
const run = (command) => execFileSync('bash', ['-c', `${prelude}${command} 2>&1`], { cwd: folder, encoding: 'utf8' });

const timeless = (text) => text.replace(/took [\d.]+ s to replay \([\d,]+ times as fast\)/g, 'took a while to replay');
const written = readFileSync(PAGE, 'utf8');
const page = written.replace(/```console\n\$ (.*)\n([\s\S]*?)```/g, (block, command, before) => {
  const output = run(command);
  if (timeless(output) === timeless(before)) return block;
  if (check) console.error(`$ ${command}\n${output}`);
  return `\`\`\`console\n$ ${command}\n${output}\`\`\``;
});
run('fastswitch replay stall.journal --perfetto trace.json');
const drawn = join(folder, 'lanes.svg');
execFileSync(process.execPath, [at('lanes.mjs'), join(folder, 'trace.json'), drawn]);
const lanes = readFileSync(drawn, 'utf8');
rmSync(folder, { recursive: true });

if (!check) {
  writeFileSync(PAGE, page);
  writeFileSync(LANES, lanes);
} else if (page !== written || lanes !== readFileSync(LANES, 'utf8')) {
  console.error('docs/finding-a-stall.md does not say what its commands print: node docs/finding-a-stall/outputs.mjs');
  process.exitCode = 1;
}
