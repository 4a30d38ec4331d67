#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "attention.h"
#include "engine.h"
#include "kvstore.h"
#include "plan.h"
#include "sampler.h"
#include "threads.h"
#include "weights.h"

namespace fastswitch {

namespace {

// Below this many values a stage is done by the caller: handing it out would take longer.
constexpr int inlineValues = 4096;

// A row of inputs in whole groups, so that products need no edges; the padding stays zero.
size_t padded(size_t width) { return roundUp(width, kGroup); }

size_t kvBytes(KvDtype dtype) { return dtype == kKvF32 ? 4 : 2; }

// Some consecutive tokens of one sequence, attended together for one key-value head.
struct AttentionItem {
  int sequence;
  int firstToken;
  int count;
};

class Engine {
 public:
  Status load(const EngineSpec& spec, const EngineOptions& options, uint64_t seed);
  Status step(const KvStore& store, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, float* logits, size_t logitsCount);
  EngineInfo info() const { return {kernels_->name, blockBytes_, weights_.matrixBytes(), weights_.head.data.bytes()}; }

 private:
  Status reserve();
  void makeRopeTable();
  void embed();
  void normalise(const float* weight, const std::vector<int>* rows, WeightKind kind);
  void prepareRows(const float* from, size_t stride, WeightKind kind);
  void multiply(const Matrix& matrix, const uint8_t* inputs, int rows, float* output, size_t outputStride, bool add);
  void rotateAndStore(const Layer& layer, int index, const KvStore& store);
  void attention(int index, const KvStore& store);
  void gatedUnits(const Layer& layer);
  void addBias(const std::vector<float>& bias);
  void runLayer(const Layer& layer, int index, const KvStore& store);
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
  int queryWidth() const { return spec_.heads * spec_.headDim; }
  int keyWidth() const { return spec_.kvHeads * spec_.headDim; }
  // Bytes of the keys (or values) of one layer in a block.
  size_t sideBytes() const { return kBlockTokens * static_cast<size_t>(keyWidth()) * kvBytes(options_.kvDtype); }

  std::mutex mutex_;
  EngineSpec spec_;
  EngineOptions options_;
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
    std::vector<float> gate;
    AttentionScratch attention;
    SamplerScratch sampler;
  };
  std::vector<ThreadScratch> scratch_;

