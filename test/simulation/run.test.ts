import { describe, expect, it } from 'vitest';
import { type ParsedPreset, PRESET_NAMES, parsePreset } from '../../src/core/presets.js';
import type { Pattern } from '../../src/simulation/patterns.js';
import { loadScenario, withMemory } from '../../src/simulation/profiles.js';
import type { RunResult } from '../../src/simulation/result.js';
import { runSimulation } from '../../src/simulation/run.js';
import { parseTrace } from '../../src/simulation/traces.js';
import { conversations } from '../../src/simulation/workload.js';

/** So small that priorities swap all the time. */
const SCENARIO = withMemory(loadScenario('llama8b-a10'), 200, 2000);
const RANDOM: Pattern = { type: 'random', phi: 0.3, frequency: 0.04 };
const MARKOV: Pattern = { type: 'markov', phi: 0.5, stay: 0.8, hotShare: 0.3, frequency: 0.04 };

function preset(text: string): ParsedPreset {
  const parsed = parsePreset(text);
  if (typeof parsed === 'string') throw new Error(parsed);
  return parsed;
}

function workload(seed: number, count = 10) {
  const { contextTokensMax } = SCENARIO;
  return conversations({ conversations: count, conversationsPerSecond: 3, thinkSeconds: 2, contextTokensMax }, seed);
}

function run(name: string, seed: number, pattern: Pattern = RANDOM): RunResult {
  const parsed = preset(name);
  const policy = parsed.policy === 'fair' ? 'priority' : parsed.policy;
  return runSimulation({
    scenario: SCENARIO,
    preset: parsed,
    policy,
    workload: workload(seed),
    pattern,
    seed,
    noise: 0.05,
    onProgress: null,
  });
}

/** All that must not depend on how busy this machine is. */
function lasting({ decideMicrosPerStep: _, actorMicrosPerStep: __, stepsPerSecond: ___, ...rest }: RunResult) {
  return rest;
}

describe('a simulated run', () => {
  it.each(PRESET_NAMES)('of %s ends every request, and twice the same', { timeout: 120_000 }, (name) => {
    const first = run(name, 1);
    expect(first.requests).toBe(workload(1).requests);
    const turns = workload(1).sessions.flatMap((session) => session.turns);
    expect(first.generatedTokens).toBe(turns.reduce((sum, { replyTokens }) => sum + replyTokens, 0));
    expect(first.promptTokens).toBe(turns.reduce((sum, { promptTokens }) => sum + promptTokens, 0));
    expect(lasting(run(name, 1))).toEqual(lasting(first));
  });

  it('differs from one seed to the next, and from one pattern or preset to the next', () => {
    const digests = [
      run('fastswitch', 1),
      run('fastswitch', 2),
      run('fastswitch', 1, MARKOV),
      run('fastswitch', 1, { type: 'none' }),
      run('fastswitch-reuse', 1),
    ].map(({ digest }) => digest);
    expect(new Set(digests).size).toBe(digests.length);
  });

  it('adds up: what was computed, found, copied and preempted', () => {
    for (const name of ['vllm-0.3', 'vllm-1', 'default']) {
      const result = run(name, 1);
      const { ttftMs, tbtMs, preemptions, bytesOut, bytesMirrored, blocksSent, stallShareP99 } = result;
      expect(result.promptTokens - result.cachedTokens).toBeLessThanOrEqual(result.prefillTokensComputed);
      expect(preemptions.swap + preemptions.recompute).toBeGreaterThan(0);
      expect(bytesOut - bytesMirrored).toBe(blocksSent * 2 * 2 ** 20);
      expect(ttftMs.p50).toBeLessThanOrEqual(ttftMs.p95);
      expect(tbtMs.p99).toBeLessThanOrEqual(tbtMs.p999);
      expect(tbtMs.p50).toBeGreaterThan(37); // reading the weights alone takes as long
      expect(stallShareP99).toBeGreaterThanOrEqual(0);
      expect(stallShareP99).toBeLessThan(1);
      expect(result.throughputTokensPerSecond).toBeCloseTo(result.generatedTokens / result.virtualSeconds, 9);
      expect(result.meanRunBlocks).toBe(name === 'vllm-1' ? 0 : Math.max(1, result.meanRunBlocks));
    }
  });

  it('tells how far it is, up to the whole', () => {
    const shares: number[] = [];
    const { requests } = runSimulation({
      scenario: SCENARIO,
      preset: preset('default'),
      policy: 'fcfs',
      workload: workload(1, 5),
      pattern: { type: 'none' },
      seed: 1,
      noise: 0,
      onProgress: (share) => shares.push(share),
    });
    expect(shares.length).toBe(requests);
    expect(shares).toEqual(shares.toSorted((a, b) => a - b));
    expect(shares.at(-1)).toBe(1);
  });

  it('finds the common prefix of a trace', () => {
    const line = (timestamp: number, hashes: number[]) =>
      JSON.stringify({ timestamp, input_length: 1024, output_length: 20, hash_ids: hashes });
    const text = Array.from({ length: 10 }, (_, k) => line(k * 10_000, [1, 100 + k])).join('\n');
    const trace = parseTrace(text, 'test', { limit: 0, speed: 1, contextTokensMax: SCENARIO.contextTokensMax });
    const result = runSimulation({
      scenario: SCENARIO,
      preset: preset('default'),
      policy: 'fcfs',
      workload: trace,
      pattern: { type: 'none' },
      seed: 1,
      noise: 0,
      onProgress: null,
    });
    expect(result.cachedTokens).toBe(9 * 512);
  });

  it('fails with the system, and says why and where', () => {
    const [session] = workload(1).sessions;
    if (session === undefined) throw new Error('an empty workload');
    const broken = {
      ...session,
      name: () => {
        throw new Error('no name');
      },
    };
    const options = { scenario: SCENARIO, preset: preset('default'), policy: 'fcfs', pattern: { type: 'none' } } as const;
    const broke = { sessions: [broken], requests: session.turns.length, dropped: 0 };
    expect(() => runSimulation({ ...options, workload: broke, seed: 3, noise: 0, onProgress: null })).toThrow('no name');
    // A request that the device can never hold: a mistake of the workload that only the system can see.
    const large = { ...SCENARIO, deviceBlocks: 2 };
    expect(() =>
      runSimulation({ ...options, scenario: large, workload: workload(1), seed: 3, noise: 0, onProgress: null }),
    ).toThrow(/simulation \(default, llama8b-a10, none, fcfs, seed 3, step 0\): request 1 ended as rejected: too_large/);
  });

  it('refuses a workload that is longer than the context, instead of losing requests silently', () => {
    const small = { ...SCENARIO, contextTokensMax: 300 };
    const options = { scenario: small, preset: preset('default'), policy: 'fcfs', workload: workload(1) } as const;
    expect(() => runSimulation({ ...options, pattern: { type: 'none' }, seed: 1, noise: 0, onProgress: null })).toThrow(
      /longer than the context of 300/,
    );
  });
});
