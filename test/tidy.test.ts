/** The house rules that a machine can hold: corridors, lengths, banned words. See ARCHITECTURE.md. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../', import.meta.url));
const LINES_MAX = 450;
const FUNCTION_LINES_MAX = 80;

function filesBelow(folder: string, endings: readonly string[]): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .filter((file) => !file.includes('native/build/'));
}

const sources = [
  ...filesBelow('src', ['.ts', '.tsx', '.mjs']),
  ...filesBelow('statecharts', ['.ts']),
  ...filesBelow('tools/charts', ['.ts']),
];
const text = (file: string) => readFileSync(join(ROOT, file), 'utf8');

interface Import {
  readonly from: string;
  readonly typeOnly: boolean;
}

/** What a file imports: paths inside the project without their ending, packages and node: modules by name. */
function importsOf(file: string): Import[] {
  const pattern = /^(?:import|export)\s+(type\s)?(?:[^'"]*?\sfrom\s+)?'([^']+)'/gms;
  return [...text(file).matchAll(pattern)].map(([, type, from]) => ({
    typeOnly: type !== undefined,
    from: from?.startsWith('.') ? normalize(join(dirname(file), from)).replace(/\.(js|mjs)$/, '') : (from as string),
  }));
}

/** Rooms and what they may import. `type:` allows types only. Everyone may import src/errors. */
const CORRIDORS: readonly { room: RegExp; may: readonly RegExp[]; types?: readonly RegExp[] }[] = [
  { room: /^src\/errors\.ts$/, may: [] },
  { room: /^src\/flags\.ts$/, may: [/^node:util$/] },
  { room: /^src\/core\//, may: [/^src\/core\//] },
  { room: /^statecharts\//, may: [/^statecharts\//, /^xstate$/], types: [/^src\/core\/types$/] },
  { room: /^src\/actors\/live\.ts$/, may: [/^src\/(core|actors|native)\//, /^node:/] },
  { room: /^src\/actors\/thread(-worker)?\.ts$/, may: [/^src\/(core|actors)\//, /^node:/] },
  {
    room: /^src\/actors\/(frames|segments|journal|recording|digest)\.ts$/,
    may: [/^src\/(core|actors)\//, /^node:/, /^msgpackr$/],
  },
  { room: /^src\/actors\//, may: [/^src\/(core|actors)\//, /^statecharts\//, /^xstate$/] },
  { room: /^src\/replay\//, may: [/^src\/(replay|simulation|core|actors)\//, /^src\/flags$/, /^node:/] },
  { room: /^src\/native\//, may: [/^src\/native\//, /^node:/, /^piscina$/], types: [/^src\/core\/types$/] },
  {
    room: /^src\/http\/board\/page\//,
    may: [/^src\/http\/board\/page\//, /^src\/core\/board$/, /^preact(\/hooks)?$/, /^uplot$/],
    types: [/^src\/core\/(types|metrics)$/],
  },
  { room: /^tools\/charts\//, may: [/^(tools\/charts|statecharts)\//, /^xstate(\/graph)?$/, /^@viz-js\/viz$/, /^node:/] },
  {
    room: /^src\/http\//,
    may: [/^src\/http\/(?!board\/page\/)/, /^src\/core\/(types|config|life|board)$/, /^node:/, /^(?!xstate$|piscina$)[@\w]/],
    types: [/^src\/actors\/(system|ports)$/, /^src\/core\/metrics$/],
  },
  { room: /^src\/simulation\//, may: [/^src\/(simulation|core|actors)\//, /^src\/flags$/, /^node:/] },
  { room: /^src\/keys\.ts$/, may: [/^src\/http\/(keys|tenant-settings)$/, /^src\/flags$/] },
  { room: /^src\/devices\.ts$/, may: [/^src\/native\/(index|device)$/, /^src\/flags$/, /^node:/] },
  { room: /^src\/(main|options)\.ts$/, may: [/./] },
];

describe('the corridors', () => {
  it.each(sources)('%s imports only what its room may', (file) => {
    const corridor = CORRIDORS.find(({ room }) => room.test(file));
    expect(corridor, 'a file in no room').toBeDefined();
    for (const { from, typeOnly } of importsOf(file)) {
      const allowed = [...(corridor?.may ?? []), ...(typeOnly ? (corridor?.types ?? []) : []), /^src\/errors$/];
      expect(
        allowed.some((pattern) => pattern.test(from)),
        `imports ${from}`,
      ).toBe(true);
    }
  });

  it('only src/native/index.ts and worker.mjs load the addon, and only addon.cc includes napi.h', () => {
    const loaders = sources.filter((file) => /createRequire\(import\.meta\.url\)\(|process\.dlopen/.test(text(file)));
    expect(loaders).toEqual(['src/native/index.ts', 'src/native/worker.mjs']);
    const native = filesBelow('src/native', ['.cc', '.h']);
    expect(native.filter((file) => text(file).includes('napi.h'))).toEqual(['src/native/addon.cc']);
  });
});

describe('the pure rooms', () => {
  const banned = /\b(Date|Math\.random|performance|setTimeout|process|crypto|async|await|Promise)\b/;
  const code = (file: string) =>
    text(file)
      .replace(/\/\*[\s\S]*?\*\//g, '')
      .replace(/\/\/.*$/gm, '')
      .replace(/'[^'\n]*'/g, "''");

  it.each(sources.filter((file) => /^(src\/core|statecharts)\//.test(file)))(
    '%s knows no clock, chance, process or promise',
    (file) => {
      expect(banned.exec(code(file))?.[0]).toBeUndefined();
    },
  );
});

describe('one reading', () => {
  const rooms = [
    ...sources,
    ...filesBelow('src/native', ['.cc', '.h', '.cu', '.cuh']),
    ...filesBelow('test/native/standin', ['.cc', '.h']),
    ...filesBelow('bench', ['.ts']),
  ];

  it.each(rooms)('%s is short enough', (file) => {
    expect(text(file).split('\n').length).toBeLessThanOrEqual(LINES_MAX);
  });

  it.each(sources)('the functions of %s are short enough', (file) => {
    const lines = text(file).split('\n');
    const starts = /^( {0,2})(export )?(async )?(function[ *]|(static |readonly )?#?\w+\(.*\{$)/;
    lines.forEach((line, start) => {
      const indent = starts.exec(line)?.[1];
      if (indent === undefined) return;
      const end = lines.findIndex((candidate, at) => at > start && candidate.startsWith(`${indent}}`));
      expect(end - start, `line ${start + 1}: ${line.trim()}`).toBeLessThanOrEqual(FUNCTION_LINES_MAX);
    });
  });

  it('no room is called after what it is not', () => {
    expect(sources.filter((file) => /(util|helper|manager|service|base)s?\.(ts|mjs)$/i.test(file))).toEqual([]);
  });
});
