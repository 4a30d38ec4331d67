/** The next step: who is in it, and whether it waits for copies that are in flight. */
import { featuresOf, type StepFeatures } from './cost.js';
import { type Acts, blocksFor, knownTokens, type Request, type State } from './state.js';
import type { Micros, StepItem, TransferId } from './types.js';

/** Launches the next step, unless there is nothing to compute or it is to wait. */
export function launch(state: State, acts: Acts): void {
  const items = nextItems(state);
  if (items.length === 0) return;
  const features = featuresOf(items);
  const awaited = worthWaiting(state, items.length, features);
  if (awaited.length > 0) {
    for (const transfer of awaited) state.awaited.add(transfer);
    return;
  }
  for (const { id } of items) (state.requests.get(id) as Request).stepping = true;
  state.steps += 1;
  state.step = state.steps;
  state.stepFeatures = features;
  state.stepDueAt = state.now + state.cost.predictStep(features);
  state.leftSinceStep = false;
  acts.step = { type: 'step', step: state.step, items };
}

/** A token for everyone who decodes, then prompt chunks, in rank order, within the budget; or prompts alone. */
function nextItems(state: State): StepItem[] {
  const alone = state.limits.mechanism.prefill === 'alone' && state.active.some(({ phase }) => phase === 'prefilling');
  let budget = state.limits.maxBatchTokens;
  const items: StepItem[] = [];
  const add = (request: Request, count: number) => {
    if (count <= 0) return;
    const blocks = state.device.table(request.id);
    if (blocks.length < blocksFor(request.computed + count)) return; // waits for room
    const sample = request.computed + count === knownTokens(request);
    items.push({ id: request.id, start: request.computed, count, sample, blocks });
    budget -= count;
  };
  if (!alone) for (const request of state.active) if (request.phase === 'decoding') add(request, Math.min(1, budget));
  if (state.limits.mechanism.prefill === 'balanced' && items.length > 0) budget = Math.min(budget, state.chunkTokens);
  for (const request of state.active) {
    if (request.phase === 'prefilling') add(request, Math.min(budget, knownTokens(request) - request.computed));
  }
  return items;
}

/** A step may take this much longer for the prompt chunks in it; below the lower figure chunks grow. */
const STRETCH_MAX = 1.5;
const STRETCH_LOW = 1.25;
const CHUNK_TOKENS_MIN = 64;

/**
 * Fits the chunks to what they cost those who decode: smaller after a step that they stretched too much, slowly larger
 * otherwise. By what was seen and not by a formula: up to some size chunks cost nothing, because a step that reads all
 * weights for a few tokens leaves the arithmetic idle.
 */
export function balanceChunks(state: State, micros: Micros): void {
  const { stepFeatures, cost, limits } = state;
  const { prefillTokens, decodeSequences } = stepFeatures;
  if (limits.mechanism.prefill !== 'balanced' || decodeSequences === 0 || 2 * prefillTokens < state.chunkTokens) return;
  const stretch = micros / Math.max(1, cost.predictStep({ ...stepFeatures, prefillTokens: 0 }));
  if (stretch > STRETCH_MAX) state.chunkTokens = Math.max(CHUNK_TOKENS_MIN, Math.floor(0.7 * state.chunkTokens));
  else if (stretch < STRETCH_LOW) state.chunkTokens = Math.min(limits.maxBatchTokens, state.chunkTokens + 32);
}

/**
 * The transfers this step should wait for. `adaptive` compares tokens (FastSwitch's choice, our derivation): with R ready,
 * S coming back within T_sw and steps of T_it, not waiting costs the S what they could have computed from T_sw to the end
 * of the step during which they land, S x (k T_it - T_sw) with k = ceil(T_sw / T_it); waiting costs the R T_sw.
 */
function worthWaiting(state: State, ready: number, features: StepFeatures): TransferId[] {
  const { waits } = state.limits.mechanism;
  if (waits === 'async' || state.flights.size === 0) return [];
  const swaps: TransferId[] = [];
  let dueAt = state.now;
  for (const { transfer, type, dueAt: due } of state.flights.values()) {
    if (type !== 'swapIn' && !(type === 'swapOut' && waits === 'sync')) continue;
    swaps.push(transfer);
    dueAt = Math.max(dueAt, due);
  }
  if (waits === 'sync' || swaps.length === 0) return swaps;
  const swapMicros = dueAt - state.now;
  const stepMicros = Math.max(1, state.cost.predictStep(features));
  const steps = Math.ceil(swapMicros / stepMicros);
  return swaps.length * (steps * stepMicros - swapMicros) > ready * swapMicros ? swaps : [];
}
