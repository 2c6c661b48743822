// Attention over the paged cache: which kernel runs an item, and the merge of rows whose segments were several items.
// What a step computes is attention_tile.cuh; how work is cut into items is attention_plan.h.
//
// Learned from FlashInfer's decode.cuh and scheduler.cuh (a long context is split over thread blocks, whose states a
// second kernel merges); the split here is at fixed positions, so that no bit depends on it.
#include <stdexcept>

#include "ops/cuda/attention_kernel.cuh"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

namespace {

constexpr int kMergeWarps = 4;  // a head each
constexpr int kMergeBlocksPerSm = 4;  // room for what is read ahead: with more in mind the compiler spills for sm_120
constexpr int kMergeDims = 2;   // of a load
constexpr int kMergeRounds = kCudaHeadDimMax / (kMergeDims * kLanes);
constexpr int kMergePartials = 4;  // on their way at once: they are merged one by one, but read ahead

// partials [partial rows, heads, 2 + head_dim] -> out [rows, heads, head_dim]; grid (merges_max, ceil(heads /
// kMergeWarps)).
// PRECOND: head_dim % 2 == 0 and <= 256. Memory bound: reads 4 * count * (head_dim + 2) bytes per row and head, writes
// 4 * head_dim; 3 flops per value read.
__global__ void __launch_bounds__(kMergeWarps* kLanes, kMergeBlocksPerSm)
    attention_merge_kernel(AttentionArgs args, int32_t head_dim) {
  wait_for_previous();
  const auto index = static_cast<int32_t>(blockIdx.x);
  const auto lane = static_cast<int32_t>(threadIdx.x) % kLanes;
  const auto head = static_cast<int32_t>(blockIdx.y) * kMergeWarps + static_cast<int32_t>(threadIdx.x) / kLanes;
  if (index >= __ldg(args.merge_count) || head >= args.heads) return;
  const MergeItem item = args.merges[index];
  const int64_t floats = kStateHeader + head_dim;

  SoftmaxState total{minus_infinity(), 0.0f};
  float2 values[kMergeRounds];
  PENSTOCK_UNROLL
  for (int round = 0; round < kMergeRounds; ++round) values[round] = make_float2(0, 0);
  for (int32_t begin = 0; begin < item.count; begin += kMergePartials) {
    float2 states[kMergePartials];
    float2 read[kMergePartials][kMergeRounds];
    PENSTOCK_UNROLL
    for (int i = 0; i < kMergePartials; ++i) {
      if (begin + i >= item.count) continue;
      const int64_t row = item.partial + int64_t{begin + i} * item.stride;
      const float* partial = args.partials + (row * args.heads + head) * floats;
      states[i] = *reinterpret_cast<const float2*>(partial);
      PENSTOCK_UNROLL
      for (int round = 0; round < kMergeRounds; ++round) {
        const int32_t dim = (round * kLanes + lane) * kMergeDims;
        if (dim < head_dim) read[i][round] = *reinterpret_cast<const float2*>(partial + kStateHeader + dim);
      }
    }
    PENSTOCK_UNROLL
    for (int i = 0; i < kMergePartials; ++i) {
      if (begin + i >= item.count) continue;
      const MergeFactors factors = merge_state(total, {states[i].x, states[i].y});
      PENSTOCK_UNROLL
      for (int round = 0; round < kMergeRounds; ++round) {
        if ((round * kLanes + lane) * kMergeDims >= head_dim) continue;
        values[round].x = merge_value(values[round].x, read[i][round].x, factors);
        values[round].y = merge_value(values[round].y, read[i][round].y, factors);
      }
    }
  }
  const float inverse_sum = 1.0f / total.sum;
  float* out = args.out + (int64_t{item.row} * args.heads + head) * head_dim;
  PENSTOCK_UNROLL
  for (int round = 0; round < kMergeRounds; ++round) {
    const int32_t dim = (round * kLanes + lane) * kMergeDims;
    if (dim >= head_dim) continue;
    *reinterpret_cast<float2*>(out + dim) =
        make_float2(finish_value(values[round].x, inverse_sum), finish_value(values[round].y, inverse_sum));
  }
}

AttentionLaunch find_launch(const DeviceKv& kv, bool decode) {
  if (kv.type == KvType::bf16) return attention_launch_bf16(kv.head_dim, decode);
  if (kv.type == KvType::q8_0) return attention_launch_q8(kv.head_dim, decode);
  return attention_launch_f16(kv.head_dim, decode);
}

void launch_items(cudaStream_t stream, const DeviceBatch& batch, const DeviceKv& kv, const AttentionArgs& args,
                  bool decode) {
  const AttentionLaunch found = find_launch(kv, decode);
  const int32_t blocks = args.items_max * found.blocks_of_item(kv.kv_heads, args.heads / kv.kv_heads);
  const LaunchShape shape{dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(found.threads)),
                          static_cast<size_t>(found.shared_bytes), stream};
  launch_early(batch.rows, found.kernel, shape, batch, kv, args);
}

}  // namespace

void attention(cudaStream_t stream, const DeviceBatch& batch, const DeviceKv& kv, const AttentionArgs& args) {
  require_head_dim("attention", kv);
  if (args.heads % kv.kv_heads != 0) throw std::logic_error("attention: heads are a multiple of KV heads");
  if (args.q_stride % 4 != 0) throw std::logic_error("attention: q_stride is a multiple of 4");
  const bool decodes = args.decodes && args.heads / kv.kv_heads <= kDecodeQueries;
  if (!decodes && !args.chunks) throw std::logic_error("attention: no kernel would take the items");
  if (args.items_max <= 0) return;
  if (decodes) launch_items(stream, batch, kv, args, true);
  if (args.chunks) launch_items(stream, batch, kv, args, false);
  if (args.merges_max <= 0) return;
  const dim3 grid(static_cast<unsigned>(args.merges_max),
                  static_cast<unsigned>((args.heads + kMergeWarps - 1) / kMergeWarps));
  launch_early(batch.rows, attention_merge_kernel, LaunchShape{grid, dim3(kMergeWarps * kLanes), 0, stream}, args, kv.head_dim);
}

}  // namespace penstock::cuda
