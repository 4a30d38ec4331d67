/** Engines on stores of their own, run step by step: alone, or in random batches, chunks and swaps. */
import {
  copyRuns,
  createEngine,
  createStore,
  Direction,
  destroyEngine,
  destroyStore,
  engineInfo,
  stepLogits,
} from '../../src/native/index.js';
import type { EngineOptions, EngineSpec } from '../../src/native/spec.js';
import { integer, OPTIONS, type Part, planOf, resultFor } from './engine-models.js';

export const BLOCKS = 200;

export interface Bench {
  readonly spec: EngineSpec;
  /** One step; answers the logits of each sampling part. */
  run(parts: readonly Part[]): Float32Array[];
  swap(direction: Direction, runs: readonly number[]): void;
  close(): void;
}

export function open(spec: EngineSpec, options: Partial<EngineOptions>): Bench {
  const engine = createEngine(spec, { ...OPTIONS, ...options });
  const store = createStore(engineInfo(engine).blockBytes, BLOCKS, BLOCKS, { device: options.device ?? -1, batchCopies: true });
  return {
    spec,
    run(parts) {
      const samples = parts.filter((part) => part.sample ?? true).length;
      const logits = new Float32Array(samples * spec.vocabulary);
      stepLogits(engine, store, planOf(parts), resultFor(parts.length), logits);
      return Array.from({ length: samples }, (_, i) => logits.slice(i * spec.vocabulary, (i + 1) * spec.vocabulary));
    },
    swap: (direction, runs) => void copyRuns(store, direction, Int32Array.from(runs)),
    close() {
      destroyEngine(engine);
      destroyStore(store);
    },
  };
}

export const randomTokens = (random: () => number, count: number, vocabulary: number): number[] =>
  Array.from({ length: count }, () => integer(random, 0, vocabulary - 1));

export const range = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);

/** Logits after every position, one token a step, alone: the bits that everything else must repeat. */
export function alone(bench: Bench, tokens: readonly number[]): Float32Array[] {
  const blocks = range(0, Math.ceil(tokens.length / 16));
  return tokens.map((token, start) => bench.run([{ tokens: [token], start, blocks }])[0] as Float32Array);
}

/** Root of the mean square of the difference, in units of the reference's own. */
export function difference(found: Float32Array, wanted: Float64Array): number {
  let error = 0;
  let size = 0;
  wanted.forEach((value, i) => {
    error += (value - (found[i] as number)) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(error / size);
}

export const sameBits = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0;

/** One conversation in a random mix: where its KV lies now, and how far it is. */
export interface Member {
  readonly tokens: readonly number[];
  readonly wanted: readonly Float32Array[];
  blocks: number[];
  done: number;
}

/** Moves a member's blocks to the host and back to other device blocks. */
function swapElsewhere(bench: Bench, member: Member, free: number[]): void {
  const used = member.blocks;
  const fresh = used.map(() => free.shift() as number);
  bench.swap(
    Direction.deviceToHost,
    used.flatMap((block, i) => [block, i, 1]),
  );
  bench.swap(
    Direction.hostToDevice,
    fresh.flatMap((block, i) => [i, block, 1]),
  );
  free.push(...used);
  member.blocks = fresh;
}

/** Runs the members to their ends in random batches and chunks; counts the logits rows whose bits differ from alone. */
export function mixed(bench: Bench, members: readonly Member[], random: () => number, free: number[]): number {
  let different = 0;
  for (
    let left = members.filter((m) => m.done < m.tokens.length);
    left.length > 0;
    left = left.filter((m) => m.done < m.tokens.length)
  ) {
    const chosen = left.filter(() => random() < 0.7);
    let room = OPTIONS.maxBatchTokens;
    const parts: Part[] = [];
    const stepped: Member[] = [];
    for (const member of chosen) {
      const most = Math.min(room, member.tokens.length - member.done);
      if (most === 0) continue;
      const count = random() < 0.4 ? 1 : integer(random, 1, most);
      room -= count;
      if (random() < 0.2 && member.done > 0) swapElsewhere(bench, member, free);
      parts.push({ tokens: member.tokens.slice(member.done, member.done + count), start: member.done, blocks: member.blocks });
      member.done += count;
      stepped.push(member);
    }
    if (parts.length === 0) continue;
    const rows = bench.run(parts);
    stepped.forEach((member, i) => {
      if (!sameBits(rows[i] as Float32Array, member.wanted[member.done - 1] as Float32Array)) different++;
    });
  }
  return different;
}
