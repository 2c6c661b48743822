// The parts of the KV transport, each alone: checksums, the table of who may write where, and addresses. Both sides over a
// real connection are kv_transfer_test.
#include <gtest/gtest.h>

#include <filesystem>

#include "kv_transfer.h"

namespace penstock {
namespace {

using namespace penstock::testing;

uint64_t checksum_of(std::span<const std::byte> bytes) {
  Checksum sum;
  sum.update(bytes);
  return sum.value();
}

uint64_t checksum_of(std::string_view text) { return checksum_of(std::as_bytes(std::span(text))); }

TEST(Checksum, IsXxh64) {
  EXPECT_EQ(checksum_of(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(checksum_of("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(checksum_of("abc"), 0x44BC2CF5AD770999u);
  EXPECT_EQ(checksum_of("xxhash"), 0x32DD38952C4BC720u);
  EXPECT_EQ(checksum_of("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1u);
  // The buffer of xxHash's own sanity check.
  TransferBytes buffer;
  for (uint64_t state = 2654435761u; buffer.size() < 222; state *= 11400714785074694797u)
    buffer.push_back(static_cast<std::byte>(state >> 56));
  EXPECT_EQ(checksum_of(std::span(buffer).first(1)), 0xE934A84ADB052768u);
  EXPECT_EQ(checksum_of(std::span(buffer).first(4)), 0x9136A0DCA57457EEu);
  EXPECT_EQ(checksum_of(std::span(buffer).first(14)), 0x8282DCC4994E35C8u);
  EXPECT_EQ(checksum_of(buffer), 0xB641AE8CB691C174u);
}

TEST(Checksum, IsTheSameHoweverTheBytesAreCut) {
  const TransferPool pool(1, 1, 1000, 1);
  const uint64_t whole = checksum_of(pool.bytes);
  for (size_t piece = 1; piece < 100; ++piece) {
    Checksum sum;
    for (size_t at = 0; at < pool.bytes.size(); at += piece)
      sum.update(std::span(pool.bytes).subspan(at, std::min(piece, pool.bytes.size() - at)));
    EXPECT_EQ(sum.value(), whole) << "in pieces of " << piece;
  }
}

class Table : public ::testing::Test {
 protected:
  std::vector<std::pair<uint64_t, bool>> ended;
  TransferTable table{[this](uint64_t id, uint64_t, bool complete, TransferNote) { ended.emplace_back(id, complete); }};
  TransferTable::Writer writer;
};

TEST_F(Table, LetsOneWriterInWhoHasTheGrant) {
  table.open(grant_of(5, 2), kContent, {7, 8});
  TransferGrant forged = grant_of(5, 2);
  forged.secret[15] = 1;
  EXPECT_EQ(table.attach(grant_of(6, 2), kContent, writer), TransferRefusal::Unknown);
  EXPECT_EQ(table.attach(grant_of(5, 1), kContent, writer), TransferRefusal::Stale);
  EXPECT_EQ(table.attach(forged, kContent, writer), TransferRefusal::Forbidden);
  EXPECT_EQ(table.attach(grant_of(5, 2), kContent + 1, writer), TransferRefusal::Content);
  EXPECT_TRUE(writer.blocks.empty()) << "who is refused learns no block";
  EXPECT_FALSE(table.attach(grant_of(5, 2), kContent, writer).has_value());
  EXPECT_EQ(writer.blocks, (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(table.attach(grant_of(5, 2), kContent, writer), TransferRefusal::Busy);
  EXPECT_TRUE(table.may_write(5, 2));
  EXPECT_FALSE(table.may_write(5, 1));
  EXPECT_TRUE(table.detach(5, 2, true));
  EXPECT_EQ(ended, (std::vector<std::pair<uint64_t, bool>>{{5, true}}));
  EXPECT_EQ(table.attach(grant_of(5, 2), kContent, writer), TransferRefusal::Unknown) << "a grant is good once";
  EXPECT_THROW(table.detach(5, 2, true), std::logic_error);
}

TEST_F(Table, GivesBlocksBackAtOnceWhereNobodyWritesAndElseWhenTheWriterIsGone) {
  table.open(grant_of(1), kContent, {1});
  EXPECT_THROW(table.open(grant_of(1), kContent, {2}), std::logic_error);
  EXPECT_TRUE(table.close(1));
  EXPECT_TRUE(table.close(1)) << "of what is gone nobody writes";
  EXPECT_TRUE(ended.empty());
  table.open(grant_of(1, 2), kContent, {1});
  ASSERT_FALSE(table.attach(grant_of(1, 2), kContent, writer).has_value());
  EXPECT_FALSE(table.close(1));
  EXPECT_FALSE(table.close(1));
  EXPECT_FALSE(table.may_write(1, 2));
  EXPECT_FALSE(table.detach(1, 2, true)) << "complete or not, nobody wants it any more";
  EXPECT_EQ(ended, (std::vector<std::pair<uint64_t, bool>>{{1, false}}));
}

TEST(Endpoint, RefusesWhatIsNoAddress) {
  for (const std::string text : {"", "unix:", "tcp:", "tcp:1.2.3.4", "tcp::80", "tcp:localhost:80", "tcp:1.2.3.4:http",
                                 "udp:1.2.3.4:80", "/run/kv.sock"}) {
    std::string address = text;
    EXPECT_THROW(listen_at(address), std::invalid_argument) << text;
    EXPECT_THROW(connect_to(text), std::invalid_argument) << text;
  }
  EXPECT_THROW(connect_to("unix:" + std::string(200, 'x')), std::invalid_argument);
}

TEST(Endpoint, DoesNotTakeASocketFromAnEngineThatListensOnIt) {
  std::string pattern = (std::filesystem::temp_directory_path() / "penstock-kv-XXXXXX").string();
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  std::string address = "unix:" + pattern + "/kv.sock";
  {
    const Descriptor first = listen_at(address);
    EXPECT_THROW(listen_at(address), std::system_error);
    EXPECT_EQ(std::filesystem::status(pattern + "/kv.sock").permissions(), std::filesystem::perms(0600));
  }
  const Descriptor after = listen_at(address);  // the first one left its file behind, as one that is killed does
  EXPECT_TRUE(after.is_open());
  std::filesystem::remove_all(pattern);
}

}  // namespace
}  // namespace penstock
