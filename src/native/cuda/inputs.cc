#include "inputs.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace fastswitch::cuda {

namespace {

// Every part begins where any of the structs may.
constexpr size_t alignment = 64;

template <class T>
size_t after(size_t offset, int count) {
  return (offset + sizeof(T) * static_cast<size_t>(count) + alignment - 1) / alignment * alignment;
}

template <class T>
void put(uint8_t* to, const std::vector<T>& values) {
  if (!values.empty()) memcpy(to, values.data(), values.size() * sizeof(T));
}

}  // namespace

bool StepShape::operator<(const StepShape& other) const {
  return std::tie(rows, samples, items, folds) < std::tie(other.rows, other.samples, other.items, other.folds);
}

InputLayout::InputLayout(const StepShape& shape) {
  tokens = 0;
  positions = after<int32_t>(tokens, shape.rows);
  blocks = after<int32_t>(positions, shape.rows);
  sampleRows = after<int32_t>(blocks, shape.rows);
  items = after<int32_t>(sampleRows, shape.samples);
  folds = after<AttentionItem>(items, shape.items);
  sampleItems = after<FoldItem>(folds, shape.folds);
  words = after<SampleItem>(sampleItems, shape.samples);
}

size_t StepInputs::bytes() const { return InputLayout(shape_).words + words_.size() * sizeof(int32_t); }

void StepInputs::build(const StepPlan& plan, const TileRule& rule) {
  for (auto* list : {&tokens_, &positions_, &blocks_, &sampleRows_, &words_}) list->clear();
  tiles_.clear();
  items_.clear();
  folds_.clear();
  sampleItems_.clear();
  for (const SequencePlan& sequence : plan.sequences) {
    addSequence(sequence, rule);
    if (sequence.sample) addSample(sequence);
  }
  cut(rule);
  shape_ = {plan.rows, plan.samples, static_cast<int>(items_.size()), static_cast<int>(folds_.size())};
}

void StepInputs::addSequence(const SequencePlan& sequence, const TileRule& rule) {
  const auto table = static_cast<int32_t>(words_.size());
  const int blocks = (sequence.start + sequence.count + blockTokens - 1) / blockTokens;
  words_.insert(words_.end(), sequence.blocks, sequence.blocks + blocks);
  tokens_.insert(tokens_.end(), sequence.tokens, sequence.tokens + sequence.count);
  for (int i = 0; i < sequence.count; i++) {
    positions_.push_back(sequence.start + i);
    blocks_.push_back(sequence.blocks[(sequence.start + i) / blockTokens]);
  }
  for (int first = 0; first < sequence.count; first += rule.tileTokens) {
    const int tokens = std::min(rule.tileTokens, sequence.count - first);
    const int position = sequence.start + first;
    const int lowest = rule.window > 0 ? std::max(0, position - rule.window + 1) : 0;
    const int firstSpan = lowest / spanTokens;
    tiles_.push_back({sequence.firstRow + first, tokens, position, table, firstSpan, (position + tokens - 1) / spanTokens - firstSpan + 1});
  }
}

void StepInputs::addSample(const SequencePlan& sequence) {
  const SamplingPlan& from = sequence.sampling;
  SampleItem item{};
  item.temperature = from.temperature;
  item.topP = from.topP;
  item.minP = from.minP;
  item.frequencyPenalty = from.frequencyPenalty;
  item.presencePenalty = from.presencePenalty;
  item.repetitionPenalty = from.repetitionPenalty;
  item.topK = from.topK;
  item.topLogprobs = from.topLogprobs;
  item.seed = from.seed;
  item.draw = from.draw;
  item.record = sequence.sampleRow;
  item.bias = static_cast<int32_t>(words_.size());
  item.biasCount = from.biasCount;
  words_.insert(words_.end(), from.bias, from.bias + 2 * from.biasCount);
  item.history = static_cast<int32_t>(words_.size());
  item.historyCount = from.historyCount;
  item.historyPrompt = from.historyPrompt;
  words_.insert(words_.end(), from.history, from.history + from.historyCount);
  sampleItems_.push_back(item);
  sampleRows_.push_back(sequence.firstRow + sequence.count - 1);
}

// A warp walks the spans of a whole tile one after the other. Tiles much longer than the share that would fall to each
// warp are computed span by span instead, so that no warp is left walking when the others are done: few sequences with
// long contexts fill the device, and one very long context does not delay many short ones.
void StepInputs::cut(const TileRule& rule) {
  // The most work first, so that no warp is left with it at the end, and warps of a block have about the same.
  std::stable_sort(tiles_.begin(), tiles_.end(), [](const Tile& a, const Tile& b) { return a.spans > b.spans; });
  int64_t all = 0;
  for (const Tile& tile : tiles_) all += tile.spans;
  const int64_t share = (all * rule.kvHeads + rule.warps - 1) / rule.warps;
  int partials = 0;
  for (const Tile& tile : tiles_) {
    if (tile.spans <= 2 * share || tile.spans > rule.partialsMax - partials) {
      items_.push_back({tile.firstRow, tile.tokens, tile.position, tile.table, -1, -1});
      continue;
    }
    folds_.push_back({tile.firstRow, tile.tokens, tile.firstSpan, tile.spans, partials});
    for (int i = 0; i < tile.spans; i++) {
      items_.push_back({tile.firstRow, tile.tokens, tile.position, tile.table, tile.firstSpan + i, partials + i});
    }
    partials += tile.spans;
  }
}

void StepInputs::pad(const StepShape& shape) {
  const auto size = [](int count) { return static_cast<size_t>(count); };
  tokens_.resize(size(shape.rows), 0);
  positions_.resize(size(shape.rows), -1);
  blocks_.resize(size(shape.rows), 0);
  sampleRows_.resize(size(shape.samples), -1);
  SampleItem nothing{};
  nothing.repetitionPenalty = 1;
  nothing.topLogprobs = -1;
  nothing.record = -1;
  sampleItems_.resize(size(shape.samples), nothing);
  items_.resize(size(shape.items), AttentionItem{0, 0, 0, 0, -1, -1});
  folds_.resize(size(shape.folds), FoldItem{});
  shape_ = shape;
}

void StepInputs::write(uint8_t* to) const {
  const InputLayout layout(shape_);
  put(to + layout.tokens, tokens_);
  put(to + layout.positions, positions_);
  put(to + layout.blocks, blocks_);
  put(to + layout.sampleRows, sampleRows_);
  put(to + layout.items, items_);
  put(to + layout.folds, folds_);
  put(to + layout.sampleItems, sampleItems_);
  put(to + layout.words, words_);
}

}  // namespace fastswitch::cuda
