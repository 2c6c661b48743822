// A Llama decoder on the CPU. Owns weights, KV cache, scratch and threads of one loaded model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kv/cache.h"
#include "model/attention.h"
#include "model/batch_check.h"
#include "model/config.h"
#include "model/parallel.h"
#include "model/runner.h"
#include "model/weights.h"
#include "ops/ops.h"
#include "ops/thread_pool.h"

namespace penstock {

class Decoder final : public Runner {
 public:
  Decoder(Config config, Weights weights, const Kernels& kernels, const KvShape& kv_shape, const DecoderLimits& limits,
          std::unique_ptr<ThreadPool> pool);

  const RunnerInfo& info() const override { return info_; }

  // Throws std::logic_error, before anything is changed, when the batch breaks the promises of batch.h.
  void forward(const StepBatch& batch, std::span<float> logits) override;

  KvView kv() override { return cache_.view(); }

  int32_t threads() const override { return pool_->threads(); }

 protected:
  void run_chunks(int32_t chunks, const void* context, ChunkCall call) override {
    pool_->run(chunks, [&](int32_t chunk) { call(context, chunk); });
  }

 private:
  // Rows of width `cols` in f32 and as int8 blocks; see Activations in ops.h.
  struct RowBuffer {
    RowBuffer(int32_t rows_max, int32_t cols_max);
    std::vector<float> f32;
    std::vector<int8_t> q;
    std::vector<float> d;
    std::vector<float> s;
    Activations view(int32_t rows, int32_t cols) const {
      return {f32.data(), q.data(), d.data(), s.data(), rows, cols};
    }
  };
  // One product of a region: out [rows, matrix.rows].
  struct Product {
    const Matrix& matrix;
    float* out;
  };

  void embed(const StepBatch& batch);
  StepBatch keep_rows_read(const StepBatch& batch);
  void finish_qkv(const StepBatch& batch, int32_t layer);
  void norm_heads(float* x, const std::vector<float>& weight, int32_t heads) const;
  void norm_row(const float* x, const std::vector<float>& weight, bool quantize, RowBuffer& out, int64_t row) const;
  void quantize_row(RowBuffer& rows, int64_t row, int32_t cols) const;
  template <size_t N>
  void multiply(const Product (&products)[N], const Activations& x);
  void pool(const StepBatch& batch);
  void project(const StepBatch& batch, std::span<float> logits);

  Config config_;
  Weights weights_;
  const Kernels& kernels_;
  DecoderLimits limits_;
  std::unique_ptr<ThreadPool> pool_;
  Parallel parallel_;
  KvCache cache_;
  PagedAttention attention_;
  RunnerInfo info_;

  std::vector<int32_t> row_sequence_;  // [rows] index into StepBatch::sequences
  std::vector<int32_t> read_ids_;      // of keep_rows_read
  std::vector<int32_t> read_positions_;
  std::vector<StepSequence> read_sequences_;
  std::vector<float> cos_sin_;         // [rows, rope_dims / 2, 2]
  std::vector<float> x_;               // [rows, dim] the residual stream
  std::vector<float> delta_;           // [rows, dim] what a block adds to it
  std::vector<float> q_;               // [rows, q_dim]
  std::vector<float> k_;               // [rows, kv_dim]
  std::vector<float> v_;               // [rows, kv_dim]
  std::vector<float> gate_;            // [rows, ffn_dim]
  std::vector<float> up_;              // [rows, ffn_dim]
  RowBuffer normed_;                   // [rows, dim] input of q, k, v, gate, up and of the head
  RowBuffer inner_;                    // [rows, q_dim or ffn_dim] input of attn_output and ffn_down
};

}  // namespace penstock
