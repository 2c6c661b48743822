// The GGUF reader: good files, a list of handcrafted corruptions with the offset each must report, and mutations.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gguf_writer.h"
#include "model/gguf.h"
#include "model_fixtures.h"

namespace penstock {
namespace {

using namespace penstock::testing;

GgufFile parse(const std::vector<uint8_t>& bytes) {
  return GgufFile::parse("test.gguf", std::as_bytes(std::span(bytes)));
}

// The error of a file that must be refused.
ModelFileError refusal(const std::vector<uint8_t>& bytes) {
  try {
    parse(bytes);
  } catch (const ModelFileError& error) {
    return error;
  }
  ADD_FAILURE() << "the file was accepted";
  return ModelFileError("", 0, "");
}

void expect_refusal(const std::vector<uint8_t>& bytes, const std::string& reason_part, int64_t offset = -1) {
  const ModelFileError error = refusal(bytes);
  EXPECT_NE(error.reason().find(reason_part), std::string::npos) << error.what();
  EXPECT_EQ(std::string(error.what()).rfind("test.gguf: at byte ", 0), 0u) << error.what();
  if (offset >= 0) {
    EXPECT_EQ(error.offset_bytes(), static_cast<uint64_t>(offset)) << error.what();
  }
}

const std::vector<float> kEight{1, 2, 3, 4, 5, 6, 7, 8};

GgufWriter small() {
  GgufWriter out;
  out.string("general.name", "small").u32("a.count", 7).f32("a.rate", 0.5f);
  out.strings("a.words", {"x", "", "yz"});
  out.tensor_f32("first", {4, 2}, kEight).tensor_f32("second", {8}, kEight);
  return out;
}

// Header alone: magic, version, counts.
ByteWriter header(uint64_t tensors, uint64_t entries, uint32_t version = 3) {
  ByteWriter out;
  out.append({'G', 'G', 'U', 'F'}).raw(version).raw(tensors).raw(entries);
  return out;
}

TEST(Gguf, ReadsMetadataAndTensorsOfBothVersions) {
  for (uint32_t version : {2u, 3u}) {
    const auto bytes = small().build(version);
    const GgufFile file = parse(bytes);
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.string("general.name"), "small");
    EXPECT_EQ(file.integer("a.count", 0, 10), 7);
    EXPECT_EQ(file.number("a.rate"), 0.5);
    EXPECT_EQ(file.number("a.count"), 7.0);
    EXPECT_EQ(file.array_count("a.words"), 3u);
    EXPECT_EQ(file.integer("missing", 0, 1), std::nullopt);
    ASSERT_EQ(file.tensors().size(), 2u);
    const GgufTensor* tensor = file.tensor("first");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->dims, 2);
    EXPECT_EQ(tensor->extent[0], 4);
    EXPECT_EQ(tensor->extent[1], 2);
    EXPECT_EQ(tensor->extent[2], 1);
    ASSERT_EQ(tensor->data.size(), 32u);
    EXPECT_EQ(0, std::memcmp(tensor->data.data(), kEight.data(), 32));
    EXPECT_EQ(file.tensor("third"), nullptr);
  }
}

TEST(Gguf, AcceptsAnyIntegerWidthAndChecksItsRange) {
  GgufWriter out;
  out.entry("u8", 0, {200}).entry("i8", 1, {0xFF}).entry("i64", 11, ByteWriter().raw<int64_t>(-5).bytes());
  out.u64("huge", ~uint64_t{0});
  const auto bytes = out.build();
  const GgufFile file = parse(bytes);
  EXPECT_EQ(file.integer("u8", 0, 255), 200);
  EXPECT_EQ(file.integer("i8", -10, 10), -1);
  EXPECT_EQ(file.integer("i64", -10, 10), -5);
  EXPECT_THROW(file.integer("u8", 0, 100), ModelFileError);
  EXPECT_THROW(file.integer("huge", 0, 100), ModelFileError);
  EXPECT_THROW(file.integer("huge", INT64_MIN, INT64_MAX), ModelFileError);
  EXPECT_THROW(file.string("u8"), ModelFileError);
  EXPECT_THROW(file.array_count("u8"), ModelFileError);
}

TEST(Gguf, AcceptsAFileWithoutTensorsAndWithoutData) {
  const auto bytes = GgufWriter().string("general.name", "vocabulary only").build();
  EXPECT_TRUE(parse(bytes).tensors().empty());
}

