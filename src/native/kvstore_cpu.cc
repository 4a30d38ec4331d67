#include "kvstore.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#ifdef FASTSWITCH_X86_64
#include <emmintrin.h>
#endif

namespace fastswitch {

namespace {

constexpr size_t alignment = 64;
// A swap moves what nobody reads soon: from this size on, its pieces go past the caches.
constexpr size_t streamBytes = 4096;

struct Registry {
  std::mutex mutex;
  std::map<int, std::shared_ptr<KvStore>> stores;
  int next = 1;
};

// Never destroyed: workers may still hold stores while the process ends.
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

// Copies past the caches: a target line is not read first, and the weights that a step reads are not evicted. Both
// sides aligned to 16; `settle` comes after the last.
void stream(uint8_t* target, const uint8_t* source, size_t bytes) {
#ifdef FASTSWITCH_X86_64
  const auto* from = reinterpret_cast<const __m128i*>(source);
  auto* to = reinterpret_cast<__m128i*>(target);
  const size_t count = bytes / 64 * 4;
  for (size_t i = 0; i < count; i += 4) {
    const __m128i a = _mm_load_si128(from + i);
    const __m128i b = _mm_load_si128(from + i + 1);
    const __m128i c = _mm_load_si128(from + i + 2);
    const __m128i d = _mm_load_si128(from + i + 3);
    _mm_stream_si128(to + i, a);
    _mm_stream_si128(to + i + 1, b);
    _mm_stream_si128(to + i + 2, c);
    _mm_stream_si128(to + i + 3, d);
  }
  memcpy(target + count * 16, source + count * 16, bytes - count * 16);
#else
  memcpy(target, source, bytes);
#endif
}

// Makes streamed stores visible to whoever is told that the copy is done.
void settle() {
#ifdef FASTSWITCH_X86_64
  _mm_sfence();
#endif
}

void copyPiece(uint8_t* target, const uint8_t* source, size_t bytes, bool sameMemory) {
  const bool aligned = (reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source)) % 16 == 0;
  if (sameMemory) {
    memmove(target, source, bytes);
  } else if (bytes >= streamBytes && aligned) {
    stream(target, source, bytes);
  } else {
    memcpy(target, source, bytes);
  }
}

bool validDirection(Direction direction) {
  return direction == Direction::deviceToHost || direction == Direction::hostToDevice || direction == Direction::deviceToDevice;
}

Memory sourceOf(Direction direction) { return direction == Direction::hostToDevice ? Memory::host : Memory::device; }
Memory targetOf(Direction direction) { return direction == Direction::deviceToHost ? Memory::host : Memory::device; }

// A whole number that fits a size: JavaScript's numbers are exact up to 2^53.
bool whole(double value) { return value >= 0 && value <= 9007199254740992.0 && std::floor(value) == value; }

bool inside(size_t offset, size_t bytes, size_t total) { return offset <= total && bytes <= total - offset; }

}  // namespace

Status createStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, int* id) {
  if (blockBytes == 0 || blockBytes % alignment != 0) {
    return fail(Status::badArgument, "blockBytes %zu is not a positive multiple of %zu", blockBytes, alignment);
  }
  // Block numbers are 32-bit words, and no machine maps more than 47 bits of addresses.
  constexpr size_t blocksMax = INT32_MAX;
  constexpr size_t bytesMax = size_t{1} << 46;
  if (deviceBlocks == 0 || deviceBlocks > blocksMax || hostBlocks > blocksMax || std::max(deviceBlocks, hostBlocks) > bytesMax / blockBytes) {
    return fail(Status::badArgument, "a store of %zu device and %zu host blocks of %zu bytes is out of range", deviceBlocks, hostBlocks, blockBytes);
  }
  auto store = std::make_shared<KvStore>();
  store->blockBytes = blockBytes;
  store->deviceBlocks = deviceBlocks;
  store->hostBlocks = hostBlocks;
  Status status = store->device.reserve(blockBytes * deviceBlocks);
  if (status == Status::ok) status = store->host.reserve(blockBytes * hostBlocks);
  if (status != Status::ok) return status;
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  *id = all.next++;
  all.stores.emplace(*id, std::move(store));
  return Status::ok;
}

