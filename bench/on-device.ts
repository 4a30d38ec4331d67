/** What benches of the native side are told: a device (the CPU, or a GPU without which there is nothing to measure) and a shape. */
import { FastswitchError } from '../src/errors.js';
import { type Choice, chooseDevice } from '../src/native/device.js';
import { SHAPES } from '../src/native/shapes.js';

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

/** Ends the process with code 2 and the names where there is no such shape. */
export function shapeName(flag: string): keyof typeof SHAPES {
  if (Object.hasOwn(SHAPES, flag)) return flag as keyof typeof SHAPES;
  console.error(`no shape "${flag}"; there are ${Object.keys(SHAPES).join(', ')}`);
  process.exit(2);
}
