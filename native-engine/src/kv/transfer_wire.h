// The bytes between two engines: how K and V are offered, sent and acknowledged. Owns their layout; little endian
// throughout. One connection carries one transfer, or, over TCP, some of its blocks.
//
//   sender                                   receiver
//   OFFER  magic, version, id, generation,
//          secret, content, features,
//          fingerprint                ─────▶
//                                     ◀───── ANSWER  0, or a TransferRefusal: then the connection ends
//   BLOCKS first, count, layer,
//          layers, payload,
//          checksum of the payload    ─────▶         each layer of each block once, in any order
//   ALIVE                             ─────▶         while the next blocks are being computed
//   END    count of all blocks, note,
//          checksum of the note       ─────▶
//                                     ◀───── ANSWER  0: everything is there and as it was sent
//
//   JOIN   as OFFER, no fingerprint,
//          no features                ─────▶         on another connection, once the OFFER was answered
//                                     ◀───── ANSWER  0: it takes BLOCKS and ALIVE of the same transfer
//
// Where a connection that was let in ends before everything is there, the whole transfer does; END may be heard before the last
// BLOCKS of the others, and their end before the last ANSWER.
//
// The content is a checksum of the tokens and of the number of the first block: a grant that an agent pairs with another
// prompt writes nothing. A payload holds, for each block, the block of each of its layers: a sender may say the first layers of
// blocks while it computes the others. A connection that ends before the last ANSWER has transferred nothing. The note is what
// the sender's engine has for the receiver's, the first tokens of sequences (serve/first_tokens.h), and counts as little before
// the last ANSWER; without one its checksum is left out too. The features are what the sender asks for; one that the transport
// does not have is refused. From the ANSWER on a transport may carry the bytes elsewhere than on the socket (shared_memory.h);
// they stay the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kv/transfer_table.h"

namespace penstock::wire {

inline constexpr uint32_t kOffer = 0x4f564b50;   // "PKVO"
inline constexpr uint32_t kJoin = 0x4a564b50;    // "PKVJ"
inline constexpr uint32_t kBlocks = 0x42564b50;  // "PKVB"
inline constexpr uint32_t kAlive = 0x4c564b50;   // "PKVL"
inline constexpr uint32_t kEnd = 0x45564b50;     // "PKVE"
inline constexpr uint32_t kAnswer = 0x41564b50;  // "PKVA"
// Part of the fingerprint that engines are paired by: those of another version compute for themselves.
inline constexpr uint32_t kVersion = 5;
// Connections of one transfer.
inline constexpr int32_t kStreamsMax = 8;
// Bits of OfferHead::features.
inline constexpr uint32_t kFeatureSharedMemory = 1;
inline constexpr uint32_t kFeatureDeviceMemory = 2;
// Notes, see shared_memory.h.
inline constexpr uint32_t kArena = 0x4d564b50;  // "PKVM"
inline constexpr uint32_t kDeviceArena = 0x44564b50;  // "PKVD", followed by an ArenaHandle
inline constexpr uint32_t kTaken = 0x54564b50;  // "PKVT"
inline constexpr uint32_t kFilled = 0x46564b50;  // "PKVF"
inline constexpr uint32_t kFreed = 0x52564b50;  // "PKVR"
// First tokens with all the alternatives that may be asked for, for as many sequences as a prompt may have.
inline constexpr uint32_t kNoteBytesMax = 64 * 1024;
// A fingerprint names dimensions and types: a few hundred characters.
inline constexpr uint32_t kFingerprintBytesMax = 4096;

struct OfferHead {
  uint32_t magic = kOffer;
  uint32_t version = kVersion;
  uint64_t id = 0;
  uint64_t generation = 0;
  TransferSecret secret = {};
  uint64_t content = 0;
  uint32_t fingerprint_bytes = 0;  // follow
  uint32_t features = 0;
};
// Of BLOCKS, ALIVE and END. Only BLOCKS has a payload and layers; the count of END is that of all blocks. What is unused
// is 0.
struct PieceHead {
  uint32_t magic = kBlocks;
  uint32_t first = 0;  // of the transfer's blocks
  uint32_t count = 0;
  uint32_t layer = 0;
  uint32_t layers = 0;
  uint32_t note_bytes = 0;  // of END: follow, and their checksum
};
struct Answer {
  uint32_t magic = kAnswer;
  uint32_t refusal = 0;
};
struct Note {
  uint32_t magic = kFilled;
  uint32_t bytes = 0;
};
static_assert(sizeof(OfferHead) == 56 && sizeof(PieceHead) == 24 && sizeof(Answer) == 8 && sizeof(Note) == 8,
              "no padding on the wire");
static_assert(std::is_trivially_copyable_v<OfferHead> && std::is_trivially_copyable_v<PieceHead>);

template <typename Head>
Head read(std::span<const std::byte> bytes) {
  Head head;
  std::memcpy(&head, bytes.data(), sizeof head);
  return head;
}

template <typename Head>
void append(std::vector<std::byte>& out, const Head& head) {
  static_assert(std::is_trivially_copyable_v<Head>);
  const size_t at = out.size();
  out.resize(at + sizeof head);
  std::memcpy(out.data() + at, &head, sizeof head);
}

}  // namespace penstock::wire
