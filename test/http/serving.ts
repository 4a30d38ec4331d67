/** A server over a scripted system, for tests. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import OpenAI from 'openai';
import { afterAll, afterEach } from 'vitest';
import { type Config, DEFAULTS, presetOf } from '../../src/core/config.js';
import { hashOf, newKey } from '../../src/http/keys.js';
import { modelInfo, type SamplingDefaults } from '../../src/http/model.js';
import { createServer } from '../../src/http/server.js';
import { Tenants } from '../../src/http/tenants.js';
import { loadTokenizer } from '../../src/http/tokenizer.js';
import { byteLevelFolder, IM_END } from './fixtures/tokenizers.js';
import { ABORTED, ScriptedSystem } from './scripted-system.js';

export interface Serving {
  readonly system: ScriptedSystem;
  readonly server: FastifyInstance;
  /** `http://127.0.0.1:port`; '' unless listening. */
  readonly url: string;
  readonly openai: OpenAI;
  readonly tenants: Tenants;
  /** By the name of the tenant. */
  readonly keys: Readonly<Record<string, string>>;
  /** The file of the tenants; '' where there is none. */
  readonly tenantsPath: string;
}

/** What is in a tenants file, without the keys. */
export type TenantsGiven = Readonly<Record<string, object>>;

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

const folder = await byteLevelFolder();

export interface ServingOptions {
  readonly config?: Partial<Config>;
  readonly system?: ScriptedSystem;
  readonly listen?: boolean;
  readonly model?: string;
  readonly defaults?: Partial<SamplingDefaults>;
  /** Entries of the tenants file by name. */
  readonly tenants?: TenantsGiven;
  /** Milliseconds of the clock that limits go by; without it, of the real one. */
  readonly now?: () => number;
}

const scratch = mkdtempSync(join(tmpdir(), 'fastswitch-tenants-'));
afterAll(() => rmSync(scratch, { recursive: true }));
let files = 0;

/** Writes a tenants file with a key for each entry. */
export function tenantsFile(given: TenantsGiven): { readonly path: string; readonly keys: Record<string, string> } {
  const keys = Object.fromEntries(Object.keys(given).map((name) => [name, newKey()]));
  files += 1;
  const path = join(scratch, `tenants-${files}.json`);
  const entries = Object.entries(given).map(([tenant, more]) => ({ tenant, key: hashOf(keys[tenant] as string), ...more }));
  writeFileSync(path, JSON.stringify(entries), { mode: 0o600 });
  return { path, keys };
}

/** Closed after the test. */
export async function serving({
  config = {},
  system = new ScriptedSystem(),
  listen = false,
  model = folder,
  defaults = {},
  tenants: given = {},
  now = () => performance.now(),
}: ServingOptions = {}): Promise<Serving> {
  const tokenizer = await loadTokenizer(model);
  const full: Config = { ...DEFAULTS, model, servedModelName: 'tiny', logLevel: 'silent', drainSeconds: 1, ...config };
  const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, ...defaults };
  const files = { eosTokens: [IM_END], fingerprint: 'tiny', sampling };
  const { path, keys } = Object.keys(given).length === 0 ? { path: '', keys: {} } : tenantsFile(given);
  const tenants = new Tenants(path, presetOf(full).mechanism, now);
  const server = createServer({
    tenants,
    config: full,
    system,
    tokenizer,
    model: modelInfo(full, '0.0.0', files, tokenizer.eosToken),
    version: '0.0.0',
  });
  closers.push(async () => {
    for (const request of system.requests) request.end(ABORTED);
    await server.close();
  });
  let url = '';
  if (listen) {
    await server.listen({ host: '127.0.0.1', port: 0 });
    url = `http://127.0.0.1:${(server.server.address() as AddressInfo).port}`;
  } else {
    await server.ready();
  }
  const known = { tenants, keys, tenantsPath: path };
  return { ...known, system, server, url, openai: new OpenAI({ apiKey: 'none', baseURL: `${url}/v1`, maxRetries: 0 }) };
}

/** Waits for something that is about to happen; fails after ten seconds. */
export async function until(condition: () => boolean): Promise<void> {
  for (let left = 2000; !condition(); left -= 1) {
    if (left === 0) throw new Error(`still not so: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The JSON of each `data:` frame of a stream, `[DONE]` as a string. */
export function framesOf(body: string): unknown[] {
  return body
    .split('\n\n')
    .filter((frame) => frame.startsWith('data: '))
    .map((frame) => {
      const data = frame.slice('data: '.length);
      return data === '[DONE]' ? data : JSON.parse(data);
    });
}
