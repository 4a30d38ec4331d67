import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { PRESET_NAMES } from '../../src/core/presets.js';
import { FastswitchError } from '../../src/errors.js';
import { type Entry, type Output, planSimulation, simulate } from '../../src/simulation/command.js';
import { type Job, runJob } from '../../src/simulation/jobs.js';
import type { PresetResult } from '../../src/simulation/result.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-simulate-'));
afterAll(() => rmSync(folder, { recursive: true }));

const TRACE = join(folder, 'trace.csv');
writeFileSync(TRACE, 'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n2023-11-16 18:15:47,9000,44\n');
/** A load that takes a moment. */
const SMALL = ['--conversations', '4', '--device-blocks', '300', '--threads', '1'];

function entries(...argv: string[]): readonly Entry[] {
  const plan = planSimulation(argv);
  if (plan.show !== null) throw new Error('a text instead of a plan');
  return plan.entries;
}

const first = (...argv: string[]) => entries(...argv)[0]?.jobs[0];

async function printed(...argv: string[]): Promise<string> {
  const texts: string[] = [];
  const output: Output = { standard: (text) => texts.push(text), progress: () => {}, terminal: false };
  await simulate([...argv, ...SMALL], output);
  return texts.join('');
}

describe('the flags of simulate', () => {
  it('mean the default preset on the first scenario under Random, unless told otherwise', () => {
    const job = first();
    expect([job?.scenario.name, job?.pattern.type, job?.preset.name, job?.policy, job?.seed]).toEqual([
      'llama8b-a10',
      'random',
      'default',
      'priority',
      1,
    ]);
    expect(job?.load).toMatchObject({ type: 'conversations', conversations: 1000 });
  });

  it('run each scenario with each pattern and each preset, over the seeds from 1', () => {
    const all = entries(
      '--scenario',
      'llama8b-a10,qwen32b-a100',
      '--pattern=random,markov',
      '--preset',
      'all,vtc',
      '--seeds',
      '3',
    );
    expect(all.length).toBe(2 * 2 * PRESET_NAMES.length);
    for (const { jobs } of all) expect(jobs.map(({ seed }) => seed)).toEqual([1, 2, 3]);
    expect(all.slice(0, 2).map(({ jobs }) => jobs[0]?.preset.name)).toEqual(PRESET_NAMES.slice(0, 2));
  });

  it('compare by priority where a pattern is on, but leave alone whose policy is the point', () => {
    const policies = (...argv: string[]) =>
      entries('--preset', 'vllm-0.3,fastserve,vtc,default', ...argv).map(({ jobs }) => jobs[0]?.policy);
    expect(policies()).toEqual(['priority', 'mlfq', 'vtc', 'priority']);
    expect(policies('--pattern', 'none')).toEqual(['priority', 'mlfq', 'vtc', 'fair']);
    expect(policies('--policy', 'vtc')).toEqual(['vtc', 'vtc', 'vtc', 'vtc']);
  });

  it('change load, pattern, memory and noise', () => {
    const job = first('--rate', '2.5', '--think', '0', '--phi', '.2', '--frequency', '0.1', '--host-blocks', '7', '--noise', '0');
    expect(job?.load).toMatchObject({ conversationsPerSecond: 2.5, thinkSeconds: 0 });
    expect(job?.pattern).toEqual({ type: 'random', phi: 0.2, frequency: 0.1 });
    expect([job?.scenario.hostBlocks, job?.noise]).toEqual([7, 0]);
  });

  it('take a trace, without a pattern unless one is named, and say what was left out', () => {
    const [entry] = entries('--trace', TRACE, '--limit', '2', '--speed', '4');
    expect(entry?.jobs[0]?.load).toEqual({ type: 'trace', path: TRACE, limit: 2, speed: 4 });
    expect([entry?.jobs[0]?.pattern.type, entry?.dropped]).toEqual(['none', 1]);
    expect(first('--trace', TRACE, '--pattern', 'markov')?.pattern.type).toBe('markov');
  });

  it.each([
    [['--sceanrio', 'x'], 'unknown flag --sceanrio, did you mean --scenario?'],
    [['--zzzzzzzzzz'], 'unknown flag --zzzzzzzzzz, see --help'],
    [['extra'], 'unexpected argument "extra": every option is a flag, see --help'],
    [['--seeds'], '--seeds needs a value: --seeds VALUE or --seeds=VALUE'],
    [['--seeds', '--json'], '--seeds needs a value'],
    [['--json=yes'], '--json takes no value'],
    [['--seeds', '0'], '--seeds is "0"; allowed is an integer, at least 1'],
    [['--phi', '1.5'], '--phi is "1.5"; allowed is a number, 0 to 1'],
    [['--rate', 'fast'], '--rate is "fast"; allowed is a number'],
    [['--rate', '0'], '--rate is "0"; allowed is a number, 0.000001 to 1000000'],
    [['--pattern', 'chaos'], 'no pattern "chaos"; there are random, markov, none'],
    [['--policy', 'best'], 'no policy "best"; there are fcfs, priority, vtc, fair, mlfq, edf'],
    [['--preset', 'vllm'], 'no preset "vllm"; there are vllm-0.3, vllm-1'],
    [['--preset', 'vllm-1+magic'], 'preset "vllm-1+magic": no switch "magic"'],
    [['--preset', 'default,'], '--preset is "default,"; allowed are names with commas between them'],
    [['--scenario', 'h100'], 'no scenario "h100"; there are llama8b-a10, qwen32b-a100'],
    [['--speed', '2'], '--speed is about a trace; give one with --trace FILE'],
    [['--trace', TRACE, '--rate', '2'], '--rate is about drawn conversations; with --trace use --limit and --speed'],
    [['--trace', join(folder, 'none.csv')], 'none.csv cannot be read: ENOENT'],
    [['--pattern', 'none', '--phi', '0.1'], '--phi is about a pattern; choose one with --pattern random or --pattern markov'],
  ])('%j are refused and say what is right', (argv, message) => {
    expect(() => planSimulation(argv)).toThrow(message);
    expect(() => planSimulation(argv)).toThrow(FastswitchError);
  });

  it('are explained, within 100 columns', () => {
    const plan = planSimulation(['--help', '--seeds', '3']);
    const lines = (plan.show ?? '').split('\n');
    expect(lines.some((line) => line.startsWith('  --host-blocks N'))).toBe(true);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100);
  });
});

