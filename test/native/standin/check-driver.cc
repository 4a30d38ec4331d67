// Checks the stand-in of the driver that FASTSWITCH_LIBCUDA names: that it does what a driver does, shows what a missing
// wait would, and refuses what a driver refuses. check-driver [seeds]
#include <cstring>
#include <thread>

#include "../../../src/native/cuda/device.h"
#include "driver_check.h"

using namespace fastswitch;
using namespace fastswitch::check;
using cuda::Address;
using cuda::DeviceMemory;
using cuda::Event;
using cuda::Graph;
using cuda::GraphExec;
using cuda::PinnedMemory;
using cuda::Stream;

namespace {

constexpr size_t bytes = 4096;
constexpr unsigned quiet = cuda::eventBlockingSync | cuda::eventDisableTiming;

struct Machine {
  cuda::Gpu* gpu = nullptr;
  DeviceMemory x, y, z;
  PinnedMemory host;
  Stream first = nullptr, second = nullptr;
  Event one = nullptr, two = nullptr;

  Machine() {
    expectOk(cuda::Gpu::open(0, &gpu), "open");
    for (DeviceMemory* memory : {&x, &y, &z}) expectOk(memory->reserve(*gpu, bytes), "device memory");
    expectOk(host.reserve(*gpu, bytes), "pinned memory");
    for (Stream* stream : {&first, &second}) driver->streamCreate(stream, cuda::streamNonBlocking, 0);
    for (Event* event : {&one, &two}) driver->eventCreate(event, quiet);
  }
  ~Machine() {
    wait(first);
    wait(second);
    for (const Stream stream : {first, second}) driver->streamDestroy(stream);
    for (const Event event : {one, two}) driver->eventDestroy(event);
  }
  void wait(Stream stream) {
    driver->eventRecord(one, stream);
    driver->eventSynchronize(one);
  }
  // The first byte of this memory, or -1 where its bytes differ.
  int read(const DeviceMemory& memory) {
    driver->copyDeviceToHost(host.data(), memory.address(), bytes, first);
    wait(first);
    for (size_t i = 1; i < bytes; i++) {
      if (host.data()[i] != host.data()[0]) return -1;
    }
    return host.data()[0];
  }
};

bool succeeded(int result) { return result == cuda::successResult; }

// Two streams without an event between them, a source that changes too early, a result that is read too early: over some
// seeds each must show, and with waits none may.
void checkAsynchrony(uint64_t seeds) {
  uint64_t early = 0, late = 0, unread = 0, read = 0, changed = 0, kept = 0;
  for (uint64_t seed = 1; seed <= seeds; seed++) {
    standin.seed(seed);
    Machine all;
    driver->memsetAsync(all.x.address(), 1, bytes, all.first);
    driver->copyDeviceToDevice(all.y.address(), all.x.address(), bytes, all.second);
    all.wait(all.second);
    const int without = all.read(all.y);
    early += without != 1;
    late += without == 1;

    driver->memsetAsync(all.x.address(), 2, bytes, all.first);
    driver->eventRecord(all.two, all.first);
    driver->streamWaitEvent(all.second, all.two, 0);
    driver->copyDeviceToDevice(all.z.address(), all.x.address(), bytes, all.second);
    all.wait(all.second);
    expect(all.read(all.z) == 2, "seed %llu: a stream does not wait for an event", static_cast<unsigned long long>(seed));

    memset(all.host.data(), 7, bytes);
    driver->copyHostToDevice(all.x.address(), all.host.data(), bytes, all.second);
    memset(all.host.data(), 8, bytes);
    all.wait(all.second);
    const int arrived = all.read(all.x);
    changed += arrived != 7;
    kept += arrived == 7;

    memset(all.host.data(), 0, bytes);
    driver->copyDeviceToHost(all.host.data(), all.z.address(), bytes, all.second);
    unread += all.host.data()[0] != 2;
    read += all.host.data()[0] == 2;
  }
  const bool shown = early > 0 && late > 0 && unread > 0 && read > 0 && changed > 0 && kept > 0;
  expect(shown, "of missing waits only %d, %d and %d show", static_cast<int>(early), static_cast<int>(unread), static_cast<int>(changed));
}

// y and z become what x is, over a second stream and back.
void checkGraph(uint64_t seeds) {
  for (uint64_t seed = 1; seed <= seeds; seed++) {
    standin.seed(seed);
    Machine all;
    Graph graph = nullptr;
    GraphExec exec = nullptr;
    driver->memsetAsync(all.x.address(), 5, bytes, all.first);
    all.wait(all.first);
    expect(succeeded(driver->captureBegin(all.first, cuda::captureThreadLocal)), "capture");
    driver->copyDeviceToDevice(all.y.address(), all.x.address(), bytes, all.first);
    driver->eventRecord(all.one, all.first);
    driver->streamWaitEvent(all.second, all.one, 0);
    driver->copyDeviceToDevice(all.z.address(), all.y.address(), bytes, all.second);
    driver->memsetAsync(all.x.address(), 6, bytes, all.first);
    driver->eventRecord(all.two, all.second);
    driver->streamWaitEvent(all.first, all.two, 0);
    expect(succeeded(driver->captureEnd(all.first, &graph)), "end of the capture");
    expect(all.read(all.y) == 0xff, "a capture ran");
    expect(succeeded(driver->graphInstantiate(&exec, graph, 0)) && succeeded(driver->graphDestroy(graph)), "instantiate");
    for (const int expected : {5, 6}) {
      expect(succeeded(driver->graphLaunch(exec, all.first)), "launch");
      expect(all.read(all.z) == expected, "seed %llu: a graph gives %d and not %d", static_cast<unsigned long long>(seed), all.read(all.z), expected);
    }
    driver->graphExecDestroy(exec);
  }
}

void checkRefusals() {
  Machine all;
  Address address = 0;
  Graph graph = nullptr;
  std::vector<uint8_t> pageable(bytes);
  Address to[2] = {all.x.address(), all.x.address() + 64};
  Address from[2] = {all.y.address(), all.y.address() + 64};
  size_t sizes[2] = {64, 64};
  size_t index = 0;
  size_t failed = 0;
  cuda::MemcpyAttributes attributes{1, {0, 0}, {0, 0}, 0};
  const auto batch = [&](Stream stream) {
    if (driver->copyBatch != nullptr) return driver->copyBatch(to, from, sizes, 2, &attributes, &index, 1, stream);
    return driver->copyBatchFirst == nullptr ? 1 : driver->copyBatchFirst(to, from, sizes, 2, &attributes, &index, 1, &failed, stream);
  };
  const auto refused = [](int result, const char* what) { expect(!succeeded(result), "allowed: %s", what); };
  fprintf(stderr, "what follows until the next such line is meant\n");
  const unsigned long before = standin.violations();
  refused(driver->copyHostToDevice(all.x.address(), pageable.data(), bytes, all.first), "a copy from memory that is not pinned");
  refused(driver->copyHostToDevice(all.x.address() + 1, all.host.data(), bytes, all.first), "a copy beyond its allocation");
  refused(driver->copyDeviceToHost(all.host.data(), reinterpret_cast<Address>(all.host.data()), 8, all.first), "host memory as device memory");
  refused(driver->copyDeviceToDevice(all.x.address() + 8, all.x.address(), 16, all.first), "a copy over itself");
  refused(driver->memsetAsync(all.x.address(), 0, bytes, nullptr), "the null stream");
  refused(batch(nullptr), "a batch on the null stream");
  to[1] = all.x.address() + 32;
  refused(batch(all.first), "a batch whose targets overlap");
  std::thread([&] { refused(driver->memAlloc(&address, 64), "a thread without a context"); }).join();
  driver->captureBegin(all.first, cuda::captureThreadLocal);
  refused(driver->memAlloc(&address, 64), "memory while capturing");
  refused(driver->eventSynchronize(all.two), "a wait while capturing");
  refused(driver->streamWaitEvent(all.first, all.two, 0), "an event from outside a capture");
  driver->eventRecord(all.one, all.first);
  driver->streamWaitEvent(all.second, all.one, 0);
  driver->memsetAsync(all.x.address(), 0, bytes, all.second);
  refused(driver->captureEnd(all.first, &graph), "a capture with work that was not joined");
  Stream gone = nullptr;
  driver->streamCreate(&gone, cuda::streamNonBlocking, 0);
  driver->streamDestroy(gone);
  refused(driver->memsetAsync(all.x.address(), 0, bytes, gone), "a stream that was destroyed");
  driver->memAlloc(&address, 64);
  driver->memFree(address);
  refused(driver->memsetAsync(address, 0, 64, all.first), "memory that was freed");
  refused(driver->memFree(address), "memory that is freed twice");
  const unsigned long seen = standin.violations() - before;
  fprintf(stderr, "%lu refusals\n", seen);
  // The two about batches only where the driver has them.
  expect(seen >= (driver->copyBatch == nullptr && driver->copyBatchFirst == nullptr ? 13u : 15u), "%lu refusals", seen);
}

}  // namespace

int main(int count, char** words) {
  const uint64_t seeds = count > 1 ? strtoull(words[1], nullptr, 10) : 50;
  if (!openStandin()) return 1;
  checkAsynchrony(seeds);
  checkGraph(seeds);
  expect(standin.violations() == 0, "%lu misuses of the driver", standin.violations());
  checkRefusals();
  expect(standin.live() == 0, "%lu things left", standin.live());
  return finish();
}
