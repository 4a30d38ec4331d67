/** `serve --journal` as a user runs it: killed under load, told to go, started again, in trouble; and what its files give away. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { openRecording } from '../../src/actors/recording.js';
import { BlockNames } from '../../src/native/names.js';
import { contentsOf, replayOf } from '../actors/journals.js';
import { post, type RunningServer, runToEnd, startServer, startServerIn, until } from './server.js';

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-e2e-journal-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const newFolder = () => mkdtempSync(join(scratch, 'journal-'));

async function started(...flags: string[]): Promise<RunningServer> {
  const server = await startServer(...flags);
  onTestFinished(() => void server.process.kill('SIGKILL'));
  return server;
}

const BODY = { model: 'demo', temperature: 0, ignore_eos: true };
interface Completion {
  readonly choices: readonly [{ readonly text: string; readonly token_ids: number[] }];
}
const complete = (server: RunningServer, more: object) =>
  post<Completion>(`${server.url}/v1/completions`, { ...BODY, ...more }).then(({ choices: [choice] }) => choice);

/** Streams to clients that come and go, of changing priority, on a device that holds a few of them; until they are stopped. */
function load(server: RunningServer, clients: number): AbortController {
  const stop = new AbortController();
  const ask = async (number: number, turn: number) => {
    const leaves = new AbortController();
    const body = JSON.stringify({
      ...BODY,
      prompt: `Client ${number} asks for the ${turn}. time: what is ${'very '.repeat((7 * number + turn) % 60)} large?`,
      max_tokens: 20 + ((13 * number + turn) % 90),
      priority: (number + turn) % 5,
      stream: true,
    });
    const answer = await fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json' },
      signal: AbortSignal.any([leaves.signal, stop.signal]),
    });
    let read = 0;
    for await (const _ of answer.body ?? []) {
      read += 1;
      if ((number + turn) % 6 === 0 && read === 9) leaves.abort();
    }
  };
  const leftOrStopped = () => {};
  const client = async (number: number) => {
    for (let turn = 0; !stop.signal.aborted; turn += 1) await ask(number, turn).catch(leftOrStopped);
  };
  for (let number = 0; number < clients; number += 1) void client(number);
  return stop;
}

const metric = (server: RunningServer, name: string) => server.metric(`fastswitch_journal_${name}`);

describe('a server that records', () => {
  it('and is killed under load leaves a journal that replays to its last whole record', { timeout: 120_000 }, async () => {
    const folder = newFolder();
    const flags = [
      '--device-kv',
      '2MiB',
      '--host-kv',
      '4MiB',
      '--policy',
      'priority',
      '--journal',
      folder,
      '--journal-segment',
      '64KiB',
    ];
    const server = await started(...flags);
    expect(server.output()).toContain(`recording to ${folder}, without content\n`);
    const clients = load(server, 24);
    let written = 0;
    await until(
      'there are thousands of records',
      async () => {
        written = await metric(server, 'records_total');
        return written > 3000;
      },
      60_000,
    );
    server.process.kill('SIGKILL');
    await server.exited;
    clients.abort();
    const recording = openRecording(folder);
    expect(recording.files.length).toBeGreaterThan(1);
    const { records, end } = contentsOf(recording);
    expect(end.type).toMatch(/^(open|cut)$/);
    expect(records.length).toBeGreaterThanOrEqual(written);
    const { taken, divergence, metrics } = replayOf(recording.header, records);
    expect({ taken, divergence }).toEqual({ taken: records.length, divergence: null });
    console.log(`killed: ${records.length} records, ${end.type}; preemptions ${JSON.stringify(metrics.preemptions)}`);
    expect(metrics.preemptions.swap + metrics.preemptions.recompute).toBeGreaterThan(10);
    expect(records.some((record) => record.type === 'aborted')).toBe(true);
    expect(recording.header).toMatchObject({
      source: 'live',
      content: false,
      model: { name: 'demo', fingerprint: expect.stringMatching(/^[0-9a-f]{64}$/) },
      config: { model: 'demo', policy: 'priority', journalContent: false },
    });
    expect(JSON.stringify(recording.header)).not.toContain(scratch);
    for (const place of ['host', 'port', 'journal']) expect(recording.header.config).not.toHaveProperty(place);
  });

  it('and is told to go closes its journal; started again, it begins another', { timeout: 60_000 }, async () => {
    const folder = join(newFolder(), 'made', 'anew');
    for (const run of [1, 2]) {
      const server = await started('--journal', folder, '--drain-seconds', '5');
      await complete(server, { prompt: `Run ${run}`, max_tokens: 12 });
      expect(await metric(server, 'failing')).toBe(0);
      expect(await server.stop(), server.output()).toBe(0);
    }
    const files = readdirSync(folder).map((name) => join(folder, name));
    expect(files).toHaveLength(2);
    expect(() => openRecording(folder)).toThrow(`${folder} holds 2 runs; name a file of one:`);
    for (const file of files) {
      const { records, end } = contentsOf(file);
      expect(end).toEqual({ type: 'whole' });
      expect(replayOf(openRecording(file).header, records).divergence).toBe(null);
    }
  });

  it('does not record unless it is asked to', async () => {
    const server = await started();
    const page = await (await fetch(`${server.url}/metrics`)).text();
    expect(page).not.toMatch(/^fastswitch_journal/m);
    expect(server.output()).not.toContain('recording');
    await server.stop();
  });
});

