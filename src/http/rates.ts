/** How clients are told what they may: the headers and the times of OpenAI. */

/** Clients that are told to wait a minute or more do not, and use a short time of their own. */
const RETRY_SECONDS_MAX = 59;

/** What is said in `retry-after`. */
export function clipped(seconds: number): number {
  return Math.min(RETRY_SECONDS_MAX, Math.max(0.001, seconds));
}

/** `6m0s`, `1.5s`, `20ms`: as OpenAI writes them. */
export function spelled(seconds: number): string {
  const millis = Math.ceil(seconds * 1000);
  if (millis < 1000) return `${millis}ms`;
  const minutes = Math.floor(millis / 60_000);
  const rest = (millis - minutes * 60_000) / 1000;
  return minutes === 0 ? `${rest}s` : `${minutes}m${Number(rest.toFixed(0))}s`;
}

export function rateHeaders(
  kind: 'requests' | 'tokens',
  limit: number,
  remaining: number,
  resetSeconds: number,
): Record<string, string> {
  return {
    [`x-ratelimit-limit-${kind}`]: String(Math.floor(limit)),
    [`x-ratelimit-remaining-${kind}`]: String(Math.max(0, Math.floor(remaining))),
    [`x-ratelimit-reset-${kind}`]: spelled(resetSeconds),
  };
}
