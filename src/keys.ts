/**
 * `fastswitch keys`: makes an API key. The key itself goes to standard error and nowhere else, the entry for the tenants file,
 * which has only its hash, to standard output.
 */
import { FastswitchError } from './errors.js';
import { type Flag, flagLines, HELP_COLUMNS, readFlags, wrap } from './flags.js';
import { hashOf, newKey } from './http/keys.js';
import { entryFrom } from './http/tenant-settings.js';

const FLAGS = {
  tenant: { value: 'NAME', about: 'Whose key it is: letters, digits, dots, dashes and underscores.' },
  weight: { value: 'N', about: 'Its share of the machine, beside those of the others; 1 where nothing is said.' },
  priority: { value: 'N', about: 'Of its requests under --policy priority; lower is served first.' },
  'requests-per-minute': { value: 'N', about: 'More are refused with 429.' },
  'tokens-per-minute': { value: 'N', about: 'Of prompts and completions together; more are refused with 429.' },
  'lookups-per-minute': { value: 'N', about: 'Of questions about requests and changes of them; more are refused with 429.' },
  concurrency: { value: 'N', about: "Most choices at once in the scheduler; more wait in the tenant's own line." },
  queue: { value: 'N', about: 'Most requests in that line.' },
  soft: { value: null, about: 'Above its rates its requests wait in its line instead of being refused.' },
  'ttft-seconds': { value: 'N', about: 'Objective: time to the first token.' },
  'tbt-seconds': { value: 'N', about: 'Objective: mean time from one token to the next.' },
  admin: { value: null, about: "The key sees and changes what is everybody's: all requests, tenants, the board." },
  metrics: { value: null, about: 'The key may read /metrics of a server with --private-metrics.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;

const INDENT = 30;

export function keysHelp(): string {
  return [
    'fastswitch keys --tenant NAME [flags]',
    '',
    ...wrap(
      'Makes an API key. Standard output gets the entry for the file of "serve --tenants", which is a JSON list of such ' +
        'entries; standard error gets the key, which is kept nowhere: give it to who is to use it. A tenant may have several keys ' +
        '("key": ["sha256:...", "sha256:..."]), so that one can be replaced without a gap. "kill -HUP" makes the server read the file again.',
      HELP_COLUMNS,
    ),
    '',
    ...flagLines(FLAGS, INDENT),
    '',
  ].join('\n');
}

/** @throws FastswitchError bad_config that says what is wrong and what is allowed. */
export function keys(argv: readonly string[], output: { standard(text: string): void; progress(text: string): void }): void {
  const { values } = readFlags(argv, FLAGS);
  if (values.has('help')) return output.standard(keysHelp());
  if (!values.has('tenant')) throw new FastswitchError('bad_config', 'keys needs --tenant NAME, see --help');
  const key = newKey();
  const entry: Record<string, unknown> = { tenant: values.get('tenant')?.at(-1), key: hashOf(key) };
  for (const [name, given] of values) {
    if (name === 'tenant' || name === 'help') continue;
    const text = given.at(-1) as string;
    // What is no number is left as it is, to be refused with its name.
    const value = FLAGS[name].value === null ? true : /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text;
    entry[name.replaceAll('-', '_')] = value;
  }
  entryFrom(entry, 'keys');
  output.progress(
    `The key of tenant '${entry.tenant}', shown this once:\n\n  ${key}\n\nThe entry for the file of --tenants:\n\n`,
  );
  output.standard(`${JSON.stringify(entry)}\n`);
}
