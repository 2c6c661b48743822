// From the products q, k, v to what attention reads: bias, QK-norm, rotation, 1 / sqrt(head_dim), and K and V in their
// pages.
//
// Learned from FlashInfer's pos_enc.cuh and page.cuh (rotation and append in one pass over the row). One warp per head:
// a head is read once with 16-byte loads and turned by way of shared memory, so that both conventions and any even
// rope_dims are one code.
//
// Where K and V can be stored they are stored as on the CPU. What cannot be (NaN, infinite, beyond the largest f16)
// must reach every row that sees the token and no other, but attention multiplies V by the weights of all rows of a
// tile, and 0 * NaN is NaN. So such a V is stored as zeros, and its K as NaN: scores are masked row by row, and a NaN
// score makes its row NaN.
#include <stdexcept>

#include "ops/cuda/elements.cuh"
#include "ops/cuda/kv_tile.cuh"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

namespace {

constexpr int kHeadsPerBlock = 4;  // a warp each
constexpr int kVectorDims = 4;     // of a 16-byte load
constexpr int kRoundDims = kVectorDims * kLanes;
constexpr int kRounds = kCudaHeadDimMax / kRoundDims;
static_assert(kVectorDims * 8 == kKvQuantBlock, "eight lanes hold the dimensions that share a scale");

// A lane's share of a head: dimensions 4 * lane + {0..3} of each round of 128; zeros behind head_dim.
struct HeadShare {
  float x[kRounds][kVectorDims];
};

__device__ inline int32_t first_dim(int round, int lane) { return round * kRoundDims + lane * kVectorDims; }

// x [head_dim] + bias [head_dim]; bias may be nullptr.
__device__ inline HeadShare load_head(const float* x, const float* bias, int32_t head_dim, int lane) {
  HeadShare share;
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const int32_t dim = first_dim(round, lane);
    float4 value = make_float4(0, 0, 0, 0);
    if (dim < head_dim) {
      value = *reinterpret_cast<const float4*>(x + dim);
      if (bias != nullptr) {
        const float4 more = __ldg(reinterpret_cast<const float4*>(bias + dim));
        value = make_float4(value.x + more.x, value.y + more.y, value.z + more.z, value.w + more.w);
      }
    }
    share.x[round][0] = value.x;
    share.x[round][1] = value.y;
    share.x[round][2] = value.z;
    share.x[round][3] = value.w;
  }
  return share;
}

// weight [head_dim]
__device__ inline void norm_head(HeadShare& share, const float* weight, float eps, int32_t head_dim, int lane) {
  float sum = 0;
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    PENSTOCK_UNROLL
    for (int i = 0; i < kVectorDims; ++i) sum = fmaf(share.x[round][i], share.x[round][i], sum);
  }
  const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(head_dim) + eps);
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const int32_t dim = first_dim(round, lane);
    if (dim >= head_dim) continue;
    PENSTOCK_UNROLL
    for (int i = 0; i < kVectorDims; ++i) share.x[round][i] = share.x[round][i] * scale * __ldg(weight + dim + i);
  }
}

// A dimension's place in a rotation.
struct Turn {
  bool is_first;
  int32_t partner, pair;
  __device__ Turn(RopePairs pairs, int32_t rope_dims, int32_t dim) {
    const int32_t half = rope_dims / 2;
    const bool interleaved = pairs == RopePairs::interleaved;
    is_first = interleaved ? dim % 2 == 0 : dim < half;
    partner = interleaved ? (is_first ? dim + 1 : dim - 1) : (is_first ? dim + half : dim - half);
    pair = interleaved ? dim / 2 : (is_first ? dim : dim - half);
  }
};

// cos_sin [rope_dims / 2, 2] of a lane's dimensions, read before they are needed.
struct HeadTurns {
  float2 turn[kRounds][kVectorDims];
  __device__ HeadTurns(const float* cos_sin, RopePairs pairs, int32_t rope_dims, int lane) {
    PENSTOCK_UNROLL
    for (int round = 0; round < kRounds; ++round) {
      PENSTOCK_UNROLL
      for (int i = 0; i < kVectorDims; ++i) {
        const int32_t dim = first_dim(round, lane) + i;
        if (dim < rope_dims)
          turn[round][i] = reinterpret_cast<const float2*>(cos_sin)[Turn(pairs, rope_dims, dim).pair];
      }
    }
  }
};

