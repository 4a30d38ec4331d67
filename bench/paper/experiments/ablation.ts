/** Experiment 5: what each mechanism brings, one on the other, alone, and taken away; and when to wait for copies. */
import type { RunResult } from '../../../src/simulation/result.js';
import { type Cell, cellName, RANDOM_CELLS } from '../cases.js';
import { type Experiment, type Lab, type Plot, seedsLine } from '../experiment.js';
import { colourOf } from '../plots.js';
import { bandBy, ratioBand } from '../statistics.js';
import { type Finding, listed, spread, table, times } from '../words.js';
import { alone, ladder, type Variant, waits, without } from './variants.js';

interface Column {
  readonly title: string;
  readonly value: (run: RunResult) => number;
}

const COLUMNS: readonly Column[] = [
  { title: 'TTFT P99 s', value: ({ ttftMs }) => ttftMs.p99 / 1e3 },
  { title: 'TTFT P99.9 s', value: ({ ttftMs }) => ttftMs.p999 / 1e3 },
  { title: 'TBT P99 s', value: ({ tbtMs }) => tbtMs.p99 / 1e3 },
  { title: 'TBT P99.9 s', value: ({ tbtMs }) => tbtMs.p999 / 1e3 },
  { title: 'tokens/s', value: ({ throughputTokensPerSecond }) => throughputTokensPerSecond },
];
const DRAWN = [COLUMNS[0], COLUMNS[3], COLUMNS[4]] as readonly Column[];

export const ablation: Experiment = {
  name: 'ablation',
  title: 'What each mechanism brings',
  write(lab) {
    const rungs = ladder();
    const groups = [
      { file: 'ladder', title: 'One mechanism on the other', variants: rungs },
      { file: 'alone', title: "Each of FastSwitch's mechanisms alone", variants: alone() },
      { file: 'without', title: 'default, and default without one of its switches', variants: without() },
      { file: 'waits', title: 'Waiting for copies: always, never, as predicted', variants: waits() },
    ];
    return {
      findings: [...RANDOM_CELLS.map((cell) => ladderFinding(lab, cell, rungs)), waitsFinding(lab), withoutFinding(lab)],
      body: [
        `${lab.scale.sweepConversations} conversations, pattern random, priorities as in the other experiments for every variant. Names are those that \`fastswitch simulate --preset\` takes. The order of the rungs is ours; another order would give each mechanism another share.`,
        ...groups.flatMap(({ file, title, variants }) => [
          `### ${title}`,
          ...RANDOM_CELLS.map((cell) => plot(lab, cell, `ablation-${file}-${cell.scenario}`, title, variants)),
          rows(lab, variants),
        ]),
      ],
    };
  },
};

function runs(lab: Lab, cell: Cell, { text }: Pick<Variant, 'text'>): readonly RunResult[] {
  return lab.runs(cell, text, { conversations: lab.scale.sweepConversations });
}

function rows(lab: Lab, variants: readonly Variant[]): string {
  return table(
    ['scenario', 'variant', ...COLUMNS.map(({ title }) => title)],
    RANDOM_CELLS.flatMap((cell) =>
      variants.map((variant) => [
        cell.scenario,
        variant.title,
        ...COLUMNS.map(({ value }) => spread(bandBy(runs(lab, cell, variant), value))),
      ]),
    ),
    2,
  );
}

function plot(lab: Lab, cell: Cell, file: string, title: string, variants: readonly Variant[]): Plot {
  return {
    file,
    chart: {
      title: `${title}: ${cell.scenario}`,
      about: `Pattern random. ${seedsLine(lab)}`,
      columns: DRAWN.length,
      lying: 230,
      panelHeight: 90 + 24 * variants.length,
      panels: DRAWN.map(({ title: name, value }) => ({
        title: name,
        x: { name: '', categories: variants.map((variant) => variant.title) },
        y: { name: '' },
        series: [
          {
            name: 'variant',
            colour: colourOf('default'),
            type: 'bar' as const,
            points: variants.map((variant, x) => ({
              x,
              band: bandBy(runs(lab, cell, variant), value),
              colour: variant.colour,
            })),
          },
        ],
      })),
    },
  };
}

