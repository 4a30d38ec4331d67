/**
 * The GPU of a test: a stand-in on the processor, or with FASTSWITCH_TEST_CUDA=1 (`npm run test:cuda`) the one of this machine.
 * The native addon looks for it once in a process: call this before anything else asks the addon about devices.
 */
import { resolve } from 'node:path';
import { devices } from '../../../src/native/index.js';
import { buildStandin } from './build.js';

const wantsReal = process.env.FASTSWITCH_TEST_CUDA === '1';

/** What makes a child process find the stand-in. The stand-in's own variables come in `more`. */
async function standinEnvironment(more: Readonly<Record<string, string>>): Promise<Record<string, string>> {
  const library = await buildStandin();
  return {
    FASTSWITCH_LIBCUDA: library,
    FASTSWITCH_CUBLASLT: library,
    // It has the kernels in it and takes any file for theirs: an addon that was built without nvcc will do.
    FASTSWITCH_CUDA_KERNELS: resolve(import.meta.dirname, '../../../src/native/cuda/kernels.cu'),
    ...more,
  };
}

export interface TestGpu {
  /** The machine's own, of which tests may only ask what holds for any. */
  readonly real: boolean;
  /** Why there is none to test on; '': there is one. */
  readonly skip: string;
  /** For child processes, beside `process.env`. */
  readonly environment: Readonly<Record<string, string>>;
}

/** The GPU for this process, in a file of tests: `const gpu = await testGpu();`, then `describe.skipIf(gpu.skip !== '')`. */
export async function testGpu(more: Readonly<Record<string, string>> = {}): Promise<TestGpu> {
  if (wantsReal) {
    const { problem, devices: gpus } = devices();
    const skip = gpus[0] === undefined ? problem || 'no GPU' : gpus[0].problem;
    if (skip !== '') console.warn(`skipped, there is no GPU to test on: ${skip}`);
    return { real: true, skip, environment: {} };
  }
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    return { real: false, skip: `no stand-in on ${process.platform}`, environment: {} };
  }
  const environment = await standinEnvironment(more);
  // Forks of vitest: what is set here is seen by the addon's getenv, which in a worker thread it would not be.
  Object.assign(process.env, environment);
  return { real: false, skip: '', environment };
}
