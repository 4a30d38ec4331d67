/** Where a replay and its recording part: what was expected, what came instead, what that means and what to do next. */
import { type Outline, outlinedRequest, outlineText } from '../actors/records.js';
import type { Divergence } from '../actors/replayed.js';
import type { Micros, RequestId } from '../core/types.js';
import { eventRequest, eventText, offset } from './words.js';

export interface DivergenceReport {
  readonly record: number;
  readonly at: Micros;
  /** In words; null: there is no event in the record, or it could not be told. */
  readonly event: string | null;
  /** Whom the event, or else the first effect that differs, is about; null: several, or nobody. */
  readonly request: RequestId | null;
  readonly expected: readonly string[];
  readonly actual: readonly string[];
  /** Position of the first effect that differs; null: they look alike. */
  readonly firstDifference: number | null;
  /** What the replay itself said, where it said anything. */
  readonly reason: string | null;
  readonly meaning: string;
  readonly next: readonly string[];
}

/** `replay`: the command that replays this recording, as it is to be typed. */
export function divergenceReport(divergence: Divergence, replay: string): DivergenceReport {
  const { record, at, event, expected, actual, reason } = divergence;
  const firstDifference = firstOther(expected, actual);
  const differing = firstDifference === null ? [] : [expected[firstDifference], actual[firstDifference]];
  const concerned = differing.map((effect) => (effect === undefined ? null : outlinedRequest(effect)));
  return {
    record,
    at,
    event: event === null ? null : eventText(event),
    request: (event === null ? null : eventRequest(event)) ?? concerned.find((id) => id !== null) ?? null,
    expected: expected.map(outlineText),
    actual: actual.map(outlineText),
    firstDifference,
    reason,
    meaning: meaningOf(divergence, firstDifference),
    next: nextOf(divergence, replay),
  };
}

function firstOther(expected: readonly Outline[], actual: readonly Outline[]): number | null {
  for (let k = 0; k < Math.max(expected.length, actual.length); k += 1) {
    const [a, b] = [expected[k], actual[k]];
    if (a === undefined || b === undefined || outlineText(a) !== outlineText(b)) return k;
  }
  return null;
}

const CAUSES =
  'Either the code is not the one that recorded (its decisions changed and DECISIONS in src/core/config.ts was not raised), ' +
  'or something undetermined has crept into the core, or the recording was changed: a record lost, moved or edited.';

function meaningOf({ reason }: Divergence, firstDifference: number | null): string {
  if (reason !== null) {
    return `${reason}. Up to the record before, all was as recorded. ${CAUSES}`;
  }
  if (firstDifference === null) {
    return `The effects look alike; they differ in what outlines leave out (block numbers, tokens of a step), or the event itself is another than the recorded one. ${CAUSES}`;
  }
  return `The same events led to other effects. ${CAUSES}`;
}

function nextOf({ record, event }: Divergence, replay: string): string[] {
  const before = record > 1 ? [`${replay} --until ${record - 1} shows where everybody stood before it.`] : [];
  const id = event === null ? null : eventRequest(event);
  const request = id === null ? [] : [`${replay} --request ${id} shows what led there for request ${id}.`];
  return [
    ...before,
    ...request,
    'Replay with the commit that recorded: if that replays equal, the decisions were changed since, and DECISIONS has to be raised.',
  ];
}

/** For people. `requestName`: how the world calls the request, where it is known. */
export function divergenceText(report: DivergenceReport): string {
  const { record, at, event, request, expected, actual, firstDifference, meaning, next } = report;
  const lines = [
    `the replay leaves its recording at record #${record}, at ${offset(at)}`,
    ...(event === null ? [] : [`  event     ${event}`]),
    ...(request === null ? [] : [`  request   ${request}`]),
    ...effects('expected', expected, firstDifference),
    ...effects('actual', actual, firstDifference),
    '',
    `  ${meaning}`,
    ...next.map((step) => `  - ${step}`),
  ];
  return `${lines.join('\n')}\n`;
}

function effects(title: string, texts: readonly string[], firstDifference: number | null): string[] {
  const lines = texts.map((text, k) => `${k === firstDifference ? ' >>' : '   '} ${text}`);
  if (firstDifference !== null && firstDifference >= texts.length) lines.push(' >> nothing more');
  if (lines.length === 0) lines.push('    nothing');
  return lines.map((line, k) => `  ${(k === 0 ? title : '').padEnd(9)}${line}`);
}
