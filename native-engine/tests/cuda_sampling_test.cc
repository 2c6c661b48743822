// Tokens drawn on the device against the processor's sampler: the same token from the same logits, with all parameters, and in every
// order of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "cuda_arrays.h"
#include "model/sampler.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {
namespace {

using testing::DeviceArray;
using testing::same_in_every_order;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Draw {
  SamplingParams params;
  std::vector<float> logits;
  std::vector<int32_t> prompt;
  std::vector<int32_t> output;
  std::vector<uint32_t> mask;
};

std::vector<float> logits_of(int32_t vocab_size, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  // Steps of a quarter: many are equal.
  for (float& logit : logits) logit = std::round(4 * normal(random)) / 4;
  logits[random() % logits.size()] = 9.0f;
  return logits;
}

// All rows in one launch; what is left in the counts must be 0.
std::vector<int32_t> on_device(const std::vector<Draw>& draws) {
  const auto vocab_size = static_cast<int32_t>(draws[0].logits.size());
  const size_t words = (draws[0].logits.size() + 31) / 32;
  std::vector<float> logits, bias_values;
  std::vector<int32_t> bias_tokens, history;
  std::vector<uint32_t> masks;
  std::vector<SampleRow> rows;
  for (const Draw& draw : draws) {
    const SamplingParams& p = draw.params;
    rows.push_back({.log_weight_min = log_weight_min(p.min_p),
                    .temperature = p.temperature,
                    .top_p = p.top_p,
                    .repetition_penalty = p.repetition_penalty,
                    .presence_penalty = p.presence_penalty,
                    .frequency_penalty = p.frequency_penalty,
                    .top_k = p.top_k,
                    .seed = p.seed,
                    .index = draw.output.size(),
                    .first_bias = static_cast<int32_t>(bias_tokens.size()),
                    .bias_count = static_cast<int32_t>(p.bias.size()),
                    .first_token = static_cast<int32_t>(history.size()),
                    .prompt_tokens = static_cast<int32_t>(draw.prompt.size()),
                    .output_tokens = static_cast<int32_t>(draw.output.size()),
                    .mask = draw.mask.empty() ? -1 : static_cast<int32_t>(masks.size() / words)});
    logits.insert(logits.end(), draw.logits.begin(), draw.logits.end());
    for (const auto& [token, value] : p.bias) {
      bias_tokens.push_back(token);
      bias_values.push_back(value);
    }
    history.insert(history.end(), draw.prompt.begin(), draw.prompt.end());
    history.insert(history.end(), draw.output.begin(), draw.output.end());
    masks.insert(masks.end(), draw.mask.begin(), draw.mask.end());
  }
  DeviceArray<float> d_logits(logits), d_values(bias_values);
  DeviceArray<int32_t> d_tokens(bias_tokens), d_history(history), drawn(draws.size());
  DeviceArray<int32_t> counts(std::vector<int32_t>(logits.size(), 0));
  DeviceArray<uint32_t> d_masks(masks);
  DeviceArray<SampleRow> d_rows(rows);
  DeviceArray<unsigned long long> scratch(draws.size() * static_cast<size_t>(sample_scratch_words(vocab_size)));
  sample(nullptr, {.logits = d_logits.data(),
                   .rows = d_rows.data(),
                   .bias_tokens = d_tokens.data(),
                   .bias_values = d_values.data(),
                   .history = d_history.data(),
                   .masks = d_masks.data(),
                   .counts = counts.data(),
                   .scratch = scratch.data(),
                   .tokens = drawn.data(),
                   .vocab_size = vocab_size,
                   .row_count = static_cast<int32_t>(rows.size()),
                   .work = sample_work(rows, vocab_size)});
  const auto left = counts.read();
  EXPECT_TRUE(std::all_of(left.begin(), left.end(), [](int32_t count) { return count == 0; }));
  return drawn.read();
}

int32_t on_processor(const Draw& draw) {
  std::vector<float> logits = draw.logits;
  return Sampler().sample(logits, draw.params, draw.prompt, draw.output, draw.mask).token;
}

// Nearly all parameters at once, and the ends of their ranges more often than chance would have them.
Draw random_draw(int32_t vocab_size, std::mt19937& random) {
  const auto one_of = [&](std::initializer_list<float> values) { return values.begin()[random() % values.size()]; };
  const auto any_token = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)); };
  const auto history = [&](size_t most) {
    std::vector<int32_t> tokens(random() % most);
    for (int32_t& token : tokens) token = any_token();
    return tokens;
  };
  Draw draw;
  draw.logits = logits_of(vocab_size, random);
  const float spread = one_of({0.0f, 0.02f, 1.0f, 1.0f, 30.0f});
  // Not multiples of a quarter: no two are equal.
  const float jitter = random() % 2 == 0 ? 1e-3f : 0.0f;
  for (float& logit : draw.logits) {
    logit = logit * spread + jitter * static_cast<float>(random() % 1000);
    if (random() % 16 == 0) logit = -kInfinity;
  }
  if (random() % 8 != 0) draw.logits[static_cast<size_t>(any_token())] = -0.0f;
  draw.prompt = history(40);
  draw.output = history(20);
  SamplingParams& p = draw.params;
  p.temperature = one_of({0.0f, 0.3f, 1.0f, 1.0f, 1.7f, 100.0f, 1e-30f});
  p.top_k = static_cast<int32_t>(
      one_of({0, 0, 1, 2, 7, 40, 300, 2500, static_cast<float>(vocab_size), static_cast<float>(vocab_size + 1)}));
  p.top_p = one_of({1.0f, 1.0f, 0.999f, 0.9f, 0.5f, 0.1f, 1e-9f});
  p.min_p = one_of({0.0f, 0.0f, 1e-6f, 0.05f, 1.0f});
  p.repetition_penalty = one_of({1.0f, 1.0f, 1.3f, 0.8f});
  p.presence_penalty = one_of({0.0f, 0.5f, -0.5f});
  p.frequency_penalty = one_of({0.0f, 0.25f});
  p.seed = random() | static_cast<uint64_t>(random()) << 32;
  for (size_t i = random() % 4; i > 0; --i) p.bias.emplace_back(any_token(), one_of({-100.0f, 2.5f, 0.1f, -kInfinity}));
  if (random() % 2 == 0) {
    draw.mask.resize((draw.logits.size() + 31) / 32);
    const bool few = random() % 4 == 0;
    for (uint32_t& word : draw.mask) {
      word = static_cast<uint32_t>(random());
      word = few ? word & static_cast<uint32_t>(random() & random()) : word | static_cast<uint32_t>(random());
    }
  }
  return draw;
}

