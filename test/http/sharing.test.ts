/** What tenants share beside the machine: the server's queue, and the thread that answers questions about requests. */
import { describe, expect, test } from 'vitest';
import { DEFAULTS, presetOf } from '../../src/core/config.js';
import type { FastswitchError } from '../../src/errors.js';
import { Gate } from '../../src/http/gate.js';
import { Lookups } from '../../src/http/lookups.js';
import { Meter } from '../../src/http/meter.js';
import { type Tenant, Tenants } from '../../src/http/tenants.js';
import { bytesOf, ENDED, refused } from './scripted-system.js';
import { type Serving, serving, type TenantsGiven, tenantsFile, until } from './serving.js';

const bearer = (key: string | undefined) => ({ authorization: `Bearer ${key}` });
const ONE = { choices: 1, tokens: 10 };

/** A gate at a time that tests set, and what came in through it. */
function gate(given: TenantsGiven, options: { maxRunning: number; maxQueued: number }) {
  const clock = { now: 0 };
  const tenants = new Tenants(tenantsFile(given).path, presetOf({ ...DEFAULTS }).mechanism, () => clock.now);
  const at = new Gate(options, () => clock.now);
  const objective = { ttftSeconds: null, tbtSeconds: null };
  const named = (name: string) => tenants.named(name) as Tenant;
  /** Lets in a request of this tenant and submits its choices, as a request does; answers with them, or with the refusal. */
  const enter = (name: string, choices = 1): Meter[] | FastswitchError => {
    const tenant = named(name);
    try {
      at.enter(tenant, { ...ONE, choices });
    } catch (error) {
      return error as FastswitchError;
    }
    return Array.from({ length: choices }, () => {
      const meter = new Meter(tenants, { tenant, account: name, objective, promptTokens: 1, cameAt: 0 });
      meter.submitted();
      return meter;
    });
  };
  const flood = (name: string, most: number): number => {
    for (let count = 0; count < most; count += 1) if (!Array.isArray(enter(name))) return count;
    return most;
  };
  return { clock, enter, flood, tenants, named };
}

