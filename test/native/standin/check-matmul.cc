// The products of matmul.cuh: near to sums in double precision, the same bits from both kernels and wherever a row stands,
// and nothing read or written that is not theirs.
#include <cmath>
#include <cstring>

#include "check.h"
#include "guarded.h"

using namespace fastswitch;
using namespace fastswitch::cuda;
using fastswitch::check::expect;
using fastswitch::check::Guarded;
using fastswitch::check::launch;
using fastswitch::check::Random;

namespace {

constexpr float untouched = 12345.0f;
Random source{20240917};

int between(int low, int high) { return low + source.below(high - low + 1); }
size_t product(int a, int b) { return static_cast<size_t>(a) * static_cast<size_t>(b); }

struct Shape {
  int rows, columns, k, outputStride;
  int stride() const { return static_cast<int>(padded(static_cast<size_t>(k))); }
};

// Random rows of k values, and zeros up to the stride.
void fill(Guarded<Bf16>& matrix, int k, int stride) {
  for (size_t i = 0; i < matrix.size(); i++) matrix[i] = toBf16(static_cast<int>(i) % stride < k ? source.unit() : 0.0f);
}

void multiply(const char* name, const Shape& shape, const Bf16* inputs, const Bf16* weights, void* output, bool asBf16, bool add) {
  const MatmulParams params = {inputs, weights, output, shape.rows, shape.columns, shape.stride(), shape.outputStride, asBf16, add};
  const bool narrow = strcmp(name, "matmulNarrow") == 0;
  const auto pieces = [](int whole, int size) { return static_cast<unsigned>((whole + size - 1) / size); };
  if (narrow) {
    launch(name, params, pieces(shape.columns, matmulNarrowColumns) * pieces(shape.rows, matmulNarrowRows), 1, 256, matmulNarrowShared);
  } else {
    launch(name, params, pieces(shape.columns, matmulTile), pieces(shape.rows, matmulTile), 256, matmulWideShared);
  }
}

struct Problem {
  explicit Problem(const Shape& shape)
      : shape(shape),
        inputs(product(shape.rows, shape.stride())),
        weights(product(shape.columns, shape.stride())),
        all(product(shape.rows, shape.outputStride), untouched) {
    fill(inputs, shape.k, shape.stride());
    fill(weights, shape.k, shape.stride());
    multiply("matmulWide", shape, inputs.data(), weights.data(), all.data(), false, false);
  }

  // Rows `first` to first + rows, from memory of their own.
  void run(const char* name, int first, int rows, Guarded<float>& output) const {
    Shape part = shape;
    part.rows = rows;
    Guarded<Bf16> some(product(rows, shape.stride()));
    memcpy(some.data(), inputs.data() + product(first, shape.stride()), some.size() * sizeof(Bf16));
    multiply(name, part, some.data(), weights.data(), output.data(), false, false);
  }

  bool isNear() const {
    for (size_t at = 0; at < all.size(); at++) {
      const size_t row = at / static_cast<size_t>(shape.outputStride), column = at % static_cast<size_t>(shape.outputStride);
      if (column >= static_cast<size_t>(shape.columns)) {
        if (all[at] != untouched) return false;
        continue;
      }
      double sum = 0, size = 0;
      for (size_t k = 0; k < static_cast<size_t>(shape.k); k++) {
        const double a = toFloat(inputs[row * static_cast<size_t>(shape.stride()) + k]);
        const double b = toFloat(weights[column * static_cast<size_t>(shape.stride()) + k]);
        sum += a * b;
        size += std::fabs(a * b);
      }
      if (!(std::fabs(all[at] - sum) <= 1e-5 * size + 1e-6)) {
        printf("row %zu column %zu of %d x %d x %d: %g, not %g\n", row, column, shape.rows, shape.columns, shape.k, all[at], sum);
        return false;
      }
    }
    return true;
  }

