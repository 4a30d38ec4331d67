// One forward step of a Llama-family model for a whole batch, over KV in blocks. Engines are process-wide and named
// by small numbers, like stores. The description of the model comes checked from TypeScript (spec.ts); what could
// touch memory is asserted again here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"
#include "status.h"

namespace fastswitch {

// In the order of TensorRole in spec.ts.
enum class Role : int { embed, finalNorm, head, attentionNorm, mlpNorm, q, k, v, o, qBias, kBias, vBias, oBias, qNorm, kNorm, gate, up, down, count };
enum class FileDtype : int { f32, bf16, f16 };

struct TensorSpec {
  Role role;
  int layer;
  int file;  // -1: random values (see createEngine)
  double offset;
  FileDtype dtype;
  int rows;
  int columns;
};

struct EngineSpec {
  int vocabulary = 0, hidden = 0, layers = 0, heads = 0, kvHeads = 0, headDim = 0, intermediate = 0;
  float rmsEps = 0;
  int positions = 0;
  std::vector<float> ropeInverseFrequencies;
  float ropeScale = 1;
  int window = 0, windowFromLayer = 0;
  bool tiedHead = false;
  std::vector<std::string> files;
  std::vector<TensorSpec> tensors;
};

struct EngineOptions {
  int device = -1;              // -1: the CPU; else the number of a GPU
  bool batchInvariant = false;  // on a GPU: the same bits whatever is computed beside; the CPU always does this
  bool graphs = true;           // on a GPU: decode steps are captured once a size and launched as one
  int threads = 1;
  bool q8 = false;
  KvDtype kvDtype = kKvF32;     // on a GPU always bf16
  Isa isa = Isa::automatic;
  int maxBatchTokens = 0;
  int maxSequences = 0;
};

struct EngineInfo {
  const char* isa;     // of the CPU, or "cuda"
  size_t blockBytes;   // of KV for 16 tokens of all layers
  size_t weightBytes;  // packed matrices, which a step reads once
  size_t headBytes;    // of these, the vocabulary head
  bool exact;          // tokens are the same bits in any batch, cut and order
};

// Loads the weights and packs them for the device. Tensors of file -1 get small random values that depend on (seed, role, layer) only.
Status createEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, int* id);
Status destroyEngine(int id);
Status engineInfo(int id, EngineInfo* info);

// Loads all packed weights once with all threads of the engine and does nothing with them: what memory allows a step at
// best. `folded` is a digest of them. A GPU multiplies each matrix with one row instead, and the digest is 0.
Status readWeights(int id, uint64_t* folded);

// Computes the step that `plan` describes (plan.ts) and writes its records to `result`; both as 32-bit words. With
// `logits`, also the raw logits of each sampling sequence, [samples][vocabulary], in plan order. One step of an engine
// at a time: a second caller waits. badPlan: nothing was computed.
Status step(int engine, int store, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, float* logits, size_t logitsCount);

}  // namespace fastswitch
