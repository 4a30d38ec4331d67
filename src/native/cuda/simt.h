// The few words in which kernels are written. nvcc gives them their meaning here; the stand-in of the driver library in
// test/native/standin gives them another, on threads of one processor, so that the same sources run without a GPU. The
// rest of the program, which only names the structs, sees none of them.
// Kernels use nothing of CUDA that is not in this list.
//
//   KERNEL(name, threads, Params) { ... p.field ... }     a kernel of blocks of `threads`, with one parameter struct `p`
//   DEVICE                                                 before a function that kernels call
//   EVERYWHERE                                             before a function that kernels and the host call
//   threadIndex() blockX() blockY() blockZ() gridX()       lane() = threadIndex() % 32, warp() = threadIndex() / 32
//   sharedMemory()                                         the block's shared memory, 16-byte aligned, sized at launch
//   syncBlock() syncWarp()
//   shuffle(value, lane) shuffleXor(value, mask)           int, uint32_t, float, uint64_t; all 32 lanes take part
//   ballot(condition)                                      uint32_t
//   atomicAddShared(pointer, value)                        uint32_t, uint64_t; answers the value before
//   atomicAddGlobal(pointer, value) atomicExchangeGlobal(pointer, value)   int32_t; answer the value before
//   mma(sums, a, b)                                        m16n8k16: bf16 times bf16, added to f32
//   loadMatrices(to, row) loadMatricesTransposed(to, row)  four 8 x 8 matrices of bf16 from shared memory, as `mma` wants them:
//                                                          lanes 8 i to 8 i + 7 give the rows of matrix i, 16 bytes each
//   load16(pointer) -> Words4                              16 bytes from global memory that no kernel at work changes
//   read16(pointer) store16(pointer, words)                16 bytes from or to any memory
//   read8(pointer) store8(pointer, uint64_t)               8 bytes likewise
//   copyAsync16(shared, global) copyAsyncCommit() copyAsyncWait<n>()   16 bytes past the registers; n groups may be left
//   copyAsync16OrZero(shared, global, present)             the same; 16 zeros, and nothing read, where not present
//   toFloat(Bf16) toBf16(float) pack(low, high)            rounded to nearest, ties to even
//   exponential(x) about exp(x); squareRoot(x), reciprocalSquareRoot(x), divided(a, b) rounded to nearest
//   exponentialOfTwo(x) about 2^x: 1 of 0, 0 of minus infinity; larger(a, b) the one that is a number, if only one is
//   logarithm(double)
//   UNROLL                                                 before a loop of a fixed number of turns, over arrays in registers
//   UNROLL_BY_4                                            before a loop of many turns that wait for memory
//   fused(a, b, c) a * b + c rounded once; multiplied(a, b) a * b rounded, never made one with a sum (others may be)
//   bitsOf(float) floatOf(uint32_t)
#pragma once

#include <cstdint>

namespace fastswitch {

// The bits of a bfloat16.
struct Bf16 {
  uint16_t bits;
};

struct alignas(16) Words4 {
  uint32_t word[4];
};

}  // namespace fastswitch

#ifdef __CUDACC__
#define EVERYWHERE __host__ __device__
#else
#define EVERYWHERE
#endif

#ifdef __CUDACC__

#define UNROLL _Pragma("unroll")
#define UNROLL_BY_4 _Pragma("unroll 4")
#define DEVICE __device__ __forceinline__
#define KERNEL(name, threads, Params) extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)

namespace fastswitch {

DEVICE int threadIndex() { return static_cast<int>(threadIdx.x); }
DEVICE int lane() { return static_cast<int>(threadIdx.x & 31); }
DEVICE int warp() { return static_cast<int>(threadIdx.x >> 5); }
DEVICE int blockX() { return static_cast<int>(blockIdx.x); }
DEVICE int blockY() { return static_cast<int>(blockIdx.y); }
DEVICE int blockZ() { return static_cast<int>(blockIdx.z); }
DEVICE int gridX() { return static_cast<int>(gridDim.x); }

extern __shared__ Words4 sharedWords[];
DEVICE void* sharedMemory() { return sharedWords; }

DEVICE void syncBlock() { __syncthreads(); }
DEVICE void syncWarp() { __syncwarp(); }

template <class T>
DEVICE T shuffle(T value, int from) {
  return __shfl_sync(0xffffffffu, value, from);
}
template <class T>
DEVICE T shuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
DEVICE uint32_t ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }

DEVICE uint32_t atomicAddShared(uint32_t* to, uint32_t value) { return atomicAdd(to, value); }
DEVICE uint64_t atomicAddShared(uint64_t* to, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}

DEVICE int32_t atomicAddGlobal(int32_t* to, int32_t value) { return atomicAdd(to, value); }
DEVICE int32_t atomicExchangeGlobal(int32_t* to, int32_t value) { return atomicExch(to, value); }

// Row-major a [16][16], column-major b [16][8], sums [16][8]; who holds what: PTX ISA, "mma.m16n8k16" with .bf16.
DEVICE void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void loadMatrices(uint32_t (&to)[4], const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
DEVICE void loadMatricesTransposed(uint32_t (&to)[4], const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

DEVICE Words4 load16(const void* from) {
  Words4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.word[0]), "=r"(value.word[1]), "=r"(value.word[2]), "=r"(value.word[3])
               : "l"(from));
  return value;
}

DEVICE Words4 read16(const void* from) {
  const uint4 value = *reinterpret_cast<const uint4*>(from);
  return {{value.x, value.y, value.z, value.w}};
}
DEVICE uint64_t read8(const void* from) { return *static_cast<const unsigned long long*>(from); }
DEVICE void store8(void* to, uint64_t value) { *static_cast<unsigned long long*>(to) = value; }
DEVICE void store16(void* to, const Words4& value) {
  *reinterpret_cast<uint4*>(to) = make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
}

DEVICE void copyAsync16(void* shared, const void* global) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
DEVICE void copyAsync16OrZero(void* shared, const void* global, bool present) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = present ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
DEVICE void copyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left>
DEVICE void copyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

DEVICE float floatOf(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t bitsOf(float value) { return __float_as_uint(value); }
DEVICE float toFloat(Bf16 value) { return floatOf(static_cast<uint32_t>(value.bits) << 16); }
DEVICE uint32_t pack(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
DEVICE Bf16 toBf16(float value) { return {static_cast<uint16_t>(pack(value, 0.0f))}; }

DEVICE float exponential(float x) { return __expf(x); }
DEVICE float exponentialOfTwo(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
DEVICE float larger(float a, float b) { return fmaxf(a, b); }
DEVICE float squareRoot(float x) { return __fsqrt_rn(x); }
DEVICE float reciprocalSquareRoot(float x) { return __frsqrt_rn(x); }
DEVICE double logarithm(double x) { return log(x); }
DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float multiplied(float a, float b) { return __fmul_rn(a, b); }
DEVICE float divided(float a, float b) { return __fdiv_rn(a, b); }

}  // namespace fastswitch

#elif __has_include("simt_host.h")
#include "simt_host.h"
#endif
