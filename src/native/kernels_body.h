// The algorithms of kernels.h written once over `Lanes`, a vector of 16 floats that each instruction set defines
// before it includes this. Everything is in an unnamed namespace, so every instruction set has a copy of its own and
// the linker never shares them; nothing from the standard library is used for the same reason.
//
// An instruction set offers, beside the type Lanes: zero, splat, load, store; add, sub, mul, div, madd (a * b + c, fused
// or not, but always the same), largerOf, smallerOf; largestMagnitude of two (NaN or infinite where a lane is);
// keep(x, first, last, other): lanes in [first, last), other elsewhere; zeroBelow(x, y, limit): 0 where y < limit;
// power: 2^n from 1.5 * 2^23 + n; sum and top over the lanes; evens and odds: the lower and upper bf16 of 16 words;
// reaching: bits of the lanes >= limit; storeBytes: rounded to int8; sumBytes: of 32 int8. And the tile sizes, as its
// registers allow: kFloatRows (input rows of a product at most), kWideRows (of these beside 32 outputs), kScoreRows,
// kScoreBlocks, kWeighRows and kWeighVectors.

#ifndef LANES
#error "define LANES and the lanes before including this"
#endif

namespace fastswitch {
namespace {

// ---- exp -----------------------------------------------------------------------------------------------------------

// exp by 2^n * p(r), |r| <= ln(2) / 2, p the Taylor polynomial of degree 7 (error below 1 unit in the last place of
// the result's float): n is rounded by adding 1.5 * 2^23, whose low bits then hold it. Below -87 the answer is 0.
LANES Lanes expLanes(Lanes x) {
  const Lanes clamped = smallerOf(largerOf(x, splat(-87.0f)), splat(88.0f));
  const Lanes magic = splat(12582912.0f);
  const Lanes shifted = madd(clamped, splat(1.44269504f), magic);
  const Lanes n = sub(shifted, magic);
  const Lanes r = madd(n, splat(2.12194440e-4f), madd(n, splat(-0.693359375f), clamped));
  Lanes p = splat(1.0f / 5040);
  p = madd(p, r, splat(1.0f / 720));
  p = madd(p, r, splat(1.0f / 120));
  p = madd(p, r, splat(1.0f / 24));
  p = madd(p, r, splat(1.0f / 6));
  p = madd(p, r, splat(0.5f));
  p = madd(p, r, splat(1.0f));
  p = madd(p, r, splat(1.0f));
  return zeroBelow(mul(p, power(shifted)), x, -87.0f);
}

// ---- rows of a layer -----------------------------------------------------------------------------------------------

void rmsNorm(const float* input, const float* weight, int width, float eps, float* output) {
  Lanes squares = zero();
  for (int i = 0; i < width; i += 16) {
    const Lanes x = load(input + i);
    squares = madd(x, x, squares);
  }
  const Lanes factor = splat(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(width) + eps));
  for (int i = 0; i < width; i += 16) store(output + i, mul(mul(load(input + i), factor), load(weight + i)));
}

void rotate(float* head, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; i++) {
    const float a = head[i];
    const float b = head[half + i];
    head[i] = a * cosines[i] - b * sines[i];
    head[half + i] = b * cosines[i] + a * sines[i];
  }
}

void swiglu(float* gate, const float* up) {
  for (int i = 0; i < 32; i += 16) {
    const Lanes x = load(gate + i);
    const Lanes sigmoid = div(splat(1.0f), add(splat(1.0f), expLanes(sub(zero(), x))));
    store(gate + i, mul(mul(x, sigmoid), load(up + i)));
  }
}

// ---- products ------------------------------------------------------------------------------------------------------

void prepareF32(const float* row, int groups, uint8_t* inputs) { __builtin_memcpy(inputs, row, sizeof(float) * kGroup * groups); }

void prepareQ8(const float* row, int groups, uint8_t* inputs) {
  auto* group = reinterpret_cast<Q8Inputs*>(inputs);
  for (int g = 0; g < groups; g++, group++, row += kGroup) {
    const Lanes low = load(row);
    const Lanes high = load(row + 16);
    // NaN or infinity where an input is: integers cannot carry those on, the scale does.
    const float largest = largestMagnitude(low, high);
    group->scale = largest / 127.0f;
    const Lanes factor = splat(largest > 1e-30f ? 127.0f / largest : 0.0f);
    storeBytes(group->values, mul(low, factor));
    storeBytes(group->values + 16, mul(high, factor));
    group->correction = -128 * sumBytes(group->values);
  }
}

