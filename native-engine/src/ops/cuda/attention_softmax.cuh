// Softmax over a stretch of the context as (max, sum, weighted V), and the one function that merges two of them.
// Exponents are of 2: scores come multiplied by log2(e). Owns what a partial in device memory is: [0] max score, [1]
// sum of 2^(score - max), [2..] sum of 2^(score - max) * v [head_dim]; a stretch without a visible position is (-inf,
// 0, 0).
//
// Merging as in FlashInfer's cascade.cuh, with the empty stretch as a case of its own, since (-inf) - (-inf) is NaN.
#pragma once

#include "ops/cuda/elements.cuh"

namespace penstock::cuda {

inline constexpr int kStateHeader = kSoftmaxHeader;

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

// Of one query and head; its weighted V lies elsewhere, a few dimensions per thread.
struct SoftmaxState {
  float largest;
  float sum;
};

struct MergeFactors {
  float keep;
  float take;
  bool any;  // false: the later stretch is empty, and nothing changes
};

// `into` becomes the state over both stretches, of which `from` is the later one.
__device__ inline MergeFactors merge_state(SoftmaxState& into, const SoftmaxState& from) {
  // A sum of 0 is that of an empty stretch alone: the largest term of any other is 2^0.
  if (from.sum == 0.0f) return {1.0f, 0.0f, false};
  MergeFactors factors{0.0f, 1.0f, true};
  if (into.sum == 0.0f) {
    into = from;
    return factors;
  }
  const float largest = fmaxf(into.largest, from.largest);
  factors.keep = exp2_approx(into.largest - largest);
  factors.take = exp2_approx(from.largest - largest);
  into = {largest, fmaf(into.sum, factors.keep, from.sum * factors.take)};
  return factors;
}

// One dimension of the weighted V.
__device__ inline float merge_value(float into, float from, const MergeFactors& factors) {
  return factors.any ? fmaf(into, factors.keep, from * factors.take) : into;
}

__device__ inline float finish_value(float value, float inverse_sum) { return value * inverse_sum; }

}  // namespace penstock::cuda