function ladderFinding(lab: Lab, cell: Cell, rungs: readonly Variant[]): Finding {
  const p99 = (COLUMNS[0] as Column).value;
  const steps = rungs.slice(1).map((rung, k) => ({
    title: rung.title,
    ratio: ratioBand(runs(lab, cell, rungs[k] as Variant), runs(lab, cell, rung), p99),
  }));
  const harmful = steps.filter(({ ratio }) => ratio.mean < 0.98);
  const say = (step: (typeof steps)[number]) => `${step.title} (${spread(step.ratio, times)})`;
  const always = harmful.filter(({ ratio }) => ratio.high < 1);
  const mostly = harmful.filter(({ ratio }) => ratio.high >= 1);
  return {
    what: `TTFT P99, each rung over the one before, ${cellName(cell)}`,
    published: 'there is such an ablation; its figures are not known to us',
    ours: steps.map(({ title, ratio }) => `${title} ${times(ratio.mean)}`).join(', '),
    verdict:
      harmful.length === 0
        ? 'No rung makes it worse by more than 2 %.'
        : [
            ...(always.length > 0 ? [`Worse than the rung before with every seed: ${always.map(say).join(', ')}.`] : []),
            ...(mostly.length > 0 ? [`Worse on average, but not with every seed: ${mostly.map(say).join(', ')}.`] : []),
          ].join(' '),
  };
}

function waitsFinding(lab: Lab): Finding {
  const [adaptive, sync, never] = ['fastswitch', 'fastswitch+waits=sync', 'fastswitch+waits=async'].map((text) => ({
    text,
    title: text,
  })) as [Variant, Variant, Variant];
  const value = (COLUMNS[3] as Column).value;
  const said = RANDOM_CELLS.map((cell) => {
    const over = (other: Pick<Variant, 'text'>) =>
      times(ratioBand(runs(lab, cell, other), runs(lab, cell, adaptive), value).mean);
    return `${cell.scenario}: ${over(sync)} over always waiting, ${over(never)} over never`;
  });
  const least = Math.min(
    ...RANDOM_CELLS.flatMap((cell) =>
      [sync, never].map((other) => ratioBand(runs(lab, cell, other), runs(lab, cell, adaptive), value).mean),
    ),
  );
  return {
    what: 'TBT P99.9 of fastswitch: the adaptive decision',
    published: 'a few short swap-ins are better awaited, long ones are not [F]',
    ours: said.join('; '),
    verdict:
      least >= 0.95
        ? `Reproduced: on average it is never worse than the better of the two fixed ones by more than 5 % (${times(least)} at worst).`
        : `Not reproduced everywhere: against the better of the two fixed ones it comes to ${times(least)}.`,
  };
}

function withoutFinding(lab: Lab): Finding {
  const value = (COLUMNS[0] as Column).value;
  const [full, ...reduced] = without() as [Variant, ...Variant[]];
  const effects = reduced.map((variant) => ({
    title: variant.title,
    ratios: RANDOM_CELLS.map((cell) => ratioBand(runs(lab, cell, variant), runs(lab, cell, full), value).mean),
  }));
  const idle = effects.filter(({ ratios }) => Math.max(...ratios) < 1.02);
  return {
    what: 'TTFT P99, default over default without one switch',
    published: '-',
    ours: effects.map(({ title, ratios }) => `${title} ${ratios.map(times).join(' and ')}`).join(', '),
    verdict:
      idle.length === 0
        ? 'Each switch shortens it by 2 % or more on one scenario at least.'
        : `By this measure ${listed(idle.map(({ title }) => title))} could be left out at this load; their other columns are in the table.`,
  };
}
