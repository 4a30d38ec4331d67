#include "weights.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "../rope.h"
#include "../tensors.h"
#include "launch.h"
#include "upload.h"

namespace fastswitch::cuda {

namespace {

constexpr size_t alignment = 256;

uint16_t roundToBf16(float value) {
  const uint32_t bits = asBits(value);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Goes through all tensors twice, in the same order: first to know how much memory they take, then to fill it.
class Loader {
 public:
  Loader(Gpu& gpu, const EngineSpec& spec, Stream stream, DeviceWeights& weights)
      : gpu_(gpu), spec_(spec), stream_(stream), weights_(weights), upload_(gpu, stream) {}

  Status load(uint64_t seed) {
    Status status = table_.read(spec_, seed);
    if (status == Status::ok) status = pass();
    if (status == Status::ok) status = reserve();
    if (status == Status::ok) status = upload_.start();
    if (status == Status::ok) status = draw_.find(gpu_, "drawRows", 256, 0);
    if (status != Status::ok) return status;
    filling_ = true;
    used_ = 0;
    status = pass();
    const Status finished = upload_.finish();
    if (status == Status::ok) status = finished;
    return status == Status::ok ? synchronize(gpu_, stream_) : status;
  }

 private:
  Status reserve() {
    size_t free = 0, total = 0;
    Status status = gpu_.memory(&free, &total);
    if (status != Status::ok) return status;
    constexpr double mebibyte = 1024.0 * 1024.0;
    const auto tooLarge = [&] {
      return fail(Status::noMemory, "the weights take %.0f MiB of device memory; %.0f of %.0f MiB of GPU %d are free", static_cast<double>(used_) / mebibyte,
                  static_cast<double>(free) / mebibyte, static_cast<double>(total) / mebibyte, gpu_.ordinal());
    };
    if (used_ > free) return tooLarge();
    status = weights_.memory.reserve(gpu_, used_);
    return status == Status::noMemory ? tooLarge() : status;
  }

  Status pass() {
    weights_.layers.resize(static_cast<size_t>(spec_.layers));
    Status status = stack({Role::embed}, -1, &weights_.embedding);
    weights_.head = weights_.embedding;
    if (status == Status::ok && !spec_.tiedHead) status = stack({Role::head}, -1, &weights_.head);
    if (status == Status::ok) status = vector(vectorOf(table_.at(-1, Role::finalNorm)), &weights_.finalNorm);
    for (int i = 0; i < spec_.layers && status == Status::ok; i++) status = layer(i, &weights_.layers[static_cast<size_t>(i)]);
    return status == Status::ok ? rotations() : status;
  }

  Status layer(int index, DeviceLayer* to) {
    const auto one = [&](Role role) { return vectorOf(table_.at(index, role)); };
    const auto bias = stackedBias(spec_, table_.at(index, Role::qBias), table_.at(index, Role::kBias), table_.at(index, Role::vBias));
    Status status = vector(one(Role::attentionNorm), &to->attentionNorm);
    if (status == Status::ok) status = vector(one(Role::mlpNorm), &to->mlpNorm);
    if (status == Status::ok) status = vector(one(Role::qNorm), &to->queryNorm);
    if (status == Status::ok) status = vector(one(Role::kNorm), &to->keyNorm);
    if (status == Status::ok) status = vector(bias, &to->qkvBias);
    if (status == Status::ok) status = vector(one(Role::oBias), &to->oBias);
    if (status == Status::ok) status = stack({Role::q, Role::k, Role::v}, index, &to->qkv);
    if (status == Status::ok) status = stack({Role::o}, index, &to->o);
    if (status == Status::ok) status = stack({Role::gate, Role::up}, index, &to->gateUp);
    return status == Status::ok ? stack({Role::down}, index, &to->down) : status;
  }

  Address take(size_t bytes) {
    const Address at = weights_.memory.address() + used_;
    used_ += roundUp(bytes, alignment);
    return at;
  }

  Status vector(const std::vector<float>& values, const float** to) {
    if (values.empty()) return Status::ok;
    const size_t bytes = values.size() * sizeof(float);
    const Address at = take(bytes);
    if (!filling_) return Status::ok;
    *to = reinterpret_cast<const float*>(at);
    return upload_.send(at, values.data(), bytes);
  }

  // The rows of these tensors, one after the other.
  Status stack(std::initializer_list<Role> roles, int layer, DeviceMatrix* matrix) {
    matrix->rows = 0;
    for (const Role role : roles) {
      const Tensor& tensor = table_.at(layer, role);
      matrix->rows += tensor.rows;
      matrix->columns = tensor.columns;
    }
    const size_t stride = padded(static_cast<size_t>(matrix->columns));
    matrix->stride = static_cast<int>(stride);
    Address at = take(matrix->bytes());
    if (!filling_) return Status::ok;
    matrix->data = reinterpret_cast<const Bf16*>(at);
    for (const Role role : roles) {
      const Tensor& tensor = table_.at(layer, role);
      const Status status = tensor.data == nullptr ? draw(tensor, at, stride) : rows(tensor, at, stride);
      if (status != Status::ok) return status;
      at += static_cast<size_t>(tensor.rows) * stride * sizeof(Bf16);
    }
    return Status::ok;
  }

  Status draw(const Tensor& tensor, Address at, size_t stride) {
    const DrawParams params{tensor.key, 0, reinterpret_cast<void*>(at), tensor.columns, static_cast<int32_t>(stride), tensor.middle, 0};
    return draw_.launch(gpu_, stream_, static_cast<size_t>(tensor.rows), 1, params);
  }

  Status rows(const Tensor& tensor, Address at, size_t stride) {
    const auto columns = static_cast<size_t>(tensor.columns);
    row_.resize(columns);
    for (int i = 0; i < tensor.rows; i++) {
      uint8_t* to = nullptr;
      const Status status = upload_.room(at + static_cast<size_t>(i) * stride * sizeof(Bf16), stride * sizeof(Bf16), &to);
      if (status != Status::ok) return status;
      if (tensor.dtype == FileDtype::bf16) {
        memcpy(to, tensor.data + static_cast<size_t>(i) * tensor.rowBytes(), tensor.rowBytes());
      } else {
        tensor.row(i, row_.data());
        auto* values = reinterpret_cast<uint16_t*>(to);
        for (size_t k = 0; k < columns; k++) values[k] = roundToBf16(row_[k]);
      }
      memset(to + columns * sizeof(Bf16), 0, (stride - columns) * sizeof(Bf16));
    }
    return Status::ok;
  }

  Status rotations() {
    const size_t half = static_cast<size_t>(spec_.headDim) / 2;
    const size_t bytes = static_cast<size_t>(spec_.positions) * half * sizeof(float);
    const Address cosines = take(bytes);
    const Address sines = take(bytes);
    if (!filling_) return Status::ok;
    weights_.cosines = reinterpret_cast<const float*>(cosines);
    weights_.sines = reinterpret_cast<const float*>(sines);
    // Many positions at a time, since a change of target ends a copy.
    const size_t some = std::max<size_t>(1, (size_t{1} << 20) / half);
    std::vector<float> both(2 * some * half);
    for (size_t first = 0; first < static_cast<size_t>(spec_.positions); first += some) {
      const size_t count = std::min(some, static_cast<size_t>(spec_.positions) - first);
      for (size_t i = 0; i < count; i++) rotation(spec_, first + i, both.data() + i * half, both.data() + (some + i) * half);
      const size_t offset = first * half * sizeof(float);
      Status status = upload_.send(cosines + offset, both.data(), count * half * sizeof(float));
      if (status == Status::ok) status = upload_.send(sines + offset, both.data() + some * half, count * half * sizeof(float));
      if (status != Status::ok) return status;
    }
    return Status::ok;
  }

  Gpu& gpu_;
  const EngineSpec& spec_;
  Stream stream_;
  DeviceWeights& weights_;
  Upload upload_;
  TensorTable table_;
  Kernel draw_;
  bool filling_ = false;
  size_t used_ = 0;
  std::vector<float> row_;
};

}  // namespace

size_t DeviceWeights::matrixBytes() const {
  size_t bytes = head.bytes();
  for (const DeviceLayer& layer : layers) bytes += layer.qkv.bytes() + layer.o.bytes() + layer.gateUp.bytes() + layer.down.bytes();
  return bytes;
}

Status loadDeviceWeights(Gpu& gpu, const EngineSpec& spec, uint64_t seed, Stream stream, DeviceWeights* weights) {
  return Loader(gpu, spec, stream, *weights).load(seed);
}

}  // namespace fastswitch::cuda
