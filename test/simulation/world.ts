/** One simulated run from a seed: draws a machine, a load and its troubles, runs the real runtime on virtual time. */
import { createHash } from 'node:crypto';
import { ProfileMachine } from '../../src/actors/machine.js';
import { Agenda, simulatedHands } from '../../src/actors/simulated.js';
import { Listeners } from '../../src/actors/stream.js';
import { Runtime, type SubmitRequest } from '../../src/actors/system.js';
import { GREEDY } from '../../src/core/config.js';
import type { HardwareProfile } from '../../src/core/cost.js';
import { type Mechanism, PRESET_NAMES, PRESETS } from '../../src/core/presets.js';
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
  readonly mirrors: number;
  readonly prefetches: number;
  readonly parked: number;
  readonly resumed: number;
  readonly cachedTokens: number;
  readonly virtualMicros: number;
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[random.int(values.length)] as T;
}

/** A preset as it is, or with every switch drawn anew. */
function drawMechanism(random: Random): Mechanism {
  const preset: Mechanism = PRESETS[random.next() < 0.4 ? 'default' : pick(random, PRESET_NAMES)].mechanism;
  if (random.next() < 0.6) return preset;
  const coin = () => random.next() < 0.5;
  return {
    ...preset,
    groups: coin(),
    growthReserveBlocks: pick(random, [0, 4, 60]),
    waits: pick(random, ['sync', 'async', 'adaptive']),
    preemption: random.next() < 0.8 ? 'swap' : 'recompute',
    reuse: coin(),
    finished: pick(random, ['drop', 'save', 'warm']),
    mirror: coin(),
    prefetch: coin(),
    partial: coin(),
    paced: coin(),
    prefill: pick(random, ['mixed', 'alone', 'balanced']),
    oneWay: random.next() < 0.3,
    duplex: coin(),
    quantumTokens: pick(random, [0, 16, 256]),
    weighed: coin(),
    starvationSeconds: pick(random, [0, 1, 5]),
  };
}

