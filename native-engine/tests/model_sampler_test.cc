// The sampling rules, each on logits small enough to compute by hand, and the draws as a pure function of seed and
// index.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "model/sampler.h"

namespace penstock {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplingParams greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

Sampled sample(std::vector<float> logits, const SamplingParams& params, const std::vector<int32_t>& prompt = {},
               const std::vector<int32_t>& output = {}) {
  Sampler sampler;
  return sampler.sample(logits, params, prompt, output);
}

// How often each token is drawn over many seeds.
std::map<int32_t, int> histogram(const std::vector<float>& logits, SamplingParams params, int draws = 4000) {
  std::map<int32_t, int> counts;
  Sampler sampler;
  for (int i = 0; i < draws; ++i) {
    params.seed = static_cast<uint64_t>(i);
    std::vector<float> copy = logits;
    ++counts[sampler.sample(copy, params, {}, {}).token];
  }
  return counts;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(sample({1, 3, 2}, greedy()).token, 1);
  EXPECT_EQ(sample({2, 3, 3, 3}, greedy()).token, 1);
  EXPECT_EQ(sample({-kInfinity, -5, -kInfinity}, greedy()).token, 1);
  std::vector<float> wide(1000, 0.5f);
  wide[700] = wide[901] = 0.75f;
  EXPECT_EQ(sample(wide, greedy()).token, 700);
}

TEST(Sampler, TheSameSeedAndIndexDrawTheSameToken) {
  std::mt19937 random(1);
  std::vector<float> logits(500);
  for (float& logit : logits) logit = static_cast<float>(random() % 1000) / 300.0f;
  SamplingParams params;
  params.seed = 42;
  params.top_p = 0.9f;
  Sampler used;
  for (int32_t index = 0; index < 50; ++index) {
    const std::vector<int32_t> output(static_cast<size_t>(index), 3);
    std::vector<float> copy = logits;
    EXPECT_EQ(used.sample(copy, params, {}, output).token, sample(logits, params, {}, output).token) << index;
  }
}

// The vectors of Random123, which defines it.
TEST(Sampler, ItsRandomNumbersArePhilox) {
  using Bits = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Bits{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  constexpr uint32_t kOnes = 0xFFFFFFFFu;
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}), (Bits{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
  EXPECT_EQ(philox({0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u}, {0xA4093822u, 0x299F31D0u}),
            (Bits{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}));
  EXPECT_NE(uniform_number(1, 2), uniform_number(2, 1));
  EXPECT_NE(uniform_number(uint64_t{1} << 32, 0), uniform_number(0, 0));
  EXPECT_NE(uniform_number(0, uint64_t{1} << 32), uniform_number(0, 0));
}

TEST(Sampler, SeedsAndIndicesGiveDifferentDraws) {
  const std::vector<float> flat(1000, 0.0f);
  std::map<int32_t, int> by_seed, by_index;
  SamplingParams params;
  for (int32_t i = 0; i < 200; ++i) {
    params.seed = static_cast<uint64_t>(i);
    ++by_seed[sample(flat, params).token];
    params.seed = 0;
    ++by_index[sample(flat, params, {}, std::vector<int32_t>(static_cast<size_t>(i), 0)).token];
  }
  EXPECT_GT(by_seed.size(), 150u);
  EXPECT_GT(by_index.size(), 150u);
}

TEST(Sampler, FrequenciesFollowTheSoftmaxAtTheTemperature) {
  const std::vector<float> logits{0.0f, std::log(2.0f), std::log(5.0f)};
  auto counts = histogram(logits, {});
  EXPECT_NEAR(counts[0] / 4000.0, 1.0 / 8, 0.02);
  EXPECT_NEAR(counts[1] / 4000.0, 2.0 / 8, 0.025);
  EXPECT_NEAR(counts[2] / 4000.0, 5.0 / 8, 0.03);
  SamplingParams hot;
  hot.temperature = 0.5f;  // squares the odds: 1 : 4 : 25
  counts = histogram(logits, hot);
  EXPECT_NEAR(counts[2] / 4000.0, 25.0 / 30, 0.02);
}

TEST(Sampler, ATinyTemperatureIsGreedyAndNotInfinite) {
  SamplingParams params;
  params.temperature = 1e-38f;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    params.seed = seed;
    EXPECT_EQ(sample({100.0f, 300.0f, -3e38f, 299.9f}, params).token, 1);
  }
}

TEST(Sampler, TopKKeepsTheMostLikelyAndTheLowestIdsAmongEquals) {
  SamplingParams params;
  params.top_k = 2;
  for (const auto& [token, count] : histogram({1, 2, 2, 2, 0}, params, 300))
    EXPECT_TRUE(token == 1 || token == 2) << token;
  params.top_k = 1;
  EXPECT_EQ(histogram({1, 2, 2, 2, 0}, params, 50).size(), 1u);
  params.top_k = 100;
  EXPECT_EQ(histogram({1, 1, 1}, params, 300).size(), 3u);
}

TEST(Sampler, TopPKeepsTheShortestPrefixThatHoldsTheMass) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.5f), std::log(0.15f), std::log(0.25f)};
  SamplingParams params;
  params.top_p = 0.4f;  // 0.5 alone
  EXPECT_EQ(histogram(logits, params, 300).size(), 1u);
  params.top_p = 0.7f;  // 0.5 + 0.25
  auto counts = histogram(logits, params);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_NEAR(counts[1] / 4000.0, 2.0 / 3, 0.03);
  params.top_p = 0.85f;
  EXPECT_EQ(histogram(logits, params).size(), 3u);
  params.top_p = 1e-9f;
  EXPECT_EQ(histogram(logits, params, 50).begin()->first, 1);
}

