/** What the simulated hands charge: copies by mechanism, and what copies cost the step behind them. */
import { describe, expect, it } from 'vitest';
import { ProfileMachine, type ProfileMachineOptions } from '../../src/actors/machine.js';
import type { TransferEffect, Unstamped } from '../../src/actors/ports.js';
import { Agenda, type SimulatedOptions, simulatedHands } from '../../src/actors/simulated.js';
import { BLOCK_TOKENS, GREEDY } from '../../src/core/config.js';
import { stepMicros, transferMicros } from '../../src/core/cost.js';
import { type Mechanism, PRESETS } from '../../src/core/presets.js';
import type { Content, Direction, Micros, StepItem } from '../../src/core/types.js';
import { loadScenario } from '../../src/simulation/profiles.js';

const PROFILE = { ...loadScenario('llama8b-a10').profile, duplexShare: 0.5 };
const BLOCK_BYTES = PROFILE.kvBytesPerToken * BLOCK_TOKENS;
const MECHANISM: Mechanism = PRESETS.default.mechanism;

type Options = Partial<ProfileMachineOptions> & Partial<Pick<SimulatedOptions, 'request'>>;
type Stepped = Extract<Unstamped, { type: 'stepped' }>;

function simulation({ request = (id) => ({ outputTokens: 40, name: (index) => `${id}:${index}` }), ...options }: Options = {}) {
  const agenda = new Agenda();
  const machine: ProfileMachineOptions = {
    profile: PROFILE,
    mechanism: MECHANISM,
    seed: 5,
    blockBytes: BLOCK_BYTES,
    noise: 0,
    stepFaults: 0,
    transferFaults: 0,
    ...options,
  };
  const answers: (Unstamped & { at: Micros })[] = [];
  const hands = simulatedHands(
    agenda,
    { machine: new ProfileMachine(machine), duplex: machine.mechanism.duplex, blockBytes: BLOCK_BYTES, request },
    (event) => answers.push({ ...event, at: agenda.now }),
  );
  const runAll = () => {
    while (agenda.next());
  };
  const open = (id: number, promptTokens: number) => hands.engine.open(id, contentOf(promptTokens));
  let steps = 0;
  const step = (items: readonly StepItem[]): Stepped => {
    steps += 1;
    hands.engine.step({ type: 'step', step: steps, items });
    runAll();
    return answers.at(-1) as Stepped & { at: Micros };
  };
  let transfers = 0;
  const start = (direction: Direction, runs: number, blocks: number) => {
    transfers += 1;
    hands.transfers.start(swap(transfers, direction, runs, blocks));
    return transfers;
  };
  const copyMicros = (direction: Direction, runs: number, blocks: number): Micros => {
    start(direction, runs, blocks);
    runAll();
    const answer = answers.at(-1);
    if (answer?.type !== 'landed') throw new Error('it did not land');
    return answer.micros;
  };
  return { agenda, answers, open, step, start, copyMicros, runAll, hands };
}

function contentOf(promptTokens: number): Content {
  return { promptTokens: new Int32Array(promptTokens), sampling: GREEDY, stopTokens: [], cacheSalt: '' };
}

/** `runs` runs of equal length. */
function swap(transfer: number, direction: Direction, runs: number, blocks: number): TransferEffect {
  const length = blocks / runs;
  const list = Array.from({ length: runs }, (_, k) => ({ from: 2 * k * length, to: 2 * k * length, blocks: length }));
  const copies = { id: 1, held: 0, transfer, direction, runs: list, blocks };
  return direction === 'out'
    ? { type: 'swapOut', cause: { why: 'outranked', by: 9 }, ...copies }
    : { type: 'swapIn', cachedTokens: 0, ...copies };
}

const item = (id: number, start: number, count: number, sample = true): StepItem => ({ id, start, count, sample, blocks: [] });
const STEP = [item(1, 100, 1)];
const STEP_MICROS = Math.round(stepMicros(PROFILE, { prefillTokens: 0, decodeSequences: 1, contextTokens: 101 }));

