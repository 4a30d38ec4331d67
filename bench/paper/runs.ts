/** Finished runs, by key: in memory, and in a scratch folder so that an interrupted report goes on where it was. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Job, runJobs } from '../../src/simulation/jobs.js';
import type { RunResult } from '../../src/simulation/result.js';
import { type Case, keyOf } from './cases.js';

export class Runs {
  readonly #folder: string;
  readonly #version: string;
  readonly #finished = new Map<string, RunResult>();
  /** Of the runs that were made now, and not found. */
  made = 0;

  constructor(folder: string, version: string) {
    this.#folder = folder;
    this.#version = version;
    mkdirSync(folder, { recursive: true });
  }

  /** Makes what is missing of the cases with seeds 1 to `seeds`. Fails with the first run that fails. */
  async make(
    cases: readonly Case[],
    options: {
      readonly seeds: number;
      readonly threads: number;
      readonly onProgress: (line: string) => void;
    },
  ): Promise<void> {
    const jobs = new Map<string, Job>();
    for (let seed = 1; seed <= options.seeds; seed++) {
      for (const one of cases) {
        const key = keyOf(one, seed, this.#version);
        if (!this.#find(key)) jobs.set(key, { ...one, seed });
      }
    }
    const keys = [...jobs.keys()];
    const started = performance.now();
    await runJobs([...jobs.values()], {
      threads: options.threads,
      onProgress: (share, done) => options.onProgress(progressLine(share, done, keys.length, performance.now() - started)),
      onResult: (index, result) => {
        this.#keep(keys[index] as string, result);
        this.made += 1;
      },
    });
  }

  /** The runs of a case in the order of seeds. All have been made. */
  of(one: Case, seeds: number): readonly RunResult[] {
    return Array.from({ length: seeds }, (_, k) => {
      const result = this.#finished.get(keyOf(one, k + 1, this.#version));
      if (result === undefined) throw new Error(`${one.preset.name} on ${one.scenario.name} was not run: declare it in cases`);
      return result;
    });
  }

  #path(key: string): string {
    return join(this.#folder, `${key}.json`);
  }

  #find(key: string): boolean {
    if (this.#finished.has(key)) return true;
    if (!existsSync(this.#path(key))) return false;
    this.#finished.set(key, JSON.parse(readFileSync(this.#path(key), 'utf8')) as RunResult);
    return true;
  }

  #keep(key: string, result: RunResult): void {
    this.#finished.set(key, result);
    // Whole or not at all: a report may be stopped at any time.
    writeFileSync(`${this.#path(key)}.part`, JSON.stringify(result));
    renameSync(`${this.#path(key)}.part`, this.#path(key));
  }
}

function progressLine(share: number, done: number, all: number, millis: number): string {
  const left = share === 0 ? '' : `, about ${Math.round((millis * (1 - share)) / share / 1000)} s to go`;
  return `paper: ${done} of ${all} runs, ${Math.floor(100 * share)} %, ${Math.round(millis / 1000)} s${left}`;
}
