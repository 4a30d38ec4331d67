/**
 * An open-loop load of chats and the live engine that serves it, in this process: what a run of it took is seen by the same
 * witness that a replay feeds. The texts are the same in every run: answers are the engine's own, learned before.
 */
import { openLive } from '../../src/actors/live.js';
import { Runtime } from '../../src/actors/system.js';
import { type Config, DEFAULTS, GREEDY } from '../../src/core/config.js';
import { Random } from '../../src/core/random.js';
import type { EmittedToken, RequestId } from '../../src/core/types.js';
import { Observed } from '../../src/replay/observed.js';

/** One request; whose prompt continues the answer of another has its number in `after`. */
export interface Turn {
  readonly at: number;
  readonly tenant: string;
  readonly priority: number;
  readonly after: number | null;
  /** Tokens that are new in its prompt. */
  readonly said: readonly number[];
  readonly replyTokens: number;
  /** The client leaves so many milliseconds after it came, unless it is answered; null: it stays. */
  readonly leavesAfter: number | null;
}

interface Tenant {
  readonly name: string;
  readonly priority: number;
  /** Of the conversations that begin. */
  readonly share: number;
  readonly replyTokens: number;
}

const TENANTS: readonly Tenant[] = [
  { name: 'desk', priority: 0, share: 0.4, replyTokens: 24 },
  { name: 'phone', priority: 1, share: 0.3, replyTokens: 40 },
  { name: 'batch', priority: 2, share: 0.3, replyTokens: 160 },
];

const SYSTEM_TOKENS = 64;
const SAID_TOKENS_MEAN = 60;
const TURNS_MEAN = 2.5;
const THINK_SECONDS = 1.5;
const LEAVERS = 0.06;
const LEAVES_SECONDS = 0.8;
/** Prompt and reply together; the model's context is 1536. */
const CONTEXT_TOKENS_MAX = 900;
/** Ordinary tokens of the demo model's vocabulary. */
const TOKENS = { from: 300, to: 2000 };

interface LoadOptions {
  readonly seconds: number;
  /** Conversations that begin in a second. */
  readonly rate: number;
  readonly seed: number;
}

/** Turns in order of arrival (`at` in milliseconds): Poisson starts, exponential pauses, lognormal lengths. */
export function drawLoad({ seconds, rate, seed }: LoadOptions): readonly Turn[] {
  const random = new Random(seed).fork('what-if');
  const drawn: (Omit<Turn, 'after'> & { readonly before: object | null; readonly self: object })[] = [];
  const text = (tokens: number, from: Random) =>
    Array.from({ length: tokens }, () => TOKENS.from + from.int(TOKENS.to - TOKENS.from));
  const lognormal = (from: Random, mean: number, sigma: number) =>
    Math.max(4, Math.round(mean * Math.exp(sigma * from.normal() - sigma ** 2 / 2)));
  let start = 0;
  for (let chat = 0; ; chat += 1) {
    start += random.exponential(1 / rate);
    if (start > seconds) break;
    const own = random.fork(`chat ${chat}`);
    const tenant = pickTenant(own.next());
    let [at, context] = [start, 0];
    let before: object | null = null;
    do {
      const system = before === null ? text(SYSTEM_TOKENS, new Random(7).fork(tenant.name)) : [];
      const said = [...system, ...text(lognormal(own, SAID_TOKENS_MEAN, 0.6), own)];
      const replyTokens = lognormal(own, tenant.replyTokens, 0.5);
      context += said.length + replyTokens;
      if (context > CONTEXT_TOKENS_MAX || at > seconds) break;
      const leavesAfter = own.next() < LEAVERS ? 1000 * own.exponential(LEAVES_SECONDS) : null;
      const self = {};
      drawn.push({ at: 1000 * at, tenant: tenant.name, priority: tenant.priority, before, self, said, replyTokens, leavesAfter });
      before = leavesAfter === null ? self : null;
      at += 0.02 * replyTokens + own.exponential(THINK_SECONDS);
    } while (before !== null && own.next() < 1 - 1 / TURNS_MEAN);
  }
  drawn.sort((a, b) => a.at - b.at);
  const numbers = new Map(drawn.map(({ self }, index) => [self, index]));
  return drawn.map(({ before, self: _, ...turn }) => ({
    ...turn,
    after: before === null ? null : (numbers.get(before) as number),
  }));
}

