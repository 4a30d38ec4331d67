// The engine of a GPU. A step is one upload, its launches (or one graph of them) and one wait: everything in between is in the
// order of one stream, and the host decides nothing. The sampler writes tokens straight to the host's memory: a copy of them
// would wait its turn behind what a swap has under way on the same copy engine.
#pragma once

#include "../backend.h"
#include "forward.h"
#include "graphs.h"
#include "store.h"

namespace fastswitch::cuda {

class CudaEngine : public Engine {
 public:
  CudaEngine(const EngineSpec& spec, const EngineOptions& options);
  ~CudaEngine() override;
  Status load(uint64_t seed);
  EngineInfo info() const override;
  Status readWeights(uint64_t* folded) override;
  Status step(KvStore& store, int32_t* result, float* logits) override;

 private:
  Status prepare();
  bool repeats() const;
  Status reserveInputs(size_t bytes);
  Status run(CudaStore& store, bool wantsLogits);
  Status launch(CudaStore& store);
  Status downloadLogits();
  Status wait();
  Status deliver(int32_t* result, float* logits);

  Gpu* gpu_ = nullptr;
  Stream stream_ = nullptr;
  Event finished_ = nullptr;
  DeviceWeights weights_;
  Forward forward_;
  Graphs graphs_;
  TileRule rule_;

  StepInputs inputs_;
  PinnedMemory inputsHost_;
  DeviceMemory inputsDevice_;
  PinnedMemory logitsHost_;
};

}  // namespace fastswitch::cuda
