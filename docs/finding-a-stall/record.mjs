/**
 * Makes the recording that docs/finding-a-stall.md walks through: the server as a user starts it, with little device memory;
 * Ada's long story at low priority; and in the middle of it a burst of others who rank higher.
 *
 *   npm run build && node docs/finding-a-stall/record.mjs OUT.journal
 *
 * Prints what Ada's client sees. Times differ from run to run and from machine to machine, and with them who is preempted when.
 */
import { spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const FLAGS = ['--port', '0', '--log-level', 'warn', '--policy', 'priority', '--device-kv', '2MiB', '--host-kv', '32MiB'];

const [out] = process.argv.slice(2);
if (out === undefined) throw new Error('where to? node docs/finding-a-stall/record.mjs OUT.journal');
const folder = mkdtempSync(join(tmpdir(), 'fastswitch-stall-'));
const server = spawn(process.execPath, [MAIN, 'serve', ...FLAGS, '--journal', folder], { stdio: ['ignore', 'pipe', 'inherit'] });
const ended = new Promise((resolve) => server.once('exit', resolve));
try {
  const url = await listening();
  await chat(url, { id: 'warm-up', priority: 0, tokens: 16, text: 'Hi!' });
  let told = () => {};
  const midway = new Promise((resolve) => {
    told = (count) => void (count === 40 && resolve());
  });
  const ada = chat(url, { id: 'ada', user: 'ada', priority: 5, tokens: 200, text: 'Tell me a long story about a fox.' }, told);
  await midway;
  const burst = Array.from({ length: 20 }, (_, k) => {
    const more = { user: 'batch', priority: k % 3, tokens: 60 + 5 * k, text: `Count from ${k} to 30.` };
    return pause(4 * k).then(() => chat(url, { id: `batch-${k + 1}`, ...more }));
  });
  const [{ pauses }] = await Promise.all([ada, ...burst]);
  const longest = pauses.reduce((a, b) => (b.millis > a.millis ? b : a));
  console.log(
    `Ada's answer: ${pauses.length + 1} tokens; after token ${longest.after} it hung for ${Math.round(longest.millis)} ms`,
  );
} finally {
  server.kill('SIGTERM');
  await ended;
}
const [journal] = readdirSync(folder);
copyFileSync(join(folder, journal), out);
rmSync(folder, { recursive: true });

function listening() {
  let said = '';
  return new Promise((resolve, reject) => {
    server.stdout.on('data', (chunk) => {
      said += chunk;
      const found = /serving \S+ on (\S+)/.exec(said);
      if (found) resolve(found[1]);
    });
    void ended.then((code) => reject(new Error(`the server ended with code ${code}: ${said}`)));
  });
}

function pause(millis) {
  return new Promise((resolve) => setTimeout(resolve, millis));
}

/** Streams an answer; resolves with the times between its tokens. `told` hears how many came so far. */
async function chat(url, { id, user, priority, tokens, text }, told = () => {}) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-request-id': id },
    body: JSON.stringify({
      model: 'demo',
      messages: [{ role: 'user', content: text }],
      ...(user === undefined ? {} : { user }),
      priority,
      max_tokens: tokens,
      temperature: 0,
      ignore_eos: true,
      stream: true,
      return_token_ids: true,
    }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const pauses = [];
  let [count, last, rest] = [0, 0, ''];
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue;
      const ids = JSON.parse(line.slice(6)).choices[0]?.token_ids ?? [];
      const now = performance.now();
      for (const _ of ids) {
        if (count > 0) pauses.push({ after: count, millis: now - last });
        [count, last] = [count + 1, now];
        told(count);
      }
    }
  }
  return { pauses };
}
