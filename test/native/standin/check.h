// What the programs that check kernels share: launching by name, random values, and saying what holds.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../../src/native/cuda/kernels.h"
#include "../../../src/native/mix.h"
#include "simt.h"

namespace fastswitch::check {

inline int failures = 0;

// One line for each thing that was checked.
inline void expect(bool holds, const char* name) {
  printf("%s %s\n", holds ? "ok" : "FAILED", name);
  if (!holds) failures++;
}

struct Random {
  uint64_t state;
  uint64_t next() { return mix(state++); }
  int below(int limit) { return static_cast<int>(next() % static_cast<uint64_t>(limit)); }
  // In [-1, 1).
  float unit() { return static_cast<float>(static_cast<int32_t>(next() >> 32)) * 0x1p-31f; }
  double chance() { return static_cast<double>(next() >> 11) * 0x1p-53; }
};

// 64-byte aligned, as device memory is.
template <class T>
class Memory {
 public:
  explicit Memory(size_t count, T value = T{}) : count_(count) {
    values_ = static_cast<T*>(aligned_alloc(64, (count * sizeof(T) + 64) / 64 * 64));
    for (size_t i = 0; i < count; i++) values_[i] = value;
  }
  ~Memory() { free(values_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  T* data() { return values_; }
  size_t size() const { return count_; }
  T& operator[](size_t index) { return values_[index]; }

 private:
  T* values_;
  size_t count_;
};

template <class Params>
void launch(const char* name, const Params& params, unsigned gridX, unsigned gridY, unsigned block, unsigned sharedBytes) {
  const HostKernel* kernel = findHostKernel(name);
  if (kernel == nullptr || kernel->paramBytes != sizeof(Params)) {
    fprintf(stderr, "there is no kernel %s with these parameters\n", name);
    exit(1);
  }
  unsigned grid[3] = {gridX, gridY, 1};
  kernel->run(&params, grid, block, sharedBytes);
}

}  // namespace fastswitch::check
