// A product on the device for tests: weights and activations uploaded in the form that the kernels want, and what came out.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "cuda_arrays.h"
#include "ops/cuda/matmul.h"
#include "ops/cuda/pack.h"
#include "ops/half.h"
#include "ops/ops.h"
#include "weight_files.h"

namespace penstock::cuda::testing {

using penstock::testing::Bytes;
using penstock::testing::data_of;

class DeviceWeights {
 public:
  DeviceWeights(TensorType type, int32_t rows, int32_t cols, const Bytes& file)
      : memory_(packed(type, rows, cols, file)), matrix_{type, rows, cols, memory_.data()} {}
  const DeviceMatrix& matrix() const { return matrix_; }

 private:
  static std::vector<std::byte> packed(TensorType type, int32_t rows, int32_t cols, const Bytes& file) {
    std::vector<std::byte> bytes(static_cast<size_t>(packed_bytes(type, rows, cols)));
    pack(type, rows, cols, data_of(file), bytes.data());
    return bytes;
  }
  DeviceArray<std::byte> memory_;
  DeviceMatrix matrix_;
};

// Rows of activations as a weight format wants them; rounded as the kernels that write them round.
struct HostInputs {
  HostInputs(ActivationForm form_, std::vector<float> x, int32_t rows_, int32_t cols_)
      : form(form_), rows(rows_), cols(cols_), f32(std::move(x)) {
    if (form == ActivationForm::q8) {
      const auto blocks = static_cast<size_t>(rows * (cols / kQuantBlock));
      q.resize(f32.size()), d.resize(blocks), s.resize(blocks);
      reference_kernels().quantize(f32.data(), rows * cols, q.data(), d.data(), s.data());
    }
    for (float& value : f32) {
      const auto bits = std::bit_cast<uint32_t>(value);
      if (form == ActivationForm::f16) halves.push_back(float_to_half(value)), value = half_to_float(halves.back());
      if (form == ActivationForm::bf16) {
        halves.push_back(static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16));
        value = std::bit_cast<float>(uint32_t{halves.back()} << 16);
      }
    }
  }
  // What is multiplied with the weights.
  double value(int32_t row, int32_t column) const {
    const auto at = static_cast<size_t>(row * cols + column);
    return form == ActivationForm::q8 ? double{d[at / kQuantBlock]} * q[at] : double{f32[at]};
  }
  HostInputs slice(int32_t first, int32_t count) const {
    HostInputs part = *this;
    part.rows = count;
    const auto cut = [&](auto& values, int32_t per_row) {
      if (values.empty()) return;
      values = {values.begin() + int64_t{first} * per_row, values.begin() + int64_t{first + count} * per_row};
    };
    cut(part.f32, cols), cut(part.q, cols), cut(part.halves, cols);
    cut(part.d, cols / kQuantBlock), cut(part.s, cols / kQuantBlock);
    return part;
  }

  ActivationForm form;
  int32_t rows, cols;
  std::vector<float> f32;
  std::vector<int8_t> q;
  std::vector<float> d, s;
  std::vector<uint16_t> halves;
};

// Floats of `out` beyond the product's columns, which nobody may write.
inline constexpr int32_t kOutPadding = 3;
inline constexpr float kUntouched = -12345.0f;

// [rows, w.rows]; fails the test when anything else of `out` was written. No path: matmul() chooses.
inline std::vector<float> multiply(const DeviceMatrix& w, const HostInputs& x, std::optional<MatmulPath> path) {
  const DeviceArray<float> f32(x.form == ActivationForm::f32 ? x.f32 : std::vector<float>());
  const DeviceArray<uint16_t> halves(x.halves);
  const DeviceArray<int8_t> q(x.q);
  const DeviceArray<float> d(x.d), s(x.s);
  void* values = x.form == ActivationForm::q8 ? static_cast<void*>(q.data())
                 : x.form == ActivationForm::f32 ? static_cast<void*>(f32.data()) : static_cast<void*>(halves.data());
  const DeviceActivations device{x.form, values, d.data(), s.data(), x.cols};
  const int32_t stride = w.rows + kOutPadding;
  const DeviceArray<float> out(std::vector<float>(static_cast<size_t>((x.rows + 1) * stride), kUntouched));
  if (path) {
    matmul_by(*path, nullptr, w, device, x.rows, out.data(), stride);
  } else {
    matmul(nullptr, w, device, x.rows, out.data(), stride);
  }
  const std::vector<float> all = out.read();
  std::vector<float> product;
  for (int32_t i = 0; i < (x.rows + 1) * stride; ++i) {
    const float value = all[static_cast<size_t>(i)];
    if (i / stride < x.rows && i % stride < w.rows) {
      product.push_back(value);
    } else if (value != kUntouched) {
      ADD_FAILURE() << "out[" << i / stride << "][" << i % stride << "] was written";
      break;
    }
  }
  return product;
}

// out [x.rows, w.rows] against sums in double, within what the order of a sum in f32 can make of it.
inline void expect_near_exact(const Matrix& w, const HostInputs& x, const std::vector<float>& out, const std::string& what) {
  std::vector<float> values(static_cast<size_t>(x.cols));
  for (int32_t weight_row = 0; weight_row < w.rows; ++weight_row) {
    reference_kernels().matrix_row(w, weight_row, values.data());
    for (int32_t row = 0; row < x.rows; ++row) {
      double exact = 0, magnitude = 0;
      for (int32_t c = 0; c < x.cols; ++c) {
        const double term = values[static_cast<size_t>(c)] * x.value(row, c);
        exact += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(out[static_cast<size_t>(row * w.rows + weight_row)], exact, 4e-6 * magnitude + 1e-6)
          << what << " at " << row << ", " << weight_row;
    }
  }
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace penstock::cuda::testing
