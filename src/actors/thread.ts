/**
 * The system on a worker thread of its own: this file is both ends of the port between face and engine room, and the
 * messages that cross it. Plain data, batched: all commands of one turn go in one message, and so do all tokens and
 * ends of one step.
 */
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { type MessagePort, Worker } from 'node:worker_threads';
import type { BoardReading } from '../core/board.js';
import type { Config } from '../core/config.js';
import type { AbortReason, Deadlines, EmittedToken, RequestId, TokenLogprobs } from '../core/types.js';
import { type ErrorCode, FastswitchError } from '../errors.js';
import { type PackedReading, packReading, unpackReading } from './packed.js';
import type { JournalPort, JournalStatus, Listener, RequestEnd, Turn } from './ports.js';
import { Listeners } from './stream.js';
import {
  type Explanation,
  Runtime,
  type RuntimeOptions,
  type Sink,
  type SubmitRequest,
  type System,
  type SystemInfo,
  type SystemSnapshot,
} from './system.js';

type Command =
  | { readonly type: 'submit'; readonly id: RequestId; readonly request: SubmitRequest }
  | { readonly type: 'abort'; readonly id: RequestId; readonly reason: AbortReason }
  | { readonly type: 'reprioritize'; readonly id: RequestId; readonly priority: number | null; readonly deadlines?: Deadlines }
  | { readonly type: 'reweight'; readonly tenant: string; readonly weight: number }
  | { readonly type: 'call'; readonly call: number; readonly asked: Asked };

/** What is answered once: the question, and by its type the answer. */
type Asked =
  | { readonly type: 'snapshot' | 'drain' | 'close' }
  | { readonly type: 'explain'; readonly name: string }
  | { readonly type: 'places'; readonly ids: readonly RequestId[] }
  | { readonly type: 'board'; readonly maps: boolean };

interface Answers {
  readonly snapshot: SystemSnapshot;
  /** A text: why it could not be told. A mistake there is no reason to stop. */
  readonly explain: readonly Explanation[] | string;
  readonly board: PackedReading | string;
  readonly places: readonly number[];
  readonly drain: null;
  readonly close: null;
}

type Report =
  | { readonly type: 'ready'; readonly info: SystemInfo }
  | { readonly type: 'unfit'; readonly code: ErrorCode; readonly message: string }
  | {
      readonly type: 'products';
      /** Three numbers a token: [request, index, token]; request numbers outgrow 32 bits. */
      readonly tokens: Float64Array;
      /** By position in `tokens`; null when nobody asked for any. */
      readonly logprobs: readonly (TokenLogprobs | null)[] | null;
      /** Who begins to compute or has to leave the device; null where nobody does. */
      readonly turns: readonly (readonly [RequestId, Turn])[] | null;
      readonly ends: readonly (readonly [RequestId, RequestEnd])[];
    }
  | { readonly type: 'answer'; readonly call: number; readonly value: Answers[keyof Answers] }
  | { readonly type: 'failed'; readonly message: string };

/** What the worker is told at its start. */
export interface ThreadData {
  readonly config: Config;
  /** Of fastswitch, for its journal. */
  readonly version: string;
}

