#pragma once

#include <cstdint>

namespace fastswitch {

// Scatters the bits of a counter: splitmix64's step and finaliser (Steele, Lea, Flood 2014). Not for kernel files: see kernels_body.h.
#ifdef __CUDACC__
__host__ __device__
#endif
inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

}  // namespace fastswitch
