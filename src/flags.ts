/** What the command lines have in common: reading flags by a table, their help, and errors that say what would be right. */
import { parseArgs } from 'node:util';
import { FastswitchError } from './errors.js';

export interface Flag {
  /** What stands for its value in the help; null: it takes none. */
  readonly value: string | null;
  readonly about: string;
}

export interface Given<Name extends string> {
  /** What is no flag, in order: at most as many as the command has places for. */
  readonly places: readonly string[];
  /** The values of each flag that was given, in order; of a flag without value empty texts. */
  readonly values: ReadonlyMap<Name, readonly string[]>;
}

/**
 * Reads a command line by the table of its flags; `-h` is `--help`. `places`: what the arguments that are no flags stand for.
 * @throws FastswitchError `bad_config` that says what is wrong and what is allowed.
 */
export function readFlags<Name extends string>(
  argv: readonly string[],
  flags: Readonly<Record<Name, Flag>>,
  places: readonly string[] = [],
): Given<Name> {
  const names = Object.keys(flags) as Name[];
  const options = Object.fromEntries(
    names.map((name) => [name, { type: flags[name].value === null ? ('boolean' as const) : ('string' as const) }]),
  );
  const { tokens } = parseArgs({ args: [...argv], strict: false, tokens: true, allowPositionals: true, options });
  const placed: string[] = [];
  const values = new Map<Name, string[]>();
  for (const token of tokens) {
    if (token.kind === 'positional') {
      if (placed.push(token.value) > places.length) throw badFlag(`unexpected argument "${token.value}": ${expected(places)}`);
    } else if (token.kind === 'option') {
      const name = names.find((candidate) => candidate === token.name || (candidate === 'help' && token.name === 'h'));
      if (name === undefined)
        throw badFlag(`unknown flag ${token.rawName}${suggestion(token.name, names, (flag) => `--${flag}`)}`);
      const takesValue = flags[name].value !== null;
      if (!takesValue && token.value !== undefined) throw badFlag(`${token.rawName} takes no value`);
      if (takesValue && (token.value === undefined || (!token.inlineValue && token.value.startsWith('--')))) {
        throw badFlag(`${token.rawName} needs a value: ${token.rawName} VALUE or ${token.rawName}=VALUE`);
      }
      values.set(name, [...(values.get(name) ?? []), token.value ?? '']);
    }
  }
  return { places: placed, values };
}

function expected(places: readonly string[]): string {
  if (places.length === 0) return 'every option is a flag, see --help';
  return `after ${places.join(' ')} come flags, see --help`;
}

export function badFlag(message: string): FastswitchError {
  return new FastswitchError('bad_config', message);
}

/** @throws FastswitchError `bad_config` where the text of a flag is no integer of at least `min`. */
export function integerOf(flag: string, text: string, min: number): number {
  if (!/^\d{1,9}$/.test(text) || Number(text) < min)
    throw badFlag(`--${flag} is "${text}"; allowed is an integer, at least ${min}`);
  return Number(text);
}

const SIZE_UNITS: readonly { readonly name: string; readonly bytes: number }[] = [
  'TiB',
  'GiB',
  'MiB',
  'KiB',
  'TB',
  'GB',
  'MB',
  'KB',
].map((name) => ({ name, bytes: (name.length === 3 ? 1024 : 1000) ** ('KMGT'.indexOf(name.charAt(0)) + 1) }));

/** How to write a size. */
export const SIZES = 'like 64MiB, 1.5GiB, 200MB, or plain bytes';

/** Bytes of `64MiB`, `1.5 GiB`, `200MB`, `4096`; whole bytes, rounded down. Null where the text is no size. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?) ?([KMGT]i?B|B)?$/i.exec(text);
  if (match === null) return null;
  const [, number = '', given = 'B'] = match;
  const unit = SIZE_UNITS.find(({ name }) => name.toLowerCase() === given.toLowerCase())?.bytes ?? 1;
  const bytes = Math.floor(Number(number) * unit);
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** The shortest text with a binary unit that `parseSize` reads back as exactly these bytes. */
export function formatSize(bytes: number): string {
  const unit = SIZE_UNITS.find((candidate) => candidate.name.length === 3 && bytes % candidate.bytes === 0);
  return unit === undefined || bytes === 0 ? String(bytes) : `${bytes / unit.bytes}${unit.name}`;
}

/** Most columns of a help text. */
export const HELP_COLUMNS = 100;

/** What every flag does: the flag on the left, what it is about on the right from column `indent` on. */
export function flagLines(flags: Readonly<Record<string, Flag>>, indent: number): string[] {
  return Object.entries(flags).flatMap(([name, { value, about }]) => {
    const left = `  --${name}${value === null ? '' : ` ${value}`}`;
    const [first = '', ...rest] = wrap(about, HELP_COLUMNS - indent);
    return [left.padEnd(indent) + first, ...rest.map((line) => ' '.repeat(indent) + line)];
  });
}

/** ", did you mean ...?" with the nearest of the known flags, or where to find them all. */
export function suggestion(given: string, known: readonly string[], show: (flag: string) => string): string {
  const wanted = given.toLowerCase().replaceAll('_', '-');
  const ranked = known.map((flag) => ({ flag, distance: editDistance(wanted, flag) })).sort((a, b) => a.distance - b.distance);
  const [nearest] = ranked;
  if (nearest === undefined || nearest.distance > Math.max(2, wanted.length / 3)) return ', see --help';
  return `, did you mean ${show(nearest.flag)}?`;
}

/** Levenshtein's: the fewest letters to insert, delete or replace. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, k) => k);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}

/** Lines of whole words of at most so many characters, longer words alone. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > columns) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
