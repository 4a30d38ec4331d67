import { describe, expect, it } from 'vitest';
import { type ParsedPreset, PRESET_NAMES, PRESETS, parsePreset } from '../../src/core/presets.js';

function parsed(text: string): ParsedPreset {
  const preset = parsePreset(text);
  if (typeof preset === 'string') throw new Error(preset);
  return preset;
}

const SWITCHES =
  'groups, growthReserveBlocks, crossLayer, waits, preemption, reuse, finished, mirror, prefetch, partial, paced, prefill, ' +
  'oneWay, copying, duplex, quantumTokens, weighed, starvationSeconds, promptPrice, tokenPrice';

describe('a preset by its name', () => {
  it.each(PRESET_NAMES)('%s is its own mechanism and policy', (name) => {
    const { mechanism, policy } = PRESETS[name];
    expect(parsePreset(name)).toEqual({ name, mechanism, policy });
  });

  it('is one of those that the evaluation compares', () => {
    expect(PRESET_NAMES).toEqual([
      'vllm-0.3',
      'vllm-1',
      'llumnix',
      'attentionstore',
      'fastserve',
      'vtc',
      'hf-cb',
      'fastswitch',
      'default',
    ]);
  });

  it('says what it stands for in a sentence', () => {
    for (const name of PRESET_NAMES) expect(PRESETS[name].about).toMatch(/^\S.{20,120}\.$/);
  });

  it('has every switch', () => {
    for (const name of PRESET_NAMES) expect(Object.keys(PRESETS[name].mechanism).join(', ')).toBe(SWITCHES);
  });
});

describe('a preset with changes', () => {
  it('turns a switch on', () => {
    expect(parsed('vllm-0.3+groups')).toEqual({
      name: 'vllm-0.3+groups',
      mechanism: { ...PRESETS['vllm-0.3'].mechanism, groups: true },
      policy: 'priority',
    });
  });

  it('turns a switch off', () => {
    expect(parsed('default-mirror').mechanism).toEqual({ ...PRESETS.default.mechanism, mirror: false });
  });

  it('gives values, one after the other', () => {
    expect(parsed('fastswitch+waits=sync+growthReserveBlocks=0').mechanism).toEqual({
      ...PRESETS.fastswitch.mechanism,
      waits: 'sync',
      growthReserveBlocks: 0,
    });
    expect(parsed('default+waits=async-mirror+prefill=alone').mechanism).toEqual({
      ...PRESETS.default.mechanism,
      waits: 'async',
      mirror: false,
      prefill: 'alone',
    });
  });

  it('has a name in which dashes, dots and digits are no changes', () => {
    expect(parsed('hf-cb+reuse-duplex').mechanism).toEqual({ ...PRESETS['hf-cb'].mechanism, reuse: true, duplex: false });
    expect(parsed('vllm-0.3-groups').mechanism).toEqual(PRESETS['vllm-0.3'].mechanism);
    expect(parsed('vllm-1-oneWay+reuse').mechanism).toEqual({ ...PRESETS['vllm-1'].mechanism, reuse: true });
  });

  it('lets the last word count, and leaves the preset as it was', () => {
    expect(parsed('default-mirror+mirror').mechanism).toEqual(PRESETS.default.mechanism);
    expect(PRESETS.default.mechanism.mirror).toBe(true);
    expect(Object.isFrozen(parsed('default').mechanism)).toBe(true);
  });
});

describe('what is no preset', () => {
  const none = (text: string) => `no preset "${text}"; there are ${PRESET_NAMES.join(', ')}`;
  const changes = (text: string, base: string) =>
    `preset "${text}": after ${base} come changes like +groups, -mirror or +waits=sync`;
  const cases: [string, string][] = [
    ['', none('')],
    ['vllm', none('vllm')],
    ['vllm-0x3', none('vllm-0x3')],
    ['vllm-0', none('vllm-0')],
    ['vllm-10', none('vllm-10')],
    ['hf', none('hf')],
    ['Default', none('Default')],
    ['defaults', none('defaults')],
    [' default', none(' default')],
    ['constructor', none('constructor')],
    ['default+', changes('default+', 'default')],
    ['default-1', changes('default-1', 'default')],
    ['default+groups ', changes('default+groups ', 'default')],
    ['default+groups=', changes('default+groups=', 'default')],
    ['default+mirrors', `preset "default+mirrors": no switch "mirrors"; there are ${SWITCHES}`],
    ['default+toString', `preset "default+toString": no switch "toString"; there are ${SWITCHES}`],
    ['default+mirror=off', 'preset "default+mirror=off": mirror is on or off: write +mirror or -mirror'],
    ['default+waits', 'preset "default+waits": write +waits= and one of sync, async, adaptive'],
    ['default-waits=sync', 'preset "default-waits=sync": write +waits= and one of sync, async, adaptive'],
    ['hf-cb+waits=never', 'preset "hf-cb+waits=never": write +waits= and one of sync, async, adaptive'],
    ['default+growthReserveBlocks', 'preset "default+growthReserveBlocks": write +growthReserveBlocks=60, or another number'],
    [
      'default+growthReserveBlocks=many',
      'preset "default+growthReserveBlocks=many": write +growthReserveBlocks=60, or another number',
    ],
  ];
  it.each(cases)('"%s" is answered with what is possible', (text, message) => {
    expect(parsePreset(text)).toBe(message);
  });
});
