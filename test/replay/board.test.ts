/** A recording on the board: to any of its records and back, by steps and by the clock, and where it breaks. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createParser } from 'eventsource-parser';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { openRecording } from '../../src/actors/recording.js';
import type { JournalRecord } from '../../src/actors/records.js';
import { applyDelta, type BoardAbout, type BoardDelta, type BoardFrame, type BoardPlayer } from '../../src/core/board.js';
import type { FastswitchError } from '../../src/errors.js';
import { createBoardServer } from '../../src/http/board/recorded.js';
import { board, openBoard, type RecordedBoard } from '../../src/replay/board.js';
import { EXIT } from '../../src/replay/flags.js';
import { OutlineFold } from '../../src/replay/outline.js';
import { Player } from '../../src/replay/player.js';
import { until } from '../http/serving.js';
import { recordsOf, recordWorld, writeRecording } from './recorded-worlds.js';

const folder = mkdtempSync(join(tmpdir(), 'fastswitch-board-'));
const path = join(folder, 'world.journal');
let records: JournalRecord[] = [];
let last = 0;
beforeAll(async () => {
  await recordWorld(path, { seed: 5 });
  records = recordsOf(path);
  last = records.length;
});
afterAll(() => rmSync(folder, { recursive: true }));

const quiet = { standard() {}, progress() {}, terminal: false };

function playerOf(file: string = path, to: number = last): Player {
  const player = new Player(openRecording(file), to, (error) => {
    throw error;
  });
  onTestFinished(() => player.close());
  return player;
}

/** Waits until it is there. */
async function settled(player: Player): Promise<BoardFrame> {
  await until(() => player.player().seeking === null);
  return (await player.read()) as BoardFrame;
}

function at(player: Player, record: number): Promise<BoardFrame> {
  player.order({ action: 'seek', record });
  return settled(player);
}

