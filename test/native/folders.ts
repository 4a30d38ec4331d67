/** Model folders for tests: the fixtures that transformers made, and altered copies of them. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect } from 'vitest';
import { FastswitchError } from '../../src/errors.js';

export const FIXTURES = resolve(import.meta.dirname, '../fixtures/models');

/** Names of all fixture folders, with nothing hidden: a new one is tested without being listed anywhere. */
export const FIXTURE_NAMES = readdirSync(FIXTURES, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name)
  .sort();

interface Logits {
  readonly position: number;
  readonly values: readonly number[];
}

/** What transformers computed; tools/oracle/make_fixtures.py describes the fields. */
export interface Oracle {
  readonly rope: { readonly inverseFrequencies: readonly number[]; readonly scale: number };
  readonly prompts: readonly {
    readonly prompt: readonly number[];
    readonly continuation: readonly number[];
    readonly margins: readonly number[];
    readonly logits: readonly Logits[];
    readonly final: Logits;
  }[];
}

export function fixture(name: string): string {
  return join(FIXTURES, name);
}

export function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(...path), 'utf8')) as T;
}

export function readOracle(name: string): Oracle {
  return readJson<Oracle>(fixture(name), 'oracle.json');
}

const made: string[] = [];

export function emptyFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fastswitch-model-'));
  made.push(folder);
  return folder;
}

/** A copy of a fixture whose config.json went through `edit`, which changes the object in place. */
export function variant(name: string, edit: (config: Record<string, unknown>) => void = () => undefined): string {
  const folder = emptyFolder();
  for (const file of readdirSync(fixture(name))) copyFileSync(join(fixture(name), file), join(folder, file));
  const config = readJson<Record<string, unknown>>(folder, 'config.json');
  edit(config);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}

/** Call after the tests of a file. */
export function removeFolders(): void {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** The message of the `bad_model` that `act` ends with; any other outcome fails the test. */
export function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(FastswitchError);
    expect((error as FastswitchError).code).toBe('bad_model');
    return (error as FastswitchError).message;
  }
  throw new Error('expected a refusal');
}
