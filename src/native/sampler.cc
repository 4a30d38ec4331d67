#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
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
  bool holds(float otherLogit, int32_t otherToken) const { return otherLogit > logit || (otherLogit == logit && otherToken <= token); }
};

// The candidates of one draw: tokens with a chance of at least `least` up to an edge.
class Candidates {
 public:
  Candidates(const float* logits, int vocabulary, float least, SamplerScratch& scratch)
      : logits_(logits), vocabulary_(vocabulary), least_(least), scratch_(scratch) {
    std::fill(scratch.bucketSize.begin(), scratch.bucketSize.end(), 0);
    std::fill(scratch.bucketMass.begin(), scratch.bucketMass.end(), 0.0);
    for (int i = 0; i < vocabulary; i++) {
      const float chance = scratch.chances[i];
      if (chance < least_) continue;
      const int bucket = bucketOf(chance);
      scratch.bucketSize[bucket]++;
      scratch.bucketMass[bucket] += chance;
    }
  }

  // The shortest prefix that has `size` tokens or the chance `mass`, or all. Also answers its mass.
  Edge prefix(int size, double mass, double* reached) {
    int tokens = 0;
    double total = 0;
    Edge edge{-INFINITY, vocabulary_};
    *reached = 0;
    for (int bucket = buckets - 1; bucket >= 0; bucket--) {
      const int inBucket = scratch_.bucketSize[bucket];
      if (inBucket == 0) continue;
      const bool last = tokens + inBucket >= size || total + scratch_.bucketMass[bucket] >= mass;
      if (last) {
        collect(bucket);
        for (const int32_t token : scratch_.candidates) {
          edge = {logits_[token], token};
          total += scratch_.chances[token];
          tokens++;
          if (tokens >= size || total >= mass) break;
        }
        // Rounding may leave the sum over the bucket a little short of the mass that it was found with.
        *reached = total;
        return edge;
      }
      tokens += inBucket;
      total += scratch_.bucketMass[bucket];
    }
    *reached = total;
    return edge;
  }

 private:
  // The tokens of a bucket in order.
  void collect(int bucket) {
    scratch_.candidates.clear();
    for (int i = 0; i < vocabulary_; i++) {
      const float chance = scratch_.chances[i];
      if (chance >= least_ && bucketOf(chance) == bucket) scratch_.candidates.push_back(i);
    }
    std::sort(scratch_.candidates.begin(), scratch_.candidates.end(),
              [&](int32_t a, int32_t b) { return logits_[a] > logits_[b] || (logits_[a] == logits_[b] && a < b); });
  }

  const float* logits_;
  int vocabulary_;
  float least_;
  SamplerScratch& scratch_;
};

// The token at which the chances, added up in order of id, pass `point` (of `total`).
int32_t pick(const float* chances, const float* logits, int vocabulary, float least, const Edge& edge, double point) {
  double passed = 0;
  int32_t last = 0;
  for (int32_t i = 0; i < vocabulary; i++) {
    if (chances[i] < least || chances[i] == 0 || !edge.holds(logits[i], i)) continue;
    passed += chances[i];
    last = i;
    if (passed > point) break;
  }
  return last;
}

int32_t draw(const Kernels& kernels, const float* logits, int vocabulary, float top, const SamplingPlan& plan, SamplerScratch& scratch) {
  const float factor = std::fmin(1.0f / plan.temperature, 1e30f);
  float* chances = scratch.chances.data();
  memcpy(chances, logits, sizeof(float) * static_cast<size_t>(vocabulary));
  double total = 0;
  std::vector<double> parts;
  for (int first = 0; first < vocabulary; first += part) {
    parts.push_back(kernels.exponentials(chances + first, std::min(part, vocabulary - first), top, factor));
    total += parts.back();
  }
  const double random = uniform(plan.seed, plan.draw);
  const bool cutsSize = plan.topK > 0 && plan.topK < vocabulary;
  if (!cutsSize && plan.topP >= 1 && plan.minP <= 0) {
    // The last part that has a chance stands in where rounding carries the point past the end.
    size_t chosen = 0;
    double point = random * total;
    double pointInside = point;
    for (size_t i = 0; i < parts.size(); i++) {
      if (parts[i] <= 0) continue;
      chosen = i;
      pointInside = point;
      if (point < parts[i]) break;
      point -= parts[i];
    }
    const int first = static_cast<int>(chosen) * part;
    return first + pick(chances + first, logits + first, std::min(part, vocabulary - first), 0, Edge{-INFINITY, vocabulary}, pointInside);
  }
  // The largest chance is exp(0) = 1, so min_p is a bound on the chance itself.
  const float least = plan.minP;
  Candidates candidates(logits, vocabulary, least, scratch);
  Edge edge = candidates.prefix(cutsSize ? plan.topK : vocabulary, INFINITY, &total);
  if (plan.topP < 1) edge = candidates.prefix(cutsSize ? plan.topK : vocabulary, static_cast<double>(plan.topP) * total, &total);
  return pick(chances, logits, vocabulary, least, edge, random * total);
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

// log(sum(exp(logits))).
double normaliserOf(const Kernels& kernels, const float* logits, int vocabulary, float top, SamplerScratch& scratch) {
  float* chances = scratch.chances.data();
  memcpy(chances, logits, sizeof(float) * static_cast<size_t>(vocabulary));
  double total = 0;
  for (int first = 0; first < vocabulary; first += part) total += kernels.exponentials(chances + first, std::min(part, vocabulary - first), top, 1);
  return top + std::log(total);
}

}  // namespace

SamplerScratch::SamplerScratch(int vocabulary)
    : logits((static_cast<size_t>(vocabulary) + 15) / 16 * 16),
      chances(logits.size()),
      counts(static_cast<size_t>(vocabulary)),
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
  if (plan.topLogprobs < 0) return true;
  const double normaliser = normaliserOf(kernels, logits, vocabulary, rawTop, scratch);
  record[1] = bitsOf(static_cast<float>(logits[record[0]] - normaliser));
  if (plan.topLogprobs > 0) writeTop(logits, vocabulary, std::min(plan.topLogprobs, vocabulary), normaliser, record);
  return true;
}

}  // namespace fastswitch
