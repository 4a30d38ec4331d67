/**
 * From a validated request body to what is asked of the engine. What would change the answer and is not done here is
 * refused by name; what changes nothing is ignored (the table below is the documentation).
 */

import type { Sampling } from '../core/types.js';
import { FastswitchError } from '../errors.js';
import type { ChatMessage, TemplateOptions } from './chat-template.js';
import type { SamplingDefaults } from './model.js';
import {
  type ChatRequestBody,
  type CompletionRequestBody,
  FOREIGN_IN_MESSAGE,
  type MessageBody,
  TOP_LOGPROBS_MAX,
} from './schema.js';

/** What is common to all choices of a request. `seed` null: each choice draws one. */
export interface Parameters {
  readonly choices: number;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly returnTokenIds: boolean;
  readonly returnTiming: boolean;
  readonly maxTokens: number | null;
  readonly stop: readonly string[];
  /** Ends a choice besides the model's own end tokens. */
  readonly stopTokens: readonly number[];
  readonly ignoreEos: boolean;
  readonly seed: number | null;
  readonly sampling: Omit<Sampling, 'seed'>;
  /** Null: the request says nothing. */
  readonly priority: number | null;
  /** For whom it is, among the tenant's users; '': nobody in particular. */
  readonly user: string;
  /** '': KV is shared with all requests that bring no salt either. */
  readonly cacheSalt: string;
}

type Neutral = (value: unknown) => boolean;

const anything: Neutral = () => true;
const never: Neutral = () => false;
const only =
  (...values: readonly unknown[]): Neutral =>
  (value) =>
    values.includes(value);
const empty: Neutral = (value) => Array.isArray(value) && value.length === 0;
const textOnly: Neutral = (value) => Array.isArray(value) && value.length === 1 && value[0] === 'text';
const plainText: Neutral = (value) => typeof value === 'object' && value !== null && 'type' in value && value.type === 'text';

const NO_TOOLS = 'this server does not call tools; leave it out';
const NO_GUIDE = 'this server does not constrain the output; leave it out';

/** Field -> values that change nothing, and what to do about others. */
const FOREIGN: Readonly<Record<string, readonly [Neutral, string]>> = {
  store: [anything, ''],
  metadata: [anything, ''],
  service_tier: [anything, ''],
  parallel_tool_calls: [anything, ''],
  safety_identifier: [anything, ''],
  // A hint to which of many machines a request should go; here is one, and it finds a common prefix by itself.
  prompt_cache_key: [anything, ''],
  prompt_cache_retention: [anything, ''],
  tools: [empty, NO_TOOLS],
  functions: [empty, NO_TOOLS],
  tool_choice: [only('none', 'auto'), NO_TOOLS],
  function_call: [only('none', 'auto'), NO_TOOLS],
  response_format: [plainText, 'only {"type": "text"} is supported'],
  modalities: [textOnly, 'only ["text"] is supported'],
  use_beam_search: [only(false), 'only false is supported'],
  length_penalty: [only(1), 'only 1 is supported'],
  min_tokens: [only(0), 'only 0 is supported'],
  skip_special_tokens: [only(true), 'only true is supported'],
  spaces_between_special_tokens: [anything, ''],
  include_stop_str_in_output: [only(false), 'only false is supported'],
  add_generation_prompt: [only(true), 'only true is supported'],
  continue_final_message: [only(false), 'only false is supported'],
  add_special_tokens: [only(false), 'the chat template writes them; to decide yourself, use /v1/completions'],
  echo: [only(false), 'it exists on /v1/completions only'],
  best_of: [only(1), 'only 1 is supported; use n'],
  suffix: [only(''), 'this server does not fill in between texts; leave it out'],
  structured_outputs: [never, NO_GUIDE],
  guided_json: [never, NO_GUIDE],
  guided_regex: [never, NO_GUIDE],
  guided_choice: [never, NO_GUIDE],
  guided_grammar: [never, NO_GUIDE],
  bad_words: [empty, 'use logit_bias'],
  allowed_token_ids: [never, 'use logit_bias'],
};

function unsupported(param: string, advice: string): FastswitchError {
  return new FastswitchError('unsupported_parameter', `'${param}' is not supported as given: ${advice}.`, param);
}

function refuseForeign(body: Readonly<Record<string, unknown>>, names: readonly string[]): void {
  for (const name of names) {
    const value = body[name];
    if (value === undefined) continue;
    const [neutral, advice] = FOREIGN[name] ?? [never, 'leave it out'];
    if (!neutral(value)) throw unsupported(name, advice);
  }
}

/**
 * @param foreign Fields of this endpoint that are known and not done.
 * @param topLogprobs -1 for none.
 * @param defaults Of the model, where the request is silent.
 */
