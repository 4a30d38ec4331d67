/**
 * The words of the system: identifiers, units, the outside events that may enter by the one door, and the
 * effects by which the core acts. Nothing here has behaviour.
 *
 * Units are in the names: `at` and `...Micros` are integer microseconds on the run's clock, lengths are tokens,
 * room is counted in blocks of `blockTokens` tokens of KV for all layers.
 */

/** Number of a request, counted from 1 in the order in which they were submitted. */
export type RequestId = number;
/** Number of a transfer in flight, counted from 1. */
export type TransferId = number;
/** Number of a step (one forward pass of the batch), counted from 1. */
export type StepId = number;
/** Of a copy: device to host, or host to device. */
export type Direction = 'out' | 'in';
/** Integer microseconds on the run's own clock (its zero is the start of the run). */
export type Micros = number;

/**
 * The content address of a full block: a hash chain over the tokens from the start of the context to the block's end, so
 * that equal names mean equal KV. Made outside the core, which never sees tokens.
 */
export type BlockName = string;

export type PolicyName = 'fcfs' | 'priority' | 'vtc' | 'fair' | 'mlfq' | 'edf';

/** The states of a request, exactly; `running` is split into its two phases. */
export type Phase = 'queued' | 'prefilling' | 'decoding' | 'swapping-out' | 'swapped' | 'swapping-in' | 'done';

export type Outcome = 'stop' | 'length' | 'aborted' | 'failed' | 'rejected';

/** Why a request is asked to end before the engine ended it. `stop`: the face matched a stop string in the text. */
export type AbortReason = 'client' | 'stop' | 'stalled' | 'operator' | 'shutdown';

/** One contiguous copy: `blocks` consecutive blocks from block index `from` in one memory to `to` in the other. */
export interface Run {
  readonly from: number;
  readonly to: number;
  readonly blocks: number;
}

