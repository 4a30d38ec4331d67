/** The real server seen from a plain socket: what is on the wire, and what becomes of clients that misbehave. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { idle, post, type RunningServer, startServer, until } from './server.js';
import { eventsIn, posting, type RawAnswer, type Wire, wire } from './wire.js';

const RUNNING_MAX = 112;
const STALL_SECONDS = 1;
const QUEUE_FLAGS = ['--max-running', '1'];

let server: RunningServer;
/** One at a time, so that there is a queue. */
let narrow: RunningServer;

beforeAll(async () => {
  const flags = ['--stall-seconds', String(STALL_SECONDS), '--drain-seconds', '2'];
  [server, narrow] = await Promise.all([
    startServer(...flags, '--max-running', String(RUNNING_MAX)),
    startServer(...flags, ...QUEUE_FLAGS),
  ]);
});
afterAll(async () => {
  expect(await Promise.all([server?.stop(), narrow?.stop()])).toEqual([0, 0]);
});

const SHORT = {
  model: 'demo',
  prompt: 'Once upon a time',
  temperature: 0,
  max_tokens: 8,
  ignore_eos: true,
  return_token_ids: true,
};
const LONG = { model: 'demo', prompt: 'x', max_tokens: 1500, ignore_eos: true };
const PATH = '/v1/completions';

interface Answer {
  choices: [{ token_ids: number[] }];
}

// Whatever a client did: nothing of it is left, and the next request is served.
afterEach(async () => {
  for (const one of [server, narrow]) {
    await idle(one);
    const { choices } = await post<Answer>(`${one.url}${PATH}`, SHORT);
    expect(choices[0].token_ids.length).toBe(8);
  }
});

const aborted = (one: RunningServer) => one.metric('fastswitch_requests_finished_total{outcome="aborted"}');
const inState = (one: RunningServer, state: string) => one.metric(`fastswitch_requests{state="${state}"}`);
const flowing = (client: Wire) => until('events flow', () => client.text().includes('data: '));
const errorIn = ({ body }: RawAnswer) => (JSON.parse(body) as { error: { message: string; type: string; code: string } }).error;

