/** Which device computes: what was asked for, and what this machine has. */
import { FastswitchError } from '../errors.js';
import { type Devices, devices } from './index.js';

export interface Choice {
  /** As `EngineOptions.device`: -1, or the number of a GPU. */
  readonly device: number;
  /** `cpu` or `cuda:N`: asked for by this name, it is chosen again. */
  readonly name: string;
  /** For people, with the reason where it was ours to choose. */
  readonly about: string;
}

/**
 * @param wanted `auto`, `cpu`, `cuda` or `cuda:N`.
 * @param onlyCpu Why a GPU cannot do what else was asked for; null: it can.
 * @param known What this machine has, where the caller has looked: a look opens every GPU, which takes a while.
 * @throws FastswitchError `bad_config` where a GPU was asked for that cannot be used.
 */
export function chooseDevice(wanted: string, onlyCpu: string | null, known?: Devices): Choice {
  if (wanted === 'cpu') return onCpu('');
  if (wanted === 'auto' && onlyCpu !== null) return onCpu(`, since ${onlyCpu}`);
  const found = known ?? devices();
  if (wanted === 'auto') {
    const first = found.devices.find(({ problem }) => problem === '');
    if (first !== undefined) return onGpu(first);
    return onCpu(`, since no GPU can be used (${found.devices[0]?.problem ?? noneIn(found)})`);
  }
  const ordinal = Number(wanted.slice('cuda:'.length) || 0);
  const device = found.devices.find((one) => one.ordinal === ordinal);
  const problem = device?.problem ?? (found.devices.length === 0 ? noneIn(found) : countOf(found.devices.length));
  if (device === undefined || problem !== '') {
    throw new FastswitchError(
      'bad_config',
      `--device ${wanted} cannot be used: ${problem}; "fastswitch devices" says what is missing, --device cpu does without`,
    );
  }
  return onGpu(device);
}

/** Where there are GPUs, `problem` is not about them: then it says what is missing beside them. */
const noneIn = ({ problem }: Devices): string => problem || 'no GPU was found';

const countOf = (gpus: number): string => (gpus === 1 ? 'there is 1 GPU, number 0' : `there are ${gpus} GPUs, numbered from 0`);

/**
 * The number of what `wanted` means, as `EngineOptions.device`. Where `chooseDevice` has named a GPU already nobody looks again: to
 * look opens every GPU there is, and who opens this one is told what is wrong with it.
 * @throws FastswitchError `bad_config` as `chooseDevice`
 */
export function deviceNumber(wanted: string, onlyCpu: string | null): number {
  const ordinal = /^cuda:(\d+)$/.exec(wanted)?.[1];
  return ordinal === undefined ? chooseDevice(wanted, onlyCpu).device : Number(ordinal);
}

function onCpu(reason: string): Choice {
  return { device: -1, name: 'cpu', about: `cpu${reason}` };
}

function onGpu({ ordinal, name }: { readonly ordinal: number; readonly name: string }): Choice {
  return { device: ordinal, name: `cuda:${ordinal}`, about: `cuda:${ordinal}, ${name}` };
}
