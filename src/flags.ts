/** What the command lines have in common: suggesting the flag that was meant, and breaking help texts into lines. */

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
