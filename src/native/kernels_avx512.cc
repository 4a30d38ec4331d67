// Kernels for x86-64 with AVX-512 F, BW, VL, DQ, VNNI and BF16. Products of bf16 weights round their inputs to bf16,
// as the instruction wants both sides, and add up in f32.
#include <immintrin.h>

#include "kernels.h"

#define LANES static inline __attribute__((always_inline))

namespace fastswitch {
namespace {

struct Lanes {
  __m512 v;
};

constexpr int kFloatRows = 12;
constexpr int kWideRows = 12;
constexpr int kScoreRows = 6;
constexpr int kScoreBlocks = 4;
constexpr int kWeighRows = 6;
constexpr int kWeighVectors = 4;

LANES Lanes splat(float x) { return {_mm512_set1_ps(x)}; }
LANES Lanes zero() { return {_mm512_setzero_ps()}; }
LANES Lanes load(const float* from) { return {_mm512_loadu_ps(from)}; }

LANES __mmask16 firstLanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }

LANES void store(float* to, Lanes x) { _mm512_storeu_ps(to, x.v); }
LANES Lanes add(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
LANES Lanes sub(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
LANES Lanes mul(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
LANES Lanes div(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
LANES Lanes madd(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
LANES Lanes largerOf(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
LANES Lanes smallerOf(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }

LANES Lanes zeroBelow(Lanes x, Lanes y, float limit) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), x.v)};
}

LANES Lanes power(Lanes magic) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(magic.v), _mm512_set1_epi32(127)), 23))};
}

LANES Lanes evens(const uint32_t* words) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(words), 16))}; }
LANES Lanes odds(const uint32_t* words) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(words), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

LANES Lanes keep(Lanes x, int first, int last, float other) {
  if (first <= 0 && last >= 16) return x;
  const uint32_t below = last >= 16 ? 0xffffu : (1u << (last > 0 ? last : 0)) - 1;
  const uint32_t from = first <= 0 ? 0u : (1u << (first < 16 ? first : 16)) - 1;
  return {_mm512_mask_mov_ps(_mm512_set1_ps(other), static_cast<__mmask16>(below & ~from), x.v)};
}

LANES float sum(Lanes x) { return _mm512_reduce_add_ps(x.v); }
LANES float top(Lanes x) { return _mm512_reduce_max_ps(x.v); }

LANES float largestMagnitude(Lanes a, Lanes b) {
  // Bits of magnitudes are in the order of the magnitudes, infinity and NaN last.
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i low = _mm512_and_si512(_mm512_castps_si512(a.v), magnitude);
  const __m512i high = _mm512_and_si512(_mm512_castps_si512(b.v), magnitude);
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(_mm512_reduce_max_epu32(_mm512_max_epu32(low, high))))));
}

LANES int32_t sumBytes(const int8_t* from) {
  // Sums of absolute differences want unsigned bytes: 128 is added to each of the 32.
  const __m256i bytes = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), _mm256_set1_epi8(-128));
  const __m256i sums = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_cvtsi128_si32(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))) - 128 * kGroup;
}

LANES uint32_t reaching(Lanes x, float limit) { return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GE_OQ); }

LANES void storeBytes(int8_t* to, Lanes x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x.v)));
}

}  // namespace
}  // namespace fastswitch

#include "kernels_body.h"

namespace fastswitch {
namespace {

constexpr int kBf16Rows = 12;
constexpr int kQ8Rows = 6;

void prepareBf16(const float* row, int groups, uint8_t* inputs) {
  for (int g = 0; g < groups; g++, row += kGroup, inputs += kGroup * sizeof(uint16_t)) {
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + 16), _mm512_loadu_ps(row));
    _mm512_storeu_si512(inputs, (__m512i)both);
  }
}

LANES __m512 dotPair(__m512 to, __m512i weights, int32_t pair) { return _mm512_dpbf16_ps(to, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(pair)); }

