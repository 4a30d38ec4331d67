// A step plan as plan.ts lays it out, copied and checked: nothing below this trusts a word from JavaScript.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "status.h"

namespace fastswitch {

constexpr int topLogprobsMax = 20;
constexpr size_t resultRecord = 4 + 2 * topLogprobsMax;

struct SamplingPlan {
  float temperature, topP, minP, frequencyPenalty, presencePenalty, repetitionPenalty;
  int topK;
  uint64_t seed;
  uint32_t draw;
  int topLogprobs;
  const int32_t* bias;  // pairs [token, bits of a float]
  int biasCount;
  const int32_t* history;
  int historyCount;
  int historyPrompt;
};

struct SequencePlan {
  int count;     // tokens to compute
  int start;     // position of the first
  int firstRow;  // its row in the batch
  const int32_t* tokens;
  const int32_t* blocks;
  bool sample;
  int sampleRow;  // among the sampling sequences
  SamplingPlan sampling;
};

struct PlanLimits {
  int vocabulary;
  int positions;
  size_t deviceBlocks;
  int maxBatchTokens;
  int maxSequences;
};

struct StepPlan {
  std::vector<int32_t> words;
  std::vector<SequencePlan> sequences;
  int rows = 0;
  int samples = 0;
};

// Reads `words` (shared memory that may change meanwhile: it is copied first) into `plan`.
Status readPlan(const int32_t* words, size_t count, const PlanLimits& limits, StepPlan* plan);

}  // namespace fastswitch
