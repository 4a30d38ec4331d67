/**
 * Given rank and room: who runs, who is admitted, swapped out and in. Shared by all policies and all presets.
 *
 * Strict rank order: whoever waits first is served first, nobody slips past a larger request, so nobody starves behind
 * small ones. Preemption happens between steps only, takes the lowest ranks first, stops when enough is on its way
 * to be free, and does not begin where it could not suffice.
 */
import { mirror, prefetch } from './ahead.js';
import { BLOCK_TOKENS } from './config.js';
import { blocksOf, holdCopies, hostReserve, namesFor, recompute, takeOff, trimCopies, unpinCopies } from './flights.js';
import { launch } from './launch.js';
import type { Copy } from './reuse.js';
import { deviceRoom, growDevice, headroomBlocks, soonBlocks, soonBlocksOf } from './room.js';
import {
  type Acts,
  blocksFor,
  enter,
  fullBlocks,
  knownTokens,
  newOwner,
  type Request,
  rank,
  type State,
  waitingCount,
} from './state.js';
import type { BlockName, Cause } from './types.js';
import type { Warm } from './warm.js';
import { isRipe } from './worth.js';

/**
 * Everything that can be decided now. Running requests may be preempted only while no step is in flight. `linkFreed`: a
 * transfer has come back, so that there may be time for another.
 */
export function place(state: State, acts: Acts, linkFreed: boolean): void {
  if (state.awaited.size > 0) return; // the next step is decided on and waits for its copies
  const betweenSteps = state.step === 0;
  if (betweenSteps) {
    state.heldUp = false;
    growDecoding(state, acts);
    if (state.limits.mechanism.waits !== 'sync') preemptAhead(state, acts);
  }
  startWaiting(state, acts, betweenSteps);
  if (betweenSteps) launch(state, acts);
  if (state.step === 0 && state.flights.size === 0 && waitingCount(state) > 0) {
    // Nobody is left to make a step of: those who wait need wait neither for one nor for each other.
    state.leftSinceStep = false;
    startWaiting(state, acts, betweenSteps);
    launch(state, acts);
  }
  if (state.step !== 0 && (linkFreed || acts.step !== null)) {
    if (state.limits.mechanism.prefetch) prefetch(state, acts);
    if (state.limits.mechanism.mirror) mirror(state, acts);
  }
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
    if (state.outgoingBlocks >= lacking) {
      index += 1;
      continue;
    }
    const victim = state.active[state.active.length - 1] as Request;
    // The last in rank gives way, unless what blocks it is a copy that will soon be a running request of lower rank.
    if (isHeldUp(state, victim) || (victim === request && state.flights.size > 0)) break;
    preempt(state, victim, { why: 'growth', by: request.id }, acts);
  }
}

/**
 * Where the next few tokens of those who decode will not fit, the last in rank leaves now, while there is still room
 * for this step: so nobody's step waits for a copy. Who can only be computed again stays: there is no copy to wait for.
 */
function preemptAhead(state: State, acts: Acts): void {
  while (state.active.length > 1) {
    const last = state.active[state.active.length - 1] as Request;
    if (state.limits.mechanism.preemption === 'recompute') return;
    if (soonBlocks(state) <= deviceRoom(state) + state.outgoingBlocks || isHeldUp(state, last)) return;
    trimCopies(state, last);
    const spare = state.copies.spare - last.copies.filter(({ pins, chains }) => pins === chains).length; // its own are no room for it
    if (state.host.free + spare < blocksFor(last.computed) - last.copies.length) return;
    if (!sendOff(state, last, { why: 'crowded', by: null }, acts)) return;
  }
}

/**
 * Admits and resumes in rank order. Whoever does not fit may preempt and waits for the room; those behind may preempt for
 * themselves, but pass nobody.
 */
