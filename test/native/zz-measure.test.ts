import { it } from 'vitest';
import { loadModel } from '/work/main/src/native/model.js';
import { readRope } from '/work/main/src/native/rope.js';
import { readModelConfig } from '/work/main/src/native/model-config.js';
import { FIXTURE_NAMES, FIXTURES, fixture, readJson, readOracle } from '/work/main/test/native/folders.js';
import { referenceLogits } from '/work/main/test/native/reference.js';
const err = (found: any, exp: any) => Math.max(...exp.map((v: number, i: number) => Math.abs(found[i] - v))) / Math.max(...exp.map(Math.abs));
function worst(spec: any, name: string) {
  let w = 0, mism = 0;
  for (const { prompt, continuation, logits, final } of readOracle(name).prompts) {
    const c = referenceLogits(spec, [...prompt, ...continuation]);
    for (const { position, values } of [...logits, final]) w = Math.max(w, err(c[position], values));
    continuation.forEach((t, i) => { const row = [...c[prompt.length - 1 + i]!]; if (row.indexOf(Math.max(...row)) !== t) mism++; });
  }
  return `${w.toExponential(2)} mism ${mism}`;
}
it('measures', () => {
  let rope = 0, exact = 0, total = 0;
  for (const one of readJson<any[]>(FIXTURES, 'rope.json')) {
    const r = readRope({ rope_parameters: one.rope }, one.headDim, one.positions);
    one.inverseFrequencies.forEach((v: number, i: number) => { rope = Math.max(rope, Math.abs(r.inverseFrequencies[i]! / v - 1)); total++; if (r.inverseFrequencies[i] === Math.fround(v)) exact++; });
  }
  console.log('rope', rope, exact, total);
  for (const name of FIXTURE_NAMES) {
    const { spec } = loadModel(fixture(name), { maxContext: 0 });
    console.log(name, worst(spec, name));
    const plain = readRope({ rope_theta: { 'llama3': 500, 'llama-yarn': 1000, qwen3: 1e6 }[name] ?? 1e4 }, spec.headDim, 256).inverseFrequencies;
    console.log('   plain rope', worst({ ...spec, ropeInverseFrequencies: plain }, name), ' scale 1', worst({ ...spec, ropeScale: 1 }, name));
    console.log('   theta*2', worst({ ...spec, ropeInverseFrequencies: readRope({ rope_theta: 2e4 }, spec.headDim, 256).inverseFrequencies }, name));
    console.log('   eps', worst({ ...spec, rmsEps: spec.rmsEps * 2 }, name), 'window +1', worst({ ...spec, window: spec.window + 1 }, name), 'window -1', worst({ ...spec, window: Math.max(0, spec.window - 1) }, name), 'fromLayer', worst({...spec, windowFromLayer: 1 - spec.windowFromLayer}, name));
    for (const role of ['qBias','kBias','vBias','oBias','qNorm','kNorm']) { if (spec.tensors.some(t => t.role === role)) { const other = (role.endsWith('Norm') ? null : 1); if (other) console.log('   without', role, worst({ ...spec, tensors: spec.tensors.filter(t => t.role !== role) }, name)); else { console.log('   without', role, worst({ ...spec, tensors: spec.tensors.filter(t => t.role !== role) }, name)); } } }
  }
}, 600000);
