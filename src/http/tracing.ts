/**
 * A span of OpenTelemetry for each request, with the states that it went through as events. Only the API is ours: without
 * an SDK, which whoever starts the server may load before it, all of this does nothing and costs nothing.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { context, propagation, type Span, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import type { Explanation } from '../actors/system.js';
import type { FastswitchError } from '../errors.js';

export interface SpanFacts {
  readonly operation: 'chat' | 'text_completion';
  readonly model: string;
  readonly responseId: string;
  readonly requestId: string;
  readonly tenant: string;
}

/** Begins the span of a request, as a child of what its `traceparent` header names. */
export function startSpan(version: string, headers: IncomingHttpHeaders, facts: SpanFacts): Span {
  const parent = propagation.extract(context.active(), headers);
  return trace.getTracer('fastswitch', version).startSpan(
    `${facts.operation} ${facts.model}`,
    {
      kind: SpanKind.SERVER,
      attributes: {
        'gen_ai.operation.name': facts.operation,
        'gen_ai.provider.name': 'fastswitch',
        'gen_ai.request.model': facts.model,
        'gen_ai.response.id': facts.responseId,
        'fastswitch.request_id': facts.requestId,
        'fastswitch.tenant': facts.tenant,
      },
    },
    parent,
  );
}

export interface SpanEnd {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly finishReasons: readonly string[];
  readonly failure: FastswitchError | null;
  readonly abandoned: boolean;
}

/** Ends the span; `lives`: of its choices. */
export function endSpan(span: Span, end: SpanEnd, lives: readonly Explanation[]): void {
  const wallNow = Date.now();
  for (const [choice, { life, at }] of lives.entries()) {
    // The run's clock counts microseconds from its start; that moment is `at` on it.
    const wall = (micros: number): number => wallNow - (at - micros) / 1000;
    for (const { phase, from, preemption } of life.spells) {
      const cause = preemption === null ? {} : { 'fastswitch.preemption': preemption.why };
      span.addEvent(phase, { 'fastswitch.choice': choice, ...cause }, wall(from));
    }
    if (life.firstTokenAt !== null) span.addEvent('first token', { 'fastswitch.choice': choice }, wall(life.firstTokenAt));
    if (life.endedAt !== null)
      span.addEvent('done', { 'fastswitch.choice': choice, outcome: life.outcome ?? '' }, wall(life.endedAt));
  }
  span.setAttributes({
    'gen_ai.usage.input_tokens': end.promptTokens,
    'gen_ai.usage.cached_input_tokens': end.cachedTokens,
    'gen_ai.usage.output_tokens': end.generatedTokens,
    'gen_ai.response.finish_reasons': [...end.finishReasons],
    'fastswitch.preemptions': lives.reduce(
      (sum, { life }) => sum + Object.values(life.preemptions).reduce((all, count) => all + count, 0),
      0,
    ),
  });
  if (end.failure !== null) span.setStatus({ code: SpanStatusCode.ERROR, message: end.failure.code });
  else if (end.abandoned) span.setAttribute('error.type', 'client_left');
  span.end();
}
