/**
 * What a board shows, from the state of the core and the folds that remember what a state does not. Linear in the requests
 * and in the blocks of the two memories; made only for who asks.
 */
import {
  type BoardFrame,
  type BoardKind,
  type BoardMemory,
  type BoardRange,
  type BoardReading,
  type BoardRequest,
  type BoardTenant,
  type BoardTotals,
  type BoardTransfer,
  TENANTS_MAX,
} from './board.js';
import { directionOf } from './flights.js';
import type { Glance, MetricsSnapshot } from './metrics.js';
import { blocksFor, type Flight, type Request, type State } from './state.js';
import type { TenantCount } from './tenants.js';
import type { Micros, PolicyName, RequestId } from './types.js';

/** What has been seen of the run so far. */
export interface Seen {
  readonly at: Micros;
  readonly record: number;
  readonly server: BoardFrame['server'];
  readonly metrics: MetricsSnapshot;
  readonly transitions: Readonly<Record<string, number>>;
  readonly tenants: readonly TenantCount[];
  glance(id: RequestId): Glance;
}

const MICROS_PER_SECOND = 1e6;

/** `maps`: the two memories are drawn too. The event loop's delay is not the core's to know. */
export function frameOf(state: State, seen: Seen, maps: boolean): BoardReading {
  const { metrics, at } = seen;
  const { ttftSeconds, tbtSeconds, stepSeconds } = metrics;
  const rows: BoardRequest[] = [];
  let stepping = 0;
  for (const request of state.requests.values()) {
    rows.push(rowOf(state, request, seen.glance(request.id)));
    if (request.stepping) stepping += 1;
  }
  return {
    at,
    record: seen.record,
    server: seen.server,
    requests: rows,
    counts: metrics.requestsByPhase,
    outcomes: metrics.finishedByOutcome,
    transitions: seen.transitions,
    stepping,
    device: maps ? deviceMap(state, at) : null,
    host: maps ? hostMap(state, at) : null,
    transfers: [...state.flights.values()].map(transferOf),
    totals: totalsOf(metrics),
    ...{ ttftSeconds, tbtSeconds, stepSeconds },
    tenants: tenantsOf(rows, seen.tenants),
    loopDelaySeconds: null,
  };
}

const RANKS: Readonly<Record<PolicyName, (request: Request) => number | null>> = {
  fcfs: ({ id }) => id,
  priority: ({ priority }) => priority,
  vtc: ({ account }) => account.served,
  fair: ({ tag }) => tag,
  mlfq: ({ level }) => level,
  edf: ({ due }) => (due === Number.POSITIVE_INFINITY ? null : due / MICROS_PER_SECOND),
};

/** As `BoardRequest.rank`. */
export function rankOf({ limits }: State, request: Request): number | null {
  return RANKS[limits.policy](request);
}

/** Written out: a literal is several times cheaper than spreading another. */
function rowOf(state: State, request: Request, { label, arrivedAt, since, preemptions }: Glance): BoardRequest {
  const { id, phase, priority, promptTokens, generated, maxTokens, computed, copies, account, ending } = request;
  let hostBlocks = copies.length;
  while (hostBlocks > 0 && copies[hostBlocks - 1]?.chain === null) hostBlocks -= 1; // evicted, from the last on
  return {
    id,
    label,
    tenant: account.tenant,
    phase,
    since,
    arrivedAt,
    rank: rankOf(state, request),
    priority,
    promptTokens,
    generated,
    maxTokens,
    computed,
    deviceBlocks: state.device.table(id).length,
    hostBlocks,
    preemptions,
    ending: ending !== null,
  };
}

function transferOf({ transfer, type, parts, blocks, runs, since }: Flight): BoardTransfer {
  const ids = parts.flatMap(({ request }) => (request === null ? [] : [request.id]));
  return { transfer, kind: type, direction: directionOf(type), ids, blocks, runs, since };
}

function totalsOf(metrics: MetricsSnapshot): BoardTotals {
  const micros = (seconds: number) => Math.round(seconds * MICROS_PER_SECOND);
  const { transferSeconds, stepSeconds, stepGapSeconds, transfers, steps, generatedTokens, preemptions } = metrics;
  return {
    bytes: metrics.transferBytes,
    copyMicros: { out: micros(transferSeconds.out), in: micros(transferSeconds.in) },
    runs: metrics.transferRuns,
    stepMicros: micros(stepSeconds.sum),
    gapMicros: micros(stepGapSeconds.sum),
    prefillTokens: metrics.prefillTokensComputed,
    decodeTokens: metrics.decodeTokensComputed,
    ...{ transfers, steps, generatedTokens, preemptions },
  };
}