// Sizes around a warp, its tile, a block, and what several blocks share.
class Vocabulary : public ::testing::TestWithParam<int32_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Vocabulary, ::testing::Values(1, 2, 31, 33, 255, 257, 1500, 5000, 20011));

TEST_P(Vocabulary, DrawsWhatTheProcessorDraws) {
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  std::vector<Draw> draws;
  const int count = GetParam() <= 33 ? 100 : GetParam() <= 5000 ? 60 : 24;
  for (int i = 0; i < count; ++i) draws.push_back(random_draw(GetParam(), random));
  const auto drawn = on_device(draws);
  for (size_t i = 0; i < draws.size(); ++i) {
    const SamplingParams& p = draws[i].params;
    SCOPED_TRACE(::testing::Message() << "draw " << i << ": temperature " << p.temperature << ", top_k " << p.top_k << ", top_p "
                                      << p.top_p << ", min_p " << p.min_p << ", seed " << p.seed);
    try {
      EXPECT_EQ(drawn[i], on_processor(draws[i]));
    } catch (const SamplingError& error) {
      EXPECT_LT(drawn[i], 0) << error.what();
    }
  }
}

TEST_P(Vocabulary, HasTheSameBitsInEveryOrder) {
  std::mt19937 random(7u + static_cast<uint32_t>(GetParam()));
  std::vector<Draw> draws;
  for (int i = 0; i < 6; ++i) {
    draws.push_back(random_draw(GetParam(), random));
    draws.back().params.temperature = 1.3f;
    draws.back().params.top_k = i % 2 == 0 ? 0 : 5 + i;
    draws.back().params.top_p = i % 3 == 0 ? 1.0f : 0.7f;
  }
  EXPECT_TRUE(same_in_every_order([&] { return on_device(draws); }));
}

