// The two memories that hold KV blocks, device and host, and the copies between them. Stores are process-wide: main
// thread and workers name the same store by the same small number. Who owns which block is decided elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "status.h"

namespace fastswitch {

enum class Direction : int { deviceToHost = 0, hostToDevice = 1, deviceToDevice = 2 };
enum class Memory : int { device = 0, host = 1 };

// A copy of `bytes` from byte `from` of the source memory to byte `to` of the target memory.
struct Piece {
  size_t from;
  size_t to;
  size_t bytes;
};

struct StoreOptions {
  int device = -1;          // -1: the CPU, whose "device memory" is memory of the machine; else the number of a GPU
  bool batchCopies = true;  // on a GPU: one call for a whole list of copies where the driver has it, else one call a copy
};

// One store. kvstore.cc keeps the numbers and checks every argument; a backend only moves bytes.
class KvStore {
 public:
  virtual ~KvStore() = default;

  size_t blockBytes = 0;
  size_t deviceBlocks = 0;
  size_t hostBlocks = 0;
  int device = -1;

  // Performs the copies, which lie inside their memories, and returns when the last byte is there; after a failure, when
  // none is under way any more. Targets of one list do not overlap each other, except within the device, where the copies
  // are done in order.
  virtual Status copy(Direction direction, const std::vector<Piece>& pieces) = 0;
  virtual Status read(Memory memory, size_t offset, uint8_t* target, size_t bytes) = 0;
  virtual Status write(Memory memory, size_t offset, const uint8_t* source, size_t bytes) = 0;

  // A step is about to be issued by the engine's thread: copies that come meanwhile let it go first. Nothing on the CPU.
  virtual void announceStep() {}

  size_t bytesOf(Memory memory) const { return (memory == Memory::device ? deviceBlocks : hostBlocks) * blockBytes; }
};

// Reserves both memories. `blockBytes` is a multiple of 64, so that every block is aligned. Answers the number of the
// store in `id`.
Status createStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, const StoreOptions& options, int* id);

// The number is free from now on; the memory goes when the last call that uses it returns.
Status destroyStore(int id);

// The store of this number, or null with a message.
std::shared_ptr<KvStore> findStore(int id);

// Copies `count` runs, each three words [first source block, first target block, blocks]. All are checked before the
// first byte moves: badRun means that nothing was copied.
Status copyRuns(int id, Direction direction, const int32_t* runs, size_t count);

// Copies `count` pieces, each three numbers [source byte, target byte, bytes]; checked as above.
Status copyBytes(int id, Direction direction, const double* pieces, size_t count);

// Copies between a memory of the store, from byte `offset`, and the caller's buffer.
Status readStore(int id, Memory memory, size_t offset, uint8_t* target, size_t bytes);
Status writeStore(int id, Memory memory, size_t offset, const uint8_t* source, size_t bytes);

// Says that a step over this store is on its way to its engine (see KvStore::announceStep).
Status announceStep(int id);

}  // namespace fastswitch
