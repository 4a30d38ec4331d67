// The words of simt.h as the stand-in means them: that threads meet, and that what would go wrong on a GPU goes wrong here.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "check.h"

using namespace fastswitch;
using fastswitch::check::expect;
using fastswitch::check::launch;
using fastswitch::check::Memory;
using fastswitch::check::Random;

namespace {

enum Mistake : int {
  none,
  noSyncBlock,
  noSyncWarp,
  noWait,
  endedLane,
  divergentLanes,
  divergentWarps,
  beyondShared,
  unaligned,
  mistakes,
};

struct TryParams {
  uint32_t* output;
  const uint32_t* input;
  int mistake;
};

struct ProductParams {
  const Bf16* a;  // [16][16]
  const Bf16* b;  // [16][8]
  float* sums;    // [16][8]
};

// Each word once. The outputs of thread i: the input of thread i + 1, its lane's, and that of four further.
KERNEL(checkWords, 128, TryParams) {
  auto* shared = static_cast<uint32_t*>(sharedMemory());
  const int own = threadIndex();
  shared[own] = p.input[own];
  if (p.mistake != noSyncBlock) syncBlock();
  p.output[own] = shared[(own + 1) % 128];
  syncBlock();
  shared[own] = p.input[own] + 1;
  if (p.mistake != noSyncWarp) syncWarp();
  p.output[128 + own] = shared[own ^ 5];
  syncBlock();
  if (own < 32) copyAsync16(shared + 4 * own + (p.mistake == unaligned ? 1 : 0), p.input + 4 * own);
  copyAsyncCommit();
  if (p.mistake != noWait) copyAsyncWait<0>();
  syncBlock();
  p.output[256 + own] = shared[own];
  if (p.mistake == beyondShared) shared[128 + own] = 1;
  if (p.mistake == endedLane && own == 77) return;
  if (p.mistake == divergentLanes && own == 77) syncWarp();
  if (p.mistake == divergentWarps && warp() == 2) syncBlock();
  const uint32_t sum = shuffleXor(p.input[own], 3) + shuffle(static_cast<uint32_t>(own), 9);
  syncBlock();
  p.output[384 + own] = sum + ballot(lane() % 2 == 0) + atomicAddShared(&shared[0], 0u) * 0;
}

KERNEL(checkMma, 32, ProductParams) {
  auto* a = static_cast<Bf16*>(sharedMemory());
  Bf16* b = a + 256;
  for (int i = lane(); i < 256; i += 32) a[i] = p.a[i];
  for (int i = lane(); i < 128; i += 32) b[i] = p.b[i];
  syncWarp();
  uint32_t left[4], right[4];
  loadMatrices(left, a + lane() % 16 * 16 + lane() / 16 * 8);
  loadMatricesTransposed(right, b + lane() % 16 * 8);
  float sums[4] = {1, 1, 1, 1};
  mma(sums, left, {right[0], right[1]});
  for (int i = 0; i < 4; i++) p.sums[(lane() / 4 + i / 2 * 8) * 8 + lane() % 4 * 2 + i % 2] = sums[i];
}

bool runs(int mistake) {
  Memory<uint32_t> input(128), output(512);
  for (uint32_t i = 0; i < 128; i++) input[i] = 1000 + i * i;
  launch("checkWords", TryParams{output.data(), input.data(), mistake}, 2, 1, 128, 512);
  bool holds = true;
  for (uint32_t i = 0; i < 128; i++) {
    holds = holds && output[i] == input[(i + 1) % 128] && output[128 + i] == input[i ^ 5] + 1 && output[256 + i] == input[i];
    holds = holds && output[384 + i] == input[i ^ 3] + (i & ~31u) + 9 + 0x55555555u;
  }
  return holds;
}

// Whether a process of its own ends by abort or by touching what it must not.
bool ends(int mistake) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 2);
    runs(mistake);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && (WTERMSIG(status) == SIGABRT || WTERMSIG(status) == SIGSEGV);
}

// Streams may run their kernels on threads of their own.
void checkThreads() {
  bool holds[2] = {true, true};
  const auto repeat = [&](int thread) {
    for (int i = 0; i < 200; i++) holds[thread] = holds[thread] && runs(none);
  };
  std::thread other(repeat, 1);
  repeat(0);
  other.join();
  expect(holds[0] && holds[1], "grids on two threads of the processor do not disturb each other");
}

void checkProduct() {
  Random random{3};
  Memory<Bf16> a(256), b(128);
  Memory<float> sums(128);
  for (size_t i = 0; i < 256; i++) a[i] = toBf16(static_cast<float>(random.below(64) - 32));
  for (size_t i = 0; i < 128; i++) b[i] = toBf16(static_cast<float>(random.below(64) - 32));
  launch("checkMma", ProductParams{a.data(), b.data(), sums.data()}, 1, 1, 32, 1024);
  bool holds = true;
  for (size_t row = 0; row < 16; row++) {
    for (size_t column = 0; column < 8; column++) {
      float sum = 1;
      for (size_t k = 0; k < 16; k++) sum += toFloat(a[row * 16 + k]) * toFloat(b[k * 8 + column]);
      holds = holds && sums[row * 8 + column] == sum;
    }
  }
  expect(holds, "mma multiplies matrices that loadMatrices brought");
}

void checkRounding() {
  const auto half = [](float value) { return toBf16(value).bits; };
  expect(half(1 + 0x1p-8f) == 0x3f80 && half(1 + 0x3p-8f) == 0x3f82 && half(-1 - 0x1.1p-8f) == 0xbf81, "bf16 is rounded to nearest, ties to even");
  expect(pack(1, 2) == 0x40003f80u, "pack puts the first value into the lower half");
}

}  // namespace

int main() {
  expect(runs(none), "threads meet and exchange values");
  checkThreads();
  checkProduct();
  checkRounding();
  expect(!runs(noSyncBlock), "without syncBlock values are missing");
  expect(!runs(noSyncWarp), "without syncWarp values are missing");
  expect(!runs(noWait), "without copyAsyncWait values are missing");
  expect(ends(endedLane), "a meeting of a warp of which a lane has ended is refused");
  expect(ends(divergentLanes), "lanes of one warp at different meetings are refused");
  expect(ends(divergentWarps), "warps at different meetings are refused");
  expect(ends(beyondShared), "shared memory ends where it ends");
  expect(ends(unaligned), "copies of 16 bytes to other addresses are refused");
  return check::failures == 0 ? 0 : 1;
}
