/**
 * Text to token ids and back, as the checkpoint's own tokenizer has it.
 *
 * Raw prompts may contain control tokens by their spelling (the client is the template). Messages of a chat may not:
 * see `control-tokens.ts`. Long texts are encoded on a thread of their own, so that one client's book does not hold
 * up the streams of all others.
 */
import { Tokenizer as TextEncoding } from '@huggingface/tokenizers';
import { FastswitchError } from '../errors.js';
import { type ChatMessage, ChatTemplate, type TemplateOptions } from './chat-template.js';
import { assertClean } from './control-tokens.js';
import { EncoderThread } from './encoder-thread.js';
import { TextStream } from './text-stream.js';
import { readTokenizerFiles, type TokenizerFiles } from './tokenizer-files.js';

/** Longer texts go to the encoder thread. This many take 2 ms, at worst (one endless word) 15; a hop costs 0.2. */
const HERE_CHARACTERS_MAX = 4_000;

const BYTE_PIECE = /^<0x([0-9A-Fa-f]{2})>$/;
const NO_BYTES = new Uint8Array(0);
const utf8 = new TextEncoder();

/**
 * The alphabet of byte-level BPE: printable Latin-1 characters stand for themselves, the other bytes, in order, for
 * the characters from U+0100 on (GPT-2's table).
 */
function byteAlphabet(): ReadonlyMap<string, number> {
  const alphabet = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte += 1) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    alphabet.set(String.fromCharCode(printable ? byte : next), byte);
    if (!printable) next += 1;
  }
  return alphabet;
}

const ALPHABET = byteAlphabet();

