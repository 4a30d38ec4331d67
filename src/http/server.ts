/**
 * The HTTP server: routes, one shape for all errors, and a close that lets running answers finish.
 *
 * No cross-origin headers are sent: a web page of another origin may not use somebody's local server. (A browser
 * sends no JSON across origins without asking first, and is not answered.)
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type ConnectionError, type FastifyInstance, type FastifyReply, LogController } from 'fastify';
import type { System } from '../actors/system.js';
import { type Config, isLoopback, presetOf } from '../core/config.js';
import { FastswitchError } from '../errors.js';
import { type Caller, callerOf, registerAccess } from './access.js';
import { liveBoard } from './board/live.js';
import { registerBoard } from './board/routes.js';
import { ChoiceCounts } from './choice-counts.js';
import { Completions } from './completions.js';
import { clientError, errorBody, sendError } from './error-answers.js';
import { Gate } from './gate.js';
import { OpenGenerations } from './generation.js';
import { Lookups, registerLookups } from './lookups.js';
import type { ModelInfo } from './model.js';
import { registerRequestRoutes } from './request-routes.js';
import { registerRequests } from './requests.js';
import { ChatRequest, ChatResponse, CompletionRequest, CompletionResponse } from './schema.js';
import { type Health, registerStatus } from './status.js';
import { registerTenants } from './tenant-routes.js';
import { Tenants } from './tenants.js';
import type { Tokenizer } from './tokenizer.js';
import { registerNames } from './visitors.js';
import { WaitingRoom } from './waiting-room.js';
import { within } from './within.js';

const IDLE_SWEEP_MILLIS = 50;
/** A connection that has sent nothing for so long is not about to. */
const UNUSED_MILLIS = 500;
/** After the time to finish has run out, for the last words of the answers that are cut. */
const LAST_WORDS_MILLIS = 250;
const HEADERS_MILLIS_MAX = 20_000;
const REQUEST_MILLIS_MAX = 120_000;
const KEEP_ALIVE_MILLIS = 72_000;
/** Room for prompts in headers is not needed; ids, keys and cookies fit. */
const HEADER_BYTES_MAX = 32_768;

export interface ServerParts {
  readonly config: Config;
  readonly system: System;
  readonly tokenizer: Tokenizer;
  readonly model: ModelInfo;
  /** Of fastswitch. */
  readonly version: string;
  /** Without it: one anonymous tenant. */
  readonly tenants?: Tenants;
}

/**
 * The server, ready to `listen` or to be injected. `close()` drains: /health says so, new requests get 503, running
 * ones have `drainSeconds`, then everything is cut. It does not close the system, which is its owner's.
 *
 * @throws FastswitchError bad_model if tokenizer and model do not belong together.
 */
export function createServer(parts: ServerParts): FastifyInstance {
  const { config, system, tokenizer, tenants = new Tenants('', presetOf(config).mechanism) } = parts;
  tokenizer.assertFits(system.info.vocabularySize);
  const state = { health: 'serving' as Health };
  const server = bareServer(config, () => state.health);
  registerNames(server, { ...config, all: !tenants.keyed && isLoopback(config.host), keyed: tenants.keyed });
  const gate = registerGate(server, tenants, parts);
  const open = new OpenGenerations();
  const sockets = openSockets(server);
  void system.failed.then(() => {
    state.health = 'failed';
    // Nobody will end these any more.
    open.abortAll();
  });
  const choiceCounts = new ChoiceCounts();
  const room = new WaitingRoom(system);
  registerCompletions(server, new Completions({ ...parts, open, tenants, gate, room, choiceCounts }));
  registerStatus(server, { ...parts, tenants, choiceCounts, health: () => state.health });
  registerRequests(server, system, '/v1/requests/', (request, account) => maySee(callerOf(request), account));
  registerRequestRoutes(server, system, tenants.keyed);
  registerTenants(server, tenants, gate);
  const board = liveBoard({
    ...parts,
    // Who sees the board of a server with keys has an admin's.
    config: { ...config, admin: config.admin || tenants.keyed },
    drain() {
      if (state.health === 'serving') state.health = 'draining';
      gate.close();
      void system.drain();
    },
    report: (error) => server.log.error(error, 'the board cannot be drawn'),
  });
  registerBoard(server, board);
  server.addHook('preClose', async () => {
    if (state.health === 'serving') state.health = 'draining';
    gate.close();
    await drained(server, parts, open, sockets);
    // Until here viewers see how it drains; they hold up nothing.
    board.feed.close();
  });
  server.addHook('onClose', () => tokenizer.close());
  return server;
}

