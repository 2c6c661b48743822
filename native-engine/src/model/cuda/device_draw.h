// Tokens drawn from logits on the device. Owns the arrays that say how, and their way there and back; the kernels are
// ops/cuda/sampling.cu, the rules model/sampler.h's.
#pragma once

#include <cstdint>
#include <span>

#include "model/device_sampler.h"
#include "ops/cuda/device.h"
#include "ops/cuda/ops.h"

namespace penstock::cuda {

// Of one row. What has more is drawn for by the processor, which draws the same token.
inline constexpr int32_t kRowBiasMax = 512;
inline constexpr int32_t kRowHistoryMax = 16 * 1024;

class DeviceDraw final : public DeviceSampler {
 public:
  // Takes its memory from the pool. logits [rows_max, vocab_size] are the decoder's.
  DeviceDraw(const Stream& stream, DevicePool& pool, int32_t rows_max, int32_t vocab_size, float* logits);

  static void count(DevicePool& pool, int32_t rows_max, int32_t vocab_size);

  bool fits(const DeviceRow& row) const override;
  void read_logits(std::span<const int32_t> rows, std::span<float> out) override;
  void sample(std::span<const DeviceRow> rows, std::span<int32_t> tokens) override;

 private:
  // What goes to the device for each step, in one piece.
  struct Arrays {
    SampleRow* rows;       // [rows_max]
    int32_t* bias_tokens;  // [rows_max * kRowBiasMax]
    float* bias_values;
    int32_t* history;  // [rows_max * kRowHistoryMax]
    uint32_t* masks;   // [rows_max, mask words]
  };
  struct Memory {
    Arrays arrays;
    int32_t* counts;              // [rows_max, vocab_size]
    unsigned long long* scratch;  // [rows_max, sample_scratch_words]
    int32_t* tokens;              // [rows_max]
    Memory(DevicePool& pool, int32_t rows_max, int32_t vocab_size);
  };
  int32_t mask_words() const { return (vocab_size_ + 31) / 32; }

  const Stream& stream_;
  int32_t rows_max_;
  int32_t vocab_size_;
  float* logits_;
  Memory memory_;
  PinnedMemory rows_host_;
  PinnedMemory bias_tokens_host_;
  PinnedMemory bias_values_host_;
  PinnedMemory history_host_;
  PinnedMemory masks_host_;
  PinnedMemory tokens_host_;
  PinnedMemory logits_host_;  // [rows_max, vocab_size]
  bool counts_left_ = false;  // by a draw that failed: the counts may not be 0
};

}  // namespace penstock::cuda
