// The tensors of a model: mapped from their files (or drawn at random), checked, and packed once for the kernels.
#pragma once

#include <memory>
#include <vector>

#include "arena.h"
#include "engine.h"
#include "kernels.h"
#include "threads.h"

namespace fastswitch {

// A file mapped for reading.
class MappedFile {
 public:
  static Status open(const std::string& path, std::unique_ptr<MappedFile>* file);
  ~MappedFile();
  const uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  const uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// A matrix as it lies in its file, row-major. Absent where `data` is null.
struct Tensor {
  const uint8_t* data = nullptr;
  FileDtype dtype = FileDtype::f32;
  int rows = 0;
  int columns = 0;

  // One row as floats; exact for every dtype.
  void row(int index, float* to) const;
};

// A matrix packed in panels of 32 output rows.
struct Matrix {
  WeightKind kind = kF32;
  int panels = 0;
  int groups = 0;  // of 32 inputs
  uint8_t* data = nullptr;

  size_t panelBytes() const { return kGroupBytes[kind] * static_cast<size_t>(groups); }
  size_t bytes() const { return panelBytes() * static_cast<size_t>(panels); }
  const uint8_t* panel(int index) const { return data + panelBytes() * static_cast<size_t>(index); }
};

struct Layer {
  std::vector<float> attentionNorm, mlpNorm, qNorm, kNorm;  // padded to 16; qNorm and kNorm empty where absent
  std::vector<float> qkvBias, oBias;                        // one for each output row; empty where absent
  Matrix qkv;                                               // rows of q, then k, then v
  Matrix o;
  Matrix gateUp;  // panel 2i holds gate rows [32 i, 32 i + 32), panel 2i + 1 the same rows of up
  Matrix down;
};

struct Weights {
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<Arena> drawn;
  // Packed matrices one after the other: a few large ranges, so that even small ones lie in huge pages.
  std::vector<Arena> packed;
  size_t packedUsed = 0;  // bytes of the last of them
  Tensor embed;
  std::vector<float> finalNorm;
  Matrix head;
  std::vector<Layer> layers;

  size_t matrixBytes() const;
  Status allocate(size_t bytes, uint8_t** data);
};

// badModel with the name of the tensor where one is missing, doubled, of wrong shape, or outside its file.
Status loadWeights(const EngineSpec& spec, bool q8, uint64_t seed, ThreadPool& pool, Weights* weights);

constexpr size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace fastswitch
