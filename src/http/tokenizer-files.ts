/**
 * Reads and checks the tokenizer files of a Hugging Face folder: `tokenizer.json` (required), `tokenizer_config.json`
 * and `chat_template.jinja` (optional). What comes out is plain data that the rest need not doubt.
 */
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { FastswitchError } from '../errors.js';
import { ControlTokens, sealedName } from './control-tokens.js';

type Json = Record<string, unknown>;

export interface TokenizerFiles {
  /** `tokenizer.json` as text, with every control token under its sealed name. */
  readonly sealedJson: string;
  readonly control: ControlTokens;
  /** Spellings that no message may put into the prompt as tokens: whatever begins and ends turns. */
  readonly turnTokens: readonly string[];
  /** Likewise, but assistants write them themselves (`<think>`), so that a conversation may bring them back. */
  readonly tagTokens: readonly string[];
  /** Tokens that do not show in generated text. */
  readonly hidden: ReadonlySet<number>;
  /** Token id -> piece as the vocabulary writes it; control and added tokens as they are spelled. */
  readonly pieces: ReadonlyMap<number, string>;
  /** Tokens whose piece is plain text, not written in the alphabet of bytes. */
  readonly added: ReadonlySet<number>;
  readonly decoding: Decoding;
  /** Add (true) or leave out (false) the beginning-of-sequence token; null: as the post-processor says. */
  readonly addBos: boolean | null;
  readonly bosToken: number | null;
  readonly eosToken: number | null;
  readonly chatTemplate: string | null;
  /** `bos_token`, `eos_token`, ... as a template may name them. */
  readonly constants: Readonly<Record<string, string>>;
}

/** How pieces become bytes. */
export interface Decoding {
  /** `bytes`: each character of a piece stands for one byte; `space`: pieces are text in which one character means a space. */
  readonly alphabet: 'bytes' | 'space';
  readonly space: string;
  /** `<0x0A>` is the byte 10. */
  readonly byteFallback: boolean;
  /** The first text of a sequence begins with a space that nobody wrote. */
  readonly stripFirstSpace: boolean;
}

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);

function bad(file: string, reason: string): FastswitchError {
  return new FastswitchError('bad_model', `${basename(file)} cannot be used: ${reason} (in ${file})`);
}

async function readText(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw bad(file, (error as Error).message);
  }
}

function parseObject(file: string, text: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad(file, `it is not valid JSON, perhaps an incomplete download: ${(error as Error).message}`);
  }
  if (!isObject(value)) throw bad(file, 'it does not hold a JSON object');
  return value;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

function addedTokens(file: string, tokenizer: Json): AddedToken[] {
  const list = tokenizer.added_tokens ?? [];
  if (!Array.isArray(list)) throw bad(file, '"added_tokens" is not a list');
  return list.map((entry: unknown) => {
    if (!isObject(entry) || !Number.isSafeInteger(entry.id) || (entry.id as number) < 0 || typeof entry.content !== 'string') {
      throw bad(file, 'an entry of "added_tokens" has no id and content');
    }
    return { id: entry.id as number, content: entry.content, special: entry.special === true };
  });
}

function vocabulary(file: string, tokenizer: Json): Map<number, string> {
  const model = tokenizer.model;
  if (!isObject(model)) throw bad(file, 'it has no "model"');
  if (model.type !== undefined && model.type !== 'BPE') {
    throw bad(file, `tokenizers of type "${String(model.type)}" are not supported, only BPE`);
  }
  if (!isObject(model.vocab) || !Array.isArray(model.merges)) throw bad(file, '"model" has no vocab and merges');
  const pieces = new Map<number, string>();
  for (const [piece, id] of Object.entries(model.vocab)) {
    if (!Number.isSafeInteger(id) || (id as number) < 0) throw bad(file, `the id of "${piece}" is not a whole number`);
    pieces.set(id as number, piece);
  }
  if (pieces.size === 0) throw bad(file, 'its vocabulary is empty');
  return pieces;
}

function decoderSteps(decoder: unknown): Json[] {
  if (!isObject(decoder)) return [];
  const inner = decoder.decoders;
  return decoder.type === 'Sequence' && Array.isArray(inner) ? inner.flatMap(decoderSteps) : [decoder];
}

function decodingOf(file: string, tokenizer: Json): Decoding {
  const steps = decoderSteps(tokenizer.decoder);
  const step = (type: string): Json | undefined => steps.find((candidate) => candidate.type === type);
  if (step('ByteLevel') !== undefined) return { alphabet: 'bytes', space: ' ', byteFallback: false, stripFirstSpace: false };
  const byteFallback = step('ByteFallback') !== undefined;
  const metaspace = step('Metaspace');
  if (metaspace !== undefined) {
    const prefixed =
      metaspace.prepend_scheme === undefined ? metaspace.add_prefix_space !== false : metaspace.prepend_scheme !== 'never';
    return { alphabet: 'space', space: String(metaspace.replacement ?? '\u2581'), byteFallback, stripFirstSpace: prefixed };
  }
  const replace = step('Replace');
  const pattern = isObject(replace?.pattern) ? replace.pattern.String : undefined;
  if (typeof pattern === 'string' && pattern.length > 0 && replace?.content === ' ') {
    const strip = step('Strip');
    return {
      alphabet: 'space',
      space: pattern,
      byteFallback,
      stripFirstSpace: strip?.content === ' ' && Number(strip.start) > 0,
    };
  }
  throw bad(
    file,
    `its decoder (${steps.map((one) => String(one.type)).join(', ') || 'none'}) is not supported, only byte-level and sentencepiece-style BPE`,
  );
}

