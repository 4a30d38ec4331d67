// The attention of attention.cuh: near to a softmax in double precision, and the same bits for a row however it is computed:
// alone, in a prompt of any cut, its spans in one go or apart. What lies beyond a context is poisoned, and so are the numbers
// of blocks that no row sees.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "check.h"
#include "guarded.h"

using namespace fastswitch;
using namespace fastswitch::cuda;
using fastswitch::check::expect;
using fastswitch::check::Guarded;
using fastswitch::check::launch;
using fastswitch::check::Random;

namespace {

constexpr uint16_t poison = 0x7fc1;  // a NaN
constexpr uint16_t untouched = 0x5555;
constexpr int layers = 2;
constexpr int layer = 1;
constexpr int tableStart = 5;
Random source{7};

int between(int low, int high) { return low + source.below(high - low + 1); }
size_t size(int count) { return static_cast<size_t>(count); }

struct Shape {
  int headDim, groupHeads, kvHeads, window;
  int context;  // tokens in all
  int start;    // the first that is computed
  float scale;  // of the queries: how sharp the softmax is; below 0: all scores are negative
  int heads() const { return groupHeads * kvHeads; }
  int stride() const { return static_cast<int>(padded(size(heads() * headDim))); }
  int tileTokens() const { return tileRows / groupHeads; }
  int lowest(int position) const { return window > 0 ? std::max(0, position - window + 1) : 0; }
  std::string name() const {
    return "head " + std::to_string(headDim) + " x " + std::to_string(groupHeads) + " x " + std::to_string(kvHeads) + ", window " + std::to_string(window) +
           ", tokens " + std::to_string(start) + " to " + std::to_string(context);
  }
};

// Some tokens for one tile.
struct Piece {
  int first, count;
  bool apart;
};

struct Work {
  std::vector<AttentionItem> items;
  std::vector<FoldItem> folds;
  std::vector<int> rows;  // of each piece
  int batch = 0;
  int partials = 0;
};

// A sequence: its blocks scattered over an arena, and what attention answers for each token.
class Sequence {
 public:
  explicit Sequence(const Shape& shape)
      : shape_(shape),
        blocks_((shape.context + blockTokens - 1) / blockTokens),
        arenaBlocks_(blocks_ * 2 + 3),
        blockBytes_(size(layers * 2 * shape.kvHeads) * kvHeadValues(shape.headDim) * sizeof(Bf16) + 64),
        keys_(size(shape.context * shape.kvHeads * shape.headDim)),
        values_(keys_.size()),
        queries_(size(shape.context * shape.heads() * shape.headDim)),
        arena_(size(arenaBlocks_) * blockBytes_ / sizeof(Bf16), Bf16{poison}) {
    for (Bf16& value : keys_) value = toBf16(source.unit());
    for (Bf16& value : values_) value = toBf16(source.unit());
    for (Bf16& value : queries_) value = toBf16(source.unit() * shape.scale);
    mirror();
    for (int i = 0; i < arenaBlocks_; i++) order_.push_back(i);
    for (int i = arenaBlocks_ - 1; i > 0; i--) std::swap(order_[size(i)], order_[size(source.below(i + 1))]);
  }

  // Puts keys and values of the tokens before `end` into their blocks.
  void write(int end) {
    const size_t width = size(paddedHead(shape_.headDim)), dim = size(shape_.headDim);
    for (; written_ < end; written_++) {
      for (int part = 0; part < 2; part++) {
        for (int head = 0; head < shape_.kvHeads; head++) {
          uint8_t* block = reinterpret_cast<uint8_t*>(arena_.data()) + size(order_[size(written_ / blockTokens)]) * blockBytes_ + layerOffset();
          Bf16* to = reinterpret_cast<Bf16*>(block) + size(part * shape_.kvHeads + head) * kvHeadValues(shape_.headDim) + size(written_ % blockTokens) * width;
          const Bf16* from = (part == 0 ? keys_ : values_).data() + size(written_ * shape_.kvHeads + head) * dim;
          for (size_t i = 0; i < width; i++) to[i] = i < dim ? from[i] : Bf16{0};
        }
      }
    }
  }

