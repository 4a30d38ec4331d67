/**
 * Given rank and room: who steps, who is admitted, who is swapped out and in. Shared by all policies.
 *
 * Strict rank order: whoever waits first is served first, nobody slips past a larger request, so nobody starves behind
 * small ones. Preemption happens between steps only, takes the lowest ranks first, stops when enough is on its way
 * to be free, and does not begin where it could not suffice.
 */
import { type Acts, blocksFor, enter, knownTokens, type Request, type State } from './state.js';
import { runsBetween } from './transfers.js';
import type { StepItem } from './types.js';

/** Largest reserve behind a request's last block group, in blocks; shrinks as memory fills (FastSwitch's block groups). */
const GROWTH_RESERVE_BLOCKS = 16;

/** How far ahead room for growth is looked for: the steps that a copy may take. */
const LOOKAHEAD_TOKENS = 2;

/** Everything that can be decided now. Running requests may be preempted only while no step is in flight. */
export function place(state: State, acts: Acts): void {
  const betweenSteps = state.step === 0;
  if (betweenSteps) {
    growDecoding(state, acts);
    preemptAhead(state, acts);
  }
  startWaiting(state, acts, betweenSteps);
  if (betweenSteps) launch(state, acts);
}

/** Room for the token that each decoding request is about to write, in rank order. */
function growDecoding(state: State, acts: Acts): void {
  let index = 0;
  while (index < state.active.length) {
    const request = state.active[index] as Request;
    const lacking = blocksFor(request.computed + 1) - state.device.table(request.id).length;
    if (lacking <= 0 || growDevice(state, request, lacking)) {
      index += 1;
      continue;
    }
    // Blocks on their way out are room soon: wait for them rather than send another victim after them.
    if (outgoingBlocks(state) >= lacking) {
      index += 1;
      continue;
    }
    const victim = state.active[state.active.length - 1] as Request;
    // The last in rank gives way, unless what blocks it is a copy that will soon be a running request of lower rank.
    if (victim === request && state.moving.size > 0) break;
    preempt(state, victim, acts);
  }
}

/** Blocks that those who decode will need for their next tokens. */
function soonBlocks(state: State): number {
  let soon = 0;
  for (const request of state.active) {
    if (request.phase !== 'decoding') continue;
    const last = request.promptTokens + request.maxTokens - 1; // the last token is sampled but never computed
    const ahead = Math.min(request.computed + 1 + LOOKAHEAD_TOKENS, last);
    soon += Math.max(0, blocksFor(ahead) - state.device.table(request.id).length);
  }
  return soon;
}

/**
 * Where the next few tokens of those who decode will not fit, the last in rank leaves now, while there is still room
 * for this step: so nobody's step waits for a copy. Who can only be computed again stays: there is no copy to wait for.
 */
function preemptAhead(state: State, acts: Acts): void {
  while (state.active.length > 1) {
    const last = state.active[state.active.length - 1] as Request;
    if (state.host.free < blocksFor(last.computed)) return;
    if (soonBlocks(state) <= state.device.free + outgoingBlocks(state)) return;
    preempt(state, last, acts);
  }
}

/** Admits and resumes in rank order until the first that does not fit. */
function startWaiting(state: State, acts: Acts, mayPreempt: boolean): void {
  for (;;) {
    const first = firstWaiting(state);
    if (first === null || leavesBehindABetter(state, first)) return;
    if (start(state, first, acts)) continue;
    if (!mayPreempt || !makeRoom(state, first, acts)) return;
  }
}

/** The highest rank of those who wait, queued or swapped. */
function firstWaiting({ queued, swapped, policy }: State): Request | null {
  const [a, b] = [queued[0], swapped[0]];
  if (a === undefined || b === undefined) return a ?? b ?? null;
  return policy.compare(a, b) < 0 ? a : b;
}

/** Someone of higher rank is on the way out and will wait at the head of the line: nobody slips past meanwhile. */
function leavesBehindABetter(state: State, first: Request): boolean {
  for (const request of state.moving.values()) {
    if (request.phase === 'swapping-out' && request.ending === null && state.policy.compare(request, first) < 0) return true;
  }
  return false;
}

/** Blocks for all that is known of a request and the token after it. */
function blocksToRun(request: Request): number {
  return blocksFor(knownTokens(request) + 1);
}

/** Blocks kept free for the growth of `running` requests, so that a newcomer is not pushed out again at once. */
function headroomBlocks(running: number): number {
  return Math.ceil(running / 2);
}

function incomingCount(state: State): number {
  let count = 0;
  for (const request of state.moving.values()) if (request.phase === 'swapping-in') count += 1;
  return count;
}

function outgoingBlocks(state: State): number {
  let blocks = 0;
  for (const request of state.moving.values()) {
    if (request.phase === 'swapping-out') blocks += state.device.table(request.id).length;
  }
  return blocks;
}

function growDevice(state: State, request: Request, count: number): boolean {
  const adaptive = Math.floor(state.device.free / (2 * (state.active.length + 1)));
  return state.device.grow(request.id, count, Math.min(GROWTH_RESERVE_BLOCKS, adaptive));
}

