/** Plans of steps over sequences of one length, for benches of engines. */
import { GREEDY } from '../src/core/config.js';
import type { Sampling } from '../src/core/types.js';
import { encodeStep, type SequenceContent, stepWords } from '../src/native/encode.js';
import { RESULT_RECORD } from '../src/native/plan.js';
import type { Shape } from '../src/native/shapes.js';

const SAMPLING: Sampling = { ...GREEDY, topLogprobs: 0 };

export interface StepCase {
  readonly name: string;
  readonly plan: Int32Array;
  readonly sequences: number;
  readonly tokens: number;
  readonly micros: number[];
}

/** Sequences of the same length, each on `blocks` blocks of its own, computing their last `count` tokens. */
export function makeCase(name: string, shape: Shape, blocks: number, sequences: number, length: number, count: number): StepCase {
  const contents = Array.from({ length: sequences }, (_, id): SequenceContent => {
    const tokens = Int32Array.from({ length }, (_, i) => (id * 7919 + i * 104_729) % shape.vocabulary);
    return { sampling: SAMPLING, promptTokens: length, stops: new Set(), append: () => {}, tokens: () => tokens };
  });
  const items = contents.map((_, id) => ({
    id,
    start: length - count,
    count,
    sample: true,
    blocks: Array.from({ length: blocks }, (_, i) => id * blocks + i),
  }));
  const contentOf = (id: number): SequenceContent => contents[id] as SequenceContent;
  const plan = new Int32Array(new SharedArrayBuffer(4 * stepWords(items, contentOf)));
  encodeStep(plan, items, contentOf);
  return { name, plan, sequences, tokens: sequences * count, micros: [] };
}

/** Of FNV-1a, before anything is folded into it. */
export const HASH_START = 0x811c9dc5;

/** FNV-1a over the sampled tokens and the bits of their logprobs. */
export function hashOf(hash: number, result: Int32Array, sequences: number): number {
  let h = hash;
  for (let i = 0; i < sequences; i++) {
    for (const word of result.subarray(i * RESULT_RECORD, i * RESULT_RECORD + 2)) h = Math.imul(h ^ word, 0x01000193) >>> 0;
  }
  return h;
}

/** Computes all contexts in full steps. KV that was never written would read faster than it is. */
export function fillContexts(
  shape: Shape,
  blocks: number,
  sequences: number,
  context: number,
  maxBatchTokens: number,
  step: (plan: Int32Array) => void,
): void {
  const chunk = Math.max(1, Math.floor(maxBatchTokens / sequences));
  for (let length = 0; length < context; length += chunk) {
    const end = Math.min(length + chunk, context);
    step(makeCase('fill', shape, blocks, sequences, end, end - length).plan);
  }
}
