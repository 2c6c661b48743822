// Row-wise operations: residual and RMSNorm, SwiGLU, forms, gathering. One row's bits depend on that row alone: its sum
// of squares is cut by columns in a way that only n decides.
//
// Learned from FlashInfer's norm.cuh and activation.cuh (one block per row, 16-byte accesses, f32 sums); writing the
// operand of the next product from the same kernel saves a pass over the row.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "ops/cuda/ops.h"
#include "ops/cuda/row_forms.cuh"

namespace penstock::cuda {

namespace {

constexpr int kNormThreadsMax = 1024;
constexpr int kNormWarpsMax = kNormThreadsMax / kLanes;
// Vectors that a thread keeps in registers between the sum and the outputs: one while the largest block has a thread for each, since
// a thread's second waits for its first (int8 of 1 x 4096 on an H100: 2.7 us, with two 2.9); eight bound a row to kNormColsMax.
constexpr int kFewVectors = 2;
constexpr int kManyVectors = 8;
static_assert(kNormColsMax == kManyVectors * kNormThreadsMax * kVectorValues);
constexpr int kPointThreads = 256;

// x, delta [rows, n], weight [n]; grid (rows), blockDim.x * kVectors * 4 >= n. PRECOND: n % 4 == 0.
// Memory bound: per value reads 4 (x) + 4 (delta) + 4 (weight, from L2) and writes 4 + the forms; 4 flops. Few rows wait: 2.2 us for one
// of 4096 on an H100.
template <int kVectors>
__global__ void __launch_bounds__(kNormThreadsMax)
    add_rms_norm_kernel(float* x, const float* delta, const float* weight, int32_t n, float eps,
                        ActivationOutputs outputs) {
  wait_for_previous();
  PENSTOCK_SHARED(float, partial, [kNormWarpsMax]);
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto threads = static_cast<int32_t>(blockDim.x);
  auto* own = reinterpret_cast<float4*>(x + row * n);
  const auto* added = delta == nullptr ? nullptr : reinterpret_cast<const float4*>(delta + row * n);

  float kept[kVectors][kVectorValues];
  // On their way while the row is summed up, where there are registers for them.
  constexpr bool kEarly = kVectors <= kFewVectors;
  float4 factors[kEarly ? kVectors : 1] = {};
  if (kEarly && outputs.count > 0) {
    PENSTOCK_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const int32_t vector = thread + i * threads;
      if (vector < n / kVectorValues) factors[kEarly ? i : 0] = __ldg(reinterpret_cast<const float4*>(weight) + vector);
    }
  }
  float sum = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int32_t vector = thread + i * threads;
    float4 value = make_float4(0, 0, 0, 0);
    if (vector < n / kVectorValues) {
      value = own[vector];
      if (added != nullptr) {
        const float4 more = added[vector];
        value = make_float4(value.x + more.x, value.y + more.y, value.z + more.z, value.w + more.w);
        own[vector] = value;
      }
    }
    kept[i][0] = value.x;
    kept[i][1] = value.y;
    kept[i][2] = value.z;
    kept[i][3] = value.w;
    PENSTOCK_UNROLL
    for (int j = 0; j < kVectorValues; ++j) sum = fmaf(kept[i][j], kept[i][j], sum);
  }
  if (outputs.count == 0) return;

  sum = warp_sum(sum);
  if (thread % kLanes == 0) partial[thread / kLanes] = sum;
  if (threads / kLanes + thread < kNormWarpsMax) partial[threads / kLanes + thread] = 0;
  __syncthreads();
  // All that there may be, so that they are read at once and in a fixed order.
  sum = 0;
  PENSTOCK_UNROLL
  for (int warp = 0; warp < kNormWarpsMax; warp += kVectorValues) {
    const float4 four = *reinterpret_cast<const float4*>(partial + warp);
    sum = sum + four.x + four.y + four.z + four.w;
  }
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(n) + eps);

  PENSTOCK_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int32_t vector = thread + i * threads;
    const bool live = vector < n / kVectorValues;
    float normed[kVectorValues] = {0, 0, 0, 0};
    if (live) {
      const float4 factor = kEarly ? factors[kEarly ? i : 0] : __ldg(reinterpret_cast<const float4*>(weight) + vector);
      normed[0] = kept[i][0] * scale * factor.x;
      normed[1] = kept[i][1] * scale * factor.y;
      normed[2] = kept[i][2] * scale * factor.z;
      normed[3] = kept[i][3] * scale * factor.w;
    }
    write_forms(outputs, row, vector * kVectorValues, normed, live);
  }
}

