import { describe, expect, it } from 'vitest';
import { eventOf, Recorder } from '../../src/actors/records.js';
import { recordProblem } from '../../src/actors/shapes.js';
import type { Event } from '../../src/core/types.js';

const arrived: Event = {
  type: 'arrived',
  at: 3,
  id: 1,
  labels: ['a'],
  promptTokens: 20,
  maxTokens: 4,
  priority: 0.5,
  tenant: 't',
  weight: 2.5,
  ttftMicros: 1_000_000,
  tbtMicros: null,
  names: ['0123456789abcdef'],
};

const events: [string, Event][] = [
  ['an arrival with its weight and deadlines', arrived],
  ['an arrival without', { ...arrived, weight: 1, ttftMicros: null, names: [] }],
  [
    'new priorities, some with deadlines',
    {
      type: 'reprioritized',
      at: 4,
      items: [
        { id: 1, priority: 2 },
        { id: 2, priority: -1.5, deadlines: { ttftMicros: null, tbtMicros: 40_000 } },
        { id: 3, priority: 0 },
      ],
    },
  ],
  ['a new weight', { type: 'reweighted', at: 5, tenant: 'ü', weight: 0.25 }],
];

describe('a record', () => {
  it.each(events)('says the same again: %s', (_, event) => {
    const record = new Recorder(false).decided(event, []);
    expect(recordProblem(record)).toBeNull();
    expect(eventOf(record, [])).toEqual(event);
  });

  it.each([
    ['weight', { ...arrived, weight: 0 }],
    ['weight', { ...arrived, weight: Number.NaN }],
    ['ttftMicros', { ...arrived, ttftMicros: 'soon' }],
    ['weight', { type: 'reweighted', at: 1, tenant: 'a', weight: -1 }],
  ])('with no right %s is none', (field, event) => {
    expect(recordProblem(new Recorder(false).decided(event as Event, []))).toBe(`it has no right "${field}"`);
  });

  it('with deadlines of nobody is none', () => {
    const record = new Recorder(false).decided(events[2]?.[1] as Event, []);
    expect(recordProblem({ ...record, deadlines: [[1, 2]] })).toBe('it has no right "deadlines"');
  });
});
