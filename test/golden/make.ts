/**
 * Makes the golden journals that are not there yet: `npx vitest run --config test/golden/make.config.ts [-t NAME]`. A file that
 * is there is left as it is. README.md has the rule.
 */
import { chmodSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { FileJournal } from '../../src/actors/journal.js';
import { JOURNAL_FORMAT } from '../../src/actors/records.js';
import type { RunHeader } from '../../src/actors/segments.js';
import { BLOCK_TOKENS, DECISIONS } from '../../src/core/config.js';
import { type ParsedPreset, parsePreset } from '../../src/core/presets.js';
import { Random } from '../../src/core/random.js';
import type { Limits } from '../../src/core/state.js';
import type { PolicyName } from '../../src/core/types.js';
import { version } from '../../src/options.js';
import { loadScenario, withMemory } from '../../src/simulation/profiles.js';
import { runSimulation } from '../../src/simulation/run.js';
import type { Session, Workload } from '../../src/simulation/workload.js';
import { type LiveLoad, runLive } from '../actors/live-runs.js';
import { outcomeOf } from './outcome.js';

const FOLDER = fileURLToPath(new URL('.', import.meta.url));

function header(source: RunHeader['source'], model: string, config: RunHeader['config'], limits: Limits): RunHeader {
  return {
    format: JOURNAL_FORMAT,
    version: version(),
    decisions: DECISIONS,
    run: `golden${DECISIONS}`,
    // The same simulation gives the same bytes.
    startedAt: (source === 'live' ? new Date() : new Date(0)).toISOString(),
    source,
    content: false,
    blockTokens: BLOCK_TOKENS,
    limits,
    model: { name: model, fingerprint: '' },
    seed: 0,
    config,
  };
}

/** Records where there is no such journal yet, and writes what it comes to beside it. */
async function make(name: string, record: (path: string) => unknown): Promise<void> {
  const path = `${FOLDER}${name}.d${DECISIONS}.journal`;
  if (!existsSync(path)) {
    await record(path);
    chmodSync(path, 0o644);
  }
  const outcome = outcomeOf(path);
  expect(outcome.divergence).toBe(null);
  writeFileSync(path.replace('.journal', '.json'), `${JSON.stringify(outcome, null, 1)}\n`);
}

interface Live extends Omit<LiveLoad, 'journal' | 'requests' | 'tokensMax'> {
  /** So many bytes are missing at the end. */
  readonly cut?: number;
}

const LIVE: Readonly<Record<string, Live>> = {
  'live-default-priority': {
    config: { preset: 'default', policy: 'priority' },
    wanted: { types: ['swapOut', 'swapIn', 'mirror', 'prefetch', 'aborted', 'reprioritized'], times: 2, requestsMax: 300 },
  },
  'live-default+partial-paced-priority': {
    config: { preset: 'default+partial-paced', policy: 'priority' },
    wanted: { types: ['park', 'resume'], times: 1, requestsMax: 300 },
  },
  'live-default-fair': {
    config: { preset: 'default', policy: 'fair' },
    wanted: { types: ['swapOut', 'swapIn', 'mirror', 'aborted', 'ending', 'reweighted'], times: 2, requestsMax: 300 },
  },
  'live-default-edf': {
    config: { preset: 'default', policy: 'edf' },
    wanted: { types: ['swapOut', 'swapIn', 'reprioritized'], times: 2, requestsMax: 300 },
  },
  'live-fastserve-mlfq': { config: { preset: 'fastserve', policy: 'mlfq' } },
  'live-default-vtc-faults': {
    config: { preset: 'default', policy: 'vtc' },
    faults: 0.03,
    wanted: { types: ['stepFailed', 'transferFailed', 'reject'], times: 1, requestsMax: 300 },
  },
  'live-default-fcfs-killed': { config: { preset: 'default', policy: 'fcfs' }, cut: 11 },
};

describe('live', () => {
  it.each(Object.entries(LIVE))('%s', async (name, { cut, ...load }) => {
    await make(name, async (path) => {
      const { preset = '', policy = '' } = load.config;
      const journal = (limits: Limits) => new FileJournal(path, header('live', 'llama3 (fixture)', { preset, policy }, limits));
      await runLive({ ...load, requests: 36, tokensMax: 70, journal });
      if (cut !== undefined) truncateSync(path, readFileSync(path).length - cut);
    });
  });
});

describe('over HTTP', () => {
  it('live-demo-stall', () =>
    make('live-demo-stall', () => {
      throw new Error(`there is none of DECISIONS ${DECISIONS}: docs/finding-a-stall/record.mjs makes it, and its page is to be told`);
    }));
});

const CONVERSATIONS = 36;

/** Short ones, so that the files are small: one or two turns, a few blocks each. Tenants of weights 1 to 4; some promised a pace. */
function workload(seed: number): Workload {
  const random = new Random(seed);
  let startMicros = 0;
  const sessions = Array.from({ length: CONVERSATIONS }, (_, k): Session => {
    startMicros += random.exponential(150_000);
    const first = { promptTokens: 20 + random.int(220), replyTokens: 4 + random.int(28), thinkMicros: 0 };
    const known = first.promptTokens + first.replyTokens;
    const second = { promptTokens: known + 5 + random.int(30), replyTokens: 4 + random.int(20), thinkMicros: random.exponential(1e6) };
    return {
      startMicros,
      tenant: `tenant-${k % 4}`,
      weight: 1 + (k % 4),
      ...(k % 3 === 0 ? {} : { deadlines: { ttftMicros: 300_000 * (k % 3), tbtMicros: k % 2 === 0 ? 80_000 : null } }),
      turns: random.next() < 0.4 ? [first, second] : [first],
      name: (index) => `${k}.${index}`.padEnd(16, '.'),
    };
  });
  return { sessions, requests: sessions.reduce((sum, { turns }) => sum + turns.length, 0), dropped: 0 };
}

const SIMULATED: readonly (readonly [preset: string, policy: PolicyName])[] = [
  ['default', 'fair'],
  ['default', 'edf'],
  ['fastswitch', 'priority'],
  ['vllm-0.3', 'priority'],
  ['vtc', 'vtc'],
];

describe('simulated', () => {
  it.each(SIMULATED)('sim-%s-%s', async (name, policy) => {
    const scenario = withMemory({ ...loadScenario('llama8b-a10'), maxRunning: 12, maxBatchTokens: 256 }, 72, 240);
    const preset = parsePreset(name) as ParsedPreset;
    await make(`sim-${name}-${policy}`, (path) => {
      runSimulation({
        scenario,
        preset,
        policy,
        workload: workload(7),
        pattern: policy === 'priority' ? { type: 'random', phi: 0.3, frequency: 0.02 } : { type: 'none' },
        seed: 7,
        noise: 0.05,
        onProgress: null,
        journal: (limits) => new FileJournal(path, header('simulated', scenario.name, { preset: name, policy }, limits)),
      });
    });
  });
});
