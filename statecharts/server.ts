/**
 * What may happen to the server as a whole. `DRAIN`: no new requests; `IDLE`: no request is alive; `STOP`: give up what
 * still runs; `FAIL`: a mistake of our own was noticed. The last two end it from anywhere.
 */
import { setup } from 'xstate';

export type ServerEvent =
  | { readonly type: 'READY' }
  | { readonly type: 'DRAIN' }
  | { readonly type: 'IDLE' }
  | { readonly type: 'STOP' }
  | { readonly type: 'FAIL' };

export const serverMachine = setup({
  types: { events: {} as ServerEvent },
  actions: {
    forbid: ({ event, self }) => {
      throw new Error(`server: ${event.type} is forbidden while ${self.getSnapshot().value}`);
    },
    ignore: () => {},
  },
}).createMachine({
  id: 'server',
  initial: 'starting',
  states: {
    starting: {
      on: {
        READY: 'ready',
        /** Asked to go before it came up: whatever was loaded is given back once it reports idle. */
        DRAIN: 'draining',
        IDLE: { actions: 'forbid' },
        STOP: 'stopped',
        FAIL: 'failed',
      },
    },
    ready: {
      on: {
        READY: { actions: 'forbid' },
        DRAIN: 'draining',
        IDLE: { actions: 'ignore' },
        STOP: 'stopped',
        FAIL: 'failed',
      },
    },
    draining: {
      on: {
        READY: { actions: 'ignore' },
        DRAIN: { actions: 'ignore' },
        IDLE: 'stopped',
        STOP: 'stopped',
        FAIL: 'failed',
      },
    },
    stopped: { type: 'final' },
    failed: { type: 'final' },
  },
});
