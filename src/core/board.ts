/**
 * What a board shows of one moment, live or from a recording: plain data that crosses from the system to the page. The page
 * shares these types and the two functions that make deltas and apply them.
 */
import type { Histogram } from './metrics.js';
import type { Direction, Micros, Outcome, Phase, RequestId, TransferId } from './types.js';

/** A live request: one row of the table. */
export interface BoardRequest {
  readonly id: RequestId;
  /** What the world calls it; the first of its labels, else ''. */
  readonly label: string;
  readonly tenant: string;
  readonly phase: Phase;
  /** When it entered the phase. */
  readonly since: Micros;
  readonly arrivedAt: Micros;
  /**
   * What the policy compares, lower goes first: the number (`fcfs`), the priority, what its tenant was served (`vtc`), where its
   * tenant's counter will be at its turn (`fair`), the level (`mlfq`), or when its next token is due in seconds of the run
   * (`edf`; null: never). Who starved goes before that for a while.
   */
  readonly rank: number | null;
  readonly priority: number;
  readonly promptTokens: number;
  readonly generated: number;
  readonly maxTokens: number;
  /** Tokens whose KV exists. */
  readonly computed: number;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly preemptions: number;
  /** It is asked to end and waits for what is in flight. */
  readonly ending: boolean;
}

export type BoardKind = 'used' | 'tail' | 'moving' | 'kept';

/**
 * A range of blocks: [from, blocks, owner, kind]. `owner` is the request, 0 for none. Kinds: with KV of its (`used`), its own
 * and still without KV (`tail`: the prompt to come, and what is set aside for its growth), touched by a transfer (`moving`),
 * of ended requests (`kept`: warm blocks on the device, spare copies on the host). What is in no range is free. A host copy
 * of several requests is `used` of owner 0; so is a device block that nobody wants and a transfer has yet to let go.
 * (/metrics also counts as kept the host copies of those who run, since they may be evicted: here they are `used`.)
 */
export type BoardRange = readonly [from: number, blocks: number, owner: RequestId, kind: BoardKind];

/** `total` is `free`, less `reserved`, and the blocks of all ranges. */
export interface BoardMemory {
  /** When it was so: maps are drawn less often than the rest. */
  readonly at: Micros;
  readonly total: number;
  /** As /metrics counts: whoever needs room can have it. */
  readonly free: number;
  /** Of `free`: set aside behind somebody's last block, and so in a `tail`. */
  readonly reserved: number;
  /** In order of `from`, never overlapping; neighbours of one owner and kind are one range. */
  readonly ranges: readonly BoardRange[];
  /** Contiguous ranges that are nobody's, and blocks of the longest. */
  readonly freeRanges: number;
  readonly longestFree: number;
}

export interface BoardTransfer {
  readonly transfer: TransferId;
  readonly kind: 'swapOut' | 'swapIn' | 'mirror' | 'prefetch';
  readonly direction: Direction;
  /** Of those who live; empty where it is for nobody any more. */
  readonly ids: readonly RequestId[];
  readonly blocks: number;
  readonly runs: number;
  /** When it was decided; it may wait for others on the link. */
  readonly since: Micros;
}

/** Sums from the start of the run: whoever looks takes differences. */
export interface BoardTotals {
  readonly bytes: Readonly<Record<Direction, number>>;
  /** The link was copying for so long. */
  readonly copyMicros: Readonly<Record<Direction, Micros>>;
  readonly transfers: Readonly<Record<Direction, number>>;
  readonly runs: Readonly<Record<Direction, number>>;
  readonly steps: number;
  readonly stepMicros: Micros;
  readonly gapMicros: Micros;
  readonly prefillTokens: number;
  readonly decodeTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: Readonly<Record<'swap' | 'recompute', number>>;
}

/** Of more tenants these are shown: those with the most requests alive, then with the most tokens. */
export const TENANTS_MAX = 100;

export interface BoardTenant {
  readonly tenant: string;
  readonly live: number;
  /** Of these: queued or swapped. */
  readonly waiting: number;
  /** Sum from the start; or from when it came back, where it was away for long. */
  readonly generatedTokens: number;
}

export interface BoardFrame {
  readonly at: Micros;
  /** Events taken in so far: the number of the last record, where the run is recorded. */
  readonly record: number;
  readonly server: 'ready' | 'draining' | 'stopped' | 'failed';
  /** Live ones, by number. */
  readonly requests: readonly BoardRequest[];
  /** Live requests by phase; `done`: all that ended. */
  readonly counts: Readonly<Record<Phase, number>>;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  /** How often each way between two phases was gone, from the start: `queued>prefilling`. */
  readonly transitions: Readonly<Record<string, number>>;
  /** Requests in the step in flight; 0: none is. */
  readonly stepping: number;
  readonly device: BoardMemory;
  readonly host: BoardMemory;
  readonly transfers: readonly BoardTransfer[];
  readonly totals: BoardTotals;
  readonly ttftSeconds: Histogram;
  readonly tbtSeconds: Histogram;
  readonly stepSeconds: Histogram;
  /** By name; `TENANTS_MAX` at most. */
  readonly tenants: readonly BoardTenant[];
  /** How late the system's event loop was since the last frame, in seconds: median, P99, worst; null where there is none. */
  readonly loopDelaySeconds: readonly [number, number, number] | null;
}

