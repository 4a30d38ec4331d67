/**
 * What a decision costs, and beside it what remembering the lives of all requests does: the core alone, on virtual
 * answers, with N requests alive of which up to 256 run, under memory pressure (so that it swaps). Half of the requests are
 * the next turn of a chat that has ended. Prints decisions per second and how that grows with N, for the preset that
 * keeps and copies ahead the most and for the least.
 *
 *   node dist/bench/core.js [--quick] [--json]
 */
import { createHash } from 'node:crypto';
import { checkState } from '../src/core/check.js';
import { BLOCK_TOKENS } from '../src/core/config.js';
import { Lives } from '../src/core/lives.js';
import { PRESETS, type PresetName } from '../src/core/presets.js';
import { Random } from '../src/core/random.js';
import { decide } from '../src/core/scheduler.js';
import { createState, type State } from '../src/core/state.js';
import type { BlockName, Effect, Event, SteppedItem, TransferId } from '../src/core/types.js';

const quick = process.argv.includes('--quick');
const STEPS = quick ? 300 : 1000;
/** Longer chats are not continued. */
const CHAT_TOKENS_MAX = 300;
/** Under a policy that knows them. */
const TENANTS = 16;

type Measured = 'fcfs' | 'priority' | 'fair';

interface Row {
  readonly preset: PresetName;
  readonly live: number;
  readonly running: number;
  readonly policy: string;
  readonly microsPerStep: number;
  /** Of `Lives`, not in the above. */
  readonly livesMicrosPerStep: number;
  readonly decisionsPerSecond: number;
  readonly swaps: number;
  /** Transfers ahead of need, and tokens that were found instead of computed. */
  readonly ahead: number;
  readonly found: number;
  readonly hash: string;
}

type StepEffect = Extract<Effect, { type: 'step' }>;

/** A core, what is in flight, and what its decisions took; names are made outside the time that is measured. */
class Core {
  readonly state: State;
  readonly totals = { micros: 0, livesMicros: 0, decisions: 0, steps: 0, swaps: 0, ahead: 0, found: 0 };
  readonly #lives = new Lives();
  readonly #hash = createHash('sha256');
  readonly #random: Random;
  /** Of each request that lives: which chat it is a turn of, and the tokens of that so far. */
  readonly #turns = new Map<number, { readonly chat: number; tokens: number }>();
  readonly #ended: { readonly chat: number; readonly tokens: number }[] = [];
  #id = 0;
  #at = 0;
  #step: StepEffect | null = null;
  #transfers: { readonly transfer: TransferId; readonly blocks: number }[] = [];

  constructor(preset: PresetName, live: number, running: number, policy: Measured) {
    this.#random = new Random(live);
    this.state = createState({
      policy,
      mechanism: PRESETS[preset].mechanism,
      blockBytes: 1 << 16,
      deviceBlocks: running * 7,
      hostBlocks: live * 24,
      maxBatchTokens: 1024,
      maxRunning: running,
      maxQueued: 10 * live,
    });
  }

  get digest(): string {
    return this.#hash.digest('hex').slice(0, 12);
  }

