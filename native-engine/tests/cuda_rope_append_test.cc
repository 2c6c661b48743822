// Bias, QK-norm, rotation and append against the reference's functions: q, and every byte of the cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda_arrays.h"
#include "cuda_kv_tiles.h"
#include "ops/cuda/ops.h"
#include "ops/ops.h"

namespace penstock::cuda {
namespace {

using testing::DeviceArray;
using testing::kDeviceKvTypes;
using testing::KvLayout;
using testing::same_in_every_order;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kEps = 1e-6f;
constexpr int32_t kLayer = 1;
constexpr int32_t kBlocksMax = 3;

std::vector<float> normals(size_t count, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Case {
  KvType type;
  int32_t head_dim, heads, kv_heads, rope_dims;
  RopePairs pairs;
  bool bias, norm;
  int32_t gap;  // floats between rows

  std::string name() const {
    return std::string(kv_type_name(type)) + " head_dim " + std::to_string(head_dim) + " heads " +
           std::to_string(heads) + "/" + std::to_string(kv_heads) + " rope " + std::to_string(rope_dims) +
           (bias ? " bias" : "") + (norm ? " norm" : "");
  }
};

// Rows of three sequences, one of which is not live, with all that the kernel reads.
class Step {
 public:
  Step(const Case& c, uint32_t seed) : case_(c), layout_{c.type, 2, 8, c.kv_heads, c.head_dim} {
    std::mt19937 random(seed);
    q_stride_ = c.heads * c.head_dim + c.gap;
    kv_stride_ = c.kv_heads * c.head_dim + c.gap;
    const auto rows = sequence_.size();
    q_ = normals(rows * static_cast<size_t>(q_stride_), random);
    k_ = normals(rows * static_cast<size_t>(kv_stride_), random);
    v_ = normals(rows * static_cast<size_t>(kv_stride_), random, 10.0f);
    q_bias_ = normals(static_cast<size_t>(c.heads * c.head_dim), random);
    k_bias_ = normals(static_cast<size_t>(c.kv_heads * c.head_dim), random);
    v_bias_ = normals(static_cast<size_t>(c.kv_heads * c.head_dim), random);
    q_norm_ = normals(static_cast<size_t>(c.head_dim), random);
    k_norm_ = normals(static_cast<size_t>(c.head_dim), random);
    cos_sin_ = normals(rows * static_cast<size_t>(c.rope_dims), random);
    before_.assign(layout_.bytes(), std::byte{0x5A});
  }

  std::vector<float>& k() { return k_; }
  std::vector<float>& v() { return v_; }
  int32_t kv_stride() const { return kv_stride_; }
  const KvLayout& layout() const { return layout_; }
  size_t rows() const { return sequence_.size(); }
  bool live(size_t row) const { return sequence_[row] >= 0; }
  int32_t position(size_t row) const { return position_[row]; }
  int32_t block(size_t row) const {
    return tables_[static_cast<size_t>(sequence_[row] * kBlocksMax + position_[row] / kBlockTokens)];
  }

  struct Result {
    std::vector<float> q;
    std::vector<std::byte> cache;
  };

  Result run() const {
    const DeviceArray<int32_t> sequence(sequence_), position(position_), tables(tables_);
    const DeviceArray<float> q(q_), k(k_), v(v_), q_bias(q_bias_), k_bias(k_bias_), v_bias(v_bias_), q_norm(q_norm_),
        k_norm(k_norm_), cos_sin(cos_sin_);
    const DeviceArray<std::byte> cache(before_);
    RopeAppendArgs args{};
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.q_stride = q_stride_;
    args.k_stride = args.v_stride = kv_stride_;
    if (case_.bias) args.q_bias = q_bias.data(), args.k_bias = k_bias.data(), args.v_bias = v_bias.data();
    if (case_.norm) args.q_norm = q_norm.data(), args.k_norm = k_norm.data();
    args.norm_eps = kEps;
    args.cos_sin = cos_sin.data();
    args.pairs = case_.pairs;
    args.rope_dims = case_.rope_dims;
    args.heads = case_.heads;
    args.layer = kLayer;
    DeviceBatch batch{nullptr,       position.data(), sequence.data(),
                      tables.data(), kBlocksMax,      static_cast<int32_t>(rows())};
    rope_append(nullptr, batch, layout_.on_device(cache.data()), args);
    return {q.read(), cache.read()};
  }

  // What the processor makes of it.
  Result expected() const {
    const Kernels& ops = reference_kernels();
    Result result{q_, before_};
    const int32_t dim = case_.head_dim;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const auto finish = [&](float* x, const std::vector<float>& bias, const std::vector<float>& norm, const float* turn,
                            int32_t heads) {
      if (case_.bias) ops.add(x, bias.data(), heads * dim);
      for (int32_t head = 0; case_.norm && head < heads; ++head) {
        ops.rms_norm(x + head * dim, norm.data(), dim, kEps, x + head * dim);
      }
      ops.rope(case_.pairs, x, turn, heads, dim, case_.rope_dims);
    };
    for (size_t row = 0; row < rows(); ++row) {
      if (!live(row)) continue;
      const float* turn = cos_sin_.data() + row * static_cast<size_t>(case_.rope_dims);
      float* q = result.q.data() + row * static_cast<size_t>(q_stride_);
      finish(q, q_bias_, q_norm_, turn, case_.heads);
      for (int32_t i = 0; i < case_.heads * dim; ++i) q[i] *= scale;
      std::vector<float> k(k_.begin() + static_cast<int64_t>(row) * kv_stride_,
                           k_.begin() + static_cast<int64_t>(row + 1) * kv_stride_);
      std::vector<float> v(v_.begin() + static_cast<int64_t>(row) * kv_stride_,
                           v_.begin() + static_cast<int64_t>(row + 1) * kv_stride_);
      finish(k.data(), k_bias_, k_norm_, turn, case_.kv_heads);
      if (case_.bias) ops.add(v.data(), v_bias_.data(), case_.kv_heads * dim);
      for (int32_t head = 0; head < case_.kv_heads; ++head) {
        const int32_t token = position(row) % kBlockTokens;
        std::byte* base = result.cache.data();
        testing::store_kv_values(case_.type, dim, base + layout_.tile(kLayer, block(row), head, false), token,
                                 k.data() + head * dim);
        testing::store_kv_values(case_.type, dim, base + layout_.tile(kLayer, block(row), head, true), token,
                                 v.data() + head * dim);
      }
    }
    return result;
  }

 private:
  Case case_;
  KvLayout layout_;
  // The end of a block and the beginning of the next, a row that is not live, and a sequence of its own.
  std::vector<int32_t> sequence_{0, 0, -1, 1, 2, -1};
  std::vector<int32_t> position_{15, 16, 99999, 37, 0, -1};
  std::vector<int32_t> tables_{6, 2, -1, 7, 0, 4, 1, -1, -1};
  int32_t q_stride_, kv_stride_;
  std::vector<float> q_, k_, v_, q_bias_, k_bias_, v_bias_, q_norm_, k_norm_, cos_sin_;
  std::vector<std::byte> before_;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  std::mt19937 random(11);
  for (KvType type : kDeviceKvTypes) {
    for (int32_t head_dim : {8, 32, 40, 64, 80, 96, 128, 256}) {
      if (!kv_type_fits(type, head_dim)) continue;
      for (RopePairs pairs : {RopePairs::interleaved, RopePairs::halves}) {
        const auto kv_heads = static_cast<int32_t>(1 + random() % 3);
        const int32_t partial = static_cast<int32_t>(random() % static_cast<uint32_t>(head_dim / 2)) * 2;
        all.push_back({type, head_dim, kv_heads * static_cast<int32_t>(1 + random() % 3), kv_heads,
                       random() % 2 == 0 ? head_dim : partial, pairs, random() % 2 == 0, false,
                       random() % 2 == 0 ? 0 : 4});
      }
    }
  }
  return all;
}

TEST(CudaRopeAppend, StoresWhatTheReferenceStoresToTheBit) {
  uint32_t seed = 12;
  for (const Case& c : cases()) {
    const Step step(c, ++seed);
    const auto got = step.run();
    const auto expected = step.expected();
    ASSERT_EQ(got.cache, expected.cache) << c.name();
    ASSERT_EQ(0, std::memcmp(got.q.data(), expected.q.data(), expected.q.size() * 4)) << c.name();
  }
}

TEST(CudaRopeAppend, NormsEveryHeadBeforeItTurns) {
  for (KvType type : kDeviceKvTypes) {
    for (int32_t head_dim : {32, 96, 128, 256}) {
      const Case c{type, head_dim, 6, 2, head_dim / 2, RopePairs::halves, head_dim == 96, true, 0};
      const Step step(c, 13);
      const auto got = step.run();
      const auto expected = step.expected();
      for (size_t i = 0; i < expected.q.size(); ++i) {
        ASSERT_NEAR(got.q[i], expected.q[i], 1e-6f * (1 + std::fabs(expected.q[i]))) << c.name() << " " << i;
      }
      // A rounding apart may store a neighbouring value: half a step of f16, bf16 or the block's scale.
      const float step_size = type == KvType::f16 ? 0.0011f : type == KvType::bf16 ? 0.009f : 0.04f;
      for (size_t row = 0; row < step.rows(); ++row) {
        if (!step.live(row)) continue;
        for (int32_t dim = 0; dim < head_dim; ++dim) {
          const size_t tile = step.layout().tile(kLayer, step.block(row), 1, false);
          const int32_t token = step.position(row) % kBlockTokens;
          const float value = testing::kv_value(type, head_dim, expected.cache.data() + tile, token, dim);
          ASSERT_NEAR(testing::kv_value(type, head_dim, got.cache.data() + tile, token, dim), value,
                      step_size * (1 + std::fabs(value)));
        }
      }
    }
  }
}

TEST(CudaRopeAppend, GivesTheSameBitsInEveryOrder) {
  for (KvType type : kDeviceKvTypes) {
    for (int32_t head_dim : {64, 96, 256}) {
      const Step step({type, head_dim, 5, 1, head_dim - 4, RopePairs::halves, true, true, 4}, 14);
      EXPECT_TRUE(same_in_every_order([&] { return step.run().q; }));
      EXPECT_TRUE(same_in_every_order([&] { return step.run().cache; }));
    }
  }
}

// Attention multiplies V by the weights of rows that do not see it, 0 times NaN would be NaN.
TEST(CudaRopeAppend, AVThatCannotBeStoredIsZeroUnderAKeyThatIsNaN) {
  for (KvType type : kDeviceKvTypes) {
    for (float bad : {kNaN, std::numeric_limits<float>::infinity(), -3e38f, 1e7f}) {
      if (type == KvType::bf16 && std::fabs(bad) < 1e38f) continue;  // can be stored
      Step step({type, 96, 4, 2, 32, RopePairs::interleaved, false, false, 0}, 15);
      // Row 3: a V of KV head 1. Row 4: a K of KV head 0, which says so by itself.
      step.v()[static_cast<size_t>(3 * step.kv_stride() + 96 + 50)] = bad;
      step.k()[static_cast<size_t>(4 * step.kv_stride() + 95)] = bad;
      const bool overflows = !std::isnan(bad) && type == KvType::bf16 && std::fabs(bad) < 3.38e38f;
      const auto got = step.run();
      for (int32_t head = 0; head < 2; ++head) {
        for (int32_t dim = 0; dim < 96; ++dim) {
          const auto value = [&](size_t row, bool is_v) {
            return testing::kv_value(type, 96,
                                     got.cache.data() + step.layout().tile(kLayer, step.block(row), head, is_v),
                                     step.position(row) % kBlockTokens, dim);
          };
          if (!overflows) {
            EXPECT_EQ(std::isnan(value(3, false)), head == 1) << kv_type_name(type) << " " << bad << " dim " << dim;
            EXPECT_TRUE(head == 0 ? std::isfinite(value(3, true)) : value(3, true) == 0.0f);
          }
          const bool same_scale = type == KvType::q8_0 ? dim >= 64 : dim == 95;
          EXPECT_EQ(std::isfinite(value(4, false)), head == 1 || !same_scale || overflows);
          EXPECT_TRUE(std::isfinite(value(4, true)));
        }
      }
    }
  }
}

TEST(CudaRopeAppend, AnglesAreThoseOfTheProcessor) {
  const std::vector<int32_t> sequence{0, -1, 1, 0}, position{0, 5, 131071, 77};
  std::vector<double> frequencies;
  for (int i = 0; i < 150; ++i) frequencies.push_back(std::pow(500000.0, -i / 150.0));
  const DeviceArray<int32_t> device_sequence(sequence), device_position(position);
  const DeviceArray<double> device_frequencies(frequencies);
  const DeviceBatch batch{nullptr, device_position.data(), device_sequence.data(), nullptr, 0, 4};
  EXPECT_TRUE(same_in_every_order([&] {
    DeviceArray<float> cos_sin(std::vector<float>(4 * 300, -7.0f));
    rope_angles(nullptr, batch, device_frequencies.data(), 300, 1.25f, cos_sin.data());
    const auto got = cos_sin.read();
    for (size_t row = 0; row < 4; ++row) {
      for (size_t i = 0; i < 150; ++i) {
        const double angle = position[row] * frequencies[i];
        const size_t at = row * 300 + 2 * i;
        EXPECT_NEAR(got[at], row == 1 ? -7.0f : static_cast<float>(std::cos(angle)) * 1.25f, 2e-7f);
        EXPECT_NEAR(got[at + 1], row == 1 ? -7.0f : static_cast<float>(std::sin(angle)) * 1.25f, 2e-7f);
      }
    }
    return got;
  }));
}

TEST(CudaRopeAppend, RefusesCachesAndStridesThatNoKernelTakes) {
  const DeviceBatch batch{nullptr, nullptr, nullptr, nullptr, 0, 0};
  RopeAppendArgs args{};
  args.q_stride = args.k_stride = args.v_stride = 64;
  const KvLayout fits{KvType::f16, 1, 1, 1, 64};
  EXPECT_NO_THROW(rope_append(nullptr, batch, fits.on_device(nullptr), args));
  for (const KvLayout& layout : {KvLayout{KvType::f32, 1, 1, 1, 64}, KvLayout{KvType::f16, 1, 1, 1, 264},
                                 KvLayout{KvType::f16, 1, 1, 1, 12}, KvLayout{KvType::q8_0, 1, 1, 1, 40}}) {
    EXPECT_THROW(rope_append(nullptr, batch, layout.on_device(nullptr), args), std::logic_error);
  }
  args.rope_dims = 66;
  EXPECT_THROW(rope_append(nullptr, batch, fits.on_device(nullptr), args), std::logic_error);
  args.rope_dims = 64;
  args.k_stride = 66;
  EXPECT_THROW(rope_append(nullptr, batch, fits.on_device(nullptr), args), std::logic_error);
}

}  // namespace
}  // namespace penstock::cuda
