// Hugging Face folders as files: JSON, safetensors and shard indexes, good ones, a list of handcrafted corruptions, and
// mutations of all of them up to a whole load.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "family_models.h"
#include "model/huggingface_source.h"
#include "model/json.h"
#include "model/load.h"
#include "model/safetensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;

template <typename Call>
ModelFileError refusal(const Call& call) {
  try {
    call();
  } catch (const ModelFileError& error) {
    return error;
  }
  ADD_FAILURE() << "accepted";
  return ModelFileError("", 0, "");
}

// --- JSON ---

TEST(Json, ReadsEveryKindOfValue) {
  const Json root = parse_json(
      "j", text_bytes(R"( {"n": null, "t": true, "f": false, "i": -12, "d": 1.5e2, "s": "a\n\u00e9\ud83d\ude00",
    "a": [1, [], {}], "o": {"k": 0.0}} )"));
  EXPECT_EQ(root.find("n")->kind, JsonKind::null);
  EXPECT_TRUE(root.find("t")->boolean);
  EXPECT_FALSE(root.find("f")->boolean);
  EXPECT_EQ(root.find("i")->integer, -12);
  EXPECT_EQ(root.find("d")->number, 150.0);
  EXPECT_EQ(root.find("s")->text, "a\n\xC3\xA9\xF0\x9F\x98\x80");
  EXPECT_EQ(root.find("a")->items.size(), 3u);
  EXPECT_EQ(root.find("o")->find("k")->integer, 0);
  EXPECT_EQ(root.find("missing"), nullptr);
}

TEST(Json, RefusesWhatTheGrammarDoesNotHave) {
  for (const char* text : {"",
                           " ",
                           "nul",
                           "tru",
                           "[1,]",
                           "[1 2]",
                           "[",
                           "]",
                           "{\"a\" 1}",
                           "{\"a\":}",
                           "{a:1}",
                           "{\"a\":1,}",
                           "01",
                           "1.",
                           ".5",
                           "-",
                           "+1",
                           "1e",
                           "0x10",
                           "NaN",
                           "Infinity",
                           "\"a",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\n\"",
                           "1 1",
                           "{} []",
                           "'a'",
                           "1e999",
                           "{\"a\":1,\"a\":2}",
                           "//x\n1",
                           "\xEF\xBB\xBF{}"}) {
    EXPECT_THROW(parse_json("j", text_bytes(text)), ModelFileError) << text;
  }
}

TEST(Json, DepthAndSizeAreBounded) {
  const std::string deep(100000, '[');
  EXPECT_NE(refusal([&] { parse_json("j", text_bytes(deep)); }).reason().find("nested deeper"), std::string::npos);
  JsonReader reader("j", text_bytes(deep));
  EXPECT_THROW(reader.skip(), ModelFileError);
  const std::string allowed = std::string(64, '[') + std::string(64, ']');
  EXPECT_NO_THROW(parse_json("j", text_bytes(allowed)));
  std::string wide = "[0";
  for (int i = 0; i < (1 << 20); ++i) wide += ",0";
  wide += "]";
  EXPECT_NE(refusal([&] { parse_json("j", text_bytes(wide)); }).reason().find("values"), std::string::npos);
  EXPECT_THROW(parse_json("j", text_bytes("1" + std::string(5000, '0'))), ModelFileError);
}

TEST(Json, IntegersAreExactOrRefused) {
  const auto read = [](const std::string& text) { return JsonReader("j", text_bytes(text)).integer(-5, INT64_MAX); };
  EXPECT_EQ(read("9223372036854775807"), INT64_MAX);
  for (const char* text : {"9223372036854775808", "1.0", "1e3", "-6", "\"1\"", "true"}) {
    EXPECT_THROW(read(text), ModelFileError) << text;
  }
}

TEST(Json, ErrorsPointAtTheByte) {
  EXPECT_EQ(refusal([] { parse_json("j", text_bytes(R"({"a": [1, x]})")); }).offset_bytes(), 10u);
  EXPECT_EQ(std::string(refusal([] { JsonReader("j", text_bytes("x"), 100).skip(); }).what()),
            "j: at byte 100: this begins no JSON value");
}

// --- safetensors ---

std::vector<SafetensorsTensor> read(const std::vector<uint8_t>& bytes) {
  return read_safetensors("t.safetensors", std::as_bytes(std::span(bytes)));
}

std::string reason(const std::vector<uint8_t>& bytes) {
  const ModelFileError error = refusal([&] { read(bytes); });
  EXPECT_LE(error.offset_bytes(), bytes.size());
  EXPECT_EQ(std::string(error.what()).rfind("t.safetensors: at byte ", 0), 0u);
  return error.reason();
}

SafetensorsWriter good() {
  SafetensorsWriter out;
  out.entry("__metadata__", R"({"format":"pt"})");
  out.tensor("a", "F32", {2, 3}, std::vector<uint8_t>(24, 1));
  out.tensor("b", "BF16", {4}, std::vector<uint8_t>(8, 2));
  out.tensor("c", "I64", {}, std::vector<uint8_t>(8, 3));
  return out;
}