/** The text of a token in `tokenizer_config.json`, which is a string or an object with `content`. */
function spelled(value: unknown): string | null {
  if (typeof value === 'string') return value;
  return isObject(value) && typeof value.content === 'string' ? value.content : null;
}

const NAMED_TOKENS = ['bos_token', 'eos_token', 'pad_token', 'unk_token', 'sep_token', 'cls_token'] as const;

function constantsOf(config: Json): Record<string, string> {
  const constants: Record<string, string> = {};
  for (const name of NAMED_TOKENS) {
    const text = spelled(config[name]);
    if (text !== null) constants[name] = text;
  }
  return constants;
}

/** `<|user|>`: a control token whatever the file says of it (some models do not mark theirs as special). */
const TURN_SHAPE = /^<[|\uFF5C].*[|\uFF5C]>$/;
/** `<think>` */
const TAG_SHAPE = /^(<\S+>|\[\S+\])$/;

/**
 * Added tokens by what they are for. Those that are neither hidden nor shaped like control tokens nor written by the
 * template (runs of spaces, words) are ordinary vocabulary and are recognised everywhere, as the model was trained.
 */
function kindsOf(
  added: readonly AddedToken[],
  config: Json,
  constants: Readonly<Record<string, string>>,
  template: string | null,
) {
  const extra = Array.isArray(config.additional_special_tokens) ? config.additional_special_tokens.map(spelled) : [];
  const named = new Set<string | null>([...Object.values(constants), ...extra]);
  const spelledOut = added.filter((token) => token.content !== '');
  const hidden = spelledOut.filter((token) => token.special || named.has(token.content));
  const turns = spelledOut.filter((token) => hidden.includes(token) || TURN_SHAPE.test(token.content));
  const tags = spelledOut.filter(
    (token) => !turns.includes(token) && TAG_SHAPE.test(token.content) && template?.includes(token.content),
  );
  return {
    control: new ControlTokens(new Map([...turns, ...tags].map((token) => [token.content, token.id]))),
    turnTokens: turns.map((token) => token.content),
    tagTokens: tags.map((token) => token.content),
    hidden: new Set(hidden.map((token) => token.id)),
  };
}

/** Renames control tokens throughout `tokenizer.json` (changes its argument, which is freshly parsed). */
function seal(tokenizer: Json, control: ControlTokens): string {
  const rename = (text: string): string => {
    const id = control.ids.get(text);
    return id === undefined ? text : sealedName(id);
  };
  for (const token of (tokenizer.added_tokens ?? []) as Json[]) {
    if (!control.ids.has(token.content as string)) continue;
    token.content = rename(token.content as string);
    token.normalized = false;
  }
  const model = tokenizer.model as Json;
  const vocab = model.vocab as Record<string, number>;
  for (const [spelling, id] of control.ids) {
    if (!Object.hasOwn(vocab, spelling)) continue;
    delete vocab[spelling];
    vocab[sealedName(id)] = id;
  }
  if (typeof model.unk_token === 'string') model.unk_token = rename(model.unk_token);
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) node.forEach(visit);
    if (!isObject(node)) return;
    const special = node.SpecialToken;
    if (isObject(special) && typeof special.id === 'string') special.id = rename(special.id);
    Object.values(node).forEach(visit);
  };
  visit(tokenizer.post_processor);
  // The library insists on these keys; older files leave them out.
  for (const key of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder']) tokenizer[key] ??= null;
  tokenizer.added_tokens ??= [];
  return JSON.stringify(tokenizer);
}

function templateOf(file: string, config: Json): string | null {
  const value = config.chat_template;
  if (value === undefined || value === null) return null;
  if (typeof value === 'string') return value;
  if (Array.isArray(value)) {
    const named = value.filter((entry): entry is Json => isObject(entry) && typeof entry.template === 'string');
    const chosen = named.find((entry) => entry.name === 'default') ?? named[0];
    if (chosen !== undefined) return chosen.template as string;
  }
  throw bad(file, '"chat_template" is neither a string nor a list of named templates');
}

/**
 * @param folder A Hugging Face checkpoint's folder.
 * @throws FastswitchError bad_model, naming the file and what is wrong with it.
 */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const file = join(folder, 'tokenizer.json');
  const configFile = join(folder, 'tokenizer_config.json');
  const [text, configText, templateText] = await Promise.all([
    readText(file),
    readText(configFile),
    readText(join(folder, 'chat_template.jinja')),
  ]);
  if (text === null) throw bad(file, 'there is no such file');
  const tokenizer = parseObject(file, text);
  const config = configText === null ? {} : parseObject(configFile, configText);
  const pieces = vocabulary(file, tokenizer);
  const added = addedTokens(file, tokenizer);
  for (const token of added) pieces.set(token.id, token.content);
  const constants = constantsOf(config);
  const chatTemplate = templateText ?? templateOf(configFile, config);
  const kinds = kindsOf(added, config, constants, chatTemplate);
  const idOf = (name: string): number | null => added.find((token) => token.content === constants[name])?.id ?? null;
  return {
    decoding: decodingOf(file, tokenizer),
    sealedJson: seal(tokenizer, kinds.control),
    ...kinds,
    pieces,
    added: new Set(added.map((token) => token.id)),
    addBos: typeof config.add_bos_token === 'boolean' ? config.add_bos_token : null,
    bosToken: idOf('bos_token'),
    eosToken: idOf('eos_token'),
    chatTemplate,
    constants,
  };
}
