// Checks the store of a GPU over the stand-in that FASTSWITCH_LIBCUDA names: check-store [first seed] [seeds]. Prints what
// failed and answers how many. `check-store devices` prints what findDevices finds.
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "../../../src/native/cuda/store.h"
#include "driver_check.h"

using namespace fastswitch;
using namespace fastswitch::check;
using cuda::CudaStore;

namespace {

constexpr size_t mebi = size_t{1} << 20;

std::unique_ptr<CudaStore> makeStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, bool batch) {
  auto store = std::make_unique<CudaStore>();
  const StoreOptions options{0, batch};
  expectOk(store->reserve(blockBytes, deviceBlocks, hostBlocks, options), "reserve");
  return store;
}

// The two memories as they should be.
struct Model {
  std::vector<uint8_t> memory[2];

  Model(CudaStore& store, uint64_t seed) {
    std::mt19937_64 random(seed);
    for (const Memory one : {Memory::device, Memory::host}) {
      std::vector<uint8_t>& bytes = memory[static_cast<int>(one)];
      bytes.resize(store.bytesOf(one));
      for (size_t at = 0; at < bytes.size(); at += 8) {
        const uint64_t word = random();
        memcpy(bytes.data() + at, &word, 8);
      }
      if (!bytes.empty()) expectOk(store.write(one, 0, bytes.data(), bytes.size()), "write");
    }
  }
  void copy(Direction direction, const std::vector<Piece>& pieces) {
    std::vector<uint8_t>& source = memory[direction == Direction::hostToDevice ? 1 : 0];
    std::vector<uint8_t>& target = memory[direction == Direction::deviceToHost ? 1 : 0];
    for (const Piece& piece : pieces) memmove(target.data() + piece.to, source.data() + piece.from, piece.bytes);
  }
  void expectSame(CudaStore& store, const char* what) {
    for (const Memory one : {Memory::device, Memory::host}) {
      std::vector<uint8_t>& bytes = memory[static_cast<int>(one)];
      std::vector<uint8_t> found(bytes.size());
      if (bytes.empty()) continue;
      expectOk(store.read(one, 0, found.data(), found.size()), "read");
      expect(found == bytes, "%s: %s memory differs", what, one == Memory::device ? "device" : "host");
    }
  }
};

// Copies of a thread that owns blocks [first, first + count) of both memories, as the scheduler's transfers own theirs.
std::vector<Piece> randomPieces(std::mt19937_64& random, Direction direction, size_t blockBytes, size_t first, size_t count) {
  std::vector<Piece> pieces;
  size_t from = first;
  size_t to = direction == Direction::deviceToDevice ? first + count / 2 : first;
  const size_t fromEnd = direction == Direction::deviceToDevice ? to : first + count;
  while (true) {
    from += random() % 2;
    to += random() % 2;
    const size_t run = 1 + random() % 3;
    if (from + run > fromEnd || to + run > first + count) return pieces;
    pieces.push_back({from * blockBytes, to * blockBytes, run * blockBytes});
    from += run;
    to += run;
  }
}

// Threads swap what is theirs while steps, on blocks of their own, come and go.
void checkThreads(uint64_t seed, bool batch) {
  constexpr size_t blockBytes = 256;
  constexpr size_t threads = 4;
  constexpr size_t share = 24;
  standin.seed(seed);
  const unsigned long before = standin.live();
  {
    auto store = makeStore(blockBytes, (threads + 1) * share, threads * share, batch);
    Model model(*store, seed);
    std::vector<std::thread> swaps;
    for (size_t thread = 0; thread < threads; thread++) {
      swaps.emplace_back([&, thread] {
        std::mt19937_64 random(seed * 101 + thread);
        for (int turn = 0; turn < 12; turn++) {
          const auto direction = static_cast<Direction>(random() % 3);
          const auto pieces = randomPieces(random, direction, blockBytes, thread * share, share);
          expectOk(store->copy(direction, pieces), "copy");
          model.copy(direction, pieces);
        }
      });
    }
    cuda::Stream compute = nullptr;
    store->gpu().enter();
    driver->streamCreate(&compute, cuda::streamNonBlocking, 0);
    cuda::Event done = nullptr;
    driver->eventCreate(&done, cuda::eventBlockingSync | cuda::eventDisableTiming);
    for (unsigned step = 0; step < 12; step++) {
      if (step % 3 != 0) store->announceStep();
      expectOk(store->stepWaits(compute), "stepWaits");
      const size_t at = threads * share * blockBytes;
      driver->memsetAsync(store->deviceAddress() + at, static_cast<unsigned char>(step), share * blockBytes, compute);
      driver->eventRecord(done, compute);
      expectOk(store->stepIssued(compute), "stepIssued");
      driver->eventSynchronize(done);
      store->stepReturned();
      memset(model.memory[0].data() + at, static_cast<int>(step), share * blockBytes);
    }
    for (std::thread& one : swaps) one.join();
    model.expectSame(*store, batch ? "threads, batches" : "threads, one by one");
    driver->eventDestroy(done);
    driver->streamDestroy(compute);
  }
  expect(standin.live() == before, "seed %llu: %lu things left of %lu", static_cast<unsigned long long>(seed), standin.live() - before, before);
}

