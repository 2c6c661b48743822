#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "model/logit_scan.h"

namespace penstock {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
// In the logarithm of a weight: what is below is not looked at. It is 0 in weights of any vocabulary's scale; 2^-53 is e^-36.7.
constexpr double kLogWeightMin = -40;
// For log-probabilities nothing is rounded: the smallest weight that is not 0 times this is a whole number's size, the largest a float.
constexpr float kUnroundedScale = 0x1p100f;
// For top-p: how many of the likeliest blocks are looked at first. Text is mostly decided by them.
constexpr size_t kBlocksFirst = 64;
// Where that is not enough, weights (by their logarithms) at which the mass above is measured: a pass over the whole
// vocabulary costs a tenth of looking at each of its tokens as a candidate.
constexpr double kLogWeightSteps[] = {-3, -5, -7, -9, -12, -16};

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
LogitScan checked_scan(std::span<const float> logits, std::span<float> maxima, const char* when) {
  const LogitScan scan = scan_logits(logits, maxima);
  if (!scan.finite) {
    const auto found = std::find_if(logits.begin(), logits.end(),
                                    [](float logit) { return !(logit <= std::numeric_limits<float>::max()); });
    throw SamplingError("the logit of token " + std::to_string(found - logits.begin()) + " is not finite " + when);
  }
  if (scan.largest == kNever) throw SamplingError(std::string("no token is possible ") + when);
  return scan;
}

void apply_mask(std::span<float> logits, std::span<const uint32_t> mask) {
  constexpr size_t kBits = 32;
  if (mask.size() != (logits.size() + kBits - 1) / kBits) throw SamplingError("the mask is not the vocabulary's");
  for (size_t word = 0; word < mask.size(); ++word) {
    if (mask[word] == ~0u) continue;
    const std::span<float> part = logits.subspan(word * kBits, std::min(kBits, logits.size() - word * kBits));
    for (size_t bit = 0; bit < part.size(); ++bit) part[bit] = (mask[word] >> bit & 1u) != 0 ? part[bit] : kNever;
  }
}

void apply_bias(std::span<float> logits, const SamplingParams& params) {
  for (const auto& [token, bias] : params.bias) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size())
      throw SamplingError("a biased token is outside the vocabulary");
    logits[static_cast<size_t>(token)] += bias;
  }
}

bool changes_logits(const SamplingParams& p) {
  return !p.bias.empty() || p.repetition_penalty != 1.0f || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

int32_t greedy(std::span<const float> logits, std::span<const float> maxima, float largest) {  // the first of equals
  const auto block = static_cast<size_t>(std::find(maxima.begin(), maxima.end(), largest) - maxima.begin());
  const auto from = logits.begin() + static_cast<int64_t>(block * kScanBlock);
  return static_cast<int32_t>(std::find(from, logits.end(), largest) - logits.begin());
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

// The smallest logit whose weight is at least e^log_weight.
float cut_at(float largest, double log_weight, float temperature) {
  const double cut =
      std::max(double{largest} + log_weight * double{temperature}, -double{std::numeric_limits<float>::max()});
  const auto rounded = static_cast<float>(cut);
  return double{rounded} > cut ? std::nextafter(rounded, kNever) : rounded;
}

}  // namespace

double log_weight_min(float min_p) {
  return min_p > 0 ? std::max(std::log(double{min_p}), kLogWeightMin) : kLogWeightMin;
}

// Most likely first, the lower id first among equals: a total order, so every partial sort gives the same prefix.
bool Sampler::before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// Collects the logits >= cut that may be among the `count` largest: those not below the count-th largest maximum of a
// block, since the maxima alone are that many. At least the `count` largest are among them, and every logit that is not
// below the smallest found.
void Sampler::gather(std::span<const float> logits, size_t count, float cut) {
  float threshold = cut;
  if (count < maxima_.size()) {
    selected_.assign(maxima_.begin(), maxima_.end());
    const auto nth = selected_.begin() + static_cast<int64_t>(count) - 1;
    std::nth_element(selected_.begin(), nth, selected_.end(), std::greater<>());
    threshold = std::max(cut, *nth);
  }
  candidates_.clear();
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (!(maxima_[block] >= threshold)) continue;
    const size_t end = std::min(logits.size(), (block + 1) * kScanBlock);
    for (size_t i = block * kScanBlock; i < end; ++i) {
      if (logits[i] >= threshold) candidates_.push_back({logits[i], 0, static_cast<int32_t>(i)});
    }
  }
}

