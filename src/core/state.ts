/**
 * What the core knows: the live requests, the two memories, what is in flight. Data, its elementary changes, its
 * invariants; decisions are in `scheduler.ts` (events) and `placement.ts` (rank and room).
 */
import { type Account, Accounts } from './accounts.js';
import { BlockMemory } from './blocks.js';
import { BLOCK_TOKENS } from './config.js';
import { CostModel, type StepFeatures } from './cost.js';
import { insertRanked, type Policy, type Quantum, removeRanked } from './fairness.js';
import { policyOf } from './policies.js';
import type { Mechanism } from './presets.js';
import { Residents } from './residents.js';
import { type Copy, HostCopies } from './reuse.js';
import type {
  Arrival,
  BlockName,
  Deadlines,
  Effect,
  Micros,
  Outcome,
  Phase,
  PolicyName,
  RequestId,
  StepId,
  TransferId,
} from './types.js';
import { WarmBlocks } from './warm.js';

export interface Request {
  readonly id: RequestId;
  readonly promptTokens: number;
  readonly maxTokens: number;
  readonly account: Account;
  readonly arrivedAt: Micros;
  priority: number;
  deadlines: Deadlines;
  level: number;
  levelMicros: Micros;
  waitingSince: Micros;
  tag: number;
  place: number;
  paid: number;
  due: Micros;
  lifted: boolean;
  liftedMicros: Micros;
  servedAt: Micros;
  firstTokenAt: Micros;
  /** When it last came onto the device, and when it last began to decode. */
  deviceSince: Micros;
  decodingSince: Micros;
  phase: Phase;
  /** Where a swapped request goes on. */
  resumeAs: 'prefilling' | 'decoding';
  /** It was admitted before. */
  admitted: boolean;
  /** Tokens sampled so far. */
  generated: number;
  /** Tokens whose KV exists: on the device (running), or in the two memories together (swapped). */
  computed: number;
  /** Of the full blocks of all its known tokens. */
  readonly names: BlockName[];
  /** Its copies on the host, from position 0 on. Pinned while it is off the device, else evicted from the end at will. */
  copies: Copy[];
  /** In the step that is in flight: its device blocks are being read and written. */
  stepping: boolean;
  /** The transfer in flight that touches its blocks; one at a time. */
  flight: Flight | null;
  /** A copy of its has failed: no more is copied that could as well be computed. */
  suspect: boolean;
  /** How it will end once the step or transfer that holds it has come back. */
  ending: Outcome | null;
}

/** Device blocks that a transfer touches, under the owner that holds them. */
export interface FlightPart {
  owner: number;
  /** Null: the request has ended meanwhile, or before. */
  request: Request | null;
  /** Position in the owner's table of the first block it touches. */
  readonly from: number;
  /** Host copies it reads or writes, one for each of these blocks; pinned by it. */
  readonly copies: readonly Copy[];
  /** Nobody wants the device blocks any more: they are released when it lands. */
  release: boolean;
}

export interface Flight {
  readonly transfer: TransferId;
  readonly type: 'swapOut' | 'swapIn' | 'mirror' | 'prefetch';
  readonly runs: number;
  readonly blocks: number;
  readonly parts: readonly FlightPart[];
  /** When it was decided, and when it is expected to land. */
  readonly since: Micros;
  readonly dueAt: Micros;
}

export interface Limits {
  readonly policy: PolicyName;
  readonly mechanism: Mechanism;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly blockBytes: number;
  readonly maxBatchTokens: number;
  readonly maxRunning: number;
  readonly maxQueued: number;
}

export interface State {
  readonly limits: Limits;
  readonly policy: Policy;
  readonly cost: CostModel;
  readonly requests: Map<RequestId, Request>;
  readonly accounts: Accounts;
  /** Those who wait, in rank order: to be computed (again), and with their KV on the host. */
  readonly queued: Request[];
  readonly swapped: Request[];
  /** Running, in rank order. */
  readonly active: Request[];
  readonly flights: Map<TransferId, Flight>;
  /** How many in each direction. */
  readonly inFlight: { out: number; in: number };
  /** Of these, the ones that nobody waits for: mirrors and prefetches. */
  readonly ahead: Set<Flight>;
  /** Swapping out, in rank order; how many swap in; device blocks that will be free when transfers land. */
  readonly leaving: Request[];
  arriving: number;
  outgoingBlocks: number;
  readonly device: BlockMemory;
  readonly host: BlockMemory;
  readonly copies: HostCopies;
  readonly warm: WarmBlocks;
  /** Swapped (or about to be), with blocks that are still on the device: theirs until room is needed. */
  readonly residents: Residents;
  /** Blocks that those who decode will need soon, as `room.ts` counts them; null: to be counted anew. */
  soonBlocks: number | null;
  /** Transfers that the next step waits for. */
  readonly awaited: Set<TransferId>;
  /** A mirror in flight kept somebody from being preempted: no other is started until the next step ends. */
  heldUp: boolean;
  /** Somebody was swapped out since the last step was launched. */
  leftSinceStep: boolean;
  /** The step in flight, 0 if none; what is in it; when it is expected back. */
  step: StepId;
  stepFeatures: StepFeatures;
  stepDueAt: Micros;
  /** What the last step took. */
  stepMicros: Micros;
  /** Somebody has ended since ranks were made. */
  unranked: boolean;
  /** How far ranks have to be apart. */
  quantum: Quantum;
  /** Most prompt tokens in a step in which others decode, where chunks are balanced. */
  chunkTokens: number;
  steps: StepId;
  transfers: TransferId;
  /** Owners of device blocks that are no request: counted down from 0. */
  owners: number;
  /** When each direction of the link is expected to be idle. */
  readonly linkFreeAt: { out: Micros; in: Micros };
  /** Of the event that is being decided on. */
  now: Micros;
  draining: boolean;
}

