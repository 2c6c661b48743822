// From logits to tokens on the device: what model/sampler.h does, one thread block per row, without sorting. Owns the kernels.
//
// Top-k and top-p are radix selects over the logits' bits (four rounds of 256 bins, first by count, then by mass), which leave a
// smallest logit and how many of those equal to it stay, the lower ids first; what does not stay becomes -inf. Weights are whole
// numbers, so that their sums depend on no order; the draw walks the tokens in order of ids. Weights, random numbers and order are the
// processor's (ops/token_weights.h): from the same logits it draws the same token, with whatever filters.
//
// Selection by counting digits instead of sorting: as in radix top-k (Alabi et al., "Fast k-selection algorithms for graphics
// processing units", 2012); why sorting is to be avoided here: FlashInfer's sampling.cuh.
//
// Memory bound: a row is read 3 times (draw) to 13 times (top-k and top-p), from the second time on out of the L2 cache; 4 bytes
// and about 10 flops per logit each time.
#include <cfloat>

#include "ops/cuda/ops.h"
#include "ops/token_weights.h"

namespace penstock::cuda {

namespace {

constexpr int kLanes = 32;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kLanes;
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;
constexpr int kRounds = 32 / kDigitBits;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

using Mass = unsigned long long;

// Larger bits for larger logits, whatever their signs; -inf is above 0 only by 0x007FFFFF. -0 counts as 0.
__device__ inline uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ inline float never() { return __uint_as_float(0xFF800000u); }

// The largest of all threads' values, in every thread. scratch [kWarps]
__device__ inline unsigned long long block_max(unsigned long long value, unsigned long long* scratch) {
  PENSTOCK_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, value, step);
    value = value < other ? other : value;
  }
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  __syncthreads();
  if (threadIdx.x % kLanes == 0) scratch[warp] = value;
  __syncthreads();
  value = scratch[0];
  for (int i = 1; i < kWarps; ++i) value = value < scratch[i] ? scratch[i] : value;
  return value;
}

// The sum of all threads' values, in every thread. scratch [kWarps]
__device__ inline Mass block_sum(Mass value, Mass* scratch) {
  PENSTOCK_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  __syncthreads();
  if (threadIdx.x % kLanes == 0) scratch[warp] = value;
  __syncthreads();
  value = 0;
  for (int i = 0; i < kWarps; ++i) value += scratch[i];
  return value;
}

// The weight of a logit as an integer, which it is.
struct Weigher {
  TokenWeights weight;
  __device__ Mass operator()(float logit) const { return static_cast<Mass>(weight(logit)); }
};

// What stays of a row: every logit above `key`, and the first `ties` of those that have it.
struct Selected {
  uint32_t key;
  Mass ties;
};

// The key at which the sum of measure(logit), from the largest logit downwards, reaches `wanted`; and how many of the logits with
// that key it takes. The whole row where it is never reached. bins [kBins]. PRECOND: wanted >= 1; equal logits measure alike.
template <class Measure>
__device__ __forceinline__ Selected select(const float* logits, int32_t vocab_size, Mass wanted, const Measure& measure, Mass* bins) {
  PENSTOCK_SHARED(Mass, found, [2]);  // the digit, and what lies above it
  const auto thread = static_cast<int32_t>(threadIdx.x);
  uint32_t prefix = 0;
  uint32_t decided = 0;  // mask of the digits in `prefix`
  Mass above = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int shift = 32 - kDigitBits * (round + 1);
    for (int bin = thread; bin < kBins; bin += kThreads) bins[bin] = 0;
    __syncthreads();
    for (int32_t i = thread; i < vocab_size; i += kThreads) {
      const uint32_t key = key_of(logits[i]);
      if ((key & decided) != prefix) continue;
      const Mass amount = measure(logits[i]);
      if (amount > 0) atomicAdd(&bins[(key >> shift) % kBins], amount);
    }
    __syncthreads();
    if (thread == 0) {
      Mass sum = above;
      int bin = kBins - 1;
      while (bin > 0 && sum + bins[bin] < wanted) sum += bins[bin--];
      found[0] = static_cast<Mass>(bin);
      found[1] = sum;
    }
    __syncthreads();
    prefix |= static_cast<uint32_t>(found[0]) << shift;
    decided |= static_cast<uint32_t>(kBins - 1) << shift;
    above = found[1];
    __syncthreads();
  }
  // All of one key measure alike, so the first that has it tells how much.
  const uint32_t bits = (prefix & 0x80000000u) != 0 ? prefix & 0x7FFFFFFFu : ~prefix;
  const Mass each = measure(__uint_as_float(bits));
  return {prefix, each == 0 ? 0 : (wanted - above + each - 1) / each};
}

