/** Journals that were made once and are replayed ever after: the same events lead to the same decisions. See golden/README.md. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { openRecording } from '../src/actors/recording.js';
import { requireReplayable } from '../src/actors/replayed.js';
import { CHOICES, DECISIONS } from '../src/core/config.js';
import { replay } from '../src/replay/command.js';
import { type Outcome, outcomeOf } from './golden/outcome.js';
import { recordsOf, writeRecording } from './replay/recorded-worlds.js';

const GOLDEN = fileURLToPath(new URL('golden/', import.meta.url));
const files = readdirSync(GOLDEN).filter((file) => file.endsWith('.journal'));
const folder = mkdtempSync(join(tmpdir(), 'fastswitch-golden-'));
afterAll(() => rmSync(folder, { recursive: true }));

const SILENT = { standard: () => {}, progress: () => {}, terminal: false };

function stored(file: string): Outcome {
  return JSON.parse(readFileSync(join(GOLDEN, file.replace('.journal', '.json')), 'utf8')) as Outcome;
}

/** By the name of the file: `NAME.dDECISIONS.journal`. */
function decisionsOf(file: string): number {
  return Number(/\.d(\d+)\.journal$/.exec(file)?.[1]);
}

describe.each(files)('%s', (file) => {
  const path = join(GOLDEN, file);

  it('is the file that was made', () => {
    expect(createHash('sha256').update(readFileSync(path)).digest('hex')).toBe(stored(file).sha256);
    expect(openRecording(path).header.decisions).toBe(decisionsOf(file));
  });

  if (decisionsOf(file) === DECISIONS) {
    it('leads to the decisions that were recorded', () => {
      expect(outcomeOf(path)).toEqual(stored(file));
    });
  } else {
    it('is refused with exit code 4, because its decisions are others, and says which version replays it', async () => {
      const { version } = openRecording(path).header;
      const other = `made by fastswitch ${version}, whose decisions are of version ${decisionsOf(file)}; this one decides by version ${DECISIONS}`;
      expect(() => outcomeOf(path)).toThrow(other);
      await expect(replay([path], SILENT)).rejects.toMatchObject({
        code: 'other_version',
        message: expect.stringContaining(other),
      });
    });
  }
});

describe('the golden journals', () => {
  it('are small', () => {
    const sizes = files.map((file) => statSync(join(GOLDEN, file)).size);
    for (const size of sizes) expect(size).toBeLessThan(150_000);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(900_000);
  });

  it('are of every policy, live and simulated, and hold all that can happen', () => {
    const present = files.filter((file) => decisionsOf(file) === DECISIONS);
    const all = present.map((file) => openRecording(join(GOLDEN, file)).header);
    expect(new Set(all.map(({ source }) => source))).toEqual(new Set(['live', 'simulated']));
    expect(new Set(all.map(({ limits }) => limits.policy))).toEqual(
      new Set(CHOICES.policy.filter((policy) => policy !== 'auto')),
    );
    const types = new Set<string>();
    for (const file of present) {
      for (const record of recordsOf(join(GOLDEN, file))) {
        types.add(record.type);
        if (record.type === 'arrived' && record.weight !== 1) types.add('weight');
        if (record.type === 'arrived' && record.tbtMicros !== null) types.add('promise');
        if (record.type === 'reprioritized' && record.deadlines.length > 0) types.add('new promise');
        for (const [name] of record.effects) types.add(String(name));
      }
    }
    expect([...types]).toEqual(expect.arrayContaining(['weight', 'promise', 'new promise']));
    const events = 'arrived aborted stepped stepFailed landed transferFailed reprioritized reweighted draining closed'.split(' ');
    const effects =
      'admit step prefilled swapOut park swapIn resume mirror prefetch settled recompute ending tokens finish reject'.split(' ');
    expect([...types]).toEqual(expect.arrayContaining([...events, ...effects]));
  });

  it('are of an older version too', () => {
    expect(new Set(files.map(decisionsOf))).toEqual(new Set(Array.from({ length: DECISIONS }, (_, k) => k + 1)));
  });

  it('of an older version are refused with exit code 4, and say which version would do', async () => {
    const [file] = files.filter((name) => decisionsOf(name) === DECISIONS);
    const { header } = openRecording(join(GOLDEN, file as string));
    const older = { ...header, version: '0.0.1', decisions: DECISIONS - 1 };
    expect(() => requireReplayable(older)).toThrow(
      `made by fastswitch 0.0.1, whose decisions are of version ${DECISIONS - 1}; this one decides by version ${DECISIONS}. Replay it with fastswitch 0.0.1.`,
    );
    const path = join(folder, 'older.journal');
    writeRecording(path, older, recordsOf(join(GOLDEN, file as string)));
    await expect(replay([path], SILENT)).rejects.toMatchObject({ code: 'other_version' });
  });
});