TEST(Sampler, MinPIsRelativeToTheMostLikely) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.5f), std::log(0.16f), std::log(0.24f)};
  SamplingParams params;
  params.min_p = 0.3f;  // at least 0.15
  EXPECT_EQ(histogram(logits, params).size(), 3u);
  params.min_p = 1.0f;
  EXPECT_EQ(histogram(logits, params, 50).size(), 1u);
}

TEST(Sampler, TopPActsOnWhatTopKAndMinPLeft) {
  // Of 0.4, 0.3, 0.2, 0.1 the two kept hold 0.7, so 0.5 of that is reached by the first alone.
  SamplingParams params;
  params.top_k = 2;
  params.top_p = 0.5f;
  EXPECT_EQ(histogram({std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)}, params, 300).size(), 1u);
}

TEST(Sampler, BiasIsAddedBeforeAnythingElse) {
  SamplingParams params = greedy();
  params.bias = {{2, 5.0f}, {1, -100.0f}};
  EXPECT_EQ(sample({1, 3, 2}, params).token, 2);
  params.bias = {{0, 1.0f}, {0, 1.5f}};
  EXPECT_EQ(sample({1, 3, 2}, params).token, 0);
}

TEST(Sampler, RepetitionPenaltyCountsPromptAndOutputOnceEach) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2.0f;
  EXPECT_EQ(sample({4, 3, 1}, params, {0}, {}).token, 1);
  EXPECT_EQ(sample({4, 3, 1}, params, {}, {0}).token, 1);
  EXPECT_EQ(sample({4, 1.9f, 1}, params, {0, 0, 0}, {0}).token, 0);  // 4 / 2, not 4 / 16
  EXPECT_EQ(sample({-1, -1.5f, -9}, params, {0}, {}).token, 1);      // negative logits move down too
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCountOutputOnly) {
  SamplingParams presence = greedy();
  presence.presence_penalty = 1.5f;
  EXPECT_EQ(sample({4, 3, 1}, presence, {0, 0}, {}).token, 0);
  EXPECT_EQ(sample({4, 3, 1}, presence, {}, {0}).token, 1);
  EXPECT_EQ(sample({4, 2, 1}, presence, {}, {0, 0, 0}).token, 0);
  SamplingParams frequency = greedy();
  frequency.frequency_penalty = 0.6f;
  EXPECT_EQ(sample({4, 2.5f, 1}, frequency, {}, {0, 0}).token, 0);
  EXPECT_EQ(sample({4, 2.5f, 1}, frequency, {}, {0, 0, 0}).token, 1);
  frequency.frequency_penalty = -1.0f;
  EXPECT_EQ(sample({4, 2.5f, 1}, frequency, {}, {1, 1}).token, 1);
}

TEST(Sampler, PenaltiesLeaveNoTraceForTheNextCall) {
  Sampler sampler;
  SamplingParams params = greedy();
  params.frequency_penalty = 1.0f;
  params.repetition_penalty = 1.1f;
  std::vector<float> logits{4, 3.5f, 1};
  const std::vector<int32_t> history{0, 0}, outside{0, 7};
  EXPECT_EQ(sampler.sample(logits, params, history, history).token, 1);
  logits = {4, 3.5f, 1};
  EXPECT_THROW(sampler.sample(logits, params, history, outside), SamplingError);
  logits = {4, 3.5f, 1};
  EXPECT_EQ(sampler.sample(logits, params, {}, {}).token, 0);
}

