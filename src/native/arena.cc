#include "arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

namespace fastswitch {

namespace {
constexpr size_t hugePage = size_t{1} << 21;
const size_t pageBytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
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
  // A large range starts on a huge page: what was mapped too much before and after it is given back.
  const size_t spare = bytes >= hugePage ? hugePage : 0;
  void* mapped = mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapped == MAP_FAILED) return fail(Status::noMemory, "cannot reserve %zu bytes of memory", bytes);
  auto* data = static_cast<uint8_t*>(mapped);
  if (spare > 0) {
    const size_t before = (hugePage - reinterpret_cast<uintptr_t>(data) % hugePage) % hugePage;
    const size_t used = (before + bytes + pageBytes - 1) / pageBytes * pageBytes;
    if (before > 0) munmap(data, before);
    if (used < bytes + spare) munmap(data + used, bytes + spare - used);
    data += before;
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
  }
  data_ = data;
  bytes_ = bytes;
  return Status::ok;
}

}  // namespace fastswitch
