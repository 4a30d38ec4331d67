/**
 * A screenshot as a PNG of at most 256 colours, a third of the size: what is on a screen has few colours and many of their
 * mixtures at the edges of letters. Reads what Chromium writes: 8 bits, RGB or RGBA, not interlaced.
 */
import { crc32, deflateSync, inflateSync } from 'node:zlib';

const SIGNATURE = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
const COLOURS = 256;

/** @param {Buffer} png @returns {Buffer} */
export function indexed(png) {
  const { width, height, pixels } = decoded(png);
  const { palette, indexOf } = paletteOf(pixels);
  const rows = Buffer.alloc(height * (width + 1));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) rows[y * (width + 1) + 1 + x] = indexOf(pixels[y * width + x]);
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 3, 0, 0, 0], 8);
  const colours = Buffer.from(palette.flatMap((colour) => [colour >> 16, (colour >> 8) & 255, colour & 255]));
  const parts = [
    chunk('IHDR', header),
    chunk('PLTE', colours),
    chunk('IDAT', deflateSync(rows, { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ];
  return Buffer.concat([SIGNATURE, ...parts]);
}

/** Pixels as 24 bits each. */
function decoded(png) {
  const width = png.readUInt32BE(16);
  const height = png.readUInt32BE(20);
  const channels = { 2: 3, 6: 4 }[png[25]];
  if (png[24] !== 8 || channels === undefined || png[28] !== 0) throw new Error('a PNG of another kind');
  const data = [];
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT') data.push(png.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const stride = width * channels;
  const raw = inflateSync(Buffer.concat(data));
  const pixels = new Uint32Array(width * height);
  let above = Buffer.alloc(stride);
  for (let y = 0; y < height; y += 1) {
    const row = raw.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1));
    unfilter(raw[y * (stride + 1)], row, above, channels);
    for (let x = 0; x < width; x += 1) pixels[y * width + x] = row.readUIntBE(x * channels, 3);
    above = row;
  }
  return { width, height, pixels };
}

/** The five filters of the PNG specification, undone in place. */
function unfilter(filter, row, above, channels) {
  for (let at = 0; at < row.length; at += 1) {
    const left = at < channels ? 0 : row[at - channels];
    const up = above[at];
    const corner = at < channels ? 0 : above[at - channels];
    row[at] += [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(guess - value));
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** Median cut: the box with most to tell apart is split at the middle of its longest side, until there are enough. */
function paletteOf(pixels) {
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  let boxes = [[...counts.keys()]];
  while (boxes.length < COLOURS) {
    const weights = boxes.map((box) => (box.length < 2 ? 0 : longestSide(box).length * Math.sqrt(weightOf(box, counts))));
    const most = weights.indexOf(Math.max(...weights));
    if (weights[most] === 0) break;
    boxes = [...boxes.slice(0, most), ...split(boxes[most], counts), ...boxes.slice(most + 1)];
  }
  const index = new Map(boxes.flatMap((box, number) => box.map((colour) => [colour, number])));
  return { palette: boxes.map((box) => mean(box, counts)), indexOf: (colour) => index.get(colour) };
}

const weightOf = (box, counts) => box.reduce((sum, colour) => sum + counts.get(colour), 0);
const part = (colour, shift) => (colour >> shift) & 255;

function longestSide(box) {
  const sides = [16, 8, 0].map((shift) => {
    let [low, high] = [255, 0];
    for (const colour of box) [low, high] = [Math.min(low, part(colour, shift)), Math.max(high, part(colour, shift))];
    return { shift, length: high - low };
  });
  return sides.reduce((a, b) => (b.length > a.length ? b : a));
}

function split(box, counts) {
  const { shift } = longestSide(box);
  const sorted = box.toSorted((a, b) => part(a, shift) - part(b, shift));
  const half = weightOf(box, counts) / 2;
  let at = 1;
  for (let sum = counts.get(sorted[0]); sum < half && at < sorted.length - 1; at += 1) sum += counts.get(sorted[at]);
  return [sorted.slice(0, at), sorted.slice(at)];
}

function mean(box, counts) {
  const all = weightOf(box, counts);
  const [red, green, blue] = [16, 8, 0].map((shift) =>
    Math.round(box.reduce((sum, colour) => sum + part(colour, shift) * counts.get(colour), 0) / all),
  );
  return (red << 16) | (green << 8) | blue;
}

function chunk(name, data) {
  const body = Buffer.concat([Buffer.from(name, 'latin1'), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}