/** Starts the worker, loads the model there, and resolves when it serves. Throws FastswitchError where it cannot. */
export async function createThreadedSystem(config: Config, version: string): Promise<System> {
  const data: ThreadData = { config, version };
  const worker = new Worker(new URL('./thread-worker.js', import.meta.url), { workerData: data });
  const info = await new Promise<SystemInfo>((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the system thread ended with code ${code} before it was ready`)));
    worker.once('message', (report: Report) => {
      if (report.type === 'ready') resolve(report.info);
      else if (report.type === 'unfit') reject(new FastswitchError(report.code, report.message));
      else reject(new Error(`the system thread said ${report.type} before it was ready`));
    });
  });
  for (const name of ['error', 'exit'] as const) worker.removeAllListeners(name);
  return new ThreadedSystem(worker, info);
}

const TERMINATE_MILLIS = 3000;

class ThreadedSystem implements System {
  readonly info: SystemInfo;
  readonly failed: Promise<Error>;
  readonly #worker: Worker;
  readonly #listeners = new Listeners();
  /** Null instead of an answer: the other side is gone. */
  readonly #calls = new Map<number, (value: Answers[keyof Answers] | null) => void>();
  #commands: Command[] = [];
  #lastCall = 0;
  #closing = false;
  #closed: Promise<void> | null = null;
  #failure: Error | null = null;
  #reportFailure: (error: Error) => void = () => {};

  constructor(worker: Worker, info: SystemInfo) {
    this.info = info;
    this.#worker = worker;
    this.failed = new Promise((resolve) => {
      this.#reportFailure = resolve;
    });
    worker.on('message', (report: Report) => this.#receive(report));
    worker.on('error', (error) => this.#fail(error));
    worker.on('exit', (code) => {
      if (!this.#closing || this.#calls.size > 0) this.#fail(new Error(`the system thread ended with code ${code}`));
    });
  }

  submit(request: SubmitRequest, listener: Listener): RequestId {
    if (request.content.promptTokens.length < 1 || request.maxTokens < 1)
      throw new RangeError('a request needs a prompt and room to answer');
    const id = this.#listeners.open(listener);
    if (this.#failure !== null) queueMicrotask(() => this.#listeners.end(id, brokenEnd(this.#failure as Error)));
    else this.#send({ type: 'submit', id, request });
    return id;
  }

  abort(id: RequestId, reason: AbortReason): void {
    this.#send({ type: 'abort', id, reason });
  }

  reprioritize(id: RequestId, priority: number | null, deadlines?: Deadlines): void {
    this.#send({ type: 'reprioritize', id, priority, ...(deadlines === undefined ? {} : { deadlines }) });
  }

  reweight(tenant: string, weight: number): void {
    this.#send({ type: 'reweight', tenant, weight });
  }

  async places(ids: readonly RequestId[]): Promise<readonly number[]> {
    return (await this.#call({ type: 'places', ids })) ?? stopped();
  }

  async snapshot(): Promise<SystemSnapshot> {
    return (await this.#call({ type: 'snapshot' })) ?? stopped();
  }

  async explain(name: string): Promise<readonly Explanation[]> {
    const answer = (await this.#call({ type: 'explain', name })) ?? stopped();
    if (typeof answer === 'string') throw new FastswitchError('internal', `this request cannot be explained: ${answer}`);
    return answer;
  }

  async board(maps: boolean): Promise<BoardReading> {
    const answer = (await this.#call({ type: 'board', maps })) ?? stopped();
    if (typeof answer === 'string') throw new FastswitchError('internal', `the board cannot be drawn: ${answer}`);
    return unpackReading(answer);
  }

  async drain(): Promise<void> {
    await this.#call({ type: 'drain' });
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    this.#closing = true;
    await this.#call({ type: 'close' });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), TERMINATE_MILLIS);
    });
    const ended = await Promise.race([this.#worker.terminate(), late]);
    clearTimeout(timer);
    this.#stop(new Error('it was closed'));
    // A disk that hangs holds the thread that writes to it, and no thread can end before that does.
    if (ended === 'late')
      throw new Error('the system thread does not end: the operating system holds it, as a disk that hangs does');
  }

  /** Null: the other side is gone, or for a question that has no answer but that it is done. */
  #call<T extends Asked>(asked: T): Promise<Answers[T['type']] | null> {
    if (this.#failure !== null) return Promise.resolve(null);
    this.#lastCall += 1;
    const call = this.#lastCall;
    this.#send({ type: 'call', call, asked });
    return new Promise((resolve) => {
      this.#calls.set(call, (value) => resolve(value as Answers[T['type']] | null));
    });
  }

  #send(command: Command): void {
    this.#commands.push(command);
    if (this.#commands.length > 1) return;
    queueMicrotask(() => {
      this.#worker.postMessage(this.#commands);
      this.#commands = [];
    });
  }

  #receive(report: Report): void {
    if (report.type === 'products') {
      const { tokens, logprobs, turns, ends } = report;
      const items: EmittedToken[] = [];
      for (let at = 0; at < tokens.length; at += 3) {
        const [id, index, token] = [tokens[at] as number, tokens[at + 1] as number, tokens[at + 2] as number];
        items.push({ id, index, token, logprobs: logprobs?.[at / 3] ?? null });
      }
      this.#listeners.tokens(items);
      if (turns !== null) for (const [id, turn] of turns) this.#listeners.turn(id, turn);
      for (const [id, end] of ends) this.#listeners.end(id, end);
    } else if (report.type === 'answer') {
      this.#calls.get(report.call)?.(report.value);
      this.#calls.delete(report.call);
    } else if (report.type === 'failed') {
      this.#fail(new Error(report.message));
    }
  }

  #fail(error: unknown): void {
    if (this.#failure !== null) return;
    this.#stop(error instanceof Error ? error : new Error(String(error)));
    this.#reportFailure(this.#failure as unknown as Error);
  }

  /** Nothing comes from the other side any more: every request and every call ends here. */
  #stop(reason: Error): void {
    this.#failure = reason;
    this.#listeners.endAll(brokenEnd(reason));
    for (const resolve of this.#calls.values()) resolve(null);
    this.#calls.clear();
  }
}

function stopped(): never {
  throw new FastswitchError('engine_failed', 'the engine has stopped; restart the server');
}

function brokenEnd(error: Error): RequestEnd {
  return {
    outcome: 'failed',
    code: 'engine_failed',
    message: `the engine stopped: ${error.message}`,
    cachedTokens: 0,
    retryAfterSeconds: null,
  };
}

/** The worker's end: runs a system behind `port`. */
export function serveRuntime(
  port: MessagePort,
  info: SystemInfo,
  options: Omit<RuntimeOptions, 'sink' | 'journal'> & { readonly journal?: JournalPort & { status(): JournalStatus } },
): void {
  const post = (report: Report) => port.postMessage(report);
  const runtime = new Runtime({ ...options, sink: batchingSink(post) });
  const answer = async (asked: Asked): Promise<Answers[keyof Answers]> => {
    switch (asked.type) {
      case 'snapshot':
        return { ...runtime.snapshot(), loopDelaySeconds: takeDelay(loopDelay), journal: options.journal?.status() ?? null };
      case 'explain':
        return toldOrWhyNot(() => runtime.explain(asked.name));
      case 'board':
        return toldOrWhyNot(() => packReading({ ...runtime.board(asked.maps), loopDelaySeconds: boardDelay.take() }));
      case 'places':
        return runtime.places(asked.ids);
      case 'drain':
        return runtime.drain().then(() => null);
      case 'close':
        return runtime.close().then(() => null);
    }
  };
  const loopDelay = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MILLIS });
  loopDelay.enable();
  const boardDelay = new BoardDelay();
  const obey = (command: Command) => {
    switch (command.type) {
      case 'submit':
        return runtime.submit(command.id, command.request);
      case 'abort':
        return runtime.deliver({ type: 'aborted', id: command.id, reason: command.reason });
      case 'reprioritize':
        return runtime.reprioritize(command.id, command.priority, command.deadlines);
      case 'reweight':
        return runtime.reweight(command.tenant, command.weight);
      case 'call': {
        const { call } = command;
        return void answer(command.asked).then((value) => post({ type: 'answer', call, value }));
      }
    }
  };
  port.on('message', (commands: readonly Command[]) => commands.forEach(obey));
  post({ type: 'ready', info });
}

function toldOrWhyNot<T>(tell: () => T): T | string {
  try {
    return tell();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** How often the delay is sampled: the timer alone makes every sample that much at least. */
const LOOP_RESOLUTION_MILLIS = 10;
/** No board has asked for so long: nobody looks. */
const BOARD_FORGOTTEN_MILLIS = 10_000;

/** Reads the delays seen since the last call, without the sampling interval itself. */
function takeDelay(histogram: IntervalHistogram): SystemSnapshot['loopDelaySeconds'] {
  const seconds = (nanos: number) => Math.max(0, nanos / 1e9 - LOOP_RESOLUTION_MILLIS / 1e3);
  const delay = {
    '0.5': seconds(histogram.percentile(50)),
    '0.99': seconds(histogram.percentile(99)),
    '1': seconds(histogram.max),
  };
  histogram.reset();
  return delay;
}

/** The delay for boards, which look more often than /metrics is scraped; measured only while one looks. */
class BoardDelay {
  readonly #histogram = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MILLIS });
  #forgotten: NodeJS.Timeout | null = null;

  /** Of the time since the last call; null where that was long ago. */
  take(): BoardReading['loopDelaySeconds'] {
    const measured = this.#forgotten !== null;
    if (this.#forgotten !== null) clearTimeout(this.#forgotten);
    this.#forgotten = setTimeout(() => {
      this.#histogram.disable();
      this.#forgotten = null;
    }, BOARD_FORGOTTEN_MILLIS).unref();
    if (measured) {
      const delay = takeDelay(this.#histogram);
      return delay && [delay['0.5'], delay['0.99'], delay['1']];
    }
    this.#histogram.reset();
    this.#histogram.enable();
    return null;
  }
}

/** Collects what one delivery produces and posts it as one message. */
function batchingSink(post: (report: Report) => void): Sink {
  let tokens: EmittedToken[] = [];
  let turns: [RequestId, Turn][] = [];
  let ends: [RequestId, RequestEnd][] = [];
  let scheduled = false;
  const flush = () => {
    if (!scheduled) return;
    scheduled = false;
    const words = new Float64Array(3 * tokens.length);
    for (const [index, item] of tokens.entries()) words.set([item.id, item.index, item.token], 3 * index);
    const logprobs = tokens.some((item) => item.logprobs !== null) ? tokens.map((item) => item.logprobs) : null;
    post({ type: 'products', tokens: words, logprobs, turns: turns.length === 0 ? null : turns, ends });
    tokens = [];
    turns = [];
    ends = [];
  };
  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    queueMicrotask(flush);
  };
  return {
    tokens(items) {
      tokens.push(...items);
      schedule();
    },
    turn(id, turn) {
      turns.push([id, turn]);
      schedule();
    },
    end(id, end) {
      ends.push([id, end]);
      schedule();
    },
    failed(error) {
      flush();
      post({ type: 'failed', message: error.message });
    },
  };
}