/** Before anything is known of the machine: a block. */
const QUANTUM_TOKENS = 16;

export function createState(limits: Limits): State {
  const device = new BlockMemory(limits.deviceBlocks);
  const host = new BlockMemory(limits.hostBlocks);
  const accounts = new Accounts();
  return {
    limits,
    policy: policyOf(limits.policy, limits, accounts),
    cost: new CostModel(),
    requests: new Map(),
    accounts,
    queued: [],
    swapped: [],
    active: [],
    flights: new Map(),
    inFlight: { out: 0, in: 0 },
    ahead: new Set(),
    leaving: [],
    arriving: 0,
    outgoingBlocks: 0,
    device,
    host,
    copies: new HostCopies(host),
    warm: new WarmBlocks(device),
    residents: new Residents(),
    soonBlocks: null,
    awaited: new Set(),
    heldUp: false,
    leftSinceStep: false,
    step: 0,
    stepFeatures: { prefillTokens: 0, decodeSequences: 0, contextTokens: 0 },
    stepDueAt: 0,
    stepMicros: 0,
    unranked: false,
    quantum: { tokens: Math.min(QUANTUM_TOKENS, limits.mechanism.quantumTokens), micros: 0 },
    chunkTokens: limits.maxBatchTokens,
    steps: 0,
    transfers: 0,
    owners: 0,
    linkFreeAt: { out: 0, in: 0 },
    now: 0,
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

/** Blocks that `tokens` fill to the end. */
export function fullBlocks(tokens: number): number {
  return Math.floor(tokens / BLOCK_TOKENS);
}

/** A name for device blocks that belong to no request. */
export function newOwner(state: State): number {
  state.owners -= 1;
  return state.owners;
}

/** How many wait: queued and swapped. */
export function waitingCount(state: State): number {
  return state.queued.length + state.swapped.length;
}

/** A newcomer joins those who wait. */
export function adopt(state: State, arrival: Arrival): void {
  const account = state.accounts.open(arrival.tenant, arrival.weight);
  const request: Request = {
    id: arrival.id,
    promptTokens: arrival.promptTokens,
    maxTokens: arrival.maxTokens,
    account,
    arrivedAt: state.now,
    priority: arrival.priority,
    deadlines: { ttftMicros: arrival.ttftMicros, tbtMicros: arrival.tbtMicros },
    level: 0,
    levelMicros: 0,
    waitingSince: state.now,
    tag: 0,
    place: 0,
    paid: 0,
    due: 0,
    lifted: false,
    liftedMicros: 0,
    servedAt: state.now,
    firstTokenAt: -1,
    deviceSince: state.now,
    decodingSince: state.now,
    phase: 'queued',
    resumeAs: 'prefilling',
    admitted: false,
    generated: 0,
    computed: 0,
    names: arrival.names.slice(),
    copies: [],
    stepping: false,
    flight: null,
    suspect: false,
    ending: null,
  };
  const { accounting } = state.policy;
  if (accounting !== null) {
    const features = { prefillTokens: arrival.promptTokens, decodeSequences: 0, contextTokens: arrival.promptTokens };
    accounting.arrived(request, state.cost.predictStep(features));
    rank(state);
  }
  account.waiting += 1;
  state.requests.set(request.id, request);
  insertRanked(state.queued, request, state.policy);
}

/** It has ended: nobody's any more. */
export function forget(state: State, request: Request): void {
  const { accounting } = state.policy;
  state.requests.delete(request.id);
  if (accounting !== null) {
    accounting.ended(request);
    state.unranked = true;
  }
  state.accounts.close(request.account, accounting?.remembers ?? false);
}

/** Off the device, or on its way out. */
function isWaiting(phase: Phase): boolean {
  return phase === 'queued' || phase === 'swapped' || phase === 'swapping-out';
}

/** The list a phase lives in; those that swap in are in none. */
function listOf(state: State, phase: Phase): Request[] | null {
  if (phase === 'queued') return state.queued;
  if (phase === 'swapped') return state.swapped;
  if (phase === 'prefilling' || phase === 'decoding') return state.active;
  if (phase === 'swapping-out') return state.leaving;
  return null;
}

/** Moves a request to another phase, and so to the list of that phase. */
export function enter(state: State, request: Request, phase: Phase): void {
  const from = listOf(state, request.phase);
  const to = listOf(state, phase);
  if (from !== to) {
    if (from !== null) removeRanked(from, request, state.policy);
    if (to !== null) insertRanked(to, request, state.policy);
    if (from === state.active) request.waitingSince = state.now;
  }
  if (from !== to && to === state.active) request.deviceSince = state.now;
  if (phase === 'decoding') request.decodingSince = state.now;
  if (isWaiting(request.phase)) request.account.waiting -= 1;
  if (isWaiting(phase)) request.account.waiting += 1;
  if (from === state.active || to === state.active) state.soonBlocks = null;
  if (request.phase === 'swapping-in') state.arriving -= 1;
  if (phase === 'swapping-in') state.arriving += 1;
  request.phase = phase;
}

/** Changes what the rank is made of, keeping the lists in order. */
export function rerank(state: State, request: Request, priority: number): void {
  const list = listOf(state, request.phase);
  if (list !== null) removeRanked(list, request, state.policy);
  request.priority = priority;
  if (list !== null) insertRanked(list, request, state.policy);
}

/** Ranks are made anew of what was noted, and the lists sorted by them. */
export function rank(state: State): void {
  state.unranked = false;
  state.policy.accounting?.rank(state.quantum);
  for (const list of [state.queued, state.swapped, state.active, state.leaving]) list.sort(state.policy.compare);
}
