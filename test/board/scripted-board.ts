/**
 * A fake of what a system says to the board: requests that arrive, run, are swapped and end by a small rule of thumb, with
 * frames that add up. For the page alone; nothing here decides like the core.
 */
import type { BoardAbout, BoardFrame, BoardMemory, BoardRange, BoardRequest } from '../../src/core/board.js';
import type { Histogram } from '../../src/core/metrics.js';
import { Random } from '../../src/core/random.js';
import type { Phase } from '../../src/core/types.js';

const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const BLOCK_TOKENS = 16;
const BLOCK_BYTES = 196_608;
const STEP_MICROS = 14_000;

type Row = { -readonly [K in keyof BoardRequest]: BoardRequest[K] };

interface Script {
  readonly requests: number;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly maxRunning: number;
  readonly admin?: boolean;
}

export class ScriptedBoard {
  readonly about: BoardAbout;
  readonly #script: Script;
  readonly #random = new Random(7);
  readonly #rows = new Map<number, Row>();
  readonly #transitions: Record<string, number> = {};
  readonly #outcomes = { stop: 0, length: 0, aborted: 0, failed: 0, rejected: 0 };
  readonly #tenants = new Map<string, number>();
  readonly #ttft = histogram();
  readonly #tbt = histogram();
  readonly #step = histogram();
  readonly #bytes = { out: 0, in: 0 };
  readonly #swaps = { out: 0, in: 0 };
  #at = 0;
  #record = 0;
  #arrived = 0;
  #steps = 0;
  #prefill = 0;
  #generated = 0;
  server: BoardFrame['server'] = 'ready';

