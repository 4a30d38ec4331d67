// The launches of one step, in order, on memory that is reserved once. What they compute from lies on the device already:
// nothing here copies, waits or allocates, so that it may run inside a capture.
#pragma once

#include <memory>

#include "../engine.h"
#include "cublaslt.h"
#include "inputs.h"
#include "launch.h"
#include "weights.h"

namespace fastswitch::cuda {

class Forward {
 public:
  Forward(const EngineSpec& spec, const EngineOptions& options) : spec_(spec), options_(options) {}

  // Uses `stream`; what it gave to it may still run when it returns.
  Status start(Gpu& gpu, const DeviceWeights& weights, Stream stream);

  // The step of this shape whose inputs lie at `inputs`, over the blocks at `arena`.
  Status issue(const StepShape& shape, Address inputs, Address arena, Stream stream) const;

  // A product with each matrix of the model, for one row of whatever lies there.
  Status touchWeights(Stream stream) const;

  TileRule tileRule() const;
  // Most rows that sample in one step.
  int samplesMax() const;
  size_t sideBytes() const;  // of the keys (or values) of one layer in a block
  size_t blockBytes() const { return static_cast<size_t>(spec_.layers) * 2 * sideBytes(); }
  bool exact() const { return products_ == nullptr; }

  // Of the last step that is complete: [samples][resultRecord], in the host's memory.
  const int32_t* results() const { return reinterpret_cast<const int32_t*>(results_.data()); }
  Address logits() const { return reinterpret_cast<Address>(logits_); }  // [samples][logitsStride]
  size_t logitsStride() const { return padded(static_cast<size_t>(spec_.vocabulary)); }

 private:
  struct Step;
  Status findKernels();
  Status reserve(Stream stream);
  Status layer(int index, const Step& step) const;
  Status attention(int index, const Step& step) const;
  Status normalise(const float* bias, const float* weight, const int32_t* rows, int count, Stream stream) const;
  enum class Store { floats, addedFloats, bf16 };
  Status product(const DeviceMatrix& matrix, const Bf16* inputs, int rows, void* output, size_t outputStride, Store store, Stream stream) const;
  Status sample(const Step& step) const;

  size_t rowsMax() const { return static_cast<size_t>(options_.maxBatchTokens); }
  size_t hiddenStride() const { return padded(static_cast<size_t>(spec_.hidden)); }
  size_t projectedStride() const { return padded(static_cast<size_t>((spec_.heads + 2 * spec_.kvHeads) * spec_.headDim)); }
  size_t attendedStride() const { return padded(static_cast<size_t>(spec_.heads * spec_.headDim)); }
  size_t partialsMax() const;

  const EngineSpec& spec_;
  const EngineOptions& options_;
  Gpu* gpu_ = nullptr;
  const DeviceWeights* weights_ = nullptr;
  std::unique_ptr<LtProducts> products_;

  Kernel embed_, norm_, rotate_, attend_, fold_, narrow_, wide_, gate_, sample_;

  PinnedMemory results_;  // at the same address for kernels as for the host
  DeviceMemory memory_;
  float *residual_ = nullptr, *projected_ = nullptr;             // [rows] of hidden; of q, k, v
  Bf16 *normed_ = nullptr, *queries_ = nullptr, *attended_ = nullptr;  // [rows] of hidden; of padded heads; of heads
  Bf16 *gateUp_ = nullptr, *units_ = nullptr;                    // [rows] of 2 * intermediate; of intermediate
  float *logits_ = nullptr, *changedLogits_ = nullptr;           // [samples] of the vocabulary
  int32_t* counts_ = nullptr;
  float *partialSums_ = nullptr, *partialTops_ = nullptr, *partialTotals_ = nullptr;
};

}  // namespace fastswitch::cuda