  // Computes the pieces in one launch, and puts the result of each token at its place in `results` [context][stride].
  bool attend(const std::vector<Piece>& pieces, std::vector<uint16_t>& results) {
    Work work = plan(pieces);
    const size_t headValues = size(shape_.heads()) * size(paddedHead(shape_.headDim));
    Guarded<Bf16> queries(size(work.batch) * headValues, Bf16{poison});
    for (size_t i = 0; i < pieces.size(); i++) copyQueries(pieces[i], queries.data() + size(work.rows[i]) * headValues);
    Guarded<int32_t> tables(size(tableStart + blocks_));
    copyTable(pieces, tables);
    Guarded<Bf16> output(size(work.batch * shape_.stride()), Bf16{untouched});
    launchAll(work, queries, tables, output);
    std::vector<bool> used(size(work.batch));
    for (size_t i = 0; i < pieces.size(); i++) {
      for (int token = 0; token < pieces[i].count; token++) {
        used[size(work.rows[i] + token)] = true;
        memcpy(&results[size((pieces[i].first + token) * shape_.stride())], output.data() + size((work.rows[i] + token) * shape_.stride()),
               size(shape_.stride()) * sizeof(Bf16));
      }
    }
    for (size_t i = 0; i < output.size(); i++) {
      const int column = static_cast<int>(i) % shape_.stride();
      if (!used[i / size(shape_.stride())]) {
        if (output[i].bits != untouched) return false;
      } else if (column >= shape_.heads() * shape_.headDim && output[i].bits != 0) {
        return false;
      }
    }
    return true;
  }

  // The result of one head of a token in double precision, and how far from it rounded weights may lead.
  bool isNear(int position, int head, const uint16_t* result) const {
    const int dim = shape_.headDim;
    const Bf16* query = &queries_[size((position * shape_.heads() + head) * dim)];
    std::vector<double> weights, sums(size(dim)), sizes(size(dim));
    double top = -1e30, total = 0;
    const auto at = [&](int token) { return size((token * shape_.kvHeads + head / shape_.groupHeads) * dim); };
    for (int token = shape_.lowest(position); token <= position; token++) {
      double score = 0;
      for (size_t i = 0; i < size(dim); i++) score += static_cast<double>(toFloat(query[i])) * static_cast<double>(toFloat(keys_[at(token) + i]));
      weights.push_back(score / std::sqrt(dim));
      top = std::max(top, weights.back());
    }
    for (size_t j = 0; j < weights.size(); j++) {
      const double weight = std::exp(weights[j] - top);
      total += weight;
      for (size_t i = 0; i < size(dim); i++) {
        const double value = toFloat(values_[at(shape_.lowest(position) + static_cast<int>(j)) + i]);
        sums[i] += weight * value;
        sizes[i] += weight * std::fabs(value);
      }
    }
    for (size_t i = 0; i < size(dim); i++) {
      const double wanted = sums[i] / total;
      const double got = toFloat(Bf16{result[i]});
      // The weights and the result are bf16.
      if (!(std::fabs(got - wanted) <= 0x1p-8 * std::fabs(wanted) + 1.5 * 0x1p-8 * sizes[i] / total + 1e-6)) {
        printf("token %d head %d value %zu: %g, not %g\n", position, head, i, got, wanted);
        return false;
      }
    }
    return true;
  }

  // The tokens from `first` to `end` cut into pieces that fit a tile, at any place.
  std::vector<Piece> cut(int first, int end) {
    std::vector<Piece> pieces;
    while (first < end) {
      const int count = std::min(end - first, source.below(3) == 0 ? shape_.tileTokens() : between(1, shape_.tileTokens()));
      pieces.push_back({first, count, source.below(2) == 0});
      first += count;
    }
    return pieces;
  }

  const Shape& shape() const { return shape_; }

 private:
  // Every other span has the keys of the one before and about the opposite values, so that what is left of the sums shows
  // more of their last bits, which rounding to bf16 would hide.
  void mirror() {
    if (shape_.scale < 0) {
      for (Bf16& value : keys_) value.bits &= 0x7fff;
      for (Bf16& value : queries_) value.bits |= 0x8000;
    }
    const size_t width = size(shape_.kvHeads * shape_.headDim), span = width * spanTokens;
    for (size_t i = span; i < keys_.size(); i++) {
      if (i / span % 2 == 0) continue;
      keys_[i] = keys_[i - span];
      values_[i] = toBf16(-1.02f * toFloat(values_[i - span]));
    }
  }

