/** `fastswitch devices` and `serve --device`: on this machine, and with the stand-in of a GPU's driver in its various states. */
import { describe, expect, it } from 'vitest';
import { runToEnd } from './e2e/server.js';
import { testGpu } from './native/standin/index.js';

const gpu = await testGpu();
const NO_DRIVER = { FASTSWITCH_LIBCUDA: '/dev/null' };

interface Report {
  readonly cpu: { readonly name: string; readonly threads: number; readonly isa: string; readonly memoryBytes: number };
  readonly driver: string | null;
  readonly batchCopies: boolean;
  readonly cublasLt: string | null;
  readonly devices: readonly {
    readonly name: string;
    readonly computeCapability: string;
    readonly totalBytes: number;
    readonly freeBytes: number;
    readonly problem: string;
    readonly link: object;
  }[];
  readonly auto: string;
  readonly missing: readonly string[];
}

async function report(environment: Readonly<Record<string, string>>): Promise<Report> {
  const { code, stdout, stderr } = await runToEnd(['devices', '--json'], environment);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Report;
}

describe('fastswitch devices', () => {
  it('without a driver lists the CPU, says what is missing and what to do', async () => {
    const { code, stdout, stderr } = await runToEnd(['devices'], NO_DRIVER);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^cpu {5}\S.*: \d+ threads, (avx512|avx2|portable), [\d.]+ GiB of memory\n/);
    expect(stdout).toContain('--device auto takes cpu');
    expect(stdout).toContain('FASTSWITCH_LIBCUDA=/dev/null');
    expect(stdout).toContain('"nvidia-smi"');
    const { cpu, driver, devices, auto } = await report(NO_DRIVER);
    expect(cpu).toMatchObject({ name: expect.stringMatching(/./), threads: expect.any(Number), memoryBytes: expect.any(Number) });
    expect({ driver, devices, auto }).toEqual({ driver: null, devices: [], auto: 'cpu' });
  });

  it('ends well on this machine as it is', async () => {
    const { auto, devices } = await report({ FASTSWITCH_LIBCUDA: '' });
    expect(auto).toBe(devices.some(({ problem }) => problem === '') ? expect.stringMatching(/^cuda:/) : 'cpu');
  });

  it('explains itself, and refuses what it does not know', async () => {
    const help = await runToEnd(['devices', '--help']);
    expect(help).toMatchObject({ code: 0, stdout: expect.stringContaining('fastswitch devices [--json]') });
    const wrong = await runToEnd(['devices', '--jsno']);
    expect(wrong).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('did you mean --json?') });
  });
});

describe.skipIf(!gpu.real || gpu.skip !== '')('fastswitch devices on the GPU of this machine', () => {
  it('lists it with its memory', async () => {
    const { devices, auto, missing } = await report({});
    console.log(JSON.stringify(devices, null, 2), missing.join('\n'));
    expect(auto).toMatch(/^cuda:/);
    for (const { totalBytes, freeBytes } of devices) expect(totalBytes).toBeGreaterThanOrEqual(freeBytes);
  });
});

describe.skipIf(gpu.real || gpu.skip !== '')('fastswitch devices with the stand-in of a driver', () => {
  const standin = (more: Record<string, string> = {}) => report({ ...gpu.environment, ...more });

  it('lists its GPU', async () => {
    const { driver, batchCopies, cublasLt, devices, auto, missing } = await standin();
    expect({ driver, batchCopies, auto, missing }).toEqual({ driver: '13.0', batchCopies: true, auto: 'cuda:0', missing: [] });
    expect(cublasLt).not.toBeNull();
    expect(devices).toMatchObject([
      {
        computeCapability: expect.stringMatching(/^\d+\.\d$/),
        totalBytes: 2 ** 30,
        problem: '',
        link: { width: null, speed: null },
      },
    ]);
    const { stdout } = await runToEnd(['devices'], gpu.environment);
    expect(stdout).toMatch(
      /^cuda:0 {2}\S.*: 1\.0 GiB of memory, [\d.]+ GiB free; compute capability \d+\.\d, \d+ multiprocessors/m,
    );
    expect(stdout).toMatch(/^ {8}PCIe [\da-fA-F:.]+: width unknown of unknown, speed unknown$/m);
  });

  it('lists several', async () => {
    expect((await standin({ FASTSWITCH_STANDIN_DEVICES: '2' })).devices).toHaveLength(2);
  });

  it('says that a driver without devices has none', async () => {
    const { devices, auto, missing } = await standin({ FASTSWITCH_STANDIN_DEVICES: '0' });
    expect({ devices, auto }).toEqual({ devices: [], auto: 'cpu' });
    expect(missing.join(' ')).toMatch(/no GPU found.*docker run --gpus all/);
  });

  it('works with a driver that takes no lists of copies', async () => {
    const { driver, batchCopies, auto } = await standin({ FASTSWITCH_STANDIN_DRIVER: '12.2' });
    expect({ driver, batchCopies, auto }).toEqual({ driver: '12.2', batchCopies: false, auto: 'cuda:0' });
  });

  it('names what keeps a GPU from being used', async () => {
    const { devices, auto, missing } = await standin({ FASTSWITCH_STANDIN_FAIL: 'cuModuleLoadData:*=209' });
    expect(auto).toBe('cpu');
    expect(devices[0]?.problem).toMatch(/no kernels for GPU 0 \(compute capability \d+\.\d\)/);
    expect(missing.join(' ')).toContain('cuda:0 cannot be used: ');
  });

  it('does without cublasLt', async () => {
    const { cublasLt, auto, missing } = await standin({ FASTSWITCH_CUBLASLT: '/dev/null' });
    expect({ cublasLt, auto }).toEqual({ cublasLt: null, auto: 'cuda:0' });
    expect(missing.join(' ')).toContain('matrix products run by our own kernels');
  });
});

describe('serve --device', () => {
  const refused = async (flags: readonly string[], environment: Readonly<Record<string, string>>): Promise<string> => {
    const { code, stderr } = await runToEnd(['serve', ...flags], environment);
    expect(code).toBe(1);
    return stderr;
  };

  it('refuses a GPU that cannot be used, with the reason', async () => {
    expect(await refused(['--device', 'cuda'], NO_DRIVER)).toMatch(
      /^fastswitch: --device cuda cannot be used: .*\/dev\/null.*"fastswitch devices" says what is missing/,
    );
  });

  it('refuses what only the CPU engine has', async () => {
    for (const flags of [
      ['--quantize', 'q8'],
      ['--kv-dtype', 'f32'],
      ['--isa', 'avx2'],
    ]) {
      expect(await refused(['--device', 'cuda:1', ...flags], NO_DRIVER)).toMatch(
        new RegExp(`^fastswitch: ${flags[0]} is ${flags[1]}, which only the CPU engine has; .*--device cpu instead of cuda:1`),
      );
    }
  });

  it.skipIf(gpu.real || gpu.skip !== '')('refuses a GPU that is not there, and memory that it has not', async () => {
    const { environment } = gpu;
    expect(await refused(['--device', 'cuda:7'], environment)).toMatch(/--device cuda:7 cannot be used: there is 1 GPU/);
    expect(await refused(['--device', 'cuda', '--device-kv', '64GiB'], environment)).toMatch(
      /--device-kv 68719476736 .* cannot be had: .*has \d+ of 1073741824 bytes free/,
    );
  });
});
