#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastswitch {

namespace {

constexpr int tileRows = 48;

int paddedDim(int headDim) { return (headDim + 15) / 16 * 16; }

SeenRange rangeOf(int position, int window, int chunkStart, int chunkEnd) {
  const int low = window > 0 ? std::max(0, position + 1 - window) : 0;
  return {std::max(low, chunkStart) - chunkStart, std::min(position + 1, chunkEnd) - chunkStart};
}

// Values are added in pairs of tokens: those of a pair that are out of sight weigh nothing.
int evenFirst(SeenRange range) { return range.first / 2 * 2; }
int evenLast(SeenRange range) { return range.first < range.last ? (range.last + 1) / 2 * 2 : evenFirst(range); }

struct Tile {
  const Kernels& kernels;
  const AttentionShape& shape;
  AttentionScratch& scratch;
  int tokens;
  size_t dim;

  int heads() const { return shape.groupHeads; }

  void weigh(int token, int tokenCount, int first, int last) const {
    if (first >= last) return;
    const size_t row = static_cast<size_t>(token) * static_cast<size_t>(heads());
    kernels.weigh[shape.dtype](scratch.scores.data() + row * kChunkTokens, kChunkTokens, tokenCount * heads(), shape.headDim, scratch.values.data(), first,
                               last, scratch.sums.data() + row * dim, dim);
  }

  // Sums of values over what each token sees of the chunk: the part that all see together, the rest token by token.
  // Each row still adds its tokens in order.
  void weighAll(const std::vector<SeenRange>& ranges) const {
    int first = 0;
    int last = kChunkTokens;
    for (int t = 0; t < tokens; t++) {
      first = std::max(first, evenFirst(ranges[t]));
      last = std::min(last, evenLast(ranges[t]));
    }
    const bool shared = first < last;
    for (int t = 0; t < tokens; t++) weigh(t, 1, evenFirst(ranges[t]), shared ? first : evenLast(ranges[t]));
    if (!shared) return;
    weigh(0, tokens, first, last);
    for (int t = 0; t < tokens; t++) weigh(t, 1, last, evenLast(ranges[t]));
  }

  // Joins a chunk's softmax (its top, total and sums) with that of the chunks before.
  void merge(int row, float top, float total) const {
    float* merged = scratch.merged.data() + static_cast<size_t>(row) * dim;
    const float* sums = scratch.sums.data() + static_cast<size_t>(row) * dim;
    if (scratch.totals[row] == 0) {
      memcpy(merged, sums, dim * sizeof(float));
      scratch.tops[row] = top;
      scratch.totals[row] = total;
      return;
    }
    const float largest = std::max(top, scratch.tops[row]);
    const float before = std::exp(scratch.tops[row] - largest);
    const float now = std::exp(top - largest);
    for (size_t d = 0; d < dim; d++) merged[d] = merged[d] * before + sums[d] * now;
    scratch.totals[row] = scratch.totals[row] * before + total * now;
    scratch.tops[row] = largest;
  }
};

}  // namespace

int attentionTile(int groupHeads) { return std::max(1, tileRows / groupHeads); }

AttentionScratch::AttentionScratch(int rows, int headDim)
    : queries(static_cast<size_t>(rows) * static_cast<size_t>(headDim)),
      scores(static_cast<size_t>(rows) * kChunkTokens),
      sums(static_cast<size_t>(rows) * static_cast<size_t>(paddedDim(headDim))),
      merged(sums.size()),
      tops(static_cast<size_t>(rows)),
      totals(tops.size()),
      chunkTops(tops.size()),
      chunkTotals(tops.size()),
      keys(kChunkTokens / kBlockTokens),
      values(kChunkTokens / kBlockTokens),
      ranges(static_cast<size_t>(rows)) {}

void attend(const Kernels& kernels, const AttentionShape& shape, const KvView& kv, int start, int count, const float* queries, size_t queryStride,
            float* output, size_t outputStride, AttentionScratch& scratch) {
  const int heads = shape.groupHeads;
  const int rows = count * heads;
  const size_t headDim = static_cast<size_t>(shape.headDim);
  const Tile tile{kernels, shape, scratch, count, static_cast<size_t>(paddedDim(shape.headDim))};
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.headDim));
  for (int t = 0; t < count; t++) {
    memcpy(scratch.queries.data() + static_cast<size_t>(t * heads) * headDim, queries + static_cast<size_t>(t) * queryStride,
           static_cast<size_t>(heads) * headDim * sizeof(float));
  }
  std::fill_n(scratch.totals.begin(), rows, 0.0f);
  const int end = start + count;
  const int seenFirst = shape.window > 0 ? std::max(0, start + 1 - shape.window) : 0;
  std::vector<SeenRange>& ranges = scratch.ranges;
  // Chunks lie at fixed positions of the context, not relative to the window or the tile.
  for (int chunk = seenFirst / kChunkTokens * kChunkTokens; chunk < end; chunk += kChunkTokens) {
    const int chunkEnd = std::min(chunk + kChunkTokens, end);
    int first = kChunkTokens;
    for (int t = 0; t < count; t++) {
      ranges[t] = rangeOf(start + t, shape.window, chunk, chunkEnd);
      if (ranges[t].first < ranges[t].last) first = std::min(first, ranges[t].first);
    }
    const int firstBlock = first / kBlockTokens;
    const int blocks = (chunkEnd - chunk + kBlockTokens - 1) / kBlockTokens;
    for (int b = firstBlock; b < blocks; b++) {
      const uint8_t* block = kv.arena + static_cast<size_t>(kv.table[chunk / kBlockTokens + b]) * kv.blockBytes;
      scratch.keys[b] = block + kv.keyOffset;
      scratch.values[b] = block + kv.valueOffset;
    }
    kernels.scores[shape.dtype](scratch.queries.data(), headDim, rows, shape.headDim, scratch.keys.data() + firstBlock, blocks - firstBlock,
                                scratch.scores.data() + firstBlock * kBlockTokens, kChunkTokens);
    std::fill_n(scratch.sums.begin(), static_cast<size_t>(rows) * tile.dim, 0.0f);
    std::vector<float>& tops = scratch.chunkTops;
    std::vector<float>& totals = scratch.chunkTotals;
    for (int row = 0; row < rows; row++) {
      const SeenRange range = ranges[row / heads];
      if (range.first >= range.last) continue;
      float* scoresOfRow = scratch.scores.data() + static_cast<size_t>(row) * kChunkTokens;
      totals[row] = kernels.softmax(scoresOfRow, range.first, range.last, scale, &tops[row]);
    }
    tile.weighAll(ranges);
    for (int row = 0; row < rows; row++) {
      if (ranges[row / heads].first < ranges[row / heads].last) tile.merge(row, tops[row], totals[row]);
    }
  }
  for (int row = 0; row < rows; row++) {
    float* to = output + static_cast<size_t>(row / heads) * outputStride + static_cast<size_t>(row % heads) * headDim;
    const float* from = scratch.merged.data() + static_cast<size_t>(row) * tile.dim;
    for (size_t d = 0; d < headDim; d++) to[d] = from[d] / scratch.totals[row];
  }
}

}  // namespace fastswitch
