// From the logits of one sequence to a token. Depends on nothing but the logits and the sequence's own parameters.
#pragma once

#include <vector>

#include "kernels.h"
#include "plan.h"

namespace fastswitch {

// Working memory of one thread.
struct SamplerScratch {
  std::vector<float> logits;        // after bias, penalties; padded to 16
  std::vector<float> chances;       // exp of them, not normalised; padded to 16
  std::vector<double> parts;        // sums of the chances of 1024 tokens each
  std::vector<int32_t> counts;      // occurrences of tokens, all zero between calls
  std::vector<int32_t> candidates;  // tokens that may be drawn, ascending
  std::vector<int32_t> bucketSize;  // of these, by size of their chance
  std::vector<double> bucketMass;
  std::vector<int32_t> ordered;     // tokens of one bucket, likeliest first

  explicit SamplerScratch(int vocabulary);
};

// Samples from `logits` [vocabulary, padded to 16] and writes one result record (plan.ts). In order: bias, repetition
// penalty, frequency and presence penalties, temperature, min_p, top_k, top_p (of what these left); ties go to the
// lowest id. Logprobs are of the raw logits, before all of that. False where a logit is NaN or infinite.
bool sampleToken(const Kernels& kernels, const float* logits, int vocabulary, const SamplingPlan& plan, SamplerScratch& scratch, int32_t* record);

// Uniform in [0, 1), a function of its arguments only: 53 bits of a mixed counter (splitmix64's finaliser, twice).
double uniform(uint64_t seed, uint32_t draw);

}  // namespace fastswitch