describe('what a journal gives away', () => {
  const PROMPT = 'Zyxomma petiolatum, quoth the vexed jugglers of Qaanaaq: 8675309!';

  /** The ids as they may lie in a file: each kind of number, three in a row. */
  function traces(ids: readonly number[]): Buffer[] {
    const rows: Buffer[] = [];
    for (let from = 0; from + 3 <= ids.length; from += 1) {
      const three = ids.slice(from, from + 3);
      const write = (bytes: number, put: (into: Buffer, id: number, at: number) => void) => {
        const row = Buffer.alloc(3 * bytes);
        for (const [k, id] of three.entries()) put(row, id, bytes * k);
        return row;
      };
      rows.push(
        write(2, (into, id, at) => into.writeUInt16LE(id, at)),
        write(2, (into, id, at) => into.writeUInt16BE(id, at)),
        write(4, (into, id, at) => into.writeUInt32LE(id, at)),
        write(4, (into, id, at) => into.writeUInt32BE(id, at)),
        write(8, (into, id, at) => into.writeDoubleLE(id, at)),
        write(8, (into, id, at) => into.writeDoubleBE(id, at)),
        Buffer.from(three.join(',')),
        Buffer.concat(three.map((id) => (id < 128 ? Buffer.from([id]) : Buffer.from([0xcd, id >> 8, id & 255])))), // MessagePack
      );
    }
    return rows;
  }

  it('are no words and no tokens, and nothing that a guess at them could be held against', { timeout: 60_000 }, async () => {
    for (const content of [false, true]) {
      const folder = newFolder();
      const server = await started('--journal', folder, '--drain-seconds', '5', ...(content ? ['--journal-content'] : []));
      expect(server.output()).toContain(content ? 'with the token ids of prompts and answers' : 'without content');
      const asked = { model: 'demo', prompt: PROMPT };
      const { tokens: prompt } = await post<{ tokens: number[] }>(`${server.url}/tokenize`, asked);
      const { text, token_ids: reply } = await complete(server, { prompt: PROMPT, max_tokens: 40, return_token_ids: true });
      expect(reply).toHaveLength(40);
      expect(await server.stop()).toBe(0);
      const [name] = readdirSync(folder) as [string];
      const bytes = readFileSync(join(folder, name));
      const { records, end } = contentsOf(folder);
      expect(end).toEqual({ type: 'whole' });
      if (content) {
        expect(records.flatMap((record) => (record.type === 'arrived' ? [record.prompt] : []))).toEqual([prompt]);
        expect(records.flatMap((record) => (record.type === 'stepped' ? (record.tokens ?? []) : []))).toEqual(reply);
        expect(openRecording(folder).header.content).toBe(true);
        expect(traces(prompt).some((row) => bytes.includes(row))).toBe(true); // what is looked for below would be found
        continue;
      }
      for (const words of [PROMPT, 'petiolatum', 'Qaanaaq', text]) {
        const plain = Buffer.from(words);
        const other = [Buffer.from(words, 'utf16le'), Buffer.from(plain.toString('base64')), Buffer.from(plain.toString('hex'))];
        for (const written of [plain, ...other]) expect(bytes.includes(written), words).toBe(false);
      }
      for (const row of [...traces(prompt), ...traces(reply)]) expect(bytes.includes(row), row.toString('hex')).toBe(false);
      // Names of blocks are there, and are not those that anybody else could compute from the prompt.
      const names = records.flatMap((record) => (record.type === 'arrived' ? [record.names] : []));
      expect(names[0]?.length).toBe(16 * Math.floor(prompt.length / 16));
      expect(names[0]?.length).toBeGreaterThan(0);
      const [guess] = new BlockNames('', 16).extend(Int32Array.from(prompt)) as [string];
      expect(bytes.includes(Buffer.from(guess, 'latin1'))).toBe(false);
    }
  });
});

