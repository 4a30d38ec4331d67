/** What a transcript says of a request beyond its own effects: new priorities, promises, and the weight of its tenant. */
import { expect, it } from 'vitest';
import type { Effect, Event } from '../../src/core/types.js';
import { Transcript } from '../../src/replay/transcript.js';
import { arrivalText, eventText } from '../../src/replay/words.js';

const ARRIVED: Extract<Event, { type: 'arrived' }> = {
  ...{ type: 'arrived', at: 0, id: 7, labels: ['mine'], promptTokens: 4, maxTokens: 9, priority: 1, tenant: 'blue' },
  ...{ weight: 2.5, ttftMicros: 300_000, tbtMicros: 50_000, names: [] },
};

it('has what changed while it lived, and nothing of others or afterwards', () => {
  const lines: string[] = [];
  const transcript = new Transcript('mine', ({ text }) => void lines.push(text));
  const items = [
    { id: 7, priority: 3 },
    { id: 8, priority: 4 },
    { id: 7, priority: 3, deadlines: { ttftMicros: null, tbtMicros: 20_000 } },
    { id: 7, priority: 3, deadlines: { ttftMicros: null, tbtMicros: null } },
  ];
  const weight = (tenant: string): Event => ({ type: 'reweighted', at: 2, tenant, weight: 4 });
  const finish: Effect = { type: 'finish', id: 7, outcome: 'stop', error: null };
  transcript.see(ARRIVED, [], 1);
  transcript.see({ type: 'reprioritized', at: 1, items }, [], 2);
  transcript.see(weight('blue'), [], 3);
  transcript.see(weight('red'), [], 4);
  transcript.see({ type: 'aborted', at: 3, id: 7, reason: 'client' }, [finish], 5);
  transcript.see(weight('blue'), [], 6);
  expect(lines).toEqual([
    `arrived: ${arrivalText(ARRIVED)}`,
    'from now on priority 3',
    'from now on priority 3, promised a token every 20.0 ms after the first',
    'from now on priority 3, promised nothing',
    'from now on its tenant has weight 4',
    'asked to end: client',
    'finish request 7, outcome stop',
  ]);
  expect(eventText(weight('blue'))).toBe("tenant 'blue' has weight 4 from now on");
});

it('says of an arrival what was promised, and a weight that is not 1', () => {
  const said = 'prompt of 4 tokens, at most 9 more, priority 1';
  expect(arrivalText(ARRIVED)).toBe(
    `${said}, promised a first token within 300 ms and one every 50.0 ms after that, tenant blue of weight 2.5, mine`,
  );
  expect(arrivalText({ ...ARRIVED, weight: 1, ttftMicros: null, tbtMicros: null })).toBe(`${said}, tenant blue, mine`);
  expect(arrivalText({ ...ARRIVED, weight: 1, tbtMicros: null, tenant: '', labels: [] })).toBe(
    `${said}, promised a first token within 300 ms`,
  );
});
