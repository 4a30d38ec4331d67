/**
 * The far side of `encoder-thread.ts`: sealed text in, token ids out. Plain JavaScript, so that a worker can load it
 * from the sources as well as from the build.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Tokenizer } from '@huggingface/tokenizers';

/**
 * @typedef {object} EncoderAnswer
 * @property {number} job
 * @property {Int32Array | null} ids Null without an error: too many tokens.
 * @property {string | null} error
 */

const encoding = new Tokenizer(JSON.parse(workerData), {});

const encode = (text, addSpecial) => encoding.encode(text, { add_special_tokens: addSpecial }).ids;

/** Null if the text surely has more than `tokensMax` tokens: then a part of it told so, and the rest is not read. */
function encodeWithin(text, addSpecial, tokensMax) {
  for (let length = tokensMax * 4; length < text.length; length *= 2) {
    if (encode(text.slice(0, length), addSpecial).length > tokensMax * 2) return null;
  }
  return Int32Array.from(encode(text, addSpecial));
}

parentPort.on('message', ({ job, text, addSpecial, tokensMax }) => {
  try {
    const ids = encodeWithin(text, addSpecial, tokensMax);
    parentPort.postMessage({ job, ids, error: null }, ids === null ? [] : [ids.buffer]);
  } catch (error) {
    parentPort.postMessage({ job, ids: null, error: error instanceof Error ? error.message : String(error) });
  }
});
