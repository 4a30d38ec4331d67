import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { FastswitchError } from '../../src/errors.js';
import { type LoadedModel, loadModel } from '../../src/native/model.js';
import {
  emptyFolder,
  FIXTURE_NAMES,
  FIXTURES,
  fixture,
  readJson,
  readOracle,
  refusal,
  removeFolders,
  variant,
} from './folders.js';
import { referenceLogits } from './reference.js';

afterAll(removeFolders);

type Config = Record<string, unknown>;

const load = (folder: string, maxContext = 0): LoadedModel => loadModel(folder, { maxContext });

/** The message with which a fixture is refused after `edit` of its config.json. */
const refused = (name: string, edit: (config: Config) => void): string => refusal(() => load(variant(name, edit)));

/** A spec without the folder it came from. */
function portable({ spec, ...rest }: LoadedModel): unknown {
  return { ...rest, name: '', spec: { ...spec, files: spec.files.map((path) => basename(path)) } };
}

function largestRelativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  const gaps = Array.from(expected, (value, index) => Math.abs((found[index] as number) - value));
  return Math.max(...gaps) / Math.max(...Array.from(expected, Math.abs));
}

describe('a model folder', () => {
  it('is flattened into what the engine needs', () => {
    const model = load(fixture('llama3'));
    expect(model).toMatchObject({
      name: 'llama3',
      architecture: 'LlamaForCausalLM',
      dtype: 'f32',
      bosToken: 1,
      eosTokens: [2, 5, 7],
      positions: 256,
      warnings: [],
    });
    expect(model.spec).toMatchObject({
      vocabulary: 64,
      hidden: 32,
      layers: 2,
      heads: 4,
      kvHeads: 2,
      headDim: 8,
      intermediate: 36,
      rmsEps: 1e-5,
      tiedHead: true,
      window: 0,
    });
    expect(model.spec.tensors).toHaveLength(2 + 2 * 9);
    expect(model.parameters).toBe(model.spec.tensors.reduce((sum, { rows, columns }) => sum + rows * columns, 0));
    expect(model.spec.tensors[0]).toMatchObject({ role: 'embed', layer: -1, file: 0, dtype: 'f32', rows: 64, columns: 32 });
    expect(model.spec.tensors.find(({ role, layer }) => role === 'k' && layer === 1)).toMatchObject({ rows: 16, columns: 32 });
    expect(model.spec.tensors.find(({ role }) => role === 'finalNorm')).toMatchObject({ rows: 1, columns: 32 });
  });

  it.each(FIXTURE_NAMES)('%s gives the rope that transformers computes', (name) => {
    const { rope } = readOracle(name);
    const { spec } = load(fixture(name));
    expect(spec.ropeInverseFrequencies).toHaveLength(spec.headDim / 2);
    const errors = rope.inverseFrequencies.map((value, pair) =>
      Math.abs((spec.ropeInverseFrequencies[pair] as number) / value - 1),
    );
    expect(Math.max(...errors)).toBeLessThan(2e-7);
    expect(spec.ropeScale).toBeCloseTo(rope.scale, 12);
  });

  it.each(FIXTURE_NAMES)('%s, run by the plainest code, gives the logits of transformers', (name) => {
    const { spec } = load(fixture(name));
    for (const { prompt, continuation, logits, final } of readOracle(name).prompts) {
      const computed = referenceLogits(spec, [...prompt, ...continuation]);
      for (const { position, values } of [...logits, final]) {
        expect(largestRelativeError(computed[position] as Float64Array, values)).toBeLessThan(2e-5);
      }
    }
  });

  const versions = FIXTURE_NAMES.filter((name) => existsSync(join(fixture(name), 'config-transformers-4.json')));
  it.each(versions)('%s is the same by its transformers 4 and 5 configs', (name) => {
    const older = readJson<Config>(fixture(name), 'config-transformers-4.json');
    const folder = variant(name, (config) => {
      for (const key of Object.keys(config)) delete config[key];
      Object.assign(config, older);
    });
    expect(portable(load(folder))).toEqual(portable(load(fixture(name))));
  });

  it('knows the roles of each family', () => {
    const roles = (name: string): Set<string> => new Set(load(fixture(name)).spec.tensors.map(({ role }) => role));
    const beyond = (name: string, plainer: string): string[] =>
      [...roles(name)].filter((role) => !roles(plainer).has(role)).sort();
    expect([...roles('llama2')].sort()).toEqual([
      'attentionNorm',
      'down',
      'embed',
      'finalNorm',
      'gate',
      'head',
      'k',
      'mlpNorm',
      'o',
      'q',
      'up',
      'v',
    ]);
    expect(beyond('qwen2', 'mistral')).toEqual(['kBias', 'qBias', 'vBias']);
    expect(beyond('llama-linear', 'llama3')).toEqual(['kBias', 'oBias', 'qBias', 'vBias']);
    expect(beyond('qwen3', 'llama3')).toEqual(['kNorm', 'qNorm']);
    expect(beyond('llama2', 'llama3')).toEqual(['head']);
  });

  it('knows the dtypes and the shards', () => {
    expect(load(fixture('llama-bf16')).dtype).toBe('bf16');
    expect(load(fixture('qwen2-f16')).dtype).toBe('f16');
    expect(new Set(load(fixture('mistral')).spec.tensors.map(({ file }) => file))).toEqual(new Set([0, 1]));
  });

  const demo = resolve(FIXTURES, '../../../models/demo');
  it.skipIf(!existsSync(join(demo, 'config.json')))('that ships as the demo is accepted', () => {
    const model = load(demo);
    expect(model).toMatchObject({ architecture: 'LlamaForCausalLM', dtype: 'bf16', warnings: [] });
    expect(model.eosTokens.length).toBeGreaterThan(0);
  });
});

