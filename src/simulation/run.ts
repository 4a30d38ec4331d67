/**
 * One run in virtual time: the real runtime, core and charts on simulated hands, under a workload and a pattern of
 * priorities. The same options give the same run, to the digest.
 */

import { Digest } from '../actors/digest.js';
import { ProfileMachine } from '../actors/machine.js';
import type { Answer, Hands, JournalPort, RequestEnd } from '../actors/ports.js';
import { Agenda, simulatedHands } from '../actors/simulated.js';
import { Runtime } from '../actors/system.js';
import { BLOCK_TOKENS, GREEDY } from '../core/config.js';
import type { ParsedPreset } from '../core/presets.js';
import { Random } from '../core/random.js';
import type { Limits, State } from '../core/state.js';
import type { Effect, Event, Micros, PolicyName, RequestId } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import { type Pattern, Priorities, updatePeriod } from './patterns.js';
import type { Scenario } from './profiles.js';
import type { RunResult } from './result.js';
import { OwnTime } from './stopwatch.js';
import { RunWitness } from './witness.js';
import type { Session, Turn, Workload } from './workload.js';

export interface SimulationOptions {
  readonly scenario: Scenario;
  readonly preset: ParsedPreset;
  readonly policy: PolicyName;
  /** No turn may be longer than the scenario's context. */
  readonly workload: Workload;
  readonly pattern: Pattern;
  /** Of the machine's chance and of the priorities; the workload has its own. */
  readonly seed: number;
  /** Standard deviation of the relative error of steps and copies around the cost model. */
  readonly noise: number;
  /** Told after every request that ends: the share of requests that have. */
  readonly onProgress: ((share: number) => void) | null;
  /** Sees every decision, and the state after it. */
  readonly watch?: (event: Event, effects: readonly Effect[], state: State) => void;
  /** Opens the journal of the run. */
  readonly journal?: (limits: Limits) => RunJournal;
}

/** `closed` when the run is over, and in any case `stop` at its end: there is no waiting in virtual time. */
export interface RunJournal extends JournalPort {
  closed(at: Micros): void;
  stop(): void;
}

/** The machine's error around the cost model, unless told otherwise. */
export const NOISE = 0.05;

/** So many events without a token are a run that goes nowhere. */
const EVENTS_WITHOUT_TOKEN_MAX = 200_000;

/**
 * Runs until every request has ended.
 * @throws Error where the system fails, a request is refused, or one never ends.
 */
export function runSimulation(options: SimulationOptions): RunResult {
  return new Simulation(options).run();
}

class Simulation {
  readonly #options: SimulationOptions;
  readonly #agenda = new Agenda();
  readonly #digest = new Digest();
  readonly #witness: RunWitness;
  readonly #ownTime = new OwnTime();
  readonly #priorities: Priorities;
  readonly #updatePeriod: number;
  readonly #runtime: Runtime;
  readonly #journal: RunJournal | undefined;
  /** Prompts have lengths and no content: all are views of this. */
  readonly #noTokens: Int32Array;
  /** By request number: whose turn it is. */
  readonly #turns: { readonly session: number; readonly turn: number }[] = [];
  /** The request of each session that has one. */
  readonly #live = new Map<number, RequestId>();
  #ended = 0;
  #steps = 0;
  #eventsSinceToken = 0;
  #failure: Error | null = null;

