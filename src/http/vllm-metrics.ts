/**
 * The same figures under the names that vLLM's dashboards and the Gateway API inference extension read, with vLLM's labels.
 * Only what means the same here: there is no adapter, no data parallelism and no speculation.
 */
import type { SystemSnapshot } from '../actors/system.js';
import type { Histogram } from '../core/metrics.js';
import type { ChoiceCounts } from './choice-counts.js';
import type { Metric, Read, Sample } from './metrics-page.js';
import { histogram, one } from './metrics-page.js';

const running = ({ requestsByPhase: by }: SystemSnapshot): number => by.prefilling + by.decoding;
/** Whoever has no place in the batch: a preempted request waits as a new one does. */
const waiting = ({ requestsByPhase: by }: SystemSnapshot): number =>
  by.queued + by['swapping-out'] + by.swapped + by['swapping-in'];
/** What is kept of requests that have ended is free for whoever needs the room. */
const usage = ({ blocks: { device } }: SystemSnapshot): number =>
  device.total === 0 ? 0 : (device.used - device.kept + device.moving) / device.total;

const GAUGES: readonly (readonly [name: string, help: string, read: (snapshot: SystemSnapshot) => number])[] = [
  ['num_requests_running', 'Requests that have a place in the batch.', running],
  ['num_requests_waiting', 'Requests that wait for a place in the batch, new or preempted.', waiting],
  ['kv_cache_usage_perc', 'Share of the device blocks that live requests hold, 0 to 1.', usage],
  ['gpu_cache_usage_perc', 'As vllm:kv_cache_usage_perc, under its older name.', usage],
];

const COUNTERS: readonly (readonly [name: string, help: string, read: (snapshot: SystemSnapshot) => number])[] = [
  ['num_preemptions_total', 'Preemptions.', ({ preemptions: { swap, recompute } }) => swap + recompute],
  ['prompt_tokens_total', 'Prompt tokens of requests that got their first token.', (s) => s.promptTokens],
  ['generation_tokens_total', 'Tokens generated.', (s) => s.generatedTokens],
  ['prompt_tokens_cached_total', 'Prompt tokens that were found, and not computed.', (s) => s.cachedPromptTokens],
  ['prefix_cache_queries_total', 'Prompt tokens that were looked for among what is kept.', (s) => s.promptTokens],
  ['prefix_cache_hits_total', 'Of these: found, and not computed.', (s) => s.cachedPromptTokens],
];

const HISTOGRAMS: readonly (readonly [name: string, help: string, read: (snapshot: SystemSnapshot) => Histogram])[] = [
  ['time_to_first_token_seconds', 'Arrival to first token.', (s) => s.ttftSeconds],
  ['inter_token_latency_seconds', 'Between one token of a request and the next.', (s) => s.tbtSeconds],
  ['time_per_output_token_seconds', 'As vllm:inter_token_latency_seconds, under its older name.', (s) => s.tbtSeconds],
  ['e2e_request_latency_seconds', 'Arrival to end.', (s) => s.requestSeconds],
  ['request_queue_time_seconds', 'Arrival to first admission.', (s) => s.queueSeconds],
  ['request_inference_time_seconds', 'First admission to last token.', (s) => s.inferenceSeconds],
  ['request_prefill_time_seconds', 'First admission to first token.', (s) => s.prefillSeconds],
  ['request_decode_time_seconds', 'First token to last.', (s) => s.decodeSeconds],
  ['request_time_per_output_token_seconds', 'Mean time between the tokens of a request.', (s) => s.meanTbtSeconds],
  ['request_prompt_tokens', 'Length of a prompt.', (s) => s.promptLength],
  ['request_generation_tokens', 'Tokens that a request generated.', (s) => s.generationLength],
  ['request_prefill_kv_computed_tokens', 'Tokens of a prompt that were not found.', (s) => s.computedPromptLength],
  ['request_params_max_tokens', 'The most that a request might have generated.', (s) => s.mostLength],
  ['iteration_tokens_total', 'Tokens computed in one step.', (s) => s.stepTokens],
];

/** @param blocks Of the two memories, and tokens in a block. */
export function vllmMetrics(
  model: string,
  blocks: { readonly blockTokens: number; readonly deviceBlocks: number; readonly hostBlocks: number },
  choices: ChoiceCounts,
): readonly Metric[] {
  const labels = { model_name: model, engine: '0' };
  const labelled = (samples: readonly Sample[]): readonly Sample[] =>
    samples.map((sample) => ({ ...sample, labels: { ...labels, ...sample.labels } }));
  const metric = (type: Metric['type'], name: string, help: string, read: Read): Metric => {
    const full = `vllm:${name}`;
    return { type, name: full, help, read: (snapshot) => labelled(read(snapshot)) };
  };
  const config = {
    block_size: String(blocks.blockTokens),
    num_gpu_blocks: String(blocks.deviceBlocks),
    num_cpu_blocks: String(blocks.hostBlocks),
  };
  return [
    ...GAUGES.map(([name, help, read]) => metric('gauge', name, help, (snapshot) => one(read(snapshot)))),
    metric('gauge', 'cache_config_info', 'Sizes of the KV cache; always 1.', () => [{ labels: config, value: 1 }]),
    ...COUNTERS.map(([name, help, read]) => metric('counter', name, help, (snapshot) => one(read(snapshot)))),
    metric('counter', 'request_success_total', 'Requests that ended, by reason.', ({ finishedByOutcome: by }) =>
      Object.entries({ stop: by.stop, length: by.length, abort: by.aborted }).map(([finished_reason, value]) => ({
        labels: { finished_reason },
        value,
      })),
    ),
    metric('histogram', 'request_params_n', 'Choices that a prompt asked for (n).', () =>
      histogram('vllm:request_params_n', choices.histogram()),
    ),
    ...HISTOGRAMS.map(([name, help, read]) =>
      metric('histogram', name, help, (snapshot) => histogram(`vllm:${name}`, read(snapshot))),
    ),
  ];
}