describe('trouble with the journal', () => {
  it('where it cannot be written, everything is served, and the operator is told', { timeout: 60_000 }, async () => {
    const folder = newFolder();
    writeFileSync(join(folder, 'file'), '');
    const server = await started('--journal', join(folder, 'file', 'journal'), '--drain-seconds', '5');
    await complete(server, { prompt: 'Hello', max_tokens: 5 });
    await until('it is told', async () => server.output().includes('warning: journal: '));
    expect(server.output()).toMatch(
      /warning: journal: .* cannot be written: ENOTDIR.*; serving goes on, unrecorded until that is over\n/,
    );
    await until('it is counted', async () => (await metric(server, 'lost_records_total')) > 0);
    expect(await metric(server, 'failing')).toBe(1);
    expect(await metric(server, 'records_total')).toBe(0);
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    expect(await server.stop()).toBe(0);
  });

  it('where a file may not grow (as on a full disk), it goes on in another and says what is missing', { timeout: 60_000 }, () => {
    const folder = newFolder();
    const script = `
      import { Journal } from './dist/src/actors/journal.js';
      const header = ${JSON.stringify({ format: 1, version: '', decisions: 1, run: 'abcdef01', startedAt: '2025-01-01T00:00:00Z', source: 'live', content: false, blockTokens: 16, limits: {}, model: {}, seed: 0, config: {} })};
      const journal = new Journal({ target: { folder: ${JSON.stringify(folder)}, segmentBytes: 2 ** 30 }, header, warn: (words) => console.log(words) });
      const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
      let at = 0;
      const record = (count) => { for (const end = at + count; at < end; ) journal.decided({ type: 'stepFailed', at: (at += 1), step: 1, error: 'x'.repeat(1000) }, []); };
      record(100);
      await pause(300);
      record(50);
      await pause(200);
      record(7);
      console.log(JSON.stringify(journal.status()));
      await pause(3500);
      record(20);
      await journal.close(1000);
      console.log(JSON.stringify(journal.status()));`;
    // 128 KiB, in units of 1024 bytes.
    const { stdout, stderr, status } = spawnSync(
      'bash',
      ['-c', 'ulimit -f 128; exec "$0" --input-type=module -e "$1"', process.execPath, script],
      {
        encoding: 'utf8',
      },
    );
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    const [trouble, during, over, after] = stdout.trim().split('\n') as [string, string, string, string];
    expect(trouble).toMatch(/0001\.journal cannot be written: EFBIG.*; allow larger files/);
    const { records, lost } = JSON.parse(during) as { records: number; lost: number };
    expect(records).toBeGreaterThan(100);
    expect(records + lost).toBe(157);
    expect(over).toMatch(new RegExp(`^journal: it goes on in .*-0002.journal; ${lost} records are missing before that$`));
    expect(JSON.parse(after)).toMatchObject({ records: records + 21, lost, failing: false });
    const names = readdirSync(folder).sort();
    expect(names).toHaveLength(2);
    // Not by openRecording, because that header is none; but the first segment ends within a frame.
    expect(readFileSync(join(folder, names[0] as string)).length).toBe(128 * 1024);
  });

  it('where the disk hangs, the server still goes when it is told to', { timeout: 90_000 }, async () => {
    const folder = newFolder();
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    // Fault injection: the system's thread opens a pipe that nobody reads, which takes for ever, instead of the journal.
    const preload = join(folder, 'hang.mjs');
    writeFileSync(
      preload,
      `import promises from 'node:fs/promises';
       import { syncBuiltinESMExports } from 'node:module';
       const { open } = promises;
       promises.open = (path, ...rest) => open(String(path).endsWith('.journal') ? ${JSON.stringify(pipe)} : path, ...rest);
       syncBuiltinESMExports();`,
    );
    mkdirSync(join(folder, 'journal'));
    const environment = { NODE_OPTIONS: `--import ${preload}` };
    const server = await startServerIn(environment, '--journal', join(folder, 'journal'), '--drain-seconds', '1');
    onTestFinished(() => void server.process.kill('SIGKILL'));
    await complete(server, { prompt: 'Hello', max_tokens: 5 });
    const told = performance.now();
    server.process.kill('SIGTERM');
    expect(await server.exited).toBe('SIGKILL');
    expect(performance.now() - told).toBeLessThan(20_000);
    expect(server.output()).toMatch(/warning: journal: it lacks its end: the disk did not take \d+ bytes in 5 s\n/);
    expect(server.output()).toMatch(/the system thread does not end: .*; it is killed\n$/);
  });
});

