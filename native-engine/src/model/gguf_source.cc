#include "model/gguf_source.h"

#include "model/gguf.h"
#include "model/gguf_config.h"

namespace penstock {

ModelSource open_gguf(const std::string& path) {
  ModelSource source;
  const FileMap& map = source.add_file(path);
  const GgufFile file = GgufFile::parse(path, map.bytes());
  source.path = path;
  source.names = TensorNames::gguf;
  source.config = read_gguf_config(file);
  source.tied_embedding = file.tensor("output.weight") == nullptr;
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<int64_t> shape(tensor.extent, tensor.extent + tensor.dims);
    source.add_tensor({.name = std::string(tensor.name),
                       .type_name = tensor_type_facts(tensor.type).name,
                       .type = tensor.type,
                       .shape = {shape.rbegin(), shape.rend()},
                       .file = &map,
                       .offset_bytes = static_cast<uint64_t>(tensor.data.data() - map.bytes().data()),
                       .size_bytes = tensor.data.size(),
                       .info_offset_bytes = tensor.info_offset_bytes});
  }
  return source;
}

}  // namespace penstock
