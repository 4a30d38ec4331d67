/** The program as its operator meets it: what it prints, how it refuses to start, and how it goes. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { idle, post, type RunningServer, runToEnd, startServer, startServerIn, until } from './server.js';
import { eventsIn, posting, type RawAnswer, wire } from './wire.js';

const DEMO = fileURLToPath(new URL('../../models/demo/', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const VERSION = (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version;

function scratchFile(name: string, content: string): string {
  const path = join(scratch, name);
  writeFileSync(path, content);
  return path;
}

describe('the command line', () => {
  it.each(['', 'serve --help'])('"fastswitch %s" explains itself', async (line) => {
    const args = line.split(' ').filter((word) => word !== '');
    const { code, stdout, stderr } = await runToEnd(args);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain('fastswitch serve [flags]');
    if (args.includes('serve')) expect(stdout).toContain('--device-kv SIZE');
  });

  it.each(['--version', 'serve --version'])('"fastswitch %s" says the version and nothing else', async (line) => {
    expect(await runToEnd(line.split(' '))).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' });
  });

  it('an unknown command is named, with what there is', async () => {
    const { code, stdout, stderr } = await runToEnd(['server']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^fastswitch: unknown command "server"/);
    expect(stderr).toContain('fastswitch serve [flags]');
  });

  const config = (content: string) => ['--config', scratchFile('config.json', content)];
  const wrong: [string, () => string[], RegExp, Record<string, string>?][] = [
    ['an unknown flag', () => ['--prot', '1'], /--prot.*did you mean --port\?/],
    ['a flag without its value', () => ['--port'], /--port needs a value/],
    ['a value that is none', () => ['--port', 'http'], /--port is "http".*0 to 65535/],
    [
      'values that contradict each other',
      () => ['--max-running', '9', '--max-batch-tokens', '8'],
      /--max-batch-tokens.*--max-running/,
    ],
    ['a configuration file that is not there', () => ['--config', join(scratch, 'none.json')], /--config .*none\.json/],
    ['a configuration file that is no JSON', () => config('{"port": 80'), /config\.json cannot be read/],
    ['an unknown variable', () => [], /FASTSWITCH_PROT.*FASTSWITCH_PORT/, { FASTSWITCH_PROT: '80' }],
  ];
  it.each(wrong)('%s is refused in one line that says what is allowed', async (_name, flags, message, environment) => {
    const { code, stdout, stderr } = await runToEnd(['serve', ...flags()], environment);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^fastswitch: [^\n]+\n$/);
    expect(stderr).toMatch(message);
  });

  it('the most specific source of a value wins: flag, then variable, then file', async () => {
    const file = scratchFile(
      'all.json',
      JSON.stringify({ 'served-model-name': 'by-file', 'max-queued': 7, seed: 5, 'stall-seconds': 9 }),
    );
    const environment = { FASTSWITCH_SERVED_MODEL_NAME: 'by-variable', FASTSWITCH_MAX_QUEUED: '8', FASTSWITCH_SEED: '' };
    const server = await startServerIn(environment, '--config', file, '--served-model-name', 'by-flag', '--drain-seconds', '2');
    try {
      const printed = server.output();
      const lines: [string, string, string][] = [
        ['served-model-name', 'by-flag', 'flag'],
        ['max-queued', '8', 'environment'],
        ['seed', '5', 'file'],
        ['stall-seconds', '9', 'file'],
        ['max-running', '64', 'default'],
      ];
      for (const [flag, value, source] of lines) expect(printed).toMatch(new RegExp(`^ +${flag} +${value} +${source}$`, 'm'));
      const models = (await (await fetch(`${server.url}/v1/models`)).json()) as { data: { id: string }[] };
      expect(models.data.map(({ id }) => id)).toEqual(['by-flag']);
    } finally {
      expect(await server.stop()).toBe(0);
    }
  });
});

describe('a server that cannot start', () => {
  let folders = 0;
  /** The demo model with files replaced (null: left out). */
  function damaged(files: Record<string, string | Buffer | null>): string {
    folders += 1;
    const folder = mkdtempSync(join(scratch, `model${folders}-`));
    for (const name of readdirSync(DEMO)) {
      if (!(name in files)) symlinkSync(join(DEMO, name), join(folder, name));
    }
    for (const [name, content] of Object.entries(files)) if (content !== null) writeFileSync(join(folder, name), content);
    return folder;
  }
  const demo = (name: string) => readFileSync(join(DEMO, name));
  const changed = (name: string, change: (json: Record<string, unknown>) => void) => {
    const json = JSON.parse(demo(name).toString('utf8')) as Record<string, unknown>;
    change(json);
    return { [name]: JSON.stringify(json) };
  };
  const weights = () => demo('model.safetensors');
  const cases: [string, () => string[], RegExp][] = [
    ['no such folder', () => ['--model', join(scratch, 'nowhere')], /nowhere is no folder/],
    ['an empty folder', () => ['--model', mkdtempSync(join(scratch, 'empty-'))], /no config\.json/],
    ['no weights', () => ['--model', damaged({ 'model.safetensors': null })], /safetensors/],
    [
      'weights that break off',
      () => ['--model', damaged({ 'model.safetensors': weights().subarray(0, 1_000_000) })],
      /model\.safetensors.*/,
    ],
    [
      'weights that are none',
      () => ['--model', damaged({ 'model.safetensors': 'not found\n'.repeat(1000) })],
      /model\.safetensors/,
    ],
    [
      'a configuration of another model',
      () => ['--model', damaged(changed('config.json', (json) => (json.hidden_size = 512)))],
      /config\.json/,
    ],
    [
      'an architecture of nobody',
      () => [
        '--model',
        damaged(
          changed('config.json', (json) => {
            json.architectures = ['WizardForCausalLM'];
            json.model_type = 'wizard';
          }),
        ),
      ],
      /[Ww]izard/,
    ],
    ['no tokenizer', () => ['--model', damaged({ 'tokenizer.json': null })], /tokenizer\.json/],
    [
      'a tokenizer that breaks off',
      () => ['--model', damaged({ 'tokenizer.json': demo('tokenizer.json').subarray(0, 9999) })],
      /tokenizer\.json.*JSON/,
    ],
    [
      'the tokenizer of another model',
      () => [
        '--model',
        damaged(
          changed('tokenizer.json', (json) => {
            (json.added_tokens as object[]).push({ id: 5000, content: '<|more|>', special: true, normalized: false });
          }),
        ),
      ],
      /tokenizer.*5000.*2048/,
    ],
    [
      'a chat template that is none',
      () => ['--model', damaged(changed('tokenizer_config.json', (json) => (json.chat_template = '{% for %}')))],
      /chat template/,
    ],
    ['device memory for not one block', () => ['--device-kv', '1KiB'], /--device-kv.*at least/],
    ['device memory that nobody has', () => ['--device-kv', '1000TiB'], /fastswitch: .*blocks/],
    ['an address that others reach, without keys', () => ['--host', '0.0.0.0'], /--host is 0\.0\.0\.0.*--tenants.*--insecure/],
    ['an address of nobody', () => ['--host', '192.0.2.1', '--insecure'], /cannot listen on 192\.0\.2\.1/],
  ];
  it.each(cases)('%s: one line that says why, and exit code 1', async (_name, flags, message) => {
    const { code, stderr } = await runToEnd(['serve', '--port', '0', '--log-level', 'warn', ...flags()]);
    expect(stderr).toMatch(/^fastswitch: [^\n]+\n$/);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(code).toBe(1);
  });

  it('ends with code 1 every time, whatever its threads were just doing', async () => {
    const codes = await Promise.all(
      [1, 2].map(async () => {
        const flags = ['--port', '0', '--device-kv', '1KiB', '--threads', '4'];
        const codes: (number | null)[] = [];
        for (let time = 0; time < 3; time += 1) codes.push((await runToEnd(['serve', ...flags])).code);
        return codes;
      }),
    );
    expect(codes.flat()).toEqual(Array(6).fill(1));
  });

  it('a port in use: says so, and does not disturb who has it', async () => {
    const server = await startServer('--drain-seconds', '2');
    try {
      const { port } = new URL(server.url);
      const { code, stderr } = await runToEnd(['serve', '--port', port]);
      expect({ code, stderr }).toEqual({
        code: 1,
        stderr: `fastswitch: cannot listen on 127.0.0.1:${port}: the port is in use; choose another with --port, or 0 for any\n`,
      });
      expect((await fetch(`${server.url}/health`)).status).toBe(200);
    } finally {
      expect(await server.stop()).toBe(0);
    }
  });

  it('a copy of the demo model elsewhere does start, under the name of its folder', async () => {
    const folder = mkdtempSync(join(scratch, 'copy-'));
    for (const name of readdirSync(DEMO)) copyFileSync(join(DEMO, name), join(folder, name));
    const server = await startServer('--model', folder, '--drain-seconds', '2');
    expect(server.output()).toContain(`serving ${folder.split('/').at(-1)} on http://127.0.0.1:`);
    expect(await server.stop()).toBe(0);
  });
});

