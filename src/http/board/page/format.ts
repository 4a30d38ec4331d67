/** Numbers as the board writes them: few digits, units named, the same width while they change as far as that goes. */
import type { Micros } from '../../../core/types.js';

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

export const count = (value: number): string => whole.format(value);

/** A priority or a rank, which may lie between two whole numbers; where it is large that says nothing. */
export const ordinal = (value: number): string =>
  Number.isInteger(value) || Math.abs(value) >= 1000 ? whole.format(value) : value.toFixed(1);

/** Three significant digits, fewer for what is below ten. */
export function figure(value: number): string {
  if (value >= 100) return whole.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(value === 0 ? 0 : 2);
}

/** A length of time. */
export function span(micros: Micros): string {
  const seconds = micros / 1e6;
  if (micros <= 0) return '0 s';
  if (micros < 1000) return `${Math.round(micros)} µs`;
  if (seconds < 0.1) return `${(micros / 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(micros / 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m ${pad(Math.floor(seconds) % 60)}s`;
  return `${Math.floor(minutes / 60)}h ${pad(minutes % 60)}m`;
}

export const seconds = (value: number): string => span(value * 1e6);

/** A moment of the run, from its start. */
export function moment(micros: Micros): string {
  const all = micros / 1e6;
  const [minutes, rest] = [Math.floor(all / 60), all % 60];
  const clock = `${pad(minutes % 60)}:${pad(Math.floor(rest))}.${String(Math.floor((rest % 1) * 1000)).padStart(3, '0')}`;
  return minutes < 60 ? clock : `${Math.floor(minutes / 60)}:${clock}`;
}

const pad = (value: number) => String(value).padStart(2, '0');

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(value: number): string {
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10));
  return `${power === 0 ? Math.round(value) : figure(value / 1024 ** power)} ${UNITS[power]}`;
}

/** Of a link: its makers count in thousands. */
export function rate(value: number): string {
  const power = value < 1 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
  return `${figure(value / 1000 ** power)} ${['B', 'kB', 'MB', 'GB', 'TB'][power]}/s`;
}

export function percent(share: number): string {
  const value = 100 * share;
  return `${value > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)} %`;
}

/** `1 request`, `2 requests`. */
export const plural = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
