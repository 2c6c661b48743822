// A wire between two network namespaces with delay, jitter, loss and cuts. Owns two TUN devices and what happens to packets
// between them; addresses and routes are set by who starts it (hosts.ts). For tests: this kernel may have no netem.
//
//   link NS_A DEVICE_A NS_B DEVICE_B      NS as under /run/netns; prints "ready" when both devices exist
//
// Standard input, one command a line: "set DELAY_MS JITTER_MS LOSS_PERMILLE", "cut", "heal". Ends with its input.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <queue>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPacketBytesMax = 65'536;
// What a real interface's queue would drop beyond; bounds memory.
constexpr size_t kPacketsInFlightMax = 20'000;

[[noreturn]] void fail(const std::string& what) {
  std::perror(what.c_str());
  std::exit(1);
}

int open_tun(const std::string& ns, const std::string& device) {
  const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  const int target = open(("/run/netns/" + ns).c_str(), O_RDONLY | O_CLOEXEC);
  if (home < 0 || target < 0) fail("namespace " + ns);
  if (setns(target, CLONE_NEWNET) != 0) fail("setns " + ns);
  const int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tun < 0) fail("/dev/net/tun");
  ifreq request{};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  std::strncpy(request.ifr_name, device.c_str(), IFNAMSIZ - 1);
  if (ioctl(tun, TUNSETIFF, &request) != 0) fail("TUNSETIFF " + device);
  if (setns(home, CLONE_NEWNET) != 0) fail("setns back");
  close(home);
  close(target);
  return tun;
}

struct Packet {
  Clock::time_point due;
  uint64_t order;  // ties leave in order of arrival
  int to;
  std::vector<uint8_t> bytes;
  bool operator>(const Packet& other) const {
    return due != other.due ? due > other.due : order > other.order;
  }
};

struct Conditions {
  double delay_ms = 0;
  double jitter_ms = 0;
  double loss_permille = 0;
  bool cut = false;
};

// False where the input is over or makes no sense.
bool read_commands(Conditions& conditions) {
  std::array<char, 256> line{};
  if (std::fgets(line.data(), line.size(), stdin) == nullptr) return false;
  Conditions next = conditions;
  if (std::sscanf(line.data(), "set %lf %lf %lf", &next.delay_ms, &next.jitter_ms, &next.loss_permille) == 3) {
    next.cut = conditions.cut;
  } else if (std::strncmp(line.data(), "cut", 3) == 0) {
    next.cut = true;
  } else if (std::strncmp(line.data(), "heal", 4) == 0) {
    next.cut = false;
  } else {
    std::fprintf(stderr, "unknown command: %s", line.data());
    return false;
  }
  conditions = next;
  std::puts("ok");
  std::fflush(stdout);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: link NS_A DEVICE_A NS_B DEVICE_B\n");
    return 2;
  }
  const std::array<int, 2> ends{open_tun(argv[1], argv[2]), open_tun(argv[3], argv[4])};
  std::puts("ready");
  std::fflush(stdout);

  std::mt19937_64 random(std::random_device{}());
  std::uniform_real_distribution<double> uniform(0, 1);
  std::priority_queue<Packet, std::vector<Packet>, std::greater<>> in_flight;
  Conditions conditions;
  uint64_t order = 0;
  // A line of jittered packets stays in order, as on one path.
  std::array<Clock::time_point, 2> last_due{};
  std::vector<uint8_t> buffer(kPacketBytesMax);
  for (;;) {
    int wait_ms = -1;
    if (!in_flight.empty()) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(in_flight.top().due - Clock::now());
      wait_ms = left.count() < 0 ? 0 : static_cast<int>(left.count());
    }
    std::array<pollfd, 3> polled{{{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}}};
    if (poll(polled.data(), polled.size(), wait_ms) < 0 && errno != EINTR) fail("poll");
    if ((polled[2].revents & (POLLIN | POLLHUP)) != 0 && !read_commands(conditions)) return 0;
    for (size_t side = 0; side < ends.size(); ++side) {
      for (;;) {
        const ssize_t count = read(ends[side], buffer.data(), buffer.size());
        if (count <= 0) break;
        const bool lost = conditions.cut || uniform(random) * 1000 < conditions.loss_permille;
        if (lost || in_flight.size() >= kPacketsInFlightMax) continue;
        const double delay_ms = conditions.delay_ms + uniform(random) * conditions.jitter_ms;
        auto due = Clock::now() + std::chrono::microseconds(static_cast<int64_t>(delay_ms * 1000));
        due = std::max(due, last_due[side]);
        last_due[side] = due;
        in_flight.push({due, order++, ends[1 - side], {buffer.begin(), buffer.begin() + count}});
      }
    }
    while (!in_flight.empty() && in_flight.top().due <= Clock::now()) {
      const Packet& packet = in_flight.top();
      // A full device drops, as an interface does.
      if (!conditions.cut && write(packet.to, packet.bytes.data(), packet.bytes.size()) < 0 && errno != EAGAIN &&
          errno != EIO && errno != EINVAL) {
        fail("write");
      }
      in_flight.pop();
    }
  }
}
