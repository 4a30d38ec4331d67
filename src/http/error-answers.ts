/**
 * Every error a client can meet, in OpenAI's shape: `{ error: { message, type, param, code } }`.
 */
import type { FastifyError, FastifyReply } from 'fastify';
import { FastswitchError } from '../errors.js';

export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string };
}

export function errorBody(error: FastswitchError): ErrorBody {
  return { error: { message: error.message, type: error.kind.type, param: error.param, code: error.code } };
}

/** What validation says of one failed check; the part of Ajv's report that is used. */
interface FailedCheck {
  readonly keyword: string;
  readonly instancePath: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly parentSchema?: { readonly title?: string };
  readonly data?: unknown;
}

/** `/messages/0/content` -> `messages[0].content` */
function pathName(instancePath: string): string {
  return instancePath
    .split('/')
    .slice(1)
    .reduce((path, part) => {
      const name = part.replace(/~1/g, '/').replace(/~0/g, '~').slice(0, 64);
      if (/^\d+$/.test(name)) return `${path}[${name}]`;
      return path === '' ? name : `${path}.${name}`;
    }, '');
}

const join = (path: string, name: string): string => (path === '' ? name : `${path}.${name}`);

function described(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'such a list';
  if (typeof value === 'object') return 'such an object';
  const text = JSON.stringify(value) ?? 'nothing';
  const short = text.length > 40 ? `${text.slice(0, 40)}...` : text;
  return typeof value === 'string' ? `the string ${short}` : short;
}

function fromValidation(checks: readonly FailedCheck[]): FastswitchError {
  // Where none of several shapes fits, Ajv lists the failures of each and then, last, the choice itself: that one has
  // a title that names them all.
  const check = (checks.findLast(({ keyword }) => keyword === 'anyOf') ?? checks[0]) as FailedCheck;
  const path = pathName(check.instancePath);
  if (check.keyword === 'required') {
    const param = join(path, String(check.params.missingProperty));
    return new FastswitchError('invalid_request', `Missing required parameter: '${param}'.`, param);
  }
  if (check.keyword === 'additionalProperties') {
    const name = String(check.params.additionalProperty).slice(0, 64);
    const param = join(path, name);
    const message =
      path === ''
        ? `Unrecognized request argument supplied: ${name}`
        : `'${path}' has no '${name}'. Leave it out, or correct its name.`;
    return new FastswitchError('invalid_request', message, param);
  }
  const expected = check.parentSchema?.title ?? 'of another form';
  if (path === '')
    return new FastswitchError('invalid_request', `The request body must be ${expected}, not ${described(check.data)}.`);
  return new FastswitchError('invalid_request', `'${path}' must be ${expected}, not ${described(check.data)}.`, path);
}

/** Fastify's own errors, by its codes. */
function fromFastify(error: FastifyError, bodyLimitBytes: number): FastswitchError | null {
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new FastswitchError('body_too_large', `The request body is larger than ${bodyLimitBytes} bytes. Send less at once.`);
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new FastswitchError(
        'unsupported_media_type',
        "Send the request body as JSON, with the header 'content-type: application/json'.",
      );
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new FastswitchError('invalid_json', 'The request body is empty. Send a JSON object.');
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new FastswitchError('invalid_json', 'The request body is not valid JSON.');
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new FastswitchError(
        'invalid_request',
        'The request body does not have the length that its content-length header says.',
      );
    default:
      return null;
  }
}

/** Null for an error that is our own mistake. */
export function clientError(error: unknown, bodyLimitBytes: number): FastswitchError | null {
  if (error instanceof FastswitchError) return error;
  const fastify = error as FastifyError;
  if (Array.isArray(fastify.validation)) return fromValidation(fastify.validation as unknown as FailedCheck[]);
  const known = fromFastify(fastify, bodyLimitBytes);
  if (known !== null) return known;
  if (error instanceof SyntaxError && fastify.statusCode === 400) {
    return new FastswitchError('invalid_json', `The request body is not valid JSON: ${error.message}`);
  }
  const refused = typeof fastify.statusCode === 'number' && fastify.statusCode >= 400 && fastify.statusCode < 500;
  return refused ? new FastswitchError('invalid_request', fastify.message) : null;
}

/** Status, headers and body. */
export function sendError(reply: FastifyReply, error: FastswitchError): FastifyReply {
  const { status, retriable } = error.kind;
  if (error.retryAfterSeconds !== null) {
    const seconds = Math.max(0, error.retryAfterSeconds);
    reply.header('retry-after', String(Math.max(1, Math.ceil(seconds))));
    reply.header('retry-after-ms', String(Math.ceil(seconds * 1000)));
  }
  // OpenAI's clients repeat every 408, 409, 429 and 5xx unless told otherwise.
  if (status >= 429 && !retriable) reply.header('x-should-retry', 'false');
  return reply
    .code(status)
    .type('application/json; charset=utf-8')
    .send(JSON.stringify(errorBody(error)));
}