export function parameters(
  body: ChatRequestBody | CompletionRequestBody,
  foreign: readonly string[],
  topLogprobs: number,
  maxTokens: number | undefined,
  vocabularySize: number,
  defaults: SamplingDefaults,
): Parameters {
  refuseForeign(body as Readonly<Record<string, unknown>>, foreign);
  const stopTokens = body.stop_token_ids ?? [];
  for (const token of stopTokens) requireToken(token, vocabularySize, 'stop_token_ids');
  return {
    choices: body.n ?? 1,
    stream: body.stream ?? false,
    includeUsage: (body.stream ?? false) && (body.stream_options?.include_usage ?? false),
    returnTokenIds: body.return_token_ids ?? false,
    returnTiming: body.return_timing ?? false,
    maxTokens: maxTokens ?? null,
    stop: typeof body.stop === 'string' ? [body.stop] : (body.stop ?? []),
    stopTokens,
    ignoreEos: body.ignore_eos ?? false,
    seed: body.seed ?? null,
    sampling: {
      temperature: body.temperature ?? defaults.temperature,
      topK: Math.max(0, body.top_k ?? defaults.topK),
      topP: body.top_p ?? defaults.topP,
      minP: body.min_p ?? defaults.minP,
      frequencyPenalty: body.frequency_penalty ?? 0,
      presencePenalty: body.presence_penalty ?? 0,
      repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty,
      topLogprobs,
      logitBias: Object.entries(body.logit_bias ?? {}).map(([token, bias]) => {
        requireToken(Number(token), vocabularySize, 'logit_bias');
        return { token: Number(token), bias };
      }),
    },
    priority: body.priority ?? null,
    user: body.user ?? '',
    cacheSalt: body.cache_salt ?? '',
  };
}

/** @throws FastswitchError invalid_request if the model has no such token. */
export function requireToken(token: number, vocabularySize: number, param: string): void {
  if (token < vocabularySize) return;
  throw new FastswitchError(
    'invalid_request',
    `'${param}' names token ${token}, but the model's ids end at ${vocabularySize - 1}.`,
    param,
  );
}

/** `logprobs` and `top_logprobs` of a chat as one number: -1 for none. */
export function chatTopLogprobs(body: ChatRequestBody): number {
  if (body.logprobs === true) return Math.min(body.top_logprobs ?? 0, TOP_LOGPROBS_MAX);
  if ((body.top_logprobs ?? 0) > 0) {
    throw new FastswitchError('invalid_request', "'top_logprobs' needs 'logprobs' set to true.", 'top_logprobs');
  }
  return -1;
}

/** @throws FastswitchError unsupported_parameter for `best_of` above `n`, and for the log probabilities of an echo. */
export function refuseCompletionExtras(body: CompletionRequestBody): void {
  const n = body.n ?? 1;
  if (body.best_of !== undefined && body.best_of < n) {
    throw new FastswitchError('invalid_request', `'best_of' must not be less than 'n' (${n}).`, 'best_of');
  }
  if (body.best_of !== undefined && body.best_of > n) throw unsupported('best_of', 'it must equal n');
  if (body.echo === true && body.logprobs !== undefined) {
    throw unsupported('logprobs', 'log probabilities of the prompt are not computed; leave out echo or logprobs');
  }
}

/** Messages as the template takes them. */
export function chatMessages(messages: readonly MessageBody[]): ChatMessage[] {
  return messages.map((message, index) => {
    const at = `messages[${index}]`;
    const { role } = message;
    if (role === 'tool' || role === 'function')
      throw unsupported(`${at}.role`, 'this server does not call tools; send system, user and assistant messages');
    if (role !== 'system' && role !== 'developer' && role !== 'user' && role !== 'assistant') {
      throw new FastswitchError('invalid_request', `'${at}.role' must be system, developer, user or assistant.`, `${at}.role`);
    }
    for (const name of FOREIGN_IN_MESSAGE) {
      const value = (message as Record<string, unknown>)[name];
      const says = value !== undefined && value !== '' && !(Array.isArray(value) && value.length === 0);
      if (says) throw unsupported(`${at}.${name}`, 'leave it out');
    }
    return { role, content: contentText(message, at), name: message.name ?? null };
  });
}

function contentText(message: MessageBody, at: string): string {
  const { content } = message;
  if (content === undefined)
    throw new FastswitchError('invalid_request', `'${at}.content' is missing: give the text of the message.`, `${at}.content`);
  if (typeof content === 'string') return content;
  return content
    .map((part, index) => {
      const here = `${at}.content[${index}]`;
      if (part.type !== 'text') throw unsupported(here, `parts of type "${part.type.slice(0, 40)}" cannot be read, only "text"`);
      if (part.text === undefined) throw new FastswitchError('invalid_request', `'${here}.text' is missing.`, here);
      return part.text;
    })
    .join('\n');
}

export function templateOptions(
  variables: Readonly<Record<string, string | number | boolean>> | undefined,
  addGenerationPrompt: boolean,
): TemplateOptions {
  return { addGenerationPrompt, variables: new Map(Object.entries(variables ?? {})) };
}
