// Memory for kernels to stay within: it ends where a page begins that nobody may touch.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

namespace fastswitch::check {

template <class T>
class Guarded {
 public:
  explicit Guarded(size_t count, T value = T{}) : count_(count) {
    const size_t bytes = (count * sizeof(T) + 15) / 16 * 16;
    mapped_ = (bytes + page - 1) / page * page + page;
    base_ = static_cast<uint8_t*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) abort();
    values_ = reinterpret_cast<T*>(base_ + mapped_ - page - bytes);
    for (size_t i = 0; i < count; i++) values_[i] = value;
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  T* data() { return values_; }
  const T* data() const { return values_; }
  size_t size() const { return count_; }
  T& operator[](size_t index) { return values_[index]; }
  const T& operator[](size_t index) const { return values_[index]; }

 private:
  static constexpr size_t page = 4096;
  uint8_t* base_;
  T* values_;
  size_t count_, mapped_;
};

}  // namespace fastswitch::check
