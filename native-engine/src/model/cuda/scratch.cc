// See scratch.h.
#include "model/cuda/scratch.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

namespace penstock::cuda {

FormsUsed::FormsUsed(const Weights& weights) {
  const auto read_together = [&](std::initializer_list<TensorType> types) {
    std::array<bool, 4> here{};
    for (const TensorType type : types) here[static_cast<size_t>(activation_form(type))] = true;
    if (std::count(here.begin(), here.end(), true) > kFormsMax)
      throw std::invalid_argument("q, k and v of a layer are stored as three different kinds of numbers");
    for (size_t i = 0; i < here.size(); ++i) form[i] = form[i] || here[i];
  };
  form[static_cast<size_t>(ActivationForm::f32)] = true;
  read_together({weights.head.type});
  for (const LayerWeights& w : weights.layers) {
    read_together({w.q.type, w.k.type, w.v.type});
    read_together({w.attn_output.type});
    read_together({w.ffn_gate.type, w.ffn_up.type});
    read_together({w.ffn_down.type});
  }
}

Scratch::Scratch(DevicePool& pool, const Config& config, const FormsUsed& forms, const DecoderLimits& limits,
                 int64_t partial_rows) {
  const int64_t rows = buffer_rows(limits);
  x = pool.take<float>(rows * config.dim);
  x_read = pool.take<float>(rows * config.dim);
  delta = pool.take<float>(rows * config.dim);
  qkv = pool.take<float>(rows * qkv_dim(config));
  qkv_read = pool.take<float>(rows * qkv_dim(config));
  attended = pool.take<float>(rows * config.q_dim());
  gate = pool.take<float>(rows * config.ffn_dim);
  up = pool.take<float>(rows * config.ffn_dim);
  cos_sin = pool.take<float>(rows * config.rope_dims);
  partials = pool.take<float>(partial_rows * config.heads * softmax_floats(config.head_dim));
  logits = pool.take<float>(int64_t{limits.step_sequences} * config.vocab_size);

  const int64_t cols = std::max({config.dim, config.q_dim(), config.ffn_dim});
  constexpr int64_t kValueBytes[] = {4, 2, 2, 1};  // f32, f16, bf16, q8
  for (size_t i = 0; i < activations.size(); ++i) {
    DeviceActivations& a = activations[i];
    a = {.form = static_cast<ActivationForm>(i), .values = nullptr, .d = nullptr, .s = nullptr, .cols = 0};
    if (!forms.form[i]) continue;
    a.values = pool.take_bytes(rows * cols * kValueBytes[i]);
    if (a.form != ActivationForm::q8) continue;
    a.d = pool.take<float>(rows * (cols / kQuantBlock));
    a.s = pool.take<float>(rows * (cols / kQuantBlock));
  }
}

}  // namespace penstock::cuda