const BODY = { model: 'demo', prompt: 'Once', temperature: 0, ignore_eos: true };
const PATH = '/v1/completions';
const health = async ({ url }: RunningServer) => (await fetch(`${url}/health`)).status;

async function started(...flags: string[]): Promise<RunningServer> {
  const server = await startServer(...flags);
  onTestFinished(() => void server.process.kill('SIGKILL'));
  return server;
}

describe('a server that is told to go', () => {
  interface Chunk {
    choices: { index: number; finish_reason: string | null }[];
    error?: { code: string; message: string };
  }
  const chunksOf = ({ body }: RawAnswer) =>
    eventsIn(body).map((event) => (event === '[DONE]' ? null : (JSON.parse(event) as Chunk)));

  it.each(['SIGTERM', 'SIGINT'] as const)(
    'by %s finishes what was asked, running and queued, and takes nothing new',
    async (signal) => {
      const server = await started('--drain-seconds', '30', '--max-running', '4');
      const streaming = wire(server.url, posting(PATH, { ...BODY, n: 12, max_tokens: 1000, stream: true }));
      const whole = wire(server.url, posting(PATH, { ...BODY, max_tokens: 5 }));
      await until('all are there', async () => (await server.metric('fastswitch_requests{state="queued"}')) === 9);
      const told = performance.now();
      server.process.kill(signal);
      await until('it says that it drains', async () => (await health(server)) === 503);
      for (let time = 0; time < 4; time += 1) {
        // Also a body that is still on its way when the answer is known must not cost the client the answer.
        const latecomer = wire(server.url);
        latecomer.socket.pause();
        const body = posting(PATH, { ...BODY, prompt: 'x'.repeat(time % 2 === 0 ? 1 : 20_000_000) });
        await new Promise((resolve) => latecomer.socket.write(body, resolve));
        latecomer.socket.resume();
        const [refused] = (await latecomer.answers(1)) as [RawAnswer];
        expect(refused.status).toBe(503);
        expect(refused.headers.get('retry-after')).toBe('1');
        expect(JSON.parse(refused.body)).toMatchObject({ error: { code: 'draining', type: 'service_unavailable_error' } });
      }
      expect(streaming.text()).not.toContain('[DONE]');
      const [[stream], [answer]] = (await Promise.all([streaming.answers(1), whole.answers(1)])) as [[RawAnswer], [RawAnswer]];
      const chunks = chunksOf(stream);
      expect(chunks.at(-1)).toBe(null);
      const finishes = chunks.flatMap((chunk) => chunk?.choices ?? []).filter(({ finish_reason }) => finish_reason === 'length');
      expect(new Set(finishes.map(({ index }) => index)).size).toBe(12);
      expect(answer.status).toBe(200);
      expect(await server.exited, server.output()).toBe(0);
      expect(performance.now() - told).toBeLessThan(25_000);
      expect(server.output()).toContain(`${signal}: draining for up to 30 s`);
    },
  );

  it.each(['0', '0.3'])('with --drain-seconds %s ends long answers with an error, and itself with code 0', async (seconds) => {
    const server = await started('--drain-seconds', seconds, '--max-running', '16');
    const streaming = wire(server.url, posting(PATH, { ...BODY, n: 64, max_tokens: 1500, stream: true }));
    const whole = wire(server.url, posting(PATH, { ...BODY, max_tokens: 1500, n: 8 }));
    await until('all are there', async () => (await server.metric('fastswitch_requests{state="queued"}')) === 56);
    const told = performance.now();
    server.process.kill('SIGTERM');
    expect(await server.exited, server.output()).toBe(0);
    expect(performance.now() - told).toBeLessThan(5_000);
    const [[stream], [answer]] = (await Promise.all([streaming.answers(1), whole.answers(1)])) as [[RawAnswer], [RawAnswer]];
    const chunks = chunksOf(stream);
    expect(chunks.at(-1)).toBe(null);
    expect(chunks.at(-2)?.error).toMatchObject({ code: 'aborted', message: expect.stringContaining('going down') });
    expect(answer.status).toBe(503);
    expect(JSON.parse(answer.body)).toMatchObject({ error: { code: 'aborted' } });
  });

  it('twice goes at once', async () => {
    const server = await started('--drain-seconds', '60', '--max-running', '4');
    const client = wire(server.url, posting(PATH, { ...BODY, n: 64, max_tokens: 1500, stream: true }));
    await until('it streams', () => client.text().includes('data: '));
    server.process.kill('SIGINT');
    await until('it says that it drains', async () => (await health(server)) === 503);
    const told = performance.now();
    server.process.kill('SIGINT');
    expect(await server.exited).toBe(1);
    expect(performance.now() - told).toBeLessThan(3_000);
  });

  it('does not wait for connections on which nothing was asked, or everything answered', async () => {
    const server = await started('--drain-seconds', '10');
    const spare = connect({ port: Number(new URL(server.url).port), host: '127.0.0.1' });
    onTestFinished(() => void spare.destroy());
    await new Promise((resolve) => spare.once('connect', resolve));
    const used = wire(server.url, posting(PATH, { ...BODY, max_tokens: 1 }));
    await used.answers(1);
    const told = performance.now();
    expect(await server.stop()).toBe(0);
    expect(performance.now() - told).toBeLessThan(5_000);
  });

  it('goes in time although a client does not read and another has sent half a body', async () => {
    const server = await started('--drain-seconds', '0.5');
    const deaf = wire(server.url);
    deaf.socket.pause();
    deaf.socket.write(posting(PATH, { ...BODY, n: 64, max_tokens: 1500, logprobs: 5, stream: true }));
    wire(server.url, posting(PATH, BODY).subarray(0, -9));
    await until('it generates', async () => (await server.metric('fastswitch_requests{state="decoding"}')) === 64);
    const told = performance.now();
    expect(await server.stop()).toBe(0);
    expect(performance.now() - told).toBeLessThan(5_000);
  });

  it('finishes what runs although whoever read its output has gone (as with "| tee" and Ctrl-C)', async () => {
    const server = await started('--max-running', '4');
    const client = wire(server.url, posting(PATH, { ...BODY, n: 4, max_tokens: 500, stream: true }));
    await until('it streams', () => client.text().includes('data: '));
    server.process.stdout?.destroy();
    server.process.kill('SIGINT');
    const [stream] = (await client.answers(1)) as [RawAnswer];
    expect(chunksOf(stream).at(-2)?.choices[0]?.finish_reason).toBe('length');
    expect(await server.exited, server.output()).toBe(0);
  });

  it('while it idles goes at once, with nothing to say but that', async () => {
    const server = await started();
    await post(`${server.url}${PATH}`, { ...BODY, max_tokens: 3 });
    await idle(server);
    const before = server.output();
    const told = performance.now();
    expect(await server.stop()).toBe(0);
    expect(performance.now() - told).toBeLessThan(5_000);
    expect(server.output().slice(before.length)).toBe('SIGTERM: draining for up to 30 s\n');
  });
});
