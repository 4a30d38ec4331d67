// Products of bf16 matrices whose bits depend on nothing but the two rows that meet: matmulNarrow for few rows, where the
// weights are read at the speed of the memory, chains side by side, and matmulWide for many.
//
// What both do alike: a chain of `mma` over a span of spanInputs inputs, from 0 and in ascending order, and spans folded
// one after the other. Of each 32 inputs, lane l has the 8 that begin at l % 4 * 8, 16 bytes a load, on both sides; the
// first step takes the first four of each lane, the second the others.
#pragma once

#include "kernels.h"

namespace fastswitch::cuda {

constexpr int matmulSlice = 32;                        // inputs that are loaded together
constexpr int spanSlices = spanInputs / matmulSlice;

// A slice times a slice: rows g and g + 8 of the left, column g of the right; sums as `mma` has them.
DEVICE void multiplySlice(float (&sums)[4], const Words4& low, const Words4& high, const Words4& weights) {
  mma(sums, {low.word[0], high.word[0], low.word[1], high.word[1]}, {weights.word[0], weights.word[1]});
  mma(sums, {low.word[2], high.word[2], low.word[3], high.word[3]}, {weights.word[2], weights.word[3]});
}

// What the spans are folded into. To add the first to -0 is to copy it.
DEVICE float noSpans() { return -0.0f; }

DEVICE void writeSum(const MatmulParams& p, int row, int column, float sum) {
  if (row >= p.rows || column >= p.columns) return;
  const int64_t at = static_cast<int64_t>(row) * p.outputStride + column;
  if (p.asBf16 != 0) {
    static_cast<Bf16*>(p.output)[at] = toBf16(sum);
  } else {
    float* to = static_cast<float*>(p.output) + at;
    *to = p.add != 0 ? *to + sum : sum;
  }
}

// A row that both matrices have: what is computed from the last row instead of one beyond it is not written.
DEVICE int rowWithin(int row, int rows) { return row < rows ? row : rows - 1; }

// ---- few rows ------------------------------------------------------------------------------------------------------

constexpr int narrowTiles = matmulNarrowColumns / 8;
constexpr int narrowTileValues = matmulNarrowRows * 8;
constexpr int narrowWarps = 8;
constexpr int narrowAhead = 8;                          // slices of weights under way

// One chain: the slices `first` to `end` of a tile of 8 columns. Weights come from far away and inputs, which all blocks
// read, from near by: a batch of weights is asked for before the one before it is used.
DEVICE void chainNarrow(const Bf16* low, const Bf16* high, const Bf16* weights, int first, int end, float (&sums)[4]) {
  Words4 next[narrowAhead] = {};
  UNROLL for (int i = 0; i < narrowAhead; i++) {
    if (first + i < end) next[i] = load16(weights + (first + i) * matmulSlice);
  }
  for (int slice = first; slice < end; slice += narrowAhead) {
    Words4 now[narrowAhead];
    UNROLL for (int i = 0; i < narrowAhead; i++) now[i] = next[i];
    UNROLL for (int i = 0; i < narrowAhead; i++) {
      const int later = slice + narrowAhead + i;
      if (later < end) next[i] = load16(weights + later * matmulSlice);
    }
    UNROLL for (int i = 0; i < narrowAhead; i++) {
      if (slice + i >= end) break;
      const int at = (slice + i) * matmulSlice;
      multiplySlice(sums, read16(low + at), read16(high + at), now[i]);
    }
  }
}

// Where a block's 16 rows and 32 columns lie. Blocks of the same columns follow each other by number: they run together, and
// the weights come from the memory for the first of them and from the cache for the others.
struct NarrowTile {
  int row;
  int column;
};

DEVICE NarrowTile narrowTile(const MatmulParams& p) {
  const int groups = (p.rows + matmulNarrowRows - 1) / matmulNarrowRows;
  return {blockX() % groups * matmulNarrowRows, blockX() / groups * matmulNarrowColumns};
}

// Chains of the spans `first` to `end`, each of a tile of 8 columns: the next free chain to each warp in turn. Sums to
// partials[span - first][tile][row][column].
DEVICE void chainsNarrow(const MatmulParams& p, const NarrowTile& tile, int first, int end, float* partials) {
  const int group = lane() / 4;
  const int own = lane() % 4 * 8;
  const Bf16* low = p.inputs + static_cast<int64_t>(rowWithin(tile.row + group, p.rows)) * p.inputStride + own;
  const Bf16* high = p.inputs + static_cast<int64_t>(rowWithin(tile.row + group + 8, p.rows)) * p.inputStride + own;
  for (int chain = warp(); chain < (end - first) * narrowTiles; chain += narrowWarps) {
    const int column = tile.column + chain % narrowTiles * 8 + group;
    const Bf16* weights = p.weights + static_cast<int64_t>(rowWithin(column, p.columns)) * p.inputStride + own;
    const int slice = (first + chain / narrowTiles) * spanSlices;
    const int slices = p.inputStride / matmulSlice;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    chainNarrow(low, high, weights, slice, slice + spanSlices < slices ? slice + spanSlices : slices, sums);
    float* to = partials + chain * narrowTileValues + group * 8 + lane() % 4 * 2;
    to[0] = sums[0];
    to[1] = sums[1];
    to[64] = sums[2];
    to[65] = sums[3];
  }
}

KERNEL(matmulNarrow, 256, MatmulParams) {
  constexpr int values = narrowTiles * narrowTileValues;
  float* partials = static_cast<float*>(sharedMemory());
  const NarrowTile tile = narrowTile(p);
  const int spans = (p.inputStride + spanInputs - 1) / spanInputs;
  float totals[values / 256];
  UNROLL for (int i = 0; i < values / 256; i++) totals[i] = noSpans();
  for (int first = 0; first < spans; first += matmulNarrowSpans) {
    const int end = first + matmulNarrowSpans < spans ? first + matmulNarrowSpans : spans;
    if (first > 0) syncBlock();
    chainsNarrow(p, tile, first, end, partials);
    syncBlock();
    for (int span = first; span < end; span++) {
      UNROLL for (int i = 0; i < values / 256; i++) totals[i] += partials[(span - first) * values + i * 256 + threadIndex()];
    }
  }
  UNROLL for (int i = 0; i < values / 256; i++) {
    const int value = i * 256 + threadIndex();
    const int column = value / narrowTileValues * 8 + value % 8;
    writeSum(p, tile.row + value % narrowTileValues / 8, tile.column + column, totals[i]);
  }
}

// ---- many rows -----------------------------------------------------------------------------------------------------

// Eight warps, two by four, each with 64 rows and 32 columns of the tile.
constexpr int wideRows = 4;     // tiles of 16 rows of a warp
constexpr int wideColumns = 4;  // tiles of 8 columns
constexpr int wideStages = 3;
constexpr int wideStageValues = 2 * matmulTile * matmulSlice;  // a slice of inputs, then one of weights
static_assert(wideStages * wideStageValues * sizeof(Bf16) == matmulWideShared, "what kernels.h says");

// Where a block's tile lies. Blocks in a row by number go down a band of 8 tiles of rows first: those that run together
// then share weights as well as inputs.
struct WideTile {
  int row;
  int column;
};

DEVICE WideTile wideTile(const MatmulParams& p) {
  constexpr int band = 8;
  const int tiles = (p.rows + matmulTile - 1) / matmulTile;
  const int number = blockY() * gridX() + blockX();
  const int first = number / (band * gridX()) * band;
  const int height = tiles - first < band ? tiles - first : band;
  const int within = number - first * gridX();
  return {(first + within % height) * matmulTile, within / height * matmulTile};
}

// What a thread brings of each slice: 16 bytes of two rows of either matrix. A row of a slice is 64 bytes, and neighbours
// of a warp read neighbouring 16 bytes: no two of them meet in a bank.
struct WideSource {
  const Bf16* from[4];
};

DEVICE WideSource wideSource(const MatmulParams& p, const WideTile& tile) {
  WideSource source;
  const int part = threadIndex() % 4 * 8;
  UNROLL for (int i = 0; i < 2; i++) {
    const int row = threadIndex() / 4 + 64 * i;
    source.from[i] = p.inputs + static_cast<int64_t>(rowWithin(tile.row + row, p.rows)) * p.inputStride + part;
    source.from[2 + i] = p.weights + static_cast<int64_t>(rowWithin(tile.column + row, p.columns)) * p.inputStride + part;
  }
  return source;
}

DEVICE void bringSlice(const WideSource& source, int slice, Bf16* stage) {
  UNROLL for (int i = 0; i < 4; i++) copyAsync16(stage + (i * 256 + threadIndex()) * 8, source.from[i] + slice * matmulSlice);
}

using WideSums = float[wideRows][wideColumns][4];

DEVICE void multiplyStage(const Bf16* stage, WideSums& sums) {
  // Values of the stage at which this lane's rows begin.
  const Bf16* inputs = stage + (warp() / 4 * 64 + lane() / 4) * matmulSlice + lane() % 4 * 8;
  const Bf16* weights = stage + (matmulTile + warp() % 4 * 32 + lane() / 4) * matmulSlice + lane() % 4 * 8;
  Words4 columns[wideColumns];
  UNROLL for (int j = 0; j < wideColumns; j++) columns[j] = read16(weights + j * 8 * matmulSlice);
  UNROLL for (int i = 0; i < wideRows; i++) {
    const Words4 low = read16(inputs + i * 16 * matmulSlice);
    const Words4 high = read16(inputs + (i * 16 + 8) * matmulSlice);
    UNROLL for (int j = 0; j < wideColumns; j++) multiplySlice(sums[i][j], low, high, columns[j]);
  }
}

DEVICE void foldWide(WideSums& totals, WideSums& sums) {
  UNROLL for (int i = 0; i < wideRows * wideColumns * 4; i++) {
    float& sum = sums[i / 4 / wideColumns][i / 4 % wideColumns][i % 4];
    totals[i / 4 / wideColumns][i / 4 % wideColumns][i % 4] += sum;
    sum = 0.0f;
  }
}

KERNEL(matmulWide, 256, MatmulParams) {
  Bf16* stages = static_cast<Bf16*>(sharedMemory());
  const WideTile tile = wideTile(p);
  const WideSource source = wideSource(p, tile);
  const int slices = p.inputStride / matmulSlice;
  WideSums totals, sums;
  UNROLL for (int i = 0; i < wideRows * wideColumns * 4; i++) {
    totals[i / 4 / wideColumns][i / 4 % wideColumns][i % 4] = noSpans();
    sums[i / 4 / wideColumns][i / 4 % wideColumns][i % 4] = 0.0f;
  }
  for (int i = 0; i < wideStages - 1; i++) {
    if (i < slices) bringSlice(source, i, stages + i * wideStageValues);
    copyAsyncCommit();
  }
  for (int slice = 0; slice < slices; slice++) {
    copyAsyncWait<wideStages - 2>();
    // This slice is there for all, and all are done with the one before it, whose place the next to come takes.
    syncBlock();
    const int later = slice + wideStages - 1;
    if (later < slices) bringSlice(source, later, stages + later % wideStages * wideStageValues);
    copyAsyncCommit();
    multiplyStage(stages + slice % wideStages * wideStageValues, sums);
    if ((slice + 1) % spanSlices == 0 || slice + 1 == slices) foldWide(totals, sums);
  }
  UNROLL for (int i = 0; i < wideRows; i++) {
    UNROLL for (int j = 0; j < wideColumns; j++) {
      UNROLL for (int k = 0; k < 4; k++) {
        const int row = tile.row + warp() / 4 * 64 + i * 16 + k / 2 * 8 + lane() / 4;
        const int column = tile.column + warp() % 4 * 32 + j * 8 + lane() % 4 * 2 + k % 2;
        writeSum(p, row, column, totals[i][j][k]);
      }
    }
  }
}

}  // namespace fastswitch::cuda
