import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Actor, createActor } from 'xstate';
import { adjacencyMapToArray, getAdjacencyMap, getShortestPaths, getStateNodes } from 'xstate/graph';
import type { Phase } from '../../src/core/types.js';
import { type RequestEvent, requestMachine, requestPhase } from '../../statecharts/request.js';

const EVENTS = {
  ADMIT: { type: 'ADMIT' },
  PREFILLED: { type: 'PREFILLED' },
  SWAP_OUT: {
    type: 'SWAP_OUT',
    effect: {
      type: 'swapOut',
      id: 7,
      held: 1,
      cause: { why: 'outranked', by: 9 },
      transfer: 1,
      direction: 'out',
      runs: [{ from: 0, to: 4, blocks: 2 }],
      blocks: 2,
    },
  },
  PARK: { type: 'PARK' },
  SWAP_IN: {
    type: 'SWAP_IN',
    effect: {
      type: 'swapIn',
      id: 7,
      held: 1,
      cachedTokens: 0,
      transfer: 2,
      direction: 'in',
      runs: [{ from: 4, to: 0, blocks: 2 }],
      blocks: 2,
    },
  },
  RESUME: { type: 'RESUME' },
  SETTLED: { type: 'SETTLED' },
  RECOMPUTE: { type: 'RECOMPUTE' },
  ENDING: { type: 'ENDING' },
  FINISH: { type: 'FINISH', outcome: 'length', error: null },
  REJECT: { type: 'REJECT', code: 'queue_full' },
} as const satisfies { readonly [T in RequestEvent['type']]: Extract<RequestEvent, { type: T }> };

type Name = keyof typeof EVENTS;
const NAMES = Object.keys(EVENTS) as Name[];

const PHASES = Object.keys({
  queued: true,
  prefilling: true,
  decoding: true,
  'swapping-out': true,
  swapped: true,
  'swapping-in': true,
  done: true,
} satisfies Record<Phase, true>) as Phase[];

/** The phases that still take events, in the order of the table's columns. */
const LIVE = ['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in'] as const satisfies readonly Phase[];

/** How to come to a phase from the start; a request that is swapped decoded before. */
const PATHS: Readonly<Record<Phase, readonly Name[]>> = {
  queued: [],
  prefilling: ['ADMIT'],
  decoding: ['ADMIT', 'PREFILLED'],
  'swapping-out': ['ADMIT', 'PREFILLED', 'SWAP_OUT'],
  swapped: ['ADMIT', 'PREFILLED', 'SWAP_OUT', 'SETTLED'],
  'swapping-in': ['ADMIT', 'PREFILLED', 'SWAP_OUT', 'SETTLED', 'SWAP_IN'],
  done: ['REJECT'],
};

/** The same with the wish to end remembered on the way. */
const ENDING_PATHS: Readonly<Record<(typeof LIVE)[number], readonly Name[]>> = {
  queued: ['ADMIT', 'SWAP_OUT', 'ENDING', 'RECOMPUTE'],
  prefilling: ['ADMIT', 'ENDING'],
  decoding: ['ADMIT', 'PREFILLED', 'ENDING'],
  'swapping-out': ['ADMIT', 'SWAP_OUT', 'ENDING'],
  swapped: ['ADMIT', 'SWAP_OUT', 'ENDING', 'SETTLED'],
  'swapping-in': ['ADMIT', 'SWAP_OUT', 'SETTLED', 'SWAP_IN', 'ENDING'],
};

/** What every event does in every live phase: the phase it leads to, `-` where it is forbidden. */
const TABLE = `
             queued      prefilling    decoding      swapping-out  swapped      swapping-in
  ADMIT      prefilling  -             -             -             -            -
  PREFILLED  -           decoding      -             -             -            -
  SWAP_OUT   -           swapping-out  swapping-out  -             -            -
  PARK       -           swapped       swapped       -             -            -
  SWAP_IN    swapping-in -             -             -             swapping-in  -
  RESUME     -           -             -             -             decoding     -
  SETTLED    -           -             -             swapped       -            decoding
  RECOMPUTE  -           queued        queued        queued        queued       queued
  ENDING     -           prefilling    decoding      swapping-out  -            swapping-in
  FINISH     done        done          done          -             done         -
  REJECT     done        -             -             -             -            -
`;

/** Events that are forbidden once a request is to end: nothing new may start for it. */
const STARTS: readonly Name[] = ['ADMIT', 'SWAP_OUT', 'PARK', 'SWAP_IN', 'RESUME'];

