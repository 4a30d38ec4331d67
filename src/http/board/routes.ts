/**
 * What is under /board: the page and its parts, what it shows as one stream, and, where that is allowed, what it may change.
 * Nothing of a prompt or an answer is shown anywhere here.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import fastifyStatic from '@fastify/static';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { System } from '../../actors/system.js';
import type { BoardAbout, BoardOrder } from '../../core/board.js';
import type { AbortReason, RequestId } from '../../core/types.js';
import { FastswitchError } from '../../errors.js';
import { registerRequests } from '../requests.js';
import { refuseOrigins } from '../visitors.js';
import type { Feed } from './feed.js';

/** What an operator may do. */
export interface BoardControl {
  abort(id: RequestId, reason: AbortReason): void;
  reprioritize(id: RequestId, priority: number): void;
  /** New requests are refused from now on. */
  drain(): void;
  /** It runs or waits. */
  isAlive(id: RequestId): Promise<boolean>;
}

export interface BoardParts {
  about(): BoardAbout;
  readonly feed: Feed;
  readonly requests: Pick<System, 'explain'>;
  /** Null: there is nothing that could be changed. */
  readonly control: BoardControl | null;
  /** Null: it is live. */
  readonly player: ((order: BoardOrder) => void) | null;
  /** A stream whose viewer reads nothing for so long is cut. */
  readonly stallSeconds: number;
  /** Of the built page; where it is not given, beside this file. */
  readonly pageFolder?: string;
}

/** Everything from the server itself; no script, no frame and no form of anybody else's. */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  // Where nothing else is said: there may be another page after an update.
  'cache-control': 'no-cache',
} as const;

const NOT_BUILT = 'The page of the board is not built. Build it with "npm run build", then load this again.\n';

/** Of the page. */
const ADDRESSES = ['/board', '/board/'] as const;

export function registerBoard(server: FastifyInstance, parts: BoardParts): void {
  server.register(async (board) => {
    board.addHook('onRequest', async (_request, reply) => {
      reply.headers(HEADERS);
    });
    registerPage(board, parts.pageFolder ?? fileURLToPath(new URL('./page/', import.meta.url)));
    board.get('/board/about', async (_request, reply) => reply.header('cache-control', 'no-store').send(parts.about()));
    board.get('/board/events', { exposeHeadRoute: false }, async (_request, reply) => stream(reply, parts));
    registerRequests(board, parts.requests, '/board/requests/');
    registerControl(board, parts);
    registerPlayer(board, parts);
  });
}

function registerPage(board: FastifyInstance, folder: string): void {
  // The sources of the page have no assets.
  const built = existsSync(join(folder, 'index.html')) && existsSync(join(folder, 'assets'));
  if (!built) {
    for (const address of ADDRESSES)
      board.get(address, async (_request, reply) => reply.code(404).type('text/plain; charset=utf-8').send(NOT_BUILT));
    return;
  }
  const files = { index: false, dotfiles: 'ignore', acceptRanges: false } as const;
  // The names of assets have a digest of their content in them.
  const assets = { ...files, root: join(folder, 'assets'), prefix: '/board/assets/', maxAge: '1y', immutable: true };
  board.register(fastifyStatic, assets);
  const charts = { ...files, root: join(folder, 'charts'), prefix: '/board/charts/', cacheControl: false, decorateReply: false };
  if (existsSync(charts.root)) board.register(fastifyStatic, charts);
  for (const address of ADDRESSES)
    board.get(address, async (_request, reply) => reply.sendFile('index.html', folder, { cacheControl: false }));
}