void Sampler::weigh(const TokenWeights& weight) {
  for (Candidate& candidate : candidates_) candidate.weight = weight(candidate.logit);
}

void Sampler::keep_most_likely(size_t count) {
  if (count < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(count) - 1, candidates_.end(),
                     before);
    candidates_.resize(count);
  }
  std::sort(candidates_.begin(), candidates_.end(), before);
}

// Keeps the shortest prefix, most likely first, that holds at least `mass`; everything where nothing does. A selection
// like nth_element's, by mass: each round halves, about, what is undecided, so nothing is sorted but the last few.
void Sampler::keep_mass(double mass) {
  constexpr int64_t kSortedMax = 32;
  double kept = 0;
  auto begin = candidates_.begin(), end = candidates_.end();  // undecided; what is before them is kept
  while (end - begin > kSortedMax) {
    const Candidate pivot =
        std::max(std::min(*begin, *(end - 1), before),
                 std::min(std::max(*begin, *(end - 1), before), begin[(end - begin) / 2], before), before);
    // The pivot itself goes to the front part, so that this is never empty; the pivot is not the last, so neither is
    // the other.
    const auto middle =
        std::partition(begin, end, [&](const Candidate& candidate) { return !before(pivot, candidate); });
    double front = 0;
    for (auto it = begin; it != middle; ++it) front += double{it->weight};
    if (kept + front < mass) {
      kept += front;
      begin = middle;
    } else {
      if (middle == end) break;
      end = middle;
    }
  }
  std::sort(begin, end, before);
  while (begin != end && (begin == candidates_.begin() || kept < mass)) {
    kept += double{begin->weight};
    ++begin;
  }
  candidates_.erase(begin, candidates_.end());
}

// Leaves as candidates the shortest prefix of the logits >= cut that holds the mass.
void Sampler::gather_mass(std::span<const float> logits, double mass, float cut, float temperature, const TokenWeights& weight) {
  gather(logits, kBlocksFirst, cut);
  weigh(weight);
  if (candidates_mass() < mass && kBlocksFirst < maxima_.size()) {
    float lowest = cut;
    for (const double log_weight : kLogWeightSteps) {
      const float step = cut_at(weight.largest, log_weight, temperature);
      if (step <= cut) break;
      if (sum_weights(logits, maxima_, weight, step, sums_) < mass) continue;
      lowest = step;
      break;
    }
    gather(logits, logits.size(), lowest);
    weigh(weight);
  }
  keep_mass(mass);
}

double Sampler::candidates_mass() const {
  double mass = 0;
  for (const Candidate& candidate : candidates_) mass += double{candidate.weight};
  return mass;
}

// Draws from the candidates. They are all that is not behind the last of them: every logit above its logit, and of equal ones those
// up to its id. So a pass over the blocks that have any takes the place of sorting them by id.
int32_t Sampler::draw_candidate(std::span<const float> logits, const TokenWeights& weight, double u) {
  const Candidate last = candidates_.back();
  const size_t block = static_cast<size_t>(last.token) / kScanBlock, begin = block * kScanBlock;
  const size_t end = std::min(logits.size(), begin + kScanBlock);
  const float above = std::nextafter(last.logit, std::numeric_limits<float>::infinity());
  const std::span maxima(maxima_);
  const std::span sums(sums_);
  double total = sum_weights(logits.first(begin), maxima.first(block), weight, last.logit, sums.first(block));
  sums_[block] = 0;
  for (size_t i = begin; i < end; ++i) {
    if (logits[i] >= (static_cast<int32_t>(i) <= last.token ? last.logit : above)) sums_[block] += double{weight(logits[i])};
  }
  total += sums_[block];
  if (end < logits.size())
    total += sum_weights(logits.subspan(end), maxima.subspan(block + 1), weight, above, sums.subspan(block + 1));
  return draw_block(logits, weight, last, total, u);
}

