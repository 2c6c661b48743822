// Rows of packed weights as values: the embedding of tokens, and whole matrices for products that want f16 or bf16. Values are
// those of Kernels::matrix_row to the bit; f16 and bf16 are rounded from them.
//
//   embed            out [rows, cols] f32 = row token_ids[i] of w
//   dequantise_rows  out [row_count, cols] f16 or bf16 = rows [first_row, first_row + row_count) of w
// A thread writes 8 neighbouring values of one row: 16 bytes of f16, 512 in a line per warp. Grid: (8 columns per thread, a row).
// PRECOND: embed any type; dequantise_rows quantised types. Token ids are within [0, w.rows).
// Memory bound. Bytes: read row_bytes per row (rows of a plane that lie behind each other share sectors; embed, whose rows do
// not, reads twice as much), written cols * 4 or * 2. Oracle: reference.cc, matrix_row.
#include <cstring>

#include "ops/cuda/formats.cuh"
#include "ops/cuda/ops.h"
#include "ops/cuda/platform.h"

namespace penstock::cuda {

namespace {

constexpr int32_t kThreads = 128;
constexpr int32_t kThreadCols = 8;

// Where a weight row is, and what it is made of.
struct Rows {
  const std::byte* weights;
  int32_t cols;
};

// Columns [8 * group, 8 * group + 8) of a row, for each kind of layout; columns behind the last are not looked at.
template <class Format>
struct QuantReader {
  static __device__ __forceinline__ void read(const Rows& w, int32_t row, int32_t group, float (&values)[kThreadCols]) {
    constexpr int32_t kGroups = kQuantBlock / kThreadCols;
    const int32_t block = group / kGroups;
    const int32_t part = group % kGroups;
    const int32_t slot = block % kPanelBlocks;
    const int32_t r = row % kPanelRows;
    const int32_t panels = (w.cols + kPanelCols - 1) / kPanelCols;
    const std::byte* panel = w.weights + (int64_t{row / kPanelRows} * panels + block / kPanelBlocks) * Format::layout.bytes();
    const auto plane = [&](int32_t index) {
      return reinterpret_cast<const uint32_t*>(panel + index * kPlaneBytes + r * kPlaneRowBytes);
    };
    float super_d = 0.0f;
    if constexpr (Format::layout.has_super_d) {
      super_d = f16_value(reinterpret_cast<const uint16_t*>(panel + Format::layout.planes() * kPlaneBytes)[r]);
    }
    const BlockScale scale = block_scale<Format>(plane(0), plane(Format::layout.mins()), super_d, slot);
    uint32_t words[2];
    if constexpr (Format::is_bytes) {
      const uint32_t* bytes = plane(Format::layout.values() + 2 * slot + part / 2);
      words[0] = bytes[part % 2 * 2];
      words[1] = bytes[part % 2 * 2 + 1];
    } else {
      const uint32_t* nibbles = plane(Format::layout.values() + slot);
      uint2 upper{0, 0};
      if constexpr (Format::has_fifth_bits) upper.x = plane(Format::layout.high() + slot / 4)[slot % 4];
      if constexpr (Format::has_high_pairs) {
        const uint32_t* pairs = plane(Format::layout.high() + slot / 2) + slot % 2 * 2;
        upper = uint2{pairs[0], pairs[1]};
      }
#pragma unroll
      for (int32_t i = 0; i < 2; ++i) {
        const int32_t t = part % 2 * 2 + i;
        uint32_t low, high;
        unpack_nibbles<Format>(nibbles[t], upper, t, low, high);
        words[i] = part < 2 ? low : high;
      }
    }
    const float d = scale.d * scale.scale[part / 2];
#pragma unroll
    for (int32_t i = 0; i < kThreadCols; ++i) {
      const auto integer = static_cast<int8_t>(words[i / 4] >> (i % 4 * 8) & 255u);
      const float value = static_cast<float>(integer - Format::zero) * d;
      values[i] = Format::has_min ? value + scale.m : value;
    }
  }
};

struct F32Reader {
  static __device__ __forceinline__ void read(const Rows& w, int32_t row, int32_t group, float (&values)[kThreadCols]) {
    const int32_t planes = (w.cols + 3) / 4;
    const auto* tile = reinterpret_cast<const float*>(w.weights) + int64_t{row / kPanelRows} * planes * kPanelRows * 4;
#pragma unroll
    for (int32_t i = 0; i < kThreadCols; ++i) {
      const int32_t column = group * kThreadCols + i;
      if (column < w.cols) values[i] = tile[(int64_t{column / 4} * kPanelRows + row % kPanelRows) * 4 + column % 4];
    }
  }
};

template <class Value>
struct RowMajorReader {
  static __device__ __forceinline__ void read(const Rows& w, int32_t row, int32_t group, float (&values)[kThreadCols]) {
    const auto* from = reinterpret_cast<const Value*>(w.weights) + int64_t{row} * w.cols;
#pragma unroll
    for (int32_t i = 0; i < kThreadCols; ++i) {
      const int32_t column = group * kThreadCols + i;
      if (column < w.cols) values[i] = static_cast<float>(from[column]);
    }
  }
};

// Where rows begin at multiples of 16 bytes the stores of a thread become one or two.
template <class Value, class Convert>
__device__ __forceinline__ void write(Value* row, int32_t cols, int32_t group, const float (&values)[kThreadCols], Convert convert) {
  if (cols % kThreadCols == 0) {
    Value out[kThreadCols];
#pragma unroll
    for (int32_t i = 0; i < kThreadCols; ++i) out[i] = convert(values[i]);
    uint4 packed[kThreadCols * sizeof(Value) / sizeof(uint4)];
    memcpy(packed, out, sizeof packed);
    auto* to = reinterpret_cast<uint4*>(row + group * kThreadCols);
#pragma unroll
    for (size_t i = 0; i < kThreadCols * sizeof(Value) / sizeof(uint4); ++i) to[i] = packed[i];
    return;
  }
#pragma unroll
  for (int32_t i = 0; i < kThreadCols; ++i) {
    if (group * kThreadCols + i < cols) row[group * kThreadCols + i] = convert(values[i]);
  }
}

template <class Reader>
__global__ void __launch_bounds__(kThreads) embed_kernel(Rows w, const int32_t* token_ids, float* out) {
  wait_for_previous();
  const auto group = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x);
  if (group * kThreadCols >= w.cols) return;
  const auto row = static_cast<int64_t>(blockIdx.x);
  float values[kThreadCols];
  Reader::read(w, token_ids[row], group, values);
  write(out + row * w.cols, w.cols, group, values, [](float value) { return value; });
}

struct ToHalf {
  using Value = __half;
  __device__ __half operator()(float value) const { return __float2half_rn(value); }
};
struct ToBfloat16 {
  using Value = __nv_bfloat16;
  __device__ __nv_bfloat16 operator()(float value) const { return __float2bfloat16_rn(value); }
};

template <class Format, class Convert>
__global__ void __launch_bounds__(kThreads) dequantise_kernel(Rows w, int32_t first_row, typename Convert::Value* out) {
  const auto group = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x);
  if (group * kThreadCols >= w.cols) return;
  const auto row = static_cast<int32_t>(blockIdx.x);
  float values[kThreadCols];
  QuantReader<Format>::read(w, first_row + row, group, values);
  write(out + int64_t{row} * w.cols, w.cols, group, values, Convert{});
}

