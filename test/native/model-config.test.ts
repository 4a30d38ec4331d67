import { describe, expect, it } from 'vitest';
import { readEndTokens, readModelConfig, readSamplingDefaults } from '../../src/native/model-config.js';

/** The parts of published configs that decide how a model is run, as their authors wrote them. */
const LLAMA_3_2_1B = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  bos_token_id: 128000,
  eos_token_id: [128001, 128008, 128009],
  head_dim: 64,
  hidden_act: 'silu',
  hidden_size: 2048,
  intermediate_size: 8192,
  max_position_embeddings: 131072,
  mlp_bias: false,
  model_type: 'llama',
  num_attention_heads: 32,
  num_hidden_layers: 16,
  num_key_value_heads: 8,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: {
    factor: 32.0,
    high_freq_factor: 4.0,
    low_freq_factor: 1.0,
    original_max_position_embeddings: 8192,
    rope_type: 'llama3',
  },
  rope_theta: 500000.0,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  use_cache: true,
  vocab_size: 128256,
};
const MISTRAL_7B_V0_1 = {
  architectures: ['MistralForCausalLM'],
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  hidden_size: 4096,
  intermediate_size: 14336,
  max_position_embeddings: 32768,
  model_type: 'mistral',
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 10000.0,
  sliding_window: 4096,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  vocab_size: 32000,
};
const QWEN_2_5_7B = {
  architectures: ['Qwen2ForCausalLM'],
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151645,
  hidden_act: 'silu',
  hidden_size: 3584,
  intermediate_size: 18944,
  max_position_embeddings: 32768,
  max_window_layers: 28,
  model_type: 'qwen2',
  num_attention_heads: 28,
  num_hidden_layers: 28,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 131072,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  use_cache: true,
  use_mrope: false,
  use_sliding_window: false,
  vocab_size: 152064,
};
const QWEN_3_0_6B = {
  architectures: ['Qwen3ForCausalLM'],
  attention_bias: false,
  bos_token_id: 151643,
  eos_token_id: 151645,
  head_dim: 128,
  hidden_act: 'silu',
  hidden_size: 1024,
  intermediate_size: 3072,
  max_position_embeddings: 40960,
  max_window_layers: 28,
  model_type: 'qwen3',
  num_attention_heads: 16,
  num_hidden_layers: 28,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 1000000,
  sliding_window: null,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  use_cache: true,
  use_sliding_window: false,
  vocab_size: 151936,
};

describe('published configs', () => {
  it('Llama 3.2', () => {
    const config = readModelConfig(LLAMA_3_2_1B);
    expect(config).toMatchObject({
      family: 'llama',
      headDim: 64,
      kvHeads: 8,
      positions: 131072,
      tied: true,
      qkvBias: false,
      oBias: false,
      window: 0,
      warnings: [],
    });
    expect(config.rope.inverseFrequencies[0]).toBe(1);
    // The longest wave is slowed by the whole factor.
    expect(config.rope.inverseFrequencies[31]).toBeCloseTo(1 / 500000 ** (62 / 64) / 32, 12);
    expect(readEndTokens(LLAMA_3_2_1B, null, 128256)).toEqual({
      bosToken: 128000,
      eosTokens: [128001, 128008, 128009],
      warnings: [],
    });
  });

  it('Mistral, with and without its window', () => {
    expect(readModelConfig(MISTRAL_7B_V0_1)).toMatchObject({
      headDim: 128,
      window: 4096,
      windowFromLayer: 0,
      tied: false,
      warnings: [],
    });
    expect(readModelConfig({ ...MISTRAL_7B_V0_1, sliding_window: null, rope_theta: 1000000.0, vocab_size: 32768 })).toMatchObject(
      { window: 0 },
    );
    // Nemo: heads narrower than hidden / heads.
    expect(readModelConfig({ ...MISTRAL_7B_V0_1, sliding_window: null, head_dim: 128, hidden_size: 5120 })).toMatchObject({
      headDim: 128,
      hidden: 5120,
    });
  });

  it('Qwen 2.5, alone and with the yarn that its card recommends', () => {
    expect(readModelConfig(QWEN_2_5_7B)).toMatchObject({
      headDim: 128,
      window: 0,
      qkvBias: true,
      oBias: false,
      positions: 32768,
      warnings: [],
    });
    const long = readModelConfig({
      ...QWEN_2_5_7B,
      rope_scaling: { factor: 4.0, original_max_position_embeddings: 32768, type: 'yarn' },
    });
    expect(long).toMatchObject({ positions: 131072, warnings: [] });
    expect(long.rope.scale).toBeCloseTo(1.1386294, 6);
    expect(readEndTokens(QWEN_2_5_7B, { bos_token_id: 151643, eos_token_id: [151645, 151643] }, 152064).eosTokens).toEqual([
      151645, 151643,
    ]);
  });

  it('Qwen 3', () => {
    expect(readModelConfig(QWEN_3_0_6B)).toMatchObject({
      headDim: 128,
      heads: 16,
      hidden: 1024,
      qkNorm: true,
      qkvBias: false,
      window: 0,
      positions: 40960,
    });
  });
});

