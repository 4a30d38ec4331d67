/**
 * The far side of `encoder-thread.ts`: sealed text in, token ids out. Plain JavaScript, so that a worker can load it
 * from the sources as well as from the build.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Tokenizer } from '@huggingface/tokenizers';

const encoding = new Tokenizer(JSON.parse(workerData), {});

parentPort.on('message', ({ job, text, addSpecial }) => {
  try {
    const ids = Int32Array.from(encoding.encode(text, { add_special_tokens: addSpecial }).ids);
    parentPort.postMessage({ job, ids, error: null }, [ids.buffer]);
  } catch (error) {
    parentPort.postMessage({ job, ids: null, error: error instanceof Error ? error.message : String(error) });
  }
});
