/**
 * The safetensors container: which tensors a file holds, and where. Headers only; tensor data never enters
 * JavaScript, the native engine reads it from the file. Not here: what the tensors mean (`model.ts`).
 *
 * The format: 8 bytes little-endian header length N, N bytes of JSON (name -> dtype, shape, data_offsets relative
 * to the end of the header), then the data, which the tensors cover without a hole. Files come from strangers, so
 * everything is checked before it is believed; every failure is a `bad_model` that names file and tensor.
 */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { FastswitchError } from '../errors.js';

const MEBIBYTE = 1_048_576;
/** The limit of the reference implementation. */
const HEADER_BYTES_MAX = 100_000_000;
const INDEX_BYTES_MAX = 100 * MEBIBYTE;
/** A true header nests three deep, a config seldom six; deeper text is refused before it is built in memory. */
const JSON_DEPTH_MAX = 32;

/** Bits of one element. A dtype that is not listed is kept but its size cannot be checked. */
const DTYPE_BITS: ReadonlyMap<string, number> = new Map([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['U16', 16],
  ['I16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['U32', 32],
  ['I32', 32],
  ['F32', 32],
  ['U64', 64],
  ['I64', 64],
  ['F64', 64],
  ['C64', 64],
]);

interface StoredTensor {
  readonly name: string;
  /** As the file writes it: `F32`, `BF16`, ... */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** First byte, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

export interface SafetensorsFile {
  readonly path: string;
  /** Size of the whole file. */
  readonly bytes: number;
  /** sha256 of the header, hexadecimal. */
  readonly headerDigest: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** A tensor with the file that holds it: `file` is an index into `Checkpoint.files`. */
export interface PlacedTensor extends StoredTensor {
  readonly file: number;
  readonly path: string;
}

export interface Checkpoint {
  readonly files: readonly SafetensorsFile[];
  /** All tensors by name. */
  readonly tensors: ReadonlyMap<string, PlacedTensor>;
  readonly warnings: readonly string[];
}

export function badModel(message: string): FastswitchError {
  return new FastswitchError('bad_model', message);
}

/** A name from a file, safe to print: quoted, control characters escaped, bounded. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 117)}...` : name);
}

/**
 * Reads a whole small file of a model folder.
 * @throws FastswitchError `bad_model` where it is missing, no regular file, or larger than `bytesMax`.
 */
export function readSmallFile(path: string, bytesMax: number): Buffer {
  return withFile(path, (descriptor, bytes) => {
    if (bytes > bytesMax)
      throw badModel(
        `${path} has ${bytes} bytes, more than the ${bytesMax} such a file may have; it is not the file it should be`,
      );
    return readExactly(path, descriptor, 0, bytes);
  });
}

/**
 * Reads and checks the header of one file.
 * @throws FastswitchError `bad_model` for anything the format does not allow.
 */
export function readSafetensors(path: string): SafetensorsFile {
  return withFile(path, (descriptor, bytes) => {
    if (bytes < 10) throw badModel(`${path} has ${bytes} bytes, too few for a safetensors file; download it again`);
    const declared = readExactly(path, descriptor, 0, 8).readBigUInt64LE(0);
    const limit = Math.min(HEADER_BYTES_MAX, bytes - 8);
    if (declared < 2n || declared > BigInt(limit)) {
      throw badModel(
        `${path} declares a header of ${declared} bytes, expected 2 to ${limit}; the file is cut short or no safetensors file, download it again`,
      );
    }
    const header = readExactly(path, descriptor, 8, Number(declared));
    return parseSafetensors(path, header, bytes);
  });
}

/**
 * Checks a header that was read already.
 * @param header the JSON bytes, without the eight bytes of length.
 * @param bytes size of the whole file.
 * @throws FastswitchError `bad_model`.
 */
export function parseSafetensors(path: string, header: Buffer, bytes: number): SafetensorsFile {
  const root = parseObject(path, header);
  const metadata = readMetadata(path, root.__metadata__);
  const dataStart = 8 + header.length;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(root)) {
    if (name !== '__metadata__') tensors.set(name, readTensor(path, name, entry, dataStart, bytes));
  }
  checkCover(path, [...tensors.values()], dataStart, bytes);
  return { path, bytes, headerDigest: createHash('sha256').update(header).digest('hex'), tensors, metadata };
}

/**
 * Finds the weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
 * @throws FastswitchError `bad_model`, naming the missing shard or tensor.
 */
export function openCheckpoint(folder: string): Checkpoint {
  const single = join(folder, 'model.safetensors');
  const index = join(folder, 'model.safetensors.index.json');
  if (exists(single)) return collect([readSafetensors(single)], null, index);
  if (exists(index)) {
    const weightMap = readIndex(index);
    const shards = [...new Set(weightMap.values())].sort();
    const files = shards.map((shard) => {
      const path = join(folder, shard);
      if (!exists(path)) throw badModel(`${index} names the shard ${quoted(shard)}, which is not in the folder; download it`);
      return readSafetensors(path);
    });
    return collect(files, weightMap, index);
  }
  throw badModel(
    `${folder} has neither model.safetensors nor model.safetensors.index.json; convert the weights with save_pretrained(..., safe_serialization=True)`,
  );
}

function collect(files: readonly SafetensorsFile[], weightMap: ReadonlyMap<string, string> | null, index: string): Checkpoint {
  const tensors = new Map<string, PlacedTensor>();
  const warnings: string[] = [];
  for (const [file, { path, tensors: stored }] of files.entries()) {
    for (const tensor of stored.values()) {
      const owner = weightMap === null ? basename(path) : weightMap.get(tensor.name);
      if (owner === basename(path)) tensors.set(tensor.name, { ...tensor, file, path });
      else if (owner === undefined)
        warnings.push(`tensor ${quoted(tensor.name)} of ${basename(path)} is not in the index and was ignored`);
    }
  }
  for (const [name, shard] of weightMap ?? []) {
    if (!tensors.has(name))
      throw badModel(
        `${index} places tensor ${quoted(name)} in ${quoted(shard)}, which does not hold it; index and shards are of different downloads`,
      );
  }
  return { files, tensors, warnings };
}

function readIndex(path: string): ReadonlyMap<string, string> {
  const root = parseObject(path, readSmallFile(path, INDEX_BYTES_MAX));
  const entries = root.weight_map;
  if (!isObject(entries)) throw badModel(`${path} has no object "weight_map"; download it again`);
  const weightMap = new Map<string, string>();
  for (const [name, shard] of Object.entries(entries)) {
    if (typeof shard !== 'string') throw badModel(`${path}: the shard of ${quoted(name)} is no string`);
    // The index comes from outside: it may name files of its own folder and nothing else.
    if (!/^[^/\\\0]+\.safetensors$/.test(shard) || shard.startsWith('.')) {
      throw badModel(
        `${path} places ${quoted(name)} in ${quoted(shard)}; a shard must be a *.safetensors file directly in the model folder`,
      );
    }
    weightMap.set(name, shard);
  }
  if (weightMap.size === 0) throw badModel(`${path} has an empty "weight_map"; download it again`);
  return weightMap;
}

function readMetadata(path: string, value: unknown): ReadonlyMap<string, string> {
  if (value === undefined) return new Map();
  if (!isObject(value)) throw badModel(`${path}: "__metadata__" is no object`);
  return new Map(
    Object.entries(value).map(([key, text]) => {
      if (typeof text !== 'string') throw badModel(`${path}: "__metadata__" entry ${quoted(key)} is no string`);
      return [key, text];
    }),
  );
}

function readTensor(path: string, name: string, entry: unknown, dataStart: number, fileBytes: number): StoredTensor {
  const where = `${path}, tensor ${quoted(name)}`;
  if (!isObject(entry)) throw badModel(`${where}: expected an object with dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string') throw badModel(`${where}: "dtype" is no string`);
  if (!isCounts(shape)) throw badModel(`${where}: "shape" is no list of whole numbers`);
  if (!isCounts(offsets) || offsets.length !== 2) throw badModel(`${where}: "data_offsets" are not two whole numbers`);
  const [begin, end] = offsets as [number, number];
  const dataBytes = fileBytes - dataStart;
  if (begin > end || end > dataBytes) {
    throw badModel(
      `${where}: data_offsets [${begin}, ${end}] lie outside the ${dataBytes} bytes of data; the file is cut short or damaged, download it again`,
    );
  }
  const bits = DTYPE_BITS.get(dtype);
  if (bits !== undefined) {
    const expected = bytesOf(shape, bits);
    if (expected !== end - begin) {
      throw badModel(
        `${where}: ${dtype} of shape [${shape.join(', ')}] takes ${expected ?? 'more than any file has'} bytes, data_offsets give ${end - begin}`,
      );
    }
    if (begin % Math.max(1, Math.floor(bits / 8)) !== 0) {
      throw badModel(
        `${where}: data_offsets begin at ${begin}, which is not aligned for ${dtype}; save the file again with the safetensors library`,
      );
    }
  }
  return { name, dtype, shape, offset: dataStart + begin, bytes: end - begin };
}

/** Bytes of a tensor; null where they are no safe integer or no whole number of bytes. */
function bytesOf(shape: readonly number[], bits: number): number | null {
  // A zero anywhere makes the tensor empty whatever the other sizes multiply to.
  const elements = shape.includes(0) ? 0 : shape.reduce((product, size) => product * size, 1);
  const total = elements * bits;
  return Number.isSafeInteger(total) && total % 8 === 0 ? total / 8 : null;
}

/** The tensors must cover the data from first to last byte, each byte once. */
function checkCover(path: string, tensors: readonly StoredTensor[], dataStart: number, fileBytes: number): void {
  const ordered = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let next = dataStart;
  for (const tensor of ordered) {
    if (tensor.offset !== next) {
      const what =
        tensor.offset < next ? 'overlaps the tensor before it' : `leaves a hole of ${tensor.offset - next} bytes before it`;
      throw badModel(
        `${path}, tensor ${quoted(tensor.name)}: ${what} (data_offsets must cover the data without gaps); download the file again`,
      );
    }
    next = tensor.offset + tensor.bytes;
  }
  if (next !== fileBytes) {
    throw badModel(
      `${path}: the tensors end at byte ${next}, the file at ${fileBytes}; the header does not belong to this file, download it again`,
    );
  }
}

/**
 * Parses JSON of which the root is an object, refusing repeated keys: JSON.parse would silently keep the last, and
 * another reader the first.
 */
export function parseObject(path: string, bytes: Buffer): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw badModel(`${path}: the JSON is not valid UTF-8; the file is damaged, download it again`);
  }
  const flaw = jsonFlaw(text);
  if (flaw !== null) throw badModel(`${path}: ${flaw}; the file is damaged, download it again`);
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch {
    throw badModel(`${path}: the JSON cannot be parsed; the file is damaged, download it again`);
  }
  if (!isObject(root)) throw badModel(`${path}: expected a JSON object`);
  return root;
}

/** What JSON.parse would not tell: nesting beyond reason, a key given twice. Null where the text has neither. */
function jsonFlaw(text: string): string | null {
  const scopes: Set<string>[] = [];
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    if (letter === '{' || letter === '[') {
      if (scopes.push(new Set()) > JSON_DEPTH_MAX) return `the JSON nests deeper than ${JSON_DEPTH_MAX} levels`;
    } else if (letter === '}' || letter === ']') {
      scopes.pop();
    } else if (letter === '"') {
      const end = closingQuote(text, at);
      if (end === -1) return 'the JSON has an unfinished string';
      if (isKey(text, end)) {
        const key = unescaped(text.slice(at, end + 1));
        const scope = scopes[scopes.length - 1];
        if (key !== null && scope?.has(key)) return `the JSON gives ${quoted(key)} twice`;
        if (key !== null) scope?.add(key);
      }
      at = end;
    }
  }
  return null;
}

/** Index of the quote that ends the string starting at `start`, or -1. */
function closingQuote(text: string, start: number): number {
  for (let at = text.indexOf('"', start + 1); at !== -1; at = text.indexOf('"', at + 1)) {
    let slashes = 0;
    while (text[at - 1 - slashes] === '\\') slashes += 1;
    if (slashes % 2 === 0) return at;
  }
  return -1;
}

function isKey(text: string, end: number): boolean {
  let at = end + 1;
  while (text[at] === ' ' || text[at] === '\n' || text[at] === '\r' || text[at] === '\t') at += 1;
  return text[at] === ':';
}

function unescaped(literal: string): string | null {
  try {
    return JSON.parse(literal) as string;
  } catch {
    return null;
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0);
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Opens a regular file (a pipe would block for ever), hands its descriptor and size to `read`, and closes it. */
function withFile<T>(path: string, read: (descriptor: number, bytes: number) => T): T {
  let descriptor: number | null = null;
  try {
    if (!statSync(path).isFile()) throw badModel(`${path} is no regular file`);
    descriptor = openSync(path, 'r');
    return read(descriptor, fstatSync(descriptor).size);
  } catch (error) {
    if (error instanceof FastswitchError) throw error;
    throw badModel(`${path} cannot be read: ${(error as Error).message}`);
  } finally {
    if (descriptor !== null) closeSync(descriptor);
  }
}

function readExactly(path: string, descriptor: number, position: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  let filled = 0;
  while (filled < bytes) {
    const count = readSync(descriptor, buffer, filled, bytes - filled, position + filled);
    if (count === 0)
      throw badModel(`${path} ended after ${position + filled} bytes while it was read; another program may be writing it`);
    filled += count;
  }
  return buffer;
}

/**
 * Samples of the file's bytes, evenly spread, the last ones included: enough to tell two downloads apart without
 * reading gigabytes.
 */
export function sampleFile(path: string, samples: number, sampleBytes: number): Buffer {
  return withFile(path, (descriptor, bytes) => {
    if (bytes <= samples * sampleBytes) return readExactly(path, descriptor, 0, bytes);
    const step = (bytes - sampleBytes) / (samples - 1);
    return Buffer.concat(
      Array.from({ length: samples }, (_, index) => readExactly(path, descriptor, Math.floor(index * step), sampleBytes)),
    );
  });
}