describe("the server's queue", () => {
  test('is never full of one tenant alone: there is room for who has little there', () => {
    const { flood, enter, named } = gate({ blue: {}, red: {} }, { maxRunning: 4, maxQueued: 100 });
    expect(flood('blue', 200)).toBe(80);
    expect(enter('blue')).toMatchObject({
      code: 'queue_full',
      message: "80 choices of tenant 'blue' wait in the server's queue, which holds 100 for all tenants. Try again later.",
      retryAfterSeconds: expect.any(Number),
    });
    expect(flood('red', 200)).toBeGreaterThanOrEqual(10);
    expect(named('blue').service.queued + named('red').service.queued).toBeLessThan(100);
  });

  test('is shared by weight among those who flood it, and what runs is no part of it', () => {
    const { enter, named } = gate({ blue: { weight: 3 }, red: {}, green: {} }, { maxRunning: 4, maxQueued: 1000 });
    const running = [enter('green')].flat() as Meter[];
    for (const meter of running) meter.turned('running');
    // All at once, as often as they like; the scheduler takes in the first of somebody's now and then.
    const inside: Record<string, Meter[]> = { blue: [], red: [] };
    for (let round = 0; round < 4000; round += 1) {
      for (const name of ['blue', 'red']) {
        const entered = enter(name);
        if (Array.isArray(entered)) inside[name]?.push(...entered);
      }
      const name = round % 2 === 0 ? 'blue' : 'red';
      inside[name]?.shift()?.end(false);
    }
    const [blue, red] = [named('blue').service.queued, named('red').service.queued];
    expect(blue / red).toBeGreaterThan(2.7);
    expect(blue / red).toBeLessThan(3.3);
    expect(blue + red).toBeLessThan(1000);
    expect(named('green').service.queued).toBe(0);
  });

  test('is no matter for a burst that all can run at once, of which nobody has heard yet', () => {
    const { flood, clock, enter } = gate({ blue: {}, red: {} }, { maxRunning: 64, maxQueued: 4 });
    expect(flood('blue', 64)).toBe(64);
    expect(enter('blue')).toMatchObject({ code: 'queue_full' });
    const other = gate({ blue: {}, red: {} }, { maxRunning: 64, maxQueued: 4 });
    expect(other.flood('blue', 5)).toBe(5);
    // They wait all the same: memory is full.
    other.clock.now = 1000;
    expect(other.enter('blue')).toMatchObject({ code: 'queue_full' });
    expect(clock.now).toBe(0);
  });

  test('of many choices at once a tenant may have as many as its share', () => {
    const { enter } = gate({ blue: {}, red: {} }, { maxRunning: 1, maxQueued: 100 });
    enter('blue');
    expect(enter('blue', 80)).toMatchObject({ code: 'queue_full' });
    expect(enter('blue', 60)).toHaveLength(60);
    expect(enter('red', 60)).toHaveLength(60);
  });

  test('lets a light tenant in over HTTP while another floods it; who is refused is told when to come again', async () => {
    const at = await serving({ tenants: { blue: {}, red: {} }, config: { maxRunning: 1, maxQueued: 10 } });
    // As the scheduler does.
    at.system.script = () => (at.system.requests.filter(({ over }) => !over).length > 11 ? [refused('queue_full')] : []);
    const ask = (who: string) =>
      at.server.inject({
        method: 'POST',
        url: '/v1/completions',
        headers: bearer(at.keys[who]),
        payload: { model: 'tiny', prompt: 'x' },
      });
    const flood = Array.from({ length: 30 }, () => ask('blue'));
    const statuses: number[] = [];
    for (const one of flood) void one.then(({ statusCode }) => statuses.push(statusCode));
    await until(() => statuses.length === 30 - at.system.requests.length);
    expect(new Set(statuses)).toEqual(new Set([429]));
    expect(at.system.requests.length).toBeLessThan(11);
    const refusal = await ask('blue');
    expect([refusal.statusCode, refusal.headers['retry-after'], refusal.json().error.code]).toEqual([429, '1', 'queue_full']);
    const light = ask('red');
    await until(() => at.system.requests.some(({ request }) => request.tenant === 'red'));
    for (const request of at.system.requests) request.emit(bytesOf('a'));
    for (const request of at.system.requests) request.end(ENDED);
    expect((await light).statusCode).toBe(200);
    await Promise.all(flood);
    expect(at.tenants.all().map(({ service }) => [service.queued, service.waiting, service.live])).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ]);
  });

  test('is all of one tenant where nobody needs a key', async () => {
    const at = await serving({ config: { maxRunning: 1, maxQueued: 10 } });
    at.system.script = () => [];
    const asked = Array.from({ length: 20 }, () =>
      at.server.inject({ method: 'POST', url: '/v1/completions', payload: { model: 'tiny', prompt: 'x' } }),
    );
    await until(() => at.system.requests.length === 20);
    for (const request of at.system.requests) request.end(ENDED);
    await Promise.all(asked);
  });
});

