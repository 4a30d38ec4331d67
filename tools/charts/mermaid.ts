/**
 * A chart as a page to read: a Mermaid diagram with every way there is, and a table of what each event does in each state.
 */
import type { AnyStateMachine, AnyStateNode } from 'xstate';
import { getStateNodes } from 'xstate/graph';
import { type Chart, type ChartState, type ChartWay, chartOf, guardName } from './graph.js';

export function pageOf(machine: AnyStateMachine, source: string): string {
  const chart = chartOf(machine);
  return [
    `# The chart of ${machine.id === 'server' ? 'the server' : `a ${machine.id}`}`,
    '',
    `Made from [${source}](${source}) by \`npm run charts\`; a test compares them. What an event does is there, with its reasons.`,
    '',
    '```mermaid',
    ...diagramOf(chart),
    '```',
    '',
    ...tableOf(machine),
    '',
    '**-**: forbidden, an error that stops the system. A guard in brackets: only if that is so, else what comes after it.',
    '',
  ].join('\n');
}

/** Mermaid knows no dash in a name. */
const named = (path: string) => path.slice(path.lastIndexOf('.') + 1).replaceAll('-', '_');

function diagramOf(chart: Chart): string[] {
  const ends = chart.states.filter(({ kind }) => kind === 'final').map(({ path }) => `  ${named(path)} --> [*]`);
  return ['stateDiagram-v2', ...insideOf(chart, '', '  '), ...ends];
}

/** The states in a state, and the ways that do not leave it; Mermaid wants each where it belongs. */
function insideOf(chart: Chart, parent: string, indent: string): string[] {
  const own = chart.states.filter((state) => state.parent === parent);
  const first = own.find(({ initial }) => initial);
  const inside = (path: string) => parent === '' || path.startsWith(`${parent}.`);
  const deeper = (from: string, to: string) =>
    own.some(({ path, kind }) => kind === 'compound' && from.startsWith(`${path}.`) && to.startsWith(`${path}.`));
  const ways = chart.ways.filter(({ from, to }) => inside(from) && inside(to) && !deeper(from, to));
  return [
    ...(first === undefined ? [] : [`${indent}[*] --> ${named(first.path)}`]),
    ...own.flatMap((state) => stateOf(chart, state, indent)),
    ...ways.map((way) => `${indent}${named(way.from)} --> ${named(way.to)} : ${labelOf(way)}`),
  ];
}

const labelOf = ({ steps }: ChartWay): string =>
  steps.map(({ event, guard }) => (guard === null ? event : `${event} [${guard}]`)).join(', ');

function stateOf(chart: Chart, { path, key, kind }: ChartState, indent: string): string[] {
  if (kind === 'compound') return [`${indent}state ${named(path)} {`, ...insideOf(chart, path, `${indent}  `), `${indent}}`];
  if (kind === 'history') return [`${indent}state "(where it was)" as ${named(path)}`];
  return named(path) === key ? [] : [`${indent}state "${key}" as ${named(path)}`];
}

function tableOf(machine: AnyStateMachine): string[] {
  const states = getStateNodes(machine).filter(({ type }) => type === 'atomic');
  const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [
    row(['', ...states.map(({ key }) => key)]),
    row(['---', ...states.map(() => '---')]),
    ...machine.events.map((event) => row([event, ...states.map((state) => effectOf(state, event))])),
  ];
}

/** What an event does in a state: of its own, or of one that it is in. */
function effectOf(state: AnyStateNode, event: string): string {
  const transitions = state.transitions.get(event);
  if (transitions === undefined) return state.parent === undefined ? '' : effectOf(state.parent, event);
  const parts = transitions.map(({ guard, target, actions }) => {
    const name = guardName(guard);
    const goal = target?.[0];
    const acts = (actions as readonly (string | { readonly type: string })[]).map((act) =>
      typeof act === 'string' ? act : act.type,
    );
    const where = goal === undefined ? (acts.includes('forbid') ? '-' : acts.join(', ')) : goalOf(goal);
    return name === null ? where : `[${name}] ${where}`;
  });
  return parts.join(', else ');
}

const goalOf = (node: AnyStateNode): string => (node.type === 'history' ? 'where it was' : node.key);
