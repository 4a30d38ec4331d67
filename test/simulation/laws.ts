/**
 * The laws of the system, one checker each, run after every event of a simulated run. A checker keeps what it needs to
 * remember and throws an Error that names the law.
 */

import { checkState } from '../../src/core/check.js';
import { BLOCK_TOKENS } from '../../src/core/config.js';
import { knownTokens, type Request, type State } from '../../src/core/state.js';
import type { Effect, Event, Run } from '../../src/core/types.js';

export type Law = (event: Event, effects: readonly Effect[], state: State) => void;

/** Blocks are conserved, lists agree with phases, work never stands still. */
export const conservation: Law = (_event, _effects, state) => checkState(state);

type TransferEffect = Extract<Effect, { type: 'swapOut' | 'swapIn' | 'mirror' | 'prefetch' }>;

function isTransfer(effect: Effect): effect is TransferEffect {
  return effect.type === 'swapOut' || effect.type === 'swapIn' || effect.type === 'mirror' || effect.type === 'prefetch';
}

/**
 * What a request reads is the KV of its own tokens, whoever computed it: every token has a tag that says which text it
 * belongs to and where (`tagOf`), and tags are followed through every copy. Requests of the same text share tags.
 */
export function sameKv(deviceBlocks: number, hostBlocks: number, tagOf: (id: number, position: number) => string): Law {
  const device = new Array<string>(deviceBlocks * BLOCK_TOKENS).fill('');
  const host = new Array<string>(hostBlocks * BLOCK_TOKENS).fill('');
  const flights = new Map<number, { direction: 'out' | 'in'; runs: readonly Run[]; tags: string[] }>();
  let step: { id: number; start: number; count: number; blocks: number[] }[] = [];
  const tagsOf = (memory: string[], runs: readonly Run[]) =>
    runs.flatMap((run) => memory.slice(run.from * BLOCK_TOKENS, (run.from + run.blocks) * BLOCK_TOKENS));
  const slot = (blocks: readonly number[], position: number) =>
    (blocks[Math.floor(position / BLOCK_TOKENS)] as number) * BLOCK_TOKENS + (position % BLOCK_TOKENS);

  const land = (transfer: number) => {
    const flight = flights.get(transfer);
    if (flight === undefined) throw new Error(`same KV: transfer ${transfer} landed but was never started`);
    const [from, to] = flight.direction === 'out' ? [device, host] : [host, device];
    if (tagsOf(from, flight.runs).join() !== flight.tags.join())
      throw new Error(`same KV: the source of transfer ${transfer} changed under it`);
    let at = 0;
    for (const run of flight.runs) {
      for (let token = 0; token < run.blocks * BLOCK_TOKENS; token += 1)
        to[run.to * BLOCK_TOKENS + token] = flight.tags[at++] as string;
    }
  };
  const begin = (effect: Effect) => {
    if (isTransfer(effect)) {
      const [from, to] = effect.direction === 'out' ? [device, host] : [host, device];
      flights.set(effect.transfer, { direction: effect.direction, runs: effect.runs, tags: tagsOf(from, effect.runs) });
      // Until it lands, and for ever if it fails, the target holds anything.
      for (const run of effect.runs) to.fill('half a copy', run.to * BLOCK_TOKENS, (run.to + run.blocks) * BLOCK_TOKENS);
    } else if (effect.type === 'step') {
      step = effect.items.map((item) => ({ ...item, blocks: [...item.blocks] }));
      for (const item of step) {
        for (let position = 0; position < item.start; position += 1) {
          const found = device[slot(item.blocks, position)];
          const expected = tagOf(item.id, position);
          if (found !== expected)
            throw new Error(`same KV: request ${item.id} reads ${found} at position ${position}, which is ${expected}`);
        }
      }
    }
  };
  return (event, effects) => {
    if (event.type === 'landed') land(event.transfer);
    if (event.type === 'landed' || event.type === 'transferFailed') flights.delete(event.transfer);
    if (event.type === 'stepped') {
      for (const item of step) {
        for (let n = 0; n < item.count; n += 1) device[slot(item.blocks, item.start + n)] = tagOf(item.id, item.start + n);
      }
    }
    for (const effect of effects) begin(effect);
  };
}

/**
 * No block is written by one while another touches it, step or transfer; any number may read. A step writes the blocks
 * from its first new token on; device blocks are in one table only.
 */
