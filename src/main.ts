#!/usr/bin/env node
/** argv and environment -> config -> system thread -> server, or a simulation. Short on purpose: decisions live elsewhere. */
import { totalmem } from 'node:os';
import closeWithGrace from 'close-with-grace';
import { createThreadedSystem } from './actors/thread.js';
import type { Config } from './core/config.js';
import { FastswitchError } from './errors.js';
import { modelInfo } from './http/model.js';
import { createServer } from './http/server.js';
import { loadTokenizer } from './http/tokenizer.js';
import { loadModel } from './native/model.js';
import { formatSize, helpText, parseOptions, printConfig, version } from './options.js';
import { simulate } from './simulation/command.js';

const USAGE = `fastswitch ${version()}

  fastswitch serve [flags]       serve a model over HTTP; "fastswitch serve --help" explains the flags
  fastswitch simulate [flags]    compare presets on a simulated machine; "fastswitch simulate --help"
  fastswitch --version
`;

const LISTEN_ERRORS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'the port is in use; choose another with --port, or 0 for any',
  EACCES: 'not allowed; choose a --port of 1024 or above',
  EADDRNOTAVAIL: 'this machine has no such address; check --host',
  ENOTFOUND: 'the name is not known; check --host',
};

async function serve(argv: readonly string[]): Promise<void> {
  const options = parseOptions(argv, process.env);
  if (options.show === 'help') return print(helpText());
  if (options.show === 'version') return print(version());
  print(printConfig(options));
  await run(options.config);
}

/** Serves until a signal comes; resolves when it listens. */
async function run(config: Config): Promise<void> {
  const model = loadModel(config.model, { maxContext: config.maxContext });
  for (const warning of model.warnings) print(`warning: ${warning}`);
  print(`loading ${model.name}: ${model.architecture}, ${(model.parameters / 1e6).toFixed(1)} M parameters in ${model.dtype}`);
  const [system, tokenizer] = await Promise.all([createThreadedSystem(config), loadTokenizer(config.model)]);
  const { deviceBlocks, hostBlocks, blockBytes, blockTokens, contextTokensMax } = system.info;
  print(
    `KV blocks of ${blockTokens} tokens, ${formatSize(blockBytes)}: ${deviceBlocks} on the device, ${hostBlocks} on the host; ` +
      `context ${contextTokensMax} tokens`,
  );
  if (config.deviceKvBytes + config.hostKvBytes > totalmem()) {
    print(
      `warning: --device-kv and --host-kv are more than the ${formatSize(totalmem())} of this machine; it will fail when they fill`,
    );
  }
  const info = modelInfo(config, version(), model, tokenizer.eosToken);
  const server = createServer({ config, system, tokenizer, model: info, version: version() });
  // Running answers have their grace inside server.close(); this only bounds the whole.
  closeWithGrace({ delay: (config.drainSeconds + 10) * 1000 }, async ({ signal, err }) => {
    if (err) process.stderr.write(`fastswitch: ${err.stack}\n`);
    else print(`${signal ?? 'end'}: draining for up to ${config.drainSeconds} s`);
    await server.close();
    await system.close();
  });
  void system.failed.then((error) => {
    process.stderr.write(`fastswitch: the engine stopped and the server with it: ${error.stack}\n`);
    // Clients have their errors; a supervisor starts us anew.
    setTimeout(() => process.exit(1), 500);
  });
  const address = await server.listen({ host: config.host, port: config.port }).catch((error: NodeJS.ErrnoException) => {
    const reason = LISTEN_ERRORS[error.code ?? ''] ?? error.message;
    throw new FastswitchError('bad_config', `cannot listen on ${config.host}:${config.port}: ${reason}`);
  });
  print(`serving ${info.name} on ${address}`);
}

function print(line: string): void {
  process.stdout.write(line.endsWith('\n') ? line : `${line}\n`);
}

// Whoever read our output may go first, as in "| tee" and Ctrl-C: that is no reason to cut running answers.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

async function main(): Promise<void> {
  const [command, ...rest] = process.argv.slice(2);
  if (command === 'serve') return serve(rest);
  if (command === 'simulate') {
    const standard = (text: string) => void process.stdout.write(text);
    const progress = (text: string) => void process.stderr.write(text);
    await simulate(rest, { standard, progress, terminal: process.stderr.isTTY === true });
    return;
  }
  if (command === '--version') return print(version());
  if (command === undefined || command === '--help') return print(USAGE);
  throw new FastswitchError('bad_config', `unknown command "${command}"\n\n${USAGE}`);
}

main().catch((error: unknown) => {
  process.stderr.write(error instanceof FastswitchError ? `fastswitch: ${error.message}\n` : `${(error as Error).stack}\n`);
  process.exit(1);
});
