// Attention over paged KV blocks: attention32 to attention256, a kernel a size of head. A warp holds a tile of up to 16 rows
// of (token, query head of the group) in registers, and reads keys and values straight from their blocks; no warp waits for
// another.
//
// What makes a row's bits its own: a tile row meets no other row; keys out of its sight weigh exactly 0, and a sum is not
// changed by 0 times a finite value; a span of which it sees nothing is not folded into it; and the two kinds of items fold
// spans with the same words (fold.cuh).
//
// Who holds what: lane l has g = l / 4 and t = l % 4. Of the tile it holds parts of rows g and g + 8. Products do not care
// in which order the values of a head come as long as queries and keys agree, so that t owns 8 consecutive values of each
// 32: 16 bytes a load. Of values, lane group g reads consecutive ones of two neighbouring tokens; what `mma` takes for
// column n of tile j is then value n * tiles + j of the group, and a lane ends up with consecutive values of its rows.
#pragma once

#include "fold.cuh"

namespace fastswitch::cuda {

constexpr int spanBlocks = spanTokens / blockTokens;
constexpr int spanTiles = spanTokens / 8;

// ---- where things lie ----------------------------------------------------------------------------------------------

// What a warp knows of its item.
struct Tile {
  AttentionItem item;
  int kvHead;
  int groupHeads;
  int count;         // rows in use
  int last;          // position of the last token
  int positions[2];  // of this lane's rows; -1: not in use
  uint64_t values;   // bytes from the keys of a head to its values
};

// What of a span is read: blocks `begin` to `end` of it, since some row sees them.
struct Span {
  int start;
  int begin, end;
  // Of the keys of block i, in lane i: bytes from the arena's start, since a compiler that sees where an address comes from
  // knows that it is of global memory.
  uint64_t offset;
  const uint8_t* arena;
  DEVICE bool has(int block) const { return block >= begin && block < end; }
};

DEVICE Tile tileOf(const AttentionParams& p, const AttentionItem& item, int kvHead) {
  Tile tile;
  tile.item = item;
  tile.kvHead = kvHead;
  tile.groupHeads = p.heads / p.kvHeads;
  tile.count = item.tokens * tile.groupHeads;
  tile.last = item.position + item.tokens - 1;
  for (int i = 0; i < 2; i++) {
    const int row = lane() / 4 + 8 * i;
    tile.positions[i] = row < tile.count ? item.position + row / tile.groupHeads : -1;
  }
  tile.values = static_cast<uint64_t>(p.kvHeads) * kvHeadValues(p.headDim) * sizeof(Bf16);
  return tile;
}

DEVICE int lowestSeen(const AttentionParams& p, int position) { return p.window > 0 && position >= p.window ? position - p.window + 1 : 0; }

// Where the span begins and ends for the tile. Its blocks: see blockOf.
DEVICE Span spanOf(const AttentionParams& p, const Tile& tile, int number) {
  Span span;
  span.start = number * spanTokens;
  const int lowest = lowestSeen(p, tile.item.position) - span.start;
  const int beyond = tile.last + 1 - span.start;
  span.begin = lowest > 0 ? lowest / blockTokens : 0;
  span.end = beyond < spanTokens ? (beyond + blockTokens - 1) / blockTokens : spanBlocks;
  span.offset = 0;
  span.arena = p.arena;
  return span;
}

// In lane i: the number of block i of the span; 0 where it is not read.
DEVICE int32_t blockOf(const AttentionParams& p, const Tile& tile, int number) {
  return spanOf(p, tile, number).has(lane()) ? p.tables[tile.item.table + number * spanBlocks + lane()] : 0;
}

DEVICE uint64_t offsetOf(const AttentionParams& p, const Tile& tile, int32_t block) {
  return static_cast<uint64_t>(block) * p.blockBytes + p.layerOffset + static_cast<uint64_t>(tile.kvHead) * kvHeadValues(p.headDim) * sizeof(Bf16);
}

// Whether all rows see all of the span.
DEVICE bool isFull(const AttentionParams& p, const Tile& tile, const Span& span) {
  return span.start + spanTokens <= tile.item.position + 1 && lowestSeen(p, tile.last) <= span.start;
}

// ---- scores --------------------------------------------------------------------------------------------------------

template <int headDim>
DEVICE void loadQueries(const AttentionParams& p, const Tile& tile, Words4 (&queries)[headDim / 32][2]) {
  UNROLL for (int i = 0; i < 2; i++) {
    const int row = lane() / 4 + 8 * i;
    const bool used = row < tile.count;
    const int64_t token = tile.item.firstRow + (used ? row / tile.groupHeads : 0);
    const int head = tile.kvHead * tile.groupHeads + (used ? row % tile.groupHeads : 0);
    const Bf16* from = p.queries + (token * p.heads + head) * headDim + lane() % 4 * 8;
    UNROLL for (int group = 0; group < headDim / 32; group++) {
      queries[group][i] = used ? read16(from + group * 32) : Words4{};
    }
  }
}

// Keys `number` * 8 to + 7 of the span, each lane its part of key g.
template <int headDim>
DEVICE void loadKeys(const Span& span, int number, Words4 (&keys)[headDim / 32]) {
  const uint8_t* block = span.arena + shuffle(span.offset, number / 2);
  const Bf16* from = reinterpret_cast<const Bf16*>(block) + (number % 2 * 8 + lane() / 4) * headDim + lane() % 4 * 8;
  UNROLL for (int group = 0; group < headDim / 32; group++) keys[group] = read16(from + group * 32);
}

template <int headDim>
DEVICE void scoreKeys(const Words4 (&queries)[headDim / 32][2], const Words4 (&keys)[headDim / 32], float (&scores)[4]) {
  UNROLL for (int group = 0; group < headDim / 32; group++) {
    const Words4 &low = queries[group][0], &high = queries[group][1], &key = keys[group];
    mma(scores, {low.word[0], high.word[0], low.word[1], high.word[1]}, {key.word[0], key.word[1]});
    mma(scores, {low.word[2], high.word[2], low.word[3], high.word[3]}, {key.word[2], key.word[3]});
  }
}

// Scores of the whole span, before the scale. Some tiles of keys are under way while one is used.
template <int headDim, bool full>
DEVICE void scoreSpan(const Words4 (&queries)[headDim / 32][2], const Span& span, float (&scores)[spanTiles][4]) {
  constexpr int ahead = full && headDim <= 128 ? 2 : 1;
  Words4 keys[ahead][headDim / 32] = {};
  UNROLL for (int i = 0; i < ahead; i++) {
    if (full || span.has(i / 2)) loadKeys<headDim>(span, i, keys[i]);
  }
  UNROLL for (int i = 0; i < spanTiles; i++) {
    UNROLL for (int j = 0; j < 4; j++) scores[i][j] = 0.0f;
    if (full || span.has(i / 2)) scoreKeys<headDim>(queries, keys[i % ahead], scores[i]);
    if (i + ahead < spanTiles && (full || span.has((i + ahead) / 2))) loadKeys<headDim>(span, i + ahead, keys[i % ahead]);
  }
}

// What a row does not see has the score of minus infinity, whatever its memory holds.
DEVICE void maskScores(const AttentionParams& p, const Tile& tile, const Span& span, float (&scores)[spanTiles][4]) {
  int first[2], last[2];
  for (int i = 0; i < 2; i++) {
    first[i] = lowestSeen(p, tile.positions[i]) - span.start;
    last[i] = tile.positions[i] - span.start;
  }
  UNROLL for (int i = 0; i < spanTiles; i++) {
    UNROLL for (int j = 0; j < 4; j++) {
      const int token = i * 8 + lane() % 4 * 2 + j % 2;
      if (token < first[j / 2] || token > last[j / 2]) scores[i][j] = minusInfinity();
    }
  }
}

// Exponentials of the scores, as the left operand of products with values; and the tops of the span in `next`.
DEVICE void weighScores(const float (&scores)[spanTiles][4], float scale, uint32_t (&weights)[spanBlocks][4], Softmax (&next)[2]) {
  UNROLL for (int row = 0; row < 2; row++) {
    float top = minusInfinity();
    UNROLL for (int i = 0; i < spanTiles; i++) top = larger(top, larger(scores[i][2 * row], scores[i][2 * row + 1]));
    top = larger(top, shuffleXor(top, 1));
    top = larger(top, shuffleXor(top, 2));
    // Where nothing is seen: 0, so that minus infinity less the top is no NaN.
    next[row].top = top == minusInfinity() ? 0.0f : multiplied(top, scale);
    UNROLL for (int i = 0; i < spanTiles; i++) {
      const float low = exponentialOfTwo(fused(scores[i][2 * row], scale, -next[row].top));
      const float high = exponentialOfTwo(fused(scores[i][2 * row + 1], scale, -next[row].top));
      weights[i / 2][i % 2 * 2 + row] = pack(low, high);
    }
  }
}

// Totals are those of the rounded weights, which the sums of values use too: so the shares add up to 1. A product with ones.
template <bool full>
DEVICE void addWeights(const Span& span, const uint32_t (&weights)[spanBlocks][4], Softmax (&next)[2]) {
  float totals[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
  UNROLL for (int i = 0; i < spanBlocks; i++) {
    if (full || span.has(i)) mma(totals, weights[i], ones);
  }
  next[0].total = totals[0];
  next[1].total = totals[2];
}

// ---- sums of values ------------------------------------------------------------------------------------------------

// A group of values of a head, of which a lane loads `tiles` consecutive ones of a token.
template <int headDim>
struct Values {
  static constexpr int tiles = headDim % 64 == 0 ? 8 : 4;
  static constexpr int width = 8 * tiles;
  static constexpr int groups = headDim / width;
  // Of tokens 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of a block.
  uint32_t word[4][tiles / 2];
};

DEVICE int tokenOfValues(int i) { return lane() % 4 * 2 + i % 2 + i / 2 * 8; }

// `seen`: how many tokens of the block some row sees. What lies beyond may be a NaN, which no weight of 0 would silence.
template <int headDim>
DEVICE void loadValues(const Tile& tile, const Span& span, int block, int group, int seen, Values<headDim>& values) {
  using Part = Values<headDim>;
  const uint8_t* head = span.arena + shuffle(span.offset, block) + tile.values;
  const Bf16* from = reinterpret_cast<const Bf16*>(head) + group * Part::width + lane() / 4 * Part::tiles;
  UNROLL for (int i = 0; i < 4; i++) {
    const Bf16* at = from + tokenOfValues(i) * headDim;
    const bool present = seen >= blockTokens || tokenOfValues(i) < seen;
    if constexpr (Part::tiles == 8) {
      const Words4 words = present ? read16(at) : Words4{};
      UNROLL for (int j = 0; j < 4; j++) values.word[i][j] = words.word[j];
    } else {
      const uint64_t words = present ? read8(at) : 0;
      values.word[i][0] = static_cast<uint32_t>(words);
      values.word[i][1] = static_cast<uint32_t>(words >> 32);
    }
  }
}

// Value j of two tokens, the first in the low half.
DEVICE uint32_t pairOf(const uint32_t* first, const uint32_t* second, int j) {
  const uint32_t a = first[j / 2], b = second[j / 2];
  return j % 2 == 0 ? (a & 0xffffu) | b << 16 : a >> 16 | (b & 0xffff0000u);
}

template <int headDim>
DEVICE void addValues(const uint32_t (&weights)[4], const Values<headDim>& values, float (&sums)[Values<headDim>::tiles][4]) {
  UNROLL for (int j = 0; j < Values<headDim>::tiles; j++) {
    mma(sums[j], weights, {pairOf(values.word[0], values.word[1], j), pairOf(values.word[2], values.word[3], j)});
  }
}

template <int headDim, bool full>
DEVICE void sumValues(const Tile& tile, const Span& span, int group, const uint32_t (&weights)[spanBlocks][4], float (&sums)[Values<headDim>::tiles][4]) {
  const int seen = full ? spanTokens : tile.last + 1 - span.start;
  Values<headDim> values[2] = {};
  UNROLL for (int j = 0; j < Values<headDim>::tiles * 4; j++) sums[j / 4][j % 4] = 0.0f;
  if (full || span.has(0)) loadValues<headDim>(tile, span, 0, group, seen, values[0]);
  UNROLL for (int i = 0; i < spanBlocks; i++) {
    const int next = i + 1;
    if (next < spanBlocks && (full || span.has(next))) loadValues<headDim>(tile, span, next, group, seen - next * blockTokens, values[next % 2]);
    if (full || span.has(i)) addValues<headDim>(weights[i], values[i % 2], sums);
  }
}

// ---- a tile --------------------------------------------------------------------------------------------------------

// A lane's part of the rows' results so far: of row i, sums[group][tile][2 i] and [2 i + 1].
template <int headDim>
struct Rows {
  Softmax softmax[2];
  float sums[Values<headDim>::groups][Values<headDim>::tiles][4];
};

template <int headDim, bool full>
DEVICE void attendSpan(const AttentionParams& p, const Tile& tile, const Span& span, float scale, Rows<headDim>& rows) {
  using Part = Values<headDim>;
  uint32_t weights[spanBlocks][4];
  Softmax next[2];
  {
    // Read anew for each span, since registers are short while values are summed; syncWarp lets the compiler remember nothing.
    Words4 queries[headDim / 32][2];
    syncWarp();
    loadQueries<headDim>(p, tile, queries);
    float scores[spanTiles][4];
    scoreSpan<headDim, full>(queries, span, scores);
    if (!full) maskScores(p, tile, span, scores);
    weighScores(scores, scale, weights, next);
  }
  addWeights<full>(span, weights, next);
  const Fold folds[2] = {foldSpan(rows.softmax[0], next[0]), foldSpan(rows.softmax[1], next[1])};
  UNROLL for (int group = 0; group < Part::groups; group++) {
    float sums[Part::tiles][4];
    sumValues<headDim, full>(tile, span, group, weights, sums);
    UNROLL for (int j = 0; j < Part::tiles; j++) {
      UNROLL for (int k = 0; k < 4; k++) rows.sums[group][j][k] = foldSum(folds[k / 2], rows.sums[group][j][k], sums[j][k]);
    }
  }
}

// This lane's part of row i in column pair c of group: consecutive values from `first` on.
template <int headDim>
DEVICE int takeValues(const Rows<headDim>& rows, int i, int group, int c, float (&values)[Values<headDim>::tiles]) {
  using Part = Values<headDim>;
  UNROLL for (int j = 0; j < Part::tiles; j++) values[j] = rows.sums[group][j][2 * i + c];
  return group * Part::width + (lane() % 4 * 2 + c) * Part::tiles;
}

template <int headDim>
DEVICE void writeOutput(const AttentionParams& p, const Tile& tile, const Rows<headDim>& rows) {
  using Part = Values<headDim>;
  UNROLL for (int i = 0; i < 2; i++) {
    const int number = lane() / 4 + 8 * i;
    if (number >= tile.count) continue;
    const int64_t row = tile.item.firstRow + number / tile.groupHeads;
    const int head = tile.kvHead * tile.groupHeads + number % tile.groupHeads;
    const HeadOutput to = headOutput(p.output, row, head, p.headDim, p.outputStride);
    const float share = shareOf(rows.softmax[i]);
    UNROLL for (int group = 0; group < Part::groups; group++) {
      UNROLL for (int c = 0; c < 2; c++) {
        float values[Part::tiles];
        const int first = takeValues<headDim>(rows, i, group, c, values);
        UNROLL for (int j = 0; j < Part::tiles; j++) values[j] = multiplied(values[j], share);
        writeValues(to, first, values);
      }
    }
    if (head == p.heads - 1) clearPad(p.output, row, p.heads, p.headDim, p.outputStride, lane() % 4, 4);
  }
}

template <int headDim>
DEVICE void writePartial(const AttentionParams& p, const Tile& tile, const Rows<headDim>& rows) {
  using Part = Values<headDim>;
  UNROLL for (int i = 0; i < 2; i++) {
    const int number = lane() / 4 + 8 * i;
    if (number >= tile.count) continue;
    const int64_t row = partialRow(tile.item.partial, p.kvHeads, tile.kvHead, number);
    if (lane() % 4 == 0) {
      p.partialTops[row] = rows.softmax[i].top;
      p.partialTotals[row] = rows.softmax[i].total;
    }
    UNROLL for (int group = 0; group < Part::groups; group++) {
      UNROLL for (int c = 0; c < 2; c++) {
        float values[Part::tiles];
        float* to = p.partialSums + row * headDim + takeValues<headDim>(rows, i, group, c, values);
        UNROLL for (int j = 0; j < Part::tiles; j += 4) {
          store16(to + j, {{bitsOf(values[j]), bitsOf(values[j + 1]), bitsOf(values[j + 2]), bitsOf(values[j + 3])}});
        }
      }
    }
  }
}

template <int headDim>
DEVICE void attendItems(const AttentionParams& p) {
  const int index = blockX() * 4 + warp();
  if (index >= p.itemCount) return;
  const AttentionItem item = p.items[index];
  if (item.tokens <= 0) return;
  const Tile tile = tileOf(p, item, blockY());
  const float scale = divided(1.4426950408889634f, squareRoot(static_cast<float>(p.headDim)));
  Rows<headDim> rows;
  rows.softmax[0] = rows.softmax[1] = nothingSeen();
  UNROLL for (int i = 0; i < headDim / 2; i++) rows.sums[i / 4 / Values<headDim>::tiles][i / 4 % Values<headDim>::tiles][i % 4] = emptySum();
  const int first = item.span >= 0 ? item.span : lowestSeen(p, item.position) / spanTokens;
  const int last = item.span >= 0 ? item.span : tile.last / spanTokens;
  int32_t block = blockOf(p, tile, first);
  for (int number = first; number <= last; number++) {
    Span span = spanOf(p, tile, number);
    span.offset = offsetOf(p, tile, block);
    // Read early, since the addresses of the next span wait for it.
    if (number < last) block = blockOf(p, tile, number + 1);
    if (isFull(p, tile, span)) {
      attendSpan<headDim, true>(p, tile, span, scale, rows);
    } else {
      attendSpan<headDim, false>(p, tile, span, scale, rows);
    }
  }
  if (item.span >= 0) {
    writePartial<headDim>(p, tile, rows);
  } else {
    writeOutput<headDim>(p, tile, rows);
  }
}

KERNEL(attention32, 128, AttentionParams) { attendItems<32>(p); }
KERNEL(attention64, 128, AttentionParams) { attendItems<64>(p); }
KERNEL(attention96, 128, AttentionParams) { attendItems<96>(p); }
KERNEL(attention128, 128, AttentionParams) { attendItems<128>(p); }
KERNEL(attention160, 128, AttentionParams) { attendItems<160>(p); }
KERNEL(attention192, 128, AttentionParams) { attendItems<192>(p); }
KERNEL(attention224, 128, AttentionParams) { attendItems<224>(p); }
KERNEL(attention256, 128, AttentionParams) { attendItems<256>(p); }

}  // namespace fastswitch::cuda