function maySee({ tenant, admin }: Caller, account: string): boolean {
  return admin || tenant.owns(account);
}

/** Who asks is known from here on, and every answer says what is left of that one's limits. */
function registerGate(server: FastifyInstance, tenants: Tenants, { config, system }: ServerParts): Gate {
  const gate = new Gate(config, tenants.now);
  registerAccess(server, tenants, config);
  tenants.onReweighted = (account, weight) => system.reweight(account, weight);
  server.addHook('onSend', async ({ caller }, reply) => {
    if (caller !== null) reply.headers(gate.headers(caller.tenant));
  });
  // After the gate's: of what asks about requests the rate of that is said, and not that of completions.
  registerLookups(server, new Lookups(tenants.now));
  return gate;
}

type BareConfig = Pick<Config, 'bodyLimitBytes' | 'logLevel'>;

/** A server that knows how to refuse, and nothing else yet. */
export function bareServer(config: BareConfig, health: () => Health): FastifyInstance {
  const server = Fastify({
    bodyLimit: config.bodyLimitBytes,
    requestTimeout: REQUEST_MILLIS_MAX,
    keepAliveTimeout: KEEP_ALIVE_MILLIS,
    http: { headersTimeout: HEADERS_MILLIS_MAX, maxHeaderSize: HEADER_BYTES_MAX },
    routerOptions: { maxParamLength: 512 },
    // It would also cut the hooks of `close`, and with them every drain of more than ten seconds.
    pluginTimeout: 0,
    return503OnClosing: false,
    frameworkErrors: (error, _request, reply) => void answerError(reply, error, config),
    clientErrorHandler: answerUnparsed,
    genReqId: (request) => requestId(request.headers['x-request-id']),
    logger: config.logLevel === 'silent' ? false : { level: config.logLevel },
    logController: new LogController({ disableRequestLogging: config.logLevel !== 'debug' }),
    // Types are never converted, fields never dropped or filled in: what the client sent is what is judged.
    ajv: { customOptions: { coerceTypes: false, useDefaults: false, removeAdditional: false, verbose: true } },
  });
  registerManners(server, config, health);
  return server;
}

/** The client's own, if it is harmless to repeat. */
function requestId(given: string | string[] | undefined): string {
  return typeof given === 'string' && /^[\w.:/+=-]{1,128}$/.test(given) ? given : `req_${randomUUID()}`;
}

function registerCompletions(server: FastifyInstance, completions: Completions): void {
  const typed = server.withTypeProvider<TypeBoxTypeProvider>();
  const chat = { body: ChatRequest, response: { 200: ChatResponse } };
  typed.post('/v1/chat/completions', { schema: chat }, async ({ body }, reply) => completions.chat(body, reply));
  const text = { body: CompletionRequest, response: { 200: CompletionResponse } };
  typed.post('/v1/completions', { schema: text }, async ({ body }, reply) => completions.completion(body, reply));
}

/**
 * Resolves when the body has been read and dropped. To close a connection on which it still arrives would reset it, and
 * the client would never see the answer.
 */
function dropped(message: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    message.once('end', resolve).once('close', resolve).resume();
  });
}

/** OpenAI's clients send null for "not given", at the top and in messages. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const kept = Object.entries(value).filter(([, member]) => member !== null);
  return Object.fromEntries(
    kept.map(([name, member]) => [name, name === 'messages' && Array.isArray(member) ? member.map(withoutNulls) : member]),
  );
}

/** Paths that go on with a name. */
const WILDCARDS = ['/v1/models/', '/v1/requests/', '/board/requests/'];

