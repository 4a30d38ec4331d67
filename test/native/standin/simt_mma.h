// What `mma` computes once all lanes of a warp have come. Included by simt.cc only.
#pragma once

#include "../../../src/native/cuda/simt.h"
#include "simt_host.h"

namespace fastswitch::standin {

// Who holds what: PTX ISA, fragments of mma.m16n8k16 with .bf16. A GPU adds in an order of its own; here k ascends.
void multiplyOperands(Warp& warp) {
  typedef float Four __attribute__((vector_size(16)));
  float a[16][16];
  alignas(16) float b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const MmaOperands& from = warp.operands[lane];
    const int group = lane / 4;
    const int pair = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
      float* to = &a[group + i % 2 * 8][pair + i / 2 * 8];
      to[0] = floatOf(from.a[i] << 16);
      to[1] = floatOf(from.a[i] & 0xffff0000u);
    }
    for (int i = 0; i < 2; i++) {
      b[pair + 8 * i][group] = floatOf(from.b[i] << 16);
      b[pair + 8 * i + 1][group] = floatOf(from.b[i] & 0xffff0000u);
    }
  }
  for (int row = 0; row < 16; row++) {
    float* sums[4];
    for (int i = 0; i < 4; i++) sums[i] = &warp.operands[row % 8 * 4 + i].sums[row / 8 * 2];
    Four low = {sums[0][0], sums[0][1], sums[1][0], sums[1][1]};
    Four high = {sums[2][0], sums[2][1], sums[3][0], sums[3][1]};
    for (int k = 0; k < 16; k++) {
      low += a[row][k] * *reinterpret_cast<const Four*>(&b[k][0]);
      high += a[row][k] * *reinterpret_cast<const Four*>(&b[k][4]);
    }
    for (int i = 0; i < 2; i++) {
      for (int j = 0; j < 2; j++) {
        sums[i][j] = low[2 * i + j];
        sums[2 + i][j] = high[2 * i + j];
      }
    }
  }
}

}  // namespace fastswitch::standin
