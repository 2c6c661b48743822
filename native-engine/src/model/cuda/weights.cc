// Weights to the device. See weights.h.
#include "model/cuda/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "ops/cuda/formats.h"
#include "ops/cuda/pack.h"

namespace penstock::cuda {
namespace {

// While one such piece is on its way the next is copied into pinned memory: a link of 25 GB/s is kept busy from a few MiB on.
constexpr int64_t kStagingBytes = 8 << 20;

// Everything in one direction, through two pinned buffers.
class Uploader {
 public:
  Uploader(const Stream& stream, DevicePool& pool) : stream_(stream), pool_(pool) {}

  std::byte* put(const void* from, int64_t bytes) {
    std::byte* to = pool_.take_bytes(bytes);
    if (to != nullptr) copy(to, static_cast<const std::byte*>(from), bytes);
    return to;
  }

  const float* put(const std::vector<float>& values) {
    if (values.empty()) return nullptr;
    return reinterpret_cast<const float*>(put(values.data(), static_cast<int64_t>(values.size() * sizeof(float))));
  }

  void finish() { stream_.synchronize(); }

 private:
  struct Buffer {
    PinnedMemory memory{kStagingBytes};
    Event sent;
  };

  void copy(std::byte* to, const std::byte* from, int64_t bytes) {
    for (int64_t done = 0; done < bytes; done += kStagingBytes) {
      const int64_t here = std::min(kStagingBytes, bytes - done);
      std::unique_ptr<Buffer>& slot = buffers_[next_];
      next_ = (next_ + 1) % buffers_.size();
      if (slot == nullptr) slot = std::make_unique<Buffer>();
      Buffer& buffer = *slot;
      buffer.sent.wait();
      std::memcpy(buffer.memory.data(), from + done, static_cast<size_t>(here));
      copy_to_device(stream_, to + done, buffer.memory.data(), here);
      buffer.sent.record(stream_);
    }
  }

  const Stream& stream_;
  DevicePool& pool_;
  std::array<std::unique_ptr<Buffer>, 2> buffers_;  // none where memory is only counted
  size_t next_ = 0;
};

// Matrices behind each other in memory whose rows are those of one, or one of 0 rows. Whole tiles of rows alone can be joined.
DeviceMatrix joined(std::initializer_list<DeviceMatrix> parts) {
  DeviceMatrix whole = *parts.begin();
  for (const DeviceMatrix* part = parts.begin() + 1; part != parts.end(); ++part) {
    if (whole.data == nullptr || part->type != whole.type || part->cols != whole.cols || whole.rows % kPanelRows != 0 ||
        part->data != whole.data + packed_bytes(whole.type, whole.rows, whole.cols))
      return {whole.type, 0, whole.cols, nullptr};
    whole.rows += part->rows;
  }
  return whole;
}

}  // namespace

WeightLayout device_layout() { return {packed_bytes, packed_rows_offset, pack, kPanelRows}; }

DeviceWeights upload_weights(const Stream& stream, DevicePool& pool, const Weights& weights,
                             std::span<const double> rope_frequencies) {
  Uploader up(stream, pool);
  // The matrices lie behind each other in the order of their use, on the device as well.
  const std::byte* matrices = up.put(weights.memory.data(), weights.memory.bytes());
  const auto matrix = [&](const Matrix& m) {
    const std::byte* data = matrices == nullptr ? nullptr : matrices + (m.data - weights.memory.data());
    return DeviceMatrix{m.type, m.rows, m.cols, data};
  };
  DeviceWeights out{};
  out.embedding = matrix(weights.embedding);
  out.head = matrix(weights.head);
  out.output_norm = up.put(weights.output_norm);
  out.rope_frequencies = reinterpret_cast<const double*>(
      up.put(rope_frequencies.data(), static_cast<int64_t>(rope_frequencies.size_bytes())));
  for (const LayerWeights& w : weights.layers) {
    out.layers.push_back({.attn_norm = up.put(w.attn_norm),
                          .q = matrix(w.q),
                          .k = matrix(w.k),
                          .v = matrix(w.v),
                          .qkv = joined({matrix(w.q), matrix(w.k), matrix(w.v)}),
                          .q_bias = up.put(w.q_bias),
                          .k_bias = up.put(w.k_bias),
                          .v_bias = up.put(w.v_bias),
                          .q_norm = up.put(w.q_norm),
                          .k_norm = up.put(w.k_norm),
                          .attn_output = matrix(w.attn_output),
                          .ffn_norm = up.put(w.ffn_norm),
                          .ffn_gate = matrix(w.ffn_gate),
                          .ffn_up = matrix(w.ffn_up),
                          .ffn_down = matrix(w.ffn_down)});
  }
  up.finish();
  return out;
}

}  // namespace penstock::cuda
