// The stages of one layer.
#include <cstring>

#include "engine_cpu.h"

namespace fastswitch {

// Norms rows of the residual (all of them, or those listed) and prepares them as inputs of a product.
void CpuEngine::normalise(const float* weight, const std::vector<int>* rows, WeightKind kind) {
  const size_t stride = inputStride(kind, static_cast<size_t>(spec.hidden));
  const int groups = static_cast<int>(hiddenStride_) / kGroup;
  const int count = rows == nullptr ? plan.rows : static_cast<int>(rows->size());
  eachRow(count, hiddenStride_, [&](uint32_t index, int thread) {
    const size_t row = rows == nullptr ? index : static_cast<size_t>((*rows)[index]);
    float* scratch = scratch_[static_cast<size_t>(thread)].row.data();
    kernels_->rmsNorm(residual_.floats() + row * hiddenStride_, weight, spec.hidden, spec.rmsEps, scratch);
    kernels_->prepare[kind](scratch, groups, inputs_.data() + index * stride);
  });
}

void CpuEngine::prepareRows(const float* from, size_t fromStride, WeightKind kind) {
  const size_t stride = inputStride(kind, fromStride);
  const int groups = static_cast<int>(fromStride) / kGroup;
  eachRow(plan.rows, fromStride,
          [&](uint32_t row, int) { kernels_->prepare[kind](from + row * fromStride, groups, inputs_.data() + row * stride); });
}

// Panel `index` of a matrix times all rows, in tiles of nearly equal size: 16 rows are 8 + 8, not 12 + 4. Calls
// done(first row, rows) after each. `next`, the panel that this thread is likely to take next, is loaded meanwhile.
template <class Done>
void CpuEngine::multiplyPanel(const Matrix& matrix, int index, int next, const uint8_t* inputs, int rows, float* output, size_t outputStride, bool add,
                           Done done) {
  const WeightKind kind = matrix.kind;
  const int tiles = (rows + kernels_->tileRows[kind] - 1) / kernels_->tileRows[kind];
  const bool ahead = rows >= kernels_->aheadRowsMin[kind] && rows <= kernels_->aheadRowsMax[kind];
  const int lines = ahead ? (static_cast<int>(kGroupBytes[kind] / 64) + tiles - 1) / tiles : 0;
  Product product{};
  product.panel = matrix.panel(index);
  product.groups = matrix.groups;
  product.stride = static_cast<size_t>(matrix.groups) * static_cast<size_t>(kernels_->inputBytes[kind]);
  product.outputStride = outputStride;
  product.add = add;
  product.ahead = matrix.panel(next);
  product.aheadLines = lines;
  for (int tile = 0; tile < tiles; tile++) {
    const int first = static_cast<int>(static_cast<int64_t>(rows) * tile / tiles);
    product.rows = static_cast<int>(static_cast<int64_t>(rows) * (tile + 1) / tiles) - first;
    product.inputs = inputs + static_cast<size_t>(first) * product.stride;
    product.output = output + static_cast<size_t>(first) * outputStride;
    kernels_->product[kind](product);
    product.ahead += static_cast<size_t>(64 * lines) * static_cast<size_t>(matrix.groups);
    done(first, product.rows);
  }
}

void CpuEngine::multiply(const Matrix& matrix, const uint8_t* inputs, int rows, float* output, size_t outputStride, bool add) {
  auto panel = [&](uint32_t index, int) {
    multiplyPanel(matrix, static_cast<int>(index), static_cast<int>(index) + pool_->threads(), inputs, rows, output + index * kPanelRows, outputStride, add,
                  [](int, int) {});
  };
  pool_->each(static_cast<uint32_t>(matrix.panels), panel);
}

// Bias, norms of heads and rotation of q and k; then k and v of the new tokens go to their blocks.
void CpuEngine::rotateAndStore(const Layer& layer, int index, const CpuStore& store) {
  const int headDim = spec.headDim;
  const size_t half = static_cast<size_t>(headDim) / 2;
  const KvDtype dtype = options.kvDtype;
  const size_t headBytes = kBlockTokens * static_cast<size_t>(headDim) * kvBytes(dtype);
  eachRow(plan.rows, projectedStride_, [&](uint32_t row, int thread) {
    const SequencePlan& sequence = plan.sequences[static_cast<size_t>(rowSequence_[row])];
    const int position = sequence.start + static_cast<int>(row) - sequence.firstRow;
    float* all = projected_.floats() + row * projectedStride_;
    for (size_t i = 0; i < layer.qkvBias.size(); i++) all[i] += layer.qkvBias[i];
    for (int head = 0; head < spec.heads + spec.kvHeads; head++) {
      float* values = all + head * headDim;
      const std::vector<float>& norm = head < spec.heads ? layer.qNorm : layer.kNorm;
      if (!norm.empty()) {
        float* copy = scratch_[static_cast<size_t>(thread)].row.data();
        memset(copy, 0, roundUp(static_cast<size_t>(headDim), 16) * sizeof(float));
        memcpy(copy, values, static_cast<size_t>(headDim) * sizeof(float));
        kernels_->rmsNorm(copy, norm.data(), headDim, spec.rmsEps, copy);
        memcpy(values, copy, static_cast<size_t>(headDim) * sizeof(float));
      }
      kernels_->rotate(values, cosines_.floats() + static_cast<size_t>(position) * half, sines_.floats() + static_cast<size_t>(position) * half,
                       static_cast<int>(half));
    }
    uint8_t* block = store.deviceMemory.data() + static_cast<size_t>(sequence.blocks[position / kBlockTokens]) * blockBytes_ +
                     static_cast<size_t>(index) * 2 * sideBytes();
    const int slot = position % kBlockTokens;
    const bool last = static_cast<int>(row) + 1 == sequence.firstRow + sequence.count;
    for (int head = 0; head < spec.kvHeads; head++) {
      uint8_t* to = block + static_cast<size_t>(head) * headBytes;
      kernels_->storeKey[dtype](all + queryWidth() + head * headDim, headDim, slot, to);
      kernels_->storeValue[dtype](all + queryWidth() + keyWidth() + head * headDim, headDim, slot, last, to + sideBytes());
    }
  });
}

void CpuEngine::attention(int index, const CpuStore& store) {
  const int groupHeads = spec.heads / spec.kvHeads;
  const int window = spec.window > 0 && index >= spec.windowFromLayer ? spec.window : 0;
  const AttentionShape shape{spec.headDim, groupHeads, window, options.kvDtype};
  const size_t headBytes = kBlockTokens * static_cast<size_t>(spec.headDim) * kvBytes(options.kvDtype);
  const uint32_t kvHeads = static_cast<uint32_t>(spec.kvHeads);
  auto one = [&](uint32_t number, int thread) {
    const AttentionItem& item = attentionItems_[number / kvHeads];
    const size_t kvHead = number % kvHeads;
    const SequencePlan& sequence = plan.sequences[static_cast<size_t>(item.sequence)];
    const size_t keys = static_cast<size_t>(index) * 2 * sideBytes() + kvHead * headBytes;
    const KvView kv{store.deviceMemory.data(), blockBytes_, keys, keys + sideBytes(), sequence.blocks};
    const size_t row = static_cast<size_t>(sequence.firstRow + item.firstToken);
    const size_t column = kvHead * static_cast<size_t>(groupHeads * spec.headDim);
    attend(*kernels_, shape, kv, sequence.start + item.firstToken, item.count, projected_.floats() + row * projectedStride_ + column, projectedStride_,
           attended_.floats() + row * attendedStride_ + column, attendedStride_, scratch_[static_cast<size_t>(thread)].attention);
  };
  pool_->each(static_cast<uint32_t>(attentionItems_.size()) * kvHeads, one);
}

// silu(gate) * up, 32 units at a time, straight into the prepared inputs of the next product: a panel is a group.
void CpuEngine::gatedUnits(const Layer& layer) {
  const Matrix& matrix = layer.gateUp;
  const WeightKind kind = layer.down.kind;
  const size_t unitStride = inputStride(kind, static_cast<size_t>(spec.intermediate));
  const size_t unitBytes = static_cast<size_t>(kernels_->inputBytes[kind]);
  auto panel = [&](uint32_t index, int thread) {
    float* gate = scratch_[static_cast<size_t>(thread)].units.data();
    float* up = gate + static_cast<size_t>(options.maxBatchTokens) * kPanelRows;
    const int pair = static_cast<int>(index) * 2;
    const int next = pair + 2 * pool_->threads();
    multiplyPanel(matrix, pair, next, inputs_.data(), plan.rows, gate, kPanelRows, false, [](int, int) {});
    multiplyPanel(matrix, pair + 1, next + 1, inputs_.data(), plan.rows, up, kPanelRows, false, [&](int first, int count) {
      for (int row = first; row < first + count; row++) {
        kernels_->swiglu(gate + row * kPanelRows, up + row * kPanelRows);
        kernels_->prepare[kind](gate + row * kPanelRows, 1, units_.data() + static_cast<size_t>(row) * unitStride + index * unitBytes);
      }
    });
  };
  pool_->each(static_cast<uint32_t>(matrix.panels / 2), panel);
}

void CpuEngine::addBias(const std::vector<float>& bias) {
  for (int row = 0; row < plan.rows; row++) {
    float* to = residual_.floats() + static_cast<size_t>(row) * hiddenStride_;
    for (size_t i = 0; i < bias.size(); i++) to[i] += bias[i];
  }
}

void CpuEngine::runLayer(const Layer& layer, int index, const CpuStore& store) {
  normalise(layer.attentionNorm.data(), nullptr, layer.qkv.kind);
  multiply(layer.qkv, inputs_.data(), plan.rows, projected_.floats(), projectedStride_, false);
  rotateAndStore(layer, index, store);
  attention(index, store);
  prepareRows(attended_.floats(), attendedStride_, layer.o.kind);
  multiply(layer.o, inputs_.data(), plan.rows, residual_.floats(), hiddenStride_, true);
  if (!layer.oBias.empty()) addBias(layer.oBias);
  normalise(layer.mlpNorm.data(), nullptr, layer.gateUp.kind);
  gatedUnits(layer);
  multiply(layer.down, units_.data(), plan.rows, residual_.floats(), hiddenStride_, true);
}

}  // namespace fastswitch