/** Natural logarithm of the probability of a sampled token and of the likeliest alternatives, best first. */
export interface TokenLogprobs {
  readonly logprob: number;
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

/** What the engine says of one item of a step, in the order of the plan. */
export interface SteppedItem {
  readonly id: RequestId;
  /** Tokens computed, as planned. */
  readonly count: number;
  /** The sampled token id, or -1 where the item did not sample (a prompt chunk that is not the last). */
  readonly token: number;
  /** The token is one of the request's stop tokens: the request ends with outcome `stop`. */
  readonly ended: boolean;
  readonly logprobs: TokenLogprobs | null;
  /** The name of the block that the sampled token completes (the known tokens then fill whole blocks); else null. */
  readonly name: BlockName | null;
}

/** What was promised of a request's pace; null is nothing. What the policy `edf` goes by. */
export interface Deadlines {
  /** Most time from its arrival to its first token. */
  readonly ttftMicros: Micros | null;
  /** Its n-th token after the first is due n times this after the first. */
  readonly tbtMicros: Micros | null;
}

/** A new request as the core sees it: lengths, never token ids. */
export interface Arrival extends Deadlines {
  readonly id: RequestId;
  /** What the world calls it: the ids of its answer and of its HTTP request. Nothing is decided on them. */
  readonly labels: readonly string[];
  readonly promptTokens: number;
  /** Most tokens to generate, at least 1; prompt and these fit the context. */
  readonly maxTokens: number;
  /** Lower is served first; under `fair` among the requests of its tenant. */
  readonly priority: number;
  readonly tenant: string;
  /** The share of its tenant, above 0; the last word about a tenant holds for all of its requests. */
  readonly weight: number;
  /** The names of the full blocks of its prompt, in order: floor(promptTokens / BLOCK_TOKENS). */
  readonly names: readonly BlockName[];
}

/** A new priority, and perhaps new deadlines; of no effect on a request that has ended. */
export interface Reprioritized {
  readonly id: RequestId;
  readonly priority: number;
  /** Left out: as they were. */
  readonly deadlines?: Deadlines;
}

/** Outside facts: the only records a journal needs. `at` is stamped at the door. */
export type Event =
  | ({ readonly type: 'arrived'; readonly at: Micros } & Arrival)
  | { readonly type: 'aborted'; readonly at: Micros; readonly id: RequestId; readonly reason: AbortReason }
  | {
      readonly type: 'stepped';
      readonly at: Micros;
      readonly step: StepId;
      readonly micros: Micros;
      readonly items: readonly SteppedItem[];
    }
  | { readonly type: 'stepFailed'; readonly at: Micros; readonly step: StepId; readonly error: string }
  | { readonly type: 'landed'; readonly at: Micros; readonly transfer: TransferId; readonly micros: Micros }
  | { readonly type: 'transferFailed'; readonly at: Micros; readonly transfer: TransferId; readonly error: string }
  | { readonly type: 'reprioritized'; readonly at: Micros; readonly items: readonly Reprioritized[] }
  /** Of a tenant with live requests; where there are none the next arrival says it. `weight` is above 0. */
  | { readonly type: 'reweighted'; readonly at: Micros; readonly tenant: string; readonly weight: number }
  | { readonly type: 'draining'; readonly at: Micros };

/** One request's part of a step: compute tokens [start, start + count) of its context on its device blocks. */
export interface StepItem {
  readonly id: RequestId;
  readonly start: number;
  readonly count: number;
  /** Sample one token after the last of them (the chunk reaches the end of the known tokens). */
  readonly sample: boolean;
  /** The request's block table in order of position. Borrowed: a port reads it before it returns, never later. */
  readonly blocks: readonly number[];
}

/** A token on its way to a stream. `index` counts the request's generated tokens from 0. */
export interface EmittedToken {
  readonly id: RequestId;
  readonly index: number;
  readonly token: number;
  readonly logprobs: TokenLogprobs | null;
}

/**
 * Why a request has to leave the device, or why its KV is given up.
 * - `outranked`: `by` waits, ranks above it, and needs its room or its place in the batch.
 * - `growth`: no block is free for the next token of `by`, and it is the last in rank of those who run (it may be `by`).
 * - `crowded`: the next few tokens of those who decode will not fit; the last in rank leaves ahead of that. `by` is null.
 * - `host`: the copies of `by`, which ranks above it and is leaving the device, need its room on the host.
 * - `failed`: a copy of its KV failed. `by` is null.
 */
export interface Cause {
  readonly why: 'outranked' | 'growth' | 'crowded' | 'host' | 'failed';
  readonly by: RequestId | null;
}

/** A copy between the memories: answered by `landed` or `transferFailed` once. */
export interface Copies {
  readonly transfer: TransferId;
  readonly direction: Direction;
  readonly runs: readonly Run[];
  /** Blocks that are copied: the sum of the runs, at least 1. */
  readonly blocks: number;
}

/** Acts of the core. Performed in order, each through one port, none awaited. */
export type Effect =
  /** queued -> running: device blocks are reserved. `cachedTokens` of its context were found on the device. */
  | { readonly type: 'admit'; readonly id: RequestId; readonly cachedTokens: number }
  /** One forward pass; the engine answers `stepped` or `stepFailed` once. */
  | { readonly type: 'step'; readonly step: StepId; readonly items: readonly StepItem[] }
  /** prefilling -> decoding: the whole known context is computed and a token was sampled. */
  | { readonly type: 'prefilled'; readonly id: RequestId }
  /** running -> swapping-out: what the host lacks is copied there; `held` blocks it has already. */
  | ({ readonly type: 'swapOut'; readonly id: RequestId; readonly held: number; readonly cause: Cause } & Copies)
  /** running -> swapped: the host has everything already. */
  | { readonly type: 'park'; readonly id: RequestId; readonly held: number; readonly cause: Cause }
  /**
   * swapped or queued -> swapping-in: what the device lacks is copied there; `held` blocks it has already. For a queued
   * request `cachedTokens` of its context were found in the two memories; 0 for a swapped one.
   */
  | ({ readonly type: 'swapIn'; readonly id: RequestId; readonly held: number; readonly cachedTokens: number } & Copies)
  /** swapped -> running: the device still has everything. */
  | { readonly type: 'resume'; readonly id: RequestId; readonly held: number }
  /** Full blocks go to the host ahead of need, of running requests and of ones that have ended; no change of state. */
  | ({ readonly type: 'mirror'; readonly ids: readonly RequestId[] } & Copies)
  /** Blocks of a swapped request come back ahead of need; no change of state. */
  | ({ readonly type: 'prefetch'; readonly id: RequestId } & Copies)
  /** The request's transfer landed: swapping-out -> swapped, swapping-in -> running. */
  | { readonly type: 'settled'; readonly id: RequestId }
  /** running, swapped or a failed swap -> queued: its KV is given up; what is not found again will be computed again. */
  | { readonly type: 'recompute'; readonly id: RequestId; readonly cause: Cause }
  /** The request is to end but a transfer or step of its own is in flight: remembered until that lands. */
  | { readonly type: 'ending'; readonly id: RequestId }
  /** All tokens that one step sampled, in plan order. */
  | { readonly type: 'tokens'; readonly items: readonly EmittedToken[] }
  /** -> done. */
  | { readonly type: 'finish'; readonly id: RequestId; readonly outcome: Outcome; readonly error: string | null }
  /** Refused at the door, never queued: -> done (rejected). `code` is from the catalogue in errors.ts. */
  | { readonly type: 'reject'; readonly id: RequestId; readonly code: 'queue_full' | 'draining' | 'too_large' };

/** Sampling of one request; every field present, neutral values named. */
export interface Sampling {
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 is off. */
  readonly topK: number;
  /** 1 is off. */
  readonly topP: number;
  /** 0 is off. */
  readonly minP: number;
  /** 0 is off; over generated tokens, as OpenAI has it. */
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  /** 1 is off; over prompt and generated tokens, as transformers has it. */
  readonly repetitionPenalty: number;
  /** 64 bit, unsigned; draw k of the request depends on (seed, k) only. */
  readonly seed: bigint;
  /** Alternatives to report beside each token; -1: no logprobs at all. At most 20. */
  readonly topLogprobs: number;
  /** Added to the logits before anything else. */
  readonly logitBias: readonly { readonly token: number; readonly bias: number }[];
}

/** What is known of a request outside the core: the token ids and how to sample. Never in an event. */
export interface Content {
  readonly promptTokens: Int32Array;
  readonly sampling: Sampling;
  /** Tokens that end the request when sampled (empty with ignore_eos). */
  readonly stopTokens: readonly number[];
  /** Part of every block's name: KV is shared only between requests of equal salt. */
  readonly cacheSalt: string;
}