// `exchange` is the warp's [kCudaHeadDimMax].
__device__ inline void rotate_head(HeadShare& share, const HeadTurns& turns, RopePairs pairs, int32_t rope_dims,
                                   float* exchange, int lane) {
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const float* x = share.x[round];
    *reinterpret_cast<float4*>(exchange + first_dim(round, lane)) = make_float4(x[0], x[1], x[2], x[3]);
  }
  __syncwarp();
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    PENSTOCK_UNROLL
    for (int i = 0; i < kVectorDims; ++i) {
      const int32_t dim = first_dim(round, lane) + i;
      if (dim >= rope_dims) continue;
      const Turn place(pairs, rope_dims, dim);
      const float2 turn = turns.turn[round][i];
      const float own = share.x[round][i];
      const float other = exchange[place.partner];
      share.x[round][i] = place.is_first ? own * turn.x - other * turn.y : other * turn.y + own * turn.x;
    }
  }
  __syncwarp();  // before the next head is put there
}

// Whether one of the two elements is infinite or NaN.
__device__ inline bool has_exponent(uint32_t pair, uint32_t exponent) {
  return (pair & exponent) == exponent || (pair >> 16 & exponent) == exponent;
}

// k and v of one token and KV head to their tiles, in 16 bits.
template <class Element>
__device__ inline void store_halves(const HeadShare& k, const HeadShare& v, int32_t head_dim, int32_t token,
                                    std::byte* k_tile, std::byte* v_tile, int lane) {
  constexpr uint32_t kExponent = exponent_mask(Element{});
  uint2 packed[kRounds];
  bool broken = false;
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const float* x = v.x[round];
    packed[round] = make_uint2(pack_pair(x[0], x[1], Element{}), pack_pair(x[2], x[3], Element{}));
    broken = broken || has_exponent(packed[round].x, kExponent) || has_exponent(packed[round].y, kExponent);
  }
  broken = __any_sync(kAllLanes, broken);
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const int32_t dim = first_dim(round, lane);
    if (dim >= head_dim) continue;
    const int64_t at = (int64_t{token} * head_dim + dim) * 2;
    const float* x = k.x[round];
    const uint2 key = make_uint2(pack_pair(x[0], x[1], Element{}), pack_pair(x[2], x[3], Element{}));
    *reinterpret_cast<uint2*>(k_tile + at) = broken ? make_uint2(0x7FFF7FFFu, 0x7FFF7FFFu) : key;
    *reinterpret_cast<uint2*>(v_tile + at) = broken ? make_uint2(0, 0) : packed[round];
  }
}

// As kv_quant.h, for the largest magnitude of a block. NaN also where the largest value is beyond f16, in which it is
// multiplied.
__device__ inline __half quant_scale(uint32_t largest) {
  const __half scale = __float2half_rn(__fdiv_rn(__uint_as_float(largest), 127.0f));
  const bool fits = largest < kInfinityBits && __half2float(scale) * 127.0f <= 65504.0f;
  return fits ? scale : __ushort_as_half(0x7E00);
}

// Scale of the block that eight lanes hold, and the quotients, lowest dimension in the lowest byte.
__device__ inline __half quantize_share(const float (&x)[kVectorDims], uint32_t& packed) {
  uint32_t largest = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectorDims; ++i) largest = max(largest, magnitude_bits(x[i]));
  const __half scale = quant_scale(lanes_max<3>(largest));
  const float d = __half2float(scale);
  packed = 0;
  PENSTOCK_UNROLL
  for (int i = 0; i < kVectorDims; ++i) {
    const float ratio = d > 0 ? rintf(fminf(fmaxf(__fdiv_rn(x[i], d), -127.0f), 127.0f)) : 0.0f;
    packed |= (static_cast<uint32_t>(static_cast<int32_t>(ratio)) & 0xFFu) << (8 * i);
  }
  return scale;
}