/** Request ids, refusal while not serving, and errors of every kind in one shape. */
function registerManners(server: FastifyInstance, config: BareConfig, health: () => Health): void {
  // JSON only. (Text is also what a foreign web page could send without asking.)
  server.removeContentTypeParser('text/plain');
  const methodsByPath = new Map<string, Set<string>>();
  server.addHook('onRoute', ({ method, url }) => {
    const methods = methodsByPath.get(url) ?? new Set();
    for (const one of [method].flat()) methods.add(one);
    methodsByPath.set(url, methods);
  });
  server.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
    if (health() === 'serving') {
      const encoding = request.headers['content-encoding'] ?? 'identity';
      if (encoding === 'identity') return;
      throw new FastswitchError(
        'unsupported_media_type',
        `A body encoded as ${encoding.slice(0, 40)} cannot be read. Send it plain.`,
      );
    }
    // A kept connection would be closed as idle just when its client asks again.
    reply.header('connection', 'close');
    if (request.method === 'GET' || request.method === 'HEAD') return;
    // What drains may be told by its operator to hurry.
    if (health() === 'draining' && request.url.startsWith('/board/')) return;
    await dropped(request.raw);
    throw health() === 'draining'
      ? new FastswitchError(
          'draining',
          'The server is shutting down and takes no new requests. Try again elsewhere or later.',
          null,
          1,
        )
      : new FastswitchError('unavailable', 'The engine has stopped; the server must be started anew.', null, 5);
  });
  server.addHook('preValidation', async (request) => {
    // In a change null says something: that there is to be none.
    if (request.method !== 'PATCH') request.body = withoutNulls(request.body);
  });
  server.setErrorHandler((error, _request, reply) => answerError(reply, error, config));
  server.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? '';
    const below = WILDCARDS.find((prefix) => path.startsWith(prefix));
    const methods = methodsByPath.get(path) ?? (below === undefined ? undefined : methodsByPath.get(`${below}*`));
    if (methods === undefined || methods.has(request.method))
      return sendError(reply, new FastswitchError('not_found', `There is nothing at ${request.method} ${path.slice(0, 200)}.`));
    const allowed = [...methods].join(', ');
    reply.header('allow', allowed);
    return sendError(
      reply,
      new FastswitchError('method_not_allowed', `${path.slice(0, 200)} does not answer ${request.method}. Use ${allowed}.`),
    );
  });
}

function answerError(reply: FastifyReply, error: unknown, config: BareConfig): FastifyReply {
  const known = clientError(error, config.bodyLimitBytes);
  if (known === null) reply.log.error(error, 'unexpected error while answering');
  else reply.log.info({ code: known.code, status: known.kind.status, param: known.param }, 'refused');
  // Closing while the body still arrives would reset the connection, and the client would never read the answer: what
  // is left of the body is read and dropped instead, for as long as a request may take.
  if (known?.code === 'body_too_large') reply.removeHeader('connection');
  return sendError(
    reply,
    known ?? new FastswitchError('internal', 'An unexpected error happened in the server. It was logged under this request id.'),
  );
}

/** What is no HTTP, or comes too slowly, never becomes a request: the answer goes straight to the socket. */
function answerUnparsed(error: ConnectionError, socket: Socket): void {
  // On a connection that has answered before, an answer may be under way: nothing can be said in its middle.
  if (error.code === 'ECONNRESET' || !socket.writable || socket.bytesWritten > 0) return void socket.destroy();
  const [status, message] = UNPARSED[error.code] ?? ['400 Bad Request', 'The request is not valid HTTP.'];
  const body = JSON.stringify(errorBody(new FastswitchError('invalid_request', message)));
  const head = [
    'connection: close',
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
  ];
  socket.end(`HTTP/1.1 ${status}\r\n${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}

const UNPARSED: Readonly<Record<string, readonly [status: string, message: string]>> = {
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'The request did not arrive in time.'],
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', `The headers are larger than ${HEADER_BYTES_MAX} bytes.`],
};

/** Open connections and when they were opened. */
function openSockets({ server: http }: FastifyInstance): ReadonlyMap<Socket, number> {
  const sockets = new Map<Socket, number>();
  http.on('connection', (socket: Socket) => {
    sockets.set(socket, performance.now());
    socket.once('close', () => sockets.delete(socket));
  });
  return sockets;
}

/** Returns when no answer is being written any more, at the latest a little after `drainSeconds`. */
async function drained(
  server: FastifyInstance,
  { system, config }: ServerParts,
  open: OpenGenerations,
  sockets: ReadonlyMap<Socket, number>,
): Promise<void> {
  const { server: http } = server;
  const sweep = setInterval(() => {
    http.closeIdleConnections();
    // Node does not count those among the idle: connections that never asked for anything, which clients keep in reserve.
    for (const [socket, since] of sockets)
      if (socket.bytesRead === 0 && performance.now() - since > UNUSED_MILLIS) socket.destroy();
  }, IDLE_SWEEP_MILLIS);
  // What is no generation (a scrape, a body still arriving) has until the same time.
  const cut = setTimeout(() => http.closeAllConnections(), config.drainSeconds * 1000 + LAST_WORDS_MILLIS);
  http.once('close', () => {
    clearInterval(sweep);
    clearTimeout(cut);
  });
  const finished = Promise.race([system.drain(), system.failed]).then(() => open.emptied());
  if ((await within(config.drainSeconds * 1000, finished)) !== null) return;
  open.abortAll();
  await within(LAST_WORDS_MILLIS, open.emptied());
}
