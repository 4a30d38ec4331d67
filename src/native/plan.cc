#include "plan.h"

#include <cmath>
#include <cstring>

namespace fastswitch {

namespace {

constexpr int32_t planVersion = 1;
constexpr size_t planHeader = 4;
constexpr size_t planRecord = 24;
constexpr int blockTokens = 16;

// In the order of `Field` in plan.ts.
enum Field {
  count, start, tokens, blocks, blockCount, sample, temperature, topK, topP, minP, frequencyPenalty, presencePenalty,
  repetitionPenalty, seedLow, seedHigh, draw, topLogprobs, bias, biasCount, history, historyCount, historyPrompt
};

float floatOf(int32_t word) {
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

bool within(float value, float low, float high) { return value >= low && value <= high; }

struct Reader {
  const std::vector<int32_t>& words;
  const PlanLimits& limits;

  // A list of `size` words inside the plan, after its header; null where it is not.
  const int32_t* list(int32_t offset, int64_t size) const {
    if (size == 0) return words.data();
    if (offset < static_cast<int32_t>(planHeader) || size < 0) return nullptr;
    if (offset + size > static_cast<int64_t>(words.size())) return nullptr;
    return words.data() + offset;
  }

  bool areTokens(const int32_t* from, int size, int step = 1) const {
    for (int i = 0; i < size; i++) {
      if (from[i * step] < 0 || from[i * step] >= limits.vocabulary) return false;
    }
    return true;
  }

  Status context(size_t index, const int32_t* record, SequencePlan* sequence) const {
    sequence->count = record[count];
    sequence->start = record[start];
    if (record[count] < 1 || record[start] < 0 || int64_t{record[start]} + record[count] > limits.positions) {
      return fail(Status::badPlan, "sequence %zu computes %d tokens from position %d; the engine has %d positions", index, record[count], record[start],
                  limits.positions);
    }
    sequence->tokens = list(record[tokens], record[count]);
    if (sequence->tokens == nullptr) return fail(Status::badPlan, "the token list of sequence %zu leaves the plan", index);
    if (!areTokens(sequence->tokens, record[count])) {
      return fail(Status::badPlan, "sequence %zu has a token outside the vocabulary of %d", index, limits.vocabulary);
    }
    sequence->blocks = list(record[blocks], record[blockCount]);
    if (sequence->blocks == nullptr) return fail(Status::badPlan, "the block list of sequence %zu leaves the plan", index);
    if (int64_t{record[blockCount]} * blockTokens < int64_t{record[start]} + record[count]) {
      return fail(Status::badPlan, "sequence %zu has %d blocks for %d tokens", index, record[blockCount], record[start] + record[count]);
    }
    for (int i = 0; i < record[blockCount]; i++) {
      if (sequence->blocks[i] < 0 || static_cast<size_t>(sequence->blocks[i]) >= limits.deviceBlocks) {
        return fail(Status::badPlan, "sequence %zu names block %d of %zu", index, sequence->blocks[i], limits.deviceBlocks);
      }
    }
    return Status::ok;
  }

  Status sampling(size_t index, const int32_t* record, SamplingPlan* to) const {
    to->temperature = floatOf(record[temperature]);
    to->topP = floatOf(record[topP]);
    to->minP = floatOf(record[minP]);
    to->frequencyPenalty = floatOf(record[frequencyPenalty]);
    to->presencePenalty = floatOf(record[presencePenalty]);
    to->repetitionPenalty = floatOf(record[repetitionPenalty]);
    to->topK = record[topK];
    to->seed = static_cast<uint64_t>(static_cast<uint32_t>(record[seedHigh])) << 32 | static_cast<uint32_t>(record[seedLow]);
    to->draw = static_cast<uint32_t>(record[draw]);
    to->topLogprobs = record[topLogprobs];
    // Written so that a NaN fails each of them.
    const bool sound = within(to->temperature, 0, 1e6f) && within(to->topP, 0, 1) && within(to->minP, 0, 1) && to->topK >= 0 &&
                       within(to->frequencyPenalty, -1e6f, 1e6f) && within(to->presencePenalty, -1e6f, 1e6f) &&
                       within(to->repetitionPenalty, 1e-6f, 1e6f) && to->topLogprobs >= -1 && to->topLogprobs <= topLogprobsMax;
    if (!sound) return fail(Status::badPlan, "a sampling parameter of sequence %zu is out of range", index);
    to->bias = list(record[bias], int64_t{2} * record[biasCount]);
    to->biasCount = record[biasCount];
    if (record[biasCount] < 0 || to->bias == nullptr || !areTokens(to->bias, record[biasCount], 2)) {
      return fail(Status::badPlan, "the bias list of sequence %zu leaves the plan or the vocabulary", index);
    }
    for (int i = 0; i < record[biasCount]; i++) {
      if (!within(floatOf(to->bias[2 * i + 1]), -1e6f, 1e6f)) return fail(Status::badPlan, "a bias of sequence %zu is out of range", index);
    }
    to->history = list(record[history], record[historyCount]);
    to->historyCount = record[historyCount];
    to->historyPrompt = record[historyPrompt];
    if (to->history == nullptr || !areTokens(to->history, record[historyCount]) || record[historyPrompt] < 0 || record[historyPrompt] > record[historyCount]) {
      return fail(Status::badPlan, "the history of sequence %zu leaves the plan or the vocabulary", index);
    }
    return Status::ok;
  }
};

Status checkHeader(const std::vector<int32_t>& words, const PlanLimits& limits) {
  if (words[0] != planVersion) return fail(Status::badPlan, "plan version %d, the engine reads %d", words[0], planVersion);
  if (words[1] < 1 || words[1] > limits.maxSequences) {
    return fail(Status::badPlan, "a step of %d sequences; the engine takes 1 to %d", words[1], limits.maxSequences);
  }
  if (words[2] < 0 || static_cast<size_t>(words[2]) > words.size() || static_cast<size_t>(words[2]) < planHeader + planRecord * static_cast<size_t>(words[1])) {
    return fail(Status::badPlan, "a plan of %d words does not fit its %d sequences or its memory of %zu words", words[2], words[1], words.size());
  }
  return Status::ok;
}

}  // namespace

Status readPlan(const int32_t* words, size_t count, const PlanLimits& limits, StepPlan* plan) {
  if (count < planHeader) return fail(Status::badPlan, "a plan of %zu words has no header", count);
  const int32_t claimed = words[2];
  const size_t used = claimed >= static_cast<int32_t>(planHeader) && static_cast<size_t>(claimed) < count ? static_cast<size_t>(claimed) : count;
  plan->words.assign(words, words + used);
  Status status = checkHeader(plan->words, limits);
  if (status != Status::ok) return status;
  plan->sequences.clear();
  plan->rows = 0;
  plan->samples = 0;
  const Reader reader{plan->words, limits};
  for (size_t i = 0; i < static_cast<size_t>(plan->words[1]); i++) {
    const int32_t* record = plan->words.data() + planHeader + planRecord * i;
    SequencePlan sequence{};
    status = reader.context(i, record, &sequence);
    if (status != Status::ok) return status;
    sequence.firstRow = plan->rows;
    sequence.sample = record[Field::sample] == 1;
    if (record[Field::sample] != 0 && record[Field::sample] != 1) return fail(Status::badPlan, "sequence %zu neither samples nor does not", i);
    if (sequence.sample) {
      sequence.sampleRow = plan->samples++;
      status = reader.sampling(i, record, &sequence.sampling);
      if (status != Status::ok) return status;
    }
    if (sequence.count > limits.maxBatchTokens - plan->rows) {
      return fail(Status::badPlan, "the step computes more than %d tokens", limits.maxBatchTokens);
    }
    plan->rows += sequence.count;
    plan->sequences.push_back(sequence);
  }
  return Status::ok;
}

}  // namespace fastswitch
