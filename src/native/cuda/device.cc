#include "device.h"

#include <cstdlib>

#include "cublaslt.h"
#include "image.h"

namespace fastswitch::cuda {

namespace {

// What every kernel may use without asking.
constexpr int usualSharedBytes = 48 * 1024;
constexpr int noBinaryResult = 209;

// Open devices by ordinal. Never destroyed: see Gpu.
struct Opened {
  std::mutex mutex;
  std::map<int, std::unique_ptr<Gpu>> gpus;
};

Opened& opened() {
  static Opened* const instance = new Opened;
  return *instance;
}

// The context that this file made current on this thread, so that entering again costs nothing.
thread_local Context current = nullptr;

DeviceFacts describe(const Driver& driver, int ordinal) {
  DeviceFacts facts;
  Device device = 0;
  if (check(driver.deviceGet(&device, ordinal), "cuDeviceGet") != Status::ok) {
    facts.problem = lastMessage();
    return facts;
  }
  char text[256] = "";
  if (driver.deviceName(text, sizeof text, device) == successResult) facts.name = text;
  if (driver.devicePciBusId(text, sizeof text, device) == successResult) facts.pciBusId = text;
  driver.deviceAttribute(&facts.computeMajor, attributeComputeMajor, device);
  driver.deviceAttribute(&facts.computeMinor, attributeComputeMinor, device);
  driver.deviceAttribute(&facts.multiprocessors, attributeMultiprocessors, device);
  driver.deviceAttribute(&facts.copyEngines, attributeAsyncEngines, device);
  driver.deviceTotalMem(&facts.totalBytes, device);

  if (Gpu::tryOut(ordinal, &facts.freeBytes, &facts.totalBytes) != Status::ok) facts.problem = lastMessage();
  return facts;
}

}  // namespace

Found findDevices() {
  Found found;
  const char* why = nullptr;
  size_t imageBytes = 0;
  found.kernels = cudaImage(&imageBytes) != nullptr && imageBytes > 0;
  const Driver* driver = findDriver(&why);
  if (driver == nullptr) {
    found.problem = why;
    return found;
  }
  const char* path = nullptr;
  if (findCublasLt(&path, &why) != nullptr) {
    found.cublasLt = path;
  } else {
    found.problem = why;
  }
  driver->driverVersion(&found.driverVersion);
  found.batchCopies = driver->copyBatch != nullptr || driver->copyBatchFirst != nullptr;
  int count = 0;
  if (check(driver->deviceCount(&count), "cuDeviceGetCount") != Status::ok) found.problem = lastMessage();
  for (int ordinal = 0; ordinal < count; ordinal++) found.devices.push_back(describe(*driver, ordinal));
  return found;
}

Status Gpu::open(int ordinal, Gpu** gpu) {
  Opened& all = opened();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.gpus.find(ordinal);
  if (found != all.gpus.end()) {
    *gpu = found->second.get();
    return Status::ok;
  }
  auto fresh = std::make_unique<Gpu>();
  if (const Status status = fresh->start(ordinal); status != Status::ok) return status;
  *gpu = fresh.get();
  all.gpus.emplace(ordinal, std::move(fresh));
  return Status::ok;
}

// Through a context of its own: one that stayed would take half a gigabyte of each device that is only looked at.
Status Gpu::tryOut(int ordinal, size_t* freeBytes, size_t* totalBytes) {
  Gpu gpu;
  Status status = gpu.start(ordinal);
  if (status != Status::ok) return status;
  status = gpu.enter();
  if (status == Status::ok) status = gpu.memory(freeBytes, totalBytes);
  if (status == Status::ok) status = gpu.loadKernels();
  gpu.stop();
  return status;
}

void Gpu::stop() {
  const Driver& driver = *driver_;
  if (module_ != nullptr) driver.moduleUnload(module_);
  driver.contextSetCurrent(nullptr);
  current = nullptr;
  driver.primaryContextRelease(device_);
}

Status Gpu::start(int ordinal) {
  const char* why = nullptr;
  driver_ = findDriver(&why);
  if (driver_ == nullptr) return fail(Status::system, "no GPU can be used: %s", why);
  int count = 0;
  Status status = check(driver_->deviceCount(&count), "cuDeviceGetCount");
  if (status != Status::ok) return status;
  if (ordinal < 0 || ordinal >= count) return fail(Status::badArgument, "there is no GPU %d; the driver shows %d, numbered from 0", ordinal, count);
  status = check(driver_->deviceGet(&device_, ordinal), "cuDeviceGet");
  if (status == Status::ok) status = check(driver_->deviceAttribute(&multiprocessors_, attributeMultiprocessors, device_), "cuDeviceGetAttribute");
  if (status == Status::ok) status = check(driver_->deviceAttribute(&computeMajor_, attributeComputeMajor, device_), "cuDeviceGetAttribute");
  if (status == Status::ok) status = check(driver_->deviceAttribute(&computeMinor_, attributeComputeMinor, device_), "cuDeviceGetAttribute");
  if (status == Status::ok) status = check(driver_->primaryContextRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
  ordinal_ = ordinal;
  return status;
}

Status Gpu::enter() const {
  if (current == context_) return Status::ok;
  const Status status = check(driver_->contextSetCurrent(context_), "cuCtxSetCurrent");
  if (status == Status::ok) current = context_;
  return status;
}

Status Gpu::memory(size_t* freeBytes, size_t* totalBytes) const {
  return check(driver_->memInfo(freeBytes, totalBytes), "cuMemGetInfo_v2");
}

Status Gpu::load() {
  if (module_ != nullptr) return Status::ok;
  size_t bytes = 0;
  const void* image = cudaImage(&bytes);
  if (image == nullptr || bytes == 0) {
    const char* named = getenv("FASTSWITCH_CUDA_KERNELS");
    if (named != nullptr && named[0] != '\0') return fail(Status::system, "FASTSWITCH_CUDA_KERNELS=%s holds no kernels, or cannot be read", named);
    return fail(Status::system, "this build has no kernels for GPUs: build it where nvcc is, or name a file of them in FASTSWITCH_CUDA_KERNELS");
  }
  const int result = driver_->moduleLoad(&module_, image);
  if (result == successResult) return Status::ok;
  module_ = nullptr;
  int version = 0;
  driver_->driverVersion(&version);
  if (result == noBinaryResult) {
    // Also what a driver says that is older than the compiler's major version.
    return fail(Status::system, "this build has no kernels for GPU %d (compute capability %d.%d) that a driver for CUDA %d.%d takes", ordinal_, computeMajor_,
                computeMinor_, version / 1000, version % 1000 / 10);
  }
  const Status status = check(result, "cuModuleLoadData");
  const std::string cause = lastMessage();
  return fail(status, "the kernels do not load on GPU %d (compute capability %d.%d, driver for CUDA %d.%d): %s", ordinal_, computeMajor_, computeMinor_,
              version / 1000, version % 1000 / 10, cause.c_str());
}

Status Gpu::loadKernels() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return load();
}

Status Gpu::kernel(const char* name, int sharedBytes, Function* function) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const Status status = load(); status != Status::ok) return status;
  auto found = kernels_.find(name);
  if (found == kernels_.end()) {
    Kernel fresh{nullptr, usualSharedBytes};
    if (const int result = driver_->moduleFunction(&fresh.function, module_, name); result != successResult) {
      const Status status = check(result, "cuModuleGetFunction");
      const std::string cause = lastMessage();
      return fail(status, "no kernel %s: %s", name, cause.c_str());
    }
    found = kernels_.emplace(name, fresh).first;
  }
  Kernel& kernel = found->second;
  if (sharedBytes > kernel.sharedBytes) {
    const Status status = check(driver_->functionSetAttribute(kernel.function, functionMaxDynamicShared, sharedBytes), "cuFuncSetAttribute");
    if (status != Status::ok) return status;
    kernel.sharedBytes = sharedBytes;
  }
  *function = kernel.function;
  return Status::ok;
}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Status DeviceMemory::reserve(Gpu& gpu, size_t bytes) {
  release();
  if (bytes == 0) return Status::ok;
  Status status = gpu.enter();
  if (status != Status::ok) return status;
  Address address = 0;
  status = check(gpu.driver().memAlloc(&address, bytes), "cuMemAlloc_v2");
  if (status != Status::ok) return status;
  gpu_ = &gpu;
  address_ = address;
  bytes_ = bytes;
  return Status::ok;
}

void DeviceMemory::release() {
  // Nothing can be done about a failure, and the process gives everything back at its end.
  if (address_ != 0 && gpu_->enter() == Status::ok) gpu_->driver().memFree(address_);
  address_ = 0;
  bytes_ = 0;
}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Status PinnedMemory::reserve(Gpu& gpu, size_t bytes) {
  release();
  if (bytes == 0) return Status::ok;
  Status status = gpu.enter();
  if (status != Status::ok) return status;
  void* memory = nullptr;
  status = check(gpu.driver().memHostAlloc(&memory, bytes, hostAllocPortable), "cuMemHostAlloc");
  if (status != Status::ok) return status;
  gpu_ = &gpu;
  data_ = static_cast<uint8_t*>(memory);
  bytes_ = bytes;
  return Status::ok;
}

void PinnedMemory::release() {
  if (data_ != nullptr && gpu_->enter() == Status::ok) gpu_->driver().memFreeHost(data_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace fastswitch::cuda
