// Paged attention with AVX2: which queries go together and where their K and V are read from. The arithmetic is
// attention_tile_avx2.h.
#if defined(__x86_64__)
#include "ops/cpu/attention_tile_avx2.h"
#include "ops/cpu/kernels_avx2.h"

namespace penstock::avx2 {

void merge_softmax(const float* from, int32_t head_dim, float* into) {
  if (from[1] == 0) return;
  if (into[1] == 0) {
    std::copy_n(from, softmax_floats(head_dim), into);
    return;
  }
  const __m256 into_max = _mm256_broadcast_ss(into);
  const __m256 from_max = _mm256_broadcast_ss(from);
  const __m256 largest = _mm256_max_ps(into_max, from_max);
  const __m256 keep = exp_below_one(_mm256_sub_ps(into_max, largest));
  const __m256 take = exp_below_one(_mm256_sub_ps(from_max, largest));
  into[0] = _mm256_cvtss_f32(largest);
  into[1] = into[1] * _mm256_cvtss_f32(keep) + from[1] * _mm256_cvtss_f32(take);
  for (int32_t i = kSoftmaxHeader; i < softmax_floats(head_dim); i += 8) {
    const __m256 kept = _mm256_mul_ps(_mm256_loadu_ps(into + i), keep);
    _mm256_storeu_ps(into + i, _mm256_fmadd_ps(_mm256_loadu_ps(from + i), take, kept));
  }
}

void finish_softmax(const float* state, int32_t head_dim, float* out) {
  const __m256 scale = _mm256_set1_ps(1.0f / state[1]);
  for (int32_t i = 0; i < head_dim; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(state + kSoftmaxHeader + i), scale));
  }
}

namespace {

// From this many queries on, widening a segment to f32 once is cheaper than widening it in every register tile.
constexpr int32_t kWidenQueriesMin = 3 * kQueriesMax;

int64_t widened_tile_floats(int32_t head_dim) { return int64_t{kBlockTokens} * head_dim; }

template <typename Kv>
void widen_tile(const std::byte* tile, int32_t head_dim, bool is_v, float* out) {
  const std::byte* values = tile + values_offset<Kv>(head_dim);
  if constexpr (!Kv::kScaled) {
    for (int64_t i = 0; i < widened_tile_floats(head_dim); i += 8) {
      _mm256_store_ps(out + i, Kv::load8(values + i * Kv::kBytes));
    }
  } else {
    alignas(32) float scales[kBlockTokens];
    // 16 x 16 values at a time: 16 dimensions of K, each [tokens], or a column of V, [tokens][dimensions].
    for (int32_t dim = 0; dim < head_dim; dim += kVColumnDims) {
      load_scales<Kv>(tile, dim, scales);
      for (int32_t row = 0; row < 16; ++row) {
        const int64_t at = (int64_t{dim} + row) * 16;
        for (int j = 0; j < 2; ++j) {
          const __m256 scale = is_v ? _mm256_broadcast_ss(scales + row) : _mm256_load_ps(scales + 8 * j);
          _mm256_store_ps(out + at + 8 * j, _mm256_mul_ps(Kv::load8(values + at + 8 * j), scale));
        }
      }
    }
  }
}

// The queries of a call, numbered through: query = row * group + head.
struct Rows {
  const AttentionArgs& args;
  int32_t segment_start;  // position