// Products with float inputs. `Weights` says how one input (or pair of inputs) of 16 rows is read.
struct F32Weights {
  static constexpr int kInputs = 1;
  LANES Lanes at(const uint8_t* group, int input, int vector, int) { return load(reinterpret_cast<const float*>(group) + input * kPanelRows + 16 * vector); }
};

struct Bf16Weights {
  static constexpr int kInputs = 2;
  LANES Lanes at(const uint8_t* group, int input, int vector, int odd) {
    const auto* words = reinterpret_cast<const uint32_t*>(group) + input / 2 * kPanelRows + 16 * vector;
    return odd ? odds(words) : evens(words);
  }
};

// Rows x Vectors accumulators of 16 outputs over the whole depth, input after input, from output `column` on.
template <class Weights, int kKind, int Rows, int Vectors>
LANES void floatTile(const Product& p, int column) {
  const uint8_t* panel = p.panel + kGroupBytes[kKind] / kGroup * Weights::kInputs / kPanelRows * column;
  const uint8_t* inputs = p.inputs;
  const size_t stride = p.stride;
  Lanes sums[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) sums[r][v] = zero();
  }
  for (int g = 0; g < p.groups; g++, panel += kGroupBytes[kKind], inputs += kGroup * sizeof(float)) {
    for (int k = 0; k < kGroup; k += Weights::kInputs) {
#pragma GCC unroll 2
      for (int odd = 0; odd < Weights::kInputs; odd++) {
        Lanes weights[Vectors];
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; v++) weights[v] = Weights::at(panel, k, v, odd);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; r++) {
          const Lanes x = splat(reinterpret_cast<const float*>(inputs + r * stride)[k + odd]);
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; v++) sums[r][v] = madd(weights[v], x, sums[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      float* to = p.output + r * p.outputStride + column + 16 * v;
      store(to, p.add ? add(load(to), sums[r][v]) : sums[r][v]);
    }
  }
}

// Rows that fit beside a whole panel's 32 outputs use it whole; more rows take it in halves of 16 outputs.
template <class Weights, int kKind, int Rows>
void floatProduct(const Product& p) {
  if constexpr (Rows > 1) {
    if (p.rows < Rows) return floatProduct<Weights, kKind, Rows - 1>(p);
  }
  if constexpr (Rows <= kWideRows) {
    floatTile<Weights, kKind, Rows, 2>(p, 0);
  } else {
    floatTile<Weights, kKind, Rows, 1>(p, 0);
    floatTile<Weights, kKind, Rows, 1>(p, 16);
  }
}

// ---- keys and values -----------------------------------------------------------------------------------------------

void convert(float value, float* to) { *to = value; }

// Rounds to nearest, ties to even; a NaN stays one.
void convert(float value, uint16_t* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  *to = static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// How one side (keys or values) of a block is laid out: words of one float, or of two bf16 that are next to each other
// along the sum that is taken over them: two dimensions of a key, two tokens of a value.
struct F32Side {
  using Word = float;
  using Value = float;
  static constexpr int kStep = 1;
  LANES Lanes at(const Word* words, int) { return load(words); }
};

struct Bf16Side {
  using Word = uint32_t;
  using Value = uint16_t;
  static constexpr int kStep = 2;
  LANES Lanes at(const Word* words, int odd) { return odd ? odds(words) : evens(words); }
};

template <class Side>
void storeKey(const float* key, int headDim, int slot, void* block) {
  constexpr int step = Side::kStep;
  auto* to = static_cast<typename Side::Value*>(block) + slot * step;
  for (int d = 0; d < headDim; d++) convert(key[d], to + d / step * (kBlockTokens * step) + d % step);
}

template <class Side>
void storeValue(const float* value, int headDim, int slot, bool last, void* block) {
  constexpr int step = Side::kStep;
  const auto at = [&](int token) {
    return static_cast<typename Side::Value*>(block) + static_cast<size_t>(token / step) * static_cast<size_t>(headDim * step) + token % step;
  };
  typename Side::Value* to = at(slot);
  for (int d = 0; d < headDim; d++) convert(value[d], to + d * step);
  if (!last || slot % 2 != 0) return;
  typename Side::Value* partner = at(slot + 1);
  for (int d = 0; d < headDim; d++) partner[d * step] = 0;
}

template <class Side, int Rows, int Blocks>
LANES void scoreTile(const float* queries, size_t stride, int headDim, const void* const* blocks, float* output, size_t outputStride) {
  Lanes sums[Rows][Blocks];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; b++) sums[r][b] = zero();
  }
  for (int d = 0; d < headDim; d += Side::kStep) {
    const int word = d / Side::kStep * kBlockTokens;
#pragma GCC unroll 2
    for (int odd = 0; odd < Side::kStep; odd++) {
      Lanes keys[Blocks];
#pragma GCC unroll 4
      for (int b = 0; b < Blocks; b++) keys[b] = Side::at(static_cast<const typename Side::Word*>(blocks[b]) + word, odd);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        const Lanes q = splat(queries[r * stride + d + odd]);
#pragma GCC unroll 4
        for (int b = 0; b < Blocks; b++) sums[r][b] = madd(q, keys[b], sums[r][b]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int b = 0; b < Blocks; b++) store(output + r * outputStride + b * kBlockTokens, sums[r][b]);
  }
}

