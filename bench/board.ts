/**
 * What a board costs: the frame of a system under memory pressure (so that it swaps, and its memories are in pieces), with
 * and without the maps of the two memories, the way across threads, and what a viewer is sent. Medians in milliseconds.
 *
 *   node dist/bench/board.js [--quick] [--json]
 */
import { createHash } from 'node:crypto';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { ProfileMachine } from '../src/actors/machine.js';
import { type PackedReading, packReading, unpackReading } from '../src/actors/packed.js';
import { Agenda, simulatedHands } from '../src/actors/simulated.js';
import { Runtime } from '../src/actors/system.js';
import { type BoardFrame, type BoardReading, deltaOf } from '../src/core/board.js';
import { BLOCK_TOKENS, GREEDY } from '../src/core/config.js';
import { PRESETS } from '../src/core/presets.js';
import { Random } from '../src/core/random.js';
import type { Limits } from '../src/core/state.js';
import { loadScenario } from '../src/simulation/profiles.js';

const quick = process.argv.includes('--quick');
const ROUNDS = quick ? 5 : 41;

interface Row {
  readonly live: number;
  readonly blocks: number;
  readonly ranges: number;
  readonly millis: Readonly<Record<string, number>>;
  readonly bytes: Readonly<Record<string, number>>;
  readonly hash: string;
}

/** A system in which so many requests are alive, half of the device's blocks and all of the host's being in use. */
function crowd(live: number, blocks: number): { readonly runtime: Runtime; advance(events: number): void } {
  const agenda = new Agenda();
  const random = new Random(live);
  const { profile } = loadScenario('llama8b-a10');
  const blockBytes = BLOCK_TOKENS * profile.kvBytesPerToken;
  const mechanism = PRESETS.default.mechanism;
  const limits: Limits = {
    policy: 'priority',
    mechanism,
    deviceBlocks: Math.floor(blocks / 4),
    hostBlocks: Math.ceil((3 * blocks) / 4),
    blockBytes,
    maxBatchTokens: 4096,
    maxRunning: 256,
    maxQueued: 2 * live,
  };
  const machine = new ProfileMachine({ profile, mechanism, seed: 1, blockBytes, noise: 0, stepFaults: 0, transferFaults: 0 });
  const runtime = new Runtime({
    limits,
    makeHands: (answer) =>
      simulatedHands(
        agenda,
        {
          machine,
          duplex: mechanism.duplex,
          blockBytes,
          request: (id) => ({ outputTokens: 400, name: (block) => `${id}/${block}` }),
        },
        answer,
      ),
    sink: {
      tokens() {},
      end() {
        agenda.add(agenda.now, arrive);
      },
      failed(error) {
        throw error;
      },
    },
  });
  let last = 0;
  const arrive = () => {
    last += 1;
    const promptTokens = new Int32Array(16 + random.int(Math.floor((24 * blocks) / live)));
    runtime.submit(last, {
      content: { promptTokens, sampling: GREEDY, stopTokens: [], cacheSalt: '' },
      maxTokens: 100 + random.int(100),
      priority: random.int(100),
      tenant: `tenant-${random.int(20)}`,
      labels: [`chatcmpl-${last}-0123456789abcdef`],
    });
  };
  for (let n = 0; n < live; n += 1) arrive();
  const advance = (events: number) => {
    for (let n = 0; n < events && agenda.next(); n += 1) {
      if (n % 5 > 0) continue;
      runtime.deliver({ type: 'reprioritized', items: [{ id: 1 + random.int(last), priority: random.int(100) }] });
    }
  };
  return { runtime, advance };
}

const { port1, port2 } = new MessageChannel();

/** On the system's thread and on the way; what the other thread does is timed apart. */
function sent(reading: BoardReading): PackedReading {
  port1.postMessage(packReading(reading));
  return receiveMessageOnPort(port2)?.message as PackedReading;
}

function measure(live: number, blocks: number): Row {
  const { runtime, advance } = crowd(live, blocks);
  advance(quick ? 500 : 20_000);
  const samples = new Map<string, number[]>();
  const timed = <T>(name: string, act: () => T): T => {
    const started = performance.now();
    const result = act();
    const took = performance.now() - started;
    samples.set(name, [...(samples.get(name) ?? []), took]);
    return result;
  };
  const hash = createHash('sha256');
  const bytes: Record<string, number> = {};
  let before: BoardFrame | null = null;
  for (let round = 0; round < ROUNDS; round += 1) {
    advance(25);
    const frame = timed('frame', () => runtime.board(true)) as BoardFrame;
    const bare = timed('bare', () => runtime.board(false)) as BoardReading;
    const packed = timed('sent', () => sent(frame));
    timed('unpacked', () => unpackReading(packed));
    const barePacked = timed('bareSent', () => sent(bare));
    timed('bareUnpacked', () => unpackReading(barePacked));
    bytes.snapshot = timed('snapshot', () => JSON.stringify(frame)).length;
    if (before !== null) {
      const last = before;
      const lean = { ...frame, device: last.device, host: last.host };
      bytes.delta = timed('delta', () => JSON.stringify(deltaOf(last, lean))).length;
    }
    before = frame;
    hash.update(JSON.stringify(frame));
  }
  const millis = Object.fromEntries(
    [...samples].map(([name, values]) => [name, values.sort((a, b) => a - b)[values.length >> 1] as number]),
  );
  const ranges = (before?.device.ranges.length ?? 0) + (before?.host.ranges.length ?? 0);
  return { live, blocks, ranges, millis, bytes, hash: hash.digest('hex').slice(0, 12) };
}

const sizes = quick
  ? ([[200, 2000]] as const)
  : ([
      [200, 2000],
      [1000, 10_000],
      [5000, 50_000],
    ] as const);
measure(100, 1000); // not shown: code that was not compiled yet
const rows = sizes.map(([live, blocks]) => measure(live, blocks));
if (process.argv.includes('--json')) {
  console.log(JSON.stringify(rows));
} else {
  console.log(
    ' live  blocks  ranges   frame  without maps  across threads  without maps  snapshot       KiB  delta     KiB  hash',
  );
  for (const { live, blocks, ranges, millis, bytes, hash } of rows) {
    const cell = (name: string, width: number) => (millis[name] ?? 0).toFixed(2).padStart(width);
    const kib = (name: string, width: number) => ((bytes[name] ?? 0) / 1024).toFixed(1).padStart(width);
    console.log(
      `${String(live).padStart(5)} ${String(blocks).padStart(7)} ${String(ranges).padStart(7)} |${cell('frame', 7)} ${cell('sent', 6)} ` +
        `${cell('unpacked', 8)} | ${cell('bare', 20)} ${cell('bareSent', 6)} ${cell('bareUnpacked', 8)} |${cell('snapshot', 9)} ` +
        `${kib('snapshot', 7)} |${cell('delta', 7)} ${kib('delta', 7)} | ${hash}`,
    );
  }
}
port1.close();
