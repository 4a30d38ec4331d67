// What a step tells the kernels, row by row and item by item: laid out in one range, which goes to the device in one copy.
#pragma once

#include <vector>

#include "../plan.h"
#include "device.h"
#include "kernels.h"

namespace fastswitch::cuda {

// How much of each the kernels are launched for. A launch may have more than the step needs (see pad).
struct StepShape {
  int rows = 0;
  int samples = 0;
  int items = 0;  // of attention
  int folds = 0;

  bool operator<(const StepShape& other) const;
};

// Byte offsets of the parts of a step of one shape.
struct InputLayout {
  explicit InputLayout(const StepShape& shape);
  size_t tokens, positions, blocks, sampleRows;  // of rows, rows, rows, samples: int32
  size_t items, folds, sampleItems;              // structs of kernels.h
  size_t words;                                  // block tables and lists, as long as they are: last, so that the shape fixes all
};

// How attention is cut into items; any choice gives the same bits.
struct TileRule {
  int tileTokens = 0;    // of one sequence, for a warp
  int kvHeads = 0;
  int window = 0;        // of all layers; 0 where some layer has none
  int warps = 0;         // that keep the device busy
  int partialsMax = 0;   // spans that may be computed apart
};

class StepInputs {
 public:
  // Lists the attention of the step and writes all parts, exactly as many as the step needs.
  void build(const StepPlan& plan, const TileRule& rule);
  // Widens the shape to what is launched: rows, samples and items that nobody asked for follow, marked as padding.
  void pad(const StepShape& shape);

  const StepShape& shape() const { return shape_; }
  size_t bytes() const;
  // Writes `bytes()` bytes.
  void write(uint8_t* to) const;

 private:
  struct Tile {
    int32_t firstRow, tokens, position, table;
    int firstSpan, spans;
  };
  void addSequence(const SequencePlan& sequence, const TileRule& rule);
  void addSample(const SequencePlan& sequence);
  void cut(const TileRule& rule);

  StepShape shape_;
  std::vector<int32_t> tokens_, positions_, blocks_, sampleRows_, words_;
  std::vector<Tile> tiles_;
  std::vector<AttentionItem> items_;
  std::vector<FoldItem> folds_;
  std::vector<SampleItem> sampleItems_;
};

}  // namespace fastswitch::cuda
