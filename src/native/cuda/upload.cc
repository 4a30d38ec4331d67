#include "upload.h"

#include <algorithm>
#include <cstring>

namespace fastswitch::cuda {

Upload::~Upload() {
  // A copy may still be reading what is about to be freed.
  for (int half = 0; half < 2; half++) {
    if (inFlight_[half]) gpu_.driver().eventSynchronize(passed_[half]);
    if (passed_[half] != nullptr) gpu_.driver().eventDestroy(passed_[half]);
  }
}

Status Upload::start() {
  Status status = memory_.reserve(gpu_, 2 * halfBytes);
  for (int half = 0; half < 2 && status == Status::ok; half++) {
    status = check(gpu_.driver().eventCreate(&passed_[half], eventDisableTiming | eventBlockingSync), "cuEventCreate");
  }
  return status;
}

Status Upload::flush() {
  if (used_ == 0) return Status::ok;
  const uint8_t* from = memory_.data() + static_cast<size_t>(half_) * halfBytes;
  Status status = check(gpu_.driver().copyHostToDevice(target_, from, used_, stream_), "cuMemcpyHtoDAsync_v2");
  if (status == Status::ok) {
    inFlight_[half_] = true;
    status = check(gpu_.driver().eventRecord(passed_[half_], stream_), "cuEventRecord");
  }
  used_ = 0;
  half_ ^= 1;
  if (status == Status::ok && inFlight_[half_]) {
    status = check(gpu_.driver().eventSynchronize(passed_[half_]), "cuEventSynchronize");
    inFlight_[half_] = false;
  }
  return status;
}

Status Upload::room(Address to, size_t bytes, uint8_t** at) {
  if (used_ > 0 && (target_ + used_ != to || bytes > halfBytes - used_)) {
    const Status status = flush();
    if (status != Status::ok) return status;
  }
  if (used_ == 0) target_ = to;
  *at = memory_.data() + static_cast<size_t>(half_) * halfBytes + used_;
  used_ += bytes;
  return Status::ok;
}

Status Upload::send(Address to, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const size_t part = std::min(bytes - done, halfBytes);
    uint8_t* at = nullptr;
    const Status status = room(to + done, part, &at);
    if (status != Status::ok) return status;
    memcpy(at, static_cast<const uint8_t*>(from) + done, part);
    done += part;
  }
  return Status::ok;
}

Status Upload::finish() {
  Status status = flush();
  for (int half = 0; half < 2; half++) {
    if (!inFlight_[half]) continue;
    const Status waited = check(gpu_.driver().eventSynchronize(passed_[half]), "cuEventSynchronize");
    inFlight_[half] = false;
    if (status == Status::ok) status = waited;
  }
  return status;
}

}  // namespace fastswitch::cuda
