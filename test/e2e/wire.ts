/** HTTP by hand, over a plain socket: what is sent and received, byte by byte. */
import { connect, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';
import { until } from './server.js';

export interface RawAnswer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
  /** Pieces in which a chunked body came; null for a body with a length. */
  readonly chunks: readonly string[] | null;
}

/**
 * The complete answers at the start of what was received. Throws on anything that is not HTTP/1.1 as RFC 9112 frames it.
 */
export function answersIn(received: Buffer): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let rest = received;
  for (let answer = firstAnswer(rest); answer !== null; answer = firstAnswer(rest)) {
    answers.push(answer.answer);
    rest = rest.subarray(answer.length);
  }
  return answers;
}

function firstAnswer(bytes: Buffer): { answer: RawAnswer; length: number } | null {
  const headLength = bytes.indexOf('\r\n\r\n');
  if (headLength < 0) return null;
  const [statusLine = '', ...lines] = bytes.subarray(0, headLength).toString('latin1').split('\r\n');
  const status = /^HTTP\/1\.1 (\d{3}) .+$/.exec(statusLine)?.[1];
  if (status === undefined) throw new Error(`no status line: ${statusLine}`);
  const headers = new Map(
    lines.map((line): [string, string] => {
      const match = /^([\w-]+): (.*)$/.exec(line);
      if (match === null) throw new Error(`no header: ${line}`);
      return [(match[1] as string).toLowerCase(), match[2] as string];
    }),
  );
  const start = headLength + 4;
  if (headers.get('transfer-encoding') === 'chunked') {
    const chunked = chunksIn(bytes, start);
    if (chunked === null) return null;
    const { chunks, end } = chunked;
    return { answer: { status: Number(status), headers, body: chunks.join(''), chunks }, length: end };
  }
  const length = Number(headers.get('content-length'));
  if (!Number.isSafeInteger(length)) throw new Error('a body with neither length nor chunks');
  if (bytes.length < start + length) return null;
  const body = bytes.subarray(start, start + length).toString('utf8');
  return { answer: { status: Number(status), headers, body, chunks: null }, length: start + length };
}

function chunksIn(bytes: Buffer, start: number): { chunks: string[]; end: number } | null {
  const chunks: string[] = [];
  let at = start;
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    if (lineEnd < 0) return null;
    const size = bytes.subarray(at, lineEnd).toString('latin1');
    if (!/^[0-9a-f]+$/i.test(size)) throw new Error(`no chunk size: ${size}`);
    const from = lineEnd + 2;
    const to = from + Number.parseInt(size, 16);
    if (bytes.length < to + 2) return null;
    if (bytes.subarray(to, to + 2).toString('latin1') !== '\r\n') throw new Error('a chunk that is longer than it says');
    if (to === from) return { chunks, end: to + 2 };
    chunks.push(bytes.subarray(from, to).toString('utf8'));
    at = to + 2;
  }
}

/** The values of the `data:` lines of an event stream; comments are left out. Throws on any other line. */
export function eventsIn(body: string): string[] {
  if (!body.endsWith('\n\n')) throw new Error('the last event is not closed by an empty line');
  return body
    .slice(0, -2)
    .split('\n\n')
    .flatMap((event) => event.split('\n'))
    .filter((line) => !line.startsWith(':'))
    .map((line) => {
      if (!line.startsWith('data: ')) throw new Error(`no line of an event stream: ${JSON.stringify(line)}`);
      return line.slice('data: '.length);
    });
}

export interface Wire {
  readonly socket: Socket;
  /** What was received, as text, to look for something in it. */
  text(): string;
  closed(): boolean;
  /** Waits for this many complete answers; fails when the connection ends before. */
  answers(count: number): Promise<RawAnswer[]>;
}

/** Connects and sends; closed at the end of the test. */
export function wire(url: string, ...parts: (string | Buffer)[]): Wire {
  const socket = connect({ port: Number(new URL(url).port), host: '127.0.0.1', allowHalfOpen: true });
  const pieces: Buffer[] = [];
  const decoder = new TextDecoder();
  let text = '';
  let closed = false;
  socket.on('data', (data) => {
    pieces.push(data);
    text += decoder.decode(data, { stream: true });
  });
  // A reset is one of the ways in which a connection may end here.
  socket.on('error', () => {});
  socket.on('end', () => socket.end());
  socket.on('close', () => {
    closed = true;
  });
  for (const part of parts) socket.write(part);
  onTestFinished(() => void socket.destroy());
  let answers: RawAnswer[] = [];
  let parsed = 0;
  const complete = () => {
    if (pieces.length > parsed) answers = answersIn(Buffer.concat(pieces));
    parsed = pieces.length;
    return answers;
  };
  return {
    socket,
    text: () => text,
    closed: () => closed,
    async answers(count) {
      await until(`${count} answers`, () => complete().length >= count || closed);
      if (complete().length < count)
        throw new Error(`${answers.length} answers of ${count}, then the connection ended:\n${text.slice(-1000)}`);
      return answers;
    },
  };
}

/** A POST with a body of JSON, or of these bytes. */
export function posting(path: string, body: object | string | Buffer, ...headers: string[]): Buffer {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
  const head = [
    `POST ${path} HTTP/1.1`,
    'host: localhost',
    'content-type: application/json',
    `content-length: ${bytes.length}`,
    ...headers,
  ];
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), bytes]);
}
