/**
 * A frame of a board on its way across threads: what is in it by the thousand as numbers in a row, which are copied at once.
 * Cloned as objects, five thousand requests would take longer than it takes to draw them.
 */
import type { BoardMemory, BoardRange, BoardReading, BoardRequest } from '../core/board.js';
import type { Phase } from '../core/types.js';

const PHASES: readonly Phase[] = ['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in', 'done'];
const KINDS: readonly BoardRange[3][] = ['used', 'tail', 'moving', 'kept'];
/** Numbers of a request, and of a range. */
const ROW = 15;
const RANGE = 4;

type PackedMemory = Omit<BoardMemory, 'ranges'> & { readonly ranges: Float64Array };

export type PackedReading = Omit<BoardReading, 'requests' | 'device' | 'host'> & {
  readonly rows: Float64Array;
  /** JSON: the labels of the requests, and the names of their tenants, by the numbers that the rows have. */
  readonly labels: string;
  readonly names: string;
} & Readonly<Record<'device' | 'host', PackedMemory | null>>;

export function packReading({ requests, device, host, ...rest }: BoardReading): PackedReading {
  const rows = new Float64Array(ROW * requests.length);
  const labels: string[] = [];
  const numbers = new Map<string, number>();
  let at = 0;
  for (const request of requests) {
    const number = numbers.get(request.tenant) ?? numbers.size;
    numbers.set(request.tenant, number);
    labels.push(request.label);
    rows[at] = request.id;
    rows[at + 1] = number;
    rows[at + 2] = PHASES.indexOf(request.phase);
    rows[at + 3] = request.since;
    rows[at + 4] = request.arrivedAt;
    rows[at + 5] = request.rank ?? Number.POSITIVE_INFINITY;
    rows[at + 6] = request.priority;
    rows[at + 7] = request.promptTokens;
    rows[at + 8] = request.generated;
    rows[at + 9] = request.maxTokens;
    rows[at + 10] = request.computed;
    rows[at + 11] = request.deviceBlocks;
    rows[at + 12] = request.hostBlocks;
    rows[at + 13] = request.preemptions;
    rows[at + 14] = request.ending ? 1 : 0;
    at += ROW;
  }
  const names = JSON.stringify([...numbers.keys()]);
  return { ...rest, rows, labels: JSON.stringify(labels), names, device: packMemory(device), host: packMemory(host) };
}

export function unpackReading({ rows, labels, names, device, host, ...rest }: PackedReading): BoardReading {
  const tenants = JSON.parse(names) as string[];
  const requests = (JSON.parse(labels) as string[]).map((label, index): BoardRequest => {
    const number = (member: number) => rows[ROW * index + member] as number;
    return {
      id: number(0),
      label,
      tenant: tenants[number(1)] as string,
      phase: PHASES[number(2)] as Phase,
      since: number(3),
      arrivedAt: number(4),
      rank: number(5) === Number.POSITIVE_INFINITY ? null : number(5),
      priority: number(6),
      promptTokens: number(7),
      generated: number(8),
      maxTokens: number(9),
      computed: number(10),
      deviceBlocks: number(11),
      hostBlocks: number(12),
      preemptions: number(13),
      ending: number(14) === 1,
    };
  });
  return { ...rest, requests, device: unpackMemory(device), host: unpackMemory(host) };
}

function packMemory(memory: BoardMemory | null): PackedMemory | null {
  if (memory === null) return null;
  const ranges = new Float64Array(RANGE * memory.ranges.length);
  let at = 0;
  for (const [from, blocks, owner, kind] of memory.ranges) {
    ranges[at] = from;
    ranges[at + 1] = blocks;
    ranges[at + 2] = owner;
    ranges[at + 3] = KINDS.indexOf(kind);
    at += RANGE;
  }
  return { ...memory, ranges };
}

function unpackMemory(memory: PackedMemory | null): BoardMemory | null {
  if (memory === null) return null;
  const { ranges: packed } = memory;
  const ranges = Array.from({ length: packed.length / RANGE }, (_, index): BoardRange => {
    const number = (member: number) => packed[RANGE * index + member] as number;
    return [number(0), number(1), number(2), KINDS[number(3)] as BoardRange[3]];
  });
  return { ...memory, ranges };
}
