/** `fastswitch devices`: what can compute on this machine, and what is missing for the rest. */
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { type Flag, flagLines, HELP_COLUMNS, readFlags, wrap } from './flags.js';
import { chooseDevice } from './native/device.js';
import { type DeviceFacts, type Devices, devices, isas } from './native/index.js';

const FLAGS = {
  json: { value: null, about: 'As one JSON object.' },
  help: { value: null, about: 'Show this text.' },
} as const satisfies Readonly<Record<string, Flag>>;

const INDENT = 14;

/** Where Linux describes what is on the PCI bus. */
const PCI_DEVICES = '/sys/bus/pci/devices';

/** Of a GPU to the machine; null: not known. */
interface PciLink {
  readonly width: string | null;
  readonly widthMax: string | null;
  readonly speed: string | null;
}

type Gpu = DeviceFacts & { readonly link: PciLink };

interface Report {
  readonly cpu: { readonly name: string; readonly threads: number; readonly isa: string; readonly memoryBytes: number };
  /** As in "13.0"; null: none. */
  readonly driver: string | null;
  readonly kernels: boolean;
  readonly batchCopies: boolean;
  /** Null: not found, products run by our own kernel. */
  readonly cublasLt: string | null;
  readonly devices: readonly Gpu[];
  /** What `serve --device auto` takes. */
  readonly auto: string;
  /** What is missing and what to do, in sentences. */
  readonly missing: readonly string[];
}

export function devicesHelp(): string {
  return [
    'fastswitch devices [--json]',
    '',
    ...wrap(
      'Lists the CPU and the GPUs that "serve --device" can name, with their memory and how they are connected, and says what is ' +
        'missing where a GPU cannot be used.',
      HELP_COLUMNS,
    ),
    '',
    ...flagLines(FLAGS, INDENT),
    '',
  ].join('\n');
}

/** @throws FastswitchError `bad_config` for flags there are not, `native_missing` where the addon is not built. */
export function listDevices(argv: readonly string[], output: { standard(text: string): void }): void {
  const { values } = readFlags(argv, FLAGS);
  if (values.has('help')) return output.standard(devicesHelp());
  const report = reportOf(devices());
  output.standard(values.has('json') ? `${JSON.stringify(report, null, 2)}\n` : textOf(report));
}

function reportOf(found: Devices): Report {
  const { driverVersion, kernels, batchCopies, cublasLt } = found;
  return {
    cpu: {
      name: cpus()[0]?.model.trim() || 'unknown',
      threads: availableParallelism(),
      isa: isas()[0] ?? 'portable',
      memoryBytes: totalmem(),
    },
    driver: driverVersion === 0 ? null : `${Math.floor(driverVersion / 1000)}.${Math.floor((driverVersion % 1000) / 10)}`,
    kernels,
    batchCopies,
    cublasLt: cublasLt === '' ? null : cublasLt,
    devices: found.devices.map((device) => ({ ...device, link: linkOf(device.pciBusId) })),
    auto: chooseDevice('auto', null, found).name,
    missing: missingIn(found),
  };
}

function missingIn({ problem, kernels, cublasLt, devices: gpus }: Devices): string[] {
  const missing: string[] = [];
  if (problem !== '') missing.push(`${problem}.`);
  if (gpus.length === 0) {
    missing.push(
      'For a GPU install its driver, so that "nvidia-smi" lists it; give it to the container ("docker run --gpus all"), and do not hide it ' +
        '(CUDA_VISIBLE_DEVICES). FASTSWITCH_LIBCUDA names the library of the driver where it lies elsewhere.',
    );
  }
  if (!kernels) {
    missing.push(
      'This build has no kernels for GPUs: install nvcc (the CUDA toolkit) and run "npm run build:native", or name a file of kernels in ' +
        'FASTSWITCH_CUDA_KERNELS.',
    );
  }
  for (const gpu of gpus) if (gpu.problem !== '') missing.push(`cuda:${gpu.ordinal} cannot be used: ${gpu.problem}.`);
  if (gpus.some((gpu) => gpu.problem === '') && cublasLt === '') {
    missing.push(
      'cublasLt was not found: matrix products run by our own kernels. It comes with the CUDA toolkit; FASTSWITCH_CUBLASLT names ' +
        'the library where it lies elsewhere.',
    );
  }
  return missing;
}

function linkOf(pciBusId: string): PciLink {
  const read = (name: string): string | null => {
    try {
      return readFileSync(join(PCI_DEVICES, pciBusId.toLowerCase(), name), 'utf8').trim() || null;
    } catch {
      return null; // not Linux, or a virtual machine that does not tell
    }
  };
  return { width: read('current_link_width'), widthMax: read('max_link_width'), speed: read('current_link_speed') };
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

function textOf({ cpu, driver, kernels, batchCopies, cublasLt, devices: gpus, auto, missing }: Report): string {
  const lines = [`cpu     ${cpu.name}: ${cpu.threads} threads, ${cpu.isa}, ${gibibytes(cpu.memoryBytes)} of memory`];
  for (const gpu of gpus) {
    const { width, widthMax, speed } = gpu.link;
    lines.push(
      `cuda:${gpu.ordinal}  ${gpu.name}: ${gibibytes(gpu.totalBytes)} of memory, ${gibibytes(gpu.freeBytes)} free; compute capability ` +
        `${gpu.computeCapability}, ${gpu.multiprocessors} multiprocessors, ${gpu.copyEngines} copy engines`,
      `        PCIe ${gpu.pciBusId}: width ${width ?? 'unknown'} of ${widthMax ?? 'unknown'}, speed ${speed ?? 'unknown'}`,
    );
  }
  lines.push(
    '',
    `driver      ${driver === null ? 'none that can be used' : `for CUDA ${driver}, ${batchCopies ? 'with' : 'without'} lists of copies in one call`}`,
    `kernels     ${kernels ? 'there' : 'none'}`,
    `cublasLt    ${cublasLt ?? 'none'}`,
    `--device auto takes ${auto}`,
  );
  for (const sentence of missing) lines.push('', ...wrap(sentence, HELP_COLUMNS));
  return `${lines.join('\n')}\n`;
}
