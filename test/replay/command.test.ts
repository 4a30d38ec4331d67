/** What `replay` and `explain` show, say and answer: every flag, every ending, every refusal. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { FrameWriter, MAGIC } from '../../src/actors/frames.js';
import type { JournalHeader, JournalRecord } from '../../src/actors/records.js';
import { FastswitchError } from '../../src/errors.js';
import { explain, replay } from '../../src/replay/command.js';
import type { DivergenceReport } from '../../src/replay/divergence.js';
import type { Moment } from '../../src/replay/moment.js';
import type { Summary } from '../../src/replay/summary.js';
import type { TranscriptLine } from '../../src/replay/transcript.js';
import { runToEnd } from '../e2e/server.js';
import { type RecordedWorld, recordsOf, recordWorld, writeRecording } from './recorded-worlds.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-replay-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

/** A whole run, one that was killed, and one whose core failed. */
const [RUN, KILLED, FAILED] = [at('run.journal'), at('killed.journal'), at('failed.journal')];
let run: RecordedWorld;
let records: JournalRecord[];
let killedAfter: number;
beforeAll(async () => {
  run = await recordWorld(RUN, { seed: 1 });
  records = recordsOf(RUN);
  // The same run, killed when somebody waits.
  killedAfter = records.findLast(({ type, effects }) => type === 'arrived' && effects.length === 0)?.n ?? 0;
  await recordWorld(KILLED, { seed: 1, killedAfter });
  await recordWorld(FAILED, { seed: 1, failsAfter: 150 });
});

interface Shown {
  readonly code: number;
  readonly standard: string;
  readonly progress: string;
}

async function shown(command: typeof replay, ...argv: string[]): Promise<Shown> {
  const texts = { standard: '', progress: '' };
  const standard = (text: string) => {
    texts.standard += text;
  };
  const progress = (text: string) => {
    texts.progress += text;
  };
  const code = await command(argv, { standard, progress, terminal: false });
  return { code, ...texts };
}

interface Page {
  readonly exitCode: number;
  readonly message: string | null;
  readonly files: string[];
  readonly header: JournalHeader;
  readonly replayed: { records: number; virtualSeconds: number; end: { type: string } | null };
  readonly divergence: DivergenceReport | null;
  readonly summary: Summary | null;
  readonly moment: Moment | null;
  readonly transcript: TranscriptLine[] | null;
}

async function page(...argv: string[]): Promise<Page> {
  const { standard } = await shown(replay, ...argv, '--json');
  return JSON.parse(standard) as Page;
}

function widest(text: string): number {
  return Math.max(...text.split('\n').map((line) => line.length));
}

/** The recording with other records, in a file of its own. */
function changed(name: string, change: (copies: JournalRecord[]) => JournalRecord[]): string {
  const path = at(`${name}.journal`);
  const numbered = change(records.map((record) => ({ ...record }))).map((record, k) => ({ ...record, n: k + 1 }));
  writeRecording(path, run.header, numbered);
  return path;
}

