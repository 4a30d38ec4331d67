/** Experiment 11: all presets side by side, on conversations and on a recorded trace. */
import { PRESET_NAMES, PRESETS } from '../../../src/core/presets.js';
import type { PolicyName } from '../../../src/core/types.js';
import type { RunResult } from '../../../src/simulation/result.js';
import { CELLS, type Cell, type Changes, cellName, RANDOM_CELLS } from '../cases.js';
import { type Experiment, type Lab, type Plot, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { bandBy, ratioBand } from '../statistics.js';
import { type Finding, figure, first, percent, spread, table, times } from '../words.js';

interface Column {
  readonly title: string;
  readonly value: (run: RunResult) => number;
  /** More is better. */
  readonly more?: boolean;
}

const COLUMNS: readonly Column[] = [
  { title: 'TTFT P99', value: ({ ttftMs }) => ttftMs.p99 / 1e3 },
  { title: 'TTFT P99.9', value: ({ ttftMs }) => ttftMs.p999 / 1e3 },
  { title: 'TBT P99', value: ({ tbtMs }) => tbtMs.p99 / 1e3 },
  { title: 'TBT P99.9', value: ({ tbtMs }) => tbtMs.p999 / 1e3 },
  { title: 'tokens/s', value: ({ throughputTokensPerSecond }) => throughputTokensPerSecond, more: true },
];
const ENOUGH = 1.2;

/** Where all presets are compared. */
interface Arena {
  readonly name: string;
  readonly file: string;
  readonly cell: Cell;
  readonly changes: Partial<Changes>;
}

export const rivals: Experiment = {
  name: 'rivals',
  title: 'All presets side by side',
  write(lab) {
    const places = arenas(lab);
    const others = PRESET_NAMES.filter((name) => name !== 'default');
    return {
      findings: others.map((rival) => finding(lab, places, rival)),
      body: [
        `${lab.scale.sweepConversations} conversations. Everyone follows the priorities of the pattern, but fastserve and vtc, whose policy is what they are about: it changes who waits and so cannot be compared with priorities. They are compared with default under the same policy (mlfq, vtc), which has lines of its own. Under priorities that are reshuffled every few steps a preset that computes preempted requests again (vllm-1) pays for each of these preemptions in full; under a policy that preempts less it would stand better.`,
        ...trace(lab),
        ...places.flatMap((arena) => [`### ${arena.name}`, plot(lab, arena), rows(lab, arena), ratios(lab, arena)]),
      ],
    };
  },
};

function arenas({ scale, tracePath, calibration }: Lab): Arena[] {
  const conversations = scale.sweepConversations;
  const drawn = CELLS.map((cell) => ({
    name: cellName(cell),
    file: `rivals-${cell.scenario}-${cell.pattern}`,
    cell,
    changes: { conversations },
  }));
  if (tracePath === null) return drawn;
  const recorded = RANDOM_CELLS.map((cell) => ({
    name: `Azure trace, ${cellName(cell)}`,
    file: `rivals-${cell.scenario}-trace`,
    cell,
    changes: {
      load: {
        type: 'trace' as const,
        path: tracePath,
        limit: scale.traceRequests,
        speed: traceSpeed(calibration, cell.scenario),
      },
    },
  }));
  return [...drawn, ...recorded];
}

/** Before it was calibrated: slow enough that prompts alone do not fill the device. */
const TRACE_SPEED = 0.3;

export function traceSpeed(calibration: Lab['calibration'], scenario: string): number {
  return calibration.trace?.[scenario]?.speed ?? TRACE_SPEED;
}

function trace({ tracePath, calibration, scale }: Lab): string[] {
  if (tracePath === null) return ['The Azure trace is left out: its file was not there.'];
  const speeds = RANDOM_CELLS.map(({ scenario }) => {
    const setting = calibration.trace?.[scenario];
    const how = setting === undefined ? 'not calibrated' : `stall share of vllm-0.3 ${percent(setting.stallShareP99 ?? 0)}`;
    return `${figure(traceSpeed(calibration, scenario))} times its speed on ${scenario} (${how})`;
  });
  return [
    `The Azure trace is the first ${scale.traceRequests} requests of the conversation service of 2023, each a request of its own without a conversation, replayed at ${speeds.join(' and ')}. The speed was chosen on vllm-0.3 alone, by the same anchor as the load of the conversations; priorities change as in pattern random, seeds vary them and the machine.`,
  ];
}

function runs(lab: Lab, { cell, changes }: Arena, preset: string, policy?: PolicyName): readonly RunResult[] {
  return lab.runs(cell, preset, { ...changes, ...(policy === undefined ? {} : { policy }) });
}

/** The preset's own policy where that is what it is about. */
function ownPolicy(preset: string): PolicyName | undefined {
  const { policy } = PRESETS[preset as keyof typeof PRESETS];
  return policy === 'vtc' || policy === 'mlfq' ? policy : undefined;
}

/** How many times better ours is. */
function lead(lab: Lab, arena: Arena, rival: string, { value, more }: Column) {
  const [theirs, ours] = [runs(lab, arena, rival), runs(lab, arena, 'default', ownPolicy(rival))];
  return more === true ? ratioBand(ours, theirs, value) : ratioBand(theirs, ours, value);
}

function finding(lab: Lab, places: readonly Arena[], rival: string): Finding {
  const all = places.flatMap((arena) =>
    COLUMNS.map((column) => ({
      where: `${column.title}, ${arena.name}`,
      more: column.more === true,
      band: lead(lab, arena, rival, column),
    })),
  );
  const latency = all.filter(({ more }) => !more);
  const close = latency.filter(({ band }) => band.mean < ENOUGH);
  // Less by more than its own seeds disagree.
  const lost = all.filter(({ band }) => band.high < 1 && band.mean < 0.99);
  const list = (items: typeof all) =>
    first([...items].sort((a, b) => a.band.mean - b.band.mean).map(({ where, band }) => `${where} ${times(band.mean)}`));
  const means = latency.map(({ band }) => band.mean);
  const rates = all.filter(({ more }) => more).map(({ band }) => band.mean);
  return {
    what: `default over ${rival}${ownPolicy(rival) === undefined ? '' : `, both under ${ownPolicy(rival)}`}`,
    published: '-',
    ours: `tails ${times(Math.min(...means))} to ${times(Math.max(...means))}, throughput ${times(Math.min(...rates))} to ${times(Math.max(...rates))}`,
    verdict: [
      close.length === 0
        ? 'Every tail is better by 1.2x or more.'
        : `Less than 1.2x better in ${close.length} of ${latency.length} tails: ${list(close)}.`,
      ...(lost.length > 0 ? [`Behind with every seed: ${list(lost)}.`] : []),
      ...(close.length > 0 && lost.length === 0 ? ['Behind nowhere with every seed.'] : []),
    ].join(' '),
  };
}

/** All presets, and ours under the policies of those who bring one. */
const LINES: readonly { readonly title: string; readonly preset: string; readonly policy?: PolicyName }[] = [
  ...PRESET_NAMES.map((name) => ({ title: name, preset: name })),
  { title: 'default, mlfq', preset: 'default', policy: 'mlfq' as const },
  { title: 'default, vtc', preset: 'default', policy: 'vtc' as const },
];

function plot(lab: Lab, arena: Arena): Plot {
  return {
    file: arena.file,
    chart: {
      title: `All presets: ${arena.name}`,
      about: `Tails logarithmic. ${seedsLine(lab)} Last two lines: default under the policies of fastserve and vtc.`,
      columns: 3,
      lying: 116,
      panelHeight: 90 + 24 * LINES.length,
      panels: [COLUMNS[0], COLUMNS[3], COLUMNS[4]].map((column) => ({
        title: (column as Column).more === true ? 'tokens/s' : `${(column as Column).title} s`,
        x: { name: '', categories: LINES.map(({ title }) => title) },
        y: { name: '', log: (column as Column).more !== true },
        series: [
          {
            name: 'preset',
            colour: colourOf('default'),
            type: 'bar' as const,
            points: LINES.map(({ preset, policy }, x) => ({
              x,
              band: bandBy(runs(lab, arena, preset, policy), (column as Column).value),
              colour: colourOf(preset),
            })),
          },
        ],
      })),
    },
  };
}

function rows(lab: Lab, arena: Arena): string {
  return table(
    [
      'preset',
      ...COLUMNS.map(({ title, more }) => (more === true ? title : `${title} s`)),
      'swaps',
      'recomputed',
      'stall at P99',
      'cached',
    ],
    LINES.map(({ title, preset, policy }) => {
      const all = runs(lab, arena, preset, policy);
      return [
        title,
        ...COLUMNS.map(({ value }) => spread(bandBy(all, value))),
        figure(bandBy(all, ({ preemptions }) => preemptions.swap).mean),
        figure(bandBy(all, ({ preemptions }) => preemptions.recompute).mean),
        percent(bandBy(all, ({ stallShareP99 }) => stallShareP99).mean),
        percent(bandBy(all, ({ cachedTokens, promptTokens }) => cachedTokens / Math.max(1, promptTokens)).mean),
      ];
    }),
  );
}

function ratios(lab: Lab, arena: Arena): string {
  const others = PRESET_NAMES.filter((name) => name !== 'default');
  const body = others.map((rival) => [
    ownPolicy(rival) === undefined ? rival : `${rival}, both under ${ownPolicy(rival)}`,
    ...COLUMNS.map((column) => spread(lead(lab, arena, rival, column), times)),
  ]);
  return `How many times better default is:\n\n${table(['than', ...COLUMNS.map(({ title }) => title)], body)}`;
}