LaunchShape row_shape(cudaStream_t stream, int32_t rows, int32_t cols) {
  return {dim3(static_cast<uint32_t>(rows), static_cast<uint32_t>(ceil_div(cols, kThreadCols * kThreads))), dim3(kThreads), 0, stream};
}

template <class Reader>
void launch_embed(cudaStream_t stream, const DeviceMatrix& w, const int32_t* token_ids, int32_t rows, float* out) {
  launch_early(rows, embed_kernel<Reader>, row_shape(stream, rows, w.cols), Rows{w.data, w.cols}, token_ids, out);
}

}  // namespace

void embed(cudaStream_t stream, const DeviceMatrix& w, const int32_t* token_ids, int32_t rows, float* out) {
  if (rows == 0) return;
  if (w.type == TensorType::f32) return launch_embed<F32Reader>(stream, w, token_ids, rows, out);
  if (w.type == TensorType::f16) return launch_embed<RowMajorReader<__half>>(stream, w, token_ids, rows, out);
  if (w.type == TensorType::bf16) return launch_embed<RowMajorReader<__nv_bfloat16>>(stream, w, token_ids, rows, out);
  with_format(w.type, [&](auto format) { launch_embed<QuantReader<decltype(format)>>(stream, w, token_ids, rows, out); });
}

void dequantise_rows(cudaStream_t stream, const DeviceMatrix& w, int32_t first_row, int32_t rows, ActivationForm form, void* out) {
  if (rows == 0) return;
  const LaunchShape shape = row_shape(stream, rows, w.cols);
  const Rows from{w.data, w.cols};
  with_format(w.type, [&](auto format) {
    using Format = decltype(format);
    if (form == ActivationForm::f16) return launch(dequantise_kernel<Format, ToHalf>, shape, from, first_row, static_cast<__half*>(out));
    launch(dequantise_kernel<Format, ToBfloat16>, shape, from, first_row, static_cast<__nv_bfloat16*>(out));
  });
}

}  // namespace penstock::cuda
