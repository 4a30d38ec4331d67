/** How a replay ended, as an exit code and in words. */

import { counted } from '../core/units.js';
import { EXIT } from './flags.js';
import type { Played } from './play.js';

export interface Ending {
  /** 0, 2 or 3: see `EXIT`. */
  readonly exitCode: number;
  /** A problem, or a warning where the code is 0; null: nothing to say. */
  readonly message: string | null;
}

const WHOLE: Ending = { exitCode: EXIT.equal, message: null };

/** Of a replay that did not diverge. */
export function endingOf({ end, records }: Played): Ending {
  if (end === null) return WHOLE;
  const before = records === 0 ? 'there is no record before that' : `the ${counted(records, 'record')} before that were replayed`;
  switch (end.type) {
    case 'whole':
      return WHOLE;
    case 'open':
      return { exitCode: EXIT.equal, message: 'warning: the recording has no end: the run was killed, or still goes on' };
    case 'cut':
      return {
        exitCode: EXIT.equal,
        message:
          `warning: ${end.file} breaks off in the middle of a record, at byte ${end.offset}, ${counted(end.bytesLeft, 'byte')} before its end: ` +
          `the run was killed, still goes on, or the file was cut; ${before}`,
      };
    case 'damaged':
      return damaged(
        `${end.file} is damaged at byte ${end.offset}, where record #${end.record} should be: ${end.reason}; ${before}`,
      );
    case 'gap':
      return damaged(
        `${counted(end.lost, 'record')} could not be written while the run went on, behind #${end.lastRecord}; ` +
          `${end.file} goes on with #${end.nextRecord}, which cannot be replayed without them; ${before}`,
      );
    case 'missing':
      return damaged(`${end.file}, the file behind record #${end.lastRecord}, is missing, and there are later ones; ${before}`);
  }
}

function damaged(message: string): Ending {
  return { exitCode: EXIT.damaged, message };
}
