// Packed weights for AVX2: the formats with a fifth bit or with super-blocks. A tile is 8 rows of the file, block after
// block, with the file's bytes per weight but in an order that needs few instructions per product:
//   Q5_0  d [8] f16, values
//   Q5_1  d [8] f16, m [8] f16, values
//   Q4_K  d [8] f16, dmin [8] f16, 3 words of scales as in the file, values of each of the 8 sub-blocks
//   Q5_K  as Q4_K
//   Q6_K  d [8] f16, 4 words of scales, values of each of the 8 sub-blocks
// A word is [8 rows][4 bytes]. The values of 32 columns are words of high bits, then 4 words of nibbles:
//   high bits   of 5: 1 word, bit g of byte k belongs to column 4 g + k
//               of 6: 2 words, bits 2 j and 2 j + 1 of byte k of word h belong to column 16 h + 4 j + k
//   nibbles     word g holds columns 4 g.. in the low and 16 + 4 g.. in the high ones
// Missing rows of the last tile are zero.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "ops/cpu/kernels_avx2.h"

namespace penstock::avx2 {

namespace {

constexpr int32_t kWord = 4;
constexpr int32_t kNibbleBytes = kQuantBlock / 2;
constexpr int32_t kSubBlocks = kSuperBlock / kQuantBlock;
// The bytes of a block in packed order, one row: its f16s, then whole words.
constexpr int32_t kBlockBytesMax = 210;

int32_t halves_of(TensorType type) { return type == TensorType::q5_0 || type == TensorType::q6_k ? 1 : 2; }

std::byte byte_of(uint64_t bytes, int32_t i) { return static_cast<std::byte>(bytes >> (8 * i) & 255u); }

// Bit j of byte i and bit i of byte j change places (Hacker's Delight, 7-3).
uint64_t transpose_bits(uint64_t x) {
  uint64_t t = (x ^ x >> 7) & 0x00AA00AA00AA00AAu;
  x ^= t ^ t << 7;
  t = (x ^ x >> 14) & 0x0000CCCC0000CCCCu;
  x ^= t ^ t << 14;
  t = (x ^ x >> 28) & 0x00000000F0F0F0F0u;
  return x ^ t ^ t << 28;
}

// The same for the four 2-bit pairs of four bytes.
uint32_t transpose_pairs(uint32_t x) {
  uint32_t t = (x ^ x >> 6) & 0x00CC00CCu;
  x ^= t ^ t << 6;
  t = (x ^ x >> 12) & 0x0000F0F0u;
  return x ^ t ^ t << 12;
}

// A word of fifth bits: the file's bit i is column i.
void pack_fifths(const std::byte* file, std::byte* packed) {
  uint32_t word;
  std::memcpy(&word, file, kWord);
  uint64_t spread = word;  // a nibble per byte
  spread = (spread | spread << 16) & 0x0000FFFF0000FFFFu;
  spread = (spread | spread << 8) & 0x00FF00FF00FF00FFu;
  spread = (spread | spread << 4) & 0x0F0F0F0F0F0F0F0Fu;
  word = static_cast<uint32_t>(transpose_bits(spread));
  std::memcpy(packed, &word, kWord);
}

void unpack_fifths(const std::byte* packed, std::byte* file) {
  uint32_t word;
  std::memcpy(&word, packed, kWord);
  uint64_t spread = transpose_bits(word);
  spread = (spread | spread >> 4) & 0x00FF00FF00FF00FFu;
  spread = (spread | spread >> 8) & 0x0000FFFF0000FFFFu;
  word = static_cast<uint32_t>(spread | spread >> 16);
  std::memcpy(file, &word, kWord);
}

// 32 bytes whose low nibbles are one sub-block and whose high ones are another.
void pack_nibbles(const std::byte* file, std::byte* low, std::byte* high) {
  constexpr std::byte kLow{0x0F};
  constexpr std::byte kHigh{0xF0};
  for (int32_t i = 0; i < kNibbleBytes; ++i) {
    const std::byte first = file[i];
    const std::byte second = file[i + kNibbleBytes];
    low[i] = (first & kLow) | second << 4;
    high[i] = first >> 4 | (second & kHigh);
  }
}

void unpack_nibbles(const std::byte* low, const std::byte* high, std::byte* file) {
  constexpr std::byte kLow{0x0F};
  constexpr std::byte kHigh{0xF0};
  for (int32_t i = 0; i < kNibbleBytes; ++i) {
    file[i] = (low[i] & kLow) | high[i] << 4;
    file[i + kNibbleBytes] = low[i] >> 4 | (high[i] & kHigh);
  }
}

// One row's block of Q4_K or Q5_K between the two orders.
template <bool kHasFifth>
struct TwoLevel {
  static constexpr int32_t kHead = 16;  // d, dmin, scales: the same in both
  static constexpr int32_t kHigh = kHasFifth ? kWord : 0;
  static constexpr int32_t kFileNibbles = kHead + (kHasFifth ? kQuantBlock : 0);
  static constexpr int32_t values_at(int32_t sub) { return kHead + sub * (kHigh + kNibbleBytes); }

