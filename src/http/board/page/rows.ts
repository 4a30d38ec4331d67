/** Which requests the table shows and in what order. */
import type { BoardRequest } from '../../../core/board.js';
import type { Micros, Phase } from '../../../core/types.js';
import { inState, isRunning, type LivePhase, PHASES } from './states.js';

export interface Filter {
  /** In its number, label or tenant. */
  readonly text: string;
  /** None: all. */
  readonly phases: ReadonlySet<Phase>;
  /** '': all. */
  readonly tenant: string;
  readonly rankMax: number | null;
  /** Not running, and for at least so long in its state. */
  readonly waitsMin: Micros | null;
}

export const EVERYBODY: Filter = { text: '', phases: new Set(), tenant: '', rankMax: null, waitsMin: null };

export const COLUMNS = [
  { key: 'id', title: 'No.', words: 'Number in order of arrival' },
  { key: 'tenant', title: 'Tenant', words: 'Who asked' },
  { key: 'phase', title: 'State', words: 'State of its chart' },
  { key: 'since', title: 'In state', words: 'Time since it entered its state' },
  { key: 'rank', title: 'Rank', words: 'What the policy compares; lower goes first' },
  { key: 'priority', title: 'Prio', words: 'Priority; lower is served first' },
  { key: 'promptTokens', title: 'Prompt', words: 'Tokens of its prompt' },
  { key: 'generated', title: 'Generated', words: 'Tokens generated, of the most it may have' },
  { key: 'deviceBlocks', title: 'Device', words: 'Blocks on the device' },
  { key: 'hostBlocks', title: 'Host', words: 'Blocks on the host' },
  { key: 'preemptions', title: 'Preempted', words: 'How often it had to leave the device' },
  { key: 'arrivedAt', title: 'Age', words: 'Time since it arrived' },
] as const;

export type ColumnKey = (typeof COLUMNS)[number]['key'];

export interface Sorting {
  readonly column: ColumnKey;
  readonly descending: boolean;
}

const ORDER = new Map<Phase, number>(PHASES.map((phase, index) => [phase as LivePhase, index]));

export function rowsOf(requests: readonly BoardRequest[], filter: Filter, sorting: Sorting, at: Micros): BoardRequest[] {
  return requests.filter((request) => passes(request, filter, at)).sort(comparison(sorting));
}

function passes(request: BoardRequest, { text, phases, tenant, rankMax, waitsMin }: Filter, at: Micros): boolean {
  if (phases.size > 0 && !phases.has(request.phase)) return false;
  if (tenant !== '' && request.tenant !== tenant) return false;
  if (rankMax !== null && (request.rank ?? Number.POSITIVE_INFINITY) > rankMax) return false;
  if (waitsMin !== null && (isRunning(request.phase) || inState(request, at) < waitsMin)) return false;
  if (text === '') return true;
  return String(request.id).includes(text) || request.label.includes(text) || request.tenant.includes(text);
}

function comparison({ column, descending }: Sorting): (a: BoardRequest, b: BoardRequest) => number {
  const sign = descending ? -1 : 1;
  switch (column) {
    case 'tenant':
      return (a, b) => sign * (a.tenant < b.tenant ? -1 : a.tenant > b.tenant ? 1 : 0) || a.id - b.id;
    case 'phase':
      return (a, b) => sign * ((ORDER.get(a.phase) ?? 9) - (ORDER.get(b.phase) ?? 9)) || a.since - b.since || a.id - b.id;
    // Who has been there longest entered first.
    case 'since':
    case 'arrivedAt':
      return (a, b) => sign * (b[column] - a[column]) || a.id - b.id;
    // Null is last in rank.
    case 'rank':
      return (a, b) => sign * compareRanks(a.rank, b.rank) || a.id - b.id;
    default:
      return (a, b) => sign * (a[column] - b[column]) || a.id - b.id;
  }
}

function compareRanks(a: number | null, b: number | null): number {
  if (a === b) return 0;
  return (a ?? Number.POSITIVE_INFINITY) < (b ?? Number.POSITIVE_INFINITY) ? -1 : 1;
}

export function tenantsOf(requests: readonly BoardRequest[]): string[] {
  return [...new Set(requests.map(({ tenant }) => tenant))].sort();
}
