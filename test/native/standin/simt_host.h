// What the words of src/native/cuda/simt.h mean on a processor: each thread of a block is a fiber, a warp is 32 of them,
// and the words in which threads meet (syncBlock, shuffle, mma and so on) let a fiber wait until the others are there too.
// One fiber runs at a time, until it waits; which runs next depends on FASTSWITCH_STANDIN_SEED, so that a meeting left out
// shows as wrong values. Where threads meet at different places, the process ends with a message.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simt.h"

namespace fastswitch::standin {

enum class Meeting : uint8_t { syncBlock, syncWarp, shuffle, shuffleXor, ballot, mma, loadMatrices };

struct MmaOperands {
  uint32_t a[4], b[2];
  float sums[4];
};

struct Warp {
  uint32_t live;     // lanes that have not ended
  uint32_t arrived;  // lanes that wait at `meeting`
  Meeting meeting;
  int line;
  int parity;        // of the number of meetings so far: values lie in two places in turn, since some lanes run ahead
  uint32_t ballots[2];
  uint64_t values[2][32];
  MmaOperands operands[32];
};

// Where the running fiber is.
struct Place {
  int thread;
  int block[3];
  int grid[3];
  uint8_t* shared;
  size_t sharedBytes;
  Warp* warp;
};

#if defined(__GNUC__) && defined(__linux__)
extern __thread Place* place __attribute__((tls_model("initial-exec")));
#else
extern __thread Place* place;
#endif

// Waits for all lanes of the warp (or, at syncBlock, all threads of the block). True for the one who came last, who goes on
// at once: what it does before its next meeting is done before another of its warp goes on.
bool meet(Meeting meeting, int line);
void multiplyOperands(Warp& warp);
void startCopy(void* shared, const void* global, bool present);
void closeCopies();
void finishCopies(int groupsLeft);
// Ends the process.
[[noreturn]] void refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct KernelEntry {
  HostKernel kernel;
  KernelEntry* next;
  KernelEntry(const char* name, size_t paramBytes, void (*run)(const void*, unsigned*, unsigned, unsigned));
};

void runGrid(const char* name, unsigned threads, void (*body)(const void*), const void* params, const unsigned grid[3], unsigned block,
             unsigned sharedBytes);

inline void checkAligned(const void* pointer, const char* word) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) refuse("%s of the address %p, which is no multiple of 16", word, pointer);
}

inline void checkShared(const void* pointer, size_t bytes, const char* word) {
  const auto* at = static_cast<const uint8_t*>(pointer);
  if (at < place->shared || at + bytes > place->shared + place->sharedBytes) refuse("%s of %p, outside the shared memory", word, pointer);
}

inline uint64_t exchange(Meeting meeting, uint64_t value, int from, int line) {
  Warp& warp = *place->warp;
  uint64_t(&values)[32] = warp.values[warp.parity];
  values[place->thread & 31] = value;
  meet(meeting, line);
  return values[from];
}

}  // namespace fastswitch::standin

#define DEVICE inline
#define UNROLL
#define UNROLL_BY_4
#define KERNEL(name, threads, Params)                                                                                      \
  static void kernelBody_##name(const Params& p);                                                                          \
  static void kernelCall_##name(const void* params) { kernelBody_##name(*static_cast<const Params*>(params)); }            \
  static void kernelRun_##name(const void* params, unsigned grid[3], unsigned block, unsigned sharedBytes) {               \
    ::fastswitch::standin::runGrid(#name, threads, kernelCall_##name, params, grid, block, sharedBytes);                   \
  }                                                                                                                        \
  static ::fastswitch::standin::KernelEntry kernelEntry_##name(#name, sizeof(Params), kernelRun_##name);                   \
  static void kernelBody_##name(const Params& p)

namespace fastswitch {

DEVICE int threadIndex() { return standin::place->thread; }
DEVICE int lane() { return standin::place->thread & 31; }
DEVICE int warp() { return standin::place->thread >> 5; }
DEVICE int blockX() { return standin::place->block[0]; }
DEVICE int blockY() { return standin::place->block[1]; }
DEVICE int blockZ() { return standin::place->block[2]; }
DEVICE int gridX() { return standin::place->grid[0]; }
DEVICE void* sharedMemory() { return standin::place->shared; }

// The number of the line tells meetings apart.
DEVICE void syncBlock(int line = __builtin_LINE()) { standin::meet(standin::Meeting::syncBlock, line); }
DEVICE void syncWarp(int line = __builtin_LINE()) { standin::meet(standin::Meeting::syncWarp, line); }

template <class T>
DEVICE T shuffle(T value, int from, int line = __builtin_LINE()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "as on a GPU");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = standin::exchange(standin::Meeting::shuffle, bits, from & 31, line);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
DEVICE T shuffleXor(T value, int mask, int line = __builtin_LINE()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "as on a GPU");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = standin::exchange(standin::Meeting::shuffleXor, bits, lane() ^ (mask & 31), line);
  memcpy(&value, &bits, sizeof value);
  return value;
}

