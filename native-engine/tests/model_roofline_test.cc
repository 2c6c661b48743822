// Predictions on paper: the sums are those of the model's own sizes, and time follows the slower of memory and arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "model/roofline.h"
#include "model_fixtures.h"

namespace penstock {
namespace {

using namespace penstock::testing;

constexpr ModelShape kShape{
    .dim = 1024, .ffn_dim = 2816, .layers = 2, .heads = 16, .kv_heads = 4, .head_dim = 64, .vocab = 640, .context = 8192};

// Of zeros: only sizes matter.
std::vector<uint8_t> empty_model(TensorType type, bool tied) {
  GgufWriter out;
  write_metadata(out, kShape);
  const auto matrix = [&](const std::string& name, uint64_t cols, uint64_t rows) {
    const auto bytes = static_cast<size_t>(row_bytes(type, static_cast<int64_t>(cols))) * rows;
    out.tensor(name, static_cast<uint32_t>(type), {cols, rows}, std::vector<uint8_t>(bytes));
  };
  constexpr uint64_t kDim = kShape.dim, kFfn = kShape.ffn_dim, kKv = kShape.kv_heads * kShape.head_dim;
  matrix("token_embd.weight", kDim, kShape.vocab);
  if (!tied) matrix("output.weight", kDim, kShape.vocab);
  for (uint32_t i = 0; i < kShape.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    matrix(prefix + "attn_q.weight", kDim, kDim);
    matrix(prefix + "attn_k.weight", kDim, kKv);
    matrix(prefix + "attn_v.weight", kDim, kKv);
    matrix(prefix + "attn_output.weight", kDim, kDim);
    matrix(prefix + "ffn_gate.weight", kDim, kFfn);
    matrix(prefix + "ffn_up.weight", kDim, kFfn);
    matrix(prefix + "ffn_down.weight", kFfn, kDim);
  }
  return out.build();
}

RooflineModel model_of(TensorType type, bool tied, QuantizeTo quantize = {}) {
  const TempFile file(empty_model(type, tied));
  return roofline_model(ModelSource::open(file.path()), quantize, KvType::f16);
}

const KernelWork& kernel(const std::vector<KernelWork>& work, const std::string& name) {
  for (const KernelWork& w : work) {
    if (w.kernel == name) return w;
  }
  throw std::runtime_error("no kernel " + name);
}

TEST(Roofline, KnowsItsGpusByAnySpelling) {
  for (const char* name : {"A100", "h100", "H200", "B200", "RTX 4090", "rtx4090", "4090", "RTX-5090"})
    EXPECT_NE(gpu_named(name), nullptr) << name;
  EXPECT_EQ(gpu_named("GTX 970"), nullptr);
  EXPECT_STREQ(gpu_named("4090")->name, "RTX 4090");
}

TEST(Roofline, ReadsEveryWeightOncePerStep) {
  const RooflineModel model = model_of(TensorType::q8_0, true);
  const auto work = kernel_work(model, {1, 1, 0}, *gpu_named("H100"));
  const double gate = 2.0 * 2816 * 1024 * 34 / 32;  // two layers, 34 bytes for 32 values
  EXPECT_NEAR(kernel(work, "matmul ffn_gate Q8_0").bytes, gate, 0.01 * gate);
  EXPECT_EQ(kernel(work, "matmul ffn_gate Q8_0").operations, 2.0 * 2 * 2816 * 1024);
  EXPECT_EQ(kernel(work, "matmul ffn_gate Q8_0").launches, 2);
  const double head = 640.0 * 1024 * 34 / 32;
  EXPECT_NEAR(kernel(work, "matmul head Q8_0").bytes, head, 0.01 * head) << "a tied embedding is the head as well";
}

TEST(Roofline, ReadsKeysAndValuesOfTheContextForEachSequence) {
  const RooflineModel model = model_of(TensorType::f16, false);
  const GpuFacts& gpu = *gpu_named("A100");
  const double short_bytes = kernel(kernel_work(model, {4, 1, 1000}, gpu), "attention").bytes;
  const double long_bytes = kernel(kernel_work(model, {4, 1, 3000}, gpu), "attention").bytes;
  // Two layers, k and v, four heads of 64 in two bytes.
  EXPECT_EQ(long_bytes - short_bytes, 4.0 * 2000 * 2 * 2 * 4 * 64 * 2);
}

TEST(Roofline, IsBoundByMemoryInDecodeAndByArithmeticInPrefill) {
  const RooflineModel model = model_of(TensorType::f16, false);
  const GpuFacts& gpu = *gpu_named("RTX 4090");
  const auto decode = kernel_work(model, {1, 1, 512}, gpu), prefill = kernel_work(model, {1, 4096, 0}, gpu);
  const KernelWork& down = kernel(decode, "matmul ffn_down F16");
  EXPECT_EQ(down.seconds(), down.seconds_of_memory);
  EXPECT_DOUBLE_EQ(down.seconds_of_memory, down.bytes / 1008e9);
  const KernelWork& many = kernel(prefill, "matmul ffn_down F16");
  EXPECT_EQ(many.seconds(), many.seconds_of_arithmetic);
  EXPECT_DOUBLE_EQ(many.seconds_of_arithmetic, 2.0 * 2 * 2816 * 1024 * 4096 / 165.2e12);
}

TEST(Roofline, CountsWeightsAsTheyWouldBeKept) {
  const auto work = kernel_work(model_of(TensorType::f16, false, TensorType::q4_0), {1, 1, 0}, *gpu_named("H200"));
  EXPECT_NO_THROW(kernel(work, "matmul q Q4_0"));
  EXPECT_NO_THROW(kernel(work, "matmul head Q8_0"));
}

TEST(Roofline, SaysThatItPredicts) {
  const std::string page = roofline_page(model_of(TensorType::q4_0, true), *gpu_named("B200"));
  EXPECT_TRUE(page.starts_with("PREDICTIONS, not measurements")) << page;
  EXPECT_NE(page.find("tokens/s"), std::string::npos);
}

}  // namespace
}  // namespace penstock
