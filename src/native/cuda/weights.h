// The tensors of a model on a GPU: matrices as bf16, rows padded for the kernels; norms and biases as floats.
#pragma once

#include <vector>

#include "../engine.h"
#include "device.h"
#include "kernels.h"

namespace fastswitch::cuda {

// Row-major, [rows][stride]; zeros beyond `columns`.
struct DeviceMatrix {
  const Bf16* data = nullptr;
  int rows = 0;
  int columns = 0;
  int stride = 0;

  size_t bytes() const { return static_cast<size_t>(rows) * static_cast<size_t>(stride) * sizeof(Bf16); }
};

// Vectors are null where the model has none.
struct DeviceLayer {
  const float *attentionNorm = nullptr, *mlpNorm = nullptr, *queryNorm = nullptr, *keyNorm = nullptr;
  const float *qkvBias = nullptr, *oBias = nullptr;
  DeviceMatrix qkv;     // rows of q, then k, then v
  DeviceMatrix o;
  DeviceMatrix gateUp;  // rows of gate, then up
  DeviceMatrix down;
};

struct DeviceWeights {
  DeviceMemory memory;
  DeviceMatrix embedding;
  DeviceMatrix head;  // the embedding itself where they are tied
  const float* finalNorm = nullptr;
  const float *cosines = nullptr, *sines = nullptr;  // [positions][headDim / 2]
  std::vector<DeviceLayer> layers;

  size_t matrixBytes() const;
};

// Values of files are rounded to bf16 on the way; matrices of file -1 are drawn on the device. Uses `stream` and returns
// when it is done. noMemory says how much is needed and how much there is.
Status loadDeviceWeights(Gpu& gpu, const EngineSpec& spec, uint64_t seed, Stream stream, DeviceWeights* weights);

}  // namespace fastswitch::cuda