  int32_t count() const { return args.rows * args.group; }
  int32_t begin(int32_t query) const {
    return first_visible(args.position + query / args.group, args.window_tokens) - segment_start;
  }
  int32_t end(int32_t query) const { return args.position + query / args.group + 1 - segment_start; }
  const float* q(int32_t query) const {
    return args.q + int64_t{query / args.group} * args.q_stride + int64_t{query % args.group} * args.head_dim;
  }
};

template <typename Kv, int M>
void attend_some(const Segment& segment, const Rows& rows, int32_t query, float* states) {
  Queries<M> queries;
  for (int m = 0; m < M; ++m) {
    queries.q[m] = rows.q(query + m);
    queries.begin[m] = std::clamp(rows.begin(query + m), 0, kSegmentTokens);
    queries.end[m] = std::clamp(rows.end(query + m), 0, kSegmentTokens);
  }
  attend_queries<Kv, M>(segment, queries, states);
}

template <typename Kv>
void attend_count(const Segment& segment, const Rows& rows, int32_t query, int32_t count, float* states) {
  static_assert(kQueriesMax == 6);
  switch (count) {
    case 1:
      return attend_some<Kv, 1>(segment, rows, query, states);
    case 2:
      return attend_some<Kv, 2>(segment, rows, query, states);
    case 3:
      return attend_some<Kv, 3>(segment, rows, query, states);
    case 4:
      return attend_some<Kv, 4>(segment, rows, query, states);
    case 5:
      return attend_some<Kv, 5>(segment, rows, query, states);
    default:
      return attend_some<Kv, 6>(segment, rows, query, states);
  }
}

// All rows over one segment: into states where they are `fresh`, else by way of `partial` [kQueriesMax, floats].
template <typename Kv>
void attend_segment(const Segment& segment, const Rows& rows, bool fresh, float* partial, float* states) {
  const int32_t floats = softmax_floats(segment.head_dim);
  const int32_t parts = (rows.count() + kQueriesMax - 1) / kQueriesMax;
  for (int32_t part = 0; part < parts; ++part) {
    const int32_t query = static_cast<int32_t>(int64_t{rows.count()} * part / parts);
    const int32_t count = static_cast<int32_t>(int64_t{rows.count()} * (part + 1) / parts) - query;
    float* state = states + int64_t{query} * floats;
    if (fresh) {
      attend_count<Kv>(segment, rows, query, count, state);
      continue;
    }
    attend_count<Kv>(segment, rows, query, count, partial);
    for (int32_t m = 0; m < count; ++m) merge_softmax(partial + m * floats, segment.head_dim, state + m * floats);
  }
}

// The tiles of segment `index` that hold positions [begin, end) of it, as they lie in the cache.
Segment find_segment(const AttentionArgs& args, int32_t index, int32_t begin, int32_t end) {
  Segment segment;
  segment.head_dim = args.head_dim;
  segment.far = true;
  const int32_t* table = args.block_table + int64_t{index} * kSegmentBlocks;
  // The last row sees furthest ahead.
  const int32_t blocks = (args.position + args.rows - 1) / kBlockTokens + 1 - index * kSegmentBlocks;
  for (int32_t i = begin / kBlockTokens; i < (end + kBlockTokens - 1) / kBlockTokens; ++i) {
    segment.k[i] = args.k_base + table[i] * args.block_stride_bytes;
    segment.v[i] = segment.k[i] + args.v_offset_bytes;
    segment.next_k[i] = segment.k[i];
    if (index + 1 < args.segment_end) {
      const int32_t next = i + kSegmentBlocks;
      if (next < blocks) segment.next_k[i] = args.k_base + table[next] * args.block_stride_bytes;
    } else if (args.next_k_base != nullptr) {
      segment.next_k[i] = args.next_k_base + table[i] * args.block_stride_bytes;
    }
  }
  return segment;
}

// Replaces the tiles of [begin, end) by copies in f32. widened [2, kSegmentBlocks, kBlockTokens * head_dim]
template <typename Kv>
void widen_segment(Segment& segment, int32_t begin, int32_t end, float* widened) {
  const int64_t floats = widened_tile_floats(segment.head_dim);
  const auto place = [&](int32_t i) { return widened + i * floats; };
  const int32_t tile_end = (end + kBlockTokens - 1) / kBlockTokens;
  for (int32_t i = begin / kBlockTokens; i < tile_end; ++i) {
    widen_tile<Kv>(segment.k[i], segment.head_dim, false, place(i));
    widen_tile<Kv>(segment.v[i], segment.head_dim, true, place(kSegmentBlocks + i));
    segment.k[i] = reinterpret_cast<const std::byte*>(place(i));
    segment.v[i] = reinterpret_cast<const std::byte*>(place(kSegmentBlocks + i));
    segment.next_k[i] = segment.k[i];
  }
  segment.far = false;
}

template <typename Kv>
void attend_rows(const AttentionArgs& args, std::byte* scratch, float* states) {
  float* widened = reinterpret_cast<float*>(scratch);
  float* partial = widened + 2 * kSegmentBlocks * widened_tile_floats(args.head_dim);
  const bool widen = Kv::kType != KvType::f32 && args.rows * args.group >= kWidenQueriesMin;
  for (int32_t index = args.segment_begin; index < args.segment_end; ++index) {
    const Rows rows{args, index * kSegmentTokens};
    // The first row sees furthest back, the last one furthest ahead.
    const int32_t begin = std::clamp(rows.begin(0), 0, kSegmentTokens);
    const int32_t end = std::clamp(rows.end(rows.count() - 1), 0, kSegmentTokens);
    const bool fresh = index == args.segment_begin;
    Segment segment = find_segment(args, index, begin, end);
    if (widen) {
      widen_segment<Kv>(segment, begin, end, widened);
      attend_segment<KvF32>(segment, rows, fresh, partial, states);
    } else {
      attend_segment<Kv>(segment, rows, fresh, partial, states);
    }
  }
}

}  // namespace

int64_t attend_scratch_bytes(int32_t head_dim) {
  const int64_t floats =
      2 * kSegmentBlocks * widened_tile_floats(head_dim) + int64_t{kQueriesMax} * softmax_floats(head_dim);
  return floats * static_cast<int64_t>(sizeof(float));
}

void attend(const AttentionArgs& args, std::byte* scratch, float* states) {
  switch (args.kv_type) {
    case KvType::f16:
      return attend_rows<KvF16>(args, scratch, states);
    case KvType::f32:
      return attend_rows<KvF32>(args, scratch, states);
    case KvType::q8_0:
      return attend_rows<KvQ8>(args, scratch, states);
    case KvType::bf16:
      return;  // refused while loading
  }
}

}  // namespace penstock::avx2
#endif