  constructor(options: SimulationOptions) {
    const { scenario, workload, pattern, seed } = options;
    this.#options = options;
    this.#priorities = new Priorities(pattern, seed);
    this.#updatePeriod = updatePeriod(pattern);
    const limits = limitsOf(options);
    this.#witness = new RunWitness(limits.blockBytes);
    this.#noTokens = new Int32Array(longestPrompt(workload, scenario.contextTokensMax));
    this.#journal = options.journal?.(limits);
    this.#runtime = new Runtime({
      limits,
      ...(this.#journal === undefined ? {} : { journal: this.#journal }),
      makeHands: (answer) => this.#hands(answer, limits),
      sink: {
        tokens: () => {},
        end: (id, end) => this.#ownTime.outside(() => this.#end(id, end)),
        // Comes last, after the ends of all requests, and says why they ended.
        failed: (error) => {
          this.#failure = error;
        },
      },
      witness: (event, effects, state) => this.#ownTime.outside(() => this.#see(event, effects, state)),
      stopwatch: this.#ownTime,
    });
  }

  run(): RunResult {
    try {
      return this.#runToEnd();
    } finally {
      this.#journal?.stop();
    }
  }

  #runToEnd(): RunResult {
    const { workload, seed } = this.#options;
    const started = performance.now();
    this.#begin(0);
    while (this.#failure === null && this.#agenda.next());
    if (this.#failure !== null) throw this.#explained(this.#failure);
    if (this.#ended < workload.requests)
      throw this.#explained(new Error(`${workload.requests - this.#ended} requests never ended`));
    this.#journal?.closed(this.#agenda.now);
    const seconds = (performance.now() - started) / 1000;
    const { cachedPromptTokens, prefillTokensComputed } = this.#runtime.snapshot();
    const observed = this.#witness.observed();
    const perStep = (micros: number) => micros / Math.max(1, observed.steps);
    return {
      seed,
      digest: this.#digest.end(),
      requests: this.#ended,
      ...observed,
      cachedTokens: cachedPromptTokens,
      prefillTokensComputed,
      decideMicrosPerStep: perStep(this.#ownTime.decideMicros),
      actorMicrosPerStep: perStep(this.#ownTime.restMicros),
      stepsPerSecond: observed.steps / seconds,
    };
  }

  #hands(answer: Answer, limits: Limits): Hands {
    const { scenario, preset, noise, seed } = this.#options;
    const { engine, transfers, clock, close } = simulatedHands(
      this.#agenda,
      {
        machine: new ProfileMachine({
          profile: scenario.profile,
          mechanism: preset.mechanism,
          seed: new Random(seed).fork('machine').word(),
          blockBytes: limits.blockBytes,
          noise,
          stepFaults: 0,
          transferFaults: 0,
        }),
        duplex: preset.mechanism.duplex,
        blockBytes: limits.blockBytes,
        request: (id) => this.#simulated(id),
      },
      (event) => {
        if (event.type === 'stepped') this.#beforeStepped();
        this.#ownTime.inside(() => answer(event));
      },
    );
    const outside = this.#ownTime.outside.bind(this.#ownTime);
    return {
      engine: {
        open: (id, content) => outside(() => engine.open(id, content)),
        step: (effect) => outside(() => engine.step(effect)),
        close: (id) => outside(() => engine.close(id)),
      },
      transfers: { start: (effect) => outside(() => transfers.start(effect)) },
      clock,
      close,
    };
  }

  #simulated(id: RequestId) {
    const { session, turn } = this.#turns[id] as { session: number; turn: number };
    const { turns, name } = this.#session(session);
    return { outputTokens: (turns[turn] as Turn).replyTokens, name };
  }

  #session(index: number): Session {
    return this.#options.workload.sessions[index] as Session;
  }

  /** Starts a session when its time has come, and then looks to the next: sessions are in order of start. */
  #begin(index: number): void {
    const session = this.#options.workload.sessions[index];
    if (session === undefined) return;
    this.#agenda.add(session.startMicros, () => {
      this.#priorities.open(index);
      this.#submit(index, 0);
      this.#begin(index + 1);
    });
  }

  #submit(session: number, turn: number): void {
    const { tenant, turns, weight, deadlines } = this.#session(session);
    const { promptTokens } = turns[turn] as Turn;
    const id = this.#turns.length === 0 ? 1 : this.#turns.length;
    this.#turns[id] = { session, turn };
    this.#live.set(session, id);
    const content = { promptTokens: this.#noTokens.subarray(0, promptTokens), sampling: GREEDY, stopTokens: [], cacheSalt: '' };
    // As most clients do, it sets no limit: the scheduler must not know the length of a reply before it is there.
    const maxTokens = this.#options.scenario.contextTokensMax - promptTokens;
    const priority = this.#priorities.of(session);
    const pace = { ...(weight === undefined ? {} : { weight }), ...(deadlines === undefined ? {} : { deadlines }) };
    this.#ownTime.inside(() => this.#runtime.submit(id, { content, maxTokens, priority, tenant, ...pace, labels: [] }));
  }

  #end(id: RequestId, end: RequestEnd): void {
    if (end.outcome !== 'stop' && end.outcome !== 'length') {
      this.#failure ??= new Error(`request ${id} ended as ${end.outcome}: ${end.message ?? end.code ?? 'no reason given'}`);
      return;
    }
    const { session, turn } = this.#turns[id] as { session: number; turn: number };
    this.#live.delete(session);
    const next = this.#session(session).turns[turn + 1];
    if (next === undefined) this.#priorities.close(session);
    else this.#agenda.add(this.#agenda.now + next.thinkMicros, () => this.#submit(session, turn + 1));
    this.#ended += 1;
    this.#options.onProgress?.(this.#ended / this.#options.workload.requests);
  }

  /** Priorities change between iterations: in the moment in which a step returns, before the next one is made. */
  #beforeStepped(): void {
    this.#steps += 1;
    if (this.#updatePeriod === 0 || this.#steps % this.#updatePeriod !== 0) return;
    const items: { id: RequestId; priority: number }[] = [];
    for (const session of this.#priorities.update()) {
      const id = this.#live.get(session);
      if (id !== undefined) items.push({ id, priority: this.#priorities.of(session) });
    }
    if (items.length > 0) this.#ownTime.inside(() => this.#runtime.deliver({ type: 'reprioritized', items }));
  }

  #see(event: Event, effects: readonly Effect[], state: State): void {
    this.#digest.add(event, effects);
    this.#options.watch?.(event, effects, state);
    const tokens = this.#witness.tokens;
    this.#witness.see(event, effects);
    this.#eventsSinceToken = this.#witness.tokens === tokens ? this.#eventsSinceToken + 1 : 0;
    if (this.#eventsSinceToken > EVENTS_WITHOUT_TOKEN_MAX) {
      throw new Error(`no token in ${EVENTS_WITHOUT_TOKEN_MAX} events: the run goes nowhere`);
    }
  }

  #explained(error: Error): Error {
    if (error instanceof FastswitchError) return error;
    const { scenario, preset, policy, pattern, seed } = this.#options;
    const where = `${preset.name}, ${scenario.name}, ${pattern.type}, ${policy}, seed ${seed}, step ${this.#steps}`;
    return new Error(`simulation (${where}): ${error.message}`, { cause: error });
  }
}

function limitsOf({ scenario, preset, policy, workload }: SimulationOptions): Limits {
  const { deviceBlocks, hostBlocks, maxBatchTokens, maxRunning, profile } = scenario;
  return {
    policy,
    mechanism: preset.mechanism,
    deviceBlocks,
    hostBlocks,
    blockBytes: BLOCK_TOKENS * profile.kvBytesPerToken,
    maxBatchTokens,
    maxRunning,
    // Whoever arrives is served in the end: a refusal would be a result that no latency shows.
    maxQueued: workload.requests + 1,
  };
}

function longestPrompt({ sessions }: Workload, contextTokensMax: number): number {
  let longest = 0;
  for (const { turns } of sessions) {
    for (const { promptTokens, replyTokens } of turns) {
      longest = Math.max(longest, promptTokens);
      if (promptTokens + replyTokens > contextTokensMax) {
        throw new Error(`a turn of ${promptTokens + replyTokens} tokens is longer than the context of ${contextTokensMax}`);
      }
    }
  }
  return longest;
}
