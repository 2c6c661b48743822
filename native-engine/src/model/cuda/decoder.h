// A Llama decoder on a CUDA device. Owns weights, KV cache, scratch, streams and graphs of one loaded model; the order of work is
// that of model/decoder.cc, the kernels are ops/cuda/ops.h, the device's form of a step is step_arrays.h.
//
// A step is enqueued as a whole and waited for once; where it has a watch, first by groups of layers (layer_events.h). Steps in which
// every sequence decodes are replayed as graphs, one for each bucket of rows: all that differs between two such steps lies in device
// memory, rows that are not there have row_sequence -1. A row's bits are the same in every bucket and in a step that is no graph,
// since no kernel's order depends on the others. A graph is one piece and tells its watch nothing: it adds a row to a sequence, so
// that there is nothing to gain.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/batch_check.h"
#include "model/config.h"
#include "model/cuda/device_draw.h"
#include "model/cuda/kv_blocks.h"
#include "model/cuda/layer_events.h"
#include "model/cuda/scratch.h"
#include "model/cuda/step_arrays.h"
#include "model/cuda/weights.h"
#include "model/runner.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm.h"
#include "ops/thread_pool.h"

namespace penstock::cuda {

struct CudaDecoderOptions {
  DeviceFacts facts;
  int32_t device;
  DecoderLimits limits;
  int64_t weight_bytes;  // read once per decode step
  uint64_t weights_identity;
  bool graphs;
  GemmLibrary gemm;
};

// What a decoder takes of a pool, beside the weights; from a pool without memory, to know how much that is.
struct DecoderMemory {
  DeviceKv kv;
  Scratch scratch;
  StepArrays mixed;   // of steps with prompts
  StepArrays decode;  // of steps without
  std::byte* gemm;    // what a library for products works in

  DecoderMemory(DevicePool& pool, const Config& config, const CudaDecoderOptions& options, const FormsUsed& forms,
                const KvShape& kv_shape);
  // Of everything, what KvBlocks and DeviceDraw take included.
  static void count(DevicePool& pool, const Config& config, const CudaDecoderOptions& options, const FormsUsed& forms,
                    const KvShape& kv_shape);
};

class CudaDecoder final : public Runner {
 public:
  // The pool has memory for what DecoderMemory counts, and the weights are in it.
  CudaDecoder(Config config, const CudaDecoderOptions& options, std::unique_ptr<Stream> stream,
              std::unique_ptr<DevicePool> pool, DeviceWeights weights, const FormsUsed& forms, const KvShape& kv_shape,
              std::unique_ptr<ThreadPool> threads);
  ~CudaDecoder() override;

  const RunnerInfo& info() const override { return info_; }
  // Throws std::logic_error, before anything is changed, when the batch breaks the promises of batch.h.
  void forward(const StepBatch& batch, std::span<float> logits) override;
  DeviceSampler* device_sampler() override { return draw_.get(); }
  std::optional<uint64_t> memory_bytes_per_second_max() override { return memory_bytes_per_second_; }
  KvView kv() override;
  int32_t threads() const override { return threads_->threads(); }

 protected:
  void run_chunks(int32_t chunks, const void* context, ChunkCall call) override {
    threads_->run(chunks, [&](int32_t chunk) { call(context, chunk); });
  }

 private:
  void compute(const StepBatch& batch, std::span<float> logits);
  void enqueue(const StepArrays& step);
  void enqueue_attention(const StepArrays& step, int32_t layer);
  void enqueue_ffn(const DeviceLayer& w, float* x, int32_t rows);
  void enqueue_head(const StepArrays& step, float* x);
  void multiply(const DeviceMatrix& matrix, int32_t rows, float* out, int32_t out_stride);
  DeviceActivations activations(ActivationForm form, int32_t cols) const;
  ActivationOutputs forms_of(std::initializer_list<TensorType> types, int32_t cols) const;
  void capture_graphs();
  void add_pooled(const StepBatch& batch, const StepArrays& step);

  Config config_;
  CudaDecoderOptions options_;
  std::unique_ptr<ThreadPool> threads_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<DevicePool> pool_;
  DeviceWeights weights_;
  KvShape kv_shape_;
  DecoderMemory memory_;
  RunnerInfo info_;
  PinnedMemory logits_host_;  // [step_sequences, vocab_size]
  PinnedMemory states_host_;  // [rows, dim] what is pooled
  std::vector<Graph> graphs_;  // one for each bucket
  LayerEvents layer_events_;
  // Made when the graphs are there: steps that only decode keep to our kernels.
  std::optional<Gemm> gemm_;
  std::unique_ptr<KvBlocks> blocks_;
  std::unique_ptr<DeviceDraw> draw_;
  std::optional<uint64_t> memory_bytes_per_second_;
};

}  // namespace penstock::cuda
