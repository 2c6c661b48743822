// Bias and penalties on logits in device memory, before they are scanned: only the tokens that a row names are touched. Owns the
// kernels; what they mean is model/sampler.h's. A masked token counts as -inf from the start, whatever is added to it, and a logit that
// is not finite stays what it is, so that sampling.cu, which applies the mask to all others, finds it.
//
// Latency bound: a few scattered atomics per token of the history, spread over as many blocks as there are tokens for.
#include <algorithm>

#include "ops/cuda/sampling_row.cuh"

namespace penstock::cuda {

namespace {

using namespace sampling;

constexpr int32_t kSeen = 1 << 30;  // in a count: the token is one of the prompt
constexpr int32_t kBlocksMax = 64;  // of a row; the longest histories go round

struct Adjusted {
  SampleRow row;
  float* logits;
  int32_t* counts;
  const uint32_t* mask;

  __device__ explicit Adjusted(const SampleArgs& args) : row(args.rows[blockIdx.y]) {
    const auto index = static_cast<int64_t>(blockIdx.y);
    logits = args.logits + index * args.vocab_size;
    counts = args.counts + index * args.vocab_size;
    mask = row.mask < 0 ? nullptr : args.masks + row.mask * static_cast<int64_t>((args.vocab_size + 31) / 32);
  }
  __device__ float start(int32_t token, float logit) const {
    return mask != nullptr && (mask[token / 32] >> (token % 32) & 1u) == 0 ? never() : logit;
  }
};

__device__ inline bool is_counted(const SampleRow& row) {
  return row.repetition_penalty != 1.0f || row.presence_penalty != 0 || row.frequency_penalty != 0;
}

// Adds the bias of each row, and counts the tokens of its history. Grid (.., rows). PRECOND: every id of bias and history is one of
// the vocabulary's; counts are all 0.
__global__ void __launch_bounds__(kThreads) count_kernel(SampleArgs args) {
  wait_for_previous();
  const Adjusted to(args);
  const auto first = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  const auto step = static_cast<int32_t>(gridDim.x * kThreads);
  // An id may stand there twice: whoever holds its first adds them all, in order.
  const int32_t* bias_tokens = args.bias_tokens + to.row.first_bias;
  const float* bias_values = args.bias_values + to.row.first_bias;
  for (int32_t i = first; i < to.row.bias_count; i += step) {
    const int32_t token = bias_tokens[i];
    bool is_first = true;
    for (int32_t j = 0; j < i; ++j) is_first = is_first && bias_tokens[j] != token;
    if (!is_first || has_failed(to.logits[token])) continue;
    float logit = to.start(token, to.logits[token]);
    for (int32_t j = i; j < to.row.bias_count; ++j) {
      if (bias_tokens[j] == token) logit += bias_values[j];
    }
    to.logits[token] = logit;
  }
  if (!is_counted(to.row)) return;
  const int32_t* history = args.history + to.row.first_token;
  const int32_t tokens = to.row.prompt_tokens + to.row.output_tokens;
  const int32_t counted_from = to.row.repetition_penalty != 1.0f ? 0 : to.row.prompt_tokens;
  for (int32_t i = counted_from + first; i < tokens; i += step) {
    if (i < to.row.prompt_tokens) {
      atomicOr(&to.counts[history[i]], kSeen);
    } else {
      atomicAdd(&to.counts[history[i]], 1);
    }
  }
}

// Applies the penalties; the counts are 0 again. Grid (.., rows)
__global__ void __launch_bounds__(kThreads) penalise_kernel(SampleArgs args) {
  wait_for_previous();
  const Adjusted to(args);
  const SampleRow& row = to.row;
  if (!is_counted(row)) return;
  const int32_t* history = args.history + row.first_token;
  const int32_t tokens = row.prompt_tokens + row.output_tokens;
  for (auto i = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); i < tokens; i += static_cast<int32_t>(gridDim.x * kThreads)) {
    const int32_t token = history[i];
    const int32_t count = atomicExch(&to.counts[token], 0);
    // Somebody else has it, or no penalty concerns it.
    if (count == 0) continue;
    float logit = to.logits[token];
    if (has_failed(logit)) continue;
    logit = to.start(token, logit);
    if (row.repetition_penalty != 1.0f)
      logit = logit > 0 ? __fdiv_rn(logit, row.repetition_penalty) : __fmul_rn(logit, row.repetition_penalty);
    const int32_t in_output = count & (kSeen - 1);
    if (in_output > 0)
      logit -= __fadd_rn(__fmul_rn(row.frequency_penalty, static_cast<float>(in_output)), row.presence_penalty);
    to.logits[token] = logit;
  }
}

}  // namespace

void adjust_logits(cudaStream_t stream, const SampleArgs& args) {
  const int32_t most = std::max(args.work.bias_max, args.work.history_max);
  if (most == 0) return;
  const auto blocks = static_cast<unsigned>(std::min((most + kThreads - 1) / kThreads, kBlocksMax));
  const LaunchShape shape{dim3(blocks, static_cast<unsigned>(args.row_count)), dim3(kThreads), 0, stream};
  launch_early(args.row_count, count_kernel, shape, args);
  if (args.work.history_max > 0) launch_early(args.row_count, penalise_kernel, shape, args);
}

}  // namespace penstock::cuda
