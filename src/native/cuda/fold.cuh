// How the spans of a context are folded into one softmax, in registers by attention.cuh or apart by foldRows: the same words,
// none of which the compiler may fuse with another, and so the same bits. And how a head's result is written.
#pragma once

#include "kernels.h"

namespace fastswitch::cuda {

// The softmax of a row so far. `top` is the largest score times log2(e) / sqrt(headDim); `total` 0: has seen nothing.
struct Softmax {
  float top;
  float total;
};

DEVICE float minusInfinity() { return floatOf(0xff800000u); }
DEVICE Softmax nothingSeen() { return {minusInfinity(), 0.0f}; }

// What a sum starts from: to fold the first span into it (0 times this, plus the span's sum) is to copy, even a -0.
DEVICE float emptySum() { return -0.0f; }

// How sums are folded: sum * keep + next * add, or left as they are.
struct Fold {
  bool seen;
  float keep;
  float add;
};

// Without a branch, since the lanes of a warp, which meet again in the next product, hold different rows.
DEVICE Fold foldSpan(Softmax& row, const Softmax& next) {
  // Not `> 0`: a NaN is to be seen.
  const bool seen = next.total != 0.0f;
  const float top = larger(row.top, next.top);
  const Fold fold = {seen, exponentialOfTwo(row.top - top), exponentialOfTwo(next.top - top)};
  const float total = fused(row.total, fold.keep, multiplied(next.total, fold.add));
  row.top = seen ? top : row.top;
  row.total = seen ? total : row.total;
  return fold;
}

DEVICE float foldSum(const Fold& fold, float sum, float next) { return fold.seen ? fused(sum, fold.keep, multiplied(next, fold.add)) : sum; }

DEVICE float shareOf(const Softmax& row) { return divided(1.0f, row.total); }

// A row of `output`, of one head. Heads are packed, so that not every head begins at a multiple of 16 bytes.
struct HeadOutput {
  Bf16* at;
  int headDim;
};

DEVICE HeadOutput headOutput(Bf16* output, int64_t row, int head, int headDim, int stride) {
  return {output + row * stride + static_cast<int64_t>(head) * headDim, headDim};
}

// `count` values, 8 or 4, that begin at a multiple of `count`. Those beyond the head are left out.
template <int count>
DEVICE void writeValues(const HeadOutput& to, int first, const float (&values)[count]) {
  static_assert(count == 8 || count == 4, "a load of values");
  if (first >= to.headDim) return;
  if (to.headDim % 8 != 0) {
    for (int i = 0; i < count; i++) {
      if (first + i < to.headDim) to.at[first + i] = toBf16(values[i]);
    }
    return;
  }
  if (count == 8) {
    const uint32_t high[2] = {pack(values[count - 4], values[count - 3]), pack(values[count - 2], values[count - 1])};
    store16(to.at + first, {{pack(values[0], values[1]), pack(values[2], values[3]), high[0], high[1]}});
  } else {
    store8(to.at + first, pack(values[0], values[1]) | static_cast<uint64_t>(pack(values[2], values[3])) << 32);
  }
}

// What a product reads beyond the last head.
DEVICE void clearPad(Bf16* output, int64_t row, int heads, int headDim, int stride, int worker, int workers) {
  const int used = heads * headDim;
  for (int i = used + worker; i < static_cast<int>(padded(static_cast<size_t>(used))); i += workers) output[row * stride + i] = toBf16(0.0f);
}

DEVICE int64_t partialRow(int partial, int kvHeads, int kvHead, int row) {
  return (static_cast<int64_t>(partial) * kvHeads + kvHead) * tileRows + row;
}

// A thread takes 4 values of a row at a time.
KERNEL(foldRows, 128, FoldParams) {
  const FoldItem item = p.items[blockX()];
  const int kvHead = blockY();
  const int groupHeads = p.heads / p.kvHeads;
  const int width = paddedHead(p.headDim);
  for (int i = threadIndex(); i < item.tokens * groupHeads * (width / 4); i += 128) {
    const int number = i / (width / 4);
    const int first = i % (width / 4) * 4;
    Softmax softmax = nothingSeen();
    float sums[4] = {emptySum(), emptySum(), emptySum(), emptySum()};
    int64_t from = partialRow(item.partial, p.kvHeads, kvHead, number);
    UNROLL_BY_4 for (int span = 0; span < item.spans; span++, from += p.kvHeads * tileRows) {
      const Words4 next = read16(p.partialSums + from * width + first);
      const Fold fold = foldSpan(softmax, {p.partialTops[from], p.partialTotals[from]});
      UNROLL for (int j = 0; j < 4; j++) sums[j] = foldSum(fold, sums[j], floatOf(next.word[j]));
    }
    const int64_t row = item.firstRow + number / groupHeads;
    const int head = kvHead * groupHeads + number % groupHeads;
    const float share = shareOf(softmax);
    UNROLL for (int j = 0; j < 4; j++) sums[j] = multiplied(sums[j], share);
    writeValues(headOutput(p.output, row, head, p.headDim, p.outputStride), first, sums);
    if (head == p.heads - 1 && first == 0) clearPad(p.output, row, p.heads, p.headDim, p.outputStride, 0, 1);
  }
}

}  // namespace fastswitch::cuda
