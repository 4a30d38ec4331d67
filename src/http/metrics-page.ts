/**
 * The Prometheus page: the system's snapshot at the moment of the scrape, and the process's own figures.
 *
 * The system counts by itself (the same fold serves benches and tests), so its figures are written as they are and
 * not counted a second time here.
 */
import { collectDefaultMetrics, Registry } from 'prom-client';
import type { JournalStatus } from '../actors/ports.js';
import type { System, SystemSnapshot } from '../actors/system.js';
import type { Histogram } from '../core/metrics.js';
import type { ModelInfo } from './model.js';
import { within } from './within.js';

/** A system that does not answer within this is left out of the page. */
const SNAPSHOT_MILLIS_MAX = 5_000;

export interface Sample {
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export type Read = (snapshot: SystemSnapshot) => readonly Sample[];

export interface Metric {
  readonly type: 'gauge' | 'counter' | 'histogram';
  readonly name: string;
  readonly help: string;
  readonly read: Read;
}

export const one = (value: number): readonly Sample[] => [{ labels: {}, value }];
const by = (label: string, values: Readonly<Record<string, number>>): readonly Sample[] =>
  Object.entries(values).map(([name, value]) => ({ labels: { [label]: name }, value }));

export function histogram(name: string, { bounds, counts, sum, count }: Histogram): readonly Sample[] {
  let below = 0;
  const buckets = bounds.map((bound, index) => {
    below += counts[index] ?? 0;
    return { metricName: `${name}_bucket`, labels: { le: String(bound) }, value: below };
  });
  return [
    ...buckets,
    { metricName: `${name}_bucket`, labels: { le: '+Inf' }, value: count },
    { metricName: `${name}_sum`, labels: {}, value: sum },
    { metricName: `${name}_count`, labels: {}, value: count },
  ];
}

const GAUGES: readonly (readonly [name: string, help: string, read: Read])[] = [
  ['fastswitch_requests', 'Live requests by state.', ({ requestsByPhase: { done: _done, ...live } }) => by('state', live)],
  [
    'fastswitch_blocks',
    'Blocks of KV by memory and use; kept: of nobody who runs, there as long as nobody needs the room.',
    ({ blocks }) =>
      (['device', 'host'] as const).flatMap((memory) => {
        const { free, used, moving, kept } = blocks[memory];
        const uses = { free, used: used - kept, moving, kept };
        return Object.entries(uses).map(([use, value]) => ({ labels: { memory, use }, value }));
      }),
  ],
  [
    'fastswitch_system_loop_delay_seconds',
    "Delay of the system thread's event loop since the last scrape (this thread's is nodejs_eventloop_lag).",
    ({ loopDelaySeconds }) => (loopDelaySeconds === null ? [] : by('quantile', loopDelaySeconds)),
  ],
];

const COUNTERS: readonly (readonly [name: string, help: string, read: Read])[] = [
  ['fastswitch_requests_finished_total', 'Requests that have ended, by outcome.', (s) => by('outcome', s.finishedByOutcome)],
  ['fastswitch_prompt_tokens_total', 'Prompt tokens of requests that got their first token.', (s) => one(s.promptTokens)],
  [
    'fastswitch_prompt_tokens_cached_total',
    'Of fastswitch_prompt_tokens_total: tokens whose KV was found and not computed.',
    (s) => one(s.cachedPromptTokens),
  ],
  [
    'fastswitch_cached_tokens_total',
    'Tokens of context whose KV was found at an admission, also at one after a preemption, and not computed.',
    (s) => one(s.cachedTokens),
  ],
  ['fastswitch_generated_tokens_total', 'Tokens generated.', (s) => one(s.generatedTokens)],
  [
    'fastswitch_computed_tokens_total',
    'Tokens computed by the engine; prefill includes what was computed again.',
    (s) => by('kind', { prefill: s.prefillTokensComputed, decode: s.decodeTokensComputed }),
  ],
  ['fastswitch_steps_total', 'Steps of the engine.', (s) => one(s.steps)],
  ['fastswitch_steps_failed_total', 'Steps that failed.', (s) => one(s.stepsFailed)],
  [
    'fastswitch_preemptions_total',
    'Preemptions by what became of the KV: swapped, or given up and computed again.',
    (s) => by('kind', s.preemptions),
  ],
  [
    'fastswitch_swap_blocks_total',
    'Blocks of preempted requests: sent to the host, or held by it already.',
    (s) => by('what', { sent: s.blocksSent, held: s.blocksHeld }),
  ],
  [
    'fastswitch_swaps_without_copy_total',
    'Preemptions (out) and returns (in) that copied nothing, because everything was there already.',
    (s) => by('direction', { out: s.parked, in: s.resumedWithoutCopy }),
  ],
  ['fastswitch_transfers_total', 'Transfers that landed, by direction.', (s) => by('direction', s.transfers)],
  ['fastswitch_transfers_failed_total', 'Transfers that failed.', (s) => one(s.transfersFailed)],
  ['fastswitch_transfer_bytes_total', 'Bytes of KV moved, by direction.', (s) => by('direction', s.transferBytes)],
  [
    'fastswitch_transfer_kind_bytes_total',
    'Bytes of KV moved, by what for: swaps, and mirror and prefetch ahead of need.',
    (s) => by('kind', s.transferBytesByKind),
  ],
  ['fastswitch_transfer_seconds_total', 'Time spent in transfers, by direction.', (s) => by('direction', s.transferSeconds)],
  [
    'fastswitch_transfer_runs_total',
    'Contiguous copies that the transfers consisted of, by direction.',
    (s) => by('direction', s.transferRuns),
  ],
];

/** Only where there is a journal. */
const JOURNAL: readonly (readonly [
  type: 'gauge' | 'counter',
  name: string,
  help: string,
  read: (status: JournalStatus) => number,
])[] = [
  ['counter', 'fastswitch_journal_records_total', 'Records written to the journal.', ({ records }) => records],
  ['counter', 'fastswitch_journal_bytes_total', 'Bytes written to the journal.', ({ bytes }) => bytes],
  ['counter', 'fastswitch_journal_lost_records_total', 'Records that could not be written.', ({ lost }) => lost],
  [
    'gauge',
    'fastswitch_journal_failing',
    'The journal cannot be written: records are being lost.',
    ({ failing }) => Number(failing),
  ],
];

const ENDED = 'of requests that ended with a token';

const HISTOGRAMS: readonly (readonly [name: string, help: string, read: (snapshot: SystemSnapshot) => Histogram])[] = [
  ['fastswitch_ttft_seconds', 'Arrival to first token.', (s) => s.ttftSeconds],
  ['fastswitch_tbt_seconds', 'Between one token of a request and the next.', (s) => s.tbtSeconds],
  ['fastswitch_step_seconds', 'Time of one step of the engine.', (s) => s.stepSeconds],
  [
    'fastswitch_step_gap_seconds',
    'What a step costs beside the engine: deciding, planning, crossing threads.',
    (s) => s.stepGapSeconds,
  ],
  ['fastswitch_queue_seconds', 'Arrival to first admission.', (s) => s.queueSeconds],
  ['fastswitch_request_seconds', 'Arrival to end.', (s) => s.requestSeconds],
  ['fastswitch_step_tokens', 'Tokens computed in one step.', (s) => s.stepTokens],
  ['fastswitch_request_prompt_tokens', `Length of a prompt, ${ENDED}.`, (s) => s.promptLength],
  ['fastswitch_request_generated_tokens', `Tokens generated, ${ENDED}.`, (s) => s.generationLength],
  ['fastswitch_request_max_tokens', `The most that might have been generated, ${ENDED}.`, (s) => s.mostLength],
  [
    'fastswitch_request_computed_prompt_tokens',
    `Tokens of a prompt that were not found, ${ENDED}.`,
    (s) => s.computedPromptLength,
  ],
  ['fastswitch_prefill_seconds', `First admission to first token, ${ENDED}.`, (s) => s.prefillSeconds],
  ['fastswitch_decode_seconds', `First token to last, preempted or not, ${ENDED}.`, (s) => s.decodeSeconds],
  ['fastswitch_inference_seconds', `First admission to last token, ${ENDED}.`, (s) => s.inferenceSeconds],
  ['fastswitch_mean_tbt_seconds', `Mean time between tokens, ${ENDED} of two or more.`, (s) => s.meanTbtSeconds],
];

export class MetricsPage {
  readonly #system: System;
  readonly #registry = new Registry();
  #snapshot: SystemSnapshot | null = null;

