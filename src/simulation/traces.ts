/**
 * Recorded arrivals: the Azure LLM inference trace (CSV: TIMESTAMP,ContextTokens,GeneratedTokens) and traces in the format
 * of Mooncake (JSON lines: timestamp in ms, input_length, output_length, hash_ids of 512-token prefix blocks). Each
 * request is a session of one turn.
 */
import { readFileSync } from 'node:fs';
import { BLOCK_TOKENS } from '../core/config.js';
import type { BlockName, Micros } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import type { Session, Workload } from './workload.js';

export interface TraceOptions {
  /** Most requests to take, from the first on; those that are dropped count. 0: all. */
  readonly limit: number;
  /** Arrivals come this many times faster than recorded. */
  readonly speed: number;
  /** Longer requests (prompt and reply) are dropped. */
  readonly contextTokensMax: number;
}

interface Recorded {
  /** Of any zero. */
  readonly micros: Micros;
  readonly promptTokens: number;
  readonly replyTokens: number;
  /** One for each 512 tokens of the prompt, as far as they go. */
  readonly hashes: readonly number[];
}

/** Tokens behind one hash of Mooncake, in blocks of ours. */
const HASH_BLOCKS = 512 / BLOCK_TOKENS;
const NO_HASHES: readonly number[] = [];

/**
 * Reads a trace; the format shows in its first line.
 * @throws FastswitchError `bad_config` that names file, line and what is expected there.
 */
export function readTrace(path: string, options: TraceOptions): Workload {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new FastswitchError('bad_config', `--trace ${path} cannot be read: ${(error as Error).message}`);
  }
  return parseTrace(text, path, options);
}

/** The same from its text; `source` names it in errors. */
export function parseTrace(text: string, source: string, options: TraceOptions): Workload {
  const lines = text.split(/\r?\n/);
  const [first = ''] = lines;
  const csv = /^\uFEFF?timestamp,contexttokens,generatedtokens$/i.test(first.trim());
  if (!csv && !first.trimStart().startsWith('{')) {
    throw expected(source, 1, first, 'the header TIMESTAMP,ContextTokens,GeneratedTokens (Azure), or a JSON object (Mooncake)');
  }
  const parse = csv ? parseAzure : parseMooncake;
  const recorded: Recorded[] = [];
  for (let index = csv ? 1 : 0; index < lines.length; index++) {
    const line = lines[index] as string;
    if (line.trim() === '') continue;
    if (options.limit > 0 && recorded.length === options.limit) break;
    recorded.push(parse(line, source, index + 1));
  }
  if (recorded.length === 0) throw new FastswitchError('bad_config', `trace ${source} holds no requests`);
  // Sorting is stable: requests of one moment keep the order of the file.
  return replay(
    recorded.sort((a, b) => a.micros - b.micros),
    options,
  );
}

function expected(source: string, line: number, found: string, what: string): FastswitchError {
  const shown = found.length > 60 ? `${found.slice(0, 60)}...` : found;
  return new FastswitchError('bad_config', `trace ${source}, line ${line}: expected ${what}; found ${JSON.stringify(shown)}`);
}

function parseAzure(line: string, source: string, number: number): Recorded {
  const match = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:00)?,(\d+),(\d+)$/.exec(line.trim());
  const [, day, time, fraction = '0', prompt, reply] = match ?? [];
  const whole = Date.parse(`${day}T${time}Z`);
  if (match === null || Number.isNaN(whole) || Number(prompt) === 0) {
    throw expected(source, number, line, 'a line like 2023-11-16 18:15:46.6805900,374,44');
  }
  return {
    micros: whole * 1000 + Math.round(Number(fraction) * 1e6),
    promptTokens: Number(prompt),
    replyTokens: Math.max(1, Number(reply)),
    hashes: NO_HASHES,
  };
}

function parseMooncake(line: string, source: string, number: number): Recorded {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    value = null;
  }
  const { timestamp, input_length: prompt, output_length: reply, hash_ids: hashes = NO_HASHES } = Object(value);
  const hashed = Array.isArray(hashes) && hashes.every((hash) => Number.isSafeInteger(hash));
  if (!atLeast(0, timestamp) || !isCount(1, prompt) || !isCount(0, reply) || !hashed) {
    const example = '{"timestamp": 27482, "input_length": 655, "output_length": 52, "hash_ids": [46, 47]}';
    throw expected(source, number, line, `an object like ${example}`);
  }
  return { micros: Math.round(timestamp * 1000), promptTokens: prompt, replyTokens: Math.max(1, reply), hashes };
}

function atLeast(min: number, value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= min;
}

function isCount(min: number, value: unknown): value is number {
  return atLeast(min, value) && Number.isInteger(value);
}

function replay(recorded: readonly Recorded[], { speed, contextTokensMax }: TraceOptions): Workload {
  const zero = recorded[0]?.micros ?? 0;
  const fitting = recorded.filter(({ promptTokens, replyTokens }) => promptTokens + replyTokens <= contextTokensMax);
  const sessions = fitting.map((request, k): Session => {
    const startMicros = Math.round((request.micros - zero) / speed);
    const { promptTokens, replyTokens } = request;
    const turns = [{ promptTokens, replyTokens, thinkMicros: 0 }];
    return { startMicros, tenant: `request-${k}`, turns, name: (index) => blockName(request, k, index) };
  });
  return { sessions, requests: sessions.length, dropped: recorded.length - sessions.length };
}

/** By the hash that covers the block; by the request alone where there is none or the block holds generated tokens. */
function blockName({ promptTokens, hashes }: Recorded, request: number, index: number): BlockName {
  const hash = hashes[Math.floor(index / HASH_BLOCKS)];
  const known = hash !== undefined && (index + 1) * BLOCK_TOKENS <= promptTokens;
  return known ? `${hash}.${index % HASH_BLOCKS}` : `request-${request}.${index}`;
}
