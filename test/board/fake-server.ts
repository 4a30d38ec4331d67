/** A fake behind the HTTP port: the built page as the server hands it out, over a scripted system. */
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname } from 'node:path';
import { applyDelta, type BoardFrame, deltaOf } from '../../src/core/board.js';
import type { ScriptedBoard } from './scripted-board.js';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};

/** Maps come less often than the rest, as from a server. */
const MAP_MICROS = 1e6;

export interface FakeServer {
  readonly url: string;
  readonly posts: { readonly path: string; readonly body: unknown }[];
  /** Of requests whose stories were asked for. */
  readonly asked: number[];
  /** Why it refuses viewers; null: it does not. */
  refusal: string | null;
  /** Sends what has changed. */
  send(): void;
  /** Cuts every stream; whoever asks again is served. */
  cut(): void;
  close(): void;
}

export interface FakeOptions {
  /** Of the built page. */
  readonly page: URL;
  /** A number: its answer has this status, and no JSON. */
  readonly storyOf?: (id: number) => object | number | null;
}

export async function serveFake(board: ScriptedBoard, { page, storyOf = () => null }: FakeOptions): Promise<FakeServer> {
  const viewers = new Set<ServerResponse>();
  const posts: { path: string; body: unknown }[] = [];
  const asked: number[] = [];
  let last: BoardFrame = board.frame();
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const path = (request.url ?? '/').split('?', 1)[0] as string;
    response.setHeader(
      'content-security-policy',
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'",
    );
    if (request.method === 'POST') {
      let text = '';
      request.on('data', (chunk) => (text += chunk));
      request.on('end', () => {
        posts.push({ path, body: JSON.parse(text || '{}') });
        json(response, {});
      });
    } else if (path === '/board/events' && fake.refusal !== null) {
      response.writeHead(503, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message: fake.refusal } }));
    } else if (path === '/board/events') {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
      response.write(`retry: 200\n\nevent: snapshot\ndata: ${JSON.stringify(last)}\n\n`);
      viewers.add(response);
      response.on('close', () => viewers.delete(response));
    } else if (path === '/board/about') json(response, board.about);
    else if (path.startsWith('/board/requests/')) {
      const id = Number(path.slice('/board/requests/'.length));
      const story = storyOf(id);
      asked.push(id);
      if (typeof story === 'number') response.writeHead(story).end('no JSON');
      else if (story === null) response.writeHead(404).end('{}');
      else json(response, { choices: [story] });
    } else file(response, new URL(path === '/board' ? 'index.html' : path.slice('/board/'.length), page));
  };
  const server: Server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const fake: FakeServer = {
    refusal: null,
    asked,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/board`,
    posts,
    send() {
      const now = board.frame();
      const fresh = now.at - last.device.at >= MAP_MICROS;
      const frame = fresh ? now : { ...now, device: last.device, host: last.host };
      const delta = deltaOf(last, frame);
      for (const viewer of viewers) viewer.write(`event: delta\ndata: ${JSON.stringify(delta)}\n\n`);
      last = applyDelta(last, delta);
    },
    cut() {
      for (const viewer of viewers) viewer.destroy();
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
  return fake;
}

function json(response: ServerResponse, body: object): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function file(response: ServerResponse, name: URL): void {
  try {
    const body = readFileSync(name);
    response.writeHead(200, { 'content-type': TYPES[extname(name.pathname)] ?? 'application/octet-stream' }).end(body);
  } catch {
    response.writeHead(404).end();
  }
}
