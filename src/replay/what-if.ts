/**
 * What if the recorded load had been served otherwise? The arrivals, aborts, priorities, deadlines and weights of a recording
 * meet the real runtime, core and charts in virtual time, on a machine fitted to the recording: once under the limits of the recording,
 * which tells the error of the method, and once under the changed ones.
 *
 * The load is open: requests come when they came, aborts when they were sent. A client that waits for an answer before it
 * asks again would have asked at other times; what it would have done is not known.
 */
import { Agenda, simulatedHands } from '../actors/simulated.js';
import { Runtime } from '../actors/system.js';
import { GREEDY } from '../core/config.js';
import { Random } from '../core/random.js';
import type { Limits } from '../core/state.js';
import type { Effect, Event, Micros, RequestId } from '../core/types.js';
import { type Change, maxTokensOn } from './change.js';
import { FiguresFold, medianFigures, type RunFigures } from './figures.js';
import { fitMachine, type MachineFit } from './fit.js';
import { notesOf } from './notes.js';
import type { Observed, ObservedRequest } from './observed.js';

export interface WhatIfOptions {
  /** Runs with other chance, of which the median is reported. */
  readonly seeds: number;
  /** Of the first of them. */
  readonly seed: number;
  /** Of the model: copies for each run are 2 x layers where a preset lays out blocks by layers. Null: not known. */
  readonly layers: number | null;
}

const DEFAULTS: WhatIfOptions = { seeds: 3, seed: 1, layers: null };

/**
 * How far the model's run of the recorded limits is from the recording: modelled / recorded - 1; null where nothing was
 * recorded that it could be compared with.
 */
export interface MethodError {
  readonly ttftP50: number | null;
  readonly ttftP95: number | null;
  readonly ttftP99: number | null;
  readonly tbtP50: number | null;
  readonly tbtP99: number | null;
  readonly tokensPerSecond: number | null;
}

/** Plain data: what is printed with --json. */
export interface WhatIfResult {
  readonly change: string;
  readonly limits: { readonly recorded: Limits; readonly changed: Limits };
  readonly seeds: number;
  readonly machine: Pick<MachineFit, 'steps' | 'copies'>;
  readonly recorded: RunFigures;
  /** The recorded limits, and the changed ones, in the model. */
  readonly modelled: RunFigures;
  readonly changed: RunFigures;
  readonly error: MethodError;
  /** What the reader has to know to judge the figures. */
  readonly notes: readonly string[];
}

/**
 * Runs the load of a recording under its own limits and under changed ones. The same recording, change and options give
 * the same result.
 * @throws FastswitchError `bad_config` where the recording is too short for a model.
 */
export function whatIf(observed: Observed, change: Change, options: Partial<WhatIfOptions> = {}): WhatIfResult {
  return new Model(observed, options).ask(change);
}

/** A recording's load and machine, of which several things can be asked. */
export class Model {
  readonly #observed: Observed;
  readonly #options: WhatIfOptions;
  readonly #fit: MachineFit;
  readonly #recorded: RunFigures;
  readonly #modelled: RunFigures;

  /** Throws as `whatIf` does. */
  constructor(observed: Observed, options: Partial<WhatIfOptions> = {}) {
    this.#observed = observed;
    this.#options = { ...DEFAULTS, ...options };
    this.#fit = fitMachine(observed, piecesOf(observed.limits, this.#options.layers));
    this.#recorded = observed.figures();
    this.#modelled = this.#run(observed.limits, 1);
  }

  /** How many times as long the machine took, in another run, for the same work. */
  slowdown(other: Observed): number {
    return this.#fit.slowdown(other.steps);
  }

