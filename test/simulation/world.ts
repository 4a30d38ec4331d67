/** One simulated run from a seed: draws a machine, a load and its troubles, runs the real runtime on virtual time. */
import { createHash } from 'node:crypto';
import { Agenda, simulatedHands } from '../../src/actors/simulated.js';
import { Listeners } from '../../src/actors/stream.js';
import { Runtime, type SubmitRequest } from '../../src/actors/system.js';
import { GREEDY } from '../../src/core/config.js';
import type { HardwareProfile } from '../../src/core/cost.js';
import { Random } from '../../src/core/random.js';
import type { Limits } from '../../src/core/state.js';
import type { Outcome, PolicyName } from '../../src/core/types.js';
import {
  conservation,
  endsOnce,
  type Law,
  lowestRankGoesFirst,
  nobodyIdles,
  nobodySharesABlock,
  noSecondThoughts,
  sameKv,
  stepWithinLimits,
} from './laws.js';

export interface WorldParameters {
  readonly seed: number;
  readonly limits: Limits;
  readonly requests: number;
  readonly meanGapMicros: number;
  readonly promptMax: number;
  readonly outputMax: number;
  readonly abortShare: number;
  /** Draining begins when this share of the requests has arrived; 1: never. */
  readonly drainAt: number;
  /** Every so often each live request draws a new priority with this probability (the paper's Random pattern). */
  readonly reshufflePeriodMicros: number;
  readonly reshuffleShare: number;
  readonly stepFaults: number;
  readonly transferFaults: number;
  readonly profile: HardwareProfile;
}

export interface WorldResult {
  readonly digest: string;
  readonly outcomes: Record<Outcome, number>;
  readonly swaps: number;
  readonly recomputes: number;
  readonly events: number;
  readonly stepsBesideACopy: number;
  readonly abortsRemembered: number;
  readonly virtualMicros: number;
}

export function drawParameters(seed: number, profile: HardwareProfile): WorldParameters {
  const random = new Random(seed).fork('parameters');
  const deviceBlocks = 8 + random.int(56);
  const maxRunning = 1 + random.int(12);
  const policy: PolicyName = random.next() < 0.3 ? 'fcfs' : 'priority';
  const limits: Limits = {
    policy,
    deviceBlocks,
    hostBlocks: random.next() < 0.3 ? random.int(12) : 16 + random.int(200),
    maxBatchTokens: maxRunning + random.int(200),
    maxRunning,
    maxQueued: random.next() < 0.2 ? 1 + random.int(8) : 100,
  };
  // Mostly a third of the device, sometimes all of it and more (which is refused).
  const longest = Math.max(4, Math.floor(deviceBlocks * (random.next() < 0.3 ? 9 : 16 / 3)));
  const outputMax = 1 + random.int(longest);
  // About as fast as the machine can serve, so that requests of every rank meet those that already run.
  const meanGapMicros = Math.round((0.25 + 2 * random.next()) * 45_000 * (outputMax / 2) * (1 / Math.min(maxRunning, 4)));
  return {
    seed,
    limits,
    requests: 20 + random.int(60),
    meanGapMicros,
    promptMax: 1 + random.int(longest),
    outputMax,
    abortShare: random.next() < 0.5 ? 0 : 0.3 * random.next(),
    drainAt: random.next() < 0.85 ? 1 : random.next(),
    reshufflePeriodMicros: 45_000 * (1 + random.int(40)),
    reshuffleShare: random.next() < 0.3 ? 0 : random.next(),
    stepFaults: random.next() < 0.8 ? 0 : 0.02,
    transferFaults: random.next() < 0.7 ? 0 : 0.1,
    // From a link that is never noticed to one over which a copy outlives many steps.
    profile: { ...profile, linkBytesPerMicro: profile.linkBytesPerMicro * 10 ** (-4.5 * random.next()) },
  };
}

function submission(random: Random, parameters: WorldParameters): SubmitRequest {
  return {
    content: {
      promptTokens: new Int32Array(1 + random.int(parameters.promptMax)),
      stopTokens: [],
      sampling: GREEDY,
    },
    maxTokens: 1 + random.int(parameters.outputMax),
    priority: random.int(4),
    tenant: `tenant-${random.int(3)}`,
  };
}

