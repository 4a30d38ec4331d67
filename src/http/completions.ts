/**
 * POST /v1/chat/completions and POST /v1/completions.
 *
 * The path of a request: validated (by schema), interpreted, tokenised, checked against the context, submitted, and
 * answered as JSON or as a stream of events. A client that goes away or stops reading ends the work it asked for.
 */
import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import type { System } from '../actors/system.js';
import type { Config } from '../core/config.js';
import { FastswitchError } from '../errors.js';
import { callerOf } from './access.js';
import { type Answers, ChatAnswers, CompletionAnswers, type Counts, type Heading, usageOf } from './answers.js';
import { Attendance, standingOf } from './attendance.js';
import type { ChoiceCounts } from './choice-counts.js';
import { eventStream, KEEP_ALIVE_MILLIS } from './event-stream.js';
import type { Gate } from './gate.js';
import { type ChoiceRequest, Generation, type OpenGenerations, type Piece } from './generation.js';
import type { ModelInfo } from './model.js';
import {
  chatMessages,
  chatTopLogprobs,
  type Parameters,
  parameters,
  refuseCompletionExtras,
  requireToken,
  templateOptions,
} from './parameters.js';
import {
  CHAT_FOREIGN,
  type ChatRequestBody,
  COMPLETION_FOREIGN,
  type CompletionRequestBody,
  type FinishReason,
} from './schema.js';
import type { Tenants } from './tenants.js';
import { timingBody } from './timing.js';
import type { Tokenizer } from './tokenizer.js';
import type { WaitingRoom } from './waiting-room.js';

/** OpenAI's default of the legacy endpoint. A chat may use the rest of the context. */
const COMPLETION_TOKENS_DEFAULT = 16;

const NOTHING: Piece = { text: '', tokens: [], shown: [] };

export interface CompletionsParts {
  readonly config: Config;
  readonly system: System;
  readonly tokenizer: Tokenizer;
  readonly model: ModelInfo;
  readonly open: OpenGenerations;
  readonly tenants: Tenants;
  readonly gate: Gate;
  readonly room: WaitingRoom;
  readonly choiceCounts: ChoiceCounts;
  /** Of fastswitch. */
  readonly version: string;
}

/** Where a request does not say how much it may generate, this much of it is charged at first: what it used is known later. */
const UNNAMED_TOKENS_CHARGED = 512;

/** A prompt with what it may generate. */
interface Prompt {
  readonly tokens: Int32Array;
  readonly maxTokens: number;
}

interface Job {
  readonly idPrefix: 'chatcmpl' | 'cmpl';
  readonly asked: Parameters;
  readonly prompts: readonly Prompt[];
  readonly answers: Answers;
}

