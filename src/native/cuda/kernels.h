// What the host tells each kernel: one struct a kernel, its name, its block and its grid. Device pointers are plain
// pointers. Rows are tokens of the batch; a row of padding has position -1 and is computed, read by nobody, and written
// to no block. bf16 matrices have rows of `padded(columns)` values, zero beyond their columns.
//
// One law holds for all of them: what is computed for a row, in which order, depends on this row alone. Never on how many
// rows or sequences there are beside it, nor on where in the batch it stands, nor on how its prompt was cut into steps.
// Only products by cublasLt break it; `matmul` below does not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simt.h"

namespace fastswitch::cuda {

using fastswitch::Bf16;

constexpr int blockTokens = 16;
// Attention folds a context in spans of this many tokens, at fixed positions, one after the other.
constexpr int spanTokens = 128;
// Rows of (token, query head of the group) that a warp of the attention holds.
constexpr int tileRows = 16;
// Products fold their inputs in spans of this many, one after the other.
constexpr int spanInputs = 1024;
constexpr int headDimMax = 256;

EVERYWHERE constexpr size_t padded(size_t columns) { return (columns + 31) / 32 * 32; }
// A head's values in a block: 32, 64, 96, 128, 160, 192, 224 or 256.
EVERYWHERE constexpr int paddedHead(int headDim) { return (headDim + 31) / 32 * 32; }

// KV of one block: [layer][keys, values][kv head][token of the block][paddedHead], bf16, zero beyond headDim.
EVERYWHERE constexpr size_t kvHeadValues(int headDim) { return static_cast<size_t>(blockTokens) * static_cast<size_t>(paddedHead(headDim)); }

// residual[row] = embedding[tokens[row]]; zeros for padding. Grid: rows. Block: 256.
struct EmbedParams {
  const int32_t* tokens;
  const int32_t* positions;
  const Bf16* embedding;  // [vocabulary][padded(hidden)]
  float* residual;        // [rows][hiddenStride]
  int32_t hidden;
  int32_t stride;  // of both: padded(hidden)
};

// residual[row] += bias where there is one; then output[index] = residual[row] / rms * weight, rounded to bf16.
// row = rows == nullptr ? index : rows[index]; a row below 0 gives zeros. Grid: count. Block: 256. Shared: 64 bytes.
struct NormParams {
  float* residual;        // [rows][stride]
  const float* bias;      // [hidden] or null; added once, so never together with `rows`
  const float* weight;    // [hidden]
  const int32_t* rows;    // or null
  Bf16* output;           // [count][stride], zero beyond hidden
  int32_t hidden;
  int32_t stride;
  float epsilon;
};

// Bias, norms of heads and rotation of q and k (pairs i, i + headDim / 2); q to `queries`, k and v to their blocks.
// Grid: rows x (heads + 2 kvHeads). Block: 128. Shared: paddedHead(headDim) floats + 64 bytes.
struct RotateParams {
  const float* projected;    // [rows][projectedStride]: q heads, k heads, v heads of headDim each
  const float* bias;         // [(heads + 2 kvHeads) headDim] or null
  const float* queryNorm;    // [headDim] or null
  const float* keyNorm;
  const float* cosines;      // [positions][headDim / 2]
  const float* sines;
  const int32_t* positions;  // [rows]
  const int32_t* blocks;     // [rows]: the block that holds this position
  Bf16* queries;             // [rows][heads][paddedHead], zero beyond headDim
  uint8_t* arena;
  uint64_t blockBytes;
  uint64_t layerOffset;      // bytes from a block's start to the keys of this layer; the values follow all its keys
  int32_t heads, kvHeads, headDim, projectedStride;
  float epsilon;
};

// Some consecutive tokens of one sequence, for a warp. `tokens` x groupHeads <= tileRows. tokens 0: nothing to do.
struct AttentionItem {
  int32_t firstRow;
  int32_t tokens;
  int32_t position;     // of the first token
  int32_t table;        // first word of the sequence's block table
  int32_t span;         // -1: all spans of the context; else only this one
  int32_t partial;      // where the partial result of that span lies, in units of tileRows rows; -1 with span -1
};

// A row tile whose spans were computed apart, to be folded in order. tokens 0: nothing to do.
struct FoldItem {
  int32_t firstRow;
  int32_t tokens;
  int32_t firstSpan;    // the first that any of them sees
  int32_t spans;
  int32_t partial;      // of the first span; the next follow
};

// softmax(q k / sqrt(headDim)) v over what each row sees: positions (p - window, p], or [0, p] without a window.
// In each span: scores, largest, exponentials, sums; spans are folded in ascending order, beginning with the first span
// that the row sees. Both kinds of items give the same bits. Grid: ceil(items / 4) x kvHeads. Block: 128, one item a warp.
// A kernel a size of head: attention32, attention64, ... attention256.
struct AttentionParams {
  const AttentionItem* items;
  const Bf16* queries;        // [rows][heads][paddedHead]
  const int32_t* tables;
  const uint8_t* arena;
  uint64_t blockBytes;
  uint64_t layerOffset;
  Bf16* output;               // [rows][outputStride]: heads of headDim, packed
  float* partialSums;         // [partials][kvHeads][tileRows][paddedHead]
  float* partialTops;         // [partials][kvHeads][tileRows]: the largest score, times log2(e) / sqrt(headDim)
  float* partialTotals;       // [partials][kvHeads][tileRows]: the sum of weights; 0: sees nothing of the span
  int32_t itemCount;
  int32_t heads, kvHeads, headDim, outputStride;
  int32_t window;             // 0: none
};

// Folds partials and writes output. Grid: items x kvHeads. Block: 128.
struct FoldParams {
  const FoldItem* items;
  const float* partialSums;
  const float* partialTops;
  const float* partialTotals;
  Bf16* output;
  int32_t heads, kvHeads, headDim, outputStride;
};

// output[m][n] (+)= sum over k of inputs[m][k] * weights[n][k], f32 sums: chains of spanInputs in steps of 16 by `mma`,
// folded in order. Rows beyond `rows` and columns beyond `columns` are not written. Same bits from both:
//   matmulNarrow: few rows. Grid: ceil(columns / 32) * ceil(rows / 16). Block: 256. Shared: matmulNarrowShared bytes.
//   matmulWide:   any rows. Grid: ceil(columns / 128) x ceil(rows / 128). Block: 256. Shared: matmulWideShared bytes.
constexpr int matmulNarrowColumns = 32;
constexpr int matmulNarrowRows = 16;
// Spans whose sums wait in shared memory to be folded.
constexpr int matmulNarrowSpans = 16;
constexpr int matmulNarrowShared = matmulNarrowSpans * 16 * matmulNarrowColumns * 4;
constexpr int matmulTile = 128;
constexpr int matmulWideShared = 3 * 2 * matmulTile * 32 * 2;
struct MatmulParams {
  const Bf16* inputs;    // [rows][inputStride]
  const Bf16* weights;   // [columns][inputStride]
  void* output;          // [rows][outputStride], float or Bf16
  int32_t rows, columns;
  int32_t inputStride;   // padded(k); k is rounded up to it
  int32_t outputStride;
  int32_t asBf16;        // output rounded to bf16 (never with `add`)
  int32_t add;
};

// units[row] = silu(gate) * up of gateUp[row] = [gate, up], bf16; zero beyond `intermediate`. Grid: rows. Block: 256.
struct GateParams {
  const Bf16* gateUp;    // [rows][2 * intermediate]
  Bf16* units;           // [rows][padded(intermediate)]
  int32_t intermediate;
};

// Random values as weights.cc draws them from (seed, role, layer), from `key`, element number row * columns + column.
// Grid: rows. Block: 256.
struct DrawParams {
  uint64_t key;
  uint64_t firstRow;     // number of the first row in its tensor
  void* output;          // [rows][stride]: bf16, or float where asFloat
  int32_t columns;
  int32_t stride;        // zero beyond columns
  float middle;
  int32_t asFloat;
};

// One sampling sequence; the fields of plan.h's SamplingPlan. Lists lie in `lists`, words from its start.
struct SampleItem {
  float temperature, topP, minP, frequencyPenalty, presencePenalty, repetitionPenalty;
  int32_t topK;
  int32_t topLogprobs;   // -1: none
  uint64_t seed;
  uint32_t draw;
  int32_t record;        // which record of `results`; -1: padding, nothing to do
  int32_t bias, biasCount;
  int32_t history, historyCount, historyPrompt;
  int32_t unused;
};

// A token for each item and its record as plan.ts lays it out, by the rules of sampler.h (bias, repetition, frequency and
// presence penalties, temperature, min_p, top_k, top_p; ties to the lowest id; logprobs of the raw logits). Chances are
// added as whole numbers, so that no order of adding them matters. A NaN or infinity among the logits: token -2.
// `scratch` holds the changed logits of items with bias or penalties, and counts (zero between launches).
// Grid: items. Block: 1024. Shared: sampleShared bytes.
constexpr int sampleShared = 48 * 1024;
struct SampleParams {
  const SampleItem* items;
  const int32_t* lists;
  const float* logits;   // [items][logitsStride]
  float* scratch;        // [items][logitsStride]
  int32_t* counts;       // [items][logitsStride]
  int32_t* results;      // [items][resultRecord]
  int32_t vocabulary;
  int32_t logitsStride;
};

}  // namespace fastswitch::cuda
