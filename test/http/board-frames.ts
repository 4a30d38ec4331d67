/** Frames of a board, made up. */
import type { BoardMemory, BoardReading, BoardRequest } from '../../src/core/board.js';
import type { Histogram } from '../../src/core/metrics.js';

const NONE: Histogram = { bounds: [1], counts: [0, 0], sum: 0, count: 0 };
const BOTH = { out: 0, in: 0 };

export function rowOf(id: number, more: Partial<BoardRequest> = {}): BoardRequest {
  return {
    ...{ id, label: `label-${id}`, tenant: 'tenant', phase: 'queued', since: 0, arrivedAt: 0, rank: id, priority: 0 },
    ...{ promptTokens: 10, generated: 0, maxTokens: 100, computed: 0, deviceBlocks: 0, hostBlocks: 0, preemptions: 0 },
    ...{ ending: false, ...more },
  };
}

export function memoryAt(at: number, total = 64): BoardMemory {
  return { at, total, free: total - 4, reserved: 0, ranges: [[0, 4, 1, 'used']], freeRanges: 1, longestFree: total - 4 };
}

export function readingOf(at: number, requests: readonly BoardRequest[], maps = true): BoardReading {
  const counts = {
    queued: requests.length,
    prefilling: 0,
    decoding: 0,
    'swapping-out': 0,
    swapped: 0,
    'swapping-in': 0,
    done: 0,
  };
  return {
    ...{ at, record: at, server: 'ready', requests, counts, transitions: {}, stepping: 0, transfers: [] },
    outcomes: { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 },
    device: maps ? memoryAt(at) : null,
    host: maps ? memoryAt(at) : null,
    totals: {
      ...{ bytes: BOTH, copyMicros: BOTH, transfers: BOTH, runs: BOTH, steps: at, stepMicros: 0, gapMicros: 0 },
      ...{ prefillTokens: 0, decodeTokens: 0, generatedTokens: 0, preemptions: { swap: 0, recompute: 0 } },
    },
    ...{ ttftSeconds: NONE, tbtSeconds: NONE, stepSeconds: NONE, tenants: [], loopDelaySeconds: null },
  };
}
