/** `fastswitch replay` and `fastswitch explain`: flags -> a replay with onlookers -> pages on standard output, and an exit code. */
import { openRecording, type Recording } from '../actors/recording.js';
import { type Onlooker, requireReplayable } from '../actors/replayed.js';
import type { Life } from '../core/life.js';
import { Lives } from '../core/lives.js';
import type { State } from '../core/state.js';
import { tellStory } from '../core/story.js';
import type { RequestId } from '../core/types.js';
import { counted, duration, whole } from '../core/units.js';
import { whyWaiting } from '../core/waiting.js';
import { FastswitchError } from '../errors.js';
import { badFlag, integerOf, readFlags } from '../flags.js';
import { type Output, ProgressLine } from '../simulation/progress.js';
import { type ChangeFlags, parseChange } from './change.js';
import { divergenceReport, divergenceText } from './divergence.js';
import { type Ending, endingOf } from './ending.js';
import { EXIT, EXPLAIN_FLAGS, type ExplainFlag, explainHelp, REPLAY_FLAGS, type ReplayFlag, replayHelp } from './flags.js';
import { MomentFold } from './moment.js';
import { momentPage } from './moment-page.js';
import { Observed } from './observed.js';
import { type Played, play } from './play.js';
import { whatIfPage } from './report.js';
import { SummaryFold } from './summary.js';
import { summaryPage } from './summary-page.js';
import { TraceFile } from './trace-file.js';
import { Transcript, type TranscriptLine, transcriptText } from './transcript.js';
import { whatIf } from './what-if.js';

/** What a replay is to show. */
interface Wanted {
  readonly file: string;
  readonly until: number | null;
  readonly request: string | null;
  readonly perfetto: string | null;
  readonly json: boolean;
  /** Null: it is told what happened, and not what could have. */
  readonly whatIf: ChangeFlags | null;
}

function wantedOf(argv: readonly string[]): Wanted | null {
  const { places, values } = readFlags<ReplayFlag>(argv, REPLAY_FLAGS, ['FILE']);
  if (values.has('help')) return null;
  const [file] = places;
  if (file === undefined) throw badFlag('which recording? fastswitch replay FILE [flags], see --help');
  const last = (flag: ReplayFlag) => values.get(flag)?.at(-1) ?? null;
  const until = last('until');
  return {
    file,
    until: until === null ? null : integerOf('until', until, 1),
    request: last('request'),
    perfetto: last('perfetto'),
    json: values.has('json'),
    whatIf: changeFlags(values),
  };
}

function changeFlags(values: ReadonlyMap<ReplayFlag, readonly string[]>): ChangeFlags | null {
  const given = (flags: readonly ReplayFlag[]) => flags.find((flag) => values.has(flag));
  if (values.has('what-if')) {
    const alien = given(['until', 'request', 'perfetto']);
    if (alien !== undefined) throw badFlag(`--${alien} is about what happened, and does not go with --what-if`);
    const last = (flag: ReplayFlag) => values.get(flag)?.at(-1) ?? null;
    return { preset: last('preset'), policy: last('policy'), set: values.get('set') ?? [] };
  }
  const change = given(['preset', 'policy', 'set']);
  if (change !== undefined) throw badFlag(`--${change} is about what could have happened: it needs --what-if`);
  return null;
}

/**
 * Runs `fastswitch replay`; answers the exit code.
 * @throws FastswitchError `bad_config` for the command line, `bad_recording` and `other_version` where there is nothing to replay.
 */
export async function replay(argv: readonly string[], output: Output): Promise<number> {
  const wanted = wantedOf(argv);
  if (wanted === null) {
    output.standard(replayHelp());
    return EXIT.equal;
  }
  return wanted.whatIf === null ? new Showing(wanted, output).run() : runWhatIf(wanted, wanted.whatIf, output);
}

/** Of a recording that can be replayed: nothing is written for one that cannot. */
function opened(file: string): Recording {
  const recording = openRecording(file);
  requireReplayable(recording.header);
  return recording;
}