function startWaiting(state: State, acts: Acts, mayPreempt: boolean): void {
  const waitsForStep = () => state.limits.mechanism.oneWay && state.leftSinceStep && state.active.length > 0;
  if (waitsForStep()) return;
  const promised = { ...NOTHING_PROMISED };
  for (;;) {
    const next = nextWaiting(state, promised);
    if (next === null || next.flight !== null || betterLeaving(state, next) !== null || hasJustLeft(state, next)) return;
    const startable = () => promised.blocks === 0 && !waitsForStep();
    if (startable() && start(state, next, acts)) continue;
    if (state.limits.mechanism.paced && linkIsFull(state, next)) return;
    if (!mayPreempt || !makeRoom(state, next, promised, acts)) return;
    if (startable() && start(state, next, acts)) continue;
    promised.blocks += blocksToRun(next);
    promised[next.phase as 'queued' | 'swapped'] += 1;
  }
}

/**
 * It gave way in this very decision, to more than its own room: what is left might take it again, because who computes a
 * prompt is not expected to grow. It would have to leave at the next step.
 */
function hasJustLeft({ limits, now, active }: State, { admitted, waitingSince }: Request): boolean {
  return limits.mechanism.weighed && admitted && waitingSince === now && active.length > 0;
}

/**
 * The link has enough to bring in until the next step ends. Those who are to make room compute meanwhile: nobody waits
 * longer for that, since what is to come would wait for the link.
 */
export function linkIsFull(state: State, { id, phase, computed }: Request): boolean {
  const needed = phase === 'swapped' && state.device.table(id).length < blocksFor(computed);
  return needed && state.linkFreeAt.in > state.now + state.stepMicros;
}

type Promised = Readonly<Record<'blocks' | 'queued' | 'swapped', number>>;
export const NOTHING_PROMISED: Promised = { blocks: 0, queued: 0, swapped: 0 };

/** The highest rank of those who wait, behind those to whom room is promised. */
export function nextWaiting({ queued, swapped, policy }: State, promised: Promised): Request | null {
  const [a, b] = [queued[promised.queued], swapped[promised.swapped]];
  if (a === undefined || b === undefined) return a ?? b ?? null;
  return policy.compare(a, b) < 0 ? a : b;
}

/** Someone of higher rank who is on the way out and will wait at the head of the line: nobody slips past meanwhile. */
export function betterLeaving({ leaving, policy }: State, first: Request): Request | null {
  const better = leaving.find(({ ending }) => ending === null);
  return better !== undefined && policy.compare(better, first) < 0 ? better : null;
}

/** Blocks for all that is known of a request and the token after it. */
function blocksToRun(request: Request): number {
  return blocksFor(knownTokens(request) + 1);
}

/** Starts a queued or swapped request if there is a slot and room for it. */
function start(state: State, request: Request, acts: Acts): boolean {
  const running = state.active.length + state.arriving;
  if (running >= state.limits.maxRunning) return false;
  const { found, need, room, kept } = claimOf(state, request, running);
  if (room < need + kept) return false;
  if (found === null) swapIn(state, request, need, acts);
  else admit(state, request, found, need, acts);
  return true;
}

/** What a waiting request needs of the device's blocks to start, and how many it could have. */
interface Claim {
  /** Of a queued one. */
  readonly found: Prefix | null;
  readonly need: number;
  readonly room: number;
  /** Of the room: not to be used, for the growth of those who run. */
  readonly kept: number;
}

export function claimOf(state: State, request: Request, running: number): Claim {
  const found = request.phase === 'queued' ? findPrefix(state, request) : null;
  const own = found === null ? state.device.table(request.id).length : (found.warm?.blocks ?? 0);
  const kept = Math.max(headroomBlocks(running), soonBlocks(state));
  return { found, need: blocksToRun(request) - own, room: deviceRoom(state) - own, kept };
}

interface Prefix {
  readonly warm: { readonly warm: Warm; readonly blocks: number } | null;
  /** Leading blocks on the host, where that is more than is warm and worth the copy. */
  readonly host: number;
}

/** What there is of a queued request's context. At least one token is computed, to sample the next from it. */
function findPrefix(state: State, request: Request): Prefix {
  const { finished, reuse } = state.limits.mechanism;
  const most = fullBlocks(knownTokens(request) - 1);
  const warm = finished === 'warm' ? state.warm.find(request.names, most) : null;
  const host = reuse && !request.suspect ? state.copies.find(request.names, most) : 0;
  const blocks = host - (warm?.blocks ?? 0);
  return { warm, host: blocks > 0 && worthRestoring(state, blocks) ? host : 0 };
}

