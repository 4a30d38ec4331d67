// The process's stores, by number, and the check of everything that is asked of them.
#include "kvstore.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "cuda/store.h"
#include "kvstore_cpu.h"

namespace fastswitch {

namespace {

constexpr size_t alignment = 64;
// A list of copies longer than this is not kept for the next call of its thread.
constexpr size_t piecesKept = size_t{1} << 16;

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

bool validDirection(Direction direction) {
  return direction == Direction::deviceToHost || direction == Direction::hostToDevice || direction == Direction::deviceToDevice;
}

Memory sourceOf(Direction direction) { return direction == Direction::hostToDevice ? Memory::host : Memory::device; }
Memory targetOf(Direction direction) { return direction == Direction::deviceToHost ? Memory::host : Memory::device; }

// A whole number that fits a size: JavaScript's numbers are exact up to 2^53.
bool whole(double value) { return value >= 0 && value <= 9007199254740992.0 && std::floor(value) == value; }

bool inside(size_t offset, size_t bytes, size_t total) { return offset <= total && bytes <= total - offset; }

// The list of copies of the calling thread's transfer; its memory serves the next one.
class Pieces {
 public:
  explicit Pieces(size_t count) : all_(list()) {
    all_.clear();
    all_.reserve(count);
  }
  ~Pieces() {
    if (all_.capacity() > piecesKept) std::vector<Piece>().swap(all_);
  }
  std::vector<Piece>& all() { return all_; }

 private:
  static std::vector<Piece>& list() {
    static thread_local std::vector<Piece> instance;
    return instance;
  }
  std::vector<Piece>& all_;
};

}  // namespace

Status createStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, const StoreOptions& options, int* id) {
  if (blockBytes == 0 || blockBytes % alignment != 0) {
    return fail(Status::badArgument, "blockBytes %zu is not a positive multiple of %zu", blockBytes, alignment);
  }
  // Block numbers are 32-bit words, and no machine maps more than 47 bits of addresses.
  constexpr size_t blocksMax = INT32_MAX;
  constexpr size_t bytesMax = size_t{1} << 46;
  if (deviceBlocks == 0 || deviceBlocks > blocksMax || hostBlocks > blocksMax || std::max(deviceBlocks, hostBlocks) > bytesMax / blockBytes) {
    return fail(Status::badArgument, "a store of %zu device and %zu host blocks of %zu bytes is out of range", deviceBlocks, hostBlocks, blockBytes);
  }
  std::shared_ptr<KvStore> store;
  const Status status = options.device < 0 ? createCpuStore(blockBytes, deviceBlocks, hostBlocks, &store)
                                           : cuda::createCudaStore(blockBytes, deviceBlocks, hostBlocks, options, &store);
  if (status != Status::ok) return status;
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  *id = all.next++;
  all.stores.emplace(*id, std::move(store));
  return Status::ok;
}

Status destroyStore(int id) {
  Registry& all = registry();
  // Outlives the lock: giving back a large memory takes a while.
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
  const size_t unit = store->blockBytes;
  const size_t sourceBlocks = store->bytesOf(sourceOf(direction)) / unit;
  const size_t targetBlocks = store->bytesOf(targetOf(direction)) / unit;
  Pieces pieces(count);
  for (size_t i = 0; i < count; i++) {
    // Read once: the words lie in memory that JavaScript may change meanwhile.
    const int32_t from = runs[3 * i];
    const int32_t to = runs[3 * i + 1];
    const int32_t blocks = runs[3 * i + 2];
    const bool positive = from >= 0 && to >= 0 && blocks >= 1;
    if (!positive || !inside(from, blocks, sourceBlocks) || !inside(to, blocks, targetBlocks)) {
      return fail(Status::badRun, "run %zu (blocks %d to %d, %d of them) leaves its memory of %zu and %zu blocks", i, from, to, blocks, sourceBlocks,
                  targetBlocks);
    }
    pieces.all().push_back({from * unit, to * unit, blocks * unit});
  }
  return store->copy(direction, pieces.all());
}

Status copyBytes(int id, Direction direction, const double* list, size_t count) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  if (!validDirection(direction)) return fail(Status::badArgument, "unknown direction %d", static_cast<int>(direction));
  const size_t sourceBytes = store->bytesOf(sourceOf(direction));
  const size_t targetBytes = store->bytesOf(targetOf(direction));
  Pieces pieces(count);
  for (size_t i = 0; i < count; i++) {
    const double from = list[3 * i];
    const double to = list[3 * i + 1];
    const double bytes = list[3 * i + 2];
    const bool valid = whole(from) && whole(to) && whole(bytes);
    const Piece piece = valid ? Piece{static_cast<size_t>(from), static_cast<size_t>(to), static_cast<size_t>(bytes)} : Piece{0, 0, 0};
    if (!valid || !inside(piece.from, piece.bytes, sourceBytes) || !inside(piece.to, piece.bytes, targetBytes)) {
      return fail(Status::badRun, "piece %zu (bytes %.0f to %.0f, %.0f of them) leaves its memory", i, from, to, bytes);
    }
    pieces.all().push_back(piece);
  }
  return store->copy(direction, pieces.all());
}

Status readStore(int id, Memory memory, size_t offset, uint8_t* target, size_t bytes) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  if (!inside(offset, bytes, store->bytesOf(memory))) return fail(Status::badRun, "bytes %zu to %zu are outside the store", offset, offset + bytes);
  return bytes == 0 ? Status::ok : store->read(memory, offset, target, bytes);
}

Status writeStore(int id, Memory memory, size_t offset, const uint8_t* source, size_t bytes) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  if (!inside(offset, bytes, store->bytesOf(memory))) return fail(Status::badRun, "bytes %zu to %zu are outside the store", offset, offset + bytes);
  return bytes == 0 ? Status::ok : store->write(memory, offset, source, bytes);
}

Status announceStep(int id) {
  const auto store = findStore(id);
  if (store == nullptr) return Status::badHandle;
  store->announceStep();
  return Status::ok;
}

}  // namespace fastswitch