/** Scatters the bits of a counter (the finaliser of SplitMix64, Steele et al. 2014), so that near seeds share nothing. */
function scattered(value: bigint): bigint {
  let bits = BigInt.asUintN(64, value + 0x9e3779b97f4a7c15n);
  bits = BigInt.asUintN(64, (bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n);
  bits = BigInt.asUintN(64, (bits ^ (bits >> 27n)) * 0x94d049bb133111ebn);
  return bits ^ (bits >> 31n);
}

export class Completions {
  readonly #parts: CompletionsParts;
  /** Choices that were given a seed of ours; with config.seed it makes a run repeatable. */
  #drawn = 0n;

  constructor(parts: CompletionsParts) {
    this.#parts = parts;
  }

  async chat(body: ChatRequestBody, reply: FastifyReply): Promise<FastifyReply> {
    const { tokenizer, system } = this.#parts;
    this.#begin(body.model, reply);
    const topLogprobs = chatTopLogprobs(body);
    const maxTokens = body.max_completion_tokens ?? body.max_tokens;
    const asked = parameters(body, CHAT_FOREIGN, topLogprobs, maxTokens, system.info.vocabularySize, this.#parts.model.sampling);
    const messages = chatMessages(body.messages);
    const tokens = await tokenizer.encodeChat(
      messages,
      templateOptions(body.chat_template_kwargs, true),
      system.info.contextTokensMax,
    );
    const prompts = [this.#fitted(tokens, asked.maxTokens, null, 'messages')];
    const answers = new ChatAnswers(tokenizer, tokens, topLogprobs >= 0, asked.returnTokenIds);
    return this.#answer({ idPrefix: 'chatcmpl', asked, prompts, answers }, reply);
  }

  async completion(body: CompletionRequestBody, reply: FastifyReply): Promise<FastifyReply> {
    const { tokenizer, system } = this.#parts;
    this.#begin(body.model, reply);
    refuseCompletionExtras(body);
    const asked = parameters(
      body,
      COMPLETION_FOREIGN,
      body.logprobs ?? -1,
      body.max_tokens,
      system.info.vocabularySize,
      this.#parts.model.sampling,
    );
    const given = promptsOf(body.prompt);
    this.#refuseCrowd(given.length * asked.choices);
    const prompts: Prompt[] = [];
    for (const one of given) {
      const tokens = await this.#promptTokens(one, body.add_special_tokens ?? true);
      prompts.push(this.#fitted(tokens, asked.maxTokens, COMPLETION_TOKENS_DEFAULT, 'prompt'));
    }
    const perChoice = prompts.flatMap((prompt) => Array.from({ length: asked.choices }, () => prompt.tokens));
    const echoes =
      body.echo === true
        ? given.flatMap((one) =>
            Array.from({ length: asked.choices }, () => (typeof one === 'string' ? one : tokenizer.decode(one))),
          )
        : [];
    const answers = new CompletionAnswers(tokenizer, perChoice, echoes, body.logprobs !== undefined, asked.returnTokenIds);
    return this.#answer({ idPrefix: 'cmpl', asked, prompts, answers }, reply);
  }

  async #promptTokens(prompt: string | readonly number[], addSpecial: boolean): Promise<Int32Array> {
    const { contextTokensMax, vocabularySize } = this.#parts.system.info;
    if (typeof prompt === 'string') return this.#parts.tokenizer.encodePrompt(prompt, addSpecial, contextTokensMax, 'prompt');
    for (const token of prompt) requireToken(token, vocabularySize, 'prompt');
    return Int32Array.from(prompt);
  }

  /** What can be refused before anything is computed. */
  #begin(model: string, { request }: FastifyReply): void {
    this.#requireModel(model);
    this.#parts.gate.preview(callerOf(request).tenant);
  }

  #requireModel(name: string): void {
    if (this.#parts.model.isCalled(name)) return;
    throw new FastswitchError(
      'model_not_found',
      `There is no model '${name.slice(0, 100)}' here. This server serves '${this.#parts.model.name}'.`,
      'model',
    );
  }

  /** More choices at once than could ever wait are refused now, not with an advice to try again. */
  #refuseCrowd(choices: number): void {
    const { maxQueued, maxRunning } = this.#parts.config;
    if (choices <= maxQueued + maxRunning) return;
    throw new FastswitchError(
      'invalid_request',
      `This request asks for ${choices} choices, but the server holds at most ${maxQueued + maxRunning} at once. Send fewer prompts, or a lower n.`,
      'n',
    );
  }

  /** @throws FastswitchError context_length_exceeded with the numbers. */
  #fitted(tokens: Int32Array, asked: number | null, otherwise: number | null, param: 'messages' | 'prompt'): Prompt {
    const context = this.#parts.system.info.contextTokensMax;
    if (tokens.length === 0)
      throw new FastswitchError(
        'invalid_request',
        `The ${param} ${param === 'prompt' ? 'is' : 'are'} empty. Give at least one token.`,
        param,
      );
    const room = context - tokens.length;
    if (room < 1 || (asked !== null && asked > room)) {
      const completion = asked ?? 1;
      throw new FastswitchError(
        'context_length_exceeded',
        `This model's maximum context length is ${context} tokens, but ${tokens.length + completion} were requested: ${tokens.length} in the ${param} and ${completion} for the completion. Shorten the ${param}${asked === null ? '' : ' or lower max_tokens'}.`,
        param,
      );
    }
    return { tokens, maxTokens: asked ?? Math.min(otherwise ?? room, room) };
  }

  /** Choice k of a prompt continues from the given seed plus k; without a seed each choice gets the run's next one. */
  #seed(asked: number | null, choice: number): bigint {
    if (asked !== null) return BigInt.asUintN(64, BigInt(asked) + BigInt(choice));
    this.#drawn += 1n;
    return scattered(scattered(BigInt(this.#parts.config.seed)) ^ this.#drawn);
  }

  #choiceRequests({ asked, prompts }: Job, attendance: Attendance, labels: readonly string[]): ChoiceRequest[] {
    const stopTokens = asked.ignoreEos ? asked.stopTokens : [...new Set([...this.#parts.model.stopTokens, ...asked.stopTokens])];
    const { stop, cacheSalt, sampling } = asked;
    const { account, priority, objective } = attendance.standing;
    return prompts.flatMap(({ tokens, maxTokens }) =>
      Array.from({ length: asked.choices }, (_, choice) => ({
        promptTokens: tokens,
        sampling: { ...sampling, seed: this.#seed(asked.seed, choice) },
        stopTokens,
        stop,
        maxTokens,
        priority,
        tenant: account,
        cacheSalt,
        labels,
        deadlines: { ttftMicros: micros(objective.ttftSeconds), tbtMicros: micros(objective.tbtSeconds) },
        // A prompt is served once, whatever the number of its choices.
        meter: attendance.meter(choice === 0 ? tokens.length : 0),
      })),
    );
  }

  /** What the job may use at most, as its tenant is charged for it. */
  #asked({ idPrefix, asked, prompts }: Job, { id, model }: Heading) {
    const promptTokens = prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const completions = prompts.map(({ maxTokens }) =>
      asked.maxTokens === null ? Math.min(maxTokens, UNNAMED_TOKENS_CHARGED) : maxTokens,
    );
    const tokens = promptTokens + asked.choices * completions.reduce((sum, most) => sum + most, 0);
    const operation = idPrefix === 'chatcmpl' ? ('chat' as const) : ('text_completion' as const);
    return { operation, model, responseId: id, promptTokens, wish: { choices: prompts.length * asked.choices, tokens } };
  }

  async #answer(job: Job, reply: FastifyReply): Promise<FastifyReply> {
    const { system, tokenizer, open, room, choiceCounts } = this.#parts;
    this.#refuseCrowd(job.prompts.length * job.asked.choices);
    if (reply.raw.destroyed) return reply.hijack();
    // Under both names it can be asked about, from now on.
    const heading = this.#heading(job.idPrefix);
    const standing = standingOf(reply.request, job.asked.user, job.asked.priority);
    const attendance = new Attendance(this.#parts, standing, this.#asked(job, heading), reply);
    const requests = this.#choiceRequests(job, attendance, [heading.id, reply.request.id]);
    const generation = new Generation(system, tokenizer, requests, job.asked.stream);
    choiceCounts.asked(job.prompts.length, job.asked.choices);
    open.add(generation);
    reply.raw.once('close', () => {
      open.delete(generation);
      generation.abort('client');
    });
    this.#watchForStall(generation, reply);
    attendance.attend(generation);
    if (job.asked.stream) room.watch(generation, () => attendance.place);
    const counts = (): Promise<Counts> => this.#counts(job, heading, generation, attendance);
    return job.asked.stream
      ? this.#stream(job, heading, generation, reply, counts)
      : this.#whole(job, heading, generation, reply, counts);
  }

  /** What stands beside the choices, once all of them have ended. */
  async #counts({ prompts, asked }: Job, { id }: Heading, generation: Generation, attendance: Attendance): Promise<Counts> {
    const usage = usageOf(
      prompts.map(({ tokens }) => tokens),
      generation.choices,
    );
    if (!asked.returnTiming) return { usage };
    return { usage, timing: timingBody(await this.#parts.system.explain(id), attendance.lineSeconds) };
  }

  async #stream(
    job: Job,
    heading: Heading,
    generation: Generation,
    reply: FastifyReply,
    counts: () => Promise<Counts>,
  ): Promise<FastifyReply> {
    const { asked, answers } = job;
    // Until the first token a failure is an HTTP status; but a client that waits for long must hear something.
    await generation.changed(KEEP_ALIVE_MILLIS);
    if (generation.abandoned) return reply.hijack();
    if (generation.failure !== null) throw generation.failure;
    const options = { heading, answers, counts, includeUsage: asked.includeUsage, includeTiming: asked.returnTiming };
    reply.headers({ 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', 'x-accel-buffering': 'no' });
    return reply.send(Readable.from(eventStream(generation, options), { objectMode: false }));
  }

  async #whole(
    { answers }: Job,
    heading: Heading,
    generation: Generation,
    reply: FastifyReply,
    counts: () => Promise<Counts>,
  ): Promise<FastifyReply> {
    while (!generation.counted) await generation.changed(null);
    if (generation.abandoned) return reply.hijack();
    if (generation.failure !== null) throw generation.failure;
    const pieces = generation.choices.map((choice) => choice.take() ?? NOTHING);
    const finishes = generation.choices.map((choice) => choice.finish as FinishReason);
    return reply.send(answers.whole(heading, pieces, finishes, await counts()));
  }

  /** Gives up a client that takes nothing for `stallSeconds` although something is there for it. */
  #watchForStall(generation: Generation, reply: FastifyReply): void {
    const { socket } = reply.raw;
    if (socket === null) return;
    const millis = this.#parts.config.stallSeconds * 1000;
    // The socket's own timer starts anew with every byte that moves; an idle socket with nothing to send is no stall.
    reply.raw.setTimeout(millis, () => {
      if (socket.writableLength === 0) {
        socket.setTimeout(millis);
        return;
      }
      generation.abort('stalled');
      socket.destroy();
    });
  }

  #heading(prefix: string): Heading {
    const { model } = this.#parts;
    return {
      id: `${prefix}-${randomUUID().replaceAll('-', '')}`,
      created: Math.floor(Date.now() / 1000),
      model: model.name,
      system_fingerprint: model.fingerprint,
    };
  }
}

function micros(seconds: number | null): number | null {
  return seconds === null ? null : Math.round(seconds * 1e6);
}

function promptsOf(prompt: CompletionRequestBody['prompt']): readonly (string | readonly number[])[] {
  if (typeof prompt === 'string') return [prompt];
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as string[] | number[][]);
}