// What crosses between a step and a transfer: a block that a step wrote is saved, restored elsewhere, and read by a step.
void checkJourney(uint64_t seed) {
  standin.seed(seed);
  auto store = makeStore(256, 8, 8, true);
  store->gpu().enter();
  cuda::Stream compute = nullptr;
  driver->streamCreate(&compute, cuda::streamNonBlocking, 0);
  cuda::Event done = nullptr;
  driver->eventCreate(&done, cuda::eventBlockingSync | cuda::eventDisableTiming);
  const cuda::Address arena = store->deviceAddress();
  const auto step = [&](cuda::Address to, cuda::Address from, int fill) {
    expectOk(store->stepWaits(compute), "stepWaits");
    if (from != 0) {
      driver->copyDeviceToDevice(to, from, 256, compute);
    } else {
      driver->memsetAsync(to, static_cast<unsigned char>(fill), 256, compute);
    }
    driver->eventRecord(done, compute);
    expectOk(store->stepIssued(compute), "stepIssued");
  };
  takeLog();
  step(arena, 0, 7);
  driver->eventSynchronize(done);
  store->stepReturned();
  // A step in flight, of which the transfers need not know.
  step(arena + 256, 0, 9);
  expectOk(store->copy(Direction::deviceToHost, {{0, 512, 256}, {0, 1024, 128}}), "out");
  expectOk(store->copy(Direction::hostToDevice, {{512, 768, 256}, {1024, 1280, 128}}), "in");
  driver->eventSynchronize(done);
  store->stepReturned();
  const std::string before = takeLog();
  step(arena + 1536, arena + 768, 0);
  const std::string after = takeLog();
  driver->eventSynchronize(done);
  store->stepReturned();
  std::vector<uint8_t> found(256);
  expectOk(store->read(Memory::device, 1536, found.data(), 256), "read");
  expect(found == std::vector<uint8_t>(256, 7), "seed %llu: what was saved and restored is not what the step wrote", static_cast<unsigned long long>(seed));

  // Copies wait for the first step's event, and the third step for both transfers'.
  const auto waits = linesOf(before, "cuStreamWaitEvent");
  const auto records = linesOf(before, "cuEventRecord stream ");
  expect(waits.size() == 2 && records.size() == 6, "%s", before.c_str());
  if (waits.size() == 2 && records.size() == 6) {
    const std::string first = records[1].substr(records[1].find("event"));
    for (const std::string& wait : waits) expect(wait.find(first) != std::string::npos, "a transfer waits for %s and not for %s", wait.c_str(), first.c_str());
    for (int i = 4; i < 6; i++) {
      const std::string landed = records[i].substr(records[i].find("event"));
      expect(after.find(landed) != std::string::npos, "the step does not wait for %s", landed.c_str());
    }
  }
  driver->eventDestroy(done);
  driver->streamDestroy(compute);
}