DEVICE uint32_t ballot(bool condition, int line = __builtin_LINE()) {
  standin::Warp& warp = *standin::place->warp;
  uint32_t& ballots = warp.ballots[warp.parity];
  ballots |= static_cast<uint32_t>(condition) << lane();
  standin::meet(standin::Meeting::ballot, line);
  return ballots;
}

DEVICE uint32_t atomicAddShared(uint32_t* to, uint32_t value) {
  standin::checkShared(to, sizeof *to, "atomicAddShared");
  const uint32_t before = *to;
  *to = before + value;
  return before;
}

DEVICE uint64_t atomicAddShared(uint64_t* to, uint64_t value) {
  standin::checkShared(to, sizeof *to, "atomicAddShared");
  const uint64_t before = *to;
  *to = before + value;
  return before;
}

DEVICE int32_t atomicAddGlobal(int32_t* to, int32_t value) {
  const int32_t before = *to;
  *to = before + value;
  return before;
}

DEVICE int32_t atomicExchangeGlobal(int32_t* to, int32_t value) {
  const int32_t before = *to;
  *to = value;
  return before;
}

DEVICE void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  standin::Warp& warp = *standin::place->warp;
  standin::MmaOperands& mine = warp.operands[lane()];
  memcpy(mine.a, a, sizeof a);
  memcpy(mine.b, b, sizeof b);
  memcpy(mine.sums, sums, sizeof sums);
  if (standin::meet(standin::Meeting::mma, line)) standin::multiplyOperands(warp);
  memcpy(sums, mine.sums, sizeof sums);
}

// Every lane reads its words itself when all have come; the rows lie in shared memory, which nobody may change meanwhile.
DEVICE void loadMatrixWords(uint32_t (&to)[4], const void* row, bool transposed, int line) {
  standin::checkAligned(row, "loadMatrices");
  standin::checkShared(row, 16, "loadMatrices");
  standin::Warp& warp = *standin::place->warp;
  const uint64_t(&rows)[32] = warp.values[warp.parity];
  standin::exchange(standin::Meeting::loadMatrices, reinterpret_cast<uint64_t>(row), 0, line);
  const int group = lane() / 4;
  const int pair = lane() % 4 * 2;
  for (int i = 0; i < 4; i++) {
    uint32_t word = 0;
    for (int j = 0; j < 2; j++) {
      const auto* from = reinterpret_cast<const uint16_t*>(rows[8 * i + (transposed ? pair + j : group)]);
      word |= static_cast<uint32_t>(from[transposed ? group : pair + j]) << (16 * j);
    }
    to[i] = word;
  }
}

DEVICE void loadMatrices(uint32_t (&to)[4], const void* row, int line = __builtin_LINE()) { loadMatrixWords(to, row, false, line); }
DEVICE void loadMatricesTransposed(uint32_t (&to)[4], const void* row, int line = __builtin_LINE()) { loadMatrixWords(to, row, true, line); }

DEVICE Words4 load16(const void* from) {
  standin::checkAligned(from, "load16");
  Words4 value;
  memcpy(&value, from, sizeof value);
  return value;
}

DEVICE Words4 read16(const void* from) { return load16(from); }

DEVICE uint64_t read8(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % 8 != 0) standin::refuse("read8 of the address %p, which is no multiple of 8", from);
  uint64_t value;
  memcpy(&value, from, sizeof value);
  return value;
}

DEVICE void store8(void* to, uint64_t value) {
  if (reinterpret_cast<uintptr_t>(to) % 8 != 0) standin::refuse("store8 of the address %p, which is no multiple of 8", to);
  memcpy(to, &value, sizeof value);
}

DEVICE void store16(void* to, const Words4& value) {
  standin::checkAligned(to, "store16");
  memcpy(to, &value, sizeof value);
}

DEVICE void copyAsync16(void* shared, const void* global) { standin::startCopy(shared, global, true); }
DEVICE void copyAsync16OrZero(void* shared, const void* global, bool present) { standin::startCopy(shared, global, present); }
DEVICE void copyAsyncCommit() { standin::closeCopies(); }
template <int left>
DEVICE void copyAsyncWait() {
  standin::finishCopies(left);
}

DEVICE float floatOf(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

DEVICE uint32_t bitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

DEVICE float toFloat(Bf16 value) { return floatOf(static_cast<uint32_t>(value.bits) << 16); }

// A NaN becomes 0x7fff, as on a GPU.
DEVICE Bf16 toBf16(float value) {
  const uint32_t bits = bitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

DEVICE uint32_t pack(float low, float high) { return toBf16(low).bits | static_cast<uint32_t>(toBf16(high).bits) << 16; }

DEVICE float exponential(float x) { return std::exp(x); }
DEVICE float exponentialOfTwo(float x) { return exp2f(x); }
DEVICE float larger(float a, float b) { return fmaxf(a, b); }
DEVICE float squareRoot(float x) { return std::sqrt(x); }
DEVICE float reciprocalSquareRoot(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
DEVICE double logarithm(double x) { return std::log(x); }
DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
// Kept from the optimiser, which may fuse a product with a sum where the processor can.
DEVICE float multiplied(float a, float b) {
  volatile float product = a * b;
  return product;
}
DEVICE float divided(float a, float b) { return a / b; }

}  // namespace fastswitch
