/**
 * The death of a thread. Node lets a preloaded module see every worker that a thread starts; here it ends one when a
 * signal comes, as running out of memory would. The server itself knows nothing of this.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { idle, post, type RunningServer, startServerIn, until } from './server.js';
import { eventsIn, posting, wire } from './wire.js';

/** SIGWINCH ends the system's thread; SIGIO its engine worker; SIGURG its two swap workers. */
const ASSASSIN = `
  import { BroadcastChannel, isMainThread } from 'node:worker_threads';
  const orders = new BroadcastChannel('orders');
  orders.unref();
  const workers = [];
  process.on('worker', (worker) => {
    workers.push(worker);
    worker.once('exit', () => console.log('a worker has ended'));
  });
  if (isMainThread) {
    process.on('SIGWINCH', () => workers[0].terminate());
    process.on('SIGIO', () => orders.postMessage([0]));
    process.on('SIGURG', () => orders.postMessage([1, 2]));
  } else {
    orders.onmessage = ({ data }) => { for (const index of data) workers[index]?.terminate(); };
  }`;

async function started(...flags: string[]): Promise<RunningServer> {
  const environment = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(ASSASSIN)}` };
  const server = await startServerIn(environment, '--drain-seconds', '2', ...flags);
  onTestFinished(() => void server.process.kill('SIGKILL'));
  return server;
}

const PATH = '/v1/completions';
const BODY = { model: 'demo', prompt: 'Once', ignore_eos: true, return_token_ids: true, temperature: 1, seed: 3 };
interface Answer {
  choices: [{ token_ids: number[] }];
}
const ask = async ({ url }: RunningServer, body: object) => (await post<Answer>(`${url}${PATH}`, body)).choices[0].token_ids;
const failure = { type: 'server_error', code: 'engine_failed', param: null };

describe('the death of', () => {
  it("the system's thread: clients are told, and the process ends with code 1", async () => {
    const server = await started();
    const stream = wire(server.url, posting(PATH, { ...BODY, n: 16, max_tokens: 1500, stream: true }));
    const whole = wire(server.url, posting(PATH, { ...BODY, n: 16, max_tokens: 1500 }));
    await until('both run', async () => (await server.metric('fastswitch_requests{state="decoding"}')) === 32);
    server.process.kill('SIGWINCH');
    const [[streamed], [answered]] = await Promise.all([stream.answers(1), whole.answers(1)]);
    const events = eventsIn(streamed?.body ?? '');
    expect(events.at(-1)).toBe('[DONE]');
    expect(JSON.parse(events.at(-2) ?? '')).toMatchObject({ error: failure });
    expect(answered?.status).toBe(500);
    expect(JSON.parse(answered?.body ?? '')).toMatchObject({ error: failure });
    expect(await server.exited).toBe(1);
    expect(server.output()).toContain('fastswitch: the engine stopped and the server with it');
  });

  it('the engine worker: those in its step fail, everybody else goes on', async () => {
    const server = await started('--max-running', '4');
    const alone = await ask(server, { ...BODY, max_tokens: 60 });
    const running = wire(server.url, posting(PATH, { ...BODY, n: 4, max_tokens: 1500, stream: true }));
    await until('it runs', () => running.text().includes('data: '));
    const queued = wire(server.url, posting(PATH, { ...BODY, max_tokens: 60 }));
    await until('it waits', async () => (await server.metric('fastswitch_requests{state="queued"}')) === 1);
    server.process.kill('SIGIO');
    const [[failed], [served]] = await Promise.all([running.answers(1), queued.answers(1)]);
    const events = eventsIn(failed?.body ?? '');
    expect(JSON.parse(events.at(-2) ?? '')).toMatchObject({ error: failure });
    expect((JSON.parse(served?.body ?? '') as Answer).choices[0].token_ids).toEqual(alone);
    expect(await server.metric('fastswitch_steps_failed_total')).toBe(1);
    await idle(server);
    expect(await server.stop()).toBe(0);
  });

  it('the swap workers: whoever is preempted then still says the same', async () => {
    const server = await started('--max-running', '1', '--policy', 'priority');
    const patient = { ...BODY, max_tokens: 1000, priority: 5 };
    const alone = await ask(server, patient);
    server.process.kill('SIGURG');
    await until('both are dead', () => server.output().split('a worker has ended').length === 3);
    const stream = wire(server.url, posting(PATH, { ...patient, stream: true }));
    for (let time = 0; time < 4; time += 1) {
      const seen = stream.text().length;
      await until('it runs', () => stream.text().length > seen);
      expect((await ask(server, { ...BODY, max_tokens: 2 })).length).toBe(2);
    }
    const [streamed] = await stream.answers(1);
    const tokens = eventsIn(streamed?.body ?? '').flatMap((event) =>
      event === '[DONE]' ? [] : (JSON.parse(event) as Answer).choices[0].token_ids,
    );
    expect(tokens).toEqual(alone);
    expect(await server.metric('fastswitch_preemptions_total{kind="swap"}')).toBeGreaterThan(0);
    await idle(server);
    expect(await server.stop()).toBe(0);
  });
});
