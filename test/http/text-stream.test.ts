import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { StopStrings, TextStream } from '../../src/http/text-stream.js';
import { anyText } from './fixtures/any-text.js';

const byteToken = (token: number) => Uint8Array.of(token);

function streamed(text: string): string[] {
  const stream = new TextStream(byteToken);
  return [...[...Buffer.from(text, 'utf8')].map((byte) => stream.push(byte)), stream.end()];
}

describe('text of tokens', () => {
  test('a character in four tokens comes with the last of them, and never as U+FFFD', () => {
    expect(streamed('a😀é')).toEqual(['a', '', '', '', '😀', '', 'é', '']);
  });

  test('a byte order mark is text like any other', () => {
    expect(streamed('\uFEFFa').join('')).toBe('\uFEFFa');
  });

  test('what never became a character ends as U+FFFD', () => {
    const stream = new TextStream(byteToken);
    expect([stream.push(0xf0), stream.push(0x9f), stream.end()]).toEqual(['', '', '\uFFFD']);
  });

  test('any text survives being cut into bytes', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(streamed(text).join('')).toBe(text);
      }),
    );
  });
});

/** The definition: read a character at a time, cut at the first stop string that is complete. */
function cutByDefinition(text: string, stops: readonly string[]): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end += 1) {
    const hits = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    if (hits.length > 0) return { text: text.slice(0, end - (hits[0] as string).length), stopped: true };
  }
  return { text, stopped: false };
}

function run(pieces: readonly string[], stops: readonly string[]): { shown: string[]; stopped: boolean } {
  const finder = new StopStrings(stops);
  const shown: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = finder.push(piece);
    shown.push(text);
    if (stopped) return { shown, stopped };
  }
  shown.push(finder.end());
  return { shown, stopped: false };
}

describe('stop strings', () => {
  test('text before one is shown, the stop string and what follows is not, across token borders', () => {
    expect(run(['Hello', ' wor', 'ld. E', 'N', 'D and more'], ['. END'])).toEqual({
      shown: ['Hello', ' wor', 'ld', '', ''],
      stopped: true,
    });
  });

  test('text that only might have been one is shown as soon as it cannot be', () => {
    expect(run(['a. EN', 'ough'], ['. END'])).toEqual({ shown: ['a', '. ENough', ''], stopped: false });
  });

  test('text that might still have been one at the end is shown at the end', () => {
    expect(run(['a. EN'], ['. END'])).toEqual({ shown: ['a', '. EN'], stopped: false });
  });

  test('a stop string that repeats itself is found inside its own beginning', () => {
    expect(run(['aab', 'aab', 'aac'], ['aabaac'])).toEqual({ shown: ['', 'aab', ''], stopped: true });
  });

  test('without stop strings everything passes', () => {
    expect(run(['a', 'b'], [])).toEqual({ shown: ['a', 'b', ''], stopped: false });
  });

  test('the result never depends on where the tokens end, and nothing that is shown is taken back', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 30 });
    const stops = fc.uniqueArray(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 5 }), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(letters, stops, fc.array(fc.nat(6)), (text, list, cuts) => {
        const pieces: string[] = [];
        let at = 0;
        for (const cut of cuts) {
          pieces.push(text.slice(at, at + cut));
          at += cut;
        }
        pieces.push(text.slice(at));
        const { shown, stopped } = run(pieces, list);
        const expected = cutByDefinition(text, list);
        expect(stopped).toBe(expected.stopped);
        // Two stop strings may end together ("b" and "ab"): then either cut is right.
        const endings = list
          .map((stop) => cutByDefinition(text, [stop]))
          .filter((cut) => cut.stopped)
          .map((cut) => cut.text);
        expect(stopped ? endings : [expected.text]).toContain(shown.join(''));
      }),
      { numRuns: 500 },
    );
  });
});
