// The kernels that work row by row: embedding, norms, rotation, gated units, and random weights. Where a kernel of the CPU
// backend does the same, it does it in the same order of operations on floats (a sum over a row apart).
#pragma once

#include "../mix.h"
#include "kernels.h"

namespace fastswitch::cuda {

// Eight bf16 as they lie in memory.
DEVICE void unpack8(const Words4& words, float (&values)[8]) {
  for (int i = 0; i < 4; i++) {
    values[2 * i] = floatOf(words.word[i] << 16);
    values[2 * i + 1] = floatOf(words.word[i] & 0xffff0000u);
  }
}

DEVICE Words4 pack8(const float (&values)[8]) {
  Words4 words;
  for (int i = 0; i < 4; i++) words.word[i] = pack(values[2 * i], values[2 * i + 1]);
  return words;
}

DEVICE void readFloats8(const float* from, float (&values)[8]) {
  const Words4 low = read16(from);
  const Words4 high = read16(from + 4);
  for (int i = 0; i < 4; i++) {
    values[i] = floatOf(low.word[i]);
    values[4 + i] = floatOf(high.word[i]);
  }
}

DEVICE void storeFloats8(float* to, const float (&values)[8]) {
  Words4 low, high;
  for (int i = 0; i < 4; i++) {
    low.word[i] = bitsOf(values[i]);
    high.word[i] = bitsOf(values[4 + i]);
  }
  store16(to, low);
  store16(to + 4, high);
}

// The sum over all threads, in an order that depends on the number of threads only. `shared` holds a float a warp, and is
// free again after the next syncBlock.
template <int threads>
DEVICE float sumOfBlock(float value, float* shared) {
  for (int mask = 16; mask > 0; mask /= 2) value += shuffleXor(value, mask);
  if (lane() == 0) shared[warp()] = value;
  syncBlock();
  float total = 0;
  for (int i = 0; i < threads / 32; i++) total += shared[i];
  return total;
}

DEVICE float normFactor(float squares, int width, float epsilon) {
  return divided(1.0f, squareRoot(divided(squares, static_cast<float>(width)) + epsilon));
}

KERNEL(embedRows, 256, EmbedParams) {
  const size_t row = static_cast<size_t>(blockX());
  float* to = p.residual + row * static_cast<size_t>(p.stride);
  const bool present = p.positions[row] >= 0;
  const Bf16* from = p.embedding + (present ? static_cast<size_t>(p.tokens[row]) * static_cast<size_t>(p.stride) : 0);
  for (int i = 8 * threadIndex(); i < p.stride; i += 8 * 256) {
    float values[8] = {};
    if (present) unpack8(load16(from + i), values);
    storeFloats8(to + i, values);
  }
}

KERNEL(normRows, 256, NormParams) {
  const size_t index = static_cast<size_t>(blockX());
  const int64_t row = p.rows == nullptr ? static_cast<int64_t>(index) : p.rows[index];
  Bf16* to = p.output + index * static_cast<size_t>(p.stride);
  if (row < 0) {
    for (int i = 8 * threadIndex(); i < p.stride; i += 8 * 256) store16(to + i, {});
    return;
  }
  float* from = p.residual + static_cast<size_t>(row) * static_cast<size_t>(p.stride);
  float squares = 0;
  for (int i = 8 * threadIndex(); i < p.stride; i += 8 * 256) {
    float values[8];
    readFloats8(from + i, values);
    for (int j = 0; j < 8; j++) {
      if (i + j >= p.hidden) {
        values[j] = 0;
      } else if (p.bias != nullptr) {
        values[j] += p.bias[i + j];
      }
      squares = fused(values[j], values[j], squares);
    }
    if (p.bias != nullptr) storeFloats8(from + i, values);
  }
  const float factor = normFactor(sumOfBlock<256>(squares, static_cast<float*>(sharedMemory())), p.hidden, p.epsilon);
  for (int i = 8 * threadIndex(); i < p.stride; i += 8 * 256) {
    float values[8];
    readFloats8(from + i, values);
    for (int j = 0; j < 8; j++) values[j] = i + j < p.hidden ? multiplied(multiplied(values[j], factor), p.weight[i + j]) : 0.0f;
    store16(to + i, pack8(values));
  }
}

// Value `index` of a head after rotation by the angles of its position.
DEVICE float rotated(const float* head, const float* cosines, const float* sines, int half, int index) {
  if (index < half) return multiplied(head[index], cosines[index]) - multiplied(head[index + half], sines[index]);
  const int pair = index - half;
  return multiplied(head[index], cosines[pair]) + multiplied(head[pair], sines[pair]);
}

// A head of the row with bias and norm, in shared memory for all threads of the block.
DEVICE const float* prepareHead(const RotateParams& p, int row, int head, const float* norm) {
  auto* reduced = static_cast<float*>(sharedMemory());
  float* values = reduced + 16;
  const int first = head * p.headDim;
  const float* from = p.projected + static_cast<size_t>(row) * static_cast<size_t>(p.projectedStride) + first;
  float squares = 0;
  for (int i = threadIndex(); i < p.headDim; i += 128) {
    const float value = p.bias == nullptr ? from[i] : from[i] + p.bias[first + i];
    values[i] = value;
    squares = fused(value, value, squares);
  }
  if (norm != nullptr) {
    const float factor = normFactor(sumOfBlock<128>(squares, reduced), p.headDim, p.epsilon);
    for (int i = threadIndex(); i < p.headDim; i += 128) values[i] = multiplied(multiplied(values[i], factor), norm[i]);
  }
  syncBlock();
  return values;
}

KERNEL(rotateRows, 128, RotateParams) {
  const int row = blockX();
  const int head = blockY();
  const int position = p.positions[row];
  const int width = paddedHead(p.headDim);
  const bool query = head < p.heads;
  const bool value = head >= p.heads + p.kvHeads;
  Bf16* to = p.queries + (static_cast<size_t>(row) * static_cast<size_t>(p.heads) + static_cast<size_t>(head)) * static_cast<size_t>(width);
  if (position < 0) {
    for (int i = 2 * threadIndex(); query && i < width; i += 2 * 128) *reinterpret_cast<uint32_t*>(to + i) = 0;
    return;
  }
  const float* values = prepareHead(p, row, head, query ? p.queryNorm : value ? nullptr : p.keyNorm);
  if (!query) {
    // Keys of all heads, then values of all heads: in the order of the heads behind those of q.
    uint8_t* layer = p.arena + static_cast<size_t>(p.blocks[row]) * p.blockBytes + p.layerOffset;
    to = reinterpret_cast<Bf16*>(layer) + static_cast<size_t>(head - p.heads) * kvHeadValues(p.headDim) + position % blockTokens * width;
  }
  const int half = p.headDim / 2;
  const float* cosines = p.cosines + static_cast<size_t>(position) * static_cast<size_t>(half);
  const float* sines = p.sines + static_cast<size_t>(position) * static_cast<size_t>(half);
  for (int i = 2 * threadIndex(); i < width; i += 2 * 128) {
    float pair[2];
    for (int j = 0; j < 2; j++) {
      pair[j] = i + j >= p.headDim ? 0.0f : value ? values[i + j] : rotated(values, cosines, sines, half, i + j);
    }
    *reinterpret_cast<uint32_t*>(to + i) = pack(pair[0], pair[1]);
  }
}

DEVICE float gatedUnit(float gate, float up) {
  const float sigmoid = divided(1.0f, 1.0f + exponential(-gate));
  return multiplied(multiplied(gate, sigmoid), up);
}

KERNEL(gateRows, 256, GateParams) {
  const size_t row = static_cast<size_t>(blockX());
  const int width = static_cast<int>(padded(static_cast<size_t>(p.intermediate)));
  const Bf16* gate = p.gateUp + row * 2 * static_cast<size_t>(p.intermediate);
  const Bf16* up = gate + p.intermediate;
  Bf16* to = p.units + row * static_cast<size_t>(width);
  // Rows and their halves are aligned for vectors only where the width allows it.
  const bool aligned = p.intermediate % 8 == 0;
  for (int i = 8 * threadIndex(); i < width; i += 8 * 256) {
    float gates[8] = {};
    float ups[8] = {};
    if (aligned && i < p.intermediate) {
      unpack8(load16(gate + i), gates);
      unpack8(load16(up + i), ups);
    } else {
      for (int j = 0; j < 8 && i + j < p.intermediate; j++) {
        gates[j] = toFloat(gate[i + j]);
        ups[j] = toFloat(up[i + j]);
      }
    }
    for (int j = 0; j < 8; j++) gates[j] = gatedUnit(gates[j], ups[j]);
    store16(to + i, pack8(gates));
  }
}

KERNEL(drawRows, 256, DrawParams) {
  const size_t row = static_cast<size_t>(blockX());
  const uint64_t first = p.key + (p.firstRow + row) * static_cast<uint64_t>(p.columns);
  for (int i = threadIndex(); i < p.stride; i += 256) {
    const float unit = static_cast<float>(static_cast<int32_t>(mix(first + static_cast<uint64_t>(i)) >> 32)) * 0x1p-31f * 1.7320508f;
    const float value = i < p.columns ? p.middle + multiplied(0.02f, unit) : 0.0f;
    const size_t at = row * static_cast<size_t>(p.stride) + static_cast<size_t>(i);
    if (p.asFloat != 0) {
      static_cast<float*>(p.output)[at] = value;
    } else {
      // Cut, not rounded, as weights.cc does it.
      static_cast<Bf16*>(p.output)[at] = {static_cast<uint16_t>(bitsOf(value) >> 16)};
    }
  }
}

}  // namespace fastswitch::cuda
