#include "weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastswitch {

namespace {

// The values of a tensor of file -1, where the rest of loading expects those of a file.
Status draw(ThreadPool& pool, Tensor* tensor, Arena* arena) {
  const Status status = arena->reserve(tensor->rowBytes() * static_cast<size_t>(tensor->rows));
  if (status != Status::ok) return status;
  auto fill = [&](uint32_t row, int) { tensor->draw(static_cast<int>(row), arena->data() + tensor->rowBytes() * row); };
  pool.each(static_cast<uint32_t>(tensor->rows), fill);
  tensor->data = arena->data();
  return Status::ok;
}

// f16 keeps its exact values as f32: bf16 would drop three bits of each.
WeightKind kindOf(FileDtype dtype, bool q8) { return q8 ? kQ8 : dtype == FileDtype::bf16 ? kBf16 : kF32; }

void packF32(const float* rows, size_t stride, int groups, uint8_t* panel) {
  auto* to = reinterpret_cast<float*>(panel);
  for (int k = 0; k < groups * kGroup; k++) {
    for (int r = 0; r < kPanelRows; r++) *to++ = rows[static_cast<size_t>(r) * stride + static_cast<size_t>(k)];
  }
}

void packBf16(const float* rows, size_t stride, int groups, uint8_t* panel) {
  auto* to = reinterpret_cast<uint16_t*>(panel);
  for (int k = 0; k < groups * kGroup; k += 2) {
    for (int r = 0; r < kPanelRows; r++) {
      const float* from = rows + static_cast<size_t>(r) * stride + k;
      *to++ = static_cast<uint16_t>(asBits(from[0]) >> 16);
      *to++ = static_cast<uint16_t>(asBits(from[1]) >> 16);
    }
  }
}

// Symmetric: scale = largest / 127, rounded to f16 first, so that the integers fit the scale that is stored.
void packQ8(const float* rows, size_t stride, int groups, uint8_t* panel) {
  auto* to = reinterpret_cast<Q8Weights*>(panel);
  for (int g = 0; g < groups; g++, to++) {
    for (int r = 0; r < kPanelRows; r++) {
      const float* from = rows + static_cast<size_t>(r) * stride + static_cast<size_t>(g) * kGroup;
      float largest = 0;
      for (int i = 0; i < kGroup; i++) largest = std::fmax(largest, std::fabs(from[i]));
      to->scales[r] = toHalf(std::fmin(largest / 127.0f, 65504.0f));
      const float scale = fromHalf(to->scales[r]);
      for (int i = 0; i < kGroup; i++) {
        const float value = scale > 0 ? std::nearbyint(from[i] / scale) : 0.0f;
        to->weights[i / 4][r][i % 4] = static_cast<uint8_t>(static_cast<int>(std::fmin(127.0f, std::fmax(-127.0f, value))) + 128);
      }
    }
  }
}

// Packs `panels` panels; `source(panel, lane)` answers the tensor and its row, or a null tensor for padding.
template <class Source>
Status pack(WeightKind kind, int panels, int columns, Weights& weights, ThreadPool& pool, Source source, Matrix* matrix) {
  matrix->kind = kind;
  matrix->panels = panels;
  matrix->groups = static_cast<int>(roundUp(static_cast<size_t>(columns), kGroup)) / kGroup;
  const Status status = weights.allocate(matrix->bytes(), &matrix->data);
  if (status != Status::ok) return status;
  const size_t stride = static_cast<size_t>(matrix->groups) * kGroup;
  std::vector<std::vector<float>> scratch(static_cast<size_t>(pool.threads()), std::vector<float>(stride * kPanelRows));
  auto one = [&](uint32_t panel, int thread) {
    float* rows = scratch[static_cast<size_t>(thread)].data();
    for (int lane = 0; lane < kPanelRows; lane++) {
      float* to = rows + static_cast<size_t>(lane) * stride;
      const std::pair<const Tensor*, int> from = source(static_cast<int>(panel), lane);
      memset(to, 0, stride * sizeof(float));
      if (from.first != nullptr) from.first->row(from.second, to);
    }
    uint8_t* to = matrix->data + matrix->panelBytes() * panel;
    if (kind == kF32) packF32(rows, stride, matrix->groups, to);
    if (kind == kBf16) packBf16(rows, stride, matrix->groups, to);
    if (kind == kQ8) packQ8(rows, stride, matrix->groups, to);
  };
  pool.each(static_cast<uint32_t>(panels), one);
  return Status::ok;
}

// The tensors' rows one after the other.
Status packStacked(std::vector<const Tensor*> tensors, bool q8, Weights& weights, ThreadPool& pool, Matrix* matrix) {
  int rows = 0;
  WeightKind kind = kindOf(tensors[0]->dtype, q8);
  for (const Tensor* tensor : tensors) {
    rows += tensor->rows;
    if (kindOf(tensor->dtype, q8) != kind) kind = kF32;
  }
  const auto source = [&](int panel, int lane) {
    int row = panel * kPanelRows + lane;
    for (const Tensor* tensor : tensors) {
      if (row < tensor->rows) return std::pair<const Tensor*, int>(tensor, row);
      row -= tensor->rows;
    }
    return std::pair<const Tensor*, int>(nullptr, 0);
  };
  const int panels = static_cast<int>(roundUp(static_cast<size_t>(rows), kPanelRows)) / kPanelRows;
  return pack(kind, panels, tensors[0]->columns, weights, pool, source, matrix);
}

// Panels of the two in turn, so that one work item holds both halves of a gated unit.
Status packInterleaved(const Tensor& gate, const Tensor& up, bool q8, Weights& weights, ThreadPool& pool, Matrix* matrix) {
  const WeightKind kind = kindOf(gate.dtype, q8) == kindOf(up.dtype, q8) ? kindOf(gate.dtype, q8) : kF32;
  const auto source = [&](int panel, int lane) {
    const int row = panel / 2 * kPanelRows + lane;
    const Tensor* tensor = panel % 2 == 0 ? &gate : &up;
    return row < tensor->rows ? std::pair<const Tensor*, int>(tensor, row) : std::pair<const Tensor*, int>(nullptr, 0);
  };
  const int panels = 2 * static_cast<int>(roundUp(static_cast<size_t>(gate.rows), kPanelRows)) / kPanelRows;
  return pack(kind, panels, gate.columns, weights, pool, source, matrix);
}

Status packLayer(const EngineSpec& spec, bool q8, Weights& weights, ThreadPool& pool, TensorTable& table, int index) {
  Layer* layer = &weights.layers[static_cast<size_t>(index)];
  const auto tensor = [&](Role role) -> Tensor& { return table.at(index, role); };
  layer->attentionNorm = vectorOf(tensor(Role::attentionNorm));
  layer->mlpNorm = vectorOf(tensor(Role::mlpNorm));
  layer->qNorm = vectorOf(tensor(Role::qNorm));
  layer->kNorm = vectorOf(tensor(Role::kNorm));
  layer->qkvBias = stackedBias(spec, tensor(Role::qBias), tensor(Role::kBias), tensor(Role::vBias));
  layer->oBias = vectorOf(tensor(Role::oBias));
  Status status = packStacked({&tensor(Role::q), &tensor(Role::k), &tensor(Role::v)}, q8, weights, pool, &layer->qkv);
  if (status == Status::ok) status = packStacked({&tensor(Role::o)}, q8, weights, pool, &layer->o);
  if (status == Status::ok) status = packInterleaved(tensor(Role::gate), tensor(Role::up), q8, weights, pool, &layer->gateUp);
  if (status == Status::ok) status = packStacked({&tensor(Role::down)}, q8, weights, pool, &layer->down);
  return status;
}

}  // namespace