TEST(Gguf, EveryTruncationIsRefused) {
  const auto bytes = small().build();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<int64_t>(size));
    EXPECT_THROW(parse(cut), ModelFileError) << size;
  }
  EXPECT_NO_THROW(parse(bytes));
}

TEST(Gguf, RefusesOtherFilesAndVersions) {
  expect_refusal({'G', 'G', 'M', 'L', 3, 0, 0, 0}, "not a GGUF file", 0);
  expect_refusal({}, "the file ends", 0);
  expect_refusal(header(0, 0, 1).bytes(), "GGUF version 1", 4);
  expect_refusal(header(0, 0, 4).bytes(), "GGUF version 4", 4);
  expect_refusal(header(0, 0, 0x03000000).bytes(), "big-endian", 4);
}

TEST(Gguf, RefusesCountsAndLengthsThatLie) {
  expect_refusal(header(~uint64_t{0}, 0).bytes(), "tensor count", 8);
  expect_refusal(header(0, ~uint64_t{0}).bytes(), "metadata count", 16);
  expect_refusal(header(0, 5).bytes(), "the file ends", 24);
  expect_refusal(header(0, 1).raw(~uint64_t{0}).bytes(), "a metadata key has", 24);
  expect_refusal(header(0, 1).raw<uint64_t>(60000).raw<uint64_t>(0).bytes(), "the file ends inside a metadata key", 32);
  expect_refusal(header(0, 1).text("k").raw<uint32_t>(8).raw(~uint64_t{0}).bytes(),
                 "the file ends inside a metadata string", 45);
  expect_refusal(header(0, 1).text("").raw<uint32_t>(0).raw<uint8_t>(0).bytes(), "empty metadata key", 24);
}

TEST(Gguf, RefusesBadValues) {
  const auto entry = [](uint32_t type, const std::vector<uint8_t>& value) {
    return GgufWriter().entry("k", type, value).build();
  };
  expect_refusal(entry(13, {0, 0, 0, 0}), "unknown type 13", 33);
  expect_refusal(entry(7, {2}), "neither 0 nor 1", 37);
  expect_refusal(entry(9, ByteWriter().raw<uint32_t>(9).raw<uint64_t>(0).bytes()), "nested array", 37);
  expect_refusal(entry(9, ByteWriter().raw<uint32_t>(99).raw<uint64_t>(0).bytes()), "unknown element type", 37);
  expect_refusal(entry(9, ByteWriter().raw<uint32_t>(4).raw(~uint64_t{0}).bytes()), "more than the file holds", 41);
  expect_refusal(entry(9, ByteWriter().raw<uint32_t>(10).raw(uint64_t{1} << 61).bytes()), "more than the file holds",
                 41);
  expect_refusal(entry(9, ByteWriter().raw<uint32_t>(8).raw(uint64_t{1} << 60).bytes()), "more than the file holds",
                 41);
  expect_refusal(GgufWriter().u32("same", 1).u32("same", 2).build(), "duplicate metadata key \"same\"");
}

TEST(Gguf, RefusesBadAlignments) {
  expect_refusal(GgufWriter().u32("general.alignment", 48).build(), "not a power of two");
  expect_refusal(GgufWriter().u32("general.alignment", 0).build(), "general.alignment");
  expect_refusal(GgufWriter().u32("general.alignment", 1u << 31).build(), "general.alignment");
  expect_refusal(GgufWriter().string("general.alignment", "32").build(), "not an integer");
  EXPECT_NO_THROW(parse(GgufWriter().u32("general.alignment", 64).tensor_f32("t", {8}, kEight).build(3, 64)));
}

TEST(Gguf, RefusesBadTensors) {
  const auto with = [](uint32_t type, std::vector<uint64_t> extent, size_t bytes = 32) {
    return GgufWriter().tensor("t", type, extent, std::vector<uint8_t>(bytes)).build();
  };
  expect_refusal(with(0, {}), "has 0 dimensions");
  expect_refusal(with(0, {1, 1, 1, 1, 1}), "has 5 dimensions");
  expect_refusal(with(0, {8, 0}), "empty dimension");
  expect_refusal(with(0, {~uint64_t{0}}), "more values than a file can hold");
  expect_refusal(with(0, {uint64_t{1} << 40, uint64_t{1} << 40}), "more values than a file can hold");
  expect_refusal(with(0, {uint64_t{1} << 32, uint64_t{1} << 31, 2, 2}), "more values than a file can hold");
  expect_refusal(with(10, {256}, 84), "has the type 10");
  expect_refusal(with(8, {33}), "not a multiple of 32");
  expect_refusal(with(0, {64}), "cut off");
  expect_refusal(GgufWriter().tensor_f32("t", {8}, kEight).tensor_f32("t", {8}, kEight).build(),
                 "duplicate tensor \"t\"");
  expect_refusal(GgufWriter().tensor_f32("", {8}, kEight).build(), "empty tensor name");
  expect_refusal(GgufWriter().tensor_f32(std::string(2000, 'n'), {8}, kEight).build(), "a tensor name has 2000 bytes");
}

