#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace penstock {

namespace {

using Candidate = std::pair<float, int32_t>;  // logit, token

// Most likely first, the lower id first among equals: a total order, so every partial sort gives the same prefix.
bool before(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// As a heap order, the top of the heap is the candidate that comes first.
bool after(const Candidate& a, const Candidate& b) { return before(b, a); }

uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// In [0, 1), 53 bits. Counter based: no state to carry, so a sequence replayed from its tokens draws the same numbers.
double uniform(uint64_t seed, uint64_t index) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
  const uint64_t stream = mix(seed + kGolden);
  return static_cast<double>(mix(stream + (index + 1) * kGolden) >> 11) * 0x1p-53;
}

void check_params(const SamplingParams& p) {
  const auto require = [](bool holds, const char* rule) {
    if (!holds) throw SamplingError(rule);
  };
  require(std::isfinite(p.temperature) && p.temperature >= 0, "temperature must be at least 0");
  require(p.top_p > 0 && p.top_p <= 1, "top_p must be above 0 and at most 1");
  require(p.top_k >= 0, "top_k must not be negative");
  require(p.min_p >= 0 && p.min_p <= 1, "min_p must be between 0 and 1");
  require(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0, "repetition_penalty must be positive");
  require(std::isfinite(p.presence_penalty), "presence_penalty must be a number");
  require(std::isfinite(p.frequency_penalty), "frequency_penalty must be a number");
}

// -inf is a token that cannot be drawn; NaN and +inf mean that the computation of the logits failed.
void check_logits(std::span<const float> logits, const char* when) {
  // Without an exit in the loop the compiler turns it into vectors.
  uint32_t refused = 0;
  uint32_t possible = 0;
  for (float logit : logits) {
    refused |= logit <= std::numeric_limits<float>::max() ? 0u : 1u;
    possible |= logit > -std::numeric_limits<float>::infinity() ? 1u : 0u;
  }
  if (refused != 0) {
    const auto found = std::find_if(logits.begin(), logits.end(),
                                    [](float logit) { return !(logit <= std::numeric_limits<float>::max()); });
    throw SamplingError("the logit of token " + std::to_string(found - logits.begin()) + " is not finite " + when);
  }
  if (possible == 0) throw SamplingError(std::string("no token is possible ") + when);
}

void apply_bias(std::span<float> logits, const SamplingParams& params) {
  for (const auto& [token, bias] : params.bias) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size())
      throw SamplingError("a biased token is outside the vocabulary");
    logits[static_cast<size_t>(token)] += bias;
  }
}

// PRECOND: no NaN. Independent lanes, since a single running maximum would wait for itself at every element.
float largest_of(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
  }
  for (; i < logits.size(); ++i) lanes[0] = std::max(lanes[0], logits[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

int32_t greedy(std::span<const float> logits) {  // the first of equals
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), largest_of(logits)) - logits.begin());
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = largest_of(logits);
  double sum = 0;
  for (float logit : logits) sum += std::exp(double{logit} - largest);
  return largest + std::log(sum);
}

// Calls each(token) for every id of both histories, after checking it.
template <typename Each>
void for_history(std::span<const int32_t> tokens, size_t vocab_size, const Each& each) {
  for (int32_t token : tokens) {
    if (token < 0 || static_cast<size_t>(token) >= vocab_size)
      throw SamplingError("a token of the history is outside the vocabulary");
    each(static_cast<size_t>(token));
  }
}

// counts [vocab_size], all 0, and all 0 again on return.
void apply_penalties(std::span<float> logits, const SamplingParams& p, std::span<const int32_t> prompt,
                     std::span<const int32_t> output, std::vector<int32_t>& counts) {
  const bool repetition = p.repetition_penalty != 1.0f;
  if (!repetition && p.presence_penalty == 0 && p.frequency_penalty == 0) return;
  counts.resize(std::max(counts.size(), logits.size()));
  // Ids are checked before any count changes, so that a refusal leaves the counts at 0.
  for_history(prompt, logits.size(), [](size_t) {});
  for_history(output, logits.size(), [](size_t) {});
  if (repetition) {
    const auto penalize = [&](size_t token) {
      if (counts[token]++ != 0) return;
      logits[token] = logits[token] > 0 ? logits[token] / p.repetition_penalty : logits[token] * p.repetition_penalty;
    };
    for_history(prompt, logits.size(), penalize);
    for_history(output, logits.size(), penalize);
    for_history(prompt, logits.size(), [&](size_t token) { counts[token] = 0; });
    for_history(output, logits.size(), [&](size_t token) { counts[token] = 0; });
  }
  for_history(output, logits.size(), [&](size_t token) { ++counts[token]; });
  for_history(output, logits.size(), [&](size_t token) {
    if (counts[token] == 0) return;
    logits[token] -= p.frequency_penalty * static_cast<float>(counts[token]) + p.presence_penalty;
    counts[token] = 0;
  });
}

