// Memory that two engines share. Goal: neither side believes the other: whatever is said about an arena, and whatever is in it,
// ends in a refusal or in the socket's way, never in a read or write beside it; and what one side cannot have, it does without.
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "kv_transport.h"

namespace penstock {
namespace {

using namespace penstock::testing;
using namespace std::chrono_literals;

bool send_note(int fd, uint32_t magic, uint32_t bytes, int descriptor = -1) {
  wire::Note note{magic, bytes};
  iovec part{&note, sizeof note};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
  }
  return sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof note);
}

template <typename Head>
Head receive_head(int fd) {
  Head head{};
  if (recv(fd, &head, sizeof head, MSG_WAITALL) != static_cast<ssize_t>(sizeof head)) throw std::runtime_error("nothing came");
  return head;
}

TEST(ChecksumCopy, IsACopyAndItsChecksumHoweverItIsCut) {
  const TransferPool pool(1, 1, 5000, 1);
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    TransferBytes to(pool.bytes.size() + 8);
    const size_t shift = random() % 8;  // nothing needs to be aligned
    Checksum whole, pieces;
    whole.update(pool.bytes);
    for (size_t at = 0; at < pool.bytes.size();) {
      const size_t here = std::min<size_t>(1 + random() % (round < 100 ? 50 : 3000), pool.bytes.size() - at);
      const auto part = std::span(pool.bytes).subspan(at, here);
      random() % 4 == 0 ? (pieces.update(part), void(std::copy(part.begin(), part.end(), to.begin() + shift + at)))
                        : pieces.copy(to.data() + shift + at, part);
      at += here;
    }
    ASSERT_EQ(pieces.value(), whole.value());
    ASSERT_TRUE(std::equal(pool.bytes.begin(), pool.bytes.end(), to.begin() + static_cast<std::ptrdiff_t>(shift)));
  }
}

TEST(ChecksumCopy, IsOfWhatWasWrittenAlsoWhereTheSourceChangesMeanwhile) {
  // Mapped twice, as by two processes.
  constexpr size_t kBytes = 8192;
  const Descriptor memory(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memory.get(), kBytes), 0);
  void* ours = mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, memory.get(), 0);
  void* theirs = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  ASSERT_TRUE(ours != MAP_FAILED && theirs != MAP_FAILED);
  std::atomic<bool> stop{false};
  std::thread other([&] {
    auto* words = static_cast<std::atomic<uint64_t>*>(theirs);
    for (uint64_t value = 0; !stop; ++value)
      for (size_t i = 0; i < kBytes / 8; i += 3) words[i].store(value, std::memory_order_relaxed);
  });
  TransferBytes to(kBytes);
  for (int round = 0; round < 3000; ++round) {
    Checksum copied, written;
    copied.copy(to.data(), {static_cast<const std::byte*>(ours), 5});
    copied.copy(to.data() + 5, {static_cast<const std::byte*>(ours) + 5, kBytes - 5});
    written.update(to);
    ASSERT_EQ(copied.value(), written.value());
  }
  stop = true;
  other.join();
  munmap(ours, kBytes);
  munmap(theirs, kBytes);
}

TEST(Arena, IsTakenOnlyWhereItIsWhatItIsSaidToBe) {
  constexpr size_t kBytes = 65'536;
  Descriptor good;
  const std::optional<Arena> made = Arena::make(kBytes, good);
  ASSERT_TRUE(made.has_value());
  const std::optional<Arena> taken = Arena::take(good, kBytes);
  ASSERT_TRUE(taken.has_value());
  *taken->at(kBytes - 1) = std::byte{7};
  EXPECT_EQ(*made->at(kBytes - 1), std::byte{7});
  EXPECT_NE(ftruncate(good.get(), 0), 0) << "nobody can take the memory away from under the other";
  EXPECT_FALSE(Arena::take(good, kBytes * 2).has_value());
  EXPECT_FALSE(Arena::take(good, 0).has_value());
  EXPECT_FALSE(Arena::take(Descriptor(), kBytes).has_value());
  const Descriptor unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), kBytes), 0);
  EXPECT_FALSE(Arena::take(unsealed, kBytes).has_value());
  const Descriptor file(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(Arena::take(file, kBytes).has_value());
}