function expected(): ReadonlyMap<Name, readonly string[]> {
  const rows = TABLE.trim().split('\n').slice(1);
  return new Map(
    rows.map((row) => {
      const [name, ...cells] = row.trim().split(/ +/);
      return [name as Name, cells];
    }),
  );
}

interface Walk {
  readonly actor: Actor<typeof requestMachine>;
  readonly transfers: number[];
  readonly errors: unknown[];
}

function walk(events: readonly RequestEvent[]): Walk {
  const transfers: number[] = [];
  const errors: unknown[] = [];
  const machine = requestMachine.provide({ actions: { startTransfer: (_, { effect }) => void transfers.push(effect.transfer) } });
  const actor = createActor(machine, { input: { id: 7 } });
  actor.subscribe({ error: (error) => errors.push(error) });
  actor.start();
  for (const event of events) actor.send(event);
  return { actor, transfers, errors };
}

const along = (names: readonly Name[]) => walk(names.map((name) => EVENTS[name]));

afterEach(() => void vi.restoreAllMocks());

describe('the chart of a request', () => {
  it('has the phases of the core and no others', () => {
    expect(PHASES.map((phase) => requestPhase(along(PATHS[phase]).actor.getSnapshot()))).toEqual(PHASES);
    const leaves = getStateNodes(requestMachine).filter(({ type }) => type === 'atomic' || type === 'final');
    expect(leaves.map(({ key }) => key).sort()).toEqual([...PHASES].sort());
  });

  it('declares every event in every live state', () => {
    for (const node of getStateNodes(requestMachine)) {
      if (node.type !== 'atomic') continue;
      const declared = [node, ...(node.parent === requestMachine.root ? [] : [node.parent])].flatMap(
        (own) => own?.ownEvents ?? [],
      );
      expect(declared.sort(), node.key).toEqual([...NAMES].sort());
    }
  });

  const table = expected();
  for (const [column, phase] of LIVE.entries()) {
    for (const name of NAMES) {
      const target = table.get(name)?.[column];
      for (const ending of [false, true]) {
        const forbidden = target === '-' || (ending && STARTS.includes(name));
        it(`${forbidden ? 'forbids' : 'takes'} ${name} while ${phase}${ending ? ' and ending' : ''}`, () => {
          const before = along(ending ? ENDING_PATHS[phase] : PATHS[phase]);
          const started = before.transfers.length;
          before.actor.send(EVENTS[name]);
          const after = before.actor.getSnapshot();
          if (forbidden) {
            expect(after.status).toBe('error');
            const suffix = ending ? ' and ending' : '';
            expect(String(before.errors[0])).toBe(`Error: request 7: ${name} is forbidden while ${phase}${suffix}`);
            expect(before.transfers.length).toBe(started);
          } else {
            // Under way a request that is ending was swapped while prefilling, so that is where it resumes.
            expect(requestPhase(after)).toBe(ending && name === 'SETTLED' && phase === 'swapping-in' ? 'prefilling' : target);
            expect(after.context.ending).toBe(ending || name === 'ENDING');
            const { effect } = { effect: null, ...EVENTS[name] };
            expect(before.transfers.slice(started)).toEqual(effect === null ? [] : [effect.transfer]);
          }
        });
      }
    }
  }

  it('ignores whatever comes after the end', () => {
    vi.spyOn(console, 'warn').mockImplementation(() => {}); // xstate reports each of them while developing
    for (const name of NAMES) {
      const { actor, errors, transfers } = along(['ADMIT', 'FINISH', name]);
      expect(actor.getSnapshot().status).toBe('done');
      expect([errors, transfers]).toEqual([[], []]);
    }
  });

  it('resumes a request in the phase in which it was swapped out, each time', () => {
    const roundTrip: Name[] = ['SWAP_OUT', 'SETTLED', 'SWAP_IN', 'SETTLED'];
    const phaseAfter = (names: Name[]) => requestPhase(along(names).actor.getSnapshot());
    expect(phaseAfter(['ADMIT', ...roundTrip])).toBe('prefilling');
    expect(phaseAfter(['ADMIT', ...roundTrip, 'PREFILLED', ...roundTrip])).toBe('decoding');
    for (const out of [['PARK'], ['SWAP_OUT', 'SETTLED']] as Name[][]) {
      for (const back of [['RESUME'], ['SWAP_IN', 'SETTLED']] as Name[][]) {
        expect(phaseAfter(['ADMIT', ...out, ...back])).toBe('prefilling');
        expect(phaseAfter(['ADMIT', ...roundTrip, 'PREFILLED', ...out, ...back])).toBe('decoding');
      }
    }
  });

  it('prefills what comes in from the queue, also after it has decoded, and then remembers anew', () => {
    const cameIn: Name[] = ['SWAP_IN', 'SETTLED'];
    const decoded: Name[] = ['ADMIT', 'PREFILLED', 'RECOMPUTE'];
    const phaseAfter = (names: Name[]) => requestPhase(along(names).actor.getSnapshot());
    expect(phaseAfter(cameIn)).toBe('prefilling');
    expect(phaseAfter([...decoded, ...cameIn])).toBe('prefilling');
    expect(phaseAfter(['ADMIT', 'PREFILLED', 'PARK', 'RECOMPUTE', ...cameIn])).toBe('prefilling');
    // A copy that failed on the way in from the queue leads back to the queue, not to what was before.
    expect(phaseAfter([...decoded, 'SWAP_IN', 'RECOMPUTE', ...cameIn])).toBe('prefilling');
    expect(phaseAfter([...decoded, ...cameIn, 'PARK', 'RESUME'])).toBe('prefilling');
    expect(phaseAfter([...decoded, ...cameIn, 'PREFILLED', 'PARK', ...cameIn])).toBe('decoding');
  });

  it('prefills again what is recomputed, also after it has decoded', () => {
    const { actor } = along(['ADMIT', 'PREFILLED', 'SWAP_OUT', 'SETTLED', 'RECOMPUTE', 'ADMIT']);
    expect(requestPhase(actor.getSnapshot())).toBe('prefilling');
  });

  it('notes how the request ended and how often it moved', () => {
    const finished = along(['ADMIT', 'SWAP_OUT', 'SETTLED', 'SWAP_IN', 'SETTLED', 'FINISH']).actor.getSnapshot();
    expect(finished.context).toEqual({ id: 7, outcome: 'length', ending: false, fresh: false, transfers: 2 });
    expect(along(['ADMIT', 'PARK', 'RESUME']).actor.getSnapshot().context.transfers).toBe(0);
    expect(along(['REJECT']).actor.getSnapshot().context.outcome).toBe('rejected');
  });
});

