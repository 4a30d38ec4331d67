/**
 * A generation as server-sent events. All that is there when the socket is ready goes out in one write.
 */
import type { Answers, Counts, Heading } from './answers.js';
import { errorBody } from './error-answers.js';
import type { Choice, Generation, Piece } from './generation.js';

/** A stream that says nothing for this long gets a comment, so that proxies and clients do not cut it. */
export const KEEP_ALIVE_MILLIS = 15_000;

const NOTHING: Piece = { text: '', tokens: [], shown: [] };

export interface EventStreamOptions {
  readonly heading: Heading;
  readonly answers: Answers;
  readonly includeUsage: boolean;
  readonly includeTiming: boolean;
  /** What stands beside the choices; asked for once, when all of them have ended. */
  counts(): Promise<Counts>;
}

class Frames {
  readonly #head: string;
  readonly #usageMember: string;
  #extra: string;

  constructor({ heading, answers, includeUsage }: EventStreamOptions) {
    const { id, created, model, system_fingerprint } = heading;
    const start = JSON.stringify({ id, object: answers.chunkObject, created, model, system_fingerprint });
    this.#head = `data: ${start.slice(0, -1)}`;
    this.#usageMember = includeUsage ? ',"usage":null' : '';
    const first = JSON.stringify(answers.firstChunk);
    this.#extra = first === '{}' ? '' : `,${first.slice(1, -1)}`;
  }

  choice(choice: object): string {
    const extra = this.#extra;
    this.#extra = '';
    return `${this.#head}${extra},"choices":[${JSON.stringify(choice)}]${this.#usageMember}}\n\n`;
  }

  /** The last frame, without choices. */
  counts(counts: Partial<Counts>): string {
    return `${this.#head},"choices":[],${JSON.stringify(counts).slice(1)}\n\n`;
  }
}

/** What a choice has to say now, in as few frames as possible; `told` is what the client knows of it already. */
function choiceFrames(
  frames: Frames,
  answers: Answers,
  choice: Choice,
  index: number,
  told: { opened: boolean; finished: boolean },
): string {
  if (told.finished) return '';
  const piece = choice.take();
  const { finish } = choice;
  if (piece === null && finish === null) return '';
  let out = '';
  if (!told.opened) {
    const opening = answers.opening(index);
    if (opening !== null) out += frames.choice(opening);
    told.opened = true;
  }
  if (piece !== null) out += frames.choice(answers.delta(index, piece, null));
  if (finish !== null) {
    out += frames.choice(answers.delta(index, NOTHING, finish));
    told.finished = true;
  }
  return out;
}

/**
 * The body of the response. Ends after `[DONE]`, after an error frame, or when the generation is abandoned.
 */
export async function* eventStream(generation: Generation, options: EventStreamOptions): AsyncGenerator<string, void, undefined> {
  const frames = new Frames(options);
  const told = generation.choices.map(() => ({ opened: false, finished: false }));
  while (!generation.abandoned) {
    let out = generation.takeNotes();
    generation.choices.forEach((choice, index) => {
      out += choiceFrames(frames, options.answers, choice, index, told[index] as { opened: boolean; finished: boolean });
    });
    if (generation.failure !== null) {
      yield `${out}data: ${JSON.stringify(errorBody(generation.failure))}\n\ndata: [DONE]\n\n`;
      return;
    }
    const counting = options.includeUsage || options.includeTiming;
    if (counting ? generation.counted : generation.done) {
      const { usage, ...rest } = counting ? await options.counts() : {};
      const counts = options.includeUsage ? { usage, ...rest } : rest;
      yield `${out}${counting ? frames.counts(counts as Partial<Counts>) : ''}data: [DONE]\n\n`;
      return;
    }
    if (out !== '') yield out;
    if (!(await generation.changed(KEEP_ALIVE_MILLIS))) yield ': waiting\n\n';
  }
}