__device__ inline float silu_product(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// gate, up [rows, n]; grid (rows, ceil(n / 4 / kPointThreads)). PRECOND: n % 4 == 0.
// Memory bound: per value reads 8 and writes the forms; about 10 flops.
__global__ void __launch_bounds__(kPointThreads)
    swiglu_kernel(const float* gate, const float* up, int32_t n, ActivationOutputs outputs) {
  wait_for_previous();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto vector = static_cast<int32_t>(blockIdx.y * kPointThreads + threadIdx.x);
  const bool live = vector < n / kVectorValues;
  float x[kVectorValues] = {0, 0, 0, 0};
  if (live) {
    const float4 g = reinterpret_cast<const float4*>(gate + row * n)[vector];
    const float4 u = reinterpret_cast<const float4*>(up + row * n)[vector];
    x[0] = silu_product(g.x, u.x);
    x[1] = silu_product(g.y, u.y);
    x[2] = silu_product(g.z, u.z);
    x[3] = silu_product(g.w, u.w);
  }
  write_forms(outputs, row, vector * kVectorValues, x, live);
}

// x [rows, n]; grid as above. PRECOND: n % 4 == 0. Memory bound: per value reads 4 and writes the forms.
__global__ void __launch_bounds__(kPointThreads)
    convert_rows_kernel(const float* from, int32_t n, ActivationOutputs outputs) {
  wait_for_previous();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto vector = static_cast<int32_t>(blockIdx.y * kPointThreads + threadIdx.x);
  const bool live = vector < n / kVectorValues;
  float x[kVectorValues] = {0, 0, 0, 0};
  if (live) {
    const float4 value = reinterpret_cast<const float4*>(from + row * n)[vector];
    x[0] = value.x;
    x[1] = value.y;
    x[2] = value.z;
    x[3] = value.w;
  }
  write_forms(outputs, row, vector * kVectorValues, x, live);
}

// x [.., n] -> out [count, n]; grid (count, ceil(n / 4 / kPointThreads)). PRECOND: n % 4 == 0. Reads 4 and writes 4 per
// value.
__global__ void __launch_bounds__(kPointThreads)
    gather_rows_kernel(const float* x, const int32_t* index, int32_t n, float* out) {
  wait_for_previous();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto vector = static_cast<int32_t>(blockIdx.y * kPointThreads + threadIdx.x);
  const auto source = static_cast<int64_t>(__ldg(index + row));
  if (source < 0 || vector >= n / kVectorValues) return;
  reinterpret_cast<float4*>(out + row * n)[vector] = reinterpret_cast<const float4*>(x + source * n)[vector];
}

void require_cols(const char* what, int32_t n, const ActivationOutputs& outputs) {
  if (n <= 0 || n % kVectorValues != 0) throw std::logic_error(std::string(what) + ": columns are a multiple of 4");
  for (int32_t i = 0; i < outputs.count; ++i) {
    if (outputs.form[i].cols != n)
      throw std::logic_error(std::string(what) + ": outputs have as many columns as the input");
    if (outputs.form[i].form == ActivationForm::q8 && n % kQuantBlock != 0) {
      throw std::logic_error(std::string(what) + ": columns of q8 are a multiple of 32");
    }
  }
}

LaunchShape point_shape(int32_t rows, int32_t n, cudaStream_t stream) {
  const int32_t vectors = n / kVectorValues;
  const auto chunks = static_cast<unsigned>((vectors + kPointThreads - 1) / kPointThreads);
  return {dim3(static_cast<unsigned>(rows), chunks), dim3(kPointThreads), 0, stream};
}

}  // namespace

void add_rms_norm(cudaStream_t stream, float* x, const float* delta, const float* weight, int32_t rows, int32_t n,
                  float eps, const ActivationOutputs& outputs) {
  require_cols("add_rms_norm", n, outputs);
  if (n > kNormColsMax) throw std::logic_error("add_rms_norm: at most " + std::to_string(kNormColsMax) + " columns");
  if (rows == 0) return;
  const int32_t least = (n + kNormThreadsMax * kVectorValues - 1) / (kNormThreadsMax * kVectorValues);
  const int32_t per_thread = (least <= kFewVectors ? least : kManyVectors) * kVectorValues;
  const int32_t threads = (n + per_thread - 1) / per_thread;
  const auto whole_warps = static_cast<unsigned>((threads + kLanes - 1) / kLanes * kLanes);
  const LaunchShape shape{dim3(static_cast<unsigned>(rows)), dim3(whole_warps), 0, stream};
  const auto kernel = least == 1             ? add_rms_norm_kernel<1>
                      : least <= kFewVectors ? add_rms_norm_kernel<kFewVectors>
                                             : add_rms_norm_kernel<kManyVectors>;
  launch_early(rows, kernel, shape, x, delta, weight, n, eps, outputs);
}

void swiglu(cudaStream_t stream, const float* gate, const float* up, int32_t rows, int32_t n,
            const ActivationOutputs& outputs) {
  require_cols("swiglu", n, outputs);
  if (rows == 0) return;
  launch_early(rows, swiglu_kernel, point_shape(rows, n, stream), gate, up, n, outputs);
}

void convert_rows(cudaStream_t stream, const float* x, int32_t rows, int32_t n, const ActivationOutputs& outputs) {
  require_cols("convert_rows", n, outputs);
  if (rows == 0) return;
  launch_early(rows, convert_rows_kernel, point_shape(rows, n, stream), x, n, outputs);
}

void gather_rows(cudaStream_t stream, const float* x, const int32_t* index, int32_t count, int32_t n, float* out) {
  require_cols("gather_rows", n, {});
  if (count == 0) return;
  launch_early(count, gather_rows_kernel, point_shape(count, n, stream), x, index, n, out);
}

}  // namespace penstock::cuda