  static void pack(const std::byte* file, std::byte* packed) {
    std::memcpy(packed, file, kHead);
    for (int32_t i = 0; i < kSubBlocks; i += 2) {
      pack_nibbles(file + kFileNibbles + i / 2 * kQuantBlock, packed + values_at(i) + kHigh,
                   packed + values_at(i + 1) + kHigh);
    }
    if constexpr (!kHasFifth) return;
    // The file has a byte per column with a bit per sub-block.
    for (int32_t k = 0; k < kWord; ++k) {
      uint64_t bits = 0;
      for (int32_t g = 0; g < 8; ++g) bits |= static_cast<uint64_t>(file[kHead + 4 * g + k]) << (8 * g);
      bits = transpose_bits(bits);
      for (int32_t s = 0; s < kSubBlocks; ++s) packed[values_at(s) + k] = byte_of(bits, s);
    }
  }

  static void unpack(const std::byte* packed, std::byte* file) {
    std::memcpy(file, packed, kHead);
    for (int32_t i = 0; i < kSubBlocks; i += 2) {
      unpack_nibbles(packed + values_at(i) + kHigh, packed + values_at(i + 1) + kHigh,
                     file + kFileNibbles + i / 2 * kQuantBlock);
    }
    if constexpr (!kHasFifth) return;
    for (int32_t k = 0; k < kWord; ++k) {
      uint64_t bits = 0;
      for (int32_t s = 0; s < kSubBlocks; ++s) bits |= static_cast<uint64_t>(packed[values_at(s) + k]) << (8 * s);
      bits = transpose_bits(bits);
      for (int32_t g = 0; g < 8; ++g) file[kHead + 4 * g + k] = byte_of(bits, g);
    }
  }
};

// The same for Q6_K. The file has nibbles, high pairs, scales, d.
struct SixBits {
  static constexpr int32_t kFilePairs = 128;
  static constexpr int32_t kFileScales = 192;
  static constexpr int32_t kScaleBytes = 16;
  static constexpr int32_t kFileD = 208;
  static constexpr int32_t kHigh = 2 * kWord;
  static constexpr int32_t values_at(int32_t sub) { return 2 + kScaleBytes + sub * (kHigh + kNibbleBytes); }

  // Calls body(file offset of 32 bytes of nibbles, sub-block of the low ones, sub-block of the high ones).
  template <typename Body>
  static void for_nibbles(const Body& body) {
    for (int32_t i = 0; i < 4; ++i) {
      const int32_t low = i / 2 * 4 + i % 2;
      body(i * kQuantBlock, low, low + 2);
    }
  }

  // Calls body(file offset of the byte of column `column`, first sub-block, byte of high bits) for one of four columns
  // 4 apart, whose pairs belong to four sub-blocks.
  template <typename Body>
  static void for_pairs(const Body& body) {
    for (int32_t half = 0; half < 2; ++half) {
      for (int32_t byte = 0; byte < kHigh; ++byte) {
        body(kFilePairs + half * kQuantBlock + byte / kWord * kScaleBytes + byte % kWord, 4 * half, byte);
      }
    }
  }

  static void pack(const std::byte* file, std::byte* packed) {
    std::memcpy(packed, file + kFileD, 2);
    std::memcpy(packed + 2, file + kFileScales, kScaleBytes);
    for_nibbles([&](int32_t at, int32_t low, int32_t high) {
      pack_nibbles(file + at, packed + values_at(low) + kHigh, packed + values_at(high) + kHigh);
    });
    for_pairs([&](int32_t at, int32_t sub, int32_t byte) {
      uint32_t pairs = 0;
      for (int32_t j = 0; j < 4; ++j) pairs |= static_cast<uint32_t>(file[at + 4 * j]) << (8 * j);
      pairs = transpose_pairs(pairs);
      for (int32_t q = 0; q < 4; ++q) packed[values_at(sub + q) + byte] = byte_of(pairs, q);
    });
  }

