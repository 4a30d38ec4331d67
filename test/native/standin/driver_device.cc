// Devices, contexts, modules and the names of errors.
#include <cstdio>
#include <cstring>

#include "driver_state.h"

using namespace standin;

namespace {

struct ErrorText {
  int result;
  const char* name;
  const char* text;
};

constexpr ErrorText errorTexts[] = {
    {success, "CUDA_SUCCESS", "no error"},
    {invalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {outOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {notInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {noDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {invalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {invalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {noBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {invalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {notFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {notReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {captureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {captureUnjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {captureIsolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {unknownError, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

// Contexts and modules are numbers: there is nothing in them.
Context contextOf(int device) { return reinterpret_cast<Context>(static_cast<uintptr_t>(0x1000 + device)); }
Module moduleOf(int device) { return reinterpret_cast<Module>(static_cast<uintptr_t>(0x2000 + device)); }

bool validDevice(Call& call, Device device) {
  return (device >= 0 && device < machine().devices) || call.refuse(invalidDevice, "device %d", device);
}

bool kernelOf(Call& call, Function handle, KernelState** found) {
  for (const auto& one : machine().kernels) {
    if (reinterpret_cast<Function>(one.get()) != handle) continue;
    *found = one.get();
    return true;
  }
  return call.refuse(invalidHandle, "no such function");
}

bool validLaunch(Call& call, const KernelState& kernel, const unsigned (&grid)[3], const unsigned (&block)[3], unsigned sharedBytes) {
  const char* name = kernel.kernel->name;
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return call.refuse(invalidValue, "%s: an empty grid", name);
  if (grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) return call.refuse(invalidValue, "%s: grid %u %u %u", name, grid[0], grid[1], grid[2]);
  if (block[0] == 0 || block[0] > 1024 || block[1] != 1 || block[2] != 1) {
    return call.refuse(invalidValue, "%s: block %u %u %u", name, block[0], block[1], block[2]);
  }
  if (sharedBytes <= kernel.sharedBytes) return true;
  return call.refuse(invalidValue, "%s: %u bytes of shared memory where %u are allowed", name, sharedBytes, kernel.sharedBytes);
}

}  // namespace

extern "C" {

int cuInit(unsigned flags) {
  Call call("cuInit", needsNothing);
  if (!call.ready()) return call.result;
  call.log();
  if (flags != 0) return call.refuse(invalidValue, "flags %u", flags), call.result;
  if (machine().devices == 0) return noDevice;
  machine().initialised = true;
  return success;
}

int cuDriverGetVersion(int* version) {
  Call call("cuDriverGetVersion", needsNothing);
  if (!call.ready()) return call.result;
  *version = machine().version;
  return success;
}

int cuDeviceGetCount(int* count) {
  Call call("cuDeviceGetCount", needsInit);
  if (!call.ready()) return call.result;
  *count = machine().devices;
  return success;
}

int cuDeviceGet(Device* device, int ordinal) {
  Call call("cuDeviceGet", needsInit);
  if (!call.ready() || !validDevice(call, ordinal)) return call.result;
  *device = ordinal;
  return success;
}

int cuDeviceGetName(char* name, int length, Device device) {
  Call call("cuDeviceGetName", needsInit);
  if (!call.ready() || !validDevice(call, device)) return call.result;
  snprintf(name, static_cast<size_t>(length), "Stand-in of a GPU");
  return success;
}

int cuDeviceTotalMem_v2(size_t* bytes, Device device) {
  Call call("cuDeviceTotalMem_v2", needsInit);
  if (!call.ready() || !validDevice(call, device)) return call.result;
  *bytes = machine().memoryBytes;
  return success;
}

int cuDeviceGetAttribute(int* value, int attribute, Device device) {
  using namespace fastswitch::cuda;
  Call call("cuDeviceGetAttribute", needsInit);
  if (!call.ready() || !validDevice(call, device)) return call.result;
  switch (attribute) {
    case attributeMultiprocessors: *value = 4; break;
    case attributeAsyncEngines: *value = 2; break;
    case attributeComputeMajor: *value = 9; break;
    case attributeComputeMinor: *value = 0; break;
    default: return call.refuse(invalidValue, "attribute %d is not known here", attribute), call.result;
  }
  return success;
}

int cuDeviceGetPCIBusId(char* id, int length, Device device) {
  Call call("cuDeviceGetPCIBusId", needsInit);
  if (!call.ready() || !validDevice(call, device)) return call.result;
  snprintf(id, static_cast<size_t>(length), "0000:%02X:00.0", 0x65 + device);
  return success;
}

int cuDevicePrimaryCtxRetain(Context* context, Device device) {
  Call call("cuDevicePrimaryCtxRetain", needsInit);
  if (!call.ready() || !validDevice(call, device)) return call.result;
  call.log("device %d", device);
  machine().retained[device]++;
  *context = contextOf(device);
  return success;
}

int cuDevicePrimaryCtxRelease_v2(Device device) {
  Call call("cuDevicePrimaryCtxRelease_v2", needsInit);
  if (!call.ready() || !validDevice(call, device)) return call.result;
  if (machine().retained[device] == 0) return call.refuse(invalidContext, "device %d is not retained", device), call.result;
  call.log("device %d", device);
  machine().retained[device]--;
  return success;
}

int cuCtxSetCurrent(Context context) {
  Call call("cuCtxSetCurrent", needsInit);
  if (!call.ready()) return call.result;
  if (context == nullptr) {
    currentDevice = -1;
    return success;
  }
  for (int device = 0; device < machine().devices; device++) {
    if (contextOf(device) != context || machine().retained[device] == 0) continue;
    currentDevice = device;
    return success;
  }
  return call.refuse(invalidContext, "no such context"), call.result;
}

int cuModuleLoadData(Module* module, const void* image) {
  Call call("cuModuleLoadData", needsContext | notInCapture);
  if (!call.ready()) return call.result;
  if (image == nullptr) return call.refuse(invalidValue, "no image"), call.result;
  call.log("device %d", currentDevice);
  *module = moduleOf(currentDevice);
  return success;
}

int cuModuleUnload(Module module) {
  Call call("cuModuleUnload", needsContext | notInCapture);
  if (!call.ready()) return call.result;
  if (module != moduleOf(currentDevice)) return call.refuse(invalidHandle, "no such module"), call.result;
  call.log();
  return success;
}

int cuModuleGetFunction(Function* function, Module module, const char* name) {
  Call call("cuModuleGetFunction", needsContext);
  if (!call.ready()) return call.result;
  if (module != moduleOf(currentDevice)) return call.refuse(invalidHandle, "no such module"), call.result;
  const HostKernel* kernel = findHostKernel(name);
  if (kernel == nullptr) return notFound;
  call.log("%s", name);
  machine().kernels.push_back(std::make_unique<KernelState>());
  machine().kernels.back()->kernel = kernel;
  *function = reinterpret_cast<Function>(machine().kernels.back().get());
  return success;
}

int cuFuncSetAttribute(Function function, int attribute, int value) {
  Call call("cuFuncSetAttribute", needsContext);
  KernelState* kernel = nullptr;
  if (!call.ready() || !kernelOf(call, function, &kernel)) return call.result;
  if (attribute != fastswitch::cuda::functionMaxDynamicShared) return call.refuse(invalidValue, "attribute %d", attribute), call.result;
  // What a block may have on the smallest of the devices that kernels are built for (compute capability 8.0).
  constexpr int sharedMax = 163 * 1024;
  if (value < 0 || value > sharedMax) return call.refuse(invalidValue, "%s: %d bytes of shared memory", kernel->kernel->name, value), call.result;
  call.log("%s shared %d", kernel->kernel->name, value);
  kernel->sharedBytes = static_cast<unsigned>(value);
  return success;
}

int cuLaunchKernel(Function function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ,
                   unsigned sharedBytes, Stream stream, void** params, void** extra) {
  Call call("cuLaunchKernel", needsContext);
  KernelState* kernel = nullptr;
  StreamState* target = nullptr;
  if (!call.ready() || !kernelOf(call, function, &kernel) || !call.stream(stream, &target)) return call.result;
  const unsigned grid[3] = {gridX, gridY, gridZ};
  const unsigned block[3] = {blockX, blockY, blockZ};
  if (!validLaunch(call, *kernel, grid, block, sharedBytes)) return call.result;
  const char* name = kernel->kernel->name;
  if (params == nullptr || params[0] == nullptr || extra != nullptr) return call.refuse(invalidValue, "%s: its one parameter struct", name), call.result;
  call.log("stream %d %s grid %u %u %u block %u", target->number, name, gridX, gridY, gridZ, blockX);
  // The struct is read now: what the caller does with it afterwards does not matter.
  const auto* bytes = static_cast<const uint8_t*>(params[0]);
  auto words = std::make_shared<std::vector<std::max_align_t>>((kernel->kernel->paramBytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
  memcpy(words->data(), bytes, kernel->kernel->paramBytes);
  Operation operation;
  operation.parts.push_back([host = kernel->kernel, words, gridX, gridY, gridZ, blockX, sharedBytes] {
    unsigned size[3] = {gridX, gridY, gridZ};
    host->run(words->data(), size, blockX, sharedBytes);
  });
  machine().enqueue(*target, std::move(operation));
  return success;
}

int cuGetErrorName(int result, const char** name) {
  for (const ErrorText& one : errorTexts) {
    if (one.result != result) continue;
    *name = one.name;
    return success;
  }
  return invalidValue;
}

int cuGetErrorString(int result, const char** text) {
  for (const ErrorText& one : errorTexts) {
    if (one.result != result) continue;
    *text = one.text;
    return success;
  }
  return invalidValue;
}

}  // extern "C"