  StepPlan plan_;
  std::vector<AttentionItem> attentionItems_;
  std::vector<int> rowSequence_;
};

Status Engine::load(const EngineSpec& spec, const EngineOptions& options, uint64_t seed) {
  spec_ = spec;
  options_ = options;
  kernels_ = findKernels(options.isa);
  if (kernels_ == nullptr) return fail(Status::badArgument, "this processor lacks the instruction set that was asked for; use isa auto");
  blockBytes_ = static_cast<size_t>(spec.layers) * 2 * sideBytes();
  Status status = ThreadPool::create(options.threads, &pool_);
  if (status == Status::ok) status = loadWeights(spec, options.q8, seed, *pool_, &weights_);
  if (status == Status::ok) status = reserve();
  if (status == Status::ok) makeRopeTable();
  return status;
}

Status Engine::reserve() {
  const size_t rows = static_cast<size_t>(options_.maxBatchTokens);
  const size_t half = static_cast<size_t>(spec_.headDim) / 2;
  hiddenStride_ = padded(static_cast<size_t>(spec_.hidden));
  projectedStride_ = padded(static_cast<size_t>(queryWidth() + 2 * keyWidth()));
  attendedStride_ = padded(static_cast<size_t>(queryWidth()));
  logitsStride_ = padded(static_cast<size_t>(spec_.vocabulary));
  // Rows that feed a product are prepared at the widest encoding, whatever kind each matrix turns out to be.
  const size_t inputsWidth = std::max(hiddenStride_, attendedStride_);
  const size_t sampleRows = static_cast<size_t>(std::min(options_.maxSequences, options_.maxBatchTokens));
  const std::pair<Arena*, size_t> arenas[] = {
      {&cosines_, static_cast<size_t>(spec_.positions) * half * sizeof(float)},
      {&sines_, static_cast<size_t>(spec_.positions) * half * sizeof(float)},
      {&residual_, rows * hiddenStride_ * sizeof(float)},
      {&projected_, rows * projectedStride_ * sizeof(float)},
      {&attended_, rows * attendedStride_ * sizeof(float)},
      {&inputs_, rows * inputsWidth * sizeof(float)},
      {&units_, rows * padded(static_cast<size_t>(spec_.intermediate)) * sizeof(float)},
      {&logits_, sampleRows * logitsStride_ * sizeof(float)},
  };
  for (const auto& [arena, bytes] : arenas) {
    const Status status = arena->reserve(bytes);
    if (status != Status::ok) return status;
  }
  const int groupHeads = spec_.heads / spec_.kvHeads;
  const int tileTokens = attentionTile(groupHeads);
  for (int i = 0; i < options_.threads; i++) {
    scratch_.push_back({std::vector<float>(hiddenStride_), std::vector<float>(static_cast<size_t>(12 * 2 * kPanelRows)),
                        AttentionScratch(tileTokens * groupHeads, spec_.headDim), SamplerScratch(spec_.vocabulary)});
  }
  return Status::ok;
}

// As transformers computes it: angle = position * inverse frequency in f32, then cos and sin, times the scale.
void Engine::makeRopeTable() {
  const size_t half = static_cast<size_t>(spec_.headDim) / 2;
  auto fill = [&](uint32_t position, int) {
    for (size_t i = 0; i < half; i++) {
      const float angle = static_cast<float>(position) * spec_.ropeInverseFrequencies[i];
      cosines_.floats()[position * half + i] = std::cos(angle) * spec_.ropeScale;
      sines_.floats()[position * half + i] = std::sin(angle) * spec_.ropeScale;
    }
  };
  pool_->each(static_cast<uint32_t>(spec_.positions), fill);
}

void Engine::embed() {
  eachRow(plan_.rows, hiddenStride_, [&](uint32_t row, int) {
    const SequencePlan& sequence = plan_.sequences[static_cast<size_t>(rowSequence_[row])];
    weights_.embed.row(sequence.tokens[static_cast<int>(row) - sequence.firstRow], residual_.floats() + row * hiddenStride_);
  });
}

// Norms rows of the residual (all of them, or those listed) and prepares them as inputs of a product.
void Engine::normalise(const float* weight, const std::vector<int>* rows, WeightKind kind) {
  const size_t stride = inputStride(kind, static_cast<size_t>(spec_.hidden));
  const int groups = static_cast<int>(hiddenStride_) / kGroup;
  const int count = rows == nullptr ? plan_.rows : static_cast<int>(rows->size());
  eachRow(count, hiddenStride_, [&](uint32_t index, int thread) {
    const size_t row = rows == nullptr ? index : static_cast<size_t>((*rows)[index]);
    float* scratch = scratch_[static_cast<size_t>(thread)].row.data();
    kernels_->rmsNorm(residual_.floats() + row * hiddenStride_, weight, spec_.hidden, spec_.rmsEps, scratch);
    kernels_->prepare[kind](scratch, groups, inputs_.data() + index * stride);
  });
}

void Engine::prepareRows(const float* from, size_t fromStride, WeightKind kind) {
  const size_t stride = inputStride(kind, fromStride);
  const int groups = static_cast<int>(fromStride) / kGroup;
  eachRow(plan_.rows, fromStride,
          [&](uint32_t row, int) { kernels_->prepare[kind](from + row * fromStride, groups, inputs_.data() + row * stride); });
}

// Rows in tiles of nearly equal size: 16 rows are 8 + 8, not 12 + 4.
template <class Body>
void eachTile(int rows, int most, Body body) {
  const int tiles = (rows + most - 1) / most;
  for (int tile = 0; tile < tiles; tile++) {
    const int first = static_cast<int>(static_cast<int64_t>(rows) * tile / tiles);
    const int last = static_cast<int>(static_cast<int64_t>(rows) * (tile + 1) / tiles);
    body(first, last - first);
  }
}

void Engine::multiply(const Matrix& matrix, const uint8_t* inputs, int rows, float* output, size_t outputStride, bool add) {
  const size_t stride = static_cast<size_t>(matrix.groups) * static_cast<size_t>(kernels_->inputBytes[matrix.kind]);
  auto panel = [&](uint32_t index, int) {
    eachTile(rows, kernels_->tileRows[matrix.kind], [&](int first, int count) {
      kernels_->product[matrix.kind](matrix.panel(static_cast<int>(index)), matrix.groups, inputs + static_cast<size_t>(first) * stride, stride, count,
                                     output + static_cast<size_t>(first) * outputStride + index * kPanelRows, outputStride, add);
    });
  };
  pool_->each(static_cast<uint32_t>(matrix.panels), panel);
}

// Bias, norms of heads and rotation of q and k; then k and v of the new tokens go to their blocks.
void Engine::rotateAndStore(const Layer& layer, int index, const KvStore& store) {
  const int headDim = spec_.headDim;
  const size_t half = static_cast<size_t>(headDim) / 2;
  const KvDtype dtype = options_.kvDtype;
  const size_t headBytes = kBlockTokens * static_cast<size_t>(headDim) * kvBytes(dtype);
  eachRow(plan_.rows, projectedStride_, [&](uint32_t row, int thread) {
    const SequencePlan& sequence = plan_.sequences[static_cast<size_t>(rowSequence_[row])];
    const int position = sequence.start + static_cast<int>(row) - sequence.firstRow;
    float* all = projected_.floats() + row * projectedStride_;
    for (size_t i = 0; i < layer.qkvBias.size(); i++) all[i] += layer.qkvBias[i];
    for (int head = 0; head < spec_.heads + spec_.kvHeads; head++) {
      float* values = all + head * headDim;
      const std::vector<float>& norm = head < spec_.heads ? layer.qNorm : layer.kNorm;
      if (!norm.empty()) {
        float* copy = scratch_[static_cast<size_t>(thread)].row.data();
        memset(copy, 0, roundUp(static_cast<size_t>(headDim), 16) * sizeof(float));
        memcpy(copy, values, static_cast<size_t>(headDim) * sizeof(float));
        kernels_->rmsNorm(copy, norm.data(), headDim, spec_.rmsEps, copy);
        memcpy(values, copy, static_cast<size_t>(headDim) * sizeof(float));
      }
      kernels_->rotate(values, cosines_.floats() + static_cast<size_t>(position) * half, sines_.floats() + static_cast<size_t>(position) * half,
                       static_cast<int>(half));
    }
    uint8_t* block = store.device.data() + static_cast<size_t>(sequence.blocks[position / kBlockTokens]) * blockBytes_ +
                     static_cast<size_t>(index) * 2 * sideBytes();
    const int slot = position % kBlockTokens;
    for (int head = 0; head < spec_.kvHeads; head++) {
      uint8_t* to = block + static_cast<size_t>(head) * headBytes;
      kernels_->storeKey[dtype](all + queryWidth() + head * headDim, headDim, slot, to);
      kernels_->storeValue[dtype](all + queryWidth() + keyWidth() + head * headDim, headDim, slot, to + sideBytes());
    }
  });
}

// Once a step: sequences cut into tiles, the most work first so that no thread is left with it at the end.
void Engine::listAttention() {
  attentionItems_.clear();
  rowSequence_.clear();
  const int tile = attentionTile(spec_.heads / spec_.kvHeads);
  for (size_t i = 0; i < plan_.sequences.size(); i++) {
    const SequencePlan& sequence = plan_.sequences[i];
    for (int first = 0; first < sequence.count; first += tile) {
      attentionItems_.push_back({static_cast<int>(i), first, std::min(tile, sequence.count - first)});
    }
    rowSequence_.insert(rowSequence_.end(), static_cast<size_t>(sequence.count), static_cast<int>(i));
  }
  const auto work = [&](const AttentionItem& item) {
    return static_cast<int64_t>(item.count) * (plan_.sequences[static_cast<size_t>(item.sequence)].start + item.firstToken + item.count);
  };
  std::stable_sort(attentionItems_.begin(), attentionItems_.end(), [&](const AttentionItem& a, const AttentionItem& b) { return work(a) > work(b); });
}

void Engine::attention(int index, const KvStore& store) {
  const int groupHeads = spec_.heads / spec_.kvHeads;
  const int window = spec_.window > 0 && index >= spec_.windowFromLayer ? spec_.window : 0;
  const AttentionShape shape{spec_.headDim, groupHeads, window, options_.kvDtype};
  const size_t headBytes = kBlockTokens * static_cast<size_t>(spec_.headDim) * kvBytes(options_.kvDtype);
  const uint32_t kvHeads = static_cast<uint32_t>(spec_.kvHeads);
  auto one = [&](uint32_t number, int thread) {
    const AttentionItem& item = attentionItems_[number / kvHeads];
    const size_t kvHead = number % kvHeads;
    const SequencePlan& sequence = plan_.sequences[static_cast<size_t>(item.sequence)];
    const size_t keys = static_cast<size_t>(index) * 2 * sideBytes() + kvHead * headBytes;
    const KvView kv{store.device.data(), blockBytes_, keys, keys + sideBytes(), sequence.blocks};
    const size_t row = static_cast<size_t>(sequence.firstRow + item.firstToken);
    const size_t column = kvHead * static_cast<size_t>(groupHeads * spec_.headDim);
    attend(*kernels_, shape, kv, sequence.start + item.firstToken, item.count, projected_.floats() + row * projectedStride_ + column, projectedStride_,
           attended_.floats() + row * attendedStride_ + column, attendedStride_, scratch_[static_cast<size_t>(thread)].attention);
  };
  pool_->each(static_cast<uint32_t>(attentionItems_.size()) * kvHeads, one);
}

// silu(gate) * up, 32 units at a time, straight into the prepared inputs of the next product: a panel is a group.
void Engine::gatedUnits(const Layer& layer) {
  const Matrix& matrix = layer.gateUp;
  const WeightKind kind = layer.down.kind;
  const size_t stride = inputStride(matrix.kind, static_cast<size_t>(spec_.hidden));
  const size_t unitStride = inputStride(kind, static_cast<size_t>(spec_.intermediate));
  auto panel = [&](uint32_t index, int thread) {
    float* gate = scratch_[static_cast<size_t>(thread)].gate.data();
    const int pair = static_cast<int>(index) * 2;
    eachTile(plan_.rows, kernels_->tileRows[matrix.kind], [&](int first, int count) {
      const uint8_t* inputs = inputs_.data() + static_cast<size_t>(first) * stride;
      kernels_->product[matrix.kind](matrix.panel(pair), matrix.groups, inputs, stride, count, gate, 2 * kPanelRows, false);
      kernels_->product[matrix.kind](matrix.panel(pair + 1), matrix.groups, inputs, stride, count, gate + kPanelRows, 2 * kPanelRows, false);
      for (int r = 0; r < count; r++) {
        float* row = gate + r * 2 * kPanelRows;
        kernels_->swiglu(row, row + kPanelRows);
        kernels_->prepare[kind](row, 1, units_.data() + static_cast<size_t>(first + r) * unitStride + index * static_cast<size_t>(kernels_->inputBytes[kind]));
      }
    });
  };
  pool_->each(static_cast<uint32_t>(matrix.panels / 2), panel);
}

void Engine::addBias(const std::vector<float>& bias) {
  for (int row = 0; row < plan_.rows; row++) {
    float* to = residual_.floats() + static_cast<size_t>(row) * hiddenStride_;
    for (size_t i = 0; i < bias.size(); i++) to[i] += bias[i];
  }
}

void Engine::runLayer(const Layer& layer, int index, const KvStore& store) {
  normalise(layer.attentionNorm.data(), nullptr, layer.qkv.kind);
  multiply(layer.qkv, inputs_.data(), plan_.rows, projected_.floats(), projectedStride_, false);
  rotateAndStore(layer, index, store);
  attention(index, store);
  prepareRows(attended_.floats(), attendedStride_, layer.o.kind);
  multiply(layer.o, inputs_.data(), plan_.rows, residual_.floats(), hiddenStride_, true);
  if (!layer.oBias.empty()) addBias(layer.oBias);
  normalise(layer.mlpNorm.data(), nullptr, layer.gateUp.kind);
  gatedUnits(layer);
  multiply(layer.down, units_.data(), plan_.rows, residual_.floats(), hiddenStride_, true);
}

// The head for the rows that sample, then one token each.
Status Engine::sample(int32_t* result, float* logits) {
  std::vector<int> rows;
  std::vector<const SequencePlan*> samplers;
  for (const SequencePlan& sequence : plan_.sequences) {
    if (!sequence.sample) continue;
    rows.push_back(sequence.firstRow + sequence.count - 1);
    samplers.push_back(&sequence);
  }
  normalise(weights_.finalNorm.data(), &rows, weights_.head.kind);
  multiply(weights_.head, inputs_.data(), plan_.samples, logits_.floats(), logitsStride_, false);
  if (logits != nullptr) {
    for (size_t i = 0; i < rows.size(); i++) {
      memcpy(logits + i * static_cast<size_t>(spec_.vocabulary), logits_.floats() + i * logitsStride_, static_cast<size_t>(spec_.vocabulary) * sizeof(float));
    }
  }
  std::vector<char> sound(samplers.size());
  auto one = [&](uint32_t index, int thread) {
    const SequencePlan& sequence = *samplers[index];
    int32_t* record = result + static_cast<size_t>(&sequence - plan_.sequences.data()) * resultRecord;
    sound[index] = sampleToken(*kernels_, logits_.floats() + index * logitsStride_, spec_.vocabulary, sequence.sampling,
                               scratch_[static_cast<size_t>(thread)].sampler, record);
  };
  pool_->each(static_cast<uint32_t>(samplers.size()), one);
  for (size_t i = 0; i < samplers.size(); i++) {
    if (!sound[i]) return fail(Status::notFinite, "the logits of sequence %td are not finite numbers", samplers[i] - plan_.sequences.data());
  }
  return Status::ok;
}

Status Engine::step(const KvStore& store, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, float* logits, size_t logitsCount) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (store.blockBytes != blockBytes_) {
    return fail(Status::badArgument, "the store has blocks of %zu bytes, the engine of %zu", store.blockBytes, blockBytes_);
  }
  const PlanLimits limits{spec_.vocabulary, spec_.positions, store.deviceBlocks, options_.maxBatchTokens, options_.maxSequences};
  const Status status = readPlan(plan, planWords, limits, &plan_);
  if (status != Status::ok) return status;
  if (resultWords < plan_.sequences.size() * resultRecord) {
    return fail(Status::badPlan, "a result of %zu words for %zu sequences", resultWords, plan_.sequences.size());
  }
  if (logits != nullptr && logitsCount < static_cast<size_t>(plan_.samples) * static_cast<size_t>(spec_.vocabulary)) {
    return fail(Status::badPlan, "%zu logits for %d sampling sequences of %d", logitsCount, plan_.samples, spec_.vocabulary);
  }
  for (size_t i = 0; i < plan_.sequences.size(); i++) {
    memset(result + i * resultRecord, 0, resultRecord * sizeof(int32_t));
    result[i * resultRecord] = -1;
  }
  listAttention();
  embed();
  for (int i = 0; i < spec_.layers; i++) runLayer(weights_.layers[static_cast<size_t>(i)], i, store);
  return plan_.samples > 0 ? sample(result, logits) : Status::ok;
}

// ---- the process's engines -----------------------------------------------------------------------------------------

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
                     between(spec.heads, 1, 4096) && between(spec.kvHeads, 1, spec.heads) && between(spec.headDim, 2, 1024) &&
                     between(spec.intermediate, 1, 1 << 22) && between(spec.positions, 1, 1 << 24);
  if (!shape) return fail(Status::badModel, "a size of the model is out of range");
  if (spec.heads % spec.kvHeads != 0 || spec.headDim % 2 != 0) {
    return fail(Status::badModel, "%d heads, %d key-value heads, head size %d: heads must be shared evenly, head size even", spec.heads, spec.kvHeads, spec.headDim);
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

Status step(int engineId, int storeId, const int32_t* plan, size_t planWords, int32_t* result, size_t resultWords, float* logits, size_t logitsCount) {
  const auto engine = findEngine(engineId);
  if (engine == nullptr) return Status::badHandle;
  const auto store = findStore(storeId);
  if (store == nullptr) return Status::badHandle;
  return engine->step(*store, plan, planWords, result, resultWords, logits, logitsCount);
}

}  // namespace fastswitch
