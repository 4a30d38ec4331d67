/** What a what-if changes: a preset, a policy, and limits by the names of the flags of `serve`. */
import { BLOCKS_MAX } from '../actors/shapes.js';
import { BLOCK_TOKENS, CHOICES, RANGES } from '../core/config.js';
import { parsePreset } from '../core/presets.js';
import type { Limits } from '../core/state.js';
import type { PolicyName } from '../core/types.js';
import { badFlag, formatSize, parseSize, suggestion } from '../flags.js';
import type { ObservedRequest } from './observed.js';

/** The flags as they were written; null and none: as it was recorded. */
export interface ChangeFlags {
  readonly preset: string | null;
  readonly policy: string | null;
  /** `key=value`, as in `device-kv=1GiB`. */
  readonly set: readonly string[];
}

export interface Change {
  /** In few words, as in `policy vtc, device-kv 4MiB`. */
  readonly name: string;
  readonly limits: Limits;
}

type Numbers = 'deviceBlocks' | 'hostBlocks' | 'maxRunning' | 'maxBatchTokens' | 'maxQueued';

interface Setting {
  readonly limit: Numbers;
  readonly kind: 'size' | 'count';
  readonly min: number;
  readonly max: number;
}

/** By the names of the flags; memories can also be given in blocks. */
const SETTINGS: Readonly<Record<string, Setting>> = {
  'device-kv': { limit: 'deviceBlocks', kind: 'size', min: 2, max: BLOCKS_MAX },
  'host-kv': { limit: 'hostBlocks', kind: 'size', min: 0, max: BLOCKS_MAX },
  'device-blocks': { limit: 'deviceBlocks', kind: 'count', min: 2, max: BLOCKS_MAX },
  'host-blocks': { limit: 'hostBlocks', kind: 'count', min: 0, max: BLOCKS_MAX },
  'max-running': { limit: 'maxRunning', kind: 'count', ...RANGES.maxRunning },
  'max-batch-tokens': { limit: 'maxBatchTokens', kind: 'count', ...RANGES.maxBatchTokens },
  'max-queued': { limit: 'maxQueued', kind: 'count', ...RANGES.maxQueued },
};

/** What `--set` can change. */
export const SETTING_NAMES: readonly string[] = Object.keys(SETTINGS);

const POLICIES = CHOICES.policy.filter((policy) => policy !== 'auto');

/**
 * The limits of a recording with a change. A preset brings its own policy, unless one is given.
 * @throws FastswitchError `bad_config` that says what is wrong and what is allowed.
 */
export function parseChange({ preset, policy, set }: ChangeFlags, recorded: Limits): Change {
  const words: string[] = [];
  let limits = recorded;
  if (preset !== null) {
    limits = { ...limits, ...presetLimits(preset) };
    words.push(`preset ${preset}`);
  }
  if (policy !== null) limits = { ...limits, policy: policyOf(policy) };
  if (policy !== null || limits.policy !== recorded.policy) words.push(`policy ${limits.policy}`);
  for (const text of set) {
    const { limit, value, name } = setting(text, recorded.blockBytes);
    limits = { ...limits, [limit]: value };
    words.push(name);
  }
  if (words.length === 0) {
    throw badFlag('--what-if changes nothing: give --preset, --policy, or --set with key=value, as in --set device-kv=64MiB');
  }
  if (limits.maxBatchTokens < limits.maxRunning) {
    throw badFlag(
      `max-batch-tokens is ${limits.maxBatchTokens}; allowed is at least max-running (${limits.maxRunning}): ` +
        'every running request computes at least one token in a step',
    );
  }
  return { name: words.join(', '), limits };
}

/** Most tokens that a request may ask for where the limits change; less than recorded only on a smaller device. */
export function maxTokensOn(
  { promptTokens, maxTokens }: Pick<ObservedRequest, 'promptTokens' | 'maxTokens'>,
  recorded: Pick<Limits, 'deviceBlocks'>,
  changed: Pick<Limits, 'deviceBlocks'>,
): number {
  const room = ({ deviceBlocks }: Pick<Limits, 'deviceBlocks'>) => deviceBlocks * BLOCK_TOKENS - promptTokens;
  // Who is refused for its size, there or here, stays so.
  return room(changed) < 1 || maxTokens > room(recorded) ? maxTokens : Math.min(maxTokens, room(changed));
}

function presetLimits(text: string): Pick<Limits, 'mechanism' | 'policy'> {
  const parsed = parsePreset(text);
  if (typeof parsed === 'string') throw badFlag(parsed);
  const { copying } = parsed.mechanism;
  if (copying === 'direct') return { mechanism: parsed.mechanism, policy: parsed.policy };
  throw badFlag(
    `only "fastswitch simulate" knows preset ${text}: no recording tells what its ${copying} copies take; ` +
      'add +copying=direct to ask about the rest of it',
  );
}

function policyOf(text: string): PolicyName {
  const name = POLICIES.find((candidate) => candidate === text);
  if (name === undefined) throw badFlag(`no policy "${text}"; there are ${POLICIES.join(', ')}`);
  return name;
}

function setting(text: string, blockBytes: number): { limit: Numbers; value: number; name: string } {
  const cut = text.indexOf('=');
  const key = cut < 0 ? text : text.slice(0, cut);
  const given = cut < 0 ? '' : text.slice(cut + 1);
  const known = Object.hasOwn(SETTINGS, key) ? SETTINGS[key] : undefined;
  if (known === undefined) {
    const nearest = suggestion(key, SETTING_NAMES, (name) => name).replace(', see --help', '');
    throw badFlag(`--set cannot change "${key}"${nearest}; it can change ${SETTING_NAMES.join(', ')}`);
  }
  const { limit, kind, min, max } = known;
  const bytes = kind === 'size' ? parseSize(given) : null;
  const value =
    kind === 'count' ? (/^\d+$/.test(given) ? Number(given) : null) : bytes === null ? null : Math.floor(bytes / blockBytes);
  if (value === null || value < min || value > max) {
    const [least, most] = [min, max].map((blocks) => (kind === 'size' ? formatSize(blocks * blockBytes) : String(blocks)));
    const what = kind === 'size' ? 'a size (like 64MiB, 1.5GiB, 200MB, or plain bytes)' : 'an integer';
    const why = kind === 'size' && min > 0 ? `, ${min} blocks of ${BLOCK_TOKENS} tokens` : '';
    throw badFlag(`--set ${key} is "${given}"; allowed is ${what}, at least ${least}${why}, at most ${most}`);
  }
  return { limit, value, name: `${key} ${given}` };
}