  size_t layerOffset() const { return size(layer * 2 * shape_.kvHeads) * kvHeadValues(shape_.headDim) * sizeof(Bf16); }

  // Rows with gaps between, items in any order with empty ones among them.
  Work plan(const std::vector<Piece>& pieces) {
    Work work;
    for (const Piece& piece : pieces) {
      const int row = work.batch + source.below(3);
      work.rows.push_back(row);
      work.batch = row + piece.count;
      if (!piece.apart) {
        work.items.push_back({row, piece.count, piece.first, tableStart, -1, -1});
        continue;
      }
      const int first = shape_.lowest(piece.first) / spanTokens;
      const int spans = (piece.first + piece.count - 1) / spanTokens + 1 - first;
      work.folds.push_back({row, piece.count, first, spans, work.partials});
      for (int i = 0; i < spans; i++) work.items.push_back({row, piece.count, piece.first, tableStart, first + i, work.partials++});
    }
    work.items.insert(work.items.begin() + source.below(static_cast<int>(work.items.size())), AttentionItem{0, 0, 0, 0, 0, 0});
    work.folds.push_back({0, 0, 0, 0, 0});
    for (size_t i = work.items.size() - 1; i > 0; i--) std::swap(work.items[i], work.items[size(source.below(static_cast<int>(i) + 1))]);
    return work;
  }

  void copyQueries(const Piece& piece, Bf16* to) const {
    const size_t width = size(paddedHead(shape_.headDim)), dim = size(shape_.headDim);
    for (size_t row = 0; row < size(piece.count * shape_.heads()); row++) {
      const Bf16* from = &queries_[(size(piece.first * shape_.heads()) + row) * dim];
      for (size_t i = 0; i < width; i++) to[row * width + i] = i < dim ? from[i] : Bf16{0};
    }
  }

  // Blocks that none of the pieces sees have a number that leads far away.
  void copyTable(const std::vector<Piece>& pieces, Guarded<int32_t>& tables) const {
    for (size_t i = 0; i < tables.size(); i++) tables[i] = 0x7ffffff0;
    for (const Piece& piece : pieces) {
      const int last = (piece.first + piece.count - 1) / blockTokens;
      for (int i = shape_.lowest(piece.first) / blockTokens; i <= last; i++) tables[size(tableStart + i)] = order_[size(i)];
    }
  }

  void launchAll(const Work& work, const Guarded<Bf16>& queries, const Guarded<int32_t>& tables, Guarded<Bf16>& output) {
    const size_t rows = size(work.partials * shape_.kvHeads * tileRows);
    Guarded<float> sums(rows * size(paddedHead(shape_.headDim)), NAN), tops(rows, NAN), totals(rows, NAN);
    const AttentionParams params = {work.items.data(),
                                    queries.data(),
                                    tables.data(),
                                    reinterpret_cast<const uint8_t*>(arena_.data()),
                                    blockBytes_,
                                    layerOffset(),
                                    output.data(),
                                    sums.data(),
                                    tops.data(),
                                    totals.data(),
                                    static_cast<int32_t>(work.items.size()),
                                    shape_.heads(),
                                    shape_.kvHeads,
                                    shape_.headDim,
                                    shape_.stride(),
                                    shape_.window};
    const std::string name = "attention" + std::to_string(paddedHead(shape_.headDim));
    const unsigned kvHeads = static_cast<unsigned>(shape_.kvHeads);
    launch(name.c_str(), params, static_cast<unsigned>((work.items.size() + 3) / 4), kvHeads, 128, 0);
    const FoldParams fold = {work.folds.data(), sums.data(),    tops.data(),    totals.data(),  output.data(),
                             shape_.heads(),    shape_.kvHeads, shape_.headDim, shape_.stride()};
    launch("foldRows", fold, static_cast<unsigned>(work.folds.size()), kvHeads, 128, 0);
  }

