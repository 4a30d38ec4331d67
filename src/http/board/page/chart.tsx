/**
 * A statechart as it was drawn from its machine, alive: how many requests are in each state, a dot along a way for each that
 * goes it, and thicker ways where more went lately.
 */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { BoardFrame } from '../../../core/board.js';
import { count, plural } from './format.js';

export type ChartName = 'request' | 'server';

const drawings = new Map<ChartName, Promise<Document>>();

function drawing(name: ChartName): Promise<Document> {
  let loading = drawings.get(name);
  if (loading === undefined) {
    loading = fetch(`/board/charts/${name}.svg`)
      .then((answer) => (answer.ok ? answer.text() : MISSING))
      .then((text) => new DOMParser().parseFromString(text, 'image/svg+xml'));
    drawings.set(name, loading);
  }
  return loading;
}

/** It is drawn when the page is built. */
const MISSING = '<svg xmlns="http://www.w3.org/2000/svg"><title>The chart is not there: build the page again.</title></svg>';

export interface ChartProps {
  readonly name: ChartName;
  readonly words: string;
  /** Requests in each state, by the chart's names. */
  readonly counts?: Readonly<Record<string, number>>;
  /** Other words in the same places. */
  readonly notes?: Readonly<Record<string, string>>;
  /** How often each way was gone; what is more than at the last time runs along it. */
  readonly transitions?: BoardFrame['transitions'];
  /** Times a second, lately. */
  readonly rates?: ReadonlyMap<string, number>;
  readonly lit?: string | null;
  /** Ways that were gone. */
  readonly gone?: ReadonlySet<string>;
  readonly pressed?: ReadonlySet<string>;
  readonly onState?: (state: string) => void;
}

/** The states of a chart that the viewer may ask for: those that requests are in. */
const ASKABLE = '.state.atomic, .state.compound';
/** More at once are one crowd. */
const DOTS_MAX = 4;
const DOT_MILLIS = 650;

export function StateChart(props: ChartProps) {
  const holder = useRef<HTMLElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const [svg, setSvg] = useState<SVGSVGElement | null>(null);
  useEffect(() => {
    let wanted = true;
    void drawing(props.name).then((page) => {
      if (!wanted || holder.current === null) return;
      const copy = document.importNode(page.documentElement, true) as unknown as SVGSVGElement;
      prepare(copy, latest);
      holder.current.replaceChildren(copy);
      setSvg(copy);
    });
    return () => {
      wanted = false;
    };
  }, [props.name]);
  // Before the page is painted, so that its figures are of one frame.
  useLayoutEffect(() => {
    if (svg !== null) update(svg, props);
  });
  const seen = useRef<BoardFrame['transitions'] | null>(null);
  useEffect(() => {
    if (svg !== null && seen.current !== null && props.transitions !== undefined) pulse(svg, seen.current, props.transitions);
    seen.current = props.transitions ?? null;
  }, [svg, props.transitions]);
  return <figure class="chart-holder" ref={holder} aria-label={props.words} />;
}

/** States that can be asked for become buttons. */
function prepare(svg: SVGSVGElement, latest: { readonly current: ChartProps }): void {
  svg.removeAttribute('width');
  svg.removeAttribute('height');
  if (latest.current.onState === undefined) {
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', latest.current.words);
    return;
  }
  for (const state of svg.querySelectorAll<SVGGElement>(ASKABLE)) {
    const choose = () => latest.current.onState?.(state.dataset.state as string);
    state.setAttribute('role', 'button');
    state.setAttribute('tabindex', '0');
    state.addEventListener('click', choose);
    state.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      choose();
    });
  }
}

function update(svg: SVGSVGElement, { counts, notes, rates, lit, gone, pressed }: ChartProps): void {
  for (const state of svg.querySelectorAll<SVGGElement>('.state')) {
    const name = state.dataset.state as string;
    const inside = counts?.[name];
    state.classList.toggle('lit', lit === name);
    state.classList.toggle('busy', (inside ?? 0) > 0);
    const text = state.querySelector('.count');
    if (text !== null) setText(text, inside === undefined ? (notes?.[name] ?? '') : count(inside));
    if (inside === undefined) continue;
    if (state.getAttribute('role') !== 'button') continue;
    state.setAttribute('aria-label', `${name}: ${plural(inside, 'request')}`);
    state.setAttribute('aria-pressed', String(pressed?.has(name) ?? false));
  }
  for (const way of svg.querySelectorAll<SVGElement>('[data-flows]')) {
    const flows = flowsOf(way);
    const rate = flows.reduce((sum, flow) => sum + (rates?.get(flow) ?? 0), 0);
    way.classList.toggle(
      'gone',
      flows.some((flow) => gone?.has(flow) ?? false),
    );
    way.dataset.heat = rate === 0 ? '0' : String(Math.min(4, 1 + Math.floor(Math.log10(rate * 10 + 1) * 1.5)));
  }
}

const flowsOf = (way: SVGElement): string[] => (way.dataset.flows ?? '').split(' ');

function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

function pulse(svg: SVGSVGElement, before: BoardFrame['transitions'], after: BoardFrame['transitions']): void {
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  for (const way of svg.querySelectorAll<SVGGElement>('.way')) {
    const times = flowsOf(way).reduce((sum, flow) => sum + Math.max(0, (after[flow] ?? 0) - (before[flow] ?? 0)), 0);
    if (times === 0) continue;
    way.querySelector('.line')?.animate([{ opacity: 1 }, { opacity: 0.55 }], { duration: DOT_MILLIS });
    if (!calm) run(way, Math.min(DOTS_MAX, times));
  }
}

function run(way: SVGGElement, dots: number): void {
  const line = way.querySelector('.line')?.getAttribute('d');
  if (!line || way.querySelectorAll('.dot').length > 2 * DOTS_MAX) return;
  for (let index = 0; index < dots; index += 1) {
    const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    dot.setAttribute('class', 'dot');
    dot.setAttribute('r', '3.4');
    dot.style.offsetPath = `path("${line}")`;
    dot.style.offsetRotate = '0deg';
    way.append(dot);
    const animation = dot.animate(
      [
        { offsetDistance: '0%', opacity: 0.2 },
        { opacity: 1, offset: 0.15 },
        { offsetDistance: '100%', opacity: 0.9 },
      ],
      { duration: DOT_MILLIS, delay: (index * DOT_MILLIS) / (2 * dots), easing: 'cubic-bezier(.4,0,.4,1)', fill: 'backwards' },
    );
    animation.onfinish = () => dot.remove();
    animation.oncancel = () => dot.remove();
  }
}
