// Kernels for x86-64 with AVX2, FMA and F16C.
#include <immintrin.h>

#include "kernels.h"

#define LANES static inline __attribute__((always_inline))

namespace fastswitch {
namespace {

struct Lanes {
  __m256 low, high;
};

constexpr int kFloatRows = 6;
constexpr int kWideRows = 2;
constexpr int kScoreRows = 6;
constexpr int kScoreBlocks = 1;
constexpr int kWeighRows = 3;
constexpr int kWeighVectors = 2;

LANES Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LANES Lanes zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
LANES Lanes load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }

LANES void store(float* to, Lanes x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}

LANES Lanes add(Lanes a, Lanes b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
LANES Lanes sub(Lanes a, Lanes b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
LANES Lanes mul(Lanes a, Lanes b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
LANES Lanes div(Lanes a, Lanes b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
LANES Lanes madd(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
LANES Lanes largerOf(Lanes a, Lanes b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
LANES Lanes smallerOf(Lanes a, Lanes b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }

LANES Lanes zeroBelow(Lanes x, Lanes y, float limit) {
  const __m256 edge = _mm256_set1_ps(limit);
  return {_mm256_andnot_ps(_mm256_cmp_ps(y.low, edge, _CMP_LT_OQ), x.low), _mm256_andnot_ps(_mm256_cmp_ps(y.high, edge, _CMP_LT_OQ), x.high)};
}

LANES __m256 power(__m256 magic) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(magic), _mm256_set1_epi32(127)), 23));
}

LANES Lanes power(Lanes magic) { return {power(magic.low), power(magic.high)}; }

LANES __m256i loadWords(const uint32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

LANES Lanes evens(const uint32_t* words) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(loadWords(words), 16)), _mm256_castsi256_ps(_mm256_slli_epi32(loadWords(words + 8), 16))};
}

LANES Lanes odds(const uint32_t* words) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(loadWords(words), upper)), _mm256_castsi256_ps(_mm256_and_si256(loadWords(words + 8), upper))};
}

LANES __m256 keepEight(__m256 x, __m256i lane, int first, int last, float other) {
  const __m256i inside = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane), _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane));
  return _mm256_blendv_ps(_mm256_set1_ps(other), x, _mm256_castsi256_ps(inside));
}

LANES Lanes keep(Lanes x, int first, int last, float other) {
  if (first <= 0 && last >= 16) return x;
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {keepEight(x.low, lane, first, last, other), keepEight(x.high, _mm256_add_epi32(lane, _mm256_set1_epi32(8)), first, last, other)};
}

LANES float sum(Lanes x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

LANES float top(Lanes x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

LANES float largestMagnitude(Lanes a, Lanes b) {
  // Bits of magnitudes are in the order of the magnitudes, infinity and NaN last.
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  const __m256i low = _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(a.low), magnitude), _mm256_and_si256(_mm256_castps_si256(a.high), magnitude));
  const __m256i high = _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(b.low), magnitude), _mm256_and_si256(_mm256_castps_si256(b.high), magnitude));
  const __m256i eight = _mm256_max_epu32(low, high);
  const __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xb1))));
}

LANES int32_t sumBytes(const int8_t* from) {
  // Sums of absolute differences want unsigned bytes: 128 is added to each of the 32.
  const __m256i bytes = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), _mm256_set1_epi8(-128));
  const __m256i sums = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_cvtsi128_si32(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))) - 128 * kGroup;
}

LANES uint32_t reaching(Lanes x, float limit) {
  const __m256 edge = _mm256_set1_ps(limit);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.low, edge, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.high, edge, _CMP_GE_OQ));
  return static_cast<uint32_t>(low | high << 8);
}

LANES void storeBytes(int8_t* to, Lanes x) {
  const __m256i shorts = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  const __m256i ordered = _mm256_permute4x64_epi64(shorts, 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

}  // namespace
}  // namespace fastswitch

#include "kernels_body.h"

namespace fastswitch {
namespace {

// 8 * Columns outputs x Rows inputs. AVX2 multiplies unsigned by signed bytes and adds pairs with saturation, which
// |weight| <= 127 times |input| <= 127 cannot reach: the weight's sign moves to the input.
template <int Rows, int Columns>
LANES void q8Tile(const Product& p, int column) {
  const __m256i offset = _mm256_set1_epi8(-128);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 sums[Rows][Columns];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; c++) sums[r][c] = _mm256_setzero_ps();
  }
  for (int g = 0; g < p.groups; g++) {
    const auto* weights = reinterpret_cast<const Q8Weights*>(p.panel) + g;
    __m256i products[Rows][Columns];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
      for (int c = 0; c < Columns; c++) products[r][c] = _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
#pragma GCC unroll 4
      for (int c = 0; c < Columns; c++) {
        const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&weights->weights[k][column + 8 * c][0]));
        const __m256i weight = _mm256_xor_si256(stored, offset);
        const __m256i magnitude = _mm256_abs_epi8(weight);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; r++) {
          const auto* row = reinterpret_cast<const Q8Inputs*>(p.inputs + r * p.stride) + g;
          int32_t four;
          __builtin_memcpy(&four, row->values + 4 * k, sizeof four);
          const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(_mm256_set1_epi32(four), weight));
          products[r][c] = _mm256_add_epi32(products[r][c], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < Columns; c++) {
      const __m256 scales = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights->scales + column + 8 * c)));
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) {
        const auto* row = reinterpret_cast<const Q8Inputs*>(p.inputs + r * p.stride) + g;
        sums[r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[r][c]), _mm256_mul_ps(scales, _mm256_set1_ps(row->scale)), sums[r][c]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; c++) {
      float* to = p.output + r * p.outputStride + column + 8 * c;
      _mm256_storeu_ps(to, p.add ? _mm256_add_ps(_mm256_loadu_ps(to), sums[r][c]) : sums[r][c]);
    }
  }
}

// A single row takes the whole panel at once, in the order in which it lies in memory.
template <int Rows>
void q8Product(const Product& p) {
  if constexpr (Rows > 1) {
    if (p.rows < Rows) return q8Product<Rows - 1>(p);
  }
  constexpr int columns = Rows == 1 ? 4 : 1;
  for (int column = 0; column < kPanelRows; column += 8 * columns) q8Tile<Rows, columns>(p, column);
}

constexpr Kernels makeKernels() {
  Kernels k = commonKernels("avx2");
  k.tileRows[kBf16] = kFloatRows;
  k.inputBytes[kBf16] = kGroup * sizeof(float);
  k.prepare[kBf16] = prepareF32;
  k.product[kBf16] = floatProduct<Bf16Weights, kBf16, kFloatRows>;
  k.tileRows[kQ8] = 4;
  k.product[kQ8] = q8Product<4>;
  return k;
}

constexpr Kernels kernels = makeKernels();

}  // namespace

const Kernels* avx2Kernels() { return &kernels; }

}  // namespace fastswitch