TEST(Sampler, LogprobsAreOfTheModelsOwnDistribution) {
  SamplingParams params = greedy();
  params.logprobs_top = 2;
  params.bias = {{0, 100.0f}};
  const auto sampled = sample({std::log(0.1f), std::log(0.6f), std::log(0.3f)}, params);
  EXPECT_EQ(sampled.token, 0);
  EXPECT_NEAR(sampled.logprob, std::log(0.1f), 1e-6f);
  ASSERT_EQ(sampled.top.size(), 2u);
  EXPECT_EQ(sampled.top[0].token, 1);
  EXPECT_NEAR(sampled.top[0].logprob, std::log(0.6f), 1e-6f);
  EXPECT_EQ(sampled.top[1].token, 2);
  params.logprobs_top = 0;
  EXPECT_TRUE(sample({1, 2, 3}, params).top.empty());
  EXPECT_LT(sample({1, 2, 3}, params).logprob, 0.0f);
  params.logprobs_top = 50;
  EXPECT_EQ(sample({1, 2, 3}, params).top.size(), 3u);
  params.logprobs_top = -1;
  EXPECT_EQ(sample({1, 2, 3}, params).logprob, 0.0f);
}

TEST(Sampler, LogitsThatAreNotNumbersAreATypedFailure) {
  for (const SamplingParams& params : {greedy(), SamplingParams{}}) {
    EXPECT_THROW(sample({1, std::nanf(""), 2}, params), SamplingError);
    EXPECT_THROW(sample({1, kInfinity, 2}, params), SamplingError);
    EXPECT_THROW(sample({-kInfinity, -kInfinity}, params), SamplingError);
    EXPECT_THROW(sample({}, params), SamplingError);
  }
  try {
    sample({1, 2, std::nanf("")}, greedy());
  } catch (const SamplingError& error) {
    EXPECT_STREQ(error.what(), "the logit of token 2 is not finite before sampling");
  }
}

TEST(Sampler, ParametersOutsideTheirRangesAreRefused) {
  const auto refused = [](auto change) {
    SamplingParams params;
    change(params);
    EXPECT_THROW(sample({1, 2}, params), SamplingError);
  };
  refused([](SamplingParams& p) { p.temperature = -1; });
  refused([](SamplingParams& p) { p.temperature = std::nanf(""); });
  refused([](SamplingParams& p) { p.top_p = 0; });
  refused([](SamplingParams& p) { p.top_p = 1.5f; });
  refused([](SamplingParams& p) { p.top_k = -1; });
  refused([](SamplingParams& p) { p.min_p = -0.1f; });
  refused([](SamplingParams& p) { p.repetition_penalty = 0; });
  refused([](SamplingParams& p) { p.presence_penalty = kInfinity; });
  refused([](SamplingParams& p) { p.bias = {{2, 1.0f}}; });
  refused([](SamplingParams& p) { p.bias = {{-1, 1.0f}}; });
  refused([](SamplingParams& p) { p.bias = {{0, kInfinity}}; });
}

TEST(Sampler, ImpossibleTokensAreNeverDrawn) {
  SamplingParams params;
  for (const auto& [token, count] : histogram({-kInfinity, 0, -kInfinity, 0, -kInfinity}, params, 500))
    EXPECT_TRUE(token == 1 || token == 3);
  params.top_k = 4;
  params.top_p = 0.999f;
  for (const auto& [token, count] : histogram({-kInfinity, 0, -kInfinity, 0, -kInfinity}, params, 500))
    EXPECT_TRUE(token == 1 || token == 3);
}