  static void unpack(const std::byte* packed, std::byte* file) {
    std::memcpy(file + kFileD, packed, 2);
    std::memcpy(file + kFileScales, packed + 2, kScaleBytes);
    for_nibbles([&](int32_t at, int32_t low, int32_t high) {
      unpack_nibbles(packed + values_at(low) + kHigh, packed + values_at(high) + kHigh, file + at);
    });
    for_pairs([&](int32_t at, int32_t sub, int32_t byte) {
      uint32_t pairs = 0;
      for (int32_t q = 0; q < 4; ++q) pairs |= static_cast<uint32_t>(packed[values_at(sub + q) + byte]) << (8 * q);
      pairs = transpose_pairs(pairs);
      for (int32_t j = 0; j < 4; ++j) file[at + 4 * j] = byte_of(pairs, j);
    });
  }
};

// One row's block, file order -> packed order.
void pack_block(TensorType type, const std::byte* file, std::byte* packed) {
  if (type == TensorType::q4_k) return TwoLevel<false>::pack(file, packed);
  if (type == TensorType::q5_k) return TwoLevel<true>::pack(file, packed);
  if (type == TensorType::q6_k) return SixBits::pack(file, packed);
  const int32_t header = 2 * halves_of(type);
  std::memcpy(packed, file, static_cast<size_t>(tensor_type_facts(type).block_bytes));
  pack_fifths(file + header, packed + header);
}

void unpack_block(TensorType type, const std::byte* packed, std::byte* file) {
  if (type == TensorType::q4_k) return TwoLevel<false>::unpack(packed, file);
  if (type == TensorType::q5_k) return TwoLevel<true>::unpack(packed, file);
  if (type == TensorType::q6_k) return SixBits::unpack(packed, file);
  const int32_t header = 2 * halves_of(type);
  std::memcpy(file, packed, static_cast<size_t>(tensor_type_facts(type).block_bytes));
  unpack_fifths(packed + header, file + header);
}

}  // namespace

bool is_packed_k(TensorType type) {
  return tensor_type_facts(type).block_values == kSuperBlock || type == TensorType::q5_0 || type == TensorType::q5_1;
}

void pack_k(TensorType type, int32_t rows, int32_t cols, const std::byte* file, std::byte* packed) {
  const TensorTypeFacts facts = tensor_type_facts(type);
  const int32_t halves = halves_of(type);
  const int32_t words = (facts.block_bytes - 2 * halves) / kWord;
  const int64_t stride = row_bytes(type, cols);
  const int32_t blocks = cols / facts.block_values;
  for (int32_t first = 0; first < rows; first += kTileRows) {
    const int32_t present = std::min(kTileRows, rows - first);
    if (present < kTileRows) std::memset(packed, 0, static_cast<size_t>(stride * kTileRows));
    for (int32_t b = 0; b < blocks; ++b, packed += kTileRows * facts.block_bytes) {
      for (int32_t r = 0; r < present; ++r) {
        std::byte block[kBlockBytesMax];
        pack_block(type, file + (first + r) * stride + int64_t{b} * facts.block_bytes, block);
        for (int32_t h = 0; h < halves; ++h) std::memcpy(packed + 2 * (kTileRows * h + r), block + 2 * h, 2);
        const std::byte* from = block + 2 * halves;
        std::byte* into = packed + 2 * kTileRows * halves + kWord * r;
        for (int32_t i = 0; i < words; ++i) std::memcpy(into + kTileRows * kWord * i, from + kWord * i, kWord);
      }
    }
  }
}

void matrix_row_k(const Matrix& w, int32_t row, float* out) {
  const TensorTypeFacts facts = tensor_type_facts(w.type);
  const int32_t halves = halves_of(w.type);
  const int32_t words = (facts.block_bytes - 2 * halves) / kWord;
  const int32_t r = row % kTileRows;
  const std::byte* tile = w.data + row / kTileRows * kTileRows * row_bytes(w.type, w.cols);
  for (int32_t at = 0; at < w.cols; at += facts.block_values, tile += kTileRows * facts.block_bytes) {
    std::byte block[kBlockBytesMax];
    for (int32_t h = 0; h < halves; ++h) std::memcpy(block + 2 * h, tile + 2 * (kTileRows * h + r), 2);
    std::byte* into = block + 2 * halves;
    const std::byte* from = tile + 2 * kTileRows * halves + kWord * r;
    for (int32_t i = 0; i < words; ++i) std::memcpy(into + kWord * i, from + kTileRows * kWord * i, kWord);
    // The file's block again, and what the reference makes of it.
    std::byte file[kBlockBytesMax];
    unpack_block(w.type, block, file);
    reference_kernels().matrix_row({w.type, 1, facts.block_values, file}, 0, out + at);
  }
}

}  // namespace penstock::avx2
#endif