// More equal logits at the border than can be sorted: the whole row is selected from. And so many tokens, all likely, that top-k and
// top-p end far from each other.
TEST(CudaSampling, DrawsWhatTheProcessorDrawsWhereThousandsAreAlike) {
  constexpr int32_t kVocab = 6007;
  std::mt19937 random(11);
  std::vector<Draw> draws;
  for (const auto& [top_k, top_p] : std::vector<std::pair<int32_t, float>>{
           {0, 0.5f}, {0, 0.999f}, {3000, 1}, {3000, 0.7f}, {5999, 0.1f}, {1, 1}, {2100, 0.2f}, {0, 1}, {6006, 0.9f}}) {
    for (const float step : {0.0f, 1.0f, 1e-3f}) {
      Draw draw;
      for (int32_t i = 0; i < kVocab; ++i) draw.logits.push_back(-step * static_cast<float>(random() % 3));
      draw.logits[17] = -20;  // spreads the rest over few bins
      draw.logits[5000] = 0.5f;
      draw.params = {.temperature = 2.0f, .top_p = top_p, .top_k = top_k, .min_p = step > 0 ? 0.01f : 0, .seed = random(), .bias = {}};
      draws.push_back(draw);
      for (float& logit : draw.logits) logit += 1e-4f * static_cast<float>(random() % 20000);
      draws.push_back(draw);
    }
  }
  const auto drawn = on_device(draws);
  for (size_t i = 0; i < draws.size(); ++i) EXPECT_EQ(drawn[i], on_processor(draws[i])) << i;
  const std::vector<Draw> few(draws.begin(), draws.begin() + 4);
  EXPECT_TRUE(same_in_every_order([&] { return on_device(few); }));
}

// A logit right below what min-p allows: the processor takes the largest float that is not above it.
TEST(CudaSampling, AllowsByMinPWhatTheProcessorAllows) {
  std::vector<Draw> draws;
  for (const float min_p : {0.05f, 0.3f, 0.7f}) {
    for (const float temperature : {0.7f, 1.0f, 1.3f}) {
      auto border = static_cast<float>(log_weight_min(min_p) * double{temperature});
      border = std::nextafter(std::nextafter(border, kInfinity), kInfinity);
      for (int below = 0; below < 5; ++below, border = std::nextafter(border, -kInfinity)) {
        for (uint64_t seed = 0; seed < 4; ++seed) {
          Draw draw;
          draw.logits.assign(40, border);
          draw.logits[39] = 0;
          draw.params = {.temperature = temperature, .min_p = min_p, .seed = seed, .bias = {}};
          draws.push_back(draw);
        }
      }
    }
  }
  const auto drawn = on_device(draws);
  for (size_t i = 0; i < draws.size(); ++i) EXPECT_EQ(drawn[i], on_processor(draws[i])) << i;
}

// What a mask hides is -inf before anything is added to it; what is not finite stays so under a bias and a penalty.
TEST(CudaSampling, BiasAndPenaltiesOfMaskedAndBrokenLogitsAreTheProcessors) {
  std::vector<Draw> draws(5, Draw{{}, std::vector<float>(40, 1.0f), {3, 3, 7}, {9, 3}, {0xFFFFFF00u, 0xFFu}});
  for (Draw& draw : draws) draw.params = {.repetition_penalty = 1.5f, .frequency_penalty = 0.5f, .bias = {{3, 50.0f}, {3, 1.0f}}};
  draws[1].params.bias = {{3, kInfinity}};   // -inf + inf
  draws[2].logits[3] = kNaN;                 // hidden, biased and penalised
  draws[3].params.bias = {{9, kInfinity}};   // beyond the largest
  draws[4].params.bias = {{9, 100.0f}, {9, -98.0f}, {9, 30.0f}};
  const auto drawn = on_device(draws);
  for (const size_t i : {0, 4}) EXPECT_EQ(drawn[i], on_processor(draws[i])) << i;
  for (const size_t i : {1, 2, 3}) {
    EXPECT_EQ(drawn[i], static_cast<int32_t>(SampleFailure::not_finite)) << i;
    EXPECT_THROW(on_processor(draws[i]), SamplingError) << i;
  }
}

