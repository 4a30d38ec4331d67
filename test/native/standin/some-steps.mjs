/**
 * In a process of its own, since a driver that fails is asked for by the environment: makes an engine and a store, computes the
 * same decode step four times, and prints what each call answered. `node some-steps.mjs addon < {"spec", "options", "plan"}`.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const native = createRequire(import.meta.url)(process.argv[2]);
const { spec, options, plan } = JSON.parse(readFileSync(0, 'utf8'));
spec.ropeInverseFrequencies = Float32Array.from(spec.ropeInverseFrequencies);

const answers = [];
function call(name, act) {
  const status = act();
  answers.push({ name, status: Math.min(status, 0), message: status < 0 ? native.lastMessage() : '' });
  return status;
}

const result = new Int32Array(44);
let engine = call('createEngine', () => native.createEngine(spec, options, 0));
if (engine < 0) engine = call('createEngine again', () => native.createEngine(spec, options, 0));
const bytes = native.engineInfo(engine).blockBytes;
const newStore = () => native.createStore(bytes, 4, 4, { device: options.device, batchCopies: true });
let store = call('createStore', newStore);
if (store < 0) store = call('createStore again', newStore);
for (let i = 0; i < 4; i++) {
  const logits = new Float32Array(spec.vocabulary);
  const status = call('step', () => native.step(engine, store, Int32Array.from(plan), result, logits));
  if (status >= 0) answers[answers.length - 1].token = result[0];
}
call('readWeights', () => native.readWeights(engine));
native.destroyEngine(engine);
native.destroyStore(store);
process.stdout.write(JSON.stringify(answers));
