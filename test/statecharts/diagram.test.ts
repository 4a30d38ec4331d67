/** The diagrams of the charts are the charts: in ARCHITECTURE.md, and in the pages beside the machines. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { requestMachine } from '../../statecharts/request.js';
import { serverMachine } from '../../statecharts/server.js';
import { chartOf } from '../../tools/charts/graph.js';
import { pageOf } from '../../tools/charts/mermaid.js';

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');

/** As ARCHITECTURE.md has them: into `running` as a whole, to its initial state or back to where it was. */
function edges(): string[] {
  const name = (path: string) => {
    const whole = /^running\.(prefilling|resumed)$/.test(path) ? 'running' : path;
    return whole.replaceAll('-', '_');
  };
  return chartOf(requestMachine).ways.flatMap(({ from, to, steps }) =>
    steps.map(({ event }) =>
      from === 'running.prefilling' ? `prefilling --> decoding : ${event}` : `${name(from)} --> ${name(to)} : ${event}`,
    ),
  );
}

it('ARCHITECTURE.md shows every transition of the request chart and no other', () => {
  const diagram = /```mermaid\nstateDiagram-v2\n([\s\S]*?)```/.exec(read('ARCHITECTURE.md'))?.[1] ?? '';
  const shown = [...diagram.matchAll(/^\s*(\w+) --> (\w+) : (.+)$/gm)].flatMap(([, from, to, events]) =>
    (events as string).split(', ').map((event) => `${from} --> ${to} : ${event}`),
  );
  expect([...new Set(shown)].sort()).toEqual([...new Set(edges())].sort());
});

describe('the pages beside the machines', () => {
  it.each([
    ['request', requestMachine],
    ['server', serverMachine],
  ] as const)('statecharts/%s.md is what `npm run charts` makes', (name, machine) => {
    expect(read(`statecharts/${name}.md`)).toBe(pageOf(machine, `${name}.ts`));
  });
});
