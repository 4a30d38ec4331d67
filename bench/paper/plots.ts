/**
 * Charts as SVG text, drawn by ECharts without a browser: bars and lines over a few panels, each value with the range
 * of its seeds. A preset has the same colour everywhere.
 */
import * as echarts from 'echarts';
import { PRESET_NAMES, type PresetName } from '../../src/core/presets.js';
import type { Band } from './statistics.js';
import { figure, tick } from './words.js';

export interface Point {
  /** Which category, counted from 0, or the value where the axis has none. */
  readonly x: number;
  readonly band: Band;
  /** Where a bar begins, if not at the bottom: the top of the bar it stands on. */
  readonly base?: number;
  /** If not that of its series. */
  readonly colour?: string;
}

export interface Series {
  readonly name: string;
  readonly colour: string;
  readonly type: 'bar' | 'line';
  readonly points: readonly Point[];
  readonly dashed?: boolean;
  /** Bars of one slot stand on each other; each series has a slot of its own unless it names one. */
  readonly slot?: string;
}

interface Axis {
  /** With the unit. */
  readonly name: string;
  readonly log?: boolean;
  readonly max?: number;
  readonly show?: (value: number) => string;
}

export interface Panel {
  readonly title: string;
  readonly x: Axis & { readonly categories?: readonly string[] };
  readonly y: Axis;
  readonly series: readonly Series[];
  /** Values of others, as dashed lines across. */
  readonly references?: readonly { readonly value: number; readonly label: string }[];
}

export interface Chart {
  readonly title: string;
  readonly about: string;
  readonly panels: readonly Panel[];
  readonly columns: number;
  readonly panelHeight: number;
  /** Bars lie, all panels beside each other, with this many pixels for the names of the categories before the first. */
  readonly lying?: number;
}

const COLOURS: Readonly<Record<PresetName, string>> = {
  'vllm-0.3': '#7d8896',
  'vllm-1': '#b5893a',
  llumnix: '#8b72b8',
  attentionstore: '#c2638f',
  fastserve: '#4f9d8d',
  vtc: '#9a9c3a',
  'hf-cb': '#96694f',
  fastswitch: '#e07b39',
  default: '#2f72b5',
};

/** Of a preset, with or without changes. */
export function colourOf(text: string): string {
  const base = PRESET_NAMES.find((name) => text === name || text.startsWith(`${name}+`) || text.startsWith(`${name}-`));
  return COLOURS[base ?? 'vllm-0.3'];
}

const PALE: Readonly<Record<'vllm-0.3' | 'fastswitch' | 'default', string>> = {
  'vllm-0.3': '#c3c9d0',
  fastswitch: '#f1bf9b',
  default: '#9cc0e0',
};

/** Of what is not quite the preset. */
export function paleOf(name: keyof typeof PALE): string {
  return PALE[name];
}

/** For series that are no presets. */
export const SHADES = ['#2f72b5', '#e07b39', '#4f9d8d', '#c2638f', '#8b72b8', '#9a9c3a'] as const;

const WIDTH = 900;
const INK = '#2b3138';
const FAINT = '#6a737d';
const RULE = '#dfe3e8';
const PAPER = '#fbfbf9';
const FONT = 'Helvetica, Arial, sans-serif';
const HEAD = 66;
const FOOT = 40;
const PANEL_TOP = 30;
const PANEL_BOTTOM = 56;
/** Of lying bars, whose axes have no names. */
const LYING_BOTTOM = 36;
const PANEL_RIGHT = 28;
const Y_WIDTH = 76;
/** Of the number at the end of a lying bar. */
const LABEL_WIDTH = 58;

interface Place {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** The picture as one SVG document: the same bytes for the same chart. */
export function render(chart: Chart): string {
  const rows = Math.ceil(chart.panels.length / chart.columns);
  const legend = legendOf(chart);
  const height = HEAD + rows * chart.panelHeight + (legend.length > 1 ? FOOT : 0);
  const picture = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height });
  const places = chart.panels.map((_, index) => placeOf(chart, index));
  picture.setOption({
    animation: false,
    backgroundColor: PAPER,
    textStyle: { fontFamily: FONT, color: INK },
    title: [
      {
        text: chart.title,
        subtext: chart.about,
        left: 18,
        top: 12,
        itemGap: 6,
        textStyle: { fontSize: 16, fontWeight: 'bold', color: INK },
        subtextStyle: { fontSize: 12, color: FAINT },
      },
      ...chart.panels.map(({ title }, index) => ({
        text: title,
        left: (places[index] as Place).left,
        top: (places[index] as Place).top - 26,
        padding: 0,
        textStyle: { fontSize: 13, fontWeight: 'bold' as const, color: INK },
      })),
    ],
    legend: {
      bottom: 12,
      left: 18,
      itemWidth: 16,
      itemHeight: 10,
      itemGap: 18,
      textStyle: { fontSize: 12, color: INK },
      show: legend.length > 1,
      data: legend,
    },
    grid: places.map((place) => ({ ...place, containLabel: false })),
    xAxis: chart.panels.map((panel, index) => axis(chart, panel, chart.lying === undefined ? 'x' : 'y', index)),
    yAxis: chart.panels.map((panel, index) => axis(chart, panel, chart.lying === undefined ? 'y' : 'x', index)),
    series: chart.panels.flatMap((panel, index) => seriesOf(chart, panel, index)),
  } as echarts.EChartsOption);
  const svg = picture.renderToSVGString();
  picture.dispose();
  return finished(svg, chart.title);
}

