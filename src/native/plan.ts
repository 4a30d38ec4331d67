/**
 * The step plan and its result as flat 32-bit words in shared memory: the layout that engine.h reads, declared once
 * here in the same order. Floats are stored as their IEEE bits in a word.
 *
 * Plan: header of PLAN_HEADER words [version, sequences, total words, 0], then one record of PLAN_RECORD words per
 * sequence (fields in the order of `Field`), then the lists that records point to by word offset from the start.
 * Result: RESULT_RECORD words per sequence: [token or -1, logprob, number of alternatives (-1: no logprobs asked for), 0, then
 * TOP_LOGPROBS_MAX x (token, logprob)].
 */
export const PLAN_VERSION = 1;
export const PLAN_HEADER = 4;
export const PLAN_RECORD = 24;
export const TOP_LOGPROBS_MAX = 20;
export const RESULT_RECORD = 4 + 2 * TOP_LOGPROBS_MAX;

/** Word of a field inside a sequence's record. */
export const Field = {
  /** Tokens to compute, at least 1. */
  count: 0,
  /** Position of the first of them. */
  start: 1,
  /** List of `count` token ids. */
  tokens: 2,
  /** List of `blockCount` device block indexes covering positions [0, start + count). */
  blocks: 3,
  blockCount: 4,
  /** 1: sample a token after the last position. */
  sample: 5,
  temperature: 6,
  topK: 7,
  topP: 8,
  minP: 9,
  frequencyPenalty: 10,
  presencePenalty: 11,
  repetitionPenalty: 12,
  seedLow: 13,
  seedHigh: 14,
  /** Number of the draw: the count of tokens generated before. The random number depends on (seed, draw) only. */
  draw: 15,
  /** -1: no logprobs; 0: of the sampled token; n: and of the n likeliest. Of the raw logits, before bias and penalties. */
  topLogprobs: 16,
  /** List of `biasCount` pairs (token, bias). */
  bias: 17,
  biasCount: 18,
  /** List of all tokens so far (prompt, then generated), present only where a penalty is on. */
  history: 19,
  historyCount: 20,
  /** The first of them that belong to the prompt (frequency and presence penalties skip these). */
  historyPrompt: 21,
} as const;
