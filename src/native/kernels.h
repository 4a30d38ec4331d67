// The inner loops, once per instruction set behind one table of functions. Every output element is reduced in one
// fixed order that depends neither on how many rows are computed together nor on who computes them: that is what
// makes a request's tokens the same in any batch.
//
// Nothing in this header may generate code: it is included where AVX instructions are on, and the linker would be
// free to keep that copy for everybody.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fastswitch {

enum WeightKind : int { kF32 = 0, kBf16 = 1, kQ8 = 2, kWeightKinds = 3 };
enum KvDtype : int { kKvF32 = 0, kKvBf16 = 1, kKvDtypes = 2 };

// Output rows of a matrix that are packed together.
constexpr int kPanelRows = 32;
// Inputs are padded to whole groups with zeros; a q8 group shares one scale.
constexpr int kGroup = 32;
// Tokens of a KV block, and the lanes of every vector here.
constexpr int kBlockTokens = 16;
// Tokens whose attention scores are held at once; their softmax is merged with that of the other chunks.
constexpr int kChunkTokens = 512;
constexpr int kHeadDimMax = 512;

// Packed weights of one panel, group after group of 32 inputs:
//   f32   float[32 inputs][32 rows]
//   bf16  uint16_t[16 pairs][32 rows][2 inputs]
//   q8    Q8Weights
struct Q8Weights {
  uint16_t scales[32];        // f16, one a row; first, so that memory is read strictly forwards
  uint8_t weights[8][32][4];  // [input / 4][row][input % 4], stored + 128
};

// Bytes of one group of one panel, by weight kind.
constexpr size_t kGroupBytes[kWeightKinds] = {32 * 32 * 4, 32 * 32 * 2, sizeof(Q8Weights)};

// One group of a row of inputs as the q8 product wants it.
struct Q8Inputs {
  float scale;
  int32_t correction;  // -128 times the sum of the values: undoes the + 128 of the weights
  int8_t values[32];
};

// One panel times some rows of prepared inputs (`stride` bytes apart): 32 outputs a row, `outputStride` floats apart.
struct Product {
  const uint8_t* panel;
  int groups;
  const uint8_t* inputs;
  size_t stride;
  int rows;
  float* output;
  size_t outputStride;
  bool add;  // to what is there
  // Weights that are wanted soon: each group loads so many cache lines of them, one after the other.
  const uint8_t* ahead;
  int aheadLines;
};

struct Kernels {
  const char* name;

  // Most input rows of one product call, by weight kind.
  int tileRows[kWeightKinds];
  // Bytes of one prepared group of 32 inputs, by weight kind.
  int inputBytes[kWeightKinds];
  // Turns one row of groups * 32 floats into the inputs of a product.
  void (*prepare[kWeightKinds])(const float* row, int groups, uint8_t* inputs);
  void (*product[kWeightKinds])(const Product& product);
  // Rows of a batch, from and to, for which it pays to load the next panel meanwhile, by weight kind: fewer rows wait
  // for memory anyway, and more make up for waiting once.
  int aheadRowsMin[kWeightKinds];
  int aheadRowsMax[kWeightKinds];

  // output = input * weight / sqrt(mean(input^2) + eps) over `width` values. Reads and writes up to the next multiple
  // of 16, where inputs must be zero.
  void (*rmsNorm)(const float* input, const float* weight, int width, float eps, float* output);
  // Rotates the halves of one head: (a, b) -> (a cos - b sin, b cos + a sin), all of headDim / 2 values.
  void (*rotate)(float* head, const float* cosines, const float* sines, int half);
  // gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i] for 32 values.
  void (*swiglu)(float* gate, const float* up);

  // One token's key or value of one head into a block. Keys are [head dim][16 tokens], values [16 tokens][head dim]; as
  // bf16, [head dim / 2][16 tokens][2] and [8][head dim][2 tokens]. `last`: no later token is being stored, and the
  // value's partner (the next token, of an even one) becomes zero.
  void (*storeKey[kKvDtypes])(const float* key, int headDim, int slot, void* block);
  void (*storeValue[kKvDtypes])(const float* value, int headDim, int slot, bool last, void* block);
  // output[row][16 b + t] = query[row] . key t of block b.
  void (*scores[kKvDtypes])(const float* queries, size_t stride, int rows, int headDim, const void* const* blocks, int count, float* output,
                            size_t outputStride);
  // sums[row][d] += over tokens t in [first, last), in order: weights[row][t] * value[t][d]. Both ends are even.
  void (*weigh[kKvDtypes])(const float* weights, size_t weightStride, int rows, int headDim, const void* const* blocks, int first, int last, float* sums,
                           size_t sumStride);
  // Softmax numerators of scores[first, last) in place, and zeros in the rest of the blocks they touch. Answers their
  // sum, and the largest scaled score in `top`.
  float (*softmax)(float* scores, int first, int last, float scale, float* top);

  // Largest of `count` values; `finite` is false where one is NaN or infinite.
  float (*largest)(const float* values, int count, bool* finite);
  // Writes the indexes of the values that are at least `least`, ascending; answers how many.
  int (*atLeast)(const float* values, int count, float least, int32_t* indexes);
  // Loads every byte and folds them into one word: as fast as memory can be read. `bytes` is a multiple of 64.
  uint64_t (*touch)(const uint8_t* from, size_t bytes);
  // values[i] = exp((values[i] - top) * factor), in place; answers their sum. Writes up to the next multiple of 16.
  float (*exponentials)(float* values, int count, float top, float factor);
};

const Kernels* portableKernels();
#ifdef FASTSWITCH_X86_64
const Kernels* avx2Kernels();
const Kernels* avx512Kernels();
#endif

// Instruction sets in order of preference, as EngineOptions.isa names them.
enum class Isa : int { automatic = 0, avx512 = 1, avx2 = 2, portable = 3 };

// The kernels of an instruction set, or null where this machine lacks it.
const Kernels* findKernels(Isa isa);

}  // namespace fastswitch
