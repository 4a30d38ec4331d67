#include "weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "mix.h"

namespace fastswitch {

namespace {

const char* const roleNames[] = {"embed", "finalNorm", "head",  "attentionNorm", "mlpNorm", "q",     "k",    "v",  "o",
                                 "qBias", "kBias",     "vBias", "oBias",         "qNorm",   "kNorm", "gate", "up", "down"};

constexpr int roleCount = static_cast<int>(Role::count);

size_t elementBytes(FileDtype dtype) { return dtype == FileDtype::f32 ? 4 : 2; }

float asFloat(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t asBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

float fromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  if ((half & 0x7c00) == 0x7c00) return asFloat(sign | 0x7f800000 | static_cast<uint32_t>(half & 0x3ff) << 13);
  return asFloat(sign | asBits(asFloat(static_cast<uint32_t>(half & 0x7fff) << 13) * 0x1p112f));
}

// To nearest, ties to even, for 0 <= value below f16's largest.
uint16_t toHalf(float value) {
  if (value < 0x1p-14f) return static_cast<uint16_t>(std::nearbyint(value * 0x1p24f));
  const uint32_t bits = asBits(value);
  const uint32_t rounded = bits + 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}

// ---- finding tensors -----------------------------------------------------------------------------------------------

struct Shape {
  int rows;
  int columns;
};

// The shape of a role, [outputs, inputs].
Shape shapeOf(Role role, const EngineSpec& spec) {
  const int q = spec.heads * spec.headDim;
  const int kv = spec.kvHeads * spec.headDim;
  switch (role) {
    case Role::embed:
    case Role::head: return {spec.vocabulary, spec.hidden};
    case Role::finalNorm:
    case Role::attentionNorm:
    case Role::mlpNorm:
    case Role::oBias: return {1, spec.hidden};
    case Role::q: return {q, spec.hidden};
    case Role::k:
    case Role::v: return {kv, spec.hidden};
    case Role::o: return {spec.hidden, q};
    case Role::qBias: return {1, q};
    case Role::kBias:
    case Role::vBias: return {1, kv};
    case Role::qNorm:
    case Role::kNorm: return {1, spec.headDim};
    case Role::gate:
    case Role::up: return {spec.intermediate, spec.hidden};
    case Role::down: return {spec.hidden, spec.intermediate};
    case Role::count: break;
  }
  return {0, 0};
}

bool perLayer(Role role) { return role != Role::embed && role != Role::finalNorm && role != Role::head; }

bool optional(Role role) { return (role >= Role::qBias && role <= Role::kNorm); }

bool isNorm(Role role) {
  return role == Role::finalNorm || role == Role::attentionNorm || role == Role::mlpNorm || role == Role::qNorm || role == Role::kNorm;
}

// Every tensor by layer (row 0: those of no layer) and role.
using Table = std::vector<Tensor>;

Tensor& at(Table& table, int layer, Role role) { return table[static_cast<size_t>(layer + 1) * roleCount + static_cast<size_t>(role)]; }

// Values like those of a trained model: norms near 1, the rest with a standard deviation of 0.02.
Status draw(const TensorSpec& spec, uint64_t seed, ThreadPool& pool, Arena* arena) {
  const size_t width = elementBytes(spec.dtype);
  const Status status = arena->reserve(width * static_cast<size_t>(spec.rows) * static_cast<size_t>(spec.columns));
  if (status != Status::ok) return status;
  const uint64_t key = mix(mix(seed) ^ mix(static_cast<uint64_t>(spec.layer + 1) * roleCount + static_cast<uint64_t>(spec.role)));
  const float middle = isNorm(spec.role) ? 1.0f : 0.0f;
  auto fill = [&](uint32_t row, int) {
    const size_t first = static_cast<size_t>(row) * static_cast<size_t>(spec.columns);
    for (size_t i = first; i < first + static_cast<size_t>(spec.columns); i++) {
      // Uniform in +-sqrt(3) has a standard deviation of 1.
      const float unit = static_cast<float>(static_cast<int32_t>(mix(key + i) >> 32)) * 0x1p-31f * 1.7320508f;
      const float value = middle + 0.02f * unit;
      const uint32_t bits = asBits(value);
      if (spec.dtype == FileDtype::f32) {
        memcpy(arena->data() + 4 * i, &bits, 4);
      } else {
        const auto half = spec.dtype == FileDtype::f16 ? static_cast<uint16_t>(toHalf(std::fabs(value)) | (value < 0 ? 0x8000 : 0))
                                                       : static_cast<uint16_t>(bits >> 16);
        memcpy(arena->data() + 2 * i, &half, 2);
      }
    }
  };
  pool.each(static_cast<uint32_t>(spec.rows), fill);
  return Status::ok;
}

Status place(const EngineSpec& spec, const TensorSpec& tensor, uint64_t seed, ThreadPool& pool, Weights* weights, Table* table) {
  if (static_cast<int>(tensor.role) < 0 || tensor.role >= Role::count) return fail(Status::badModel, "a tensor has an unknown role");
  const char* name = roleNames[static_cast<int>(tensor.role)];
  const bool layered = perLayer(tensor.role);
  if (layered ? tensor.layer < 0 || tensor.layer >= spec.layers : tensor.layer != -1) {
    return fail(Status::badModel, "tensor %s has layer %d of %d", name, tensor.layer, spec.layers);
  }
  const Shape shape = shapeOf(tensor.role, spec);
  if (tensor.rows != shape.rows || tensor.columns != shape.columns) {
    return fail(Status::badModel, "tensor %s of layer %d is %d x %d, expected %d x %d", name, tensor.layer, tensor.rows, tensor.columns, shape.rows,
                shape.columns);
  }
  Tensor& slot = at(*table, tensor.layer, tensor.role);
  if (slot.data != nullptr) return fail(Status::badModel, "tensor %s of layer %d appears twice", name, tensor.layer);
  slot = {nullptr, tensor.dtype, tensor.rows, tensor.columns};
  if (tensor.file == -1) {
    weights->drawn.emplace_back();
    const Status status = draw(tensor, seed, pool, &weights->drawn.back());
    slot.data = weights->drawn.back().data();
    return status;
  }
  if (tensor.file < 0 || static_cast<size_t>(tensor.file) >= weights->files.size()) {
    return fail(Status::badModel, "tensor %s of layer %d names file %d of %zu", name, tensor.layer, tensor.file, weights->files.size());
  }
  const MappedFile& file = *weights->files[static_cast<size_t>(tensor.file)];
  const size_t bytes = elementBytes(tensor.dtype) * static_cast<size_t>(tensor.rows) * static_cast<size_t>(tensor.columns);
  const bool valid = tensor.offset >= 0 && tensor.offset <= static_cast<double>(file.bytes());
  if (!valid || bytes > file.bytes() - static_cast<size_t>(tensor.offset)) {
    return fail(Status::badModel, "tensor %s of layer %d lies outside %s; is the file complete?", name, tensor.layer,
                spec.files[static_cast<size_t>(tensor.file)].c_str());
  }
  slot.data = file.data() + static_cast<size_t>(tensor.offset);
  return Status::ok;
}

Status checkComplete(const EngineSpec& spec, Table& table) {
  for (int layer = -1; layer < spec.layers; layer++) {
    for (int r = 0; r < roleCount; r++) {
      const Role role = static_cast<Role>(r);
      if (perLayer(role) != (layer >= 0) || optional(role)) continue;
      const bool present = at(table, layer, role).data != nullptr;
      if (role == Role::head && spec.tiedHead) {
        if (present) return fail(Status::badModel, "the head is tied to the embedding, yet a tensor head is given");
      } else if (!present) {
        return fail(Status::badModel, "tensor %s of layer %d is missing", roleNames[r], layer);
      }
    }
  }
  return Status::ok;
}

// ---- packing -------------------------------------------------------------------------------------------------------

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

std::vector<float> vectorOf(const Tensor& tensor) {
  std::vector<float> values;
  if (tensor.data == nullptr) return values;
  values.resize(roundUp(static_cast<size_t>(tensor.columns), 16));
  tensor.row(0, values.data());
  return values;
}

std::vector<float> stackedBias(const EngineSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v) {
  if (q.data == nullptr && k.data == nullptr && v.data == nullptr) return {};
  const size_t qRows = static_cast<size_t>(spec.heads) * static_cast<size_t>(spec.headDim);
  const size_t kvRows = static_cast<size_t>(spec.kvHeads) * static_cast<size_t>(spec.headDim);
  std::vector<float> bias(qRows + 2 * kvRows);
  if (q.data != nullptr) q.row(0, bias.data());
  if (k.data != nullptr) k.row(0, bias.data() + qRows);
  if (v.data != nullptr) v.row(0, bias.data() + qRows + kvRows);
  return bias;
}

Status packLayer(const EngineSpec& spec, bool q8, Weights& weights, ThreadPool& pool, Table& table, int index) {
  Layer* layer = &weights.layers[static_cast<size_t>(index)];
  const auto tensor = [&](Role role) -> Tensor& { return at(table, index, role); };
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

Status MappedFile::open(const std::string& path, std::unique_ptr<MappedFile>* file) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return fail(Status::badModel, "cannot open %s: %s", path.c_str(), strerror(errno));
  struct stat facts;
  const bool known = fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size > 0;
  const size_t bytes = known ? static_cast<size_t>(facts.st_size) : 0;
  void* data = known ? mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
  close(descriptor);
  if (data == MAP_FAILED) return fail(Status::badModel, "cannot map %s: it is empty or no regular file", path.c_str());
  file->reset(new MappedFile);
  (*file)->data_ = static_cast<const uint8_t*>(data);
  (*file)->bytes_ = bytes;
  return Status::ok;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), bytes_);
}