template <class Side, int Rows>
void scoreRows(const float* queries, size_t stride, int rows, int headDim, const void* const* blocks, int count, float* output, size_t outputStride) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return scoreRows<Side, Rows - 1>(queries, stride, rows, headDim, blocks, count, output, outputStride);
  }
  int b = 0;
  for (; b + kScoreBlocks <= count; b += kScoreBlocks) {
    scoreTile<Side, Rows, kScoreBlocks>(queries, stride, headDim, blocks + b, output + b * kBlockTokens, outputStride);
  }
  for (; b < count; b++) scoreTile<Side, Rows, 1>(queries, stride, headDim, blocks + b, output + b * kBlockTokens, outputStride);
}

template <class Side>
void scores(const float* queries, size_t stride, int rows, int headDim, const void* const* blocks, int count, float* output, size_t outputStride) {
  for (int r = 0; r < rows; r += kScoreRows) {
    const int some = rows - r < kScoreRows ? rows - r : kScoreRows;
    scoreRows<Side, kScoreRows>(queries + r * stride, stride, some, headDim, blocks, count, output + r * outputStride, outputStride);
  }
}

// The last dimensions of a head whose size is no multiple of 16.
template <class Word>
LANES void copyPart(const Word* from, int count, Word* whole) {
  for (int i = 0; i < 16; i++) whole[i] = i < count ? from[i] : Word{};
}

// Rows x Vectors accumulators of 16 head dimensions; `width` below 16 only where Partial.
template <class Side, int Rows, int Vectors, bool Partial>
LANES void weighTile(const float* weights, size_t weightStride, int headDim, const void* const* blocks, int column, int width, int first, int last,
                     float* sums, size_t sumStride) {
  using Word = typename Side::Word;
  Lanes totals[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) totals[r][v] = load(sums + r * sumStride + column + 16 * v);
  }
  for (int t = first; t < last; t += Side::kStep) {
    const Word* words = static_cast<const Word*>(blocks[t / kBlockTokens]) + t % kBlockTokens / Side::kStep * headDim + column;
    Word whole[16];
    if (Partial) {
      copyPart(words, width, whole);
      words = whole;
    }
#pragma GCC unroll 2
    for (int odd = 0; odd < Side::kStep; odd++) {
      Lanes values[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) values[v] = Side::at(words + 16 * v, odd);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        const Lanes p = splat(weights[r * weightStride + t + odd]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; v++) totals[r][v] = madd(p, values[v], totals[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store(sums + r * sumStride + column + 16 * v, totals[r][v]);
  }
}

template <class Side, int Rows>
void weighRows(const float* weights, size_t weightStride, int rows, int headDim, const void* const* blocks, int first, int last, float* sums,
               size_t sumStride) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return weighRows<Side, Rows - 1>(weights, weightStride, rows, headDim, blocks, first, last, sums, sumStride);
  }
  int d = 0;
  for (; d + 16 * kWeighVectors <= headDim; d += 16 * kWeighVectors) {
    weighTile<Side, Rows, kWeighVectors, false>(weights, weightStride, headDim, blocks, d, 0, first, last, sums, sumStride);
  }
  for (; d + 16 <= headDim; d += 16) weighTile<Side, Rows, 1, false>(weights, weightStride, headDim, blocks, d, 0, first, last, sums, sumStride);
  if (d < headDim) weighTile<Side, Rows, 1, true>(weights, weightStride, headDim, blocks, d, headDim - d, first, last, sums, sumStride);
}

