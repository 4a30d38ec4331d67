#include "tensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>

#include "mix.h"

namespace fastswitch {

namespace {

const char* const roleNames[] = {"embed", "finalNorm", "head",  "attentionNorm", "mlpNorm", "q",     "k",    "v",  "o",
                                 "qBias", "kBias",     "vBias", "oBias",         "qNorm",   "kNorm", "gate", "up", "down"};

constexpr int roleCount = static_cast<int>(Role::count);

size_t elementBytes(FileDtype dtype) { return dtype == FileDtype::f32 ? 4 : 2; }

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

}  // namespace

float fromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  if ((half & 0x7c00) == 0x7c00) return asFloat(sign | 0x7f800000 | static_cast<uint32_t>(half & 0x3ff) << 13);
  return asFloat(sign | asBits(asFloat(static_cast<uint32_t>(half & 0x7fff) << 13) * 0x1p112f));
}

uint16_t toHalf(float value) {
  if (value < 0x1p-14f) return static_cast<uint16_t>(std::nearbyint(value * 0x1p24f));
  const uint32_t bits = asBits(value);
  const uint32_t rounded = bits + 0xfff + (bits >> 13 & 1);
  return static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}

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

size_t Tensor::rowBytes() const { return elementBytes(dtype) * static_cast<size_t>(columns); }

void Tensor::row(int index, float* to) const {
  const size_t width = static_cast<size_t>(columns);
  std::vector<uint8_t> drawn(data == nullptr ? rowBytes() : 0);
  if (data == nullptr) draw(index, drawn.data());
  const uint8_t* from = data == nullptr ? drawn.data() : data + rowBytes() * static_cast<size_t>(index);
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

// Values like those of a trained model: norms near 1, the rest with a standard deviation of 0.02.
void Tensor::draw(int index, uint8_t* to) const {
  const size_t first = static_cast<size_t>(index) * static_cast<size_t>(columns);
  for (size_t i = 0; i < static_cast<size_t>(columns); i++) {
    // Uniform in +-sqrt(3) has a standard deviation of 1.
    const float unit = static_cast<float>(static_cast<int32_t>(mix(key + first + i) >> 32)) * 0x1p-31f * 1.7320508f;
    const float value = middle + 0.02f * unit;
    const uint32_t bits = asBits(value);
    if (dtype == FileDtype::f32) {
      memcpy(to + 4 * i, &bits, 4);
    } else {
      const auto half = dtype == FileDtype::f16 ? static_cast<uint16_t>(toHalf(std::fabs(value)) | (value < 0 ? 0x8000 : 0))
                                                : static_cast<uint16_t>(bits >> 16);
      memcpy(to + 2 * i, &half, 2);
    }
  }
}

Tensor& TensorTable::at(int layer, Role role) { return tensors_[static_cast<size_t>(layer + 1) * roleCount + static_cast<size_t>(role)]; }

Status TensorTable::place(const EngineSpec& spec, const TensorSpec& tensor, uint64_t seed) {
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
  Tensor& slot = at(tensor.layer, tensor.role);
  if (slot.present()) return fail(Status::badModel, "tensor %s of layer %d appears twice", name, tensor.layer);
  const uint64_t key = mix(mix(seed) ^ mix(static_cast<uint64_t>(tensor.layer + 1) * roleCount + static_cast<uint64_t>(tensor.role)));
  slot = {nullptr, tensor.dtype, tensor.rows, tensor.columns, key, isNorm(tensor.role) ? 1.0f : 0.0f};
  if (tensor.file == -1) return Status::ok;
  if (tensor.file < 0 || static_cast<size_t>(tensor.file) >= files_.size()) {
    return fail(Status::badModel, "tensor %s of layer %d names file %d of %zu", name, tensor.layer, tensor.file, files_.size());
  }
  const MappedFile& file = *files_[static_cast<size_t>(tensor.file)];
  const size_t bytes = elementBytes(tensor.dtype) * static_cast<size_t>(tensor.rows) * static_cast<size_t>(tensor.columns);
  const bool valid = tensor.offset >= 0 && tensor.offset <= static_cast<double>(file.bytes());
  if (!valid || bytes > file.bytes() - static_cast<size_t>(tensor.offset)) {
    return fail(Status::badModel, "tensor %s of layer %d lies outside %s; is the file complete?", name, tensor.layer,
                spec.files[static_cast<size_t>(tensor.file)].c_str());
  }
  slot.data = file.data() + static_cast<size_t>(tensor.offset);
  return Status::ok;
}

Status TensorTable::checkComplete(const EngineSpec& spec) {
  for (int layer = -1; layer < spec.layers; layer++) {
    for (int r = 0; r < roleCount; r++) {
      const Role role = static_cast<Role>(r);
      if (perLayer(role) != (layer >= 0) || optional(role)) continue;
      const bool present = at(layer, role).present();
      if (role == Role::head && spec.tiedHead) {
        if (present) return fail(Status::badModel, "the head is tied to the embedding, yet a tensor head is given");
      } else if (!present) {
        return fail(Status::badModel, "tensor %s of layer %d is missing", roleNames[r], layer);
      }
    }
  }
  return Status::ok;
}

Status TensorTable::read(const EngineSpec& spec, uint64_t seed) {
  for (const std::string& path : spec.files) {
    files_.emplace_back();
    const Status status = MappedFile::open(path, &files_.back());
    if (status != Status::ok) return status;
  }
  tensors_.assign(static_cast<size_t>(spec.layers + 1) * roleCount, Tensor());
  for (const TensorSpec& tensor : spec.tensors) {
    const Status status = place(spec, tensor, seed);
    if (status != Status::ok) return status;
  }
  return checkComplete(spec);
}

std::vector<float> vectorOf(const Tensor& tensor) {
  std::vector<float> values;
  if (!tensor.present()) return values;
  values.resize(roundUp(static_cast<size_t>(tensor.columns), 16));
  tensor.row(0, values.data());
  return values;
}

std::vector<float> stackedBias(const EngineSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v) {
  if (!q.present() && !k.present() && !v.present()) return {};
  const size_t qRows = static_cast<size_t>(spec.heads) * static_cast<size_t>(spec.headDim);
  const size_t kvRows = static_cast<size_t>(spec.kvHeads) * static_cast<size_t>(spec.headDim);
  std::vector<float> bias(qRows + 2 * kvRows);
  if (q.present()) q.row(0, bias.data());
  if (k.present()) k.row(0, bias.data() + qRows);
  if (v.present()) v.row(0, bias.data() + qRows + kvRows);
  return bias;
}

}  // namespace fastswitch