// Makes -inf of what does not stay. counts [kWarps]
__device__ __forceinline__ void keep(float* logits, int32_t vocab_size, const Selected& selected, Mass* counts) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int warp = thread / kLanes, lane = thread % kLanes;
  Mass before = 0;  // equal ones in tiles that were seen
  for (int32_t tile = 0; tile < vocab_size; tile += kThreads) {
    const int32_t i = tile + thread;
    const uint32_t key = i < vocab_size ? key_of(logits[i]) : 0;
    const unsigned equal = __ballot_sync(kAllLanes, i < vocab_size && key == selected.key);
    if (lane == 0) counts[warp] = static_cast<Mass>(__popc(equal));
    __syncthreads();
    Mass rank = before + static_cast<Mass>(__popc(equal & ((1u << lane) - 1)));
    for (int other = 0; other < kWarps; ++other) {
      if (other < warp) rank += counts[other];
      before += counts[other];
    }
    if (i < vocab_size && (key < selected.key || (key == selected.key && rank >= selected.ties))) logits[i] = never();
    __syncthreads();
  }
}

// logits [rows, vocab_size]: mask, bias and penalties. tokens [rows]: 0, or SampleFailure::not_finite where a logit was NaN or +inf
// before anything hid it. Grid (rows). PRECOND: every id of bias and history is one of the vocabulary's; counts are all 0, and all 0 again.
__global__ void __launch_bounds__(kThreads) adjust_kernel(SampleArgs args) {
  PENSTOCK_SHARED(unsigned long long, scratch, [kWarps]);
  const auto row_index = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const SampleRow row = args.rows[row_index];
  float* logits = args.logits + row_index * args.vocab_size;
  int32_t* counts = args.counts + row_index * args.vocab_size;
  const int64_t mask_words = (args.vocab_size + 31) / 32;
  const uint32_t* mask = row.mask < 0 ? nullptr : args.masks + row.mask * mask_words;

  bool failed = false;
  for (int32_t i = thread; i < args.vocab_size; i += kThreads) {
    if (!(logits[i] <= FLT_MAX)) failed = true;
    if (mask != nullptr && (mask[i / 32] >> (i % 32) & 1u) == 0) logits[i] = never();
  }
  const bool any_failed = block_max(failed ? 1 : 0, scratch) != 0;
  if (thread == 0) args.tokens[row_index] = any_failed ? static_cast<int32_t>(SampleFailure::not_finite) : 0;

  // An id may stand there twice: whoever holds its first adds them all, in order.
  const int32_t* bias_tokens = args.bias_tokens + row.first_bias;
  for (int32_t i = thread; i < row.bias_count; i += kThreads) {
    const int32_t token = bias_tokens[i];
    bool is_first = true;
    for (int32_t j = 0; j < i; ++j) is_first = is_first && bias_tokens[j] != token;
    if (!is_first) continue;
    for (int32_t j = i; j < row.bias_count; ++j) {
      if (bias_tokens[j] == token) logits[token] += args.bias_values[row.first_bias + j];
    }
  }
  __syncthreads();

  const int32_t* history = args.history + row.first_token;
  const int32_t history_tokens = row.prompt_tokens + row.output_tokens;
  if (row.repetition_penalty != 1.0f) {
    for (int32_t i = thread; i < history_tokens; i += kThreads) {
      const int32_t token = history[i];
      if (atomicAdd(&counts[token], 1) != 0) continue;
      logits[token] = logits[token] > 0 ? __fdiv_rn(logits[token], row.repetition_penalty)
                                        : __fmul_rn(logits[token], row.repetition_penalty);
    }
    __syncthreads();
    for (int32_t i = thread; i < history_tokens; i += kThreads) atomicExch(&counts[history[i]], 0);
    __syncthreads();
  }
  if (row.presence_penalty == 0 && row.frequency_penalty == 0) return;
  const int32_t* output = history + row.prompt_tokens;
  for (int32_t i = thread; i < row.output_tokens; i += kThreads) atomicAdd(&counts[output[i]], 1);
  __syncthreads();
  for (int32_t i = thread; i < row.output_tokens; i += kThreads) {
    const int32_t count = atomicExch(&counts[output[i]], 0);
    if (count == 0) continue;
    const float penalty = __fadd_rn(__fmul_rn(row.frequency_penalty, static_cast<float>(count)), row.presence_penalty);
    logits[output[i]] -= penalty;
  }
}