export function drawParameters(seed: number, profile: HardwareProfile): WorldParameters {
  const random = new Random(seed).fork('parameters');
  const deviceBlocks = 8 + random.int(56);
  const maxRunning = 1 + random.int(12);
  const policy = pick<PolicyName>(random, ['fcfs', 'priority', 'priority', 'priority', 'vtc', 'fair', 'fair', 'mlfq', 'edf']);
  const mechanism = drawMechanism(random);
  const everlasting = policy === 'mlfq' && !mechanism.weighed;
  const limits: Limits = {
    policy,
    mechanism: { ...mechanism, ...(everlasting && { preemption: 'swap' }) },
    blockBytes: 1 << 16,
    deviceBlocks,
    // Where nothing can be kept and no switch is weighed, a feedback queue that lifts the starving may let them push each
    // other out for ever.
    hostBlocks: everlasting ? 1000 : random.next() < 0.3 ? random.int(12) : 16 + random.int(200),
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

/**
 * The texts of a run: each continues an earlier one from some position on, or starts with one of two system prompts, so
 * that requests share prefixes of all kinds. A token's tag names the text that introduced it.
 */
class Texts {
  readonly #texts: { readonly parent: number; readonly from: number }[] = [
    { parent: -1, from: 0 },
    { parent: -1, from: 0 },
  ];

  /** A text that is `parent` (0 and 1: system prompts) up to `from`, and new from there. */
  add(parent: number, from: number): number {
    return this.#texts.push({ parent, from }) - 1;
  }

  tag(text: number, position: number): string {
    let at = text;
    for (let { parent, from } = this.#texts[at] as { parent: number; from: number }; parent >= 0 && position < from; ) {
      at = parent;
      ({ parent, from } = this.#texts[at] as { parent: number; from: number });
    }
    return `${at}@${position}`;
  }
}

interface Drawn {
  readonly request: SubmitRequest;
  readonly text: number;
}

/** A request that continues one that has ended (as the next turn of a chat, or a branch of it), or a new one. */
function submission(
  random: Random,
  parameters: WorldParameters,
  texts: Texts,
  ended: readonly { text: number; tokens: number }[],
): Drawn {
  const earlier = ended.length > 0 && random.next() < 0.5 ? pick(random, ended) : { text: random.int(2), tokens: random.int(80) };
  const from = random.next() < 0.8 ? earlier.tokens : random.int(earlier.tokens + 1);
  const prompt = from + 1 + random.int(parameters.promptMax);
  return {
    text: texts.add(earlier.text, from),
    request: {
      content: { promptTokens: new Int32Array(prompt), stopTokens: [], sampling: GREEDY, cacheSalt: '' },
      maxTokens: 1 + random.int(parameters.outputMax),
      priority: random.int(4),
      tenant: `tenant-${random.int(3)}`,
      weight: 1 + random.int(4),
      deadlines: {
        ttftMicros: random.next() < 0.5 ? null : random.int(2_000_000),
        tbtMicros: random.next() < 0.5 ? null : random.int(200_000),
      },
      labels: [],
    },
  };
}

/** Runs to the end. Throws the first broken law, of these and `more`, with the drawn parameters. */
export function runWorld(parameters: WorldParameters, ...more: readonly Law[]): WorldResult {
  const { limits, seed } = parameters;
  const random = new Random(seed).fork('load');
  const agenda = new Agenda();
  const hash = createHash('sha256');
  const texts = new Texts();
  const textOf = new Map<number, number>();
  const ended: { text: number; tokens: number }[] = [];
  const laws: Law[] = [
    conservation,
    stepWithinLimits,
    lowestRankGoesFirst,
    nobodyIdles,
    noSecondThoughts,
    endsOnce(),
    nobodySharesABlock(),
    sameKv(limits.deviceBlocks, limits.hostBlocks, (id, position) => texts.tag(textOf.get(id) as number, position)),
    ...more,
  ];
  const outcomes = { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 };
  const counts = {
    swaps: 0,
    recomputes: 0,
    events: 0,
    stepsBesideACopy: 0,
    abortsRemembered: 0,
    mirrors: 0,
    prefetches: 0,
    parked: 0,
    resumed: 0,
    cachedTokens: 0,
  };
  const listeners = new Listeners();
  let failure: Error | null = null;
  const lengths = new Map<number, number>();
  const live = new Set<number>();
  const runtime: Runtime = new Runtime({
    limits,
    makeHands: (answer) =>
      simulatedHands(
        agenda,
        {
          machine: new ProfileMachine({ ...parameters, mechanism: limits.mechanism, blockBytes: limits.blockBytes, noise: 0.2 }),
          duplex: limits.mechanism.duplex,
          blockBytes: limits.blockBytes,
          request: (id) => ({
            outputTokens: lengths.get(id) ?? 1,
            name: (block) => texts.tag(textOf.get(id) as number, 16 * block + 15),
          }),
        },
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
        if (effect.type === 'mirror') counts.mirrors += 1;
        if (effect.type === 'prefetch') counts.prefetches += 1;
        if (effect.type === 'park') counts.parked += 1;
        if (effect.type === 'resume') counts.resumed += 1;
        if (effect.type === 'admit' || effect.type === 'swapIn') counts.cachedTokens += effect.cachedTokens;
        if ((effect.type === 'swapOut' || effect.type === 'swapIn') && random.next() < parameters.abortShare / 4) {
          const { id } = effect;
          agenda.add(agenda.now + 1, () => runtime.deliver({ type: 'aborted', id, reason: 'client' }));
        }
        if (effect.type === 'step' && state.flights.size > 0) counts.stepsBesideACopy += 1;
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
    const length = 1 + random.int(parameters.outputMax);
    const aborts = random.next() < parameters.abortShare;
    const later = at + random.exponential(2 * parameters.meanGapMicros);
    const draw = random.fork(`request ${n}`);
    if (n === Math.floor(parameters.drainAt * parameters.requests)) agenda.add(at, () => void runtime.drain());
    agenda.add(at, () => {
      const { request, text } = submission(draw, parameters, texts, ended);
      let tokens = request.content.promptTokens.length;
      const id: number = listeners.open({
        tokens(items) {
          tokens += items.length;
        },
        end(end) {
          outcomes[end.outcome] += 1;
          live.delete(id);
          if (end.outcome !== 'rejected') ended.push({ text, tokens });
        },
      });
      textOf.set(id, text);
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
    const items = [...live]
      .filter(() => random.next() < parameters.reshuffleShare)
      .map((id) => ({ id, priority: random.int(10) }));
    runtime.deliver({ type: 'reprioritized', items });
    if (agenda.size > 0 && reshuffles < 200) agenda.add(agenda.now + parameters.reshufflePeriodMicros, reshuffle);
  };
  if (parameters.reshuffleShare > 0) agenda.add(0, reshuffle);
  while (failure === null && agenda.next());
  if (failure !== null) throw new Error(`${(failure as Error).message}\n${JSON.stringify(parameters)}`, { cause: failure });
  const over = Object.values(outcomes).reduce((sum, count) => sum + count, 0);
  if (over !== parameters.requests)
    throw new Error(`${parameters.requests - over} requests never ended\n${JSON.stringify(parameters)}`);
  return { digest: hash.digest('hex'), outcomes, ...counts, virtualMicros: agenda.now };
}