__device__ inline void store_quantized(const HeadShare& k, const HeadShare& v, int32_t head_dim, int32_t token,
                                       std::byte* k_tile, std::byte* v_tile, int lane) {
  __half k_scale[kRounds], v_scale[kRounds];
  uint32_t k_packed[kRounds], v_packed[kRounds];
  bool broken = false;
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    k_scale[round] = quantize_share(k.x[round], k_packed[round]);
    v_scale[round] = quantize_share(v.x[round], v_packed[round]);
    broken = broken || __hisnan(v_scale[round]);
  }
  broken = __any_sync(kAllLanes, broken);
  PENSTOCK_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const int32_t dim = first_dim(round, lane);
    if (dim >= head_dim) continue;
    const int64_t at = quant_values_offset(head_dim) + int64_t{token} * head_dim + dim;
    *reinterpret_cast<uint32_t*>(k_tile + at) = broken ? 0 : k_packed[round];
    *reinterpret_cast<uint32_t*>(v_tile + at) = broken ? 0 : v_packed[round];
    if (dim % kKvQuantBlock != 0) continue;
    const int64_t scale_at = quant_scale_offset(head_dim, token, dim);
    *reinterpret_cast<__half*>(k_tile + scale_at) = broken ? __ushort_as_half(0x7E00) : k_scale[round];
    *reinterpret_cast<__half*>(v_tile + scale_at) = broken ? __ushort_as_half(0) : v_scale[round];
  }
}

template <KvType kType>
__device__ inline void store_share(const HeadShare& k, const HeadShare& v, int32_t head_dim, int32_t token,
                                   std::byte* k_tile, std::byte* v_tile, int lane) {
  if constexpr (kType == KvType::q8_0) {
    store_quantized(k, v, head_dim, token, k_tile, v_tile, lane);
  } else {
    store_halves<KvOperand<kType>>(k, v, head_dim, token, k_tile, v_tile, lane);
  }
}

// Shapes as in RopeAppendArgs; grid (rows, ceil((heads + kv_heads) / kHeadsPerBlock)), a warp per head of q or of k and
// v.
// PRECOND: head_dim % 8 == 0 and <= 256, strides % 4 == 0, rope_dims even and <= head_dim, row_sequence[i] < 0 or a row
// of block_tables with an entry for positions[i].
// Memory bound: per row reads 4 * (heads + 2 * kv_heads) * head_dim bytes, writes 4 * heads * head_dim and K and V;
// cos_sin and biases come from L2. About 10 flops per value.
template <KvType kType>
__global__ void __launch_bounds__(kHeadsPerBlock* kLanes)
    rope_append_kernel(DeviceBatch batch, DeviceKv kv, RopeAppendArgs args) {
  wait_for_previous();
  PENSTOCK_SHARED(float, exchange, [kHeadsPerBlock][kCudaHeadDimMax]);
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto warp = static_cast<int32_t>(threadIdx.x) / kLanes;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kLanes;
  const int32_t head = static_cast<int32_t>(blockIdx.y) * kHeadsPerBlock + warp;
  if (head >= args.heads + kv.kv_heads) return;  // whole warps, which only wait for themselves

  // All reads are on their way before the first is waited for, also those of a row that turns out not to be live.
  const int32_t sequence = __ldg(batch.row_sequence + row);
  const int32_t dim = kv.head_dim;
  const HeadTurns turns(args.cos_sin + row * args.rope_dims, args.pairs, args.rope_dims, lane);
  if (head < args.heads) {
    float* q = args.q + row * args.q_stride + int64_t{head} * dim;
    const float* bias = args.q_bias == nullptr ? nullptr : args.q_bias + int64_t{head} * dim;
    HeadShare share = load_head(q, bias, dim, lane);
    if (sequence < 0) return;
    if (args.q_norm != nullptr) norm_head(share, args.q_norm, args.norm_eps, dim, lane);
    rotate_head(share, turns, args.pairs, args.rope_dims, exchange[warp], lane);
    const float scale = 1.0f / sqrtf(static_cast<float>(dim));
    PENSTOCK_UNROLL
    for (int round = 0; round < kRounds; ++round) {
      if (first_dim(round, lane) >= dim) continue;
      const float* x = share.x[round];
      *reinterpret_cast<float4*>(q + first_dim(round, lane)) =
          make_float4(x[0] * scale, x[1] * scale, x[2] * scale, x[3] * scale);
    }
    return;
  }

  const int32_t kv_head = head - args.heads;
  const int64_t offset = int64_t{kv_head} * dim;
  const int32_t position = __ldg(batch.positions + row);
  HeadShare k = load_head(args.k + row * args.k_stride + offset,
                          args.k_bias == nullptr ? nullptr : args.k_bias + offset, dim, lane);
  const HeadShare v = load_head(args.v + row * args.v_stride + offset,
                                args.v_bias == nullptr ? nullptr : args.v_bias + offset, dim, lane);
  if (sequence < 0) return;
  const int32_t block = __ldg(batch.block_tables + int64_t{sequence} * batch.blocks_max + position / kBlockTokens);
  if (args.k_norm != nullptr) norm_head(k, args.k_norm, args.norm_eps, dim, lane);
  rotate_head(k, turns, args.pairs, args.rope_dims, exchange[warp], lane);

  std::byte* k_tile =
      kv.base + (int64_t{args.layer} * kv.blocks_total + block) * kv.block_bytes + kv_head * tile_bytes<kType>(dim);
  std::byte* v_tile = k_tile + kv.kv_heads * tile_bytes<kType>(dim);
  store_share<kType>(k, v, dim, position % kBlockTokens, k_tile, v_tile, lane);
}