/** Class names that count pictures would differ with the order of drawing; a name for those who cannot see it. */
function finished(svg: string, title: string): string {
  const escaped = title.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `${svg
    .replaceAll(/\bzr\d+-/g, 'zr-')
    .replace(/<svg /, '<svg role="img" ')
    .replace(/>\n/, `>\n<title>${escaped}</title>\n`)
    .replace(/<rect /, '<rect rx="8" ')
    .trim()}\n`;
}

function placeOf({ panels, columns, panelHeight, lying }: Chart, index: number): Place {
  const count = Math.min(columns, panels.length);
  const before = lying ?? 0;
  const cell = (WIDTH - before) / count;
  const left = lying === undefined ? Y_WIDTH : 8;
  return {
    left: before + (index % columns) * cell + left,
    top: HEAD + Math.floor(index / columns) * panelHeight + PANEL_TOP,
    width: cell - left - (lying === undefined ? PANEL_RIGHT : LABEL_WIDTH),
    height: panelHeight - PANEL_TOP - (lying === undefined ? PANEL_BOTTOM : LYING_BOTTOM),
  };
}

function legendOf({ panels }: Chart) {
  const seen = new Map<string, Series>();
  for (const { series } of panels) for (const each of series) if (!seen.has(each.name)) seen.set(each.name, each);
  return [...seen.values()].map(({ name, colour, type }) => ({
    name,
    icon: type === 'bar' ? 'roundRect' : 'circle',
    itemStyle: { color: colour },
  }));
}

/** `which` of the panel's axes, as the `index`-th of the picture. Names of lying bars stand before the first panel only. */
function axis({ lying, columns }: Chart, panel: Panel, which: 'x' | 'y', index: number) {
  const { name, log = false, max, show = tick } = panel[which];
  const categories = which === 'x' ? panel.x.categories : undefined;
  const upright = (which === 'y') === (lying === undefined);
  const bars = which === 'y' && panel.series.some(({ type }) => type === 'bar');
  const named = lying === undefined || which === 'y' || index % columns === 0;
  return {
    gridIndex: index,
    type: categories !== undefined ? ('category' as const) : log ? ('log' as const) : ('value' as const),
    ...(categories === undefined ? {} : { data: [...categories], inverse: lying !== undefined }),
    ...(max === undefined ? {} : { max }),
    ...(bars && !log ? { min: 0 } : {}),
    ...(which === 'x' && log ? { logBase: 2 } : {}),
    ...(lying !== undefined && which === 'y' ? { splitNumber: 3 } : {}),
    name,
    nameLocation: 'middle' as const,
    nameGap: upright ? 54 : 30,
    nameTextStyle: { color: FAINT, fontSize: 11.5 },
    axisLine: { show: which === 'x', lineStyle: { color: '#aab1b9' } },
    axisTick: { show: false },
    splitLine: { show: which === 'y', lineStyle: { color: RULE } },
    axisLabel: {
      show: named,
      color: INK,
      fontSize: 11.5,
      hideOverlap: categories === undefined,
      ...(categories === undefined ? {} : { interval: categories.length > 8 && lying === undefined ? 1 : 0 }),
      formatter: labelOf(categories, show),
    },
  };
}

function labelOf(categories: readonly string[] | undefined, show: (value: number) => string) {
  return categories === undefined ? (value: number) => show(value) : (value: string) => value;
}

function seriesOf(chart: Chart, panel: Panel, index: number) {
  const slots = [...new Set(panel.series.filter(({ type }) => type === 'bar').map((each) => each.slot ?? each.name))];
  const drawn = panel.series.flatMap((series): object[] =>
    series.type === 'bar'
      ? [bars(chart, panel, series, index, { slot: slots.indexOf(series.slot ?? series.name), slots: slots.length })]
      : [line(panel, series, index), whiskers(panel, series, index)],
  );
  const references = (panel.references ?? []).map(({ value, label }) => ({
    type: 'line' as const,
    xAxisIndex: index,
    yAxisIndex: index,
    data: [],
    markLine: {
      silent: true,
      symbol: 'none',
      animation: false,
      lineStyle: { type: 'dashed' as const, color: '#a33', width: 1 },
      label: { formatter: label, position: 'insideEndTop' as const, color: '#a33', fontSize: 11 },
      data: [chart.lying === undefined ? { yAxis: value } : { xAxis: value }],
    },
  }));
  return [...drawn, ...references];
}

