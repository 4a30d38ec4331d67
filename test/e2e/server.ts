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
}

/** Resolves when it serves; rejects with what it printed when it ends before. */
export async function startServer(...flags: string[]): Promise<RunningServer> {
  const child = spawn('node', ['dist/src/main.js', 'serve', '--port', '0', '--log-level', 'warn', ...flags], { cwd: ROOT });
  let output = '';
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      const found = /serving \S+ on (\S+)/.exec(output);
      if (found) resolve(found[1] as string);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
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
      return exited;
    },
  };
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