/**
 * @param folder A Hugging Face checkpoint's folder.
 * @throws FastswitchError bad_model if a file is missing, damaged or of an unsupported kind.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const files = await readTokenizerFiles(folder);
  let encoding: TextEncoding;
  try {
    encoding = new TextEncoding(JSON.parse(files.sealedJson) as object, {});
    const trial = encoding.encode('a', { add_special_tokens: true }).ids;
    if (!trial.every(Number.isSafeInteger)) throw new Error('it gives tokens without an id');
  } catch (error) {
    throw new FastswitchError('bad_model', `tokenizer.json cannot be used: ${(error as Error).message} (in ${folder})`);
  }
  return new Tokenizer(files, encoding);
}

export class Tokenizer {
  readonly #files: TokenizerFiles;
  readonly #encoding: TextEncoding;
  readonly #template: ChatTemplate | null;
  readonly #thread: EncoderThread;
  readonly #bytes = new Map<number, Uint8Array>();
  /** The largest token id plus one. */
  readonly size: number;

  /** See `loadTokenizer`. */
  constructor(files: TokenizerFiles, encoding: TextEncoding) {
    this.#files = files;
    this.#encoding = encoding;
    this.#template = files.chatTemplate === null ? null : new ChatTemplate(files.chatTemplate, files);
    this.#thread = new EncoderThread(files.sealedJson);
    let size = 0;
    for (const id of files.pieces.keys()) size = Math.max(size, id + 1);
    this.size = size;
  }

  /** @throws FastswitchError bad_model if a token id is beyond the model's vocabulary. */
  assertFits(vocabularySize: number): void {
    if (this.size <= vocabularySize) return;
    throw new FastswitchError(
      'bad_model',
      `The tokenizer's highest token id is ${this.size - 1}, but the model's vocabulary has ${vocabularySize} entries. Use the tokenizer that belongs to the model.`,
    );
  }

  get eosToken(): number | null {
    return this.#files.eosToken;
  }

  get hasChatTemplate(): boolean {
    return this.#template !== null;
  }

  /**
   * Token ids of a raw prompt, in which control tokens are recognised.
   * @param addSpecial Add what the tokenizer adds around a text, such as a beginning-of-sequence token.
   * @param tokensMax A long text that surely has more is not read to its end.
   * @throws FastswitchError context_length_exceeded for such a text.
   */
  async encodePrompt(text: string, addSpecial: boolean, tokensMax: number, param: string): Promise<Int32Array> {
    assertClean(text, param);
    return this.#encode(this.#files.control.seal(text), addSpecial, tokensMax, param);
  }

  /** Token ids of a conversation through the model's chat template; `tokensMax` as for `encodePrompt`. */
  async encodeChat(messages: readonly ChatMessage[], options: TemplateOptions, tokensMax: number): Promise<Int32Array> {
    if (this.#template === null) {
      throw new FastswitchError(
        'invalid_request',
        'This model has no chat template. Send the prompt to /v1/completions instead.',
        'messages',
      );
    }
    return this.#encode(this.#template.render(messages, options), false, tokensMax, 'messages');
  }

  /** The text of a whole sequence, control tokens by their spelling; what is no valid UTF-8 becomes U+FFFD. */
  decode(ids: Iterable<number>): string {
    const stream = new TextStream((id) => this.bytes(id));
    let text = '';
    for (const id of ids) text += stream.push(id);
    text += stream.end();
    return this.#files.decoding.stripFirstSpace && text.startsWith(' ') ? text.slice(1) : text;
  }

  /** A token as the vocabulary writes it; '' for an unknown id. */
  piece(id: number): string {
    return this.#files.pieces.get(id) ?? '';
  }

  /** For text as it is generated: special tokens do not show. */
  textStream(): TextStream {
    return new TextStream((id) => (this.#files.hidden.has(id) ? NO_BYTES : this.bytes(id)));
  }

  /** UTF-8 bytes of one token, which may be part of a character; empty for an unknown id. */
  bytes(id: number): Uint8Array {
    let bytes = this.#bytes.get(id);
    if (bytes === undefined) {
      const piece = this.#files.pieces.get(id);
      // Ids that no piece belongs to are not remembered: the table stays as large as the vocabulary.
      if (piece === undefined) return NO_BYTES;
      bytes = this.#bytesOf(id, piece);
      this.#bytes.set(id, bytes);
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.#thread.close();
  }

  #bytesOf(id: number, piece: string): Uint8Array {
    const { alphabet, space, byteFallback } = this.#files.decoding;
    if (alphabet === 'space') {
      const byte = byteFallback ? BYTE_PIECE.exec(piece) : null;
      return byte === null ? utf8.encode(piece.replaceAll(space, ' ')) : Uint8Array.of(Number.parseInt(byte[1] as string, 16));
    }
    if (this.#files.added.has(id)) return utf8.encode(piece);
    const bytes = Array.from(piece, (character) => ALPHABET.get(character));
    return bytes.includes(undefined) ? utf8.encode(piece) : Uint8Array.from(bytes as number[]);
  }

  async #encode(sealed: string, addSpecial: boolean, tokensMax: number, param: string): Promise<Int32Array> {
    const ids =
      sealed.length > HERE_CHARACTERS_MAX
        ? await this.#thread.encode(sealed, addSpecial, tokensMax)
        : Int32Array.from(this.#encoding.encode(sealed, { add_special_tokens: addSpecial }).ids);
    if (ids === null) {
      throw new FastswitchError(
        'context_length_exceeded',
        `This model's maximum context length is ${tokensMax} tokens, and the ${sealed.length} characters of '${param}' make more than twice that. Shorten it.`,
        param,
      );
    }
    return addSpecial ? this.#withBos(ids) : ids;
  }

  #withBos(ids: Int32Array): Int32Array {
    const { addBos, bosToken } = this.#files;
    if (addBos === null || bosToken === null || (ids[0] === bosToken) === addBos) return ids;
    if (!addBos) return ids.slice(1);
    const longer = new Int32Array(ids.length + 1);
    longer[0] = bosToken;
    longer.set(ids, 1);
    return longer;
  }
}