describe('simulate', () => {
  it('prints one JSON object a line for each preset, with every figure that was promised', async () => {
    const lines = (await printed('--json', '--preset', 'vllm-0.3,fastswitch', '--seeds', '2')).trimEnd().split('\n');
    const results = lines.map((line) => JSON.parse(line) as PresetResult);
    expect(results.map(({ preset }) => preset)).toEqual(['vllm-0.3', 'fastswitch']);
    for (const result of results) {
      expect(result).toMatchObject({ scenario: 'llama8b-a10', pattern: 'random', policy: 'priority' });
      expect(result.runs.map(({ seed }) => seed)).toEqual([1, 2]);
      const spread = { p50: expect.any(Number), p95: expect.any(Number), p99: expect.any(Number), p999: expect.any(Number) };
      for (const run of result.runs) {
        expect(run).toMatchObject({
          digest: expect.stringMatching(/^[0-9a-f]{64}$/),
          requests: expect.any(Number),
          virtualSeconds: expect.any(Number),
          ttftMs: spread,
          tbtMs: spread,
          throughputTokensPerSecond: expect.any(Number),
          stallShareP99: expect.any(Number),
          preemptions: { swap: expect.any(Number), recompute: expect.any(Number) },
          transfers: expect.any(Number),
          bytesOut: expect.any(Number),
          bytesIn: expect.any(Number),
          meanRunBlocks: expect.any(Number),
          decideMicrosPerStep: expect.any(Number),
        });
      }
    }
  });

  it('prints a table otherwise, and says what of a trace was left out', async () => {
    const text = await printed('--preset', 'default,vllm-1');
    expect(text).toContain('## llama8b-a10, random');
    expect(text).toMatch(/^\| default +\| priority +\| /m);
    expect(text).toMatch(/^\| vllm-1 +\| priority +\| /m);
    const texts: string[] = [];
    const output: Output = { standard: (line) => texts.push(line), progress: () => {}, terminal: false };
    await simulate(['--trace', TRACE], output);
    expect(texts.join('')).toContain('1 request, 1 seed; 1 request left out, longer than the context.');
  });

  it('writes a file for each preset and a summary, the same twice but for wall time', async () => {
    const read = (out: string, file: string) => JSON.parse(readFileSync(join(out, file), 'utf8')) as PresetResult;
    const files = ['llama8b-a10-random-default+waits=sync.json', 'llama8b-a10-random-vllm-0.3.json'];
    const [a, b] = [join(folder, 'a'), join(folder, 'b')] as [string, string];
    for (const out of [a, b]) await printed('--preset', 'vllm-0.3,default+waits=sync', '--out', out);
    expect(readdirSync(a).sort()).toEqual([...files, 'summary.md']);
    for (const file of files) expect(read(a, file).runs[0]?.digest).toBe(read(b, file).runs[0]?.digest);
    expect(read(a, files[0] as string).settings).toMatchObject({ deviceBlocks: 300, noise: 0.05, dropped: 0 });
  });

  it('records a run of a trace to the same bytes, wherever the trace lies', () => {
    const [one, other] = ['one', 'other'].map((name) => {
      const place = join(folder, name);
      mkdirSync(place);
      copyFileSync(TRACE, join(place, 'trace.csv'));
      const job = first('--trace', join(place, 'trace.csv'), '--limit', '1') as Job;
      const path = join(place, 'x.journal');
      runJob({ ...job, journal: { path, version: '1.2.3' } }, null);
      return readFileSync(path);
    }) as [Buffer, Buffer];
    expect(one.length).toBeGreaterThan(500);
    expect(one.equals(other)).toBe(true);
  });

  it('says where it cannot write', async () => {
    await expect(printed('--out', join(TRACE, 'x'))).rejects.toThrow(/--out .* cannot be made: ENOTDIR/);
  });
});
