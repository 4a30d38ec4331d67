/** The system on the caller's own thread: for tests, benches and the simulator. */
import { Listeners } from './stream.js';
import type { Listener } from './ports.js';
import { Runtime, type RuntimeOptions, type SubmitRequest, type System, type SystemInfo } from './system.js';

export function createLocalSystem(info: SystemInfo, options: Omit<RuntimeOptions, 'sink' | 'blockBytes'>): System {
  const listeners = new Listeners();
  let reportFailure: (error: Error) => void;
  const failed = new Promise<Error>((resolve) => {
    reportFailure = resolve;
  });
  const runtime = new Runtime({
    ...options,
    blockBytes: info.blockBytes,
    sink: {
      tokens: (items) => listeners.tokens(items),
      end: (id, end) => listeners.end(id, end),
      failed: (error) => reportFailure(error),
    },
  });
  return {
    info,
    failed,
    submit(request: SubmitRequest, listener: Listener) {
      const id = listeners.open(listener);
      runtime.submit(id, request);
      return id;
    },
    abort: (id, reason) => runtime.deliver({ type: 'aborted', id, reason }),
    reprioritize: (id, priority) => runtime.deliver({ type: 'reprioritized', id, priority }),
    snapshot: async () => ({ ...runtime.snapshot(), loopDelaySeconds: null }),
    drain: () => runtime.drain(),
    close: () => runtime.close(),
  };
}