  constructor(script: Script) {
    this.#script = script;
    this.about = {
      version: '0.0.0',
      source: 'live',
      model: 'scripted',
      preset: 'default',
      policy: 'priority',
      blockTokens: BLOCK_TOKENS,
      blockBytes: BLOCK_BYTES,
      maxRunning: script.maxRunning,
      maxBatchTokens: 2048,
      contextTokensMax: 8192,
      admin: script.admin ?? false,
      recording: null,
    };
    while (this.#rows.size < script.requests) this.#arrive();
  }

  /** A quarter of a second of its life. */
  tick(micros = 250_000): void {
    this.#at += micros;
    this.#record += 40;
    const steps = Math.floor(micros / STEP_MICROS);
    this.#steps += steps;
    for (let step = 0; step < steps; step += 1) observe(this.#step, (STEP_MICROS / 1e6) * (0.7 + 0.6 * this.#random.next()));
    for (const row of [...this.#rows.values()]) this.#live(row, steps);
    while (this.#rows.size < this.#script.requests && this.#random.next() < 0.9) this.#arrive();
    this.#place();
  }

  frame(): BoardFrame {
    const requests = [...this.#rows.values()].map((row) => ({ ...row }));
    const counts: Record<Phase, number> = {
      ...{ queued: 0, prefilling: 0, decoding: 0, 'swapping-out': 0, swapped: 0, 'swapping-in': 0 },
      done: Object.values(this.#outcomes).reduce((sum, value) => sum + value, 0),
    };
    for (const { phase } of requests) counts[phase] += 1;
    const moving = requests.filter(({ phase }) => phase === 'swapping-out' || phase === 'swapping-in');
    return {
      at: this.#at,
      record: this.#record,
      server: this.server,
      requests,
      counts,
      outcomes: { ...this.#outcomes },
      transitions: { ...this.#transitions },
      stepping: counts.prefilling + counts.decoding,
      device: this.#memory(this.#script.deviceBlocks, ({ deviceBlocks }) => deviceBlocks),
      host: this.#memory(this.#script.hostBlocks, ({ hostBlocks }) => hostBlocks),
      transfers: moving.map(({ id, phase, since, deviceBlocks, hostBlocks }) => ({
        transfer: id,
        kind: phase === 'swapping-out' ? ('swapOut' as const) : ('swapIn' as const),
        direction: phase === 'swapping-out' ? ('out' as const) : ('in' as const),
        ids: [id],
        blocks: Math.max(1, deviceBlocks, hostBlocks),
        runs: 2,
        since,
      })),
      totals: {
        bytes: { ...this.#bytes },
        copyMicros: { out: Math.round(this.#bytes.out / 8000), in: Math.round(this.#bytes.in / 8000) },
        transfers: { ...this.#swaps },
        runs: { out: 2 * this.#swaps.out, in: 2 * this.#swaps.in },
        steps: this.#steps,
        stepMicros: this.#steps * STEP_MICROS,
        gapMicros: this.#steps * 220,
        prefillTokens: this.#prefill,
        decodeTokens: this.#generated,
        generatedTokens: this.#generated,
        preemptions: { swap: this.#swaps.out, recompute: 0 },
      },
      ttftSeconds: copyOf(this.#ttft),
      tbtSeconds: copyOf(this.#tbt),
      stepSeconds: copyOf(this.#step),
      tenants: [...this.#tenants].map(([tenant, generatedTokens]) => {
        const own = requests.filter((request) => request.tenant === tenant);
        const waiting = own.filter(({ phase }) => phase === 'queued' || phase === 'swapped').length;
        return { tenant, live: own.length, waiting, generatedTokens };
      }),
      loopDelaySeconds: [0.0004, 0.0011, 0.002 + 0.001 * this.#random.next()],
    };
  }

  #arrive(): void {
    this.#arrived += 1;
    const random = () => this.#random.next();
    const tenant = ['acme', 'globex', 'initech', 'umbrella'][Math.floor(random() * random() * 4)] as string;
    const [promptTokens, priority] = [32 + Math.floor(random() * 600), Math.floor(random() * 5)];
    this.#rows.set(this.#arrived, {
      id: this.#arrived,
      label: `chatcmpl-${this.#arrived.toString(16).padStart(8, '0')}`,
      tenant,
      phase: 'queued',
      since: this.#at,
      arrivedAt: this.#at,
      // As high as counters of service are after an hour or two.
      rank: 1_234_560.5 + priority,
      priority,
      promptTokens,
      generated: 0,
      maxTokens: 64 + Math.floor(random() * 512),
      computed: 0,
      deviceBlocks: 0,
      hostBlocks: 0,
      preemptions: 0,
      ending: false,
    });
  }

  #enter(row: Row, phase: Phase): void {
    const way = `${row.phase}>${phase}`;
    this.#transitions[way] = (this.#transitions[way] ?? 0) + 1;
    row.phase = phase;
    row.since = this.#at;
  }

  #live(row: Row, steps: number): void {
    if (row.phase === 'prefilling') {
      row.computed = row.promptTokens;
      this.#prefill += row.promptTokens;
      observe(this.#ttft, (this.#at - row.arrivedAt) / 1e6);
      this.#enter(row, 'decoding');
    } else if (row.phase === 'decoding') {
      this.#decode(row, Math.min(steps, row.maxTokens - row.generated));
    } else if (row.phase === 'swapping-out') {
      row.deviceBlocks = 0;
      this.#enter(row, 'swapped');
    } else if (row.phase === 'swapping-in') {
      this.#enter(row, 'decoding');
    }
  }

  #decode(row: Row, tokens: number): void {
    row.generated += tokens;
    row.computed += tokens;
    this.#generated += tokens;
    this.#tenants.set(row.tenant, (this.#tenants.get(row.tenant) ?? 0) + tokens);
    for (let token = 0; token < tokens; token += 1) observe(this.#tbt, 0.012 + 0.02 * this.#random.next() ** 6);
    row.deviceBlocks = Math.ceil(row.computed / BLOCK_TOKENS);
    if (row.generated < row.maxTokens) return;
    this.#enter(row, 'done');
    this.#outcomes.length += 1;
    this.#rows.delete(row.id);
  }

  /** The lowest ranks leave where there is too little room, the highest come. */
  #place(): void {
    const ranked = [...this.#rows.values()].sort((a, b) => a.priority - b.priority || a.id - b.id);
    let [room, places] = [this.#script.deviceBlocks, this.#script.maxRunning];
    for (const row of ranked) {
      const need = Math.ceil((row.promptTokens + row.generated) / BLOCK_TOKENS) + 2;
      const fits = need <= room && places > 0;
      if (row.phase === 'decoding' && !fits) this.#sendOut(row);
      else if (row.phase === 'queued' && fits) {
        row.deviceBlocks = need - 2;
        this.#enter(row, 'prefilling');
      } else if (row.phase === 'swapped' && fits) this.#bringIn(row);
      if (row.deviceBlocks > 0) {
        room -= row.deviceBlocks + 2;
        places -= 1;
      }
    }
  }

  #sendOut(row: Row): void {
    row.hostBlocks = row.deviceBlocks;
    row.preemptions += 1;
    this.#swaps.out += 1;
    this.#bytes.out += row.hostBlocks * BLOCK_BYTES;
    this.#enter(row, 'swapping-out');
  }

  #bringIn(row: Row): void {
    row.deviceBlocks = row.hostBlocks;
    this.#swaps.in += 1;
    this.#bytes.in += row.deviceBlocks * BLOCK_BYTES;
    this.#enter(row, 'swapping-in');
  }

  #memory(total: number, blocksOf: (row: Row) => number): BoardMemory {
    const ranges: BoardRange[] = [];
    let [at, reserved] = [0, 0];
    for (const row of this.#rows.values()) {
      const blocks = Math.min(blocksOf(row), total - at);
      if (blocks <= 0) continue;
      const moving = row.phase === 'swapping-in' || row.phase === 'swapping-out';
      ranges.push([at, blocks, row.id, moving ? 'moving' : 'used']);
      at += blocks;
      if (row.phase === 'decoding' && at + 1 < total) {
        ranges.push([at, 1, row.id, 'tail']);
        at += 1;
        reserved += 1;
      }
      if (row.id % 5 === 0) at += 1;
    }
    const held = ranges.reduce((sum, [, blocks]) => sum + blocks, 0);
    const longestFree = Math.max(0, total - at);
    return { at: this.#at, total, free: total - held + reserved, reserved, ranges, freeRanges: 1, longestFree };
  }
}

type OpenHistogram = Histogram & { readonly counts: number[] };

function histogram(): OpenHistogram {
  return { bounds: BOUNDS, counts: new Array<number>(BOUNDS.length + 1).fill(0), sum: 0, count: 0 };
}

const copyOf = (one: Histogram): Histogram => ({ ...one, counts: [...one.counts] });

function observe(into: OpenHistogram, value: number): void {
  const found = BOUNDS.findIndex((bound) => value <= bound);
  const index = found < 0 ? BOUNDS.length : found;
  into.counts[index] = (into.counts[index] ?? 0) + 1;
  into.sum += value;
  into.count += 1;
}
