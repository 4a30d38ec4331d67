// Kernels for any processor: vectors of four floats that every compiler maps to what there is (SSE2, NEON).
#include "kernels.h"

#define LANES static inline __attribute__((always_inline))

namespace fastswitch {
namespace {

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef uint32_t FourWords __attribute__((vector_size(16)));

struct Lanes {
  Four part[4];
};

constexpr int kFloatRows = 4;
constexpr int kWideRows = 1;
constexpr int kScoreRows = 3;
constexpr int kScoreBlocks = 1;
constexpr int kWeighRows = 3;
constexpr int kWeighVectors = 1;

// One operation on each quarter; `i` is the quarter.
#define QUARTERS(expression)                  \
  Lanes result;                               \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) result.part[i] = (expression); \
  return result

LANES Four four(float x) { return Four{x, x, x, x}; }

LANES Four loadFour(const float* from) {
  Four x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

LANES FourWords loadWords(const uint32_t* from) {
  FourWords x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

LANES Lanes splat(float x) { QUARTERS(four(x)); }
LANES Lanes zero() { return splat(0.0f); }
LANES Lanes load(const float* from) { QUARTERS(loadFour(from + 4 * i)); }
LANES void store(float* to, Lanes x) { __builtin_memcpy(to, &x, sizeof x); }

LANES Lanes add(Lanes a, Lanes b) { QUARTERS(a.part[i] + b.part[i]); }
LANES Lanes sub(Lanes a, Lanes b) { QUARTERS(a.part[i] - b.part[i]); }
LANES Lanes mul(Lanes a, Lanes b) { QUARTERS(a.part[i] * b.part[i]); }
LANES Lanes div(Lanes a, Lanes b) { QUARTERS(a.part[i] / b.part[i]); }
LANES Lanes madd(Lanes a, Lanes b, Lanes c) { QUARTERS(a.part[i] * b.part[i] + c.part[i]); }
LANES Lanes largerOf(Lanes a, Lanes b) { QUARTERS(a.part[i] > b.part[i] ? a.part[i] : b.part[i]); }
LANES Lanes smallerOf(Lanes a, Lanes b) { QUARTERS(a.part[i] < b.part[i] ? a.part[i] : b.part[i]); }
LANES Lanes zeroBelow(Lanes x, Lanes y, float limit) { QUARTERS(y.part[i] < four(limit) ? four(0.0f) : x.part[i]); }
LANES Lanes power(Lanes magic) { QUARTERS((Four)(((FourInts)magic.part[i] + 127) << 23)); }
LANES Lanes evens(const uint32_t* words) { QUARTERS((Four)(loadWords(words + 4 * i) << 16)); }
LANES Lanes odds(const uint32_t* words) { QUARTERS((Four)(loadWords(words + 4 * i) & 0xffff0000u)); }

LANES Lanes keep(Lanes x, int first, int last, float other) {
  if (first <= 0 && last >= 16) return x;
  const FourInts lane = {0, 1, 2, 3};
  QUARTERS(((lane + 4 * i >= first) & (lane + 4 * i < last)) ? x.part[i] : four(other));
}

LANES float sum(Lanes x) {
  const Four s = (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
  return (s[0] + s[2]) + (s[1] + s[3]);
}

LANES float top(Lanes x) {
  float most = x.part[0][0];
  for (int i = 1; i < 16; i++) most = x.part[i / 4][i % 4] > most ? x.part[i / 4][i % 4] : most;
  return most;
}

LANES float largestMagnitude(Lanes a, Lanes b) {
  // Bits of magnitudes are in the order of the magnitudes, infinity and NaN last.
  uint32_t most = 0;
  for (int i = 0; i < 4; i++) {
    const FourWords both[2] = {(FourWords)a.part[i] & 0x7fffffffu, (FourWords)b.part[i] & 0x7fffffffu};
    for (int j = 0; j < 8; j++) most = both[j / 4][j % 4] > most ? both[j / 4][j % 4] : most;
  }
  float result;
  __builtin_memcpy(&result, &most, sizeof result);
  return result;
}

LANES int32_t sumBytes(const int8_t* from) {
  int32_t total = 0;
  for (int i = 0; i < kGroup; i++) total += from[i];
  return total;
}

LANES uint32_t reaching(Lanes x, float limit) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; i++) bits |= static_cast<uint32_t>(x.part[i / 4][i % 4] >= limit) << i;
  return bits;
}

LANES void storeBytes(int8_t* to, Lanes x) {
  for (int i = 0; i < 16; i++) {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
    const float shifted = x.part[i / 4][i % 4] + 12582912.0f;
    int32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    to[i] = static_cast<int8_t>(bits & 0xff);
  }
}

}  // namespace
}  // namespace fastswitch

#include "kernels_body.h"

namespace fastswitch {
namespace {

float fromHalf(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  __builtin_memcpy(&value, &magnitude, sizeof value);
  value *= 5.192296858534828e33f;  // 2^112 moves the exponent's bias from 15 to 127, subnormals included
  return half & 0x8000 ? -value : value;
}

// Integer sums are exact, so only the order over the groups matters: ascending, as everywhere.
void q8Row(const uint8_t* panel, int groups, const uint8_t* inputs, float* output, bool addTo) {
  float sums[kPanelRows] = {};
  for (int g = 0; g < groups; g++) {
    const auto* weights = reinterpret_cast<const Q8Weights*>(panel) + g;
    const auto* row = reinterpret_cast<const Q8Inputs*>(inputs) + g;
    int32_t products[kPanelRows];
    for (int i = 0; i < kPanelRows; i++) products[i] = row->correction;
    for (int k = 0; k < 8; k++) {
      for (int i = 0; i < kPanelRows; i++) {
        for (int j = 0; j < 4; j++) products[i] += weights->weights[k][i][j] * row->values[4 * k + j];
      }
    }
    for (int i = 0; i < kPanelRows; i++) sums[i] += static_cast<float>(products[i]) * (fromHalf(weights->scales[i]) * row->scale);
  }
  for (int i = 0; i < kPanelRows; i++) output[i] = addTo ? output[i] + sums[i] : sums[i];
}

void q8Product(const Product& p) {
  for (int r = 0; r < p.rows; r++) q8Row(p.panel, p.groups, p.inputs + r * p.stride, p.output + r * p.outputStride, p.add);
}

constexpr Kernels makeKernels() {
  Kernels k = commonKernels("portable");
  k.tileRows[kBf16] = kFloatRows;
  k.inputBytes[kBf16] = kGroup * sizeof(float);
  k.prepare[kBf16] = prepareF32;
  k.product[kBf16] = floatProduct<Bf16Weights, kBf16, kFloatRows>;
  k.tileRows[kQ8] = 8;
  k.product[kQ8] = q8Product;
  return k;
}

constexpr Kernels kernels = makeKernels();

}  // namespace

const Kernels* portableKernels() { return &kernels; }

}  // namespace fastswitch
