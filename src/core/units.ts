/** Numbers as a person would write them, as precise as they are of use; and what others wrote, fit for a line of text. */
import type { Micros } from './types.js';

const KIB = 1024;

/** Thousands apart. */
export function whole(value: number): string {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** `1 block`, `12 blocks`. */
export function counted(value: number, what: string): string {
  return `${whole(value)} ${what}${value === 1 ? '' : 's'}`;
}

export function times(value: number): string {
  return value === 1 ? 'once' : value === 2 ? 'twice' : `${whole(value)} times`;
}

/** Three figures of a number below 1000. */
function threeFigures(value: number): string {
  return value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

export function duration(micros: Micros): string {
  if (micros <= 0) return '0 ms';
  if (micros < 10) return `${micros} µs`;
  if (micros < 999_500) return `${threeFigures(micros / 1e3)} ms`;
  const seconds = micros / 1e6;
  if (seconds < 120) return `${threeFigures(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return `${whole(minutes)} min ${Math.round(seconds) - 60 * minutes} s`;
}

export function bytes(value: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let scaled = value;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= KIB;
    unit += 1;
  }
  const figures = unit === 0 ? String(scaled) : threeFigures(scaled).replace(/\.0+$|(\.\d*[1-9])0+$/, '$1');
  return `${figures} ${units[unit]}`;
}

export function percent(part: number, all: number): string {
  const share = (100 * part) / all;
  if (part > 0 && share < 0.5) return 'under 1 %';
  return part < all && share >= 99.5 ? 'over 99 %' : `${Math.round(share)} %`;
}

/** `3`, `3 and 4`, `3, 4 and 5`, `3, 4 and 17 others`. */
export function listed(items: readonly (string | number)[]): string {
  const shown = items.length <= 4 ? items.slice(0, -1) : items.slice(0, 3);
  const last = items.length <= 4 ? items[items.length - 1] : `${items.length - shown.length} others`;
  return shown.length === 0 ? String(last) : `${shown.join(', ')} and ${last}`;
}

const TEXT_MAX = 80;

/** What somebody else wrote, on one line, without what would move a terminal's cursor, and cut where it is long. */
export function printable(text: string): string {
  const line = text.replace(/[\s\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ');
  return line.length > TEXT_MAX ? `${line.slice(0, TEXT_MAX)}...` : line;
}