/** Copying these blocks is expected to be faster than computing them. */
function worthRestoring({ cost, limits }: State, blocks: number): boolean {
  const tokens = (fullTokens: number) => ({ prefillTokens: fullTokens, decodeSequences: 0, contextTokens: fullTokens });
  const computed = cost.predictStep(tokens(blocks * BLOCK_TOKENS)) - cost.predictStep(tokens(0));
  return cost.predictTransfer('in', 1, blocks * limits.blockBytes) < computed;
}

function admit(state: State, request: Request, { warm, host }: Prefix, need: number, acts: Acts): void {
  const ready = warm?.blocks ?? 0;
  if (warm !== null) state.warm.adopt(warm.warm, warm.blocks, request.id);
  const copies = host > 0 ? state.copies.copiesOf(request.names, 0, host) : [];
  holdCopies(state, request, copies);
  if (!growDevice(state, request, need)) throw new Error(`room for request ${request.id} was counted and is not there`);
  request.computed = BLOCK_TOKENS * Math.max(ready, host);
  request.resumeAs = 'prefilling';
  firstAdmission(state, request);
  if (host > 0) fly(state, request, ready, request.computed, acts);
  else {
    enter(state, request, 'prefilling');
    acts.before.push({ type: 'admit', id: request.id, cachedTokens: request.computed });
  }
}

function firstAdmission(state: State, request: Request): void {
  if (request.admitted) return;
  request.admitted = true;
  if (state.policy.accounting?.admitted(request) === true) rank(state);
}

function swapIn(state: State, request: Request, need: number, acts: Acts): void {
  const ready = state.device.table(request.id).length;
  state.residents.set(request, 0);
  if (!growDevice(state, request, need)) throw new Error(`room for request ${request.id} was counted and is not there`);
  if (ready < blocksFor(request.computed)) return fly(state, request, ready, 0, acts);
  unpinCopies(state, request);
  enter(state, request, request.resumeAs);
  acts.before.push({ type: 'resume', id: request.id, held: ready });
}

/** Copies what the device lacks of a request that has room there. */
function fly(state: State, request: Request, held: number, cachedTokens: number, acts: Acts): void {
  const copies = request.copies.slice(held);
  const to = state.device.table(request.id).slice(held, held + copies.length);
  state.device.hold(request.id, held, held + copies.length);
  enter(state, request, 'swapping-in');
  const plan = takeOff(state, 'swapIn', blocksOf(copies), to, [
    { owner: request.id, request, from: held, copies, release: false },
  ]);
  acts.moves.push({ type: 'swapIn', id: request.id, held, cachedTokens, ...plan });
}

/**
 * Preempts requests that the claimant outranks, lowest first, until it fits together with what is on its way out and with
 * those to whom room is promised. Preempts nobody where that would not suffice.
 */
function makeRoom(state: State, claimant: Request, promised: Promised, acts: Acts): boolean {
  const victims = victimsOf(state, claimant, promised, (victim) => !isRipe(state, victim) || isHeldUp(state, victim));
  if (victims === null) return false;
  for (const victim of victims) preempt(state, victim, { why: 'outranked', by: claimant.id }, acts);
  return true;
}

/**
 * Whom `makeRoom` would preempt: perhaps nobody, where enough is on its way out; null where it would not suffice. Who `stays`
 * cannot leave now, and nobody above it leaves in its stead.
 */
export function victimsOf(
  state: State,
  claimant: Request,
  promised: Promised,
  stays: (victim: Request) => boolean,
): Request[] | null {
  const { device } = state;
  const need = blocksToRun(claimant) - device.table(claimant.id).length;
  let running = state.active.length + state.arriving + promised.queued + promised.swapped;
  let room = deviceRoom(state) + state.outgoingBlocks - promised.blocks - device.table(claimant.id).length;
  let soon = soonBlocks(state);
  const fits = () => running < state.limits.maxRunning && room >= need + Math.max(headroomBlocks(running), soon);
  const victims: Request[] = [];
  for (let index = state.active.length - 1; index >= 0 && !fits(); index -= 1) {
    const victim = state.active[index] as Request;
    if (!state.policy.outranks(claimant, victim) || stays(victim)) break;
    victims.push(victim);
    running -= 1;
    room += device.table(victim.id).length;
    soon -= soonBlocksOf(state, victim);
  }
  return fits() ? victims : null;
}