describe('the graph of the chart', () => {
  const options = {
    input: { id: 7 },
    events: Object.values(EVENTS),
    // How often a request moved and how it ended make no difference to what may happen next.
    serializeState: ({ value, context, historyValue }: ReturnType<typeof requestMachine.transition>) =>
      JSON.stringify([value, context.ending, context.fresh, Object.values(historyValue).map(([node]) => node?.key)]),
  };

  it('reaches every phase, ending and not, and each of its paths is what a live actor does', () => {
    const paths = getShortestPaths(requestMachine, options);
    const reached = new Set(paths.map(({ state }) => `${requestPhase(state)} ${state.context.ending}`));
    const all = PHASES.flatMap((phase) => [`${phase} false`, `${phase} true`]);
    expect([...reached].sort()).toEqual(all.sort());
    for (const { state, steps } of paths) {
      const { actor, errors } = walk(steps.map(({ event }) => event).filter(({ type }) => type in EVENTS));
      expect(errors).toEqual([]);
      expect(actor.getSnapshot().value).toEqual(state.value);
      expect(actor.getSnapshot().context.ending).toBe(state.context.ending);
    }
  });

  it('has no edge that the table does not have', () => {
    const edges = adjacencyMapToArray(getAdjacencyMap(requestMachine, options)).filter(
      ({ state }) => requestPhase(state) !== 'done',
    );
    const table = expected();
    for (const { state, event, nextState } of edges) {
      const target = table.get(event.type)?.[LIVE.indexOf(requestPhase(state) as (typeof LIVE)[number])];
      const forbidden = target === '-' || (state.context.ending && STARTS.includes(event.type));
      const resumes = event.type === 'RESUME' || (event.type === 'SETTLED' && requestPhase(state) === 'swapping-in');
      const possible = resumes ? ['prefilling', 'decoding'] : [target];
      expect(forbidden ? [requestPhase(state)] : possible, `${requestPhase(state)} ${event.type}`).toContain(
        requestPhase(nextState),
      );
    }
    expect(edges.length).toBeGreaterThanOrEqual(LIVE.length * NAMES.length);
  });
});