void checkChunks(bool batch) {
  const bool batches = batch && (driver->copyBatch != nullptr || driver->copyBatchFirst != nullptr);
  constexpr size_t blockBytes = 64 * 1024;
  auto store = makeStore(blockBytes, 640, 640, batch);
  Model model(*store, 3);
  takeLog();
  // One run of 40 MiB: three chunks, the third sent when the first has landed.
  const std::vector<Piece> whole{{0, 0, 640 * blockBytes}};
  expectOk(store->copy(Direction::deviceToHost, whole), "a long run");
  model.copy(Direction::deviceToHost, whole);
  std::string log = takeLog();
  std::string shape;
  for (const std::string& line : linesOf(log)) shape += line.substr(2, line.find(' ') - 2) + " ";
  const char* shaped = "StreamCreateWithPriority EventCreate EventCreate EventCreate MemcpyDtoHAsync_v2 EventRecord MemcpyDtoHAsync_v2 EventRecord "
                         "EventSynchronize MemcpyDtoHAsync_v2 EventRecord EventSynchronize EventSynchronize ";
  expect(shape == shaped, "a long run: %s", shape.c_str());
  expect(log.find("bytes 8388608\n") != std::string::npos, "the last chunk is not 8 MiB: %s", log.c_str());

  // 1300 single blocks of 64 bytes.
  std::vector<Piece> many;
  for (size_t i = 0; i < 1300; i++) many.push_back({i * 192, i * 128, 64});
  expectOk(store->copy(Direction::hostToDevice, many), "many copies");
  model.copy(Direction::hostToDevice, many);
  log = takeLog();
  const auto calls = linesOf(log, "cuMemcpy");
  expect(calls.size() == (batches ? 3u : 1300u), "%zu calls for 1300 copies", calls.size());
  const char* name = driver->copyBatch != nullptr ? "cuMemcpyBatchAsync_v2 " : "cuMemcpyBatchAsync ";
  if (batches) expect(calls[2].find(name) == 0 && calls[2].find("copies 276 bytes 17664") != std::string::npos, "%s", calls[2].c_str());
  expect(countOf(log, "cuEventRecord") == 3, "%zu events for three chunks", countOf(log, "cuEventRecord"));

  // A single copy takes the plain call, an empty list none, and a small transfer one event.
  expectOk(store->copy(Direction::hostToDevice, {{0, 64, 64}, {0, 0, 0}}), "one copy");
  model.copy(Direction::hostToDevice, {{0, 64, 64}});
  log = takeLog();
  expect(countOf(log, "cuMemcpyHtoDAsync_v2") == 1 && countOf(log, "cuMemcpyBatch") == 0 && countOf(log, "cuEventRecord") == 1, "%s", log.c_str());
  // The event of a transfer that landed, which a step may be about to wait for, is not the next one's.
  const std::string landed = linesOf(log, "cuEventRecord")[0];
  expectOk(store->copy(Direction::hostToDevice, {{0, 64, 64}}), "one copy again");
  const std::string next = linesOf(takeLog(), "cuEventRecord")[0];
  expect(next != landed && next.substr(0, next.find(" event")) == landed.substr(0, landed.find(" event")), "%s after %s", next.c_str(), landed.c_str());
  expectOk(store->copy(Direction::hostToDevice, {}), "nothing");
  expect(takeLog().empty(), "nothing to copy, and calls");
  model.expectSame(*store, "chunks");
}

// Moves within the device, over themselves and onto what was moved before.
void checkWithin() {
  auto store = makeStore(256, 64, 0, true);
  Model model(*store, 5);
  std::mt19937_64 random(11);
  for (int turn = 0; turn < 60; turn++) {
    std::vector<Piece> pieces;
    for (int i = 0; i < 4; i++) {
      const size_t blocks = 1 + random() % 20;
      pieces.push_back({random() % (64 - blocks) * 256, random() % (64 - blocks) * 256, blocks * 256});
    }
    expectOk(store->copy(Direction::deviceToDevice, pieces), "within");
    model.copy(Direction::deviceToDevice, pieces);
  }
  model.expectSame(*store, "within the device");
  const Status status = store->copy(Direction::deviceToDevice, {{0, 1024, 256}, {0, 1, 8192}});
  expect(status == Status::badRun, "a piece that moves by one byte: %d", static_cast<int>(status));
  model.expectSame(*store, "after a refusal");
}

double millisOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void checkAnnounced() {
  auto store = makeStore(256, 64, 64, true);
  store->gpu().enter();
  cuda::Stream compute = nullptr;
  driver->streamCreate(&compute, cuda::streamNonBlocking, 0);
  const std::vector<Piece> pieces{{0, 0, 256}, {512, 512, 256}};
  expectOk(store->copy(Direction::deviceToHost, pieces), "first copy");
  int before = 0;
  for (int turn = 0; turn < 20; turn++) {
    takeLog();
    store->announceStep();
    std::thread swap([&] { expectOk(store->copy(Direction::deviceToHost, pieces), "held copy"); });
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    driver->memsetAsync(store->deviceAddress() + 1024, 1, 256, compute);
    expectOk(store->stepIssued(compute), "stepIssued");
    swap.join();
    const std::string log = takeLog();
    const size_t launch = log.find("cuMemsetD8Async");
    const size_t copy = log.find("cuMemcpy");
    before += copy < launch ? 1 : 0;
  }
  // A machine so busy that the step's thread sleeps for the whole 2 ms lets the copies go.
  expect(before <= 15, "%d of 20 copies went before the step that was announced", before);
  store->announceStep();
  const double first = millisOf([&] { expectOk(store->copy(Direction::deviceToHost, pieces), "copy"); });
  const double second = millisOf([&] { expectOk(store->copy(Direction::deviceToHost, pieces), "copy"); });
  expect(first > 1.5 && first < 2000, "a step that does not come holds a copy up for %.2f ms", first);
  expect(second < 1.5 || second < first, "and the next one for %.2f ms", second);
  driver->streamDestroy(compute);
}

// One transfer in which this call fails at these turns: a clear message, nothing in flight, and a store that goes on.
void checkFailure(bool batch, const std::string& call, const std::vector<int>& turns, const std::vector<Piece>& pieces) {
  const unsigned long live = standin.live();
  std::string asked;
  for (const int turn : turns) asked += (asked.empty() ? "" : ",") + call + ":" + std::to_string(turn);
  const char* name = asked.c_str();
  const bool lost = turns.size() > 2;
  {
    auto store = makeStore(64, 2200, 2200, batch);
    Model model(*store, 8);
    cuda::Stream compute = nullptr;
    driver->streamCreate(&compute, cuda::streamNonBlocking, 0);
    expectOk(store->stepIssued(compute), "stepIssued");
    store->stepReturned();
    takeLog();
    standin.failCalls(name);
    const Status status = store->copy(Direction::deviceToHost, pieces);
    const std::string message = status == Status::ok ? "" : lastMessage();
    const std::string log = takeLog();
    standin.failCalls("");
    if (log.find("failed as asked") == std::string::npos) {
      expectOk(status, name);
    } else {
      const bool clear = message.find(call) != std::string::npos && message.find("CUDA_ERROR_UNKNOWN") != std::string::npos;
      expect(status == Status::system && clear, "%s: %d '%s'", name, static_cast<int>(status), message.c_str());
      expect(lost == (message.find("could not be waited for") != std::string::npos), "%s: '%s'", name, message.c_str());
    }
    // What is put into the host's blocks after the call stays. Where the driver refused every wait, the store waits at its
    // end, before its memories go.
    if (!lost) {
      model.memory[1].assign(model.memory[1].size(), 0x5a);
      expectOk(store->write(Memory::host, 0, model.memory[1].data(), model.memory[1].size()), "write");
      expectOk(store->copy(Direction::hostToDevice, {{0, 64, 64}}), "the next copy");
      model.copy(Direction::hostToDevice, {{0, 64, 64}});
      model.expectSame(*store, name);
    }
    driver->streamDestroy(compute);
  }
  expect(standin.live() == live, "%s: %lu things left", name, standin.live() - live);
}

void checkFailures(bool batch) {
  const char* batchCall = driver->copyBatch != nullptr ? "cuMemcpyBatchAsync_v2" : "cuMemcpyBatchAsync";
  const std::vector<std::string> calls{"cuStreamCreateWithPriority", "cuEventCreate", "cuStreamWaitEvent",  batchCall,
                                       "cuMemcpyDtoHAsync_v2",       "cuEventRecord", "cuEventSynchronize"};
  std::vector<Piece> pieces;
  for (size_t i = 0; i < 1100; i++) pieces.push_back({i * 128, i * 128, 64});
  for (const std::string& call : calls) {
    for (int turn = 1; turn <= 3; turn++) checkFailure(batch, call, {turn}, pieces);
  }
  // The wait for what is in flight fails with it, then even the second try does.
  checkFailure(batch, "cuEventRecord", {2, 3}, pieces);
  checkFailure(batch, "cuEventSynchronize", {1, 2}, pieces);
  checkFailure(batch, "cuEventRecord", {1, 2, 3}, pieces);
}