describe('the player', () => {
  it('shows the same at a record, whichever way it came there', async () => {
    const [straight, other] = [playerOf(), playerOf()];
    const marks = [1, 2, 40, Math.floor(last / 3), Math.floor(last / 2), last - 1, last];
    const frames = new Map<number, BoardFrame>();
    for (const mark of marks) {
      while (straight.player().record < mark) straight.order({ action: 'step' });
      frames.set(mark, await settled(straight));
    }
    for (const mark of [last, 40, Math.floor(last / 2), 1, last - 1, 2, Math.floor(last / 3), 2, last]) {
      const frame = await at(other, mark);
      expect(frame).toEqual(frames.get(mark));
      expect([frame.record, other.player().record]).toEqual([mark, mark]);
    }
    expect((await at(other, 0)).requests).toEqual([]);
    expect((await at(other, last + 1000)).record).toBe(last);
  });

  it('goes to a moment: behind what has happened by then, before what has not', async () => {
    const player = playerOf();
    for (const index of [Math.floor(last / 2), 10, last - 5]) {
      const record = records[index] as JournalRecord;
      player.order({ action: 'seek', at: record.at });
      const frame = await settled(player);
      expect(frame.at).toBe(record.at);
      expect(frame.record).toBe(records.findLast((candidate) => candidate.at <= record.at)?.n);
    }
    const [before, after] = [records[20] as JournalRecord, records.find(({ at }) => at > (records[20] as JournalRecord).at + 10)];
    player.order({ action: 'seek', at: (after as JournalRecord).at - 1 });
    const frame = await settled(player);
    expect(frame.at).toBe((after as JournalRecord).at - 1);
    expect(frame.record).toBeGreaterThanOrEqual(before.n);
    expect(frame.record).toBe((after as JournalRecord).n - 1);
  });

  it('steps one event on, or to the next that is about a request, and stands at the end', async () => {
    const player = playerOf();
    player.order({ action: 'step' });
    expect((await settled(player)).record).toBe(1);
    const id = 5;
    const arrival = records.find((record) => record.type === 'arrived' && record.id === id) as JournalRecord;
    player.order({ action: 'step', request: id });
    expect((await settled(player)).record).toBe(arrival.n);
    const seen: number[] = [];
    for (let n = 0; n < 12; n += 1) {
      player.order({ action: 'step', request: id });
      seen.push((await settled(player)).record);
    }
    expect(new Set(seen).size).toBe(12);
    await at(player, last);
    player.order({ action: 'step' });
    player.order({ action: 'step', request: id });
    expect((await settled(player)).record).toBe(last);
  });

  it('plays by the clock, at any speed, and stands still when told to', async () => {
    const player = playerOf();
    let moves = 0;
    player.onMoved(() => {
      moves += 1;
    });
    player.order({ action: 'play', speed: 20 });
    const started = performance.now();
    await until(() => player.player().record > 20);
    const [now, seconds] = [(await player.read()).at / 1e6, (performance.now() - started) / 1000];
    expect(now).toBeLessThanOrEqual(seconds * 20 + 1);
    expect(player.player()).toMatchObject({ playing: true, speed: 20, seeking: null });
    player.order({ action: 'pause', speed: 3 });
    const { record } = player.player();
    const still = await player.read();
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect(await player.read()).toEqual(still);
    expect(player.player()).toEqual({ playing: false, speed: 3, record, seeking: null });
    // Between two events time passes all the same.
    expect(still.at).toBeGreaterThanOrEqual((records[record - 1] as JournalRecord).at);
    expect(still.at).toBeLessThanOrEqual((records[record] as JournalRecord).at);
    player.order({ action: 'play', speed: 1000 });
    await until(() => !player.player().playing);
    expect(player.player().record).toBe(last);
    expect(moves).toBeGreaterThanOrEqual(3);
    // Once more from the start.
    player.order({ action: 'play', speed: 1 });
    expect(player.player()).toMatchObject({ playing: true, record: 0 });
  });

  it('lets others have their turn on a long way, says how far it is, and turns round when told to', async () => {
    const player = playerOf();
    const shares: number[] = [];
    player.onMoved(() => shares.push(player.player().seeking ?? 1));
    await at(player, 30);
    const shown = await player.read();
    let turns = 0;
    const turn = () => {
      turns += 1;
      if (player.player().seeking !== null) setImmediate(turn);
    };
    player.order({ action: 'seek', record: last });
    const { seeking } = player.player();
    turn();
    if (seeking !== null) expect(await player.read()).toBe(shown);
    player.order({ action: 'seek', record: last - 1 });
    player.order({ action: 'seek', record: 7 });
    expect((await settled(player)).record).toBe(7);
    expect(turns).toBeGreaterThan(0);
    expect(shares.every((share) => share >= 0 && share <= 1)).toBe(true);
  });

  it('gets where it was sent to, whatever becomes of its speed', async () => {
    const player = playerOf();
    player.order({ action: 'seek', record: last });
    expect(player.player().seeking).not.toBeNull();
    player.order({ action: 'pause', speed: 5 });
    expect((await settled(player)).record).toBe(last);
    expect(player.player()).toEqual({ playing: false, speed: 5, record: last, seeking: null });
  });

  it('goes nowhere for a request that has ended', async () => {
    const player = playerOf();
    let place = (await at(player, Math.floor(last / 2))).record;
    const ended = async () => (await player.explain('1'))[0]?.life.endedAt ?? null;
    while ((await ended()) === null) {
      player.order({ action: 'step', request: 1 });
      place = (await settled(player)).record;
    }
    expect(place).toBeLessThan(last);
    player.order({ action: 'step', request: 1 });
    expect((await settled(player)).record).toBe(place);
  });

  it('tells the lives of requests up to where it stands', async () => {
    const player = playerOf();
    await at(player, Math.floor(last / 2));
    const { requests } = (await player.read()) as BoardFrame;
    const row = requests[0];
    if (row === undefined) throw new Error('nobody is alive in the middle');
    const [told] = await player.explain(String(row.id));
    expect(told?.life).toMatchObject({ id: row.id, phase: row.phase, generated: row.generated, endedAt: null });
    expect(await player.explain(`chat-${row.id}`)).toEqual([told]);
    await at(player, last);
    expect((await player.explain(String(row.id)))[0]?.life.endedAt).not.toBeNull();
    await at(player, 0);
    expect(await player.explain(String(row.id))).toEqual([]);
  });
});

function brokenOf({ about }: RecordedBoard): NonNullable<BoardAbout['recording']>['broken'] {
  return about.recording?.broken ?? null;
}

