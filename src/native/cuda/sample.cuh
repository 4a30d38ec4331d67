// From logits to tokens, by the rules of sampler.h. All masses are whole numbers, so that adding them up in any order
// gives the same: what is drawn depends neither on the GPU nor on how threads are timed.
#pragma once

#include "../mix.h"
#include "kernels.h"

namespace fastswitch::cuda {

constexpr int sampleThreads = 1024;
constexpr int alternativesMax = 20;
constexpr int recordWords = 4 + 2 * alternativesMax;
// A selection looks at the key of a logit in digits of 11, 11 and 10 bits.
constexpr int digitBits = 11;
constexpr int digitBins = 1 << digitBits;

struct SampleShared {
  uint64_t warps[sampleThreads / 32];
  uint64_t parts[sampleThreads];  // mass of the tokens up to the end of each part of the vocabulary
  uint64_t answers[3];
  uint32_t low[digitBins];        // mass of a bin: lower and upper word
  uint32_t high[digitBins];
};
static_assert(sizeof(SampleShared) <= sampleShared, "the launch gives no more");

DEVICE SampleShared& sampleMemory() { return *static_cast<SampleShared*>(sharedMemory()); }

// In the order of the logits; both zeros are the same.
DEVICE uint32_t keyOf(float logit) {
  const uint32_t bits = bitsOf(logit);
  if (bits == 0x80000000u) return 0x80000000u;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

DEVICE float logitOf(uint32_t key) { return floatOf((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key); }

// The end of a prefix of all tokens in order of (logit descending, id ascending): the last token that belongs to it.
struct SampleEdge {
  uint32_t key;
  int32_t token;
  DEVICE bool holds(uint32_t otherKey, int32_t otherToken) const { return otherKey > key || (otherKey == key && otherToken <= token); }
};

// exp(x) for -28 <= x <= 0, as the CPU's kernels compute it (kernels_body.h), to the bit.
DEVICE float exponentialOf(float x) {
  const float shifted = fused(x, 1.44269504f, 12582912.0f);
  const float n = shifted - 12582912.0f;
  const float r = fused(n, 2.12194440e-4f, fused(n, -0.693359375f, x));
  float power = 1.0f / 5040;
  power = fused(power, r, 1.0f / 720);
  power = fused(power, r, 1.0f / 120);
  power = fused(power, r, 1.0f / 24);
  power = fused(power, r, 1.0f / 6);
  power = fused(power, r, 0.5f);
  power = fused(power, r, 1.0f);
  power = fused(power, r, 1.0f);
  return multiplied(power, floatOf((bitsOf(shifted) + 127) << 23));
}

// ---- weights of tokens: what is added up, selected by, and drawn from ------------------------------------------------

// exp((logit - top) * factor) of the tokens of a prefix, in units of 2^-38: 2^24 tokens cannot overflow 64 bits. What is
// less than half a unit, or than `least`, has no mass.
struct Chances {
  float top, factor, least;
  SampleEdge edge;
  DEVICE uint64_t of(float logit) const {
    const float x = multiplied(logit - top, factor);
    if (!(x > -28.0f)) return 0;
    const float chance = exponentialOf(x);
    return chance >= least ? static_cast<uint64_t>(multiplied(chance, 0x1p38f) + 0.5f) : 0;
  }
  DEVICE bool holds(uint32_t key, int32_t token) const { return edge.holds(key, token); }
};

// One for each token that has a chance.
struct Candidates {
  Chances chances;
  DEVICE uint64_t of(float logit) const { return chances.of(logit) > 0 ? 1 : 0; }
  DEVICE bool holds(uint32_t, int32_t) const { return true; }
};

// One for each token.
struct Tokens {
  DEVICE uint64_t of(float) const { return 1; }
  DEVICE bool holds(uint32_t, int32_t) const { return true; }
};

// One for each token of a logit.
template <class Weights>
struct Ties {
  Weights weights;
  uint32_t key;
  DEVICE uint64_t of(float) const { return 1; }
  DEVICE bool holds(uint32_t otherKey, int32_t token) const { return otherKey == key && weights.holds(otherKey, token); }
};

struct SampleRow {
  const float* logits;
  int32_t count;
  template <class Weights>
  DEVICE uint64_t weigh(const Weights& weights, int32_t token) const {
    const float logit = logits[token];
    return weights.holds(keyOf(logit), token) ? weights.of(logit) : 0;
  }
};

// ---- sums of the block -----------------------------------------------------------------------------------------------

// The sum of the values of this lane and those below.
DEVICE uint64_t scanWarp(uint64_t value) {
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t below = shuffle(value, (lane() - distance) & 31);
    if (lane() >= distance) value += below;
  }
  return value;
}

// The sum of the values of this thread and those below.
DEVICE uint64_t scanBlock(uint64_t value) {
  SampleShared& shared = sampleMemory();
  value = scanWarp(value);
  if (lane() == 31) shared.warps[warp()] = value;
  syncBlock();
  for (int i = 0; i < warp(); i++) value += shared.warps[i];
  syncBlock();
  return value;
}

DEVICE uint64_t largestOfBlock(uint64_t value) {
  SampleShared& shared = sampleMemory();
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = shuffleXor(value, mask);
    if (other > value) value = other;
  }
  if (lane() == 0) shared.warps[warp()] = value;
  syncBlock();
  for (int i = 0; i < sampleThreads / 32; i++) {
    if (shared.warps[i] > value) value = shared.warps[i];
  }
  syncBlock();
  return value;
}

DEVICE int32_t partTokens(int32_t count) { return (count + sampleThreads * 32 - 1) / (sampleThreads * 32) * 32; }

// Fills `parts` and answers the sum of all. A part is as many consecutive tokens as make at most a part for each thread.
template <class Weights>
DEVICE uint64_t sumParts(const SampleRow& row, const Weights& weights) {
  SampleShared& shared = sampleMemory();
  const int32_t size = partTokens(row.count);
  const int used = (row.count + size - 1) / size;
  for (int part = warp(); part < used; part += sampleThreads / 32) {
    uint64_t sum = 0;
    const int32_t end = (part + 1) * size < row.count ? (part + 1) * size : row.count;
    UNROLL_BY_4 for (int32_t i = part * size + lane(); i < end; i += 32) sum += row.weigh(weights, i);
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffleXor(sum, mask);
    if (lane() == 0) shared.parts[part] = sum;
  }
  syncBlock();
  const uint64_t sum = scanBlock(threadIndex() < used ? shared.parts[threadIndex()] : 0);
  shared.parts[threadIndex()] = sum;
  syncBlock();
  const uint64_t total = shared.parts[sampleThreads - 1];
  syncBlock();
  return total;
}

// The token at which the weights, added up in order of id, exceed `target`, which is less than their sum. After sumParts.
template <class Weights>
DEVICE int32_t pickFromParts(const SampleRow& row, const Weights& weights, uint64_t target) {
  SampleShared& shared = sampleMemory();
  const uint64_t before = threadIndex() == 0 ? 0 : shared.parts[threadIndex() - 1];
  if (before <= target && target < shared.parts[threadIndex()]) {
    shared.answers[0] = static_cast<uint64_t>(threadIndex());
    shared.answers[1] = target - before;
  }
  syncBlock();
  if (warp() == 0) {
    const int32_t size = partTokens(row.count);
    int32_t first = static_cast<int32_t>(shared.answers[0]) * size;
    uint64_t left = shared.answers[1];
    for (const int32_t end = first + size; first < end; first += 32) {
      const uint64_t sum = scanWarp(first + lane() < row.count ? row.weigh(weights, first + lane()) : 0);
      const uint32_t beyond = ballot(sum > left);
      if (beyond == 0) {
        left -= shuffle(sum, 31);
        continue;
      }
      // The lowest lane that is beyond, and no lane below it is.
      if ((beyond >> lane() & 1) != 0 && (beyond & ((1u << lane()) - 1)) == 0) shared.answers[2] = static_cast<uint64_t>(first + lane());
      break;
    }
  }
  syncBlock();
  const int32_t token = static_cast<int32_t>(shared.answers[2]);
  syncBlock();
  return token;
}

// ---- prefixes of the tokens by logit ---------------------------------------------------------------------------------

// What each bin of a digit weighs, of the tokens whose key begins with `prefix`.
template <class Weights>
DEVICE void weighBins(const SampleRow& row, const Weights& weights, uint32_t prefix, int shift, int bits) {
  SampleShared& shared = sampleMemory();
  for (int i = threadIndex(); i < digitBins; i += sampleThreads) shared.low[i] = shared.high[i] = 0;
  syncBlock();
  UNROLL_BY_4 for (int32_t i = threadIndex(); i < row.count; i += sampleThreads) {
    const float logit = row.logits[i];
    const uint32_t key = keyOf(logit);
    // Above the first digit there is nothing, and a shift by 32 has no meaning.
    if (shift + bits < 32 && key >> (shift + bits) != prefix) continue;
    const uint64_t weight = weights.holds(key, i) ? weights.of(logit) : 0;
    if (weight == 0) continue;
    const uint32_t bin = key >> shift & ((1u << bits) - 1);
    const uint32_t low = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAddShared(&shared.low[bin], low);
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAddShared(&shared.high[bin], high);
  }
  syncBlock();
}

// The bin, from the highest down, at which the weights reach `wanted` (at least 1): answers {bin, weight above it, its
// weight}; false where all bins together do not.
DEVICE bool findBin(uint64_t wanted, uint64_t (&found)[3]) {
  SampleShared& shared = sampleMemory();
  const int top = digitBins - 1 - 2 * threadIndex();
  const uint64_t first = static_cast<uint64_t>(shared.high[top]) << 32 | shared.low[top];
  const uint64_t second = static_cast<uint64_t>(shared.high[top - 1]) << 32 | shared.low[top - 1];
  if (threadIndex() == 0) shared.answers[0] = digitBins;
  const uint64_t sum = scanBlock(first + second);
  const uint64_t above = sum - first - second;
  if (above < wanted && sum >= wanted) {
    const bool inFirst = above + first >= wanted;
    shared.answers[0] = static_cast<uint64_t>(inFirst ? top : top - 1);
    shared.answers[1] = inFirst ? above : above + first;
    shared.answers[2] = inFirst ? first : second;
  }
  syncBlock();
  for (int i = 0; i < 3; i++) found[i] = shared.answers[i];
  syncBlock();
  return found[0] < digitBins;
}

// The shortest prefix that weighs `wanted` (at least 1), or all tokens; `reached` is what it weighs, unchanged for all.
template <class Weights>
DEVICE SampleEdge prefixOf(const SampleRow& row, const Weights& weights, uint64_t wanted, uint64_t* reached) {
  uint32_t key = 0;
  uint64_t above = 0;
  uint64_t found[3];
  for (int shift = 32; shift > 0;) {
    const int bits = shift < digitBits ? shift : digitBits;
    shift -= bits;
    weighBins(row, weights, key, shift, bits);
    if (!findBin(wanted - above, found)) return {0, INT32_MAX};
    key = key << bits | static_cast<uint32_t>(found[0]);
    above += found[1];
  }
  // Tokens of one logit weigh the same: as many of them as it takes, by id.
  const uint64_t each = weights.of(logitOf(key));
  const uint64_t needed = (wanted - above + each - 1) / each;
  *reached = above + needed * each;
  if (needed * each == found[2]) return {key, INT32_MAX};
  const Ties<Weights> ties{weights, key};
  sumParts(row, ties);
  return {key, pickFromParts(row, ties, needed - 1)};
}

// ---- the steps -------------------------------------------------------------------------------------------------------

constexpr uint64_t notFiniteKey = ~uint64_t{0};

// The largest logit's key, then the inverted id, so that the lowest of ties is the largest; all ones where one is not finite.
DEVICE uint64_t likeliest(const SampleRow& row) {
  uint64_t best = 0;
  UNROLL_BY_4 for (int32_t i = threadIndex(); i < row.count; i += sampleThreads) {
    const float logit = row.logits[i];
    const bool finite = (bitsOf(logit) & 0x7f800000u) != 0x7f800000u;
    const uint64_t other = finite ? static_cast<uint64_t>(keyOf(logit)) << 32 | ~static_cast<uint32_t>(i) : notFiniteKey;
    if (other > best) best = other;
  }
  return largestOfBlock(best);
}

// Biases are added in the order of their list, even where a token comes twice: 1024 at a time, by who holds the first.
DEVICE void addBiases(const int32_t* pairs, int32_t count, float* logits) {
  SampleShared& shared = sampleMemory();
  for (int32_t first = 0; first < count; first += sampleThreads) {
    const int32_t size = count - first < sampleThreads ? count - first : sampleThreads;
    const int32_t own = threadIndex();
    if (own < size) {
      shared.low[own] = static_cast<uint32_t>(pairs[2 * (first + own)]);
      shared.high[own] = static_cast<uint32_t>(pairs[2 * (first + own) + 1]);
    }
    syncBlock();
    if (own < size) {
      const uint32_t token = shared.low[own];
      float logit = logits[token];
      bool isFirst = true;
      for (int32_t i = 0; i < size && isFirst; i++) {
        if (shared.low[i] != token) continue;
        isFirst = i >= own;
        logit += floatOf(shared.high[i]);
      }
      if (isFirst) logits[token] = logit;
    }
    syncBlock();
  }
}

// Of the threads that hold a token of the list, one sees its count and acts; counts are zero again at the end.
DEVICE void penalise(const SampleItem& item, const int32_t* history, float* logits, int32_t* counts) {
  if (item.repetitionPenalty != 1.0f) {
    for (int32_t i = threadIndex(); i < item.historyCount; i += sampleThreads) {
      const int32_t token = history[i];
      if (atomicAddGlobal(counts + token, 1) != 0) continue;
      const float logit = logits[token];
      logits[token] = logit > 0.0f ? divided(logit, item.repetitionPenalty) : multiplied(logit, item.repetitionPenalty);
    }
    syncBlock();
    for (int32_t i = threadIndex(); i < item.historyCount; i += sampleThreads) atomicExchangeGlobal(counts + history[i], 0);
    syncBlock();
  }
  for (int32_t i = item.historyPrompt + threadIndex(); i < item.historyCount; i += sampleThreads) atomicAddGlobal(counts + history[i], 1);
  syncBlock();
  for (int32_t i = item.historyPrompt + threadIndex(); i < item.historyCount; i += sampleThreads) {
    const int32_t token = history[i];
    const int32_t seen = atomicExchangeGlobal(counts + token, 0);
    if (seen != 0) logits[token] -= multiplied(item.frequencyPenalty, static_cast<float>(seen)) + item.presencePenalty;
  }
  syncBlock();
}

// Uniform in [0, total), a function of its arguments only.
DEVICE uint64_t randomBelow(uint64_t total, uint64_t seed, uint32_t draw) {
  const double random = static_cast<double>(mix(mix(seed) + draw) >> 11) * 0x1p-53;
  const uint64_t point = static_cast<uint64_t>(random * static_cast<double>(total));
  return point < total ? point : total - 1;
}

DEVICE int32_t drawToken(const SampleRow& row, const SampleItem& item, float top) {
  const float factor = divided(1.0f, item.temperature);
  Chances chances{top, factor < 1e30f ? factor : 1e30f, item.minP, {0, INT32_MAX}};
  uint64_t total = 0;
  if (item.topK > 0 && item.topK < row.count) chances.edge = prefixOf(row, Candidates{chances}, static_cast<uint64_t>(item.topK), &total);
  total = sumParts(row, chances);
  if (item.topP < 1.0f) {
    const double wanted = static_cast<double>(item.topP) * static_cast<double>(total);
    uint64_t whole = static_cast<uint64_t>(wanted);
    if (static_cast<double>(whole) < wanted || whole == 0) whole++;
    // A prefix of the tokens that top_k left, which may have cut among those of one logit.
    const SampleEdge edge = prefixOf(row, chances, whole < total ? whole : total, &total);
    if (edge.key != chances.edge.key || edge.token < chances.edge.token) chances.edge = edge;
    sumParts(row, chances);
  }
  return pickFromParts(row, chances, randomBelow(total, item.seed, item.draw));
}

// The `count` likeliest tokens, best first, as pairs after the record's head.
DEVICE void writeAlternatives(const SampleRow& row, int32_t count, double normaliser, int32_t* record) {
  SampleShared& shared = sampleMemory();
  uint64_t reached = 0;
  const SampleEdge edge = prefixOf(row, Tokens{}, static_cast<uint64_t>(count), &reached);
  if (threadIndex() == 0) shared.low[0] = 0;
  syncBlock();
  for (int32_t i = threadIndex(); i < row.count; i += sampleThreads) {
    const uint32_t key = keyOf(row.logits[i]);
    if (edge.holds(key, i)) shared.parts[atomicAddShared(&shared.low[0], 1u)] = static_cast<uint64_t>(key) << 32 | ~static_cast<uint32_t>(i);
  }
  syncBlock();
  if (threadIndex() < count) {
    const uint64_t own = shared.parts[threadIndex()];
    int place = 0;
    for (int i = 0; i < count; i++) place += shared.parts[i] > own ? 1 : 0;
    const int32_t token = static_cast<int32_t>(~static_cast<uint32_t>(own));
    record[4 + 2 * place] = token;
    record[5 + 2 * place] = static_cast<int32_t>(bitsOf(static_cast<float>(static_cast<double>(row.logits[token]) - normaliser)));
  }
  if (threadIndex() == 0) record[2] = count;
}

KERNEL(sampleRows, 1024, SampleParams) {
  const SampleItem& item = p.items[blockX()];
  if (item.record < 0) return;
  const size_t offset = static_cast<size_t>(blockX()) * static_cast<size_t>(p.logitsStride);
  const SampleRow raw{p.logits + offset, p.vocabulary};
  int32_t* record = p.results + static_cast<size_t>(item.record) * recordWords;
  if (threadIndex() < recordWords) record[threadIndex()] = threadIndex() == 2 && item.topLogprobs < 0 ? -1 : 0;
  const uint64_t rawBest = likeliest(raw);
  uint64_t best = rawBest;
  SampleRow used = raw;
  const bool penalised = item.historyCount > 0 && (item.repetitionPenalty != 1.0f || item.frequencyPenalty != 0.0f || item.presencePenalty != 0.0f);
  if (rawBest != notFiniteKey && (penalised || item.biasCount > 0)) {
    float* changed = p.scratch + offset;
    for (int32_t i = threadIndex(); i < p.vocabulary; i += sampleThreads) changed[i] = raw.logits[i];
    syncBlock();
    addBiases(p.lists + item.bias, item.biasCount, changed);
    if (penalised) penalise(item, p.lists + item.history, changed, p.counts + offset);
    used.logits = changed;
    best = likeliest(used);
  }
  if (best == notFiniteKey) {
    if (threadIndex() == 0) record[0] = -2;
    return;
  }
  int32_t token = static_cast<int32_t>(~static_cast<uint32_t>(best));
  if (item.temperature != 0.0f) token = drawToken(used, item, logitOf(static_cast<uint32_t>(best >> 32)));
  if (threadIndex() == 0) record[0] = token;
  if (item.topLogprobs < 0) return;
  // log(sum(exp(logits))).
  const float rawTop = logitOf(static_cast<uint32_t>(rawBest >> 32));
  const uint64_t total = sumParts(raw, Chances{rawTop, 1.0f, 0.0f, {0, INT32_MAX}});
  const double normaliser = static_cast<double>(rawTop) + logarithm(static_cast<double>(total) * 0x1p-38);
  if (threadIndex() == 0) record[1] = static_cast<int32_t>(bitsOf(static_cast<float>(static_cast<double>(raw.logits[token]) - normaliser)));
  const int32_t alternatives = item.topLogprobs < p.vocabulary ? item.topLogprobs : p.vocabulary;
  if (alternatives > 0) writeAlternatives(raw, alternatives, normaliser, record);
}

}  // namespace fastswitch::cuda