export function nobodySharesABlock(): Law {
  const users = new Map<string, Map<string, 'reads' | 'writes'>>();
  const drop = (user: string) => {
    for (const [block, by] of users) {
      by.delete(user);
      if (by.size === 0) users.delete(block);
    }
  };
  const take = (block: string, user: string, how: 'reads' | 'writes') => {
    const by = users.get(block) ?? new Map<string, 'reads' | 'writes'>();
    users.set(block, by);
    for (const [other, does] of by) {
      if (other !== user && (how === 'writes' || does === 'writes'))
        throw new Error(`shared block: ${user} ${how} ${block} while ${other} ${does} it`);
    }
    if (by.get(user) !== 'writes') by.set(user, how);
  };
  const takeStep = (effect: Extract<Effect, { type: 'step' }>) => {
    const seen = new Set<number>();
    for (const { blocks, start } of effect.items) {
      for (const [position, block] of blocks.entries()) {
        if (seen.has(block)) throw new Error(`shared block: device ${block} is in two tables of step ${effect.step}`);
        seen.add(block);
        take(`device ${block}`, 'step', position < Math.floor(start / BLOCK_TOKENS) ? 'reads' : 'writes');
      }
    }
  };
  return (event, effects) => {
    if (event.type === 'stepped' || event.type === 'stepFailed') drop('step');
    if (event.type === 'landed' || event.type === 'transferFailed') drop(`transfer ${event.transfer}`);
    for (const effect of effects) {
      if (effect.type === 'step') takeStep(effect);
      if (!isTransfer(effect)) continue;
      const [source, target] = effect.direction === 'out' ? ['device', 'host'] : ['host', 'device'];
      for (const run of effect.runs) {
        for (let n = 0; n < run.blocks; n += 1) {
          take(`${source} ${run.from + n}`, `transfer ${effect.transfer}`, 'reads');
          take(`${target} ${run.to + n}`, `transfer ${effect.transfer}`, 'writes');
        }
      }
    }
  };
}

/** Every request ends exactly once, and nothing is said of it afterwards; its tokens come in order without a gap. */
export function endsOnce(): Law {
  const live = new Map<number, number>();
  const ended = new Set<number>();
  return (event, effects) => {
    if (event.type === 'arrived') live.set(event.id, 0);
    for (const effect of effects) {
      if (effect.type === 'tokens') {
        for (const item of effect.items) {
          if (live.get(item.id) !== item.index)
            throw new Error(`ends once: token ${item.index} of request ${item.id} is out of order`);
          live.set(item.id, item.index + 1);
        }
      } else if ('id' in effect) {
        if (ended.has(effect.id) || !live.has(effect.id))
          throw new Error(`ends once: ${effect.type} for request ${effect.id}, which is not alive`);
        if (effect.type === 'finish' || effect.type === 'reject') {
          ended.add(effect.id);
          live.delete(effect.id);
        }
      }
    }
  };
}

/** A step keeps within its limits of tokens and requests, computes each request once, and samples at the end of what is known. */
export const stepWithinLimits: Law = (_event, effects, state) => {
  for (const effect of effects) {
    if (effect.type !== 'step') continue;
    for (const { id, start, count, sample } of effect.items) {
      const request = state.requests.get(id) as Request;
      if (sample !== (start + count === knownTokens(request)))
        throw new Error(`limits: request ${id} samples in the wrong place`);
    }
    const tokens = effect.items.reduce((sum, item) => sum + item.count, 0);
    if (tokens > state.limits.maxBatchTokens) throw new Error(`limits: step ${effect.step} computes ${tokens} tokens`);
    if (effect.items.length > state.limits.maxRunning)
      throw new Error(`limits: step ${effect.step} has ${effect.items.length} requests`);
    if (new Set(effect.items.map((item) => item.id)).size !== effect.items.length)
      throw new Error(`limits: step ${effect.step} has a request twice`);
  }
};

/** Who is preempted is lower in rank than everyone who goes on. */
export const lowestRankGoesFirst: Law = (event, effects, state) => {
  if (event.type === 'transferFailed') return; // computed again for another reason than rank
  if (state.policy.name === 'vtc') return; // an admission in the same decision moves everyone of its tenant
  for (const effect of effects) {
    if (effect.type !== 'swapOut' && effect.type !== 'park' && effect.type !== 'recompute') continue;
    const victim = state.requests.get(effect.id) as Request;
    const lower = state.active.find((request) => request !== victim && state.policy.compare(victim, request) < 0);
    if (lower !== undefined)
      throw new Error(`rank: request ${victim.id} was preempted while ${lower.id}, lower in rank, runs on`);
  }
};

/** Nobody who could go on is left out of a step: every request that decodes and has room for its token is in it. */
export const nobodyIdles: Law = (_event, effects, state) => {
  for (const effect of effects) {
    if (effect.type !== 'step') continue;
    const stepping = new Set(effect.items.map((item) => item.id));
    if (
      state.limits.mechanism.prefill === 'alone' &&
      effect.items.some(({ id }) => state.requests.get(id)?.phase === 'prefilling')
    )
      continue;
    for (const request of state.active) {
      const hasRoom = state.device.table(request.id).length >= Math.ceil((request.computed + 1) / BLOCK_TOKENS);
      if (request.phase === 'decoding' && hasRoom && !stepping.has(request.id))
        throw new Error(`idle: request ${request.id} could decode and does not`);
    }
  }
};

/** No decision takes a request off the device and puts it back: that is work thrown away. */
export const noSecondThoughts: Law = (event, effects) => {
  if (event.type === 'transferFailed') return;
  const off = new Set<number>();
  for (const effect of effects) {
    if (effect.type === 'recompute' || effect.type === 'swapOut' || effect.type === 'park') off.add(effect.id);
    if ((effect.type === 'admit' || effect.type === 'swapIn' || effect.type === 'resume') && off.has(effect.id))
      throw new Error(`second thoughts: request ${effect.id} is preempted and started in one decision`);
  }
};