/** A frame as the system gives it: null where maps were not asked for. */
export type BoardReading = Omit<BoardFrame, 'device' | 'host'> & Readonly<Record<'device' | 'host', BoardMemory | null>>;

/** A request that is new, with all its members; or those members that have changed. */
export type BoardChange = Pick<BoardRequest, 'id'> & Partial<BoardRequest>;

/** What has changed: members that are as they were are left out, and of the requests those that are. */
export type BoardDelta = Partial<Omit<BoardFrame, 'requests'>> &
  Pick<BoardFrame, 'at' | 'record'> & {
    readonly changed: readonly BoardChange[];
    readonly gone: readonly RequestId[];
  };

/** `applyDelta(before, deltaOf(before, after))` equals `after`. Requests are in order of their numbers in both. */
export function deltaOf(before: BoardFrame, after: BoardFrame): BoardDelta {
  const changed: BoardChange[] = [];
  const gone: RequestId[] = [];
  const [old, now] = [before.requests, after.requests];
  for (let [at, to] = [0, 0]; at < old.length || to < now.length; ) {
    const [was, is] = [old[at], now[to]];
    if (was !== undefined && (is === undefined || was.id < is.id)) {
      gone.push(was.id);
      at += 1;
    } else if (is !== undefined) {
      const known = was !== undefined && was.id === is.id;
      const change = known ? changeOf(was, is) : is;
      if (change !== null) changed.push(change);
      if (known) at += 1;
      to += 1;
    }
  }
  const delta: Record<string, unknown> = { changed, gone };
  for (const key of Object.keys(after) as (keyof BoardFrame)[]) {
    if (key === 'requests') continue;
    if (key === 'at' || key === 'record' || !same(before[key], after[key])) delta[key] = after[key];
  }
  return delta as unknown as BoardDelta;
}

/** Null: nothing has. */
function changeOf(before: BoardRequest, after: BoardRequest): BoardChange | null {
  let change: Record<string, unknown> | null = null;
  for (const key in after) {
    const value = after[key as keyof BoardRequest];
    if (before[key as keyof BoardRequest] === value) continue;
    change ??= { id: after.id };
    change[key] = value;
  }
  return change as BoardChange | null;
}

function same(before: unknown, after: unknown): boolean {
  if (before === after) return true;
  if (typeof before !== 'object' || typeof after !== 'object' || before === null || after === null) return false;
  // Maps of different moments differ: their ranges, which are many, need not be looked at.
  if ('ranges' in before && 'ranges' in after && (before as BoardMemory).at !== (after as BoardMemory).at) return false;
  return JSON.stringify(before) === JSON.stringify(after);
}

export function applyDelta(before: BoardFrame, delta: BoardDelta): BoardFrame {
  const { changed, gone, ...members } = delta;
  const rows = new Map(before.requests.map((request) => [request.id, request]));
  for (const id of gone) rows.delete(id);
  for (const change of changed) rows.set(change.id, { ...(rows.get(change.id) as BoardRequest), ...change });
  const requests = [...rows.values()].sort((a, b) => a.id - b.id);
  return { ...before, ...members, requests };
}

/** What the board needs to know once, before the first frame. */
export interface BoardAbout {
  readonly version: string;
  readonly source: 'live' | 'recording';
  readonly model: string;
  readonly preset: string;
  readonly policy: string;
  readonly blockTokens: number;
  readonly blockBytes: number;
  readonly maxRunning: number;
  readonly maxBatchTokens: number;
  readonly contextTokensMax: number;
  /** Priorities may be changed, requests aborted, the server drained. */
  readonly admin: boolean;
  /** Null on a live server. */
  readonly recording: BoardRecording | null;
}

export interface BoardRecording {
  readonly file: string;
  readonly startedAt: string;
  readonly records: number;
  /** Of the last record. */
  readonly endAt: Micros;
  /** The first record at which a replay leads elsewhere, or that cannot be read; null: none. */
  readonly broken: { readonly record: number; readonly words: string } | null;
  /** For the slider: points at equal distances in records. */
  readonly outline: readonly {
    readonly record: number;
    readonly at: Micros;
    readonly running: number;
    readonly waiting: number;
  }[];
}

/** Where a recording stands, sent as event `player` whenever it changes. */
export interface BoardPlayer {
  readonly playing: boolean;
  /** Virtual seconds for each second of the viewer. */
  readonly speed: number;
  readonly record: number;
  /** The replay is on its way to a record; share of the way. Null: it is there. */
  readonly seeking: number | null;
}

/** What the player of a recording is to do: `POST /board/player`. */
export interface BoardOrder {
  /** `pause` stops the clock; what is on its way to some place still gets there. */
  readonly action: 'play' | 'pause' | 'step' | 'seek';
  /** Where to `seek`: behind this record (0: before the first), or to this moment of the run. */
  readonly record?: number;
  readonly at?: Micros;
  /** Of `step`: on to the next record that is about this request. */
  readonly request?: RequestId;
  /** Virtual seconds for each second from now on. */
  readonly speed?: number;
}