size_t Weights::matrixBytes() const {
  size_t bytes = head.bytes();
  for (const Layer& layer : layers) bytes += layer.qkv.bytes() + layer.o.bytes() + layer.gateUp.bytes() + layer.down.bytes();
  return bytes;
}

Status Weights::allocate(size_t bytes, uint8_t** data) {
  constexpr size_t range = size_t{256} << 20;
  if (packed.empty() || bytes > packed.back().bytes() - packedUsed) {
    packed.emplace_back();
    packedUsed = 0;
    const Status status = packed.back().reserve(std::max(bytes, range));
    if (status != Status::ok) return status;
  }
  *data = packed.back().data() + packedUsed;
  packedUsed += roundUp(bytes, 64);
  if (packedUsed > packed.back().bytes()) packedUsed = packed.back().bytes();
  return Status::ok;
}

Status loadWeights(const EngineSpec& spec, bool q8, uint64_t seed, ThreadPool& pool, Weights* weights) {
  TensorTable table;
  Status status = table.read(spec, seed);
  for (Tensor& tensor : table.all()) {
    if (status != Status::ok) return status;
    if (!tensor.present() || tensor.data != nullptr) continue;
    weights->drawn.emplace_back();
    status = draw(pool, &tensor, &weights->drawn.back());
  }
  weights->layers.resize(static_cast<size_t>(spec.layers));
  for (int i = 0; i < spec.layers && status == Status::ok; i++) status = packLayer(spec, q8, *weights, pool, table, i);
  if (status != Status::ok) return status;
  weights->files = std::move(table.files());
  weights->embed = table.at(-1, Role::embed);
  weights->finalNorm = vectorOf(table.at(-1, Role::finalNorm));
  status = packStacked({&table.at(-1, spec.tiedHead ? Role::embed : Role::head)}, q8, *weights, pool, &weights->head);
  // Only the embedding is read again after packing.
  for (Arena& arena : weights->drawn) {
    if (arena.data() != weights->embed.data) arena = Arena();
  }
  return status;
}

}  // namespace fastswitch
