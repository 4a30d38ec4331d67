/**
 * Transfers: how KV leaves the device and comes back, what it holds meanwhile, and what is true when it has landed.
 * Which request moves, and when, is decided in `placement.ts` and `ahead.ts`.
 */
import type { Copy } from './reuse.js';
import { type Acts, enter, type Flight, type FlightPart, fullBlocks, newOwner, type Request, type State } from './state.js';
import { runsBetween, singleRuns } from './transfers.js';
import type { BlockName, Cause, Copies, Direction, TransferId } from './types.js';

export function directionOf(type: Flight['type']): Direction {
  return type === 'swapOut' || type === 'mirror' ? 'out' : 'in';
}

/** Starts a transfer of block table `from` onto `to`; the parts' device blocks are held already. */
export function takeOff(
  state: State,
  type: Flight['type'],
  from: readonly number[],
  to: readonly number[],
  parts: readonly FlightPart[],
): Copies {
  const direction = directionOf(type);
  const runs = state.limits.mechanism.groups ? runsBetween(from, to) : singleRuns(from, to);
  const blocks = from.length;
  const micros = state.cost.predictTransfer(direction, runs.length, blocks * state.limits.blockBytes);
  const dueAt = Math.max(state.now, state.linkFreeAt[direction]) + micros;
  state.linkFreeAt[direction] = dueAt;
  state.transfers += 1;
  const flight: Flight = { transfer: state.transfers, type, runs: runs.length, blocks, parts, since: state.now, dueAt };
  state.flights.set(flight.transfer, flight);
  state.inFlight[direction] += 1;
  if (type === 'mirror' || type === 'prefetch') state.ahead.add(flight);
  if (type === 'swapOut') state.outgoingBlocks += blocks;
  for (const { request, copies } of parts) {
    if (request !== null) request.flight = flight;
    for (const copy of copies) state.copies.pin(copy);
  }
  return { transfer: flight.transfer, direction, runs, blocks };
}

/** The transfer touches nothing any more. */
export function touchDown(state: State, transfer: TransferId): Flight {
  const flight = state.flights.get(transfer);
  if (flight === undefined) throw new Error(`transfer ${transfer} came back, but is not in flight`);
  state.flights.delete(transfer);
  state.awaited.delete(transfer);
  state.ahead.delete(flight);
  if (flight.type === 'swapOut') state.outgoingBlocks -= flight.blocks;
  for (const { owner, request, copies, release } of flight.parts) {
    if (release) state.outgoingBlocks -= state.device.table(owner).length;
    state.device.settle(owner);
    for (const copy of copies) state.copies.unpin(copy);
    if (request !== null) request.flight = null;
  }
  // Predictions err: a link with nothing on it is free, whatever was expected.
  const direction = directionOf(flight.type);
  state.inFlight[direction] -= 1;
  if (state.inFlight[direction] === 0) state.linkFreeAt[direction] = Math.min(state.linkFreeAt[direction], state.now);
  return flight;
}

/** The names under which copies of positions [from, to) can be found; null where they cannot. */
export function namesFor(state: State, request: Request, from: number, to: number): (BlockName | null)[] {
  const full = state.limits.mechanism.reuse ? fullBlocks(request.computed) : 0;
  return Array.from({ length: to - from }, (_, index) =>
    from + index < full ? (request.names[from + index] as BlockName) : null,
  );
}

/** Blocks to set aside behind what is added on the host: for the next turn's increment. Fewer as the host fills. */
export function hostReserve(state: State): number {
  const share = Math.floor(state.host.free / (2 * (state.requests.size + 1)));
  return Math.min(state.limits.mechanism.growthReserveBlocks, share);
}

/** Forgets copies of the request from the first that was evicted on. */
export function trimCopies(state: State, request: Request): void {
  const gone = request.copies.findIndex((copy) => copy.chain === null);
  if (gone >= 0) cutCopies(state, request, gone);
}

/** Keeps the first `count` copies only. The request has not pinned the others. */
function cutCopies(state: State, request: Request, count: number): void {
  while (request.copies.length > count) state.copies.unuse(request.copies.pop() as Copy);
}

/** The request is on the device again: its copies may be evicted, and those that it is about to outgrow go. */
export function unpinCopies(state: State, request: Request): void {
  state.copies.unpinAll(request.copies);
  cutCopies(state, request, state.limits.mechanism.reuse ? fullBlocks(request.computed) : 0);
}

/** The request needs no copies any more; others may find them. */
export function leaveCopies(state: State, request: Request): void {
  const pinned = request.phase === 'swapped' || request.phase === 'swapping-out' || request.phase === 'swapping-in';
  if (pinned) state.copies.unpinAll(request.copies);
  cutCopies(state, request, 0);
}