  turn(live: number): void {
    this.#at += 10_000;
    while (this.state.requests.size < live) this.#arrive();
    const landed = this.#transfers;
    this.#transfers = [];
    for (const { transfer, blocks } of landed) this.#send({ type: 'landed', at: this.#at, transfer, micros: 20 * blocks });
    // Priorities change while requests run, as in the paper: this is what makes preemption an everyday matter.
    if (this.state.policy.name === 'priority') {
      const items = [{ id: 1 + this.#random.int(this.#id), priority: this.#random.int(8) }];
      this.#send({ type: 'reprioritized', at: this.#at, items });
    }
    const done = this.#step;
    this.#step = null;
    if (done === null) return;
    const items = done.items.map(({ id, count, sample }): SteppedItem => {
      const request = this.state.requests.get(id);
      const known = sample && request !== undefined ? request.promptTokens + request.generated + 1 : 0;
      const full = known > 0 && known % BLOCK_TOKENS === 0;
      const name = full ? this.#name(id, known / BLOCK_TOKENS - 1) : null;
      return { id, count, token: sample ? 1 : -1, ended: false, logprobs: null, name };
    });
    this.#send({ type: 'stepped', at: this.#at, step: done.step, micros: 10_000, items });
    this.totals.steps += 1;
  }

  #name(id: number, block: number): BlockName {
    return `${this.#turns.get(id)?.chat}/${block}`;
  }

  #arrive(): void {
    this.#id += 1;
    const id = this.#id;
    const random = this.#random;
    const goesOn = random.next() < 0.5 && this.#ended.length > 0;
    const [earlier] = goesOn ? this.#ended.splice(random.int(this.#ended.length), 1) : [];
    const promptTokens = (earlier?.tokens ?? 0) + 10 + random.int(30);
    this.#turns.set(id, { chat: earlier?.chat ?? id, tokens: promptTokens });
    const names = Array.from({ length: Math.floor(promptTokens / BLOCK_TOKENS) }, (_, block) => this.#name(id, block));
    const maxTokens = 50 + random.int(earlier === undefined ? 300 : 100);
    const [at, priority] = [this.#at, random.int(8)];
    const tenant = `tenant ${id % TENANTS}`;
    const pace = { weight: 1, ttftMicros: null, tbtMicros: null };
    this.#send({ type: 'arrived', at, id, labels: [], promptTokens, maxTokens, priority, tenant, ...pace, names });
  }

  #send(event: Event): void {
    const started = process.hrtime.bigint();
    const effects = decide(this.state, event);
    const decided = process.hrtime.bigint();
    this.#lives.apply(event, effects, this.state);
    this.totals.livesMicros += Number(process.hrtime.bigint() - decided) / 1000;
    this.totals.micros += Number(decided - started) / 1000;
    this.totals.decisions += 1;
    for (const effect of effects) this.#note(effect);
    this.#hash.update(`${effects.length} `);
  }

  #note(effect: Effect): void {
    if (effect.type === 'step') this.#step = effect;
    if (effect.type === 'swapOut' || effect.type === 'swapIn' || effect.type === 'mirror' || effect.type === 'prefetch') {
      this.#transfers.push(effect);
      if (effect.type === 'swapOut') this.totals.swaps += 1;
      if (effect.type === 'mirror' || effect.type === 'prefetch') this.totals.ahead += 1;
    }
    if (effect.type === 'park') this.totals.swaps += 1;
    if (effect.type === 'admit' || effect.type === 'swapIn') this.totals.found += effect.cachedTokens;
    if (effect.type === 'finish') this.#end(effect.id);
    else if (effect.type === 'tokens') for (const { id } of effect.items) (this.#turns.get(id) as { tokens: number }).tokens += 1;
  }

  #end(id: number): void {
    const turn = this.#turns.get(id);
    this.#turns.delete(id);
    if (turn !== undefined && turn.tokens <= CHAT_TOKENS_MAX) this.#ended.push(turn);
  }
}

/** Keeps `live` requests alive for `STEPS` steps; every transfer lands before the step that follows it ends. */
function measure(preset: PresetName, live: number, policy: Measured): Row {
  const running = Math.min(256, live);
  const core = new Core(preset, live, running, policy);
  for (let n = 0; n < STEPS / 5; n += 1) core.turn(live); // warm up
  const { totals } = core;
  for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] = 0;
  for (let n = 0; n < STEPS; n += 1) core.turn(live);
  checkState(core.state);
  // Who is served in order of arrival seldom outgrows the headroom that is kept.
  if (totals.swaps === 0 && policy === 'priority') throw new Error('this load does not swap: it would measure the easy half');
  return {
    preset,
    policy,
    live,
    running,
    microsPerStep: totals.micros / totals.steps,
    livesMicrosPerStep: totals.livesMicros / totals.steps,
    decisionsPerSecond: totals.decisions / (totals.micros / 1e6),
    swaps: totals.swaps,
    ahead: totals.ahead,
    found: totals.found,
    hash: core.digest,
  };
}

const sizes = quick ? [64, 256] : [64, 256, 1024, 4096];
measure('default', 64, 'priority'); // not shown: code that was not compiled yet
const pairs = [
  ['default', 'fcfs'],
  ['default', 'priority'],
  ['default', 'fair'],
  ['vllm-0.3', 'fcfs'],
  ['vllm-0.3', 'priority'],
] as const;
const rows = pairs.flatMap(([preset, policy]) => sizes.map((live) => measure(preset, live, policy)));
if (process.argv.includes('--json')) {
  console.log(JSON.stringify(rows));
} else {
  console.log('preset    policy    live  running  us/step  lives us/step  decisions/s  swaps  ahead    found  hash');
  for (const row of rows) {
    const { preset, policy, live, running, microsPerStep, livesMicrosPerStep, decisionsPerSecond, swaps, ahead, found, hash } =
      row;
    console.log(
      `${preset.padEnd(9)} ${policy.padEnd(8)} ${String(live).padStart(5)} ${String(running).padStart(8)} ` +
        `${microsPerStep.toFixed(1).padStart(8)} ${livesMicrosPerStep.toFixed(1).padStart(14)} ${Math.round(decisionsPerSecond).toString().padStart(12)} ` +
        `${String(swaps).padStart(6)} ${String(ahead).padStart(6)} ${String(found).padStart(8)}  ${hash}`,
    );
  }
}
