/** The device of a bench: the CPU, or a GPU without which it has nothing to measure. */
import { FastswitchError } from '../src/errors.js';
import { type Choice, chooseDevice } from '../src/native/device.js';

/** Ends the process with code 2 and the reason where the GPU cannot be used. */
export function deviceOf(flag: string): Choice {
  try {
    return chooseDevice(flag, null);
  } catch (error) {
    if (!(error instanceof FastswitchError)) throw error;
    console.error(error.message);
    process.exit(2);
  }
}

export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