function tenantsOf(rows: readonly BoardRequest[], counts: readonly TenantCount[]): BoardTenant[] {
  const waiting = new Map<string, number>();
  for (const { tenant, phase } of rows) {
    if (phase === 'queued' || phase === 'swapped') waiting.set(tenant, (waiting.get(tenant) ?? 0) + 1);
  }
  const shown =
    counts.length <= TENANTS_MAX
      ? counts
      : [...counts].sort((a, b) => b.live - a.live || b.generatedTokens - a.generatedTokens).slice(0, TENANTS_MAX);
  return shown
    .map(({ tenant, live, generatedTokens }) => ({ tenant, live, waiting: waiting.get(tenant) ?? 0, generatedTokens }))
    .sort((a, b) => (a.tenant < b.tenant ? -1 : 1));
}

/** A memory in the making: every block has the number of a label, 0 for nobody's. */
class Canvas {
  readonly #cells: Int32Array;
  readonly #labels: (readonly [owner: RequestId, kind: BoardKind])[] = [[0, 'kept']];

  constructor(blocks: number) {
    this.#cells = new Int32Array(blocks);
  }

  label(owner: RequestId, kind: BoardKind): number {
    return this.#labels.push([owner, kind]) - 1;
  }

  isBlank(block: number): boolean {
    return this.#cells[block] === 0;
  }

  paint(block: number, label: number): void {
    this.#cells[block] = label;
  }

  /** What was painted, of a memory of which so many blocks are free. */
  memory(at: Micros, free: number): BoardMemory {
    const ranges: BoardRange[] = [];
    const cells = this.#cells;
    let [freeRanges, longestFree, reserved] = [0, 0, free];
    for (let from = 0; from < cells.length; ) {
      const cell = cells[from] as number;
      const [owner, kind] = this.#labels[cell] as readonly [RequestId, BoardKind];
      let to = from + 1;
      while (to < cells.length && this.#alike(cell, cells[to] as number)) to += 1;
      if (cell === 0) {
        freeRanges += 1;
        reserved -= to - from;
        longestFree = Math.max(longestFree, to - from);
      } else ranges.push([from, to - from, owner, kind]);
      from = to;
    }
    return { at, total: cells.length, free, reserved, ranges, freeRanges, longestFree };
  }

  #alike(a: number, b: number): boolean {
    if (a === b) return true;
    if (a === 0 || b === 0) return false;
    const [one, other] = [this.#labels[a], this.#labels[b]];
    return one?.[0] === other?.[0] && one?.[1] === other?.[1];
  }
}

function deviceMap(state: State, at: Micros): BoardMemory {
  const { device, requests, warm } = state;
  const canvas = new Canvas(device.total);
  // Blocks on their way out are held under owners of their own.
  const movers = new Map<number, RequestId>();
  for (const { parts } of state.flights.values())
    for (const { owner, request } of parts) if (request !== null) movers.set(owner, request.id);
  for (const [owner, { table, tail, heldFrom, heldTo }] of device.holdings()) {
    const request = requests.get(owner);
    const id = request?.id ?? movers.get(owner) ?? 0;
    const filled = request === undefined ? table.length : blocksFor(request.computed);
    const used = canvas.label(id, warm.has(owner) ? 'kept' : 'used');
    const moving = heldTo > 0 ? canvas.label(id, 'moving') : 0;
    const empty = filled < table.length || tail > 0 ? canvas.label(id, 'tail') : 0;
    for (let position = 0; position < table.length; position += 1) {
      const held = heldFrom <= position && position < heldTo;
      canvas.paint(table[position] as number, held ? moving : position < filled ? used : empty);
    }
    const end = (table[table.length - 1] as number) + 1;
    for (let block = end; block < end + tail; block += 1) canvas.paint(block, empty);
  }
  return canvas.memory(at, device.free);
}

function hostMap({ host, requests, flights }: State, at: Micros): BoardMemory {
  const canvas = new Canvas(host.total);
  const [kept, shared, reserved] = [canvas.label(0, 'kept'), canvas.label(0, 'used'), canvas.label(0, 'tail')];
  for (const { id, copies } of requests.values()) {
    if (copies.length === 0) continue;
    const used = canvas.label(id, 'used');
    for (const { block, chain } of copies) if (chain !== null) canvas.paint(block, canvas.isBlank(block) ? used : shared);
  }
  for (const { parts } of flights.values()) {
    for (const { request, copies } of parts) {
      const moving = canvas.label(request?.id ?? 0, 'moving');
      for (const { block } of copies) canvas.paint(block, moving);
    }
  }
  // What is there and nobody's was left by those who have ended.
  for (const [, { table, tail }] of host.holdings()) {
    for (const block of table) if (canvas.isBlank(block)) canvas.paint(block, kept);
    const end = (table[table.length - 1] as number) + 1;
    for (let block = end; block < end + tail; block += 1) canvas.paint(block, reserved);
  }
  return canvas.memory(at, host.free);
}