/** Replays, and then runs the same load in a model of the machine. */
function runWhatIf({ file, json }: Wanted, flags: ChangeFlags, output: Output): number {
  const recording = opened(file);
  const { limits } = recording.header;
  const change = parseChange(flags, limits);
  const observed = new Observed(limits);
  const played = playShowing(recording, null, [(event, effects) => observed.see(event, effects)], output);
  const command = `fastswitch replay ${file}`;
  const options = { layers: recording.header.model.layers ?? null };
  const { found, exitCode, message } = answered(played, command, output, () => whatIf(observed, change, options));
  if (json) {
    const divergence = played.divergence === null ? null : divergenceReport(played.divergence, command);
    output.standard(`${JSON.stringify({ exitCode, message, divergence, whatIf: found })}\n`);
  } else if (found !== null) output.standard(whatIfPage(found));
  if (message !== null) output.progress(`fastswitch: ${message}\n`);
  return exitCode;
}

function endingWith(played: Played, command: string): Ending {
  if (played.divergence === null) return endingOf(played);
  return { exitCode: EXIT.diverged, message: divergenceText(divergenceReport(played.divergence, command)).trimEnd() };
}

/**
 * How a replay ended, and what was asked of it. Where there is no answer and the recording is not whole, that may well be
 * why: both are said. Else whoever asked was wrong; a warning is told before that.
 */
function answered<T>(played: Played, command: string, output: Output, ask: () => T): Ending & { readonly found: T | null } {
  const ending = endingWith(played, command);
  // What a diverging decision has led to is not what happened.
  if (played.divergence !== null) return { ...ending, found: null };
  try {
    return { ...ending, found: ask() };
  } catch (error) {
    const { exitCode, message } = ending;
    if (!(error instanceof FastswitchError)) throw error;
    if (exitCode !== EXIT.equal) return { exitCode, message: `${message}; ${error.message}`, found: null };
    if (message !== null) output.progress(`fastswitch: ${message}\n`);
    throw error;
  }
}

/** One replay, and what is shown of it. */
class Showing {
  readonly #wanted: Wanted;
  readonly #output: Output;
  readonly #recording: Recording;
  readonly #summary: SummaryFold;
  readonly #moment = new MomentFold();
  readonly #lines: TranscriptLine[] = [];
  readonly #transcript: Transcript | null;
  #requests = 0;

  constructor(wanted: Wanted, output: Output) {
    this.#wanted = wanted;
    this.#output = output;
    this.#recording = opened(wanted.file);
    this.#summary = new SummaryFold(this.#recording.header);
    this.#transcript = wanted.request === null ? null : new Transcript(wanted.request, (line) => this.#line(line));
  }

