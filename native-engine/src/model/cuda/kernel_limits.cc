// Limits of kernels at the start. See kernel_limits.h.
#include "model/cuda/kernel_limits.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "model/cuda/scratch.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

void check_kernel_limits(const Config& c, const DecoderLimits& limits, bool quantised) {
  const auto require = [](bool holds, const std::string& rule) {
    if (!holds) throw std::invalid_argument(rule + "; the processor (--device cpu) computes it");
  };
  const auto at_most = [](int64_t most) { return ": on a CUDA device up to " + std::to_string(most); };
  require(c.head_dim % 8 == 0 && c.head_dim <= kCudaHeadDimMax,
          "heads of " + std::to_string(c.head_dim) + " dimensions" + at_most(kCudaHeadDimMax) + ", in multiples of 8");
  require(c.dim <= kNormColsMax, "a width of " + std::to_string(c.dim) + at_most(kNormColsMax));
  require(c.vocab_size <= kSampleVocabMax, "a vocabulary of " + std::to_string(c.vocab_size) + at_most(kSampleVocabMax));
  const int64_t widest_out = std::max({int64_t{c.vocab_size}, int64_t{c.ffn_dim}, int64_t{c.q_dim()} + 2 * int64_t{c.kv_dim()}});
  require(widest_out <= kProductOutputsMax, "a matrix of " + std::to_string(widest_out) + " rows" + at_most(kProductOutputsMax));

  const int32_t widest_in = std::max({c.dim, c.q_dim(), c.ffn_dim});
  const int64_t rows = buffer_rows(limits);
  const int64_t most = quantised ? quantised_rows_max(widest_in) : rows;
  if (rows > most) {
    throw std::invalid_argument("steps of " + std::to_string(rows) + " rows (--step-tokens and --sequences together) through " +
                                std::to_string(widest_in) + " columns of quantised weights: on a CUDA device up to " +
                                std::to_string(most) + " rows, so fewer --step-tokens");
  }
}

}  // namespace penstock::cuda