describe('what is known of a recording', () => {
  it('is how long it is, what it was run with, and how many ran and waited', () => {
    const { about, ending, player } = openBoard(path, quiet, '9.9.9');
    onTestFinished(() => player.close());
    expect(about).toMatchObject({ version: '9.9.9', source: 'recording', model: 'toy', preset: 'default', policy: 'priority' });
    expect(about).toMatchObject({ blockTokens: 16, blockBytes: 65536, maxRunning: 8, maxBatchTokens: 96, admin: false });
    const { recording } = about;
    expect(recording).toMatchObject({
      file: 'world.journal',
      startedAt: '2026-01-02T03:04:05.678Z',
      records: last,
      broken: null,
    });
    expect(recording?.endAt).toBe((records.at(-1) as JournalRecord).at);
    expect(ending).toEqual({ exitCode: EXIT.equal, message: null });
    const outline = recording?.outline ?? [];
    expect(outline.length).toBeGreaterThan(100);
    expect(Math.max(...outline.map(({ running }) => running))).toBeGreaterThan(1);
    expect(Math.max(...outline.map(({ waiting }) => waiting))).toBeGreaterThan(0);
  });

  it('has no more points than fit a slider, at equal distances, however long it is', () => {
    const fold = new OutlineFold();
    const state = { active: [1], queued: [], swapped: [] } as never;
    for (let record = 1; record <= 100_000; record += 1) fold.see(state, record, 10 * record);
    const points = fold.result();
    expect(points.length).toBeGreaterThan(500);
    expect(points.length).toBeLessThanOrEqual(1024);
    const distances = new Set(points.slice(1).map(({ record }, k) => record - (points[k]?.record ?? 0)));
    expect([...distances]).toEqual([128]);
    expect(points[0]).toEqual({ record: 128, at: 1280, running: 1, waiting: 0 });
  });

  it('names where a replay leaves it; until there it plays', async () => {
    const { header } = openRecording(path);
    const index = records.findIndex(({ n, type }) => n > last / 2 && type === 'stepped');
    const changed = records.map((record, k) => (k === index ? { ...record, mark: record.mark + 1 } : record));
    const other = join(folder, 'diverging.journal');
    writeRecording(other, header, changed);
    const opened = openBoard(other, quiet, '0');
    onTestFinished(() => opened.player.close());
    expect(brokenOf(opened)).toEqual({ record: index + 1, words: expect.stringContaining('leaves the recording here (step ') });
    expect([opened.about.recording?.records, opened.ending.exitCode]).toEqual([index, EXIT.diverged]);
    expect((await at(opened.player, last)).record).toBe(index);
    expect(opened.ending.message).toContain(`record #${index + 1}`);
  });

  it('names where it is damaged, and where it was cut', () => {
    const bytes = readFileSync(path);
    const damaged = join(folder, 'damaged.journal');
    const changed = Buffer.from(bytes);
    changed[Math.floor(bytes.length / 2)] = (changed[Math.floor(bytes.length / 2)] as number) ^ 0xff;
    writeFileSync(damaged, changed);
    const cut = join(folder, 'cut.journal');
    writeFileSync(cut, bytes.subarray(0, bytes.length - 7));
    const [first, second] = [openBoard(damaged, quiet, '0'), openBoard(cut, quiet, '0')];
    onTestFinished(() => [first, second].forEach(({ player }) => void player.close()));
    expect(brokenOf(first)).toEqual({
      record: (first.about.recording?.records ?? 0) + 1,
      words: expect.stringContaining('is damaged at byte'),
    });
    expect(first.ending.exitCode).toBe(EXIT.damaged);
    expect(brokenOf(second)).toEqual({ record: last, words: expect.stringContaining('breaks off') });
    expect([second.about.recording?.records, second.ending.exitCode]).toEqual([last - 1, EXIT.equal]);
  });

  it('says of a run that failed that it did', async () => {
    const file = join(folder, 'failed.journal');
    await recordWorld(file, { seed: 3, failsAfter: 200 });
    const opened = openBoard(file, quiet, '0');
    onTestFinished(() => opened.player.close());
    const end = opened.about.recording?.records ?? 0;
    expect(brokenOf(opened)).toBeNull();
    const before = await at(opened.player, end - 1);
    expect(before.server).toBe('ready');
    expect(await at(opened.player, end)).toMatchObject({ server: 'failed', record: end });
    expect((await at(opened.player, end - 1)).requests).toEqual(before.requests);
  });
});