/** A simulation with request 1 open. */
function withRequest(options: Options = {}) {
  const world = simulation(options);
  world.open(1, 100);
  return world;
}

const mechanism = (changes: Partial<Mechanism>): Options => ({ mechanism: { ...MECHANISM, ...changes } });

describe('copies', () => {
  it('cost a copy a run where a block is one piece, and one for each layer and side of it where it is not', () => {
    const blocks = 16; // one chunk
    const whole = simulation().copyMicros('out', 4, blocks);
    const layers = simulation(mechanism({ crossLayer: false })).copyMicros('out', 4, blocks);
    const bytes = blocks * BLOCK_BYTES;
    expect(whole).toBe(Math.round(transferMicros(PROFILE, 4, bytes)));
    expect(layers).toBe(Math.round(transferMicros(PROFILE, 4 * 64, bytes)));
    expect(layers).toBeGreaterThan(whole);
  });

  it('staged ones cost more than one piece and less than scattered ones', () => {
    const [blocks, runs] = [64, 64];
    const whole = simulation().copyMicros('out', 1, blocks);
    const staged = simulation(mechanism({ crossLayer: false, copying: 'staged' })).copyMicros('out', runs, blocks);
    const scattered = simulation(mechanism({ crossLayer: false })).copyMicros('out', runs, blocks);
    expect(staged).toBeGreaterThan(whole);
    expect(scattered).toBeGreaterThan(1.2 * staged);
    const bytes = blocks * BLOCK_BYTES;
    const exact = (2 * bytes) / PROFILE.memoryBytesPerMicro + 4 * PROFILE.dispatchMicros + bytes / PROFILE.linkBytesPerMicro;
    expect(Math.abs(staged - exact)).toBeLessThanOrEqual(2); // rounded for each of four chunks
  });

  it('take the time of their own chunks, not of those they wait for', () => {
    const alone = simulation().copyMicros('out', 1, 16);
    const { answers, start, runAll } = simulation();
    start('out', 1, 16);
    start('out', 1, 16);
    runAll();
    expect(answers.map((event) => (event.type === 'landed' ? [event.micros, event.at] : []))).toEqual([
      [alone, alone],
      [alone, 2 * alone],
    ]);
  });

  it('share the link while both directions run, and take turns where they may not', () => {
    const landings = (options: Options) => {
      const { answers, start, runAll } = simulation(options);
      start('out', 1, 16);
      start('in', 1, 16);
      runAll();
      return answers.map(({ at }) => at);
    };
    const alone = simulation().copyMicros('out', 1, 16);
    const [first, second] = landings({});
    expect(first).toBe(alone);
    expect(second).toBe(Math.round(transferMicros({ ...PROFILE, linkBytesPerMicro: PROFILE.linkBytesPerMicro / 2 }, 1, 2 ** 25)));
    expect(landings(mechanism({ duplex: false }))).toEqual([alone, 2 * alone]);
  });

  it('fail where faults are drawn, once', () => {
    const { answers, start, runAll } = simulation({ transferFaults: 1 });
    start('out', 1, 64);
    runAll();
    expect(answers).toMatchObject([{ type: 'transferFailed', transfer: 1, error: 'simulated fault' }]);
  });
});

describe('steps', () => {
  it('cost what the profile says of their sequences', () => {
    const { open, step } = simulation();
    open(1, 100);
    open(2, 100);
    const micros = stepMicros(PROFILE, { prefillTokens: 60, decodeSequences: 1, contextTokens: 101 + 80 });
    expect(step([item(1, 100, 1), item(2, 20, 60, false)]).micros).toBe(Math.round(micros));
  });

  it('lose the memory bandwidth that copies took since the last one, once', () => {
    const { step, copyMicros } = withRequest();
    expect(step(STEP).micros).toBe(STEP_MICROS);
    copyMicros('out', 1, 32);
    const taken = (32 * BLOCK_BYTES) / PROFILE.memoryBytesPerMicro;
    expect(Math.abs(step(STEP).micros - (STEP_MICROS + taken))).toBeLessThanOrEqual(1);
    expect(step(STEP).micros).toBe(STEP_MICROS);
  });

  it('are answered by a fault where one is drawn, and nothing is sampled', () => {
    const { step } = withRequest({ stepFaults: 1 });
    expect(step(STEP)).toMatchObject({ type: 'stepFailed', step: 1, error: 'simulated fault' });
  });
});

