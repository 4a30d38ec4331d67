// What a backend's engine is: the part of a step that differs between them. engine.cc keeps the numbers of the engines,
// and checks specs, plans and buffers before a backend sees them.
#pragma once

#include <memory>
#include <mutex>

#include "engine.h"
#include "kvstore.h"
#include "plan.h"

namespace fastswitch {

class Engine {
 public:
  virtual ~Engine() = default;
  virtual EngineInfo info() const = 0;
  // Reads all packed weights once; see readWeights in engine.h.
  virtual Status readWeights(uint64_t* folded) = 0;
  // Computes `plan`. `store` is of the same device, with blocks of this engine's size; `result` has a cleared record for
  // each sequence; `logits` is null or has room.
  virtual Status step(KvStore& store, int32_t* result, float* logits) = 0;

  EngineSpec spec;
  EngineOptions options;
  StepPlan plan;     // of the step at hand, checked
  std::mutex mutex;  // one call at a time
};

Status createCpuEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, std::shared_ptr<Engine>* engine);
Status createCudaEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, std::shared_ptr<Engine>* engine);

}  // namespace fastswitch
