/**
 * What it costs to take a request off the device and to bring it back, and what that means for who gives way when.
 *
 * What the claimant gains is the place for as long as its victim would have kept it, which nobody knows; the usual guess is
 * as long again as it has had it. So a victim gives way when it has had the device for as long as the switch is
 * predicted to cost: whatever ranks do, at most half of the time goes into switching, and whoever is computed again gets
 * somewhere before it is sent away again. The quantum by which ranks have to differ is longer, so that those who take turns
 * because they are nearly equal spend at most a fifth of their time on it.
 */
import type { Quantum } from './fairness.js';
import { blocksFor, type Request, type State } from './state.js';
import type { Micros } from './types.js';

/** Times what a switch costs: the least time on the device before one, and the quantum. */
const WORTH = 1;
const QUANTUM_WORTH = 4;
/** The least quantum: a block. Less would be noise. */
const TOKENS_MIN = 16;
/** A quantum stays as it is while predictions are within this factor of it: tags are made of it, and should not jitter. */
const STEADY = 2;

/** There is nowhere to copy so many blocks to: what leaves the device has to be computed again. */
function isLost({ limits, host, copies }: State, blocks: number): boolean {
  return limits.mechanism.preemption === 'recompute' || host.free + copies.spare < blocks;
}

/** Copies both ways, of which the host has `heldBlocks` already; or computing it again. */
function switchMicros(state: State, tokens: number, heldBlocks: number): Micros {
  const { cost, limits } = state;
  const blocks = blocksFor(tokens);
  const sent = blocks - heldBlocks;
  if (isLost(state, sent)) {
    const features = (count: number) => ({ prefillTokens: count, decodeSequences: 0, contextTokens: count });
    return cost.predictStep(features(tokens)) - cost.predictStep(features(0));
  }
  const out = sent === 0 ? 0 : cost.predictTransfer('out', 1, sent * limits.blockBytes);
  return out + cost.predictTransfer('in', 1, blocks * limits.blockBytes);
}

/** It has had the device for long enough to give way to somebody who ranks above it. */
export function isRipe(state: State, victim: Request): boolean {
  return ripeAt(state, victim) <= state.now;
}

/** When that is or was, as far as it can be said. */
export function ripeAt(state: State, victim: Request): Micros {
  const { computed, copies, phase, deviceSince, decodingSince } = victim;
  if (!state.limits.mechanism.weighed || computed === 0) return state.now;
  const held = copies.filter(({ chain }) => chain !== null).length;
  const lost = isLost(state, blocksFor(computed) - held);
  // In the midst of what would be lost: all of that would have been for nothing, however long it took.
  if (lost && phase === 'prefilling') return Math.max(state.now + 1, state.stepDueAt);
  return Math.ceil((lost ? decodingSince : deviceSince) + WORTH * switchMicros(state, computed, held));
}

/** The quantum for those who run now, after a step. */
export function nextQuantum(state: State): Quantum {
  const { active, limits, stepMicros, quantum } = state;
  const most = limits.mechanism.quantumTokens;
  if (most === 0 || active.length === 0 || stepMicros === 0) return { tokens: Math.min(most, quantum.tokens), micros: 0 };
  let computed = 0;
  for (const request of active) computed += request.computed;
  const wanted = (QUANTUM_WORTH * switchMicros(state, Math.ceil(computed / active.length), 0)) / stepMicros;
  const steady = wanted <= STEADY * quantum.tokens && wanted * STEADY >= quantum.tokens;
  const tokens = steady ? quantum.tokens : 2 ** Math.ceil(Math.log2(Math.max(1, wanted)));
  const within = Math.min(most, Math.max(TOKENS_MIN, tokens));
  return { tokens: within, micros: within * stepMicros };
}
