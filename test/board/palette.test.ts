/** The colours of the board, computed: legible in light and dark, and apart from each other to who does not see red or green. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

const THEME = readFileSync(new URL('../../src/http/board/page/styles/theme.css', import.meta.url), 'utf8');

type Rgb = readonly [number, number, number];

/** The colours of the first block that a selector begins. */
function coloursOf(selector: string): Map<string, Rgb> {
  const block = THEME.slice(THEME.indexOf(selector)).split('}', 1)[0] as string;
  const found = [...block.matchAll(/--([\w-]+): #([0-9a-f]{6})/g)];
  return new Map(
    found.map(([, name, hex]) => [
      name as string,
      [0, 2, 4].map((at) => Number.parseInt((hex as string).slice(at, at + 2), 16)) as unknown as Rgb,
    ]),
  );
}

const SHADES = { light: coloursOf(':root {'), dark: coloursOf(":root[data-theme='dark'] {") };
/** Biome writes either quote. */
if (SHADES.dark.size === 0) SHADES.dark = coloursOf(':root[data-theme="dark"] {');
const STATES = ['queued', 'prefilling', 'decoding', 'swapping-out', 'swapped', 'swapping-in'] as const;

const linear = (value: number) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const linearOf = (colour: Rgb) => colour.map((value) => linear(value / 255)) as unknown as Rgb;

/** As WCAG 2 has it. */
function contrast(a: Rgb, b: Rgb): number {
  const [one, other] = [a, b].map((colour) => {
    const [red, green, blue] = linearOf(colour);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }) as [number, number];
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}

type Matrix = readonly [Rgb, Rgb, Rgb];

/** What is left of a colour: Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB. */
const SIGHTS: Readonly<Record<string, Matrix>> = {
  trichromat: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protanope: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranope: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
};

const product = (rows: readonly Rgb[], [x, y, z]: Rgb) => rows.map(([a, b, c]) => a * x + b * y + c * z) as unknown as Rgb;

/** OKLab, in which distances are about as large as they look. */
function lab(colour: Rgb, sight: Matrix): Rgb {
  const seen = product(sight, linearOf(colour)).map((value) => Math.min(1, Math.max(0, value))) as unknown as Rgb;
  const cones = product(
    [
      [0.4122214708, 0.5363325363, 0.0514459929],
      [0.2119034982, 0.6806995451, 0.1073969566],
      [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    seen,
  ).map(Math.cbrt) as unknown as Rgb;
  return product(
    [
      [0.2104542553, 0.793617785, -0.0040720468],
      [1.9779984951, -2.428592205, 0.4505937099],
      [0.0259040371, 0.7827717662, -0.808675766],
    ],
    cones,
  );
}

const distance = (a: Rgb, b: Rgb) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);

describe.each(['light', 'dark'] as const)('in %s', (shade) => {
  const colours = SHADES[shade];
  const of = (name: string) => {
    const colour = colours.get(name);
    if (colour === undefined) throw new Error(`no --${name} in ${shade}`);
    return colour;
  };

  it('words have a contrast of 4.5 on every ground', () => {
    for (const ground of ['bg', 'surface', 'sunk']) {
      for (const words of ['ink', 'muted', 'accent', 'danger']) {
        expect(contrast(of(words), of(ground)), `${words} on ${ground}`).toBeGreaterThanOrEqual(4.5);
      }
    }
  });

  it('states, controls and the light of the focus have a contrast of 3', () => {
    for (const mark of [...STATES, 'done', 'control', 'accent', 'ok', 'warn'])
      expect(contrast(of(mark), of('surface')), mark).toBeGreaterThanOrEqual(3);
  });

  it.each(Object.keys(SIGHTS))('no two states look alike to a %s', (sight) => {
    for (const [index, one] of STATES.entries()) {
      for (const other of STATES.slice(index + 1)) {
        const apart = distance(lab(of(one), SIGHTS[sight] as Matrix), lab(of(other), SIGHTS[sight] as Matrix));
        expect(apart, `${one} and ${other}`).toBeGreaterThanOrEqual(0.06);
      }
    }
  });
});

it('both ways to be dark have the same colours', () => {
  const [, asked] = /prefers-color-scheme: dark\)([\s\S]*?)\n {2}\}/.exec(THEME) ?? [];
  const pairs = [...(asked as string).matchAll(/--([\w-]+): (#[0-9a-f]{6})/g)].map(([, name, hex]) => `${name} ${hex}`);
  const block = THEME.slice(THEME.search(/\n:root\[data-theme=.dark.\] \{/)).split('}', 1)[0] as string;
  expect(pairs).toEqual([...block.matchAll(/--([\w-]+): (#[0-9a-f]{6})/g)].map(([, name, hex]) => `${name} ${hex}`));
});