TEST(Safetensors, SaysWhereTensorsLie) {
  const auto bytes = good().build();
  const auto tensors = read(bytes);
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].type, TensorType::f32);
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors[0].size_bytes, 24u);
  EXPECT_EQ(bytes[tensors[0].offset_bytes], 1);
  EXPECT_EQ(tensors[1].type, TensorType::bf16);
  EXPECT_EQ(bytes[tensors[1].offset_bytes + 7], 2);
  EXPECT_EQ(tensors[2].type, std::nullopt);
  EXPECT_EQ(tensors[2].dtype, "I64");
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const auto bytes = good().build();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<int64_t>(size));
    EXPECT_THROW(read(cut), ModelFileError) << size;
  }
}

TEST(Safetensors, RefusesSizesOffsetsAndFieldsThatLie) {
  const auto has = [](const std::vector<uint8_t>& bytes, const char* part) {
    const std::string found = reason(bytes);
    EXPECT_NE(found.find(part), std::string::npos) << found;
  };
  const auto one = [](const std::string& json, size_t data = 8) {
    return SafetensorsWriter().entry("t", json, std::vector<uint8_t>(data)).build();
  };
  has(std::vector<uint8_t>(8, 0xFF), "not a safetensors file");
  has({0, 1, 0, 0, 0, 0, 0, 0, '{', '}'}, "a header of 256 bytes in a file of 10");
  has(SafetensorsWriter::with_header("[]"), "not an object");
  has(SafetensorsWriter::with_header("{} {}"), "follows the end");
  has(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), "its shape calls for 8");
  has(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})"), "more values than the file holds");
  has(one(R"({"dtype":"F32","shape":[1],"data_offsets":[8,12]})"), "cut off");
  has(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), "cut off");
  has(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), "a gap before it");
  has(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "4 bytes behind the last tensor");
  has(one(R"({"dtype":"F32","shape":[2,0],"data_offsets":[0,8]})"), "not a whole number within 1");
  has(one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), "not a whole number within 1");
  has(one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "not a whole number");
  has(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"), "more values");
  has(one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})"), "too many dimensions");
  has(one(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})"), "unknown dtype");
  has(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), "not two data_offsets");
  has(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"), "more than two");
  has(one(R"({"dtype":"F32","shape":[2]})"), "lacks dtype, shape or data_offsets");
  has(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), "unknown field");
  has(one("7"), "not an object");
  has(SafetensorsWriter().tensor("t", "F32", {1}, {0, 0, 0, 0}).tensor("t", "F32", {1}, {0, 0, 0, 0}).build(), "twice");
  has(SafetensorsWriter().tensor("", "F32", {1}, {0, 0, 0, 0}).build(), "without a name");
  has(SafetensorsWriter()
          .entry("a", R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", std::vector<uint8_t>(8))
          .entry("b", R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})")
          .build(),
      "overlaps");
  has(SafetensorsWriter().entry("__metadata__", R"({"a":1})").build(), "not a string");
}

// --- index and tokenizer ---

TEST(ShardIndex, NamesFilesOfItsFolderOnly) {
  const auto entries =
      read_shard_index("i", text_bytes(R"({"metadata": {"x": [1]}, "weight_map": {"a": "one.safetensors"}})"));
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].tensor, "a");
  EXPECT_EQ(entries[0].file, "one.safetensors");
  for (const char* name : {"../one.safetensors", "/etc/one.safetensors", ".safetensors", "a\\\\b.safetensors",
                           "one.bin", "", "a/one.safetensors", ".one.safetensors", "one\\u0000.safetensors"}) {
    const std::string text = std::string(R"({"weight_map": {"a": ")") + name + "\"}}";
    EXPECT_THROW(read_shard_index("i", text_bytes(text)), ModelFileError) << name;
  }
  EXPECT_THROW(read_shard_index("i", text_bytes("{}")), ModelFileError);
  EXPECT_THROW(read_shard_index("i", text_bytes(R"({"weight_map": []})")), ModelFileError);
}

LoadOptions tiny_options(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.threads = 1;
  options.kv_bytes_max = 1 << 20;
  options.step_tokens_max = 8;
  options.step_sequences_max = 2;
  return options;
}

std::string folder_refusal(const TempFolder& folder) {
  return refusal([&] { load_model(tiny_options(folder.path())); }).what();
}

