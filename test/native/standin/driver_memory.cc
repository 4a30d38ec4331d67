// Memory and copies. Each allocation stands alone between pages that nobody may touch, is filled with 0xff (not a number,
// read as bf16 or f32), and its addresses are not used again.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "driver_state.h"

using namespace standin;

namespace {

constexpr unsigned char poison = 0xff;
constexpr size_t copiesMax = size_t{1} << 16;

enum class Way { hostToDevice, deviceToHost, deviceToDevice };

size_t pageBytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
size_t inPages(size_t bytes) { return (bytes + pageBytes() - 1) / pageBytes() * pageBytes(); }

// The end of the allocation lies at the end of a page as far as its alignment to 256 bytes allows: what reads too far is
// noticed at once.
void* allocate(size_t bytes, Kind kind) {
  const size_t body = inPages(bytes);
  void* mapped = mmap(nullptr, body + 2 * pageBytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* start = static_cast<unsigned char*>(mapped) + pageBytes();
  if (mprotect(start, body, PROT_READ | PROT_WRITE) != 0) return nullptr;
  auto* data = start + (body - bytes) / 256 * 256;
  memset(data, poison, bytes);
  const auto address = reinterpret_cast<uintptr_t>(data);
  machine().allocations[address] = {address, bytes, kind, currentDevice};
  return data;
}

// The pages stay taken and forbidden.
bool release(Call& call, uintptr_t address, Kind kind) {
  const auto found = machine().allocations.find(address);
  if (found == machine().allocations.end() || found->second.kind != kind) return call.refuse(invalidValue, "no such allocation");
  const size_t bytes = found->second.bytes;
  machine().allocations.erase(found);
  const uintptr_t start = address / pageBytes() * pageBytes();
  const size_t body = inPages(address - start + bytes);
  madvise(reinterpret_cast<void*>(start), body, MADV_DONTNEED);
  mprotect(reinterpret_cast<void*>(start), body, PROT_NONE);
  call.log("bytes %zu", bytes);
  return true;
}

size_t usedBytes(int device) {
  size_t bytes = 0;
  for (const auto& [start, one] : machine().allocations) {
    if (one.kind == Kind::device && one.device == device) bytes += one.bytes;
  }
  return bytes;
}

Kind sourceOf(Way way) { return way == Way::hostToDevice ? Kind::pinned : Kind::device; }
Kind targetOf(Way way) { return way == Way::deviceToHost ? Kind::pinned : Kind::device; }
const char* nameOf(Kind kind) { return kind == Kind::device ? "device memory" : "pinned host memory"; }

bool checkSide(Call& call, const char* side, uintptr_t address, size_t bytes, Kind kind) {
  const Allocation* found = machine().find(address, bytes, kind);
  if (found == nullptr) return call.refuse(invalidValue, "the %s, %zu bytes, does not lie in %s", side, bytes, nameOf(kind));
  if (kind == Kind::device && found->device != currentDevice) return call.refuse(invalidValue, "the %s is of device %d", side, found->device);
  return true;
}

bool checkCopy(Call& call, Way way, uintptr_t to, uintptr_t from, size_t bytes) {
  if (!checkSide(call, "source", from, bytes, sourceOf(way)) || !checkSide(call, "target", to, bytes, targetOf(way))) return false;
  return to + bytes <= from || from + bytes <= to || call.refuse(invalidValue, "source and target overlap");
}

// Some pieces of the copy in any order: what reads the target too early finds it half written.
void addParts(Way way, uintptr_t to, uintptr_t from, size_t bytes, std::vector<Part>* parts) {
  const size_t pieces = bytes < 64 ? 1 : 1 + machine().pick(3);
  const size_t piece = (bytes + pieces - 1) / pieces;
  for (size_t at = 0; at < bytes; at += piece) {
    const size_t length = std::min(piece, bytes - at);
    parts->push_back([way, to = to + at, from = from + at, length] {
      if (machine().find(from, length, sourceOf(way)) == nullptr || machine().find(to, length, targetOf(way)) == nullptr) {
        return machine().violation("a copy of %zu bytes runs after its memory was freed", length);
      }
      memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), length);
    });
  }
}

void shuffle(std::vector<Part>* parts) { std::shuffle(parts->begin(), parts->end(), machine().random); }

int copyOne(const char* name, Way way, uintptr_t to, uintptr_t from, size_t bytes, Stream stream) {
  Call call(name, needsContext);
  StreamState* target = nullptr;
  if (!call.ready() || !call.stream(stream, &target) || !checkCopy(call, way, to, from, bytes)) return call.result;
  call.log("stream %d bytes %zu", target->number, bytes);
  Operation operation;
  addParts(way, to, from, bytes, &operation.parts);
  shuffle(&operation.parts);
  machine().enqueue(*target, std::move(operation));
  return success;
}

// No order holds between the copies of a batch, so none may touch the target of another.
bool independent(Call& call, const Address* to, const Address* from, const size_t* bytes, size_t count) {
  std::vector<std::pair<uintptr_t, uintptr_t>> targets;
  for (size_t i = 0; i < count; i++) targets.emplace_back(to[i], to[i] + bytes[i]);
  std::sort(targets.begin(), targets.end());
  for (size_t i = 1; i < count; i++) {
    if (targets[i].first < targets[i - 1].second) return call.refuse(invalidValue, "two targets overlap");
  }
  for (size_t i = 0; i < count; i++) {
    const auto after = std::lower_bound(targets.begin(), targets.end(), std::make_pair(static_cast<uintptr_t>(from[i] + bytes[i]), uintptr_t{0}));
    if (after != targets.begin() && std::prev(after)->second > from[i]) return call.refuse(invalidValue, "a source overlaps a target");
  }
  return true;
}

