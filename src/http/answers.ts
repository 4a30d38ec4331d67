/**
 * What the two endpoints say: the same generation in the shape of a chat and of a (legacy) completion, whole or in
 * chunks.
 */
import type { TokenLogprobs } from '../core/types.js';
import type { Choice, Piece, ShownToken } from './generation.js';
import type {
  ChatLogprobsBody,
  ChatResponseBody,
  CompletionLogprobsBody,
  CompletionResponseBody,
  FinishReason,
  TimingBody,
  UsageBody,
} from './schema.js';
import type { Tokenizer } from './tokenizer.js';

/** JSON has no infinity; OpenAI writes this for a token that cannot occur. */
const LOGPROB_MIN = -9999;

/** What every answer to one HTTP request has in common. */
export interface Heading {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/** What is beside the choices; `timing` only where it was asked for. */
export interface Counts {
  readonly usage: UsageBody;
  readonly timing?: TimingBody;
}

/** One endpoint's way of saying it. */
export interface Answers {
  /** `object` of the chunks of a stream. */
  readonly chunkObject: string;
  /** First chunk of a choice, before any text; null if there is nothing to say yet. */
  opening(index: number): object | null;
  /** A chunk's choice. `finish` only with the last piece. */
  delta(index: number, piece: Piece, finish: FinishReason | null): object;
  /** Members of a stream's first chunk beside its choices. */
  readonly firstChunk: object;
  /** The whole answer. */
  whole(
    heading: Heading,
    pieces: readonly Piece[],
    finishes: readonly FinishReason[],
    counts: Counts,
  ): ChatResponseBody | CompletionResponseBody;
}

/** Tokens of the prompts (each counted once) and of all choices, which are as many for each prompt, in its order. */
export function usageOf(prompts: readonly Int32Array[], choices: readonly Choice[]): UsageBody {
  const prompt = prompts.reduce((sum, tokens) => sum + tokens.length, 0);
  const perPrompt = choices.length / prompts.length;
  // A prompt counts once, and so does what was found of it: the most that one of its choices found. A sum over them
  // could be more than the prompt.
  const cached = prompts.reduce((sum, _, index) => {
    const own = choices.slice(index * perPrompt, (index + 1) * perPrompt);
    return sum + Math.max(...own.map(({ cachedTokens }) => cachedTokens));
  }, 0);
  const completion = choices.reduce((sum, choice) => sum + choice.generated, 0);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
  };
}

const finite = (logprob: number): number => Math.max(LOGPROB_MIN, logprob);
const lossy = new TextDecoder('utf-8', { ignoreBOM: true });
const strict = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

function chatLogprob(tokenizer: Tokenizer, token: number, logprob: number): { token: string; logprob: number; bytes: number[] } {
  const bytes = tokenizer.bytes(token);
  return { token: lossy.decode(bytes), logprob: finite(logprob), bytes: Array.from(bytes) };
}

function chatLogprobs(tokenizer: Tokenizer, shown: readonly ShownToken[]): ChatLogprobsBody {
  return {
    content: shown.map(({ token, logprobs }) => ({
      ...chatLogprob(tokenizer, token, logprobs.logprob),
      top_logprobs: logprobs.top.map((other) => chatLogprob(tokenizer, other.token, other.logprob)),
    })),
    refusal: null,
  };
}

/** A token as the legacy shape names it: its text, or its bytes where they are no text by themselves. */
function legacyName(tokenizer: Tokenizer, token: number): string {
  const bytes = tokenizer.bytes(token);
  try {
    return strict.decode(bytes);
  } catch {
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }
}

function legacyTop(tokenizer: Tokenizer, token: number, { logprob, top }: TokenLogprobs): Record<string, number> {
  // The sampled token is always among them; fromEntries also takes a token called "__proto__".
  return Object.fromEntries([{ token, logprob }, ...top].map((one) => [legacyName(tokenizer, one.token), finite(one.logprob)]));
}

function legacyLogprobs(tokenizer: Tokenizer, shown: readonly ShownToken[]): CompletionLogprobsBody {
  return {
    tokens: shown.map(({ token }) => legacyName(tokenizer, token)),
    token_logprobs: shown.map(({ logprobs }) => finite(logprobs.logprob)),
    top_logprobs: shown.map(({ token, logprobs }) => legacyTop(tokenizer, token, logprobs)),
    text_offset: shown.map((token) => token.offset),
  };
}

