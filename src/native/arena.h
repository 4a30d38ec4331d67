// One range of zeroed memory from the operating system: aligned to a page, in huge pages where it allows them, and
// not backed by anything until touched.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.h"

namespace fastswitch {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Replaces what the arena held. Zero bytes leave it empty.
  Status reserve(size_t bytes);

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fastswitch
