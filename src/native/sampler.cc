#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "mix.h"

namespace fastswitch {

namespace {

// Chances lie in [0, 1]; their upper 14 bits sort them into buckets that grow with the chance.
constexpr int bucketShift = 18;
constexpr int buckets = (0x3f800000 >> bucketShift) + 2;
// Chances are added up in parts of this many tokens, which the draw can skip whole.
constexpr int part = 1024;

int bucketOf(float chance) {
  uint32_t bits;
  memcpy(&bits, &chance, sizeof bits);
  return std::min(static_cast<int>(bits >> bucketShift), buckets - 1);
}

int32_t bitsOf(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

float floatOf(int32_t word) {
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

bool changesLogits(const SamplingPlan& plan) {
  const bool penalised = plan.repetitionPenalty != 1 || plan.frequencyPenalty != 0 || plan.presencePenalty != 0;
  return plan.biasCount > 0 || (penalised && plan.historyCount > 0);
}

// Repetition over prompt and generated tokens, once a token, as transformers has it; frequency and presence over
// generated tokens, as OpenAI has it.
void penalise(const SamplingPlan& plan, SamplerScratch& scratch) {
  float* logits = scratch.logits.data();
  for (int i = 0; i < plan.biasCount; i++) logits[plan.bias[2 * i]] += floatOf(plan.bias[2 * i + 1]);
  if (plan.repetitionPenalty != 1) {
    for (int i = 0; i < plan.historyCount; i++) {
      const int32_t token = plan.history[i];
      if (scratch.counts[token]++ > 0) continue;
      logits[token] = logits[token] > 0 ? logits[token] / plan.repetitionPenalty : logits[token] * plan.repetitionPenalty;
    }
    for (int i = 0; i < plan.historyCount; i++) scratch.counts[plan.history[i]] = 0;
  }
  for (int i = plan.historyPrompt; i < plan.historyCount; i++) scratch.counts[plan.history[i]]++;
  for (int i = plan.historyPrompt; i < plan.historyCount; i++) {
    const int32_t token = plan.history[i];
    if (scratch.counts[token] == 0) continue;
    logits[token] -= plan.frequencyPenalty * static_cast<float>(scratch.counts[token]) + plan.presencePenalty;
    scratch.counts[token] = 0;
  }
}

int firstOf(const float* values, int count, float wanted) {
  for (int i = 0; i < count; i++) {
    if (values[i] == wanted) return i;
  }
  return 0;
}

// The end of a prefix of all tokens in order of (logit descending, id ascending): the last token that belongs to it.
struct Edge {
  float logit;
  int32_t token;
  // Whether a token of this logit belongs to the prefix.
  bool holds(float otherLogit, int32_t otherToken) const { return otherLogit > logit || (otherLogit == logit && otherToken <= token); }
};

constexpr Edge everything{-INFINITY, INT32_MAX};

// The tokens of one draw that cuts may leave, sorted only as far as a cut needs.
class Candidates {
 public:
  Candidates(const float* logits, int count, SamplerScratch& scratch) : logits_(logits), count_(count), scratch_(scratch) {
    std::fill(scratch.bucketSize.begin(), scratch.bucketSize.end(), 0);
    std::fill(scratch.bucketMass.begin(), scratch.bucketMass.end(), 0.0);
    for (int i = 0; i < count; i++) {
      const float chance = scratch.chances[scratch.candidates[i]];
      const int bucket = bucketOf(chance);
      scratch.bucketSize[bucket]++;
      scratch.bucketMass[bucket] += chance;
    }
  }

  // The shortest prefix that has `size` tokens or the chance `mass`, or all. Also answers its mass.
  Edge prefix(int size, double mass, double* reached) {
    int tokens = 0;
    *reached = 0;
    for (int bucket = buckets - 1; bucket >= 0; bucket--) {
      const int inBucket = scratch_.bucketSize[bucket];
      if (inBucket == 0) continue;
      if (tokens + inBucket >= size || *reached + scratch_.bucketMass[bucket] >= mass) return edgeIn(bucket, size - tokens, mass, reached);
      tokens += inBucket;
      *reached += scratch_.bucketMass[bucket];
    }
    return everything;
  }

 private:
  // The edge among the tokens of a bucket, after `reached` of the mass. Rounding may leave their sum a little short of the
  // bucket's: then it is the last of them.
  Edge edgeIn(int bucket, int size, double mass, double* reached) {
    std::vector<int32_t>& ordered = scratch_.ordered;
    ordered.clear();
    for (int i = 0; i < count_; i++) {
      const int32_t token = scratch_.candidates[i];
      if (bucketOf(scratch_.chances[token]) == bucket) ordered.push_back(token);
    }
    std::sort(ordered.begin(), ordered.end(),
              [&](int32_t a, int32_t b) { return logits_[a] > logits_[b] || (logits_[a] == logits_[b] && a < b); });
    for (size_t i = 0; i < ordered.size(); i++) {
      *reached += scratch_.chances[ordered[i]];
      if (static_cast<int>(i) + 1 >= size || *reached >= mass) return {logits_[ordered[i]], ordered[i]};
    }
    return {logits_[ordered.back()], ordered.back()};
  }

  const float* logits_;
  int count_;
  SamplerScratch& scratch_;
};

// Gathers tokens that hold every one the cuts leave: the likely ones first, all only where the cuts reach that far.
int gather(const Kernels& kernels, int vocabulary, const SamplingPlan& plan, double total, SamplerScratch& scratch) {
  const bool cutsSize = plan.topK > 0 && plan.topK < vocabulary;
  for (const float level : {0x1p-2f, 0x1p-5f, 0x1p-10f, 0x1p-20f, 0.0f}) {
    // The largest chance is exp(0) = 1, so min_p is a bound on the chance itself; and what min_p leaves is counted whole.
    const float least = plan.minP > 0 ? plan.minP : level;
    const int count = kernels.atLeast(scratch.chances.data(), vocabulary, least, scratch.candidates.data());
    if (least == 0 || plan.minP > 0) return count;
    if (cutsSize && count >= plan.topK) return count;
    if (cutsSize) continue;
    double mass = 0;
    for (int i = 0; i < count; i++) mass += scratch.chances[scratch.candidates[i]];
    if (mass >= plan.topP * total) return count;
  }
  return 0;
}

int32_t drawCut(const Kernels& kernels, const float* logits, int vocabulary, const SamplingPlan& plan, double random, double total, SamplerScratch& scratch) {
  const int count = gather(kernels, vocabulary, plan, total, scratch);
  Candidates candidates(logits, count, scratch);
  const bool cutsSize = plan.topK > 0 && plan.topK < vocabulary;
  const int size = cutsSize ? plan.topK : vocabulary;
  Edge edge = everything;
  // Else `total` stays that of all tokens, of which top_p alone has had only the likely ones gathered.
  if (cutsSize || plan.minP > 0) edge = candidates.prefix(size, INFINITY, &total);
  if (plan.topP < 1) edge = candidates.prefix(size, plan.topP * total, &total);
  double passed = 0;
  int32_t last = 0;
  for (int i = 0; i < count && passed <= random * total; i++) {
    const int32_t token = scratch.candidates[i];
    if (scratch.chances[token] == 0 || !edge.holds(logits[token], token)) continue;
    passed += scratch.chances[token];
    last = token;
  }
  return last;
}

// From the whole distribution: the token at which the chances, added up in order of id, pass the random point.
int32_t drawWhole(const SamplerScratch& scratch, int vocabulary, double random, double total) {
  // The last part that has a chance stands in where rounding carries the point past the end.
  size_t chosen = 0;
  double point = random * total;
  double pointInside = point;
  for (size_t i = 0; i < scratch.parts.size(); i++) {
    if (scratch.parts[i] <= 0) continue;
    chosen = i;
    pointInside = point;
    if (point < scratch.parts[i]) break;
    point -= scratch.parts[i];
  }
  const int first = static_cast<int>(chosen) * part;
  const int end = std::min(first + part, vocabulary);
  double passed = 0;
  int32_t last = first;
  for (int32_t i = first; i < end && passed <= pointInside; i++) {
    if (scratch.chances[i] == 0) continue;
    passed += scratch.chances[i];
    last = i;
  }
  return last;
}

// exp((logit - top) * factor) of every token to scratch.chances, and their sum, by parts and in all.
double makeChances(const Kernels& kernels, const float* logits, int vocabulary, float top, float factor, SamplerScratch& scratch) {
  float* chances = scratch.chances.data();
  memcpy(chances, logits, sizeof(float) * static_cast<size_t>(vocabulary));
  scratch.parts.clear();
  double total = 0;
  for (int first = 0; first < vocabulary; first += part) {
    scratch.parts.push_back(kernels.exponentials(chances + first, std::min(part, vocabulary - first), top, factor));
    total += scratch.parts.back();
  }
  return total;
}

int32_t draw(const Kernels& kernels, const float* logits, int vocabulary, float top, const SamplingPlan& plan, SamplerScratch& scratch) {
  const double total = makeChances(kernels, logits, vocabulary, top, std::fmin(1.0f / plan.temperature, 1e30f), scratch);
  const double random = uniform(plan.seed, plan.draw);
  const bool cuts = plan.topK > 0 || plan.topP < 1 || plan.minP > 0;
  return cuts ? drawCut(kernels, logits, vocabulary, plan, random, total, scratch) : drawWhole(scratch, vocabulary, random, total);
}

// The `count` likeliest tokens, best first, as pairs after the record's head.
void writeTop(const float* logits, int vocabulary, int count, double normaliser, int32_t* record) {
  std::vector<int32_t> best;
  best.reserve(static_cast<size_t>(count) + 1);
  for (int32_t i = 0; i < vocabulary; i++) {
    if (static_cast<int>(best.size()) == count && !(logits[i] > logits[best.back()])) continue;
    auto place = best.end();
    while (place != best.begin() && logits[i] > logits[*(place - 1)]) --place;
    best.insert(place, i);
    if (static_cast<int>(best.size()) > count) best.pop_back();
  }
  record[2] = static_cast<int32_t>(best.size());
  for (size_t i = 0; i < best.size(); i++) {
    record[4 + 2 * i] = best[i];
    record[5 + 2 * i] = bitsOf(static_cast<float>(logits[best[i]] - normaliser));
  }
}

}  // namespace

SamplerScratch::SamplerScratch(int vocabulary)
    : logits((static_cast<size_t>(vocabulary) + 15) / 16 * 16),
      chances(logits.size()),
      counts(static_cast<size_t>(vocabulary)),
      candidates(static_cast<size_t>(vocabulary)),
      bucketSize(buckets),
      bucketMass(buckets) {}

double uniform(uint64_t seed, uint32_t draw) { return static_cast<double>(mix(mix(seed) + draw) >> 11) * 0x1p-53; }

bool sampleToken(const Kernels& kernels, const float* logits, int vocabulary, const SamplingPlan& plan, SamplerScratch& scratch, int32_t* record) {
  bool finite = false;
  const float rawTop = kernels.largest(logits, vocabulary, &finite);
  if (!finite) return false;
  memset(record, 0, sizeof(int32_t) * resultRecord);
  const float* used = logits;
  float top = rawTop;
  if (changesLogits(plan)) {
    memcpy(scratch.logits.data(), logits, sizeof(float) * static_cast<size_t>(vocabulary));
    penalise(plan, scratch);
    used = scratch.logits.data();
    top = kernels.largest(used, vocabulary, &finite);
    if (!finite) return false;
  }
  record[0] = plan.temperature == 0 ? firstOf(used, vocabulary, top) : draw(kernels, used, vocabulary, top, plan, scratch);
  if (plan.topLogprobs < 0) {
    record[2] = -1;
    return true;
  }
  // log(sum(exp(logits))).
  const double normaliser = rawTop + std::log(makeChances(kernels, logits, vocabulary, rawTop, 1, scratch));
  record[1] = bitsOf(static_cast<float>(logits[record[0]] - normaliser));
  if (plan.topLogprobs > 0) writeTop(logits, vocabulary, std::min(plan.topLogprobs, vocabulary), normaliser, record);
  return true;
}

}  // namespace fastswitch