LANES int32_t word(const uint8_t* from) {
  int32_t x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

LANES void finish(const Product& p, int row, __m512 low, __m512 high) {
  float* to = p.output + row * p.outputStride;
  _mm512_storeu_ps(to, p.add ? _mm512_add_ps(_mm512_loadu_ps(to), low) : low);
  _mm512_storeu_ps(to + 16, p.add ? _mm512_add_ps(_mm512_loadu_ps(to + 16), high) : high);
}

// Keeps the compiler from moving loads across: weights that are read strictly forwards come a fifth faster from memory.
LANES void inOrder() { __asm__ __volatile__("" ::: "memory"); }

// Lines of the weights ahead that step `step` of `steps` of a group loads.
LANES void loadAhead(const uint8_t* ahead, int lines, int step, int steps) {
  for (int i = step; i < lines; i += steps) _mm_prefetch(ahead + 64 * i, _MM_HINT_T1);
}

template <int Rows, bool Ahead>
LANES void bf16Tile(const Product& p) {
  const uint8_t* panel = p.panel;
  const uint8_t* inputs = p.inputs;
  const uint8_t* ahead = p.ahead;
  const size_t stride = p.stride;
  const int lines = p.aheadLines;
  __m512 low[Rows], high[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) low[r] = high[r] = _mm512_setzero_ps();
  for (int g = 0; g < p.groups; g++, panel += kGroupBytes[kBf16], inputs += kGroup * sizeof(uint16_t), ahead += 64 * lines) {
#pragma GCC unroll 2
    for (int k = 0; k < kGroup / 2; k++) {
      const __m512i first = _mm512_loadu_si512(panel + 128 * k);
      const __m512i second = _mm512_loadu_si512(panel + 128 * k + 64);
      if (Ahead) loadAhead(ahead, lines, k, kGroup / 2);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
        const int32_t pair = word(inputs + r * stride + 4 * k);
        low[r] = dotPair(low[r], first, pair);
        high[r] = dotPair(high[r], second, pair);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) finish(p, r, low[r], high[r]);
}

template <int Rows>
void bf16Product(const Product& p) {
  if constexpr (Rows > 1) {
    if (p.rows < Rows) return bf16Product<Rows - 1>(p);
  }
  if (p.aheadLines > 0) return bf16Tile<Rows, true>(p);
  bf16Tile<Rows, false>(p);
}

template <int Rows, bool Ahead>
LANES void q8Tile(const Product& p) {
  const uint8_t* inputs = p.inputs;
  const uint8_t* ahead = p.ahead;
  const size_t stride = p.stride;
  const int lines = p.aheadLines;
  __m512 low[Rows], high[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) low[r] = high[r] = _mm512_setzero_ps();
  const auto* group = reinterpret_cast<const Q8Weights*>(p.panel);
  for (int g = 0; g < p.groups; g++, group++, inputs += sizeof(Q8Inputs), ahead += 64 * lines) {
    const __m512 scaleLow = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group->scales)));
    const __m512 scaleHigh = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group->scales + 16)));
    __m512i first[Rows], second[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) first[r] = second[r] = _mm512_set1_epi32(reinterpret_cast<const Q8Inputs*>(inputs + r * stride)->correction);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
      inOrder();
      const __m512i a = _mm512_loadu_si512(group->weights[k]);
      const __m512i b = _mm512_loadu_si512(group->weights[k] + 16);
      if (Ahead) loadAhead(ahead, lines, k, 8);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        const __m512i four = _mm512_set1_epi32(word(inputs + r * stride + offsetof(Q8Inputs, values) + 4 * k));
        first[r] = _mm512_dpbusd_epi32(first[r], a, four);
        second[r] = _mm512_dpbusd_epi32(second[r], b, four);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const __m512 scale = _mm512_set1_ps(reinterpret_cast<const Q8Inputs*>(inputs + r * stride)->scale);
      low[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first[r]), _mm512_mul_ps(scaleLow, scale), low[r]);
      high[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[r]), _mm512_mul_ps(scaleHigh, scale), high[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) finish(p, r, low[r], high[r]);
}

template <int Rows>
void q8Product(const Product& p) {
  if constexpr (Rows > 1) {
    if (p.rows < Rows) return q8Product<Rows - 1>(p);
  }
  if (p.aheadLines > 0) return q8Tile<Rows, true>(p);
  q8Tile<Rows, false>(p);
}

// Scores of bf16 keys, two dimensions a step. A query is the sum of two bf16, [row][2][head dim], which between them
// have 16 bits of its mantissa: scores are exponents, where rounding would grow.
template <int Rows, int Blocks>
LANES void bf16ScoreTile(const uint16_t* queries, int headDim, const void* const* blocks, float* output, size_t outputStride) {
  __m512 sums[Rows][Blocks];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; b++) sums[r][b] = _mm512_setzero_ps();
  }
  for (int pair = 0; pair < headDim / 2; pair++) {
    __m512i keys[Blocks];
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; b++) keys[b] = _mm512_loadu_si512(static_cast<const uint32_t*>(blocks[b]) + pair * kBlockTokens);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const int32_t rest = word(reinterpret_cast<const uint8_t*>(queries + (2 * r + 1) * headDim + 2 * pair));
#pragma GCC unroll 4
      for (int b = 0; b < Blocks; b++) sums[r][b] = dotPair(sums[r][b], keys[b], rest);
      const int32_t query = word(reinterpret_cast<const uint8_t*>(queries + 2 * r * headDim + 2 * pair));
#pragma GCC unroll 4
      for (int b = 0; b < Blocks; b++) sums[r][b] = dotPair(sums[r][b], keys[b], query);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; b++) _mm512_storeu_ps(output + r * outputStride + b * kBlockTokens, sums[r][b]);
  }
}

template <int Rows>
void bf16ScoreRows(const uint16_t* queries, int rows, int headDim, const void* const* blocks, int count, float* output, size_t outputStride) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return bf16ScoreRows<Rows - 1>(queries, rows, headDim, blocks, count, output, outputStride);
  }
  int b = 0;
  for (; b + kScoreBlocks <= count; b += kScoreBlocks) {
    bf16ScoreTile<Rows, kScoreBlocks>(queries, headDim, blocks + b, output + b * kBlockTokens, outputStride);
  }
  for (; b < count; b++) bf16ScoreTile<Rows, 1>(queries, headDim, blocks + b, output + b * kBlockTokens, outputStride);
}

