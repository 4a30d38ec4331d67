// A way for much data from the host to the device: pinned memory of two halves, one filled while the other is copied.
#pragma once

#include "device.h"

namespace fastswitch::cuda {

class Upload {
 public:
  Upload(Gpu& gpu, Stream stream) : gpu_(gpu), stream_(stream) {}
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  Status start();
  // Room for `bytes` (at most `halfBytes`) that will go to `to`. Consecutive targets go in one copy. Good until the next call.
  Status room(Address to, size_t bytes, uint8_t** at);
  Status send(Address to, const void* from, size_t bytes);
  // Sends what is left and returns when all of it is there.
  Status finish();

  static constexpr size_t halfBytes = size_t{16} << 20;

 private:
  Status flush();

  Gpu& gpu_;
  Stream stream_;
  PinnedMemory memory_;
  Event passed_[2] = {};
  bool inFlight_[2] = {};
  int half_ = 0;
  size_t used_ = 0;
  Address target_ = 0;
};

}  // namespace fastswitch::cuda