describe('simulate --journal', () => {
  const flags = ['simulate', '--conversations', '5', '--json'];

  it('records one run, the same bytes each time, which replays', { timeout: 60_000 }, async () => {
    const files = ['a.journal', 'b.journal'].map((name) => join(scratch, name));
    for (const file of files) expect((await runToEnd([...flags, '--journal', file])).code).toBe(0);
    const [a, b] = files.map((file) => readFileSync(file)) as [Buffer, Buffer];
    expect(a.equals(b)).toBe(true);
    const recording = openRecording(files[0] as string);
    expect(recording.header).toMatchObject({
      source: 'simulated',
      model: { name: 'llama8b-a10' },
      seed: 1,
      config: { scenario: 'llama8b-a10', preset: 'default', pattern: 'random', policy: 'priority', conversations: 5 },
    });
    const { records, end } = contentsOf(recording);
    expect(end).toEqual({ type: 'whole' });
    expect(replayOf(recording.header, records)).toMatchObject({ taken: records.length, divergence: null });
  });

  it.each([
    [
      'several runs',
      ['--seeds', '3'],
      /--journal records one run, and this would be 3: choose one scenario, pattern and preset, and one seed/,
    ],
    ['several presets', ['--preset', 'all'], /--journal records one run, and this would be 9/],
    ['a file that cannot be', ['--journal', '/dev/null/x'], /--journal \/dev\/null\/x cannot be written: ENOTDIR/],
    ['a full disk', ['--journal', '/dev/full'], /--journal \/dev\/full cannot be written: ENOSPC/],
  ])('refuses %s', async (_name, more, message) => {
    const { code, stderr } = await runToEnd([...flags, '--journal', join(scratch, 'c.journal'), ...more]);
    expect(stderr.split('\n').at(-2)).toMatch(message);
    expect(code).toBe(1);
  });
});
