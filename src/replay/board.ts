/** `fastswitch board`: a recording, replayed once to know how long it is and where it breaks, then played for a board. */
import { basename } from 'node:path';
import { openRecording, type Recording } from '../actors/recording.js';
import type { BoardAbout } from '../core/board.js';
import { duration, whole } from '../core/units.js';
import { badFlag, type Flag, flagLines, HELP_COLUMNS, integerOf, readFlags, wrap } from '../flags.js';
import { type Output, ProgressLine } from '../simulation/progress.js';
import { divergenceReport, divergenceText } from './divergence.js';
import { type Ending, endingOf } from './ending.js';
import { EXIT, EXIT_LINES } from './flags.js';
import { OutlineFold } from './outline.js';
import { type Played, play } from './play.js';
import { Player } from './player.js';

const BOARD_FLAGS = {
  host: { value: 'ADDRESS', about: 'Address to listen on. Default 127.0.0.1.' },
  port: { value: 'N', about: 'Port to listen on; 0: any free one. Default 8081.' },
  'open-at': { value: 'RECORD', about: 'Begin behind this record.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;
type BoardFlag = keyof typeof BOARD_FLAGS;

const PORT_MAX = 65_535;
const INDENT = 22;

function boardHelp(): string {
  return [
    'fastswitch board FILE [flags]',
    '',
    ...wrap(
      'Shows a recorded run on the board that a server has at /board, with a slider over its records: play, pause, one event ' +
        'on, or straight to any of them. FILE is what "serve --journal" or "simulate --journal" wrote; of a run in several ' +
        'files any of them, or the folder. Serves until it is interrupted.',
      HELP_COLUMNS,
    ),
    '',
    ...flagLines(BOARD_FLAGS, INDENT),
    '',
    ...EXIT_LINES,
  ].join('\n');
}

/** What there is to serve. */
export interface RecordedBoard {
  readonly about: BoardAbout;
  readonly player: Player;
}

export interface Place {
  readonly host: string;
  readonly port: number;
}

/** Serves the board; `listening` is called with its address. Resolves when it was told to end. */
export type Serve = (board: RecordedBoard, place: Place, listening: (address: string) => void) => Promise<void>;

/**
 * Runs `fastswitch board`; answers the exit code, once it was told to end. `version`: of this fastswitch.
 * @throws FastswitchError as `replay` does; and what `serve` throws.
 */
export async function board(argv: readonly string[], output: Output, version: string, serve: Serve): Promise<number> {
  const { places, values } = readFlags<BoardFlag>(argv, BOARD_FLAGS, ['FILE']);
  if (values.has('help')) {
    output.standard(boardHelp());
    return EXIT.equal;
  }
  const [file] = places;
  if (file === undefined) throw badFlag('which recording? fastswitch board FILE [flags], see --help');
  const last = (flag: BoardFlag) => values.get(flag)?.at(-1) ?? null;
  const port = integerOf('port', last('port') ?? '8081', 0);
  if (port > PORT_MAX) throw badFlag(`--port is ${port}; allowed is 0 to ${PORT_MAX}`);
  const openAt = last('open-at') === null ? null : integerOf('open-at', last('open-at') as string, 0);
  const opened = openBoard(file, output, version);
  const { player, about, ending } = opened;
  if (ending.message !== null) output.progress(`fastswitch: ${ending.message}\n`);
  if (openAt !== null) player.order({ action: 'seek', record: openAt });
  await serve({ about, player }, { host: last('host') ?? '127.0.0.1', port }, (address) => {
    const fragment = openAt === null ? '' : `#record=${openAt}`;
    output.standard(`the board of ${about.recording?.file} is at ${address}/board${fragment}\n`);
  });
  player.close();
  return ending.exitCode;
}

/**
 * Replays the recording once, with a line on how far that is, and opens it for playing.
 * @throws FastswitchError `bad_recording` and `other_version`.
 */
export function openBoard(file: string, output: Output, version: string): RecordedBoard & { readonly ending: Ending } {
  const recording = openRecording(file);
  const outline = new OutlineFold();
  const line = new ProgressLine(output);
  const played = play(recording, {
    until: null,
    onlookers: [(event, _effects, state, record) => outline.see(state, record, event.at)],
    progress: (records, at) =>
      line.update((seconds) => `board: ${whole(records)} records, ${duration(at)} of the run, ${seconds} s`),
  });
  line.end();
  const player = new Player(recording, played.records, (error) => output.progress(`fastswitch: ${(error as Error).message}\n`));
  return { about: aboutOf(recording, played, outline, version), player, ending: endOf(played, file) };
}

function endOf(played: Played, file: string): Ending {
  if (played.divergence === null) return endingOf(played);
  const report = divergenceReport(played.divergence, `fastswitch replay ${file}`);
  return { exitCode: EXIT.diverged, message: divergenceText(report).trimEnd() };
}

function aboutOf({ header, files }: Recording, played: Played, outline: OutlineFold, version: string): BoardAbout {
  const { limits, model, config, blockTokens, startedAt } = header;
  const { policy, blockBytes, maxRunning, maxBatchTokens, deviceBlocks } = limits;
  return {
    version,
    source: 'recording',
    model: model.name,
    preset: String(config.preset ?? ''),
    // A recording does not say what the model's context was: what the device holds is the most that fits.
    contextTokensMax: deviceBlocks * blockTokens,
    ...{ policy, blockTokens, blockBytes, maxRunning, maxBatchTokens },
    admin: false,
    recording: {
      file: basename(files[0] as string),
      startedAt,
      records: played.records,
      endAt: played.at,
      broken: brokenOf(played),
      outline: outline.result(),
    },
  };
}

/** Null: it was replayed to its end, be that the run's own or just where the recording stops. */
function brokenOf(played: Played): NonNullable<BoardAbout['recording']>['broken'] {
  const { divergence, end, records } = played;
  if (divergence !== null) {
    const { event, expected, actual, firstDifference, reason } = divergenceReport(divergence, '');
    const other = firstDifference ?? 0;
    const what = reason ?? `recorded was ${expected[other] ?? 'nothing more'}, replayed ${actual[other] ?? 'nothing more'}`;
    return { record: divergence.record, words: `the replay leaves the recording here (${event ?? 'no event'}): ${what}` };
  }
  if (end === null || end.type === 'whole' || end.type === 'open') return null;
  return { record: records + 1, words: endingOf(played).message ?? '' };
}
