/** Small recordings: a drawn load served in virtual time by a machine that is known, seen by the witness that a replay feeds. */
import type { Chunk } from '../../src/actors/link.js';
import type { Machine, Taken } from '../../src/actors/machine.js';
import { Agenda, simulatedHands } from '../../src/actors/simulated.js';
import { Runtime } from '../../src/actors/system.js';
import { GREEDY } from '../../src/core/config.js';
import { PRESETS } from '../../src/core/presets.js';
import { Random } from '../../src/core/random.js';
import type { Limits } from '../../src/core/state.js';
import type { AbortReason, Deadlines, Direction, StepItem } from '../../src/core/types.js';
import { Observed, shapeOf } from '../../src/replay/observed.js';

export const BLOCK_BYTES = 1 << 16;

export const LIMITS: Limits = {
  policy: 'fcfs',
  mechanism: PRESETS.default.mechanism,
  blockBytes: BLOCK_BYTES,
  deviceBlocks: 96,
  hostBlocks: 1000,
  maxBatchTokens: 256,
  maxRunning: 16,
  maxQueued: 1000,
};

/** Micros for each unit; copies for each direction: one, each run, each byte. */
export const COSTS = {
  step: 2000,
  prefillToken: 60,
  decodeSequence: 150,
  contextToken: 0.8,
  gap: 120,
  gapSequence: 15,
  copy: { out: [80, 4, 0.0004], in: [60, 3, 0.0002] } as Readonly<Record<Direction, readonly [number, number, number]>>,
} as const;

/** Takes what COSTS say, with normal noise of this relative deviation. */
export class KnownMachine implements Machine {
  readonly #noise: number;
  readonly #chance: Random;

  constructor(noise = 0, seed = 1) {
    this.#noise = noise;
    this.#chance = new Random(seed).fork('machine');
  }

  step(items: readonly StepItem[]): Taken {
    const { prefillTokens, decodeSequences, contextTokens } = shapeOf(items);
    const { step, prefillToken, decodeSequence, contextToken, gap, gapSequence } = COSTS;
    const micros = step + prefillToken * prefillTokens + decodeSequence * decodeSequences + contextToken * contextTokens;
    return { micros: this.#noisy(micros), gapMicros: this.#noisy(gap + gapSequence * items.length), failed: false };
  }

  copy({ direction, runs, blocks }: Chunk): Taken {
    const [one, run, byte] = COSTS.copy[direction];
    return { micros: this.#noisy(one + run * runs.length + byte * blocks * BLOCK_BYTES), gapMicros: 40, failed: false };
  }

  copied(): void {}

  #noisy(micros: number): number {
    return Math.max(1, Math.round(micros * Math.max(0.2, 1 + this.#noise * this.#chance.normal())));
  }
}

export interface DrawnRequest {
  readonly at: number;
  readonly tenant: string;
  readonly priority: number;
  readonly promptTokens: number;
  readonly maxTokens: number;
  /** After which the model ends it; above `maxTokens`: never. */
  readonly outputTokens: number;
  readonly stem: string;
  readonly weight?: number;
  readonly deadlines?: Deadlines;
  readonly abort?: { readonly at: number; readonly reason: AbortReason };
}

/** Three tenants of three priorities, Poisson, some with a common beginning. */
export function drawLoad(count: number, gapMicros: number, seed = 1): readonly DrawnRequest[] {
  const random = new Random(seed).fork('load');
  let at = 0;
  return Array.from({ length: count }, (_, k) => {
    at += random.exponential(gapMicros);
    const tenant = random.int(3);
    const outputTokens = 5 + random.int([20, 40, 120][tenant] as number);
    return {
      at: Math.round(at),
      tenant: ['desk', 'phone', 'batch'][tenant] as string,
      priority: tenant,
      promptTokens: 20 + random.int(150),
      maxTokens: random.next() < 0.5 ? outputTokens : 200,
      outputTokens,
      stem: random.next() < 0.3 ? `stem ${tenant}` : `own ${k}`,
    };
  });
}

interface Served {
  readonly limits?: Limits;
  readonly machine?: Machine;
  /** Does something to the runtime at a time. */
  readonly acts?: readonly { readonly at: number; readonly act: (runtime: Runtime) => void }[];
  readonly until?: number;
}

/** Serves the requests in virtual time; with `until` the recording is cut off there. */
export function record(requests: readonly DrawnRequest[], { limits = LIMITS, machine, acts = [], until }: Served = {}): Observed {
  const agenda = new Agenda();
  const observed = new Observed(limits);
  let failure: Error | null = null;
  const runtime = new Runtime({
    limits,
    makeHands: (answer) =>
      simulatedHands(
        agenda,
        {
          machine: machine ?? new KnownMachine(),
          duplex: limits.mechanism.duplex,
          blockBytes: limits.blockBytes,
          request(id) {
            const { outputTokens, stem } = requests[id - 1] as DrawnRequest;
            return { outputTokens, name: (index) => (index < 4 ? `${stem} ${index}` : `${id} ${index}`) };
          },
        },
        answer,
      ),
    sink: {
      tokens() {},
      end() {},
      failed(error) {
        failure = error;
      },
    },
    witness: (event, effects) => observed.see(event, effects),
  });
  for (const [index, { at, promptTokens, maxTokens, priority, tenant, abort, ...more }] of requests.entries()) {
    const pace = { weight: more.weight ?? 1, deadlines: more.deadlines ?? { ttftMicros: null, tbtMicros: null } };
    const id = index + 1;
    const content = { promptTokens: new Int32Array(promptTokens), sampling: GREEDY, stopTokens: [], cacheSalt: '' };
    agenda.add(at, () => runtime.submit(id, { content, maxTokens, priority, tenant, ...pace, labels: [] }));
    if (abort) agenda.add(abort.at, () => runtime.deliver({ type: 'aborted', id, reason: abort.reason }));
  }
  for (const { at, act } of acts) agenda.add(at, () => act(runtime));
  while (failure === null && (until === undefined || agenda.now < until) && agenda.next());
  if (failure !== null) throw failure;
  return observed;
}
