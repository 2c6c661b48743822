#include "model/huggingface_source.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "model/file_error.h"
#include "model/huggingface_config.h"
#include "model/json.h"
#include "model/safetensors.h"

namespace penstock {

namespace {

// A thousand times what these files have; a false one must not cost minutes.
constexpr size_t kConfigBytesMax = 1 << 20;
constexpr size_t kIndexBytesMax = 64 << 20;
constexpr size_t kTokenizerBytesMax = 256 << 20;
// Of the largest published models, by a factor of four.
constexpr size_t kShardsMax = 1024;

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

std::span<const std::byte> bounded(const FileMap& file, size_t bytes_max) {
  if (file.bytes().size() > bytes_max) {
    throw ModelFileError(file.path(), 0, "the file has more than " + std::to_string(bytes_max) + " bytes");
  }
  return file.bytes();
}

bool is_plain_name(std::string_view name) {
  constexpr std::string_view kEnd = ".safetensors";
  return name.size() > kEnd.size() && name.ends_with(kEnd) && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > 32 && c < 127 && c != '/' && c != '\\'; });
}

void add_tensors(ModelSource& source, const FileMap& file) {
  for (SafetensorsTensor& tensor : read_safetensors(file.path(), file.bytes())) {
    source.add_tensor({.name = std::move(tensor.name),
                       .type_name = std::string(tensor.dtype),
                       .type = tensor.type,
                       .shape = std::move(tensor.shape),
                       .file = &file,
                       .offset_bytes = tensor.offset_bytes,
                       .size_bytes = tensor.size_bytes,
                       .info_offset_bytes = tensor.info_offset_bytes});
  }
}

void add_shards(ModelSource& source, const std::string& folder, const std::string& index_path) {
  const FileMap index(index_path);
  const std::vector<ShardEntry> entries = read_shard_index(index_path, bounded(index, kIndexBytesMax));
  std::map<std::string, const FileMap*> files;
  for (const ShardEntry& entry : entries) files.emplace(entry.file, nullptr);
  if (files.size() > kShardsMax) {
    throw ModelFileError(index_path, 0, "more than " + std::to_string(kShardsMax) + " shards");
  }
  for (auto& [name, file] : files) {
    file = &source.add_file(folder + "/" + name);
    add_tensors(source, *file);
  }
  for (const ShardEntry& entry : entries) {
    const SourceTensor* tensor = source.find(entry.tensor);
    if (tensor == nullptr || tensor->file != files[entry.file]) {
      throw ModelFileError(files[entry.file]->path(), 0,
                           "tensor \"" + printable(entry.tensor) + "\" is missing, which the index says is here");
    }
  }
  if (entries.size() != source.tensors().size()) {
    throw ModelFileError(index_path, 0,
                         "the index lists " + std::to_string(entries.size()) + " tensors, its shards hold " +
                             std::to_string(source.tensors().size()));
  }
}

}  // namespace

ModelSource open_huggingface(const std::string& folder) {
  ModelSource source;
  const FileMap config(folder + "/config.json");
  HuggingFaceConfig read = read_huggingface_config(config.path(), bounded(config, kConfigBytesMax));
  source.config = std::move(read.config);
  source.tied_embedding = read.tied_embedding;
  source.names = TensorNames::huggingface;

  const std::string single = folder + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (exists(single)) {
    source.path = single;
    add_tensors(source, source.add_file(single));
  } else if (exists(index)) {
    source.path = index;
    add_shards(source, folder, index);
  } else {
    throw ModelFileError(folder, 0, "the folder has neither model.safetensors nor model.safetensors.index.json");
  }
  // Files of the bare model, as those of embeddings, have no prefix.
  source.name_prefix = "model.";
  if (source.find(source.name_of(TensorRole::embedding)) == nullptr && source.find("embed_tokens.weight") != nullptr) {
    source.name_prefix = "";
  }

  const std::string tokenizer_path = folder + "/tokenizer.json";
  if (exists(tokenizer_path)) {
    const FileMap tokenizer(tokenizer_path);
    const int64_t size = read_tokenizer_size(tokenizer_path, bounded(tokenizer, kTokenizerBytesMax));
    if (size > source.config.vocab_rows) {
      throw ModelFileError(tokenizer_path, 0,
                           "the tokenizer has ids up to " + std::to_string(size - 1) + ", the embedding " +
                               std::to_string(source.config.vocab_rows) + " rows");
    }
    source.config.vocab_size = static_cast<int32_t>(size);
  }
  return source;
}

std::vector<ShardEntry> read_shard_index(const std::string& path, std::span<const std::byte> text) {
  JsonReader reader(path, text);
  std::vector<ShardEntry> entries;
  reader.object([&](std::string_view section) {
    if (section != "weight_map") return reader.skip();
    reader.object([&](std::string_view tensor) {
      const uint64_t at = reader.offset_bytes();
      std::string name(tensor);
      std::string file = reader.string();
      if (!is_plain_name(file)) {
        throw ModelFileError(path, at,
                             "\"" + printable(file) + "\" is not the name of a safetensors file in this folder");
      }
      entries.push_back({std::move(name), std::move(file)});
    });
  });
  reader.end();
  if (entries.empty()) throw ModelFileError(path, 0, "\"weight_map\" is missing or empty");
  return entries;
}

int64_t read_tokenizer_size(const std::string& path, std::span<const std::byte> text) {
  JsonReader reader(path, text);
  int64_t size = 0;
  const auto read_id = [&] { size = std::max(size, reader.integer(0, kVocabMax) + 1); };
  const auto read_vocabulary = [&] {
    if (reader.kind() == JsonKind::object) {
      reader.object([&](std::string_view) { read_id(); });
      return;
    }
    int64_t entries = 0;  // of a unigram model: the id is the place in the list
    reader.array([&] {
      reader.skip();
      ++entries;
    });
    size = std::max(size, entries);
  };
  reader.object([&](std::string_view section) {
    if (section == "model") {
      reader.object([&](std::string_view key) { key == "vocab" ? read_vocabulary() : reader.skip(); });
    } else if (section == "added_tokens") {
      reader.array([&] { reader.object([&](std::string_view key) { key == "id" ? read_id() : reader.skip(); }); });
    } else {
      reader.skip();
    }
  });
  reader.end();
  if (size == 0) throw ModelFileError(path, 0, "the tokenizer has no ids");
  return size;
}

}  // namespace penstock

#if defined(PENSTOCK_FUZZ_ENTRY)
// libFuzzer: both readers of JSON files; the first byte chooses.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto text = std::as_bytes(std::span(data + 1, size - 1));
  try {
    if (data[0] % 2 == 0) {
      penstock::read_shard_index("fuzz", text);
    } else {
      penstock::read_tokenizer_size("fuzz", text);
    }
  } catch (const penstock::ModelFileError&) {
  }
  return 0;
}
#endif
