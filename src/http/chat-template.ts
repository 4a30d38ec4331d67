/**
 * Turns a conversation into the text the model was trained on, by the checkpoint's own Jinja template.
 *
 * A template is somebody else's program: it runs with a time limit, cannot reach anything but its variables, and its
 * output has a size limit.
 */
import { createContext, Script } from 'node:vm';
import { Interpreter, Template } from '@huggingface/jinja';
import { FastswitchError } from '../errors.js';
import { type ControlTokens, Guard } from './control-tokens.js';

/**
 * Time for one rendering. A usual template needs well under a millisecond; but this is time on the wall, and a process
 * on a crowded machine may be put aside for hundreds of them.
 */
const RENDER_MILLIS_MAX = 5_000;
/** Characters that a template may add to what it was given. */
const RENDER_EXTRA_CHARACTERS_MAX = 4_000_000;

export interface ChatMessage {
  readonly role: 'system' | 'developer' | 'user' | 'assistant';
  readonly content: string;
  /** Name of the speaker, for templates that show it. */
  readonly name: string | null;
}

export type TemplateValue = string | number | boolean;

/** What the template sees besides the messages. */
export interface TemplateOptions {
  /** End with the opening of the assistant's turn. */
  readonly addGenerationPrompt: boolean;
  /** Variables of the client's choosing, such as Qwen3's `enable_thinking`. */
  readonly variables: ReadonlyMap<string, TemplateValue>;
}

/** Time after which a rendering is begun again under watch; a usual one needs far less even of a long conversation. */
const UNWATCHED_MILLIS_MAX = 50;

// `vm` can stop a synchronous function that will not end, wherever that function was made. The context is empty but
// for the job, and the script does nothing but call it.
const room: { job: (() => string) | null } = { job: null };
const context = createContext(room);
const callJob = new Script('job()', { filename: 'chat-template' });

function watched(job: () => string): string {
  room.job = job;
  try {
    return callJob.runInContext(context, { timeout: RENDER_MILLIS_MAX }) as string;
  } finally {
    room.job = null;
  }
}

/** Thrown in the midst of a rendering that takes too long to be left unwatched. */
class Overlong extends Error {}

/** When the rendering in progress has to be over; null: none is, or it is watched. */
let unwatchedUntil: number | null = null;

// Whatever a template does goes through here, node by node: loops, macros and calls alike.
const interpreter = Interpreter.prototype as { evaluate(...node: unknown[]): unknown };
const { evaluate } = interpreter;
interpreter.evaluate = function (...node) {
  if (unwatchedUntil !== null && performance.now() > unwatchedUntil) throw new Overlong();
  return evaluate.apply(this, node);
};

/**
 * Within the time limit. The watch of `vm` is a thread that is made for each call and waited for at its end: where the engine
 * has all cores, this thread and everybody's streams stood still for milliseconds, at times hundreds of them. So a rendering
 * looks at the clock itself, and only one that takes long is done again with somebody who can interrupt it anywhere.
 */
function withinTime(job: () => string): string {
  unwatchedUntil = performance.now() + UNWATCHED_MILLIS_MAX;
  try {
    return job();
  } catch (error) {
    if (!(error instanceof Overlong)) throw error;
  } finally {
    unwatchedUntil = null;
  }
  return watched(job);
}

/** What the template writes and a client may not. */
export interface TemplateTokens {
  /** Strings the template may name: `bos_token`, `eos_token`, ... */
  readonly constants: Readonly<Record<string, string>>;
  readonly control: ControlTokens;
  /** Marked in every message. */
  readonly turnTokens: readonly string[];
  /** Marked in every message but the assistant's. */
  readonly tagTokens: readonly string[];
}

export class ChatTemplate {
  readonly #template: Template;
  readonly #constants: Readonly<Record<string, string>>;
  readonly #control: ControlTokens;
  readonly #guard: Guard;
  readonly #assistantGuard: Guard;
  readonly #knowsDeveloper: boolean;
  /** Of what a template can do in one go, without coming by a clock, only this takes time without limit. */
  readonly #ranges: boolean;

  /** @throws FastswitchError bad_model if the source is no Jinja template. */
  constructor(source: string, { constants, control, turnTokens, tagTokens }: TemplateTokens) {
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new FastswitchError('bad_model', `The chat template cannot be read: ${(error as Error).message}`);
    }
    this.#constants = constants;
    this.#control = control;
    this.#guard = new Guard([...turnTokens, ...tagTokens]);
    this.#assistantGuard = new Guard(turnTokens);
    this.#knowsDeveloper = source.includes('developer');
    this.#ranges = /\brange\b/.test(source);
  }

  /**
   * The conversation as text with control tokens sealed: only those that the template itself wrote.
   * @throws FastswitchError invalid_request if the template refuses the messages, or does not come to an end.
   */
  render(messages: readonly ChatMessage[], options: TemplateOptions): string {
    let size = 0;
    const marked = (text: string, param: string, guard = this.#guard): string => {
      size += text.length;
      return guard.mark(text, param);
    };
    const variables: Record<string, unknown> = {};
    for (const [name, value] of options.variables) {
      variables[name] = typeof value === 'string' ? marked(value, `chat_template_kwargs.${name}`) : value;
    }
    Object.assign(variables, this.#constants, {
      messages: messages.map(({ role, content, name }, index) => ({
        // Most templates know no "developer"; OpenAI defines it as the system role of newer models.
        role: role === 'developer' && !this.#knowsDeveloper ? 'system' : role,
        content: marked(content, `messages[${index}].content`, role === 'assistant' ? this.#assistantGuard : this.#guard),
        ...(name === null ? {} : { name: marked(name, `messages[${index}].name`) }),
      })),
      add_generation_prompt: options.addGenerationPrompt,
    });
    const text = this.#run(variables);
    if (text.length > size * 2 + RENDER_EXTRA_CHARACTERS_MAX) {
      throw new FastswitchError('invalid_request', 'The chat template makes too much text of these messages.', 'messages');
    }
    return this.#control.seal(text);
  }

  #run(variables: Record<string, unknown>): string {
    try {
      const job = () => this.#template.render(variables);
      return this.#ranges ? watched(job) : withinTime(job);
    } catch (error) {
      const late = (error as { code?: unknown }).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT';
      const reason = late ? `it did not end within ${RENDER_MILLIS_MAX} ms` : (error as Error).message;
      throw new FastswitchError(
        'invalid_request',
        `The model's chat template cannot render these messages: ${reason}`,
        'messages',
      );
    }
  }
}
