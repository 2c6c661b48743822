// The order of a step on a CUDA device. See decoder.h.
#include "model/cuda/decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/kv_fingerprint.h"

namespace penstock::cuda {
namespace {

// Thread blocks of attention that fill a device: enough of them on each multiprocessor to hide their waits for memory.
constexpr int32_t kBlocksPerMultiprocessor = 8;
// A copy of this much is long enough to be measured, and short beside loading.
constexpr int64_t kBandwidthBytes = int64_t{1} << 30;

// Rows that graphs are made for: a step has at most a third more rows than live ones where few decode, where a row costs much,
// and fewer where many do.
int32_t next_bucket(int32_t bucket) {
  if (bucket < 8) return 2 * bucket;
  if (bucket < 64) return bucket + 8;
  return bucket + (bucket < 256 ? 32 : 128);
}

// The bucket of a step of `rows`, and its number; none is larger than a step may be.
std::pair<int32_t, size_t> bucket_of(int32_t rows, int32_t rows_max) {
  int32_t bucket = 1;
  size_t index = 0;
  for (; bucket < rows; ++index) bucket = std::min(next_bucket(bucket), rows_max);
  return {bucket, index};
}

int32_t decode_rows_max(const DecoderLimits& limits) { return std::min(limits.step_sequences, limits.step_tokens); }

StepArrays::Shape arrays_shape(const Config& config, const CudaDecoderOptions& options, bool mixed) {
  const DecoderLimits& limits = options.limits;
  return {.rows = mixed ? limits.step_tokens : decode_rows_max(limits),
          .read_rows = mixed ? buffer_rows(limits) : decode_rows_max(limits),
          .sequences = limits.step_sequences,
          .blocks = (limits.context_tokens + kBlockTokens - 1) / kBlockTokens,
          .attention = {.heads = config.heads,
                        .kv_heads = config.kv_heads,
                        .head_dim = config.head_dim,
                        .window_tokens = config.window_tokens,
                        .blocks_wanted = kBlocksPerMultiprocessor * options.facts.multiprocessors}};
}

int64_t partial_rows(const Config& config, const CudaDecoderOptions& options) {
  return std::max(StepArrays::partial_rows_max(arrays_shape(config, options, true)),
                  StepArrays::partial_rows_max(arrays_shape(config, options, false)));
}

DeviceKv take_kv(DevicePool& pool, const KvShape& shape) {
  return {.base = pool.take_bytes(shape.bytes_total()),
          .type = shape.type,
          .blocks_total = shape.blocks_total,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .block_bytes = shape.block_bytes()};
}

}  // namespace

DecoderMemory::DecoderMemory(DevicePool& pool, const Config& config, const CudaDecoderOptions& options,
                             const FormsUsed& forms, const KvShape& kv_shape)
    : kv(take_kv(pool, kv_shape)),
      scratch(pool, config, forms, options.limits, partial_rows(config, options)),
      mixed(pool, arrays_shape(config, options, true)),
      decode(pool, arrays_shape(config, options, false)),
      gemm(pool.take_bytes(Gemm::workspace_bytes(options.gemm))) {}

void DecoderMemory::count(DevicePool& pool, const Config& config, const CudaDecoderOptions& options,
                          const FormsUsed& forms, const KvShape& kv_shape) {
  DecoderMemory(pool, config, options, forms, kv_shape);
  KvBlocks::count(pool, kv_shape);
  DeviceDraw::count(pool, options.limits.step_sequences, config.vocab_size);
}

CudaDecoder::CudaDecoder(Config config, const CudaDecoderOptions& options, std::unique_ptr<Stream> stream,
                         std::unique_ptr<DevicePool> pool, DeviceWeights weights, const FormsUsed& forms,
                         const KvShape& kv_shape, std::unique_ptr<ThreadPool> threads)
    : config_(std::move(config)),
      options_(options),
      threads_(std::move(threads)),
      stream_(std::move(stream)),
      pool_(std::move(pool)),
      weights_(std::move(weights)),
      kv_shape_(kv_shape),
      memory_(*pool_, config_, options, forms, kv_shape),
      info_{.arch = config_.arch,
            .model_name = config_.model_name,
            .vocab_size = config_.vocab_size,
            .context_tokens = options.limits.context_tokens,
            .blocks_total = kv_shape.blocks_total,
            .kv_fingerprint = kv_fingerprint(config_, options.weights_identity, kv_shape),
            .weight_bytes = options.weight_bytes,
            .kv_bytes_per_token = kv_shape.bytes_per_token(),
            .embedding_dims = config_.dim},
      logits_host_(int64_t{4} * options.limits.step_sequences * config_.vocab_size),
      states_host_(int64_t{4} * buffer_rows(options.limits) * config_.dim),
      layer_events_(config_.layers) {
  blocks_ = std::make_unique<KvBlocks>(options.device, *pool_, kv_shape_, memory_.kv);
  draw_ = std::make_unique<DeviceDraw>(*stream_, *pool_, options.limits.step_sequences, config_.vocab_size,
                                       memory_.scratch.logits);
  // What a row that is not live leaves in the buffers is computed with, and never read; what lies in blocks is read by nobody
  // before it was written. Zeros all the same, so that a fault is the same in every run.
  fill_zero(*stream_, memory_.kv.base, kv_shape_.bytes_total());
  const uint64_t rate =
      measure_device_bandwidth(*stream_, memory_.kv.base, std::min(kBandwidthBytes, kv_shape_.bytes_total()));
  if (rate > 0) memory_bytes_per_second_ = rate;
  if (options_.graphs) capture_graphs();
  gemm_.emplace(options_.gemm, memory_.gemm);
  stream_->synchronize();
}

CudaDecoder::~CudaDecoder() = default;

KvView CudaDecoder::kv() {
  return {memory_.kv.base, kv_shape_.layers, kv_shape_.blocks_total, kv_shape_.block_bytes(), blocks_.get()};
}

void CudaDecoder::forward(const StepBatch& batch, std::span<float> logits) {
  const BatchBounds bounds{options_.limits, config_.vocab_size, config_.dim, info_.blocks_total};
  check_batch(batch, logits, bounds, logits.empty() ? LogitsTo::device : LogitsTo::caller);
  guarded([&] {
    // The thread that steps need not be the one that loaded.
    use_device(options_.device);
    try {
      compute(batch, logits);
    } catch (...) {
      // The blocks of a step that failed are somebody else's next: what it has enqueued may not go on writing to them.
      stream_->settle();
      throw;
    }
  });
}

void CudaDecoder::compute(const StepBatch& batch, std::span<float> logits) {
  const bool decodes = options_.graphs && StepArrays::is_decode(batch);
  StepArrays& step = decodes ? memory_.decode : memory_.mixed;
  layer_events_.begin(decodes ? nullptr : batch.watch);
  int32_t sampled = 0;
  if (decodes) {
    sampled = static_cast<int32_t>(batch.token_ids.size());
    const auto [bucket, index] = bucket_of(sampled, decode_rows_max(options_.limits));
    step.fill_decode(batch, bucket);
    step.upload(*stream_);
    graphs_[index].launch(*stream_);
  } else {
    step.fill(batch);
    sampled = step.sampled_rows();
    step.upload(*stream_);
    enqueue(step);
    const int64_t pooled_floats = int64_t{step.read_rows() - sampled} * config_.dim;
    if (pooled_floats > 0) {
      const auto* states = static_cast<const float*>(activations(ActivationForm::f32, config_.dim).values);
      copy_to_host(*stream_, states_host_.data(), states + int64_t{sampled} * config_.dim, 4 * pooled_floats);
    }
  }
  const int64_t logit_bytes = int64_t{4} * sampled * config_.vocab_size;
  const bool fetches = !logits.empty() && sampled > 0;
  if (fetches) copy_to_host(*stream_, logits_host_.data(), memory_.scratch.logits, logit_bytes);
  layer_events_.tell();
  stream_->synchronize();
  if (fetches) std::memcpy(logits.data(), logits_host_.data(), static_cast<size_t>(logit_bytes));
  if (!decodes) add_pooled(batch, step);
}

// Everything of a step between its arrays and its logits. Whatever this reads of `step` on the host is the same for all steps of
// one bucket.
void CudaDecoder::enqueue(const StepArrays& step) {
  const Config& c = config_;
  Scratch& s = memory_.scratch;
  const cudaStream_t stream = *stream_;
  const DeviceBatch batch = step.batch();
  embed(stream, weights_.embedding, batch.token_ids, step.rows(), s.x);
  rope_angles(stream, batch, weights_.rope_frequencies, c.rope_dims, c.rope_magnitude, s.cos_sin);

  const int32_t stride = qkv_dim(c);
  float* x = s.x;
  for (int32_t layer = 0; layer < c.layers; ++layer) {
    const DeviceLayer& w = weights_.layers[static_cast<size_t>(layer)];
    // What the layer before adds comes with the norm.
    add_rms_norm(stream, x, layer == 0 ? nullptr : s.delta, w.attn_norm, step.rows(), c.dim, c.norm_eps,
                 forms_of({w.q.type, w.k.type, w.v.type}, c.dim));
    float* k = s.qkv + c.q_dim();
    float* v = k + c.kv_dim();
    if (w.qkv.rows > 0) {
      multiply(w.qkv, step.rows(), s.qkv, stride);
    } else {
      multiply(w.q, step.rows(), s.qkv, stride);
      multiply(w.k, step.rows(), k, stride);
      multiply(w.v, step.rows(), v, stride);
    }
    rope_append(stream, batch, memory_.kv,
                {.q = s.qkv, .k = k, .v = v, .q_stride = stride, .k_stride = stride, .v_stride = stride,
                 .q_bias = w.q_bias, .k_bias = w.k_bias, .v_bias = w.v_bias, .q_norm = w.q_norm, .k_norm = w.k_norm,
                 .norm_eps = c.norm_eps, .cos_sin = s.cos_sin, .pairs = c.rope_pairs, .rope_dims = c.rope_dims,
                 .heads = c.heads, .layer = layer});
    layer_events_.stored(*stream_, layer + 1);
    const bool is_last = layer + 1 == c.layers;
    if (is_last && step.read_rows() == 0) return;
    const int32_t rows = is_last ? step.read_rows() : step.rows();
    if (is_last && !step.reads_all()) {
      gather_rows(stream, s.x, step.read_index(), rows, c.dim, s.x_read);
      gather_rows(stream, s.qkv, step.read_index(), rows, stride, s.qkv_read);
      x = s.x_read;
    }
    enqueue_attention(step, layer);
    convert_rows(stream, s.attended, rows, c.q_dim(), forms_of({w.attn_output.type}, c.q_dim()));
    multiply(w.attn_output, rows, s.delta, c.dim);
    enqueue_ffn(w, x, rows);
  }
  enqueue_head(step, x);
}

void CudaDecoder::enqueue_attention(const StepArrays& step, int32_t layer) {
  const Config& c = config_;
  const Scratch& s = memory_.scratch;
  const bool gathered = layer + 1 == c.layers && !step.reads_all();
  const AttentionWork work = gathered ? step.read_work() : step.work();
  attention(*stream_, step.batch(), memory_.kv,
            {.q = gathered ? s.qkv_read : s.qkv, .q_stride = qkv_dim(c), .heads = c.heads, .window_tokens = c.window_tokens,
             .layer = layer, .items = work.items, .item_count = work.item_count, .items_max = work.items_max,
             .merges = work.merges, .merge_count = work.merge_count, .merges_max = work.merges_max, .decodes = work.decodes,
             .chunks = work.chunks, .partials = s.partials, .out = s.attended});
}

// x += delta; delta = ffn_down(silu(ffn_gate(norm(x))) * ffn_up(norm(x)))
void CudaDecoder::enqueue_ffn(const DeviceLayer& w, float* x, int32_t rows) {
  const Config& c = config_;
  const Scratch& s = memory_.scratch;
  add_rms_norm(*stream_, x, s.delta, w.ffn_norm, rows, c.dim, c.norm_eps,
               forms_of({w.ffn_gate.type, w.ffn_up.type}, c.dim));
  multiply(w.ffn_gate, rows, s.gate, c.ffn_dim);
  multiply(w.ffn_up, rows, s.up, c.ffn_dim);
  swiglu(*stream_, s.gate, s.up, rows, c.ffn_dim, forms_of({w.ffn_down.type}, c.ffn_dim));
  multiply(w.ffn_down, rows, s.delta, c.dim);
}

// Logits of the rows that sample; the normed states of all rows that are read, where some are pooled.
void CudaDecoder::enqueue_head(const StepArrays& step, float* x) {
  const bool pools = step.read_rows() > step.sampled_rows();
  ActivationOutputs outputs = forms_of({weights_.head.type}, config_.dim);
  const bool has_states = outputs.form[0].form == ActivationForm::f32;
  if (pools && !has_states) outputs.form[outputs.count++] = activations(ActivationForm::f32, config_.dim);
  add_rms_norm(*stream_, x, memory_.scratch.delta, weights_.output_norm, step.read_rows(), config_.dim, config_.norm_eps,
               outputs);
  if (step.sampled_rows() > 0) multiply(weights_.head, step.sampled_rows(), memory_.scratch.logits, config_.vocab_size);
}

// From the buffer of its form, which has rows of matrix.cols.
void CudaDecoder::multiply(const DeviceMatrix& matrix, int32_t rows, float* out, int32_t out_stride) {
  const DeviceActivations x = activations(activation_form(matrix.type), matrix.cols);
  if (gemm_.has_value()) return gemm_->multiply(*stream_, matrix, x, rows, out, out_stride);
  matmul(*stream_, matrix, x, rows, out, out_stride);
}

DeviceActivations CudaDecoder::activations(ActivationForm form, int32_t cols) const {
  DeviceActivations buffer = memory_.scratch.activations[static_cast<size_t>(form)];
  buffer.cols = cols;
  return buffer;
}

// Each form once, that weights of these types read.
ActivationOutputs CudaDecoder::forms_of(std::initializer_list<TensorType> types, int32_t cols) const {
  ActivationOutputs outputs{};
  for (const TensorType type : types) {
    const ActivationForm form = activation_form(type);
    const DeviceActivations* begin = outputs.form;
    const DeviceActivations* end = begin + outputs.count;
    if (std::any_of(begin, end, [&](const DeviceActivations& a) { return a.form == form; })) continue;
    outputs.form[outputs.count++] = activations(form, cols);
  }
  return outputs;
}

void CudaDecoder::capture_graphs() {
  const int32_t rows_max = decode_rows_max(options_.limits);
  for (int32_t rows = 1, bucket = 0; bucket < rows_max; rows = bucket + 1) {
    bucket = bucket_of(rows, rows_max).first;
    memory_.decode.shape_decode(bucket);
    graphs_.emplace_back(*stream_, [&] { enqueue(memory_.decode); });
  }
}

// Rows are added one by one in order of position, so that the sum does not depend on how the prompt was cut.
void CudaDecoder::add_pooled(const StepBatch& batch, const StepArrays& step) {
  if (step.read_rows() == step.sampled_rows()) return;
  const float* state = states_host_.as<float>().data();
  for (const StepSequence& s : batch.sequences) {
    if (s.pooling == Pooling::none) continue;
    if (s.pooling == Pooling::last) std::fill(s.pooled.begin(), s.pooled.end(), 0.0f);
    const int32_t rows = s.pooling == Pooling::mean ? s.rows : 1;
    for (int32_t row = 0; row < rows; ++row) {
      for (float& value : s.pooled) value += *state++;
    }
  }
}

}  // namespace penstock::cuda