describe('missing keys', () => {
  it('have the defaults of the family', () => {
    expect(readModelConfig({ model_type: 'llama' })).toMatchObject({
      vocabulary: 32000,
      hidden: 4096,
      layers: 32,
      heads: 32,
      kvHeads: 32,
      headDim: 128,
      intermediate: 11008,
      positions: 2048,
      rmsEps: 1e-6,
      tied: false,
    });
    expect(readModelConfig({ model_type: 'mistral' })).toMatchObject({
      kvHeads: 8,
      intermediate: 14336,
      positions: 131072,
      window: 4096,
    });
    expect(readModelConfig({ model_type: 'qwen2' })).toMatchObject({
      vocabulary: 151936,
      kvHeads: 32,
      intermediate: 22016,
      positions: 32768,
      window: 0,
    });
    expect(
      readModelConfig({ model_type: 'qwen3', hidden_size: 1024, num_attention_heads: 16, num_key_value_heads: null }),
    ).toMatchObject({ headDim: 128, kvHeads: 16 });
  });

  it('of tokens too, unless a file says null', () => {
    expect(readEndTokens({ model_type: 'llama' }, null, 100)).toMatchObject({ bosToken: 1, eosTokens: [2] });
    expect(readEndTokens({ model_type: 'llama', bos_token_id: null }, { eos_token_id: 7 }, 100)).toMatchObject({
      bosToken: null,
      eosTokens: [7],
    });
    expect(readEndTokens({ model_type: 'qwen3' }, null, 100)).toMatchObject({ bosToken: null, eosTokens: [] });
  });
});

describe('sampling defaults', () => {
  const neutral = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };

  it('are neutral where generation_config.json is silent or absent', () => {
    expect(readSamplingDefaults(null)).toEqual({ sampling: neutral, warnings: [] });
    expect(readSamplingDefaults({ eos_token_id: 2 })).toEqual({ sampling: neutral, warnings: [] });
  });

  it('are what it says, greedy where it says do_sample: false', () => {
    const asked = { do_sample: true, temperature: 0.7, top_p: 0.8, top_k: 20, repetition_penalty: 1.05 };
    expect(readSamplingDefaults(asked).sampling).toEqual({
      temperature: 0.7,
      topK: 20,
      topP: 0.8,
      minP: 0,
      repetitionPenalty: 1.05,
    });
    expect(readSamplingDefaults({ ...asked, do_sample: false }).sampling.temperature).toBe(0);
  });

  it('are not what cannot be, with a warning', () => {
    const { sampling, warnings } = readSamplingDefaults({ temperature: 'hot', top_p: 3 });
    expect(sampling).toEqual(neutral);
    expect(warnings).toHaveLength(2);
  });
});
