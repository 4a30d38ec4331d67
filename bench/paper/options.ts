/** The flags of `npm run paper`. */
import { existsSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Scale } from './experiment.js';

export interface PaperOptions {
  readonly scale: Scale;
  /** Names of experiments; null: all. */
  readonly only: readonly string[] | null;
  readonly out: string;
  readonly cache: string;
  readonly threads: number;
  readonly tracePath: string | null;
  readonly calibrate: boolean;
  /** As 2026-01-31. */
  readonly date: string;
}

export const HELP = `npm run paper -- [flags]

  --quick              A tiny report, to see that it works. Its numbers mean nothing.
  --seeds N            Runs of each case, with the seeds 1 to N. Default 5.
  --only NAMES         Only these experiments, with commas between them. The report then has no others.
  --conversations N    Of the main tables. Default 1000.
  --sweep N            Conversations of sweeps and ablations. Default 200.
  --requests N         Requests taken from the trace. Default 1500.
  --trace FILE         A recorded trace. Default the Azure trace in ../shared/traces, where it is there.
  --out DIR            Where the report goes. Default docs/evaluation.
  --cache DIR          Where finished runs are kept, so that an interrupted report goes on. Default in the temporary folder.
  --threads N          Most runs at a time. Default the cores of this machine.
  --calibrate          Tune the load on vllm-0.3 alone and write src/simulation/calibration.json; no report.
  --date YYYY-MM-DD    Written into the calibration and the report. Default today.
`;

const TRACE = '../shared/traces/azure-llm-2023-conv.csv';

/** `HELP` where it is asked for. Throws an Error that says what is wrong. */
export function readOptions(argv: readonly string[]): PaperOptions | string {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      quick: { type: 'boolean', default: false },
      seeds: { type: 'string' },
      only: { type: 'string' },
      conversations: { type: 'string' },
      sweep: { type: 'string' },
      requests: { type: 'string' },
      trace: { type: 'string' },
      out: { type: 'string', default: 'docs/evaluation' },
      cache: { type: 'string', default: join(tmpdir(), 'fastswitch-paper') },
      threads: { type: 'string' },
      calibrate: { type: 'boolean', default: false },
      date: { type: 'string', default: new Date().toISOString().slice(0, 10) },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return HELP;
  const { quick, date } = values;
  if (!/^\d{4}-\d\d-\d\d$/.test(date)) throw new Error(`--date is "${date}"; allowed is a day like 2026-01-31`);
  const trace = values.trace ?? (existsSync(TRACE) ? TRACE : null);
  if (trace !== null && !existsSync(trace)) throw new Error(`--trace ${trace} is not there`);
  return {
    scale: {
      quick,
      seeds: count('seeds', values.seeds, quick ? 1 : 5),
      conversations: count('conversations', values.conversations, quick ? 4 : 1000),
      sweepConversations: count('sweep', values.sweep, quick ? 3 : 200),
      traceRequests: count('requests', values.requests, quick ? 30 : 1500),
    },
    only: values.only?.split(',').map((name) => name.trim()) ?? null,
    out: resolve(values.out),
    cache: resolve(values.cache),
    threads: count('threads', values.threads, availableParallelism()),
    tracePath: trace === null ? null : resolve(trace),
    calibrate: values.calibrate,
    date,
  };
}

function count(flag: string, text: string | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new Error(`--${flag} is "${text}"; allowed is an integer, at least 1`);
  return Number(text);
}
