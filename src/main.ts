#!/usr/bin/env node
/** argv and environment -> config -> system thread -> server; or a simulation or a replay. Short on purpose: decisions live elsewhere. */
import { totalmem } from 'node:os';
import closeWithGrace from 'close-with-grace';
import type { FastifyInstance } from 'fastify';
import { createThreadedSystem } from './actors/thread.js';
import { type Config, isExposed, onlyCpu, presetOf } from './core/config.js';
import { listDevices } from './devices.js';
import { FastswitchError } from './errors.js';
import { formatSize } from './flags.js';
import { createBoardServer } from './http/board/recorded.js';
import { modelInfo } from './http/model.js';
import { createServer } from './http/server.js';
import { Tenants } from './http/tenants.js';
import { loadTokenizer } from './http/tokenizer.js';
import { keys } from './keys.js';
import { chooseDevice } from './native/device.js';
import { loadModel } from './native/model.js';
import { helpText, parseOptions, printConfig, version } from './options.js';
import { board, type Place, type RecordedBoard } from './replay/board.js';
import { explain, replay } from './replay/command.js';
import { EXIT } from './replay/flags.js';
import { simulate } from './simulation/command.js';

const USAGE = `fastswitch ${version()}

  fastswitch serve [flags]       serve a model over HTTP; "fastswitch serve --help" explains the flags
  fastswitch keys --tenant NAME  make an API key for a server with tenants; "fastswitch keys --help"
  fastswitch simulate [flags]    compare presets on a simulated machine; "fastswitch simulate --help"
  fastswitch replay FILE         say what happened in a recorded run; "fastswitch replay --help"
  fastswitch explain FILE ID     say what happened to one of its requests; "fastswitch explain --help"
  fastswitch board FILE          play it on the board of the server; "fastswitch board --help"
  fastswitch devices             list what can compute here, and what is missing; "fastswitch devices --help"
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
async function run(given: Config): Promise<void> {
  if (isExposed(given)) {
    throw new FastswitchError(
      'bad_config',
      `--host is ${given.host}; allowed without keys is an address of loopback (127.0.0.1, ::1, localhost), because whoever reaches the port ` +
        'could use the server: give it keys with --tenants FILE, or --insecure where something else keeps others out',
    );
  }
  const device = chooseDevice(given.device, onlyCpu(given));
  const config: Config = Object.freeze({ ...given, device: device.name });
  const tenants = new Tenants(config.tenants, presetOf(config).mechanism);
  const model = loadModel(config.model, { maxContext: config.maxContext, load: config.load });
  for (const warning of model.warnings) print(`warning: ${warning}`);
  print(`computing on ${device.about}`);
  if (device.device >= 0) sayOfGpu(config);
  print(`loading ${model.name}: ${model.architecture}, ${(model.parameters / 1e6).toFixed(1)} M parameters in ${model.dtype}`);
  const [system, tokenizer] = await Promise.all([createThreadedSystem(config, version()), loadTokenizer(config.model)]);
  const { deviceBlocks, hostBlocks, blockBytes, blockTokens, contextTokensMax } = system.info;
  print(
    `KV blocks of ${blockTokens} tokens, ${formatSize(blockBytes)}: ${deviceBlocks} on the device, ${hostBlocks} on the host; ` +
      `context ${contextTokensMax} tokens`,
  );
  if (config.journal !== '') {
    print(
      `recording to ${config.journal}, ${config.journalContent ? 'with the token ids of prompts and answers' : 'without content'}`,
    );
  }
  const here = config.hostKvBytes + (device.device < 0 ? config.deviceKvBytes : 0);
  if (here > totalmem()) {
    const what = device.device < 0 ? '--device-kv and --host-kv are' : '--host-kv is';
    print(`warning: ${what} more than the ${formatSize(totalmem())} of this machine; it will fail when they fill`);
  }
  const info = modelInfo(config, version(), model, tokenizer.eosToken);
  const server = createServer({ config, system, tokenizer, model: info, version: version(), tenants });
  if (tenants.keyed) obeyHangup(tenants);
  // Running answers have their grace inside server.close(); this only bounds the whole.
  const grace = { delay: (config.drainSeconds + 10) * 1000, skip: tenants.keyed ? ['SIGHUP' as const] : [] };
  closeWithGrace(grace, async ({ signal, err }) => {
    if (err) process.stderr.write(`fastswitch: ${err.stack}\n`);
    else print(`${signal ?? 'end'}: draining for up to ${config.drainSeconds} s`);
    await server.close();
    await system.close().catch((error: Error) => {
      process.stderr.write(`fastswitch: ${error.message}; it is killed\n`);
      process.kill(process.pid, 'SIGKILL'); // process.exit would wait for that thread
    });
  });
  void system.failed.then((error) => {
    process.stderr.write(`fastswitch: the engine stopped and the server with it: ${error.stack}\n`);
    // Clients have their errors; a supervisor starts us anew.
    setTimeout(() => process.exit(1), 500);
  });
  print(`serving ${info.name} on ${await listen(server, config)}`);
}

/** What whoever waits for the start on a GPU, or compares its answers, should know. */
function sayOfGpu({ batchInvariant, hostKvBytes }: Config): void {
  if (!batchInvariant) print('tokens may depend on what is computed beside them; --batch-invariant makes them exact');
  if (hostKvBytes > 2 ** 32) print(`pinning ${formatSize(hostKvBytes)} of host memory, which takes a second for each 2 to 4 GiB`);
}

/** Says who is served, and reads the file of the tenants again whenever SIGHUP comes; a wrong one changes nothing. */
function obeyHangup(tenants: Tenants): void {
  const said = (): void => {
    for (const warning of tenants.warnings) print(`warning: ${warning}`);
    print(
      `${tenants.all().length} tenants: ${tenants
        .all()
        .map(({ name }) => name)
        .join(', ')}`,
    );
  };
  said();
  process.on('SIGHUP', () => {
    try {
      tenants.reload();
      said();
    } catch (error) {
      process.stderr.write(`fastswitch: the tenants stay as they were: ${(error as Error).message}\n`);
    }
  });
}

/** Answers the address. */
function listen(server: FastifyInstance, { host, port }: Place): Promise<string> {
  return server.listen({ host, port }).catch((error: NodeJS.ErrnoException) => {
    const reason = LISTEN_ERRORS[error.code ?? ''] ?? error.message;
    throw new FastswitchError('bad_config', `cannot listen on ${host}:${port}: ${reason}`);
  });
}

/** Serves the board of a recording until a signal comes. */
async function serveBoard({ about, player }: RecordedBoard, place: Place, listening: (address: string) => void): Promise<void> {
  const server = createBoardServer({ about, player, host: place.host, logLevel: 'error' });
  listening(await listen(server, place));
  // A second signal ends the process at once.
  await new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, resolve);
  });
  await server.close();
}

function print(line: string): void {
  process.stdout.write(line.endsWith('\n') ? line : `${line}\n`);
}

// Whoever read our output may go first, as in "| tee" and Ctrl-C: that is no reason to cut running answers.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

async function main(): Promise<void> {
  const [command, ...rest] = process.argv.slice(2);
  if (command === 'serve') return serve(rest);
  const standard = (text: string) => void process.stdout.write(text);
  const progress = (text: string) => void process.stderr.write(text);
  const output = { standard, progress, terminal: process.stderr.isTTY === true };
  if (command === 'simulate') {
    await simulate(rest, output, version());
    return;
  }
  if (command === 'replay' || command === 'explain') {
    process.exitCode = await (command === 'replay' ? replay : explain)(rest, output);
    return;
  }
  if (command === 'board') {
    process.exitCode = await board(rest, output, version(), serveBoard);
    return;
  }
  if (command === 'keys') return keys(rest, output);
  if (command === 'devices') return listDevices(rest, output);
  if (command === '--version') return print(version());
  if (command === undefined || command === '--help') return print(USAGE);
  throw new FastswitchError('bad_config', `unknown command "${command}"\n\n${USAGE}`);
}

main().catch((error: unknown) => {
  process.stderr.write(error instanceof FastswitchError ? `fastswitch: ${error.message}\n` : `${(error as Error).stack}\n`);
  process.exit(error instanceof FastswitchError && error.code === 'other_version' ? EXIT.otherVersion : EXIT.wrong);
});