Status destroyStore(int id) {
  Registry& all = registry();
  std::shared_ptr<KvStore> last;
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.stores.find(id);
  if (found == all.stores.end()) return fail(Status::badHandle, "no store %d", id);
  last = std::move(found->second);
  all.stores.erase(found);
  return Status::ok;
}

std::shared_ptr<KvStore> findStore(int id) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.stores.find(id);
  if (found != all.stores.end()) return found->second;
  fail(Status::badHandle, "no store %d", id);
  return nullptr;
}

Status copyRuns(int id, Direction direction, const int32_t* runs, size_t count) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  if (!validDirection(direction)) return fail(Status::badArgument, "unknown direction %d", static_cast<int>(direction));
  const Arena& source = store->arena(sourceOf(direction));
  const Arena& target = store->arena(targetOf(direction));
  const size_t sourceBlocks = source.bytes() / store->blockBytes;
  const size_t targetBlocks = target.bytes() / store->blockBytes;
  for (size_t i = 0; i < count; i++) {
    const int32_t* run = runs + 3 * i;
    const bool positive = run[0] >= 0 && run[1] >= 0 && run[2] >= 1;
    if (!positive || !inside(run[0], run[2], sourceBlocks) || !inside(run[1], run[2], targetBlocks)) {
      return fail(Status::badRun, "run %zu (blocks %d to %d, %d of them) leaves its memory of %zu and %zu blocks", i, run[0], run[1], run[2], sourceBlocks,
                  targetBlocks);
    }
  }
  const size_t unit = store->blockBytes;
  for (size_t i = 0; i < count; i++) {
    const int32_t* run = runs + 3 * i;
    copyPiece(target.data() + run[1] * unit, source.data() + run[0] * unit, run[2] * unit, direction == Direction::deviceToDevice);
  }
  settle();
  return Status::ok;
}

Status copyBytes(int id, Direction direction, const double* pieces, size_t count) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  if (!validDirection(direction)) return fail(Status::badArgument, "unknown direction %d", static_cast<int>(direction));
  const Arena& source = store->arena(sourceOf(direction));
  const Arena& target = store->arena(targetOf(direction));
  for (size_t i = 0; i < count; i++) {
    const double* piece = pieces + 3 * i;
    const bool valid = whole(piece[0]) && whole(piece[1]) && whole(piece[2]);
    if (!valid || !inside(piece[0], piece[2], source.bytes()) || !inside(piece[1], piece[2], target.bytes())) {
      return fail(Status::badRun, "piece %zu (bytes %.0f to %.0f, %.0f of them) leaves its memory", i, piece[0], piece[1], piece[2]);
    }
  }
  for (size_t i = 0; i < count; i++) {
    const double* piece = pieces + 3 * i;
    copyPiece(target.data() + static_cast<size_t>(piece[1]), source.data() + static_cast<size_t>(piece[0]), static_cast<size_t>(piece[2]),
              direction == Direction::deviceToDevice);
  }
  settle();
  return Status::ok;
}

Status readStore(int id, Memory memory, size_t offset, uint8_t* target, size_t bytes) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  const Arena& arena = store->arena(memory);
  if (!inside(offset, bytes, arena.bytes())) return fail(Status::badRun, "bytes %zu to %zu are outside the store", offset, offset + bytes);
  memcpy(target, arena.data() + offset, bytes);
  return Status::ok;
}

Status writeStore(int id, Memory memory, size_t offset, const uint8_t* source, size_t bytes) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  const Arena& arena = store->arena(memory);
  if (!inside(offset, bytes, arena.bytes())) return fail(Status::badRun, "bytes %zu to %zu are outside the store", offset, offset + bytes);
  memcpy(arena.data() + offset, source, bytes);
  return Status::ok;
}

}  // namespace fastswitch
