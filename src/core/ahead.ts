/**
 * What is copied ahead of need while a step runs and the link would be idle: full blocks to the host, so that a preemption
 * sends next to nothing; the next in rank back to the device. Sized to land before the step that covers it ends, so
 * that nobody who needs the link waits for it. Losing what was copied ahead costs nothing but the copy.
 */
import { blocksOf, hostReserve, namesFor, takeOff, trimCopies } from './flights.js';
import type { Copy } from './reuse.js';
import { growDevice, headroomBlocks, soonBlocks } from './room.js';
import { type Acts, blocksFor, type FlightPart, fullBlocks, type Request, type State } from './state.js';
import type { BlockName, Direction, RequestId } from './types.js';
import type { Warm } from './warm.js';

/** Share of the rest of the step that may be filled: predictions err. */
const SHARE = 0.8;
/** Fewer blocks than these are not worth a transfer of their own. */
const MIRROR_BLOCKS_MIN = 8;
/** Of the line of those who wait, how many are looked at. */
const PREFETCH_LOOK = 4;

/** Blocks that can be copied in this direction before the step in flight ends; 0 while anything else is copied there. */
function budgetBlocks(state: State, direction: Direction): number {
  if (state.inFlight[direction] > 0) return 0;
  const { cost, limits } = state;
  const micros = SHARE * (state.stepDueAt - state.now);
  const one = cost.predictTransfer(direction, 1, limits.blockBytes);
  const two = cost.predictTransfer(direction, 2, 2 * limits.blockBytes);
  return Math.max(0, Math.floor((micros - one) / Math.max(1, two - one)));
}

/** A transfer in the making. */
interface Plan {
  readonly from: number[];
  readonly to: number[];
  readonly parts: FlightPart[];
  readonly ids: RequestId[];
}

/** Sends full blocks that the host lacks: of ended requests, oldest first, then of running ones, lowest rank first. */
export function mirror(state: State, acts: Acts): void {
  if (state.heldUp) return;
  let budget = budgetBlocks(state, 'out');
  if (budget < MIRROR_BLOCKS_MIN || pendingBlocks(state) < MIRROR_BLOCKS_MIN) return;
  const plan: Plan = { from: [], to: [], parts: [], ids: [] };
  for (const warm of state.warm.unmirrored()) {
    if (budget <= 0 || !state.limits.mechanism.reuse) break; // nobody could find it
    budget -= mirrorWarm(state, warm, budget, plan);
  }
  for (let index = state.active.length - 1; index >= 0 && budget > 0; index -= 1) {
    const request = state.active[index] as Request;
    if (request.ending === null) budget -= mirrorRunning(state, request, budget, plan);
  }
  if (plan.from.length === 0) return;
  const flight = takeOff(state, 'mirror', plan.from, plan.to, plan.parts);
  for (const { copies } of plan.parts) for (const copy of copies) state.copies.unpin(copy); // the transfer pins them now
  acts.moves.push({ type: 'mirror', ids: plan.ids, ...flight });
}

/** About how many blocks there are to mirror; counts no further than is needed to begin. */
function pendingBlocks(state: State): number {
  let pending = 0;
  for (const { names } of state.warm.unmirrored()) {
    pending += names.length;
    if (pending >= MIRROR_BLOCKS_MIN) return pending;
  }
  for (const { computed, copies } of state.active) pending += Math.max(0, fullBlocks(computed) - copies.length);
  return pending;
}

/** Adds the blocks of an ended request to the plan and returns how many. */
function mirrorWarm(state: State, warm: Warm, budget: number, plan: Plan): number {
  const { names, owner } = warm;
  const found = state.copies.find(names, names.length);
  if (found === names.length || state.device.heldTo(owner) > 0) {
    if (found === names.length) state.warm.mirrored(warm);
    return 0;
  }
  const to = Math.min(names.length, found + budget);
  const added = add(state, state.copies.before(names, found), names.slice(found, to));
  if (added === null || to === names.length) state.warm.mirrored(warm);
  if (added === null) return 0;
  addPart(state, plan, { owner, request: null, from: found, copies: added, release: false });
  return added.length;
}

/** Adds the full blocks of a running request to the plan and returns how many. */
function mirrorRunning(state: State, request: Request, budget: number, plan: Plan): number {
  const full = fullBlocks(request.computed);
  if (request.flight !== null || request.copies.length >= full) return 0;
  if (request.copies[request.copies.length - 1]?.chain === null) trimCopies(state, request);
  if (state.copies.has(request.names[request.copies.length] as BlockName)) {
    const found = state.copies.find(request.names, full);
    for (const copy of state.copies.copiesOf(request.names, request.copies.length, found)) {
      state.copies.use(copy);
      request.copies.push(copy);
    }
  }
  const from = request.copies.length;
  const to = Math.min(full, from + budget);
  if (to <= from) return 0;
  const added = add(state, request.copies[from - 1] ?? null, namesFor(state, request, from, to));
  if (added === null) return 0;
  for (const copy of added) state.copies.use(copy);
  request.copies.push(...added);
  plan.ids.push(request.id);
  addPart(state, plan, { owner: request.id, request, from, copies: added, release: false });
  return added.length;
}

function add(state: State, after: Copy | null, names: readonly (BlockName | null)[]): Copy[] | null {
  return state.copies.add(after, names, hostReserve(state), 'idle');
}

function addPart(state: State, plan: Plan, part: FlightPart): void {
  const table = state.device.table(part.owner);
  for (const [index, copy] of part.copies.entries()) {
    plan.from.push(table[part.from + index] as number);
    plan.to.push(copy.block);
  }
  plan.parts.push(part);
  state.device.hold(part.owner, part.from, part.from + part.copies.length);
}

/** Brings back blocks of the first in line who has no room yet, into room that nobody runs on. */
export function prefetch(state: State, acts: Acts): void {
  const budget = budgetBlocks(state, 'in');
  if (budget === 0) return;
  const kept = Math.max(headroomBlocks(state.active.length), soonBlocks(state));
  const room = Math.min(budget, state.device.free + state.warm.blocks - kept);
  for (const request of state.swapped.slice(0, PREFETCH_LOOK)) {
    const ready = state.device.table(request.id).length;
    const count = Math.min(room, blocksFor(request.computed) - ready);
    if (count <= 0 || request.flight !== null || request.suspect) continue;
    if (!growDevice(state, request, count)) continue;
    const copies = request.copies.slice(ready, ready + count);
    const to = state.device.table(request.id).slice(ready);
    state.device.hold(request.id, ready, ready + count);
    state.residents.set(request, ready + count);
    const part: FlightPart = { owner: request.id, request, from: ready, copies, release: false };
    const flight = takeOff(state, 'prefetch', blocksOf(copies), to, [part]);
    acts.moves.push({ type: 'prefetch', id: request.id, ...flight });
    return;
  }
}
