// The two memories that hold KV blocks, device and host, and the copies between them. Stores are process-wide: main
// thread and workers name the same store by the same small number. Who owns which block is decided elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "arena.h"
#include "status.h"

namespace fastswitch {

enum class Direction : int { deviceToHost = 0, hostToDevice = 1, deviceToDevice = 2 };
enum class Memory : int { device = 0, host = 1 };

struct KvStore {
  size_t blockBytes = 0;
  size_t deviceBlocks = 0;
  size_t hostBlocks = 0;
  Arena device;
  Arena host;

  const Arena& arena(Memory memory) const { return memory == Memory::device ? device : host; }
};

// Reserves both memories; pages are backed when first touched. `blockBytes` is a multiple of 64, so that every block
// is aligned. Answers the number of the store in `id`.
Status createStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, int* id);

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

}  // namespace fastswitch
