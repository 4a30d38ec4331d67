/**
 * The thread on which long texts are encoded. Started by the first of them; one text at a time, in order.
 */
import { Worker } from 'node:worker_threads';
import { FastswitchError } from '../errors.js';
// The build takes along only what is imported: this line also brings the worker's own file there.
import type { EncoderAnswer } from './encoder-worker.mjs';

/** Characters that may wait at once: about 40 seconds of work. */
const WAITING_CHARACTERS_MAX = 64_000_000;

interface Waiting {
  readonly characters: number;
  readonly resolve: (ids: Int32Array | null) => void;
  readonly reject: (error: Error) => void;
}

export class EncoderThread {
  readonly #sealedJson: string;
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | null = null;
  #jobs = 0;
  #characters = 0;

  /** @param sealedJson `tokenizer.json` with control tokens under their sealed names. */
  constructor(sealedJson: string) {
    this.#sealedJson = sealedJson;
  }

  /**
   * Token ids; null if there are surely more than `tokensMax` (a text of little more may come back whole).
   * @throws FastswitchError queue_full if too many long texts wait already.
   */
  encode(sealed: string, addSpecial: boolean, tokensMax: number): Promise<Int32Array | null> {
    // One text alone is bounded by the size of a request.
    if (this.#waiting.size > 0 && this.#characters + sealed.length > WAITING_CHARACTERS_MAX) {
      return Promise.reject(
        new FastswitchError('queue_full', 'Too many long prompts wait to be tokenised. Try again later.', null, 5),
      );
    }
    this.#worker ??= this.#start();
    const worker = this.#worker;
    this.#jobs += 1;
    const job = this.#jobs;
    return new Promise((resolve, reject) => {
      this.#waiting.set(job, { characters: sealed.length, resolve, reject });
      this.#characters += sealed.length;
      // Only a thread with work keeps the process alive.
      worker.ref();
      worker.postMessage({ job, text: sealed, addSpecial, tokensMax });
    });
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(new URL('./encoder-worker.mjs', import.meta.url), { workerData: this.#sealedJson });
    worker.on('message', (answer: EncoderAnswer) => {
      const waiting = this.#waiting.get(answer.job);
      this.#waiting.delete(answer.job);
      this.#characters -= waiting?.characters ?? 0;
      if (this.#waiting.size === 0) worker.unref();
      if (answer.error === null) waiting?.resolve(answer.ids);
      else waiting?.reject(new Error(`Encoding failed: ${answer.error}`));
    });
    worker.on('error', (error) => this.#lost(worker, error));
    worker.on('exit', () => this.#lost(worker, new Error('The encoder thread has ended.')));
    return worker;
  }

  /** The next long text starts a new thread. */
  #lost(worker: Worker, error: Error): void {
    if (this.#worker !== worker) return;
    this.#worker = null;
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
    this.#characters = 0;
  }
}