/** Starts a queued or swapped request if there is a slot and room for it. */
function start(state: State, request: Request, acts: Acts): boolean {
  const running = state.active.length + incomingCount(state);
  if (running >= state.limits.maxRunning) return false;
  const need = blocksToRun(request);
  const headroom = Math.max(headroomBlocks(running), soonBlocks(state));
  if (state.device.free < need + headroom || !growDevice(state, request, need)) return false;
  if (request.phase === 'queued') {
    enter(state, request, 'prefilling');
    acts.before.push({ type: 'admit', id: request.id });
  } else {
    swapIn(state, request, acts);
  }
  return true;
}

/**
 * Preempts what must go for `claimant` to start. Says whether it did: a slot is then free at once, room perhaps only
 * when copies have landed, and the claimant is still the first to wait.
 */
function makeRoom(state: State, claimant: Request, acts: Acts): boolean {
  const need = blocksToRun(claimant);
  let running = state.active.length + incomingCount(state);
  let room = state.device.free + outgoingBlocks(state);
  const fits = () => running < state.limits.maxRunning && room >= need + headroomBlocks(running);
  if (fits()) return false;
  const victims: Request[] = [];
  for (let index = state.active.length - 1; index >= 0 && !fits(); index -= 1) {
    const victim = state.active[index] as Request;
    if (!state.policy.outranks(claimant, victim)) break;
    victims.push(victim);
    running -= 1;
    room += state.device.table(victim.id).length;
  }
  if (!fits()) return false;
  for (const victim of victims) preempt(state, victim, acts);
  return true;
}

/** Takes a request off the device: its KV goes to the host, or is given up where there is none or no room for it. */
function preempt(state: State, victim: Request, acts: Acts): void {
  const blocks = blocksFor(victim.computed);
  if (blocks === 0 || !makeHostRoom(state, victim, blocks, acts)) return recompute(state, victim, acts);
  state.device.truncate(victim.id, blocks);
  victim.resumeAs = victim.phase === 'decoding' ? 'decoding' : 'prefilling';
  enter(state, victim, 'swapping-out');
  acts.moves.push(transfer(state, victim, 'swapOut'));
}

/**
 * Reserves host blocks for a victim. Copies of lower rank give way, from the lowest, if that suffices; their owners
 * will be computed again.
 */
function makeHostRoom(state: State, victim: Request, blocks: number, acts: Acts): boolean {
  if (state.host.grow(victim.id, blocks)) return true;
  const losers: Request[] = [];
  let free = state.host.free;
  for (let index = state.swapped.length - 1; index >= 0 && free < blocks; index -= 1) {
    const loser = state.swapped[index] as Request;
    if (state.policy.compare(loser, victim) < 0) break;
    losers.push(loser);
    free += state.host.table(loser.id).length;
  }
  if (free < blocks) return false;
  for (const loser of losers) recompute(state, loser, acts);
  return state.host.grow(victim.id, blocks);
}

/** Gives up the KV of a request that is in no step and no transfer; it queues again with its rank unchanged. */
export function recompute(state: State, request: Request, acts: Acts): void {
  state.device.release(request.id);
  state.host.release(request.id);
  request.computed = 0;
  enter(state, request, 'queued');
  acts.before.push({ type: 'recompute', id: request.id });
}

function swapIn(state: State, request: Request, acts: Acts): void {
  enter(state, request, 'swapping-in');
  acts.moves.push(transfer(state, request, 'swapIn'));
}

/** The plan of a transfer whose blocks are reserved on both sides; they are held until it lands. */
function transfer(state: State, request: Request, type: 'swapOut' | 'swapIn') {
  const host = state.host.table(request.id);
  const device = state.device.table(request.id).slice(0, host.length);
  state.transfers += 1;
  state.moving.set(state.transfers, request);
  state.device.hold(request.id);
  state.host.hold(request.id);
  const runs = type === 'swapOut' ? runsBetween(device, host) : runsBetween(host, device);
  return { type, id: request.id, transfer: state.transfers, runs, blocks: host.length };
}

/** Makes the next step: a token for everyone who decodes, then prompt chunks, in rank order, within the budget. */
function launch(state: State, acts: Acts): void {
  let budget = state.limits.maxBatchTokens;
  const items: StepItem[] = [];
  const add = (request: Request, count: number) => {
    if (count <= 0) return;
    const blocks = state.device.table(request.id);
    if (blocks.length < blocksFor(request.computed + count)) return; // waits for room
    const sample = request.computed + count === knownTokens(request);
    items.push({ id: request.id, start: request.computed, count, sample, blocks });
    request.stepping = true;
    budget -= count;
  };
  for (const request of state.active) if (request.phase === 'decoding') add(request, Math.min(1, budget));
  for (const request of state.active) {
    if (request.phase === 'prefilling') add(request, Math.min(budget, knownTokens(request) - request.computed));
  }
  if (items.length === 0) return;
  state.steps += 1;
  state.step = state.steps;
  acts.step = { type: 'step', step: state.step, items };
}
