/** What the reader of a what-if has to know: where the figures rest on something that the recording does not tell. */
import type { Deadlines, Outcome } from '../core/types.js';
import { counted, percent } from '../core/units.js';
import { type Change, maxTokensOn } from './change.js';
import type { RunFigures } from './figures.js';
import type { CopyFitQuality, MachineFit } from './fit.js';
import type { Observed } from './observed.js';

interface Facts {
  readonly observed: Observed;
  readonly change: Change;
  readonly fit: MachineFit;
  readonly layers: number | null;
  readonly modelled: RunFigures;
  readonly changed: RunFigures;
}

/** One sentence or two each, the most important first. */
export function notesOf(facts: Facts): readonly string[] {
  return [
    'Requests come and are cancelled when they were in the recording. Clients that wait for an answer before they ask again would have asked at other times.',
    ...deadlineNotes(facts),
    ...busyNotes(facts),
    ...copyNotes(facts),
    ...refusalNotes(facts),
    ...lengthNotes(facts),
    ...faultNotes(facts),
    ...batchNotes(facts),
  ];
}

/** Under deadlines nobody has, everybody is as urgent as when they would starve. */
function deadlineNotes({ observed, change }: Facts): string[] {
  const promised = (of: Deadlines | undefined) => of !== undefined && (of.ttftMicros !== null || of.tbtMicros !== null);
  if (change.limits.policy !== 'edf' || observed.requests.some(promised)) return [];
  if (observed.reprioritized.some(({ items }) => items.some(({ deadlines }) => promised(deadlines)))) return [];
  return ['No request of the recording was promised a deadline, which is all that edf goes by.'];
}

/** Above this share of the time in steps, waits are long and grow far faster than the load. */
const BUSY = 0.8;

function busyNotes({ observed }: Facts): string[] {
  const { seconds } = observed.figures();
  const busy = observed.steps.reduce((sum, { launchedAt, returnedAt }) => sum + returnedAt - launchedAt, 0) / 1e6;
  if (seconds === 0 || busy < BUSY * seconds) return [];
  return [
    `Steps took ${percent(busy, seconds)} of the recorded time. So near to what the machine can do, a speed that is off by a few per cent makes waits that are off by many.`,
  ];
}

function copyNotes({ observed, change, fit, layers, modelled, changed }: Facts): string[] {
  const notes: string[] = [];
  const copied = { out: modelled.bytesOut + changed.bytesOut, in: modelled.bytesIn + changed.bytesIn };
  for (const direction of ['out', 'in'] as const) {
    const { samples, source }: CopyFitQuality = fit.copies[direction];
    if (source === 'recorded' || copied[direction] === 0) continue;
    const where =
      source === 'other'
        ? 'copies in the other direction are taken for them'
        : 'what they take is a guess (5 GB/s), not measured';
    notes.push(`The recording has ${samples === 0 ? 'no' : `only ${samples}`} copies ${direction}: ${where}.`);
  }
  const apart = observed.limits.mechanism.crossLayer !== change.limits.mechanism.crossLayer;
  if (apart && copied.out + copied.in > 0) {
    notes.push(
      layers === null
        ? 'The layouts of blocks differ and the number of layers is not known: copies by layers are charged like whole ones, which is too cheap.'
        : `The layouts of blocks differ: what a copy by layers takes is extrapolated, ${2 * layers} copies for each run.`,
    );
  }
  return notes;
}

function refusalNotes({ modelled, changed }: Facts): string[] {
  const more = changed.ended.rejected - modelled.ended.rejected;
  if (more <= 0) return [];
  return [
    `The change refuses ${counted(more, 'request')} more than the model of the recording: its latencies are of the others only, and may look better for that.`,
  ];
}

function lengthNotes({ observed, change }: Facts): string[] {
  const notes: string[] = [];
  const count = (wanted: Outcome | null) => observed.requests.filter(({ outcome }) => outcome === wanted).length;
  const rejected = count('rejected');
  if (rejected > 0) {
    notes.push(
      `${requests(rejected)} refused in the recording and never served: their lengths are unknown, and where they are served here they have the median of the others.`,
    );
  }
  const cut = observed.requests.filter((own) => own.generated > maxTokensOn(own, observed.limits, change.limits)).length;
  if (cut > 0) notes.push(`${requests(cut)} longer than fits the smaller device: they end where it is full.`);
  const failed = count('failed');
  if (failed > 0) notes.push(`${requests(failed)} ended by a failure: taken to be as long as it had become.`);
  const open = count(null);
  if (open > 0) notes.push(`${requests(open)} still alive where the recording ends: they are cut off then.`);
  const left = observed.aborts.filter(({ reason }) => reason !== 'shutdown').length;
  if (left > 0) {
    notes.push(
      `${requests(left)} cancelled: the same comes at the same time here, and until then more or fewer tokens may be made. ` +
        'Who would have lost patience with a slower answer is not known.',
    );
  }
  return notes;
}

function requests(count: number): string {
  return `${counted(count, 'request')} ${count === 1 ? 'was' : 'were'}`;
}

function faultNotes({ observed: { stepsFailed, copiesFailed } }: Facts): string[] {
  if (stepsFailed + copiesFailed === 0) return [];
  const copies = copiesFailed === 1 ? '1 copy' : `${copiesFailed} copies`;
  return [`${counted(stepsFailed, 'step')} and ${copies} failed in the recording; in the model none does.`];
}

/** Steps larger than any that was seen are extrapolated. */
function batchNotes({ observed, change: { limits }, changed, modelled }: Facts): string[] {
  const recorded = observed.limits;
  const larger = (['maxRunning', 'maxBatchTokens', 'deviceBlocks'] as const).filter((key) => limits[key] > recorded[key]);
  if (larger.length === 0 || changed.steps === modelled.steps) return [];
  return ['More may run in a step than did in the recording: what larger steps take is extrapolated.'];
}