describe('the summary', () => {
  it('says what happened, within 100 columns, and where the run hung', async () => {
    const { code, standard, progress } = await shown(replay, RUN);
    expect([code, progress]).toEqual([0, '']);
    expect(widest(standard)).toBeLessThanOrEqual(100);
    expect(standard).toContain('toy, simulated by fastswitch 0.1.0, 2026-01-02 03:04:05 UTC (run cafe0001)');
    expect(standard).toContain(`${records.length} records replayed, every decision as it was recorded`);
    for (const title of ['Longest pauses between two tokens', 'Longest waits for a first token', 'Longest stalls before a step'])
      expect(standard).toContain(title);
    expect(standard).toMatch(/^ +\d+ +[\d.]+ m?s +[\d.]+ m?s +[\d.]+ s +\d+ +#\d+-\d+ {2}swapped out, outranked by \d+ /m);
    expect(standard).toMatch(/^What happened to a request: fastswitch explain \S+run\.journal \d+$/m);
  });

  it('has the figures of the run itself', async () => {
    const { summary, header, replayed, exitCode, message, divergence, moment, transcript } = await page(RUN);
    expect([exitCode, message, divergence, moment, transcript]).toEqual([0, null, null, null, null]);
    expect(header).toEqual(run.header);
    expect(replayed).toMatchObject({ records: records.length, end: { type: 'whole' } });
    expect(replayed.virtualSeconds).toBe((records.at(-1)?.at ?? 0) / 1e6);
    const { metrics, seen } = run;
    for (const [type, count] of Object.entries(summary?.events ?? {})) expect(count, type).toBe(seen.get(type) ?? 0);
    expect(summary?.requests).toEqual({ arrived: 40, alive: 0, ended: metrics.finishedByOutcome });
    expect(summary?.tokens).toMatchObject({
      generated: metrics.generatedTokens,
      prompt: metrics.promptTokens,
      found: metrics.cachedPromptTokens,
      prefillComputed: metrics.prefillTokensComputed,
    });
    expect(summary?.preemptions).toMatchObject({ ...metrics.preemptions, withoutCopy: metrics.parked });
    const causes = Object.values(summary?.preemptions.causes ?? {}).reduce((sum, count) => sum + count, 0);
    expect(causes).toBe(metrics.preemptions.swap + metrics.preemptions.recompute);
    expect(summary?.copied.out).toMatchObject({ bytes: metrics.transferBytes.out, transfers: metrics.transfers.out });
    expect(summary?.transfersFailed).toBe(metrics.transfersFailed);
    expect(summary?.longest.pauses.length).toBe(10);
  });

  it('lists for each request what its life has as the longest pause', async () => {
    const { summary } = await page(RUN);
    for (const { id, micros, awayMicros, record, to } of summary?.longest.pauses.slice(0, 5) ?? []) {
      const { standard } = await shown(explain, RUN, String(id), '--json');
      const [{ life }] = (JSON.parse(standard) as { requests: [{ life: { longestPause: object } }] }).requests;
      expect(life.longestPause).toMatchObject({ micros, at: to });
      expect(records[record - 1]?.at).toBe(to);
      expect(awayMicros).toBeLessThanOrEqual(micros);
    }
  });
});

describe('--until', () => {
  it('shows where everybody stands', async () => {
    const preempting = records.find(({ effects }) => effects.some(([type]) => type === 'swapOut'))?.n ?? 0;
    const { code, standard } = await shown(replay, RUN, '--until', String(preempting));
    expect(code).toBe(0);
    expect(widest(standard)).toBeLessThanOrEqual(100);
    expect(standard).toMatch(new RegExp(`^After record #${preempting}, at [\\d.]+ s\n`));
    expect(standard).toMatch(/^device {3}[\d,]+ of 48 blocks free, /m);
    expect(standard).toMatch(/^link {5}transfer \d+: /m);
    for (const title of ['Running, in rank order: ', 'Leaving, in rank order: ']) expect(standard).toContain(title);
  });

  it('is right after every record: everybody is somewhere, and so is every block', async () => {
    const waits = new Set<string>();
    for (let n = 1; n < records.length; n += 23) {
      const { moment, replayed } = await page(RUN, '--until', String(n));
      if (moment === null) throw new Error('no moment');
      expect([moment.record, replayed.end]).toEqual([n, null]);
      const { device } = moment.blocks;
      const moving = moment.requests.filter(({ phase }) => phase === 'swapping-out' || phase === 'swapping-in');
      expect(moment.transfers.filter(({ type }) => type === 'swapOut' || type === 'swapIn').length).toBe(moving.length);
      const held = moment.requests.reduce((sum, { deviceBlocks }) => sum + deviceBlocks, 0);
      expect(held).toBeLessThanOrEqual(device.total - device.free);
      expect(moment.requests.filter(({ stepping }) => stepping).length).toBe(moment.step?.requests ?? 0);
      for (const { waitsFor } of moment.requests) waits.add(waitsFor?.kind ?? 'nothing');
    }
    expect([...waits]).toEqual(expect.arrayContaining(['nothing', 'line', 'copy']));
  });

  it('says for what the first in line waits', async () => {
    for (let n = 1; n < records.length; n += 7) {
      const { standard } = await shown(replay, RUN, '--until', String(n));
      if (!/^ {2}Request \d+ is next\. It waits for /m.test(standard)) continue;
      expect(widest(standard)).toBeLessThanOrEqual(100);
      return;
    }
    throw new Error('nobody ever waited');
  });

  it('warns where there are fewer records', async () => {
    const { code, standard, progress } = await shown(replay, RUN, '--until', '99999');
    expect([code, progress]).toEqual([0, `fastswitch: warning: there are only ${records.length} records\n`]);
    expect(standard).toContain(`After record #${records.length}`);
    expect(standard).toContain('link     idle');
  });
});

describe('--request', () => {
  it('shows what is about a request, a line for each event and effect', async () => {
    const id = records
      .find(({ effects }) => effects.some(([type]) => type === 'swapOut'))
      ?.effects.find(([type]) => type === 'swapOut')?.[1];
    const { code, standard } = await shown(replay, RUN, '--request', String(id));
    expect(code).toBe(0);
    const lines = standard.trimEnd().split('\n');
    for (const line of lines) expect(line).toMatch(/^ *#\d+ +\d+\.\d{6} s +(\+[\d.]+ (ms|µs|s))? /);
    for (const words of ['arrived: prompt of ', 'prefilled', 'swapOut', ' landed, copied for ', 'settled', 'token 1 goes out'])
      expect(standard).toContain(words);
    const { transcript } = await page(RUN, '--request', `chat-${id}`);
    expect(transcript?.map(({ text }) => text)).toEqual(
      lines.map((line) => line.slice(line.search(/\S+( \S+)*$/)).replace(/^.*? {2,}(?=\S)/, '')),
    );
    // Nothing that an outline names it in is left out.
    const named = records.flatMap(({ n, effects }) =>
      effects
        .filter(([type, whose]) => type !== 'step' && type !== 'mirror' && type !== 'tokens' && whose === id)
        .map(([type]) => `${n} ${type}`),
    );
    expect(transcript?.map(({ record, type }) => `${record} ${type}`)).toEqual(expect.arrayContaining(named));
  });

  it('shows for whose sake others left, and both requests of a label', async () => {
    const cause = records.flatMap(({ effects }) => effects).find(([type, , , why]) => type === 'swapOut' && why === 'outranked');
    const { standard } = await shown(replay, RUN, '--request', String(cause?.[4]));
    expect(standard).toContain(`for its sake: swapOut request ${cause?.[1]}, `);
    const both = await shown(replay, RUN, '--request', 'http-3');
    expect(both.standard).toContain('request 5: arrived: ');
    expect(both.standard).toContain('request 6: arrived: ');
  });

  it('can stop, and then shows the moment too', async () => {
    const { standard } = await shown(replay, RUN, '--request', '1', '--until', '3');
    expect(standard).toMatch(/#1 .*arrived: /);
    expect(standard).toContain('\n\nAfter record #3, at ');
  });

  it.each(['77', 'nobody'])('says that there is no %s', async (request) => {
    await expect(shown(replay, RUN, '--request', request)).rejects.toThrow(
      `no request "${request}" in what was replayed; requests are numbered 1 to 40, or named by a label`,
    );
  });
});

describe('the end of a recording', () => {
  it('that was killed is a warning', async () => {
    const { code, standard, progress } = await shown(replay, KILLED);
    expect([code, progress]).toEqual([
      0,
      'fastswitch: warning: the recording has no end: the run was killed, or still goes on\n',
    ]);
    expect(standard).toContain(`${killedAfter} records replayed, every decision as it was recorded`);
    expect(await page(KILLED)).toMatchObject({
      exitCode: 0,
      message: expect.stringContaining('no end'),
      replayed: { end: { type: 'open' } },
    });
  });

  it('in the middle of a record is a warning, and everything before it is replayed', async () => {
    const path = at('cut.journal');
    copyFileSync(RUN, path);
    truncateSync(path, readFileSync(RUN).length - 7);
    const { code, standard, progress } = await shown(replay, path);
    expect(code).toBe(0);
    expect(progress).toMatch(
      /^fastswitch: warning: \S+cut\.journal breaks off in the middle of a record, at byte \d+, \d+ bytes? before its end: /,
    );
    expect(standard).toContain(`${records.length - 1} records replayed`);
  });

  it('by other bytes is damage, and everything before it is replayed', async () => {
    const path = at('damaged.journal');
    const bytes = readFileSync(RUN);
    const middle = bytes.length >> 1;
    bytes.writeUInt8(255 - bytes.readUInt8(middle), middle);
    writeFileSync(path, bytes);
    const { code, standard, progress } = await shown(replay, path);
    expect(code).toBe(3);
    expect(progress).toMatch(
      /^fastswitch: \S+damaged\.journal is damaged at byte \d+, where record #\d+ should be: .+; the \d+ records before that were replayed\n$/,
    );
    expect(standard).toMatch(/^\d+ records replayed, every decision as it was recorded$/m);
    expect(await page(path)).toMatchObject({ exitCode: 3, replayed: { end: { type: 'damaged' } }, summary: {} });
    expect((await shown(replay, path, '--until', '5')).code).toBe(0); // it was not read so far
  });

  it('by records that could not be written is a gap; by a file that is gone, a missing file', async () => {
    const segment = (number: number, firstRecord: number, lost: number, some: readonly JournalRecord[]) => {
      const frames = new FrameWriter();
      const header = { ...run.header, segment: number, firstRecord, lost };
      const path = at(`20260102T030405Z-cafe0001-000${number}.journal`);
      writeFileSync(path, Buffer.concat([MAGIC, frames.frame(header), ...some.map((record) => frames.frame(record))]));
      return path;
    };
    const first = segment(1, 1, 0, records.slice(0, 100));
    const second = segment(2, 121, 20, records.slice(120));
    const gap = await shown(replay, first);
    expect([gap.code, gap.progress]).toEqual([
      3,
      `fastswitch: 20 records could not be written while the run went on, behind #100; ${second} goes on with #121, which cannot be replayed without them; the 100 records before that were replayed\n`,
    ]);
    rmSync(second);
    segment(3, 101, 0, records.slice(100));
    const missing = await shown(replay, first);
    expect([missing.code, missing.progress]).toEqual([
      3,
      `fastswitch: ${second}, the file behind record #100, is missing, and there are later ones; the 100 records before that were replayed\n`,
    ]);
  });

  it('by a failure of the core is replayed to the same failure', async () => {
    const { code, standard } = await shown(replay, FAILED);
    expect(code).toBe(0);
    expect(standard).toContain('The run failed, and so did its replay, with: transfer 9999 came back, but is not in flight\n');
    expect((await page(FAILED)).summary?.crash).toEqual({
      error: 'transfer 9999 came back, but is not in flight',
      replayed: true,
    });
  });

  it('by a failure beside it is told, and is no divergence', async () => {
    const path = at('hands.journal');
    await recordWorld(path, { seed: 1, handsFailAfter: 150 });
    const { code, standard } = await shown(replay, path);
    expect(code).toBe(0);
    expect(standard).toContain('The run failed with: the engine is on fire. Its replay did not: ');
  });

  it('by a failure that does not come again is a divergence', async () => {
    const path = at('fixed.journal');
    const failed = recordsOf(FAILED);
    const last = failed.at(-1) as Extract<JournalRecord, { type: 'crashed' }>;
    writeRecording(path, run.header, failed.with(-1, { ...last, error: 'something else' }));
    const { code, progress } = await shown(replay, path);
    expect(code).toBe(2);
    expect(progress).toContain('the recorded run failed with: something else; it was replayed and it failed with: transfer 9999');
  });
});

describe('a recording that leads elsewhere', () => {
  const diverges = async (path: string) => {
    const { code, standard, progress } = await shown(replay, path);
    expect([code, standard]).toEqual([2, '']);
    const { divergence, exitCode, summary } = await page(path);
    if (divergence === null) throw new Error('no divergence');
    expect([exitCode, summary]).toEqual([2, null]);
    expect(progress).toContain(`fastswitch: the replay leaves its recording at record #${divergence.record}, at `);
    return { progress, divergence };
  };

  it('is named with the event, the request, and the first effect that differs', async () => {
    let id = 0;
    const path = changed('ended', (copies) => {
      const index = copies.findIndex(
        ({ n, type, effects }) =>
          n > 100 &&
          type === 'stepped' &&
          effects.some(([name]) => name === 'tokens') &&
          !effects.some(([name]) => name === 'finish'),
      );
      const record = copies[index] as Extract<JournalRecord, { type: 'stepped' }>;
      id = index + 1;
      return copies.with(index, { ...record, ended: [0] });
    });
    const { progress, divergence } = await diverges(path);
    expect(divergence).toMatchObject({
      record: id,
      reason: null,
      meaning: expect.stringContaining('The same events led to other effects.'),
    });
    expect(divergence.event).toMatch(/^step \d+ came back after .* 1 of them ended by a stop token$/);
    const { firstDifference, actual } = divergence;
    expect(actual[firstDifference ?? -1]).toMatch(/^finish request \d+, outcome stop$/);
    expect(divergence.request).toBe(Number(/\d+/.exec(actual[firstDifference ?? -1] ?? '')?.[0]));
    expect(progress).toMatch(/^ {2}expected .*\n(?: {2}.*\n)* {2}actual /m);
    expect(progress).toMatch(/ >> finish request \d+, outcome stop$/m);
    expect(progress).toContain(`  - fastswitch replay ${path} --until ${id - 1} shows where everybody stood before it.`);
    expect(progress).toContain('DECISIONS');
  });

  it('is named where only what no outline tells is another', async () => {
    const path = changed('mark', (copies) => copies.with(49, { ...(copies[49] as JournalRecord), mark: 12345 }));
    const { divergence } = await diverges(path);
    expect(divergence).toMatchObject({ record: 50, firstDifference: null, meaning: expect.stringContaining('look alike') });
    expect(divergence.expected).toEqual(divergence.actual);
  });

  it('is named where a record is missing, with what the replay said', async () => {
    const launched = records.findIndex(({ n, effects }) => n > 60 && effects.some(([type]) => type === 'step'));
    const path = changed('lost', (copies) => copies.toSpliced(launched, 1));
    const { progress, divergence } = await diverges(path);
    expect(divergence.record).toBeGreaterThanOrEqual(launched + 1);
    if (divergence.reason !== null) expect(progress).toContain(divergence.reason);
  });

  it('is not reached by --until before it, and ends explain too', async () => {
    const path = changed('later', (copies) => copies.with(99, { ...(copies[99] as JournalRecord), mark: 1 }));
    expect((await shown(replay, path, '--until', '99')).code).toBe(0);
    const told = await shown(explain, path, '1');
    expect([told.code, told.standard]).toEqual([2, '']);
    expect(told.progress).toContain('leaves its recording at record #100');
    expect(JSON.parse((await shown(explain, path, '1', '--json')).standard)).toMatchObject({
      exitCode: 2,
      divergence: { record: 100 },
      requests: [],
    });
  });
});

describe('what cannot be replayed', () => {
  const refused = async (header: object) => {
    const path = at('other.journal');
    writeRecording(path, { ...run.header, ...header }, records);
    const error = await shown(replay, path).catch((thrown: unknown) => thrown);
    if (!(error instanceof FastswitchError)) throw new Error('accepted');
    return error;
  };

  it('is of another version, and says which one would do', async () => {
    const error = await refused({ decisions: 0, version: '0.0.9' });
    expect([error.code, error.message]).toEqual(['other_version', expect.stringContaining('Replay it with fastswitch 0.0.9')]);
  });

  it('is of another configuration: other blocks, other switches', async () => {
    expect((await refused({ blockTokens: 32 })).message).toContain('blocks of 32 tokens');
    const { limits } = run.header;
    const { paced: _, ...mechanism } = limits.mechanism;
    const { code, message } = await refused({ limits: { ...limits, mechanism: { ...mechanism, magic: true } } });
    expect(code).toBe('other_version');
    expect(message).toContain('it has a switch "magic" that this version does not know, it lacks the switch "paced"');
  });

  it('is no recording', async () => {
    await expect(shown(replay, at('none.journal'))).rejects.toMatchObject({ code: 'bad_recording' });
    writeFileSync(at('text.journal'), 'hello\n');
    await expect(shown(replay, at('text.journal'))).rejects.toMatchObject({ code: 'bad_recording' });
  });
});

describe('explain', () => {
  it('tells the life of a request by its number or a label', async () => {
    const told = await shown(explain, RUN, '1');
    expect([told.code, told.progress]).toEqual([0, '']);
    expect(told.standard).toContain('Request 1 (chat-1, http-1) ended after ');
    expect((await shown(explain, RUN, 'chat-1')).standard).toBe(told.standard);
  });

  it('tells of all that have the label', async () => {
    const { standard } = await shown(explain, RUN, 'http-3');
    expect(standard.split('\n\n').map((story) => story.slice(0, 9))).toEqual(['Request 5', 'Request 6']);
  });

  it('names those who took its place as the world calls them', async () => {
    const cause = records.flatMap(({ effects }) => effects).find(([type, , , why]) => type === 'swapOut' && why === 'outranked');
    const { standard } = await shown(explain, RUN, String(cause?.[1]));
    expect(standard).toMatch(new RegExp(`preempted by request ${cause?.[4]} \\(.*(chat|http)-`));
  });

  it('says of one that lives what it does and waits for', async () => {
    const { moment } = await page(KILLED, '--until', String(killedAfter));
    const waiting = moment?.requests.find(({ phase }) => phase === 'queued' || phase === 'swapped');
    const { standard, progress, code } = await shown(explain, KILLED, String(waiting?.id));
    expect(code).toBe(0);
    expect(standard).toContain('now: it waits ');
    expect(progress).toContain('warning: the recording has no end');
  });

  it('answers as JSON', async () => {
    const { standard } = await shown(explain, RUN, 'http-3', '--json');
    const { exitCode, divergence, requests } = JSON.parse(standard) as Record<string, unknown> & {
      requests: { life: { id: number }; story: string[] }[];
    };
    expect([exitCode, divergence]).toEqual([0, null]);
    expect(requests.map(({ life }) => life.id)).toEqual([5, 6]);
    expect(requests[0]?.story[0]).toContain('Request 5');
  });

  it('says that there is no such request', async () => {
    await expect(shown(explain, RUN, '41')).rejects.toThrow(
      'no request "41" in what was replayed; requests are numbered 1 to 40',
    );
  });

  it.each([[[]], [['file']]])('asks for what is missing after %j', async (argv) => {
    await expect(shown(explain, ...argv)).rejects.toThrow(
      'which request of which recording? fastswitch explain FILE REQUEST, see --help',
    );
  });
});

describe('--what-if', () => {
  it('runs the recorded load with the change, and says how far the model is from the recording', async () => {
    const argv = ['--what-if', '--set', 'device-blocks=400', '--set', 'max-running=16', '--policy', 'fcfs'];
    const { code, standard, progress } = await shown(replay, RUN, ...argv);
    expect([code, progress]).toEqual([0, '']);
    expect(widest(standard)).toBeLessThanOrEqual(100);
    expect(standard).toContain('What if: policy fcfs, device-blocks 400, max-running 16\n');
    const { exitCode, whatIf } = JSON.parse((await shown(replay, RUN, ...argv, '--json')).standard) as {
      exitCode: number;
      whatIf: {
        limits: { changed: object };
        recorded: { requests: number; preemptions: { swap: number } };
        changed: { preemptions: object };
      };
    };
    expect(exitCode).toBe(0);
    expect(whatIf.limits.changed).toMatchObject({ deviceBlocks: 400, maxRunning: 16, policy: 'fcfs' });
    expect(whatIf.recorded).toMatchObject({ requests: 40, preemptions: { swap: run.metrics.preemptions.swap } });
    expect(whatIf.changed.preemptions).toEqual({ swap: 0, recompute: 0 });
  });

  it('is of what was replayed, and of nothing where the replay leads elsewhere', async () => {
    const killed = await shown(replay, KILLED, '--what-if', '--policy', 'fcfs');
    expect([killed.code, killed.progress]).toEqual([0, expect.stringContaining('has no end')]);
    const path = changed('what-if', (copies) => copies.with(99, { ...(copies[99] as JournalRecord), mark: 1 }));
    const parted = await shown(replay, path, '--what-if', '--policy', 'fcfs');
    expect([parted.code, parted.standard]).toEqual([2, '']);
    const json = JSON.parse((await shown(replay, path, '--what-if', '--policy', 'fcfs', '--json')).standard) as object;
    expect(json).toMatchObject({ exitCode: 2, divergence: { record: 100 }, whatIf: null });
  });
});

describe('a recording that is not whole', () => {
  /** Too short for a model, and before most requests. */
  const damaged = () => {
    const path = at('short.journal');
    const bytes = readFileSync(RUN);
    const early = bytes.length >> 4;
    bytes.writeUInt8(255 - bytes.readUInt8(early), early);
    writeFileSync(path, bytes);
    return path;
  };

  it('is told before what therefore cannot be answered, with its exit code', async () => {
    const path = damaged();
    const asked: [command: typeof replay, argv: string[], words: string][] = [
      [replay, ['--request', '39'], 'no request "39" in what was replayed; requests are numbered 1 to '],
      [explain, ['39'], 'no request "39" in what was replayed; requests are numbered 1 to '],
      [replay, ['--what-if', '--policy', 'fcfs'], 'and a model of the machine needs at least 200'],
    ];
    for (const [command, argv, words] of asked) {
      const { code, standard, progress } = await shown(command, path, ...argv);
      expect([code, standard]).toEqual([3, '']);
      expect(progress).toMatch(/^fastswitch: \S+short\.journal is damaged at byte \d+, where record #\d+ should be: .*; .*\n$/);
      expect(progress).toContain(words);
      const json = JSON.parse((await shown(command, path, ...argv, '--json')).standard) as { exitCode: number; message: string };
      expect(json.exitCode).toBe(3);
      expect(`fastswitch: ${json.message}\n`).toBe(progress);
    }
  });

  it('where it leads elsewhere is a divergence, whoever is asked about', async () => {
    const path = changed('early', (copies) => copies.with(19, { ...(copies[19] as JournalRecord), mark: 1 }));
    for (const [command, ...argv] of [
      [replay, '--request', '39'],
      [explain, '39'],
      [replay, '--what-if', '--policy', 'fcfs'],
    ] as const) {
      const { code, progress } = await shown(command, path, ...argv);
      expect([code, progress]).toEqual([2, expect.stringContaining('leaves its recording at record #20')]);
    }
  });

  it('because it was killed is told too, where whoever asked is wrong', async () => {
    const told: string[] = [];
    const output = { standard: () => {}, progress: (text: string) => void told.push(text), terminal: false };
    await expect(explain([KILLED, '99'], output)).rejects.toThrow('no request "99" in what was replayed');
    expect(told.join('')).toContain('warning: the recording has no end');
  });
});

describe('--perfetto', () => {
  it('replaces nothing that it is made from, by whatever name', async () => {
    const [path, link] = [at('mine.journal'), at('link.json')];
    copyFileSync(RUN, path);
    symlinkSync(path, link);
    for (const target of [path, link]) {
      await expect(shown(replay, path, '--perfetto', target)).rejects.toThrow(
        `--perfetto ${target} is a file of the recording, which the trace would replace: name another`,
      );
    }
    expect(readFileSync(path).equals(readFileSync(RUN))).toBe(true);
  });

  it('is there when it is whole, and before that what was there', async () => {
    const target = at('trace.json');
    writeFileSync(target, 'an older one');
    const broken = at('no.journal');
    writeRecording(broken, run.header, records);
    const fail = () => {
      throw new Error('the terminal is gone');
    };
    vi.spyOn(performance, 'now').mockImplementation(fail);
    await expect(replay([broken, '--perfetto', target], { standard() {}, progress() {}, terminal: true })).rejects.toThrow();
    vi.restoreAllMocks();
    expect(readFileSync(target, 'utf8')).toBe('an older one');
    expect((await shown(replay, RUN, '--perfetto', target)).code).toBe(0);
    expect(JSON.parse(readFileSync(target, 'utf8'))).toBeTruthy();
    expect(readdirSync(folder).filter((name) => name.endsWith('.part'))).toEqual([]);
  });
});

describe('the flags', () => {
  it.each([
    [[], 'which recording? fastswitch replay FILE [flags], see --help'],
    [[RUN, 'more'], 'unexpected argument "more": after FILE come flags, see --help'],
    [[RUN, '--untill', '3'], 'unknown flag --untill, did you mean --until?'],
    [[RUN, '--until'], '--until needs a value: --until VALUE or --until=VALUE'],
    [[RUN, '--until', 'x'], '--until is "x"; allowed is an integer, at least 1'],
    [[RUN, '--until', '0'], '--until is "0"; allowed is an integer, at least 1'],
    [[RUN, '--json=1'], '--json takes no value'],
    [[RUN, '--policy', 'vtc'], '--policy is about what could have happened: it needs --what-if'],
    [[RUN, '--set', 'max-running=3'], '--set is about what could have happened: it needs --what-if'],
    [[RUN, '--what-if', '--policy', 'vtc', '--until', '3'], '--until is about what happened, and does not go with --what-if'],
    [[RUN, '--what-if'], '--what-if changes nothing'],
    [[RUN, '--what-if', '--preset', 'best'], 'no preset "best"'],
    [[RUN, '--what-if', '--set', 'magic=1'], '--set cannot change "magic"'],
    [[RUN, '--perfetto', join(folder, 'no', 'where')], 'cannot be written: ENOENT'],
  ])('%j are refused and say what is right', async (argv, message) => {
    await expect(shown(replay, ...argv)).rejects.toThrow(message);
    await expect(shown(replay, ...argv)).rejects.toBeInstanceOf(FastswitchError);
  });

  it.each([
    ['replay', replay],
    ['explain', explain],
  ] as const)('of %s are explained, within 100 columns, with the exit codes', async (name, command) => {
    const { code, standard } = await shown(command, '--help');
    expect([code, standard.startsWith(`fastswitch ${name} FILE`)]).toEqual([0, true]);
    expect(widest(standard)).toBeLessThanOrEqual(100);
    for (const exit of [0, 1, 2, 3, 4]) expect(standard).toMatch(new RegExp(`^  ${exit}  `, 'm'));
    expect((await shown(command, '-h')).standard).toBe(standard);
  });
});

describe('a long replay', () => {
  afterEach(() => void vi.restoreAllMocks());

  it('says now and then how far it is', async () => {
    const path = at('long.journal');
    await recordWorld(path, { seed: 5, requests: 120, stepFaults: 0 });
    let now = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => (now += 11_000));
    const { progress } = await shown(replay, path);
    expect(progress).toMatch(/^replay: 512 records, [\d.]+ s of the run, \d+ s\n/);
  });
});

describe('the program', () => {
  it('ends with the exit codes that the help promises, results and errors apart', { timeout: 90_000 }, async () => {
    const [other, parted, broken] = [at('program-other.journal'), at('program-parted.journal'), at('program-broken.journal')];
    writeRecording(other, { ...run.header, decisions: 99, version: '9.9.9' }, records);
    writeRecording(parted, run.header, records.with(9, { ...(records[9] as JournalRecord), mark: 1 }));
    const bytes = readFileSync(RUN);
    bytes.writeUInt8(255 - bytes.readUInt8(bytes.length - 20), bytes.length - 20);
    writeFileSync(broken, bytes);
    const [good, wrong, none, diverged, damaged, version, story] = await Promise.all(
      [
        ['replay', RUN],
        ['replay', RUN, '--frobnicate'],
        ['replay', at('nowhere.journal')],
        ['replay', parted],
        ['replay', broken],
        ['replay', other],
        ['explain', KILLED, '1'],
      ].map((argv) => runToEnd(argv, {}, 60_000)),
    );
    expect([good, wrong, none, diverged, damaged, version, story].map((ended) => ended?.code)).toEqual([0, 1, 1, 2, 3, 4, 0]);
    expect([good?.stderr, good?.stdout]).toEqual(['', expect.stringContaining('records replayed')]);
    expect([wrong?.stdout, wrong?.stderr]).toEqual(['', 'fastswitch: unknown flag --frobnicate, see --help\n']);
    expect([none?.stdout, none?.stderr]).toEqual(['', expect.stringMatching(/^fastswitch: there is no .*nowhere\.journal/)]);
    expect([diverged?.stdout, diverged?.stderr]).toEqual([
      '',
      expect.stringContaining('leaves its recording at record #10, at '),
    ]);
    expect([damaged?.stdout, damaged?.stderr]).toEqual([
      expect.stringContaining('records replayed'),
      expect.stringContaining('is damaged at byte'),
    ]);
    expect([version?.stdout, version?.stderr]).toEqual(['', expect.stringContaining('Replay it with fastswitch 9.9.9')]);
    expect(story?.stderr).toContain('warning: the recording has no end');
  });
});