function stream(reply: FastifyReply, { feed, stallSeconds }: BoardParts): FastifyReply {
  const { raw } = reply;
  if (raw.destroyed) return reply.hijack();
  const events = feed.open(raw);
  const { socket } = raw;
  // The socket's own timer starts anew with every byte that moves.
  raw.setTimeout(stallSeconds * 1000, () => {
    if (socket === null || socket.writableLength > 0) socket?.destroy();
    else socket.setTimeout(stallSeconds * 1000);
  });
  reply.headers({ 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-store', 'x-accel-buffering': 'no' });
  // Nothing is made in store for a viewer that does not read.
  return reply.send(Readable.from(events, { objectMode: false, highWaterMark: 1 }));
}

/** What is sent to change something is small. */
const BODY_BYTES_MAX = 4096;

const Id = Type.Object({ id: Type.String({ title: 'the number of a request', pattern: '^[1-9][0-9]{0,15}$' }) });
const Nothing = Type.Object({}, { title: 'an empty JSON object', additionalProperties: false });
const Priority = Type.Object(
  {
    priority: Type.Integer({
      title: 'a whole number of 32 bits (lower is served first)',
      minimum: -0x80000000,
      maximum: 0x7fffffff,
    }),
  },
  { title: 'a JSON object', additionalProperties: false },
);
const Order = Type.Object(
  {
    action: Type.Union([Type.Literal('play'), Type.Literal('pause'), Type.Literal('step'), Type.Literal('seek')], {
      title: 'play, pause, step or seek',
    }),
    record: Type.Optional(Type.Integer({ title: 'the number of a record', minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
    at: Type.Optional(Type.Number({ title: 'microseconds of the run', minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
    request: Type.Optional(Type.Integer({ title: 'the number of a request', minimum: 1, maximum: Number.MAX_SAFE_INTEGER })),
    speed: Type.Optional(Type.Number({ title: 'a number from 0.001 to 1000', minimum: 0.001, maximum: 1000 })),
  },
  { title: 'a JSON object', additionalProperties: false },
);

/** Each takes a body of JSON: what a page of another origin can send without asking is none. */
function registerControl(board: FastifyInstance, parts: BoardParts): void {
  const typed = board.withTypeProvider<TypeBoxTypeProvider>();
  const control = (): BoardControl => {
    if (parts.control === null)
      throw new FastswitchError('forbidden', 'This is a recording: what has happened cannot be changed.');
    if (!parts.about().admin)
      throw new FastswitchError('forbidden', 'Nothing may be changed here: the server was not started with --admin.');
    return parts.control;
  };
  const living = async (id: RequestId): Promise<RequestId> => {
    if (await control().isAlive(id)) return id;
    throw new FastswitchError('not_found', `Request ${id} is not alive: it has ended, or never came.`);
  };
  const allowed = {
    bodyLimit: BODY_BYTES_MAX,
    onRequest: async ({ headers }: FastifyRequest) => {
      control();
      refuseOrigins(headers);
    },
  };
  typed.post('/board/requests/:id/priority', { ...allowed, schema: { params: Id, body: Priority } }, async ({ params, body }) => {
    const request = await living(Number(params.id));
    control().reprioritize(request, body.priority);
    return { request, priority: body.priority };
  });
  typed.post('/board/requests/:id/abort', { ...allowed, schema: { params: Id, body: Nothing } }, async ({ params }) => {
    const request = await living(Number(params.id));
    control().abort(request, 'operator');
    return { request };
  });
  typed.post('/board/drain', { ...allowed, schema: { body: Nothing } }, async () => {
    control().drain();
    return { server: 'draining' };
  });
}

function registerPlayer(board: FastifyInstance, { player }: BoardParts): void {
  const typed = board.withTypeProvider<TypeBoxTypeProvider>();
  const allowed = {
    bodyLimit: BODY_BYTES_MAX,
    onRequest: async ({ headers }: FastifyRequest) => {
      if (player === null) throw new FastswitchError('not_found', 'This board is live: there is nothing to play.');
      refuseOrigins(headers);
    },
  };
  typed.post('/board/player', { ...allowed, schema: { body: Order } }, async ({ body }) => {
    if (body.action === 'seek' && body.record === undefined && body.at === undefined)
      throw new FastswitchError('invalid_request', "Give 'record' or 'at': where to.", 'record');
    player?.(body);
    return {};
  });
}
