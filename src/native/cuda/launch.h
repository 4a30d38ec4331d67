// Kernels by name, and their launches.
#pragma once

#include "device.h"

namespace fastswitch::cuda {

class Kernel {
 public:
  // `sharedBytes`: of dynamic shared memory, for every launch.
  Status find(Gpu& gpu, const char* name, unsigned threads, int sharedBytes) {
    threads_ = threads;
    sharedBytes_ = static_cast<unsigned>(sharedBytes);
    return gpu.kernel(name, sharedBytes, &function_);
  }

  template <class Params>
  Status launch(const Gpu& gpu, Stream stream, size_t gridX, size_t gridY, const Params& params) const {
    void* list[] = {const_cast<Params*>(&params)};
    const int result = gpu.driver().launch(function_, static_cast<unsigned>(gridX), static_cast<unsigned>(gridY), 1, threads_, 1, 1, sharedBytes_, stream, list,
                                           nullptr);
    return check(result, "cuLaunchKernel");
  }

 private:
  Function function_ = nullptr;
  unsigned threads_ = 0;
  unsigned sharedBytes_ = 0;
};

// Returns when all that was given to `stream` is done.
Status synchronize(const Gpu& gpu, Stream stream);

}  // namespace fastswitch::cuda
