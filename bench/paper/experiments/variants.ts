/** Presets with changes, made from what the named presets differ in: the rungs from one to the next. */
import type { Switch } from '../../../src/core/presets.js';
import { ALL_SWITCHES, mechanismOf, preset, towards } from '../cases.js';
import { colourOf, paleOf } from '../plots.js';

export interface Variant {
  /** As `--preset` takes it. */
  readonly text: string;
  /** What is new in it. */
  readonly title: string;
  readonly colour: string;
}

/** In the paper's order. */
const OF_FASTSWITCH: readonly (readonly Switch[])[] = [['groups', 'growthReserveBlocks'], ['waits', 'duplex'], ['reuse']];
/** Ours on top of it, in this order; what is not named comes last, together. */
const OF_DEFAULT: readonly (readonly Switch[])[] = [
  ['crossLayer'],
  ['prefill', 'oneWay'],
  ['finished'],
  ['partial'],
  ['mirror'],
  ['prefetch'],
];

function climb(from: Variant, to: 'fastswitch' | 'default', rungs: readonly (readonly Switch[])[]): Variant[] {
  const climbed = [from];
  for (const keys of [...rungs, ALL_SWITCHES]) {
    const last = climbed.at(-1) as Variant;
    const text = towards(last.text, mechanismOf(to), keys);
    if (text !== last.text) climbed.push({ text, title: changesOf(text, last.text), colour: paleOf(to) });
  }
  const top = climbed.pop() as Variant;
  return [...climbed.slice(1), { text: top.text, title: `${top.title} = ${to}`, colour: colourOf(to) }];
}

function changesOf(text: string, base: string): string {
  return text.slice(base.length).replaceAll(/(?<=\w)([+-])/g, ' $1');
}

function named(name: 'vllm-0.3' | 'fastswitch' | 'default'): Variant {
  return { text: name, title: name, colour: colourOf(name) };
}

/** vllm-0.3, then FastSwitch's mechanisms one on the other, then ours. */
export function ladder(): readonly Variant[] {
  const paper = climb(named('vllm-0.3'), 'fastswitch', OF_FASTSWITCH);
  return [named('vllm-0.3'), ...paper, ...climb(paper.at(-1) as Variant, 'default', OF_DEFAULT)];
}

/** The rungs of FastSwitch: with groups, and with asynchronous swaps on top. */
export function groupsRung(): string {
  return towards('vllm-0.3', mechanismOf('fastswitch'), OF_FASTSWITCH[0] as readonly Switch[]);
}

export function swapsRung(): string {
  return towards(groupsRung(), mechanismOf('fastswitch'), OF_FASTSWITCH[1] as readonly Switch[]);
}

/** The baseline, and each mechanism of FastSwitch alone on it. */
export function alone(): readonly Variant[] {
  const variants = OF_FASTSWITCH.map((keys) => {
    const text = towards('vllm-0.3', mechanismOf('fastswitch'), keys);
    return { text, title: `only ${changesOf(text, 'vllm-0.3')}`, colour: paleOf('fastswitch') };
  });
  return [named('vllm-0.3'), ...variants];
}

/** Ours, and ours without one of the switches that are on in it: set to what the paper has, and where the paper has it too, off. */
export function without(): readonly Variant[] {
  const [ours, paper, off] = [mechanismOf('default'), mechanismOf('fastswitch'), mechanismOf('vllm-0.3')];
  const variants = (['mirror', 'prefetch', 'partial', 'finished', 'reuse', 'crossLayer', 'paced', 'prefill'] as const).map(
    (key) => {
      const text = towards('default', ours[key] === paper[key] ? off : paper, [key]);
      return { text, title: changesOf(text, 'default'), colour: paleOf('default') };
    },
  );
  return [named('default'), ...variants.filter(({ text }) => text !== 'default')];
}

/** Waiting always, never, and as predicted. */
export function waits(): readonly Variant[] {
  return (['fastswitch', 'default'] as const).flatMap((name) =>
    (['sync', 'async', 'adaptive'] as const).map((value) => {
      const text = preset(name).mechanism.waits === value ? name : `${name}+waits=${value}`;
      return { text, title: `${name}, ${value}`, colour: text === name ? colourOf(name) : paleOf(name) };
    }),
  );
}