TEST(Gguf, RefusesBadOffsets) {
  // One tensor "t" of 8 F32: its offset field is the last 8 bytes before the data section.
  const auto with_offset = [](uint64_t offset) {
    auto bytes = header(1, 0).text("t").raw<uint32_t>(1).raw<uint64_t>(8).raw<uint32_t>(0).raw(offset);
    bytes.pad_to(32);
    bytes.append(std::vector<uint8_t>(64));
    return bytes.bytes();
  };
  EXPECT_NO_THROW(parse(with_offset(32)));
  expect_refusal(with_offset(4), "not a multiple of the alignment", 49);
  expect_refusal(with_offset(64), "cut off", 49);
  expect_refusal(with_offset(~uint64_t{0} - 31), "cut off", 49);
}

TEST(Gguf, RefusesOverlappingTensors) {
  auto bytes = header(2, 0);
  for (const char* name : {"a", "b"})
    bytes.text(name).raw<uint32_t>(1).raw<uint64_t>(8).raw<uint32_t>(0).raw<uint64_t>(0);
  bytes.pad_to(32);
  bytes.append(std::vector<uint8_t>(32));
  expect_refusal(bytes.bytes(), "overlaps");
}

TEST(Gguf, MessagesShowHostileNamesAsPrintableText) {
  const std::string name = "evil\n\x1b[31m" + std::string(500, 'x');
  const ModelFileError error = refusal(GgufWriter().u32(name, 1).u32(name, 1).build());
  const std::string what = error.what();
  EXPECT_EQ(what.find('\n'), std::string::npos);
  EXPECT_EQ(what.find('\x1b'), std::string::npos);
  EXPECT_LT(what.size(), 300u);
}

// Thousands of deterministic mutations: bytes flipped, 64-bit fields replaced by extremes, ends cut off. The reader may
// accept or refuse, but every view it returns must lie in the file. Under AddressSanitizer this is a memory test too.
TEST(Gguf, MutatedFilesAreAcceptedOrRefusedButNeverBreakTheReader) {
  const auto original = small().build();
  std::mt19937 random(2024);
  const uint64_t extremes[] = {0,
                               1,
                               7,
                               31,
                               32,
                               33,
                               0x7FFFFFFF,
                               0xFFFFFFFF,
                               uint64_t{1} << 32,
                               uint64_t{1} << 56,
                               uint64_t{1} << 62,
                               INT64_MAX,
                               UINT64_MAX,
                               UINT64_MAX - 31};
  int accepted = 0, refused = 0;
  for (int round = 0; round < 20000; ++round) {
    auto bytes = original;
    const uint32_t edits = 1 + random() % 4;
    for (uint32_t edit = 0; edit < edits; ++edit) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<uint8_t>(random());
          break;
        case 1:
          bytes[at] = static_cast<uint8_t>(bytes[at] ^ (1u << random() % 8));
          break;
        case 2: {
          const uint64_t value = extremes[random() % std::size(extremes)];
          std::memcpy(bytes.data() + at, &value, std::min<size_t>(8, bytes.size() - at));
          break;
        }
        default:
          bytes.resize(std::max<size_t>(1, random() % 8 == 0 ? at : bytes.size()));
      }
    }
    try {
      const GgufFile file = parse(bytes);
      unsigned sum = 0;
      for (const auto& tensor : file.tensors()) {
        const auto* end = reinterpret_cast<const std::byte*>(bytes.data() + bytes.size());
        ASSERT_LE(tensor.data.data() + tensor.data.size(), end);
        for (std::byte byte : tensor.data) sum += static_cast<unsigned>(byte);
      }
      ++accepted;
      (void)sum;
    } catch (const ModelFileError& error) {
      ASSERT_LE(error.offset_bytes(), bytes.size()) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace penstock