function pickTenant(chance: number): Tenant {
  let below = 0;
  for (const tenant of TENANTS) {
    below += tenant.share;
    if (chance < below) return tenant;
  }
  return TENANTS.at(-1) as Tenant;
}

export interface Request extends Omit<Turn, 'said' | 'after'> {
  readonly prompt: Int32Array;
}

export interface Setting {
  readonly model: string;
  readonly preset: string;
  readonly policy: Config['policy'];
  readonly deviceKvBytes: number;
  readonly hostKvBytes: number;
  readonly maxRunning: number;
}

function configOf(setting: Setting): Config {
  // One thread computes, so that on two cores the others need not wait for it.
  return { ...DEFAULTS, ...setting, threads: 1, maxQueued: 100_000 };
}

/** Prompts with the answers that the engine gives: all chats at once, turn by turn. It also compiles what will be measured. */
export async function learn(turns: readonly Turn[], setting: Setting): Promise<readonly Request[]> {
  const server = new Server({ ...setting, maxRunning: 64 });
  const answers: number[][] = turns.map(() => []);
  const prompts: number[][] = [];
  let open = turns.map((_, index) => index);
  while (open.length > 0) {
    const ready = open.filter((index) => {
      const { after } = turns[index] as Turn;
      return after === null || prompts[after] !== undefined;
    });
    for (const index of ready) {
      const { after, said } = turns[index] as Turn;
      prompts[index] = after === null ? [...said] : [...(prompts[after] as number[]), ...(answers[after] as number[]), ...said];
    }
    await Promise.all(
      ready.map(async (index) => {
        const request = requestOf(turns[index] as Turn, prompts[index] as number[]);
        answers[index] = await server.ask(request).answer;
      }),
    );
    open = open.filter((index) => !ready.includes(index));
  }
  await server.close();
  return turns.map((turn, index) => requestOf(turn, prompts[index] as number[]));
}

function requestOf({ said: _, after: __, ...turn }: Turn, prompt: readonly number[]): Request {
  return { ...turn, prompt: Int32Array.from(prompt) };
}

/** Threads start and load what they need. */
const SETTLING_MILLIS = 300;

/** Serves the requests, each at its time, on an engine of its own; resolves when the last has ended. */
export async function serve(requests: readonly Request[], setting: Setting): Promise<Observed> {
  const server = new Server(setting);
  await new Promise((resolve) => setTimeout(resolve, SETTLING_MILLIS));
  const began = performance.now();
  const answers = requests.map(
    (request) =>
      new Promise<unknown>((resolve) => {
        setTimeout(
          () => {
            const { id, answer } = server.ask(request);
            if (request.leavesAfter !== null) setTimeout(() => server.leave(id), request.leavesAfter);
            resolve(answer);
          },
          began + request.at - performance.now(),
        );
      }),
  );
  await Promise.all(answers);
  await server.close();
  return server.observed;
}

class Server {
  readonly observed: Observed;
  readonly #runtime: Runtime;
  readonly #open = new Map<RequestId, { readonly tokens: number[]; readonly done: (tokens: number[]) => void }>();
  #count = 0;

  constructor(setting: Setting) {
    const { limits, makeHands } = openLive(configOf(setting));
    this.observed = new Observed(limits);
    this.#runtime = new Runtime({
      limits,
      makeHands,
      sink: {
        tokens: (items) => this.#take(items),
        end: (id) => {
          const open = this.#open.get(id);
          this.#open.delete(id);
          open?.done(open.tokens);
        },
        failed: (error) => {
          throw error;
        },
      },
      witness: (event, effects) => this.observed.see(event, effects),
    });
  }

  ask({ prompt, tenant, priority, replyTokens }: Request): { readonly id: RequestId; readonly answer: Promise<number[]> } {
    this.#count += 1;
    const id = this.#count;
    const answer = new Promise<number[]>((done) => this.#open.set(id, { tokens: [], done }));
    const content = { promptTokens: prompt, sampling: GREEDY, stopTokens: [], cacheSalt: '' };
    this.#runtime.submit(id, { content, maxTokens: replyTokens, priority, tenant, labels: [] });
    return { id, answer };
  }

  leave(id: RequestId): void {
    if (this.#open.has(id)) this.#runtime.deliver({ type: 'aborted', id, reason: 'client' });
  }

  close(): Promise<void> {
    return this.#runtime.close();
  }

  #take(items: readonly EmittedToken[]): void {
    for (const { id, token } of items) this.#open.get(id)?.tokens.push(token);
  }
}
