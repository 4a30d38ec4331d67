import { describe, expect, it } from 'vitest';
import { calibrate, measureBaseline, readCalibration, type Setting, settingOf } from '../../src/simulation/calibrate.js';
import { loadScenario, scenarioNames, withMemory } from '../../src/simulation/profiles.js';

const START: Setting = {
  conversationsPerSecond: 1,
  thinkSeconds: 10,
  pattern: { type: 'random', phi: 0.5, frequency: 0.04 },
};

const phiOf = ({ pattern }: Setting) => (pattern.type === 'none' ? 0 : pattern.phi);
/** A machine whose stall share grows with reshuffling and with load, seen through two seeds. */
const measure = (factor: number) => async (setting: Setting) => {
  const share = Math.min(1, factor * setting.conversationsPerSecond * Math.sqrt(phiOf(setting)));
  return [share - 0.02, share + 0.02];
};

describe('calibration', () => {
  it('finds the reshuffling that makes the published share of stall, and tells what it tried', async () => {
    const { best, reached, tried } = await calibrate(START, measure(0.9));
    expect(reached).toBe(true);
    expect(phiOf(best.setting)).toBeCloseTo((0.6 / 0.9) ** 2, 1);
    expect(best.setting.conversationsPerSecond).toBe(1);
    expect(best.mean).toBeCloseTo(0.6, 1);
    expect(best.shares.length).toBe(2);
    expect(tried.length).toBeLessThanOrEqual(11);
    expect(tried).toContain(best);
  });

  it('raises the load where no reshuffling suffices, and lowers it where the least is too much', async () => {
    const more = await calibrate(START, measure(0.3));
    expect([more.reached, phiOf(more.best.setting)]).toEqual([true, 1]);
    expect(more.best.setting.conversationsPerSecond).toBeCloseTo(2, 1);
    const less = await calibrate(START, measure(10));
    expect([less.reached, phiOf(less.best.setting)]).toEqual([true, 0.01]);
    expect(less.best.setting.conversationsPerSecond).toBeCloseTo(0.6, 1);
  });

  it('gives up within its bounds and says so', async () => {
    const { reached, tried, best } = await calibrate(START, measure(0.01));
    expect(reached).toBe(false);
    expect(tried.length).toBe(3);
    expect(best.mean).toBeLessThan(0.1);
  });

  it('measures the baseline itself, once for each seed', async () => {
    const scenario = withMemory(loadScenario('llama8b-a10'), 150, 2000);
    const setting = { ...START, conversationsPerSecond: 5, thinkSeconds: 1 };
    const shares = await measureBaseline({ scenario, conversations: 6, seeds: [1, 2], threads: 1 })(setting);
    expect(shares.length).toBe(2);
    expect(Math.max(...shares)).toBeGreaterThan(0);
    expect(Math.max(...shares)).toBeLessThan(1);
  });

  it('is on file for every shipped scenario, with the update frequency of the paper', () => {
    const file = readCalibration();
    expect(Object.keys(file.scenarios).sort()).toEqual(scenarioNames());
    for (const [scenario, frequency] of [
      ['llama8b-a10', 0.04],
      ['qwen32b-a100', 0.02],
    ] as const) {
      for (const type of ['random', 'markov'] as const) {
        expect(settingOf(file, scenario, type).pattern).toMatchObject({ type, frequency });
        const { hotShare, stay } = { hotShare: 0, stay: 0.7, ...file.scenarios[scenario]?.[type] };
        // Otherwise the cold ones could not warm up fast enough to keep the share.
        expect(hotShare).toBeLessThanOrEqual(1 / (2 - stay));
      }
    }
  });

  it('has something to say for a machine that was never calibrated', () => {
    const setting = settingOf(readCalibration(), 'mine', 'markov');
    expect(setting.conversationsPerSecond).toBeGreaterThan(0);
    expect(setting.pattern).toMatchObject({ type: 'markov', stay: 0.8 });
    expect(settingOf(readCalibration(), 'llama8b-a10', 'none').pattern).toEqual({ type: 'none' });
  });
});