/** Runs to the end. Throws the first broken law, with the drawn parameters. */
export function runWorld(parameters: WorldParameters): WorldResult {
  const { limits, seed } = parameters;
  const random = new Random(seed).fork('load');
  const agenda = new Agenda();
  const hash = createHash('sha256');
  const laws: Law[] = [
    conservation,
    stepWithinLimits,
    lowestRankGoesFirst,
    nobodyIdles,
    noSecondThoughts,
    endsOnce(),
    nobodySharesABlock(),
    sameKv(limits.deviceBlocks, limits.hostBlocks),
  ];
  const outcomes = { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 };
  const counts = { swaps: 0, recomputes: 0, events: 0, stepsBesideACopy: 0, abortsRemembered: 0 };
  const listeners = new Listeners();
  let failure: Error | null = null;
  const lengths = new Map<number, number>();
  const live = new Set<number>();
  const runtime: Runtime = new Runtime({
    limits,
    blockBytes: 1 << 16,
    makeHands: (answer) =>
      simulatedHands(
        agenda,
        { ...parameters, blockBytes: 1 << 16, noise: 0.2, outputTokens: (id) => lengths.get(id) ?? 1 },
        answer,
      ),
    sink: {
      tokens: (items) => listeners.tokens(items),
      end: (id, end) => listeners.end(id, end),
      failed: (error) => {
        failure = error;
      },
    },
    witness(event, effects, state) {
      counts.events += 1;
      if (counts.events > 100_000) throw new Error('progress: 100,000 events and still not done');
      for (const effect of effects) {
        if (effect.type === 'swapOut') counts.swaps += 1;
        if ((effect.type === 'swapOut' || effect.type === 'swapIn') && random.next() < parameters.abortShare / 4) {
          const { id } = effect;
          agenda.add(agenda.now + 1, () => runtime.deliver({ type: 'aborted', id, reason: 'client' }));
        }
        if (effect.type === 'step' && state.moving.size > 0) counts.stepsBesideACopy += 1;
        if (event.type === 'aborted' && effect.type === 'ending') counts.abortsRemembered += 1;
        if (effect.type === 'recompute') counts.recomputes += 1;
      }
      hash.update(JSON.stringify([event, effects]));
      for (const law of laws) law(event, effects, state);
    },
  });

  let at = 0;
  for (let n = 0; n < parameters.requests; n += 1) {
    at += random.exponential(parameters.meanGapMicros);
    const request = submission(random, parameters);
    const length = 1 + random.int(parameters.outputMax);
    const aborts = random.next() < parameters.abortShare;
    const later = at + random.exponential(2 * parameters.meanGapMicros);
    if (n === Math.floor(parameters.drainAt * parameters.requests)) agenda.add(at, () => void runtime.drain());
    agenda.add(at, () => {
      const id: number = listeners.open({
        tokens() {},
        end(end) {
          outcomes[end.outcome] += 1;
          live.delete(id);
        },
      });
      lengths.set(id, length);
      live.add(id);
      runtime.submit(id, request);
      if (aborts) agenda.add(later, () => runtime.deliver({ type: 'aborted', id, reason: 'client' }));
    });
  }
  // Bounded: who is reshuffled at every step for ever, with no host room, may rightly never get anywhere.
  let reshuffles = 0;
  const reshuffle = () => {
    reshuffles += 1;
    for (const id of live) {
      if (random.next() < parameters.reshuffleShare) runtime.deliver({ type: 'reprioritized', id, priority: random.int(10) });
    }
    if (agenda.size > 0 && reshuffles < 200) agenda.add(agenda.now + parameters.reshufflePeriodMicros, reshuffle);
  };
  if (parameters.reshuffleShare > 0) agenda.add(0, reshuffle);
  while (failure === null && agenda.next());
  if (failure !== null) throw new Error(`${(failure as Error).message}\n${JSON.stringify(parameters)}`, { cause: failure });
  const ended = Object.values(outcomes).reduce((sum, count) => sum + count, 0);
  if (ended !== parameters.requests)
    throw new Error(`${parameters.requests - ended} requests never ended\n${JSON.stringify(parameters)}`);
  return { digest: hash.digest('hex'), outcomes, ...counts, virtualMicros: agenda.now };
}
