#include "driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <iterator>

namespace fastswitch::cuda {

namespace {

constexpr const char* usualLibrary = "libcuda.so.1";
constexpr int outOfMemoryResult = 2;
constexpr int noDeviceResult = 100;

// Filled once, by the first call of findDriver; read-only from then on.
Driver table;
char reason[512] = "";

bool refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));
bool refuse(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  return false;
}

template <class F>
bool bind(void* library, const char* symbol, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, symbol));
  return *function != nullptr;
}

bool bindAll(void* library, const char* path) {
  const char* missing = nullptr;
#define FASTSWITCH_BIND(name, symbol, parameters) \
  if (!bind(library, symbol, &table.name) && missing == nullptr) missing = symbol;
  FASTSWITCH_DRIVER_FUNCTIONS(FASTSWITCH_BIND)
#undef FASTSWITCH_BIND
  // What such a call means is told by the version that the driver states, beside its name.
  int version = 0;
  if (table.driverVersion != nullptr && table.driverVersion(&version) != successResult) version = 0;
  if (version >= 13000) bind(library, "cuMemcpyBatchAsync_v2", &table.copyBatch);
  if (version >= 12080) bind(library, "cuMemcpyBatchAsync", &table.copyBatchFirst);
  if (missing == nullptr) return true;
  if (table.init == nullptr) return refuse("%s is not NVIDIA's driver library: it lacks %s", path, missing);
  return refuse("NVIDIA's driver (%s, for CUDA %d.%d) is too old: it lacks %s", path, version / 1000, version % 1000 / 10, missing);
}

bool load() {
  const char* named = getenv("FASTSWITCH_LIBCUDA");
  const bool elsewhere = named != nullptr && named[0] != '\0';
  const char* path = elsewhere ? named : usualLibrary;
  // Never closed: its threads and ours may run until the process ends.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    if (elsewhere) return refuse("cannot load FASTSWITCH_LIBCUDA=%s: %s", path, error == nullptr ? "unknown error" : error);
    return refuse("%s is not installed (it comes with NVIDIA's driver)", path);
  }
  if (!bindAll(library, path)) return false;
  const int result = table.init(0);
  int count = 0;
  if (result == noDeviceResult) return refuse("no GPU found: NVIDIA's driver is installed, but shows this process no device");
  if (result != successResult) {
    check(result, "cuInit");
    return refuse("NVIDIA's driver does not start: %s", lastMessage());
  }
  const int counted = table.deviceCount(&count);
  if (counted != successResult) {
    check(counted, "cuDeviceGetCount");
    return refuse("NVIDIA's driver does not tell its devices: %s", lastMessage());
  }
  if (count == 0) return refuse("no GPU found: NVIDIA's driver is installed, but shows this process no device");
  return true;
}

// After these the driver answers every call on the context with the same (cuda.h says so of each): a kernel went wrong, or
// the GPU did.
bool endsContext(int result) {
  constexpr int hardwareResults[] = {46, 214, 220, 226};
  constexpr int kernelResults[] = {700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721};
  const auto has = [result](const auto& results) { return std::find(std::begin(results), std::end(results), result) != std::end(results); };
  return has(hardwareResults) || has(kernelResults);
}

}  // namespace

const Driver* findDriver(const char** why) {
  static const bool usable = load();
  if (usable) return &table;
  if (why != nullptr) *why = reason;
  return nullptr;
}

Status check(int result, const char* call) {
  if (result == successResult) return Status::ok;
  const char* name = nullptr;
  const char* text = nullptr;
  if (table.errorName == nullptr || table.errorName(result, &name) != successResult || name == nullptr) name = "unknown error";
  if (table.errorString == nullptr || table.errorString(result, &text) != successResult || text == nullptr) text = "no text";
  const Status status = result == outOfMemoryResult ? Status::noMemory : endsContext(result) ? Status::deviceLost : Status::system;
  return fail(status, "%s failed with %d, %s (%s)", call, result, name, text);
}

}  // namespace fastswitch::cuda