export class ChatAnswers implements Answers {
  readonly chunkObject = 'chat.completion.chunk';
  readonly firstChunk: object;
  readonly #tokenizer: Tokenizer;
  readonly #wantsLogprobs: boolean;
  readonly #wantsTokens: boolean;
  readonly #prompt: Int32Array;

  constructor(tokenizer: Tokenizer, prompt: Int32Array, wantsLogprobs: boolean, wantsTokens: boolean) {
    this.#tokenizer = tokenizer;
    this.#wantsLogprobs = wantsLogprobs;
    this.#wantsTokens = wantsTokens;
    this.#prompt = prompt;
    this.firstChunk = wantsTokens ? { prompt_token_ids: Array.from(prompt) } : {};
  }

  opening(index: number): object {
    return { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null };
  }

  delta(index: number, piece: Piece, finish: FinishReason | null): object {
    return {
      index,
      delta: piece.text === '' ? {} : { content: piece.text },
      logprobs: this.#logprobs(piece),
      finish_reason: finish,
      ...this.#tokens(piece),
    };
  }

  whole(heading: Heading, pieces: readonly Piece[], finishes: readonly FinishReason[], counts: Counts): ChatResponseBody {
    return {
      ...heading,
      object: 'chat.completion',
      choices: pieces.map((piece, index) => ({
        index,
        message: { role: 'assistant', content: piece.text, refusal: null },
        logprobs: this.#wantsLogprobs ? chatLogprobs(this.#tokenizer, piece.shown) : null,
        finish_reason: finishes[index] as FinishReason,
        ...this.#tokens(piece),
      })),
      ...counts,
      ...(this.#wantsTokens ? { prompt_token_ids: Array.from(this.#prompt) } : {}),
    };
  }

  #logprobs(piece: Piece): ChatLogprobsBody | null {
    return this.#wantsLogprobs && piece.shown.length > 0 ? chatLogprobs(this.#tokenizer, piece.shown) : null;
  }

  #tokens(piece: Piece): { token_ids?: number[] } {
    return this.#wantsTokens ? { token_ids: [...piece.tokens] } : {};
  }
}

export class CompletionAnswers implements Answers {
  readonly chunkObject = 'text_completion';
  readonly firstChunk = {};
  readonly #tokenizer: Tokenizer;
  readonly #wantsLogprobs: boolean;
  readonly #wantsTokens: boolean;
  /** By choice. */
  readonly #prompts: readonly Int32Array[];
  /** Text before the completion, by choice; empty without echo. */
  readonly #echoes: readonly string[];

  constructor(
    tokenizer: Tokenizer,
    prompts: readonly Int32Array[],
    echoes: readonly string[],
    wantsLogprobs: boolean,
    wantsTokens: boolean,
  ) {
    this.#tokenizer = tokenizer;
    this.#wantsLogprobs = wantsLogprobs;
    this.#wantsTokens = wantsTokens;
    this.#prompts = prompts;
    this.#echoes = echoes;
  }

  opening(index: number): object | null {
    const text = this.#echoes[index] ?? '';
    if (text === '' && !this.#wantsTokens) return null;
    return {
      index,
      text,
      logprobs: null,
      finish_reason: null,
      ...(this.#wantsTokens ? { token_ids: [], ...this.#prompt(index) } : {}),
    };
  }

  delta(index: number, piece: Piece, finish: FinishReason | null): object {
    const logprobs = this.#wantsLogprobs && piece.shown.length > 0 ? legacyLogprobs(this.#tokenizer, piece.shown) : null;
    return { index, text: piece.text, logprobs, finish_reason: finish, ...this.#tokens(piece) };
  }

  whole(heading: Heading, pieces: readonly Piece[], finishes: readonly FinishReason[], counts: Counts): CompletionResponseBody {
    return {
      ...heading,
      object: 'text_completion',
      choices: pieces.map((piece, index) => ({
        index,
        text: (this.#echoes[index] ?? '') + piece.text,
        logprobs: this.#wantsLogprobs ? legacyLogprobs(this.#tokenizer, piece.shown) : null,
        finish_reason: finishes[index] as FinishReason,
        ...this.#tokens(piece),
        ...(this.#wantsTokens ? this.#prompt(index) : {}),
      })),
      ...counts,
    };
  }

  #tokens(piece: Piece): { token_ids?: number[] } {
    return this.#wantsTokens ? { token_ids: [...piece.tokens] } : {};
  }

  #prompt(index: number): { prompt_token_ids: number[] } {
    return { prompt_token_ids: Array.from(this.#prompts[index] ?? []) };
  }
}
