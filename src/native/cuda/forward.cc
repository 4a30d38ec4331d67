#include "forward.h"

#include <algorithm>
#include <string>

#include "../plan.h"

namespace fastswitch::cuda {

namespace {

constexpr size_t alignment = 256;
constexpr size_t partialsBytesMax = size_t{256} << 20;
// Warps of attention that keep a multiprocessor busy.
constexpr int warpsEach = 8;
constexpr int itemsEach = 4;  // of attention, for a block of threads
// Each 16 rows read the weights again, from the cache: beyond this many whole tiles take less, and the sooner where there
// are tiles for all multiprocessors.
constexpr int narrowRowsMax = 64;
constexpr int narrowRowsOfManyTiles = 32;

size_t divideUp(size_t value, size_t unit) { return (value + unit - 1) / unit; }

}  // namespace

// One step's inputs as the kernels want them.
struct Forward::Step {
  Step(const StepShape& shape, Address inputs, Address arena, Stream stream) : shape(shape), layout(shape), inputs(inputs), arena(arena), stream(stream) {}

  template <class T>
  const T* at(size_t offset) const {
    return reinterpret_cast<const T*>(inputs + offset);
  }

  const StepShape shape;
  const InputLayout layout;
  const Address inputs;
  const Address arena;
  const Stream stream;
};

Status Forward::start(Gpu& gpu, const DeviceWeights& weights, Stream stream) {
  gpu_ = &gpu;
  weights_ = &weights;
  Status status = findKernels();
  if (status == Status::ok) status = reserve(stream);
  if (status != Status::ok || options_.batchInvariant) return status;
  const char* why = nullptr;
  const CublasLt* library = findCublasLt(nullptr, &why);
  if (library == nullptr) return cublasLtIsNamed() ? fail(Status::system, "%s", why) : Status::ok;
  products_ = std::make_unique<LtProducts>(gpu, *library);
  status = products_->start();
  // One that was only found, and does not start with this driver or on this device, is as good as none.
  if (status != Status::system || cublasLtIsNamed()) return status;
  products_.reset();
  return Status::ok;
}

Status Forward::findKernels() {
  const int headWidth = paddedHead(spec_.headDim);
  const std::string attention = "attention" + std::to_string(headWidth);
  const struct {
    Kernel* kernel;
    const char* name;
    unsigned threads;
    int sharedBytes;
  } wanted[] = {
      {&embed_, "embedRows", 256, 0},
      {&norm_, "normRows", 256, 64},
      {&rotate_, "rotateRows", 128, headWidth * static_cast<int>(sizeof(float)) + 64},
      {&attend_, attention.c_str(), 128, 0},
      {&fold_, "foldRows", 128, 0},
      {&narrow_, "matmulNarrow", 256, matmulNarrowShared},
      {&wide_, "matmulWide", 256, matmulWideShared},
      {&gate_, "gateRows", 256, 0},
      {&sample_, "sampleRows", 1024, sampleShared},
  };
  for (const auto& one : wanted) {
    const Status status = one.kernel->find(*gpu_, one.name, one.threads, one.sharedBytes);
    if (status != Status::ok) return status;
  }
  return Status::ok;
}

Status Forward::reserve(Stream stream) {
  const size_t rows = rowsMax();
  const size_t samples = static_cast<size_t>(samplesMax());
  const size_t heads = static_cast<size_t>(spec_.heads);
  const size_t intermediate = static_cast<size_t>(spec_.intermediate);
  const size_t headWidth = static_cast<size_t>(paddedHead(spec_.headDim));
  const size_t partialRows = partialsMax() * static_cast<size_t>(spec_.kvHeads) * tileRows;
  size_t used = 0;
  const auto eachBuffer = [&](auto&& take) {
    take(&residual_, rows * hiddenStride());
    take(&projected_, rows * projectedStride());
    take(&normed_, rows * hiddenStride());
    take(&queries_, rows * heads * headWidth);
    take(&attended_, rows * attendedStride());
    take(&gateUp_, rows * 2 * intermediate);
    take(&units_, rows * padded(intermediate));
    take(&logits_, samples * logitsStride());
    take(&changedLogits_, samples * logitsStride());
    take(&counts_, samples * logitsStride());
    take(&partialSums_, partialRows * headWidth);
    take(&partialTops_, partialRows);
    take(&partialTotals_, partialRows);
  };
  const auto place = [&](auto** buffer, size_t count) {
    *buffer = memory_.as<std::remove_reference_t<decltype(**buffer)>>(used);
    used += divideUp(count * sizeof(**buffer), alignment) * alignment;
  };
  eachBuffer(place);
  const size_t bytes = used;
  Status status = memory_.reserve(*gpu_, bytes);
  if (status == Status::noMemory) {
    return fail(status, "steps of %zu tokens and %zu samples take %zu MiB of device memory beside the weights, more than GPU %d has left; lower maxBatchTokens",
                rows, samples, bytes >> 20, gpu_->ordinal());
  }
  if (status == Status::ok) status = results_.reserve(*gpu_, samples * resultRecord * sizeof(int32_t));
  if (status != Status::ok) return status;
  used = 0;
  eachBuffer(place);
  // The sampler's counts start from zero, and what pads a row for a product may be anything finite, never a NaN.
  return check(gpu_->driver().memsetAsync(memory_.address(), 0, bytes, stream), "cuMemsetD8Async");
}

size_t Forward::partialsMax() const {
  const size_t bytes = static_cast<size_t>(spec_.kvHeads * tileRows * (paddedHead(spec_.headDim) + 2)) * sizeof(float);
  const size_t useful = rowsMax() * divideUp(static_cast<size_t>(spec_.positions), spanTokens);
  return std::min(partialsBytesMax / bytes, useful);
}

TileRule Forward::tileRule() const {
  TileRule rule;
  rule.tileTokens = tileRows / (spec_.heads / spec_.kvHeads);
  rule.kvHeads = spec_.kvHeads;
  rule.window = spec_.windowFromLayer <= 0 ? spec_.window : 0;
  rule.warps = gpu_->multiprocessors() * warpsEach;
  rule.partialsMax = static_cast<int>(partialsMax());
  return rule;
}

int Forward::samplesMax() const { return std::min(options_.maxSequences, options_.maxBatchTokens); }

size_t Forward::sideBytes() const { return static_cast<size_t>(spec_.kvHeads) * kvHeadValues(spec_.headDim) * sizeof(Bf16); }

Status Forward::issue(const StepShape& shape, Address inputs, Address arena, Stream stream) const {
  const Step step(shape, inputs, arena, stream);
  const EmbedParams embed{step.at<int32_t>(step.layout.tokens), step.at<int32_t>(step.layout.positions), weights_->embedding.data, residual_, spec_.hidden,
                          static_cast<int32_t>(hiddenStride())};
  Status status = embed_.launch(*gpu_, stream, static_cast<size_t>(shape.rows), 1, embed);
  for (int i = 0; i < spec_.layers && status == Status::ok; i++) status = layer(i, step);
  return status == Status::ok && shape.samples > 0 ? sample(step) : status;
}

Status Forward::layer(int index, const Step& step) const {
  const DeviceLayer& layer = weights_->layers[static_cast<size_t>(index)];
  const int rows = step.shape.rows;
  const Stream stream = step.stream;
  Status status = normalise(nullptr, layer.attentionNorm, nullptr, rows, stream);
  if (status == Status::ok) status = product(layer.qkv, normed_, rows, projected_, projectedStride(), Store::floats, stream);
  if (status != Status::ok) return status;
  RotateParams rotate{};
  rotate.projected = projected_;
  rotate.bias = layer.qkvBias;
  rotate.queryNorm = layer.queryNorm;
  rotate.keyNorm = layer.keyNorm;
  rotate.cosines = weights_->cosines;
  rotate.sines = weights_->sines;
  rotate.positions = step.at<int32_t>(step.layout.positions);
  rotate.blocks = step.at<int32_t>(step.layout.blocks);
  rotate.queries = queries_;
  rotate.arena = reinterpret_cast<uint8_t*>(step.arena);
  rotate.blockBytes = blockBytes();
  rotate.layerOffset = static_cast<size_t>(index) * 2 * sideBytes();
  rotate.heads = spec_.heads;
  rotate.kvHeads = spec_.kvHeads;
  rotate.headDim = spec_.headDim;
  rotate.projectedStride = static_cast<int32_t>(projectedStride());
  rotate.epsilon = spec_.rmsEps;
  status = rotate_.launch(*gpu_, stream, static_cast<size_t>(rows), static_cast<size_t>(spec_.heads + 2 * spec_.kvHeads), rotate);
  if (status == Status::ok) status = attention(index, step);
  if (status == Status::ok) status = product(layer.o, attended_, rows, residual_, hiddenStride(), Store::addedFloats, stream);
  if (status == Status::ok) status = normalise(layer.oBias, layer.mlpNorm, nullptr, rows, stream);
  if (status == Status::ok) status = product(layer.gateUp, normed_, rows, gateUp_, 2 * static_cast<size_t>(spec_.intermediate), Store::bf16, stream);
  if (status != Status::ok) return status;
  status = gate_.launch(*gpu_, stream, static_cast<size_t>(rows), 1, GateParams{gateUp_, units_, spec_.intermediate});
  return status == Status::ok ? product(layer.down, units_, rows, residual_, hiddenStride(), Store::addedFloats, stream) : status;
}

Status Forward::attention(int index, const Step& step) const {
  AttentionParams attend{};
  attend.items = step.at<AttentionItem>(step.layout.items);
  attend.queries = queries_;
  attend.tables = step.at<int32_t>(step.layout.words);
  attend.arena = reinterpret_cast<const uint8_t*>(step.arena);
  attend.blockBytes = blockBytes();
  attend.layerOffset = static_cast<size_t>(index) * 2 * sideBytes();
  attend.output = attended_;
  attend.partialSums = partialSums_;
  attend.partialTops = partialTops_;
  attend.partialTotals = partialTotals_;
  attend.itemCount = step.shape.items;
  attend.heads = spec_.heads;
  attend.kvHeads = spec_.kvHeads;
  attend.headDim = spec_.headDim;
  attend.outputStride = static_cast<int32_t>(attendedStride());
  attend.window = index >= spec_.windowFromLayer ? spec_.window : 0;
  const auto kvHeads = static_cast<size_t>(spec_.kvHeads);
  const Status status = attend_.launch(*gpu_, step.stream, divideUp(static_cast<size_t>(step.shape.items), itemsEach), kvHeads, attend);
  if (status != Status::ok || step.shape.folds == 0) return status;
  const FoldParams fold{step.at<FoldItem>(step.layout.folds), partialSums_, partialTops_, partialTotals_, attended_, spec_.heads, spec_.kvHeads, spec_.headDim,
                        attend.outputStride};
  return fold_.launch(*gpu_, step.stream, static_cast<size_t>(step.shape.folds), kvHeads, fold);
}

Status Forward::normalise(const float* bias, const float* weight, const int32_t* rows, int count, Stream stream) const {
  const NormParams params{residual_, bias, weight, rows, normed_, spec_.hidden, static_cast<int32_t>(hiddenStride()), spec_.rmsEps};
  return norm_.launch(*gpu_, stream, static_cast<size_t>(count), 1, params);
}

Status Forward::product(const DeviceMatrix& matrix, const Bf16* inputs, int rows, void* output, size_t outputStride, Store store, Stream stream) const {
  MatmulParams params{};
  params.inputs = inputs;
  params.weights = matrix.data;
  params.output = output;
  params.rows = rows;
  params.columns = matrix.rows;
  params.inputStride = matrix.stride;
  params.outputStride = static_cast<int32_t>(outputStride);
  params.asBf16 = store == Store::bf16;
  params.add = store == Store::addedFloats;
  bool done = false;
  const Status status = products_ == nullptr ? Status::ok : products_->product(params, stream, &done);
  if (status != Status::ok || done) return status;
  const auto columns = static_cast<size_t>(matrix.rows);
  const bool manyTiles = divideUp(columns, matmulTile) >= static_cast<size_t>(gpu_->multiprocessors());
  if (rows <= (manyTiles ? narrowRowsOfManyTiles : narrowRowsMax)) {
    const size_t groups = divideUp(static_cast<size_t>(rows), matmulNarrowRows);
    return narrow_.launch(*gpu_, stream, divideUp(columns, matmulNarrowColumns) * groups, 1, params);
  }
  return wide_.launch(*gpu_, stream, divideUp(columns, matmulTile), divideUp(static_cast<size_t>(rows), matmulTile), params);
}

// The head for the rows that sample, then one token each.
Status Forward::sample(const Step& step) const {
  const int samples = step.shape.samples;
  Status status = normalise(nullptr, weights_->finalNorm, step.at<int32_t>(step.layout.sampleRows), samples, step.stream);
  if (status == Status::ok) status = product(weights_->head, normed_, samples, logits_, logitsStride(), Store::floats, step.stream);
  if (status != Status::ok) return status;
  const SampleParams params{step.at<SampleItem>(step.layout.sampleItems), step.at<int32_t>(step.layout.words), logits_, changedLogits_, counts_,
                            reinterpret_cast<int32_t*>(results_.data()), spec_.vocabulary, static_cast<int32_t>(logitsStride())};
  return sample_.launch(*gpu_, step.stream, static_cast<size_t>(samples), 1, params);
}

Status Forward::touchWeights(Stream stream) const {
  Status status = Status::ok;
  for (const DeviceLayer& layer : weights_->layers) {
    if (status == Status::ok) status = product(layer.qkv, normed_, 1, projected_, projectedStride(), Store::floats, stream);
    if (status == Status::ok) status = product(layer.o, attended_, 1, residual_, hiddenStride(), Store::floats, stream);
    if (status == Status::ok) status = product(layer.gateUp, normed_, 1, gateUp_, 2 * static_cast<size_t>(spec_.intermediate), Store::bf16, stream);
    if (status == Status::ok) status = product(layer.down, units_, 1, residual_, hiddenStride(), Store::floats, stream);
  }
  return status == Status::ok ? product(weights_->head, normed_, 1, logits_, logitsStride(), Store::floats, stream) : status;
}

}  // namespace fastswitch::cuda
