/**
 * What the core knows: the live requests, the two memories, what is in flight. Data and its invariants; decisions are
 * in `scheduler.ts` (events) and `placement.ts` (rank and room).
 */
import { BlockMemory } from './blocks.js';
import { BLOCK_TOKENS } from './config.js';
import { insertRanked, POLICIES, type Policy, removeRanked } from './fairness.js';
import type { Arrival, Effect, Outcome, Phase, PolicyName, RequestId, StepId, TransferId } from './types.js';

export interface Request {
  readonly id: RequestId;
  readonly promptTokens: number;
  readonly maxTokens: number;
  priority: number;
  phase: Phase;
  /** Where a swapped request goes on. */
  resumeAs: 'prefilling' | 'decoding';
  /** Tokens sampled so far. */
  generated: number;
  /** Tokens whose KV exists, on the device (running) or the host (swapped). */
  computed: number;
  /** In the step that is in flight: its device blocks are being read and written. */
  stepping: boolean;
  /** How it will end once the step or transfer that holds it has come back. */
  ending: Outcome | null;
}

export interface Limits {
  readonly policy: PolicyName;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly maxBatchTokens: number;
  readonly maxRunning: number;
  readonly maxQueued: number;
}

export interface State {
  readonly limits: Limits;
  readonly policy: Policy;
  readonly requests: Map<RequestId, Request>;
  /** Those who wait, in rank order: with no KV, and with KV on the host. */
  readonly queued: Request[];
  readonly swapped: Request[];
  /** Running, in rank order. */
  readonly active: Request[];
  /** Swapping out or in, by transfer. */
  readonly moving: Map<TransferId, Request>;
  readonly device: BlockMemory;
  readonly host: BlockMemory;
  /** The step in flight, 0 if none. */
  step: StepId;
  steps: StepId;
  transfers: TransferId;
  draining: boolean;
}

export function createState(limits: Limits): State {
  return {
    limits,
    policy: POLICIES[limits.policy],
    requests: new Map(),
    queued: [],
    swapped: [],
    active: [],
    moving: new Map(),
    device: new BlockMemory(limits.deviceBlocks),
    host: new BlockMemory(limits.hostBlocks),
    step: 0,
    steps: 0,
    transfers: 0,
    draining: false,
  };
}

/** Effects of one decision, in the order in which they are performed: the step is launched before copies are. */
export interface Acts {
  readonly before: Effect[];
  step: Effect | null;
  readonly moves: Effect[];
}

/** Tokens of a request that are known: prompt and generated. One more than `computed` while it decodes. */
export function knownTokens(request: Request): number {
  return request.promptTokens + request.generated;
}

export function blocksFor(tokens: number): number {
  return Math.ceil(tokens / BLOCK_TOKENS);
}

export function newRequest(arrival: Arrival): Request {
  return {
    id: arrival.id,
    promptTokens: arrival.promptTokens,
    maxTokens: arrival.maxTokens,
    priority: arrival.priority,
    phase: 'queued',
    resumeAs: 'prefilling',
    generated: 0,
    computed: 0,
    stepping: false,
    ending: null,
  };
}

/** How many wait: queued and swapped. */
export function waitingCount(state: State): number {
  return state.queued.length + state.swapped.length;
}

/** A newcomer joins those who wait. */
export function adopt(state: State, request: Request): void {
  state.requests.set(request.id, request);
  insertRanked(state.queued, request, state.policy);
}

/** The list a phase lives in; requests of a transfer are in `moving`. */
function listOf(state: State, phase: Phase): Request[] | null {
  if (phase === 'queued') return state.queued;
  if (phase === 'swapped') return state.swapped;
  if (phase === 'prefilling' || phase === 'decoding') return state.active;
  return null;
}

/** Moves a request to another phase, and so to the list of that phase. */
export function enter(state: State, request: Request, phase: Phase): void {
  const from = listOf(state, request.phase);
  const to = listOf(state, phase);
  if (from !== to) {
    if (from !== null) removeRanked(from, request, state.policy);
    if (to !== null) insertRanked(to, request, state.policy);
  }
  request.phase = phase;
}

/** Changes what the rank is made of, keeping the lists in order. */
export function rerank(state: State, request: Request, priority: number): void {
  const list = listOf(state, request.phase);
  if (list !== null) removeRanked(list, request, state.policy);
  request.priority = priority;
  if (list !== null) insertRanked(list, request, state.policy);
}

/**
 * Throws an Error naming the first broken law. After every event in tests, when idle in production.
 *
 * The laws: both memories conserve their blocks; a request holds blocks only where its phase says so; lists and phases
 * agree; what is in flight is held; nothing is left behind when no request lives; work never stands still.
 */
export function checkState(state: State): void {
  state.device.checkIntegrity();
  state.host.checkIntegrity();
  const counted = { queued: 0, swapped: 0, active: 0, moving: 0, device: 0, host: 0 };
  for (const request of state.requests.values()) {
    const device = state.device.table(request.id).length;
    const host = state.host.table(request.id).length;
    counted.device += device;
    counted.host += host;
    checkRequest(request, device, host);
    const list = listOf(state, request.phase);
    if (list === state.queued) counted.queued += 1;
    else if (list === state.swapped) counted.swapped += 1;
    else if (list === state.active) counted.active += 1;
    else counted.moving += 1;
    if (request.stepping && state.step === 0) throw new Error(`request ${request.id} is in a step, but none is in flight`);
  }
  expectEqual('queued', counted.queued, state.queued.length);
  expectEqual('swapped', counted.swapped, state.swapped.length);
  expectEqual('active', counted.active, state.active.length);
  expectEqual('moving', counted.moving, state.moving.size);
  expectEqual('device blocks held by live requests', counted.device, state.device.total - state.device.free);
  expectEqual('host blocks held by live requests', counted.host, state.host.total - state.host.free);
  if (state.requests.size > 0 && state.step === 0 && state.moving.size === 0) {
    throw new Error(`${state.requests.size} requests live, but no step and no transfer is in flight: nothing will ever happen`);
  }
}

function checkRequest(request: Request, device: number, host: number): void {
  const { id, phase, computed } = request;
  const onDevice = phase === 'prefilling' || phase === 'decoding' || phase === 'swapping-out' || phase === 'swapping-in';
  const onHost = phase === 'swapped' || phase === 'swapping-out' || phase === 'swapping-in';
  if (onDevice !== device > 0) throw new Error(`request ${id} is ${phase} and holds ${device} device blocks`);
  if (onHost !== host > 0) throw new Error(`request ${id} is ${phase} and holds ${host} host blocks`);
  if (onDevice && device < blocksFor(computed))
    throw new Error(`request ${id} has ${computed} tokens computed in ${device} device blocks`);
  if (onHost && host !== blocksFor(computed))
    throw new Error(`request ${id} has ${computed} tokens computed in ${host} host blocks`);
  if (computed > knownTokens(request)) throw new Error(`request ${id} has more tokens computed than known`);
  if (request.ending !== null && !request.stepping && !phase.startsWith('swapping'))
    throw new Error(`request ${id} should have ended`);
}

function expectEqual(what: string, counted: number, recorded: number): void {
  if (counted !== recorded) throw new Error(`${what}: counted ${counted}, recorded ${recorded}`);
}