// Over many seeds the set that is drawn from is the processor's: the most likely tokens, lower ids first among equals.
TEST(CudaSampling, KeepsTheMostLikelyTokensAndTheirMass) {
  constexpr int32_t kVocab = 700;
  std::mt19937 random(3);
  const std::vector<float> logits = logits_of(kVocab, random);
  std::vector<int32_t> by_likelihood(kVocab);
  for (int32_t i = 0; i < kVocab; ++i) by_likelihood[static_cast<size_t>(i)] = i;
  std::stable_sort(by_likelihood.begin(), by_likelihood.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const float temperature = 4.0f;
  double total = 0;
  const auto weight = [&](int32_t token) {
    return std::exp((double{logits[static_cast<size_t>(token)]} - 9.0) / double{temperature});
  };
  for (int32_t i = 0; i < kVocab; ++i) total += weight(i);
  for (const auto& [top_k, top_p] : std::vector<std::pair<int32_t, float>>{{1, 1}, {7, 1}, {0, 0.1f}, {60, 0.5f}, {0, 0.03f}}) {
    double whole = total;
    size_t count = top_k > 0 ? static_cast<size_t>(top_k) : logits.size();
    if (top_k > 0) {
      whole = 0;
      for (size_t i = 0; i < count; ++i) whole += weight(by_likelihood[i]);
    }
    if (top_p < 1) {
      double mass = 0;
      size_t kept = 0;
      while (kept < count && mass < double{top_p} * whole) mass += weight(by_likelihood[kept++]);
      count = kept;
    }
    const std::set<int32_t> allowed(by_likelihood.begin(), by_likelihood.begin() + static_cast<int64_t>(count));
    std::vector<Draw> draws(120);
    for (size_t i = 0; i < draws.size(); ++i) {
      draws[i].logits = logits;
      draws[i].params.temperature = temperature;
      draws[i].params.top_k = top_k;
      draws[i].params.top_p = top_p;
      draws[i].params.seed = i;
    }
    const auto drawn = on_device(draws);
    const std::set<int32_t> seen(drawn.begin(), drawn.end());
    EXPECT_TRUE(std::includes(allowed.begin(), allowed.end(), seen.begin(), seen.end())) << top_k << " " << top_p;
    if (count <= 12) {
      EXPECT_EQ(seen, allowed) << top_k << " " << top_p;
    }
  }
}

// Shares of three tokens over many seeds, within what chance allows.
TEST(CudaSampling, DrawsEachTokenAsOftenAsItIsLikely) {
  constexpr size_t kDraws = 1000;
  std::vector<Draw> draws(kDraws);
  for (size_t i = 0; i < kDraws; ++i) {
    draws[i].logits = {std::log(0.5f), std::log(0.3f), -kInfinity, std::log(0.2f)};
    draws[i].params.seed = 1000 + i;
  }
  std::vector<int> count(4);
  for (const int32_t token : on_device(draws)) ++count[static_cast<size_t>(token)];
  EXPECT_NEAR(count[0], 500, 64);  // four standard deviations
  EXPECT_NEAR(count[1], 300, 58);
  EXPECT_EQ(count[2], 0);
  EXPECT_NEAR(count[3], 200, 51);
}

TEST(CudaSampling, SaysWhyThereIsNoToken) {
  std::vector<Draw> draws(6, Draw{{}, {1, 2, 3, 4}, {}, {}, {}});
  draws[0].logits[1] = kNaN;
  draws[1].logits[3] = kInfinity;
  draws[2].logits = {-kInfinity, -kInfinity, -kInfinity, -kInfinity};
  draws[3].mask = {0};
  draws[4].logits[0] = kNaN;  // hidden by the mask, and told all the same
  draws[4].mask = {8};
  draws[5].params.temperature = 0;
  EXPECT_EQ(on_device(draws), (std::vector<int32_t>{-1, -1, -2, -2, -1, 3}));
}

TEST(CudaSampling, TakesTheLowestIdOfEqualOnesAndSurvivesTinyTemperatures) {
  std::vector<Draw> draws(3, Draw{{}, {1, 5, 5, -3}, {}, {}, {}});
  draws[0].params.temperature = 0;
  draws[1].params.temperature = 1e-30f;
  draws[1].params.top_k = 1;
  draws[2].params.temperature = 1e-42f;
  draws[2].logits = {1, 4, 5, -3};
  EXPECT_EQ(on_device(draws), (std::vector<int32_t>{1, 1, 2}));
}

}  // namespace
}  // namespace penstock::cuda
