#include "model/source.h"

#include <filesystem>

#include "model/file_error.h"
#include "model/gguf_source.h"
#include "model/huggingface_source.h"

namespace penstock {

namespace {

struct RoleNames {
  const char* gguf;
  const char* huggingface;
};

// In the order of TensorRole; from the fourth on, "blk.N." or "layers.N." comes before.
constexpr RoleNames kRoleNames[] = {
    {"token_embd.weight", "embed_tokens.weight"},
    {"output_norm.weight", "norm.weight"},
    {"output.weight", "lm_head.weight"},
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};
static_assert(std::size(kRoleNames) == static_cast<size_t>(TensorRole::ffn_down) + 1);

}  // namespace

ModelSource ModelSource::open(const std::string& path) {
  std::error_code error;  // of a path that does not exist: opening it as a file says so
  return std::filesystem::is_directory(path, error) ? open_huggingface(path) : open_gguf(path);
}

const SourceTensor* ModelSource::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::string ModelSource::name_of(TensorRole role, int32_t layer) const {
  const RoleNames& entry = kRoleNames[static_cast<size_t>(role)];
  const char* name = names == TensorNames::gguf ? entry.gguf : entry.huggingface;
  if (role == TensorRole::head) return name;
  if (role < TensorRole::attn_norm) return name_prefix + name;
  return name_prefix + (names == TensorNames::gguf ? "blk." : "layers.") + std::to_string(layer) + "." + name;
}

bool ModelSource::is_ignorable(const std::string& name) const {
  // Frequencies, which follow from the metadata; the one that matters has been read with it.
  const auto ends_with = [&](std::string_view end) { return name.ends_with(end); };
  if (names == TensorNames::gguf) return name == "rope_freqs.weight" || ends_with(".attn_rot_embd.weight");
  return ends_with(".rotary_emb.inv_freq") || (tied_embedding && name == name_of(TensorRole::head));
}

const FileMap& ModelSource::add_file(const std::string& file_path) {
  return *files_.emplace_back(std::make_unique<FileMap>(file_path));
}

void ModelSource::add_tensor(SourceTensor tensor) {
  if (!index_.emplace(tensor.name, tensors_.size()).second) {
    throw ModelFileError(tensor.file->path(), tensor.info_offset_bytes,
                         "duplicate tensor \"" + printable(tensor.name) + "\"");
  }
  tensors_.push_back(std::move(tensor));
}

void ModelSource::release_files() const {
  for (const auto& file : files_) file->release();
}

}  // namespace penstock
