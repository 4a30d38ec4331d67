// The store of the CPU: both memories are memory of this machine.
#pragma once

#include "arena.h"
#include "kvstore.h"

namespace fastswitch {

class CpuStore : public KvStore {
 public:
  Status copy(Direction direction, const std::vector<Piece>& pieces) override;
  Status read(Memory memory, size_t offset, uint8_t* target, size_t bytes) override;
  Status write(Memory memory, size_t offset, const uint8_t* source, size_t bytes) override;

  Arena deviceMemory;
  Arena hostMemory;
};

// Reserves both memories; the sizes are checked.
Status createCpuStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, std::shared_ptr<KvStore>* store);

}  // namespace fastswitch
