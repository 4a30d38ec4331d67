import { afterEach, describe, expect, it, vi } from 'vitest';
import { createActor } from 'xstate';
import { getShortestPaths } from 'xstate/graph';
import { type ServerEvent, serverMachine } from '../../statecharts/server.js';

type Name = ServerEvent['type'];
const NAMES = Object.keys({ READY: 1, DRAIN: 1, IDLE: 1, STOP: 1, FAIL: 1 } satisfies Record<Name, 1>) as Name[];

const PATHS = { starting: [], ready: ['READY'], draining: ['READY', 'DRAIN'] } as const satisfies Record<string, readonly Name[]>;

/** What every event does in every state that is not final: the state it leads to, `-` where it is forbidden. */
const TABLE: Readonly<Record<keyof typeof PATHS, Readonly<Record<Name, string>>>> = {
  starting: { READY: 'ready', DRAIN: 'draining', IDLE: '-', STOP: 'stopped', FAIL: 'failed' },
  ready: { READY: '-', DRAIN: 'draining', IDLE: 'ready', STOP: 'stopped', FAIL: 'failed' },
  draining: { READY: 'draining', DRAIN: 'draining', IDLE: 'stopped', STOP: 'stopped', FAIL: 'failed' },
};

function walk(names: readonly Name[]) {
  const errors: unknown[] = [];
  const actor = createActor(serverMachine);
  actor.subscribe({ error: (error) => errors.push(error) });
  actor.start();
  for (const type of names) actor.send({ type });
  return { errors, snapshot: actor.getSnapshot() };
}

afterEach(() => void vi.restoreAllMocks());

describe('the chart of the server', () => {
  for (const state of Object.keys(PATHS) as (keyof typeof PATHS)[]) {
    for (const name of NAMES) {
      const target = TABLE[state][name];
      it(`${target === '-' ? 'forbids' : 'takes'} ${name} while ${state}`, () => {
        const { errors, snapshot } = walk([...PATHS[state], name]);
        if (target === '-') {
          expect(snapshot.status).toBe('error');
          expect(String(errors[0])).toBe(`Error: server: ${name} is forbidden while ${state}`);
        } else {
          expect(errors).toEqual([]);
          expect(snapshot.value).toBe(target);
        }
      });
    }
  }

  it('declares every event in every state that is not final', () => {
    for (const state of Object.keys(PATHS) as (keyof typeof PATHS)[]) {
      expect(new Set(serverMachine.states[state]?.ownEvents)).toEqual(new Set(NAMES));
    }
  });

  it('ends as stopped or failed, and nothing follows', () => {
    vi.spyOn(console, 'warn').mockImplementation(() => {}); // xstate reports each event that comes too late
    for (const name of NAMES) {
      expect(walk(['STOP', name]).snapshot.value).toBe('stopped');
      expect(walk(['FAIL', name]).snapshot.value).toBe('failed');
      expect(walk(['FAIL', name]).errors).toEqual([]);
    }
  });

  it('reaches each of its states by the paths of its graph', () => {
    const paths = getShortestPaths(serverMachine, { events: NAMES.map((type) => ({ type })) });
    expect(new Set(paths.map(({ state }) => state.value))).toEqual(new Set(Object.keys(serverMachine.states)));
    for (const { state, steps } of paths) {
      const names = steps.map(({ event }) => event.type as string).filter((type): type is Name => NAMES.includes(type as Name));
      expect(walk(names).snapshot.value).toBe(state.value);
    }
  });
});