  /** `slowdown`: the changed run is on a machine that takes so many times as long as the recorded one. */
  ask(change: Change, slowdown = 1): WhatIfResult {
    const { seeds, layers } = this.#options;
    const [observed, fit, modelled] = [this.#observed, this.#fit, this.#modelled];
    const changed = this.#run(change.limits, slowdown);
    return {
      change: change.name,
      limits: { recorded: observed.limits, changed: change.limits },
      seeds,
      machine: { steps: fit.steps, copies: fit.copies },
      recorded: this.#recorded,
      modelled,
      changed,
      error: errorOf(this.#recorded, modelled),
      notes: notesOf({ observed, change, fit, layers, modelled, changed }),
    };
  }

  #run(limits: Limits, slowdown: number): RunFigures {
    const { seeds, seed, layers } = this.#options;
    const [load, fit] = [loadOf(this.#observed, limits), this.#fit];
    return medianFigures(
      Array.from({ length: seeds }, (_, k) => simulate({ load, limits, fit, seed: seed + k, layers, slowdown })),
    );
  }
}

function piecesOf({ mechanism }: Limits, layers: number | null): number {
  return mechanism.crossLayer ? 1 : 2 * (layers ?? 0.5);
}

function errorOf(recorded: RunFigures, modelled: RunFigures): MethodError {
  const error = (of: (figures: RunFigures) => number) => {
    const [truth, model] = [of(recorded), of(modelled)];
    return truth === 0 ? null : model / truth - 1;
  };
  return {
    ttftP50: error(({ ttftMs }) => ttftMs.p50),
    ttftP95: error(({ ttftMs }) => ttftMs.p95),
    ttftP99: error(({ ttftMs }) => ttftMs.p99),
    tbtP50: error(({ tbtMs }) => tbtMs.p50),
    tbtP99: error(({ tbtMs }) => tbtMs.p99),
    tokensPerSecond: error(({ tokensPerSecond }) => tokensPerSecond),
  };
}

interface LoadRequest extends ObservedRequest {
  /** Tokens after which the model ends it, whatever it allows. */
  readonly outputTokens: number;
}

interface Load {
  readonly requests: ReadonlyMap<RequestId, LoadRequest>;
  /** Everything the world did, in order of time. */
  readonly acts: readonly { readonly at: Micros; readonly act: (runtime: Runtime) => void }[];
}

/**
 * The world's part of the recording. A request that ended by itself has the same length in any schedule. Others may go on
 * to what they allow, until their client leaves; one that was refused is as long as the median of the others.
 *
 * A device of fewer blocks is that of a server with a shorter context, which would have allowed less to who asks for all.
 */
function loadOf(observed: Observed, limits: Limits): Load {
  const lengths = observed.requests
    .filter(({ outcome }) => outcome === 'stop' || outcome === 'length')
    .map(({ generated }) => generated);
  const typical = lengths.sort((a, b) => a - b)[lengths.length >> 1] ?? 1;
  const prompt = new Int32Array(observed.requests.reduce((most, { promptTokens }) => Math.max(most, promptTokens), 0));
  const acts: { at: Micros; act: (runtime: Runtime) => void }[] = [];
  const requests = new Map<RequestId, LoadRequest>();
  for (const request of observed.requests) {
    const { id, arrivedAt, promptTokens, outcome } = request;
    const maxTokens = maxTokensOn(request, observed.limits, limits);
    requests.set(id, { ...request, outputTokens: outputTokens(request, typical) });
    // Prompts have lengths and no content: all are views of one.
    const content = { promptTokens: prompt.subarray(0, promptTokens), sampling: GREEDY, stopTokens: [], cacheSalt: '' };
    const { priority, tenant, weight, ttftMicros, tbtMicros } = request;
    const asked = { content, maxTokens, priority, tenant, weight, deadlines: { ttftMicros, tbtMicros }, labels: [] };
    acts.push({ at: arrivedAt, act: (runtime) => runtime.submit(id, asked) });
    if (outcome !== null) continue;
    acts.push({ at: observed.endedAt, act: (runtime) => runtime.deliver({ type: 'aborted', id, reason: 'shutdown' }) });
  }
  for (const { at, id, reason } of observed.aborts) {
    acts.push({ at, act: (runtime) => runtime.deliver({ type: 'aborted', id, reason }) });
  }
  for (const { at, items } of observed.reprioritized) {
    acts.push({ at, act: (runtime) => runtime.deliver({ type: 'reprioritized', items }) });
  }
  for (const { at, tenant, weight } of observed.reweighted) {
    acts.push({ at, act: (runtime) => runtime.reweight(tenant, weight) });
  }
  const { drainingAt } = observed;
  if (drainingAt !== null) acts.push({ at: drainingAt, act: (runtime) => runtime.deliver({ type: 'draining' }) });
  return { requests, acts: acts.sort((a, b) => a.at - b.at) };
}

function outputTokens({ outcome, generated }: ObservedRequest, typical: number): number {
  if (outcome === 'stop' || outcome === 'failed') return Math.max(1, generated);
  return outcome === 'rejected' ? typical : Number.POSITIVE_INFINITY;
}

/** So many events without a token are a run that goes nowhere. */
const EVENTS_WITHOUT_TOKEN_MAX = 200_000;

interface ModelRun {
  readonly load: Load;
  readonly limits: Limits;
  readonly fit: MachineFit;
  readonly seed: number;
  readonly layers: number | null;
  readonly slowdown: number;
}

/** One run in virtual time. Throws an Error where the system fails or a request never ends. */
function simulate({ load, limits, fit, seed, layers, slowdown }: ModelRun): RunFigures {
  const agenda = new Agenda();
  const figures = new FiguresFold(limits.blockBytes);
  const machine = fit.machine({
    seed: new Random(seed).fork('what-if').word(),
    piecesPerRun: piecesOf(limits, layers),
    slowdown,
  });
  let failure: Error | null = null;
  let alive = 0;
  let barren = 0;
  const see = (event: Event, effects: readonly Effect[]) => {
    const { tokens } = figures;
    figures.see(event, effects);
    barren = figures.tokens === tokens ? barren + 1 : 0;
    if (event.type === 'arrived') alive += 1;
    if (barren > EVENTS_WITHOUT_TOKEN_MAX)
      throw new Error(`no token in ${EVENTS_WITHOUT_TOKEN_MAX} events: the run goes nowhere`);
  };
  const runtime = new Runtime({
    limits,
    makeHands: (answer) =>
      simulatedHands(
        agenda,
        {
          machine,
          duplex: limits.mechanism.duplex,
          blockBytes: limits.blockBytes,
          gathers: true,
          request: (id) => simulated(load.requests.get(id) as LoadRequest),
        },
        answer,
      ),
    sink: {
      tokens() {},
      end() {
        alive -= 1;
      },
      // Comes last, after the ends of all requests, and says why they ended.
      failed(error) {
        failure = error;
      },
    },
    witness: see,
  });
  for (const { at, act } of load.acts) agenda.add(at, () => act(runtime));
  while (failure === null && agenda.next());
  if (failure !== null) throw new Error(`what-if: ${(failure as Error).message}`, { cause: failure });
  if (alive > 0) throw new Error(`what-if: ${alive} requests never ended`);
  return figures.result();
}

/** Tokens beyond those of the recording are nobody else's. */
function simulated({ id, names, outputTokens }: LoadRequest) {
  return { outputTokens, name: (index: number) => names[index] ?? `what-if ${id}.${index}` };
}
