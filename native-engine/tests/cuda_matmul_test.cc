// Products on the device, every weight format by every kernel that multiplies it: quantised and f32 ones to the bit against the
// scalar order of formats.h written out here, all of them against the reference within rounding, the kernels against each other to
// the bit whatever the batch, in every order of threads, at sizes that no tile divides.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda_products.h"
#include "ops/cuda/gemm.h"
#include "ops/weight_block.h"

namespace penstock::cuda {
namespace {

using namespace penstock::testing;
using namespace penstock::cuda::testing;

constexpr TensorType kTypes[] = {TensorType::f32,  TensorType::f16,  TensorType::bf16, TensorType::q4_0,
                                 TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q8_0,
                                 TensorType::q4_k, TensorType::q5_k, TensorType::q6_k};
constexpr MatmulPath kPaths[] = {MatmulPath::rows, MatmulPath::split, MatmulPath::wide};

bool is_super(TensorType type) { return tensor_type_facts(type).block_values == kSuperBlock; }

// One weight row times one row of x in the order of formats.h: segments of whole 256 columns, at most eight, each from 0.
float scalar_product(TensorType type, const Bytes& file, int32_t weight_row, const HostInputs& x, int32_t row) {
  const std::byte* data = data_of(file) + weight_row * row_bytes(type, x.cols);
  const int32_t panels = (x.cols + 255) / 256;
  const int32_t segment_cols = (panels + 7) / 8 * 256;
  const int32_t blocks = x.cols / kQuantBlock;
  float total = 0;
  for (int32_t begin = 0; begin < x.cols; begin += segment_cols) {
    const int32_t end = std::min(begin + segment_cols, x.cols);
    float sum = 0;
    if (type == TensorType::f32) {
      for (int32_t c = begin; c < end; ++c) {
        float weight;
        std::memcpy(&weight, data + 4 * c, 4);
        sum = std::fma(weight, x.f32[static_cast<size_t>(row * x.cols + c)], sum);
      }
    } else {
      for (int32_t b = begin / kQuantBlock; b < (end + kQuantBlock - 1) / kQuantBlock; ++b) {
        const WeightBlock w = read_weight_block(type, data, b);
        int32_t integer = 0;
        for (int32_t i = 0; i < kQuantBlock; ++i) {
          integer += w.scale[i / kScaleColumns] * w.q[i] * x.q[static_cast<size_t>(row * x.cols + b * kQuantBlock + i)];
        }
        const float d = x.d[static_cast<size_t>(row * blocks + b)], s = x.s[static_cast<size_t>(row * blocks + b)];
        sum = std::fma(w.d * d, static_cast<float>(integer), sum);
        if (w.zero != 0) sum = std::fma(w.d * static_cast<float>(-w.zero), s, sum);
        if (w.has_min) sum = std::fma(w.m, s, sum);
      }
    }
    total += sum;
  }
  return total;
}

struct Case {
  Case(TensorType type_, int32_t weight_rows, int32_t cols, int32_t rows, uint32_t seed = 41)
      : type(type_),
        file(random_file(type, weight_rows, cols, seed)),
        weights(type, weight_rows, cols, file),
        x(activation_form(type), activations(rows * cols, seed + 1), rows, cols) {}

  std::string name(MatmulPath path) const {
    const char* paths[] = {"rows", "split", "wide"};
    return name_of(type) + " [" + std::to_string(weights.matrix().rows) + ", " + std::to_string(x.cols) + "] x " +
           std::to_string(x.rows) + " by " + paths[static_cast<int>(path)];
  }
  std::vector<MatmulPath> paths() const {
    std::vector<MatmulPath> all;
    for (MatmulPath path : kPaths) {
      if (has_path(path, type, x.rows)) all.push_back(path);
    }
    return all;
  }

  void expect_near_reference(const std::vector<float>& out, const std::string& what) const {
    expect_near_exact({type, weights.matrix().rows, x.cols, data_of(file)}, x, out, what);
  }

