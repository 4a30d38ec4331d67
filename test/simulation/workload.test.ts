import { describe, expect, it } from 'vitest';
import {
  type ConversationOptions,
  conversations,
  PIECE_TOKENS_MAX,
  PROMPT_TOKENS_MEAN,
  REPLY_TOKENS_MEAN,
  type Session,
  TURNS_MAX,
  TURNS_MEAN,
} from '../../src/simulation/workload.js';

const OPTIONS: ConversationOptions = {
  conversations: 4000,
  conversationsPerSecond: 2,
  thinkSeconds: 10,
  contextTokensMax: 100_000,
};

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** What is new in each turn: the prompt without the history. */
function newTokens({ turns }: Session): number[] {
  return turns.map(({ promptTokens }, k) => {
    const before = turns[k - 1];
    return before === undefined ? promptTokens : promptTokens - before.promptTokens - before.replyTokens;
  });
}

describe('drawn conversations', () => {
  const { sessions, requests } = conversations(OPTIONS, 1);
  const turns = sessions.flatMap((session) => session.turns);

  it('have the promised means of turns, prompts and replies', () => {
    expect(mean(sessions.map((session) => session.turns.length)) / TURNS_MEAN).toBeCloseTo(1, 1);
    expect(mean(sessions.flatMap(newTokens)) / PROMPT_TOKENS_MEAN).toBeCloseTo(1, 1);
    expect(mean(turns.map((turn) => turn.replyTokens)) / REPLY_TOKENS_MEAN).toBeCloseTo(1, 1);
    expect(requests).toBe(turns.length);
  });

  it('start as a Poisson process of the given rate: the gaps have the mean and the spread of an exponential', () => {
    const gaps = sessions.map(({ startMicros }, k) => (startMicros - (sessions[k - 1]?.startMicros ?? 0)) / 1e6);
    expect(mean(gaps) * 2).toBeCloseTo(1, 1);
    expect(Math.sqrt(mean(gaps.map((gap) => (gap - 0.5) ** 2))) * 2).toBeCloseTo(1, 1);
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0);
  });

  it('think for the given time before every turn but the first', () => {
    expect(sessions.every((session) => session.turns[0]?.thinkMicros === 0)).toBe(true);
    const pauses = sessions.flatMap((session) => session.turns.slice(1).map((turn) => turn.thinkMicros));
    expect(mean(pauses) / 1e7).toBeCloseTo(1, 1);
  });

  it('say at least one token and never more than the limits', () => {
    expect(Math.min(...sessions.flatMap(newTokens), ...turns.map((turn) => turn.replyTokens))).toBeGreaterThanOrEqual(1);
    expect(Math.max(...sessions.flatMap(newTokens), ...turns.map((turn) => turn.replyTokens))).toBeLessThanOrEqual(
      PIECE_TOKENS_MAX,
    );
    expect(Math.max(...sessions.map((session) => session.turns.length))).toBeLessThanOrEqual(TURNS_MAX);
  });

  it('end before the turn that would not fit the context, and have one turn at least', () => {
    const short = conversations({ ...OPTIONS, contextTokensMax: 600 }, 1).sessions;
    const longest = short
      .map((session) => session.turns.at(-1))
      .map((turn) => (turn?.promptTokens ?? 0) + (turn?.replyTokens ?? 0));
    expect(Math.max(...longest)).toBeLessThanOrEqual(600);
    expect(Math.min(...short.map((session) => session.turns.length))).toBeGreaterThanOrEqual(1);
    expect(mean(short.map((session) => session.turns.length))).toBeLessThan(TURNS_MEAN / 2);
  });

  it('repeat in every turn all that was said before, under the same names', () => {
    for (const session of sessions.slice(0, 50)) {
      let before: string[] = [];
      for (const { promptTokens, replyTokens } of session.turns) {
        const names = Array.from({ length: Math.floor((promptTokens + replyTokens) / 16) }, (_, k) => session.name(k));
        expect(names.slice(0, before.length)).toEqual(before);
        before = names;
      }
    }
  });

  it('share no name with each other', () => {
    const names = sessions.slice(0, 200).flatMap((session) => [0, 1, 11, 111].map((k) => session.name(k)));
    expect(new Set(names).size).toBe(names.length);
  });

  it('are the same for the same seed, others for another, and the first of many are the first of few', () => {
    const bare = (all: readonly Session[]) => all.map(({ startMicros, turns: each }) => ({ startMicros, each }));
    expect(bare(conversations(OPTIONS, 1).sessions)).toEqual(bare(sessions));
    expect(bare(conversations(OPTIONS, 2).sessions)).not.toEqual(bare(sessions));
    expect(bare(conversations({ ...OPTIONS, conversations: 10 }, 1).sessions)).toEqual(bare(sessions.slice(0, 10)));
  });
});
