/**
 * The catalogue of errors that a user of the server can meet: one line each. Errors here are the world's (bad
 * input, full queue, broken file); our own mistakes are assertions and stop the process.
 *
 * Imports nothing, may be imported by all.
 */

export interface ErrorKind {
  /** HTTP status where the error reaches a client. */
  readonly status: number;
  /** OpenAI's `error.type`. */
  readonly type:
    | 'invalid_request_error'
    | 'not_found_error'
    | 'rate_limit_error'
    | 'server_error'
    | 'service_unavailable_error'
    | 'authentication_error'
    | 'permission_error'
    | 'timeout_error';
  /** Trying the same request again later may help. */
  readonly retriable: boolean;
}

const kind = (status: number, type: ErrorKind['type'], retriable: boolean): ErrorKind => ({ status, type, retriable });

export const CATALOGUE = {
  invalid_request: kind(400, 'invalid_request_error', false),
  invalid_json: kind(400, 'invalid_request_error', false),
  context_length_exceeded: kind(400, 'invalid_request_error', false),
  too_large: kind(400, 'invalid_request_error', false),
  unsupported_parameter: kind(400, 'invalid_request_error', false),
  /** No key, or one that nobody here has. */
  invalid_api_key: kind(401, 'authentication_error', false),
  model_not_found: kind(404, 'not_found_error', false),
  /** Seeing or changing what is not one's own, where that is not allowed. */
  forbidden: kind(403, 'permission_error', false),
  not_found: kind(404, 'not_found_error', false),
  method_not_allowed: kind(405, 'invalid_request_error', false),
  body_too_large: kind(413, 'invalid_request_error', false),
  unsupported_media_type: kind(415, 'invalid_request_error', false),
  queue_full: kind(429, 'rate_limit_error', true),
  /** The tenant's own rate of requests or tokens. */
  rate_limit_exceeded: kind(429, 'rate_limit_error', true),
  /** More than the tenant may ever use at once: waiting does not help. */
  request_over_limit: kind(429, 'rate_limit_error', false),
  engine_failed: kind(500, 'server_error', true),
  internal: kind(500, 'server_error', false),
  too_many_viewers: kind(503, 'service_unavailable_error', true),
  /** The engine has stopped: nothing more is served until somebody starts the server anew. */
  unavailable: kind(503, 'service_unavailable_error', true),
  draining: kind(503, 'service_unavailable_error', true),
  /** The request was ended from the server's side (an operator, a shutdown) before it was complete. */
  aborted: kind(503, 'service_unavailable_error', true),
  /** Configuration or model files that cannot be used; ends `serve` with exit code 1. */
  bad_config: kind(500, 'server_error', false),
  bad_model: kind(500, 'server_error', false),
  /** A recording that cannot be read, that breaks off, or that leads elsewhere when it is replayed. */
  bad_recording: kind(500, 'server_error', false),
  /** A recording of another version or configuration than this one can replay. */
  other_version: kind(500, 'server_error', false),
  native_missing: kind(500, 'server_error', false),
  native_failed: kind(500, 'server_error', false),
  /** A GPU that answers nothing any more to this process; ends it, so that a supervisor starts another. */
  device_lost: kind(500, 'server_error', false),
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof CATALOGUE;

/** An error with a code from the catalogue; the message says what is wrong and what to do. */
export class FastswitchError extends Error {
  override readonly name = 'FastswitchError';
  readonly code: ErrorCode;
  /** The field of the request that is wrong, where there is one. */
  readonly param: string | null;
  /** When trying again may succeed, where that is known. */
  readonly retryAfterSeconds: number | null;

  constructor(code: ErrorCode, message: string, param: string | null = null, retryAfterSeconds: number | null = null) {
    super(message);
    this.code = code;
    this.param = param;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  get kind(): ErrorKind {
    return CATALOGUE[this.code];
  }
}
