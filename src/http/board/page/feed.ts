/** What the server sends, as it is now: values that components look at, and a word to say how the connection is. */
import { applyDelta, type BoardAbout, type BoardDelta, type BoardFrame, type BoardPlayer } from '../../../core/board.js';
import { History } from './history.js';

/** A value that changes, and who wants to know. */
export class Source<T> {
  #value: T;
  readonly #listeners = new Set<() => void>();

  constructor(value: T) {
    this.#value = value;
  }

  get(): T {
    return this.#value;
  }

  set(value: T): void {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Answers how to stop. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** `lost`: it tries again by itself. */
export type Connection = 'connecting' | 'open' | 'lost';

const RETRY_MILLIS = 1500;

export const about = new Source<BoardAbout | null>(null);
export const frames = new Source<BoardFrame | null>(null);
export const player = new Source<BoardPlayer | null>(null);
export const connection = new Source<Connection>('connecting');
/** Why the server does not show itself, in its words; null: it does, or does not say. */
export const refused = new Source<string | null>(null);
export const history = new History();

/** The frame of which no change has been shown yet; a hidden page follows, and shows nothing. */
let newest: BoardFrame | null = null;
let scheduled = false;

function take(frame: BoardFrame): void {
  newest = frame;
  history.push(frame, player.get()?.speed);
  if (document.hidden || scheduled) return;
  scheduled = true;
  requestAnimationFrame(show);
}

function show(): void {
  scheduled = false;
  frames.set(newest);
}

export function follow(): void {
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) show();
  });
  connect();
}

function connect(): void {
  const source = new EventSource('/board/events');
  source.addEventListener('open', () => {
    connection.set('open');
    refused.set(null);
    void fetchAbout();
  });
  source.addEventListener('snapshot', ({ data }: MessageEvent<string>) => take(JSON.parse(data) as BoardFrame));
  source.addEventListener('delta', ({ data }: MessageEvent<string>) => {
    if (newest !== null) take(applyDelta(newest, JSON.parse(data) as BoardDelta));
  });
  source.addEventListener('player', ({ data }: MessageEvent<string>) => player.set(JSON.parse(data) as BoardPlayer));
  source.addEventListener('error', () => {
    connection.set('lost');
    // A browser tries again by itself, unless it was refused.
    if (source.readyState !== EventSource.CLOSED) return;
    void fetchRefusal();
    setTimeout(connect, RETRY_MILLIS);
  });
}

/** Anew with each connection: it may be another server that answers now. */
async function fetchAbout(): Promise<void> {
  const answer = await fetch('/board/about').catch(() => null);
  if (answer?.ok) about.set((await answer.json()) as BoardAbout);
}

/** A stream of events does not tell why it was refused: it is asked for once more, to read that. */
async function fetchRefusal(): Promise<void> {
  const asking = new AbortController();
  const answer = await fetch('/board/events', { signal: asking.signal }).catch(() => null);
  if (answer !== null && !answer.ok) refused.set(await wordsOf(answer));
  asking.abort();
}

/** Resolves with null, or with the server's words why not. */
export async function post(path: string, body: object): Promise<string | null> {
  const answer = await fetch(`/board/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  }).catch(() => null);
  if (answer === null) return 'The server does not answer.';
  return answer.ok ? null : wordsOf(answer);
}

async function wordsOf(answer: Response): Promise<string> {
  const body = (await answer.json().catch(() => null)) as { readonly error?: { readonly message?: string } } | null;
  return body?.error?.message ?? `The server answered ${answer.status}.`;
}
