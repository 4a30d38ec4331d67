// One GPU of this process: its primary context, and the owners of what lives in it. Nothing here throws.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "driver.h"

namespace fastswitch::cuda {

struct DeviceFacts {
  std::string name;
  int computeMajor = 0, computeMinor = 0;
  int multiprocessors = 0;
  int copyEngines = 0;
  size_t totalBytes = 0, freeBytes = 0;
  std::string pciBusId;   // "0000:65:00.0"
  std::string problem;    // why it cannot be used (no kernels for it, its context does not start); empty: it can
};

// What was found, for `fastswitch devices`. `problem`: why there is nothing, or what is missing beside the devices.
struct Found {
  int driverVersion = 0;  // 13000 for 13.0; 0: no driver
  std::string problem;
  bool kernels = false;   // this build has kernels, or $FASTSWITCH_CUDA_KERNELS names a file of them
  bool batchCopies = false;
  std::string cublasLt;   // path or name under which it was loaded; empty: products run by our own kernel
  std::vector<DeviceFacts> devices;
};
Found findDevices();

// The device of this ordinal with its context; opened once and never closed, since native threads may outlive everything.
class Gpu {
 public:
  static Status open(int ordinal, Gpu** gpu);

  // Whether a device of this ordinal starts and has kernels, and its memory; nothing of it stays open.
  static Status tryOut(int ordinal, size_t* freeBytes, size_t* totalBytes);

  // Makes the context current on the calling thread: first in every native call.
  Status enter() const;
  const Driver& driver() const { return *driver_; }
  int ordinal() const { return ordinal_; }
  int multiprocessors() const { return multiprocessors_; }

  // A kernel by name, with `sharedBytes` of dynamic shared memory allowed. Loads the kernels when first asked. The calling
  // thread has entered.
  Status kernel(const char* name, int sharedBytes, Function* function);

  // Loads the kernels now; a failure says what is wrong with them on this device.
  Status loadKernels();

  // Bytes of device memory, of all processes. The calling thread has entered.
  Status memory(size_t* freeBytes, size_t* totalBytes) const;

 private:
  struct Kernel {
    Function function;
    int sharedBytes;  // of dynamic shared memory that a launch may ask for
  };

  Status start(int ordinal);
  void stop();
  Status load();  // with `mutex_` held

  const Driver* driver_ = nullptr;
  Device device_ = 0;
  int ordinal_ = 0, multiprocessors_ = 0;
  int computeMajor_ = 0, computeMinor_ = 0;
  Context context_ = nullptr;
  std::mutex mutex_;  // guards what follows
  Module module_ = nullptr;
  std::map<std::string, Kernel> kernels_;
};

// Device memory, freed with its owner (whose thread has entered, or is given the context by it).
class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() { release(); }
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  Status reserve(Gpu& gpu, size_t bytes);
  Address address() const { return address_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as(size_t byteOffset = 0) const {
    return reinterpret_cast<T*>(address_ + byteOffset);
  }

 private:
  void release();
  Gpu* gpu_ = nullptr;
  Address address_ = 0;
  size_t bytes_ = 0;
};

// Pinned host memory: what copies beside a running step need.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  ~PinnedMemory() { release(); }
  PinnedMemory(PinnedMemory&& other) noexcept { *this = std::move(other); }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  Status reserve(Gpu& gpu, size_t bytes);
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void release();
  Gpu* gpu_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fastswitch::cuda
