#include "kvstore_cpu.h"

#include <cstring>

#ifdef FASTSWITCH_X86_64
#include <emmintrin.h>
#endif

namespace fastswitch {

namespace {

// A swap moves what nobody reads soon: from this size on, its pieces go past the caches.
constexpr size_t streamBytes = 4096;

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

}  // namespace

Status createCpuStore(size_t blockBytes, size_t deviceBlocks, size_t hostBlocks, std::shared_ptr<KvStore>* store) {
  auto fresh = std::make_shared<CpuStore>();
  fresh->blockBytes = blockBytes;
  fresh->deviceBlocks = deviceBlocks;
  fresh->hostBlocks = hostBlocks;
  Status status = fresh->deviceMemory.reserve(blockBytes * deviceBlocks);
  if (status == Status::ok) status = fresh->hostMemory.reserve(blockBytes * hostBlocks);
  if (status == Status::ok) *store = std::move(fresh);
  return status;
}

Status CpuStore::copy(Direction direction, const std::vector<Piece>& pieces) {
  const uint8_t* source = (direction == Direction::hostToDevice ? hostMemory : deviceMemory).data();
  uint8_t* target = (direction == Direction::deviceToHost ? hostMemory : deviceMemory).data();
  const bool sameMemory = direction == Direction::deviceToDevice;
  for (const Piece& piece : pieces) copyPiece(target + piece.to, source + piece.from, piece.bytes, sameMemory);
  settle();
  return Status::ok;
}

Status CpuStore::read(Memory memory, size_t offset, uint8_t* target, size_t bytes) {
  memcpy(target, (memory == Memory::device ? deviceMemory : hostMemory).data() + offset, bytes);
  return Status::ok;
}

Status CpuStore::write(Memory memory, size_t offset, const uint8_t* source, size_t bytes) {
  memcpy((memory == Memory::device ? deviceMemory : hostMemory).data() + offset, source, bytes);
  return Status::ok;
}

}  // namespace fastswitch
