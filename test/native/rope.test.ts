import { afterAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../src/native/model.js';
import { readRope } from '../../src/native/rope.js';
import { FIXTURES, readJson, refusal, removeFolders, variant } from './folders.js';

afterAll(removeFolders);

describe('rope', () => {
  interface Case {
    headDim: number;
    positions: number;
    rope: Record<string, unknown>;
    inverseFrequencies: number[];
    scale: number;
  }
  const cases = readJson<Case[]>(FIXTURES, 'rope.json');

  it.each(cases.map((one) => [JSON.stringify({ headDim: one.headDim, ...one.rope }), one] as const))(
    '%s is what transformers computes',
    (_name, one) => {
      const { rope_type: type, rope_theta: theta, ...rest } = one.rope;
      for (const config of [
        { rope_parameters: one.rope },
        { rope_theta: theta, rope_scaling: { type, ...rest } },
        { rope_theta: theta, rope_scaling: { rope_type: type, ...rest } },
      ]) {
        const rope = readRope(config, one.headDim, one.positions);
        const errors = one.inverseFrequencies.map((value, pair) =>
          Math.abs((rope.inverseFrequencies[pair] as number) / value - 1),
        );
        expect(Math.max(...errors)).toBeLessThan(2.5e-7);
        expect(rope.scale).toBeCloseTo(one.scale, 12);
      }
    },
  );

  it('takes theta 10,000 where none is given', () => {
    expect(readRope({}, 4, 100).inverseFrequencies).toEqual(Float32Array.of(1, 0.01));
  });

  it('of yarn reaches beyond the length that the config states', () => {
    const rope = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 256 };
    const load = (positions: number) =>
      loadModel(
        variant('llama-yarn', (config) => Object.assign(config, { rope_parameters: rope, max_position_embeddings: positions })),
        { maxContext: 0 },
      );
    expect(load(256)).toMatchObject({ positions: 1024, warnings: [] });
    expect(load(512)).toMatchObject({ positions: 1024, warnings: [expect.stringMatching(/factor is 4 but/)] });
  });

  it.each([
    [{ rope_type: 'dynamic', factor: 2 }, /"dynamic" is not supported/],
    [{ type: 'longrope', short_factor: [1], long_factor: [1] }, /"longrope" is not supported/],
    [{ type: 'su' }, /"su" is not supported/],
    [{ type: 'mrope' }, /not supported/],
    [{ type: 'linear' }, /linear needs "factor"/],
    [{ type: 'linear', factor: 0 }, /"factor" is 0, expected a number above 0/],
    [{ type: 'linear', factor: '2' }, /"factor" is "2"/],
    [{ rope_type: 'llama3', factor: 8 }, /llama3 needs "low_freq_factor"/],
    [{ rope_type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 }, /must be above/],
    [{ rope_type: 'yarn', factor: 2, rope_theta: 1 }, /cannot be computed/],
    [{ rope_type: 'default', rope_theta: 1e-300 }, /not finite/],
    [{ full_attention: { rope_type: 'default' }, sliding_attention: { rope_type: 'linear' } }, /differs by layer type/],
    [{ rope_type: 'default', partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0\.5/],
  ])('%j is refused', (rope, says) => {
    expect(refusal(() => readRope({ rope_scaling: rope }, 64, 1000))).toMatch(says);
    expect(refusal(() => readRope({ rope_parameters: rope }, 64, 1000))).toMatch(says);
  });
});
