// The process's engines, by number.
#include "engine.h"

#include <map>
#include <memory>
#include <mutex>

#include "engine_cpu.h"

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
  return Status::ok;
}

}  // namespace

Status createEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, int* id) {
  Status status = checkSpec(spec, options);
  if (status != Status::ok) return status;
  auto engine = std::make_shared<Engine>();
  status = engine->load(spec, options, seed);
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
  *folded = engine->readWeights();
  return Status::ok;
}

Status step(int engineId, int storeId, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, float* logits, size_t logitsCount) {
  const auto engine = findEngine(engineId);
  if (engine == nullptr) return Status::badHandle;
  const auto store = findStore(storeId);
  if (store == nullptr) return Status::badHandle;
  return engine->step(*store, plan, planWords, result, resultWords, logits, logitsCount);
}

}  // namespace fastswitch
