/** The live hands by themselves: the real engine and the real copies, told what to do as the core would. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { type Live, openLive } from '../../src/actors/live.js';
import type { Hands, TransferEffect, Unstamped } from '../../src/actors/ports.js';
import { BLOCK_TOKENS, type Config, DEFAULTS, GREEDY } from '../../src/core/config.js';
import { PRESET_NAMES, PRESETS } from '../../src/core/presets.js';
import type { Content, Direction, Run } from '../../src/core/types.js';
import { BlockNames } from '../../src/native/names.js';

const BLOCK_BYTES = 4096;
const CONFIG: Config = {
  ...DEFAULTS,
  model: fileURLToPath(new URL('../fixtures/models/llama3', import.meta.url)),
  deviceKvBytes: 40 * BLOCK_BYTES,
  hostKvBytes: 40 * BLOCK_BYTES,
  threads: 1,
};

/** Hands that one after the other are asked and answer. */
function asking({ makeHands }: Live): { hands: Hands; answerTo: (ask: () => void) => Promise<Unstamped> } {
  let take: (event: Unstamped) => void = () => {
    throw new Error('nobody has asked');
  };
  const hands = makeHands((event) => take(event));
  const answerTo = (ask: () => void) =>
    new Promise<Unstamped>((resolve) => {
      take = resolve;
      ask();
    });
  return { hands, answerTo };
}

const PROMPT = Int32Array.from({ length: 40 }, (_, position) => 3 + position);
const TOKENS = 30;
const CONTENT: Content = { promptTokens: PROMPT, sampling: GREEDY, stopTokens: [], cacheSalt: 'salt' };

/** Where the five blocks of a request are: first here, then in turn in the two other places. */
const BLOCKS = [4, 5, 6, 7, 9];
const ELSEWHERE = [
  [11, 0, 1, 2, 3],
  [12, 0, 1, 2, 3],
];
const ON_HOST = [20, 30, 31, 32, 33];

/** One block a run, or neighbours together. */
function runsOf(from: readonly number[], to: readonly number[], together: boolean): Run[] {
  const runs: Run[] = [];
  for (const [index, block] of from.entries()) {
    const last = runs.at(-1);
    const follows = last !== undefined && last.from + last.blocks === block && last.to + last.blocks === to[index];
    if (together && follows) runs[runs.length - 1] = { ...last, blocks: last.blocks + 1 };
    else runs.push({ from: block, to: to[index] as number, blocks: 1 });
  }
  return runs;
}

function transfer(number: number, id: number, direction: Direction, runs: readonly Run[]): TransferEffect {
  const copies = { id, held: 0, transfer: number, direction, runs, blocks: BLOCKS.length };
  return direction === 'out'
    ? { type: 'swapOut', cause: { why: 'outranked', by: 9 }, ...copies }
    : { type: 'swapIn', cachedTokens: 0, ...copies };
}

/** Generates greedily; where it `moves`, the KV goes to the host after every fifth token and comes back to another place. */
async function generate(live: Live, id: number, moves: boolean, { hands, answerTo }: ReturnType<typeof asking>) {
  const names = [...hands.engine.open(id, CONTENT)];
  const tokens: number[] = [];
  let blocks = BLOCKS;
  for (let start = 0; tokens.length < TOKENS; start = PROMPT.length + tokens.length - 1) {
    const count = tokens.length === 0 ? PROMPT.length : 1;
    const step = tokens.length + 1;
    const items = [{ id, start, count, sample: true, blocks }];
    const event = await answerTo(() => hands.engine.step({ type: 'step', step, items }));
    if (event.type !== 'stepped') throw new Error(JSON.stringify(event));
    expect(event).toMatchObject({ step, items: [{ id, count, ended: false, logprobs: null }] });
    const [{ token, name }] = event.items as [(typeof event.items)[0]];
    tokens.push(token);
    if (name !== null) names.push(name);
    if (!moves || tokens.length % 5 !== 0) continue;
    const place = ELSEWHERE[(tokens.length / 5) % 2] as number[];
    const ways = [
      transfer(2 * step, id, 'out', runsOf(blocks, ON_HOST, live.limits.mechanism.groups)),
      transfer(2 * step + 1, id, 'in', runsOf(ON_HOST, place, live.limits.mechanism.groups)),
    ];
    for (const way of ways) {
      expect(await answerTo(() => hands.transfers.start(way))).toMatchObject({ type: 'landed', transfer: way.transfer });
    }
    blocks = place;
  }
  hands.engine.close(id);
  return { tokens, names };
}

describe('KV that went to the host and came back to another place', () => {
  it.each(['default', 'vllm-0.3', 'default-crossLayer', 'default-groups-duplex'])('is the same under %s', async (preset) => {
    const live = openLive({ ...CONFIG, preset });
    const both = asking(live);
    const stayed = await generate(live, 1, false, both);
    expect(await generate(live, 2, true, both)).toEqual(stayed);
    const context = Int32Array.from([...PROMPT, ...stayed.tokens]);
    expect(both.hands.engine.open(3, { ...CONTENT, promptTokens: context })).toEqual(stayed.names);
    both.hands.engine.close(3);
    await both.hands.close();
  });
});

describe('the names of blocks', () => {
  it('are those of equal contexts of equal salt in one process, and of no other: nobody else can make them from a text', async () => {
    const [one, other] = [asking(openLive(CONFIG)), asking(openLive(CONFIG))];
    const names = ({ hands }: ReturnType<typeof asking>, id: number, content: Content) => hands.engine.open(id, content);
    const here = names(one, 1, CONTENT);
    expect(here).toHaveLength(Math.floor(PROMPT.length / BLOCK_TOKENS));
    expect(names(one, 2, CONTENT)).toEqual(here);
    const others = [
      names(one, 3, { ...CONTENT, cacheSalt: 'another' }),
      names(other, 1, CONTENT),
      new BlockNames(CONTENT.cacheSalt, BLOCK_TOKENS).extend(PROMPT),
    ];
    expect(new Set([here, ...others].flat()).size).toBe(4 * here.length);
    await Promise.all([one.hands.close(), other.hands.close()]);
  });
});

describe('opening', () => {
  it('counts the blocks of both memories and says what the preset is made of', async () => {
    const live = openLive({ ...CONFIG, preset: 'fastswitch+mirror' });
    expect(live.info).toMatchObject({ blockTokens: 16, blockBytes: BLOCK_BYTES, deviceBlocks: 40, hostBlocks: 40 });
    expect(live.limits).toMatchObject({ policy: 'priority', mechanism: { ...PRESETS.fastswitch.mechanism, mirror: true } });
    await asking(live).hands.close();
  });

  it.each(PRESET_NAMES)('%s is served, or refused with what would be served', async (name) => {
    const { copying } = PRESETS[name].mechanism;
    const open = (preset: string) => openLive({ ...CONFIG, preset });
    if (copying !== 'direct') expect(() => open(name)).toThrow(`only "fastswitch simulate" knows preset ${name}`);
    await asking(open(`${name}+copying=direct`)).hands.close();
  });
});
