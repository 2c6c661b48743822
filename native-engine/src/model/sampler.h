// From logits to a token. Owns the sampling rules; seeds and history are arguments, so a replay draws the same tokens.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ops/token_weights.h"

namespace penstock {

struct SamplingParams {
  float temperature = 1.0f;         // 0 = greedy (ties: lowest id)
  float top_p = 1.0f;               // (0, 1], 1 = off
  int32_t top_k = 0;                // 0 = off
  float min_p = 0.0f;               // [0, 1], 0 = off
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> bias;  // added to logits
  int32_t logprobs_top = -1;                    // -1 = off, else number of alternatives
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct Sampled {
  int32_t token;
  float logprob;                  // of the distribution before temperature and filters; 0 unless asked for
  std::vector<TokenLogprob> top;  // most likely first
};

// Logits or parameters from which no token can be drawn: a logit that is NaN or +inf, every token excluded, a parameter
// outside its range, a token id outside the vocabulary.
class SamplingError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Of a token that min-p keeps: the least logarithm of its weight relative to the likeliest token's.
double log_weight_min(float min_p);

// Reusable scratch for one thread; sample() allocates only when a vocabulary is larger than any before, and for the
// alternatives of log-probabilities.
class Sampler {
 public:
  // logits [vocab_size], changed in place. prompt and output are the sequence's token ids so far; output.size() is the
  // index of the draw, so the random number is a pure function of (seed, output.size()). mask: empty, or
  // [ceil(vocab_size / 32)] words, where token i may be drawn if bit i % 32 of mask[i / 32] is set. Throws
  // SamplingError.
  //
  // Order, that of vLLM's V1 sampler: log-probabilities of the logits as given; mask; bias; repetition, then frequency
  // and presence penalty; temperature; min-p; top-k; top-p over what min-p and top-k left; draw. Temperature 0 takes
  // the largest logit after the penalties. Wherever tokens are equally likely the lower id comes first. The draw walks what
  // is left in order of ids. Weights are whole numbers (ops/token_weights.h): a token less likely than about 2^-36 of the
  // likeliest is never drawn, and a device that follows the same rules draws the same token from the same logits.
  Sampled sample(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                 std::span<const int32_t> output, std::span<const uint32_t> mask = {});

 private:
  struct Candidate {
    float logit;
    float weight;
    int32_t token;
  };

  static bool before(const Candidate& a, const Candidate& b);
  void find_alternatives(std::span<const float> logits, size_t count, double normalizer,
                         std::vector<TokenLogprob>& top);
  void gather(std::span<const float> logits, size_t count, float cut);
  void weigh(const TokenWeights& weight);
  void keep_most_likely(size_t count);
  void keep_mass(double mass);
  void gather_mass(std::span<const float> logits, double mass, float cut, float temperature, const TokenWeights& weight);
  double candidates_mass() const;
  int32_t draw(std::span<const float> logits, const SamplingParams& params, float largest, double u);
  int32_t draw_candidate(std::span<const float> logits, const TokenWeights& weight, double u);
  int32_t draw_block(std::span<const float> logits, const TokenWeights& weight, const Candidate& last, double total,
                     double u) const;

  std::vector<float> maxima_;  // [blocks] largest logit of each block, see logit_scan.h
  std::vector<double> sums_;   // [blocks] scratch: weights of each block
  std::vector<float> selected_;  // [blocks] scratch: maxima to select from
  std::vector<Candidate> candidates_;
  std::vector<int32_t> counts_;  // [vocab_size] all 0 between calls
  std::vector<float> raw_;       // [vocab_size] the logits as given, kept while log-probabilities are wanted
};

}  // namespace penstock
