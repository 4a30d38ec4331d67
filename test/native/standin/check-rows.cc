// The kernels of rows.cuh against loops that say the same in plain words.
#include <cmath>

#include "check.h"

using namespace fastswitch;
using namespace fastswitch::cuda;
using fastswitch::check::expect;
using fastswitch::check::launch;
using fastswitch::check::Memory;
using fastswitch::check::Random;

namespace {

// Both to bf16's precision, which an exponential on the edge of rounding may miss by one unit.
bool near(Bf16 got, double wanted) { return std::fabs(toFloat(got) - wanted) <= 0x1p-7 * std::fabs(wanted) + 1e-30; }

Bf16 exact(float value) { return toBf16(value); }

void checkEmbed() {
  constexpr int rows = 5;
  bool holds = true;
  for (const int hidden : {8, 33, 96, 300, 2100}) {
    const int stride = static_cast<int>(padded(static_cast<size_t>(hidden)));
    Random random{static_cast<uint64_t>(hidden)};
    Memory<Bf16> embedding(static_cast<size_t>(7 * stride));
    for (int i = 0; i < 7 * stride; i++) embedding[static_cast<size_t>(i)] = i % stride < hidden ? exact(random.unit()) : Bf16{0};
    Memory<int32_t> tokens(rows), positions(rows);
    for (size_t i = 0; i < rows; i++) {
      tokens[i] = random.below(7);
      positions[i] = i == 2 ? -1 : static_cast<int>(i);
    }
    tokens[2] = 1 << 30;
    Memory<float> residual(static_cast<size_t>(rows * stride), NAN);
    launch("embedRows", EmbedParams{tokens.data(), positions.data(), embedding.data(), residual.data(), hidden, stride}, rows, 1, 256, 0);
    for (int i = 0; i < rows * stride; i++) {
      const int row = i / stride;
      const float wanted = row == 2 ? 0 : toFloat(embedding[static_cast<size_t>(tokens[static_cast<size_t>(row)] * stride + i % stride)]);
      holds = holds && residual[static_cast<size_t>(i)] == wanted;
    }
  }
  expect(holds, "embedRows copies rows, and zeros for padding");
}

// Outputs of a norm of `count` rows; the row numbers reverse the order where they are given.
void checkNorm(int hidden, bool withBias, bool withRows) {
  constexpr int count = 4;
  const int stride = static_cast<int>(padded(static_cast<size_t>(hidden)));
  Random random{static_cast<uint64_t>(hidden) + 77};
  Memory<float> residual(static_cast<size_t>(count * stride)), before(residual.size()), bias(static_cast<size_t>(hidden)), weight(bias.size());
  for (int i = 0; i < count * stride; i++) before[static_cast<size_t>(i)] = residual[static_cast<size_t>(i)] = i % stride < hidden ? 3 * random.unit() : 0;
  for (int i = 0; i < hidden; i++) {
    bias[static_cast<size_t>(i)] = random.unit();
    weight[static_cast<size_t>(i)] = 1 + random.unit() / 4;
  }
  Memory<int32_t> rows(count);
  for (int i = 0; i < count; i++) rows[static_cast<size_t>(i)] = i == 1 ? -1 : count - 1 - i;
  Memory<Bf16> output(static_cast<size_t>(count * stride), {0x7fff});
  const float* biasOrNull = withBias ? bias.data() : nullptr;
  const int32_t* listed = withRows ? rows.data() : nullptr;
  const NormParams params{residual.data(), biasOrNull, weight.data(), listed, output.data(), hidden, stride, 1e-5f};
  launch("normRows", params, count, 1, 256, 64);
  bool normed = true;
  bool added = true;
  for (int index = 0; index < count; index++) {
    const int row = withRows ? rows[static_cast<size_t>(index)] : index;
    double squares = 0;
    for (int i = 0; row >= 0 && i < hidden; i++) {
      const size_t at = static_cast<size_t>(row * stride + i);
      added = added && residual[at] == (withBias ? before[at] + bias[static_cast<size_t>(i)] : before[at]);
      squares += static_cast<double>(residual[at]) * residual[at];
    }
    for (int i = 0; i < stride; i++) {
      const Bf16 got = output[static_cast<size_t>(index * stride + i)];
      if (row < 0 || i >= hidden) {
        normed = normed && got.bits == 0;
      } else {
        const size_t at = static_cast<size_t>(row * stride + i);
        normed = normed && near(got, residual[at] / std::sqrt(squares / hidden + 1e-5) * weight[static_cast<size_t>(i)]);
      }
    }
  }
  char name[120];
  snprintf(name, sizeof name, "normRows of %d%s%s", hidden, withBias ? ", with a bias that stays" : "", withRows ? ", of listed rows" : "");
  expect(normed && added, name);
}

struct Heads {
  int heads, kvHeads, headDim;
  bool bias, norms;
};

// What a head becomes, before it is rounded.
std::vector<float> rotatedHead(const Heads& shape, const float* from, const float* bias, const float* norm, const float* cosines, const float* sines) {
  std::vector<float> head(from, from + shape.headDim);
  double squares = 0;
  for (int i = 0; i < shape.headDim; i++) {
    if (bias != nullptr) head[static_cast<size_t>(i)] += bias[i];
    squares += static_cast<double>(head[static_cast<size_t>(i)]) * head[static_cast<size_t>(i)];
  }
  const double factor = 1 / std::sqrt(squares / shape.headDim + 1e-6);
  if (norm != nullptr) {
    for (int i = 0; i < shape.headDim; i++) head[static_cast<size_t>(i)] *= static_cast<float>(factor * norm[i]);
  }
  const int half = shape.headDim / 2;
  for (int i = 0; cosines != nullptr && i < half; i++) {
    const float a = head[static_cast<size_t>(i)];
    const float b = head[static_cast<size_t>(half + i)];
    head[static_cast<size_t>(i)] = a * cosines[i] - b * sines[i];
    head[static_cast<size_t>(half + i)] = b * cosines[i] + a * sines[i];
  }
  return head;
}

bool same(const Bf16* got, const std::vector<float>& wanted, bool bits) {
  bool holds = true;
  const int width = paddedHead(static_cast<int>(wanted.size()));
  for (int i = 0; i < width; i++) {
    const float value = i < static_cast<int>(wanted.size()) ? wanted[static_cast<size_t>(i)] : 0;
    // Differences of large products may be small: no relative bound holds for them.
    holds = holds && (bits ? got[i].bits == exact(value).bits : std::fabs(toFloat(got[i]) - value) <= 0x1p-7f * std::fabs(value) + 1e-5f);
  }
  return holds;
}

void checkRotate(const Heads& shape) {
  constexpr int rows = 4, positions = 64, blocks = 5;
  const int all = shape.heads + 2 * shape.kvHeads;
  const int width = paddedHead(shape.headDim);
  const int half = shape.headDim / 2;
  const size_t sideValues = static_cast<size_t>(shape.kvHeads) * kvHeadValues(shape.headDim);
  const size_t blockBytes = 3 * 2 * 2 * sideValues;  // three layers, of which the second is written
  const int stride = all * shape.headDim + 32;
  Random random{static_cast<uint64_t>(shape.headDim)};
  const auto fill = [&](Memory<float>& values) {
    for (size_t i = 0; i < values.size(); i++) values[i] = random.unit();
  };
  Memory<float> projected(static_cast<size_t>(rows * stride)), bias(static_cast<size_t>(all * shape.headDim));
  Memory<float> queryNorm(static_cast<size_t>(shape.headDim)), keyNorm(queryNorm.size());
  Memory<float> cosines(static_cast<size_t>(positions * half)), sines(cosines.size());
  for (Memory<float>* values : {&projected, &bias, &queryNorm, &keyNorm, &cosines, &sines}) fill(*values);
  Memory<int32_t> at(rows), block(rows);
  const int wantedAt[rows] = {17, -1, 63, 0};
  const int wantedBlock[rows] = {4, 1 << 30, 2, 0};
  for (size_t i = 0; i < rows; i++) {
    at[i] = wantedAt[i];
    block[i] = wantedBlock[i];
  }
  Memory<Bf16> queries(static_cast<size_t>(rows * shape.heads * width), {0x7fff});
  Memory<Bf16> wanted(blocks * blockBytes / 2, {0x1234}), arena(wanted.size(), {0x1234});
  RotateParams params{};
  params.projected = projected.data();
  params.bias = shape.bias ? bias.data() : nullptr;
  params.queryNorm = shape.norms ? queryNorm.data() : nullptr;
  params.keyNorm = shape.norms ? keyNorm.data() : nullptr;
  params.cosines = cosines.data();
  params.sines = sines.data();
  params.positions = at.data();
  params.blocks = block.data();
  params.queries = queries.data();
  params.arena = reinterpret_cast<uint8_t*>(arena.data());
  params.blockBytes = blockBytes;
  params.layerOffset = 4 * sideValues;
  params.heads = shape.heads;
  params.kvHeads = shape.kvHeads;
  params.headDim = shape.headDim;
  params.projectedStride = stride;
  params.epsilon = 1e-6f;
  launch("rotateRows", params, rows, static_cast<unsigned>(all), 128, static_cast<unsigned>(width) * 4 + 64);
  bool holds = true;
  for (int row = 0; row < rows; row++) {
    const int position = at[static_cast<size_t>(row)];
    for (int head = 0; head < all; head++) {
      const bool query = head < shape.heads;
      const bool value = head >= shape.heads + shape.kvHeads;
      Bf16* got = query ? queries.data() + (row * shape.heads + head) * width : nullptr;
      if (position < 0) {
        holds = holds && (!query || same(got, std::vector<float>(static_cast<size_t>(shape.headDim)), true));
        continue;
      }
      const float* norm = !shape.norms || value ? nullptr : query ? queryNorm.data() : keyNorm.data();
      const float* headBias = shape.bias ? bias.data() + head * shape.headDim : nullptr;
      const float* headCosines = value ? nullptr : cosines.data() + position * half;
      const std::vector<float> became =
          rotatedHead(shape, projected.data() + row * stride + head * shape.headDim, headBias, norm, headCosines, sines.data() + position * half);
      if (!query) {
        const int kvHead = value ? head - shape.heads - shape.kvHeads : head - shape.heads;
        const size_t offset = static_cast<size_t>(block[static_cast<size_t>(row)]) * blockBytes / 2 + (value ? 3 : 2) * sideValues +
                              static_cast<size_t>(kvHead) * kvHeadValues(shape.headDim) + static_cast<size_t>(position % 16 * width);
        got = arena.data() + offset;
        // What the kernel may change: the rest must be as it was.
        for (int i = 0; i < width; i++) wanted[offset + static_cast<size_t>(i)] = got[i];
      }
      holds = holds && same(got, became, norm == nullptr);
    }
  }
  for (size_t i = 0; i < arena.size(); i++) holds = holds && arena[i].bits == wanted[i].bits;
  char name[120];
  snprintf(name, sizeof name, "rotateRows of %d and %d heads of %d%s%s", shape.heads, shape.kvHeads, shape.headDim, shape.bias ? ", bias" : "",
           shape.norms ? ", norms" : "");
  expect(holds, name);
}

void checkGate() {
  constexpr int rows = 3;
  bool holds = true;
  for (const int intermediate : {32, 40, 37, 2500}) {
    const int width = static_cast<int>(padded(static_cast<size_t>(intermediate)));
    Random random{static_cast<uint64_t>(intermediate)};
    Memory<Bf16> gateUp(static_cast<size_t>(rows * 2 * intermediate)), units(static_cast<size_t>(rows * width), {0x7fff});
    for (size_t i = 0; i < gateUp.size(); i++) gateUp[i] = exact(20 * random.unit());
    launch("gateRows", GateParams{gateUp.data(), units.data(), intermediate}, rows, 1, 256, 0);
    for (int i = 0; i < rows * width; i++) {
      const int row = i / width;
      const int column = i % width;
      const Bf16 got = units[static_cast<size_t>(i)];
      if (column >= intermediate) {
        holds = holds && got.bits == 0;
        continue;
      }
      const double gate = toFloat(gateUp[static_cast<size_t>(row * 2 * intermediate + column)]);
      const double up = toFloat(gateUp[static_cast<size_t>((row * 2 + 1) * intermediate + column)]);
      holds = holds && near(got, gate / (1 + std::exp(-gate)) * up);
    }
  }
  expect(holds, "gateRows is silu(gate) * up, and zero beyond");
}

// As `draw` in weights.cc says it.
void checkDraw() {
  constexpr int rows = 3, columns = 70, stride = 96;
  const uint64_t key = 0x9876543210abcdefu;
  const uint64_t firstRow = 5000000000u;
  bool holds = true;
  for (const float middle : {0.0f, 1.0f}) {
    Memory<Bf16> halves(rows * stride, {0x7fff});
    Memory<float> floats(rows * stride, NAN);
    launch("drawRows", DrawParams{key, firstRow, halves.data(), columns, stride, middle, 0}, rows, 1, 256, 0);
    launch("drawRows", DrawParams{key, firstRow, floats.data(), columns, stride, middle, 1}, rows, 1, 256, 0);
    for (size_t i = 0; i < rows * stride; i++) {
      const uint64_t element = (firstRow + i / stride) * columns + i % stride;
      const float unit = static_cast<float>(static_cast<int32_t>(mix(key + element) >> 32)) * 0x1p-31f * 1.7320508f;
      const float wanted = i % stride < columns ? middle + 0.02f * unit : 0.0f;
      holds = holds && bitsOf(floats[i]) == bitsOf(wanted) && halves[i].bits == bitsOf(wanted) >> 16;
    }
  }
  expect(holds, "drawRows draws what the CPU draws, to the bit");
}

}  // namespace

int main() {
  checkEmbed();
  for (const int hidden : {32, 45, 300, 2500}) {
    checkNorm(hidden, false, false);
    checkNorm(hidden, true, false);
    checkNorm(hidden, false, true);
  }
  checkRotate({4, 2, 64, false, false});
  checkRotate({3, 1, 40, true, false});
  checkRotate({2, 2, 256, false, true});
  checkRotate({6, 2, 90, true, true});
  checkRotate({1, 1, 16, false, false});
  checkGate();
  checkDraw();
  return check::failures == 0 ? 0 : 1;
}
