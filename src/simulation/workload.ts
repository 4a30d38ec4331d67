/**
 * What arrives: sessions of turns, each turn a request whose prompt is the whole conversation so far. The lengths are
 * drawn before the run, so that every preset meets the same load; when a turn arrives depends on when the one before
 * it ended.
 */
import { Random } from '../core/random.js';
import type { BlockName, Deadlines, Micros } from '../core/types.js';

export interface Turn {
  /** Of the whole prompt: everything said before, and what is new. */
  readonly promptTokens: number;
  readonly replyTokens: number;
  /** From the end of the turn before to the arrival of this one; 0 for the first. */
  readonly thinkMicros: Micros;
}

export interface Session {
  readonly startMicros: Micros;
  readonly tenant: string;
  /** Of its tenant; 1 where it is left out. */
  readonly weight?: number;
  /** Of each of its turns; none where they are left out. */
  readonly deadlines?: Deadlines;
  /** At least one. */
  readonly turns: readonly Turn[];
  /**
   * The content address of block `index` of the session's context. A context only grows, so a block has one name in all
   * turns; the last block of a turn, partly filled, is completed by the next prompt.
   */
  name(index: number): BlockName;
}

export interface Workload {
  /** In order of start. */
  readonly sessions: readonly Session[];
  readonly requests: number;
  /** Requests of a trace that are longer than the context limit; they are in no session. */
  readonly dropped: number;
}

export interface ConversationOptions {
  readonly conversations: number;
  readonly conversationsPerSecond: number;
  readonly thinkSeconds: number;
  /** Most tokens of prompt and reply together. */
  readonly contextTokensMax: number;
}

/**
 * Of the FastSwitch paper: 5.5 turns on average. Not published: lengths (38 and 205 tokens a turn are ShareGPT's means,
 * as told elsewhere) and all shapes. Turns are geometric, because whoever asks once more is as likely to go on as before;
 * lengths are lognormal, as people's texts are about, with prompts more uneven than replies.
 */
export const TURNS_MEAN = 5.5;
export const TURNS_MAX = 40;
export const PROMPT_TOKENS_MEAN = 38;
export const PROMPT_SIGMA = 1.2;
export const REPLY_TOKENS_MEAN = 205;
export const REPLY_SIGMA = 0.9;
/** No prompt or reply is longer: it cuts 1 reply in 750, and less than 1 % of the mean. */
export const PIECE_TOKENS_MAX = 2048;

const MICROS_PER_SECOND = 1e6;

/**
 * Multi-turn conversations in the manner of ShareGPT: Poisson starts, exponential time to think. A conversation ends
 * before the turn that would not fit the context. Each conversation draws from generators of its own, so that the first
 * thousand of two thousand are the thousand of one.
 */
export function conversations(options: ConversationOptions, seed: number): Workload {
  const random = new Random(seed).fork('conversations');
  const starts = random.fork('starts');
  const sessions: Session[] = [];
  let seconds = 0;
  let requests = 0;
  for (let k = 0; k < options.conversations; k++) {
    seconds += starts.exponential(1 / options.conversationsPerSecond);
    const turns = drawTurns(options, random.fork(`conversation ${k}`));
    sessions.push({
      startMicros: Math.round(seconds * MICROS_PER_SECOND),
      tenant: `conversation-${k}`,
      turns,
      name: (index) => `${k}.${index}`,
    });
    requests += turns.length;
  }
  return { sessions, requests, dropped: 0 };
}

function drawTurns({ thinkSeconds, contextTokensMax }: ConversationOptions, random: Random): Turn[] {
  const lengths = random.fork('lengths');
  const thinking = random.fork('thinking');
  const wanted = geometric(random, TURNS_MEAN, TURNS_MAX);
  const turns: Turn[] = [];
  let context = 0;
  while (turns.length < wanted) {
    const promptTokens = context + pieceTokens(lengths, PROMPT_TOKENS_MEAN, PROMPT_SIGMA, contextTokensMax);
    const replyTokens = pieceTokens(lengths, REPLY_TOKENS_MEAN, REPLY_SIGMA, contextTokensMax);
    const thinkMicros = turns.length === 0 ? 0 : Math.round(thinking.exponential(thinkSeconds) * MICROS_PER_SECOND);
    context = promptTokens + replyTokens;
    if (context > contextTokensMax) break;
    turns.push({ promptTokens, replyTokens, thinkMicros });
  }
  return turns;
}

/** How often one tries until the first success, at least 1, with this mean; by inversion, one draw. */
function geometric(random: Random, mean: number, max: number): number {
  const tries = 1 + Math.floor(Math.log(1 - random.next()) / Math.log(1 - 1 / mean));
  return Math.min(tries, max);
}

/** Lognormal with this mean before it is cut; at least 1, and so short that two pieces fit the context. */
function pieceTokens(random: Random, mean: number, sigma: number, contextTokensMax: number): number {
  const tokens = Math.round(mean * Math.exp(sigma * random.normal() - sigma ** 2 / 2));
  return Math.max(1, Math.min(tokens, PIECE_TOKENS_MAX, Math.floor(contextTokensMax / 2)));
}
