#include "engine.h"

#include <algorithm>
#include <cstring>

namespace fastswitch::cuda {

namespace {

// Where the sampler met a NaN or an infinity.
constexpr int32_t notFiniteToken = -2;
constexpr size_t inputsBytesMin = size_t{1} << 20;

}  // namespace

Status synchronize(const Gpu& gpu, Stream stream) {
  const Driver& driver = gpu.driver();
  Event event = nullptr;
  Status status = check(driver.eventCreate(&event, eventDisableTiming | eventBlockingSync), "cuEventCreate");
  if (status != Status::ok) return status;
  status = check(driver.eventRecord(event, stream), "cuEventRecord");
  if (status == Status::ok) status = check(driver.eventSynchronize(event), "cuEventSynchronize");
  driver.eventDestroy(event);
  return status;
}

CudaEngine::CudaEngine(const EngineSpec& theSpec, const EngineOptions& theOptions) : forward_(spec, options), graphs_(theOptions.graphs) {
  spec = theSpec;
  options = theOptions;
}

CudaEngine::~CudaEngine() {
  if (gpu_ == nullptr || gpu_->enter() != Status::ok) return;
  if (stream_ != nullptr) synchronize(*gpu_, stream_);
  graphs_.clear();
  if (finished_ != nullptr) gpu_->driver().eventDestroy(finished_);
  if (stream_ != nullptr) gpu_->driver().streamDestroy(stream_);
}

Status CudaEngine::load(uint64_t seed) {
  Status status = Gpu::open(options.device, &gpu_);
  if (status == Status::ok) status = gpu_->enter();
  if (status != Status::ok) return status;
  graphs_.start(*gpu_);
  const Driver& driver = gpu_->driver();
  status = check(driver.streamCreate(&stream_, streamNonBlocking, 0), "cuStreamCreateWithPriority");
  if (status == Status::ok) status = check(driver.eventCreate(&finished_, eventDisableTiming | eventBlockingSync), "cuEventCreate");
  if (status == Status::ok) status = loadDeviceWeights(*gpu_, spec, seed, stream_, &weights_);
  if (status == Status::ok) status = forward_.start(*gpu_, weights_, stream_);
  if (status == Status::ok) status = reserveInputs(inputsBytesMin);
  rule_ = status == Status::ok ? forward_.tileRule() : TileRule();
  return status == Status::ok ? synchronize(*gpu_, stream_) : status;
}

EngineInfo CudaEngine::info() const { return {"cuda", forward_.blockBytes(), weights_.matrixBytes(), weights_.head.bytes(), forward_.exact()}; }

Status CudaEngine::readWeights(uint64_t* folded) {
  *folded = 0;
  Status status = gpu_->enter();
  if (status != Status::ok) return status;
  status = forward_.touchWeights(stream_);
  const Status waited = wait();
  return status == Status::ok ? waited : status;
}

Status CudaEngine::step(KvStore& store, int32_t* result, float* logits) {
  Status status = gpu_->enter();
  if (status == Status::ok) status = prepare();
  if (status == Status::ok) status = run(static_cast<CudaStore&>(store), logits != nullptr);
  return status == Status::ok ? deliver(result, logits) : status;
}

// Whether steps of this size come again and again: all sequences decode.
bool CudaEngine::repeats() const { return plan.samples > 0 && plan.rows == static_cast<int>(plan.sequences.size()); }

Status CudaEngine::prepare() {
  inputs_.build(plan, rule_);
  if (graphs_.wanted() && repeats()) {
    const int rows = std::min(roundedSize(plan.rows), forward_.samplesMax());
    const StepShape exact = inputs_.shape();
    inputs_.pad({rows, rows, std::max(rows, roundedSize(exact.items)), exact.folds == 0 ? 0 : rows});
  }
  const Status status = reserveInputs(inputs_.bytes());
  if (status == Status::ok) inputs_.write(inputsHost_.data());
  return status;
}

Status CudaEngine::reserveInputs(size_t bytes) {
  if (bytes <= inputsHost_.bytes() && bytes <= inputsDevice_.bytes()) return Status::ok;
  size_t room = inputsBytesMin;
  while (room < bytes) room *= 2;
  graphs_.clear();
  const Status status = inputsHost_.reserve(*gpu_, room);
  return status == Status::ok ? inputsDevice_.reserve(*gpu_, room) : status;
}

Status CudaEngine::run(CudaStore& store, bool wantsLogits) {
  Status status = Status::ok;
  if (wantsLogits) {
    const size_t bytes = static_cast<size_t>(plan.samples) * forward_.logitsStride() * sizeof(float);
    if (bytes > logitsHost_.bytes()) status = logitsHost_.reserve(*gpu_, bytes);
  }
  if (status != Status::ok) return status;
  status = launch(store);
  const bool issued = status == Status::ok;
  if (issued && wantsLogits && plan.samples > 0) status = downloadLogits();
  // Also after a failure: nothing of this step may run when the next one writes its inputs.
  const Status waited = wait();
  if (issued && waited == Status::ok) store.stepReturned();
  return status == Status::ok ? waited : status;
}

Status CudaEngine::launch(CudaStore& store) {
  const Driver& driver = gpu_->driver();
  const StepShape& shape = inputs_.shape();
  const Address arena = store.deviceAddress();
  const auto issue = [&] { return forward_.issue(shape, inputsDevice_.address(), arena, stream_); };
  GraphExec graph = graphs_.wanted() && repeats() ? graphs_.find(shape, arena, stream_, issue) : nullptr;
  Status status = store.stepWaits(stream_);
  if (status == Status::ok) {
    status = check(driver.copyHostToDevice(inputsDevice_.address(), inputsHost_.data(), inputs_.bytes(), stream_), "cuMemcpyHtoDAsync_v2");
  }
  if (status == Status::ok) status = graph == nullptr ? issue() : check(driver.graphLaunch(graph, stream_), "cuGraphLaunch");
  return status == Status::ok ? store.stepIssued(stream_) : status;
}

Status CudaEngine::downloadLogits() {
  const size_t bytes = static_cast<size_t>(plan.samples) * forward_.logitsStride() * sizeof(float);
  return check(gpu_->driver().copyDeviceToHost(logitsHost_.data(), forward_.logits(), bytes, stream_), "cuMemcpyDtoHAsync_v2");
}

Status CudaEngine::wait() {
  const Driver& driver = gpu_->driver();
  const Status status = check(driver.eventRecord(finished_, stream_), "cuEventRecord");
  return status == Status::ok ? check(driver.eventSynchronize(finished_), "cuEventSynchronize") : status;
}

Status CudaEngine::deliver(int32_t* result, float* logits) {
  const int32_t* records = forward_.results();
  const auto* rows = reinterpret_cast<const float*>(logitsHost_.data());
  const auto vocabulary = static_cast<size_t>(spec.vocabulary);
  size_t unsound = plan.sequences.size();
  for (size_t i = 0; i < plan.sequences.size(); i++) {
    const SequencePlan& sequence = plan.sequences[i];
    if (!sequence.sample) continue;
    const auto sample = static_cast<size_t>(sequence.sampleRow);
    if (logits != nullptr) memcpy(logits + sample * vocabulary, rows + sample * forward_.logitsStride(), vocabulary * sizeof(float));
    if (records[sample * resultRecord] == notFiniteToken) {
      unsound = std::min(unsound, i);
    } else {
      memcpy(result + i * resultRecord, records + sample * resultRecord, resultRecord * sizeof(int32_t));
    }
  }
  if (unsound == plan.sequences.size()) return Status::ok;
  return fail(Status::notFinite, "the logits of sequence %zu are not finite numbers", unsound);
}

}  // namespace fastswitch::cuda

namespace fastswitch {

Status createCudaEngine(const EngineSpec& spec, const EngineOptions& options, uint64_t seed, std::shared_ptr<Engine>* engine) {
  auto made = std::make_shared<cuda::CudaEngine>(spec, options);
  const Status status = made->load(seed);
  *engine = std::move(made);
  return status;
}

}  // namespace fastswitch