// Weight of a candidate before normalisation: 1 for the most likely. Differences first, in double, so that a tiny
// temperature leads to 0 and never to infinity minus infinity.
double weight(float logit, float largest, float temperature) {
  return std::exp((double{logit} - double{largest}) / double{temperature});
}

// The first of the candidates whose cumulative weight exceeds u * total.
int32_t draw(std::span<const Candidate> candidates, float largest, float temperature, double total, double u) {
  const double target = u * total;
  double sum = 0;
  int32_t possible = candidates.front().second;
  for (const Candidate& candidate : candidates) {
    const double w = weight(candidate.first, largest, temperature);
    sum += w;
    if (w > 0) possible = candidate.second;
    if (sum > target) return candidate.second;
  }
  return possible;  // rounding left the target above the sum
}

int32_t sample_token(std::span<const float> logits, const SamplingParams& p, double u,
                     std::vector<Candidate>& candidates) {
  const float largest = largest_of(logits);
  // min-p: a weight of at least min_p times the largest, which is 1.
  candidates.clear();
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == -std::numeric_limits<float>::infinity()) continue;
    if (p.min_p > 0 && logits[i] != largest && weight(logits[i], largest, p.temperature) < double{p.min_p}) continue;
    candidates.emplace_back(logits[i], static_cast<int32_t>(i));
  }
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + p.top_k - 1, candidates.end(), before);
    candidates.resize(static_cast<size_t>(p.top_k));
    std::sort(candidates.begin(), candidates.end(), before);  // nth_element leaves an order of its own
  }
  double total = 0;
  for (const Candidate& candidate : candidates) total += weight(candidate.first, largest, p.temperature);
  if (p.top_p >= 1) return draw(candidates, largest, p.temperature, total, u);

  // top-p: the shortest prefix, most likely first, that holds at least top_p of the mass. Popping a heap sorts only
  // that prefix; popped candidates collect behind the heap, in reverse.
  std::make_heap(candidates.begin(), candidates.end(), after);
  double kept = 0;
  auto end = candidates.end();
  while (end != candidates.begin() && (end == candidates.end() || kept < double{p.top_p} * total)) {
    std::pop_heap(candidates.begin(), end, after);
    --end;
    kept += weight(end->first, largest, p.temperature);
  }
  std::reverse(end, candidates.end());
  return draw({end, candidates.end()}, largest, p.temperature, kept, u);
}

}  // namespace

Sampled Sampler::sample(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                        std::span<const int32_t> output) {
  check_params(params);
  if (logits.empty()) throw SamplingError("no logits");
  check_logits(logits, "before sampling");

  Sampled sampled{};
  double normalizer = 0;
  if (params.logprobs_top >= 0) {
    raw_.assign(logits.begin(), logits.end());
    normalizer = log_sum_exp(logits);
    const size_t top = std::min(static_cast<size_t>(params.logprobs_top), logits.size());
    candidates_.clear();
    for (size_t i = 0; i < logits.size(); ++i) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(top), candidates_.end(), before);
    for (size_t i = 0; i < top; ++i) {
      sampled.top.push_back({candidates_[i].second, static_cast<float>(double{candidates_[i].first} - normalizer)});
    }
  }

  apply_bias(logits, params);
  apply_penalties(logits, params, prompt, output, counts_);
  check_logits(logits, "after bias and penalties");  // extreme parameters can push a logit to infinity
  sampled.token = params.temperature == 0
                      ? greedy(logits)
                      : sample_token(logits, params, uniform(params.seed, output.size()), candidates_);
  if (params.logprobs_top >= 0) {
    sampled.logprob = static_cast<float>(double{raw_[static_cast<size_t>(sampled.token)]} - normalizer);
  }
  return sampled;
}

}  // namespace penstock
