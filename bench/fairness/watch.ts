/** Watches a run and keeps what each tenant got and when: service, latency, and how far apart those who wait came. */
import { BLOCK_TOKENS } from '../../src/core/config.js';
import { parsePreset } from '../../src/core/presets.js';
import type { State } from '../../src/core/state.js';
import type { Effect, Event, Micros, PolicyName, StepItem } from '../../src/core/types.js';
import { loadScenario, type Scenario } from '../../src/simulation/profiles.js';
import type { RunResult } from '../../src/simulation/result.js';
import { runSimulation } from '../../src/simulation/run.js';
import { type Shape, workloadOf } from './shapes.js';

/** A quarter of the scenario's KV, about what the VTC paper had: so that a share of it is a few requests. */
export function machine(): Scenario {
  const scenario = loadScenario('llama8b-a10');
  return { ...scenario, deviceBlocks: 640, maxBatchTokens: 512 };
}

export interface TenantSeries {
  readonly tenant: string;
  readonly weight: number;
  /** Service so far at the end of each slice, prompt tokens once and generated ones twice, not over the weight. */
  readonly service: number[];
  readonly ttftSeconds: number[];
}

export interface Watched {
  readonly policy: PolicyName;
  readonly tenants: readonly TenantSeries[];
  /** Largest difference of what two tenants got over their weights while both had somebody waiting all the time. */
  readonly gap: number;
  readonly generatedTokens: number;
  readonly run: RunResult;
  /** The longest step: no arrival is looked at before one is over. */
  readonly stepSeconds: number;
  /** The largest that was in force. */
  readonly quantumTokens: number;
}

const PROMPT_PRICE = 1;
const TOKEN_PRICE = 2;
const MICROS = 1e6;

class Watch {
  readonly tenants = new Map<string, TenantSeries>();
  readonly #until: Micros;
  readonly #slice: Micros;
  readonly #got = new Map<string, number>();
  readonly #requests = new Map<
    number,
    { readonly tenant: string; readonly at: Micros; readonly prompt: number; paid: number; began: boolean }
  >();
  /** For each pair of tenants that both wait: the least and the greatest difference since both do. */
  readonly #pairs = new Map<string, [number, number]>();
  #plan: readonly StepItem[] = [];
  #nextSlice: Micros;
  gap = 0;
  generated = 0;
  stepMicros: Micros = 0;
  quantumTokens = 0;

  constructor(shape: Shape, slices: number) {
    this.#until = shape.seconds * MICROS;
    this.#slice = this.#until / slices;
    this.#nextSlice = this.#slice;
    for (const { tenant, weight = 1 } of shape.clients) {
      this.tenants.set(tenant, { tenant, weight, service: [], ttftSeconds: [] });
      this.#got.set(tenant, 0);
    }
  }

  see(event: Event, effects: readonly Effect[], state: State): void {
    for (; this.#nextSlice <= Math.min(event.at, this.#until); this.#nextSlice += this.#slice)
      for (const [tenant, { service }] of this.tenants) service.push(this.#got.get(tenant) as number);
    if (event.type === 'arrived')
      this.#requests.set(event.id, { tenant: event.tenant, at: event.at, prompt: event.promptTokens, paid: 0, began: false });
    if (event.type === 'stepped') {
      this.stepMicros = Math.max(this.stepMicros, event.micros);
      for (const item of this.#plan) this.#charge(item, event.at);
    }
    for (const effect of effects) if (effect.type === 'step') this.#plan = effect.items;
    this.quantumTokens = Math.max(this.quantumTokens, state.quantum.tokens);
    if (event.at <= this.#until) this.#compare(state);
  }

  #charge({ id, start, count, sample }: StepItem, at: Micros): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    const fresh = Math.max(0, Math.min(start + count, request.prompt) - Math.max(request.paid, start));
    request.paid = Math.max(request.paid, start + count);
    const service = PROMPT_PRICE * fresh + (sample ? TOKEN_PRICE : 0);
    this.#got.set(request.tenant, (this.#got.get(request.tenant) as number) + service);
    if (sample && at <= this.#until) this.generated += 1;
    if (!sample || request.began) return;
    request.began = true;
    if (request.at <= this.#until) this.tenants.get(request.tenant)?.ttftSeconds.push((at - request.at) / MICROS);
  }

  #compare(state: State): void {
    const waiting = [...this.tenants.values()].filter(({ tenant }) => (state.accounts.get(tenant)?.waiting ?? 0) > 0);
    const now = new Set<string>();
    for (const [index, a] of waiting.entries()) {
      for (const b of waiting.slice(index + 1)) {
        const key = `${a.tenant}\n${b.tenant}`;
        const difference = (this.#got.get(a.tenant) as number) / a.weight - (this.#got.get(b.tenant) as number) / b.weight;
        const [least, most] = this.#pairs.get(key) ?? [difference, difference];
        const span: [number, number] = [Math.min(least, difference), Math.max(most, difference)];
        this.#pairs.set(key, span);
        this.gap = Math.max(this.gap, span[1] - span[0]);
        now.add(key);
      }
    }
    for (const key of this.#pairs.keys()) if (!now.has(key)) this.#pairs.delete(key);
  }
}

export const SLICES = 30;

/** One run of a shape, under the default preset and a policy. */
export function watchRun(shape: Shape, policy: PolicyName, seed: number): Watched {
  const preset = parsePreset('default');
  if (typeof preset === 'string') throw new Error(preset);
  const watch = new Watch(shape, SLICES);
  const run = runSimulation({
    scenario: machine(),
    preset,
    policy,
    workload: workloadOf(shape, seed),
    pattern: { type: 'none' },
    seed,
    noise: 0.05,
    onProgress: null,
    watch: (event, effects, state) => watch.see(event, effects, state),
  });
  return {
    policy,
    tenants: [...watch.tenants.values()],
    gap: watch.gap,
    generatedTokens: watch.generated,
    run,
    stepSeconds: watch.stepMicros / MICROS,
    quantumTokens: watch.quantumTokens,
  };
}

/** The bounds of `docs/evaluation/fairness.md` on this machine, on the difference between two tenants of weight `weight` and more. */
export function bounds(shape: Shape, quantumTokens: number): { readonly published: number; readonly ours: number } {
  const { deviceBlocks, maxBatchTokens, maxRunning } = machine();
  const memory = deviceBlocks * BLOCK_TOKENS;
  const prompt = 1.1 * Math.max(...shape.clients.map((client) => client.prompt));
  const least = Math.min(...shape.clients.map(({ prompt: tokens }) => Math.ceil((0.9 * tokens + 1) / BLOCK_TOKENS)));
  const places = Math.min(maxRunning, Math.floor(deviceBlocks / least));
  const weight = Math.min(...shape.clients.map((client) => client.weight ?? 1));
  const step = PROMPT_PRICE * maxBatchTokens + TOKEN_PRICE * places;
  const unpaid = PROMPT_PRICE * Math.min(memory, places * prompt);
  return {
    published: (2 * Math.max(PROMPT_PRICE * prompt, TOKEN_PRICE * memory)) / weight,
    ours: ((places + 1) * TOKEN_PRICE * quantumTokens + unpaid + 2 * step) / weight,
  };
}
