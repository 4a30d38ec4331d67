/**
 * The switches of placement and of copying, and the sets of them that are known by a name: FastSwitch, each of its
 * mechanisms alone, its rivals, and ours. All run through the same code; a preset is data.
 */
import type { PolicyName } from './types.js';

/** How KV is allocated, moved and kept, and when ranks are acted on. Each field is one switch. */
export interface Mechanism {
  /** Neighbouring blocks are one copy (block groups); else every block is a copy of its own. */
  readonly groups: boolean;
  /** Most blocks reserved behind a growing block group; fewer as memory fills. */
  readonly growthReserveBlocks: number;
  /** The KV of a block is one piece for all layers; else a piece, and so a copy, for each layer's K and each layer's V. */
  readonly crossLayer: boolean;
  /** A step waits for the copies that were started before it: always, never, or where that predicts more tokens. */
  readonly waits: 'sync' | 'async' | 'adaptive';
  /** Preempted KV goes to the host, or is given up. */
  readonly preemption: 'swap' | 'recompute';
  /** Host copies are kept after they were read, named by content, shared; only the difference is sent. */
  readonly reuse: boolean;
  /** KV of a finished request: dropped, sent to the host, or left on the device until the room is needed. */
  readonly finished: 'drop' | 'save' | 'warm';
  /** Full blocks go to the host ahead of need while the link is idle. */
  readonly mirror: boolean;
  /** The next in rank comes back ahead of need while the link is idle. */
  readonly prefetch: boolean;
  /** A preempted request gives up only as many device blocks as are needed. */
  readonly partial: boolean;
  /** Somebody is preempted for another's sake only when the link could bring the other before the next step ends. */
  readonly paced: boolean;
  /** Prompts are computed whole and alone, or in chunks that share steps with decoding; balanced: and lengthen them little. */
  readonly prefill: 'alone' | 'mixed' | 'balanced';
  /** Between two steps KV goes out or comes in, not both, and no prompt is admitted behind what went out: as vLLM 0.3. */
  readonly oneWay: boolean;
  /** Cost terms that only the simulated hands know. */
  readonly copying: 'direct' | 'staged' | 'layered';
  /** Both directions at the same time. */
  readonly duplex: boolean;
  /**
   * Most tokens that a request may be ahead before it gives way to one that is nearly equal in rank (`fair` and `edf`): how
   * many it is follows from what a switch is predicted to cost. 0: any difference in rank suffices.
   */
  readonly quantumTokens: number;
  /** Nobody gives way for another's sake before it has had the device for longer than the switch is predicted to cost. */
  readonly weighed: boolean;
  /** Whoever has had no step for so long goes first (`fair`, `priority`, `edf`). 0: nobody does. */
  readonly starvationSeconds: number;
  /** Of the counters of `vtc` and `fair`: what a prompt token and a generated one cost. */
  readonly promptPrice: number;
  readonly tokenPrice: number;
}

export type Switch = keyof Mechanism;

interface Preset {
  readonly mechanism: Mechanism;
  readonly policy: PolicyName;
  /** What it stands for, and where that is described. */
  readonly about: string;
}

/** vLLM 0.3: what the paper compares with, and what the other presets are described against. */
const VLLM_03: Mechanism = {
  groups: false,
  growthReserveBlocks: 0,
  crossLayer: false,
  waits: 'sync',
  preemption: 'swap',
  reuse: false,
  finished: 'drop',
  mirror: false,
  prefetch: false,
  partial: false,
  paced: false,
  prefill: 'alone',
  oneWay: true,
  copying: 'direct',
  duplex: false,
  quantumTokens: 0,
  weighed: false,
  starvationSeconds: 0,
  promptPrice: 1,
  tokenPrice: 2,
};

const DEFAULT: Mechanism = {
  groups: true,
  growthReserveBlocks: 60,
  crossLayer: true,
  waits: 'adaptive',
  preemption: 'swap',
  reuse: true,
  finished: 'warm',
  mirror: true,
  prefetch: true,
  partial: true,
  paced: true,
  prefill: 'balanced',
  oneWay: false,
  copying: 'direct',
  duplex: true,
  quantumTokens: 64,
  weighed: true,
  starvationSeconds: 60,
  promptPrice: 1,
  tokenPrice: 2,
};

