/** Who asks for what, and when: the workload shapes of the VTC paper (Sheng et al., OSDI 2024), and a flood. */
import { Random } from '../../src/core/random.js';
import type { Session, Workload } from '../../src/simulation/workload.js';

/** A client over a stretch of time. */
export interface Client {
  readonly tenant: string;
  readonly weight?: number;
  /** Seconds. */
  readonly from?: number;
  readonly to?: number;
  /** Requests a second, Poisson; or so many all at once. */
  readonly rate?: number;
  readonly atOnce?: number;
  /** Even spacing instead of Poisson. */
  readonly even?: boolean;
  /** Seconds on, seconds off, over and over. */
  readonly onOff?: readonly [number, number];
  readonly prompt: number;
  readonly reply: number;
}

export interface Shape {
  readonly name: string;
  readonly title: string;
  readonly about: string;
  readonly seconds: number;
  readonly clients: readonly Client[];
}

const CHAT = { prompt: 256, reply: 256 };
const MICROS = 1e6;

export const SHAPES: readonly Shape[] = [
  {
    name: 'two',
    title: 'Two clients, one asks twice as much',
    about: '1.5 and 3 requests/s of 256/256 tokens: more than the machine can serve, and each more than half of it.',
    seconds: 200,
    clients: [
      { tenant: '1.5/s', rate: 1.5, ...CHAT },
      { tenant: '3/s', rate: 3, ...CHAT },
    ],
  },
  {
    name: 'several',
    title: 'Several clients in overload',
    about:
      '0.2, 1, 2 and 4 requests/s of 256/256 tokens; the first asks for less than its share and should not notice the others.',
    seconds: 200,
    clients: [0.2, 1, 2, 4].map((rate) => ({ tenant: `${rate}/s`, rate, ...CHAT })),
  },
  {
    name: 'weights',
    title: 'Weights 1:2:3:4',
    about: 'Four tenants of weights 1 to 4 flood: 30 requests each at the start and 1 a second, of 256/256 tokens.',
    seconds: 200,
    clients: [1, 2, 3, 4].map((weight) => ({ tenant: `weight ${weight}`, weight, atOnce: 30, rate: 1, ...CHAT })),
  },
  {
    name: 'on-off',
    title: 'On and off',
    about: 'One client asks for more than its share for 60 s and for nothing for the next 60 s, the other floods all the time.',
    seconds: 240,
    clients: [
      { tenant: 'on and off', rate: 1.5, onOff: [60, 60], ...CHAT },
      { tenant: 'always', rate: 3, ...CHAT },
    ],
  },
  {
    name: 'lengths',
    title: 'Short against long',
    about: 'Many short requests (64/64 tokens, 8/s) against few long ones (512/512 tokens, 1.5/s); both ask for more than half.',
    seconds: 200,
    clients: [
      { tenant: 'short', rate: 8, prompt: 64, reply: 64 },
      { tenant: 'long', rate: 1.5, prompt: 512, reply: 512 },
    ],
  },
  {
    name: 'shift',
    title: 'A shifting mix',
    about:
      'The first: 0.3/s, then 3/s of long prompts from 70 s on, then 1/s of long replies from 140 s on. The second: 3/s of 256/256 throughout.',
    seconds: 200,
    clients: [
      { tenant: 'shifting', rate: 0.3, to: 70, ...CHAT },
      { tenant: 'shifting', rate: 3, from: 70, to: 140, prompt: 512, reply: 64 },
      { tenant: 'shifting', rate: 1, from: 140, prompt: 64, reply: 512 },
      { tenant: 'steady', rate: 3, ...CHAT },
    ],
  },
];

/** One tenant sends 64 long chats at once, another a short one every second. */
export const FLOOD: Shape = {
  name: 'flood',
  title: 'A flood of 64 long chats, and a short one every second',
  about: 'Long: 512 prompt tokens and 1,024 of reply, all there at the start; short: 64 and 32.',
  seconds: 100,
  clients: [
    { tenant: 'heavy', atOnce: 64, prompt: 512, reply: 1024 },
    { tenant: 'light', rate: 1, even: true, prompt: 64, reply: 32 },
  ],
};

/** The light one alone. */
export const IDLE: Shape = { ...FLOOD, name: 'idle', clients: FLOOD.clients.slice(1) };

/** Every request is a session of one turn, with a text of its own. Lengths differ by a tenth around what the client asks. */
export function workloadOf({ clients, seconds }: Shape, seed: number): Workload {
  const random = new Random(seed).fork('fairness');
  const sessions: Omit<Session, 'name'>[] = [];
  for (const [index, client] of clients.entries()) {
    const draw = random.fork(`client ${index}`);
    const length = (mean: number) => Math.max(1, Math.round(mean * (0.9 + 0.2 * draw.next())));
    for (const at of arrivals(client, seconds, draw)) {
      const turns = [{ promptTokens: length(client.prompt), replyTokens: length(client.reply), thinkMicros: 0 }];
      sessions.push({ startMicros: Math.round(at * MICROS), tenant: client.tenant, weight: client.weight ?? 1, turns });
    }
  }
  sessions.sort((a, b) => a.startMicros - b.startMicros);
  return {
    sessions: sessions.map((session, k) => ({ ...session, name: (block) => `${k}.${block}` })),
    requests: sessions.length,
    dropped: 0,
  };
}

function arrivals(
  { rate = 0, atOnce = 0, even = false, from = 0, to, onOff }: Client,
  seconds: number,
  random: Random,
): number[] {
  const times = new Array<number>(atOnce).fill(from);
  const end = Math.min(seconds, to ?? seconds);
  const [on, off] = onOff ?? [1, 0];
  const busy = (at: number) => at % (on + off) < on;
  for (let at = from; rate > 0; ) {
    at += even ? 1 / rate : random.exponential(1 / rate);
    if (at >= end) break;
    if (busy(at)) times.push(at);
  }
  return times;
}