describe('questions about requests', () => {
  const get = ({ server, keys }: Serving, url: string, who?: string) =>
    server.inject({ url, ...(who === undefined ? {} : { headers: bearer(keys[who]) }) });
  const ratesOf = ({ headers }: { headers: Record<string, unknown> }) =>
    ['limit', 'remaining', 'reset'].map((name) => headers[`x-ratelimit-${name}-requests`]);

  test('have a rate of their own, apart from that of completions and from that of others', async () => {
    const at = await serving({
      tenants: { blue: { requests_per_minute: 7, lookups_per_minute: 30 }, red: {}, ops: { admin: true } },
      now: () => 0,
    });
    const first = await get(at, '/v1/requests', 'blue');
    expect([first.statusCode, ...ratesOf(first)]).toEqual([200, '3', '2', '2s']);
    expect((await get(at, '/v1/requests/1', 'blue')).statusCode).toBe(404);
    const patch = { method: 'PATCH', url: '/v1/requests/1', headers: bearer(at.keys.blue), payload: { priority: 1 } } as const;
    expect((await at.server.inject(patch)).statusCode).toBe(403);
    const looks = at.system.looks.count;
    expect((await at.server.inject(patch)).statusCode).toBe(429);
    const refusal = await get(at, '/v1/requests/anything', 'blue');
    expect([refusal.statusCode, refusal.headers['retry-after'], ...ratesOf(refusal)]).toEqual([429, '2', '3', '0', '6s']);
    expect(refusal.json().error.message).toMatch(
      /^Tenant 'blue' may ask about requests 30 times a minute, 3 at once\. Try again in /,
    );
    expect(at.system.looks.count).toBe(looks);
    expect(ratesOf(await get(at, '/v1/models', 'blue')).slice(0, 2)).toEqual(['7', '7']);
    expect((await get(at, '/v1/requests', 'red')).statusCode).toBe(200);
  });

  test('of many at once are one look at the engine, of which each sees its own', async () => {
    const at = await serving({ tenants: { blue: {}, red: {} } });
    at.system.script = () => [];
    const payload = { model: 'tiny', prompt: 'x' };
    const running = at.server.inject({ method: 'POST', url: '/v1/completions', headers: bearer(at.keys.red), payload });
    await until(() => at.system.requests.length === 1);
    const names = Array.from({ length: 100 }, (_, index) => (index % 2 === 0 ? 'blue' : 'red'));
    const answers = await Promise.all(names.map((name) => get(at, '/v1/requests', name)));
    expect(answers.map((answer) => answer.json().data.length)).toEqual(names.map((name) => (name === 'red' ? 1 : 0)));
    expect(at.system.looks.count).toBeLessThan(20);
    const looks = at.system.looks.count;
    const looking = get(at, '/v1/requests', 'red');
    await until(() => at.system.looks.count > looks);
    expect((await looking).json().data.length).toBe(1);
    at.system.requests[0]?.end(ENDED);
    await running;
    // Asked after it has ended: seen after it has ended.
    expect((await get(at, '/v1/requests', 'red')).json().data).toEqual([]);
  });

  test('in a tight loop are answered as often as is generous and no more, whatever the connection; the board is no way around', async () => {
    const at = await serving({ listen: true, now: () => 0 });
    at.system.explanations = () => [];
    const ways = [
      async () => (await fetch(`${at.url}/v1/requests/1`, { headers: { connection: 'close' } })).status,
      async () => (await get(at, '/v1/requests/1')).statusCode,
      async () => (await get(at, '/board/requests/1')).statusCode,
    ];
    const statuses: number[] = [];
    while (statuses.length < 90) statuses.push(await (ways[statuses.length % 3]?.() ?? 0));
    expect(statuses.indexOf(429)).toBe(60);
    expect(statuses.lastIndexOf(404)).toBe(59);
    for (const url of ['/board/about', '/metrics', '/v1/models']) expect((await get(at, url)).statusCode).toBe(200);
  });

  test('of a low rate are told of a time that clients wait, which is less than a minute', async () => {
    const at = await serving({ tenants: { blue: { lookups_per_minute: 1 } }, now: () => 0 });
    await get(at, '/v1/requests', 'blue');
    const refusal = await get(at, '/v1/requests', 'blue');
    expect([refusal.statusCode, refusal.headers['retry-after'], ratesOf(refusal)]).toEqual([429, '59', ['1', '0', '1m0s']]);
  });

  test('come again evenly, an admin has ten times as many, and a change of the rate is no gift', () => {
    const clock = { now: 0 };
    const tenants = new Tenants(
      tenantsFile({ blue: {}, ops: { admin: true } }).path,
      { promptPrice: 1, tokenPrice: 2 },
      () => clock.now,
    );
    const lookups = new Lookups(() => clock.now);
    const taken = (name = 'blue', admin = false) => {
      for (let count = 0; ; count += 1) {
        try {
          lookups.take({ tenant: tenants.named(name) as Tenant, admin });
        } catch {
          return count;
        }
      }
    };
    expect([taken(), taken('ops', true)]).toEqual([60, 600]);
    clock.now = 1000;
    expect([taken(), taken('ops', true)]).toEqual([10, 100]);
    tenants.change('blue', { lookups_per_minute: 60_000 });
    expect(taken()).toBe(0);
    clock.now = 1100;
    expect(taken()).toBe(100);
    tenants.change('blue', { lookups_per_minute: null });
    clock.now = 60_000;
    expect(taken()).toBe(60);
  });
});