// The first token whose cumulative weight, in order of ids, exceeds u of the whole. sums [kWarps]
template <class Weight>
__device__ __forceinline__ int32_t draw(const float* logits, int32_t vocab_size, double u, const Weight& weight, Mass* sums,
                        int32_t* drawn) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int warp = thread / kLanes, lane = thread % kLanes;
  // Each warp has neighbouring tokens, a multiple of kLanes.
  const int32_t share = (vocab_size + kThreads - 1) / kThreads * kLanes;
  const int32_t begin = min(vocab_size, warp * share);
  const int32_t end = min(vocab_size, begin + share);
  Mass sum = 0;
  for (int32_t i = begin + lane; i < end; i += kLanes) sum += weight(logits[i]);
  PENSTOCK_UNROLL
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  __syncthreads();
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  Mass total = 0;
  for (int i = 0; i < kWarps; ++i) total += sums[i];
  // Below the total, whatever the product is rounded to.
  const auto asked = static_cast<Mass>(u * static_cast<double>(total));
  const Mass target = asked < total ? asked : total - 1;
  Mass before = 0;
  int chosen = 0;
  while (chosen < kWarps - 1 && before + sums[chosen] <= target) before += sums[chosen++];
  if (warp == chosen) {
    for (int32_t tile = begin; tile < end; tile += kLanes) {
      const int32_t i = tile + lane;
      Mass inclusive = i < end ? weight(logits[i]) : 0;
      PENSTOCK_UNROLL
      for (int step = 1; step < kLanes; step *= 2) {
        const Mass lower = __shfl_up_sync(kAllLanes, inclusive, static_cast<unsigned>(step));
        if (lane >= step) inclusive += lower;
      }
      const unsigned reached = __ballot_sync(kAllLanes, before + inclusive > target);
      if (reached != 0) {
        if (lane == 0) *drawn = tile + __ffs(static_cast<int>(reached)) - 1;
        break;
      }
      before += __shfl_sync(kAllLanes, inclusive, kLanes - 1);
    }
  }
  __syncthreads();
  return *drawn;
}

// logits [rows, vocab_size], as adjust_kernel left them -> tokens [rows]. Grid (rows). One block per SM is named because the compiler
// spills where it aims at more.
__global__ void __launch_bounds__(kThreads, 1) draw_kernel(SampleArgs args) {
  PENSTOCK_SHARED(Mass, scratch, [kWarps]);
  PENSTOCK_SHARED(Mass, bins, [kBins]);
  PENSTOCK_SHARED(int32_t, drawn, [1]);
  const auto row_index = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const SampleRow row = args.rows[row_index];
  float* logits = args.logits + row_index * args.vocab_size;
  const int32_t vocab_size = args.vocab_size;
  if (args.tokens[row_index] < 0) return;

  // The largest logit, and of equal ones the lowest id: one comparison of both.
  unsigned long long best = 0;
  bool failed = false;
  for (int32_t i = thread; i < vocab_size; i += kThreads) {
    const float logit = logits[i];
    if (!(logit <= FLT_MAX)) failed = true;
    const unsigned long long place =
        static_cast<unsigned long long>(key_of(logit)) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(i));
    best = best < place ? place : best;
  }
  if (block_max(failed ? 1 : 0, scratch) != 0) {
    if (thread == 0) args.tokens[row_index] = static_cast<int32_t>(SampleFailure::not_finite);
    return;
  }
  best = block_max(best, scratch);
  const auto likeliest = static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(best));
  const float largest = logits[likeliest];
  if (largest == never() || row.temperature == 0) {
    const auto none = static_cast<int32_t>(SampleFailure::all_excluded);
    if (thread == 0) args.tokens[row_index] = largest == never() ? none : likeliest;
    return;
  }

  const Weigher weight{{largest, TokenWeights::inverse(row.temperature), weight_scale(vocab_size)}};
  const double cut = static_cast<double>(largest) + row.log_weight_min * static_cast<double>(row.temperature);
  __syncthreads();  // everybody has read the largest logit
  for (int32_t i = thread; i < vocab_size; i += kThreads) {
    if (static_cast<double>(logits[i]) < cut) logits[i] = never();
  }
  __syncthreads();
  if (row.top_k > 0 && row.top_k < vocab_size) {
    const auto one = [](float logit) -> Mass { return logit == never() ? 0 : 1; };
    keep(logits, vocab_size, select(logits, vocab_size, static_cast<Mass>(row.top_k), one, bins), scratch);
  }
  if (row.top_p < 1) {
    Mass mass = 0;
    for (int32_t i = thread; i < vocab_size; i += kThreads) mass += weight(logits[i]);
    const Mass total = block_sum(mass, scratch);
    const auto wanted = static_cast<Mass>(ceil(static_cast<double>(row.top_p) * static_cast<double>(total)));
    keep(logits, vocab_size, select(logits, vocab_size, wanted > 0 ? wanted : 1, weight, bins), scratch);
  }
  const int32_t token = draw(logits, vocab_size, uniform_number(row.seed, row.index), weight, scratch, drawn);
  if (thread == 0) args.tokens[row_index] = token;
}

}  // namespace

void sample(cudaStream_t stream, const SampleArgs& args) {
  if (args.row_count == 0) return;
  const LaunchShape shape{dim3(static_cast<unsigned>(args.row_count)), dim3(kThreads), 0, stream};
  launch(adjust_kernel, shape, args);
  launch(draw_kernel, shape, args);
}

}  // namespace penstock::cuda
