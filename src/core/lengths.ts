/**
 * How long requests are and where their time goes, for dashboards: of those that have ended with at least one token, however
 * they ended, so that all of these speak of the same requests.
 */
import { type Histogram, LENGTH_BOUNDS, MICROS_PER_SECOND, REQUEST_BOUNDS, STEP_BOUNDS, Tally } from './histogram.js';
import type { Micros } from './types.js';

export interface LengthsSnapshot {
  readonly promptLength: Histogram;
  readonly generationLength: Histogram;
  /** The most that they might have generated. */
  readonly mostLength: Histogram;
  /** Tokens of prompts that were not found at the first admission. */
  readonly computedPromptLength: Histogram;
  /** First admission to first token; from there to the last token; both. Whatever happened to the request meanwhile. */
  readonly prefillSeconds: Histogram;
  readonly decodeSeconds: Histogram;
  readonly inferenceSeconds: Histogram;
  /** Mean between tokens, of those that generated two or more. */
  readonly meanTbtSeconds: Histogram;
}

/** A request that has ended; times on one clock. */
export interface EndedRequest {
  readonly promptTokens: number;
  readonly cachedPromptTokens: number;
  readonly generated: number;
  readonly maxTokens: number;
  readonly admittedAt: Micros;
  readonly firstTokenAt: Micros;
  readonly lastTokenAt: Micros;
}

export class Lengths {
  readonly #prompt = new Tally(LENGTH_BOUNDS, 1);
  readonly #generation = new Tally(LENGTH_BOUNDS, 1);
  readonly #most = new Tally(LENGTH_BOUNDS, 1);
  readonly #computed = new Tally(LENGTH_BOUNDS, 1);
  readonly #prefill = new Tally(REQUEST_BOUNDS, MICROS_PER_SECOND);
  readonly #decode = new Tally(REQUEST_BOUNDS, MICROS_PER_SECOND);
  readonly #inference = new Tally(REQUEST_BOUNDS, MICROS_PER_SECOND);
  readonly #meanTbt = new Tally(STEP_BOUNDS, MICROS_PER_SECOND);

  ended(request: EndedRequest): void {
    const { promptTokens, generated, admittedAt, firstTokenAt, lastTokenAt } = request;
    if (generated === 0) return;
    this.#prompt.observe(promptTokens);
    this.#generation.observe(generated);
    this.#most.observe(request.maxTokens);
    this.#computed.observe(promptTokens - request.cachedPromptTokens);
    this.#prefill.observe(firstTokenAt - admittedAt);
    this.#decode.observe(lastTokenAt - firstTokenAt);
    this.#inference.observe(lastTokenAt - admittedAt);
    if (generated > 1) this.#meanTbt.observe(Math.round((lastTokenAt - firstTokenAt) / (generated - 1)));
  }

  snapshot(): LengthsSnapshot {
    return {
      promptLength: this.#prompt.histogram(),
      generationLength: this.#generation.histogram(),
      mostLength: this.#most.histogram(),
      computedPromptLength: this.#computed.histogram(),
      prefillSeconds: this.#prefill.histogram(),
      decodeSeconds: this.#decode.histogram(),
      inferenceSeconds: this.#inference.histogram(),
      meanTbtSeconds: this.#meanTbt.histogram(),
    };
  }
}
