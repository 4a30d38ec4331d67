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

LANES Lanes widen(__m256i halves) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))}; }
LANES Lanes load(const uint16_t* from) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }

LANES __mmask16 firstLanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
LANES Lanes loadPart(const float* from, int count) { return {_mm512_maskz_loadu_ps(firstLanes(count), from)}; }
LANES Lanes loadPart(const uint16_t* from, int count) { return widen(_mm256_maskz_loadu_epi16(firstLanes(count), from)); }

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

LANES void finish(float* to, __m512 low, __m512 high, bool addTo) {
  _mm512_storeu_ps(to, addTo ? _mm512_add_ps(_mm512_loadu_ps(to), low) : low);
  _mm512_storeu_ps(to + 16, addTo ? _mm512_add_ps(_mm512_loadu_ps(to + 16), high) : high);
}

template <int Rows>
LANES void bf16Tile(const uint8_t* panel, int groups, const uint8_t* inputs, size_t stride, float* output, size_t outputStride, bool addTo) {
  __m512 low[Rows], high[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) low[r] = high[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups; g++, panel += kGroupBytes[kBf16], inputs += kGroup * sizeof(uint16_t)) {
#pragma GCC unroll 2
    for (int k = 0; k < kGroup / 2; k++) {
      const __m512i first = _mm512_loadu_si512(panel + 128 * k);
      const __m512i second = _mm512_loadu_si512(panel + 128 * k + 64);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
        const int32_t pair = word(inputs + r * stride + 4 * k);
        low[r] = dotPair(low[r], first, pair);
        high[r] = dotPair(high[r], second, pair);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) finish(output + r * outputStride, low[r], high[r], addTo);
}

template <int Rows>
void bf16Product(const uint8_t* panel, int groups, const uint8_t* inputs, size_t stride, int rows, float* output, size_t outputStride, bool addTo) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return bf16Product<Rows - 1>(panel, groups, inputs, stride, rows, output, outputStride, addTo);
  }
  bf16Tile<Rows>(panel, groups, inputs, stride, output, outputStride, addTo);
}

template <int Rows>
LANES void q8Tile(const uint8_t* panel, int groups, const uint8_t* inputs, size_t stride, float* output, size_t outputStride, bool addTo) {
  __m512 low[Rows], high[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) low[r] = high[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups; g++, panel += kGroupBytes[kQ8], inputs += sizeof(Q8Inputs)) {
    __m512i first[Rows], second[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) first[r] = second[r] = _mm512_set1_epi32(reinterpret_cast<const Q8Inputs*>(inputs + r * stride)->correction);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
      const __m512i a = _mm512_loadu_si512(panel + 128 * k);
      const __m512i b = _mm512_loadu_si512(panel + 128 * k + 64);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        const __m512i four = _mm512_set1_epi32(word(inputs + r * stride + offsetof(Q8Inputs, values) + 4 * k));
        first[r] = _mm512_dpbusd_epi32(first[r], a, four);
        second[r] = _mm512_dpbusd_epi32(second[r], b, four);
      }
    }
    const auto* scales = reinterpret_cast<const Q8Weights*>(panel)->scales;
    const __m512 scaleLow = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
    const __m512 scaleHigh = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales + 16)));
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const __m512 scale = _mm512_set1_ps(reinterpret_cast<const Q8Inputs*>(inputs + r * stride)->scale);
      low[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first[r]), _mm512_mul_ps(scaleLow, scale), low[r]);
      high[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[r]), _mm512_mul_ps(scaleHigh, scale), high[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) finish(output + r * outputStride, low[r], high[r], addTo);
}

template <int Rows>
void q8Product(const uint8_t* panel, int groups, const uint8_t* inputs, size_t stride, int rows, float* output, size_t outputStride, bool addTo) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return q8Product<Rows - 1>(panel, groups, inputs, stride, rows, output, outputStride, addTo);
  }
  q8Tile<Rows>(panel, groups, inputs, stride, output, outputStride, addTo);
}

constexpr Kernels makeKernels() {
  Kernels k = commonKernels("avx512");
  k.tileRows[kBf16] = kBf16Rows;
  k.inputBytes[kBf16] = kGroup * sizeof(uint16_t);
  k.prepare[kBf16] = prepareBf16;
  k.product[kBf16] = bf16Product<kBf16Rows>;
  k.tileRows[kQ8] = kQ8Rows;
  k.product[kQ8] = q8Product<kQ8Rows>;
  return k;
}

constexpr Kernels kernels = makeKernels();

}  // namespace

const Kernels* avx512Kernels() { return &kernels; }

}  // namespace fastswitch
