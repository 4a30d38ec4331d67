import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseTrace, readTrace, type TraceOptions } from '../../src/simulation/traces.js';
import type { Session } from '../../src/simulation/workload.js';

const OPTIONS: TraceOptions = { limit: 0, speed: 1, contextTokensMax: 8192 };
const HEADER = 'TIMESTAMP,ContextTokens,GeneratedTokens';

const names = (session: Session | undefined, blocks: number) => Array.from({ length: blocks }, (_, k) => session?.name(k));
const starts = (sessions: readonly Session[]) => sessions.map(({ startMicros }) => startMicros);

describe('an Azure trace', () => {
  const text = `${HEADER}\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109\r\n2023-11-17 00:00:00,9000,1`;

  it('is one session of one turn for each line, timed from the first', () => {
    const { sessions, requests } = parseTrace(text, 'a.csv', { ...OPTIONS, contextTokensMax: 10_000 });
    expect(requests).toBe(3);
    expect(sessions.map(({ turns }) => turns)).toEqual([
      [{ promptTokens: 374, replyTokens: 44, thinkMicros: 0 }],
      [{ promptTokens: 396, replyTokens: 109, thinkMicros: 0 }],
      [{ promptTokens: 9000, replyTokens: 1, thinkMicros: 0 }],
    ]);
    expect(starts(sessions)).toEqual([0, 4_314_579, 20_653_319_410]);
  });

  it('leaves out what is longer than the context and counts it', () => {
    const { sessions, requests, dropped } = parseTrace(text, 'a.csv', OPTIONS);
    expect([sessions.length, requests, dropped]).toEqual([2, 2, 1]);
  });

  it('shares no blocks between requests', () => {
    const { sessions } = parseTrace(text, 'a.csv', OPTIONS);
    const all = sessions.flatMap((session) => names(session, 30));
    expect(new Set(all).size).toBe(all.length);
  });

  it('comes faster with a speed, ends early with a limit, and is put in order of time', () => {
    expect(starts(parseTrace(text, 'a.csv', { ...OPTIONS, speed: 2 }).sessions)).toEqual([0, 2_157_290]);
    expect(parseTrace(text, 'a.csv', { ...OPTIONS, limit: 1 }).requests).toBe(1);
    const [head, first, second] = text.split('\r\n');
    expect(starts(parseTrace([head, second, first].join('\n'), 'a.csv', OPTIONS).sessions)).toEqual([0, 4_314_579]);
  });

  it('says which line of which file is wrong, and what a right one looks like', () => {
    for (const bad of ['2023-11-16 18:15:46,374', '2023-11-16 18:15:46,0,5', 'today,1,2', '2023-13-45 18:15:46,1,2']) {
      expect(() => parseTrace(`${HEADER}\n2023-11-16 18:15:46,1,1\n${bad}`, 'a.csv', OPTIONS)).toThrow(
        /a\.csv, line 3: expected a line like 2023-11-16 18:15:46.*; found/,
      );
    }
  });
});

describe('a Mooncake trace', () => {
  const line = (timestamp: number, input_length: number, hash_ids: number[], output_length = 100) =>
    JSON.stringify({ timestamp, input_length, output_length, hash_ids });

  it('is one session of one turn for each line, timed in milliseconds from the first', () => {
    const { sessions } = parseTrace([line(1000, 600, [1, 2], 7), line(1500.5, 90, [3])].join('\n'), 'm.jsonl', OPTIONS);
    expect(starts(sessions)).toEqual([0, 500_500]);
    expect(sessions[0]?.turns).toEqual([{ promptTokens: 600, replyTokens: 7, thinkMicros: 0 }]);
  });

  it('names the 32 blocks behind a hash by it, so that requests share their common prefix and nothing else', () => {
    const { sessions } = parseTrace([line(0, 1024, [5, 6]), line(1, 1024, [5, 7])].join('\n'), 'm.jsonl', OPTIONS);
    const [a, b] = [names(sessions[0], 64), names(sessions[1], 64)];
    expect(b.slice(0, 32)).toEqual(a.slice(0, 32));
    expect(new Set([...a, ...b]).size).toBe(32 + 2 * 32);
  });

  it('names by the request alone what no hash covers: the end of the prompt and what is generated', () => {
    // 520 tokens: 32 full blocks behind the first hash, and half a block that the reply completes.
    const { sessions } = parseTrace([line(0, 520, [5, 6]), line(1, 520, [5, 6]), line(2, 1024, [5])].join('\n'), 'm', OPTIONS);
    expect(sessions[1]?.name(31)).toBe(sessions[0]?.name(31));
    expect(sessions[1]?.name(32)).not.toBe(sessions[0]?.name(32));
    expect(sessions[2]?.name(32)).not.toBe(sessions[0]?.name(32));
  });

  it('may come without hashes', () => {
    const { sessions } = parseTrace('{"timestamp": 1, "input_length": 64, "output_length": 3}', 'm.jsonl', OPTIONS);
    expect(sessions[0]?.turns[0]?.promptTokens).toBe(64);
  });

  it('says which line of which file is wrong, and what a right one looks like', () => {
    for (const bad of ['{', '[]', '{"timestamp": 1}', line(-1, 5, []), line(1, 0, []), line(1, 5, [0.5])]) {
      expect(() => parseTrace(`${line(0, 5, [1])}\n${bad}`, 'm.jsonl', OPTIONS)).toThrow(
        /m\.jsonl, line 2: expected an object like \{"timestamp"/,
      );
    }
  });
});

describe('a trace file', () => {
  it('that is neither says what its first line should be', () => {
    expect(() => parseTrace('time,a,b\n1,2,3', 'x.csv', OPTIONS)).toThrow(
      /x\.csv, line 1: expected the header TIMESTAMP.*Mooncake/,
    );
    expect(() => parseTrace('', 'x.csv', OPTIONS)).toThrow(/x\.csv, line 1/);
    expect(() => parseTrace(`${HEADER}\n\n`, 'x.csv', OPTIONS)).toThrow(/x\.csv holds no requests/);
  });

  it('that is missing says so', () => {
    expect(() => readTrace('/nowhere/x.csv', OPTIONS)).toThrow(/--trace \/nowhere\/x\.csv cannot be read: ENOENT/);
  });

  const azure = fileURLToPath(new URL('../../../shared/traces/azure-llm-2023-conv.csv', import.meta.url));
  it.skipIf(!existsSync(azure))(`reads the published Azure trace (skipped where ${azure} is absent)`, () => {
    const { sessions, requests, dropped } = readTrace(azure, OPTIONS);
    expect([requests, dropped]).toEqual([19_365, 1]);
    expect(starts(sessions).at(-1)).toBe(3_501_721_937);
    const prompts = sessions.map(({ turns }) => turns[0]?.promptTokens ?? 0);
    expect(prompts.reduce((sum, tokens) => sum + tokens, 0) / requests).toBeCloseTo(1154, -1);
  });
});
