/** The commands of README.md, run as they stand there (on a free port). */
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import OpenAI from 'openai';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const README = readFileSync(`${ROOT}README.md`, 'utf8');
const run = promisify(execFile);
const shell = [...README.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block]) => (block as string).trim());
const scripts = (JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as { scripts: Record<string, string> }).scripts;

describe('README.md', () => {
  it('begins with the two commands, the first of which CI runs too', () => {
    expect(shell[0]).toBe('npm ci\nnpm start');
    expect(readFileSync(`${ROOT}.ci/run`, 'utf8')).toMatch(/^npm ci /m);
    expect(README).toContain('`npm test` runs the tests');
  });

  it('starts a server that holds its conversation and answers its curl commands', async () => {
    // A group of its own, so that npm and the server it starts end together.
    const server = spawn('npm', ['start'], { cwd: ROOT, detached: true, env: { ...process.env, FASTSWITCH_PORT: '0' } });
    try {
      let output = '';
      const url = await new Promise<string>((resolve, reject) => {
        const read = (chunk: Buffer) => {
          output += chunk;
          const found = /serving demo on (\S+)/.exec(output);
          if (found) resolve(found[1] as string);
        };
        server.stdout.on('data', read);
        server.stderr.on('data', read);
        server.once('exit', (code) => reject(new Error(`npm start ended with code ${code}:\n${output}`)));
      });
      await converse(url);
      const commands = shell.slice(1).filter((block) => block.startsWith('curl '));
      expect(commands.length).toBeGreaterThan(0);
      for (const command of commands) {
        const { stdout } = await run('bash', ['-c', command.replaceAll('http://127.0.0.1:8080', url)]);
        expect(JSON.parse(stdout)).toMatchObject({ object: 'chat.completion', choices: [{ finish_reason: expect.any(String) }] });
      }
    } finally {
      process.kill(-(server.pid as number), 'SIGTERM');
    }
  });

  it('simulates as it says', { timeout: 120_000 }, async () => {
    const commands = shell.filter((block) => block.startsWith('npm run simulate'));
    expect(commands.length).toBeGreaterThan(0);
    for (const command of commands) {
      const { stdout } = await run('bash', ['-c', command], { cwd: ROOT });
      for (const preset of ['vllm-0.3', 'fastswitch', 'default']) expect(stdout).toContain(`| ${preset} `);
    }
  });

  it('replays as it says', { timeout: 60_000 }, async () => {
    const lines = README.split('\n').filter((line) => /^npx fastswitch (replay|explain) /.test(line));
    expect(lines.length).toBeGreaterThanOrEqual(5);
    const folder = mkdtempSync(join(tmpdir(), 'fastswitch-readme-'));
    const golden = 'test/golden/live-demo-stall.d2.journal';
    for (const line of lines) {
      const [command = ''] = line.replace('npx fastswitch', 'node dist/src/main.js').split(' # ');
      const own = command
        .replace('runs/', golden)
        .replace('chat-of-ada', 'ada')
        .replace(' out.json', ` ${join(folder, 'out.json')}`);
      const { stdout } = await run('bash', ['-c', own.replace('4711', '300')], { cwd: ROOT });
      expect(stdout, line).not.toBe('');
    }
    rmSync(folder, { recursive: true });
  });

  it('promises a help that explains every flag it names', async () => {
    const serve = await run('npm', ['start', '--silent', '--', '--help'], { cwd: ROOT });
    const simulate = await run('npm', ['run', 'simulate', '--silent', '--', '--help'], { cwd: ROOT });
    const others = await Promise.all(
      ['replay', 'explain', 'board', 'keys', 'devices'].map((command) =>
        run('node', ['dist/src/main.js', command, '--help'], { cwd: ROOT }),
      ),
    );
    const stdout = [serve, simulate, ...others].map((help) => help.stdout).join('');
    const text = README.replaceAll(/`npm run bench[^`]*`/g, ''); // benches have flags of their own
    const flags = new Set([...text.matchAll(/ (--[a-z][a-z-]+) /g)].map(([, flag]) => flag as string));
    for (const flag of flags) expect(stdout).toContain(flag);
  });

  it('and CONTRIBUTING.md name only scripts and files that exist', () => {
    const pages = README + readFileSync(`${ROOT}CONTRIBUTING.md`, 'utf8');
    for (const [, script] of pages.matchAll(/npm run ([a-z:-]+)/g)) expect(scripts).toHaveProperty([script as string]);
    for (const [, link] of README.matchAll(/\]\((?!http)([^)]+)\)/g))
      expect(() => readFileOrFolder(link as string)).not.toThrow();
  });
});

/** Says what the transcript's user says, through the OpenAI client, and expects what it answers. */
async function converse(url: string): Promise<void> {
  const transcript = /```text\n(> [\s\S]*?)```/.exec(README)?.[1]?.trim().split('\n') ?? [];
  expect(transcript.length).toBeGreaterThanOrEqual(12);
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
  const messages: OpenAI.ChatCompletionMessageParam[] = [];
  for (let line = 0; line < transcript.length; line += 2) {
    messages.push({ role: 'user', content: (transcript[line] as string).slice(2) });
    const answer = await client.chat.completions.create({ model: 'demo', messages });
    expect(answer.choices[0]?.message.content).toBe(transcript[line + 1]);
    messages.push({ role: 'assistant', content: transcript[line + 1] as string });
  }
}

function readFileOrFolder(path: string): unknown {
  return path.includes('.') ? readFileSync(`${ROOT}${path}`) : readdirSync(`${ROOT}${path}`);
}

describe('the benches', () => {
  it.each(['core', 'blocks', 'engine', 'swap', 'serve', 'board', 'tenants'])(
    'bench/%s.ts runs in its small form and prints a hash of its result',
    async (name) => {
      const { stdout } = await run('node', [`dist/bench/${name}.js`, '--quick', '--json'], { cwd: ROOT, timeout: 60_000 });
      expect(stdout).toMatch(/"hash":"[0-9a-f]{8,}"/);
    },
    70_000,
  );
});