// A driver that has the call for a list and does not take it: the transfer goes on by single copies, and so do all that follow.
void checkRefusedBatches() {
  const std::string call = driver->copyBatch != nullptr ? "cuMemcpyBatchAsync_v2" : "cuMemcpyBatchAsync";
  std::vector<Piece> pieces;
  for (size_t i = 0; i < 700; i++) pieces.push_back({i * 128, i * 128, 64});
  for (const char* result : {"=1", "=801"}) {
    auto store = makeStore(64, 1400, 1400, true);
    Model model(*store, 8);
    takeLog();
    standin.failCalls((call + ":1" + result).c_str());
    for (int turn = 0; turn < 2; turn++) {
      expectOk(store->copy(Direction::deviceToHost, pieces), "a refused list");
      model.copy(Direction::deviceToHost, pieces);
    }
    standin.failCalls("");
    const std::string log = takeLog();
    const bool had = driver->copyBatch != nullptr || driver->copyBatchFirst != nullptr;
    expect(countOf(log, "cuMemcpyBatchAsync") == (had ? 1u : 0u), "%zu lists after %s", countOf(log, "cuMemcpyBatchAsync"), result);
    expect(countOf(log, "cuMemcpyDtoHAsync_v2") == 1400, "%zu single copies after %s", countOf(log, "cuMemcpyDtoHAsync_v2"), result);
    model.expectSame(*store, result);
  }
}

void checkRefusals() {
  const unsigned long live = standin.live();
  StoreOptions options;
  options.device = 0;
  const auto refused = [&](size_t deviceBlocks, const char* call, const char* expected, Status wanted) {
    CudaStore store;
    standin.failCalls(call);
    const Status status = store.reserve(mebi, deviceBlocks, 4, options);
    standin.failCalls("");
    expect(status == wanted && strstr(lastMessage(), expected) != nullptr, "%s: %d '%s'", expected, static_cast<int>(status), lastMessage());
  };
  refused(1 << 20, "", "lower --device-kv", Status::noMemory);
  refused(4, "cuMemHostAlloc:1", "lower --host-kv", Status::noMemory);
  refused(4, "cuMemHostAlloc:1=1", "lower --host-kv", Status::noMemory);
  refused(4, "cuEventCreate:2", "cuEventCreate", Status::system);
  options.device = 7;
  refused(4, "", "there is no GPU 7", Status::badArgument);
  expect(standin.live() == live, "%lu things left of stores that were refused", standin.live() - live);
}

int printDevices() {
  const cuda::Found found = cuda::findDevices();
  printf("driver %d; kernels %d; batch copies %d; problem '%s'\n", found.driverVersion, found.kernels, found.batchCopies, found.problem.c_str());
  for (const cuda::DeviceFacts& one : found.devices) {
    printf("%s, %d.%d, %d multiprocessors, %d copy engines, %zu of %zu bytes free, %s, problem '%s'\n", one.name.c_str(), one.computeMajor, one.computeMinor,
           one.multiprocessors, one.copyEngines, one.freeBytes, one.totalBytes, one.pciBusId.c_str(), one.problem.c_str());
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count > 1 && strcmp(words[1], "devices") == 0) return printDevices();
  const uint64_t first = count > 1 ? strtoull(words[1], nullptr, 10) : 1;
  const uint64_t seeds = count > 2 ? strtoull(words[2], nullptr, 10) : 100;
  if (!openStandin()) return 1;
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    checkThreads(seed, seed % 2 == 0);
    checkJourney(seed);
  }
  for (const bool batch : {true, false}) {
    checkChunks(batch);
    checkFailures(batch);
  }
  checkRefusedBatches();
  checkWithin();
  checkAnnounced();
  checkRefusals();
  expect(standin.violations() == 0, "%lu misuses of the driver", standin.violations());
  const std::string log = takeLog();
  expect(countOf(log, "violation") == 0, "%s", log.c_str());
  return finish();
}
