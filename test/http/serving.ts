/** A server over a scripted system, for tests. */
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import OpenAI from 'openai';
import { afterEach } from 'vitest';
import { type Config, DEFAULTS } from '../../src/core/config.js';
import { modelInfo, type SamplingDefaults } from '../../src/http/model.js';
import { createServer } from '../../src/http/server.js';
import { loadTokenizer } from '../../src/http/tokenizer.js';
import { byteLevelFolder, IM_END } from './fixtures/tokenizers.js';
import { ABORTED, ScriptedSystem } from './scripted-system.js';

export interface Serving {
  readonly system: ScriptedSystem;
  readonly server: FastifyInstance;
  /** `http://127.0.0.1:port`; '' unless listening. */
  readonly url: string;
  readonly openai: OpenAI;
}

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
}

/** Closed after the test. */
export async function serving({
  config = {},
  system = new ScriptedSystem(),
  listen = false,
  model = folder,
  defaults = {},
}: ServingOptions = {}): Promise<Serving> {
  const tokenizer = await loadTokenizer(model);
  const full: Config = { ...DEFAULTS, model, servedModelName: 'tiny', logLevel: 'silent', drainSeconds: 1, ...config };
  const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, ...defaults };
  const files = { eosTokens: [IM_END], fingerprint: 'tiny', sampling };
  const server = createServer({
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
  return { system, server, url, openai: new OpenAI({ apiKey: 'none', baseURL: `${url}/v1`, maxRetries: 0 }) };
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
