// The CPU engine: one forward step as a sequence of stages, each handed out to the engine's threads. Where a stage's
// rows, panels or heads go never changes what is computed for them.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "backend.h"
#include "kvstore_cpu.h"
#include "sampler.h"
#include "threads.h"
#include "weights.h"

namespace fastswitch {

// Below this many values a stage is done by the caller: handing it out would take longer.
constexpr int inlineValues = 4096;

// A row of inputs in whole groups, so that products need no edges; the padding stays zero.
constexpr size_t padded(size_t width) { return roundUp(width, kGroup); }

constexpr size_t kvBytes(KvDtype dtype) { return dtype == kKvF32 ? 4 : 2; }

// Some consecutive tokens of one sequence, attended together for one key-value head.
struct AttentionItem {
  int sequence;
  int firstToken;
  int count;
};

class CpuEngine : public Engine {
 public:
  Status load(uint64_t seed);
  EngineInfo info() const override { return {kernels_->name, blockBytes_, weights_.matrixBytes(), weights_.head.bytes(), true}; }
  Status readWeights(uint64_t* folded) override;
  Status step(KvStore& store, int32_t* result, float* logits) override;

 private:
  Status reserve();
  void makeRopeTable();
  void embed();
  void normalise(const float* weight, const std::vector<int>* rows, WeightKind kind);
  void prepareRows(const float* from, size_t stride, WeightKind kind);
  template <class Done>
  void multiplyPanel(const Matrix& matrix, int index, int next, const uint8_t* inputs, int rows, float* output, size_t outputStride, bool add, Done done);
  void multiply(const Matrix& matrix, const uint8_t* inputs, int rows, float* output, size_t outputStride, bool add);
  void rotateAndStore(const Layer& layer, int index, const CpuStore& store);
  void attention(int index, const CpuStore& store);
  void gatedUnits(const Layer& layer);
  void addBias(const std::vector<float>& bias);
  void runLayer(const Layer& layer, int index, const CpuStore& store);
  void listAttention();
  Status sample(int32_t* result, float* logits);

  // Runs body(row, thread) for each row, each of about `values` values.
  template <class Body>
  void eachRow(int rows, size_t values, Body body) {
    if (static_cast<size_t>(rows) * values <= inlineValues) {
      for (int row = 0; row < rows; row++) body(static_cast<uint32_t>(row), 0);
    } else {
      pool_->each(static_cast<uint32_t>(rows), body);
    }
  }

  size_t inputStride(WeightKind kind, size_t width) const { return padded(width) / kGroup * static_cast<size_t>(kernels_->inputBytes[kind]); }
  int queryWidth() const { return spec.heads * spec.headDim; }
  int keyWidth() const { return spec.kvHeads * spec.headDim; }
  // Bytes of the keys (or values) of one layer in a block.
  size_t sideBytes() const { return kBlockTokens * static_cast<size_t>(keyWidth()) * kvBytes(options.kvDtype); }

  const Kernels* kernels_ = nullptr;
  std::unique_ptr<ThreadPool> pool_;
  Weights weights_;
  size_t blockBytes_ = 0;

  Arena cosines_, sines_;                  // [positions][headDim / 2]
  Arena residual_, projected_, attended_;  // [maxBatchTokens] rows of floats: hidden; q, k, v; heads
  Arena inputs_, units_;                   // [maxBatchTokens] prepared rows: of hidden or heads; of intermediate
  Arena logits_;                           // [maxSequences][vocabulary]
  size_t hiddenStride_ = 0, projectedStride_ = 0, attendedStride_ = 0, logitsStride_ = 0;

  struct ThreadScratch {
    std::vector<float> row;
    std::vector<float> units;  // gate, then up: [maxBatchTokens][32] each
    AttentionScratch attention;
    SamplerScratch sampler;
  };
  std::vector<ThreadScratch> scratch_;

  std::vector<AttentionItem> attentionItems_;
  std::vector<int> rowSequence_;
};

}  // namespace fastswitch
