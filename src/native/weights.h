// The tensors of a model, packed once for the kernels of the CPU.
#pragma once

#include <memory>
#include <vector>

#include "arena.h"
#include "engine.h"
#include "kernels.h"
#include "tensors.h"
#include "threads.h"

namespace fastswitch {

// A matrix packed in panels of 32 output rows.
struct Matrix {
  WeightKind kind = kF32;
  int panels = 0;
  int groups = 0;  // of 32 inputs
  uint8_t* data = nullptr;

  size_t panelBytes() const { return kGroupBytes[kind] * static_cast<size_t>(groups); }
  size_t bytes() const { return panelBytes() * static_cast<size_t>(panels); }
  const uint8_t* panel(int index) const { return data + panelBytes() * static_cast<size_t>(index); }
};

struct Layer {
  std::vector<float> attentionNorm, mlpNorm, qNorm, kNorm;  // padded to 16; qNorm and kNorm empty where absent
  std::vector<float> qkvBias, oBias;                        // one for each output row; empty where absent
  Matrix qkv;                                               // rows of q, then k, then v
  Matrix o;
  Matrix gateUp;  // panel 2i holds gate rows [32 i, 32 i + 32), panel 2i + 1 the same rows of up
  Matrix down;
};

struct Weights {
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<Arena> drawn;
  // Packed matrices one after the other: a few large ranges, so that even small ones lie in huge pages.
  std::vector<Arena> packed;
  size_t packedUsed = 0;  // bytes of the last of them
  Tensor embed;
  std::vector<float> finalNorm;
  Matrix head;
  std::vector<Layer> layers;

  size_t matrixBytes() const;
  Status allocate(size_t bytes, uint8_t** data);
};

Status loadWeights(const EngineSpec& spec, bool q8, uint64_t seed, ThreadPool& pool, Weights* weights);

}  // namespace fastswitch