describe('a stream on the wire', () => {
  it('is an event stream in chunks, and the connection serves the next request', async () => {
    const client = wire(
      server.url,
      posting(PATH, { ...SHORT, max_tokens: 40, stream: true, stream_options: { include_usage: true } }),
    );
    await client.answers(1);
    client.socket.write(posting(PATH, SHORT));
    const [stream, whole] = (await client.answers(2)) as [RawAnswer, RawAnswer];
    expect(stream.status).toBe(200);
    expect(stream.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(stream.headers.get('cache-control')).toBe('no-cache');
    expect(stream.headers.get('x-request-id')).toMatch(/^req_/);
    expect(stream.headers.has('content-length')).toBe(false);
    const events = eventsIn(stream.body);
    expect(events.at(-1)).toBe('[DONE]');
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event) as Answer & { object: string; usage: object | null });
    expect(chunks.every(({ object }) => object === 'text_completion')).toBe(true);
    const tokens = chunks.flatMap(({ choices }) => choices[0]?.token_ids ?? []);
    expect(tokens.length).toBe(40);
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 40 } });
    // No event is torn over two chunks: a client that reads chunk by chunk is served, too.
    for (const chunk of stream.chunks ?? []) expect(chunk).toMatch(/\n\n$/);
    const { choices } = JSON.parse(whole.body) as Answer;
    expect(choices[0].token_ids).toEqual(tokens.slice(0, 8));
    expect(client.closed()).toBe(false);
  });

  it('is in the order in which requests were sent, when they are sent at once', async () => {
    const bodies = [11, 3, 7].map((max_tokens) => ({ ...SHORT, max_tokens, stream: max_tokens === 7 }));
    const client = wire(server.url, Buffer.concat(bodies.map((body) => posting(PATH, body))));
    const answers = await client.answers(3);
    const counts = answers.map(({ body, chunks }) =>
      chunks === null
        ? (JSON.parse(body) as Answer).choices[0].token_ids.length
        : eventsIn(body).flatMap((event) => (event === '[DONE]' ? [] : (JSON.parse(event) as Answer).choices[0].token_ids))
            .length,
    );
    expect(counts).toEqual([11, 3, 7]);
  });

  it('comes to a client that sends byte by byte', async () => {
    const client = wire(server.url);
    for (const byte of posting(PATH, { ...SHORT, stream: true })) client.socket.write(Buffer.of(byte));
    const [answer] = await client.answers(1);
    expect(eventsIn((answer as RawAnswer).body).at(-1)).toBe('[DONE]');
  });

  it('to HTTP/1.0 has no chunks and ends with the connection', async () => {
    const body = JSON.stringify({ ...SHORT, stream: true });
    const client = wire(
      server.url,
      `POST ${PATH} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await until('the end of the connection', client.closed);
    const [head, events] = client.text().split('\r\n\r\n') as [string, string];
    expect(head).toMatch(/^HTTP\/1\.1 200 /);
    expect(head.toLowerCase()).not.toContain('transfer-encoding');
    expect(eventsIn(events).at(-1)).toBe('[DONE]');
  });
});

describe('a client that leaves', () => {
  const ways: [string, (client: Wire) => unknown][] = [
    ['closes', (client) => client.socket.destroy()],
    ['resets', (client) => client.socket.resetAndDestroy()],
    ['says that it is done', (client) => client.socket.end()],
  ];

  it.each(ways)('mid-stream (%s): its choices end and free what they held', async (_way, leave) => {
    const before = await aborted(server);
    const client = wire(server.url, posting(PATH, { ...LONG, n: 8, stream: true }));
    await flowing(client);
    expect(await server.metric('fastswitch_blocks{memory="device",use="used"}')).toBeGreaterThan(0);
    leave(client);
    await idle(server);
    expect(await aborted(server)).toBe(before + 8);
  });

  it.each(ways)('before the whole answer (%s): its work ends', async (_way, leave) => {
    const before = await aborted(server);
    const client = wire(server.url, posting(PATH, { ...LONG, n: 8 }));
    await until('it generates', async () => (await inState(server, 'decoding')) === 8);
    leave(client);
    await idle(server);
    expect(await aborted(server)).toBe(before + 8);
    expect(client.text()).not.toContain('200 OK');
  });

  it.each([true, false])('while queued (streaming: %s): it leaves the queue, and who runs goes on', async (stream) => {
    const before = await aborted(narrow);
    const running = wire(narrow.url, posting(PATH, { ...LONG, n: 3, stream: true }));
    await flowing(running);
    const queued = wire(narrow.url, posting(PATH, { ...LONG, stream }));
    await until('it waits', async () => (await inState(narrow, 'queued')) === 3);
    queued.socket.destroy();
    await until('it has left', async () => (await inState(narrow, 'queued')) <= 2);
    expect(await aborted(narrow)).toBe(before + 1);
    expect(await inState(narrow, 'decoding')).toBe(1);
    running.socket.destroy();
    await idle(narrow);
    expect(await aborted(narrow)).toBe(before + 4);
  });

  it("takes nobody else's work with it", async () => {
    const expected = await post<Answer>(`${server.url}${PATH}`, { ...SHORT, max_tokens: 200 });
    const [leaver, stayer] = [
      wire(server.url, posting(PATH, { ...LONG, n: 4, stream: true })),
      wire(server.url, posting(PATH, { ...SHORT, max_tokens: 200, stream: true })),
    ];
    await flowing(leaver);
    leaver.socket.resetAndDestroy();
    const [answer] = await stayer.answers(1);
    const tokens = eventsIn((answer as RawAnswer).body).flatMap((event) =>
      event === '[DONE]' ? [] : (JSON.parse(event) as Answer).choices[0].token_ids,
    );
    expect(tokens).toEqual(expected.choices[0].token_ids);
  });

  it('while its body arrives (half-open), leaves nothing behind, and nobody waits for it', async () => {
    const whole = posting(PATH, SHORT);
    const silent = wire(server.url, whole.subarray(0, whole.length - 10));
    const closing = wire(server.url, whole.subarray(0, whole.length - 10));
    const { choices } = await post<Answer>(`${server.url}${PATH}`, SHORT);
    expect(choices[0].token_ids.length).toBe(8);
    closing.socket.end();
    await until('an end', closing.closed);
    silent.socket.write(whole.subarray(whole.length - 10));
    const [answer] = await silent.answers(1);
    expect((answer as RawAnswer).status).toBe(200);
  });
});

describe('a client that does not read', () => {
  it('is given up after stallSeconds; until then and after, others are served', { timeout: 40_000 }, async () => {
    const before = await aborted(server);
    const choices = RUNNING_MAX - 12;
    const client = wire(server.url);
    client.socket.pause();
    client.socket.write(posting(PATH, { ...LONG, n: choices, logprobs: 5, stream: true }));
    await until('all its choices run', async () => (await inState(server, 'decoding')) >= choices);
    let served = 0;
    while ((await aborted(server)) === before) {
      const other = await post<Answer>(`${server.url}${PATH}`, SHORT);
      expect(other.choices[0].token_ids.length).toBe(8);
      if ((await inState(server, 'decoding')) >= choices) served += 1;
    }
    expect(served).toBeGreaterThan(2);
    await idle(server);
    expect(await aborted(server)).toBe(before + choices);
    client.socket.resume();
    await until('it is cut off', client.closed);
    expect(client.text()).toContain('data: ');
    expect(client.text()).not.toContain('[DONE]');
  });

  it('because it has nothing to read is not given up: it may wait longer than stallSeconds', async () => {
    const running = wire(narrow.url, posting(PATH, { ...LONG, n: 12, stream: true }));
    await flowing(running);
    const started = performance.now();
    const waiting = wire(narrow.url, posting(PATH, { ...SHORT, stream: true }));
    await until('it waits', async () => (await inState(narrow, 'queued')) === 12);
    await until('longer than stallSeconds', () => performance.now() - started > 1500 * STALL_SECONDS);
    expect(await inState(narrow, 'queued')).toBeGreaterThan(0);
    running.socket.destroy();
    const [answer] = await waiting.answers(1);
    expect(eventsIn((answer as RawAnswer).body).at(-1)).toBe('[DONE]');
  });
});

describe('what is no request', () => {
  const garbage: [string, string | Buffer, number][] = [
    ['no HTTP', 'HELLO\r\n\r\n', 400],
    ['TLS', Buffer.from('16030100a5010000a10303', 'hex'), 400],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
    ['zeros', Buffer.alloc(4096), 400],
    [
      'a chunk that is none',
      `POST ${PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n`,
      400,
    ],
    [
      'two lengths (request smuggling)',
      `POST ${PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
    ],
    ['endless headers', `GET /health HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(40_000)}\r\n\r\n`, 431],
  ];
  it.each(garbage)('%s is answered with a reason, and the connection ends', async (_name, bytes, status) => {
    const client = wire(server.url, bytes);
    await until('the end of the connection', client.closed);
    const [answer] = await client.answers(1);
    expect((answer as RawAnswer).status).toBe(status);
    expect(errorIn(answer as RawAnswer).type).toBe('invalid_request_error');
  });

  it('garbage after a request that is being answered ends both, and frees its blocks', async () => {
    const client = wire(server.url, posting(PATH, { ...LONG, n: 4, stream: true }));
    await flowing(client);
    client.socket.write('!!!!\r\n\r\n');
    await until('the end of the connection', client.closed);
    expect(client.text()).not.toContain('[DONE]');
  });

  it('garbage sent together with a request does not hide that something was wrong', async () => {
    const client = wire(server.url, Buffer.concat([posting(PATH, SHORT), Buffer.from('!!!!\r\n\r\n')]));
    await until('the end of the connection', client.closed);
    expect((await client.answers(1)).map(({ status }) => status)).toEqual([400]);
  });
});

describe('a request that is none of ours', () => {
  const cases: [string, string | Buffer, number, string][] = [
    ['JSON that breaks off', posting(PATH, '{"model":"demo","prompt":"x"'), 400, 'invalid_json'],
    ['no JSON', posting(PATH, 'model=demo&prompt=x'), 400, 'invalid_json'],
    ['an empty body', posting(PATH, ''), 400, 'invalid_json'],
    ['a list', posting(PATH, '[1,2,3]'), 400, 'invalid_request'],
    ['a poisoned prototype', posting(PATH, '{"__proto__":{"x":1},"model":"demo","prompt":"x"}'), 400, 'invalid_json'],
    ['a tower of brackets', posting(PATH, '['.repeat(1_000_000)), 400, 'invalid_json'],
    ['nested prompts', posting(PATH, `{"model":"demo","prompt":${'['.repeat(9999)}${']'.repeat(9999)}}`), 400, 'invalid_request'],
    ['a string that is no UTF-8', posting(PATH, Buffer.from('22fffe22', 'hex')), 400, 'invalid_request'],
    [
      'another type',
      Buffer.from(String(posting(PATH, SHORT)).replace('application/json', 'text/plain')),
      415,
      'unsupported_media_type',
    ],
    ['a method of nobody here', `GET ${PATH} HTTP/1.1\r\nhost: localhost\r\n\r\n`, 405, 'method_not_allowed'],
    ['a method of the models', 'DELETE /v1/models/demo HTTP/1.1\r\nhost: localhost\r\n\r\n', 405, 'method_not_allowed'],
    ['a preflight', `OPTIONS ${PATH} HTTP/1.1\r\nhost: localhost\r\norigin: http://evil\r\n\r\n`, 405, 'method_not_allowed'],
    ['a path of nobody', posting('/v1/nothing', SHORT), 404, 'not_found'],
    ['a path that is none', 'GET /%zz HTTP/1.1\r\nhost: localhost\r\n\r\n', 400, 'invalid_request'],
  ];
  it.each(cases)('%s', async (_name, bytes, status, code) => {
    const client = wire(server.url, bytes);
    const [answer] = (await client.answers(1)) as [RawAnswer];
    expect(answer.status).toBe(status);
    expect(errorIn(answer)).toMatchObject({ code, type: expect.any(String), message: expect.any(String) });
    expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8');
    if (status === 405) expect(answer.headers.get('allow')).toMatch(/^[A-Z, ]+$/);
    expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([]);
  });

  it.each(['content-length', 'transfer-encoding'])(
    'a body of 20 MB (%s) is refused with 413 that the client can read',
    async (framing) => {
      const json = Buffer.from(JSON.stringify({ ...SHORT, prompt: 'x'.repeat(20_000_000) }));
      const chunked = [
        Buffer.from(
          `POST ${PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n`,
        ),
        Buffer.from(`${json.length.toString(16)}\r\n`),
        json,
        Buffer.from('\r\n0\r\n\r\n'),
      ];
      const bytes = framing === 'content-length' ? posting(PATH, json) : Buffer.concat(chunked);
      for (let time = 0; time < 5; time += 1) {
        const client = wire(server.url);
        // A client that writes everything before it reads: a reset meanwhile would take the answer away from it.
        client.socket.pause();
        await new Promise((resolve) => client.socket.write(bytes, resolve));
        client.socket.resume();
        const [answer] = (await client.answers(1)) as [RawAnswer];
        expect(answer.status).toBe(413);
        expect(errorIn(answer).code).toBe('body_too_large');
        client.socket.destroy();
      }
    },
  );

  it('a prompt of 10 MB is refused for its length, and others are served', async () => {
    const big = wire(server.url, posting(PATH, { ...SHORT, prompt: 'lorem ipsum '.repeat(800_000) }));
    const { choices } = await post<Answer>(`${server.url}${PATH}`, SHORT);
    expect(choices[0].token_ids.length).toBe(8);
    const [answer] = (await big.answers(1)) as [RawAnswer];
    expect(answer.status).toBe(400);
    expect(errorIn(answer).code).toBe('context_length_exceeded');
  });
});
