// A model as config and named tensors, whatever files it came in. Owns the open files; weights.cc reads tensors from
// here and knows neither GGUF nor safetensors.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/config.h"
#include "model/file_map.h"
#include "ops/tensor_type.h"

namespace penstock {

struct SourceTensor {
  std::string name;                // as in the file
  std::string type_name;           // "BF16"
  std::optional<TensorType> type;  // absent: a type that no weight of this engine has
  std::vector<int64_t> shape;      // outermost dimension first
  const FileMap* file;
  uint64_t offset_bytes;  // of its data
  uint64_t size_bytes;
  uint64_t info_offset_bytes;  // of its description
};

// What a tensor is for. Those of the first row exist once, the others in every layer.
enum class TensorRole : uint8_t {
  embedding,
  output_norm,
  head,
  attn_norm,
  q,
  k,
  v,
  q_bias,
  k_bias,
  v_bias,
  q_norm,
  k_norm,
  attn_output,
  ffn_norm,
  ffn_gate,
  ffn_up,
  ffn_down,
};

enum class TensorNames : uint8_t { gguf, huggingface };

class ModelSource {
 public:
  // `path` is a GGUF file, or a Hugging Face folder: config.json with model.safetensors, or with
  // model.safetensors.index.json and its shards. Throws ModelFileError.
  static ModelSource open(const std::string& path);

  Config config{};
  std::string path;             // the file to blame when a tensor is missing
  bool tied_embedding = false;  // the head is the embedding
  TensorNames names = TensorNames::gguf;
  std::string name_prefix;  // in front of all names but the head's: "model." in most Hugging Face files

  // nullptr when the model has no such tensor.
  const SourceTensor* find(const std::string& name) const;
  // The name of a role in this model's files. `layer` matters for roles that exist in every layer.
  std::string name_of(TensorRole role, int32_t layer = 0) const;
  const std::vector<SourceTensor>& tensors() const { return tensors_; }
  // A tensor that a model may have and that no computation needs.
  bool is_ignorable(const std::string& name) const;

  const FileMap& add_file(const std::string& file_path);
  // Throws ModelFileError when the name is taken.
  void add_tensor(SourceTensor tensor);
  // Gives back what reading headers has made resident.
  void release_files() const;

 private:
  std::vector<std::unique_ptr<FileMap>> files_;
  std::vector<SourceTensor> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace penstock