// The first token, in order of ids and of those not behind `last`, whose cumulative weight exceeds u * total; by the sums of blocks.
int32_t Sampler::draw_block(std::span<const float> logits, const TokenWeights& weight, const Candidate& last, double total,
                            double u) const {
  const double target = u * total;
  double sum = 0;
  size_t block = 0;
  size_t possible_block = 0;
  for (; block < sums_.size(); ++block) {
    if (sums_[block] > 0) possible_block = block;
    if (sum + sums_[block] > target) break;
    sum += sums_[block];
  }
  if (block == sums_.size()) block = possible_block;  // rounding left the target at the sum
  int32_t possible = -1;
  const size_t end = std::min(logits.size(), (block + 1) * kScanBlock);
  for (size_t i = block * kScanBlock; i < end; ++i) {
    const auto token = static_cast<int32_t>(i);
    if (!(logits[i] >= last.logit) || (logits[i] == last.logit && token > last.token)) continue;
    const double one = double{weight(logits[i])};
    if (one <= 0) continue;
    possible = token;
    sum += one;
    if (sum > target) break;
  }
  return possible;
}

int32_t Sampler::draw(std::span<const float> logits, const SamplingParams& p, float largest, double u) {
  const TokenWeights weight{largest, TokenWeights::inverse(p.temperature), weight_scale(static_cast<int32_t>(logits.size()))};
  const float cut = cut_at(largest, log_weight_min(p.min_p), p.temperature);
  const auto top_k = static_cast<size_t>(p.top_k);
  if (top_k > 0 && top_k < logits.size()) {
    gather(logits, top_k, cut);
    keep_most_likely(top_k);
    weigh(weight);
    if (p.top_p < 1) keep_mass(double{p.top_p} * candidates_mass());
    return draw_candidate(logits, weight, u);
  }
  const double total = sum_weights(logits, maxima_, weight, cut, sums_);
  if (p.top_p >= 1) return draw_block(logits, weight, {cut, 0, std::numeric_limits<int32_t>::max()}, total, u);
  gather_mass(logits, double{p.top_p} * total, cut, p.temperature, weight);
  return draw_candidate(logits, weight, u);
}

void Sampler::find_alternatives(std::span<const float> logits, size_t count, double normalizer,
                                std::vector<TokenLogprob>& top) {
  if (count == 0) return;
  gather(logits, count, kNever);
  keep_most_likely(count);
  for (const Candidate& candidate : candidates_)
    top.push_back({candidate.token, static_cast<float>(double{candidate.logit} - normalizer)});
}

Sampled Sampler::sample(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                        std::span<const int32_t> output, std::span<const uint32_t> mask) {
  check_params(params);
  if (logits.empty()) throw SamplingError("no logits");
  const size_t blocks = scan_blocks(logits.size());
  maxima_.resize(blocks);
  sums_.resize(blocks);
  const bool with_logprobs = params.logprobs_top >= 0;
  const bool changed = !mask.empty() || changes_logits(params);

  Sampled sampled{};
  double normalizer = 0;
  LogitScan scan{kNever, true};
  // Before a mask hides it, so that a failed computation never passes for a draw.
  if (with_logprobs || !mask.empty() || !changed) scan = checked_scan(logits, maxima_, "before sampling");
  if (with_logprobs) {
    const TokenWeights unrounded{scan.largest, 1.0f, kUnroundedScale};
    const double total = sum_weights(logits, maxima_, unrounded, std::numeric_limits<float>::lowest(), sums_);
    normalizer = double{scan.largest} + std::log(total / double{kUnroundedScale});
    find_alternatives(logits, static_cast<size_t>(params.logprobs_top), normalizer, sampled.top);
    if (changed) raw_.assign(logits.begin(), logits.end());
  }
  if (changed) {
    if (!mask.empty()) apply_mask(logits, mask);
    apply_bias(logits, params);
    apply_penalties(logits, params, prompt, output, counts_);
    // Extreme parameters can push a logit to infinity.
    scan = checked_scan(logits, maxima_, "after mask, bias and penalties");
  }
  sampled.token = params.temperature == 0 ? greedy(logits, maxima_, scan.largest)
                                          : draw(logits, params, scan.largest, uniform_number(params.seed, output.size()));
  if (with_logprobs) {
    const float raw = changed ? raw_[static_cast<size_t>(sampled.token)] : logits[static_cast<size_t>(sampled.token)];
    sampled.logprob = static_cast<float>(double{raw} - normalizer);
  }
  return sampled;
}

}  // namespace penstock
