#include "arena.h"

#include <sys/mman.h>

#include <utility>

namespace fastswitch {

namespace {
constexpr size_t hugePage = size_t{1} << 21;
}

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Arena::Arena(Arena&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Status Arena::reserve(size_t bytes) {
  if (data_ != nullptr) munmap(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
  if (bytes == 0) return Status::ok;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) return fail(Status::noMemory, "cannot reserve %zu bytes of memory", bytes);
#ifdef MADV_HUGEPAGE
  if (bytes >= 2 * hugePage) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  data_ = static_cast<uint8_t*>(data);
  bytes_ = bytes;
  return Status::ok;
}

}  // namespace fastswitch
