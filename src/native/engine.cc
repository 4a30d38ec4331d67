// The process's engines, by number.
#include "engine.h"

#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "backend.h"

namespace fastswitch {

namespace {

struct Registry {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Engine>> engines;
  int next = 1;
};

// Never destroyed: workers may still compute while the process ends.
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

std::shared_ptr<Engine> findEngine(int id) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.engines.find(id);
  if (found != all.engines.end()) return found->second;
  fail(Status::badHandle, "no engine %d", id);
  return nullptr;
}

// What the kernels can hold; see cuda/kernels.h.
Status checkCudaSpec(const EngineSpec& spec, const EngineOptions& options) {
  constexpr int headDimMax = 256;
  constexpr int groupHeadsMax = 16;
  if (spec.headDim > headDimMax || spec.heads / spec.kvHeads > groupHeadsMax) {
    return fail(Status::badModel, "head size %d, %d query heads to a key-value head: the GPU takes %d and %d; run this model on the CPU", spec.headDim,
                spec.heads / spec.kvHeads, headDimMax, groupHeadsMax);
  }
  if (options.q8) return fail(Status::badArgument, "a GPU holds weights as bf16; weights of 8 bits are for the CPU");
  return Status::ok;
}

Status checkSpec(const EngineSpec& spec, const EngineOptions& options) {
  const auto between = [](int value, int low, int high) { return value >= low && value <= high; };
  const bool shape = between(spec.vocabulary, 1, 1 << 24) && between(spec.hidden, 1, 1 << 20) && between(spec.layers, 1, 4096) &&
                     between(spec.heads, 1, 4096) && between(spec.kvHeads, 1, spec.heads) && between(spec.headDim, 2, kHeadDimMax) &&
                     between(spec.intermediate, 1, 1 << 22) && between(spec.positions, 1, 1 << 24);
  if (!shape) return fail(Status::badModel, "a size of the model is out of range");
  if (spec.heads % spec.kvHeads != 0 || spec.headDim % 2 != 0) {
    return fail(Status::badModel, "%d heads, %d key-value heads, head size %d: heads must be shared evenly, head size even", spec.heads, spec.kvHeads,
                spec.headDim);
  }
  if (spec.ropeInverseFrequencies.size() != static_cast<size_t>(spec.headDim) / 2) {
    return fail(Status::badModel, "%zu rope frequencies for head size %d", spec.ropeInverseFrequencies.size(), spec.headDim);
  }
  if (!(spec.rmsEps >= 0) || !(spec.ropeScale > 0) || spec.window < 0) return fail(Status::badModel, "rmsEps, ropeScale or window is out of range");
  if (!between(options.threads, 1, 1024) || !between(options.maxBatchTokens, 1, 1 << 20) || !between(options.maxSequences, 1, 1 << 20)) {
    return fail(Status::badArgument, "threads, maxBatchTokens or maxSequences is out of range");
  }
  return options.device < 0 ? Status::ok : checkCudaSpec(spec, options);
}

// Reads the plan and clears the records of its sequences: all that can be refused before a backend computes.
Status prepareStep(Engine& engine, const KvStore& store, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, bool wantsLogits,
                   size_t logitsCount) {
  if (store.device != engine.options.device) {
    return fail(Status::badArgument, "the store is on device %d, the engine on device %d", store.device, engine.options.device);
  }
  const size_t blockBytes = engine.info().blockBytes;
  if (store.blockBytes != blockBytes) {
    return fail(Status::badArgument, "the store has blocks of %zu bytes, the engine of %zu", store.blockBytes, blockBytes);
  }
  const EngineSpec& spec = engine.spec;
  const PlanLimits limits{spec.vocabulary, spec.positions, store.deviceBlocks, engine.options.maxBatchTokens, engine.options.maxSequences};
  const Status status = readPlan(plan, planWords, limits, &engine.plan);
  if (status != Status::ok) return status;
  const size_t sequences = engine.plan.sequences.size();
  if (resultWords < sequences * resultRecord) return fail(Status::badPlan, "a result of %zu words for %zu sequences", resultWords, sequences);
  if (wantsLogits && logitsCount < static_cast<size_t>(engine.plan.samples) * static_cast<size_t>(spec.vocabulary)) {
    return fail(Status::badPlan, "%zu logits for %d sampling sequences of %d", logitsCount, engine.plan.samples, spec.vocabulary);
  }
  for (size_t i = 0; i < sequences; i++) {
    memset(result + i * resultRecord, 0, resultRecord * sizeof(int32_t));
    result[i * resultRecord] = -1;
  }
  return Status::ok;
}

}  // namespace

Status createEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, int* id) {
  Status status = checkSpec(spec, options);
  if (status != Status::ok) return status;
  std::shared_ptr<Engine> engine;
  status = options.device < 0 ? createCpuEngine(spec, options, seed, &engine) : createCudaEngine(spec, options, seed, &engine);
  if (status != Status::ok) return status;
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  *id = all.next++;
  all.engines.emplace(*id, std::move(engine));
  return Status::ok;
}

Status destroyEngine(int id) {
  Registry& all = registry();
  std::shared_ptr<Engine> last;
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.engines.find(id);
  if (found == all.engines.end()) return fail(Status::badHandle, "no engine %d", id);
  last = std::move(found->second);
  all.engines.erase(found);
  return Status::ok;
}

Status engineInfo(int id, EngineInfo* info) {
  const auto engine = findEngine(id);
  if (engine == nullptr) return Status::badHandle;
  *info = engine->info();
  return Status::ok;
}

Status readWeights(int id, uint64_t* folded) {
  const auto engine = findEngine(id);
  if (engine == nullptr) return Status::badHandle;
  const std::lock_guard<std::mutex> lock(engine->mutex);
  return engine->readWeights(folded);
}

Status step(int engineId, int storeId, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, float* logits, size_t logitsCount) {
  const auto engine = findEngine(engineId);
  if (engine == nullptr) return Status::badHandle;
  const auto store = findStore(storeId);
  if (store == nullptr) return Status::badHandle;
  const std::lock_guard<std::mutex> lock(engine->mutex);
  const Status status = prepareStep(*engine, *store, plan, planWords, result, resultWords, logits != nullptr, logitsCount);
  return status == Status::ok ? engine->step(*store, result, logits) : status;
}

}  // namespace fastswitch
