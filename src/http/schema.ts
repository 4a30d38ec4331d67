/**
 * OpenAI's shapes, once: validation, serialisation and TypeScript types come from the same declarations. Every field
 * has a `title` that completes the sentence "'field' must be ...": that is the error message.
 *
 * Types are never converted: "1.5" is not a number. Fields set to null count as absent.
 */
import { type Static, Type } from 'typebox';

/** Largest `n`, OpenAI's limit. */
export const CHOICES_MAX = 128;
export const TOP_LOGPROBS_MAX = 20;

const number = (title: string, minimum: number, maximum: number) => Type.Optional(Type.Number({ title, minimum, maximum }));
const integer = (title: string, minimum: number, maximum: number) => Type.Optional(Type.Integer({ title, minimum, maximum }));
const flag = () => Type.Optional(Type.Boolean({ title: 'true or false' }));
const TokenId = Type.Integer({ title: 'a token id', minimum: 0, maximum: 0x7fffffff });

/** Fields that both endpoints take. Those without a meaning here are named in `parameters.ts`. */
const generation = {
  model: Type.String({ title: 'a string' }),
  n: integer(`a whole number from 1 to ${CHOICES_MAX}`, 1, CHOICES_MAX),
  max_tokens: integer('a whole number of at least 1', 1, Number.MAX_SAFE_INTEGER),
  temperature: number('a number from 0 to 2', 0, 2),
  top_p: Type.Optional(
    Type.Number({
      title: 'a number above 0 and at most 1 (for greedy decoding set temperature to 0)',
      exclusiveMinimum: 0,
      maximum: 1,
    }),
  ),
  frequency_penalty: number('a number from -2 to 2', -2, 2),
  presence_penalty: number('a number from -2 to 2', -2, 2),
  seed: integer('a whole number of at most 53 bits', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  stop: Type.Optional(
    Type.Union(
      [
        Type.String({ minLength: 1, maxLength: 1024 }),
        Type.Array(Type.String({ minLength: 1, maxLength: 1024 }), { maxItems: 4 }),
      ],
      { title: 'a string of 1 to 1024 characters, or a list of at most 4 of them' },
    ),
  ),
  stream: flag(),
  stream_options: Type.Optional(
    Type.Object({ include_usage: flag(), include_obfuscation: flag() }, { title: 'an object', additionalProperties: false }),
  ),
  logit_bias: Type.Optional(
    Type.Record(
      Type.String({ pattern: '^[0-9]{1,10}$' }),
      Type.Number({ title: 'a number from -100 to 100', minimum: -100, maximum: 100 }),
      { title: 'an object of at most 1024 token ids with their bias', maxProperties: 1024, additionalProperties: false },
    ),
  ),
  user: Type.Optional(Type.String({ title: 'a string of at most 256 characters', maxLength: 256 })),
  // vLLM's additions.
  top_k: integer('a whole number: -1 or 0 for all tokens, or how many', -1, 0x7fffffff),
  min_p: number('a number from 0 to 1', 0, 1),
  repetition_penalty: Type.Optional(Type.Number({ title: 'a number above 0 and at most 10', exclusiveMinimum: 0, maximum: 10 })),
  ignore_eos: flag(),
  stop_token_ids: Type.Optional(Type.Array(TokenId, { title: 'a list of at most 64 token ids', maxItems: 64 })),
  return_token_ids: flag(),
  // Our own: where the time went, beside `usage`.
  return_timing: flag(),
  cache_salt: Type.Optional(Type.String({ title: 'a string of 1 to 256 characters', minLength: 1, maxLength: 256 })),
  priority: integer('a whole number of 32 bits (lower is served first)', -0x80000000, 0x7fffffff),
};

const unexamined = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, Type.Optional(Type.Unknown())]));