// A receiver, and a sender's socket that says what it likes.
class SharedMemory : public TransportTest {
 protected:
  // Let in by way of an arena that it has not answered yet.
  Descriptor offered(const TransferGrant& grant) {
    table.open(grant, kContent, {1, 2, 3});
    Descriptor socket = connect_to(receiver->address());
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    fcntl(socket.get(), F_SETFL, fcntl(socket.get(), F_GETFL) & ~O_NONBLOCK);
    setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    TransferBytes offer = offer_bytes(grant, kContent, kFingerprint);
    auto head = wire::read<wire::OfferHead>(offer);
    head.features = wire::kFeatureSharedMemory;
    std::memcpy(offer.data(), &head, sizeof head);
    EXPECT_EQ(::send(socket.get(), offer.data(), offer.size(), MSG_NOSIGNAL), static_cast<ssize_t>(offer.size()));
    EXPECT_EQ(receive_head<wire::Note>(socket.get()).magic, wire::kArena);
    EXPECT_EQ(receive_head<wire::Answer>(socket.get()).refusal, 0u);
    return socket;
  }
};

TEST_P(SharedMemory, GoesOnOverTheSocketWhereTheSenderCannotMapIt) {
  receive();
  const Descriptor socket = offered(grant_of(1));
  EXPECT_TRUE(send_note(socket.get(), wire::kTaken, 0));
  const TransferBytes bytes = stream();
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t count = ::send(socket.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    ASSERT_GT(count, 0);
    at += static_cast<size_t>(count);
  }
  EXPECT_EQ(receive_head<wire::Answer>(socket.get()).refusal, 0u);
  EXPECT_TRUE(received.wait(1).good);
  EXPECT_TRUE(has_first_blocks());
}

TEST_P(SharedMemory, EndsAtNotesThatCannotBe) {
  receive();
  uint64_t generation = 0;
  const auto ends = [&](const std::vector<wire::Note>& notes) {
    const TransferGrant grant = grant_of(1, ++generation);
    const Descriptor socket = offered(grant);
    for (const wire::Note& note : notes) send_note(socket.get(), note.magic, note.bytes);
    const bool ended = !received.wait(1).good;
    return ended && table.close(1);
  };
  const wire::Note taken{wire::kTaken, 1};
  const auto arena = static_cast<uint32_t>(kArenaBytes);
  EXPECT_TRUE(ends({{wire::kFilled, 16}})) << "before it was taken";
  EXPECT_TRUE(ends({{wire::kTaken, 2}}));
  EXPECT_TRUE(ends({taken, taken}));
  EXPECT_TRUE(ends({taken, {wire::kFilled, 0}}));
  EXPECT_TRUE(ends({taken, {wire::kFilled, arena + 1}}));
  EXPECT_TRUE(ends({taken, {wire::kFilled, UINT32_MAX}}));
  EXPECT_TRUE(ends({taken, {wire::kFilled, arena}})) << "of zeros, which are no piece";
  EXPECT_TRUE(ends({taken, {wire::kFreed, 16}}));
  EXPECT_TRUE(ends({{0, 0}}));
}

// --- A receiver that says what it likes