export const PRESETS = {
  'vllm-0.3': {
    mechanism: VLLM_03,
    policy: 'priority',
    about: 'vLLM 0.3.3, the baseline of FastSwitch: single blocks, a copy for each layer, every swap awaited.',
  },
  'vllm-1': {
    mechanism: { ...VLLM_03, preemption: 'recompute', waits: 'async', finished: 'warm', prefill: 'mixed', oneWay: false },
    policy: 'priority',
    about: 'vLLM 1: preempted requests are computed again, on top of what the device still holds; chunked prefill.',
  },
  llumnix: {
    mechanism: { ...VLLM_03, copying: 'staged' },
    policy: 'priority',
    about: 'Llumnix (OSDI 2024): blocks are gathered in a staging buffer and sent as larger copies.',
  },
  attentionstore: {
    mechanism: {
      ...VLLM_03,
      waits: 'async',
      reuse: true,
      finished: 'save',
      copying: 'layered',
      oneWay: false,
      duplex: true,
    },
    policy: 'priority',
    about: 'AttentionStore (ATC 2024): KV is restored layer by layer under the step; idle conversations are kept on the host.',
  },
  fastserve: {
    mechanism: { ...VLLM_03, waits: 'async', prefetch: true, oneWay: false, duplex: true },
    policy: 'mlfq',
    about: 'FastServe (2023): skip-join multi-level feedback queue, swaps ahead of need.',
  },
  vtc: {
    mechanism: { ...VLLM_03, preemption: 'recompute' },
    policy: 'vtc',
    about: 'Virtual token counters (OSDI 2024): fair between tenants, never preempts for fairness.',
  },
  'hf-cb': {
    mechanism: { ...VLLM_03, prefill: 'mixed', oneWay: false },
    policy: 'priority',
    about: 'Hugging Face continuous batching: scattered blocks, a copy for each layer, on the compute stream.',
  },
  fastswitch: {
    mechanism: { ...VLLM_03, groups: true, growthReserveBlocks: 60, waits: 'adaptive', reuse: true, duplex: true },
    policy: 'priority',
    about: 'FastSwitch (arXiv 2411.18424) on vLLM 0.3: block groups, adaptive asynchronous swaps, KV reuse.',
  },
  default: {
    mechanism: DEFAULT,
    policy: 'fair',
    about: 'Ours: all of FastSwitch on cross-layer blocks, and mirroring, prefetch, partial preemption, warm blocks.',
  },
} as const satisfies Readonly<Record<string, Preset>>;

export type PresetName = keyof typeof PRESETS;
export const PRESET_NAMES = Object.keys(PRESETS) as readonly PresetName[];

/** The values a switch can have; a number takes any integer of at least 0. */
const SWITCH_VALUES: Readonly<Record<Switch, readonly string[] | 'integer' | 'boolean'>> = {
  groups: 'boolean',
  growthReserveBlocks: 'integer',
  crossLayer: 'boolean',
  waits: ['sync', 'async', 'adaptive'],
  preemption: ['swap', 'recompute'],
  reuse: 'boolean',
  finished: ['drop', 'save', 'warm'],
  mirror: 'boolean',
  prefetch: 'boolean',
  partial: 'boolean',
  paced: 'boolean',
  prefill: ['alone', 'mixed', 'balanced'],
  oneWay: 'boolean',
  copying: ['direct', 'staged', 'layered'],
  duplex: 'boolean',
  quantumTokens: 'integer',
  weighed: 'boolean',
  starvationSeconds: 'integer',
  promptPrice: 'integer',
  tokenPrice: 'integer',
};

export interface ParsedPreset {
  /** As it was written. */
  readonly name: string;
  readonly mechanism: Mechanism;
  readonly policy: PolicyName;
}

/**
 * Reads `NAME[+switch[=value]|-switch]...`: a preset and changes to it, as in `vllm-0.3+groups` or `default-mirror` or
 * `fastswitch+waits=sync`. Answers what is wrong, as a string that says what is possible, where it cannot be read.
 */
export function parsePreset(text: string): ParsedPreset | string {
  const base = PRESET_NAMES.filter((name) => new RegExp(`^${name.replace('.', '\\.')}(?=[+-]|$)`).test(text)).sort(
    (a, b) => b.length - a.length,
  )[0];
  if (base === undefined) return `no preset "${text}"; there are ${PRESET_NAMES.join(', ')}`;
  const { mechanism, policy }: Preset = PRESETS[base];
  const changed: Record<string, unknown> = { ...mechanism };
  const changes = text.slice(base.length);
  const pattern = /([+-])([A-Za-z]+)(?:=([A-Za-z0-9]+))?/y;
  while (pattern.lastIndex < changes.length) {
    const match = pattern.exec(changes);
    if (match === null) return `preset "${text}": after ${base} come changes like +groups, -mirror or +waits=sync`;
    const [, sign, key, value] = match as unknown as [string, '+' | '-', Switch, string | undefined];
    const wrong = applySwitch(changed, sign, key, value);
    if (wrong !== null) return `preset "${text}": ${wrong}`;
  }
  return { name: text, mechanism: Object.freeze(changed) as unknown as Mechanism, policy };
}

/** Sets one switch; answers what is wrong, or null. */
function applySwitch(changed: Record<string, unknown>, sign: '+' | '-', key: Switch, value: string | undefined): string | null {
  if (!Object.hasOwn(SWITCH_VALUES, key)) return `no switch "${key}"; there are ${Object.keys(SWITCH_VALUES).join(', ')}`;
  const allowed = SWITCH_VALUES[key];
  if (allowed === 'boolean') {
    if (value !== undefined) return `${key} is on or off: write +${key} or -${key}`;
    changed[key] = sign === '+';
    return null;
  }
  if (allowed === 'integer') {
    if (sign === '-' || value === undefined || !/^\d{1,6}$/.test(value)) return `write +${key}=60, or another number`;
    changed[key] = Number(value);
    return null;
  }
  if (sign === '-' || value === undefined || !allowed.includes(value)) return `write +${key}= and one of ${allowed.join(', ')}`;
  changed[key] = value;
  return null;
}