/** Known to OpenAI or vLLM; accepted only where they change nothing. */
export const CHAT_FOREIGN = [
  'store',
  'metadata',
  'service_tier',
  'parallel_tool_calls',
  'safety_identifier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'tools',
  'tool_choice',
  'functions',
  'function_call',
  'response_format',
  'modalities',
  'audio',
  'prediction',
  'reasoning_effort',
  'verbosity',
  'web_search_options',
  'best_of',
  'use_beam_search',
  'length_penalty',
  'min_tokens',
  'skip_special_tokens',
  'spaces_between_special_tokens',
  'include_stop_str_in_output',
  'prompt_logprobs',
  'echo',
  'add_generation_prompt',
  'continue_final_message',
  'add_special_tokens',
  'chat_template',
  'documents',
  'truncate_prompt_tokens',
  'bad_words',
  'allowed_token_ids',
  'structured_outputs',
  'guided_json',
  'guided_regex',
  'guided_choice',
  'guided_grammar',
  'logits_processors',
  'suffix',
] as const;

export const COMPLETION_FOREIGN = CHAT_FOREIGN.filter(
  (name) => name !== 'echo' && name !== 'best_of' && name !== 'add_special_tokens',
);

const ContentPart = Type.Object({
  type: Type.String({ title: 'a string' }),
  text: Type.Optional(Type.String({ title: 'a string' })),
});

/** Fields of a message that clients copy from an answer; accepted where they say nothing. */
export const FOREIGN_IN_MESSAGE = [
  'refusal',
  'annotations',
  'tool_calls',
  'tool_call_id',
  'function_call',
  'audio',
  'reasoning_content',
  'reasoning',
] as const;

export const Message = Type.Object(
  {
    role: Type.String({ title: 'a string' }),
    content: Type.Optional(
      Type.Union([Type.String(), Type.Array(ContentPart)], { title: 'a string or a list of {type: "text", text} parts' }),
    ),
    name: Type.Optional(Type.String({ title: 'a string' })),
    ...unexamined(FOREIGN_IN_MESSAGE),
  },
  { title: 'an object with role and content', additionalProperties: false },
);

const Messages = Type.Array(Message, { title: 'a list of at least one message', minItems: 1 });
const TemplateVariables = Type.Optional(
  Type.Record(
    Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]{0,63}$' }),
    Type.Union([Type.String(), Type.Number(), Type.Boolean()], { title: 'a string, a number or true or false' }),
    { title: 'an object of at most 32 variables for the chat template', maxProperties: 32, additionalProperties: false },
  ),
);

export const ChatRequest = Type.Object(
  {
    ...generation,
    messages: Messages,
    max_completion_tokens: integer('a whole number of at least 1', 1, Number.MAX_SAFE_INTEGER),
    logprobs: flag(),
    top_logprobs: integer(`a whole number from 0 to ${TOP_LOGPROBS_MAX}`, 0, TOP_LOGPROBS_MAX),
    chat_template_kwargs: TemplateVariables,
    ...unexamined(CHAT_FOREIGN),
  },
  { title: 'a JSON object', additionalProperties: false },
);

export const CompletionRequest = Type.Object(
  {
    ...generation,
    prompt: Type.Union(
      [
        Type.String(),
        Type.Array(Type.String(), { minItems: 1 }),
        Type.Array(TokenId, { minItems: 1 }),
        Type.Array(Type.Array(TokenId, { minItems: 1 }), { minItems: 1 }),
      ],
      { title: 'a string, a list of strings, a list of token ids, or a list of lists of token ids, none of them empty' },
    ),
    echo: flag(),
    add_special_tokens: flag(),
    best_of: integer(`a whole number from 1 to ${CHOICES_MAX}`, 1, CHOICES_MAX),
    logprobs: integer(`a whole number from 0 to ${TOP_LOGPROBS_MAX}`, 0, TOP_LOGPROBS_MAX),
    ...unexamined(COMPLETION_FOREIGN),
  },
  { title: 'a JSON object', additionalProperties: false },
);