  run(): number {
    const trace = this.#wanted.perfetto === null ? null : new TraceFile(this.#wanted.perfetto, this.#recording);
    let played: Played;
    try {
      played = playShowing(this.#recording, this.#wanted.until, this.#onlookers(trace), this.#output);
      trace?.end(played.at);
    } finally {
      trace?.drop();
    }
    const { exitCode, message } = answered(played, this.#command(), this.#output, () => this.#requireFound());
    if (this.#wanted.json) this.#json(played, exitCode, message);
    else if (played.divergence === null) this.#pages(played);
    if (trace !== null) this.#output.progress(`${trace.about()}\n`);
    if (message !== null) this.#output.progress(`fastswitch: ${message}\n`);
    return exitCode;
  }

  #onlookers(trace: TraceFile | null): Onlooker[] {
    const { until } = this.#wanted;
    const onlookers: Onlooker[] = [
      (event) => {
        if (event.type === 'arrived') this.#requests += 1;
      },
    ];
    if (this.#showsSummary()) onlookers.push((event, effects, _, record) => this.#summary.see(event, effects, record));
    if (until !== null) onlookers.push((event, effects, state) => this.#moment.see(event, effects, state));
    const transcript = this.#transcript;
    if (transcript !== null) onlookers.push((event, effects, _, record) => transcript.see(event, effects, record));
    if (trace !== null) onlookers.push((...seen) => trace.see(...seen));
    return onlookers;
  }

  #showsSummary(): boolean {
    return this.#wanted.json || (this.#wanted.until === null && this.#wanted.request === null);
  }

  /** Lines of a page are printed as they come: there may be many. */
  #line(line: TranscriptLine): void {
    if (this.#wanted.json) this.#lines.push(line);
    else this.#output.standard(`${transcriptText(line, this.#wanted.request !== String(line.request))}\n`);
  }

  #requireFound(): void {
    const { request } = this.#wanted;
    if (this.#transcript?.ids.length === 0) throw notFound(request ?? '', this.#requests);
  }

  #command(): string {
    return `fastswitch replay ${this.#wanted.file}`;
  }

  #pages(played: Played): void {
    const { until, file } = this.#wanted;
    if (until !== null) {
      if (this.#transcript?.ids.length) this.#output.standard('\n');
      if (played.records < until)
        this.#output.progress(`fastswitch: warning: there are only ${counted(played.records, 'record')}\n`);
      this.#output.standard(momentPage(this.#moment.result(played)));
    } else if (this.#showsSummary()) {
      this.#output.standard(summaryPage(this.#summary.result(played), `fastswitch explain ${file}`));
    }
  }

  #json(played: Played, exitCode: number, message: string | null): void {
    const { divergence, end, records, at, seconds } = played;
    const page = {
      exitCode,
      message,
      files: this.#recording.files,
      header: this.#recording.header,
      replayed: { records, virtualSeconds: at / 1e6, seconds, end },
      divergence: divergence === null ? null : divergenceReport(divergence, this.#command()),
      summary: divergence === null ? this.#summary.result(played) : null,
      moment: this.#wanted.until === null || divergence !== null ? null : this.#moment.result(played),
      transcript: this.#transcript === null ? null : this.#lines,
    };
    this.#output.standard(`${JSON.stringify(page)}\n`);
  }
}

function notFound(request: string, requests: number): Error {
  const numbers = requests === 0 ? 'no request arrived' : `requests are numbered 1 to ${requests}`;
  return badFlag(`no request "${request}" in what was replayed; ${numbers}, or named by a label as clients know them`);
}

/** Replays with a progress line on standard error. */
function playShowing(recording: Recording, until: number | null, onlookers: readonly Onlooker[], output: Output): Played {
  const line = new ProgressLine(output);
  try {
    return play(recording, {
      until,
      onlookers,
      progress: (records, at) => {
        line.update((seconds) => `replay: ${whole(records)} records, ${duration(at)} of the run, ${seconds} s`);
      },
    });
  } finally {
    line.end();
  }
}

/**
 * Runs `fastswitch explain`; answers the exit code.
 * @throws FastswitchError as `replay` does, and `bad_config` where there is no such request.
 */
export async function explain(argv: readonly string[], output: Output): Promise<number> {
  const { places, values } = readFlags<ExplainFlag>(argv, EXPLAIN_FLAGS, ['FILE', 'REQUEST']);
  if (values.has('help')) {
    output.standard(explainHelp());
    return EXIT.equal;
  }
  const [file, request] = places;
  if (file === undefined || request === undefined) {
    throw badFlag('which request of which recording? fastswitch explain FILE REQUEST, see --help');
  }
  const recording = opened(file);
  const lives = new Lives();
  lives.watch(request);
  const labels = new Map<RequestId, readonly string[]>();
  let state: State | null = null;
  const played = playShowing(
    recording,
    null,
    [
      (event, effects, now) => {
        state = now;
        if (event.type === 'arrived') labels.set(event.id, event.labels);
        lives.apply(event, effects, now);
      },
    ],
    output,
  );
  const command = `fastswitch replay ${file}`;
  const find = () => {
    const lived = lives.find(request);
    if (lived.length === 0) throw notFound(request, labels.size);
    return lived.map((life) => ({ life, story: storyOf(life, played, recording, state, labels) }));
  };
  const { found, exitCode, message } = answered(played, command, output, find);
  if (values.has('json')) {
    const divergence = played.divergence === null ? null : divergenceReport(played.divergence, command);
    output.standard(`${JSON.stringify({ exitCode, message, divergence, requests: found ?? [] })}\n`);
  } else if (found !== null) output.standard(`${found.map(({ story }) => story.join('\n')).join('\n\n')}\n`);
  if (message !== null) output.progress(`fastswitch: ${message}\n`);
  return exitCode;
}

function storyOf(
  life: Life,
  { at }: Played,
  { header: { limits } }: Recording,
  state: State | null,
  labels: ReadonlyMap<RequestId, readonly string[]>,
): string[] {
  const waitingFor = state === null || life.endedAt !== null ? null : whyWaiting(state, life.id);
  const { policy, mechanism } = limits;
  return tellStory(life, { now: at, policy, mechanism, waitingFor, others: (id) => labels.get(id) ?? [] });
}