/**
 * A mirror reads its blocks, so it cannot leave now. No other mirror starts in the next step: else, where mirrors take
 * longer than steps, one or another would always be in the way.
 */
function isHeldUp(state: State, victim: Request): boolean {
  if (victim.flight === null) return false;
  state.heldUp = true;
  return true;
}

/** Takes a request off the device: the host gets what it lacks of its KV, or the KV is given up where there is no room. */
function preempt(state: State, victim: Request, cause: Cause, acts: Acts): void {
  if (!sendOff(state, victim, cause, acts)) recompute(state, victim, cause, acts);
}

/** The host gets what it lacks; false where that is not to be, or there is no room. */
function sendOff(state: State, victim: Request, cause: Cause, acts: Acts): boolean {
  const { mechanism } = state.limits;
  const blocks = blocksFor(victim.computed);
  if (blocks === 0 || mechanism.preemption === 'recompute') return false;
  trimCopies(state, victim);
  for (const copy of victim.copies) state.copies.pin(copy);
  if (mechanism.reuse) {
    const found = state.copies.find(victim.names, fullBlocks(victim.computed));
    if (found > victim.copies.length) holdCopies(state, victim, state.copies.copiesOf(victim.names, victim.copies.length, found));
  }
  const held = victim.copies.length;
  const added = held === blocks ? [] : hostRoom(state, victim, namesFor(state, victim, held, blocks), acts);
  if (added === null) {
    state.copies.unpinAll(victim.copies);
    return false;
  }
  for (const copy of added) state.copies.use(copy);
  victim.copies.push(...added);
  victim.resumeAs = victim.phase === 'decoding' ? 'decoding' : 'prefilling';
  state.leftSinceStep = true;
  state.device.truncate(victim.id, blocks);
  leave(state, victim, held, added, cause, acts);
  return true;
}

/** Sends the last blocks on their way; those before them are on the host already. */
function leave(state: State, victim: Request, held: number, added: readonly Copy[], cause: Cause, acts: Acts): void {
  const { device, limits } = state;
  const owner = newOwner(state);
  if (added.length > 0) {
    const from = device.table(victim.id).slice(held);
    device.split(victim.id, held, owner);
    device.hold(owner);
    enter(state, victim, 'swapping-out');
    const plan = takeOff(state, 'swapOut', from, blocksOf(added), [
      { owner, request: victim, from: 0, copies: added, release: false },
    ]);
    acts.moves.push({ type: 'swapOut', id: victim.id, held, cause, ...plan });
  } else {
    enter(state, victim, 'swapped');
    acts.before.push({ type: 'park', id: victim.id, held, cause });
  }
  if (held === 0) return;
  if (limits.mechanism.partial) state.residents.set(victim, held);
  else device.release(victim.id);
}

/**
 * Room on the host for a victim's blocks. Copies that nobody depends on give way first; then those of swapped requests of
 * lower rank, from the lowest, if that suffices: they will be computed again. Null where there is no room.
 */
function hostRoom(state: State, victim: Request, names: readonly (BlockName | null)[], acts: Acts): Copy[] | null {
  const after = victim.copies[victim.copies.length - 1] ?? null;
  const add = () => state.copies.add(after, names, hostReserve(state), 'unpinned');
  const added = add();
  if (added !== null) return added;
  const losers: Request[] = [];
  const givenUp = new Map<Copy, number>(); // by how many of the losers: those that others need too are no room
  let room = state.host.free + state.copies.spare;
  for (let index = state.swapped.length - 1; index >= 0 && room < names.length; index -= 1) {
    const loser = state.swapped[index] as Request;
    if (loser.flight !== null || state.policy.compare(loser, victim) < 0) break;
    losers.push(loser);
    for (const copy of loser.copies) {
      const pins = (givenUp.get(copy) ?? 0) + 1;
      givenUp.set(copy, pins);
      if (pins === copy.pins) room += 1;
    }
  }
  if (room < names.length) return null;
  for (const loser of losers) recompute(state, loser, { why: 'host', by: victim.id }, acts);
  return add();
}
