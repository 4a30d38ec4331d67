#include "engine_cpu.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "rope.h"

namespace fastswitch {

Status CpuEngine::load(uint64_t seed) {
  kernels_ = findKernels(options.isa);
  if (kernels_ == nullptr) return fail(Status::badArgument, "this processor lacks the instruction set that was asked for; use isa auto");
  blockBytes_ = static_cast<size_t>(spec.layers) * 2 * sideBytes();
  Status status = ThreadPool::create(options.threads, &pool_);
  if (status == Status::ok) status = loadWeights(spec, options.q8, seed, *pool_, &weights_);
  if (status == Status::ok) status = reserve();
  if (status == Status::ok) makeRopeTable();
  return status;
}

Status CpuEngine::reserve() {
  const size_t rows = static_cast<size_t>(options.maxBatchTokens);
  const size_t half = static_cast<size_t>(spec.headDim) / 2;
  hiddenStride_ = padded(static_cast<size_t>(spec.hidden));
  projectedStride_ = padded(static_cast<size_t>(queryWidth() + 2 * keyWidth()));
  attendedStride_ = padded(static_cast<size_t>(queryWidth()));
  logitsStride_ = padded(static_cast<size_t>(spec.vocabulary));
  // Rows that feed a product are prepared at the widest encoding, whatever kind each matrix turns out to be.
  const size_t inputsWidth = std::max(hiddenStride_, attendedStride_);
  const size_t sampleRows = static_cast<size_t>(std::min(options.maxSequences, options.maxBatchTokens));
  const std::pair<Arena*, size_t> arenas[] = {
      {&cosines_, static_cast<size_t>(spec.positions) * half * sizeof(float)},
      {&sines_, static_cast<size_t>(spec.positions) * half * sizeof(float)},
      {&residual_, rows * hiddenStride_ * sizeof(float)},
      {&projected_, rows * projectedStride_ * sizeof(float)},
      {&attended_, rows * attendedStride_ * sizeof(float)},
      {&inputs_, rows * inputsWidth * sizeof(float)},
      {&units_, rows * padded(static_cast<size_t>(spec.intermediate)) * sizeof(float)},
      {&logits_, sampleRows * logitsStride_ * sizeof(float)},
  };
  for (const auto& [arena, bytes] : arenas) {
    const Status status = arena->reserve(bytes);
    if (status != Status::ok) return status;
  }
  const int groupHeads = spec.heads / spec.kvHeads;
  const int tileTokens = attentionTile(groupHeads);
  for (int i = 0; i < options.threads; i++) {
    scratch_.push_back({std::vector<float>(hiddenStride_), std::vector<float>(rows * 2 * kPanelRows),
                        AttentionScratch(tileTokens * groupHeads, spec.headDim), SamplerScratch(spec.vocabulary)});
  }
  return Status::ok;
}

void CpuEngine::makeRopeTable() {
  const size_t half = static_cast<size_t>(spec.headDim) / 2;
  auto fill = [&](uint32_t position, int) { rotation(spec, position, cosines_.floats() + position * half, sines_.floats() + position * half); };
  pool_->each(static_cast<uint32_t>(spec.positions), fill);
}

void CpuEngine::embed() {
  eachRow(plan.rows, hiddenStride_, [&](uint32_t row, int) {
    const SequencePlan& sequence = plan.sequences[static_cast<size_t>(rowSequence_[row])];
    weights_.embed.row(sequence.tokens[static_cast<int>(row) - sequence.firstRow], residual_.floats() + row * hiddenStride_);
  });
}

// Once a step: sequences cut into tiles, the most work first so that no thread is left with it at the end.
void CpuEngine::listAttention() {
  attentionItems_.clear();
  rowSequence_.clear();
  const int tile = attentionTile(spec.heads / spec.kvHeads);
  for (size_t i = 0; i < plan.sequences.size(); i++) {
    const SequencePlan& sequence = plan.sequences[i];
    for (int first = 0; first < sequence.count; first += tile) {
      attentionItems_.push_back({static_cast<int>(i), first, std::min(tile, sequence.count - first)});
    }
    rowSequence_.insert(rowSequence_.end(), static_cast<size_t>(sequence.count), static_cast<int>(i));
  }
  const auto work = [&](const AttentionItem& item) {
    return static_cast<int64_t>(item.count) * (plan.sequences[static_cast<size_t>(item.sequence)].start + item.firstToken + item.count);
  };
  std::stable_sort(attentionItems_.begin(), attentionItems_.end(), [&](const AttentionItem& a, const AttentionItem& b) { return work(a) > work(b); });
}

// The head for the rows that sample, then one token each.
Status CpuEngine::sample(int32_t* result, float* logits) {
  std::vector<int> rows;
  std::vector<const SequencePlan*> samplers;
  for (const SequencePlan& sequence : plan.sequences) {
    if (!sequence.sample) continue;
    rows.push_back(sequence.firstRow + sequence.count - 1);
    samplers.push_back(&sequence);
  }
  normalise(weights_.finalNorm.data(), &rows, weights_.head.kind);
  multiply(weights_.head, inputs_.data(), plan.samples, logits_.floats(), logitsStride_, false);
  if (logits != nullptr) {
    for (size_t i = 0; i < rows.size(); i++) {
      memcpy(logits + i * static_cast<size_t>(spec.vocabulary), logits_.floats() + i * logitsStride_, static_cast<size_t>(spec.vocabulary) * sizeof(float));
    }
  }
  std::vector<char> sound(samplers.size());
  auto one = [&](uint32_t index, int thread) {
    const SequencePlan& sequence = *samplers[index];
    int32_t* record = result + static_cast<size_t>(&sequence - plan.sequences.data()) * resultRecord;
    sound[index] = sampleToken(*kernels_, logits_.floats() + index * logitsStride_, spec.vocabulary, sequence.sampling,
                               scratch_[static_cast<size_t>(thread)].sampler, record);
  };
  pool_->each(static_cast<uint32_t>(samplers.size()), one);
  for (size_t i = 0; i < samplers.size(); i++) {
    if (!sound[i]) return fail(Status::notFinite, "the logits of sequence %td are not finite numbers", samplers[i] - plan.sequences.data());
  }
  return Status::ok;
}

Status CpuEngine::step(KvStore& store, int32_t* result, float* logits) {
  const auto& memories = static_cast<const CpuStore&>(store);
  listAttention();
  embed();
  for (int i = 0; i < spec.layers; i++) runLayer(weights_.layers[static_cast<size_t>(i)], i, memories);
  return plan.samples > 0 ? sample(result, logits) : Status::ok;
}

Status CpuEngine::readWeights(uint64_t* folded) {
  std::vector<const Matrix*> matrices = {&weights_.head};
  for (const Layer& layer : weights_.layers) matrices.insert(matrices.end(), {&layer.qkv, &layer.o, &layer.gateUp, &layer.down});
  std::atomic<uint64_t> digest{0};
  for (const Matrix* matrix : matrices) {
    auto one = [&](uint32_t panel, int) { digest.fetch_xor(kernels_->touch(matrix->panel(static_cast<int>(panel)), matrix->panelBytes())); };
    pool_->each(static_cast<uint32_t>(matrix->panels), one);
  }
  *folded = digest.load();
  return Status::ok;
}

Status createCpuEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, std::shared_ptr<Engine>* engine) {
  auto made = std::make_shared<CpuEngine>();
  made->spec = spec;
  made->options = options;
  const Status status = made->load(seed);
  *engine = std::move(made);
  return status;
}

}  // namespace fastswitch
