#!/usr/bin/env node
/** argv and environment -> config -> system thread -> server; signals. Short on purpose: decisions live elsewhere. */
import closeWithGrace from 'close-with-grace';
import { createThreadedSystem } from './actors/thread.js';
import { FastswitchError } from './errors.js';
import { createServer } from './http/server.js';
import { loadTokenizer } from './http/tokenizer.js';
import { loadModel } from './native/model.js';
import { helpText, parseOptions, printConfig, version } from './options.js';

const USAGE = `fastswitch ${version()}

  fastswitch serve [flags]     serve a model over HTTP; "fastswitch serve --help" explains the flags
  fastswitch --version
`;

async function serve(argv: readonly string[]): Promise<void> {
  const options = parseOptions(argv, process.env);
  if (options.show === 'help') return void process.stdout.write(helpText());
  if (options.show === 'version') return void process.stdout.write(`${version()}\n`);
  const { config } = options;
  process.stdout.write(`${printConfig(options)}\n`);
}

async function main(): Promise<void> {
  const [command, ...rest] = process.argv.slice(2);
  if (command === 'serve') return serve(rest);
  if (command === '--version') return void process.stdout.write(`${version()}\n`);
  if (command === undefined || command === '--help') return void process.stdout.write(USAGE);
  throw new FastswitchError('bad_config', `unknown command "${command}"\n\n${USAGE}`);
}

main().catch((error: unknown) => {
  process.stderr.write(error instanceof FastswitchError ? `fastswitch: ${error.message}\n` : `${(error as Error).stack}\n`);
  process.exitCode = 1;
});
void closeWithGrace; void createThreadedSystem; void createServer; void loadTokenizer; void loadModel;
