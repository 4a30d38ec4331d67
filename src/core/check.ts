/**
 * The laws of the state. Checked after every event in tests, when idle in production.
 *
 * Both memories conserve their blocks; a request holds blocks only where its phase says so; lists and phases agree; what
 * is in flight is held; nothing is left behind when no request lives; work never stands still.
 */
import { blocksFor, fullBlocks, knownTokens, type Request, type State } from './state.js';

/** Throws an Error naming the first broken law. */
export function checkState(state: State): void {
  state.device.checkIntegrity();
  state.host.checkIntegrity();
  state.copies.checkIntegrity();
  state.warm.checkIntegrity();
  const counted = { queued: 0, swapped: 0, active: 0, leaving: 0, arriving: 0, device: state.warm.blocks };
  for (const request of state.requests.values()) {
    counted.device += state.device.table(request.id).length;
    checkRequest(state, request);
    if (request.phase === 'queued') counted.queued += 1;
    else if (request.phase === 'swapped') counted.swapped += 1;
    else if (request.phase === 'swapping-out') counted.leaving += 1;
    else if (request.phase === 'swapping-in') counted.arriving += 1;
    else if (request.phase === 'prefilling' || request.phase === 'decoding') counted.active += 1;
  }
  let outgoing = 0;
  for (const { type, blocks, parts } of state.flights.values()) {
    if (type === 'swapOut') outgoing += blocks;
    for (const { owner, request, copies, release } of parts) {
      if (owner !== request?.id && !state.warm.has(owner)) counted.device += state.device.table(owner).length;
      if (release) outgoing += state.device.table(owner).length;
      if (state.device.heldTo(owner) === 0) throw new Error(`blocks of ${owner} are in a transfer and not held`);
      for (const copy of copies)
        if (copy.pins < 1 || copy.chain === null) throw new Error(`a copy of ${owner} is in a transfer and not pinned`);
    }
  }
  expectEqual('queued', counted.queued, state.queued.length);
  expectEqual('swapped', counted.swapped, state.swapped.length);
  expectEqual('active', counted.active, state.active.length);
  expectEqual('leaving', counted.leaving, state.leaving.length);
  expectEqual('arriving', counted.arriving, state.arriving);
  expectEqual('device blocks on their way out', outgoing, state.outgoingBlocks);
  expectEqual('transfers', state.flights.size, state.inFlight.out + state.inFlight.in);
  expectEqual('device blocks that have an owner', counted.device, state.device.total - state.device.free);
  for (const request of state.residents.requests())
    if (!state.requests.has(request.id)) throw new Error(`request ${request.id} is gone and resident`);
  for (const transfer of state.awaited)
    if (!state.flights.has(transfer)) throw new Error(`transfer ${transfer} is awaited and not in flight`);
  if (state.requests.size > 0 && state.step === 0 && state.flights.size === 0) {
    throw new Error(`${state.requests.size} requests live, but no step and no transfer is in flight: nothing will ever happen`);
  }
}

function checkRequest(state: State, request: Request): void {
  const { id, phase, computed } = request;
  const device = state.device.table(id).length;
  const host = request.copies.length;
  const need = blocksFor(computed);
  const offDevice = phase === 'swapped' || phase === 'swapping-out';
  if (request.names.length !== fullBlocks(knownTokens(request)))
    throw new Error(`request ${id} has ${request.names.length} names`);
  if (phase === 'queued' && (device > 0 || host > 0))
    throw new Error(`request ${id} is queued and holds ${device} and ${host} blocks`);
  if ((phase === 'prefilling' || phase === 'decoding') && device < need)
    throw new Error(`request ${id} has ${computed} tokens computed in ${device} device blocks`);
  if (offDevice && host !== need) throw new Error(`request ${id} has ${computed} tokens computed in ${host} host blocks`);
  if (state.residents.blocksOf(request) !== (offDevice ? device : 0))
    throw new Error(`request ${id} is ${phase} with ${device} device blocks and ${offDevice ? 'not ' : ''}resident`);
  if (phase === 'swapped' || phase.startsWith('swapping')) {
    for (const copy of request.copies)
      if (copy.pins < 1) throw new Error(`request ${id} is ${phase} and a copy of its is not pinned`);
  }
  if (request.stepping && state.step === 0) throw new Error(`request ${id} is in a step, but none is in flight`);
  if (request.flight !== null && !state.flights.has(request.flight.transfer))
    throw new Error(`the transfer of request ${id} is not in flight`);
  if (phase.startsWith('swapping') && request.flight === null) throw new Error(`request ${id} is ${phase} in no transfer`);
  if (computed > knownTokens(request)) throw new Error(`request ${id} has more tokens computed than known`);
  if (request.ending !== null && !request.stepping && !phase.startsWith('swapping'))
    throw new Error(`request ${id} should have ended`);
}

function expectEqual(what: string, counted: number, recorded: number): void {
  if (counted !== recorded) throw new Error(`${what}: counted ${counted}, recorded ${recorded}`);
}