template <class Side>
void weigh(const float* weights, size_t weightStride, int rows, int headDim, const void* const* blocks, int first, int last, float* sums, size_t sumStride) {
  for (int r = 0; r < rows; r += kWeighRows) {
    const int some = rows - r < kWeighRows ? rows - r : kWeighRows;
    weighRows<Side, kWeighRows>(weights + r * weightStride, weightStride, some, headDim, blocks, first, last, sums + r * sumStride, sumStride);
  }
}

// ---- distributions -------------------------------------------------------------------------------------------------

float softmax(float* scores, int first, int last, float scale, float* topScore) {
  const Lanes factor = splat(scale);
  const int begin = first / 16 * 16;
  Lanes most = splat(-3e38f);
  for (int i = begin; i < last; i += 16) {
    const Lanes x = keep(mul(load(scores + i), factor), first - i, last - i, -3e38f);
    store(scores + i, x);
    most = largerOf(most, x);
  }
  *topScore = top(most);
  const Lanes offset = splat(*topScore);
  Lanes total = zero();
  for (int i = begin; i < last; i += 16) {
    const Lanes e = keep(expLanes(sub(load(scores + i), offset)), first - i, last - i, 0.0f);
    store(scores + i, e);
    total = add(total, e);
  }
  return sum(total);
}

float largest(const float* values, int count, bool* finite) {
  Lanes most = splat(-3.4e38f);
  // x - x is zero where x is finite and NaN elsewhere.
  Lanes trouble = zero();
  for (int i = 0; i < count; i += 16) {
    const Lanes x = keep(load(values + i), 0, count - i, -3.4e38f);
    most = largerOf(most, x);
    trouble = add(trouble, sub(x, x));
  }
  *finite = sum(trouble) == 0.0f;
  return top(most);
}

float exponentials(float* values, int count, float topValue, float factor) {
  const Lanes offset = splat(topValue);
  const Lanes scale = splat(factor);
  Lanes total = zero();
  for (int i = 0; i < count; i += 16) {
    const Lanes e = keep(expLanes(mul(sub(load(values + i), offset), scale)), 0, count - i, 0.0f);
    store(values + i, e);
    total = add(total, e);
  }
  return sum(total);
}

int atLeast(const float* values, int count, float least, int32_t* indexes) {
  int found = 0;
  for (int i = 0; i < count; i += 16) {
    uint32_t hits = reaching(load(values + i), least);
    if (count - i < 16) hits &= (1u << (count - i)) - 1;
    for (; hits != 0; hits &= hits - 1) indexes[found++] = i + __builtin_ctz(hits);
  }
  return found;
}

uint64_t touch(const uint8_t* from, size_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(from);
  uint64_t folded = 0;
  for (size_t i = 0; i < bytes / sizeof(uint64_t); i++) folded ^= words[i];
  return folded;
}

// The part of a table that is the same for all instruction sets. A constant: an initialiser would run at load, with
// instructions that the machine may lack.
constexpr Kernels commonKernels(const char* name) {
  Kernels k{};
  k.name = name;
  k.rmsNorm = rmsNorm;
  k.rotate = rotate;
  k.swiglu = swiglu;
  k.storeKey[kKvF32] = storeKey<F32Side>;
  k.storeKey[kKvBf16] = storeKey<Bf16Side>;
  k.storeValue[kKvF32] = storeValue<F32Side>;
  k.storeValue[kKvBf16] = storeValue<Bf16Side>;
  k.scores[kKvF32] = scores<F32Side>;
  k.scores[kKvBf16] = scores<Bf16Side>;
  k.weigh[kKvF32] = weigh<F32Side>;
  k.weigh[kKvBf16] = weigh<Bf16Side>;
  k.softmax = softmax;
  k.largest = largest;
  k.exponentials = exponentials;
  k.atLeast = atLeast;
  k.touch = touch;
  k.tileRows[kF32] = kFloatRows;
  k.inputBytes[kF32] = kGroup * sizeof(float);
  k.prepare[kF32] = prepareF32;
  k.product[kF32] = floatProduct<F32Weights, kF32, kFloatRows>;
  k.inputBytes[kQ8] = sizeof(Q8Inputs);
  k.prepare[kQ8] = prepareQ8;
  return k;
}

}  // namespace
}  // namespace fastswitch
