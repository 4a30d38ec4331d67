import { describe, expect, it } from 'vitest';
import { FLOOD, IDLE, SHAPES, type Shape } from '../../bench/fairness/shapes.js';
import { bounds, type Watched, watchRun } from '../../bench/fairness/watch.js';

/** Shorter than in the report, with as much of it in flood. */
function shape(name: string, seconds: number): Shape {
  const found = SHAPES.find((each) => each.name === name);
  if (found === undefined) throw new Error(`no shape "${name}"`);
  return { ...found, seconds };
}

const last = ({ tenants }: Watched, name: string) => tenants.find(({ tenant }) => tenant === name)?.service.at(-1) ?? 0;
const p99 = ({ tenants }: Watched, name: string) => {
  const sorted = [...(tenants.find(({ tenant }) => tenant === name)?.ttftSeconds ?? [])].sort((a, b) => a - b);
  return sorted[Math.ceil(0.99 * sorted.length) - 1] ?? 0;
};

describe('the default policy in virtual time', { timeout: 120_000 }, () => {
  it('serves four flooding tenants of weights 1:2:3:4 within 5 % of 10:20:30:40', () => {
    const run = watchRun(shape('weights', 60), 'fair', 1);
    const got = [1, 2, 3, 4].map((weight) => last(run, `weight ${weight}`));
    const all = got.reduce((sum, each) => sum + each, 0);
    for (const [index, each] of got.entries()) expect(Math.abs((10 * each) / all / (index + 1) - 1)).toBeLessThan(0.05);
  });

  it.each(['two', 'lengths'])('keeps its bound, and well within the published one: %s', (name) => {
    const run = watchRun(shape(name, 40), 'fair', 1);
    const { published, ours } = bounds(shape(name, 40), run.quantumTokens);
    expect(run.gap).toBeLessThanOrEqual(2 * ours);
    expect(run.gap).toBeLessThanOrEqual(published / 4);
  });

  it('shields a light tenant from a flood, at no cost to the whole', () => {
    const [idle, fair, fcfs] = [watchRun(IDLE, 'fair', 1), watchRun(FLOOD, 'fair', 1), watchRun(FLOOD, 'fcfs', 1)];
    expect(p99(fair, 'light')).toBeLessThanOrEqual(2 * p99(idle, 'light') + fair.stepSeconds);
    expect(fair.generatedTokens).toBeGreaterThan(0.9 * fcfs.generatedTokens);
    expect(fair.run.throughputTokensPerSecond).toBeGreaterThan(0.9 * fcfs.run.throughputTokensPerSecond);
  });
});
