// sampleRows against the CPU's sampler, and against a distribution computed in doubles: where these leave no doubt (no edge
// of a cut and no boundary between tokens lies within a millionth of the random point), the tokens are the same.
#include <algorithm>
#include <cmath>

#include "../../../src/native/sampler.h"
#include "check.h"

using fastswitch::Kernels;
using fastswitch::resultRecord;
using fastswitch::SamplerScratch;
using fastswitch::SamplingPlan;
using fastswitch::check::expect;
using fastswitch::check::launch;
using fastswitch::check::Memory;
using fastswitch::check::Random;
using fastswitch::cuda::SampleItem;
using fastswitch::cuda::SampleParams;
using fastswitch::cuda::sampleShared;

namespace {

constexpr double closeness = 1e-6;

struct Case {
  SamplingPlan plan{};
  std::vector<int32_t> bias, history;
  std::vector<float> logits;
};

float oneOf(Random& random, std::initializer_list<float> values) { return values.begin()[random.below(static_cast<int>(values.size()))]; }

Case makeCase(Random& random, int vocabulary) {
  Case made;
  SamplingPlan& plan = made.plan;
  plan.temperature = oneOf(random, {0, 0.01f, 0.5f, 1, 1, 3, 1e6f});
  plan.topP = oneOf(random, {1, 1, 0.95f, 0.5f, 0.1f, 1e-9f});
  plan.minP = oneOf(random, {0, 0, 0, 0.05f, 1, 1e-6f});
  plan.topK = static_cast<int>(oneOf(random, {0, 0, 1, 3, 20, 400, 1000000}));
  plan.frequencyPenalty = oneOf(random, {0, 0, 0.7f, -1.3f});
  plan.presencePenalty = oneOf(random, {0, 0, 0.6f});
  plan.repetitionPenalty = oneOf(random, {1, 1, 1.3f, 0.6f});
  plan.seed = random.next();
  plan.draw = static_cast<uint32_t>(random.below(100));
  plan.topLogprobs = static_cast<int>(oneOf(random, {-1, -1, 0, 1, 5, 20}));
  const bool penalised = plan.frequencyPenalty != 0 || plan.presencePenalty != 0 || plan.repetitionPenalty != 1;
  // More than the threads of a block now and then, and the same token twice.
  const int biases = random.below(3) != 0 ? 0 : random.below(6) == 0 ? 1500 : random.below(40);
  for (int i = 0; i < biases; i++) {
    made.bias.push_back(random.below(vocabulary));
    made.bias.push_back(static_cast<int32_t>(fastswitch::bitsOf(5 * random.unit())));
  }
  const int history = penalised ? random.below(60) : 0;
  for (int i = 0; i < history; i++) made.history.push_back(random.below(std::min(vocabulary, 40)));
  plan.historyPrompt = history / 3;
  // All the same; many the same; hardly any.
  const float spread = oneOf(random, {0, 1, 8, 8, 30});
  const float step = oneOf(random, {0, 0, 0.5f});
  for (int i = 0; i < vocabulary; i++) {
    const float value = spread * (random.unit() + random.unit() + random.unit()) - 4;
    made.logits.push_back(step == 0 ? value : std::round(value / step) * step);
  }
  return made;
}

// Whether the plan leaves no doubt about its token, and which it is. `logits` are those after bias and penalties.
bool certain(const SamplingPlan& plan, const std::vector<float>& logits, int32_t* token) {
  struct One {
    int32_t token;
    float logit;
    double chance;
  };
  std::vector<One> all;
  const float top = *std::max_element(logits.begin(), logits.end());
  const double factor = std::fmin(1.0f / plan.temperature, 1e30f);
  for (size_t i = 0; i < logits.size(); i++) {
    const double chance = std::exp(static_cast<double>(logits[i] - top) * factor);
    if (plan.minP > 0 && std::fabs(chance - plan.minP) < 10 * closeness * plan.minP && chance < 1) return false;
    if (chance >= plan.minP) all.push_back({static_cast<int32_t>(i), logits[i], chance});
  }
  std::sort(all.begin(), all.end(), [](const One& a, const One& b) { return a.logit > b.logit || (a.logit == b.logit && a.token < b.token); });
  if (plan.topK > 0 && all.size() > static_cast<size_t>(plan.topK)) all.resize(static_cast<size_t>(plan.topK));
  const auto sum = [&] {
    double total = 0;
    for (const One& one : all) total += one.chance;
    return total;
  };
  double total = sum();
  double passed = 0;
  for (size_t i = 0; plan.topP < 1 && i < all.size(); i++) {
    passed += all[i].chance;
    if (std::fabs(passed - plan.topP * total) < closeness * total && i + 1 < all.size() && plan.topP > closeness) return false;
    if (passed >= plan.topP * total) all.resize(i + 1);
  }
  total = sum();
  std::sort(all.begin(), all.end(), [](const One& a, const One& b) { return a.token < b.token; });
  const double point = fastswitch::uniform(plan.seed, plan.draw) * total;
  passed = 0;
  for (const One& one : all) {
    passed += one.chance;
    if (one.chance > 0 && std::fabs(passed - point) < closeness * total) return false;
    if (passed <= point) continue;
    *token = one.token;
    return true;
  }
  return false;
}

bool near(int32_t got, int32_t wanted) {
  const float a = fastswitch::floatOf(static_cast<uint32_t>(got));
  const float b = fastswitch::floatOf(static_cast<uint32_t>(wanted));
  return std::fabs(a - b) <= 2e-6f * (1 + std::fabs(b));
}

struct Tally {
  int cases = 0, doubtful = 0, wrongTokens = 0, otherThanDouble = 0, wrongLogprobs = 0, dirty = 0;
};

// Everything the kernel needs, for some cases of one vocabulary. Item 1 is padding.
struct Launch {
  Launch(std::vector<Case>& cases, int vocabulary)
      : stride(vocabulary + 5),
        items(cases.size()),
        lists(3100 * cases.size()),
        logits(cases.size() * static_cast<size_t>(stride), NAN),
        scratch(logits.size(), NAN),
        counts(logits.size()),
        results(cases.size() * resultRecord, 12345) {
    int32_t next = 3;
    for (size_t i = 0; i < cases.size(); i++) {
      SamplingPlan& plan = cases[i].plan;
      const auto append = [&](const std::vector<int32_t>& list) {
        std::copy(list.begin(), list.end(), lists.data() + next);
        next += static_cast<int32_t>(list.size());
        return next - static_cast<int32_t>(list.size());
      };
      const int32_t bias = append(cases[i].bias);
      const int32_t history = append(cases[i].history);
      plan.bias = lists.data() + bias;
      plan.biasCount = static_cast<int>(cases[i].bias.size() / 2);
      plan.history = lists.data() + history;
      plan.historyCount = static_cast<int>(cases[i].history.size());
      items[i] = {plan.temperature, plan.topP,         plan.minP, plan.frequencyPenalty, plan.presencePenalty, plan.repetitionPenalty,
                  plan.topK,        plan.topLogprobs,  plan.seed, plan.draw,             record(i, cases.size()),
                  bias,             plan.biasCount,    history,   plan.historyCount,     plan.historyPrompt,   0};
      std::copy(cases[i].logits.begin(), cases[i].logits.end(), logits.data() + i * static_cast<size_t>(stride));
    }
    launch("sampleRows", SampleParams{items.data(), lists.data(), logits.data(), scratch.data(), counts.data(), results.data(), vocabulary, stride},
           static_cast<unsigned>(cases.size()), 1, 1024, sampleShared);
  }
  static int32_t record(size_t item, size_t count) { return item == 1 ? -1 : static_cast<int32_t>(count - 1 - item); }

