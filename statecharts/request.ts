/**
 * What may happen to a request. The core decides, and each of its effects on a request is one event here; the chart
 * says whether that is possible now and starts the transfer that it entails. It is the second opinion on the core: an
 * event that the state forbids throws, the actor ends in error and the door stops the system.
 *
 * `startTransfer` is named here and done by the hands, who attach it with `.provide`; its parameter is the effect that
 * the event carried. A request that has ended leaves the map of actors: XState delivers nothing to a finished actor.
 */
import { assertEvent, assign, type StateValue, setup } from 'xstate';
import type { Effect, Outcome, Phase, RequestId } from '../src/core/types.js';

type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;
type SwapEffect = EffectOf<'swapOut'> | EffectOf<'swapIn'>;

export type RequestEvent =
  | { readonly type: 'ADMIT' }
  | { readonly type: 'PREFILLED' }
  | { readonly type: 'SWAP_OUT'; readonly effect: EffectOf<'swapOut'> }
  | { readonly type: 'PARK' }
  | { readonly type: 'SWAP_IN'; readonly effect: EffectOf<'swapIn'> }
  | { readonly type: 'RESUME' }
  | { readonly type: 'SETTLED' }
  | { readonly type: 'RECOMPUTE' }
  | { readonly type: 'ENDING' }
  | { readonly type: 'FINISH'; readonly outcome: Outcome; readonly error: string | null }
  | { readonly type: 'REJECT'; readonly code: EffectOf<'reject'>['code'] };

export interface RequestContext {
  readonly id: RequestId;
  /** How it ended; null until then. */
  readonly outcome: Outcome | null;
  /** It is to end as soon as what is in flight has landed: nothing new may start for it. */
  readonly ending: boolean;
  /** It has not run since it was last queued: there is no phase to go back to, whatever it did before. */
  readonly fresh: boolean;
  /** Transfers started. */
  readonly transfers: number;
}

/** What the transfer is to do: both states that start one are entered by the event that carries it. */
function carriedEffect({ event }: { readonly event: RequestEvent }): { readonly effect: SwapEffect } {
  assertEvent(event, ['SWAP_OUT', 'SWAP_IN']);
  return { effect: event.effect };
}

export const requestMachine = setup({
  types: {
    context: {} as RequestContext,
    events: {} as RequestEvent,
    input: {} as { readonly id: RequestId },
  },
  guards: {
    notEnding: ({ context }) => !context.ending,
    fresh: ({ context }) => context.fresh,
  },
  actions: {
    startTransfer: (_, _carried: { readonly effect: SwapEffect }) => {},
    countTransfer: assign({ transfers: ({ context }) => context.transfers + 1 }),
    rememberEnding: assign({ ending: true }),
    beFresh: assign({ fresh: true }),
    beRunning: assign({ fresh: false }),
    noteOutcome: assign({ outcome: ({ context, event }) => (event.type === 'FINISH' ? event.outcome : context.outcome) }),
    noteRejection: assign({ outcome: 'rejected' }),
    forbid: ({ context, event, self }) => {
      const phase = requestPhase(self.getSnapshot());
      throw new Error(`request ${context.id}: ${event.type} is forbidden while ${phase}${context.ending ? ' and ending' : ''}`);
    },
  },
}).createMachine({
  id: 'request',
  context: ({ input }) => ({ id: input.id, outcome: null, ending: false, fresh: true, transfers: 0 }),
  initial: 'queued',
  states: {
    queued: {
      entry: 'beFresh',
      on: {
        ADMIT: [{ guard: 'notEnding', target: '#request.running.prefilling' }, { actions: 'forbid' }],
        PREFILLED: { actions: 'forbid' },
        SWAP_OUT: { actions: 'forbid' },
        PARK: { actions: 'forbid' },
        /** Blocks of its context were found on the host. */
        SWAP_IN: [{ guard: 'notEnding', target: 'swapping-in' }, { actions: 'forbid' }],
        RESUME: { actions: 'forbid' },
        SETTLED: { actions: 'forbid' },
        RECOMPUTE: { actions: 'forbid' },
        ENDING: { actions: 'forbid' },
        FINISH: { target: 'done', actions: 'noteOutcome' },
        REJECT: { target: 'done', actions: 'noteRejection' },
      },
    },
    running: {
      entry: 'beRunning',
      initial: 'prefilling',
      states: {
        prefilling: { on: { PREFILLED: 'decoding' } },
        decoding: { on: { PREFILLED: { actions: 'forbid' } } },
        /** Back to the phase that it was swapped out or parked in. */
        resumed: { type: 'history' },
      },
      on: {
        ADMIT: { actions: 'forbid' },
        SWAP_OUT: [{ guard: 'notEnding', target: 'swapping-out' }, { actions: 'forbid' }],
        PARK: [{ guard: 'notEnding', target: 'swapped' }, { actions: 'forbid' }],
        SWAP_IN: { actions: 'forbid' },
        RESUME: { actions: 'forbid' },
        SETTLED: { actions: 'forbid' },
        RECOMPUTE: 'queued',
        ENDING: { actions: 'rememberEnding' },
        FINISH: { target: 'done', actions: 'noteOutcome' },
        REJECT: { actions: 'forbid' },
      },
    },
    'swapping-out': {
      entry: ['countTransfer', { type: 'startTransfer', params: carriedEffect }],
      on: {
        ADMIT: { actions: 'forbid' },
        PREFILLED: { actions: 'forbid' },
        SWAP_OUT: { actions: 'forbid' },
        PARK: { actions: 'forbid' },
        SWAP_IN: { actions: 'forbid' },
        RESUME: { actions: 'forbid' },
        SETTLED: 'swapped',
        RECOMPUTE: 'queued',
        ENDING: { actions: 'rememberEnding' },
        FINISH: { actions: 'forbid' },
        REJECT: { actions: 'forbid' },
      },
    },
    swapped: {
      on: {
        ADMIT: { actions: 'forbid' },
        PREFILLED: { actions: 'forbid' },
        SWAP_OUT: { actions: 'forbid' },
        PARK: { actions: 'forbid' },
        SWAP_IN: [{ guard: 'notEnding', target: 'swapping-in' }, { actions: 'forbid' }],
        RESUME: [{ guard: 'notEnding', target: '#request.running.resumed' }, { actions: 'forbid' }],
        SETTLED: { actions: 'forbid' },
        RECOMPUTE: 'queued',
        ENDING: { actions: 'forbid' },
        FINISH: { target: 'done', actions: 'noteOutcome' },
        REJECT: { actions: 'forbid' },
      },
    },
    'swapping-in': {
      entry: ['countTransfer', { type: 'startTransfer', params: carriedEffect }],
      on: {
        ADMIT: { actions: 'forbid' },
        PREFILLED: { actions: 'forbid' },
        SWAP_OUT: { actions: 'forbid' },
        PARK: { actions: 'forbid' },
        SWAP_IN: { actions: 'forbid' },
        RESUME: { actions: 'forbid' },
        SETTLED: [{ guard: 'fresh', target: '#request.running.prefilling' }, '#request.running.resumed'],
        RECOMPUTE: 'queued',
        ENDING: { actions: 'rememberEnding' },
        FINISH: { actions: 'forbid' },
        REJECT: { actions: 'forbid' },
      },
    },
    done: { type: 'final' },
  },
});

/** The phase that a snapshot of the chart is in, in the core's word. */
export function requestPhase(snapshot: { readonly value: StateValue }): Phase {
  const { value } = snapshot;
  return (typeof value === 'string' ? value : value.running) as Phase;
}
