/** Which device is chosen, and which reason is given, on machines that are only described. */
import { describe, expect, it } from 'vitest';
import { chooseDevice, deviceNumber } from '../../src/native/device.js';
import type { DeviceFacts, Devices } from '../../src/native/index.js';

const gpu = (ordinal: number, problem = ''): DeviceFacts => ({
  ...{
    ordinal,
    name: `GPU ${ordinal}`,
    computeCapability: '9.0',
    multiprocessors: 1,
    copyEngines: 1,
    totalBytes: 2,
    freeBytes: 1,
  },
  ...{ pciBusId: '', problem },
});
/** Without cublasLt `problem` is about that, whatever the GPUs are like. */
const machine = (devices: readonly DeviceFacts[], problem = 'no cublasLt'): Devices => ({
  ...{ driverVersion: 13000, problem, kernels: true, batchCopies: true, cublasLt: '', devices },
});

describe('auto', () => {
  it('takes the first GPU that can be used', () => {
    expect(chooseDevice('auto', null, machine([gpu(0, 'too old'), gpu(1)]))).toMatchObject({ device: 1, name: 'cuda:1' });
  });

  it('says why it is the CPU, and not what else is missing', () => {
    const reason = (devices: Devices): string => chooseDevice('auto', null, devices).about;
    expect(reason(machine([gpu(0, 'too old')]))).toBe('cpu, since no GPU can be used (too old)');
    expect(reason(machine([], 'no driver'))).toBe('cpu, since no GPU can be used (no driver)');
    expect(reason(machine([], ''))).toBe('cpu, since no GPU can be used (no GPU was found)');
    expect(chooseDevice('auto', 'it is asked for', machine([gpu(0)])).about).toBe('cpu, since it is asked for');
  });
});

describe('a GPU by its number', () => {
  it('is the one', () => {
    expect(chooseDevice('cuda', null, machine([gpu(0), gpu(1)])).name).toBe('cuda:0');
    expect(chooseDevice('cuda:1', null, machine([gpu(0), gpu(1)])).name).toBe('cuda:1');
  });

  it.each([
    ['cuda:1', machine([gpu(0)]), 'there is 1 GPU, number 0'],
    ['cuda:2', machine([gpu(0), gpu(1)]), 'there are 2 GPUs, numbered from 0'],
    ['cuda', machine([gpu(0, 'too old')]), 'too old'],
    ['cuda', machine([], 'no driver'), 'no driver'],
    ['cuda', machine([], ''), 'no GPU was found'],
  ])('that cannot be used is refused with the reason: %s', (wanted, devices, reason) => {
    expect(() => chooseDevice(wanted, null, devices)).toThrow(`--device ${wanted} cannot be used: ${reason}; `);
  });
});

it('a GPU that was chosen by its number is not looked for again', () => {
  // The suite hides every GPU, so a look would find none.
  expect(() => chooseDevice('cuda:3', null)).toThrow(/cannot be used/);
  expect(deviceNumber('cuda:3', null)).toBe(3);
  expect(deviceNumber('cpu', null)).toBe(-1);
});