describe('sliding windows', () => {
  const window = (folder: string, maxContext = 0): [number, number] => {
    const { spec } = load(folder, maxContext);
    return [spec.window, spec.windowFromLayer];
  };

  it('cover all layers of mistral, and the last ones of qwen', () => {
    expect(window(fixture('mistral'))).toEqual([24, 0]);
    expect(window(fixture('qwen2'))).toEqual([20, 1]);
    expect(
      window(
        variant('qwen3', (config) =>
          Object.assign(config, { use_sliding_window: true, sliding_window: 30, layer_types: null, max_window_layers: 0 }),
        ),
      ),
    ).toEqual([30, 0]);
  });

  it('are none where they are off, null, beyond the last layer, or as long as the context', () => {
    expect(
      window(
        variant('mistral', (config) => {
          config.sliding_window = null;
        }),
      ),
    ).toEqual([0, 0]);
    expect(
      window(
        variant('mistral', (config) => {
          delete config.sliding_window;
        }),
      ),
    ).toEqual([0, 0]);
    expect(window(variant('qwen2', (config) => Object.assign(config, { use_sliding_window: false, layer_types: null })))).toEqual(
      [0, 0],
    );
    expect(window(variant('qwen2', (config) => Object.assign(config, { layer_types: null, max_window_layers: 2 })))).toEqual([
      0, 0,
    ]);
    expect(window(fixture('mistral'), 24)).toEqual([0, 0]);
    expect(window(fixture('mistral'), 25)).toEqual([24, 0]);
  });

  it('are refused where the layers take turns, or config.json contradicts itself', () => {
    expect(
      refused('qwen2', (config) => {
        config.layer_types = ['sliding_attention', 'full_attention'];
      }),
    ).toMatch(/alternates/);
    expect(
      refused('qwen2', (config) => {
        config.use_sliding_window = false;
      }),
    ).toMatch(/no sliding window is in use/);
    expect(
      refused('qwen2', (config) => {
        config.layer_types = ['full_attention', 'linear_attention'];
      }),
    ).toMatch(/"linear_attention" is not implemented/);
    expect(
      refused('qwen2', (config) => {
        config.layer_types = ['full_attention'];
      }),
    ).toMatch(/list of 2/);
    expect(
      refused('mistral', (config) => {
        config.layer_types = ['full_attention', 'full_attention'];
      }),
    ).toMatch(/contradict/);
    expect(
      refused('mistral', (config) => {
        config.sliding_window = 0;
      }),
    ).toMatch(/"sliding_window" is 0/);
  });
});

