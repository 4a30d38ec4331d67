/** Room on the device: what is free, what could be had, what is on its way, what will be needed. */
import { blocksFor, type Request, type State } from './state.js';

/**
 * Reserved behind a growing group even when little is free: the tails of all count as free, and a third fewer copies were
 * measured at 93 % occupancy (`bench/blocks.ts`).
 */
const RESERVE_BLOCKS_MIN = 4;

/** How far ahead room for growth is looked for: the steps that a copy may take. */
const LOOKAHEAD_TOKENS = 2;

/** Device blocks that could be had at once: free ones, warm ones, those of residents, less what a transfer reads. */
export function deviceRoom(state: State): number {
  let room = state.device.free + state.warm.blocks + state.residents.total;
  for (const { parts } of state.ahead) {
    for (const { owner, request } of parts) {
      if (state.warm.has(owner) || (request !== null && request.id === owner && state.residents.has(request))) {
        room -= state.device.heldTo(owner);
      }
    }
  }
  return room;
}

/** Blocks that those who decode will need for their next tokens. Counted once for each step and change of who runs. */
export function soonBlocks(state: State): number {
  if (state.soonBlocks === null) {
    state.soonBlocks = 0;
    for (const request of state.active) state.soonBlocks += soonBlocksOf(state, request);
  }
  return state.soonBlocks;
}

export function soonBlocksOf(state: State, request: Request): number {
  if (request.phase !== 'decoding') return 0;
  const last = request.promptTokens + request.maxTokens - 1; // the last token is sampled but never computed
  const ahead = Math.min(request.computed + 1 + LOOKAHEAD_TOKENS, last);
  return Math.max(0, blocksFor(ahead) - state.device.table(request.id).length);
}

/** Blocks kept free for the growth of `running` requests, so that a newcomer is not pushed out again at once. */
export function headroomBlocks(running: number): number {
  return Math.ceil(running / 2);
}

/** Adds blocks to the request's table, taking what nobody who runs needs where too little is free. */
export function growDevice(state: State, request: Request, count: number): boolean {
  const share = Math.floor((state.device.free + state.warm.blocks) / (2 * (state.active.length + 1)));
  const reserve = Math.min(state.limits.mechanism.growthReserveBlocks, Math.max(RESERVE_BLOCKS_MIN, share));
  let missing = count - state.device.free;
  if (missing > 0) {
    if (count > deviceRoom(state)) return false;
    // What is warm goes in larger pieces, so that groups stay long; from residents not one block more than is needed.
    state.warm.evict(missing + reserve);
    for (missing = count - state.device.free; missing > 0; missing = count - state.device.free) {
      if (!evictResident(state, missing, request)) return false;
    }
  }
  if (request.phase === 'decoding') state.soonBlocks = null;
  return state.device.grow(request.id, count, reserve);
}

/** Takes up to `count` blocks off the tail of the resident of lowest rank. */
function evictResident(state: State, count: number, asking: Request): boolean {
  let lowest: Request | null = null;
  for (const resident of state.residents.requests()) {
    const loose = state.residents.blocksOf(resident) - state.device.heldTo(resident.id);
    if (resident === asking || loose === 0) continue;
    if (lowest === null || state.policy.compare(lowest, resident) < 0) lowest = resident;
  }
  if (lowest === null) return false;
  const length = state.device.table(lowest.id).length;
  const left = Math.max(state.device.heldTo(lowest.id), length - count);
  if (left > 0) state.device.truncate(lowest.id, left);
  else state.device.release(lowest.id);
  state.residents.set(lowest, left);
  return true;
}
