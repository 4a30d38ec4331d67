/** The flags of `replay` and `explain`, and their help. */
import { type Flag, flagLines, HELP_COLUMNS, wrap } from '../flags.js';

export const REPLAY_FLAGS = {
  until: { value: 'N', about: 'Stop after record N and show where everybody stands then.' },
  request: { value: 'ID', about: 'Show only what is about this request: its number, or a label that clients know.' },
  perfetto: {
    value: 'OUT',
    about: 'Write a trace for ui.perfetto.dev or chrome://tracing: steps, transfers by direction, a lane for each request.',
  },
  'what-if': {
    value: null,
    about: 'Run the recorded load on a machine fitted to the recording, as it was and with --preset, --policy or --set.',
  },
  preset: { value: 'NAME', about: 'With --what-if: under another preset, as serve takes it.' },
  policy: { value: 'NAME', about: 'With --what-if: by another policy: fcfs, priority, vtc, fair, mlfq or edf.' },
  set: {
    value: 'KEY=VALUE',
    about: 'With --what-if: with another size, such as device-kv=32MiB or max-running=16; may be repeated.',
  },
  json: { value: null, about: 'Print one JSON object, not a page.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;
export type ReplayFlag = keyof typeof REPLAY_FLAGS;

export const EXPLAIN_FLAGS = {
  json: { value: null, about: 'Print one JSON object, not a story.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;
export type ExplainFlag = keyof typeof EXPLAIN_FLAGS;

/** How both commands end. */
export const EXIT = { equal: 0, wrong: 1, diverged: 2, damaged: 3, otherVersion: 4 } as const;

export const EXIT_LINES = [
  'Exit code',
  '  0  every record was replayed and led to the same decisions; also where the run was killed, so that',
  '     its recording has no end or half a last record: that is a warning',
  '  1  wrong flags, or a file that cannot be read',
  '  2  the replay led to another decision; the first one is named',
  '  3  the recording is damaged or has a gap; everything before that was replayed',
  '  4  it was made by a version or configuration that this one cannot replay',
  '',
];

const INDENT = 22;

export function replayHelp(): string {
  return [
    'fastswitch replay FILE [flags]',
    '',
    ...wrap(
      'Takes in what a recorded run took in, decides again, and compares every decision with the recorded one. FILE is what ' +
        '"serve --journal" or "simulate --journal" wrote; of a run in several files any of them, or the folder. Shows a ' +
        'summary: what happened, how long requests waited, and where the run hung.',
      HELP_COLUMNS,
    ),
    '',
    ...flagLines(REPLAY_FLAGS, INDENT),
    '',
    ...EXIT_LINES,
  ].join('\n');
}

export function explainHelp(): string {
  return [
    'fastswitch explain FILE REQUEST [flags]',
    '',
    ...wrap(
      'Tells the life of one request in plain words: how long it was in each state, who took its place and why, what was ' +
        'copied for it, what it waited for. REQUEST is its number, or a label that clients know.',
      HELP_COLUMNS,
    ),
    '',
    ...flagLines(EXPLAIN_FLAGS, INDENT),
    '',
    ...EXIT_LINES,
  ].join('\n');
}
