/** Starts the real server as a user does, as a process on a free port, and talks to it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface RunningServer {
  readonly url: string;
  readonly process: ChildProcess;
  /** All that it printed so far. */
  output(): string;
  /** The value of one sample of /metrics, such as `fastswitch_preemptions_total{kind="swap"}`. */
  metric(sample: string): Promise<number>;
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
  /** Resolves with the exit code, or with the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals | null>;
}

/** Children of this process; none outlives it, however the tests end. */
const children = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});

function launch(args: readonly string[], environment: Readonly<Record<string, string>> = {}): ChildProcess {
  const child = spawn(process.execPath, ['dist/src/main.js', ...args], { cwd: ROOT, env: { ...process.env, ...environment } });
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

const QUIET = ['--port', '0', '--log-level', 'warn'];

/** Resolves when it serves; rejects with what it printed when it ends before. */
export function startServer(...flags: string[]): Promise<RunningServer> {
  return startServerIn({}, ...flags);
}

/** The same with more variables in its environment. */
export async function startServerIn(environment: Readonly<Record<string, string>>, ...flags: string[]): Promise<RunningServer> {
  const child = launch(['serve', ...QUIET, ...flags], environment);
  let output = '';
  const exited = new Promise<number | NodeJS.Signals | null>((resolve) =>
    child.once('exit', (code, signal) => resolve(code ?? signal)),
  );
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      const found = /serving \S+ on (\S+)/.exec(output);
      if (found) resolve(found[1] as string);
    };
    child.stdout?.on('data', read);
    child.stderr?.on('data', read);
    void exited.then((code) => reject(new Error(`the server ended with code ${code}:\n${output}`)));
  });
  return {
    url,
    process: child,
    output: () => output,
    async metric(sample) {
      const page = await (await fetch(`${url}/metrics`)).text();
      const line = page.split('\n').find((candidate) => candidate.startsWith(`${sample} `));
      if (line === undefined) throw new Error(`no ${sample} in /metrics`);
      return Number(line.slice(sample.length + 1));
    },
    stop() {
      child.kill('SIGTERM');
      return exited as Promise<number | null>;
    },
    exited,
  };
}

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program until it ends by itself; kills it and throws when it has not after `millis`. */
export function runToEnd(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  millis = 20_000,
): Promise<Ended> {
  const child = launch(args, environment);
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) child[stream]?.on('data', (chunk: Buffer) => (said[stream] += chunk));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`still running after ${millis} ms: ${args.join(' ')}\n${said.stdout}${said.stderr}`));
    }, millis);
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code, ...said });
    });
  });
}

/** Posts JSON; throws the server's message when it refuses. */
export async function post<T>(url: string, body: object): Promise<T> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()) as T;
}

/** Waits for something that is about to happen; fails with `what` when it has not after `millis`. */
export async function until(what: string, condition: () => boolean | Promise<boolean>, millis = 15_000): Promise<void> {
  const end = performance.now() + millis;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${millis} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** What of /metrics must be zero when nobody asks for anything; what is kept may be anything, but never less than nothing. */
const LEFTOVERS = /^fastswitch_(?:requests\{.*\}|blocks\{.*use="(?:used|moving)"\}) (\d+)$/gm;
const ROOM = /^fastswitch_blocks\{.*use="(?:free|kept)"\} \d+$/gm;

/** Waits until no request lives and no block is anybody's. The server itself looks whether any was lost when it ends. */
export async function idle(server: RunningServer, millis = 15_000): Promise<void> {
  let busy: string[] = [];
  const quiet = async () => {
    const page = await (await fetch(`${server.url}/metrics`)).text();
    const found = [...page.matchAll(LEFTOVERS)];
    busy = found.filter(([, value]) => value !== '0').map(([line]) => line);
    return found.length === 10 && busy.length === 0 && page.match(ROOM)?.length === 4;
  };
  await until('an idle server', quiet, millis).catch((error: Error) => {
    throw new Error(`${error.message}, but ${busy.join(', ') || 'metrics that cannot be'}`);
  });
}
