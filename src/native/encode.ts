/**
 * Writes a step into the flat words of `plan.ts` and reads the result back. One pass, no objects: a step of 256
 * requests costs microseconds where a structured clone costs hundreds.
 */
import type { Sampling, StepItem, TokenLogprobs } from '../core/types.js';
import { Field, PLAN_HEADER, PLAN_RECORD, PLAN_VERSION, RESULT_RECORD } from './plan.js';

/** What the plan needs of a request beyond the core's lengths. */
export interface SequenceContent {
  readonly sampling: Sampling;
  readonly promptTokens: number;
  readonly stops: ReadonlySet<number>;
  append(token: number): void;
  /** Prompt, then generated tokens. */
  tokens(): Int32Array;
}

type ContentOf = (id: number) => SequenceContent;

/** Words that the plan of these items takes, with the whole history of those who have a penalty on. */
export function stepWords(items: readonly StepItem[], contentOf: ContentOf): number {
  let words = PLAN_HEADER;
  for (const item of items) {
    const content = contentOf(item.id);
    words += PLAN_RECORD + item.count + item.blocks.length + 2 * content.sampling.logitBias.length;
    if (needsHistory(content.sampling)) words += content.tokens().length;
  }
  return words;
}

function needsHistory(sampling: Sampling): boolean {
  return sampling.frequencyPenalty !== 0 || sampling.presencePenalty !== 0 || sampling.repetitionPenalty !== 1;
}

/** Writes the plan into `words`, which has room for `stepWords`. */
export function encodeStep(words: Int32Array, items: readonly StepItem[], contentOf: ContentOf): void {
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  let end = PLAN_HEADER + items.length * PLAN_RECORD;
  items.forEach((item, index) => {
    const content = contentOf(item.id);
    const record = PLAN_HEADER + index * PLAN_RECORD;
    words.fill(0, record, record + PLAN_RECORD);
    const tokens = content.tokens();
    words[record + Field.count] = item.count;
    words[record + Field.start] = item.start;
    words[record + Field.tokens] = end;
    words.set(tokens.subarray(item.start, item.start + item.count), end);
    end += item.count;
    words[record + Field.blocks] = end;
    words[record + Field.blockCount] = item.blocks.length;
    words.set(item.blocks, end);
    end += item.blocks.length;
    words[record + Field.sample] = item.sample ? 1 : 0;
    words[record + Field.draw] = tokens.length - content.promptTokens;
    encodeSampling(words, floats, record, content.sampling);
    words[record + Field.bias] = end;
    for (const { token, bias } of content.sampling.logitBias) {
      words[end] = token;
      floats[end + 1] = bias;
      end += 2;
    }
    words[record + Field.history] = end;
    if (needsHistory(content.sampling)) {
      words[record + Field.historyPrompt] = content.promptTokens;
      words[record + Field.historyCount] = tokens.length;
      words.set(tokens, end);
      end += tokens.length;
    }
  });
  words[0] = PLAN_VERSION;
  words[1] = items.length;
  words[2] = end;
  words[3] = 0;
}

function encodeSampling(words: Int32Array, floats: Float32Array, record: number, sampling: Sampling): void {
  floats[record + Field.temperature] = sampling.temperature;
  words[record + Field.topK] = sampling.topK;
  floats[record + Field.topP] = sampling.topP;
  floats[record + Field.minP] = sampling.minP;
  floats[record + Field.frequencyPenalty] = sampling.frequencyPenalty;
  floats[record + Field.presencePenalty] = sampling.presencePenalty;
  floats[record + Field.repetitionPenalty] = sampling.repetitionPenalty;
  words[record + Field.seedLow] = Number(sampling.seed & 0xffff_ffffn) | 0;
  words[record + Field.seedHigh] = Number((sampling.seed >> 32n) & 0xffff_ffffn) | 0;
  words[record + Field.topLogprobs] = sampling.topLogprobs;
  words[record + Field.biasCount] = sampling.logitBias.length;
}

/** The sampled token of the plan's sequence `index` (-1: it did not sample), with its logprobs where asked for. */
export function resultOf(result: Int32Array, index: number): { token: number; logprobs: TokenLogprobs | null } {
  const record = index * RESULT_RECORD;
  const token = result[record] as number;
  const count = result[record + 2] as number;
  if (token < 0 || count < 0) return { token, logprobs: null };
  const floats = new Float32Array(result.buffer, result.byteOffset, result.length);
  const top = Array.from({ length: count }, (_, rank) => ({
    token: result[record + 4 + 2 * rank] as number,
    logprob: floats[record + 5 + 2 * rank] as number,
  }));
  return { token, logprobs: { logprob: floats[record + 1] as number, top } };
}
