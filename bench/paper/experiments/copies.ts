/** Experiment 1: what it takes to dispatch a copy, and to execute it, by its size. The cost model alone; nothing is run. */
import { type HardwareProfile, transferMicros } from '../../../src/core/cost.js';
import { loadScenario } from '../../../src/simulation/profiles.js';
import type { Experiment, Plot } from '../experiment.js';
import { type Series, SHADES } from '../plots.js';
import { bytes, figure, table } from '../words.js';

const KIB = 1024;
const SIZES = Array.from({ length: 12 }, (_, k) => 32 * KIB * 2 ** k);
const PUBLISHED_BYTES = 128 * KIB;
/** vLLM's own loop around the call; the profile has the raw call. */
const LOOP_MICROS = 9;
const BLOCK_TOKENS = 16;
const GROUP_BLOCKS = 20;

export const copies: Experiment = {
  name: 'copies',
  title: 'Dispatch against execution, by the size of a copy',
  write() {
    const { profile } = loadScenario('llama8b-a10');
    const loop = { ...profile, dispatchMicros: LOOP_MICROS };
    const execution = execute(profile, PUBLISHED_BYTES);
    const even = [profile, loop].map(evenBytes) as [number, number];
    const inLoop = execution < LOOP_MICROS;
    const inCall = execution < profile.dispatchMicros;
    return {
      findings: [
        {
          what: 'Dispatch of a 128 KB copy takes longer than the copy',
          published: 'yes, for the copies of vLLM 0.3.3 [F]',
          ours: `executed in ${figure(execution)} us; dispatched in ${figure(profile.dispatchMicros)} us by the raw call, ${LOOP_MICROS} us by vLLM's loop. Even at ${bytes(Math.round(even[0] / KIB) * KIB)} and ${bytes(Math.round(even[1] / KIB) * KIB)}`,
          verdict: inCall
            ? 'Reproduced.'
            : inLoop
              ? "Reproduced with the dispatch of vLLM's loop; with the raw driver call the two are about equal at 128 KB."
              : 'Not reproduced with these constants.',
        },
      ],
      body: [
        `Constants of the profile: link ${figure(profile.linkBytesPerMicro / 1e3)} GB/s, ${profile.copyMicros} us of a copy beyond its bytes, ${profile.dispatchMicros} us to dispatch it. ` +
          'Dispatch and execution overlap, so a copy costs the longer of the two. Below the crossing the link waits for the dispatcher, and the bytes of a copy are as good as free.',
        plot(profile, loop),
        'What twenty blocks of a request cost, laid out in the ways of the presets:',
        layouts(),
      ],
    };
  },
};

function execute(profile: HardwareProfile, size: number): number {
  return size / profile.linkBytesPerMicro + profile.copyMicros;
}

/** The size at which both take as long. */
function evenBytes(profile: HardwareProfile): number {
  return (profile.dispatchMicros - profile.copyMicros) * profile.linkBytesPerMicro;
}

function exact(value: number) {
  return { mean: value, low: value, high: value };
}

function plot(profile: HardwareProfile, loop: HardwareProfile): Plot {
  const line = (name: string, shade: number, value: (size: number) => number, dashed = false): Series => ({
    name,
    colour: SHADES[shade] as string,
    type: 'line',
    dashed,
    points: SIZES.map((size, x) => ({ x, band: exact(value(size)) })),
  });
  const rate = (with_: HardwareProfile) => (size: number) => size / transferMicros(with_, 1, size) / 1e3;
  const x = { name: 'size of a copy', categories: SIZES.map(bytes) };
  return {
    file: 'copies',
    chart: {
      title: 'Below about 128 KiB a copy costs its dispatch',
      about:
        'Cost model of llama8b-a10. Left: the two parts of a copy. Right: what is left of the link when copies of one size follow each other.',
      columns: 2,
      panelHeight: 300,
      panels: [
        {
          title: 'Time of one copy',
          x,
          y: { name: 'microseconds', log: true },
          series: [
            line('execution', 0, (size) => execute(profile, size)),
            line('dispatch, raw call', 1, () => profile.dispatchMicros),
            line("dispatch, vLLM's loop", 3, () => LOOP_MICROS, true),
          ],
        },
        {
          title: 'Rate',
          x,
          y: { name: 'GB/s' },
          references: [{ value: profile.linkBytesPerMicro / 1e3, label: 'the link' }],
          series: [line('dispatch, raw call', 1, rate(profile)), line("dispatch, vLLM's loop", 3, rate(loop), true)],
        },
      ],
    },
  };
}

function layouts(): string {
  const rows = ['llama8b-a10', 'qwen32b-a100'].flatMap((name) => {
    const { profile } = loadScenario(name);
    const block = BLOCK_TOKENS * profile.kvBytesPerToken;
    const pieces = 2 * profile.layers;
    return (
      [
        ['single blocks, by layer (vllm-0.3)', GROUP_BLOCKS * pieces],
        ['one group of 20 blocks, by layer (fastswitch)', pieces],
        ['single cross-layer blocks', GROUP_BLOCKS],
        ['one group of 20 cross-layer blocks (default)', 1],
      ] as const
    ).map(([layout, count]) => {
      const micros = transferMicros(profile, count, GROUP_BLOCKS * block);
      const rate = (GROUP_BLOCKS * block) / micros / 1e3;
      return [name, layout, String(count), bytes((GROUP_BLOCKS * block) / count), figure(micros / 1e3), figure(rate)];
    });
  });
  return table(['scenario', 'layout', 'copies', 'of', 'ms', 'GB/s'], rows, 2);
}