int copyBatch(Call& call, int oldest, const Address* to, const Address* from, const size_t* bytes, size_t count, const MemcpyAttributes* attributes,
              const size_t* indexes, size_t attributeCount, Stream stream) {
  StreamState* target = nullptr;
  if (!call.ready()) return call.result;
  if (machine().version < oldest) return call.refuse(notFound, "this driver does not have it"), call.result;
  if (!call.stream(stream, &target)) return call.result;
  if (count == 0 || count > copiesMax) return call.refuse(invalidValue, "%zu copies", count), call.result;
  if (attributeCount != 1 || indexes[0] != 0 || attributes[0].order != 1) return call.refuse(invalidValue, "attributes"), call.result;
  size_t all = 0;
  Operation operation;
  for (size_t i = 0; i < count; i++) {
    const bool up = machine().find(from[i], 0, Kind::pinned) != nullptr;
    const Way way = up ? Way::hostToDevice : machine().find(to[i], 0, Kind::pinned) != nullptr ? Way::deviceToHost : Way::deviceToDevice;
    if (bytes[i] == 0) return call.refuse(invalidValue, "copy %zu has no bytes", i), call.result;
    if (!checkCopy(call, way, to[i], from[i], bytes[i])) return call.result;
    addParts(way, to[i], from[i], bytes[i], &operation.parts);
    all += bytes[i];
  }
  if (!independent(call, to, from, bytes, count)) return call.result;
  call.log("stream %d copies %zu bytes %zu", target->number, count, all);
  shuffle(&operation.parts);
  machine().enqueue(*target, std::move(operation));
  return success;
}

}  // namespace

extern "C" {

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  Call call("cuMemGetInfo_v2", needsContext);
  if (!call.ready()) return call.result;
  *total = machine().memoryBytes;
  *free = machine().memoryBytes - usedBytes(currentDevice);
  return success;
}

int cuMemAlloc_v2(Address* address, size_t bytes) {
  Call call("cuMemAlloc_v2", needsContext | notInCapture);
  if (!call.ready()) return call.result;
  if (bytes == 0) return call.refuse(invalidValue, "no bytes"), call.result;
  call.log("bytes %zu", bytes);
  if (bytes > machine().memoryBytes - usedBytes(currentDevice)) return outOfMemory;
  void* memory = allocate(bytes, Kind::device);
  *address = reinterpret_cast<uintptr_t>(memory);
  return memory == nullptr ? outOfMemory : success;
}

int cuMemFree_v2(Address address) {
  Call call("cuMemFree_v2", needsContext | notInCapture);
  if (call.ready()) release(call, address, Kind::device);
  return call.result;
}

int cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
  Call call("cuMemHostAlloc", needsContext | notInCapture);
  if (!call.ready()) return call.result;
  if (bytes == 0 || flags > 7) return call.refuse(invalidValue, "%zu bytes, flags %u", bytes, flags), call.result;
  call.log("bytes %zu", bytes);
  *memory = allocate(bytes, Kind::pinned);
  return *memory == nullptr ? outOfMemory : success;
}

int cuMemFreeHost(void* memory) {
  Call call("cuMemFreeHost", needsContext | notInCapture);
  if (call.ready()) release(call, reinterpret_cast<uintptr_t>(memory), Kind::pinned);
  return call.result;
}

int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream stream) {
  Call call("cuMemsetD8Async", needsContext);
  StreamState* target = nullptr;
  if (!call.ready() || !call.stream(stream, &target) || !checkSide(call, "target", to, bytes, Kind::device)) return call.result;
  call.log("stream %d bytes %zu", target->number, bytes);
  Operation operation;
  operation.parts.push_back([to, value, bytes] {
    if (machine().find(to, bytes, Kind::device) == nullptr) return machine().violation("a memset runs after its memory was freed");
    memset(reinterpret_cast<void*>(to), value, bytes);
  });
  machine().enqueue(*target, std::move(operation));
  return success;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream stream) {
  return copyOne("cuMemcpyHtoDAsync_v2", Way::hostToDevice, to, reinterpret_cast<uintptr_t>(from), bytes, stream);
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream stream) {
  return copyOne("cuMemcpyDtoHAsync_v2", Way::deviceToHost, reinterpret_cast<uintptr_t>(to), from, bytes, stream);
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream stream) {
  return copyOne("cuMemcpyDtoDAsync_v2", Way::deviceToDevice, to, from, bytes, stream);
}

int cuMemcpyBatchAsync_v2(Address* to, Address* from, size_t* bytes, size_t count, MemcpyAttributes* attributes, size_t* indexes, size_t attributeCount,
                          Stream stream) {
  Call call("cuMemcpyBatchAsync_v2", needsContext | notInCapture);
  return copyBatch(call, 13000, to, from, bytes, count, attributes, indexes, attributeCount, stream);
}

int cuMemcpyBatchAsync(Address* to, Address* from, size_t* bytes, size_t count, MemcpyAttributes* attributes, size_t* indexes, size_t attributeCount,
                       size_t* failed, Stream stream) {
  Call call("cuMemcpyBatchAsync", needsContext | notInCapture);
  if (failed == nullptr) return call.refuse(invalidValue, "nowhere to say which copy failed"), call.result;
  return copyBatch(call, 12080, to, from, bytes, count, attributes, indexes, attributeCount, stream);
}

}  // extern "C"