void roundRow(const float* from, int count, uint16_t* to) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = count - i >= 16 ? 0xffff : firstLanes(count - i);
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i));
    _mm256_mask_storeu_epi16(to + i, mask, rounded);
  }
}

// A row as the sum of a rounded row and the rounded rest of it.
void splitRow(const float* from, int count, uint16_t* to) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = count - i >= 16 ? 0xffff : firstLanes(count - i);
    const __m512 whole = _mm512_maskz_loadu_ps(mask, from + i);
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(whole);
    const __m512 back = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
    _mm256_mask_storeu_epi16(to + i, mask, rounded);
    _mm256_mask_storeu_epi16(to + count + i, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(whole, back)));
  }
}

void bf16Scores(const float* queries, size_t stride, int rows, int headDim, const void* const* blocks, int count, float* output, size_t outputStride) {
  uint16_t split[kScoreRows * 2 * kHeadDimMax];
  for (int first = 0; first < rows; first += kScoreRows) {
    const int some = rows - first < kScoreRows ? rows - first : kScoreRows;
    for (int r = 0; r < some; r++) splitRow(queries + (first + r) * stride, headDim, split + 2 * r * headDim);
    bf16ScoreRows<kScoreRows>(split, some, headDim, blocks, count, output + first * outputStride, outputStride);
  }
}

// Sums of bf16 values: two tokens a step, with their weights rounded to bf16 as well.
template <int Rows, int Vectors, bool Partial>
LANES void bf16WeighTile(const uint16_t* weights, int headDim, const void* const* blocks, int column, int first, int last, float* sums, size_t sumStride) {
  const __mmask16 mask = Partial ? firstLanes(headDim - column) : 0xffff;
  __m512 totals[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) totals[r][v] = _mm512_loadu_ps(sums + r * sumStride + column + 16 * v);
  }
  for (int t = first; t < last; t += 2) {
    const auto* words = static_cast<const uint32_t*>(blocks[t / kBlockTokens]) + t % kBlockTokens / 2 * headDim + column;
    __m512i values[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) values[v] = Partial ? _mm512_maskz_loadu_epi32(mask, words) : _mm512_loadu_si512(words + 16 * v);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const int32_t pair = word(reinterpret_cast<const uint8_t*>(weights + r * kChunkTokens + t));
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) totals[r][v] = dotPair(totals[r][v], values[v], pair);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) _mm512_storeu_ps(sums + r * sumStride + column + 16 * v, totals[r][v]);
  }
}

template <int Rows>
void bf16WeighRows(const uint16_t* weights, int rows, int headDim, const void* const* blocks, int first, int last, float* sums, size_t sumStride) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return bf16WeighRows<Rows - 1>(weights, rows, headDim, blocks, first, last, sums, sumStride);
  }
  int d = 0;
  for (; d + 16 * kWeighVectors <= headDim; d += 16 * kWeighVectors) {
    bf16WeighTile<Rows, kWeighVectors, false>(weights, headDim, blocks, d, first, last, sums, sumStride);
  }
  for (; d + 16 <= headDim; d += 16) bf16WeighTile<Rows, 1, false>(weights, headDim, blocks, d, first, last, sums, sumStride);
  if (d < headDim) bf16WeighTile<Rows, 1, true>(weights, headDim, blocks, d, first, last, sums, sumStride);
}

void bf16Weigh(const float* weights, size_t weightStride, int rows, int headDim, const void* const* blocks, int first, int last, float* sums,
               size_t sumStride) {
  uint16_t rounded[kWeighRows * kChunkTokens];
  for (int row = 0; row < rows; row += kWeighRows) {
    const int some = rows - row < kWeighRows ? rows - row : kWeighRows;
    for (int r = 0; r < some; r++) roundRow(weights + (row + r) * weightStride + first, last - first, rounded + r * kChunkTokens + first);
    bf16WeighRows<kWeighRows>(rounded, some, headDim, blocks, first, last, sums + row * sumStride, sumStride);
  }
}

constexpr Kernels makeKernels() {
  Kernels k = commonKernels("avx512");
  k.tileRows[kBf16] = kBf16Rows;
  k.inputBytes[kBf16] = kGroup * sizeof(uint16_t);
  k.prepare[kBf16] = prepareBf16;
  k.product[kBf16] = bf16Product<kBf16Rows>;
  k.scores[kKvBf16] = bf16Scores;
  k.weigh[kKvBf16] = bf16Weigh;
  k.aheadRowsMin[kBf16] = 6;
  k.aheadRowsMax[kBf16] = 2 * kBf16Rows;
  k.aheadRowsMin[kQ8] = 5;
  k.aheadRowsMax[kQ8] = INT32_MAX;
  k.tileRows[kQ8] = kQ8Rows;
  k.product[kQ8] = q8Product<kQ8Rows>;
  return k;
}

constexpr Kernels kernels = makeKernels();

}  // namespace

const Kernels* avx512Kernels() { return &kernels; }

}  // namespace fastswitch