  Shape shape_;
  int blocks_, arenaBlocks_;
  size_t blockBytes_;
  std::vector<Bf16> keys_, values_, queries_;
  Guarded<Bf16> arena_;
  std::vector<int> order_;
  int written_ = 0;
};

struct Verdict {
  bool near = true, same = true, tidy = true;
};

// Token after token with nothing written beyond it, the one kind of item and the other; then whole prompts at once.
void check(const Shape& shape, Verdict& verdict) {
  Sequence sequence(shape);
  const size_t stride = size(shape.stride());
  std::vector<uint16_t> alone(size(shape.context) * stride), other(alone.size());
  const size_t from = size(shape.start) * stride;
  const auto compare = [&](int end, const char* how) {
    const size_t values = size(end) * stride - from;
    if (memcmp(&alone[from], &other[from], values * 2) == 0) return;
    verdict.same = false;
    printf("%s: other bits %s\n", shape.name().c_str(), how);
  };
  const int middle = between(shape.start, shape.context - 1);
  for (int token = shape.start; token < shape.context; token++) {
    sequence.write(token + 1);
    verdict.tidy = sequence.attend({{token, 1, false}}, alone) && verdict.tidy;
    verdict.tidy = sequence.attend({{token, 1, true}}, other) && verdict.tidy;
    if (token != middle) continue;
    verdict.tidy = sequence.attend(sequence.cut(shape.start, token + 1), other) && verdict.tidy;
    compare(token + 1, "in part of a prompt");
  }
  compare(shape.context, "with spans apart");
  for (int i = 0; i < 2; i++) {
    std::fill(other.begin(), other.end(), untouched);
    verdict.tidy = sequence.attend(sequence.cut(shape.start, shape.context), other) && verdict.tidy;
    compare(shape.context, "in a prompt");
  }
  for (int token = shape.start; token < shape.context; token++) {
    for (int head = 0; head < shape.heads(); head++) {
      verdict.near = verdict.near && sequence.isNear(token, head, &alone[size(token) * stride + size(head * shape.headDim)]);
    }
  }
  if (!verdict.near || !verdict.tidy) printf("%s\n", shape.name().c_str());
}

int randomWindow(int context) { return source.below(2) == 0 ? 0 : between(1, context + 20); }

// Every kernel, at each number of heads a group.
void checkSizes() {
  Verdict verdict;
  const int dims[] = {8, 16, 32, 20, 64, 48, 96, 80, 128, 100, 160, 192, 224, 256, 250};
  int group = 0;
  for (const int dim : dims) {
    const int groupHeads = group++ % tileRows + 1;
    const int context = between(100, 300);
    check({dim, groupHeads, 1 + group % 2, randomWindow(context), context, context - between(1, 6), 3.0f}, verdict);
  }
  expect(verdict.near, "every size of head is near to double precision");
  expect(verdict.same, "every size of head has the same bits in every way");
  expect(verdict.tidy, "rows that nobody asked for stay, what follows the last head is zero");
}

void checkContexts() {
  Verdict verdict;
  const float scales[] = {0.1f, 3.0f, -30.0f, 500.0f};
  for (int i = 0; i < 60; i++) {
    const int context = i < 10 ? between(1, 20) : i < 50 ? between(1, 400) : between(400, 700);
    const int start = std::max(0, context - between(1, i % 2 == 0 ? 8 : 30));
    const int window = i % 3 == 0 ? between(1, 40) : randomWindow(context);
    check({i % 5 == 0 ? 64 : 32, 1 << between(0, 3), 1, window, context, start, scales[i % 4]}, verdict);
  }
  // Where spans, blocks and windows meet.
  for (const int window : {0, 1, 16, 128, 129, 200, 0, 128}) check({64, 4, 1, window, 264, 250, 3.0f}, verdict);
  for (const int window : {0, 7, 0, 0}) check({64, 1, 1, window, 270, 246, window == 7 ? 3.0f : -500.0f}, verdict);
  expect(verdict.near, "contexts and windows are near to double precision");
  expect(verdict.same, "contexts and windows have the same bits in every way");
  expect(verdict.tidy, "contexts and windows leave other rows alone");
}

}  // namespace

int main() {
  checkSizes();
  checkContexts();
  return fastswitch::check::failures == 0 ? 0 : 1;
}
