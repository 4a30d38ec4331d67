/**
 * How a journal lies in a file: 8 magic bytes, then frames, `[u32 length][u32 crc32][body]`, little-endian, the length and
 * the checksum being the body's. The first frame is the header, each other one a record. Bodies are MessagePack as msgpackr
 * writes it in sequence: the first body of a shape tells its keys and later ones only name it, so that a stream can only be
 * read from its start.
 */
import { crc32 } from 'node:zlib';
import { addExtension, Packr } from 'msgpackr';

/** Not ASCII at once, with both kinds of line end: what mangles texts is seen in the first bytes. */
export const MAGIC = Buffer.from('\x8bFSJ\r\n\x1a\n', 'latin1');

/** Bytes before a body. */
export const FRAME_HEAD = 8;

/** Longest body, in bytes: the prompt of 3 million tokens with its content. What claims to be longer is no frame. */
export const BODY_BYTES_MAX = 16 * 2 ** 20;

/** A text that has no UTF-8, because half of a surrogate pair is missing: JSON can send such a tenant. */
class Unpaired {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

const UNPAIRED = 1;
addExtension({
  Class: Unpaired,
  type: UNPAIRED,
  pack: ({ text }: Unpaired) => Buffer.from(text, 'utf16le'),
  unpack: (bytes) => Buffer.from(bytes).toString('utf16le'),
});
/**
 * Of msgpackr's own: big integers, bundles of strings, errors, objects with an identity, references, sets, typed arrays,
 * regular expressions, dates. No journal holds any, and a bundle can send the reader back to what it has read, for ever.
 */
for (const type of [0x42, 0x62, 0x65, 0x69, 0x70, 0x73, 0x74, 0x78, 0xff]) {
  addExtension({
    type,
    unpack: () => {
      throw new Error(`a value of kind ${type}, which no journal has`);
    },
  });
}

const HALF_PAIR = /\p{Surrogate}/u;

/** A text, or a list of texts, that can be packed; the value itself where it can, or is something else. */
function packable(value: unknown): unknown {
  if (typeof value === 'string') return HALF_PAIR.test(value) ? new Unpaired(value) : value;
  if (!Array.isArray(value) || typeof value[0] !== 'string') return value;
  return value.some((text) => HALF_PAIR.test(text)) ? value.map(packable) : value;
}

/** Writes one stream of frames. */
export class FrameWriter {
  // A literal of its own: msgpackr writes into what it is given.
  readonly #packr = new Packr({ sequential: true });

  /**
   * The next frame. One that is made and not written ends the stream: later ones may name what only it tells. Texts from
   * outside are fields of the value, or in lists that are.
   */
  frame(value: object): Buffer {
    let fit: object = value;
    for (const key in value) {
      const field = value[key as keyof typeof value] as unknown;
      const other = packable(field);
      if (other !== field) fit = { ...fit, [key]: other };
    }
    const body = this.#packr.pack(fit);
    const frame = Buffer.allocUnsafe(FRAME_HEAD + body.length);
    frame.writeUInt32LE(body.length, 0);
    frame.writeUInt32LE(crc32(body), 4);
    frame.set(body, FRAME_HEAD);
    return frame;
  }
}

/** Whole frames from the start of `bytes`; of their bodies only the lengths are looked at. */
export function countFrames(bytes: Buffer): number {
  let count = 0;
  for (let at = 0; at + FRAME_HEAD <= bytes.length; count += 1) {
    at += FRAME_HEAD + bytes.readUInt32LE(at);
    if (at > bytes.length) break;
  }
  return count;
}

/** Reads the bodies of one stream of frames, in their order. */
export class BodyReader {
  // Copied, because the bytes that a value would point into are read over.
  readonly #packr = new Packr({ sequential: true, copyBuffers: true });

  /** @throws Error for what is no MessagePack. */
  value(body: Uint8Array): unknown {
    return this.#packr.unpack(body);
  }
}
