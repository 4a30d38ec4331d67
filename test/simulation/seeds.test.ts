import { describe, expect, it } from 'vitest';
import { loadScenario } from '../../src/simulation/profiles.js';
import { drawParameters, runWorld, type WorldResult } from './world.js';

const LLAMA_8B_ON_A10 = loadScenario('llama8b-a10').profile;
const SEEDS = Number(process.env.FASTSWITCH_TEST_SEEDS ?? 100);

describe('the whole system on virtual time', () => {
  it(`keeps every law over ${SEEDS} seeds, each run twice with the same digest`, { timeout: 600_000 }, () => {
    const total = {
      swaps: 0,
      recomputes: 0,
      events: 0,
      stepsBesideACopy: 0,
      abortsRemembered: 0,
      mirrors: 0,
      prefetches: 0,
      parked: 0,
      resumed: 0,
      cachedTokens: 0,
    };
    const outcomes = { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 };
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const first = runWorld(drawParameters(seed, LLAMA_8B_ON_A10));
      const second: WorldResult = runWorld(drawParameters(seed, LLAMA_8B_ON_A10));
      expect(second.digest, `seed ${seed}`).toBe(first.digest);
      for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += first[key];
      for (const key of Object.keys(outcomes) as (keyof typeof outcomes)[]) outcomes[key] += first.outcomes[key];
    }
    console.log(`${SEEDS} seeds: ${JSON.stringify({ ...total, outcomes })}`);
    // A storm that never swapped, or never ran beside a copy, would prove nothing.
    expect(total.swaps).toBeGreaterThan(SEEDS);
    expect(total.recomputes).toBeGreaterThan(SEEDS / 10);
    expect(total.stepsBesideACopy).toBeGreaterThan(SEEDS);
    if (SEEDS < 100) return;
    for (const count of Object.values(total)) expect(count).toBeGreaterThan(0);
    for (const count of Object.values(outcomes)) expect(count).toBeGreaterThan(0);
  });
});
