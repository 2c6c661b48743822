// Products with Q5_0 and Q5_1 weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_panel_avx2.h"

namespace penstock::avx2 {

namespace {

// Integers stay unsigned, 0..31: a maddubs lane is at most 2 * 31 * 127 = 7,874, so four fit in i16 (31,496). The
// offset (-16 d, or the block's minimum) is applied to the activations' block sum.
template <bool kHasMin>
struct ReaderQ5 {
  static constexpr TensorType kType = kHasMin ? TensorType::q5_1 : TensorType::q5_0;
  static constexpr int32_t kBlocks = 1;
  static constexpr int32_t kParts = 2;
  static constexpr int32_t kZero = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int32_t kValues = kHasMin ? 32 : 16;

  void open(const std::byte* at) { block_ = at; }
  __m256i group(int32_t, int32_t g) const { return load_group<5>(block_ + kValues, g); }
  __m256i scales(int32_t, int32_t) const { return _mm256_set1_epi16(1); }
  __m256 d(int32_t) const { return load8_half(block_); }
  __m256 offset(int32_t) const {
    return kHasMin ? load8_half(block_ + 16) : _mm256_mul_ps(load8_half(block_), _mm256_set1_ps(-16.0f));
  }

 private:
  const std::byte* block_;
};

}  // namespace

void matmul_q5_0(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply_unpacked<ReaderQ5<false>>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_q5_1(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply_unpacked<ReaderQ5<true>>(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