/** Adds copies that the request uses and, being off the device or on its way, has pinned. */
export function holdCopies(state: State, request: Request, copies: readonly Copy[]): void {
  for (const copy of copies) {
    state.copies.pin(copy);
    state.copies.use(copy);
    request.copies.push(copy);
  }
}

/**
 * The request leaves its device blocks: kept warm where they can be found again, released by the transfer that still
 * reads them, or free at once.
 */
export function leaveDevice(state: State, request: Request, warm: boolean): void {
  state.residents.set(request, 0);
  const { device } = state;
  const held = device.table(request.id).length;
  if (held === 0) return;
  const { flight } = request;
  const part = flight?.parts.find((candidate) => candidate.request === request);
  const full = Math.min(fullBlocks(request.computed), held);
  if (warm && state.limits.mechanism.finished === 'warm' && full > 0 && flight?.type !== 'prefetch') {
    device.truncate(request.id, full);
    const { owner } = state.warm.keep(request.id, request.names.slice(0, full), newOwner(state));
    if (part !== undefined) part.owner = owner;
  } else if (part !== undefined) {
    part.owner = newOwner(state);
    part.release = true;
    state.outgoingBlocks += held;
    device.rename(request.id, part.owner);
  } else {
    device.release(request.id);
  }
  if (part !== undefined) part.request = null;
  request.flight = null;
}

/** Gives up the KV of a request that is in no step and no swap; it queues again with its rank unchanged. */
export function recompute(state: State, request: Request, cause: Cause, acts: Acts): void {
  leaveCopies(state, request);
  leaveDevice(state, request, true);
  request.computed = 0;
  request.resumeAs = 'prefilling';
  enter(state, request, 'queued');
  acts.before.push({ type: 'recompute', id: request.id, cause });
}

/** Sends what the host lacks of a request that has ended, and releases its device blocks when that has landed. */
export function save(state: State, request: Request, acts: Acts): void {
  const full = Math.min(fullBlocks(request.computed), state.device.table(request.id).length); // a swapped one may have none
  const found = state.copies.find(request.names, full);
  if (found >= full || request.flight !== null || !state.limits.mechanism.reuse) return;
  const copies = state.copies.add(
    state.copies.before(request.names, found),
    namesFor(state, request, found, full),
    hostReserve(state),
    'idle',
  );
  if (copies === null) return;
  const owner = newOwner(state);
  state.device.truncate(request.id, full);
  const from = state.device.table(request.id).slice(found);
  state.device.rename(request.id, owner);
  state.device.hold(owner, found, full);
  const part: FlightPart = { owner, request: null, from: found, copies, release: true };
  state.outgoingBlocks += state.device.table(owner).length;
  const plan = takeOff(state, 'mirror', from, blocksOf(copies), [part]);
  for (const copy of copies) state.copies.unpin(copy); // the transfer pins them from now on
  acts.moves.push({ type: 'mirror', ids: [request.id], ...plan });
}

export function blocksOf(copies: readonly Copy[]): number[] {
  return copies.map((copy) => copy.block);
}

/** What landed is true now; `settled` and endings are the caller's. */
export function land(state: State, flight: Flight): void {
  if (flight.type === 'mirror' || flight.type === 'swapOut') for (const { copies } of flight.parts) state.copies.land(copies);
  for (const part of flight.parts) {
    if (flight.type === 'swapOut') joinResident(state, part);
    else if (part.release) state.device.release(part.owner);
  }
}

/** Blocks that were sent are the request's again until room is needed; or free. */
function joinResident(state: State, { owner, request, copies }: FlightPart): void {
  const { device } = state;
  const before = request === null ? 0 : request.copies.length - copies.length;
  const stays = request !== null && state.limits.mechanism.partial && device.table(request.id).length === before;
  if (!stays) return void device.release(owner);
  if (before === 0) device.rename(owner, request.id);
  else device.join(owner, request.id);
  state.residents.set(request, device.table(request.id).length);
}

/** A copy that failed may have written anything: the side it wrote to is given up. Ends and recomputes are the caller's. */
export function crash(state: State, flight: Flight): void {
  for (const { owner, request, from, copies, release } of flight.parts) {
    if (request !== null) request.suspect = true;
    if (flight.type === 'mirror' || flight.type === 'swapOut') {
      if (request !== null) request.copies.length -= copies.length;
      for (const copy of copies) copy.users = 0;
      state.copies.drop(copies);
      if (flight.type === 'swapOut' || release) state.device.release(owner);
    } else if (release) {
      state.device.release(owner);
    } else {
      state.device.truncate(owner, from);
      if (request !== null && state.residents.has(request)) state.residents.set(request, from);
    }
  }
}
