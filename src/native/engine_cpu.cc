#include "engine_cpu.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

namespace fastswitch {

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
    scratch_.push_back({std::vector<float>(hiddenStride_), std::vector<float>(rows * 2 * kPanelRows),
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

uint64_t Engine::readWeights() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<const Matrix*> matrices = {&weights_.head};
  for (const Layer& layer : weights_.layers) matrices.insert(matrices.end(), {&layer.qkv, &layer.o, &layer.gateUp, &layer.down});
  std::atomic<uint64_t> folded{0};
  for (const Matrix* matrix : matrices) {
    auto one = [&](uint32_t panel, int) { folded.fetch_xor(kernels_->touch(matrix->panel(static_cast<int>(panel)), matrix->panelBytes())); };
    pool_->each(static_cast<uint32_t>(matrix->panels), one);
  }
  return folded.load();
}

}  // namespace fastswitch
