/**
 * The system on a worker thread of its own: this file is both ends of the port between face and engine room, and the
 * messages that cross it. Plain data, batched: all commands of one turn go in one message, and so do all tokens and
 * ends of one step.
 */
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { type MessagePort, Worker } from 'node:worker_threads';
import type { Config } from '../core/config.js';
import type { AbortReason, EmittedToken, RequestId, TokenLogprobs } from '../core/types.js';
import { type ErrorCode, FastswitchError } from '../errors.js';
import type { Listener, RequestEnd } from './ports.js';
import { Listeners } from './stream.js';
import {
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
  | { readonly type: 'reprioritize'; readonly id: RequestId; readonly priority: number }
  | { readonly type: 'snapshot' | 'drain' | 'close'; readonly call: number };

type Report =
  | { readonly type: 'ready'; readonly info: SystemInfo }
  | { readonly type: 'unfit'; readonly code: ErrorCode; readonly message: string }
  | {
      readonly type: 'products';
      /** Three numbers a token: [request, index, token]; request numbers outgrow 32 bits. */
      readonly tokens: Float64Array;
      /** By position in `tokens`; null when nobody asked for any. */
      readonly logprobs: readonly (TokenLogprobs | null)[] | null;
      readonly ends: readonly (readonly [RequestId, RequestEnd])[];
    }
  | { readonly type: 'answer'; readonly call: number; readonly value: SystemSnapshot | null }
  | { readonly type: 'failed'; readonly message: string };

/** Starts the worker, loads the model there, and resolves when it serves. Throws FastswitchError where it cannot. */
export async function createThreadedSystem(config: Config): Promise<System> {
  const worker = new Worker(new URL('./thread-worker.js', import.meta.url), { workerData: config });
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

class ThreadedSystem implements System {
  readonly info: SystemInfo;
  readonly failed: Promise<Error>;
  readonly #worker: Worker;
  readonly #listeners = new Listeners();
  readonly #calls = new Map<number, (value: SystemSnapshot | null) => void>();
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

  reprioritize(id: RequestId, priority: number): void {
    this.#send({ type: 'reprioritize', id, priority });
  }

  async snapshot(): Promise<SystemSnapshot> {
    const value = await this.#call('snapshot');
    if (value === null) throw new FastswitchError('engine_failed', 'the engine has stopped; restart the server');
    return value;
  }

  async drain(): Promise<void> {
    await this.#call('drain');
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    this.#closing = true;
    await this.#call('close');
    await this.#worker.terminate();
    this.#stop(new Error('it was closed'));
  }

  #call(type: 'snapshot' | 'drain' | 'close'): Promise<SystemSnapshot | null> {
    if (this.#failure !== null) return Promise.resolve(null);
    this.#lastCall += 1;
    const call = this.#lastCall;
    this.#send({ type, call });
    return new Promise((resolve) => this.#calls.set(call, resolve));
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
      const { tokens, logprobs, ends } = report;
      const items: EmittedToken[] = [];
      for (let at = 0; at < tokens.length; at += 3) {
        const [id, index, token] = [tokens[at] as number, tokens[at + 1] as number, tokens[at + 2] as number];
        items.push({ id, index, token, logprobs: logprobs?.[at / 3] ?? null });
      }
      this.#listeners.tokens(items);
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
export function serveRuntime(port: MessagePort, info: SystemInfo, options: Omit<RuntimeOptions, 'sink'>): void {
  const post = (report: Report) => port.postMessage(report);
  const runtime = new Runtime({ ...options, sink: batchingSink(post) });
  const answer = (call: number, value: SystemSnapshot | null) => post({ type: 'answer', call, value });
  const loopDelay = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MILLIS });
  loopDelay.enable();
  const obey = (command: Command) => {
    switch (command.type) {
      case 'submit':
        return runtime.submit(command.id, command.request);
      case 'abort':
        return runtime.deliver({ type: 'aborted', id: command.id, reason: command.reason });
      case 'reprioritize':
        return runtime.deliver({ type: 'reprioritized', items: [{ id: command.id, priority: command.priority }] });
      case 'snapshot':
        return answer(command.call, { ...runtime.snapshot(), loopDelaySeconds: takeDelay(loopDelay) });
      case 'drain':
        return void runtime.drain().then(() => answer(command.call, null));
      case 'close':
        return void runtime.close().then(() => answer(command.call, null));
    }
  };
  port.on('message', (commands: readonly Command[]) => commands.forEach(obey));
  post({ type: 'ready', info });
}

/** How often the delay is sampled: the timer alone makes every sample that much at least. */
const LOOP_RESOLUTION_MILLIS = 10;

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

/** Collects what one delivery produces and posts it as one message. */
function batchingSink(post: (report: Report) => void): Sink {
  let tokens: EmittedToken[] = [];
  let ends: [RequestId, RequestEnd][] = [];
  let scheduled = false;
  const flush = () => {
    if (!scheduled) return;
    scheduled = false;
    const words = new Float64Array(3 * tokens.length);
    for (const [index, item] of tokens.entries()) words.set([item.id, item.index, item.token], 3 * index);
    const logprobs = tokens.some((item) => item.logprobs !== null) ? tokens.map((item) => item.logprobs) : null;
    post({ type: 'products', tokens: words, logprobs, ends });
    tokens = [];
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
