// Attention of some consecutive tokens of one sequence, for the query heads that share one key-value head.
#pragma once

#include <vector>

#include "kernels.h"

namespace fastswitch {

struct AttentionShape {
  int headDim;
  int groupHeads;  // query heads that share one key-value head
  int window;      // tokens that a query sees, itself included; 0: all
  KvDtype dtype;
};

// What one token sees of a chunk, in tokens from the chunk's start.
struct SeenRange {
  int first;
  int last;
};

// Working memory of one thread.
struct AttentionScratch {
  std::vector<float> queries, scores, sums, merged;
  std::vector<float> tops, totals, chunkTops, chunkTotals;
  std::vector<const void*> keys, values;
  std::vector<SeenRange> ranges;

  // For up to `rows` (token, head) pairs at once.
  AttentionScratch(int rows, int headDim);
};

// `keys(block)` and `values(block)` of the sequence's block table are at arena + table[block] * blockBytes + offset.
struct KvView {
  const uint8_t* arena;
  size_t blockBytes;
  size_t keyOffset;
  size_t valueOffset;
  const int32_t* table;
};

// `queries` and `output` are the first token's first head of the group, `queryStride` and `outputStride` floats from
// token to token. The tokens are at positions [start, start + count). Every row runs over the context in the same
// chunks and the same order, however many are computed together.
void attend(const Kernels& kernels, const AttentionShape& shape, const KvView& kv, int start, int count, const float* queries, size_t queryStride,
            float* output, size_t outputStride, AttentionScratch& scratch);

// Tokens of one sequence that are worth computing together.
int attentionTile(int groupHeads);

}  // namespace fastswitch
