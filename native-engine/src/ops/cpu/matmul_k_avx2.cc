// Products with the formats of 256-value super-blocks: Q4_K, Q5_K and Q6_K weights.
#if defined(__x86_64__)
#include "ops/cpu/matmul_panel_avx2.h"

namespace penstock::avx2 {

namespace {

// Shuffles that take byte t of each 32-bit lane: as both i16 of the lane, as the upper byte of both, as the lane.
struct ByteShuffles {
  alignas(32) int8_t both[4][32];
  alignas(32) int8_t upper[4][32];
  alignas(32) int8_t lane[4][32];
};

constexpr ByteShuffles make_shuffles() {
  ByteShuffles shuffles{};
  for (int8_t t = 0; t < 4; ++t) {
    for (int8_t i = 0; i < 32; ++i) {
      const auto source = static_cast<int8_t>(i % 16 / 4 * 4 + t);
      shuffles.both[t][i] = i % 2 == 0 ? source : int8_t{-1};  // -1 = a zero byte
      shuffles.upper[t][i] = i % 2 == 1 ? source : int8_t{-1};
      shuffles.lane[t][i] = i % 4 == 0 ? source : int8_t{-1};
    }
  }
  return shuffles;
}

constexpr ByteShuffles kShuffles = make_shuffles();

__m256i shuffle(__m256i v, const int8_t (&how)[32]) {
  return _mm256_shuffle_epi8(v, _mm256_load_si256(reinterpret_cast<const __m256i*>(how)));
}

// Integers stay unsigned. A maddubs lane of 4 bits is at most 2 * 15 * 127 = 3,810 and all eight of a block fit in i16
// (30,480); of 5 bits it is 7,874, and four fit. The minimum is applied to the activations' block sum.
template <bool kHasFifth>
struct ReaderTwoLevel {
  static constexpr TensorType kType = kHasFifth ? TensorType::q5_k : TensorType::q4_k;
  static constexpr int32_t kBlocks = 8;
  static constexpr int32_t kParts = kHasFifth ? 2 : 1;
  static constexpr int32_t kZero = 0;
  static constexpr bool kHasOffset = true;
  static constexpr int32_t kScales = 32;
  static constexpr int32_t kValues = kScales + 3 * 32;
  static constexpr int32_t kBits = kHasFifth ? 5 : 4;

  // Byte t of a lane of scale_[i], min_[i] is that of block 4 i + t.
  void open(const std::byte* at) {
    super_ = at;
    const __m256i first = load32(at + kScales);
    const __m256i second = load32(at + kScales + 32);
    const __m256i third = load32(at + kScales + 64);
    const __m256i six = _mm256_set1_epi8(63);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i high = _mm256_set1_epi8(48);
    scale_[0] = _mm256_and_si256(first, six);
    min_[0] = _mm256_and_si256(second, six);
    scale_[1] = _mm256_or_si256(_mm256_and_si256(third, low), _mm256_and_si256(_mm256_srli_epi16(first, 2), high));
    min_[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(third, 4), low),
                              _mm256_and_si256(_mm256_srli_epi16(second, 2), high));
  }

  __m256i group(int32_t block, int32_t g) const {
    return load_group<kBits>(super_ + kValues + block * kValueBytes<kBits>, g);
  }

  __m256i scales(int32_t block, int32_t) const { return shuffle(scale_[block / 4], kShuffles.both[block % 4]); }
  __m256 d(int32_t) const { return load8_half(super_); }
  __m256 offset(int32_t block) const {
    const __m256i min = shuffle(min_[block / 4], kShuffles.lane[block % 4]);
    const __m256 product = _mm256_mul_ps(load8_half(super_ + 16), _mm256_cvtepi32_ps(min));
    return _mm256_xor_ps(product, _mm256_set1_ps(-0.0f));
  }

 private:
  const std::byte* super_;
  __m256i scale_[2];
  __m256i min_[2];
};

// The integers 0..63 stand for -32..31. Four maddubs lanes of 2 * 63 * 127 = 16,002 wrap around in i16, but without the
// 32s that are taken away they are at most 8 * 32 * 127 = 32,512, so the wrapped sum is right in the end.
struct ReaderQ6K {
  static constexpr TensorType kType = TensorType::q6_k;
  static constexpr int32_t kBlocks = 8;
  static constexpr int32_t kParts = 2;
  static constexpr int32_t kZero = 32;
  static constexpr bool kHasOffset = false;
  static constexpr int32_t kScales = 16;
  static constexpr int32_t kValues = kScales + 4 * 32;

  void open(const std::byte* at) { super_ = at; }
  __m256i group(int32_t block, int32_t g) const {
    return load_group<6>(super_ + kValues + block * kValueBytes<6>, g);
  }

  __m256i scales(int32_t block, int32_t part) const {
    const int32_t i = 2 * block + part;
    return _mm256_srai_epi16(shuffle(load32(super_ + kScales + 32 * (i / 4)), kShuffles.upper[i % 4]), 8);
  }

  __m256 d(int32_t) const { return load8_half(super_); }

 private:
  const std::byte* super_;
};

}  // namespace

void matmul_q4_k(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply_unpacked<ReaderTwoLevel<false>>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_q5_k(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply_unpacked<ReaderTwoLevel<true>>(w, x, tile_begin, tile_end, out, out_stride);
}

void matmul_q6_k(const Matrix& w, const Activations& x, int32_t tile_begin, int32_t tile_end, float* out,
                 int32_t out_stride) {
  multiply_unpacked<ReaderQ6K>(w, x, tile_begin, tile_end, out, out_stride);
}

}  // namespace penstock::avx2
#endif
