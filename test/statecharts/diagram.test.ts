/** The diagram of the request chart in ARCHITECTURE.md is the chart: the same edges, by the same events. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { type DirectedGraphNode, toDirectedGraph } from 'xstate/graph';
import { requestMachine } from '../../statecharts/request.js';

function edgesOf(node: DirectedGraphNode): string[] {
  const own = node.edges
    .filter((edge) => edge.transition.target?.length)
    .map((edge) => {
      const name = (key: string) =>
        (key.endsWith('resumed') ? 'running' : key).replace('running.prefilling', 'running').replaceAll('-', '_');
      const [source, target] = [edge.source, edge.target].map((state) => state.id.replace('request.', ''));
      // Into `running` as a whole: to its initial state, or back to where it was.
      return `${name(source as string)} --> ${name(target as string)} : ${edge.label.text}`;
    });
  return [...own, ...node.children.flatMap(edgesOf)];
}

it('ARCHITECTURE.md shows every transition of the request chart and no other', () => {
  const page = readFileSync(new URL('../../ARCHITECTURE.md', import.meta.url), 'utf8');
  const diagram = /```mermaid\nstateDiagram-v2\n([\s\S]*?)```/.exec(page)?.[1] ?? '';
  const shown = [...diagram.matchAll(/^\s*(\w+) --> (\w+) : (.+)$/gm)].flatMap(([, from, to, events]) =>
    (events as string).split(', ').map((event) => `${from} --> ${to} : ${event}`),
  );
  const charted = edgesOf(toDirectedGraph(requestMachine)).map((edge) =>
    edge.replace('running --> running.decoding', 'prefilling --> decoding'),
  );
  expect([...new Set(shown)].sort()).toEqual([...new Set(charted)].sort());
});