constexpr unsigned kAngleThreads = 128;

// frequencies [pairs], cos_sin [rows, pairs, 2]; grid (rows, ceil(pairs / kAngleThreads)). Angles in f64 as on the CPU:
// in f32 a position of 100,000 has lost its fraction of a turn.
__global__ void __launch_bounds__(kAngleThreads)
    rope_angles_kernel(DeviceBatch batch, const double* frequencies, int32_t pairs, float magnitude, float* cos_sin) {
  wait_for_previous();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto pair = static_cast<int32_t>(blockIdx.y * kAngleThreads + threadIdx.x);
  if (pair >= pairs || __ldg(batch.row_sequence + row) < 0) return;
  const double angle = __ldg(batch.positions + row) * __ldg(frequencies + pair);
  double sine = 0, cosine = 0;
  sincos(angle, &sine, &cosine);
  reinterpret_cast<float2*>(cos_sin)[row * pairs + pair] =
      make_float2(static_cast<float>(cosine) * magnitude, static_cast<float>(sine) * magnitude);
}

}  // namespace

void rope_append(cudaStream_t stream, const DeviceBatch& batch, const DeviceKv& kv, const RopeAppendArgs& args) {
  require_head_dim("rope_append", kv);
  if (args.q_stride % kVectorDims != 0 || args.k_stride % kVectorDims != 0 || args.v_stride % kVectorDims != 0) {
    throw std::logic_error("rope_append: strides are multiples of 4");
  }
  if (args.rope_dims % 2 != 0 || args.rope_dims < 0 || args.rope_dims > kv.head_dim) {
    throw std::logic_error("rope_append: rope_dims are even and within head_dim");
  }
  if (batch.rows == 0) return;
  const auto chunks = static_cast<unsigned>((args.heads + kv.kv_heads + kHeadsPerBlock - 1) / kHeadsPerBlock);
  const LaunchShape shape{dim3(static_cast<unsigned>(batch.rows), chunks), dim3(kHeadsPerBlock * kLanes), 0, stream};
  switch (kv.type) {
    case KvType::f16:
      return launch_early(batch.rows, rope_append_kernel<KvType::f16>, shape, batch, kv, args);
    case KvType::bf16:
      return launch_early(batch.rows, rope_append_kernel<KvType::bf16>, shape, batch, kv, args);
    case KvType::q8_0:
      return launch_early(batch.rows, rope_append_kernel<KvType::q8_0>, shape, batch, kv, args);
    case KvType::f32:
      break;  // refused by require_head_dim
  }
}

void rope_angles(cudaStream_t stream, const DeviceBatch& batch, const double* frequencies, int32_t rope_dims,
                 float magnitude, float* cos_sin) {
  const int32_t pairs = rope_dims / 2;
  if (batch.rows == 0 || pairs == 0) return;
  const dim3 grid(static_cast<unsigned>(batch.rows),
                  (static_cast<unsigned>(pairs) + kAngleThreads - 1) / kAngleThreads);
  launch_early(batch.rows, rope_angles_kernel, LaunchShape{grid, dim3(kAngleThreads), 0, stream}, batch, frequencies, pairs, magnitude,
         cos_sin);
}

}  // namespace penstock::cuda