describe('copies layer by layer', () => {
  const layered = mechanism({ crossLayer: false, copying: 'layered' });
  const direct = mechanism({ crossLayer: false });
  /** The step behind a swap-in of this many blocks, beyond what its traffic costs in any case. */
  const lengthening = (blocks: number) => {
    const { step, copyMicros } = withRequest(layered);
    expect(copyMicros('in', 1, blocks)).toBe(Math.ceil(blocks / 16));
    const own = STEP_MICROS + (blocks * BLOCK_BYTES) / PROFILE.memoryBytesPerMicro;
    const longer = step(STEP).micros - own;
    expect(step(STEP).micros).toBe(STEP_MICROS);
    return { longer, own };
  };

  it('land at once and lengthen the step behind them by what they take longer than it, without CUDA graphs', () => {
    const short = lengthening(64);
    expect(Math.abs(short.longer - PROFILE.eagerMicros)).toBeLessThanOrEqual(1);
    const blocks = 1600;
    const copied = transferMicros(PROFILE, 100 * 64, blocks * BLOCK_BYTES); // a hundred chunks, each one run
    const long = lengthening(blocks);
    expect(copied).toBeGreaterThan(long.own);
    expect(Math.abs(long.longer - (copied - long.own + PROFILE.eagerMicros))).toBeLessThanOrEqual(1);
  });

  it('are the way in only', () => {
    const out = simulation(layered).copyMicros('out', 2, 16);
    expect(out).toBe(simulation(direct).copyMicros('out', 2, 16));
    const { step, copyMicros } = withRequest(layered);
    copyMicros('out', 2, 16);
    const { step: stepOfDirect, copyMicros: copyDirect } = withRequest(direct);
    copyDirect('out', 2, 16);
    expect(step(STEP).micros).toBe(stepOfDirect(STEP).micros);
  });
});

describe('names', () => {
  it('are those of the full blocks of the prompt, and of each block that a sampled token completes', () => {
    const { open, step } = simulation();
    expect(open(1, 15)).toEqual([]);
    expect(open(2, 32)).toEqual(['2:0', '2:1']);
    expect(open(3, 46)).toEqual(['3:0', '3:1']);
    const named = (items: StepItem[]) => step(items).items.map(({ name }) => name);
    expect(named([item(1, 0, 15), item(2, 0, 32), item(3, 0, 20, false)])).toEqual(['1:0', null, null]);
    expect(named([item(3, 20, 26)])).toEqual([null]);
    expect(named([item(3, 46, 1)])).toEqual(['3:2']);
  });

  it('end a request after its tokens', () => {
    const { open, step } = simulation({ request: () => ({ outputTokens: 2, name: String }) });
    open(1, 3);
    expect(step([item(1, 0, 3)]).items).toEqual([{ id: 1, count: 3, token: 1, ended: false, logprobs: null, name: null }]);
    expect(step([item(1, 3, 1)]).items[0]).toMatchObject({ token: 2, ended: true });
  });
});

describe('chance', () => {
  const times = (options: Options, transfers: number) => {
    const { open, step, copyMicros } = simulation({ noise: 0.2, ...options });
    open(1, 100);
    const copies = Array.from({ length: transfers }, () => copyMicros('out', 1, 16));
    step(STEP); // pays for the copies
    return { copies, steps: Array.from({ length: 5 }, () => step(STEP).micros) };
  };

  it('the same seed takes the same times, another one others', () => {
    expect(times({}, 3)).toEqual(times({}, 3));
    expect(times({ seed: 6 }, 3).copies).not.toEqual(times({}, 3).copies);
    expect(times({ seed: 6 }, 3).steps).not.toEqual(times({}, 3).steps);
  });

  it('more copies do not shift the error of steps', () => {
    expect(times({}, 20).steps).toEqual(times({}, 3).steps);
  });
});