TEST(Folder, SaysWhichFileIsMissingOrContradictsAnother) {
  const FamilyCase c = family_cases()[0];
  const TempFolder folder;
  EXPECT_NE(folder_refusal(folder).find("config.json: at byte 0: cannot open"), std::string::npos);
  folder.write("config.json", c.config);
  EXPECT_NE(folder_refusal(folder).find("neither model.safetensors nor"), std::string::npos);
  folder.write("model.safetensors.index.json", R"({"weight_map": {"x": "part.safetensors"}})");
  EXPECT_NE(folder_refusal(folder).find("part.safetensors: at byte 0: cannot open"), std::string::npos);
  folder.write("part.safetensors", family_safetensors(family_tensors(c), "F32"));
  EXPECT_NE(folder_refusal(folder).find("tensor \"x\" is missing, which the index says is here"), std::string::npos);
  folder.write("model.safetensors.index.json", R"({"weight_map": {"lm_head.weight": "part.safetensors"}})");
  EXPECT_NE(folder_refusal(folder).find("the index lists 1 tensors"), std::string::npos);
  folder.write("model.safetensors", family_safetensors(family_tensors(c), "F32"));
  EXPECT_NO_THROW(load_model(tiny_options(folder.path())));
  folder.write("model.safetensors", SafetensorsWriter().build());
  EXPECT_NE(folder_refusal(folder).find("is missing"), std::string::npos);
}

TEST(Folder, ADuplicateTensorInTwoShardsIsRefused) {
  const FamilyCase c = family_cases()[0];
  const TempFolder folder;
  folder.write("config.json", c.config);
  for (const char* name : {"one.safetensors", "two.safetensors"}) {
    folder.write(name, family_safetensors({family_tensor("x", {2})}, "F32"));
  }
  folder.write("model.safetensors.index.json", R"({"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}})");
  EXPECT_NE(folder_refusal(folder).find("duplicate tensor \"x\""), std::string::npos);
}

// --- mutations ---

std::vector<uint8_t> mutated(std::vector<uint8_t> bytes, size_t within, std::mt19937& random) {
  constexpr std::string_view kPieces[] = {
      "{", "}", "[", "]", ",", ":", "\"", "0", "-1", "1e9", "null", "99999999999999999999", "\\u", " "};
  for (uint32_t edit = 0; edit < 1 + random() % 3; ++edit) {
    const size_t at = random() % std::min(within, bytes.size());
    switch (random() % 4) {
      case 0:
        bytes[at] = static_cast<uint8_t>(random());
        break;
      case 1: {
        const std::string_view piece = kPieces[random() % std::size(kPieces)];
        std::copy_n(piece.begin(), std::min(piece.size(), bytes.size() - at), bytes.begin() + static_cast<int64_t>(at));
        break;
      }
      case 2:
        bytes[at] = static_cast<uint8_t>('0' + random() % 10);
        break;
      default:
        if (random() % 8 == 0) bytes.resize(std::max<size_t>(at, 1));
    }
  }
  return bytes;
}

TEST(Safetensors, MutatedFilesAreAcceptedOrRefusedButNeverBreakTheReader) {
  const auto original = good().build();
  std::mt19937 random(31);
  int accepted = 0, refused = 0;
  for (int round = 0; round < 20000; ++round) {
    const auto bytes = mutated(original, original.size(), random);
    try {
      for (const SafetensorsTensor& tensor : read(bytes)) {
        ASSERT_LE(tensor.offset_bytes, bytes.size());
        ASSERT_LE(tensor.size_bytes, bytes.size() - tensor.offset_bytes);
      }
      ++accepted;
    } catch (const ModelFileError& error) {
      ASSERT_LE(error.offset_bytes(), bytes.size()) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

// Whatever the bytes of a folder, loading ends in a Runner that computes or in a typed error.
TEST(Folder, MutatedFoldersNeverCrash) {
  FamilyCase c = family_cases().back();
  const auto replace = [&](const std::string& from, const std::string& to) {
    c.config.replace(c.config.find(from), from.size(), to);
  };
  replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1");
  c.settings = parse_json("config.json", text_bytes(c.config));
  const std::vector<uint8_t> config(c.config.begin(), c.config.end());
  const auto model = family_safetensors(family_tensors(c), "BF16");
  std::mt19937 random(32);
  const TempFolder folder;
  int loaded = 0, refused = 0;
  for (int round = 0; round < 600; ++round) {
    folder.write("config.json", round % 2 == 0 ? mutated(config, config.size(), random) : config);
    folder.write("model.safetensors", round % 2 == 1 ? mutated(model, 2400, random) : model);
    try {
      const auto runner = load_model(tiny_options(folder.path()));
      const std::vector<int32_t> ids{0, 1, 2}, positions{0, 1, 2}, blocks{0};
      const std::vector<StepSequence> sequences{{0, 3, 3, blocks, true}};
      std::vector<float> logits(static_cast<size_t>(runner->info().vocab_size));
      if (runner->info().vocab_size >= 3 && runner->info().context_tokens >= 3) {
        runner->forward({ids, positions, sequences}, logits);
      }
      ++loaded;
    } catch (const ModelFileError&) {
      ++refused;
    } catch (const std::invalid_argument&) {  // KV of the claimed shape does not fit into kv_bytes_max
      ++refused;
    }
  }
  EXPECT_GT(loaded, 20);
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace penstock