  TensorType type;
  Bytes file;
  DeviceWeights weights;
  HostInputs x;
};

// Sizes that no tile of 32 or 128 weight rows, 8 to 128 rows of x, or 64 to 256 columns divides.
std::vector<int32_t> odd_cols(TensorType type) {
  if (is_super(type)) return {256, 768};
  if (is_quantized(type)) return {32, 96, 544};
  return {7, 172, 300, 520};
}

TEST(CudaMatmul, QuantisedAndF32ProductsHaveTheBitsOfTheScalarOrder) {
  for (TensorType type : kTypes) {
    if (type == TensorType::f16 || type == TensorType::bf16) continue;
    for (int32_t cols : odd_cols(type)) {
      for (int32_t rows : {1, 3, 11}) {
        const Case c(type, 45, cols, rows);
        std::vector<float> expected;
        for (int32_t row = 0; row < rows; ++row) {
          for (int32_t w = 0; w < 45; ++w) expected.push_back(scalar_product(type, c.file, w, c.x, row));
        }
        for (MatmulPath path : c.paths()) {
          EXPECT_TRUE(same_bits(multiply(c.weights.matrix(), c.x, path), expected)) << c.name(path);
        }
      }
    }
  }
}

TEST(CudaMatmul, EveryFormatIsNearTheReference) {
  for (TensorType type : kTypes) {
    for (int32_t cols : odd_cols(type)) {
      const Case c(type, 37, cols, 9);
      for (MatmulPath path : c.paths()) c.expect_near_reference(multiply(c.weights.matrix(), c.x, path), c.name(path));
    }
  }
}

TEST(CudaMatmul, ASegmentHasTheBitsOfTheReferenceKernels) {
  for (TensorType type : kTypes) {
    if (!is_quantized(type)) continue;
    const int32_t cols = is_super(type) ? 256 : 224, rows = 2, weight_rows = 40;
    const Case c(type, weight_rows, cols, rows);
    const Matrix plain{type, weight_rows, cols, data_of(c.file)};
    std::vector<float> expected(rows * weight_rows);
    reference_kernels().matmul(plain, {c.x.f32.data(), c.x.q.data(), c.x.d.data(), c.x.s.data(), rows, cols}, 0, plain.tiles(),
                               expected.data(), weight_rows);
    EXPECT_TRUE(same_bits(multiply(c.weights.matrix(), c.x, {}), expected)) << name_of(type);
  }
}

TEST(CudaMatmul, LongColumnsAreSummedInTheSameSegmentsByEveryKernel) {
  // 11 panels: segments of two, the last of one. 2720 = 10.6 panels.
  for (TensorType type : {TensorType::q4_0, TensorType::q8_0, TensorType::q6_k, TensorType::q5_k}) {
    const int32_t cols = is_super(type) ? 2816 : 2720;
    const Case c(type, 33, cols, 2);
    std::vector<float> expected;
    for (int32_t row = 0; row < 2; ++row) {
      for (int32_t w = 0; w < 33; ++w) expected.push_back(scalar_product(type, c.file, w, c.x, row));
    }
    for (MatmulPath path : c.paths()) EXPECT_TRUE(same_bits(multiply(c.weights.matrix(), c.x, path), expected)) << c.name(path);
  }
  for (TensorType type : {TensorType::f16, TensorType::bf16}) {
    const Case c(type, 33, 2730, 2);
    const std::vector<float> split = multiply(c.weights.matrix(), c.x, MatmulPath::split);
    c.expect_near_reference(split, c.name(MatmulPath::split));
    EXPECT_TRUE(same_bits(multiply(c.weights.matrix(), c.x, MatmulPath::wide), split)) << name_of(type);
  }
}

TEST(CudaMatmul, ARowHasTheSameBitsAloneInABatchAndInAChunkOfAnySize) {
  for (TensorType type : kTypes) {
    const int32_t cols = is_super(type) ? 512 : is_quantized(type) ? 416 : 330;
    const int32_t rows = 70, weight_rows = 41;
    const Case c(type, weight_rows, cols, rows);
    const std::vector<float> whole = multiply(c.weights.matrix(), c.x, {});
    const auto expect_rows = [&](int32_t first, int32_t count, std::optional<MatmulPath> path) {
      const std::vector<float> part = multiply(c.weights.matrix(), c.x.slice(first, count), path);
      const std::vector<float> want(whole.begin() + first * weight_rows, whole.begin() + (first + count) * weight_rows);
      EXPECT_TRUE(same_bits(part, want)) << name_of(type) << " rows " << first << " to " << first + count;
    };
    for (int32_t row : {0, 8, 33, 69}) expect_rows(row, 1, {});
    for (int32_t count : {2, 4, 5, 8, 16, 17, 64}) expect_rows(70 - count, count, {});
    for (MatmulPath path : kPaths) {
      for (int32_t count : {1, 7, 16, 30}) {
        if (has_path(path, type, count)) expect_rows(19, count, path);
      }
    }
  }
}

// Stages of two and of four blocks, whose last one may have fewer; with rows of activations for each shape of a warp.
TEST(CudaMatmul, StagesThatAreNotFullGiveEveryPathTheSameBits) {
  for (TensorType type : kTypes) {
    if (!is_quantized(type) || is_super(type)) continue;
    for (int32_t cols : {32, 64, 96, 288, 352, 480}) {
      const int32_t rows = 67, weight_rows = 37;
      const Case c(type, weight_rows, cols, rows);
      std::vector<float> expected;
      for (int32_t row = 0; row < rows; ++row) {
        for (int32_t w = 0; w < weight_rows; ++w) expected.push_back(scalar_product(type, c.file, w, c.x, row));
      }
      for (int32_t count : {6, 12, 31, 67}) {
        const std::vector<float> want(expected.end() - count * weight_rows, expected.end());
        for (MatmulPath path : {MatmulPath::split, MatmulPath::wide}) {
          EXPECT_TRUE(same_bits(multiply(c.weights.matrix(), c.x.slice(rows - count, count), path), want))
              << c.name(path) << ", the last " << count;
        }
      }
    }
  }
}

TEST(CudaMatmul, ResultsDoNotDependOnTheOrderOfThreads) {
  for (TensorType type : kTypes) {
    const int32_t cols = is_super(type) ? 512 : is_quantized(type) ? 288 : 300;
    for (int32_t rows : {1, 8, 20, 33}) {
      const Case c(type, 40, cols, rows);
      for (MatmulPath path : c.paths()) {
        EXPECT_TRUE(same_in_every_order([&] { return multiply(c.weights.matrix(), c.x, path); })) << c.name(path);
      }
    }
  }
  // Tiles of 128 x 128.
  const Case c(TensorType::f16, 130, 72, 129);
  EXPECT_TRUE(same_in_every_order([&] { return multiply(c.weights.matrix(), c.x, MatmulPath::wide); }));
}

TEST(CudaMatmul, MoreRowsThanATileHasAreAllThere) {
  for (TensorType type : {TensorType::q4_k, TensorType::q8_0, TensorType::bf16, TensorType::f32}) {
    const int32_t cols = is_super(type) ? 256 : 64;
    const Case c(type, 161, cols, 133);
    for (MatmulPath path : c.paths()) c.expect_near_reference(multiply(c.weights.matrix(), c.x, path), c.name(path));
  }
}

TEST(CudaMatmul, AWeightBlockThatIsNotANumberSpoilsItsRowAlone) {
  for (TensorType type : kTypes) {
    const int32_t cols = is_super(type) ? 512 : 320, rows = 10, weight_rows = 40, spoiled = 34;
    const Case good(type, weight_rows, cols, rows);
    Case bad(type, weight_rows, cols, rows);
    // The second block of the row, or its 50th value.
    const TensorTypeFacts facts = tensor_type_facts(type);
    const size_t row_at = static_cast<size_t>(spoiled * row_bytes(type, cols));
    const float nan = std::numeric_limits<float>::quiet_NaN();
    if (is_quantized(type)) {
      put_half_at(bad.file, row_at + static_cast<size_t>(facts.block_bytes) + halves_of(type)[0], nan);
    } else {
      const uint32_t bits = 0x7FC07FC0u;
      std::memcpy(bad.file.data() + row_at + static_cast<size_t>(50 * facts.block_bytes), &bits, static_cast<size_t>(facts.block_bytes));
      if (type == TensorType::f16) put_half_at(bad.file, row_at + 100, nan);
    }
    const DeviceWeights weights(type, weight_rows, cols, bad.file);
    for (MatmulPath path : good.paths()) {
      const std::vector<float> want = multiply(good.weights.matrix(), good.x, path);
      const std::vector<float> got = multiply(weights.matrix(), good.x, path);
      for (size_t i = 0; i < got.size(); ++i) {
        if (static_cast<int32_t>(i) % weight_rows == spoiled) {
          ASSERT_TRUE(std::isnan(got[i])) << good.name(path) << " " << i;
        } else {
          ASSERT_EQ(got[i], want[i]) << good.name(path) << " " << i;
        }
      }
    }
  }
}

TEST(CudaMatmul, ActivationsThatAreNotFiniteSpoilTheirRowAlone) {
  for (TensorType type : kTypes) {
    const int32_t cols = is_super(type) ? 256 : 96, rows = 10, weight_rows = 35, spoiled = 6;
    const Case good(type, weight_rows, cols, rows);
    std::vector<float> x = activations(rows * cols, 42);
    x[spoiled * static_cast<size_t>(cols) + 40] = std::numeric_limits<float>::infinity();
    x[spoiled * static_cast<size_t>(cols) + 41] = -std::numeric_limits<float>::infinity();
    const HostInputs bad(activation_form(type), x, rows, cols);
    for (MatmulPath path : good.paths()) {
      const std::vector<float> want = multiply(good.weights.matrix(), good.x, path);
      const std::vector<float> got = multiply(good.weights.matrix(), bad, path);
      for (size_t i = 0; i < got.size(); ++i) {
        if (static_cast<int32_t>(i) / weight_rows == spoiled) {
          ASSERT_FALSE(std::isfinite(got[i])) << good.name(path) << " " << i;
        } else {
          ASSERT_EQ(got[i], want[i]) << good.name(path) << " " << i;
        }
      }
    }
  }
}

TEST(CudaMatmul, RefusesActivationsOfAnotherFormOrWidthAndPathsThatDoNotExist) {
  const Case q(TensorType::q8_0, 32, 64, 9);
  const Case f(TensorType::f32, 32, 64, 9);
  EXPECT_THROW(multiply(q.weights.matrix(), f.x, {}), std::invalid_argument);
  EXPECT_THROW(multiply(f.weights.matrix(), q.x, {}), std::invalid_argument);
  EXPECT_THROW(multiply(q.weights.matrix(), q.x, MatmulPath::rows), std::invalid_argument);
  EXPECT_THROW(multiply(f.weights.matrix(), f.x, MatmulPath::wide), std::invalid_argument);
  const Case narrow(TensorType::q8_0, 32, 32, 9);
  EXPECT_THROW(multiply(q.weights.matrix(), narrow.x, {}), std::invalid_argument);
  EXPECT_TRUE(multiply(q.weights.matrix(), q.x.slice(0, 0), {}).empty());
}

// Before anything is enqueued: nothing is behind these pointers.
TEST(CudaMatmul, RefusesWhatItsIndicesDoNotReach) {
  const auto multiply_nothing = [](TensorType type, int32_t weight_rows, int32_t cols, int32_t rows) {
    float none = 0;
    const DeviceMatrix w{type, weight_rows, cols, reinterpret_cast<const std::byte*>(&none)};
    matmul(nullptr, w, {activation_form(type), &none, &none, &none, cols}, rows, &none, weight_rows);
  };
  for (const int32_t cols : {32, 4096, 28672, 53248, 1 << 20}) {
    const int64_t most = quantised_rows_max(cols);
    EXPECT_EQ(most % kInt8TileCols, 0);
    EXPECT_LT(most * cols, int64_t{1} << 31);
    EXPECT_GE((most + kInt8TileCols) * cols, (int64_t{1} << 31) - 1) << "no fewer than there could be";
    EXPECT_THROW(multiply_nothing(TensorType::q8_0, 32, cols, static_cast<int32_t>(most) + 1), std::length_error);
  }
  EXPECT_THROW(multiply_nothing(TensorType::f16, kProductOutputsMax + 1, 32, 16), std::length_error);
}

#if PENSTOCK_CUDA_EMULATED
TEST(PerDevice, IsAskedOnceOnEachDevice) {
  simt::set_devices({86, 80});
  PerDevice known;
  int asked = 0;
  const auto is_second = [&] {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    ++asked;
    return device == 1;
  };
  for (const int device : {0, 1, 0, 1}) {
    check(cudaSetDevice(device), "cudaSetDevice");
    EXPECT_EQ(known.is(is_second), device == 1);
  }
  EXPECT_EQ(asked, 2);
  simt::set_devices({86});
}

// A kernel's right to more than 48 KB of shared memory is one device's. An engine has one; a process that computes on another
// afterwards would be refused every launch of such a kernel.
TEST(PerDevice, KernelsMayHaveTheirSharedMemoryOnEveryDevice) {
  simt::set_devices({86, 86});
  for (const TensorType type : {TensorType::q8_0, TensorType::f16}) {
    std::vector<float> results[2];
    for (const int device : {0, 1}) {
      check(cudaSetDevice(device), "cudaSetDevice");
      const Case c(type, 160, 96, 96);
      results[device] = multiply(c.weights.matrix(), c.x, MatmulPath::wide);
    }
    EXPECT_TRUE(same_bits(results[0], results[1]));
  }
  simt::set_devices({86});
}
#endif

TEST(CudaGemm, MultipliesWithOurKernelsUnlessALibraryIsAskedFor) {
  const Case c(TensorType::f16, 40, 72, 130);
  const DeviceArray<uint16_t> x(c.x.halves);
  const DeviceArray<float> out(130 * 40);
  Gemm gemm;
  gemm.multiply(nullptr, c.weights.matrix(), {ActivationForm::f16, x.data(), nullptr, nullptr, 72}, 130, out.data(), 40);
  EXPECT_TRUE(same_bits(out.read(), multiply(c.weights.matrix(), c.x, {})));
  EXPECT_EQ(Gemm::workspace_bytes(GemmLibrary::own), 0);
}

// With the library in the build: cuda_cublaslt_test.
TEST(CudaGemm, RefusesTheLibraryWhereItIsNotInTheBuild) {
  if (Gemm::has_library()) GTEST_SKIP() << "it is";
  EXPECT_THROW(Gemm(GemmLibrary::cublaslt, nullptr), std::invalid_argument);
}

TEST(CudaMatmul, FewRowsTakeDotProductsAndManyTakeWideTiles) {
  EXPECT_EQ(choose_path(TensorType::q4_k, 4096, 1), MatmulPath::rows);
  EXPECT_EQ(choose_path(TensorType::q4_k, 4096, 8), MatmulPath::split);
  EXPECT_EQ(choose_path(TensorType::f16, 4096, 1), MatmulPath::split);
  EXPECT_EQ(choose_path(TensorType::q4_k, 4096, 32), MatmulPath::split);
  EXPECT_EQ(choose_path(TensorType::q4_k, 4096, 128), MatmulPath::split);
  EXPECT_EQ(choose_path(TensorType::q4_k, 14336, 128), MatmulPath::wide);
  EXPECT_EQ(choose_path(TensorType::q4_k, 4096, 512), MatmulPath::wide);
  EXPECT_EQ(choose_path(TensorType::f16, 1024, 512), MatmulPath::wide);
  EXPECT_EQ(choose_path(TensorType::f32, 4096, 512), MatmulPath::rows);
}

}  // namespace
}  // namespace penstock::cuda