class LyingReceiver : public TransportTest {
 protected:
  void SetUp() override {
    address = "unix:" + directory + "/liar.sock";
    listener = listen_at(address);
    send_as(kFingerprint, GetParam().name == std::string("nothing") ? 300ms : 20'000ms);
    sender->begin({1, address, grant_of(1), kContent});
    pollfd polled{listener.get(), POLLIN, 0};
    ASSERT_EQ(poll(&polled, 1, 20'000), 1);
    socket = Descriptor(accept(listener.get(), nullptr, nullptr));
    const timeval limit{.tv_sec = 20, .tv_usec = 0};
    setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    const auto offer = receive_head<wire::OfferHead>(socket.get());
    EXPECT_EQ(offer.features, wire::kFeatureSharedMemory);
    std::vector<char> name(offer.fingerprint_bytes);
    ASSERT_EQ(recv(socket.get(), name.data(), name.size(), MSG_WAITALL), static_cast<ssize_t>(name.size()));
    std::vector<int32_t> blocks(20);
    for (int32_t i = 0; i < 20; ++i) blocks[static_cast<size_t>(i)] = i;
    sender->extend(1, blocks);
    sender->finish(1);
  }
  void TearDown() override {
    stop_listening(address);
    TransportTest::TearDown();
  }
  void let_in() {
    const wire::Answer answer;
    ASSERT_EQ(::send(socket.get(), &answer, sizeof answer, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof answer));
  }
  std::string address;
  Descriptor listener, socket;
};

TEST_P(LyingReceiver, GetsTheBytesOverTheSocketWhereItOffersNoMemory) {
  let_in();
  EXPECT_EQ(receive_head<wire::PieceHead>(socket.get()).magic, wire::kBlocks);
  std::byte first[16];
  EXPECT_EQ(recv(socket.get(), first, sizeof first, MSG_WAITALL), 16);
  EXPECT_TRUE(std::equal(first, first + 16, source.view.at(0, 0).begin()));
}

TEST_P(LyingReceiver, IsDeclinedWhereItsMemoryIsNotWhatItSays) {
  const Descriptor small(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(small.get(), 4096), 0);
  EXPECT_TRUE(send_note(socket.get(), wire::kArena, 1 << 20, small.get()));
  const auto note = receive_head<wire::Note>(socket.get());
  EXPECT_EQ(note.magic, wire::kTaken);
  EXPECT_EQ(note.bytes, 0u);
  let_in();
  EXPECT_EQ(receive_head<wire::PieceHead>(socket.get()).magic, wire::kBlocks) << "on the socket";
}

TEST_P(LyingReceiver, IsDeclinedWhereTheDescriptorWasLost) {
  EXPECT_TRUE(send_note(socket.get(), wire::kArena, 1 << 20));
  EXPECT_EQ(receive_head<wire::Note>(socket.get()).bytes, 0u);
  let_in();
  EXPECT_EQ(receive_head<wire::PieceHead>(socket.get()).magic, wire::kBlocks);
}

TEST_P(LyingReceiver, IsLeftWhenItGivesBackMoreThanItGotOrTwoArenasOrNothing) {
  Descriptor memory, second;
  const auto arena = Arena::make(kArenaBytes, memory), other = Arena::make(kArenaBytes, second);
  EXPECT_TRUE(send_note(socket.get(), wire::kArena, kArenaBytes, memory.get()));
  EXPECT_EQ(receive_head<wire::Note>(socket.get()).bytes, 1u);
  let_in();
  EXPECT_EQ(receive_head<wire::Note>(socket.get()).magic, wire::kFilled);
  switch (std::string_view(GetParam().name)[0]) {
    case 's':
      send_note(socket.get(), wire::kFreed, UINT32_MAX);
      EXPECT_EQ(sent.wait(1).error, std::strerror(EPROTO));
      break;
    case 'u':
      send_note(socket.get(), wire::kArena, kArenaBytes, second.get());
      EXPECT_EQ(sent.wait(1).error, std::strerror(EPROTO));
      break;
    default:
      EXPECT_EQ(sent.wait(1).error, "the receiver is silent") << "once its arena is full";
  }
}

constexpr TransportKind kShared[] = {{"shared", true, true}};
const auto kName = [](const auto& which) { return std::string(which.param.name); };
INSTANTIATE_TEST_SUITE_P(Over, SharedMemory, ::testing::ValuesIn(kShared), kName);
INSTANTIATE_TEST_SUITE_P(With, LyingReceiver,
                         ::testing::Values(TransportKind{"shared", true, true}, TransportKind{"unlike", true, true},
                                           TransportKind{"nothing", true, true}),
                         kName);

// --- Several addresses

class Addresses : public TransportTest {};

TEST(AddressList, IsCutWhereAnAddressBegins) {
  using List = std::vector<std::string>;
  EXPECT_EQ(addresses_in(""), List{});
  EXPECT_EQ(addresses_in("unix:/run/a b/kv.sock"), List{"unix:/run/a b/kv.sock"});
  EXPECT_EQ(addresses_in("unix:/run/a b/kv.sock tcp:1.2.3.4:5 tcp:[::1]:6"),
            (List{"unix:/run/a b/kv.sock", "tcp:1.2.3.4:5", "tcp:[::1]:6"}));
  EXPECT_EQ(addresses_in("ucx:x unix:/y"), (List{"ucx:x", "unix:/y"}));
}

TEST_P(Addresses, ASenderTakesTheFirstThatIsMeant) {
  // Somebody else listens where the first one leads, as where hosts have the same paths.
  TransferTable others{[](uint64_t, uint64_t, bool, TransferNote) {}};
  KvReceiver stranger(source.view, kFingerprint, others, "unix:" + directory + "/stranger.sock");
  receive_at("unix:" + directory + "/kv.sock tcp:127.0.0.1:0");
  const std::vector<std::string> ours = addresses_in(receiver->address());
  ASSERT_EQ(ours.size(), 2u);
  send_as(kFingerprint);
  uint64_t generation = 0;
  for (const std::string& address :
       {receiver->address(), ours[1], ours[1] + " " + ours[0], "unix:" + directory + "/nobody.sock " + ours[1],
        "ucx:somewhere " + ours[0], stranger.address() + " " + receiver->address(),
        "anything " + stranger.address() + " tcp:127.0.0.1:1 " + ours[1]}) {
    SCOPED_TRACE(address);
    const TransferGrant grant = grant_of(1, ++generation);
    table.open(grant, kContent, {1, 2, 3});
    sender->begin({1, address, grant, kContent});
    sender->extend(1, std::vector<int32_t>{0, 1, 2});
    sender->finish(1);
    const auto end = sent.wait(1);
    EXPECT_TRUE(end.good) << end.error;
    EXPECT_TRUE(received.wait(1).good);
    EXPECT_TRUE(has_first_blocks());
    for (const int32_t block : {1, 2, 3}) target.fill(block, std::byte{0});
  }
  sender->begin({1, stranger.address() + " unix:" + directory + "/nobody.sock", grant_of(1, 99), kContent});
  EXPECT_FALSE(sent.wait(1).good);
  sender->begin({1, "anything at all", grant_of(1, 99), kContent});
  EXPECT_FALSE(sent.wait(1).good);
  sender->begin({1, "", grant_of(1, 99), kContent});
  EXPECT_FALSE(sent.wait(1).good);
}

TEST_P(Addresses, ARefusalByTheOneThatIsMeantIsFinal) {
  receive_at("unix:" + directory + "/kv.sock tcp:127.0.0.1:0");
  send_as("layout/2");
  table.open(grant_of(1), kContent, {1});
  sender->begin({1, receiver->address(), grant_of(1), kContent});
  EXPECT_EQ(sent.wait(1).error, "the receiver's blocks have another layout");
  EXPECT_FALSE(received.wait(1).good);
}

TEST_P(Addresses, AReceiverThatCannotListenAtOneListensAtNone) {
  EXPECT_THROW(receive_at("unix:" + directory + "/kv.sock tcp:nobody:0"), std::invalid_argument);
  EXPECT_THROW(receive_at(""), std::invalid_argument);
  EXPECT_TRUE(std::filesystem::is_empty(directory));
}

INSTANTIATE_TEST_SUITE_P(Over, Addresses, ::testing::ValuesIn(kShared), kName);

}  // namespace
}  // namespace penstock