  bool isSame(const char* name, int first, int rows) const {
    Guarded<float> some(product(rows, shape.outputStride), untouched);
    run(name, first, rows, some);
    const bool same = memcmp(some.data(), all.data() + product(first, shape.outputStride), some.size() * sizeof(float)) == 0;
    if (!same) printf("%s: other bits for rows %d to %d of %d x %d x %d\n", name, first, first + rows, shape.rows, shape.columns, shape.k);
    return same;
  }

  Shape shape;
  Guarded<Bf16> inputs, weights;
  Guarded<float> all;
};

void checkShapes() {
  bool near = true, narrow = true, wide = true;
  const Shape shapes[] = {{1, 1, 32, 1},        {1, 33, 40, 64},    {5, 32, 1024, 32}, {16, 129, 1056, 130}, {17, 70, 2048, 70},
                          {40, 100, 3000, 128}, {130, 40, 96, 41}, {150, 131, 1500, 131}};
  for (const Shape& shape : shapes) {
    const Problem problem(shape);
    near = near && problem.isNear();
    narrow = narrow && problem.isSame("matmulNarrow", shape.rows - 1, 1);
    for (int i = 0; i < 4; i++) {
      const int rows = between(1, shape.rows < 70 ? shape.rows : 70);
      narrow = narrow && problem.isSame("matmulNarrow", between(0, shape.rows - rows), rows);
    }
    const int rows = between(1, shape.rows);
    wide = wide && problem.isSame("matmulWide", between(0, shape.rows - rows), rows);
  }
  expect(near, "sums are near to those in double precision");
  expect(narrow, "some rows of any place have the bits that they have among many");
  expect(wide, "rows have the same bits at another place");
}

void checkLongInputs() {
  bool holds = true;
  for (const int k : {16384, 17 * 1024 + 64}) {
    const Problem problem({3, 9, k, 9});
    holds = holds && problem.isNear() && problem.isSame("matmulNarrow", 0, 3) && problem.isSame("matmulNarrow", 1, 1);
  }
  expect(holds, "inputs of more spans than wait at a time");
}

void checkManyTiles() {
  const Problem problem({9 * matmulTile + 5, 140, 64, 140});
  expect(problem.isNear() && problem.isSame("matmulNarrow", 9 * matmulTile, 5), "each tile is computed once, in more than one band");
}

void checkOutputs() {
  const Shape shape = {7, 45, 1100, 50};
  const Problem problem(shape);
  bool rounded = true, added = true;
  for (const char* name : {"matmulNarrow", "matmulWide"}) {
    Guarded<Bf16> halves(problem.all.size(), Bf16{0x5555});
    multiply(name, shape, problem.inputs.data(), problem.weights.data(), halves.data(), true, false);
    Guarded<float> sums(problem.all.size(), 0.37f);
    multiply(name, shape, problem.inputs.data(), problem.weights.data(), sums.data(), false, true);
    for (size_t i = 0; i < problem.all.size(); i++) {
      const bool within = static_cast<int>(i) % shape.outputStride < shape.columns;
      rounded = rounded && halves[i].bits == (within ? toBf16(problem.all[i]).bits : 0x5555);
      added = added && bitsOf(sums[i]) == bitsOf(within ? 0.37f + problem.all[i] : 0.37f);
    }
  }
  expect(rounded, "sums rounded to bf16");
  expect(added, "sums added to what is there");
}

void checkApart() {
  const Shape shape = {12, 40, 1056, 40};
  Problem problem(shape);
  for (size_t i = 0; i < 1056; i += 50) problem.inputs[4 * 1056 + i] = {0x7fff};
  bool holds = true;
  for (const char* name : {"matmulNarrow", "matmulWide"}) {
    Guarded<float> some(problem.all.size(), untouched);
    problem.run(name, 0, shape.rows, some);
    for (size_t i = 0; i < some.size(); i++) holds = holds && (i / 40 == 4 ? std::isnan(some[i]) : bitsOf(some[i]) == bitsOf(problem.all[i]));
  }
  expect(holds, "a NaN stays in its row");
}

}  // namespace

int main() {
  checkShapes();
  checkLongInputs();
  checkManyTiles();
  checkOutputs();
  checkApart();
  return fastswitch::check::failures == 0 ? 0 : 1;
}