// The rules in their slow and obvious form: every token sorted, every weight in double. token → probability.
std::map<int32_t, double> brute_force(std::vector<float> logits, const SamplingParams& p,
                                      const std::vector<int32_t>& prompt, const std::vector<int32_t>& output,
                                      const std::vector<uint32_t>& mask) {
  for (size_t i = 0; i < logits.size() && !mask.empty(); ++i) {
    if ((mask[i / 32] >> (i % 32) & 1u) == 0) logits[i] = -kInfinity;
  }
  for (const auto& [token, bias] : p.bias) logits[static_cast<size_t>(token)] += bias;
  std::set<int32_t> seen(prompt.begin(), prompt.end());
  seen.insert(output.begin(), output.end());
  for (const int32_t token : seen) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  }
  std::map<int32_t, int> counts;
  for (const int32_t token : output) ++counts[token];
  for (const auto& [token, count] : counts)
    logits[static_cast<size_t>(token)] -= p.frequency_penalty * static_cast<float>(count) + p.presence_penalty;

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit_of = [&](int32_t token) { return logits[static_cast<size_t>(token)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit_of(a) > logit_of(b); });
  const double largest = double{logit_of(order.front())};
  if (p.temperature == 0) return {{order.front(), 1.0}};
  std::vector<std::pair<int32_t, double>> kept;
  for (const int32_t token : order) {
    const double weight = std::exp((double{logit_of(token)} - largest) / double{p.temperature});
    const bool is_in_top_k = p.top_k == 0 || kept.size() < static_cast<size_t>(p.top_k);
    if (weight > 0 && weight >= double{p.min_p} && is_in_top_k) kept.emplace_back(token, weight);
  }
  double total = 0;
  for (const auto& [token, weight] : kept) total += weight;
  double mass = 0;
  size_t size = 0;
  while (size < kept.size() && (size == 0 || mass < double{p.top_p} * total)) mass += kept[size++].second;
  std::map<int32_t, double> probabilities;
  for (size_t i = 0; i < size; ++i) probabilities[kept[i].first] = kept[i].second / mass;
  return probabilities;
}

// Pearson's statistic of draws over many seeds; tokens expected less than five times count together. The bound is the
// mean and six standard deviations of the distribution it has when the draws are right.
void expect_distribution(const std::vector<float>& logits, SamplingParams params, const std::vector<int32_t>& prompt,
                         const std::vector<int32_t>& output, const std::vector<uint32_t>& mask, int draws) {
  const auto expected = brute_force(logits, params, prompt, output, mask);
  std::map<int32_t, int> counts;
  Sampler sampler;
  for (int i = 0; i < draws; ++i) {
    params.seed = static_cast<uint64_t>(i) * 7919 + 13;
    std::vector<float> copy = logits;
    const int32_t token = sampler.sample(copy, params, prompt, output, mask).token;
    ASSERT_TRUE(expected.contains(token)) << "token " << token << " is not among " << expected.size();
    ++counts[token];
  }
  double statistic = 0, rare_expected = 0, rare_seen = 0;
  int freedom = -1;
  for (const auto& [token, probability] : expected) {
    const double wanted = probability * draws;
    const double seen = counts.contains(token) ? counts[token] : 0;
    if (wanted < 5) {
      rare_expected += wanted;
      rare_seen += seen;
      continue;
    }
    statistic += (seen - wanted) * (seen - wanted) / wanted;
    ++freedom;
  }
  if (rare_expected >= 5) {
    statistic += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
    ++freedom;
  }
  const double degrees = std::max(freedom, 1);
  EXPECT_LT(statistic, degrees + 6 * std::sqrt(2 * degrees));
}

TEST(Sampler, DrawsFollowTheRulesInTheirObviousForm) {
  std::mt19937 random(11);
  for (const size_t vocab : {size_t{5}, size_t{64}, size_t{65}, size_t{700}, size_t{5000}}) {
    for (const float spread : {0.3f, 2.5f, 12.0f}) {
      std::normal_distribution<float> noise(0.0f, spread);
      std::vector<float> logits(vocab);
      for (float& logit : logits) logit = noise(random);
      for (const float temperature : {0.4f, 1.0f, 1.7f}) {
        for (int filters = 0; filters < 8; ++filters) {
          SamplingParams params;
          params.temperature = temperature;
          if ((filters & 1) != 0) params.top_k = 40;
          if ((filters & 2) != 0) params.top_p = 0.9f;
          if ((filters & 4) != 0) params.min_p = 0.02f;
          SCOPED_TRACE(testing::Message() << vocab << " tokens, spread " << spread << ", temperature " << temperature
                                          << ", filters " << filters);
          expect_distribution(logits, params, {}, {}, {}, vocab > 1000 ? 300 : 1000);
        }
      }
    }
  }
}

