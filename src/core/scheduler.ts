/**
 * decide(state, event) -> effects: the only file that branches over every event. It brings the state up to date with
 * what has happened, then lets placement decide what to do about it.
 *
 * Pure in the sense that matters: no clock, no randomness, no I/O. The same events give the same effects.
 */
import { crash, directionOf, land, leaveCopies, leaveDevice, recompute, save, touchDown, unpinCopies } from './flights.js';
import { balanceChunks } from './launch.js';
import { place } from './placement.js';
import {
  type Acts,
  adopt,
  blocksFor,
  enter,
  type Flight,
  forget,
  type Request,
  rank,
  rerank,
  type State,
  waitingCount,
} from './state.js';
import type { AbortReason, Effect, EmittedToken, Event, Outcome, SteppedItem } from './types.js';
import { nextQuantum } from './worth.js';

type EventOf<T extends Event['type']> = Extract<Event, { type: T }>;

/** Takes in one outside event and returns what to do now, in order. Changes `state` in place. */
export function decide(state: State, event: Event): Effect[] {
  const acts: Acts = { before: [], step: null, moves: [] };
  state.now = event.at;
  apply(state, event, acts);
  if (state.unranked) rank(state); // somebody's place in a line was taken by those behind
  place(state, acts, event.type === 'landed' || event.type === 'transferFailed');
  if (acts.step !== null) acts.before.push(acts.step);
  return acts.moves.length === 0 ? acts.before : acts.before.concat(acts.moves);
}

function apply(state: State, event: Event, acts: Acts): void {
  switch (event.type) {
    case 'arrived':
      return arrived(state, event, acts);
    case 'aborted':
      return aborted(state, event, acts);
    case 'stepped':
      return stepped(state, event, acts);
    case 'stepFailed':
      return stepFailed(state, event, acts);
    case 'landed':
      return landed(state, event, acts);
    case 'transferFailed':
      return transferFailed(state, event, acts);
    case 'reprioritized':
      return reprioritized(state, event);
    case 'reweighted':
      return reweighted(state, event);
    case 'draining':
      state.draining = true;
      return;
  }
}

/** One by one where they are few; a whole reshuffle is cheaper sorted at once. */
function reprioritized(state: State, { items }: EventOf<'reprioritized'>): void {
  const few = state.policy.accounting === null && items.length < state.requests.size / 16;
  for (const { id, priority, deadlines } of items) {
    const request = state.requests.get(id);
    if (request === undefined) continue;
    request.deadlines = deadlines ?? request.deadlines;
    if (few) rerank(state, request, priority);
    else request.priority = priority;
  }
  if (!few) rank(state);
}

/** What was served stays as it was counted; the weight counts from now on. */
function reweighted(state: State, { tenant, weight }: EventOf<'reweighted'>): void {
  requireWeight(tenant, weight);
  const account = state.accounts.get(tenant);
  if (account === undefined || account.live === 0) return;
  account.weight = weight;
  rank(state);
}

function requireWeight(tenant: string, weight: number): void {
  if (!(weight > 0 && Number.isFinite(weight))) throw new Error(`the weight of tenant "${tenant}" is ${weight}`);
}

function arrived(state: State, event: EventOf<'arrived'>, acts: Acts): void {
  if (state.requests.has(event.id)) throw new Error(`request ${event.id} arrived twice`);
  if (event.promptTokens < 1 || event.maxTokens < 1) throw new Error(`request ${event.id} has nothing to compute or to generate`);
  requireWeight(event.tenant, event.weight);
  const reject = (code: 'queue_full' | 'draining' | 'too_large') => acts.before.push({ type: 'reject', id: event.id, code });
  if (state.draining) return void reject('draining');
  if (blocksFor(event.promptTokens + event.maxTokens) > state.limits.deviceBlocks) return void reject('too_large');
  if (waitingCount(state) >= state.limits.maxQueued) return void reject('queue_full');
  adopt(state, event);
}

/** Ends a request that no step and no swap holds. What it computed stays where it can be found, unless it failed. */
function finish(state: State, request: Request, outcome: Outcome, error: string | null, acts: Acts): void {
  const sound = outcome !== 'failed';
  if (sound && state.limits.mechanism.finished === 'save') save(state, request, acts);
  leaveCopies(state, request);
  leaveDevice(state, request, sound);
  enter(state, request, 'done');
  forget(state, request);
  acts.before.push({ type: 'finish', id: request.id, outcome, error });
}

function outcomeOf(reason: AbortReason): Outcome {
  return reason === 'stop' ? 'stop' : 'aborted';
}

function aborted(state: State, event: EventOf<'aborted'>, acts: Acts): void {
  const request = state.requests.get(event.id);
  if (request === undefined || request.ending !== null) return; // it has ended, or is about to
  const inFlight = request.stepping || request.phase === 'swapping-out' || request.phase === 'swapping-in';
  if (!inFlight) return finish(state, request, outcomeOf(event.reason), null, acts);
  request.ending = outcomeOf(event.reason);
  acts.before.push({ type: 'ending', id: request.id });
}

