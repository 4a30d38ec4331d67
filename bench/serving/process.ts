/** The server as a user starts it, in a process of its own: for benches that speak HTTP. */
import { type ChildProcess, spawn } from 'node:child_process';

export interface Serving {
  readonly child: ChildProcess;
  readonly url: string;
}

/** Starts it on a free port with these flags; resolves when it serves, rejects with what it said where it ends before. */
export async function start(flags: readonly string[]): Promise<Serving> {
  const main = new URL('../../src/main.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [main, 'serve', '--port', '0', '--log-level', 'warn', ...flags]);
  let output = '';
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      const found = /serving \S+ on (\S+)/.exec(output);
      if (found) resolve(found[1] as string);
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.once('exit', (code) => reject(new Error(`the server ended with code ${code}:\n${output}`)));
  });
  return { child, url };
}

/** Lets it drain. @throws Error where it does not end with code 0. */
export async function stop(child: ChildProcess): Promise<void> {
  const code = await new Promise((resolve) => {
    child.once('exit', resolve);
    child.kill('SIGTERM');
  });
  if (code !== 0) throw new Error(`the server ended with code ${code}`);
}
