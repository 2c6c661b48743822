// See device_draw.h.
#include "model/cuda/device_draw.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace penstock::cuda {
namespace {

bool needs_history(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

int64_t history_tokens(const DeviceRow& row) {
  return needs_history(*row.params) ? static_cast<int64_t>(row.prompt.size() + row.output.size()) : 0;
}

template <class T>
T* copied(std::span<const T> from, T* to) {
  return std::copy(from.begin(), from.end(), to);
}

}  // namespace

DeviceDraw::Memory::Memory(DevicePool& pool, int32_t rows_max, int32_t vocab_size) {
  const int64_t rows = rows_max;
  arrays.rows = pool.take<SampleRow>(rows);
  arrays.bias_tokens = pool.take<int32_t>(rows * kRowBiasMax);
  arrays.bias_values = pool.take<float>(rows * kRowBiasMax);
  arrays.history = pool.take<int32_t>(rows * kRowHistoryMax);
  arrays.masks = pool.take<uint32_t>(rows * ((vocab_size + 31) / 32));
  counts = pool.take<int32_t>(rows * vocab_size);
  scratch = pool.take<unsigned long long>(rows * sample_scratch_words(vocab_size));
  tokens = pool.take<int32_t>(rows);
}

void DeviceDraw::count(DevicePool& pool, int32_t rows_max, int32_t vocab_size) { Memory(pool, rows_max, vocab_size); }

DeviceDraw::DeviceDraw(const Stream& stream, DevicePool& pool, int32_t rows_max, int32_t vocab_size, float* logits)
    : stream_(stream),
      rows_max_(rows_max),
      vocab_size_(vocab_size),
      logits_(logits),
      memory_(pool, rows_max, vocab_size),
      rows_host_(rows_max * static_cast<int64_t>(sizeof(SampleRow))),
      bias_tokens_host_(rows_max * int64_t{4} * kRowBiasMax),
      bias_values_host_(rows_max * int64_t{4} * kRowBiasMax),
      history_host_(rows_max * int64_t{4} * kRowHistoryMax),
      masks_host_(rows_max * int64_t{4} * mask_words()),
      tokens_host_(rows_max * int64_t{4}),
      logits_host_(int64_t{4} * rows_max * vocab_size) {
  fill_zero(stream, memory_.counts, int64_t{4} * rows_max * vocab_size);
}

bool DeviceDraw::fits(const DeviceRow& row) const {
  const auto& bias = row.params->bias;
  // An id that is none is the processor's to refuse.
  return bias.size() <= static_cast<size_t>(kRowBiasMax) && history_tokens(row) <= kRowHistoryMax &&
         std::all_of(bias.begin(), bias.end(), [&](const auto& b) { return b.first >= 0 && b.first < vocab_size_; });
}

void DeviceDraw::read_logits(std::span<const int32_t> rows, std::span<float> out) {
  guarded([&] {
    const auto vocab = static_cast<size_t>(vocab_size_);
    float* host = logits_host_.as<float>().data();
    for (size_t i = 0; i < rows.size(); ++i)
      copy_to_host(stream_, host + i * vocab, logits_ + int64_t{rows[i]} * vocab_size_, int64_t{4} * vocab_size_);
    stream_.synchronize();
    std::memcpy(out.data(), host, rows.size() * vocab * sizeof(float));
  });
}

void DeviceDraw::sample(std::span<const DeviceRow> rows, std::span<int32_t> tokens) {
  SampleRow* row_out = rows_host_.as<SampleRow>().data();
  int32_t* bias_tokens = bias_tokens_host_.as<int32_t>().data();
  float* bias_values = bias_values_host_.as<float>().data();
  int32_t* history = history_host_.as<int32_t>().data();
  uint32_t* masks = masks_host_.as<uint32_t>().data();
  int32_t bias_count = 0, history_count = 0, mask_count = 0;
  for (const DeviceRow& row : rows) {
    // Greedy, for nobody: the kernels know no rows without a token.
    SampleRow& out = *row_out++;
    out = {.log_weight_min = log_weight_min(0), .temperature = 0, .top_p = 1, .repetition_penalty = 1, .presence_penalty = 0,
           .frequency_penalty = 0, .top_k = 0, .seed = 0, .index = 0, .first_bias = bias_count, .bias_count = 0,
           .first_token = history_count, .prompt_tokens = 0, .output_tokens = 0, .mask = -1};
    if (row.params == nullptr) continue;
    const SamplingParams& p = *row.params;
    const int64_t tokens_here = history_tokens(row);
    if (!fits(row)) throw std::logic_error("DeviceDraw: rows fit by themselves");
    out.log_weight_min = log_weight_min(p.min_p);
    out.temperature = p.temperature;
    out.top_p = p.top_p;
    out.repetition_penalty = p.repetition_penalty;
    out.presence_penalty = p.presence_penalty;
    out.frequency_penalty = p.frequency_penalty;
    out.top_k = p.top_k;
    out.seed = p.seed;
    out.index = row.output.size();
    out.bias_count = static_cast<int32_t>(p.bias.size());
    for (const auto& [token, value] : p.bias) {
      bias_tokens[bias_count] = token;
      bias_values[bias_count++] = value;
    }
    if (tokens_here > 0) {
      out.prompt_tokens = static_cast<int32_t>(row.prompt.size());
      out.output_tokens = static_cast<int32_t>(row.output.size());
      copied(row.output, copied(row.prompt, history + history_count));
      history_count += static_cast<int32_t>(tokens_here);
    }
    if (!row.mask.empty()) {
      out.mask = mask_count;
      copied(row.mask, masks + int64_t{mask_count++} * mask_words());
    }
  }
  guarded([&] {
    // One that failed may have counted tokens for penalties that were not applied; the kernels empty only what they count.
    if (std::exchange(counts_left_, true)) fill_zero(stream_, memory_.counts, int64_t{4} * rows_max_ * vocab_size_);
    const auto count = static_cast<int32_t>(rows.size());
    const auto send = [&](void* to, const PinnedMemory& from, int64_t bytes) {
      if (bytes > 0) copy_to_device(stream_, to, from.data(), bytes);
    };
    send(memory_.arrays.rows, rows_host_, count * static_cast<int64_t>(sizeof(SampleRow)));
    send(memory_.arrays.bias_tokens, bias_tokens_host_, bias_count * int64_t{4});
    send(memory_.arrays.bias_values, bias_values_host_, bias_count * int64_t{4});
    send(memory_.arrays.history, history_host_, history_count * int64_t{4});
    send(memory_.arrays.masks, masks_host_, int64_t{4} * mask_count * mask_words());
    cuda::sample(stream_, {.logits = logits_,
                           .rows = memory_.arrays.rows,
                           .bias_tokens = memory_.arrays.bias_tokens,
                           .bias_values = memory_.arrays.bias_values,
                           .history = memory_.arrays.history,
                           .masks = memory_.arrays.masks,
                           .counts = memory_.counts,
                           .scratch = memory_.scratch,
                           .tokens = memory_.tokens,
                           .vocab_size = vocab_size_,
                           .row_count = count,
                           .work = sample_work(rows_host_.as<SampleRow>().first(rows.size()), vocab_size_)});
    copy_to_host(stream_, tokens_host_.data(), memory_.tokens, count * int64_t{4});
    stream_.synchronize();
    counts_left_ = false;
  });
  std::copy_n(tokens_host_.as<int32_t>().begin(), rows.size(), tokens.begin());
}

}  // namespace penstock::cuda