/** The requests of the step that came back, no longer held by it. */
function takeStep(state: State, step: number): Request[] {
  if (step !== state.step) throw new Error(`step ${step} came back, but step ${state.step} is in flight`);
  state.step = 0;
  state.soonBlocks = null;
  const requests = state.active.filter((request) => request.stepping);
  for (const request of requests) request.stepping = false;
  return requests;
}

function stepped(state: State, event: EventOf<'stepped'>, acts: Acts): void {
  balanceChunks(state, event.micros);
  state.cost.observeStep(state.stepFeatures, event.micros);
  state.stepMicros = event.micros;
  const inStep = takeStep(state, event.step).length;
  if (inStep !== event.items.length)
    throw new Error(`step ${event.step} held ${inStep} requests and answered for ${event.items.length}`);
  const tokens: EmittedToken[] = [];
  const ended: { request: Request; outcome: Outcome }[] = [];
  const prefilled: Request[] = [];
  for (const item of event.items) {
    const request = state.requests.get(item.id);
    if (request === undefined) throw new Error(`step ${event.step} answered for request ${item.id}, which is not alive`);
    request.computed += item.count;
    if (item.name !== null) request.names.push(item.name);
    if (request.ending !== null) {
      ended.push({ request, outcome: request.ending });
      continue;
    }
    if (item.token < 0) continue;
    if (request.phase === 'prefilling') prefilled.push(request);
    if (request.firstTokenAt < 0) request.firstTokenAt = event.at;
    const outcome = takeToken(request, item, tokens);
    if (outcome !== null) ended.push({ request, outcome });
  }
  for (const request of prefilled) {
    enter(state, request, 'decoding');
    acts.before.push({ type: 'prefilled', id: request.id });
  }
  if (tokens.length > 0) acts.before.push({ type: 'tokens', items: tokens });
  charge(state, event); // before those who have ended are gone: their last token counts too
  for (const { request, outcome } of ended) finish(state, request, outcome, null, acts);
}

/** Where the policy ranks by service or waiting: the ranks of now. */
function charge(state: State, event: EventOf<'stepped'>): void {
  const { accounting } = state.policy;
  if (accounting === null) return;
  for (const { id, count, token } of event.items) {
    const request = state.requests.get(id);
    if (request === undefined) continue;
    request.servedAt = event.at;
    accounting.served(request, { computed: count, sampled: token < 0 ? 0 : 1, micros: event.micros, now: event.at });
  }
  for (const waiting of [state.queued, state.swapped]) for (const request of waiting) accounting.waited(request, event.at);
  state.quantum = nextQuantum(state);
  rank(state);
}

/** Counts a sampled token; a stop token ends the request and is still emitted, so that the face sees the whole. */
function takeToken(request: Request, item: SteppedItem, tokens: EmittedToken[]): Outcome | null {
  tokens.push({ id: request.id, index: request.generated, token: item.token, logprobs: item.logprobs });
  request.generated += 1;
  if (item.ended) return 'stop';
  return request.generated >= request.maxTokens ? 'length' : null;
}

/** The engine could not compute the batch. Its members fail; everyone else goes on. */
function stepFailed(state: State, event: EventOf<'stepFailed'>, acts: Acts): void {
  for (const request of takeStep(state, event.step)) {
    if (request.ending !== null) finish(state, request, request.ending, null, acts);
    else finish(state, request, 'failed', event.error, acts);
  }
}

/** Whose swap it was: who swaps cannot end before it is over. */
function swappedBy({ transfer, parts }: Flight): Request {
  const request = parts[0]?.request;
  if (request === null || request === undefined) throw new Error(`transfer ${transfer} swapped nobody`);
  return request;
}

function landed(state: State, event: EventOf<'landed'>, acts: Acts): void {
  const flight = touchDown(state, event.transfer);
  state.cost.observeTransfer(directionOf(flight.type), flight.runs, flight.blocks * state.limits.blockBytes, event.micros);
  land(state, flight);
  if (flight.type === 'mirror' || flight.type === 'prefetch') return;
  const request = swappedBy(flight);
  if (flight.type === 'swapOut') {
    enter(state, request, 'swapped');
  } else {
    unpinCopies(state, request);
    enter(state, request, request.resumeAs);
  }
  acts.before.push({ type: 'settled', id: request.id });
  if (request.ending !== null) finish(state, request, request.ending, null, acts);
}

/** Who was being swapped is computed again; what was copied ahead of need was not needed. */
function transferFailed(state: State, event: EventOf<'transferFailed'>, acts: Acts): void {
  const flight = touchDown(state, event.transfer);
  crash(state, flight);
  if (flight.type === 'mirror' || flight.type === 'prefetch') return;
  const request = swappedBy(flight);
  recompute(state, request, { why: 'failed', by: null }, acts);
  if (request.ending !== null) finish(state, request, request.ending, null, acts);
}