export const TokenizeRequest = Type.Object(
  {
    model: Type.Optional(Type.String({ title: 'a string' })),
    prompt: Type.Optional(Type.String({ title: 'a string' })),
    messages: Type.Optional(Messages),
    add_special_tokens: flag(),
    add_generation_prompt: flag(),
    return_token_strs: flag(),
    chat_template_kwargs: TemplateVariables,
  },
  { title: 'a JSON object', additionalProperties: false },
);

export const DetokenizeRequest = Type.Object(
  {
    model: Type.Optional(Type.String({ title: 'a string' })),
    tokens: Type.Array(TokenId, { title: 'a list of token ids' }),
  },
  { title: 'a JSON object', additionalProperties: false },
);

export type ChatRequestBody = Static<typeof ChatRequest>;
export type CompletionRequestBody = Static<typeof CompletionRequest>;
export type MessageBody = Static<typeof Message>;

// What is sent back.

const Nullable = <T extends ReturnType<typeof Type.Object>>(shape: T) => Type.Union([shape, Type.Null()]);
const FinishReason = Type.Union([Type.Literal('stop'), Type.Literal('length')]);
const TokenIds = Type.Optional(Type.Array(Type.Integer()));

export const Usage = Type.Object({
  prompt_tokens: Type.Integer(),
  completion_tokens: Type.Integer(),
  total_tokens: Type.Integer(),
  prompt_tokens_details: Type.Object({ cached_tokens: Type.Integer() }),
});

const ChatLogprob = { token: Type.String(), logprob: Type.Number(), bytes: Type.Array(Type.Integer()) };

export const ChatLogprobs = Type.Object({
  content: Type.Array(Type.Object({ ...ChatLogprob, top_logprobs: Type.Array(Type.Object(ChatLogprob)) })),
  refusal: Type.Null(),
});

export const CompletionLogprobs = Type.Object({
  tokens: Type.Array(Type.String()),
  token_logprobs: Type.Array(Type.Number()),
  top_logprobs: Type.Array(Type.Record(Type.String(), Type.Number())),
  text_offset: Type.Array(Type.Integer()),
});

const Seconds = Type.Number();
const SecondsOrNull = Type.Union([Type.Number(), Type.Null()]);

/** Where the time of an answer went. */
const Timing = Type.Object({
  seconds: Seconds,
  line_seconds: Seconds,
  first_token_seconds: SecondsOrNull,
  choices: Type.Array(
    Type.Object({
      index: Type.Integer(),
      seconds: Seconds,
      first_token_seconds: SecondsOrNull,
      seconds_by_state: Type.Record(Type.String(), Seconds),
      preemptions: Type.Integer(),
    }),
  ),
});

const answer = {
  id: Type.String(),
  object: Type.String(),
  created: Type.Integer(),
  model: Type.String(),
  system_fingerprint: Type.String(),
};

export const ChatResponse = Type.Object({
  ...answer,
  choices: Type.Array(
    Type.Object({
      index: Type.Integer(),
      message: Type.Object({ role: Type.String(), content: Type.String(), refusal: Type.Null() }),
      logprobs: Nullable(ChatLogprobs),
      finish_reason: FinishReason,
      token_ids: TokenIds,
    }),
  ),
  usage: Usage,
  timing: Type.Optional(Timing),
  prompt_token_ids: TokenIds,
});

export const CompletionResponse = Type.Object({
  ...answer,
  choices: Type.Array(
    Type.Object({
      index: Type.Integer(),
      text: Type.String(),
      logprobs: Nullable(CompletionLogprobs),
      finish_reason: FinishReason,
      token_ids: TokenIds,
      prompt_token_ids: TokenIds,
    }),
  ),
  usage: Usage,
  timing: Type.Optional(Timing),
});

export type TimingBody = Static<typeof Timing>;
export type UsageBody = Static<typeof Usage>;
export type ChatLogprobsBody = Static<typeof ChatLogprobs>;
export type CompletionLogprobsBody = Static<typeof CompletionLogprobs>;
export type ChatResponseBody = Static<typeof ChatResponse>;
export type CompletionResponseBody = Static<typeof CompletionResponse>;
export type FinishReason = Static<typeof FinishReason>;
