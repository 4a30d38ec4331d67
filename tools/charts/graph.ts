/**
 * What is in a chart, read from the machine itself: its states and the ways between them. A transition without a target
 * (an event that is forbidden, ignored or only remembered) is no way; `mermaid.ts` has those in its table.
 */
import type { AnyStateMachine, AnyStateNode } from 'xstate';
import { type DirectedGraphNode, toDirectedGraph } from 'xstate/graph';

export interface ChartState {
  /** Without the machine's own name: `running.prefilling`. */
  readonly path: string;
  readonly key: string;
  readonly kind: 'atomic' | 'compound' | 'final' | 'history';
  /** The path of the state it is in; '' at the top. */
  readonly parent: string;
  /** What its parent, or the machine, begins in. */
  readonly initial: boolean;
}

/** All transitions from one state to another; more than one event may go that way. */
export interface ChartWay {
  readonly from: string;
  readonly to: string;
  readonly steps: readonly { readonly event: string; readonly guard: string | null }[];
  /** By the names of the innermost states, `queued>prefilling`: who comes from or goes to any of several may take each. */
  readonly flows: readonly string[];
}

export interface Chart {
  readonly name: string;
  readonly states: readonly ChartState[];
  readonly ways: readonly ChartWay[];
}

const pathOf = ({ path }: AnyStateNode): string => path.join('.');

export function chartOf(machine: AnyStateMachine): Chart {
  const root = toDirectedGraph(machine);
  const nodes = descendants(root);
  const states = nodes.map(({ stateNode }) => stateOf(stateNode));
  const ways = new Map<string, { from: AnyStateNode; to: AnyStateNode; steps: { event: string; guard: string | null }[] }>();
  for (const { source, target, transition } of nodes.flatMap(({ edges }) => edges)) {
    if (!transition.target?.length) continue;
    const name = `${pathOf(source)}>${pathOf(target)}`;
    const way = ways.get(name) ?? { from: source, to: target, steps: [] };
    way.steps.push({ event: transition.eventType, guard: guardName(transition.guard) });
    ways.set(name, way);
  }
  return {
    name: machine.id,
    states,
    ways: [...ways.values()].map(({ from, to, steps }) => ({
      from: pathOf(from),
      to: pathOf(to),
      steps,
      flows: leavesOf(from).flatMap((a) => entriesOf(to).map((b) => `${a.key}>${b.key}`)),
    })),
  };
}

export function guardName(guard: unknown): string | null {
  if (guard === undefined) return null;
  return typeof guard === 'string' ? guard : ((guard as { readonly type?: string }).type ?? 'guarded');
}

function descendants({ children }: DirectedGraphNode): DirectedGraphNode[] {
  return children.flatMap((child) => [child, ...descendants(child)]);
}

function stateOf(node: AnyStateNode): ChartState {
  return {
    path: pathOf(node),
    key: node.key,
    kind: node.type as ChartState['kind'],
    parent: node.parent === undefined ? '' : pathOf(node.parent),
    initial: node.parent?.initial?.target.includes(node) ?? false,
  };
}

/** The innermost states in a state, itself where it has none. */
function leavesOf(node: AnyStateNode): AnyStateNode[] {
  const children = Object.values(node.states).filter(({ type }) => type !== 'history');
  return children.length === 0 ? [node] : children.flatMap(leavesOf);
}

/** Where one may be after going to a state: a history leads back to any of those beside it. */
function entriesOf(node: AnyStateNode): AnyStateNode[] {
  if (node.type === 'history') return leavesOf(node.parent as AnyStateNode);
  const first = node.initial?.target[0];
  return first === undefined ? [node] : entriesOf(first);
}