describe('what would give wrong results is refused', () => {
  it.each<[key: string, value: unknown, says: RegExp]>([
    ['model_type', 'gemma3', /model_type is "gemma3"; supported are llama, mistral, qwen2, qwen3/],
    ['model_type', 'qwen2_moe', /supported are/],
    ['model_type', undefined, /model_type is missing/],
    ['model_type', 'toString', /supported are/],
    ['architectures', ['LlamaForSequenceClassification'], /only text generation/],
    ['hidden_act', 'gelu', /hidden_act is "gelu"/],
    ['mlp_bias', true, /"mlp_bias" is set/],
    ['quantization_config', { quant_method: 'awq' }, /"quantization_config" is set.*BF16/],
    ['num_local_experts', 8, /mixture-of-experts/],
    ['partial_rotary_factor', 0.5, /partial_rotary_factor/],
    ['is_causal', false, /bidirectional/],
    ['text_config', {}, /multimodal/],
    ['num_key_value_heads', 3, /4 attention heads cannot share 3/],
    ['head_dim', 7, /rope needs an even/],
    ['hidden_size', 0, /"hidden_size" is 0, expected a whole number/],
    ['hidden_size', '32', /"hidden_size" is "32"/],
    ['hidden_size', 64, /has shape \[\d+, 32\], config\.json demands \[\d+, 64\]/],
    ['vocab_size', 1e300, /"vocab_size" is 1e\+300/],
    ['num_hidden_layers', 1e9, /expected a whole number from 1 to 4096/],
    ['num_hidden_layers', 4_000, /lack \d+ tensors .*model\.layers\.2\.input_layernorm\.weight.*and \d+ more/],
    ['rms_norm_eps', 0, /rms_norm_eps/],
    ['tie_word_embeddings', 'yes', /expected true or false/],
    ['tie_word_embeddings', false, /hold no "lm_head\.weight" and config\.json does not set tie_word_embeddings/],
    ['attention_bias', true, /lack 8 tensors.*q_proj\.bias/],
    ['eos_token_id', 'two', /eos_token_id is "two"/],
  ])('%s = %j', (key, value, says) => {
    expect(
      refused('llama3', (config) => {
        config[key] = value;
      }),
    ).toMatch(says);
  });

  it('weights of a dtype that is not read, naming it', () => {
    const folder = variant('llama2');
    const path = join(folder, 'model.safetensors');
    const bytes = readFileSync(path);
    // The header's length stays: F32 -> I32 throughout.
    writeFileSync(path, Buffer.from(bytes.toString('latin1').replaceAll('"F32"', '"I32"'), 'latin1'));
    expect(refusal(() => load(folder))).toMatch(/is "I32"; F32, BF16 and F16 can be read/);
  });

  it('a folder that is none, without config.json, or without weights', () => {
    expect(refusal(() => load('/no/such/folder'))).toMatch(/is no folder/);
    expect(refusal(() => load(emptyFolder()))).toMatch(/has no config\.json/);
    const folder = variant('llama2');
    rmSync(join(folder, 'model.safetensors'));
    expect(refusal(() => load(folder))).toMatch(/neither model\.safetensors/);
    mkdirSync(join(folder, 'model.safetensors'));
    expect(refusal(() => load(folder))).toMatch(/no regular file/);
  });
});

describe('what does no harm is accepted', () => {
  it('missing keys take the defaults of the family', () => {
    const folder = variant('llama2', (config) => {
      for (const key of [
        'head_dim',
        'num_key_value_heads',
        'hidden_act',
        'attention_bias',
        'mlp_bias',
        'tie_word_embeddings',
        'rope_parameters',
        'architectures',
        'dtype',
        'bos_token_id',
        'eos_token_id',
      ])
        delete config[key];
    });
    expect(portable(load(folder))).toEqual(portable(load(fixture('llama2'))));
  });

  it('a head stored beside a tie is used, as by transformers 5, and reported', () => {
    const { spec, warnings } = load(
      variant('llama2', (config) => {
        config.tie_word_embeddings = true;
      }),
    );
    expect(spec.tiedHead).toBe(false);
    expect(warnings).toEqual([expect.stringMatching(/the stored head is used/)]);
  });

  it('extra tensors are named in a warning', () => {
    const { warnings } = load(
      variant('llama-linear', (config) => {
        config.attention_bias = false;
      }),
    );
    expect(warnings).toEqual([expect.stringMatching(/^8 tensors .* were ignored .*q_proj\.bias.*and 3 more/)]);
  });

  it('a context may be shortened, not lengthened', () => {
    expect(load(fixture('llama2'), 100).spec.positions).toBe(100);
    const longer = load(fixture('llama2'), 1000);
    expect(longer.positions).toBe(256);
    expect(longer.warnings).toEqual([expect.stringMatching(/1000 was asked for/)]);
  });

  it('end tokens come from both files, once each, and only those of the vocabulary', () => {
    const folder = variant('llama2', (config) => Object.assign(config, { eos_token_id: [3, 4, 999], bos_token_id: null }));
    writeFileSync(join(folder, 'generation_config.json'), JSON.stringify({ eos_token_id: [9, 3], bos_token_id: 8 }));
    const model = load(folder);
    expect(model).toMatchObject({ eosTokens: [9, 3, 4], bosToken: 8 });
    expect(model.warnings).toEqual([expect.stringMatching(/999 is outside the vocabulary of 64/)]);
    const silent = variant('qwen2', (config) => {
      delete config.eos_token_id;
    });
    rmSync(join(silent, 'generation_config.json'));
    expect(load(silent)).toMatchObject({ eosTokens: [], warnings: [expect.stringMatching(/names an end token/)] });
  });
});

