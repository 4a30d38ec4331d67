/** What operators see: metrics of tenants and under vLLM's names, spans, logs, readiness. */
import { Writable } from 'node:stream';
import { propagation, SpanStatusCode, trace } from '@opentelemetry/api';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { dispersionOf, Service } from '../../src/http/ledger.js';
import { LivedBench } from '../core/lived.js';
import { bytesOf, ENDED, failed } from './scripted-system.js';
import { type Serving, serving, until } from './serving.js';

const bearer = (key: string | undefined) => ({ authorization: `Bearer ${key}` });
const ask = ({ server, keys }: Serving, who: string, more: object = {}, headers: Record<string, string> = {}) =>
  server.inject({
    method: 'POST',
    url: '/v1/completions',
    headers: { ...bearer(keys[who]), ...headers },
    payload: { model: 'tiny', prompt: 'x', ...more },
  });

/** Samples by name and labels; a page that a scraper could not read throws. */
async function metrics({ server }: Serving): Promise<ReadonlyMap<string, number>> {
  const page = (await server.inject('/metrics')).body;
  const samples = new Map<string, number>();
  const types = new Set<string>();
  for (const line of page.split('\n').filter((one) => one !== '')) {
    const type = /^# TYPE (\S+) (?:gauge|counter|histogram|summary)$/.exec(line)?.[1];
    if (type !== undefined && types.has(type)) throw new Error(`${type} is there twice`);
    if (type !== undefined) types.add(type);
    if (line.startsWith('#')) continue;
    const sample = /^([a-zA-Z_:][\w:]*)(\{(?:[a-zA-Z_]\w*="[^"]*",?)*\})? (\S+)$/.exec(line);
    if (sample === null) throw new Error(`no sample: ${line}`);
    const name = `${sample[1]}${sample[2] ?? ''}`;
    if (samples.has(name)) throw new Error(`${name} is there twice`);
    samples.set(name, Number(sample[3]));
  }
  return samples;
}

describe('/metrics', () => {
  test('has what each tenant was served, how well, and how far apart; no user of a tenant is a label', async () => {
    const at = await serving({
      tenants: { blue: { weight: 3, ttft_seconds: 60, tbt_seconds: 0.001 }, red: { ttft_seconds: 0.001 } },
    });
    at.system.script = ({ tenant }) => [
      { waitMillis: 10 },
      { tokens: bytesOf('ab') },
      { waitMillis: 20 },
      { tokens: bytesOf('c') },
      ...(tenant === 'red' ? [failed('no')] : [ENDED]),
    ];
    await ask(at, 'blue', { prompt: 'abcde', n: 2, user: 'ada' });
    at.system.script = () => [{ waitMillis: 10 }, { tokens: bytesOf('a') }, ENDED];
    await ask(at, 'red');
    const seen = await metrics(at);
    const of = (name: string) => seen.get(`fastswitch_${name}`);
    expect(of('tenant_weight{tenant="blue"}')).toBe(3);
    expect(of('tenant_tokens_total{tenant="blue",kind="prompt"}')).toBe(5);
    expect(of('tenant_tokens_total{tenant="blue",kind="generated"}')).toBe(6);
    expect(of('tenant_service_total{tenant="blue"}')).toBe(17);
    expect(of('tenant_service_total{tenant="red"}')).toBe(3);
    expect(of('tenant_choices{tenant="blue",state="waiting"}')).toBe(0);
    expect(of('slo_choices_total{tenant="blue",objective="ttft",result="met"}')).toBe(2);
    expect(of('slo_choices_total{tenant="blue",objective="tbt",result="missed"}')).toBe(2);
    expect(of('slo_choices_total{tenant="red",objective="ttft",result="missed"}')).toBe(1);
    expect(of('tenant_jain_index')).toBe(1);
    expect(of('tenant_service_gap')).toBe(0);
    expect([...seen.keys()].filter((name) => name.includes('ada'))).toEqual([]);
  });

  test("has the names that vLLM's dashboards and gateways read", async () => {
    const at = await serving();
    const seen = await metrics(at);
    const of = (name: string, labels = '') =>
      seen.get(`vllm:${name}{${labels === '' ? '' : `${labels},`}model_name="tiny",engine="0"}`);
    const either = (name: string, extra: string) =>
      [...seen].find(([key]) => key.startsWith(`vllm:${name}{`) && key.includes(extra) && key.includes('model_name="tiny"'))?.[1];
    expect(of('num_requests_running')).toBe(0);
    expect(of('num_requests_waiting')).toBe(0);
    expect(of('kv_cache_usage_perc')).toBe(4 / 64);
    expect(of('num_preemptions_total')).toBe(3);
    expect([of('prompt_tokens_total'), of('generation_tokens_total')]).toEqual([11, 7]);
    expect([of('prefix_cache_queries_total'), of('prefix_cache_hits_total')]).toEqual([11, 5]);
    expect(either('request_success_total', 'finished_reason="stop"')).toBe(0);
    expect(either('cache_config_info', 'block_size="16"')).toBe(1);
    expect(either('cache_config_info', 'num_gpu_blocks="64"')).toBe(1);
    expect(either('time_to_first_token_seconds_bucket', 'le="+Inf"')).toBe(2);
    expect(of('time_to_first_token_seconds_count')).toBe(2);
    for (const name of ['inter_token_latency_seconds', 'e2e_request_latency_seconds', 'request_queue_time_seconds'])
      expect(of(`${name}_count`)).toBe(0);
  });

  test("has how long requests are and where their time goes, under vLLM's names and our own", async () => {
    const at = await serving();
    at.system.script = () => [{ tokens: bytesOf('hi') }, ENDED];
    for (const payload of [
      { model: 'tiny', prompt: 'x' },
      { model: 'tiny', prompt: ['x', 'y'], n: 6 },
    ])
      await at.server.inject({ method: 'POST', url: '/v1/completions', payload });
    const seen = await metrics(at);
    const vllm = '{model_name="tiny",engine="0"}';
    const pairs: readonly (readonly [theirs: string, ours: string, sum: number, count: number])[] = [
      ['request_prompt_tokens', 'request_prompt_tokens', 11, 2],
      ['request_generation_tokens', 'request_generated_tokens', 7, 2],
      ['request_params_max_tokens', 'request_max_tokens', 32, 2],
      ['request_prefill_kv_computed_tokens', 'request_computed_prompt_tokens', 6, 2],
      ['request_prefill_time_seconds', 'prefill_seconds', 0.05, 2],
      ['request_decode_time_seconds', 'decode_seconds', 0.9, 2],
      ['request_inference_time_seconds', 'inference_seconds', 0.95, 2],
      ['request_time_per_output_token_seconds', 'mean_tbt_seconds', 0.2, 1],
      ['iteration_tokens_total', 'step_tokens', 17, 1],
      ['request_params_n', 'request_choices', 13, 3],
    ];
    for (const [theirs, ours, sum, count] of pairs) {
      for (const [name, labels] of [
        [`vllm:${theirs}`, vllm],
        [`fastswitch_${ours}`, ''],
      ] as const)
        expect([name, seen.get(`${name}_sum${labels}`), seen.get(`${name}_count${labels}`)]).toEqual([
          name,
          expect.closeTo(sum, 9),
          count,
        ]);
      const buckets = [...seen].filter(([key]) => key.startsWith(`vllm:${theirs}_bucket`));
      // A label of the bucket, the model and the engine, and no other: their number does not grow with clients.
      expect(buckets.length).toBeLessThan(21);
      expect(buckets.find(([key]) => key.includes('le="+Inf"'))?.[1]).toBe(count);
    }
    expect(seen.get('fastswitch_request_choices_bucket{le="5"}')).toBe(1);
    expect(seen.get('fastswitch_request_choices_bucket{le="10"}')).toBe(3);
    expect(seen.get(`vllm:prompt_tokens_cached_total${vllm}`)).toBe(5);
  });

  test('counts service in the prices that the scheduler has', async () => {
    const at = await serving({ tenants: { blue: {} }, config: { preset: 'default+promptPrice=3+tokenPrice=5' } });
    at.system.script = () => [{ tokens: bytesOf('abc') }, ENDED];
    const payload = { model: 'tiny', prompt: 'xy' };
    const headers = { authorization: `Bearer ${at.keys.blue}` };
    await at.server.inject({ method: 'POST', url: '/v1/completions', headers, payload });
    expect((await metrics(at)).get('fastswitch_tenant_service_total{tenant="blue"}')).toBe(2 * 3 + 3 * 5);
    const page = (await at.server.inject('/metrics')).body;
    expect(page).toMatch(/^# HELP fastswitch_tenant_service_total .*3 for a prompt token, 5 for a generated one\.$/m);
  });
});

describe('dispersion', () => {
  const service = (weight: number): Service => Object.assign(new Service({ promptPrice: 1, tokenPrice: 2 }), { weight });

  test('compares those who wait, by weight; who begins to wait is lifted and owes nothing', () => {
    const [a, b, c] = [service(1), service(3), service(1)];
    const all = [a, b, c];
    c.serve(0, 500, 0);
    a.waits(all);
    b.waits(all);
    a.serve(0, 50, 0);
    b.serve(100, 100, 0);
    expect(dispersionOf(all, 0)).toEqual({ jain: 1, gap: 0 });
    b.serve(0, 150, 0);
    // 100 and 600 / 3: 300^2 / (2 * (100^2 + 200^2))
    expect(dispersionOf(all, 0)).toEqual({ jain: expect.closeTo(0.9, 9), gap: 100 });
    const d = service(1);
    d.waits([...all, d]);
    expect(d.counter).toBe(100);
    c.waits(all);
    expect(c.counter).toBe(1000);
  });

  test('of the index fades', () => {
    const [a, b] = [service(1), service(1)];
    for (const one of [a, b]) one.waits([]);
    a.serve(0, 1000, 0);
    b.serve(0, 1000, 600_000);
    expect(dispersionOf([a, b], 600_000).jain).toBeCloseTo(0.5, 3);
  });
});

describe('/ready', () => {
  test('is another question than /health: whether the engine would answer now', async () => {
    const at = await serving();
    const ready = async () => {
      const answer = await at.server.inject('/ready');
      return [answer.statusCode, answer.json()];
    };
    expect(await ready()).toEqual([200, { status: 'ready' }]);
    at.system.places = () => new Promise(() => {});
    expect(await ready()).toEqual([503, { status: 'busy' }]);
    expect((await at.server.inject('/health')).statusCode).toBe(200);
    at.system.fail(new Error('gone'));
    await until(() => true);
    expect(await ready()).toEqual([503, { status: 'failed' }]);
  });
});

describe('spans', () => {
  const exporter = new InMemorySpanExporter();
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  trace.setGlobalTracerProvider(provider);
  propagation.setGlobalPropagator({
    fields: () => ['traceparent'],
    inject() {},
    extract(context, carrier, getter) {
      const [, traceId = '', spanId = ''] = /^00-(\w{32})-(\w{16})-01$/.exec(String(getter.get(carrier, 'traceparent'))) ?? [];
      return traceId === '' ? context : trace.setSpanContext(context, { traceId, spanId, traceFlags: 1, isRemote: true });
    },
  });
  beforeEach(() => exporter.reset());
  afterAll(async () => {
    trace.disable();
    propagation.disable();
    await provider.shutdown();
  });
  const ended = async () => {
    await until(() => exporter.getFinishedSpans().length > 0);
    return exporter.getFinishedSpans()[0];
  };

  test('cover a request from its arrival to its end, with its states as events, below the trace of the client', async () => {
    const at = await serving({ tenants: { blue: {} } });
    const bench = new LivedBench({ policy: 'priority', maxRunning: 1 });
    bench.arrive(1, 40, { priority: 5 });
    bench.step();
    bench.arrive(2, 4, { priority: 1 });
    bench.step();
    bench.land();
    at.system.explanations = () =>
      bench.lives.find(1).map((life) => ({ life, at: bench.at, story: bench.story(1), waitingFor: null }));
    at.system.script = () => [{ tokens: bytesOf('ab') }, { ...ENDED, cachedTokens: 1 }];
    const traceparent = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`;
    const answer = await ask(at, 'blue', { user: 'ada' }, { traceparent, 'x-request-id': 'mine' });
    const span = await ended();
    expect(span?.name).toBe('text_completion tiny');
    expect([span?.spanContext().traceId, span?.parentSpanContext?.spanId]).toEqual(['a'.repeat(32), 'b'.repeat(16)]);
    expect(span?.attributes).toMatchObject({
      'gen_ai.operation.name': 'text_completion',
      'gen_ai.request.model': 'tiny',
      'gen_ai.response.id': answer.json().id,
      'gen_ai.usage.input_tokens': 1,
      'gen_ai.usage.output_tokens': 2,
      'gen_ai.response.finish_reasons': ['stop'],
      'fastswitch.request_id': 'mine',
      'fastswitch.tenant': 'blue/ada',
      'fastswitch.preemptions': 1,
    });
    const events = span?.events ?? [];
    expect(events.map(({ name }) => name)).toEqual([
      'queued',
      'prefilling',
      'decoding',
      'swapping-out',
      'swapped',
      'first token',
    ]);
    expect(events[3]?.attributes).toMatchObject({ 'fastswitch.preemption': 'outranked' });
    const [first, , , out] = events.map(({ time: [seconds, nanos] }) => seconds * 1000 + nanos / 1e6);
    expect((out as number) - (first as number)).toBeCloseTo(
      ((bench.lives.find(1)[0]?.spells[3]?.from ?? 0) - (bench.lives.find(1)[0]?.arrivedAt ?? 0)) / 1000,
      0,
    );
    expect(JSON.stringify(span?.attributes)).not.toMatch(/fsk_|sha256/);
  });

  test('say how it failed', async () => {
    const at = await serving({ tenants: { blue: {} } });
    at.system.script = () => [failed('out of luck')];
    await ask(at, 'blue');
    expect((await ended())?.status).toEqual({ code: SpanStatusCode.ERROR, message: 'engine_failed' });
  });
});

describe('logs', () => {
  test('have a line of JSON for each answer and refusal, with the id of the request, and never a key or a text', async () => {
    const written: string[] = [];
    const stdout = process.stdout.write;
    const sink = new Writable({ write: (_chunk, _encoding, done) => done() });
    process.stdout.write = ((chunk: string | Uint8Array) => {
      written.push(String(chunk));
      return sink.writable;
    }) as typeof process.stdout.write;
    let at: Serving;
    try {
      at = await serving({ tenants: { blue: { requests_per_minute: 1 } }, config: { logLevel: 'debug' } });
      at.system.script = () => [{ tokens: bytesOf('secret answer') }, ENDED];
      await ask(at, 'blue', { prompt: 'secret prompt', user: 'ada' }, { 'x-request-id': 'mine/1' });
      await ask(at, 'blue', { prompt: 'secret prompt' }, { 'x-request-id': 'mine/2' });
      await at.server.inject({ url: '/v1/models', headers: { ...bearer(`${at.keys.blue}x`), 'x-request-id': 'mine/3' } });
      await until(() => written.join('').includes('mine/3'));
      await new Promise((resolve) => setTimeout(resolve, 50));
    } finally {
      process.stdout.write = stdout;
    }
    const all = written.join('');
    const lines = all.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as Record<string, unknown>] : []));
    const of = (id: string, msg: string) => lines.find((line) => line.reqId === id && line.msg === msg);
    expect(of('mine/1', 'answered')).toMatchObject({
      level: 30,
      operation: 'text_completion',
      tenant: 'blue/ada',
      promptTokens: expect.any(Number),
      generatedTokens: 13,
      outcome: 'stop',
      seconds: expect.any(Number),
    });
    expect(of('mine/2', 'refused')).toMatchObject({ code: 'rate_limit_exceeded', status: 429 });
    expect(of('mine/3', 'refused')).toMatchObject({ code: 'invalid_api_key', status: 401 });
    for (const secret of [at.keys.blue as string, 'fsk_', 'secret']) expect(all).not.toContain(secret);
  });
});