/** What can be drawn on the axis: nothing of nothing on a logarithmic one. */
function rowsOf({ y }: Panel, { points }: Series): number[][] {
  return points
    .filter(({ band }) => y.log !== true || band.mean > 0)
    .map(({ x, band, base = 0 }) => [
      x,
      band.mean,
      y.log === true ? Math.max(band.low, band.mean / 100) : band.low,
      band.high,
      base,
    ]);
}

function bars(chart: Chart, panel: Panel, series: Series, index: number, { slot, slots }: { slot: number; slots: number }) {
  const lying = chart.lying !== undefined;
  const rows = rowsOf(panel, series);
  const colours = new Map(series.points.map(({ x, colour }) => [x, colour ?? series.colour]));
  return {
    type: 'custom' as const,
    name: series.name,
    xAxisIndex: index,
    yAxisIndex: index,
    itemStyle: { color: series.colour },
    encode: lying ? { x: [1, 2, 3], y: 0 } : { x: 0, y: [1, 2, 3] },
    data: rows,
    renderItem(params: echarts.CustomSeriesRenderItemParams, api: echarts.CustomSeriesRenderItemAPI) {
      const [x = 0, mean = 0, low = 0, high = 0, base = 0] = [0, 1, 2, 3, 4].map((dimension) => Number(api.value(dimension)));
      const at = (value: number) => (lying ? api.coord([value, x]) : api.coord([x, value])) as [number, number];
      const unit = api.size?.([1, 1]) as number[];
      const width = (0.78 * Math.abs(unit[lying ? 1 : 0] as number)) / slots;
      const across = (slot - (slots - 1) / 2) * width;
      const { x: left, y: top, height } = params.coordSys as unknown as { x: number; y: number; height: number };
      const floor = base > 0 ? (at(base)[lying ? 0 : 1] as number) : lying ? left : top + height;
      const end = at(mean);
      const thick = Math.max(2, width - 2);
      const shape = lying
        ? { x: floor, y: end[1] + across - thick / 2, width: end[0] - floor, height: thick }
        : { x: end[0] + across - thick / 2, y: end[1], width: thick, height: floor - end[1] };
      return {
        type: 'group' as const,
        children: [
          { type: 'rect' as const, shape, style: { fill: colours.get(x) ?? series.colour } },
          ...(low === high ? [] : whisker(at(low), at(high), across, lying, Math.min(5, width / 3), INK)),
          ...(lying ? [endLabel(panel, at(Math.max(high, mean)), across, mean)] : []),
        ],
      };
    },
  };
}

function endLabel(panel: Panel, [x, y]: readonly [number, number], across: number, value: number) {
  const text = (panel.y.show ?? figure)(value);
  return {
    type: 'text' as const,
    x: x + 6,
    y: y + across,
    style: { text, fill: INK, fontSize: 10.5, fontFamily: FONT, verticalAlign: 'middle' as const },
  };
}

/** From the least to the greatest, with caps. */
function whisker(low: readonly number[], high: readonly number[], across: number, lying: boolean, cap: number, colour: string) {
  const style = { stroke: colour, lineWidth: 1, opacity: 0.75 };
  const shift = ([x = 0, y = 0]: readonly number[]) => (lying ? [x, y + across] : [x + across, y]) as [number, number];
  const [[x1, y1], [x2, y2]] = [shift(low), shift(high)];
  const segment = (ax: number, ay: number, bx: number, by: number) => ({
    type: 'line' as const,
    shape: { x1: ax, y1: ay, x2: bx, y2: by },
    style,
  });
  const caps = ([x, y]: readonly [number, number]) => (lying ? segment(x, y - cap, x, y + cap) : segment(x - cap, y, x + cap, y));
  return [segment(x1, y1, x2, y2), caps([x1, y1]), caps([x2, y2])];
}

function line(panel: Panel, series: Series, index: number) {
  return {
    type: 'line' as const,
    name: series.name,
    xAxisIndex: index,
    yAxisIndex: index,
    symbol: 'circle',
    symbolSize: 6,
    lineStyle: { width: 2, color: series.colour, type: series.dashed === true ? ('dashed' as const) : ('solid' as const) },
    itemStyle: { color: series.colour },
    data: rowsOf(panel, series).map(([x, mean]) => [x, mean]),
  };
}

function whiskers(panel: Panel, series: Series, index: number) {
  return {
    type: 'custom' as const,
    name: series.name,
    xAxisIndex: index,
    yAxisIndex: index,
    itemStyle: { color: series.colour },
    encode: { x: 0, y: [2, 3] },
    data: rowsOf(panel, series).filter(([, , low, high]) => low !== high),
    renderItem(_: echarts.CustomSeriesRenderItemParams, api: echarts.CustomSeriesRenderItemAPI) {
      const at = (dimension: number) => api.coord([api.value(0), api.value(dimension)]);
      return { type: 'group' as const, children: whisker(at(2), at(3), 0, false, 4, series.colour) };
    },
  };
}