describe('a dummy', () => {
  const dummy = (folder: string): LoadedModel => loadModel(folder, { maxContext: 0, load: 'dummy' });

  it.each(FIXTURE_NAMES)('of %s has the shapes of its tensors and needs none of them', (name) => {
    const folder = variant(name);
    for (const file of readdirSync(folder)) if (file.includes('safetensors')) rmSync(join(folder, file));
    const model = dummy(folder);
    const real = load(fixture(name));
    const shapes = ({ spec }: LoadedModel) => spec.tensors.map(({ role, layer, rows, columns }) => [role, layer, rows, columns]);
    expect(shapes(model)).toEqual(shapes(real));
    expect(new Set(model.spec.tensors.map(({ file }) => file))).toEqual(new Set([-1]));
    expect(model.spec.files).toEqual([]);
    expect(model.parameters).toBe(real.parameters);
    expect(model.warnings.join(' ')).toContain('the weights are random');
    expect(model.fingerprint).not.toBe(real.fingerprint);
    expect(model.fingerprint).toBe(dummy(fixture(name)).fingerprint);
  });
});

describe('the fingerprint', () => {
  const print = (folder: string, maxContext = 0): string => load(folder, maxContext).fingerprint;

  it('is that of the model, not of the folder, the shards or the context', () => {
    const folder = variant('mistral');
    renameSync(join(folder, 'model-00001-of-00002.safetensors'), join(folder, 'one.safetensors'));
    const index = join(folder, 'model.safetensors.index.json');
    writeFileSync(index, readFileSync(index, 'utf8').replaceAll('model-00001-of-00002', 'one'));
    expect(print(folder)).toBe(print(fixture('mistral')));
    expect(print(variant('llama2'), 77)).toBe(print(fixture('llama2')));
    expect(new Set(FIXTURE_NAMES.map((name) => print(fixture(name)))).size).toBe(FIXTURE_NAMES.length);
  });

  it('changes with one weight, and with one number of the config', () => {
    const folder = variant('llama2');
    const path = join(folder, 'model.safetensors');
    const bytes = readFileSync(path);
    bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) ^ 1;
    writeFileSync(path, bytes);
    expect(print(folder)).not.toBe(print(fixture('llama2')));
    expect(
      print(
        variant('llama2', (config) => {
          config.rms_norm_eps = 2e-5;
        }),
      ),
    ).not.toBe(print(fixture('llama2')));
  });
});

it('a config.json of whatever content loads or is refused', () => {
  const good = readJson<Config>(fixture('llama3'), 'config.json');
  const folder = variant('llama3');
  const keys = [...Object.keys(good), 'rope_scaling', 'layer_types', 'head_dim', 'sliding_window'];
  const change = fc.tuple(fc.constantFrom(...keys), fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.integer(), fc.double()));
  const attempt = (text: string): void => {
    writeFileSync(join(folder, 'config.json'), text);
    try {
      load(folder);
    } catch (error) {
      if (!(error instanceof FastswitchError) || error.code !== 'bad_model') throw error;
    }
  };
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) =>
      attempt(JSON.stringify({ ...good, ...Object.fromEntries(changes) })),
    ),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.jsonValue(), (value) => attempt(JSON.stringify(value))),
    { numRuns: 100 },
  );
});