  int stride;
  Memory<SampleItem> items;
  Memory<int32_t> lists;
  Memory<float> logits, scratch;
  Memory<int32_t> counts, results;
};

void compare(const Kernels& kernels, std::vector<Case>& cases, int vocabulary, Tally* tally) {
  Launch launched(cases, vocabulary);
  SamplerScratch scratch(vocabulary);
  for (size_t i = 0; i < cases.size(); i++) {
    const int32_t number = Launch::record(i, cases.size());
    if (number < 0) continue;
    const SamplingPlan& plan = cases[i].plan;
    const int32_t* got = launched.results.data() + static_cast<size_t>(number) * resultRecord;
    std::vector<float> logits = cases[i].logits;
    logits.resize(scratch.logits.size());
    int32_t wanted[resultRecord];
    fastswitch::sampleToken(kernels, logits.data(), vocabulary, plan, scratch, wanted);
    tally->cases++;
    const bool changed = plan.biasCount > 0 || plan.historyCount > 0;
    logits = changed ? scratch.logits : logits;
    logits.resize(static_cast<size_t>(vocabulary));
    int32_t token = wanted[0];
    if (plan.temperature != 0 && !certain(plan, logits, &token)) {
      tally->doubtful++;
      continue;
    }
    if (token != got[0]) tally->otherThanDouble++;
    if (wanted[0] != got[0]) tally->wrongTokens++;
    bool same = got[2] == wanted[2] && got[3] == 0 && near(got[1], wanted[1]);
    for (size_t j = 4; j < resultRecord; j += 2) same = same && got[j] == wanted[j] && near(got[j + 1], wanted[j + 1]);
    if (!same) tally->wrongLogprobs++;
  }
  for (size_t i = 0; i < launched.counts.size(); i++) tally->dirty += launched.counts[i] != 0 ? 1 : 0;
  const size_t unused = cases.size() - 2;  // the record of the item that is padding
  for (size_t i = 0; i < resultRecord; i++) tally->dirty += launched.results[unused * resultRecord + i] != 12345 ? 1 : 0;
}

void checkNotFinite() {
  Random random{99};
  std::vector<Case> cases;
  for (int i = 0; i < 5; i++) {
    cases.push_back(makeCase(random, 100));
    cases.back().bias.clear();
    cases.back().plan.topK = cases.back().plan.topLogprobs = 3;
  }
  cases[0].logits[63] = NAN;
  cases[2].logits[99] = -INFINITY;
  cases[3].bias = {7, static_cast<int32_t>(fastswitch::bitsOf(INFINITY))};
  Launch launched(cases, 100);
  const auto token = [&](size_t item) { return launched.results[static_cast<size_t>(Launch::record(item, 5)) * resultRecord]; };
  expect(token(0) == -2 && token(2) == -2 && token(3) == -2 && token(4) >= 0, "a logit that is not finite gives token -2, to its own sequence only");
}

// Shares of many draws, with cuts that leave four tokens of ten.
void checkShares() {
  constexpr int draws = 400;
  std::vector<Case> cases(draws);
  const double chances[] = {0.4, 0.02, 0.2, 0.02, 0.2, 0.02, 0.02, 0.1, 0.01, 0.01};
  int counts[10] = {};
  for (int i = 0; i < draws; i++) {
    cases[static_cast<size_t>(i)].plan = {1, 0.85f, 0, 0, 0, 1, 7, 5, static_cast<uint32_t>(i), -1, nullptr, 0, nullptr, 0, 0};
    for (const double chance : chances) cases[static_cast<size_t>(i)].logits.push_back(static_cast<float>(std::log(chance)) + 3);
  }
  Launch launched(cases, 10);
  for (size_t i = 0; i < draws; i++) {
    if (i != 1) counts[launched.results[static_cast<size_t>(Launch::record(i, draws)) * resultRecord]]++;
  }
  bool holds = true;
  for (int i = 0; i < 10; i++) {
    const double wanted = chances[i] < 0.1 ? 0 : chances[i] / 0.9 * draws;
    holds = holds && std::fabs(counts[i] - wanted) <= 4 * std::sqrt(wanted) + (wanted > 0 ? 1 : 0);
  }
  expect(holds, "tokens come as often as their chances say, and never beyond the cuts");
}

// All logits the same: top_k keeps the lowest three tokens, and top_p, which needs them all, no other.
void checkTies() {
  constexpr int draws = 40;
  std::vector<Case> cases(draws);
  for (int i = 0; i < draws; i++) {
    cases[static_cast<size_t>(i)].plan = {1, 0.95f, 0, 0, 0, 1, 3, 6, static_cast<uint32_t>(i), 2, nullptr, 0, nullptr, 0, 0};
    cases[static_cast<size_t>(i)].logits.assign(70, i % 2 == 0 ? 0.0f : -0.0f);
    cases[static_cast<size_t>(i)].logits[1] = 0.0f;
  }
  Launch launched(cases, 70);
  bool holds = true;
  int counts[3] = {};
  for (size_t i = 0; i < draws; i++) {
    if (i == 1) continue;
    const int32_t* record = launched.results.data() + static_cast<size_t>(Launch::record(i, draws)) * resultRecord;
    holds = holds && record[0] >= 0 && record[0] < 3 && record[2] == 2 && record[4] == 0 && record[6] == 1;
    if (holds) counts[record[0]]++;
  }
  expect(holds && counts[0] > 0 && counts[1] > 0 && counts[2] > 0, "ties go to the lowest ids, and zeros of both signs are ties");
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? atoi(arguments[1]) : 3;
  const Kernels& kernels = *fastswitch::portableKernels();
  Tally tally;
  Random random{2026};
  for (int i = 0; i < rounds; i++) {
    for (const int vocabulary : {1, 2, 21, 33, 300, 1000, 2500}) {
      std::vector<Case> cases;
      for (int j = 0; j < 12; j++) cases.push_back(makeCase(random, vocabulary));
      compare(kernels, cases, vocabulary, &tally);
    }
  }
  std::vector<Case> large;
  for (int j = 0; j < 2; j++) large.push_back(makeCase(random, 152000));
  compare(kernels, large, 152000, &tally);
  printf("# %d cases, of which %d are too close to call\n", tally.cases, tally.doubtful);
  expect(tally.wrongTokens == 0, "tokens are those of the CPU");
  expect(tally.otherThanDouble == 0, "tokens are those of the distribution in doubles");
  expect(tally.wrongLogprobs == 0, "logprobs and alternatives are those of the CPU");
  expect(tally.dirty == 0, "counts are zero again, and padding writes nothing");
  expect(tally.doubtful * 10 < tally.cases, "few cases are too close to call");
  checkNotFinite();
  checkShares();
  checkTies();
  return fastswitch::check::failures == 0 ? 0 : 1;
}