TEST(Sampler, AllParametersTogetherFollowTheRulesInTheirObviousForm) {
  std::mt19937 random(12);
  std::normal_distribution<float> noise(0.0f, 2.0f);
  for (int round = 0; round < 40; ++round) {
    const size_t vocab = 70 + random() % 400;
    const auto any_token = [&] { return static_cast<int32_t>(random() % vocab); };
    std::vector<float> logits(vocab);
    for (float& logit : logits) logit = noise(random);
    SamplingParams params;
    params.temperature = round % 5 == 0 ? 0.0f : 0.5f + static_cast<float>(random() % 100) / 80.0f;
    params.top_k = round % 3 == 0 ? 0 : 1 + static_cast<int32_t>(random() % 200);
    params.top_p = round % 4 == 0 ? 1.0f : 0.3f + static_cast<float>(random() % 70) / 100.0f;
    params.min_p = round % 2 == 0 ? 0.0f : 0.01f;
    params.repetition_penalty = 1.3f;
    params.presence_penalty = 0.4f;
    params.frequency_penalty = -0.2f;
    params.bias = {{any_token(), 3.0f}, {any_token(), -50.0f}};
    std::vector<int32_t> prompt, output;
    for (int i = 0; i < 30; ++i) {
      prompt.push_back(any_token());
      output.push_back(any_token());
    }
    std::vector<uint32_t> mask((vocab + 31) / 32);
    for (uint32_t& word : mask) word = random() % 3 == 0 ? ~0u : static_cast<uint32_t>(random());
    SCOPED_TRACE(round);
    expect_distribution(logits, params, prompt, output, mask, 2000);
  }
}

TEST(Sampler, EqualLogitsAreEquallyLikelyAndFiltersKeepTheLowestIds) {
  const std::vector<float> flat(300, 1.5f);
  SamplingParams params;
  params.top_k = 7;
  const auto top = histogram(flat, params, 700);
  EXPECT_EQ(top.size(), 7u);
  EXPECT_EQ(top.rbegin()->first, 6);
  params.top_k = 0;
  params.top_p = 0.0999f;  // 29.97 of 300
  const auto prefix = histogram(flat, params, 2000);
  EXPECT_EQ(prefix.size(), 30u);
  EXPECT_EQ(prefix.rbegin()->first, 29);
}

TEST(Sampler, AMaskLeavesNoOtherTokenAndTheLogprobsAsTheyAre) {
  std::vector<float> logits(100, 0.0f);
  logits[5] = 9.0f;
  logits[70] = 4.0f;
  std::vector<uint32_t> mask(4, 0);
  mask[70 / 32] = 1u << (70 % 32);
  Sampler sampler;
  SamplingParams params = greedy();
  params.logprobs_top = 1;
  params.bias = {{5, 50.0f}};  // cannot bring back what the mask forbids
  std::vector<float> copy = logits;
  const Sampled sampled = sampler.sample(copy, params, {}, {}, mask);
  EXPECT_EQ(sampled.token, 70);
  EXPECT_EQ(sampled.top.at(0).token, 5);
  EXPECT_NEAR(sampled.logprob, sampled.top.at(0).logprob - 5.0f, 1e-5f);
}

TEST(Sampler, AMaskThatForbidsEverythingOrHasAnotherSizeIsATypedFailure) {
  Sampler sampler;
  std::vector<float> logits(100, 0.0f);
  EXPECT_THROW(sampler.sample(logits, greedy(), {}, {}, std::vector<uint32_t>(4, 0)), SamplingError);
  EXPECT_THROW(sampler.sample(logits, greedy(), {}, {}, std::vector<uint32_t>(3, ~0u)), SamplingError);
  // A failed computation does not pass for a draw because the mask hides it.
  logits.assign(100, 0.0f);
  logits[90] = std::nanf("");
  EXPECT_THROW(sampler.sample(logits, greedy(), {}, {}, std::vector<uint32_t>{1u, 0u, 0u, 0u}), SamplingError);
}

TEST(Sampler, AnySizeOfVocabularyIsReadToItsEnd) {
  for (size_t vocab = 1; vocab <= 200; ++vocab) {
    for (const size_t best : {size_t{0}, vocab / 2, vocab - 1}) {
      std::vector<float> logits(vocab, -30.0f);
      logits[best] = 30.0f;
      EXPECT_EQ(sample(logits, greedy()).token, static_cast<int32_t>(best));
      EXPECT_EQ(sample(logits, {}).token, static_cast<int32_t>(best));
      SamplingParams params;
      params.top_p = 0.9f;
      params.logprobs_top = 1;
      const Sampled sampled = sample(logits, params);
      EXPECT_EQ(sampled.token, static_cast<int32_t>(best));
      EXPECT_NEAR(sampled.logprob, 0.0f, 1e-6f);
    }
  }
}

}  // namespace
}  // namespace penstock
