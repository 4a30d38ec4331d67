// The tensors of a model as they lie in their files: found, checked, and read row by row. What an engine makes of them
// is its own affair.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "status.h"

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

// A matrix, row-major, in a file or to be drawn. Absent where `rows` is 0.
struct Tensor {
  const uint8_t* data = nullptr;  // null: values are drawn from `key`
  FileDtype dtype = FileDtype::f32;
  int rows = 0;
  int columns = 0;
  uint64_t key = 0;
  float middle = 0;  // of drawn values

  bool present() const { return rows > 0; }
  size_t rowBytes() const;
  // One row as floats; exact for every dtype.
  void row(int index, float* to) const;
  // Draws a row in this tensor's dtype: a function of the key and the element's number only.
  void draw(int index, uint8_t* to) const;
};

// Every tensor of a model by layer (-1: those of no layer) and role.
class TensorTable {
 public:
  // Maps the files. badModel with the name of the tensor where one is missing, doubled, of wrong shape, or outside its file.
  Status read(const EngineSpec& spec, uint64_t seed);
  Tensor& at(int layer, Role role);
  std::vector<Tensor>& all() { return tensors_; }
  std::vector<std::unique_ptr<MappedFile>>& files() { return files_; }

 private:
  Status place(const EngineSpec& spec, const TensorSpec& tensor, uint64_t seed);
  Status checkComplete(const EngineSpec& spec);

  std::vector<Tensor> tensors_;
  std::vector<std::unique_ptr<MappedFile>> files_;
};

// The values of a tensor of one row; empty where it is absent. Padded with zeros to a multiple of 16.
std::vector<float> vectorOf(const Tensor& tensor);
// Biases of q, k and v, one after the other, zeros for those absent; empty where all are.
std::vector<float> stackedBias(const EngineSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v);

// Bits of an f16, to nearest, ties to even, for 0 <= value below f16's largest; and back.
uint16_t toHalf(float value);
float fromHalf(uint16_t half);

inline float asFloat(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t asBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

constexpr size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace fastswitch