void Tensor::row(int index, float* to) const {
  const size_t width = static_cast<size_t>(columns);
  const uint8_t* from = data + elementBytes(dtype) * width * static_cast<size_t>(index);
  if (dtype == FileDtype::f32) {
    memcpy(to, from, width * sizeof(float));
    return;
  }
  for (size_t i = 0; i < width; i++) {
    uint16_t half;
    memcpy(&half, from + 2 * i, sizeof half);
    to[i] = dtype == FileDtype::bf16 ? asFloat(static_cast<uint32_t>(half) << 16) : fromHalf(half);
  }
}

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
  for (const std::string& path : spec.files) {
    weights->files.emplace_back();
    const Status status = MappedFile::open(path, &weights->files.back());
    if (status != Status::ok) return status;
  }
  Table table(static_cast<size_t>(spec.layers + 1) * roleCount);
  for (const TensorSpec& tensor : spec.tensors) {
    const Status status = place(spec, tensor, seed, pool, weights, &table);
    if (status != Status::ok) return status;
  }
  Status status = checkComplete(spec, table);
  weights->layers.resize(static_cast<size_t>(spec.layers));
  for (int i = 0; i < spec.layers && status == Status::ok; i++) status = packLayer(spec, q8, *weights, pool, table, i);
  if (status != Status::ok) return status;
  weights->embed = at(table, -1, Role::embed);
  weights->finalNorm = vectorOf(at(table, -1, Role::finalNorm));
  status = packStacked({&at(table, -1, spec.tiedHead ? Role::embed : Role::head)}, q8, *weights, pool, &weights->head);
  // Only the embedding is read again after packing.
  for (Arena& arena : weights->drawn) {
    if (arena.data() != weights->embed.data) arena = Arena();
  }
  return status;
}

}  // namespace fastswitch
