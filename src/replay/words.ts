/** Figures, events and tables in plain words: what the pages of `replay` are made of. */
import { sayDeadlines } from '../core/reasons.js';
import type { Event, Micros, Reprioritized, RequestId } from '../core/types.js';
import { counted, duration, listed, printable, whole } from '../core/units.js';

/** Most columns of a page. */
export const PAGE_COLUMNS = 100;

/** An offset in the run, to the microsecond: "12.345678 s". */
export function offset(at: Micros): string {
  return `${(at / 1e6).toFixed(6)} s`;
}

/** Milliseconds for a column: as many digits as are worth reading. */
export function millis(ms: number): string {
  return ms < 10 ? ms.toFixed(2) : ms < 1000 ? ms.toFixed(1) : whole(Math.round(ms));
}

/** Of a priority, which may be any number: as many digits as fit a column. */
export function priorityText(priority: number): string {
  return Number.isInteger(priority) ? String(priority) : priority.toFixed(3);
}

/** Of the names that the world has for a request, the shortest: what people call it, beside what machines made up. */
export function nameText(labels: readonly string[]): string {
  return printable(labels.toSorted((a, b) => a.length - b.length)[0] ?? '');
}

/** At most so many characters, the end left out. */
export function shortened(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** Lines of at most a page's width; what comes after the first is indented. */
export function folded(text: string, indent = '  '): string[] {
  const lines: string[] = [];
  for (const word of text.split(/ (?! |$)/)) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > PAGE_COLUMNS) lines.push(last === undefined ? word : indent + word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

/** Rows in columns with two spaces between them, flush right but for those under the titles in `left`. No line ends in spaces. */
export function columns(titles: readonly string[], rows: readonly (readonly string[])[], left: readonly string[]): string[] {
  const all = [titles, ...rows];
  const widths = titles.map((_, k) => Math.max(...all.map((row) => (row[k] as string).length)));
  const cell = (text: string, k: number) => {
    const width = widths[k] as number;
    return left.includes(titles[k] as string) ? text.padEnd(width) : text.padStart(width);
  };
  return all.map((row) => row.map(cell).join('  ').trimEnd());
}

/** What happened, in a line. */
export function eventText(event: Event): string {
  switch (event.type) {
    case 'arrived':
      return `request ${event.id} arrived: ${arrivalText(event)}`;
    case 'aborted':
      return `request ${event.id} was aborted (${event.reason})`;
    case 'stepped': {
      const ended = event.items.filter(({ ended: over }) => over).length;
      const more = ended === 0 ? '' : `, ${ended} of them ended by a stop token`;
      return `step ${event.step} came back after ${duration(event.micros)} in the engine, ${counted(event.items.length, 'request')}${more}`;
    }
    case 'stepFailed':
      return `step ${event.step} failed: ${printable(event.error)}`;
    case 'landed':
      return `transfer ${event.transfer} landed, copied for ${duration(event.micros)}`;
    case 'transferFailed':
      return `transfer ${event.transfer} failed: ${printable(event.error)}`;
    case 'reprioritized':
      return `${counted(event.items.length, 'request')} got another priority: ${listed(
        event.items.map((item) => `${item.id} has ${standingText(item)}`),
      )}`;
    case 'reweighted':
      return `tenant '${printable(event.tenant)}' has weight ${event.weight} from now on`;
    case 'draining':
      return 'draining began: newcomers are refused';
  }
}

/** Weights of 1 and deadlines of nobody are not worth a word. */
export function arrivalText(arrival: Extract<Event, { type: 'arrived' }>): string {
  const { promptTokens, maxTokens, priority, tenant, weight, labels } = arrival;
  const heavy = weight === 1 ? '' : ` of weight ${weight}`;
  const names = [...(tenant === '' && heavy === '' ? [] : [`tenant ${tenant}${heavy}`]), ...labels].map(printable).join(', ');
  const said = `prompt of ${counted(promptTokens, 'token')}, at most ${whole(maxTokens)} more, priority ${priority}`;
  const promised = sayDeadlines(arrival);
  return [said, promised === '' ? '' : `promised ${promised}`, names].filter((part) => part !== '').join(', ');
}

/** What a request has from now on: `2`, or `2, promised a first token within 300 ms`. */
export function standingText({ priority, deadlines }: Reprioritized): string {
  if (deadlines === undefined) return String(priority);
  return `${priority}, promised ${sayDeadlines(deadlines) || 'nothing'}`;
}

/** The request that an event is about; null where it is about several, or none. */
export function eventRequest(event: Event): RequestId | null {
  return event.type === 'arrived' || event.type === 'aborted' ? event.id : null;
}