describe('the board of a recording', () => {
  it('is served with the same data as a live one, and follows its player', async () => {
    const { about, player } = openBoard(path, quiet, '0.0.0');
    const server = createBoardServer({ about, player, host: '127.0.0.1', logLevel: 'silent' });
    const url = await server.listen({ host: '127.0.0.1', port: 0 });
    onTestFinished(async () => {
      await server.close();
      player.close();
    });
    expect(await (await fetch(`${url}/board/about`)).json()).toEqual(about);
    let [frame, now] = [null as BoardFrame | null, null as BoardPlayer | null];
    const parser = createParser({
      onEvent: ({ event, data }) => {
        if (event === 'snapshot') frame = JSON.parse(data) as BoardFrame;
        else if (event === 'delta') frame = applyDelta(frame as BoardFrame, JSON.parse(data) as BoardDelta);
        else if (event === 'player') now = JSON.parse(data) as BoardPlayer;
      },
    });
    const stream = await fetch(`${url}/board/events`);
    const read = async () => {
      const text = new TextDecoder();
      for await (const chunk of stream.body ?? []) parser.feed(text.decode(chunk, { stream: true }));
    };
    const ended = read();
    const post = async (order: object) => {
      const headers = { 'content-type': 'application/json' };
      expect((await fetch(`${url}/board/player`, { method: 'POST', headers, body: JSON.stringify(order) })).status).toBe(200);
    };
    await until(() => frame?.record === 0 && now?.record === 0);
    for (const mark of [50, 51, last, 20]) {
      await post({ action: 'seek', record: mark });
      await until(() => frame?.record === mark && now?.record === mark && now.seeking === null);
      const alone = playerOf();
      expect(frame).toEqual(JSON.parse(JSON.stringify(await at(alone, mark))));
    }
    await post({ action: 'step' });
    await until(() => frame?.record === 21);
    const id = frame?.requests[0]?.id ?? 1;
    const told = (await (await fetch(`${url}/board/requests/${id}`)).json()) as { choices: object[] };
    expect(told.choices[0]).toMatchObject({ request: id, state: frame?.requests[0]?.phase });
    await post({ action: 'play', speed: 10 });
    await until(() => now?.playing === true && (frame?.record ?? 0) > 21);
    await server.close();
    await ended;
  });
});

describe('fastswitch board', () => {
  const run = async (argv: readonly string[]) => {
    const said = { standard: '', progress: '' };
    const output = {
      standard(text: string) {
        said.standard += text;
      },
      progress(text: string) {
        said.progress += text;
      },
      terminal: false,
    };
    let place: unknown = null;
    const code = await board(argv, output, '0.0.0', async (opened, where, listening) => {
      place = where;
      listening('http://127.0.0.1:1');
      await until(() => opened.player.player().seeking === null);
      said.progress += `stands at ${opened.player.player().record}`;
    });
    return { code, place, ...said };
  };

  it('says where it is, and opens at a record', async () => {
    expect(await run([path])).toEqual({
      code: 0,
      place: { host: '127.0.0.1', port: 8081 },
      standard: 'the board of world.journal is at http://127.0.0.1:1/board\n',
      progress: 'stands at 0',
    });
    const opened = await run([path, '--open-at', '33', '--port', '0', '--host', 'box']);
    expect(opened).toMatchObject({ code: 0, place: { host: 'box', port: 0 }, progress: 'stands at 33' });
    expect(opened.standard).toContain('/board#record=33\n');
  });

  it('explains itself, and what is wrong', async () => {
    const { standard, code } = await run(['--help']);
    expect(code).toBe(0);
    for (const flag of ['--host', '--port', '--open-at', 'FILE']) expect(standard).toContain(flag);
    for (const line of standard.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
    const refusal = (argv: readonly string[]) => run(argv).catch((error: FastswitchError) => [error.code, error.message]);
    expect(await refusal([])).toEqual(['bad_config', expect.stringContaining('which recording?')]);
    expect(await refusal([path, '--port', '70000'])).toEqual(['bad_config', expect.stringContaining('65535')]);
    expect(await refusal([path, '--open-at', 'x'])).toEqual(['bad_config', expect.stringContaining('an integer')]);
    expect(await refusal([join(folder, 'nothing')])).toEqual(['bad_recording', expect.stringContaining('there is no')]);
    const alien = join(folder, 'alien.journal');
    writeRecording(alien, { ...openRecording(path).header, decisions: 999 }, records);
    expect(await refusal([alien])).toEqual(['other_version', expect.stringContaining('decisions are of version 999')]);
  });

  it('ends with the code that replay has for what it found', async () => {
    const { code, progress } = await run([join(folder, 'diverging.journal')]);
    expect(code).toBe(EXIT.diverged);
    expect(progress).toContain('the replay leaves its recording');
  });
});