  /** `more`: beside the system's own. */
  constructor(system: System, model: ModelInfo, version: string, more: readonly Metric[] = []) {
    this.#system = system;
    collectDefaultMetrics({ register: this.#registry });
    this.#register('gauge', 'fastswitch_info', 'What is served; always 1.', () => [
      { labels: { version, model: model.name, device: model.device }, value: 1 },
    ]);
    for (const [name, help, read] of GAUGES) this.#register('gauge', name, help, read);
    for (const [name, help, read] of COUNTERS) this.#register('counter', name, help, read);
    for (const [type, name, help, read] of JOURNAL)
      this.#register(type, name, help, ({ journal }) => (journal === null ? [] : one(read(journal))));
    for (const [name, help, read] of HISTOGRAMS)
      this.#register('histogram', name, help, (snapshot) => histogram(name, read(snapshot)));
    for (const { type, name, help, read } of more) this.#register(type, name, help, read);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async render(): Promise<string> {
    this.#snapshot = await within(SNAPSHOT_MILLIS_MAX, this.#system.snapshot()).catch(() => null);
    return this.#registry.metrics();
  }

  #register(type: Metric['type'], name: string, help: string, read: Read): void {
    const metric = {
      name,
      help,
      get: async () => ({ name, help, type, values: this.#snapshot === null ? [] : read(this.#snapshot) }),
    };
    // The registry asks of a metric its name and what to print; the library's own kinds can only be counted up.
    this.#registry.registerMetric(metric as unknown as Parameters<Registry['registerMetric']>[0]);
  }
}
